/* Seizes, stops and files single threads; tracees.h has the states and the order. */
#define _GNU_SOURCE /* mremap */
#include "c/tracees.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/time.h>

#include "c/eintr.h"
#include "c/tasks.h"

/* The kernel gives no higher thread id: PID_MAX_LIMIT, include/linux/threads.h. */
#define TID_LIMIT 4194305
/* How often a blocked PTRACE_SEIZE is looked after. */
#define TEND_US 20000

/* For the handler of the timer. */
static struct ut_tracees *tended;
static volatile sig_atomic_t seizing;

int ut_tracees_init(struct ut_tracees *all, struct ut_error *error)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	const int access = PROT_READ | PROT_WRITE;
	const size_t map = TID_LIMIT * sizeof(*all->by_tid);

	all->capacity = 1024;
	all->list = mmap(NULL, all->capacity * sizeof(*all->list), access, flags, -1, 0);
	all->by_tid = mmap(NULL, map, access, flags, -1, 0);
	if (all->list == MAP_FAILED || all->by_tid == MAP_FAILED)
		return ut_fail(error, "table of threads", errno, 0, 0, 0);
	return 0;
}

struct ut_tracee *ut_tracees_find(struct ut_tracees *all, pid_t tid)
{
	uint32_t place = tid > 0 && tid < TID_LIMIT ? all->by_tid[tid] : 0;

	return place ? &all->list[place - 1] : NULL;
}

/* The table grows by moving pages, so that 100 000 threads cost no copies. */
static struct ut_tracee *add(struct ut_tracees *all, pid_t tid)
{
	struct ut_tracee *tracee = ut_tracees_find(all, tid);

	if (!tracee) {
		if (tid <= 0 || tid >= TID_LIMIT) {
			errno = ERANGE;
			return NULL;
		}
		if (all->used == all->capacity) {
			size_t size = all->capacity * sizeof(*tracee);
			void *bigger = mremap(all->list, size, 2 * size, MREMAP_MAYMOVE);

			if (bigger == MAP_FAILED)
				return NULL;
			all->list = bigger;
			all->capacity *= 2;
		}
		tracee = &all->list[all->used++];
		all->by_tid[tid] = all->used;
	}
	*tracee = (struct ut_tracee){.tid = tid, .state = UT_TRACEE_NEW};
	return tracee;
}

static enum ut_tracee_rank rank(pid_t tid, pid_t leader)
{
	if (!ut_eintr_rerun(ut_task_call(tid)))
		return UT_RANK_OTHER;
	return tid == leader ? UT_RANK_LEADER : UT_RANK_SENSITIVE;
}

struct ut_tracee *ut_tracees_meet(struct ut_tracees *all, pid_t tid, pid_t leader,
                                  struct ut_error *error)
{
	struct ut_tracee *tracee = add(all, tid);

	if (!tracee) {
		ut_fail(error, "table of threads", errno, tid, 0, 0);
		return NULL;
	}
	tracee->leader = leader;
	tracee->rank = rank(tid, leader);
	return tracee;
}

/*
 * Files what waitpid() reported. A signal is passed on at once and not kept for the
 * release: it would be lost if we were killed. The thread then stops before its handler's
 * first instruction, for PTRACE_INTERRUPT comes before any further signal.
 */
static void note(struct ut_tracees *all, const struct ut_stop *stop)
{
	struct ut_tracee *tracee = ut_tracees_find(all, stop->tid);
	struct ut_error ignored;

	/* A child that the kernel seized at birth, not listed yet. */
	if (!tracee && !(tracee = add(all, stop->tid)))
		return;
	if (stop->kind == UT_STOP_GONE) {
		tracee->state = UT_TRACEE_GONE;
	} else if (stop->kind == UT_STOP_SIGNAL) {
		ut_stop_pass(stop, PTRACE_CONT, &ignored);
	} else {
		/* Any stop will do, also one that we did not ask for, as of a clone. */
		ut_stop_settle(stop, &ignored);
		tracee->state = UT_TRACEE_STOPPED;
		if (!all->first_ns)
			all->first_ns = ut_now_ns();
	}
}

/* One step for the kernel per tracee and report: not for the common way. */
void ut_tracees_reap(struct ut_tracees *all)
{
	struct ut_error ignored;
	struct ut_stop stop;

	while (ut_stop_wait(-1, 0, &stop, &ignored) > 0)
		note(all, &stop);
}

static void tend(int signal)
{
	int err = errno;

	/* Nobody else is in the table: PTRACE_SEIZE is all that is going on. */
	if (seizing) {
		ut_tracees_reap(tended);
		tended->blocked(tended->arg);
	}
	errno = err;
}

void ut_tracees_tend(struct ut_tracees *all, bool on)
{
	struct sigaction action = {.sa_handler = on ? tend : SIG_IGN,
	                           .sa_flags = SA_RESTART};
	struct itimerval every = {.it_interval.tv_usec = on ? TEND_US : 0,
	                          .it_value.tv_usec = on ? TEND_US : 0};
	sigset_t alarm;

	tended = all;
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	sigaction(SIGALRM, &action, NULL);
	sigprocmask(on ? SIG_UNBLOCK : SIG_BLOCK, &alarm, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

static int seize(pid_t tid, unsigned long options, struct ut_error *error)
{
	seizing = 1;

	int result = ut_stop_seize(
		tid, PTRACE_O_TRACECLONE | PTRACE_O_TRACESYSGOOD | options, error);

	seizing = 0;
	return result;
}

/* SEIZED or GONE, or -1. */
static int seize_one(pid_t tid, unsigned long options, struct ut_error *error)
{
	for (int tries = 0;; tries++) {
		struct ut_error failure;

		if (!seize(tid, options, &failure))
			return UT_TRACEE_SEIZED;
		if (failure.err == ESRCH)
			return UT_TRACEE_GONE;

		char state = failure.err == EPERM ? ut_task_state(tid) : '?';

		/* Also a leader that has exited before its threads, and stays listed. */
		if (state == 0 || state == 'Z' || state == 'X')
			return UT_TRACEE_GONE;
		/* Seized by the kernel at its birth: then it may be interrupted. */
		if (!ptrace(PTRACE_INTERRUPT, tid, 0, 0))
			return UT_TRACEE_SEIZED;
		/* Refused because it was a zombie, and exec() has given its id to another
		 * thread since: not for ever. */
		if (state == '?' || tries == 3) {
			*error = failure;
			return -1;
		}
	}
}

static int seize_rank(struct ut_tracees *all, enum ut_tracee_rank rank,
                      struct ut_error *error)
{
	for (uint32_t i = 0; i < all->used; i++) {
		if (all->list[i].state != UT_TRACEE_NEW || all->list[i].rank != rank)
			continue;
		/* Before the call: the kernel may stop it and tend() note that, within.
		 */
		all->list[i].state = UT_TRACEE_SEIZED;

		int state = seize_one(all->list[i].tid, all->options, error);

		if (state != UT_TRACEE_SEIZED)
			all->list[i].state = UT_TRACEE_GONE;
		if (state < 0)
			return -1;
	}
	return 0;
}

static void interrupt_all(struct ut_tracees *all)
{
	struct ut_error ignored;

	for (uint32_t i = 0; i < all->used; i++) {
		if (all->list[i].state != UT_TRACEE_SEIZED)
			continue;
		if (!all->first_ns)
			all->first_ns = ut_now_ns();
		/* Only fails if it has gone, which waiting for it will tell. */
		all->list[i].state = UT_TRACEE_ASKED;
		ut_stop_request(all->list[i].tid, &ignored);
	}
}

int ut_tracees_seize(struct ut_tracees *all, struct ut_error *error)
{
	for (int rank = 0; rank < UT_RANKS; rank++) {
		int result = seize_rank(all, rank, error);

		interrupt_all(all);
		if (result)
			return -1;
	}
	return 0;
}

static void look_once(struct ut_tracees *all, struct ut_tracee *tracee, uint64_t until_ns)
{
	struct ut_error ignored;
	struct ut_stop stop;
	int got = ut_stop_wait(tracee->tid, until_ns, &stop, &ignored);

	if (got > 0)
		note(all, &stop);
	else if (got < 0)
		tracee->state = UT_TRACEE_GONE;
}

bool ut_tracee_stopped(pid_t tid)
{
	unsigned long message;

	/* Answered for threads in a stop of ours only. */
	return ptrace(PTRACE_GETEVENTMSG, tid, 0, &message) == 0;
}

void ut_tracees_look(struct ut_tracees *all, uint32_t index, uint64_t until_ns)
{
	struct ut_tracee *tracee = &all->list[index];
	struct ut_tracee *leader = ut_tracees_find(all, tracee->leader);

	look_once(all, tracee, until_ns);
	/*
	 * Gone: perhaps by exec(), which gave it the id of its leader, and the leader
	 * that we knew has ended. Then that id is to stop anew.
	 */
	if (tracee->state == UT_TRACEE_GONE && leader && leader != tracee &&
	    leader->state == UT_TRACEE_STOPPED) {
		look_once(all, leader, 0);
		if (leader->state == UT_TRACEE_STOPPED && !ut_tracee_stopped(leader->tid))
			leader->state = UT_TRACEE_ASKED;
	}
}
