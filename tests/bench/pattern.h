/*
 * Which pages a writer writes, as a table made beforehand: choosing must cost the same
 * whatever the choice, and be over before the clock starts.
 *
 *   "order"   one page after the other
 *   "random"  each as likely as any
 *   "zipf"    a few again and again: the page of rank r as likely as 1 / r^0.99, the
 *             ranks strewn over the arena (the usual model of keys in a store)
 */
#ifndef UT_BENCH_PATTERN_H
#define UT_BENCH_PATTERN_H

#include "kernel.h"
#include <math.h>

#define CHOICES (1ul << 20)

static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline uint64_t rank_of(const double *sums, uint64_t pages, double at)
{
	uint64_t low = 0, high = pages - 1;

	while (low < high) {
		uint64_t middle = (low + high) / 2;

		if (sums[middle] < at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static inline void choose_zipf(uint32_t *choices, uint64_t pages)
{
	double *sums = malloc(pages * sizeof(*sums)), total = 0;
	uint64_t state = 88172645463325252ull;

	if (!sums)
		die("malloc");
	for (uint64_t i = 0; i < pages; i++)
		sums[i] = total += pow((double)(i + 1), -0.99);
	for (uint64_t i = 0; i < CHOICES; i++) {
		double at = (double)(next_random(&state) >> 11) / (double)(1ull << 53);

		/* A prime: ranks that follow each other lie far apart. */
		choices[i] =
			(uint32_t)(rank_of(sums, pages, at * total) * 104729 % pages);
	}
	free(sums);
}

/* Returns the number of choices that are to be gone through again and again. */
static inline uint64_t choose(uint32_t *choices, uint64_t pages, const char *pattern)
{
	uint64_t state = 88172645463325252ull;

	if (!strcmp(pattern, "zipf")) {
		choose_zipf(choices, pages);
		return CHOICES;
	}
	if (!strcmp(pattern, "random")) {
		for (uint64_t i = 0; i < CHOICES; i++)
			choices[i] = (uint32_t)(next_random(&state) % pages);
		return CHOICES;
	}
	for (uint64_t i = 0; i < pages; i++)
		choices[i] = (uint32_t)i;
	return pages;
}

#endif
