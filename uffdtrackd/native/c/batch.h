/* A list of runs, piece by piece, and the target's bytes of each; private to the C floor.
 */
#pragma once
#include <stdbool.h>
#include <sys/uio.h>
#include "api/copy.h"

/* 512 pieces: the kernel keeps up to 8 on its stack and allocates for more, and
 * past some hundreds the cost of the call itself no longer shows. 1 MiB stays in
 * a second-level cache between the read and the write. */
enum { BATCH_PIECES = 512, BATCH_BYTES = 1 << 20 };

struct batch {
	struct iovec piece[BATCH_PIECES]; /* addresses in the target */
	uint64_t pieces;
	uint64_t bytes;
};

/* Where the walk over a list of runs stands. */
struct cursor {
	const uint64_t *runs;
	uint64_t n;
	uint64_t at;       /* run */
	uint64_t consumed; /* bytes of that run */
};

bool ut_next_batch(struct cursor *cursor, struct batch *batch);

/*
 * Fills buffer with the bytes of the batch, which is used up. Unreadable pages become
 * zeros and go to *unreadable; without such a list the first one fails the call.
 */
int ut_gather(const struct ut_copy_source *source, struct batch *batch, char *buffer,
              struct ut_copy_runs *unreadable, struct ut_error *error);

/* The whole of a range of a file; a read past its end is a hole too. */
int ut_write_all(int fd, const char *from, uint64_t length, uint64_t offset,
                 struct ut_error *error);
int ut_read_all(int fd, char *to, uint64_t length, uint64_t offset,
                struct ut_error *error);
