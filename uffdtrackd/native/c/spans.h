/* Sorted, disjoint stretches of address space; private to the C floor. */
#pragma once
#include <stdint.h>

#define PAGE  4096ULL
#define BLOCK (2ULL << 20) /* what one page table maps */

struct span {
	uint64_t start;
	uint64_t end;
};

struct spans {
	struct span *data;
	uint64_t count;
	uint64_t capacity;
};

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Adds [start, end) behind the last, joined where they touch; -1 without memory. */
int spans_append(struct spans *spans, uint64_t start, uint64_t end);

/* Becomes `count` pairs; -1 without memory. */
int spans_set(struct spans *spans, const uint64_t *pairs, uint64_t count);

/* Takes [start, end) away; -1 without memory, and nothing is changed then. */
int spans_cut(struct spans *spans, uint64_t start, uint64_t end);

/* Appends the parts of [start, end) that are in none to *out; -1 without memory. */
int spans_outside(const struct spans *spans, uint64_t start, uint64_t end,
                  struct spans *out);

/* Appends both, which do not meet, to *out; -1 without memory. */
int spans_merge(const struct spans *one, const struct spans *other, struct spans *out);

/* Index of the first that ends above address. */
uint64_t spans_find(const struct spans *spans, uint64_t address);

/* Whether one of them has a byte in [start, end). */
int spans_touch(const struct spans *spans, uint64_t start, uint64_t end);
