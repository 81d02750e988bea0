/* Registers of x86-64 by their names; arch_x86_64.h says what the rest sees of them. */
#include "c/arch_x86_64.h"

#include <elf.h>
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/* The code segment of every 64-bit user thread on Linux (__USER_CS, asm/segment.h). */
#define USER_CS 0x33
/* Set in the number of a system call of the x32 ABI (asm/unistd.h). */
#define X32_BIT 0x40000000
/* Trap flag (single step) and direction flag: both off is what compiled code expects. */
#define FLAG_TF 0x100
#define FLAG_DF 0x400

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

void ut_regs_set_ip(struct ut_regs *regs, uint64_t ip)
{
	regs->user.rip = ip;
}

void ut_regs_to_call(struct ut_regs *regs, uint64_t site, long call,
                     const uint64_t args[6])
{
	struct user_regs_struct *user = &regs->user;

	user->rip = site;
	user->rax = (uint64_t)call;
	user->rdi = args[0];
	user->rsi = args[1];
	user->rdx = args[2];
	user->r10 = args[3];
	user->r8 = args[4];
	user->r9 = args[5];
	/*
	 * "Not in a call": or else the kernel, on the way to user mode, would take our
	 * rax for the result of the interrupted one and perhaps restart that.
	 */
	user->orig_rax = (uint64_t)-1;
	user->eflags &= ~(uint64_t)(FLAG_TF | FLAG_DF);
}

void ut_regs_to_code(struct ut_regs *regs, uint64_t ip, uint64_t stack, uint64_t argument)
{
	struct user_regs_struct *user = &regs->user;

	user->rip = ip;
	user->rsp = stack;
	user->rdi = argument;
	user->orig_rax = (uint64_t)-1;
	user->eflags &= ~(uint64_t)(FLAG_TF | FLAG_DF);
}

void ut_regs_cure(const struct ut_regs *regs, bool rerun, struct parasite_frame *frame)
{
	const struct user_regs_struct *user = &regs->user;

	*frame = (struct parasite_frame){
		.r15 = user->r15,
		.r14 = user->r14,
		.r13 = user->r13,
		.r12 = user->r12,
		.rbp = user->rbp,
		.rbx = user->rbx,
		.r11 = user->r11,
		.r10 = user->r10,
		.r9 = user->r9,
		.r8 = user->r8,
		.rax = user->rax,
		.rcx = user->rcx,
		.rdx = user->rdx,
		.rsi = user->rsi,
		.rdi = user->rdi,
		.flags = user->eflags & ~(uint64_t)FLAG_TF,
		.rsp = user->rsp,
		.rip = user->rip,
	};
	if (ut_regs_call(regs) < 0)
		return;
	/* As handle_signal() and arch_do_signal_or_restart() do without a handler. */
	switch (-ut_regs_result(regs)) {
	case EINTR:
		if (!rerun)
			break;
		/* fall through */
	case UT_ERESTARTSYS:
	case UT_ERESTARTNOINTR:
	case UT_ERESTARTNOHAND:
		frame->rax = user->orig_rax;
		frame->rip -= UT_SYSCALL_BYTES;
		break;
	case UT_ERESTART_RESTARTBLOCK:
		frame->rax = SYS_restart_syscall;
		frame->rip -= UT_SYSCALL_BYTES;
		break;
	}
}

bool ut_syscall_insn(const unsigned char bytes[UT_SYSCALL_BYTES])
{
	return bytes[0] == 0x0f && bytes[1] == 0x05;
}
