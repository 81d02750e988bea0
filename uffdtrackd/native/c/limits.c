/* Raises and restores limits of a target by prlimit(2); limits.h. */
#define _GNU_SOURCE /* prlimit */
#include "c/limits.h"

#include <errno.h>
#include <stddef.h>

/* What is added: descriptors, or bytes for two pages and the page tables of accounting.
 */
#define MORE_FILES 64
#define MORE_BYTES (1 << 20)

static bool raise_one(struct ut_limits *limits, pid_t tid, int resource, rlim_t more,
                      struct ut_fault *fault)
{
	struct rlimit before, wanted;

	if (limits->count >= UT_LIMITS_MAX)
		return false;
	if (ut_fault_call(fault, UT_FAULT_TRACER) ||
	    prlimit(tid, resource, NULL, &before))
		return false;
	if (before.rlim_cur == RLIM_INFINITY)
		return false;

	wanted = before;
	wanted.rlim_cur += more;
	/* Beyond the hard limit only with CAP_SYS_RESOURCE: else the kernel refuses
	 * below. */
	if (wanted.rlim_max != RLIM_INFINITY && wanted.rlim_max < wanted.rlim_cur)
		wanted.rlim_max = wanted.rlim_cur;
	if (ut_fault_call(fault, UT_FAULT_TRACER) ||
	    prlimit(tid, resource, &wanted, NULL))
		return false;
	limits->raised[limits->count].resource = resource;
	limits->raised[limits->count].before = before;
	limits->count++;
	return true;
}

bool ut_limits_raise(struct ut_limits *limits, pid_t tid, int err, struct ut_fault *fault)
{
	bool raised = false;

	switch (err) {
	case EMFILE:
		raised |= raise_one(limits, tid, RLIMIT_NOFILE, MORE_FILES, fault);
		break;
	case ENOMEM: /* the address space, or the writable part of it */
		raised |= raise_one(limits, tid, RLIMIT_AS, MORE_BYTES, fault);
		raised |= raise_one(limits, tid, RLIMIT_DATA, MORE_BYTES, fault);
		break;
	case EAGAIN: /* after mlockall(MCL_FUTURE) new mappings are locked */
		raised |= raise_one(limits, tid, RLIMIT_MEMLOCK, MORE_BYTES, fault);
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
