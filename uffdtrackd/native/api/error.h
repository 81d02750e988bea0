#pragma once
#include <stdint.h>

/*
 * How every C function of the tracker says what failed. Fallible functions
 * return 0 (or a count) or -1 and take a struct ut_error * as their last
 * argument; on -1 it is filled, else untouched. uffdtrackd/native/error.py
 * turns it into the one exception of this floor.
 */
struct ut_error {
	char step[40];    /* what was being done: "PTRACE_SEIZE", "mmap in the target" */
	int32_t err;      /* errno of the call that failed, 0 if none did */
	int32_t pid;      /* process or thread that it was done to, 0 if none */
	uint64_t address; /* in the target; 0 if it says nothing */
	uint64_t length;
};

/* Fills *error and returns -1, so that callers can "return ut_fail(...)". */
int ut_fail(struct ut_error *error, const char *step, int err, int pid, uint64_t address,
            uint64_t length);
