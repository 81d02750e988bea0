#pragma once
/*
 * Where a tracer runs beside the one thread that it stops again and again.
 *
 * Each stop and resume is a switch from one to the other. On the same CPU that is a
 * switch of two tasks; on two CPUs it is an interrupt to the other one and, on a virtual
 * machine, its way out of idle. With priority, so that the target does not wait, stopped,
 * until a busy machine has time for us; we sleep whenever it runs.
 *
 * That holds while the thread is stopped. Afterwards it wants its CPU back, and the end
 * of a process that shares all memory of the tracker takes a millisecond: elsewhere.
 */

#include <sys/types.h>

/* Moves the calling thread there; what is not permitted is left undone. */
void ut_place_beside(int proc_fd, pid_t tid);

/* Leaves that CPU, if there is another, and goes back to the priority from before. */
void ut_place_away(void);
