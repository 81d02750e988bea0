#pragma once
/*
 * Every thread of some processes, brought to a halt.
 *
 *     ut_crowd_init
 *     ut_crowd_halt --- round: list /proc/PID/task, seize and interrupt the new
 *          ^   |               (tracees.h), wait until each has stopped
 *          |   +-------- again, until a list shows nothing but stopped threads and is
 *          |             as long as the process has threads
 *     ut_crowd_reap  (while they are held: threads may be killed)
 *     ut_crowd_settle, then exit: the kernel lets all go
 *
 * The list is read anew because a thread may be born while it is read;
 * PTRACE_O_TRACECLONE has the children of seized threads seized and stopped by the kernel
 * at birth, so a crowd that multiplies is caught as soon as one ancestor of each line is.
 * The length is checked because the kernel may end a list early when a thread exits under
 * the reader.
 *
 * A stopped thread is settled (stop.h) at once, so that the kernel's own detach, when
 * this process ends or is killed, does the right thing. That is how the crowd is let go,
 * and not by PTRACE_DETACH one by one: an ignored signal that is meant for a thread which
 * is still held would wake one that has been let go (tracees.h), which would see EINTR.
 * Measured: 1 in some 40 thaws of 36 threads, two of which fork. An exit detaches all
 * under tasklist_lock, which the senders of such signals take too.
 *
 * To follow forks is the same for processes: PTRACE_O_TRACEFORK and _TRACEVFORK. Who is
 * born is held then, but known to us only by its stop, and may be on its way to it when
 * its parent has stopped: whoever wants a whole tree halts, looks for processes, adds
 * them and halts again until nobody is new. Parents that wait in vfork() cannot stop, so
 * a vfork() child of before must run on until they have: it is not to be added sooner.
 *
 * Threads of the kernel that work for io_uring ("iou-wrk") are not stopped: the signal
 * that ptrace needs for it would end their current request with EINTR, which the program
 * would see in its completion queue. They get work from the program's threads only, so
 * once those have stopped it is enough to wait until every worker is idle.
 *
 * One crowd a process. See ut_stop_wait() for what else is asked of the process.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "api/error.h"
#include "c/tracees.h"

struct ut_crowd {
	/* Also hold the processes that they fork from now on, from birth. */
	bool follow;
	uint64_t deadline_ns;
	/* Asked now and then while we wait; not 0 to give up (errno of the failure). */
	int (*give_up)(void *arg);
	/* Called if the kernel keeps us beyond the deadline; must not return. */
	void (*stuck)(void *arg);
	void *arg;

	struct ut_tracees tracees;
	int32_t *pids;
	uint32_t count;
	uint32_t rounds;
};

int ut_crowd_init(struct ut_crowd *crowd, struct ut_error *error);

/* Before any halt, and between two. A process that is in it already is left out. */
int ut_crowd_add(struct ut_crowd *crowd, const int32_t *pids, uint32_t count,
                 struct ut_error *error);

/* Returns how many threads are stopped, or -1; call ut_crowd_settle() in both cases. */
int ut_crowd_halt(struct ut_crowd *crowd, struct ut_error *error);

/* Takes note of threads that ended while stopped, so that their process can end. */
void ut_crowd_reap(struct ut_crowd *crowd);

/* To be called before exit: sees to threads that were asked to stop but have not yet. */
void ut_crowd_settle(struct ut_crowd *crowd);
