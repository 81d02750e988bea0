#pragma once
/*
 * Stopping a thread of a process that knows nothing of it, and letting it go so that it
 * never learns.
 *
 *     ut_stop_seize     PTRACE_SEIZE: nothing is sent to the target, it runs on
 *     ut_stop_request   PTRACE_INTERRUPT
 *     ut_stop_wait  --> struct ut_stop: which thread stopped, and at what
 *          |
 *          |  ... registers, memory, injected calls ...
 *          v
 *     ut_stop_release   puts registers back, repairs EINTR, PTRACE_DETACH
 *
 * All of these must be called by one thread (ptrace ties a target to the thread that
 * seized it), in a process that has SIGCHLD blocked and at SIG_DFL: ut_stop_wait() sleeps
 * in sigtimedwait(SIGCHLD), and an ignored SIGCHLD would never be queued. child.h makes
 * such a process. If it dies the kernel detaches everything by itself; what was changed
 * in a stopped thread stays changed.
 */
#include <stdint.h>
#include <sys/types.h>

#include "api/error.h"
#include "c/arch_x86_64.h"

enum ut_stop_kind {
	UT_STOP_TRAP = 1, /* by our PTRACE_INTERRUPT */
	UT_STOP_GROUP,    /* the process is stopped (SIGSTOP, ^Z): signal says by what */
	UT_STOP_SIGNAL,   /* about to receive .signal, which has not been delivered yet */
	UT_STOP_SYSCALL,  /* entry or exit of a system call, after PTRACE_SYSCALL */
	UT_STOP_EVENT,    /* .event is a PTRACE_EVENT_* other than STOP */
	UT_STOP_GONE, /* the thread ended or was killed; there is nothing to release */
};

struct ut_stop {
	pid_t tid;
	enum ut_stop_kind kind;
	int signal; /* SIGNAL: to be delivered; GROUP: the stop signal; else 0 */
	int event;  /* EVENT: which */
	int status; /* as waitpid(2) gave it */
};

/* CLOCK_MONOTONIC in nanoseconds: the clock of all deadlines here. */
uint64_t ut_now_ns(void);

/*
 * Attaches to one thread without stopping it. options: PTRACE_O_*. errno in *error:
 * ESRCH gone; EPERM a zombie, somebody else's tracee, or no permission (the kernel does
 * not tell which: look at /proc/TID/status).
 */
int ut_stop_seize(pid_t tid, unsigned long options, struct ut_error *error);

/* Asks a seized thread to stop. It may first stop for something else: see ut_stop_wait().
 */
int ut_stop_request(pid_t tid, struct ut_error *error);

/* What a status of waitpid(2) means. */
void ut_stop_read(pid_t tid, int status, struct ut_stop *stop);

/*
 * Waits until thread tid (-1: any tracee) stops or ends; fills *stop. Returns 1; 0 when
 * deadline_ns (0: look once) passed; -1 with *error (ECHILD: no such tracee).
 *
 * The first stop after ut_stop_request() need not be the TRAP: a signal may have come
 * first. Then either pass it on (ut_stop_pass) and wait again, the TRAP is still to come;
 * or treat the thread as stopped and give *stop to ut_stop_release(), which delivers it.
 */
int ut_stop_wait(pid_t tid, uint64_t deadline_ns, struct ut_stop *stop,
                 struct ut_error *error);

/* Resumes a thread from *stop, delivering its signal, with request PTRACE_CONT or
 * _SYSCALL. */
int ut_stop_pass(const struct ut_stop *stop, int request, struct ut_error *error);

/*
 * Makes a stopped thread such that even the kernel's own detach, which is what happens if
 * we are killed, lets it go on as ut_stop_release() would. Not for UT_STOP_SIGNAL: a
 * signal that is not passed on is lost with its tracer. Success if the thread is gone.
 */
int ut_stop_settle(const struct ut_stop *stop, struct ut_error *error);

/*
 * Detaches from a stopped thread so that it goes on as if nothing had been: an
 * interrupted call is restarted, one that would return EINTR for no signal is run again
 * (eintr.h), a signal in *stop is delivered, a group stop goes on being one.
 *
 * regs: the registers that the thread had at its first stop, if they were changed since;
 * NULL if the thread was only looked at. A thread that is gone is success.
 */
int ut_stop_release(const struct ut_stop *stop, const struct ut_regs *regs,
                    struct ut_error *error);
