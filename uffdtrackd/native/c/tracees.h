#pragma once
/*
 * The table of threads that a holder has to do with, and what it does to a single one.
 *
 *     ut_tracees_meet      NEW: listed, nothing done yet; with its rank
 *     ut_tracees_seize     SEIZED, at once ASKED: PTRACE_SEIZE, PTRACE_INTERRUPT
 *     ut_tracees_look      STOPPED (settled: stop.h), or GONE
 *
 * By rank, because tracing changes what becomes of a signal that the program ignores, say
 * SIGCHLD: it is kept for a traced thread (sig_ignored() in kernel/signal.c), and the
 * kernel may then wake any thread of the process for it, traced or not. One that waits in
 * epoll_wait() and is not yet asked to stop would return EINTR for it. So those are asked
 * first, before any thread is traced that such a signal is likely to be meant for: the
 * leader (kill(2)) and the parents of children, which are mostly in other calls. Measured
 * with 36 threads, two of which fork: 1 EINTR in some 7000 freezes without this order,
 * none in 60 000 with it.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "api/error.h"
#include "c/stop.h"

enum ut_tracee_state {
	UT_TRACEE_NEW = 1,
	UT_TRACEE_SEIZED, /* attached to, runs */
	UT_TRACEE_ASKED,  /* interrupted, not seen to stop yet */
	UT_TRACEE_STOPPED,
	UT_TRACEE_GONE,
};

/* The order of seizing. */
enum ut_tracee_rank {
	UT_RANK_SENSITIVE, /* in a call that would end with EINTR */
	UT_RANK_LEADER,    /* the same, and is meant by kill(2) */
	UT_RANK_OTHER,     /* in another call, or running: perhaps in fork() */
	UT_RANKS,
};

struct ut_tracee {
	pid_t tid;
	pid_t leader;   /* of its process; 0 until it was listed */
	uint32_t round; /* in which it was last listed */
	uint8_t state, rank;
};

struct ut_tracees {
	struct ut_tracee *list;
	uint32_t used, capacity;
	uint32_t *by_tid;      /* index into list + 1; by thread id */
	uint64_t first_ns;     /* before the first was interrupted; 0 if none */
	unsigned long options; /* more PTRACE_O_* to seize with */
	/*
	 * Called now and then while PTRACE_SEIZE blocks, which the kernel may make it
	 * do for long. Must not return if it wants an end.
	 */
	void (*blocked)(void *arg);
	void *arg;
};

int ut_tracees_init(struct ut_tracees *all, struct ut_error *error);

/* NULL if it was never met. Pointers are good until the next one is met. */
struct ut_tracee *ut_tracees_find(struct ut_tracees *all, pid_t tid);

/* Enters a listed thread, also one whose id is known but whose thread has gone. */
struct ut_tracee *ut_tracees_meet(struct ut_tracees *all, pid_t tid, pid_t leader,
                                  struct ut_error *error);

/* Seizes and interrupts all that are NEW. */
int ut_tracees_seize(struct ut_tracees *all, struct ut_error *error);

/*
 * Looks at one that was ASKED until it is in another state or until_ns is over. If it has
 * turned out to have run exec(), its leader may be ASKED anew.
 */
void ut_tracees_look(struct ut_tracees *all, uint32_t index, uint64_t until_ns);

/* Takes note of all that the kernel has to tell of anybody. */
void ut_tracees_reap(struct ut_tracees *all);

/* It is in a stop of ours now: asks the kernel, not the table. */
bool ut_tracee_stopped(pid_t tid);

/*
 * While on, a timer sees to PTRACE_SEIZE blocking: it waits for a lock that exec() holds
 * while it waits for the other threads of its process to end, and a thread that we trace
 * has not ended before we have waited for it. One table a process: its handler must find
 * it.
 */
void ut_tracees_tend(struct ut_tracees *all, bool on);
