/* Halts and releases all threads of some processes; crowd.h has the loop drawn. */
#define _GNU_SOURCE /* mremap */
#include "c/crowd.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include "c/tasks.h"

/* The kernel gives no higher thread id: PID_MAX_LIMIT, include/linux/threads.h. */
#define TID_LIMIT 4194305

/* Most threads stop within microseconds of being asked; this long they are awaited in
 * order, each by its id, which is one step for the kernel whatever their number. */
#define IN_ORDER_NS 20000000
/* A round of looking at all that are late comes at the latest after this. */
#define PAUSE_NS 2000000
/* How often a blocked PTRACE_SEIZE is looked after: see tend(). */
#define TEND_US 20000
/* What a deadline may be overrun by before ->stuck() is called. */
#define GRACE_NS 100000000

/* One list of one process: what must all be true for it to be the last. */
struct round {
	struct ut_crowd *crowd;
	struct ut_error *error;
	uint32_t owner;
	uint32_t at_rest; /* stopped, dead, or an idle worker */
	bool changed;     /* somebody is new, runs, or vanished while we looked */
	pid_t busy;       /* a worker that has something to do */
};

/* For the handler of the timer; set while a PTRACE_SEIZE may block. */
static struct ut_crowd *volatile tended;

static struct ut_thread *find(struct ut_crowd *crowd, pid_t tid)
{
	uint32_t place = tid > 0 && tid < TID_LIMIT ? crowd->by_tid[tid] : 0;

	return place ? &crowd->threads[place - 1] : NULL;
}

/* The threads' table grows by moving pages, so that 100 000 threads cost no copies. */
static struct ut_thread *add(struct ut_crowd *crowd, pid_t tid, uint32_t owner)
{
	struct ut_thread *thread = find(crowd, tid);

	if (!thread) {
		if (tid >= TID_LIMIT) {
			errno = ERANGE;
			return NULL;
		}
		if (crowd->used == crowd->capacity) {
			size_t size = crowd->capacity * sizeof(*thread);
			void *bigger =
				mremap(crowd->threads, size, 2 * size, MREMAP_MAYMOVE);

			if (bigger == MAP_FAILED)
				return NULL;
			crowd->threads = bigger;
			crowd->capacity *= 2;
		}
		thread = &crowd->threads[crowd->used++];
		crowd->by_tid[tid] = crowd->used;
	}
	/* An id we know may come back: its first thread has gone. */
	*thread =
		(struct ut_thread){.tid = tid, .owner = owner, .state = UT_THREAD_SEIZED};
	return thread;
}

/*
 * Files what waitpid() reported. A signal is passed on at once and not kept for the
 * release: it would be lost if we were killed. The thread then stops before its handler's
 * first instruction, for PTRACE_INTERRUPT comes before any further signal.
 */
static void note(struct ut_crowd *crowd, const struct ut_stop *stop)
{
	struct ut_thread *thread = find(crowd, stop->tid);
	struct ut_error ignored;

	/* A child that the kernel seized at birth, not listed yet. */
	if (!thread && !(thread = add(crowd, stop->tid, 0)))
		return;
	if (stop->kind == UT_STOP_GONE) {
		thread->state = UT_THREAD_GONE;
	} else if (stop->kind == UT_STOP_SIGNAL) {
		ut_stop_pass(stop, PTRACE_CONT, &ignored);
	} else {
		/* Any stop will do, also one that we did not ask for, as of a clone. */
		ut_stop_settle(stop, &ignored);
		thread->state = UT_THREAD_STOPPED;
		if (!crowd->first_ns)
			crowd->first_ns = ut_now_ns();
	}
}

/* All that there is to be told of anybody. One step for the kernel per tracee and report:
 * not for the common way. */
static void note_all(struct ut_crowd *crowd)
{
	struct ut_error ignored;
	struct ut_stop stop;

	while (ut_stop_wait(-1, 0, &stop, &ignored) > 0)
		note(crowd, &stop);
}

void ut_crowd_reap(struct ut_crowd *crowd)
{
	note_all(crowd);
}

/*
 * PTRACE_SEIZE waits for a lock that exec() holds while it waits for the other threads of
 * its process to end, and a thread that we trace has not ended before we have waited for
 * it. To break that circle a timer interrupts the former and does the latter.
 */
static void tend(int signal)
{
	int err = errno;

	if (tended) {
		note_all(tended);
		if (ut_now_ns() > tended->deadline_ns + GRACE_NS)
			tended->stuck(tended->arg);
	}
	errno = err;
}

static int seize(struct ut_crowd *crowd, pid_t tid, struct ut_error *error)
{
	tended = crowd;

	int result =
		ut_stop_seize(tid, PTRACE_O_TRACECLONE | PTRACE_O_TRACESYSGOOD, error);

	tended = NULL;
	return result;
}

/* It is in a stop of ours: the kernel answers this for such threads only. */
static bool stopped(pid_t tid)
{
	unsigned long message;

	return ptrace(PTRACE_GETEVENTMSG, tid, 0, &message) == 0;
}

/* One thread of a list. */
static int meet(void *arg, pid_t tid)
{
	struct round *round = arg;
	struct ut_crowd *crowd = round->crowd;
	struct ut_thread *thread = find(crowd, tid);
	struct ut_error error;

	if (thread && thread->state == UT_THREAD_STOPPED) {
		/* Not so if it was killed, or exec() gave its id to another thread. */
		if (stopped(tid)) {
			/* A list that changes while it is read may name one twice. */
			round->at_rest += thread->round != crowd->rounds;
			thread->round = crowd->rounds;
			thread->owner = round->owner;
			return 0;
		}
	} else if (thread && thread->state != UT_THREAD_GONE) {
		round->changed = true;
		return 0;
	}
	if (ut_task_worker(tid)) {
		if (!ut_task_worker_idle(tid))
			round->busy = tid;
		round->at_rest++;
		return 0;
	}
	/* Before the call: the kernel may stop it, and the handler note that, within. */
	if (!add(crowd, tid, round->owner))
		return ut_fail(round->error, "table of threads", errno, tid, 0, 0);
	for (int tries = 0; seize(crowd, tid, &error); tries++) {
		char state = error.err == EPERM ? ut_task_state(tid) : 0;

		/* A leader that has exited before its threads stays in the list. */
		if (state == 'Z' || state == 'X') {
			find(crowd, tid)->state = UT_THREAD_GONE;
			round->at_rest++;
			return 0;
		}
		/* Seized by the kernel at its birth: then it may be interrupted. */
		if (state && !ptrace(PTRACE_INTERRUPT, tid, 0, 0))
			break;
		/* Refused because it was a zombie, and exec() has given its id to another
		 * thread since: not for ever. */
		if (state && tries < 3)
			continue;
		find(crowd, tid)->state = UT_THREAD_GONE;
		if (error.err == ESRCH || (error.err == EPERM && !state))
			break;
		*round->error = error;
		return -1;
	}
	round->changed = true;
	return 0;
}

static void interrupt_new(struct ut_crowd *crowd, uint32_t from)
{
	struct ut_error ignored;

	for (uint32_t i = from; i < crowd->used; i++) {
		struct ut_thread *thread = &crowd->threads[i];

		if (thread->state != UT_THREAD_SEIZED)
			continue;
		if (!crowd->first_ns)
			crowd->first_ns = ut_now_ns();
		/* Only fails if it has gone, which waiting for it will tell. */
		thread->state = UT_THREAD_ASKED;
		ut_stop_request(thread->tid, &ignored);
	}
}

static void look(struct ut_crowd *crowd, struct ut_thread *thread, uint64_t until_ns)
{
	struct ut_error ignored;
	struct ut_stop stop;
	int got = ut_stop_wait(thread->tid, until_ns, &stop, &ignored);

	if (got > 0)
		note(crowd, &stop);
	else if (got < 0)
		thread->state = UT_THREAD_GONE;
}

/* Looks at a thread that was asked to stop. */
static void look_for(struct ut_crowd *crowd, uint32_t place, uint64_t until_ns)
{
	struct ut_thread *thread = &crowd->threads[place];
	struct ut_thread *leader = find(crowd, crowd->pids[thread->owner]);

	look(crowd, thread, until_ns);
	/*
	 * Gone: perhaps by exec(), which gave it the id of its leader, and the leader
	 * that we knew has ended. Then that id is to stop anew.
	 */
	if (thread->state == UT_THREAD_GONE && leader && leader != thread &&
	    leader->state == UT_THREAD_STOPPED) {
		look(crowd, leader, 0);
		if (leader->state == UT_THREAD_STOPPED && !stopped(leader->tid))
			leader->state = UT_THREAD_ASKED;
	}
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
	uint64_t in_order = ut_now_ns() + IN_ORDER_NS;

	if (in_order > crowd->deadline_ns)
		in_order = crowd->deadline_ns;
	for (uint32_t i = from; i < crowd->used; i++)
		while (crowd->threads[i].state == UT_THREAD_ASKED &&
		       ut_now_ns() < in_order)
			look_for(crowd, i, in_order);

	for (;;) {
		pid_t late = 0;

		/* From 0: an exec() makes a leader of old late. */
		for (uint32_t i = 0; i < crowd->used; i++) {
			struct ut_thread *thread = &crowd->threads[i];

			if (thread->state != UT_THREAD_ASKED)
				continue;
			look_for(crowd, i, 0);
			if (thread->state != UT_THREAD_ASKED)
				continue;
			/* A leader that exits before its threads is never reported. */
			if (thread->tid == crowd->pids[thread->owner] &&
			    ut_task_state(thread->tid) == 'Z')
				thread->state = UT_THREAD_GONE;
			else
				late = thread->tid;
		}
		if (!late)
			return 0;
		if (out_of_time(crowd, "wait for a thread to stop", late, error))
			return -1;
		/* Those that were killed while stopped: exec() may be waiting for that.
		 */
		note_all(crowd);
		pause_until(crowd->deadline_ns);
	}
}

/* Lists every process once; *ret_done: all of them are at rest. */
static int list_all(struct ut_crowd *crowd, bool *ret_done, pid_t *ret_busy,
                    struct ut_error *error)
{
	uint32_t found = 0;

	*ret_done = true;
	*ret_busy = 0;
	for (uint32_t i = 0; i < crowd->count; i++) {
		struct round round = {.crowd = crowd, .error = error, .owner = i};
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
		if (round.changed || round.busy || round.at_rest != total)
			*ret_done = false;
		if (round.busy)
			*ret_busy = round.busy;
	}
	if (!found)
		return ut_fail(error, "list threads", ESRCH, crowd->pids[0], 0, 0);
	return 0;
}

int ut_crowd_init(struct ut_crowd *crowd, struct ut_error *error)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	const int access = PROT_READ | PROT_WRITE;

	crowd->capacity = 1024;
	crowd->threads = mmap(NULL, crowd->capacity * sizeof(*crowd->threads), access,
	                      flags, -1, 0);
	crowd->by_tid =
		mmap(NULL, TID_LIMIT * sizeof(*crowd->by_tid), access, flags, -1, 0);
	if (crowd->threads == MAP_FAILED || crowd->by_tid == MAP_FAILED)
		return ut_fail(error, "table of threads", errno, 0, 0, 0);
	return 0;
}

/* A timer whose handler is tend(), or none. */
static void set_timer(bool on)
{
	struct sigaction action = {.sa_handler = on ? tend : SIG_IGN,
	                           .sa_flags = SA_RESTART};
	struct itimerval every = {.it_interval.tv_usec = on ? TEND_US : 0,
	                          .it_value.tv_usec = on ? TEND_US : 0};
	sigset_t alarm;

	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	sigaction(SIGALRM, &action, NULL);
	sigprocmask(on ? SIG_UNBLOCK : SIG_BLOCK, &alarm, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

int ut_crowd_halt(struct ut_crowd *crowd, struct ut_error *error)
{
	int result = -1;

	set_timer(true);
	for (;;) {
		uint32_t from = crowd->used;
		bool done;
		pid_t busy;

		crowd->rounds++;
		if (list_all(crowd, &done, &busy, error))
			break;
		if (done) {
			result = 0;
			break;
		}
		if (out_of_time(crowd,
		                busy ? "wait for io_uring to be idle"
		                     : "stop all threads",
		                busy, error))
			break;
		/* An id that came back has its old place: look at all from the start. */
		interrupt_new(crowd, 0);
		if (await_all(crowd, from, error))
			break;
		if (busy)
			pause_until(crowd->deadline_ns);
	}
	set_timer(false);
	if (result < 0)
		return -1;
	for (uint32_t i = 0; i < crowd->used; i++)
		result += crowd->threads[i].state == UT_THREAD_STOPPED;
	return result;
}

void ut_crowd_release(struct ut_crowd *crowd)
{
	struct ut_error ignored;

	for (uint32_t i = 0; i < crowd->used; i++) {
		struct ut_thread *thread = &crowd->threads[i];
		struct ut_stop stop = {.tid = thread->tid, .kind = UT_STOP_TRAP};

		if (thread->state == UT_THREAD_STOPPED ||
		    (thread->state == UT_THREAD_ASKED &&
		     ut_stop_wait(thread->tid, 0, &stop, &ignored) > 0))
			ut_stop_release(&stop, NULL, &ignored);
	}
}
