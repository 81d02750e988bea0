/*
 * What was written since the last collection, at the speed of the kernel's
 * fastest scan.
 *
 * PAGEMAP_SCAN has a fast path (mask = return = WRITTEN) that protects every
 * page it reports, holes included: over memory that exists it costs 0.3 ms a
 * GiB, over an untouched reservation it would allocate page tables for nothing
 * but markers. So the address space is kept as *spans*, stretches of 2 MiB
 * blocks (what one page table maps) in which a page was seen, and the gaps
 * between them:
 *
 *      0        span            gap             span          gap      limit
 *      |----[############]--------------[##################]------------|
 *            fast get+clear      get          fast get+clear     get
 *            on every block    (populated
 *                               and written?)
 *
 * A page that is found in a gap makes its block part of a span ("adopt"):
 *
 *   1. get+clear of what is populated: exactly the dirty pages;
 *   2. get+clear of what is NOT populated: protects the holes, so that the fast
 *      path does not report them next time. A page that appears between 1 and 2
 *      does not match 2, stays unprotected and is reported next time: nothing
 *      can fall between.
 *
 * In a span nothing can hide: every page and every hole in it is protected, so
 * whatever changes one (a store, a zap, a new mapping at the address) shows as
 * WRITTEN. What is not registered is skipped without a word, which is why the
 * tracker looks for it first.
 *
 * A block that is reported in full may have been emptied (MADV_DONTNEED): one
 * call that stops at the first present page tells. Empty blocks leave their
 * span, so that a heap that shrank costs nothing for ever; their holes stay
 * protected, and a page that comes back is WRITTEN and populated: found in the gap.
 *
 * Kernels before 6.12.103 and 6.18.44 report nothing where there is no page table
 * at all, as after MADV_DONTNEED of a huge page: there, every block of the spans is
 * looked at (silent_holes). What is found empty is not protected, and need not be.
 * Nor does step 2 see any hole there; holes.h has what is done instead.
 */
#include <errno.h>
#include <stdlib.h>

#include "answer.h"
#include "arm.h"
#include "emptied.h"
#include "holes.h"
#include "turn.h"
#include "api/collect.h"

/*
 * One ioctl holds the target's mmap_lock for reading until `vec` is full or the
 * range is done: short pieces, so that its mmap() and munmap() wait little. As large as
 * this where little is dirty (0.3 ms a GiB), and down to the least where all is (9 ms).
 */
#define PIECE       (128ULL << 20)
#define LEAST_PIECE (16ULL << 20)

/* What a piece takes at most, and at least: the next is half, or twice, as large. */
#define PIECE_NS       500000
#define SMALL_PIECE_NS 150000

/* The first look at memory takes the slow path, and the kernel makes markers: 25 ms a
 * GiB. */
#define ADOPT_PIECE (32ULL << 20)

struct ut_collector {
	int pagemap;
	uint64_t limit;
	struct spans spans; /* blocks with pages, sorted, merged, BLOCK aligned */
	struct spans next;  /* the spans of the next collection, while this one runs */
	struct spans excluded;
	struct spans shared;
	struct ut_regions dirty; /* of the piece at hand */
	struct answer answer;    /* of those before */
	struct ut_regions file;
	struct ut_regions discarded;
	struct ut_regions voids; /* more of discarded, in silence */
	struct ut_regions found; /* scratch */
	struct ut_regions late;  /* scratch */
	struct spans pieces;     /* scratch */
	uint64_t piece;          /* bytes of the next get+clear of a span */
	int silent_holes;
	uint64_t calls;
	uint64_t failed;
	struct emptied emptied;
};

/* Pages that a gap must have to become interesting: registered, populated, not protected.
 */
static const struct ut_match NEW_PAGES = {
	.mask = UT_PAGE_WPALLOWED | UT_PAGE_WRITTEN,
	.anyof = UT_PAGE_PRESENT | UT_PAGE_SWAPPED,
};
static const struct ut_match ADOPT_PAGES = {
	.mask = UT_PAGE_WPALLOWED | UT_PAGE_WRITTEN,
	.anyof = UT_PAGE_PRESENT | UT_PAGE_SWAPPED,
	.ret = UT_PAGE_FILE,
};
static const struct ut_match ADOPT_HOLES = {
	.inverted = UT_PAGE_PRESENT | UT_PAGE_SWAPPED,
	.mask = UT_PAGE_WPALLOWED | UT_PAGE_WRITTEN | UT_PAGE_PRESENT | UT_PAGE_SWAPPED,
};
/* The kernel takes its fast path for exactly this. */
static const struct ut_match WRITTEN = {
	.mask = UT_PAGE_WRITTEN,
	.ret = UT_PAGE_WRITTEN,
};

struct ut_collector *ut_collector_new(int pagemap, uint64_t limit)
{
	struct ut_collector *c = calloc(1, sizeof(*c));

	if (c) {
		c->pagemap = pagemap;
		c->limit = limit;
		c->piece = PIECE;
		c->emptied.pagemap = pagemap;
		c->emptied.shared = &c->shared;
		c->emptied.unsure = &c->file;
	}
	return c;
}

void ut_collector_free(struct ut_collector *c)
{
	if (!c)
		return;
	free(c->spans.data);
	free(c->next.data);
	free(c->excluded.data);
	free(c->shared.data);
	free(c->dirty.data);
	answer_drop(&c->answer);
	free(c->file.data);
	free(c->discarded.data);
	free(c->voids.data);
	free(c->found.data);
	free(c->late.data);
	free(c->pieces.data);
	free(c->emptied.scratch.data);
	free(c);
}

int ut_collector_exclude(struct ut_collector *c, const uint64_t *pairs, uint64_t count)
{
	return spans_set(&c->excluded, pairs, count);
}

int ut_collector_shared(struct ut_collector *c, const uint64_t *pairs, uint64_t count)
{
	return spans_set(&c->shared, pairs, count);
}

void ut_collector_silent_holes(struct ut_collector *c, int silent)
{
	c->silent_holes = silent;
}

void ut_collector_forget(struct ut_collector *c, uint64_t start, uint64_t end)
{
	start = (start + BLOCK - 1) & ~(BLOCK - 1);
	end &= ~(BLOCK - 1);
	/* Without memory the old spans stay: they cost a little, and miss nothing. */
	spans_cut(&c->spans, start, end);
}

int ut_collector_adopt(struct ut_collector *c, const uint64_t *pairs, uint64_t count)
{
	c->spans.count = 0;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t start = pairs[2 * i] & ~(BLOCK - 1);
		uint64_t end = (pairs[2 * i + 1] + BLOCK - 1) & ~(BLOCK - 1);

		if (c->spans.count)
			start = max_u64(start, c->spans.data[c->spans.count - 1].end);
		end = min_u64(end, c->limit);
		if (start < end && spans_append(&c->spans, start, end))
			return -1;
	}
	return 0;
}

int ut_collector_arm(struct ut_collector *c, int uffd, const uint64_t *runs,
                     uint64_t count, struct ut_error *error)
{
	struct spans blocks = {0}, spans;
	int ret = arm_holes(uffd, c->pagemap, runs, count, c->limit, &c->spans,
	                    &c->excluded, &blocks, error);

	if (!ret && blocks.count) {
		c->next.count = 0;
		ret = spans_merge(&c->spans, &blocks, &c->next);
		if (ret) {
			ut_fail(error, "arm", ENOMEM, 0, 0, 0);
		} else {
			spans = c->spans;
			c->spans = c->next;
			c->next = spans;
		}
	}
	free(blocks.data);
	return ret;
}

/* What a failed call leaves: every page asked for is dirty. -1 if even that is hopeless.
 */
static int all_dirty(struct ut_collector *c, uint64_t start, uint64_t end,
                     struct ut_error *error)
{
	if (error->err == ESRCH)
		return -1;
	c->failed++;
	if (regions_append(&c->dirty, start, end, UT_PAGE_WRITTEN))
		return ut_fail(error, "collect", ENOMEM, 0, start, end - start);
	return 0;
}

/* Takes the empty blocks out of what was just protected; the rest stays in the spans. */
static int take_out_empty(struct ut_collector *c, uint64_t start, uint64_t end)
{
	int err;

	if (!c->silent_holes)
		return emptied_take_out(&c->emptied, start, end, &c->dirty, &c->discarded,
		                        &c->next);
	c->pieces.count = 0;
	err = emptied_take_out(&c->emptied, start, end, &c->dirty, &c->discarded,
	                       &c->pieces);
	for (uint64_t i = 0; i < c->pieces.count && !err; i++)
		err = emptied_look_for(&c->emptied, c->pieces.data[i].start,
		                       c->pieces.data[i].end, &c->voids, &c->next);
	return err;
}

/* What was found of a piece is part of the answer. */
static int pass_on(struct ut_collector *c, uint64_t start, uint64_t end,
                   struct ut_error *error)
{
	if (answer_add(&c->answer, &c->dirty))
		return ut_fail(error, "collect", ENOMEM, 0, start, end - start);
	c->dirty.count = 0;
	return 0;
}

/* By the call that was made just now. */
static void choose_piece(struct ut_collector *c)
{
	uint64_t took = turn_last_ns();

	if (took > PIECE_NS && c->piece > LEAST_PIECE)
		c->piece /= 2;
	else if (took < SMALL_PIECE_NS && c->piece < PIECE)
		c->piece *= 2;
}

static int collect_span(struct ut_collector *c, uint64_t start, uint64_t end,
                        struct ut_error *error)
{
	while (start < end) {
		uint64_t stop = min_u64(start + c->piece, end);

		c->calls++;
		if (ut_scan_clear(c->pagemap, start, stop, &WRITTEN, &c->dirty, error)) {
			c->dirty.count = 0;
			if (all_dirty(c, start, stop, error))
				return -1;
			if (spans_append(&c->next, start, stop))
				return ut_fail(error, "collect", ENOMEM, 0, start,
				               stop - start);
		} else {
			choose_piece(c);
			if (take_out_empty(c, start, stop))
				return ut_fail(error, "collect", ENOMEM, 0, start,
				               stop - start);
		}
		if (pass_on(c, start, stop, error))
			return -1;
		start = stop;
	}
	return 0;
}

/* Two lists of pages, each in order, into dirty and file. */
static int tell(struct ut_collector *c, const struct ut_regions *one,
                const struct ut_regions *two)
{
	for (uint64_t i = 0, j = 0; i < one->count || j < two->count;) {
		int first = j == two->count ||
		            (i < one->count && one->data[i].start <= two->data[j].start);
		const struct page_region24 *page =
			first ? &one->data[i++] : &two->data[j++];
		int is_file = !!(page->categories & UT_PAGE_FILE);

		if (regions_append(is_file ? &c->file : &c->dirty, page->start, page->end,
		                   is_file ? 0 : UT_PAGE_WRITTEN))
			return -1;
	}
	return 0;
}

/* Step 2 of the drawing above. Holes that stay unprotected are reported once too often,
 * no more. */
static int protect_holes(struct ut_collector *c, uint64_t start, uint64_t end,
                         struct ut_error *error)
{
	int ret;

	if (c->silent_holes)
		return holes_protect(c->pagemap, start, end, &c->late, error);
	ret = ut_scan_clear(c->pagemap, start, end, &ADOPT_HOLES, &c->late, error);
	c->late.count = 0;
	return ret && error->err == ESRCH ? -1 : 0;
}

/* Steps 1 and 2 for a stretch of blocks. */
static int adopt(struct ut_collector *c, uint64_t start, uint64_t end,
                 struct ut_error *error)
{
	while (start < end) {
		uint64_t stop = min_u64(start + ADOPT_PIECE, end);

		c->calls += 2;
		c->found.count = 0;
		c->late.count = 0;
		if (ut_scan_clear(c->pagemap, start, stop, &ADOPT_PAGES, &c->found,
		                  error) ||
		    protect_holes(c, start, stop, error)) {
			if (all_dirty(c, start, stop, error))
				return -1;
		} else if (tell(c, &c->found, &c->late)) {
			return ut_fail(error, "collect", ENOMEM, 0, start, stop - start);
		}
		if (spans_append(&c->next, start, stop))
			return ut_fail(error, "collect", ENOMEM, 0, start, stop - start);
		if (pass_on(c, start, stop, error))
			return -1;
		start = stop;
	}
	return 0;
}

static int collect_gap(struct ut_collector *c, uint64_t start, uint64_t end,
                       struct ut_error *error)
{
	struct spans blocks = {0};
	int ret = 0;

	c->calls++;
	c->found.count = 0;
	if (ut_scan_get(c->pagemap, start, end, &NEW_PAGES, 0, &c->found, error)) {
		/* A pure get loses nothing: what is there is found by the next
		 * collection. */
		if (error->err == ESRCH || error->err == ENOMEM)
			return -1;
		c->failed++;
		return 0;
	}
	for (uint64_t i = 0; i < c->found.count && !ret; i++) {
		uint64_t first = max_u64(c->found.data[i].start & ~(BLOCK - 1), start);
		uint64_t last =
			min_u64((c->found.data[i].end + BLOCK - 1) & ~(BLOCK - 1), end);

		if (blocks.count)
			first = max_u64(first, blocks.data[blocks.count - 1].end);
		if (first < last)
			ret = spans_append(&blocks, first, last);
	}
	if (ret)
		ut_fail(error, "collect", ENOMEM, 0, start, end - start);
	for (uint64_t i = 0; i < blocks.count && !ret; i++)
		ret = adopt(c, blocks.data[i].start, blocks.data[i].end, error);
	free(blocks.data);
	return ret;
}

/* A gap, less what is excluded. */
static int collect_gaps(struct ut_collector *c, uint64_t start, uint64_t end,
                        struct ut_error *error)
{
	for (uint64_t i = spans_find(&c->excluded, start); start < end; i++) {
		uint64_t stop = end, after = end;

		if (i < c->excluded.count && c->excluded.data[i].start < end) {
			stop = max_u64(c->excluded.data[i].start, start);
			after = min_u64(c->excluded.data[i].end, end);
		}
		if (start < stop && collect_gap(c, start, stop, error))
			return -1;
		start = after;
	}
	return 0;
}

uint64_t ut_collector_span_bytes(const struct ut_collector *c)
{
	uint64_t bytes = 0;

	for (uint64_t i = 0; i < c->spans.count; i++)
		bytes += c->spans.data[i].end - c->spans.data[i].start;
	return bytes;
}

int ut_collect(struct ut_collector *c, struct ut_collected *out, struct ut_error *error)
{
	uint64_t at = 0;
	struct spans spans;

	c->dirty.count = 0;
	answer_drop(&c->answer);
	c->file.count = 0;
	c->discarded.count = 0;
	c->voids.count = 0;
	c->next.count = 0;
	c->calls = 0;
	c->emptied.calls = 0;
	c->failed = 0;

	for (uint64_t i = 0; i < c->spans.count; i++) {
		struct span span = c->spans.data[i];

		if (collect_gaps(c, at, span.start, error) ||
		    collect_span(c, span.start, span.end, error))
			return -1;
		at = span.end;
	}
	if (collect_gaps(c, at, c->limit, error))
		return -1;

	spans = c->spans;
	c->spans = c->next;
	c->next = spans;

	out->dirty = answer_take(&c->answer, &out->dirty_count);
	out->file = &c->file;
	out->discarded = &c->discarded;
	out->voids = &c->voids;
	out->calls = c->calls + c->emptied.calls;
	out->failed = c->failed;
	out->spans = c->spans.count;
	out->span_bytes = ut_collector_span_bytes(c);
	return 0;
}
