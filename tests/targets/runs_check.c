/*
 * Drives c/runs.c with random sets in arrays of exactly the documented size, to
 * be built with AddressSanitizer: one word too far is an error here, and only
 * here, for malloc rounds up. The oracle is an array of one byte a page.
 *
 *	runs_check SEED ROUNDS	prints "ok"
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/runs.h"

#define PAGES 200
#define PAGE  4096ull

#define CHECK(what)                                                                      \
	do {                                                                             \
		if (!(what)) {                                                           \
			fprintf(stderr, "line %d, round %d: %s\n", __LINE__, round,      \
			        #what);                                                  \
			exit(1);                                                         \
		}                                                                        \
	} while (0)

static int round;

struct set {
	unsigned char has[PAGES + 1];
	uint64_t *runs;
	uint64_t count;
};

static void make_runs(struct set *s)
{
	uint64_t words = 0;

	for (int pass = 0; pass < 2; pass++) {
		if (pass)
			s->runs = malloc(words * sizeof(*s->runs) + !words);
		words = 0;
		for (uint64_t i = 0; i <= PAGES; i++) {
			if (s->has[i] == (i ? s->has[i - 1] : 0))
				continue;
			if (pass)
				s->runs[words] = i * PAGE;
			words++;
		}
	}
	s->count = words / 2;
}

static void fill(struct set *s)
{
	int density = rand() % 101;

	memset(s, 0, sizeof(*s));
	for (int i = 0; i < PAGES; i++)
		s->has[i] = rand() % 100 < density;
	make_runs(s);
}

typedef uint64_t operation(const uint64_t *a, uint64_t na, const uint64_t *b, uint64_t nb,
                           uint64_t *out);

static void check_operation(operation *run, const struct set *a, const struct set *b,
                            int only_a, int only_b, int both)
{
	struct set want = {0};
	uint64_t *out = malloc((a->count + b->count) * 16 + !(a->count + b->count));
	uint64_t count = run(a->runs, a->count, b->runs, b->count, out);

	for (int i = 0; i < PAGES; i++)
		want.has[i] =
			a->has[i] ? (b->has[i] ? both : only_a) : b->has[i] && only_b;
	make_runs(&want);
	CHECK(ut_runs_equal(out, count, want.runs, want.count));
	free(want.runs);
	free(out);
}

static void check_bitmap(const struct set *a)
{
	uint64_t start = rand() % PAGES, end = start + rand() % (PAGES - start + 1);
	uint64_t words = (end - start + 63) / 64, count;
	uint8_t *bits = calloc(words * 8 + !words, 1);
	uint64_t *back;

	ut_runs_to_bitmap(a->runs, a->count, PAGE, start * PAGE, end * PAGE, bits);
	for (uint64_t i = 0; i < words * 64; i++)
		CHECK((bits[i >> 3] >> (i & 7) & 1) ==
		      (i < end - start && a->has[start + i]));
	count = ut_runs_from_bitmap(bits, words, PAGE, start * PAGE, NULL);
	back = malloc(count * 16 + !count);
	CHECK(ut_runs_from_bitmap(bits, words, PAGE, start * PAGE, back) == count);
	free(back);
	free(bits);
}

static void check_ranges(void)
{
	uint64_t n = rand() % 40, *ranges = malloc(n * 16 + !n), count;
	struct set want = {0};

	for (uint64_t i = 0; i < n; i++) {
		uint64_t start = rand() % ((PAGES - 3) * PAGE),
			 end = start + rand() % (2 * PAGE);

		ranges[2 * i] = start;
		ranges[2 * i + 1] = end;
		for (uint64_t page = start / PAGE;
		     start < end && page <= (end - 1) / PAGE; page++)
			want.has[page] = 1;
	}
	CHECK(ut_runs_widen(ranges, n, PAGE) == n);
	count = ut_runs_normalise(ranges, n);
	make_runs(&want);
	CHECK(ut_runs_equal(ranges, count, want.runs, want.count));
	free(want.runs);
	free(ranges);
}

int main(int argc, char **argv)
{
	srand(argc > 1 ? strtoul(argv[1], NULL, 0) : 1);
	for (round = 0; round < (argc > 2 ? atoi(argv[2]) : 1000); round++) {
		struct set a, b;

		fill(&a);
		fill(&b);
		check_operation(ut_runs_union, &a, &b, 1, 1, 1);
		check_operation(ut_runs_difference, &a, &b, 1, 0, 0);
		check_operation(ut_runs_intersection, &a, &b, 0, 0, 1);
		check_bitmap(&a);
		check_ranges();
		free(a.runs);
		free(b.runs);
	}
	puts("ok");
	return 0;
}
