/*
 * Registration that leaves no mapping in two pieces.
 *
 * A call that covers part of a VMA splits it, and an mremap() of the target over both
 * pieces fails. The kernel offers no way to say "whole VMAs only", and what was a border
 * when maps was read need not be one when the call is made:
 *
 *	|  anon  | file |          register |  anon  |
 *	|  anon         |          the file went, the target mapped more: one VMA now
 *	|RRRRRRRR       |          our call splits it
 *
 * Under asynchronous protection borders are those of regions most of which hardly ever
 * go (vdso). Under synchronous protection each mapping of a file is one, and
 * tracking/sync_registrar.py chooses those that have lasted. What is left is done here:
 *
 *	1  both ends are looked at once more: one that is inside of a VMA ends it here
 *	2  the call
 *	3  what lies just outside of the ends is registered too. A piece of a VMA can be
 *	   what the rest of it can, and both merge again; what cannot be registered was
 *	   another VMA, as it should be, and nothing is done to it
 *
 * A look is one ioctl since Linux 6.11 (PROCMAP_QUERY), so that a split lasts for some
 * microseconds; before, it takes as long as maps takes to read.
 */
#include <errno.h>
#include <stddef.h>

#include "api/protect.h"
#include "scan_impl.h"

#define ROUNDS 8

static const struct ut_vma *find(const struct ut_layout *layout, uint64_t address)
{
	uint64_t low = 0, high, count;
	const struct ut_vma *vmas = ut_layout_vmas(layout, &count);

	for (high = count; low < high;) {
		uint64_t middle = (low + high) / 2;

		if (vmas[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && vmas[low].start <= address ? &vmas[low] : NULL;
}

/* The VMA that holds the byte at address. 1: found, 0: none there, -1: *error. */
static int look(struct ut_layout *layout, uint64_t address, int again, uint64_t *start,
                uint64_t *end, struct ut_error *error)
{
	const struct ut_vma *vma;
	int found = ut_layout_query(layout, address, start, end);

	if (found >= 0)
		return found;
	if (again && ut_layout_refresh(layout, error) < 0)
		return -1;
	vma = find(layout, address);
	if (!vma)
		return 0;
	*start = vma->start;
	*end = vma->end;
	return 1;
}

/* Registers the VMA that ends, or begins, at *edge, if there is one, and moves *edge. */
static int mend(int uffd, struct ut_layout *layout, uint64_t *edge, int above,
                struct ut_regions *also, struct ut_error *error)
{
	uint64_t start = 0, end = 0;
	struct ut_error ignored;
	int found = look(layout, above ? *edge : *edge - 1, !above, &start, &end, error);

	if (found <= 0)
		return found;
	if ((above ? start : end) != *edge ||
	    ut_uffd_register(uffd, start, end, &ignored))
		return 0;
	*edge = above ? end : start;
	if (regions_append(also, start, end, 0))
		return ut_fail(error, "UFFDIO_REGISTER", ENOMEM, 0, start, end - start);
	return 0;
}

int ut_register_whole(int uffd, struct ut_layout *layout, uint64_t start, uint64_t end,
                      struct ut_regions *also, struct ut_error *error)
{
	uint64_t first = 0, last = 0;
	int below = look(layout, start, 1, &first, &last, error);
	int above;

	if (below < 0)
		return -1;
	if (below && first < start)
		return 1;
	above = look(layout, end - 1, 0, &first, &last, error);
	if (above < 0)
		return -1;
	if (above && last > end)
		return 1;
	if (ut_uffd_register(uffd, start, end, error))
		return -1;
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t low = start, high = end;

		if (mend(uffd, layout, &start, 0, also, error) ||
		    mend(uffd, layout, &end, 1, also, error))
			return -1;
		if (start == low && end == high)
			break;
	}
	return 0;
}
