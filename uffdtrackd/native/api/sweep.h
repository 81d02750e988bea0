#pragma once
#include <stdint.h>
#include "api/collect.h"
#include "api/layout.h"
#include "api/scan.h"

/*
 * One iteration of an address space in which nothing new is mapped, as one call:
 * c/sweep.c draws it. What is not told to be the caller's belongs to the sweep.
 */

#define UT_SWEEP_DONE    0
#define UT_SWEEP_CHANGED 1 /* maps differs: nothing was collected */
#define UT_SWEEP_NEW     2 /* something is not registered: nothing was collected */

struct ut_sweep {
	/* Asked; all of it the caller's. */
	struct ut_layout *layout;
	struct ut_collector *collector;
	int32_t pagemap;
	int32_t swap_types; /* see api/reverted.h */
	uint64_t limit;
	const struct page_region24 *settled; /* what is not registered, and known */
	uint64_t settled_count;
	const uint64_t *own; /* runs of private pages of files */
	uint64_t own_count;
	const uint64_t *also; /* runs to list as dirty in any case */
	uint64_t also_count;
	const uint64_t *known; /* runs that a consumer holds */
	uint64_t known_count;
	int32_t links; /* see api/descriptors.h; -1: do not look */
	int32_t infos;
	int32_t status; /* /proc/PID/status */

	/* Answered, where the result is UT_SWEEP_DONE. */
	int32_t means;                 /* UT_DESCRIPTORS_*; -1: could not be seen */
	uint64_t pinned;               /* bytes, of VmPin in status */
	struct ut_collected collected; /* with `also` among what is dirty */
	struct ut_regions *reverted;
	struct ut_regions *doubtful;
	int32_t quiet; /* dirty is all there is to say; see native/sweep.py */

	struct ut_regions *missing; /* scratch */
};

/* Null without memory. */
struct ut_sweep *ut_sweep_new(void);
void ut_sweep_free(struct ut_sweep *sweep);

/* UT_SWEEP_*, or -1 with *error: what was written since the last is unknown then. */
int ut_sweep_run(struct ut_sweep *sweep, struct ut_error *error);
