/*
 * Blocks that were populated and are empty now (MADV_DONTNEED, a free() of much
 * memory): the scan reports their holes as written, page after page.
 *
 * Only a block that is reported in full can be one. A get that stops at the
 * first present page costs half a microsecond where there is one, and that is
 * all that a busy target pays. In doubt (swap entries whose type we may not see,
 * a failed call) the block is not empty: it stays dirty.
 *
 * The block was protected a moment ago. A page that comes after this look is
 * written and populated, so the next collection finds it: as part of a gap, for
 * the block has left its span.
 */
#include <unistd.h>

#include "emptied.h"

static const struct ut_match PRESENT = {
	.mask = UT_PAGE_PRESENT,
};

/* pagemap.rst: bit 63 present, 62 swapped, 4..0 the swap type where it is shown. */
static int nothing_there(const uint64_t *entries, uint64_t count)
{
	const uint64_t present = 1ULL << 63, swapped = 1ULL << 62;

	for (uint64_t i = 0; i < count; i++) {
		if (entries[i] & present)
			return 0;
		if (entries[i] & swapped && !is_marker(entries[i]))
			return 0;
	}
	return 1;
}

static int is_empty(struct emptied *e, uint64_t block)
{
	struct ut_error ignored;

	if (spans_touch(e->shared, block, block + BLOCK))
		return 0;
	e->scratch.count = 0;
	e->calls++;
	if (ut_scan_get(e->pagemap, block, block + BLOCK, &PRESENT, 1, &e->scratch,
	                &ignored))
		return 0;
	if (e->scratch.count)
		return 0;
	if (pread(e->pagemap, e->entries, sizeof(e->entries),
	          block / PAGE * sizeof(uint64_t)) != sizeof(e->entries))
		return 0;
	return nothing_there(e->entries, BLOCK / PAGE);
}

/* Takes what was discarded since `first` out of the dirty regions; both are sorted. */
static int cut_out(struct emptied *e, struct ut_regions *dirty,
                   const struct ut_regions *discarded, uint64_t first)
{
	const struct page_region24 *gone = discarded->data;
	struct ut_regions *rest = &e->scratch;
	uint64_t j = first;
	int err = 0;

	rest->count = 0;
	for (uint64_t i = 0; i < dirty->count; i++) {
		struct page_region24 region = dirty->data[i];

		while (j < discarded->count && gone[j].end <= region.start)
			j++;
		for (; j < discarded->count && gone[j].start < region.end; j++) {
			if (region.start < gone[j].start)
				err |= regions_append(rest, region.start, gone[j].start,
				                      UT_PAGE_WRITTEN);
			region.start = max_u64(region.start, gone[j].end);
			if (gone[j].end > region.end)
				break;
		}
		if (region.start < region.end)
			err |= regions_append(rest, region.start, region.end,
			                      UT_PAGE_WRITTEN);
	}
	dirty->count = 0;
	for (uint64_t i = 0; i < rest->count && !err; i++)
		err |= regions_append(dirty, rest->data[i].start, rest->data[i].end,
		                      UT_PAGE_WRITTEN);
	return err;
}

int emptied_take_out(struct emptied *e, uint64_t start, uint64_t end,
                     struct ut_regions *dirty, struct ut_regions *discarded,
                     struct spans *kept)
{
	/* The first block found here may join the last one found before. */
	uint64_t first = discarded->count ? discarded->count - 1 : 0;
	uint64_t rest = start;
	int err = 0;

	for (uint64_t i = 0; i < dirty->count; i++) {
		struct page_region24 region = dirty->data[i];
		uint64_t block = (region.start + BLOCK - 1) & ~(BLOCK - 1);

		for (; block + BLOCK <= region.end; block += BLOCK) {
			if (!is_empty(e, block))
				continue;
			err |= regions_append(discarded, block, block + BLOCK, 0);
			if (rest < block)
				err |= spans_append(kept, rest, block);
			rest = block + BLOCK;
		}
	}
	if (rest < end)
		err |= spans_append(kept, rest, end);
	/* A block was found: what is left of the stretch no longer begins where it did.
	 */
	if (!err && rest > start)
		err = cut_out(e, dirty, discarded, first);
	return err ? -1 : 0;
}

/* Neither page nor marker in a block, and so nothing that could be protected. */
static const struct ut_match ANYTHING = {
	.anyof = UT_PAGE_PRESENT | UT_PAGE_SWAPPED,
};

static int is_void(struct emptied *e, uint64_t block)
{
	struct ut_error ignored;

	e->scratch.count = 0;
	e->calls++;
	return !ut_scan_get(e->pagemap, block, block + BLOCK, &ANYTHING, 1, &e->scratch,
	                    &ignored) &&
	       !e->scratch.count;
}

/* What was in front of a shared object may have been written: nothing tells any more. */
static int sort_out(const struct emptied *e, uint64_t start, uint64_t end,
                    struct ut_regions *voids)
{
	int err = 0;

	for (uint64_t i = spans_find(e->shared, start);
	     i < e->shared->count && e->shared->data[i].start < end; i++) {
		uint64_t first = max_u64(start, e->shared->data[i].start);
		uint64_t last = min_u64(end, e->shared->data[i].end);

		if (start < first)
			err |= regions_append(voids, start, first, 0);
		err |= regions_append(e->unsure, first, last, 0);
		start = last;
	}
	if (start < end)
		err |= regions_append(voids, start, end, 0);
	return err;
}

int emptied_look_for(struct emptied *e, uint64_t start, uint64_t end,
                     struct ut_regions *voids, struct spans *kept)
{
	uint64_t rest = start;
	int err = 0;

	for (uint64_t block = (start + BLOCK - 1) & ~(BLOCK - 1); block + BLOCK <= end;
	     block += BLOCK) {
		if (!is_void(e, block))
			continue;
		err |= sort_out(e, block, block + BLOCK, voids);
		if (rest < block)
			err |= spans_append(kept, rest, block);
		rest = block + BLOCK;
	}
	if (rest < end)
		err |= spans_append(kept, rest, end);
	return err ? -1 : 0;
}
