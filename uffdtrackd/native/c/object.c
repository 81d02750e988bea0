/* What the tracker asks of a shared object behind a mapping: api/object.h. */
#define _GNU_SOURCE /* name_to_handle_at, statx */
#include "api/object.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runs_list.h"

/* Linux 6.5, commit 96b2b072ee62: an identity is enough, nobody opens by it. */
#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID AT_REMOVEDIR
#endif

int ut_object_handle(const char *path, uint8_t *out, struct ut_error *error)
{
	union {
		struct file_handle head;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} handle;
	const int flags[] = {AT_SYMLINK_FOLLOW, AT_SYMLINK_FOLLOW | AT_HANDLE_FID};
	int mount;

	for (int i = 0; i < 2; i++) {
		memset(&handle, 0, sizeof(handle));
		handle.head.handle_bytes = MAX_HANDLE_SZ;
		if (name_to_handle_at(AT_FDCWD, path, &handle.head, &mount, flags[i]))
			continue;
		memcpy(out, &handle.head.handle_type, sizeof(int));
		memcpy(out + sizeof(int), handle.head.f_handle, handle.head.handle_bytes);
		return (int)(sizeof(int) + handle.head.handle_bytes);
	}
	return ut_fail(error, "name_to_handle_at", errno, 0, 0, 0);
}

int64_t ut_object_born_ns(const char *path)
{
	struct statx status;

	if (statx(AT_FDCWD, path, 0, STATX_BTIME, &status) ||
	    !(status.stx_mask & STATX_BTIME))
		return 0;
	return status.stx_btime.tv_sec * 1000000000LL + status.stx_btime.tv_nsec;
}

/* Whether the page at `at` has a word that is not zero; *hint finds it again. */
static int has_word(int fd, uint64_t at, uint64_t page_size, uint64_t *page,
                    uint16_t *hint)
{
	uint64_t word;
	ssize_t got;

	if (hint) {
		got = pread(fd, &word, sizeof(word), (off_t)(at + *hint * sizeof(word)));
		if (got == sizeof(word) && word)
			return 1;
	}
	got = pread(fd, page, page_size, (off_t)at);
	if (got < 0)
		return 0;
	/* The end of the file may be within the page. */
	memset((char *)page + got, 0, page_size - (uint64_t)got);
	for (uint64_t i = 0; i < page_size / sizeof(word); i++) {
		if (page[i]) {
			if (hint)
				*hint = (uint16_t)i;
			return 1;
		}
	}
	return 0;
}

int ut_object_zero(int fd, const uint64_t *runs, uint64_t n, uint64_t page_size,
                   uint16_t *hints, uint64_t hinted, struct ut_copy_runs *zero,
                   struct ut_error *error)
{
	uint64_t *page = malloc(page_size);
	int ret = 0;

	if (!page)
		return ut_fail(error, "allocate a page", ENOMEM, 0, 0, page_size);
	for (uint64_t i = 0; i < n && !ret; i++) {
		for (uint64_t at = runs[2 * i]; at < runs[2 * i + 1] && !ret;
		     at += page_size) {
			uint64_t number = at / page_size;

			if (!has_word(fd, at, page_size, page,
			              number < hinted ? hints + number : NULL))
				ret = ut_runs_append(zero, at, at + page_size, error);
		}
	}
	free(page);
	return ret;
}
