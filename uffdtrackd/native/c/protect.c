/*
 * What was written, under synchronous write protection: the page table is the note.
 *
 *	sweep      every populated page:   bit    --> clean
 *	                                   no bit --> written
 *	register   what turned out not to be registered, and is all written then
 *	protect    the written pages that are going to be listed, exactly those
 *	           (the consumer copies)
 *
 * A page loses its bit when the handler resolves a write (c/faults.c), and a page that
 * appears, or comes back after it was given up, has none. Without a bit it is listed. So
 * no message need be remembered, and pages that did not exist need no protection.
 *
 * What may happen between sweep and protect, and why it is no harm:
 *
 *	a listed page is written      before the protection: the copy, which comes
 *	                              after, has it. After it: the bit comes off again
 *	a clean page is written       it is not protected by us, so it stays without
 *	                              a bit, and is listed next time
 *	a page appears, or is zapped  the same; what is protected is a place, and the
 *	  where a page was listed     copy reads what is there after that. Anonymous
 *	                              holes take no protection
 *	the handler resolves an old   a page without a bit that nobody wrote: listed
 *	  message after the protect   in vain
 *
 * To protect pages that were not swept as written would hide a write. That is why close
 * runs are not joined, although a call for each costs more than the protection does.
 *
 * A bit means something only where the VMA is registered. mremap() takes registrations
 * away and leaves bits behind: on kernels before 6.12.11 and 6.13 it moves them with the
 * page (commit 0cef0bb836e3), on newer ones it may strip a neighbour (tracking/stale.py);
 * and before 6.8.10 so does a userfaultfd that is closed. Writes to such a page are not
 * seen. Nothing in pagemap tells, and /proc/PID/smaps does at ten times the cost of all
 * else. So where bits are found, the kernel is asked by a call that can do nothing:
 *
 *	UFFDIO_CONTINUE of a page that is there      ENOENT: not registered
 *	                                             EEXIST, EINVAL: registered
 *
 * (mm/userfaultfd.c looks for the registration first, then at the kind of memory, then
 * at the page; anonymous memory is always EINVAL.)
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <linux/userfaultfd.h>

#include "api/protect.h"
#include "scan_impl.h"
#include "spans.h"
#include "turn.h"

/* As in c/collect.c: the target's mmap() must not wait long for one call of ours. */
#define PIECE (128ULL << 20)

static const struct ut_match POPULATED = {
	.anyof = UT_PAGE_PRESENT | UT_PAGE_SWAPPED,
	.ret = UT_PAGE_PRESENT | UT_PAGE_FILE | UT_PAGE_WRITTEN,
};

/* Headers of Linux 5.10 have none. */
struct continue_arg {
	struct uffdio_range range;
	uint64_t mode;
	int64_t mapped;
};
#define IOCTL_CONTINUE _IOWR(UFFDIO, 0x07, struct continue_arg)

uint64_t ut_layout_pairs(const struct ut_layout *layout, const uint64_t *skipped,
                         uint64_t count, uint64_t *out)
{
	uint64_t number, n = 0, j = 0;
	const struct ut_vma *vmas = ut_layout_vmas(layout, &number);

	for (uint64_t i = 0; i < number; i++) {
		while (j < count && skipped[2 * j + 1] <= vmas[i].start)
			j++;
		if (j < count && skipped[2 * j] <= vmas[i].start)
			continue;
		out[2 * n] = vmas[i].start;
		out[2 * n + 1] = vmas[i].end;
		n++;
	}
	return n;
}

struct ut_swept *ut_swept_new(void)
{
	return calloc(1, sizeof(struct ut_swept));
}

void ut_swept_free(struct ut_swept *swept)
{
	if (!swept)
		return;
	free(swept->written.data);
	free(swept->written_file.data);
	free(swept->clean.data);
	free(swept->unregistered.data);
	free(swept);
}

/* 1: the VMA with this page is registered, 0: it is not, -1: nothing is there any more.
 */
static int is_registered(int uffd, uint64_t page)
{
	struct continue_arg arg = {.range = {page, 4096}};

	if (!ioctl(uffd, IOCTL_CONTINUE, &arg))
		return 1;
	if (errno == ESRCH)
		return -1;
	return errno != ENOENT;
}

struct sweep {
	int uffd;
	struct ut_swept *out;
	const uint64_t *vma; /* that was last looked at */
	uint64_t page;       /* one in it with a bit, 0 for none */
	int asked;
};

/* Whether the bits of the VMA that was last looked at mean anything. */
static int ask(struct sweep *sweep)
{
	int registered;

	if (!sweep->page || sweep->asked)
		return 0;
	sweep->asked = 1;
	registered = is_registered(sweep->uffd, sweep->page);
	if (registered < 0) {
		errno = ESRCH;
		return -1;
	}
	return registered ? 0
	                  : regions_append(&sweep->out->unregistered, sweep->vma[0],
	                                   sweep->vma[1], 0);
}

/* A part of one VMA whose pages agree. */
static int sort_out(struct sweep *sweep, const uint64_t *vma, uint64_t start,
                    uint64_t end, uint64_t categories)
{
	struct ut_swept *out = sweep->out;

	if (categories & UT_PAGE_WRITTEN)
		return regions_append(categories & UT_PAGE_FILE ? &out->written_file
		                                                : &out->written,
		                      start, end, 0);
	if (sweep->vma != vma) {
		if (ask(sweep))
			return -1;
		sweep->vma = vma;
		sweep->page = sweep->asked = 0;
	}
	/* Better a page than a marker in an empty place, which the question fills. */
	if (!sweep->page || categories & UT_PAGE_PRESENT) {
		sweep->page = start;
		if (categories & UT_PAGE_PRESENT && ask(sweep))
			return -1;
	}
	return regions_append(&out->clean, start, end, 0);
}

int ut_sweep(int pagemap, int uffd, const uint64_t *vmas, uint64_t count,
             struct ut_swept *out, struct ut_error *error)
{
	struct ut_regions found = {0};
	struct sweep sweep = {.uffd = uffd, .out = out};
	uint64_t at = count ? vmas[0] : 0;
	uint64_t i = 0;
	int ret = 0;

	out->written.count = out->written_file.count = 0;
	out->clean.count = out->unregistered.count = 0;
	while (i < count && !ret) {
		uint64_t stop = min_u64(at + PIECE, vmas[2 * i + 1]);
		uint64_t last = i;

		/* Small VMAs share a call: between them there is nothing to walk. */
		while (stop == vmas[2 * last + 1] && last + 1 < count &&
		       vmas[2 * last + 3] - at <= PIECE)
			stop = vmas[2 * ++last + 1];
		found.count = 0;
		ret = ut_scan_get(pagemap, at, stop, &POPULATED, 0, &found, error);
		for (uint64_t j = 0, k = i; j < found.count && k <= last && !ret;) {
			const struct page_region24 *page = &found.data[j];
			uint64_t from = max_u64(page->start, vmas[2 * k]);
			uint64_t to = min_u64(page->end, vmas[2 * k + 1]);

			errno = ENOMEM;
			if (from < to &&
			    sort_out(&sweep, &vmas[2 * k], from, to, page->categories))
				ret = ut_fail(error, "sweep", errno, 0, from, to - from);
			if (page->end < vmas[2 * k + 1])
				j++;
			else
				k++;
		}
		i = last;
		at = stop;
		if (at == vmas[2 * i + 1] && ++i < count)
			at = vmas[2 * i];
	}
	regions_release(&found);
	errno = ENOMEM;
	if (!ret && ask(&sweep))
		ret = ut_fail(error, "sweep", errno, 0, 0, 0);
	return ret ? -1 : 0;
}

static int protect(int uffd, uint64_t start, uint64_t end)
{
	int err = 0;

	while (start < end && !err) {
		uint64_t length = min_u64(end - start, PIECE);
		struct uffdio_writeprotect wp = {
			.range = {start, length},
			.mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		turn_begin();
		err = ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) ? errno : 0;
		turn_end();
		start += length;
	}
	return err;
}

int ut_protect(int uffd, const uint64_t *vmas, uint64_t count, const uint64_t *runs,
               uint64_t runs_count, struct ut_regions *refused, struct ut_error *error)
{
	uint64_t i = 0;

	for (uint64_t j = 0; i < count && j < runs_count;) {
		const uint64_t *vma = &vmas[2 * i], *run = &runs[2 * j];
		uint64_t start = max_u64(run[0], vma[0]), end = min_u64(run[1], vma[1]);
		int err = start < end ? protect(uffd, start, end) : 0;

		if (err == ESRCH)
			return ut_fail(error, "UFFDIO_WRITEPROTECT", err, 0, start,
			               end - start);
		if (err && regions_append(refused, vma[0], vma[1], 0))
			return ut_fail(error, "UFFDIO_WRITEPROTECT", ENOMEM, 0, start,
			               end - start);
		/* The rest of a VMA that refuses is refused as well. */
		if (err || vma[1] <= run[1])
			i++;
		else
			j++;
	}
	return 0;
}
