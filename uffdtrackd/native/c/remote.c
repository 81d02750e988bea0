/* Injected system calls; remote.h draws one. */
#include "c/remote.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>

#include "c/tasks.h"

/* Enough for one failure that a test causes, few enough not to spin on a lasting one. */
#define TRIES 3

/* What a thread on its way to a stop is waited for when we give up: it may have to wait
 * for a processor. And how often it is looked at whether it still is. */
#define SETTLE_NS      100000000
#define SETTLE_LOOK_NS 2000000

long ut_remote_ptrace(struct ut_remote *remote, int request, uint64_t address,
                      uint64_t data)
{
	for (int i = 0;; i++) {
		if (!ut_fault_call(remote->fault, UT_FAULT_TRACER) &&
		    !ptrace(request, remote->tid, address, data))
			return 0;
		if (errno == ESRCH || i + 1 >= TRIES)
			return -1;
	}
}

static int failed(struct ut_remote *remote, const char *step, struct ut_error *error)
{
	/*
	 * A tracee that should be stopped and is not there was killed, or another thread
	 * ran execve(), which takes all others away.
	 */
	if (errno == ESRCH) {
		remote->gone = true;
		remote->stopped = false;
	}
	return ut_fail(error, step, errno, remote->tid, 0, 0);
}

int ut_remote_get(struct ut_remote *remote, struct ut_regs *regs, struct ut_error *error)
{
	for (int i = 0;; i++) {
		if (!ut_fault_call(remote->fault, UT_FAULT_TRACER) &&
		    !ut_regs_get(remote->tid, regs))
			return 0;
		if (errno == ESRCH || i + 1 >= TRIES)
			return failed(remote, "read the registers", error);
	}
}

int ut_remote_put(struct ut_remote *remote, const struct ut_regs *regs,
                  struct ut_error *error)
{
	for (int i = 0;; i++) {
		if (!ut_fault_call(remote->fault, UT_FAULT_TRACER) &&
		    !ut_regs_put(remote->tid, regs))
			return 0;
		if (errno == ESRCH || i + 1 >= TRIES)
			return failed(remote, "write the registers", error);
	}
}

int ut_remote_resume(struct ut_remote *remote, int request, struct ut_error *error)
{
	/*
	 * With all signals blocked only SIGSTOP comes this way. Delivered, it stops the
	 * rest of the group and leads this thread to a group stop, from which it is
	 * resumed as well; PTRACE_DETACH later puts it back into that stop.
	 */
	int signal = remote->stop.kind == UT_STOP_SIGNAL ? remote->stop.signal : 0;

	if (ut_remote_ptrace(remote, request, 0, (uint64_t)signal))
		return failed(remote, "resume", error);
	remote->stopped = false;
	remote->stop.signal = 0;
	return 0;
}

int ut_remote_wait(struct ut_remote *remote, uint64_t deadline_ns, struct ut_error *error)
{
	for (int i = 0;; i++) {
		int got;

		if (ut_fault_call(remote->fault, UT_FAULT_TRACER)) {
			got = ut_fail(error, "waitpid", errno, remote->tid, 0, 0);
		} else {
			got = ut_stop_wait(remote->tid, deadline_ns, &remote->stop,
			                   error);
			if (got == 0)
				return 0;
		}
		if (got > 0)
			break;
		if (error->err == ECHILD) {
			errno = ESRCH;
			return failed(remote, "waitpid", error);
		}
		if (i + 1 >= TRIES)
			return -1;
	}
	remote->stops++;
	if (remote->stop.kind == UT_STOP_GONE) {
		errno = ESRCH;
		return failed(remote, "waitpid", error);
	}
	remote->stopped = true;
	return 1;
}

int ut_remote_stop(struct ut_remote *remote, uint64_t deadline_ns, struct ut_error *error)
{
	if (ut_remote_ptrace(remote, PTRACE_INTERRUPT, 0, 0))
		return failed(remote, "PTRACE_INTERRUPT", error);
	remote->asked = true;
	for (;;) {
		int got = ut_remote_wait(remote, deadline_ns, error);

		if (got < 0)
			return -1;
		if (got == 0)
			return ut_fail(error, "stop the thread", ETIMEDOUT, remote->tid,
			               0, 0);
		if (remote->stop.kind == UT_STOP_TRAP ||
		    remote->stop.kind == UT_STOP_GROUP) {
			remote->asked = false;
			return 0;
		}
		if (remote->masked && remote->stop.signal != SIGSTOP) {
			remote->stop.signal = 0;
			return 0;
		}
		/* A signal came first: let it be delivered, our stop is still to come. */
		if (ut_remote_resume(remote, PTRACE_CONT, error))
			return -1;
	}
}

bool ut_remote_settle(struct ut_remote *remote)
{
	uint64_t until = ut_now_ns() + SETTLE_NS;
	struct ut_error ignored;

	remote->fault->paused = true; /* how often we look depends on the scheduler */
	/* One in state D is not on its way: who knows when it wakes. */
	while (remote->asked && !remote->stopped && !remote->gone &&
	       ut_now_ns() < until && ut_task_state(remote->tid) != 'D')
		ut_remote_wait(remote, ut_now_ns() + SETTLE_LOOK_NS, &ignored);
	remote->fault->paused = false;
	remote->asked = false;
	return remote->stopped;
}

/* Resumes by PTRACE_SYSCALL until the next system call stop. */
static int next_syscall_stop(struct ut_remote *remote, uint64_t deadline_ns,
                             struct ut_error *error)
{
	do {
		int got;

		if (ut_remote_resume(remote, PTRACE_SYSCALL, error))
			return -1;
		got = ut_remote_wait(remote, deadline_ns, error);
		if (got < 0)
			return -1;
		if (got == 0)
			return ut_fail(error, "run the thread", ETIMEDOUT, remote->tid, 0,
			               0);
		if (remote->stop.kind == UT_STOP_SIGNAL &&
		    remote->stop.signal != SIGSTOP) {
			/* The instruction is not what it was: nothing has been done yet.
			 */
			remote->stop.signal = 0;
			return ut_fail(error, "injected call", EFAULT, remote->tid,
			               remote->site, 0);
		}
	} while (remote->stop.kind != UT_STOP_SYSCALL);
	return 0;
}

int ut_remote_call(struct ut_remote *remote, long call, const uint64_t args[6],
                   long *result, struct ut_error *error)
{
	struct ut_regs regs = remote->regs;

	if (ut_fault_call(remote->fault, UT_FAULT_REMOTE)) {
		*result = -EIO;
		return 0;
	}
	ut_regs_to_call(&regs, remote->site, call, args);
	if (ut_remote_put(remote, &regs, error))
		return -1;

	/*
	 * On the way to the entry a frozen cgroup (v2) can hold the thread: then it is
	 * stopped again, and nothing has been done. From entry to exit it is inside the
	 * kernel and comes out: no deadline there.
	 */
	uint64_t soon = ut_now_ns() + 1000000000;
	uint64_t deadline = remote->deadline_ns > soon ? remote->deadline_ns : soon;
	struct ut_error late;

	if (next_syscall_stop(remote, deadline, error)) {
		if (error->err == ETIMEDOUT && !remote->stopped)
			ut_remote_stop(remote, UINT64_MAX, &late);
		return -1;
	}
	if (next_syscall_stop(remote, UINT64_MAX, error))
		return -1;

	if (ut_remote_get(remote, &regs, error))
		return -1;
	*result = ut_regs_result(&regs);
	return 0;
}

int ut_remote_surely(struct ut_remote *remote, long call, const uint64_t args[6],
                     struct ut_error *error)
{
	long result = 0;

	for (int i = 0; i < TRIES; i++) {
		if (ut_remote_call(remote, call, args, &result, error))
			return -1;
		if (result >= 0)
			return 0;
		if (result != -EIO)
			break;
	}
	return ut_fail(error, "put the target back", (int)-result, remote->tid, args[0],
	               args[1]);
}

int ut_remote_block(struct ut_remote *remote, struct ut_error *error)
{
	uint64_t all = ~(uint64_t)0;

	/*
	 * For a thread inside ppoll, pselect, epoll_pwait or sigsuspend the kernel
	 * reports the mask from before that call, and setting it back is right: each of
	 * them is run again and puts its own in place anew.
	 */
	if (ut_remote_ptrace(remote, PTRACE_GETSIGMASK, sizeof(remote->mask),
	                     (uint64_t)&remote->mask))
		return failed(remote, "PTRACE_GETSIGMASK", error);
	remote->masked = true;
	if (ut_remote_ptrace(remote, PTRACE_SETSIGMASK, sizeof(all), (uint64_t)&all))
		return failed(remote, "PTRACE_SETSIGMASK", error);
	return 0;
}

int ut_remote_unblock(struct ut_remote *remote, struct ut_error *error)
{
	if (remote->masked &&
	    ut_remote_ptrace(remote, PTRACE_SETSIGMASK, sizeof(remote->mask),
	                     (uint64_t)&remote->mask))
		return failed(remote, "signal mask back", error);
	remote->masked = false;
	return 0;
}
