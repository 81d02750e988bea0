/*
 * One thread of eintr.c: what it counts, and how it judges the result of a call.
 *
 * A body makes its call once and judges what came of it: EINTR that no handler of ours
 * caused, a timeout that was over too early, or anything else that the manual page does
 * not promise. Raw system calls where the C library would hide EINTR or use another call.
 */
#ifndef EINTR_ROW_H
#define EINTR_ROW_H

#include "victim.h"
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

enum { MS = 1000000 };
/* Socket timeouts count in ticks of the kernel, so they may end one of them early. */
enum { TICK = 11 * MS };

/* One thread; in memory shared with the waker. */
struct row {
	const char *name;
	volatile uint64_t calls, interrupted, early, wrong;
	volatile int last_error; /* errno of the last wrong one */
	volatile int wanted;     /* the thread waits for the waker */
	volatile pid_t tid;
	volatile int handled; /* signals that its handler got */
	int fd[2];
	int missing; /* this kernel has no such call */
	int id;
	int64_t timeout_ns;
};

static int64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static struct timespec timespec_of(int64_t ns)
{
	return (struct timespec){ns / 1000000000, ns % 1000000000};
}

static int checked(int result, const char *what)
{
	if (result < 0)
		victim_fail("%s: %s", what, strerror(errno));
	return result;
}

/* The call must have ended with `error` (0: result 0) and not before its time. */
static void expect_timeout(struct row *row, long result, int error, int64_t began,
                           int64_t slack)
{
	int err = result < 0 ? errno : 0;
	int64_t took = now_ns(CLOCK_MONOTONIC) - began;

	if (err == EINTR && error != EINTR) {
		row->interrupted++;
	} else if (err != error || result > 0) {
		row->last_error = err;
		row->wrong++;
	} else if (took < row->timeout_ns - slack) {
		row->early++;
	}
}

/* The call must have succeeded, after the waker did its part. */
static void expect_wakeup(struct row *row, long result, long good)
{
	if (result < 0 && errno == EINTR) {
		row->interrupted++;
	} else if (result != good) {
		row->last_error = result < 0 ? errno : 0;
		row->wrong++;
	}
}

/* One that has a timeout and must reach it: BODY has began, t (struct timespec), row. */
#define TIMED(NAME, ERROR, SLACK, BODY)                                                  \
	static void call_##NAME(struct row *row)                                         \
	{                                                                                \
		int64_t began = now_ns(CLOCK_MONOTONIC);                                 \
		struct timespec t = timespec_of(row->timeout_ns);                        \
		long result;                                                             \
                                                                                         \
		(void)t;                                                                 \
		result = BODY;                                                           \
		expect_timeout(row, result, ERROR, began, SLACK);                        \
	}

/* One that the waker ends; GOOD is its only good result. */
#define WOKEN(NAME, GOOD, BODY)                                                          \
	static void call_##NAME(struct row *row)                                         \
	{                                                                                \
		long result;                                                             \
                                                                                         \
		row->wanted = 1;                                                         \
		result = BODY;                                                           \
		row->wanted = 0;                                                         \
		expect_wakeup(row, result, GOOD);                                        \
	}

static sigset_t no_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	return set;
}

static sigset_t only(int signal)
{
	sigset_t set = no_signals();

	sigaddset(&set, signal);
	return set;
}

#endif
