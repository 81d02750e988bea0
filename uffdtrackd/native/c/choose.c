/* Rates the threads of a process by what a stop would do to them; choose.h has the scale.
 */
#include "c/choose.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "c/eintr.h"
#include "c/listing.h"

/* include/linux/sched.h: threads of the kernel in a process (io_uring, vhost). */
#define PF_IO_WORKER   0x00000010
#define PF_USER_WORKER 0x00004000

/*
 * The state letter of /proc/TID/stat: after the name, which may itself hold blanks and
 * ')'. A worker of the kernel never returns to user mode, so nothing can be injected into
 * it: 'P', as if it were parked.
 */
static char thread_state(int proc_fd, pid_t tid)
{
	char path[64], text[512], state;
	unsigned long flags;

	snprintf(path, sizeof(path), "task/%d/stat", tid);
	if (ut_read_file(proc_fd, path, text, sizeof(text)) <= 0)
		return 'X';

	const char *end = strrchr(text, ')');

	/* The state is the third field, the flags are the ninth. */
	if (!end || sscanf(end + 1, " %c %*d %*d %*d %*d %*d %lu", &state, &flags) != 2)
		return 'X';
	return flags & (PF_IO_WORKER | PF_USER_WORKER) ? 'P' : state;
}

/*
 * A write of up to PIPE_BUF bytes to a pipe is all or nothing (pipe(7)), so a stop finds
 * it with nothing done and the kernel restarts it.
 */
static bool atomic_pipe_write(int proc_fd, pid_t tid, unsigned long fd,
                              unsigned long count)
{
	char path[64], target[16];

	if (count > PIPE_BUF)
		return false;
	snprintf(path, sizeof(path), "task/%d/fd/%lu", tid, fd);

	ssize_t got = readlinkat(proc_fd, path, target, sizeof(target));

	return got > 5 && !memcmp(target, "pipe:", 5);
}

/* Calls for which the kernel itself arranges the restart (signal(7)), whatever they wait
 * for. */
static bool restarts(long call)
{
	switch (call) {
	case SYS_futex:
	case SYS_nanosleep:
	case SYS_clock_nanosleep:
	case SYS_restart_syscall:
	case SYS_poll:
	case SYS_ppoll:
	case SYS_select:
	case SYS_pselect6:
	case SYS_wait4:
	case SYS_waitid:
	case SYS_pause:
	case SYS_rt_sigsuspend:
	case SYS_msgrcv:
	case SYS_msgsnd:
	case SYS_flock:
	case SYS_fcntl:
	case SYS_mq_timedreceive:
	case SYS_mq_timedsend:
		return true;
	default:
		return false;
	}
}

/* Calls that return what they had done so far when they are stopped half way. */
static bool cut_short(int proc_fd, pid_t tid, long call, const unsigned long *args)
{
	switch (call) {
	case SYS_write:
		return !atomic_pipe_write(proc_fd, tid, args[0], args[2]);
	case SYS_recvfrom:
		return args[3] & MSG_WAITALL;
	case SYS_recvmsg:
		return args[2] & MSG_WAITALL;
	case SYS_io_uring_enter:
		return args[1] !=
		       0; /* to_submit: it returns the count without the wait */
	case SYS_recvmmsg:
	case SYS_writev:
	case SYS_pwrite64:
	case SYS_pwritev:
	case SYS_pwritev2:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
	case SYS_sendfile:
	case SYS_splice:
	case SYS_tee:
	case SYS_vmsplice:
	case SYS_copy_file_range:
	case SYS_getrandom:
	case SYS_fallocate:
	case SYS_close: /* gives EINTR with the descriptor gone */
		return true;
	default:
		return false;
	}
}

enum ut_choice ut_choose_class(int proc_fd, pid_t tid)
{
	char path[64], text[256];

	switch (thread_state(proc_fd, tid)) {
	case 'Z':
	case 'X':
	case 'x':
		return UT_CHOICE_DEAD;
	case 'D': /* cannot be interrupted; the parent of a vfork is one as well */
	case 'P': /* a worker of the kernel */
	case 't': /* somebody else traces it */
		return UT_CHOICE_UNREACHABLE;
	}
	snprintf(path, sizeof(path), "task/%d/syscall", tid);
	if (ut_read_file(proc_fd, path, text, sizeof(text)) <= 0)
		return errno == ESRCH || errno == ENOENT ? UT_CHOICE_DEAD
		                                         : UT_CHOICE_UNKNOWN;
	if (!strncmp(text, "running", 7))
		return UT_CHOICE_RUNNING;

	/* "nr arg0 ... arg5 sp pc"; nr -1: blocked, but not in a call. */
	char *at = text;
	long call = strtol(at, &at, 10);
	unsigned long args[6];

	if (call < 0)
		return UT_CHOICE_RESTARTS;
	for (int i = 0; i < 6; i++)
		args[i] = strtoul(at, &at, 16);
	if (restarts(call))
		return UT_CHOICE_RESTARTS;
	if (cut_short(proc_fd, tid, call, args))
		return UT_CHOICE_CUT_SHORT;
	if (ut_eintr_rerun(call))
		return call == SYS_read ? UT_CHOICE_RESTARTS : UT_CHOICE_RERUN;
	return UT_CHOICE_UNKNOWN;
}

/*
 * A stop of one thread can disturb another. A signal that the program ignores is not
 * dropped when it is meant for a traced thread (sig_ignored() in kernel/signal.c), and
 * while that one is stopped the kernel wakes any other of its process for it: from
 * epoll_wait() and its like that one returns with EINTR. SIGCHLD is meant for the thread
 * that made the child, and kill(2) means the leader. Such threads come after others.
 */
enum penalty {
	PENALTY_LEADER = 4,
	PENALTY_PARENT = 8,
	PENALTY_CHOICE = 16, /* a class from UNKNOWN on: worse than all this */
};

static int cost(enum ut_choice choice, bool leader, bool parent)
{
	if (choice > UT_CHOICE_RERUN)
		return PENALTY_CHOICE * (int)choice;
	return (int)choice + (leader ? PENALTY_LEADER : 0) +
	       (parent ? PENALTY_PARENT : 0);
}

struct best {
	int proc_fd;
	pid_t leader;
	pid_t tid; /* 0: none seen yet */
	enum ut_choice choice;
	int cost;
};

bool ut_choose_parent(int proc_fd, pid_t tid)
{
	char path[64], text[16];

	snprintf(path, sizeof(path), "task/%d/children", tid);
	return ut_read_file(proc_fd, path, text, sizeof(text)) > 0;
}

static bool look(void *argument, const char *name)
{
	struct best *best = argument;
	pid_t tid = (pid_t)atoi(name);
	enum ut_choice choice = ut_choose_class(best->proc_fd, tid);
	bool leader = tid == best->leader;

	/* Most are no better even if they have no children: one file less to read. */
	if (!best->tid || cost(choice, leader, false) < best->cost) {
		int now = cost(choice, leader, ut_choose_parent(best->proc_fd, tid));

		if (!best->tid || now < best->cost) {
			best->tid = tid;
			best->choice = choice;
			best->cost = now;
		}
	}
	/* Nothing is better: a process may have thousands of threads. */
	return best->cost > 0;
}

int ut_choose(int proc_fd, pid_t pid, pid_t *tid, struct ut_error *error)
{
	struct best best = {.proc_fd = proc_fd, .leader = pid};

	/* ENOENT: /proc/PID/task of a process that is gone. */
	if (ut_list(proc_fd, "task", look, &best) && errno != ENOENT)
		return ut_fail(error, "list the threads", errno, 0, 0, 0);
	if (!best.tid || best.choice == UT_CHOICE_DEAD)
		return ut_fail(error, "list the threads", ESRCH, 0, 0, 0);
	*tid = best.tid;
	return (int)best.choice;
}
