/* Registers of x86-64 by their names; arch_x86_64.h says what the rest sees of them. */
#include "c/arch_x86_64.h"

#include <elf.h>
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

/* The code segment of every 64-bit user thread on Linux (__USER_CS, asm/segment.h). */
#define USER_CS 0x33
/* Set in the number of a system call of the x32 ABI (asm/unistd.h). */
#define X32_BIT 0x40000000

int ut_regs_get(pid_t tid, struct ut_regs *regs)
{
	/*
	 * GETREGSET, not GETREGS: the length that it reports tells a 64-bit thread
	 * (27 words) from an ia32 one (17 half words), whose registers GETREGS would
	 * show widened and as if they were native.
	 */
	struct iovec area = {&regs->user, sizeof(regs->user)};

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &area))
		return -1;
	if (area.iov_len != sizeof(regs->user)) {
		errno = ENOEXEC;
		return -1;
	}
	return 0;
}

int ut_regs_put(pid_t tid, const struct ut_regs *regs)
{
	return ptrace(PTRACE_SETREGS, tid, 0, &regs->user) ? -1 : 0;
}

bool ut_regs_native(const struct ut_regs *regs)
{
	if (regs->user.cs != USER_CS)
		return false;
	return ut_regs_call(regs) < 0 || !(regs->user.orig_rax & X32_BIT);
}

long ut_regs_call(const struct ut_regs *regs)
{
	return (int)regs->user.orig_rax < 0 ? -1 : (long)regs->user.orig_rax;
}

long ut_regs_result(const struct ut_regs *regs)
{
	return (long)regs->user.rax;
}

void ut_regs_set_result(struct ut_regs *regs, long result)
{
	regs->user.rax = (unsigned long)result;
}

uint64_t ut_regs_ip(const struct ut_regs *regs)
{
	return regs->user.rip;
}

bool ut_syscall_insn(const unsigned char bytes[UT_SYSCALL_BYTES])
{
	return bytes[0] == 0x0f && bytes[1] == 0x05;
}
