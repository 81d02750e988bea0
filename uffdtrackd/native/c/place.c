/* Puts the tracer on the CPU of the thread it traces; place.h says why. */
#define _GNU_SOURCE /* CPU_SET */
#include "c/place.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "c/listing.h"

/* Field of proc_pid_stat(5), counted from 1, and the one that follows the name. */
#define FIELD_STATE     3
#define FIELD_PROCESSOR 39

/* The CPU that a thread ran on last, or -1. */
static int last_cpu(int proc_fd, pid_t tid)
{
	char path[64], text[1024];

	snprintf(path, sizeof(path), "task/%d/stat", tid);

	if (ut_read_file(proc_fd, path, text, sizeof(text)) <= 0)
		return -1;

	const char *at = strrchr(text, ')');

	for (int field = FIELD_STATE; at && field <= FIELD_PROCESSOR; field++)
		at = strchr(at + 1, ' ');
	return at ? atoi(at) : -1;
}

/*
 * What this process was allowed before, asked once: it is about us and no target. The
 * child that places itself has one thread.
 */
static struct {
	bool known;
	cpu_set_t cpus;
	int priority;
} before;

void ut_place_beside(int proc_fd, pid_t tid)
{
	int cpu = last_cpu(proc_fd, tid);
	cpu_set_t set;

	if (!before.known) {
		before.priority = getpriority(PRIO_PROCESS, 0);
		before.known = !sched_getaffinity(0, sizeof(before.cpus), &before.cpus);
	}
	setpriority(PRIO_PROCESS, 0, -20);
	if (cpu < 0 || cpu >= CPU_SETSIZE)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

void ut_place_away(void)
{
	cpu_set_t elsewhere = before.cpus, here;

	if (!before.known)
		return;
	/* Allowed everywhere again, we would stay where we are. */
	if (!sched_getaffinity(0, sizeof(here), &here) && CPU_COUNT(&here) == 1)
		for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
			if (CPU_ISSET(cpu, &here))
				CPU_CLR(cpu, &elsewhere);
	if (!CPU_COUNT(&elsewhere))
		elsewhere = before.cpus;
	sched_setaffinity(0, sizeof(elsewhere), &elsewhere);
	setpriority(PRIO_PROCESS, 0, before.priority);
}
