#pragma once
/*
 * Whether a descriptor is still what we made or fetched. Only one thread of the target is
 * stopped: any other may close a number that is ours for the moment, or put a file of its
 * own there (dup2, or close_range and open).
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "c/window.h"

/* What readlink(2) of a descriptor in /proc begins with. */
#define UT_KIND_UFFD   "anon_inode:[userfaultfd]"
#define UT_KIND_SOCKET "socket:["
#define UT_KIND_ANY    ""

/* Is descriptor fd of a thread the same open file as our own one? -1: nobody can say. */
int ut_same_file(pid_t tid, int fd, int own);

/* Before the window: the way to our own descriptors takes longer than a look at one. */
void ut_ours_prepare(void);

/* Is our own descriptor of that kind? */
bool ut_own_kind(int own, const char *kind);

/*
 * Is descriptor fd of the window's thread the same file as our own one or, where that
 * cannot be told (own is -1: it never came here), at least of that kind?
 */
bool ut_ours(const struct ut_window *window, int fd, int own, const char *kind);

/* One of the target's threads was faster: EAGAIN for another attempt, or the end of them.
 */
int ut_replaced(struct ut_window *window, const char *step, struct ut_error *error);
