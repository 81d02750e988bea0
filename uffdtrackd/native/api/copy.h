#pragma once
#include <stdint.h>
#include "api/error.h"

/*
 * Reading a target's memory, and keeping a copy of it in a sparse file whose
 * offsets are the target's addresses (a shadow address space).
 *
 * A list of runs is 2 * n integers start, end, start, end, ...: bytes, sorted,
 * disjoint, multiples of the page size where a function says "pages".
 */

/* Where to read. */
struct ut_copy_source {
	int32_t pid;        /* for process_vm_readv(2); 0: by mem_fd alone */
	int32_t mem_fd;     /* of /proc/PID/mem, for pages that call refuses; -1: none */
	uint64_t page_size; /* bytes */
};

/* Runs that a call found; n is their number. Give back with ut_copy_free(). */
struct ut_copy_runs {
	uint64_t *runs;
	uint64_t n;
	uint64_t room; /* runs that fit in what is allocated */
};

void ut_copy_free(struct ut_copy_runs *runs);

/* Reads [start, start + length), any alignment, into buffer; a byte that cannot
 * be read fails the call with its address. */
int ut_copy_read(const struct ut_copy_source *source, uint64_t start, uint64_t length,
                 void *buffer, struct ut_error *error);

/* Reads the bytes of all runs, one run after the other, into buffer. */
int ut_copy_read_runs(const struct ut_copy_source *source, const uint64_t *runs,
                      uint64_t n, void *buffer, struct ut_error *error);

/* Copies the pages of the runs to the same offsets of fd. Pages that cannot be
 * read are written as zeros and listed in *unreadable. */
int ut_copy_to_fd(const struct ut_copy_source *source, const uint64_t *runs, uint64_t n,
                  int fd, struct ut_copy_runs *unreadable, struct ut_error *error);

/* Compares the pages of the runs with fd at offset address + shift, where a hole
 * reads zero. *differ: pages whose bytes differ. *unreadable: pages that could
 * not be compared. */
int ut_copy_compare(const struct ut_copy_source *source, const uint64_t *runs, uint64_t n,
                    int fd, int64_t shift, struct ut_copy_runs *differ,
                    struct ut_copy_runs *unreadable, struct ut_error *error);

/* The pages of the runs that hold a byte other than zero in fd. */
int ut_copy_nonzero(const uint64_t *runs, uint64_t n, uint64_t page_size, int fd,
                    struct ut_copy_runs *nonzero, struct ut_error *error);

/* Makes the runs holes of fd again and gives their memory back. */
int ut_copy_punch(const uint64_t *runs, uint64_t n, int fd, struct ut_error *error);
