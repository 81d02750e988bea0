/*
 * The dirty pages of a collection as they are handed on, put together piece by piece;
 * private to the C floor.
 *
 *	ioctl --> regions of one piece --answer_add--> runs of all --answer_take--> caller
 *	          ^ overwritten by the next piece
 *
 * A piece is turned into runs while it is in the caches. To keep the regions of all of
 * them and turn those at the end would write half a MiB more for 24,000 runs, and read
 * it again.
 */
#pragma once
#include "scan_impl.h"

struct answer {
	uint64_t *runs;
	uint64_t count;
	uint64_t room;
	uint64_t last; /* how many there were when it was taken last */
};

/* Forgets what was not taken. */
void answer_drop(struct answer *answer);

/* Adds regions, none of which begins below what is there; -1 without memory. */
int answer_add(struct answer *answer, const struct ut_regions *regions);

/* The runs, to be given to ut_runs_free() by who takes them; null where *count is 0. */
uint64_t *answer_take(struct answer *answer, uint64_t *count);
