#pragma once
#include <stdint.h>
#include "api/copy.h"
#include "api/error.h"

/*
 * Which pages of [start, end) exist in a target's page tables, from an fd of
 * /proc/PID/pagemap. Nothing is protected, changed or faulted in.
 *
 * *own: pages with content of their own, present or swapped out: anonymous, and
 * written pages of private file mappings. The kernel's write-protect markers
 * look like swapped pages and are listed too.
 * *file: pages that belong to a file or to shared memory.
 */
int ut_presence(int pagemap, uint64_t start, uint64_t end, uint64_t page_size,
                struct ut_copy_runs *own, struct ut_copy_runs *file,
                struct ut_error *error);
