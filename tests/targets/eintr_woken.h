/*
 * Calls without a timeout, ended by the waker: by an event, or by a signal with a
 * handler, where EINTR is right.
 */
#ifndef EINTR_WOKEN_H
#define EINTR_WOKEN_H

#include "eintr_timed.h"

WOKEN(semop, 0, take(row, NULL))

static void wake_sem(struct row *row)
{
	struct sembuf up = {0, 1, 0};

	/* One at a time: what is left over would satisfy a later call by itself. */
	if (semctl(row->id, 0, GETVAL) == 0)
		semop(row->id, &up, 1);
}

static void close_sem(struct row *row)
{
	semctl(row->id, 0, IPC_RMID);
}

struct message {
	long type;
	char text[8];
};

static void open_msg(struct row *row)
{
	row->id = checked(msgget(IPC_PRIVATE, 0600), "msgget");
}

static long receive_message(struct row *row)
{
	struct message message;

	return msgrcv(row->id, &message, sizeof(message.text), 0, 0);
}

WOKEN(msgrcv, 8, receive_message(row))

static void wake_msg(struct row *row)
{
	struct message message = {1, "message"};
	struct msqid_ds state;

	if (!msgctl(row->id, IPC_STAT, &state) && !state.msg_qnum)
		msgsnd(row->id, &message, sizeof(message.text), IPC_NOWAIT);
}

static void close_msg(struct row *row)
{
	msgctl(row->id, IPC_RMID, NULL);
}

static void open_inotify(struct row *row)
{
	/* A file of a real file system: the kernel tells nothing of memfds. */
	char path[] = "/tmp/eintr-XXXXXX";

	row->fd[0] = checked(inotify_init1(IN_CLOEXEC), "inotify_init1");
	row->fd[1] = checked(mkostemp(path, O_CLOEXEC), "mkostemp");
	checked(inotify_add_watch(row->fd[0], path, IN_MODIFY), "inotify_add_watch");
	unlink(path);
}

static long read_some(int fd)
{
	char buffer[4096];

	return read(fd, buffer, sizeof(buffer)) > 0 ? 1 : -1;
}

WOKEN(inotify, 1, read_some(row->fd[0]))

static void wake_write(struct row *row)
{
	static const char text[8] = {1};

	if (pwrite(row->fd[1], text, sizeof(text), 0) < 0 && errno == ESPIPE &&
	    write(row->fd[1], text, sizeof(text)) < 0)
		victim_fail("waker: %s", strerror(errno));
}

static void open_pipe(struct row *row)
{
	checked(pipe2(row->fd, O_CLOEXEC), "pipe2");
}

WOKEN(read_pipe, 1, read_some(row->fd[0]))

static void open_event(struct row *row)
{
	open_eventfd(row);
	row->fd[1] = row->fd[0];
}

WOKEN(read_eventfd, 1, read_some(row->fd[0]))

/* The waker holds the lock until it is wanted. */
static void open_lock(struct row *row)
{
	char path[64];

	row->fd[0] = checked(memfd_create("lock", MFD_CLOEXEC), "memfd_create");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", row->fd[0]);
	row->fd[1] = checked(open(path, O_RDWR | O_CLOEXEC), "open");
	checked(flock(row->fd[1], LOCK_EX), "flock");
}

static long lock(struct row *row)
{
	long result = flock(row->fd[0], LOCK_EX);

	if (!result) {
		flock(row->fd[0], LOCK_UN);
		row->wanted = 2; /* and take it again */
		while (row->wanted == 2)
			sched_yield();
	}
	return result;
}

WOKEN(flock, 0, lock(row))

static void wake_lock(struct row *row)
{
	flock(row->fd[1], LOCK_UN);
	while (row->wanted == 1)
		sched_yield();
	flock(row->fd[1], LOCK_EX);
	row->wanted = 0;
}

/* EINTR is right here, if and only if the handler has run. */
static void expect_signal(struct row *row, long result, int handled)
{
	if (result != -1 || errno != EINTR) {
		row->last_error = result < 0 ? errno : 0;
		row->wrong++;
	} else if (row->handled == handled) {
		row->interrupted++;
	}
}

static void wake_signal(struct row *row)
{
	syscall(SYS_tgkill, getppid(), row->tid, SIGUSR1);
}

#define SIGNALLED(NAME, BODY)                                                            \
	static void call_##NAME(struct row *row)                                         \
	{                                                                                \
		sigset_t usr1 = only(SIGUSR1), none = no_signals();                      \
		int handled;                                                             \
		long result;                                                             \
                                                                                         \
		(void)none;                                                              \
		sigprocmask(SIG_BLOCK, &usr1, NULL);                                     \
		handled = row->handled;                                                  \
		row->wanted = 1;                                                         \
		result = BODY;                                                           \
		row->wanted = 0;                                                         \
		expect_signal(row, result, handled);                                     \
	}

SIGNALLED(sigsuspend, syscall(SYS_rt_sigsuspend, &none, 8))
SIGNALLED(ppoll_signal, syscall(SYS_ppoll, NULL, 0, NULL, &none, 8))
SIGNALLED(epoll_pwait_signal,
          syscall(SYS_epoll_pwait, row->fd[0], events, 4, -1, &none, 8))

/* The signal must come after the start of pause(): the waker sends it again and again. */
static void call_pause(struct row *row)
{
	int handled = row->handled;
	long result;

	row->wanted = 1;
	result = pause();
	row->wanted = 0;
	expect_signal(row, result, handled);
}

static void open_signalfd(struct row *row)
{
	row->fd[0] = checked(signalfd(-1, &usr2, SFD_CLOEXEC), "signalfd");
}

/* sigwaitinfo without a timeout, ended by a signal that is blocked. */
static long wait_signal(void)
{
	return syscall(SYS_rt_sigtimedwait, &usr2, NULL, NULL, 8);
}

WOKEN(sigwaitinfo, SIGUSR2, wait_signal())
WOKEN(read_signalfd, 1, read_some(row->fd[0]))

static void wake_usr2(struct row *row)
{
	syscall(SYS_tgkill, getppid(), row->tid, SIGUSR2);
}

#endif
