/* Raises and restores limits of a target by prlimit(2); limits.h. */
#define _GNU_SOURCE /* prlimit */
#include "c/limits.h"

#include <errno.h>
#include <stddef.h>

/* Descriptors more than before, where the hard limit is reached as well. */
#define MORE_FILES 64

/*
 * To the hard limit, which needs no privilege for a process of one's own; and beyond
 * that, which needs CAP_SYS_RESOURCE. Without a bound where that is possible: what the
 * process uses may be far above a limit that was lowered later.
 */
static bool raise_one(struct ut_limits *limits, pid_t tid, int resource,
                      struct ut_fault *fault)
{
	struct rlimit before, wanted = {RLIM_INFINITY, RLIM_INFINITY};

	if (limits->count >= UT_LIMITS_MAX)
		return false;
	if (ut_fault_call(fault, UT_FAULT_TRACER) ||
	    prlimit(tid, resource, NULL, &before) || before.rlim_cur == RLIM_INFINITY)
		return false;
	if (resource == RLIMIT_NOFILE) /* bounded by fs.nr_open */
		wanted.rlim_cur = wanted.rlim_max = before.rlim_max + MORE_FILES;

	/* Noted before, so that nothing is forgotten if we do not get to know how it
	 * ended. */
	limits->raised[limits->count].resource = resource;
	limits->raised[limits->count].before = before;
	limits->count++;
	if (!ut_fault_call(fault, UT_FAULT_TRACER) &&
	    !prlimit(tid, resource, &wanted, NULL))
		goto raised;
	wanted.rlim_cur = wanted.rlim_max = before.rlim_max;
	if (before.rlim_cur < before.rlim_max && !ut_fault_call(fault, UT_FAULT_TRACER) &&
	    !prlimit(tid, resource, &wanted, NULL))
		goto raised;
	limits->count--;
	return false;
raised:
	limits->known = limits->count;
	limits->raised[limits->count - 1].during = wanted;
	return true;
}

bool ut_limits_raise(struct ut_limits *limits, pid_t tid, int err, struct ut_fault *fault)
{
	bool raised = false;

	switch (err) {
	case EMFILE:
		raised |= raise_one(limits, tid, RLIMIT_NOFILE, fault);
		break;
	case ENOMEM: /* the address space, or the writable part of it */
		raised |= raise_one(limits, tid, RLIMIT_AS, fault);
		raised |= raise_one(limits, tid, RLIMIT_DATA, fault);
		break;
	case EAGAIN: /* after mlockall(MCL_FUTURE) new mappings are locked */
		raised |= raise_one(limits, tid, RLIMIT_MEMLOCK, fault);
		break;
	}
	return raised;
}

int ut_limits_restore(struct ut_limits *limits, pid_t tid, struct ut_fault *fault)
{
	int result = 0;

	while (limits->count > 0) {
		int i = --limits->count;
		int tries = 0;

		while (ut_fault_call(fault, UT_FAULT_TRACER) ||
		       prlimit(tid, limits->raised[i].resource, &limits->raised[i].before,
		               NULL))
			if (++tries == 3) {
				result = -1;
				break;
			}
	}
	return result;
}

void ut_limits_inherited(const struct ut_limits *limits, pid_t child)
{
	for (int i = 0; i < limits->known; i++) {
		const struct rlimit *during = &limits->raised[i].during;
		struct rlimit now;

		if (!prlimit(child, limits->raised[i].resource, NULL, &now) &&
		    now.rlim_cur == during->rlim_cur && now.rlim_max == during->rlim_max)
			prlimit(child, limits->raised[i].resource,
			        &limits->raised[i].before, NULL);
	}
}
