#pragma once
/*
 * A program of ours as a child process, at a cost that does not depend on our size.
 *
 * fork(2) copies page tables: some 25 ms for every 450 MiB, during which all our threads
 * wait. So:
 *
 *     tracker ---------> minder ---------> program          clone(CLONE_VM | CLONE_VFORK)
 *     waits in clone()   waits in wait4()  an image, a stack and descriptors of its own
 *
 * The minder is there because exec gives a process the exit signal SIGCHLD, and no child
 * of ours may tell Python of its end (child.h). It lives in our memory, does nothing but
 * wait, and ends with the program. Whoever kills us, or everybody in our memory (as the
 * kernel does when that runs out), kills nobody who traces: the program shares nothing
 * with us.
 */
#include "api/error.h"

/* Exit status of a program that could not be run, or that finds itself no good. */
#define UT_SPAWN_UNFIT 125

/*
 * Runs `program`, with the number of the descriptor `fd` as its argument and no
 * environment. It starts as a child of ut_child_start() does: signals, session,
 * descriptors keep[0..count) and no others. Waits for its end; the status as waitpid(2)
 * gives it, or -1. Who kills the minder ends the wait, and not the program.
 */
int ut_spawn(const char *name, const char *program, int fd, const int *keep, int count,
             struct ut_error *error);
