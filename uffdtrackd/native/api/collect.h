#pragma once
#include <stdint.h>
#include "api/scan.h"

/*
 * The hot loop of an iteration over one address space: what was written since
 * the last collection, and protection for the next one. c/collect.c draws it.
 */
struct ut_collector;

/* limit: first address that is not scanned any more. Null without memory. */
struct ut_collector *ut_collector_new(int pagemap, uint64_t limit);
void ut_collector_free(struct ut_collector *collector);

/*
 * Ranges that the collector leaves alone (hugetlb: its owner scans them whole),
 * and ranges where "no page here" does not mean "reads as its backing" (shared
 * objects: the page may live in the object). Sorted pairs; copied.
 */
int ut_collector_exclude(struct ut_collector *collector, const uint64_t *runs,
                         uint64_t count);
int ut_collector_shared(struct ut_collector *collector, const uint64_t *runs,
                        uint64_t count);

/*
 * Whether this kernel reports nothing where there is no page table
 * (UT_PROBE_EMPTY_HUGE_PAGE fails): then blocks that were emptied are looked for.
 */
void ut_collector_silent_holes(struct ut_collector *collector, int silent);

/* Forgets the blocks that lie wholly inside [start, end): unmapped, or mapped anew. */
void ut_collector_forget(struct ut_collector *collector, uint64_t start, uint64_t end);

/*
 * The blocks of these runs are known to have pages, by somebody who collected with
 * another collector. For one that has not collected yet. -1 without memory.
 */
int ut_collector_adopt(struct ut_collector *collector, const uint64_t *runs,
                       uint64_t count);

/*
 * Pages that a shared object has, in runs: from now on every hole there is protected
 * (c/arm.h). uffd: of the address space. To be called before the pages are told. -1:
 * ESRCH, ENOMEM, or ENOENT where mappings come and go too fast: some are not protected.
 */
int ut_collector_arm(struct ut_collector *collector, int uffd, const uint64_t *runs,
                     uint64_t count, struct ut_error *error);

struct ut_collected {
	uint64_t *dirty; /* runs: written, or dirty because a call failed */
	uint64_t dirty_count;
	struct ut_regions *file; /* first seen: clean pages of a file, now protected */
	struct ut_regions
		*discarded;       /* whole blocks that were found empty and given up */
	struct ut_regions *voids; /* the same, where the kernel says nothing of it */
	/* Read as an array of four. */
	uint64_t calls;      /* ioctls made */
	uint64_t failed;     /* calls that failed, each range dirty in full */
	uint64_t spans;      /* stretches of blocks known to have pages ... */
	uint64_t span_bytes; /* ... and what they amount to */
};

/*
 * One collection. The runs are the caller's, to give to ut_runs_free(); the lists
 * belong to the collector and hold until the next call. -1 only where nothing can be said
 * any more (ESRCH: the address space is gone; ENOMEM: no memory for the answer).
 */
int ut_collect(struct ut_collector *collector, struct ut_collected *out,
               struct ut_error *error);

/* Bytes in blocks known to have pages. */
uint64_t ut_collector_span_bytes(const struct ut_collector *collector);
