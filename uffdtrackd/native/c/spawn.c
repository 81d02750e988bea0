/* Starts a program without a copy of our page tables; spawn.h. */
#define _GNU_SOURCE /* clone */
#include "c/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "c/child.h"

/* For a handful of system calls each. What is not touched costs nothing. */
#define STACK (64 << 10)

/* Exit status of the minder of a program that was killed. */
#define KILLED 124

struct spawn {
	const char *name;
	const char *program;
	const int *keep;
	int count;
	char fd[16];
	char *stacks; /* the minder's, the program's until it is one */
};

/*
 * Both run in the memory of the tracker, on stacks of their own, while its thread waits
 * in clone(): so they may use errno, which is that thread's, and must not allocate or
 * lock.
 */
static int become_program(void *arg)
{
	const struct spawn *spawn = arg;
	char *const argv[] = {(char *)spawn->name, (char *)spawn->fd, NULL};
	char *const environment[] = {NULL};

	execve(spawn->program, argv, environment);
	syscall(SYS_exit_group, UT_SPAWN_UNFIT);
	return 0;
}

static int mind(void *arg)
{
	const struct spawn *spawn = arg;
	int status = 0;

	/* Passed on: so the program is in our session, and has our descriptors. */
	ut_child_become(spawn->name, spawn->keep, spawn->count);
	for (int i = 0; i < spawn->count; i++)
		if (spawn->keep[i] >= 0)
			fcntl(spawn->keep[i], F_SETFD, 0);

	pid_t pid = clone(become_program, spawn->stacks + 2 * STACK,
	                  CLONE_VM | CLONE_VFORK | SIGCHLD, arg);
	/* Ours would keep the socket open after the program has ended. */
	ut_child_become(spawn->name, NULL, 0);
	while (pid > 0 && waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			pid = -1;
	/* SIGSYS: a filter on us that kills for execve(). */
	if (pid < 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS))
		status = UT_SPAWN_UNFIT;
	else
		status = WIFEXITED(status) ? WEXITSTATUS(status) : KILLED;
	syscall(SYS_exit_group, status);
	return 0;
}

int ut_spawn(const char *name, const char *program, int fd, const int *keep, int count,
             struct ut_error *error)
{
	struct spawn spawn = {
		.name = name, .program = program, .keep = keep, .count = count};
	sigset_t all, before;

	snprintf(spawn.fd, sizeof(spawn.fd), "%d", fd);
	spawn.stacks = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (spawn.stacks == MAP_FAILED)
		return ut_fail(error, "a stack for the injector", errno, 0, 0, 0);
	/* Blocked in the children for good: no handler of Python's ever runs there. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);

	/* No exit signal, as in child.c. */
	pid_t pid = clone(mind, spawn.stacks + STACK, CLONE_VM | CLONE_VFORK, &spawn);
	int err = errno;

	pthread_sigmask(SIG_SETMASK, &before, NULL);

	int status = pid < 0 ? ut_fail(error, "clone", err, 0, 0, 0)
	                     : ut_child_wait(pid, error);

	/* Was the minder killed? Then its child may stand on the other stack still. */
	if (status < 0 || WIFEXITED(status))
		munmap(spawn.stacks, 2 * STACK);
	return status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == KILLED ? SIGKILL
	                                                                         : status;
}
