#pragma once
/*
 * Everything that names a register of x86-64. The other files see a thread as a
 * struct ut_regs and ask here; a port to another machine is this header's twin.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "arch/frame.h" /* of the parasite */

struct ut_regs {
	struct user_regs_struct user;
};

#define UT_SYSCALL_BYTES 2 /* length of the syscall instruction, 0f 05 */

/*
 * A result of -ERESTARTNOHAND never leaves the kernel by itself, but a tracer
 * may write it: on the way to user mode the kernel then runs the call again
 * if no signal handler is to run, and returns EINTR if one is
 * (include/linux/errno.h, arch/x86/kernel/signal.c).
 */
#define UT_ERESTARTSYS           512
#define UT_ERESTARTNOINTR        513
#define UT_ERESTARTNOHAND        514
#define UT_ERESTART_RESTARTBLOCK 516

/* Read, write all general registers of a stopped thread: 0, or -1 with errno. */
int ut_regs_get(pid_t tid, struct ut_regs *regs);
int ut_regs_put(pid_t tid, const struct ut_regs *regs);

/* A 64-bit thread: not ia32 (compat mode) and not on a code segment of its own. */
bool ut_regs_native(const struct ut_regs *regs);

/* The call that the thread is in or was interrupted in; -1 when stopped in user code. */
long ut_regs_call(const struct ut_regs *regs);
long ut_regs_result(const struct ut_regs *regs);
void ut_regs_set_result(struct ut_regs *regs, long result);
uint64_t ut_regs_ip(const struct ut_regs *regs);
void ut_regs_set_ip(struct ut_regs *regs, uint64_t ip);

/* Makes a stopped thread enter `call` when it is resumed; site: a system call
 * instruction. */
void ut_regs_to_call(struct ut_regs *regs, uint64_t site, long call,
                     const uint64_t args[6]);
/* Makes it run from ip with a stack and one argument, as the parasite's entry wants it.
 */
void ut_regs_to_code(struct ut_regs *regs, uint64_t ip, uint64_t stack,
                     uint64_t argument);

/*
 * What the parasite has to load to put the thread back without the kernel's help: the
 * registers, with an interrupted call set up to be run again or gone on with.
 */
void ut_regs_cure(const struct ut_regs *regs, bool rerun, struct parasite_frame *frame);

/* The two bytes before ip, as memory holds them, are a 64-bit system call instruction. */
bool ut_syscall_insn(const unsigned char bytes[UT_SYSCALL_BYTES]);
