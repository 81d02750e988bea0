#pragma once
/*
 * Where tests strike. Every call that the injector makes while it traces goes through
 * ut_fault_call(), so that a test can fail each of them once, and the sequence of
 * api/inject.h passes ut_fault_point() at its steps, so that a test can kill there.
 * With all fields zero it costs an addition a call.
 */
#include <stdbool.h>
#include <sys/types.h>

#include "api/inject.h"

enum ut_fault_kind { UT_FAULT_TRACER, UT_FAULT_REMOTE };

struct ut_fault {
	enum ut_inject_point point;
	enum ut_inject_action action;
	struct ut_inject_calls fail;
	struct ut_inject_calls calls;
	bool paused; /* in a loop of unknown length: nothing is counted, so that counts
	                repeat */
	pid_t tracker;
	pid_t target;
};

/* Counts a call; true, with errno EIO, if this one is to fail. */
bool ut_fault_call(struct ut_fault *fault, enum ut_fault_kind kind);

void ut_fault_point(struct ut_fault *fault, enum ut_inject_point point);
