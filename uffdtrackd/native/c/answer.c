/* Regions become runs, a piece at a time; answer.h. */
#include <string.h>

#include "answer.h"
#include "api/runs.h"

/* Runs that there is room for at first: mostly there are few. */
#define FEW_RUNS 64

void answer_drop(struct answer *answer)
{
	ut_runs_free(answer->runs);
	answer->runs = NULL;
	answer->count = 0;
	answer->room = 0;
}

static int make_room(struct answer *answer, uint64_t needed)
{
	/* There will be as many as the last time, and a few more. */
	uint64_t room = answer->room ? 2 * answer->room
	                             : answer->last + answer->last / 4 + FEW_RUNS;
	uint64_t *runs;

	if (room < needed)
		room = needed;
	runs = ut_runs_alloc(room);
	if (!runs)
		return -1;
	if (answer->count)
		memcpy(runs, answer->runs, answer->count * 2 * sizeof(*runs));
	ut_runs_free(answer->runs);
	answer->runs = runs;
	answer->room = room;
	return 0;
}

int answer_add(struct answer *answer, const struct ut_regions *regions)
{
	uint64_t needed = answer->count + regions->count;

	if (needed > answer->room && make_room(answer, needed))
		return -1;
	if (regions->count)
		answer->count = ut_runs_append_regions(answer->runs, answer->count,
		                                       regions->data, regions->count);
	return 0;
}

uint64_t *answer_take(struct answer *answer, uint64_t *count)
{
	uint64_t *runs = NULL;

	*count = answer->count;
	answer->last = answer->count;
	if (answer->count) {
		runs = ut_runs_shrink(answer->runs, answer->count);
		answer->runs = NULL;
	}
	answer_drop(answer);
	return runs;
}
