/* Makes the injector fail where a test wants it to; fault.h. */
#include "c/fault.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

bool ut_fault_call(struct ut_fault *fault, enum ut_fault_kind kind)
{
	if (fault->paused)
		return false;

	bool fails = kind == UT_FAULT_TRACER
	                     ? ++fault->calls.tracer == fault->fail.tracer
	                     : ++fault->calls.remote == fault->fail.remote;

	if (fails)
		errno = EIO;
	return fails;
}

void ut_fault_point(struct ut_fault *fault, enum ut_inject_point point)
{
	if (point != fault->point)
		return;
	switch (fault->action) {
	case UT_ACTION_NONE:
		break;
	case UT_ACTION_KILL_TRACKER:
		kill(fault->tracker, SIGKILL);
		break;
	case UT_ACTION_KILL_INJECTOR:
		/* All signals are blocked here, this one cannot be. */
		kill(getpid(), SIGKILL);
		break;
	case UT_ACTION_STOP_TARGET:
		kill(fault->target, SIGSTOP);
		break;
	case UT_ACTION_KILL_TARGET:
		kill(fault->target, SIGKILL);
		break;
	case UT_ACTION_STOP_INJECTOR:
		kill(getpid(), SIGSTOP);
		break;
	}
}
