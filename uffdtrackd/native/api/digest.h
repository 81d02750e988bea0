#pragma once
#include <stdint.h>
#include "api/copy.h"

/*
 * A shadow that keeps 8 bytes of each page instead of 4096: a sparse file that has the
 * digest of the page at `address` at offset address / page_size * 8. The digest of a
 * page of zeros is 0, so that a hole reads as one, as in a shadow of contents.
 * c/digest.c says what the digest is good for.
 */
#define UT_DIGEST_BYTES 8

/* As ut_copy_to_fd(), ut_copy_compare(), ut_copy_nonzero() and ut_copy_punch(). */
int ut_digest_to_fd(const struct ut_copy_source *source, const uint64_t *runs, uint64_t n,
                    int fd, struct ut_copy_runs *unreadable, struct ut_error *error);
int ut_digest_compare(const struct ut_copy_source *source, const uint64_t *runs,
                      uint64_t n, int fd, struct ut_copy_runs *differ,
                      struct ut_copy_runs *unreadable, struct ut_error *error);
int ut_digest_nonzero(const uint64_t *runs, uint64_t n, uint64_t page_size, int fd,
                      struct ut_copy_runs *nonzero, struct ut_error *error);
int ut_digest_punch(const uint64_t *runs, uint64_t n, uint64_t page_size, int fd,
                    struct ut_error *error);

/* Digests of the pages of a shadow of contents: from `contents` to fd. */
int ut_digest_file(int contents, const uint64_t *runs, uint64_t n, uint64_t page_size,
                   int fd, struct ut_error *error);
