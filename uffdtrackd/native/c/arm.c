/* Holes of shared objects that nobody has touched; arm.h says why. */
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <linux/userfaultfd.h>

#include "arm.h"
#include "scan_impl.h"
#include "turn.h"

/* The kernel makes markers: see ADOPT_PIECE in c/collect.c. */
#define PIECE (32ULL << 20)

/* A target may map and unmap all the time. */
#define TRIES 3

static const struct ut_match REGISTERED = {
	.mask = UT_PAGE_WPALLOWED,
};

static int write_protect(int uffd, uint64_t start, uint64_t end, struct ut_error *error)
{
	struct uffdio_writeprotect wp = {
		.range = {start, end - start},
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int err;

	turn_begin();
	err = ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) ? errno : 0;
	turn_end();
	if (!err)
		return 0;
	return ut_fail(error, "UFFDIO_WRITEPROTECT", err, 0, start, end - start);
}

/*
 * Something was unmapped since maps was read, or mapped anew: that is not registered, and
 * will be found and listed for it. What is left of the piece is protected.
 */
static int protect_rest(int uffd, int pagemap, uint64_t start, uint64_t end,
                        struct ut_error *error)
{
	struct ut_regions rest = {0};
	int ret = -1;

	for (int i = 0; i < TRIES && ret && error->err == ENOENT; i++) {
		rest.count = 0;
		ret = ut_scan_get(pagemap, start, end, &REGISTERED, 0, &rest, error);
		for (uint64_t j = 0; j < rest.count && !ret; j++)
			ret = write_protect(uffd, rest.data[j].start, rest.data[j].end,
			                    error);
	}
	regions_release(&rest);
	return ret;
}

static int protect(int uffd, int pagemap, uint64_t start, uint64_t end,
                   struct ut_error *error)
{
	while (start < end) {
		uint64_t stop = min_u64(start + PIECE, end);

		if (write_protect(uffd, start, stop, error) &&
		    (error->err != ENOENT ||
		     protect_rest(uffd, pagemap, start, stop, error)))
			return -1;
		start = stop;
	}
	return 0;
}

int arm_holes(int uffd, int pagemap, const uint64_t *runs, uint64_t count, uint64_t limit,
              const struct spans *spans, const struct spans *excluded,
              struct spans *blocks, struct ut_error *error)
{
	struct spans missing = {0};
	uint64_t at = 0;
	int ret = 0;

	for (uint64_t i = 0; i < count && !ret; i++) {
		uint64_t start = max_u64(runs[2 * i] & ~(BLOCK - 1), at);

		at = max_u64((runs[2 * i + 1] + BLOCK - 1) & ~(BLOCK - 1), at);
		at = min_u64(at, limit);
		ret = spans_outside(spans, start, at, &missing);
	}
	for (uint64_t i = 0; i < missing.count && !ret; i++)
		ret = spans_outside(excluded, missing.data[i].start, missing.data[i].end,
		                    blocks);
	if (ret)
		ut_fail(error, "arm", ENOMEM, 0, 0, 0);
	for (uint64_t i = 0, j = 0; i < count && j < missing.count && !ret;) {
		ret = protect(uffd, pagemap, max_u64(runs[2 * i], missing.data[j].start),
		              min_u64(runs[2 * i + 1], missing.data[j].end), error);
		if (runs[2 * i + 1] < missing.data[j].end)
			i++;
		else
			j++;
	}
	free(missing.data);
	return ret;
}
