/*
 * Presence of pages, asked in the way that costs least:
 *
 *   PAGEMAP_SCAN (Linux 6.7)  --ENOTTY-->  read(2) of pagemap, 8 bytes a page
 *   skips empty page tables                walks every page of a reservation
 *
 * The scan's categories PRESENT, SWAPPED and FILE are the bits 63, 62 and 61 of a
 * pagemap entry (Documentation/admin-guide/mm/pagemap.rst).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "api/presence.h"
#include "runs_list.h"

/* <linux/fs.h> of 6.7; headers of a distribution may be older than its kernel. */
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct page_region {
	uint64_t start, end, categories;
};
#define SCAN             _IOWR('f', 16, struct scan_arg)
#define CATEGORY_FILE    0x4
#define CATEGORY_PRESENT 0x8
#define CATEGORY_SWAPPED 0x10

#define ENTRY_FILE      (1ULL << 61)
#define ENTRY_POPULATED (3ULL << 62)

enum { VECTOR = 512, ENTRIES = 4096 };

static int by_scan(int pagemap, uint64_t start, uint64_t end, struct ut_copy_runs *own,
                   struct ut_copy_runs *file, struct ut_error *error)
{
	struct page_region found[VECTOR];
	struct scan_arg arg = {
		.size = sizeof(arg),
		.end = end,
		.vec = (uint64_t)found,
		.vec_len = VECTOR,
		.category_anyof_mask = CATEGORY_PRESENT | CATEGORY_SWAPPED,
		.return_mask = CATEGORY_FILE,
	};

	while (start < end) {
		int n;

		arg.start = start;
		n = ioctl(pagemap, SCAN, &arg);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return ut_fail(error, "PAGEMAP_SCAN", errno, 0, start,
			               end - start);
		for (int i = 0; i < n; i++) {
			bool of_file = found[i].categories & CATEGORY_FILE;

			if (ut_runs_append(of_file ? file : own, found[i].start,
			                   found[i].end, error))
				return -1;
		}
		start = arg.walk_end;
	}
	return 0;
}

static int by_reading(int pagemap, uint64_t start, uint64_t end, uint64_t page_size,
                      struct ut_copy_runs *own, struct ut_copy_runs *file,
                      struct ut_error *error)
{
	uint64_t entries[ENTRIES];

	while (start < end) {
		uint64_t want = (end - start) / page_size;
		ssize_t got;

		if (want > ENTRIES)
			want = ENTRIES;
		got = pread(pagemap, entries, want * sizeof(*entries),
		            (off_t)(start / page_size * sizeof(*entries)));
		if (got < 0 && errno == EINTR)
			continue;
		/* 0: the address space is gone. */
		if (got <= 0)
			return ut_fail(error, "read pagemap", got ? errno : ESRCH, 0,
			               start, end - start);
		for (uint64_t i = 0; i < (uint64_t)got / sizeof(*entries); i++) {
			if ((entries[i] & ENTRY_POPULATED) &&
			    ut_runs_append(entries[i] & ENTRY_FILE ? file : own, start,
			                   start + page_size, error))
				return -1;
			start += page_size;
		}
	}
	return 0;
}

int ut_presence(int pagemap, uint64_t start, uint64_t end, uint64_t page_size,
                struct ut_copy_runs *own, struct ut_copy_runs *file,
                struct ut_error *error)
{
	struct ut_error first;

	if (!by_scan(pagemap, start, end, own, file, &first))
		return 0;
	if (first.err == ENOTTY)
		return by_reading(pagemap, start, end, page_size, own, file, error);
	*error = first;
	return -1;
}
