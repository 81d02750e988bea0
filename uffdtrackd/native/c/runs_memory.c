/*
 * Memory for run arrays, with a few large blocks kept for the next iteration.
 *
 *	alloc <--- spare[] <--- free        every iteration makes a set of about the
 *	  |                      ^          size of the last, and drops an older one
 *	  +--> malloc    free <--+ (when spare[] is full, or the block is of no use)
 *
 * malloc() gives a block of this size back to the kernel, and the next iteration then
 * pays a page fault for each page of the new one: 0.2 ms for 24,000 runs, a tenth of all
 * that such an iteration costs.
 *
 * Any thread may call: cffi lets go of the interpreter's lock. A slot is taken and filled
 * by one exchange, so there is nothing to lock and nothing to lose.
 */
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "api/runs.h"

/* Below, malloc keeps blocks by itself; above, a set is rare and its memory worth giving
 * back. Two are in use at once: the set and the room for a smaller one made of it.
 */
#define KEPT_MIN (16UL << 10)
#define KEPT_MAX (4UL << 20)
#define KEPT     2

static _Atomic(void *) spare[KEPT];

static void *take(size_t bytes)
{
	for (int i = 0; i < KEPT; i++) {
		void *block = atomic_exchange(&spare[i], NULL);

		if (!block)
			continue;
		if (malloc_usable_size(block) < bytes) {
			free(block); /* the sets have grown */
			continue;
		}
		/* Four times too large would hide what a small set really holds. */
		if (malloc_usable_size(block) / 4 <= bytes)
			return block;
		ut_runs_free(block);
	}
	return NULL;
}

uint64_t *ut_runs_alloc(uint64_t n)
{
	uint64_t bytes;
	void *block;

	if (__builtin_mul_overflow(n, 2 * sizeof(uint64_t), &bytes))
		return NULL;
	if (bytes < KEPT_MIN || bytes > KEPT_MAX)
		return malloc(bytes ? bytes : 1);
	block = take(bytes);
	/* A quarter more than now: the next set will be a little larger or smaller. */
	return block ? block : malloc(bytes + bytes / 4);
}

uint64_t *ut_runs_shrink(uint64_t *runs, uint64_t n)
{
	size_t bytes = n * 2 * sizeof(*runs), room = malloc_usable_size(runs);
	uint64_t *smaller;

	/* What was large and turned out small is worth more as the next large one. */
	if (room >= KEPT_MIN && bytes < room / 4) {
		smaller = malloc(bytes ? bytes : 1);
		if (!smaller)
			return runs;
		memcpy(smaller, runs, bytes);
		ut_runs_free(runs);
		return smaller;
	}
	if (room >= KEPT_MIN && room <= KEPT_MAX + KEPT_MAX / 4)
		return runs;
	smaller = realloc(runs, bytes ? bytes : 1);
	return smaller ? smaller : runs;
}

void ut_runs_free(uint64_t *runs)
{
	void *block = runs;
	size_t room = runs ? malloc_usable_size(runs) : 0;

	if (room >= KEPT_MIN && room <= KEPT_MAX + KEPT_MAX / 4)
		for (int i = 0; i < KEPT && block; i++) {
			void *none = NULL;

			if (atomic_compare_exchange_strong(&spare[i], &none, block))
				block = NULL;
		}
	free(block);
}
