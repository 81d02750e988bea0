/*
 * PAGEMAP_SCAN and UFFDIO_REGISTER, wrapped so that a caller sees ranges and
 * errors instead of partial walks.
 *
 *	caller's [start, end) --> pieces that fill `vec` --> appended to ut_regions
 *
 * Distribution headers are older than the kernels that we run on, so what they
 * lack is defined here; the numbers are UAPI and cannot change.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/userfaultfd.h>

#include "api/scan.h"
#include "scan_impl.h"
#include "turn.h"

/* struct pm_scan_arg of <linux/fs.h>, 96 bytes. */
struct pm_scan {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;
	uint64_t vec;
	uint64_t vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};

#define IOCTL_PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan)
#define SCAN_WP_MATCHING   1

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

/* Regions that one ioctl has room for at least: the kernel fills its own 512 at a time.
 */
#define VEC_LEN 512

/*
 * Regions that a get has room for at first: mostly it finds none, or a few. The kernel
 * makes itself a buffer for as many as 512, and from 341 on that is pages of its own.
 */
#define FEW_REGIONS 32

/*
 * Pages that one get without a limit of its own asks for at a time. The kernel holds the
 * target's mmap_lock for reading until a call is over, and a get that looks for much is
 * slow (3 ms a GiB): in one piece it would let an mmap() wait for 50 ms at 16 GiB.
 */
#define GET_PAGES 65536
#define PAGE      4096ULL

struct ut_regions *ut_regions_new(void)
{
	return calloc(1, sizeof(struct ut_regions));
}

void ut_regions_free(struct ut_regions *regions)
{
	if (regions)
		regions_release(regions);
	free(regions);
}

void regions_release(struct ut_regions *regions)
{
	free(regions->data);
	*regions = (struct ut_regions){0};
}

int regions_reserve(struct ut_regions *regions, uint64_t more)
{
	uint64_t capacity = regions->capacity ? regions->capacity : VEC_LEN;
	struct page_region24 *data;

	if (regions->capacity - regions->count >= more)
		return 0;
	while (capacity - regions->count < more)
		capacity *= 2;
	data = realloc(regions->data, capacity * sizeof(*data));
	if (!data)
		return -1;
	regions->data = data;
	regions->capacity = capacity;
	return 0;
}

int regions_append(struct ut_regions *regions, uint64_t start, uint64_t end,
                   uint64_t categories)
{
	struct page_region24 *last;

	if (regions->count) {
		last = &regions->data[regions->count - 1];
		/* Overlap comes from a call that failed after it had merged: the union is
		 * right. */
		if (last->end >= start && last->categories == categories) {
			if (last->end < end)
				last->end = end;
			return 0;
		}
	}
	if (regions_reserve(regions, 1))
		return -1;
	regions->data[regions->count++] = (struct page_region24){start, end, categories};
	return 0;
}

static int forgone;

void ut_scan_forgo(int forgo)
{
	forgone = forgo;
}

static int scan_ioctl(int pagemap, struct pm_scan *arg)
{
	if (forgone) {
		errno = ENOTTY;
		return -1;
	}
	return ioctl(pagemap, IOCTL_PAGEMAP_SCAN, arg);
}

/*
 * One walk over [start, end), however many calls it takes. The kernel writes
 * straight behind what *out holds already, so a scan costs no copy.
 */
static int walk(int pagemap, uint64_t start, uint64_t end, const struct ut_match *match,
                uint64_t flags, uint64_t max_pages, struct ut_regions *out,
                struct ut_error *error)
{
	const char *step = flags ? "PAGEMAP_SCAN get+clear" : "PAGEMAP_SCAN get";
	/* A get+clear that ends within a huge page splits it: those are cut by address.
	 */
	uint64_t piece = flags || max_pages ? 0 : GET_PAGES;
	uint64_t room = flags ? UINT64_MAX : FEW_REGIONS;

	while (start < end) {
		struct pm_scan arg = {
			.size = sizeof(arg),
			.flags = flags,
			.start = start,
			.end = end,
			.max_pages = piece ? piece : max_pages,
			.category_inverted = match->inverted,
			.category_mask = match->mask,
			.category_anyof_mask = match->anyof,
			.return_mask = match->ret,
		};
		struct page_region24 *fresh;
		uint64_t last_end, bytes = 0;
		long n;

		if (regions_reserve(out, VEC_LEN))
			return ut_fail(error, step, ENOMEM, 0, start, end - start);
		fresh = out->data + out->count;
		arg.vec = (uintptr_t)fresh;
		arg.vec_len = out->capacity - out->count;
		if (arg.vec_len > room)
			arg.vec_len = room;
		room = UINT64_MAX;
		turn_begin();
		n = scan_ioctl(pagemap, &arg);
		turn_end();
		if (n < 0)
			return ut_fail(error, step, errno, 0, start, end - start);
		if (!n)
			return 0;
		last_end = fresh[n - 1].end;
		if (piece)
			for (long i = 0; i < n; i++)
				bytes += fresh[i].end - fresh[i].start;
		/* Neighbours that two calls' answers cut apart are one run. */
		if (out->count && fresh[-1].end == fresh->start &&
		    fresh[-1].categories == fresh->categories) {
			fresh[-1].end = fresh->end;
			memmove(fresh, fresh + 1, (n - 1) * sizeof(*fresh));
			out->count--;
		}
		out->count += n;
		if (piece && bytes == piece * PAGE) {
			start = last_end;
			continue;
		}
		/*
		 * Room left in vec means that the walk came to its end. walk_end does not
		 * say so: the kernel leaves there where it last emptied its own buffer
		 * (seen on 6.18), and going on from it would report, and protect, the
		 * tail twice.
		 */
		if ((uint64_t)n < arg.vec_len || max_pages)
			return 0;
		start = arg.walk_end > last_end ? arg.walk_end : last_end;
	}
	return 0;
}

int ut_scan_get(int pagemap, uint64_t start, uint64_t end, const struct ut_match *match,
                uint64_t max_pages, struct ut_regions *out, struct ut_error *error)
{
	uint64_t before = out->count;

	if (!walk(pagemap, start, end, match, 0, max_pages, out, error))
		return 0;
	if (error->err != ENOTTY)
		return -1;
	out->count = before;
	return pagemap_get(pagemap, start, end, match, max_pages, out, error);
}

int ut_scan_clear(int pagemap, uint64_t start, uint64_t end, const struct ut_match *match,
                  struct ut_regions *out, struct ut_error *error)
{
	/*
	 * Kernels before 6.12.97 hang for ever, beyond SIGKILL, when they protect a
	 * hole of shared hugetlb memory where there is no page table. Those kernels
	 * never call such a hole WRITTEN, so who asks for WRITTEN does not get there.
	 */
	if (!(match->mask & UT_PAGE_WRITTEN))
		return ut_fail(error, "PAGEMAP_SCAN get+clear of what was not written",
		               EINVAL, 0, start, end - start);
	return walk(pagemap, start, end, match, SCAN_WP_MATCHING, 0, out, error);
}

uint64_t ut_scan_limit(int pagemap, struct ut_error *error)
{
	/* With five-level page tables user memory may reach 2^56, else 2^47 (x86-64: less
	 * a page). */
	static const uint64_t limits[] = {(1ULL << 56) - 4096, (1ULL << 48) - 4096,
	                                  (1ULL << 47) - 4096};
	int err = 0;

	for (unsigned int i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		struct pm_scan arg = {
			.size = sizeof(arg),
			.start = limits[i] - 4096,
			.end = limits[i],
			.category_mask = UT_PAGE_WRITTEN,
		};

		if (scan_ioctl(pagemap, &arg) >= 0)
			return limits[i];
		err = errno;
		if (err == ENOTTY && pagemap_reaches(pagemap, arg.start))
			return limits[i];
		if (err != EFAULT && err != ENOTTY)
			break;
	}
	/* No ioctl, and no page anywhere: the address space is gone. */
	ut_fail(error, "PAGEMAP_SCAN", err == ENOTTY ? ESRCH : err, 0, 0, 0);
	return 0;
}

int ut_uffd_enable_async(int uffd, struct ut_error *error)
{
	/* No UFFD_FEATURE_EVENT_*: each would make the target wait until we have read it.
	 */
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP |
		            UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		            UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC,
	};

	if (ioctl(uffd, UFFDIO_API, &api))
		return ut_fail(error, "UFFDIO_API", errno, 0, 0, 0);
	return 0;
}

int ut_uffd_register(int uffd, uint64_t start, uint64_t end, struct ut_error *error)
{
	struct uffdio_register reg = {
		.range = {.start = start, .len = end - start},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	if (ioctl(uffd, UFFDIO_REGISTER, &reg))
		return ut_fail(error, "UFFDIO_REGISTER", errno, 0, start, end - start);
	return 0;
}

int ut_uffd_unprotect(int uffd, uint64_t start, uint64_t end, struct ut_error *error)
{
	struct uffdio_writeprotect wp = {
		.range = {.start = start, .len = end - start},
	};

	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp))
		return ut_fail(error, "UFFDIO_WRITEPROTECT", errno, 0, start,
		               end - start);
	return 0;
}

int ut_uffd_wake(int uffd, uint64_t start, uint64_t end, struct ut_error *error)
{
	struct uffdio_range range = {.start = start, .len = end - start};

	if (ioctl(uffd, UFFDIO_WAKE, &range))
		return ut_fail(error, "UFFDIO_WAKE", errno, 0, start, end - start);
	return 0;
}
