#pragma once
#include <stdint.h>
#include "api/error.h"
#include "api/layout.h"
#include "api/scan.h"

/*
 * Synchronous write protection as a state: which pages carry the protection bit, and
 * putting it on. c/protect.c has the argument why nothing is missed.
 *
 * `vmas` is an array of `count` pairs [start, end), one a VMA, by address: unlike runs,
 * neighbours are not merged, for what is asked of the kernel is asked of one VMA.
 */

/* Pairs of the VMAs of a layout that do not begin in the `skipped` runs, into out. */
uint64_t ut_layout_pairs(const struct ut_layout *layout, const uint64_t *skipped,
                         uint64_t count, uint64_t *out);

/*
 * UFFDIO_REGISTER of [start, end), whose ends are borders of VMAs as far as anybody
 * knows; c/register.c says what is done about the rest. 0: done. 1: nothing was done, as
 * an end is inside of a VMA now. -1: refused. *also: what had to be registered with it.
 * The layout is refreshed.
 */
int ut_register_whole(int uffd, struct ut_layout *layout, uint64_t start, uint64_t end,
                      struct ut_regions *also, struct ut_error *error);

struct ut_swept {
	struct ut_regions written;      /* populated, own content, no bit */
	struct ut_regions written_file; /* the same, of a file or shared memory */
	struct ut_regions clean;        /* populated, with the bit */
	struct ut_regions unregistered; /* VMAs with such pages that are not registered */
};
struct ut_swept *ut_swept_new(void);
void ut_swept_free(struct ut_swept *swept);

/* Looks at every page of the VMAs, and whether the bits found there mean anything. */
int ut_sweep(int pagemap, int uffd, const uint64_t *vmas, uint64_t count,
             struct ut_swept *out, struct ut_error *error);

/*
 * Protects the runs, VMA by VMA. VMAs where that is refused go to *refused: not
 * registered, or gone. -1 only when the address space is gone, or for want of memory.
 */
int ut_protect(int uffd, const uint64_t *vmas, uint64_t count, const uint64_t *runs,
               uint64_t runs_count, struct ut_regions *refused, struct ut_error *error);
