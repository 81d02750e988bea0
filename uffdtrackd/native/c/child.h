#pragma once
/*
 * A short-lived process of ours that runs C only.
 *
 * The tracer of a target must not be the daemon: ptrace ties a target to one thread, its
 * SIGCHLDs would land in Python, and a daemon that is killed between two steps would
 * leave the target with our registers. So stopping and freezing are done in a child which
 * nothing but SIGKILL at itself can disturb. It is a copy of the daemon (not CLONE_VM:
 * the daemon may die under it, and when memory runs out all who share one are killed)
 * made by the bare clone system call, so no atfork handler of libc or Python runs in it,
 * and with no exit signal, so no SIGCHLD reaches Python and no waitpid(-1) of Python's
 * reaps it.
 *
 * A copy costs time by the size of the daemon: spawn.h has a way without.
 *
 * body() must keep to what is safe after a fork of a process with threads: no malloc, no
 * stdio, no locks.
 */
#include <sys/types.h>

#include "api/error.h"

/*
 * Starts body(arg), whose return value is the exit status. In the child all signals are
 * blocked, SIGCHLD is at SIG_DFL, it leads a session of its own, and all descriptors but
 * keep[0..count) (at most 8, ascending order not needed, -1 ignored) are closed: it must
 * not prolong the life of other sessions' userfaultfds. Returns its pid, or -1.
 */
pid_t ut_child_start(const char *name, int (*body)(void *), void *arg, const int *keep,
                     int count, struct ut_error *error);

/* Waits for its end; the status as waitpid(2) gives it, or -1. */
int ut_child_wait(pid_t pid, struct ut_error *error);

/* What ut_child_start() does in the child; its signals are blocked already. */
void ut_child_become(const char *name, const int *keep, int count);
