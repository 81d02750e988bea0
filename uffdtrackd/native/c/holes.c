/* Protects holes on kernels whose scans do not see them; holes.h says how. */
#include <errno.h>
#include <unistd.h>

#include "holes.h"
#include "spans.h"

#define ENTRIES (BLOCK / PAGE)

/* The kernel takes its fast path for exactly this. */
static const struct ut_match WRITTEN = {
	.mask = UT_PAGE_WRITTEN,
	.ret = UT_PAGE_WRITTEN,
};

/* pagemap.rst: bit 63 present, 62 swapped, 61 of a file or shared. */
static int is_page(uint64_t entry)
{
	const uint64_t present = 1ULL << 63, swapped = 1ULL << 62;

	return entry & present || (entry & swapped && !is_marker(entry));
}

static int append_pages(int pagemap, uint64_t start, uint64_t end,
                        struct ut_regions *late)
{
	const uint64_t file = 1ULL << 61;
	uint64_t entries[ENTRIES];

	while (start < end) {
		uint64_t count = min_u64((end - start) / PAGE, ENTRIES);
		ssize_t size = (ssize_t)(count * sizeof(*entries));

		/* In doubt it is all pages. */
		if (pread(pagemap, entries, size, start / PAGE * sizeof(*entries)) !=
		    size)
			return regions_append(late, start, end, 0);
		for (uint64_t i = 0; i < count; i++, start += PAGE)
			if (is_page(entries[i]) &&
			    regions_append(late, start, start + PAGE,
			                   entries[i] & file ? UT_PAGE_FILE : 0))
				return -1;
	}
	return 0;
}

int holes_protect(int pagemap, uint64_t start, uint64_t end, struct ut_regions *late,
                  struct ut_error *error)
{
	struct ut_regions found = {0};
	int ret = ut_scan_clear(pagemap, start, end, &WRITTEN, &found, error);

	for (uint64_t i = 0; i < found.count && !ret; i++) {
		ret = append_pages(pagemap, found.data[i].start, found.data[i].end, late);
		if (ret)
			ut_fail(error, "collect", ENOMEM, 0, start, end - start);
	}
	regions_release(&found);
	return ret;
}
