#pragma once
#include <stdint.h>
#include "api/copy.h"
#include "api/error.h"

/* Room for what ut_object_handle() writes: the type, then up to MAX_HANDLE_SZ bytes. */
#define UT_HANDLE_ROOM 132

/*
 * A name of the file behind path (links are followed, also those of
 * /proc/PID/map_files) that no other file of its file system has, had or will
 * have: name_to_handle_at(2), inode and generation mostly. Inode numbers alone
 * will not do: all shared memory of a machine is one file system, where the
 * inode of a SysV segment is its id, in each IPC namespace anew.
 * Returns the bytes written to out, -1 with *error where the file system has none.
 */
int ut_object_handle(const char *path, uint8_t *out, struct ut_error *error);

/* When the file behind path was made, ns since 1970; 0 where it does not say (statx(2)).
 */
int64_t ut_object_born_ns(const char *path);

/*
 * Of the pages of a file (runs: bytes into it, sorted), those that are all zero.
 * A page that is not has a word that is not, and hints[page number] says where it
 * was found last time (index of 8 bytes; written back): one word is read then.
 * Pages from `hinted` on have no hint and are read whole, as are those whose
 * word has gone. What cannot be read is listed as zero: nobody vouches for it.
 * Reading a file never fills its holes, as reading a mapping would.
 */
int ut_object_zero(int fd, const uint64_t *runs, uint64_t n, uint64_t page_size,
                   uint16_t *hints, uint64_t hinted, struct ut_copy_runs *zero,
                   struct ut_error *error);
