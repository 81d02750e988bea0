#pragma once
/*
 * What the injector is given, what it does, and what it says at the end. It is a process
 * of its own: a program (helper/inject.c, started by spawn.h) or, where that cannot be, a
 * fork of the tracker (child.h).
 */
#include <stdint.h>
#include <sys/types.h>

#include "api/inject.h"
#include "injector_stamp.h"

struct ut_injector_job {
	uint64_t stamp; /* UT_INJECTOR_STAMP: which sources both were made of */
	struct ut_inject_args args;
	pid_t tracker;
	int32_t socket;     /* the injector's end */
	uint64_t permitted; /* the effective capabilities of the tracker */
};

struct ut_injector_report {
	int32_t failed;
	struct ut_error error;
	struct ut_inject_result result;
};

/*
 * Does it, and sends the report and the userfaultfd through the socket. job: a struct
 * ut_injector_job. Always 0. Safe after a fork of a process with threads.
 */
int ut_injector(void *job);

/* The effective capabilities of this thread, as bits. */
uint64_t ut_injector_rights(void);
