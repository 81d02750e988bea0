#pragma once
/*
 * What /proc says of the threads of a process, read with bare calls: this runs in a child
 * of a process with threads, where neither malloc nor stdio may be used.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Calls each(arg, tid) for the threads of pid; stops early if it returns other than 0,
 * and returns that. *ret_total: how many threads the process has, by its own count, after
 * the last call. Returns -1 with errno otherwise; ESRCH if there is no such process.
 */
int ut_tasks_each(pid_t pid, int (*each)(void *arg, pid_t tid), void *arg,
                  uint32_t *ret_total);

/* The state letter of proc_pid_stat(5), 0 if the thread has gone. */
char ut_task_state(pid_t tid);

#define UT_TASK_RUNS  -1 /* in user mode, or it cannot be told */
#define UT_TASK_WAITS -2 /* in the kernel, but not in a system call */

/* The number of the system call that a thread is blocked in, or UT_TASK_*. */
long ut_task_call(pid_t tid);

/* A worker of io_uring: a thread that never runs in user mode. */
bool ut_task_worker(pid_t tid);

/* A worker that waits for work, as far as the kernel tells. */
bool ut_task_worker_idle(pid_t tid);
