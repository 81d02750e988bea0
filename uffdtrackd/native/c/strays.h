#pragma once
/*
 * What processes have of ours that the target forked in the stop window: copies of the
 * userfaultfd; the parasite's descriptors and, where the fork came before they were
 * MADV_DONTFORK, its two pages; limits that were raised (limits.h).
 *
 *     target  ---- userfaultfd ---- fork ---- close ----
 *                                    '--> child: has it still
 *
 * Only one thread of the target is stopped, so another may fork just then. Such a copy
 * would keep the target's memory registered after the tracker's end, and it is a
 * descriptor that the child never opened. execve() closes it; in a child that does not
 * exec we close it, by the same means as everything else.
 */
#include <stdint.h>

#include "c/window.h"

/* Forks on this machine so far (proc_stat(5)): if there was none, nothing needs a look.
 * 0: not known. */
uint64_t ut_forks(void);

/* Now, as /proc/PID/stat counts the starts of processes. */
uint64_t ut_tick(void);

/*
 * After the window was closed, whatever came of it: finds such copies and closes them
 * there. Best effort: a fork that was delayed by more than a millisecond after the copy
 * of its page tables is not seen.
 */
void ut_strays(const struct ut_window *window, uint64_t forks_before);
