#pragma once
#include "api/scan.h"

/* Room for `more` regions behind the last one; -1 without memory. */
int regions_reserve(struct ut_regions *regions, uint64_t more);

/* Appends [start, end), merged with the last region where they touch and agree. */
int regions_append(struct ut_regions *regions, uint64_t start, uint64_t end,
                   uint64_t categories);

/* Frees what a list holds; it is empty afterwards and can be used again. */
void regions_release(struct ut_regions *regions);

/* ut_scan_get() where there is no PAGEMAP_SCAN; see pagemap.c. */
int pagemap_get(int pagemap, uint64_t start, uint64_t end, const struct ut_match *match,
                uint64_t max_pages, struct ut_regions *out, struct ut_error *error);

/* Whether a process may have a page at this address, by reading its pagemap. */
int pagemap_reaches(int pagemap, uint64_t address);

/*
 * Whether a swapped entry of /proc/PID/pagemap is a marker of the kernel's and no
 * page. Linux 6.2 numbers those above every swap device, 6.1 one lower, below a type
 * that has no content either (include/linux/swap.h). In place of an offset they have
 * flags; page frames with such small numbers are never swapped, moved or lent.
 */
static inline int is_marker(uint64_t entry)
{
	const uint64_t type = entry & 0x1f, flags = (entry & ((1ULL << 55) - 1)) >> 5;

	return type >= 0x1e && flags > 0 && flags < 8;
}
