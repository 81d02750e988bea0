/*
 * What nearly every iteration consists of, without a step of Python in between:
 *
 *	maps          --differs from the last text?-------------> CHANGED
 *	PAGEMAP_SCAN  --not registered, and not known to be?----> NEW
 *	get+clear     --> collected                   (collect.c)
 *	private pages of files --> reverted, doubtful (reverted.c)
 *	descriptors, VmPin     --> means, pinned      (descriptors.c)
 *	dirty + also           --> all known, and nothing else found: quiet
 *
 * The order is that of tracking/tracker.py, which does the same step by step, and
 * more, where something has changed. A target at rest costs a tenth of a millisecond
 * this way, half of what the single steps cost when the caches are cold.
 */
#include <errno.h>
#include <stdlib.h>

#include "listing.h"
#include "scan_impl.h"
#include "api/descriptors.h"
#include "api/reverted.h"
#include "api/runs.h"
#include "api/sweep.h"

/* What is not registered, whether or not there is a page. */
static const struct ut_match UNREGISTERED = {
	.inverted = UT_PAGE_WPALLOWED,
	.mask = UT_PAGE_WPALLOWED,
};

struct ut_sweep *ut_sweep_new(void)
{
	struct ut_sweep *sweep = calloc(1, sizeof(*sweep));

	if (!sweep)
		return NULL;
	sweep->reverted = ut_regions_new();
	sweep->doubtful = ut_regions_new();
	sweep->missing = ut_regions_new();
	if (!sweep->reverted || !sweep->doubtful || !sweep->missing) {
		ut_sweep_free(sweep);
		return NULL;
	}
	return sweep;
}

void ut_sweep_free(struct ut_sweep *sweep)
{
	if (!sweep)
		return;
	ut_regions_free(sweep->reverted);
	ut_regions_free(sweep->doubtful);
	ut_regions_free(sweep->missing);
	free(sweep);
}

/* 1 if what is not registered is what was not the last time; -1 with *error. */
static int is_settled(struct ut_sweep *sweep, struct ut_error *error)
{
	const struct page_region24 *known = sweep->settled;
	const struct ut_regions *missing = sweep->missing;

	sweep->missing->count = 0;
	if (ut_scan_get(sweep->pagemap, 0, sweep->limit, &UNREGISTERED, 0, sweep->missing,
	                error))
		return -1;
	if (missing->count != sweep->settled_count)
		return 0;
	for (uint64_t i = 0; i < missing->count; i++)
		if (missing->data[i].start != known[i].start ||
		    missing->data[i].end != known[i].end)
			return 0;
	return 1;
}

/*
 * VmPin of proc_pid_status(5), in bytes; -1 where the thread is gone, or has ended before
 * its process: then it has no memory and no descriptors, and the others do.
 */
static int64_t pinned_bytes(int status)
{
	long kib = ut_status_number(status, "VmPin");

	return kib < 0 ? -1 : (int64_t)kib << 10;
}

static void look_around(struct ut_sweep *sweep)
{
	struct ut_error ignored;
	int64_t pinned = -1;
	int means = -1;

	if (sweep->links >= 0)
		means = ut_descriptors_look(sweep->links, sweep->infos, &ignored);
	if (means >= 0)
		pinned = pinned_bytes(sweep->status);
	sweep->means = pinned < 0 ? -1 : means;
	sweep->pinned = pinned < 0 ? 0 : pinned;
}

/* Whether there is more to say than which pages are dirty. */
static int has_more(const struct ut_sweep *sweep)
{
	const struct ut_collected *found = &sweep->collected;

	return found->file->count || found->discarded->count || found->voids->count ||
	       found->failed || sweep->reverted->count || sweep->doubtful->count ||
	       sweep->means || sweep->pinned;
}

/* What is listed in any case, and whether that is all there is to say. */
static int tell(struct ut_sweep *sweep, struct ut_error *error)
{
	struct ut_collected *found = &sweep->collected;

	if (sweep->also_count) {
		uint64_t *both = ut_runs_alloc(found->dirty_count + sweep->also_count);

		if (!both)
			return ut_fail(error, "collect", ENOMEM, 0, 0, 0);
		found->dirty_count = ut_runs_union(found->dirty, found->dirty_count,
		                                   sweep->also, sweep->also_count, both);
		ut_runs_free(found->dirty);
		found->dirty = ut_runs_shrink(both, found->dirty_count);
	}
	sweep->quiet =
		!has_more(sweep) && ut_runs_within(found->dirty, found->dirty_count,
		                                   sweep->known, sweep->known_count);
	return 0;
}

int ut_sweep_run(struct ut_sweep *sweep, struct ut_error *error)
{
	int changed = ut_layout_refresh(sweep->layout, error), settled;

	if (changed)
		return changed < 0 ? -1 : UT_SWEEP_CHANGED;
	settled = is_settled(sweep, error);
	if (settled <= 0)
		return settled < 0 ? -1 : UT_SWEEP_NEW;
	if (ut_collect(sweep->collector, &sweep->collected, error))
		return -1;
	sweep->reverted->count = 0;
	sweep->doubtful->count = 0;
	if (ut_find_reverted(sweep->pagemap, sweep->own, sweep->own_count,
	                     sweep->swap_types, sweep->reverted, sweep->doubtful, error))
		goto err;
	look_around(sweep);
	if (tell(sweep, error))
		goto err;
	return UT_SWEEP_DONE;

err:
	ut_runs_free(sweep->collected.dirty);
	return -1;
}
