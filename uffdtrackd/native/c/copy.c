/*
 * Reads a target's memory in pieces, for a reader or into a shadow file.
 *
 *   runs ----> batch: at most 512 pieces and 1 MiB
 *                |
 *                v  process_vm_readv(2), one call a batch
 *              buffer  <---- pread of /proc/PID/mem, for what that call refuses, or all
 *                |
 *                +--> pwrite to the shadow at offset == address     (copy)
 *                +--> memcmp with a pread of the shadow, by page    (compare)
 *
 * process_vm_readv(2) respects the protection of a mapping, so PROT_NONE pages
 * that hold data fail; /proc/PID/mem does not (FOLL_FORCE). What neither reads
 * (guard pages, memfd_secret, a file's pages past its end) is listed, not fatal:
 * a shadow of the rest is still worth having.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "api/copy.h"
#include "batch.h"
#include "runs_list.h"

bool ut_next_batch(struct cursor *cursor, struct batch *batch)
{
	batch->pieces = 0;
	batch->bytes = 0;
	while (cursor->at < cursor->n && batch->pieces < BATCH_PIECES &&
	       batch->bytes < BATCH_BYTES) {
		uint64_t start = cursor->runs[2 * cursor->at] + cursor->consumed;
		uint64_t left = cursor->runs[2 * cursor->at + 1] - start;
		uint64_t take = left;

		if (take > BATCH_BYTES - batch->bytes)
			take = BATCH_BYTES - batch->bytes;
		batch->piece[batch->pieces].iov_base = (void *)start;
		batch->piece[batch->pieces].iov_len = take;
		batch->pieces++;
		batch->bytes += take;
		cursor->consumed += take;
		if (take == left) {
			cursor->at++;
			cursor->consumed = 0;
		}
	}
	return batch->pieces > 0;
}

void ut_copy_free(struct ut_copy_runs *runs)
{
	free(runs->runs);
	memset(runs, 0, sizeof(*runs));
}

int ut_runs_append(struct ut_copy_runs *list, uint64_t start, uint64_t end,
                   struct ut_error *error)
{
	if (list->n && list->runs[2 * list->n - 1] == start) {
		list->runs[2 * list->n - 1] = end;
		return 0;
	}
	if (list->n == list->room) {
		uint64_t room = list->room ? 2 * list->room : 64;
		uint64_t *grown = realloc(list->runs, room * 2 * sizeof(*grown));

		if (!grown)
			return ut_fail(error, "allocate a list of runs", ENOMEM, 0, 0, 0);
		list->runs = grown;
		list->room = room;
	}
	list->runs[2 * list->n] = start;
	list->runs[2 * list->n + 1] = end;
	list->n++;
	return 0;
}

/*
 * Reads what process_vm_readv(2) refused, at most length bytes from address.
 * Returns the bytes read, 0 if the first page cannot be read, -1 if the target
 * is gone. A read of /proc/PID/mem returns 0 only when its address space is.
 */
static ssize_t read_by_file(const struct ut_copy_source *source, uint64_t address,
                            uint64_t length, void *buffer)
{
	ssize_t got;

	if (source->mem_fd < 0)
		return 0;
	got = pread(source->mem_fd, buffer, length, (off_t)address);
	if (got == 0) {
		errno = ESRCH;
		return -1;
	}
	return got > 0 ? got : 0;
}

int ut_gather(const struct ut_copy_source *source, struct batch *batch, char *buffer,
              struct ut_copy_runs *unreadable, struct ut_error *error)
{
	struct iovec *piece = batch->piece;
	struct iovec *end = piece + batch->pieces;

	while (piece < end) {
		struct iovec local = {buffer, 0};
		uint64_t address = (uint64_t)piece->iov_base;
		uint64_t skip;
		ssize_t got;

		for (struct iovec *p = piece; p < end; p++)
			local.iov_len += p->iov_len;
		got = -1;
		if (source->pid)
			got = process_vm_readv(source->pid, &local, 1, piece, end - piece,
			                       0);
		if (got < 0) {
			if (source->pid && errno != EFAULT && errno != EIO)
				return ut_fail(error, "process_vm_readv", errno,
				               source->pid, address, piece->iov_len);
			got = read_by_file(source, address, piece->iov_len, buffer);
			if (got < 0)
				return ut_fail(error, "read /proc/PID/mem", errno,
				               source->pid, address, piece->iov_len);
		}
		if (got == 0) {
			skip = source->page_size - address % source->page_size;
			if (skip > piece->iov_len)
				skip = piece->iov_len;
			if (!unreadable)
				return ut_fail(error, "read the target's memory", EFAULT,
				               source->pid, address, skip);
			if (ut_runs_append(unreadable, address, address + skip, error))
				return -1;
			memset(buffer, 0, skip);
			got = (ssize_t)skip;
		}
		buffer += got;
		while (got > 0) {
			uint64_t used = (uint64_t)got < piece->iov_len ? (uint64_t)got
			                                               : piece->iov_len;

			piece->iov_base = (char *)piece->iov_base + used;
			piece->iov_len -= used;
			got -= (ssize_t)used;
			if (!piece->iov_len)
				piece++;
		}
	}
	return 0;
}

int ut_copy_read_runs(const struct ut_copy_source *source, const uint64_t *runs,
                      uint64_t n, void *buffer, struct ut_error *error)
{
	struct cursor cursor = {runs, n, 0, 0};
	struct batch batch;
	char *to = buffer;

	while (ut_next_batch(&cursor, &batch)) {
		if (ut_gather(source, &batch, to, NULL, error))
			return -1;
		to += batch.bytes;
	}
	return 0;
}

int ut_copy_read(const struct ut_copy_source *source, uint64_t start, uint64_t length,
                 void *buffer, struct ut_error *error)
{
	uint64_t run[2] = {start, start + length};

	return length ? ut_copy_read_runs(source, run, 1, buffer, error) : 0;
}

int ut_write_all(int fd, const char *from, uint64_t length, uint64_t offset,
                 struct ut_error *error)
{
	while (length) {
		ssize_t put = pwrite(fd, from, length, (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return ut_fail(error, "write the shadow", put ? errno : ENOSPC, 0,
			               offset, length);
		from += put;
		offset += (uint64_t)put;
		length -= (uint64_t)put;
	}
	return 0;
}

int ut_read_all(int fd, char *to, uint64_t length, uint64_t offset,
                struct ut_error *error)
{
	while (length) {
		ssize_t got = pread(fd, to, length, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return ut_fail(error, "read the shadow", errno, 0, offset,
			               length);
		if (got == 0) {
			memset(to, 0, length);
			return 0;
		}
		to += got;
		offset += (uint64_t)got;
		length -= (uint64_t)got;
	}
	return 0;
}

int ut_copy_to_fd(const struct ut_copy_source *source, const uint64_t *runs, uint64_t n,
                  int fd, struct ut_copy_runs *unreadable, struct ut_error *error)
{
	struct cursor cursor = {runs, n, 0, 0};
	struct batch batch;
	struct batch left; /* ut_gather() uses up its batch */
	char *buffer = malloc(BATCH_BYTES);
	int rc = -1;

	if (!buffer)
		return ut_fail(error, "allocate a buffer", ENOMEM, 0, 0, BATCH_BYTES);
	while (ut_next_batch(&cursor, &batch)) {
		char *from = buffer;

		left = batch;
		if (ut_gather(source, &left, buffer, unreadable, error))
			goto out;
		for (uint64_t i = 0; i < batch.pieces; i++) {
			if (ut_write_all(fd, from, batch.piece[i].iov_len,
			                 (uint64_t)batch.piece[i].iov_base, error))
				goto out;
			from += batch.piece[i].iov_len;
		}
	}
	rc = 0;
out:
	free(buffer);
	return rc;
}

/* Lists the pages of one piece whose bytes differ in a and b. */
static int list_differences(uint64_t address, uint64_t length, uint64_t page_size,
                            const char *a, const char *b, struct ut_copy_runs *differ,
                            struct ut_error *error)
{
	for (uint64_t done = 0; done < length; done += page_size) {
		if (memcmp(a + done, b + done, page_size) &&
		    ut_runs_append(differ, address + done, address + done + page_size,
		                   error))
			return -1;
	}
	return 0;
}

int ut_copy_compare(const struct ut_copy_source *source, const uint64_t *runs, uint64_t n,
                    int fd, int64_t shift, struct ut_copy_runs *differ,
                    struct ut_copy_runs *unreadable, struct ut_error *error)
{
	struct cursor cursor = {runs, n, 0, 0};
	struct batch batch;
	struct batch left;
	char *ours = malloc(2 * BATCH_BYTES);
	char *theirs = ours + BATCH_BYTES;
	int rc = -1;

	if (!ours)
		return ut_fail(error, "allocate a buffer", ENOMEM, 0, 0, 2 * BATCH_BYTES);
	while (ut_next_batch(&cursor, &batch)) {
		uint64_t done = 0;

		left = batch;
		if (ut_gather(source, &left, theirs, unreadable, error))
			goto out;
		for (uint64_t i = 0; i < batch.pieces; i++) {
			uint64_t address = (uint64_t)batch.piece[i].iov_base;
			uint64_t length = batch.piece[i].iov_len;

			if (ut_read_all(fd, ours + done, length,
			                address + (uint64_t)shift, error) ||
			    list_differences(address, length, source->page_size,
			                     ours + done, theirs + done, differ, error))
				goto out;
			done += length;
		}
	}
	rc = 0;
out:
	free(ours);
	return rc;
}

int ut_copy_nonzero(const uint64_t *runs, uint64_t n, uint64_t page_size, int fd,
                    struct ut_copy_runs *nonzero, struct ut_error *error)
{
	struct cursor cursor = {runs, n, 0, 0};
	struct batch batch;
	char *buffer = malloc(BATCH_BYTES);
	char *zeros = calloc(1, BATCH_BYTES);
	int rc = -1;

	if (!buffer || !zeros) {
		ut_fail(error, "allocate a buffer", ENOMEM, 0, 0, BATCH_BYTES);
		goto out;
	}
	while (ut_next_batch(&cursor, &batch)) {
		for (uint64_t i = 0; i < batch.pieces; i++) {
			uint64_t address = (uint64_t)batch.piece[i].iov_base;
			uint64_t length = batch.piece[i].iov_len;

			if (ut_read_all(fd, buffer, length, address, error) ||
			    list_differences(address, length, page_size, buffer, zeros,
			                     nonzero, error))
				goto out;
		}
	}
	rc = 0;
out:
	free(buffer);
	free(zeros);
	return rc;
}

int ut_copy_punch(const uint64_t *runs, uint64_t n, int fd, struct ut_error *error)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t start = runs[2 * i];
		uint64_t length = runs[2 * i + 1] - start;

		while (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		                 (off_t)start, (off_t)length))
			if (errno != EINTR)
				return ut_fail(error, "punch the shadow", errno, 0, start,
				               length);
	}
	return 0;
}
