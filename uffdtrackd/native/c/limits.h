#pragma once
/*
 * Resource limits of a target, raised for the stop window only when one of them was in
 * the way.
 */
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "c/fault.h"

#define UT_LIMITS_MAX 4

struct ut_limits {
	int count; /* to put back */
	int known; /* that were raised, also after they were put back */
	struct {
		int resource;
		struct rlimit before, during;
	} raised[UT_LIMITS_MAX];
};

/*
 * Makes room for what failed with err (EMFILE; ENOMEM, EAGAIN of mmap). True if any limit
 * was raised, so that another try makes sense.
 */
bool ut_limits_raise(struct ut_limits *limits, pid_t tid, int err,
                     struct ut_fault *fault);

/* Puts all of them back: 0, or -1 with errno. */
int ut_limits_restore(struct ut_limits *limits, pid_t tid, struct ut_fault *fault);

/* The same for a child that was forked in that time, where it has just what was raised.
 */
void ut_limits_inherited(const struct ut_limits *limits, pid_t child);
