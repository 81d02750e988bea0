/*
 * Pages of private file mappings that went back to the file.
 *
 * MADV_DONTNEED, a hole punched or a truncation of the file drops a page that
 * the target had written, and what it reads afterwards is the file. The zap
 * leaves the write-protect marker behind, so no scan reports the page: it has to
 * be looked at. Only pages that once were private are, a few runs a library.
 *
 *	was private, clean, and now      PAGEMAP_SCAN shows
 *	still private                    PRESENT
 *	read again: the file's page      PRESENT | FILE          --> reverted
 *	not read since: a marker         SWAPPED                 --> reverted
 *	swapped out                      SWAPPED                     unchanged
 *
 * A marker and a swap entry differ only in the swap type that /proc/PID/pagemap
 * shows to the privileged (Documentation/admin-guide/mm/pagemap.rst).
 */
#include <errno.h>
#include <unistd.h>

#include "scan_impl.h"
#include "api/reverted.h"

#define PAGE 4096ULL

/* Runs nearer than this are looked at in one call: a page walked in vain costs 25 ns, a
 * call 500. */
#define NEAR (16 * PAGE)

static const struct ut_match NOT_PRIVATE = {
	.anyof = UT_PAGE_FILE | UT_PAGE_SWAPPED,
	.ret = UT_PAGE_FILE | UT_PAGE_SWAPPED | UT_PAGE_PRESENT | UT_PAGE_WRITTEN,
};

static int sort_swapped(int pagemap, uint64_t start, uint64_t end, int swap_types,
                        struct ut_regions *reverted, struct ut_regions *doubtful)
{
	const uint64_t present = 1ULL << 63;

	for (uint64_t page = start; page < end; page += PAGE) {
		struct ut_regions *list = doubtful;
		uint64_t entry;

		if (swap_types) {
			if (pread(pagemap, &entry, sizeof(entry),
			          page / PAGE * sizeof(entry)) != sizeof(entry))
				return -1;
			if (entry & present || !is_marker(entry))
				continue;
			list = reverted;
		}
		if (regions_append(list, page, page + PAGE, 0))
			return -1;
	}
	return 0;
}

int ut_find_reverted(int pagemap, const uint64_t *runs, uint64_t count, int swap_types,
                     struct ut_regions *reverted, struct ut_regions *doubtful,
                     struct ut_error *error)
{
	struct ut_regions found = {0};
	uint64_t i = 0;
	int ret = 0;

	while (i < count && !ret) {
		uint64_t first = i, start = runs[2 * i], end = runs[2 * i + 1];

		while (i + 1 < count && runs[2 * i + 2] - end <= NEAR)
			end = runs[2 * ++i + 1];
		i++;
		found.count = 0;
		ret = ut_scan_get(pagemap, start, end, &NOT_PRIVATE, 0, &found, error);
		/* Both lists are sorted: walk the answer along the runs asked for. */
		for (uint64_t j = 0, k = first; j < found.count && k < i && !ret;) {
			const struct page_region24 *page = &found.data[j];
			uint64_t from =
				page->start > runs[2 * k] ? page->start : runs[2 * k];
			uint64_t to =
				page->end < runs[2 * k + 1] ? page->end : runs[2 * k + 1];

			if (from < to && page->categories & UT_PAGE_FILE)
				ret = regions_append(reverted, from, to, 0);
			else if (from < to && !(page->categories & UT_PAGE_WRITTEN))
				ret = sort_swapped(pagemap, from, to, swap_types,
				                   reverted, doubtful);
			if (ret)
				ut_fail(error, "find reverted pages", ENOMEM, 0, from,
				        to - from);
			if (page->end < runs[2 * k + 1])
				j++;
			else
				k++;
		}
	}
	regions_release(&found);
	return ret ? -1 : 0;
}
