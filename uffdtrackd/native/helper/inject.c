/*
 * The program that injects: what c/inject.c starts as a process of its own.
 *
 *     argv[1]: a socket, in which a struct ut_injector_job waits --> ut_injector() -->
 * report
 *
 * The descriptors that the job names are open under the same numbers. Started by anybody
 * else it does nothing.
 */
#include <stdlib.h>
#include <unistd.h>

#include "c/injector.h"
#include "c/passing.h"
#include "c/spawn.h"

int main(int argc, char **argv)
{
	struct ut_injector_job job;
	int fd;

	if (argc != 2 || ut_take(atoi(argv[1]), &job, sizeof(job), &fd))
		return UT_SPAWN_UNFIT;
	/* Another version was installed under a tracker that runs. */
	if (job.stamp != UT_INJECTOR_STAMP)
		return UT_SPAWN_UNFIT;
	/* Capabilities that exec took away: what we may not, a fork of the tracker may.
	 */
	if (job.permitted & ~ut_injector_rights())
		return UT_SPAWN_UNFIT;
	_exit(ut_injector(&job));
}
