/*
 * What PAGEMAP_SCAN tells, by reading /proc/PID/pagemap: for kernels before 6.7.
 *
 *	bit 63 present    --> PRESENT
 *	bit 62 swapped    --> SWAPPED, also for a protection marker in an empty place
 *	bit 61 file       --> FILE: page cache or shared memory
 *	bit 57 uffd-wp    --> not WRITTEN                (Linux 5.13; pagemap.rst)
 *
 * Eight bytes a page, holes included: the cost is that of the mapped range, not of what
 * is populated. Whether a range is registered, a read does not tell (WPALLOWED): who asks
 * for that gets ENOTTY, as from the ioctl itself.
 */
#include <errno.h>
#include <unistd.h>

#include "scan_impl.h"
#include "turn.h"

#define PAGE 4096ULL

enum { ENTRIES = 2048 };

static uint64_t categories_of(uint64_t entry)
{
	uint64_t found = 0;

	if (entry >> 63 & 1)
		found |= UT_PAGE_PRESENT;
	if (entry >> 62 & 1)
		found |= UT_PAGE_SWAPPED;
	if (entry >> 61 & 1)
		found |= UT_PAGE_FILE;
	if (!(entry >> 57 & 1))
		found |= UT_PAGE_WRITTEN;
	return found;
}

static int matches(uint64_t categories, const struct ut_match *match)
{
	uint64_t turned = categories ^ match->inverted;

	return (turned & match->mask) == match->mask &&
	       (!match->anyof || turned & match->anyof);
}

int pagemap_get(int pagemap, uint64_t start, uint64_t end, const struct ut_match *match,
                uint64_t max_pages, struct ut_regions *out, struct ut_error *error)
{
	const uint64_t told =
		UT_PAGE_WRITTEN | UT_PAGE_FILE | UT_PAGE_PRESENT | UT_PAGE_SWAPPED;
	uint64_t entries[ENTRIES];
	uint64_t pages = 0;

	if ((match->mask | match->anyof | match->ret) & ~told)
		return ut_fail(error, "PAGEMAP_SCAN", ENOTTY, 0, start, end - start);
	while (start < end) {
		uint64_t want = (end - start + PAGE - 1) / PAGE;
		ssize_t got;

		if (want > ENTRIES)
			want = ENTRIES;
		turn_begin();
		got = pread(pagemap, entries, want * sizeof(*entries),
		            (off_t)(start / PAGE * sizeof(*entries)));
		turn_end();
		if (got < 0 && errno == EINTR)
			continue;
		/* 0: the address space is gone, or there is none at this address. */
		if (got <= 0)
			return ut_fail(error, "read pagemap", got ? errno : ESRCH, 0,
			               start, end - start);
		for (uint64_t i = 0; i < (uint64_t)got / sizeof(*entries); i++) {
			uint64_t found = categories_of(entries[i]);

			if (!matches(found, match)) {
				start += PAGE;
				continue;
			}
			if (regions_append(out, start, start + PAGE, found & match->ret))
				return ut_fail(error, "read pagemap", ENOMEM, 0, start,
				               end - start);
			start += PAGE;
			if (++pages == max_pages)
				return 0;
		}
	}
	return 0;
}

int pagemap_reaches(int pagemap, uint64_t address)
{
	uint64_t entry;

	/* A read beyond the highest address of a process ends early (fs/proc/task_mmu.c).
	 */
	return pread(pagemap, &entry, sizeof(entry),
	             (off_t)(address / PAGE * sizeof(entry))) == sizeof(entry);
}
