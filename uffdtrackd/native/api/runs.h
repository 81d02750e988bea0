#pragma once
#include <stdint.h>

/*
 * Sets of pages as runs: an array of pairs (start, end), bytes, half-open,
 * sorted, no two touching. Flat, it is a strictly rising row of borders, and
 * an address is in the set when an odd number of borders lies at or below it:
 *
 *	 s0      e0    s1 e1      s2        e2
 *	 |#######|     |##|       |#########|
 *	 ^1      ^2    ^3 ^4      ^5        ^6
 *
 * Counts n, na, nb are runs, not words. The caller owns every array; results
 * are runs too, and the functions return how many they wrote.
 */

/* The layout of struct page_region that PAGEMAP_SCAN fills (linux/fs.h, 6.7). */
struct page_region24 {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

/*
 * out must hold na + nb runs and must not overlap a or b. Linear in na + nb;
 * where one side ends, the rest of the other is a memcpy.
 */
uint64_t ut_runs_union(const uint64_t *a, uint64_t na, const uint64_t *b, uint64_t nb,
                       uint64_t *out);
uint64_t ut_runs_difference(const uint64_t *a, uint64_t na, const uint64_t *b,
                            uint64_t nb, uint64_t *out);
uint64_t ut_runs_intersection(const uint64_t *a, uint64_t na, const uint64_t *b,
                              uint64_t nb, uint64_t *out);

/* 1 if both hold the same pages. */
int ut_runs_equal(const uint64_t *a, uint64_t na, const uint64_t *b, uint64_t nb);

/* 1 if every page of a is in b. The smaller number of runs times the logarithm of the
 * other. */
int ut_runs_within(const uint64_t *a, uint64_t na, const uint64_t *b, uint64_t nb);

/* The same pages `by` bytes further on, modulo 2^64. out holds n runs; it may be runs. */
void ut_runs_shift(const uint64_t *runs, uint64_t n, uint64_t by, uint64_t *out);

/* Bytes covered. */
uint64_t ut_runs_bytes(const uint64_t *runs, uint64_t n);

/*
 * Drops the categories of a sorted scan result and merges what touches.
 * out must hold n runs; it may be the array of regions itself.
 */
uint64_t ut_runs_from_regions(const struct page_region24 *in, uint64_t n, uint64_t *out);

/*
 * The union of a scan result and other runs, in one pass over the scan result: to add
 * them to its runs afterwards would copy all of those. out must hold n + nb runs and
 * must not overlap in or b.
 */
uint64_t ut_runs_union_regions(const struct page_region24 *in, uint64_t n,
                               const uint64_t *b, uint64_t nb, uint64_t *out);

/*
 * The same, behind the `count` runs that `runs` already holds: for scans in
 * pieces, each at or above the end of the last. Returns the new count; `runs`
 * must have room for count + n and must not overlap `in`.
 */
uint64_t ut_runs_append_regions(uint64_t *runs, uint64_t count,
                                const struct page_region24 *in, uint64_t n);

/*
 * Widens arbitrary ranges outwards to pages, in place; empty ranges stay
 * empty. Returns how many ranges are good: less than n is the index of the
 * first that ends before it starts or that has no page-aligned 64-bit end.
 */
uint64_t ut_runs_widen(uint64_t *ranges, uint64_t n, uint64_t page_size);

/* Sorts and merges arbitrary ranges in place and drops the empty ones. */
uint64_t ut_runs_normalise(uint64_t *ranges, uint64_t n);

/*
 * Turns borders in pages (the flat row above, divided by page_size) into
 * runs in bytes, in place. Returns how many of the n words are good: less than n is the
 * index of the first that does not rise or that has no 64-bit address.
 */
uint64_t ut_runs_from_borders(uint64_t *borders, uint64_t n, uint64_t page_size);

/*
 * Sets the bits of the pages of [start, end) that are in the set: page i is
 * bit i & 7 of byte i >> 3, which is also the KVM_GET_DIRTY_LOG order read as
 * little-endian words. The bitmap is zeroed by the caller.
 */
void ut_runs_to_bitmap(const uint64_t *runs, uint64_t n, uint64_t page_size,
                       uint64_t start, uint64_t end, uint8_t *bitmap);

/*
 * The runs of such a bitmap whose first bit is the page at start. With out ==
 * NULL only counts, so that the caller can allocate exactly.
 */
uint64_t ut_runs_from_bitmap(const uint8_t *bitmap, uint64_t words, uint64_t page_size,
                             uint64_t start, uint64_t *out);

/*
 * Arrays whose size is known only as an upper bound: allocate that, let a
 * function write, shrink to what it wrote. Pages never written cost nothing.
 * NULL when there is no memory (alloc); shrink never fails.
 */
uint64_t *ut_runs_alloc(uint64_t n);
uint64_t *ut_runs_shrink(uint64_t *runs, uint64_t n);
void ut_runs_free(uint64_t *runs);
