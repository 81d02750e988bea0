/* Finding blocks that lost all their pages; private to the C floor. */
#pragma once
#include "scan_impl.h"
#include "spans.h"

struct emptied {
	int pagemap;
	const struct spans *shared; /* where an absent page does not mean an empty one */
	struct ut_regions *unsure;  /* such places, where nothing says what was written */
	uint64_t calls;             /* ioctls made so far */
	struct ut_regions scratch;
	uint64_t entries[BLOCK / PAGE];
};

/*
 * Looks at the blocks inside [start, end) that the dirty regions report in full. The
 * empty ones move from *dirty to *discarded; the rest of [start, end) is appended to
 * *kept. -1 without memory.
 */
int emptied_take_out(struct emptied *emptied, uint64_t start, uint64_t end,
                     struct ut_regions *dirty, struct ut_regions *discarded,
                     struct spans *kept);

/*
 * The same for kernels that report nothing where there is no page table (see
 * ut_collector_silent_holes): looks at every block inside [start, end), moves what
 * is empty to *voids, less what is shared, and appends the rest to *kept.
 */
int emptied_look_for(struct emptied *emptied, uint64_t start, uint64_t end,
                     struct ut_regions *voids, struct spans *kept);
