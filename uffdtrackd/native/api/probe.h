#pragma once
#include <stdint.h>
#include "api/error.h"

/*
 * What this machine lets us do, each found out by doing it on ourselves or on a
 * child made for it; never by a version number.
 */
#define UT_PROBE_PIDFD_GETFD     0
#define UT_PROBE_PTRACE          1
#define UT_PROBE_SUSPEND_SECCOMP 2
#define UT_PROBE_READ_MEMORY     3
#define UT_PROBE_MAP_FILES       4
#define UT_PROBE_UFFD            5
#define UT_PROBE_UFFD_USER_MODE  6
#define UT_PROBE_UFFD_DEVICE     7
#define UT_PROBE_WP_ASYNC        8
#define UT_PROBE_PRIVATE_FILE    9
#define UT_PROBE_PAGEMAP_SCAN    10
#define UT_PROBE_EMPTY_HUGE_PAGE 11
#define UT_PROBE_WP_SYNC         12
#define UT_PROBE_SPECIAL_REFUSED 13
#define UT_PROBES                14

/*
 * Does one of the above in a child process that may die or hang without harm.
 * 0: it works. -1: *error says which step failed and how; err 0 where the call
 * worked and the answer was wrong.
 */
int ut_probe(int which, struct ut_error *error);
