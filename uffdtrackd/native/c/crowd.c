/* Halts all threads of some processes; crowd.h has the loop drawn. */
#include "c/crowd.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <time.h>

#include "c/tasks.h"

/* Most threads stop within microseconds of being asked; this long they are awaited in
 * order, each by its id, which is one step for the kernel whatever their number. */
#define IN_ORDER_NS 20000000
#define PIDS_MAX    1048576
/* A round of looking at all that are late comes at the latest after this. */
#define PAUSE_NS 2000000
/* What threads on their way to a stop are waited for when we give up. */
#define SETTLE_NS 50000000
/* What a deadline may be overrun by before ->stuck() is called. */
#define GRACE_NS 100000000

/* One list of one process: what must all be true for it to be the last. */
struct round {
	struct ut_crowd *crowd;
	struct ut_error *error;
	pid_t leader;
	uint32_t at_rest; /* stopped, dead, or an idle worker */
	pid_t late;       /* one that is new, or not at rest yet */
	pid_t busy;       /* a worker that has something to do */
};

/* One thread of a list. */
static int meet(void *arg, pid_t tid)
{
	struct round *round = arg;
	struct ut_tracees *all = &round->crowd->tracees;
	struct ut_tracee *tracee = ut_tracees_find(all, tid);

	if (tracee && tracee->state == UT_TRACEE_STOPPED) {
		/* Not so if it was killed, or exec() gave its id to another thread. */
		if (ut_tracee_stopped(tid)) {
			/* A list that changes while it is read may name one twice. */
			round->at_rest += tracee->round != round->crowd->rounds;
			tracee->round = round->crowd->rounds;
			tracee->leader = round->leader;
			return 0;
		}
	} else if (tracee && tracee->state != UT_TRACEE_GONE) {
		round->late = tid;
		return 0;
	}
	if (tracee && ut_task_state(tid) == 'Z') {
		tracee->state = UT_TRACEE_GONE;
		round->at_rest++;
		return 0;
	}
	if (ut_task_worker(tid)) {
		if (!ut_task_worker_idle(tid))
			round->busy = tid;
		round->at_rest++;
		return 0;
	}
	round->late = tid;
	return ut_tracees_meet(all, tid, round->leader, round->error) ? 0 : -1;
}

/* Lists every process once; *ret_done: all of them are at rest. *ret_late: one that is
 * not. */
static int list_all(struct ut_crowd *crowd, bool *ret_done, pid_t *ret_busy,
                    pid_t *ret_late, struct ut_error *error)
{
	uint32_t found = 0;

	*ret_done = true;
	*ret_busy = 0;
	*ret_late = 0;
	for (uint32_t i = 0; i < crowd->count; i++) {
		struct round round = {
			.crowd = crowd, .error = error, .leader = crowd->pids[i]};
		uint32_t total = 0;

		error->err = 0;
		if (ut_tasks_each(crowd->pids[i], meet, &round, &total)) {
			if (error->err)
				return -1;
			if (errno != ESRCH)
				return ut_fail(error, "list threads", errno,
				               crowd->pids[i], 0, 0);
			continue;
		}
		found++;
		if (round.late || round.busy || round.at_rest != total)
			*ret_done = false;
		if (round.late)
			*ret_late = round.late;
		if (round.busy)
			*ret_busy = round.busy;
	}
	if (!found)
		return ut_fail(error, "list threads", ESRCH, crowd->pids[0], 0, 0);
	return 0;
}

static void pause_until(uint64_t until_ns)
{
	uint64_t now = ut_now_ns();
	uint64_t left = until_ns > now ? until_ns - now : 0;
	struct timespec timeout = {0, (long)(left < PAUSE_NS ? left : PAUSE_NS)};
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigtimedwait(&child, NULL, &timeout);
}

static int out_of_time(struct ut_crowd *crowd, const char *step, pid_t tid,
                       struct ut_error *error)
{
	int err = crowd->give_up ? crowd->give_up(crowd->arg) : 0;

	if (!err && ut_now_ns() >= crowd->deadline_ns)
		err = ETIMEDOUT;
	return err ? ut_fail(error, step, err, tid, 0, 0) : 0;
}

static int await_all(struct ut_crowd *crowd, uint32_t from, struct ut_error *error)
{
	struct ut_tracees *all = &crowd->tracees;
	uint64_t in_order = ut_now_ns() + IN_ORDER_NS;

	if (in_order > crowd->deadline_ns)
		in_order = crowd->deadline_ns;
	for (uint32_t i = from; i < all->used; i++)
		while (all->list[i].state == UT_TRACEE_ASKED && ut_now_ns() < in_order)
			ut_tracees_look(all, i, in_order);

	for (;;) {
		pid_t late = 0;

		/* From 0: an exec() makes a leader of old late. */
		for (uint32_t i = 0; i < all->used; i++) {
			struct ut_tracee *tracee = &all->list[i];

			if (tracee->state != UT_TRACEE_ASKED)
				continue;
			ut_tracees_look(all, i, 0);
			if (tracee->state != UT_TRACEE_ASKED)
				continue;
			/* A leader that exits before its threads is never reported. */
			if (tracee->tid == tracee->leader &&
			    ut_task_state(tracee->tid) == 'Z')
				tracee->state = UT_TRACEE_GONE;
			else
				late = tracee->tid;
		}
		if (!late)
			return 0;
		if (out_of_time(crowd, "wait for a thread to stop", late, error))
			return -1;
		/* Those that were killed while stopped: exec() may be waiting for that.
		 */
		ut_tracees_reap(all);
		pause_until(crowd->deadline_ns);
	}
}

static int halt(struct ut_crowd *crowd, struct ut_error *error)
{
	for (bool asked = false;; asked = true) {
		uint32_t from = crowd->tracees.used;
		pid_t busy, late;
		bool done;

		crowd->rounds++;
		if (list_all(crowd, &done, &busy, &late, error))
			return -1;
		if (done)
			return 0;
		/* Nobody can be late who was not asked: it may be us that did not get to
		 * run. */
		if (asked && out_of_time(crowd,
		                         busy ? "wait for io_uring to be idle"
		                              : "stop all threads",
		                         busy ? busy : late, error))
			return -1;
		if (ut_tracees_seize(&crowd->tracees, error) ||
		    await_all(crowd, from, error))
			return -1;
		if (busy)
			pause_until(crowd->deadline_ns);
	}
}

static void blocked(void *arg)
{
	struct ut_crowd *crowd = arg;

	if (ut_now_ns() > crowd->deadline_ns + GRACE_NS)
		crowd->stuck(crowd->arg);
}

int ut_crowd_init(struct ut_crowd *crowd, struct ut_error *error)
{
	/* Address space only: nobody has that many. */
	crowd->pids = mmap(NULL, PIDS_MAX * sizeof(*crowd->pids), PROT_READ | PROT_WRITE,
	                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (crowd->pids == MAP_FAILED)
		return ut_fail(error, "table of processes", errno, 0, 0, 0);
	crowd->tracees.blocked = blocked;
	crowd->tracees.arg = crowd;
	if (crowd->follow)
		crowd->tracees.options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK;
	return ut_tracees_init(&crowd->tracees, error);
}

int ut_crowd_add(struct ut_crowd *crowd, const int32_t *pids, uint32_t count,
                 struct ut_error *error)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = 0;

		while (at < crowd->count && crowd->pids[at] != pids[i])
			at++;
		if (at == PIDS_MAX)
			return ut_fail(error, "table of processes", ENOMEM, pids[i], 0,
			               0);
		if (at == crowd->count)
			crowd->pids[crowd->count++] = pids[i];
	}
	return 0;
}

int ut_crowd_halt(struct ut_crowd *crowd, struct ut_error *error)
{
	int stopped = 0;

	ut_tracees_tend(&crowd->tracees, true);
	int result = halt(crowd, error);
	ut_tracees_tend(&crowd->tracees, false);
	for (uint32_t i = 0; i < crowd->tracees.used; i++)
		stopped += crowd->tracees.list[i].state == UT_TRACEE_STOPPED;
	return result < 0 ? -1 : stopped;
}

void ut_crowd_reap(struct ut_crowd *crowd)
{
	ut_tracees_reap(&crowd->tracees);
}

void ut_crowd_settle(struct ut_crowd *crowd)
{
	struct ut_tracees *all = &crowd->tracees;
	uint64_t until = ut_now_ns() + SETTLE_NS;

	/*
	 * A thread on its way to the stop has left its call already: detached now, it
	 * would not be stopped and would return EINTR. One in state D is not on its way.
	 */
	for (uint32_t i = 0; i < all->used; i++)
		while (all->list[i].state == UT_TRACEE_ASKED && ut_now_ns() < until &&
		       ut_task_state(all->list[i].tid) != 'D')
			ut_tracees_look(all, i, ut_now_ns() + PAUSE_NS);
}
