#pragma once
#include <stdint.h>
#include "api/error.h"

/* What the descriptors of a process may do to its memory behind its page tables. */

#define UT_DESCRIPTORS_DIRECT 1 /* O_DIRECT: a device writes into pinned pages */
#define UT_DESCRIPTORS_RING   2 /* io_uring: the same, and buffers that stay pinned */
#define UT_DESCRIPTORS_DEVICE                                                            \
	4 /* InfiniBand, VFIO: memory given to a device for good                         \
	   */

/*
 * Which of these the process has open, as a sum. links, infos: its /proc/PID/fd
 * and /proc/PID/fdinfo, open, the caller's. -1 with *error: ENOENT when it is gone.
 */
int ut_descriptors_look(int links, int infos, struct ut_error *error);
