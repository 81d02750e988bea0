/*
 * Set operations on runs of pages (api/runs.h says what a run array is).
 *
 * All three operations are one sweep over the borders of both arrays in
 * rising order. i and j count the borders passed, so their lowest bits say
 * whether the sweep is inside a and inside b; k counts the borders written,
 * so its lowest bit says whether the result is open. A border is written
 * exactly when the result changes state, which merges touching runs and never
 * writes an empty one, without a case for either.
 *
 *	a    |####|      |######|
 *	b       |########|
 *	     ^  ^  ^     ^      ^	a|b: open at the first, close at the last
 *
 * There is no branch on the data in the loop: with scattered dirty pages the
 * order of borders is random, and a wrong guess costs more than the work.
 *
 * Sets that one iteration meets often differ in size by thousands: the dirty
 * runs, and the regions that need a second look. leap() goes by the borders of
 * the few and passes those of the many in between in one step.
 */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "api/runs.h"

/* Which of the four places of an address are in the result: bit = in_a | in_b << 1. */
enum {
	ONLY_A = 1 << 1,
	ONLY_B = 1 << 2,
	BOTH = 1 << 3,
};

/* Inlined into each operation, so that the table is a constant there. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE uint64_t sweep(const uint64_t *a, uint64_t na, const uint64_t *b,
                             uint64_t nb, uint64_t *out, unsigned int table)
{
	uint64_t i = 0, j = 0, k = 0;

	na *= 2;
	nb *= 2;
	while (i < na && j < nb) {
		uint64_t x = a[i], y = b[j];
		uint64_t at = x < y ? x : y;

		i += x == at;
		j += y == at;
		out[k] = at;
		k += (table >> ((i & 1) | (j & 1) << 1) ^ k) & 1;
	}
	/* One side has ended, outside of any run: the other decides alone. */
	if (i < na && (table & ONLY_A)) {
		memcpy(out + k, a + i, (na - i) * sizeof(*a));
		k += na - i;
	}
	if (j < nb && (table & ONLY_B)) {
		memcpy(out + k, b + j, (nb - j) * sizeof(*b));
		k += nb - j;
	}
	return k / 2;
}

/* The first of borders[from..end) that is not below x; near ones are found soonest. */
static uint64_t seek(const uint64_t *borders, uint64_t from, uint64_t end, uint64_t x)
{
	uint64_t low = from, high = end, step = 1;

	while (low + step < high && borders[low + step] < x) {
		low += step;
		step *= 2;
	}
	if (low + step < high)
		high = low + step;
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (borders[middle] < x)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* As sweep(), with a the few. */
ALWAYS_INLINE uint64_t leap(const uint64_t *a, uint64_t na, const uint64_t *b,
                            uint64_t nb, uint64_t *out, unsigned int table)
{
	uint64_t i = 0, j = 0, k = 0;

	na *= 2;
	nb *= 2;
	for (;;) {
		uint64_t next = i < na ? seek(b, j, nb, a[i]) : nb;
		unsigned int outside_b = table >> (i & 1), inside_b = outside_b >> 2;

		/* While a stands still, each border of b changes the result, or none
		 * does. */
		if ((outside_b ^ inside_b) & 1) {
			memcpy(out + k, b + j, (next - j) * sizeof(*b));
			k += next - j;
		}
		j = next;
		if (i == na)
			return k / 2;
		j += j < nb && b[j] == a[i];
		out[k] = a[i++];
		k += (table >> ((i & 1) | (j & 1) << 1) ^ k) & 1;
	}
}

/* How many times more runs make leaping cheaper than sweeping. */
#define FEW 16

ALWAYS_INLINE uint64_t combine(const uint64_t *a, uint64_t na, const uint64_t *b,
                               uint64_t nb, uint64_t *out, unsigned int table)
{
	unsigned int swapped =
		(table & BOTH) | (table & ONLY_A) << 1 | (table & ONLY_B) >> 1;

	if (na < nb / FEW)
		return leap(a, na, b, nb, out, table);
	if (nb < na / FEW)
		return leap(b, nb, a, na, out, swapped);
	return sweep(a, na, b, nb, out, table);
}

uint64_t ut_runs_union(const uint64_t *a, uint64_t na, const uint64_t *b, uint64_t nb,
                       uint64_t *out)
{
	return combine(a, na, b, nb, out, ONLY_A | ONLY_B | BOTH);
}

uint64_t ut_runs_difference(const uint64_t *a, uint64_t na, const uint64_t *b,
                            uint64_t nb, uint64_t *out)
{
	return combine(a, na, b, nb, out, ONLY_A);
}

uint64_t ut_runs_intersection(const uint64_t *a, uint64_t na, const uint64_t *b,
                              uint64_t nb, uint64_t *out)
{
	return combine(a, na, b, nb, out, BOTH);
}

/* The first run from `at` on that ends at or above `end`: mostly that one, or near. */
static uint64_t first_ending(const uint64_t *runs, uint64_t n, uint64_t at, uint64_t end)
{
	uint64_t step = 1, past;

	if (at < n && runs[2 * at + 1] >= end)
		return at;
	while (at + step <= n && runs[2 * (at + step) - 1] < end) {
		at += step;
		step *= 2;
	}
	past = at + step < n ? at + step : n;
	while (at < past) {
		uint64_t middle = at + (past - at) / 2;

		if (runs[2 * middle + 1] < end)
			at = middle + 1;
		else
			past = middle;
	}
	return at;
}

int ut_runs_within(const uint64_t *a, uint64_t na, const uint64_t *b, uint64_t nb)
{
	uint64_t i = 0, j = 0;

	while (i < na) {
		/* No two runs of b touch: the next of a is in this one or not at all. */
		j = first_ending(b, nb, j, a[2 * i + 1]);
		if (j == nb || b[2 * j] > a[2 * i])
			return 0;
		/* So are all of a that end no later. */
		i = first_ending(a, na, i + 1, b[2 * j + 1] + 1);
	}
	return 1;
}

int ut_runs_equal(const uint64_t *a, uint64_t na, const uint64_t *b, uint64_t nb)
{
	return na == nb && memcmp(a, b, na * 2 * sizeof(*a)) == 0;
}

void ut_runs_shift(const uint64_t *runs, uint64_t n, uint64_t by, uint64_t *out)
{
	for (uint64_t i = 0; i < 2 * n; i++)
		out[i] = runs[i] + by;
}

uint64_t ut_runs_bytes(const uint64_t *runs, uint64_t n)
{
	uint64_t bytes = 0;

	for (uint64_t i = 0; i < n; i++)
		bytes += runs[2 * i + 1] - runs[2 * i];
	return bytes;
}

uint64_t ut_runs_append_regions(uint64_t *runs, uint64_t count,
                                const struct page_region24 *in, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t start = in[i].start, end = in[i].end;

		if (count && start <= runs[2 * count - 1]) {
			if (end > runs[2 * count - 1])
				runs[2 * count - 1] = end;
			continue;
		}
		runs[2 * count] = start;
		runs[2 * count + 1] = end;
		count++;
	}
	return count;
}

uint64_t ut_runs_from_regions(const struct page_region24 *in, uint64_t n, uint64_t *out)
{
	/* In place is safe: 16 bytes are written for each 24 read, both rising. */
	return ut_runs_append_regions(out, 0, in, n);
}

uint64_t ut_runs_union_regions(const struct page_region24 *in, uint64_t n,
                               const uint64_t *b, uint64_t nb, uint64_t *out)
{
	uint64_t count = 0, i = 0, j = 0;

	while (i < n || j < nb) {
		uint64_t next = i;

		/* All of in up to the next of b, in one go. */
		while (next < n && (j == nb || in[next].start <= b[2 * j]))
			next++;
		count = ut_runs_append_regions(out, count, in + i, next - i);
		i = next;
		if (j < nb) {
			struct page_region24 other = {b[2 * j], b[2 * j + 1], 0};

			count = ut_runs_append_regions(out, count, &other, 1);
			j++;
		}
	}
	return count;
}

uint64_t ut_runs_widen(uint64_t *ranges, uint64_t n, uint64_t page_size)
{
	uint64_t mask = page_size - 1;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t *start = &ranges[2 * i], *end = &ranges[2 * i + 1];
		int empty = *start == *end;

		if (*start > *end || *end > UINT64_MAX - mask)
			return i;
		*start &= ~mask;
		*end = empty ? *start : (*end + mask) & ~mask;
	}
	return n;
}

static int by_start(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

uint64_t ut_runs_normalise(uint64_t *ranges, uint64_t n)
{
	uint64_t count = 0, i;

	/* Nearly all input is sorted already: do not pay qsort for it. */
	for (i = 1; i < n && ranges[2 * i - 2] <= ranges[2 * i]; i++)
		;
	if (i < n)
		qsort(ranges, n, 2 * sizeof(*ranges), by_start);
	for (i = 0; i < n; i++) {
		uint64_t start = ranges[2 * i], end = ranges[2 * i + 1];

		if (start == end)
			continue;
		if (count && start <= ranges[2 * count - 1]) {
			if (end > ranges[2 * count - 1])
				ranges[2 * count - 1] = end;
			continue;
		}
		ranges[2 * count] = start;
		ranges[2 * count + 1] = end;
		count++;
	}
	return count;
}

uint64_t ut_runs_from_borders(uint64_t *borders, uint64_t n, uint64_t page_size)
{
	int shift = __builtin_ctzll(page_size);
	uint64_t previous = 0;

	for (uint64_t i = 0; i < n; i++) {
		if ((i && borders[i] <= previous) || borders[i] > UINT64_MAX >> shift)
			return i;
		previous = borders[i];
		borders[i] <<= shift;
	}
	return n;
}

/* Bytes, not words, so that the order of bits does not depend on the machine. */
static void set_bits(uint8_t *bitmap, uint64_t first, uint64_t end)
{
	uint64_t byte = first >> 3, last = end >> 3;
	uint8_t head = 0xff << (first & 7), tail = (1u << (end & 7)) - 1;

	if (byte == last) {
		bitmap[byte] |= head & tail;
		return;
	}
	bitmap[byte] |= head;
	memset(bitmap + byte + 1, 0xff, last - byte - 1);
	if (tail)
		bitmap[last] |= tail;
}

void ut_runs_to_bitmap(const uint64_t *runs, uint64_t n, uint64_t page_size,
                       uint64_t start, uint64_t end, uint8_t *bitmap)
{
	int shift = __builtin_ctzll(page_size);
	uint64_t low = 0, high = n;

	/* The first run that ends above start. */
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (runs[2 * middle + 1] <= start)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < n && runs[2 * low] < end; low++) {
		uint64_t from = runs[2 * low] > start ? runs[2 * low] : start;
		uint64_t to = runs[2 * low + 1] < end ? runs[2 * low + 1] : end;

		set_bits(bitmap, (from - start) >> shift, (to - start) >> shift);
	}
}

uint64_t ut_runs_from_bitmap(const uint8_t *bitmap, uint64_t words, uint64_t page_size,
                             uint64_t start, uint64_t *out)
{
	int shift = __builtin_ctzll(page_size);
	uint64_t borders = 0, carry = 0;

	for (uint64_t w = 0; w < words; w++) {
		uint64_t word, changes;

		memcpy(&word, bitmap + w * sizeof(word), sizeof(word));
		word = le64toh(word);
		/* A bit that differs from the one below it is a border. */
		changes = word ^ (word << 1 | carry);
		carry = word >> 63;
		if (!out) {
			borders += __builtin_popcountll(changes);
			continue;
		}
		for (; changes; changes &= changes - 1)
			out[borders++] =
				start + ((w * 64 + __builtin_ctzll(changes)) << shift);
	}
	if (carry) {
		if (out)
			out[borders] = start + ((words * 64) << shift);
		borders++;
	}
	return borders / 2;
}
