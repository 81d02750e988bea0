/* Starts and reaps the processes that trace; child.h says why they exist. */
#include "c/child.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEEP_MAX 8

/* Closes everything but keep[]: the gaps between its members in ascending order. */
static void close_others(const int *keep, int count)
{
	unsigned int from = 0;

	for (;;) {
		unsigned int next = UINT_MAX;

		for (int i = 0; i < count; i++)
			if (keep[i] >= 0 && (unsigned int)keep[i] >= from &&
			    (unsigned int)keep[i] < next)
				next = (unsigned int)keep[i];
		if (next > from)
			/* close_range(2) takes an inclusive last; the top call may use
			 * ~0. */
			syscall(SYS_close_range, from, next == UINT_MAX ? next : next - 1,
			        0);
		if (next == UINT_MAX)
			return;
		from = next + 1;
	}
}

void ut_child_become(const char *name, const int *keep, int count)
{
	struct sigaction initial = {.sa_handler = SIG_DFL};
	uint64_t all = ~(uint64_t)0;

	/* Also the two that libc keeps for itself, and never blocks. */
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof(all));
	setsid();
	sigaction(SIGCHLD, &initial, NULL);
	prctl(PR_SET_NAME, name);
	close_others(keep, count);
}

pid_t ut_child_start(const char *name, int (*body)(void *), void *arg, const int *keep,
                     int count, struct ut_error *error)
{
	sigset_t all, before;

	if (count > KEEP_MAX)
		return ut_fail(error, "descriptors to keep", EINVAL, 0, 0, 0);
	/*
	 * Blocked before the clone and for good in the child, so that no handler of
	 * Python's ever runs there.
	 */
	sigfillset(&all);
	if (pthread_sigmask(SIG_SETMASK, &all, &before))
		return ut_fail(error, "block signals", errno, 0, 0, 0);

	/* flags 0: a plain fork whose exit signal is none. */
	pid_t pid = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, 0);

	if (pid == 0) {
		ut_child_become(name, keep, count);
		syscall(SYS_exit_group, body(arg));
		__builtin_unreachable();
	}

	int err = errno;

	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid < 0)
		return ut_fail(error, "clone", err, 0, 0, 0);
	return pid;
}

int ut_child_wait(pid_t pid, struct ut_error *error)
{
	int status;

	/* __WALL: a child without an exit signal is not found by a plain waitpid. */
	while (waitpid(pid, &status, __WALL) < 0)
		if (errno != EINTR)
			return ut_fail(error, "wait for the tracer", errno, pid, 0, 0);
	return status;
}
