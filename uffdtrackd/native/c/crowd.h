#pragma once
/*
 * Every thread of some processes, brought to a halt.
 *
 *     ut_crowd_init
 *     ut_crowd_halt --- round: list /proc/PID/task --> seize the new ones
 *          ^   |               interrupt them, wait until each has stopped
 *          |   +-------- again, until a list shows nothing but stopped threads and is
 *          |             as long as the process has threads
 *     ut_crowd_reap  (while they are held: threads may be killed)
 *     ut_crowd_release
 *
 * The list is read anew because a thread may be born while it is read;
 * PTRACE_O_TRACECLONE has the children of seized threads seized and stopped by the kernel
 * at birth, so a crowd that multiplies is caught as soon as one ancestor of each line is.
 * The length is checked because the kernel may end a list early when a thread exits under
 * the reader.
 *
 * A stopped thread is settled (stop.h) at once, so if this process is killed the kernel's
 * own detach does the right thing.
 *
 * Threads of the kernel that work for io_uring ("iou-wrk") are not stopped: the signal
 * that ptrace needs for it would end their current request with EINTR, which the program
 * would see in its completion queue. They get work from the program's threads only, so
 * once those have stopped it is enough to wait until every worker is idle.
 *
 * One crowd a process: a timer's handler must find it. See ut_stop_wait() for what else
 * is asked of the process.
 */
#include <stdint.h>
#include <sys/types.h>

#include "api/error.h"
#include "c/stop.h"

enum ut_thread_state {
	UT_THREAD_SEIZED = 1, /* attached to, runs */
	UT_THREAD_ASKED,      /* interrupted, not seen to stop yet */
	UT_THREAD_STOPPED,
	UT_THREAD_GONE,
};

struct ut_thread {
	pid_t tid;
	uint32_t owner; /* index into pids */
	uint32_t round; /* in which it was last listed */
	enum ut_thread_state state;
};

struct ut_crowd {
	const int32_t *pids;
	uint32_t count;
	uint64_t deadline_ns;
	/* Asked now and then while we wait; not 0 to give up (errno of the failure). */
	int (*give_up)(void *arg);
	/* Called if the kernel keeps us beyond the deadline; must not return. */
	void (*stuck)(void *arg);
	void *arg;

	struct ut_thread *threads;
	uint32_t used, capacity;
	uint32_t *by_tid; /* index into threads + 1; by thread id */
	uint32_t rounds;
	uint64_t first_ns; /* before the first was interrupted; 0 if none */
};

int ut_crowd_init(struct ut_crowd *crowd, struct ut_error *error);

/* Returns how many threads are stopped, or -1; call ut_crowd_release() in both cases. */
int ut_crowd_halt(struct ut_crowd *crowd, struct ut_error *error);

/* Takes note of threads that ended while stopped, so that their process can end. */
void ut_crowd_reap(struct ut_crowd *crowd);

/* Lets all threads go. One that cannot be is left to the kernel, at our exit. */
void ut_crowd_release(struct ut_crowd *crowd);
