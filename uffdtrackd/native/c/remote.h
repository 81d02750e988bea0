#pragma once
/*
 * System calls made by a stopped thread of another process, through a system call
 * instruction that it already has: no byte of its text is changed, so no page of it
 * becomes private and no other thread has to stop.
 *
 *     registers: site, number, arguments
 *     PTRACE_SYSCALL --> entry stop
 *     PTRACE_SYSCALL --> exit stop, result in a register
 *
 * A call that was started is always finished, and failures of single steps are retried: a
 * thread must never be left inside somebody else's call.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "api/error.h"
#include "c/fault.h"
#include "c/stop.h"

struct ut_remote {
	pid_t tid;
	uint64_t site; /* address of a system call instruction in the target */
	uint64_t
		deadline_ns; /* for the first stop, and for being allowed to run at all */
	struct ut_stop stop; /* what it is stopped at, if .stopped */
	bool stopped;
	bool asked; /* to stop, and that stop has not been seen */
	bool gone;
	uint32_t stops;
	struct ut_regs regs; /* of the first stop, if .kept: what it gets back */
	bool kept;
	uint64_t mask;
	bool masked; /* its own mask is replaced */
	struct ut_fault *fault;
};

/* One ptrace request, tried again when it fails: 0, or -1 with errno (ESRCH: gone). */
long ut_remote_ptrace(struct ut_remote *remote, int request, uint64_t address,
                      uint64_t data);

/* The registers of now (not remote->regs), also tried again. */
int ut_remote_get(struct ut_remote *remote, struct ut_regs *regs, struct ut_error *error);
int ut_remote_put(struct ut_remote *remote, const struct ut_regs *regs,
                  struct ut_error *error);

/* Resumes, with PTRACE_CONT or PTRACE_SYSCALL; a stop signal that is in the way is passed
 * on. */
int ut_remote_resume(struct ut_remote *remote, int request, struct ut_error *error);

/*
 * Has it stopped? Waits until deadline_ns (0: only looks). 1 and remote->stop; 0 not; -1
 * with *error, ESRCH when the thread ended.
 */
int ut_remote_wait(struct ut_remote *remote, uint64_t deadline_ns,
                   struct ut_error *error);

/*
 * PTRACE_INTERRUPT and wait until it is stopped by that or stopped with its group.
 * Signals that come first are delivered; while ours are blocked only a fault in the code
 * that we run can be one, and that is swallowed: it counts as the stop.
 */
int ut_remote_stop(struct ut_remote *remote, uint64_t deadline_ns,
                   struct ut_error *error);

/*
 * After ut_remote_stop() has failed: waits some more for a thread that is on its way to
 * the stop, which has left its call already. Without a tracer it would not stop and would
 * return EINTR. True if it is stopped now: at anything, so it is to be released.
 */
bool ut_remote_settle(struct ut_remote *remote);

/*
 * Makes the thread do a call; *result is what the kernel returned, -errno for errors. -1
 * with *error if the call was not made: ESRCH when it is gone, ETIMEDOUT when it is not
 * let run (a frozen cgroup).
 */
int ut_remote_call(struct ut_remote *remote, long call, const uint64_t args[6],
                   long *result, struct ut_error *error);

/* The same for calls that put things back: a failure that is a test's doing is tried
 * again. */
int ut_remote_surely(struct ut_remote *remote, long call, const uint64_t args[6],
                     struct ut_error *error);

/* Keeps the mask and blocks all signals; and the way back. */
int ut_remote_block(struct ut_remote *remote, struct ut_error *error);
int ut_remote_unblock(struct ut_remote *remote, struct ut_error *error);
