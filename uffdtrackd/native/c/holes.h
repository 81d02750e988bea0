/*
 * Protecting holes where scans do not see them: kernels before 6.12.103 and 6.18.44 call
 * no hole WRITTEN but in their fast path, which takes written pages along.
 *
 *     fast get+clear --> written since a moment ago, and holes --> pagemap: which of it
 *                                                                   is a page?
 *
 * A page that comes, or changes, after the get+clear is unprotected again, and found by
 * the next collection. After it a hole holds a marker, which a scan would call SWAPPED:
 * so /proc/PID/pagemap is read. Who may not see swap types there reports every hole.
 */
#pragma once
#include "scan_impl.h"

/* Protects all of [start, end). *late: the pages that were found unprotected. */
int holes_protect(int pagemap, uint64_t start, uint64_t end, struct ut_regions *late,
                  struct ut_error *error);
