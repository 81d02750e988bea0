#pragma once
/*
 * Which thread of a process to stop, so that the stop is least likely to be seen.
 * Looks at /proc/PID/task only: nothing is stopped yet.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "api/error.h"

/* Better first. */
enum ut_choice {
	/*
	 * In user mode: no call to disturb. Or on a processor inside one, as a large
	 * write that is copying, which returns with a part done if our stop comes just
	 * then: /proc/TID/syscall says "running" for both, and nothing else tells them
	 * apart.
	 */
	UT_CHOICE_RUNNING = 0,
	UT_CHOICE_RESTARTS,    /* in a call that the kernel restarts by itself */
	UT_CHOICE_RERUN,       /* in one that returns EINTR and is run again (eintr.h) */
	UT_CHOICE_UNKNOWN,     /* in one of which nothing is known */
	UT_CHOICE_CUT_SHORT,   /* in one that would return with part of its work done */
	UT_CHOICE_UNREACHABLE, /* cannot be stopped now: uninterruptible, somebody else's
	                        */
	UT_CHOICE_DEAD,        /* never again: it has ended */
};

/*
 * The best thread of the process pid, whose /proc/PID is proc_fd: its class, and *tid. A
 * class from CUT_SHORT on means: not now. -1 with ESRCH if no thread is alive.
 */
int ut_choose(int proc_fd, pid_t pid, pid_t *tid, struct ut_error *error);

/* The class of one thread, UT_CHOICE_DEAD if it is gone. */
enum ut_choice ut_choose_class(int proc_fd, pid_t tid);

/* It has children, whose end a stop of it would make known to others; false where the
 * kernel does not tell (CONFIG_PROC_CHILDREN). */
bool ut_choose_parent(int proc_fd, pid_t tid);
