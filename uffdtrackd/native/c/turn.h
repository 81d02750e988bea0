/*
 * A turn for the target, where its own mmap() waits for the lock that we keep taking.
 *
 * The kernel lets a reader take mmap_lock ahead of a writer that is asleep in the queue,
 * as long as no other reader has it (lock stealing, rwsem_down_read_slowpath() since
 * Linux 5.11). So short calls alone do nothing for a target that maps: it is woken at the
 * end of each call of ours, and by the time it runs the next one has the lock again. Only
 * when it has been passed over for more than a tick does it ask for the lock to be handed
 * over: 4 to 8 ms at 250 Hz, and the same again for the munmap() that follows.
 *
 *	we      [call][call][call]  rest  [call][call] ...
 *	target     |..w....w....w.|lock|              w: woken, too late
 *	        <---- HOLD at most --->
 *
 * A thread says turn_begin() before and turn_end() after each call that holds the lock
 * for longer than an instant; it then sleeps for a moment before its calls would have
 * followed each other for longer than HOLD. What takes less than that never sleeps.
 */
#pragma once
#include <stdint.h>

void turn_begin(void);

/* Leaves errno as it is. */
void turn_end(void);

/* How long the last call took. */
uint64_t turn_last_ns(void);
