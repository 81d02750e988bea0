/*
 * Protects holes in front of shared objects, before anybody has touched them.
 *
 * A page table that does not exist keeps no note. A process that writes a page of the
 * object where it has none, and gives it back or has it swapped out before the next scan,
 * leaves a page table full of holes, which is what a page table that was only just made
 * looks like too. Private memory would read as zero then; the object has the page. So
 * wherever the object has pages, every page table is made beforehand, with a marker in
 * each hole, at one page of tables for 2 MiB:
 *
 *	object     [ 7 ][ 8 ][   ][   ]        what exists of it
 *	process A  [wp7][wp8][ m ][ m ]        has touched it
 *	process B  [ m ][ m ][ m ][ m ]        has not: armed
 *
 * What the object gets later is dirty for that alone, and armed before it is told.
 */
#pragma once
#include "api/error.h"
#include "spans.h"

/*
 * Protects the parts of `runs` (count pairs, sorted) in the blocks that `spans` lack, and
 * appends those blocks, less what is excluded, to *blocks. uffd: registered there, or
 * was. pagemap: of the same memory. limit: where the address space ends. -1: ESRCH,
 * ENOMEM, or ENOENT where mappings come and go too fast.
 */
int arm_holes(int uffd, int pagemap, const uint64_t *runs, uint64_t count, uint64_t limit,
              const struct spans *spans, const struct spans *excluded,
              struct spans *blocks, struct ut_error *error);
