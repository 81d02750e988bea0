/* Lets the lock of the target's address space go often enough; turn.h. */
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "turn.h"

/*
 * Two waits, of an mmap() and its munmap(), stay under 5 ms with two gaps that are
 * missed: a writer that is woken while something else has its CPU sees the next gap only.
 */
#define HOLD_NS 1000000

/* A thread that is woken on an idle CPU has the lock 15 to 30 us later. */
#define REST_NS 20000

/* Who was away for so long has let others in. */
#define AWAY_NS 50000

static __thread struct {
	uint64_t since; /* the beginning of the first of the calls in a row */
	uint64_t began; /* of the last of them */
	uint64_t ended;
} turn;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/*
 * The timer of an ordinary thread has 50 us of slack (PR_SET_TIMERSLACK): with it, to
 * sleep for REST_NS takes 95 us, without 45. Not through prctl(3), which cuts what it
 * gives to an int. Threads with a real-time policy have no slack, and say 0.
 */
static void rest(void)
{
	long slack = syscall(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0);

	if (slack > 1)
		syscall(SYS_prctl, PR_SET_TIMERSLACK, 1, 0, 0, 0);
	nanosleep(&(struct timespec){0, REST_NS}, NULL);
	if (slack > 1)
		syscall(SYS_prctl, PR_SET_TIMERSLACK, slack, 0, 0, 0);
}

void turn_begin(void)
{
	uint64_t at = now();

	if (at - turn.ended > AWAY_NS) {
		turn.since = at;
	} else if (at - turn.since + turn_last_ns() > HOLD_NS) {
		rest();
		turn.since = at = now();
	}
	turn.began = at;
}

void turn_end(void)
{
	turn.ended = now();
}

uint64_t turn_last_ns(void)
{
	return turn.ended - turn.began;
}
