#pragma once
#include <stdint.h>
#include "error.h"

/*
 * Stops every thread of some processes and holds them: uffdtrackd/native/c/freeze.c.
 *
 *     caller                                holder (a child of ours, C only)
 *     ut_freeze_start() --- clone -------->  seizes, interrupts, waits for all
 *        |  <------- ut_freeze_report ----   FROZEN, or FAILED
 *        |                                   holds: nothing but SIGKILL reaches it
 *     closes the socket ------------------>  exits, and by that lets all go
 *     ut_freeze_reap() <------ exit -------
 *
 * The socket is SOCK_SEQPACKET: one report a message. Its end closing (also because the
 * caller was killed) thaws; so does the end of the lease, after a report LEASE_OVER. If
 * the holder is killed the kernel lets the threads go too; the socket's end closes before
 * that, so a caller that finds it open knows that all were held until then.
 */

enum ut_freeze_state {
	UT_FREEZE_FROZEN = 1, /* all threads are stopped */
	UT_FREEZE_FAILED,     /* error says why; they go on at the holder's exit */
	UT_FREEZE_LEASE_OVER, /* about to exit without being asked */
};

struct ut_freeze_report {
	uint32_t state;
	uint32_t threads; /* held */
	uint32_t rounds;  /* how often the threads were listed until none was new */
	uint32_t reserved;
	uint64_t stopped_ns; /* CLOCK_MONOTONIC before the first was asked to stop */
	uint64_t frozen_ns;  /* when the last had stopped */
	uint64_t thawed_ns;  /* when the lease was over; else 0 */
	struct ut_error error;
};

#define UT_FREEZE_MORE 4096

/*
 * Sent through the socket after a report FROZEN: these as well. Answered by another
 * report. As long as count says, deadline_ns from its arrival on.
 */
struct ut_freeze_more {
	uint64_t deadline_ns;
	uint32_t count;
	int32_t pids[UT_FREEZE_MORE];
};

/*
 * Starts the holder for pids[0..count). deadline_ns: how long stopping may take, from
 * when the holder runs; everybody is asked at least once, however little that is.
 * lease_ns: how long they may be held, 0 for ever. follow: whoever they fork while they
 * are being stopped is held as well, from birth. Returns the socket (close-on-exec) and
 * *ret_holder, its pid, or -1. Does not wait: read the report from the socket.
 *
 * In FAILED, error.err is ESRCH (no such process), EPERM (permission, or traced by
 * somebody else), ETIMEDOUT (error.pid is a thread that did not stop).
 */
int ut_freeze_start(const int32_t *pids, uint32_t count, uint32_t follow,
                    uint64_t deadline_ns, uint64_t lease_ns, int32_t *ret_holder,
                    struct ut_error *error);

/* Waits for the end of the holder: then all threads have been let go. */
int ut_freeze_reap(int32_t holder, struct ut_error *error);
