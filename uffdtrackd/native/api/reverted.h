#pragma once
#include <stdint.h>
#include "api/scan.h"

/*
 * Looks at pages that a private file mapping once had for its own, and says
 * which it has no longer: they read as the file again. runs: sorted pairs.
 * swap_types: whether this process may see swap types in pagemap, so that a
 * marker can be told from a swapped page. Appends to both lists:
 *
 *	reverted: the page of the file, or a marker where a page was
 *	doubtful: swapped or reverted, it cannot be told
 */
int ut_find_reverted(int pagemap, const uint64_t *runs, uint64_t count, int swap_types,
                     struct ut_regions *reverted, struct ut_regions *doubtful,
                     struct ut_error *error);
