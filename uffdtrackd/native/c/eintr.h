#pragma once
/*
 * A call that a stop interrupts comes back in one of three ways (signal(7)):
 *
 *   restarted by the kernel   read from a pipe, futex, nanosleep, poll, wait4 ...
 *                             nothing to do: all registers back, and it goes on
 *   EINTR, even though no     epoll_wait, rt_sigtimedwait, semop, io_getevents,
 *   handler ran               sockets with a timeout, ppoll and select with one in
 *                             read-only memory ...
 *                             nothing was done: it can be run again
 *   cut short                 write, sendfile ... returned the part they had done
 *                             cannot be undone: such a thread is not chosen
 *
 * This file knows the second row. A re-run call with a relative timeout starts that
 * timeout anew (the kernel keeps no note of when it began), so it may end late by what
 * it had waited before; it never ends early and never with EINTR.
 */
#include <stdbool.h>

/* The call, when it returns EINTR, has done nothing and may be run again as it is. */
bool ut_eintr_rerun(long call);
