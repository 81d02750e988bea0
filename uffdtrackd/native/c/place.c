/* Puts the tracer on the CPU of the thread it traces; place.h says why. */
#define _GNU_SOURCE /* CPU_SET */
#include "c/place.h"

#include <sched.h>
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

void ut_place_beside(int proc_fd, pid_t tid)
{
	int cpu = last_cpu(proc_fd, tid);
	cpu_set_t set;

	setpriority(PRIO_PROCESS, 0, -20);
	if (cpu < 0 || cpu >= CPU_SETSIZE)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}
