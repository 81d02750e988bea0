#pragma once
#include <stdint.h>
#include "api/error.h"
#include "api/runs.h"

/*
 * The kernel's two interfaces that tracking stands on, one function a call:
 * userfaultfd registration (ioctl_userfaultfd(2)) and PAGEMAP_SCAN
 * (Documentation/admin-guide/mm/pagemap.rst, Linux 6.7).
 */

/* Page categories, as in <linux/fs.h> of 6.7 and later. */
#define UT_PAGE_WPALLOWED 0x1
#define UT_PAGE_WRITTEN   0x2
#define UT_PAGE_FILE      0x4
#define UT_PAGE_PRESENT   0x8
#define UT_PAGE_SWAPPED   0x10
#define UT_PAGE_PFNZERO   0x20
#define UT_PAGE_HUGE      0x40

/* Which pages match: ((categories ^ inverted) & mask) == mask, and one of anyof if not 0.
 */
struct ut_match {
	uint64_t inverted;
	uint64_t mask;
	uint64_t anyof;
	uint64_t ret; /* categories that the answer tells; neighbours that agree are
	                 merged */
};

/* A growing list of regions; ut_regions_free() gives it back. */
struct ut_regions {
	struct page_region24 *data;
	uint64_t count;
	uint64_t capacity;
};

struct ut_regions *ut_regions_new(void);
void ut_regions_free(struct ut_regions *regions);

/*
 * Appends what matches in [start, end) to *out. A pure get: nothing is
 * protected. max_pages: stop after that many, 0 for no limit.
 */
int ut_scan_get(int pagemap, uint64_t start, uint64_t end, const struct ut_match *match,
                uint64_t max_pages, struct ut_regions *out, struct ut_error *error);

/*
 * For tests: from now on as if there were no PAGEMAP_SCAN (Linux before 6.7). Where a
 * get can do without, it reads the pagemap (c/pagemap.c); all else fails with ENOTTY.
 */
void ut_scan_forgo(int forgo);

/*
 * As above, and write-protects what matches and is written (PM_SCAN_WP_MATCHING):
 * per page table, report and protection are one atomic step. On -1 what was
 * reported may be incomplete and its protection is done: the whole range is dirty.
 */
int ut_scan_clear(int pagemap, uint64_t start, uint64_t end, const struct ut_match *match,
                  struct ut_regions *out, struct ut_error *error);

/* The highest address that PAGEMAP_SCAN takes here; 0 with *error where there is none. */
uint64_t ut_scan_limit(int pagemap, struct ut_error *error);

/* UFFDIO_API with the features that asynchronous write protection needs. Once a
 * userfaultfd. */
int ut_uffd_enable_async(int uffd, struct ut_error *error);

/* UFFDIO_REGISTER in write-protect mode. Never a part of a VMA: docs/how-it-works.md. */
int ut_uffd_register(int uffd, uint64_t start, uint64_t end, struct ut_error *error);

/* UFFDIO_WRITEPROTECT without protection: the pages count as written from now on. */
int ut_uffd_unprotect(int uffd, uint64_t start, uint64_t end, struct ut_error *error);

/* UFFDIO_WAKE: whoever waits in the range for a handler tries once more. */
int ut_uffd_wake(int uffd, uint64_t start, uint64_t end, struct ut_error *error);
