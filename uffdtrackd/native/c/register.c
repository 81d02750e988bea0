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
 * Under asynchronous protection borders are those of regions that hardly ever go (vdso).
 * Here each mapping of a file is one. So
 *
 *	1  maps is read once more just before: an end inside of a VMA ends it here
 *	2  the call
 *	3  maps is read just after, and is the same, most of the time. Else what lies at
 *	   the ends is registered too: a piece of a VMA can be what the rest of it can,
 *	   and both merge again; what cannot be registered was another VMA.
 *
 * Between 2 and 3 a split is there to be seen, for as long as it takes to read maps.
 */
#include <errno.h>
#include <stddef.h>

#include "api/protect.h"
#include "scan_impl.h"

#define ROUNDS 8

/* The VMA that holds the byte at address, or NULL. */
static const struct ut_vma *find(const struct ut_layout *layout, uint64_t address)
{
	uint64_t low = 0, high;
	const struct ut_vma *vmas = ut_layout_vmas(layout, &high);

	while (low < high) {
		uint64_t middle = (low + high) / 2;

		if (vmas[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	ut_layout_vmas(layout, &high);
	return low < high && vmas[low].start <= address ? &vmas[low] : NULL;
}

static int inside(const struct ut_layout *layout, uint64_t address)
{
	const struct ut_vma *vma = find(layout, address);

	return vma && vma->start < address;
}

/* Registers the VMA just outside of *edge, if there is one that can be, and moves it. */
static int mend(int uffd, const struct ut_vma *vma, uint64_t *edge, int above,
                struct ut_regions *also, struct ut_error *error)
{
	struct ut_error ignored;

	if (!vma || (above ? vma->start : vma->end) != *edge)
		return 0;
	if (ut_uffd_register(uffd, vma->start, vma->end, &ignored))
		return 0;
	*edge = above ? vma->end : vma->start;
	if (regions_append(also, vma->start, vma->end, 0))
		return ut_fail(error, "UFFDIO_REGISTER", ENOMEM, 0, vma->start,
		               vma->end - vma->start);
	return 0;
}

int ut_register_whole(int uffd, struct ut_layout *layout, uint64_t start, uint64_t end,
                      struct ut_regions *also, struct ut_error *error)
{
	if (ut_layout_refresh(layout, error) < 0)
		return -1;
	if (inside(layout, start) || inside(layout, end))
		return 1;
	if (ut_uffd_register(uffd, start, end, error))
		return -1;
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t low = start, high = end;
		int changed = ut_layout_refresh(layout, error);

		if (changed < 0)
			return -1;
		if (!changed)
			break;
		if (mend(uffd, find(layout, low - 1), &start, 0, also, error) ||
		    mend(uffd, find(layout, high), &end, 1, also, error))
			return -1;
		if (start == low && end == high)
			break;
	}
	return 0;
}
