/*
 * Digests of pages: enough to see that a page has changed, at 1/512 of its size.
 *
 *	page ---- 64-bit words, four lanes ---> lane = rotate(lane ^ word) * odd constant
 *	     \--- lanes together ------------> 64 bits, less the digest of zeros
 *
 * Each step of a lane can be undone when its word is known, so two pages that
 * differ in one word, or in one lane only, have lanes that differ; others have
 * the same digest with a chance of 2^-64. That is against accidents. Whoever can
 * write the page and wants the audit to be wrong can make it so.
 */
#define _GNU_SOURCE /* fallocate */
#include "api/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "runs_list.h"

/* Odd, with bits all over: the golden ratio and others in use for this. */
#define K1 0x9e3779b97f4a7c15ULL
#define K2 0xbf58476d1ce4e5b9ULL
#define K3 0x94d049bb133111ebULL

static uint64_t rotate(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static uint64_t mixed(uint64_t x)
{
	x = (x ^ x >> 30) * K2;
	x = (x ^ x >> 27) * K3;
	return x ^ x >> 31;
}

static uint64_t raw_digest(const char *page, uint64_t size)
{
	uint64_t a = K1, b = K2, c = K3, d = K1 ^ K2;

	for (uint64_t at = 0; at < size; at += 32) {
		uint64_t word[4];

		memcpy(word, page + at, sizeof(word));
		a = rotate(a ^ word[0], 29) * K1;
		b = rotate(b ^ word[1], 31) * K1;
		c = rotate(c ^ word[2], 33) * K1;
		d = rotate(d ^ word[3], 35) * K1;
	}
	return mixed(mixed(mixed(mixed(a) + b) + c) + d);
}

static uint64_t digest_of_zeros(uint64_t page_size)
{
	char *zeros = calloc(1, page_size);
	uint64_t digest = zeros ? raw_digest(zeros, page_size) : 0;

	free(zeros);
	return digest;
}

/* What a walk over the pages of some runs needs. */
struct walk {
	char *pages;    /* BATCH_BYTES of contents */
	char *digests;  /* of these, then as many of the file */
	uint64_t zeros; /* the digest that counts as 0 */
	uint64_t size;  /* of a page */
};

static int begin(struct walk *walk, uint64_t page_size, struct ut_error *error)
{
	walk->size = page_size;
	walk->pages = malloc(BATCH_BYTES);
	walk->digests = malloc(2 * (BATCH_BYTES / page_size) * UT_DIGEST_BYTES);
	walk->zeros = digest_of_zeros(page_size);
	if (walk->pages && walk->digests && walk->zeros)
		return 0;
	ut_fail(error, "allocate a buffer", ENOMEM, 0, 0, BATCH_BYTES);
	return -1;
}

static void end(struct walk *walk)
{
	free(walk->pages);
	free(walk->digests);
}

static uint64_t offset_of(uint64_t address, uint64_t page_size)
{
	return address / page_size * UT_DIGEST_BYTES;
}

/* The digests of `length` bytes at `pages`, to the start of walk->digests. */
static void digest_pages(struct walk *walk, const char *pages, uint64_t length)
{
	for (uint64_t at = 0, i = 0; at < length; at += walk->size, i++) {
		uint64_t digest = raw_digest(pages + at, walk->size) ^ walk->zeros;

		memcpy(walk->digests + i * sizeof(digest), &digest, sizeof(digest));
	}
}

/* Appends the pages whose digests in a and b differ. */
static int list_differences(const struct walk *walk, uint64_t address, uint64_t length,
                            const char *a, const char *b, struct ut_copy_runs *differ,
                            struct ut_error *error)
{
	for (uint64_t at = 0, i = 0; at < length;
	     at += walk->size, i += UT_DIGEST_BYTES) {
		if (memcmp(a + i, b + i, UT_DIGEST_BYTES) &&
		    ut_runs_append(differ, address + at, address + at + walk->size,
		                   error))
			return -1;
	}
	return 0;
}

/* Reads the target's pages of the runs; their digests go to fd, or are compared with it.
 */
static int walk_target(const struct ut_copy_source *source, const uint64_t *runs,
                       uint64_t n, int fd, struct ut_copy_runs *differ,
                       struct ut_copy_runs *unreadable, struct ut_error *error)
{
	struct cursor cursor = {runs, n, 0, 0};
	struct batch batch, left;
	struct walk walk;
	int ret = begin(&walk, source->page_size, error);

	while (!ret && ut_next_batch(&cursor, &batch)) {
		const char *pages = walk.pages;

		left = batch;
		ret = ut_gather(source, &left, walk.pages, unreadable, error);
		for (uint64_t i = 0; i < batch.pieces && !ret; i++) {
			uint64_t address = (uint64_t)batch.piece[i].iov_base;
			uint64_t length = batch.piece[i].iov_len;
			uint64_t bytes = offset_of(length, walk.size);
			uint64_t where = offset_of(address, walk.size);
			char *kept = walk.digests + bytes;

			digest_pages(&walk, pages, length);
			if (!differ)
				ret = ut_write_all(fd, walk.digests, bytes, where, error);
			else
				ret = ut_read_all(fd, kept, bytes, where, error) ||
				      list_differences(&walk, address, length,
				                       walk.digests, kept, differ, error);
			pages += length;
		}
	}
	end(&walk);
	return ret ? -1 : 0;
}

int ut_digest_to_fd(const struct ut_copy_source *source, const uint64_t *runs, uint64_t n,
                    int fd, struct ut_copy_runs *unreadable, struct ut_error *error)
{
	return walk_target(source, runs, n, fd, NULL, unreadable, error);
}

int ut_digest_compare(const struct ut_copy_source *source, const uint64_t *runs,
                      uint64_t n, int fd, struct ut_copy_runs *differ,
                      struct ut_copy_runs *unreadable, struct ut_error *error)
{
	return walk_target(source, runs, n, fd, differ, unreadable, error);
}

int ut_digest_nonzero(const uint64_t *runs, uint64_t n, uint64_t page_size, int fd,
                      struct ut_copy_runs *nonzero, struct ut_error *error)
{
	struct cursor cursor = {runs, n, 0, 0};
	struct batch batch;
	struct walk walk;
	int ret = begin(&walk, page_size, error);

	while (!ret && ut_next_batch(&cursor, &batch)) {
		for (uint64_t i = 0; i < batch.pieces && !ret; i++) {
			uint64_t address = (uint64_t)batch.piece[i].iov_base;
			uint64_t length = batch.piece[i].iov_len;
			uint64_t bytes = offset_of(length, page_size);
			char *kept = walk.digests + bytes;

			memset(walk.digests, 0, bytes);
			ret = ut_read_all(fd, kept, bytes, offset_of(address, page_size),
			                  error) ||
			      list_differences(&walk, address, length, walk.digests, kept,
			                       nonzero, error);
		}
	}
	end(&walk);
	return ret ? -1 : 0;
}

int ut_digest_punch(const uint64_t *runs, uint64_t n, uint64_t page_size, int fd,
                    struct ut_error *error)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t run[2] = {offset_of(runs[2 * i], page_size),
		                   offset_of(runs[2 * i + 1], page_size)};

		/* The kernel writes zeros where a run begins and ends within a page. */
		if (ut_copy_punch(run, 1, fd, error))
			return -1;
	}
	return 0;
}

int ut_digest_file(int contents, const uint64_t *runs, uint64_t n, uint64_t page_size,
                   int fd, struct ut_error *error)
{
	struct cursor cursor = {runs, n, 0, 0};
	struct batch batch;
	struct walk walk;
	int ret = begin(&walk, page_size, error);

	while (!ret && ut_next_batch(&cursor, &batch)) {
		for (uint64_t i = 0; i < batch.pieces && !ret; i++) {
			uint64_t address = (uint64_t)batch.piece[i].iov_base;
			uint64_t length = batch.piece[i].iov_len;

			ret = ut_read_all(contents, walk.pages, length, address, error);
			if (ret)
				break;
			digest_pages(&walk, walk.pages, length);
			ret = ut_write_all(fd, walk.digests, offset_of(length, page_size),
			                   offset_of(address, page_size), error);
		}
	}
	end(&walk);
	return ret ? -1 : 0;
}
