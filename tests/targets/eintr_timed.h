/*
 * Calls with a timeout, which must end with it and not before.
 */
#ifndef EINTR_TIMED_H
#define EINTR_TIMED_H

#include "eintr_row.h"

static void open_epoll(struct row *row)
{
	struct epoll_event event = {.events = EPOLLIN};

	row->fd[0] = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
	row->fd[1] = checked(eventfd(0, EFD_CLOEXEC), "eventfd");
	checked(epoll_ctl(row->fd[0], EPOLL_CTL_ADD, row->fd[1], &event), "epoll_ctl");
}

static struct epoll_event events[4];
static sigset_t usr2;

TIMED(epoll_wait, 0, 0,
      syscall(SYS_epoll_wait, row->fd[0], events, 4, (int)(row->timeout_ns / MS)))
TIMED(epoll_pwait, 0, 0,
      syscall(SYS_epoll_pwait, row->fd[0], events, 4, (int)(row->timeout_ns / MS), &usr2,
              8))
TIMED(epoll_pwait2, 0, 0, syscall(SYS_epoll_pwait2, row->fd[0], events, 4, &t, &usr2, 8))

static void open_eventfd(struct row *row)
{
	row->fd[0] = checked(eventfd(0, EFD_CLOEXEC), "eventfd");
}

static long do_poll(struct row *row, const struct timespec *t, const sigset_t *mask)
{
	struct pollfd fd = {.fd = row->fd[0], .events = POLLIN};

	if (mask)
		return ppoll(&fd, 1, t, mask);
	return poll(&fd, 1, (int)(row->timeout_ns / MS));
}

static long do_select(struct row *row, struct timespec *t, const sigset_t *mask)
{
	struct timeval left = {t->tv_sec, t->tv_nsec / 1000};
	fd_set set;

	FD_ZERO(&set);
	FD_SET(row->fd[0], &set);
	if (mask)
		return pselect(row->fd[0] + 1, &set, NULL, NULL, t, mask);
	return select(row->fd[0] + 1, &set, NULL, NULL, &left);
}

TIMED(poll, 0, 0, do_poll(row, &t, NULL))
TIMED(ppoll, 0, 0, do_poll(row, &t, &usr2))
TIMED(select, 0, 1000, do_select(row, &t, NULL))
TIMED(pselect, 0, 0, do_select(row, &t, &usr2))

/* The kernel cannot say what is left, and gives EINTR where it would else go on by
 * itself. */
#define ASK 0xffffffff /* personality(2): only tells */

static long select_untold(struct row *row, const struct timespec *t, int sticky)
{
	struct pollfd fd = {.fd = row->fd[0], .events = POLLIN};
	struct timeval left = {t->tv_sec, t->tv_nsec / 1000};
	struct timespec *page;
	fd_set set;
	long result;

	if (sticky) {
		FD_ZERO(&set);
		FD_SET(row->fd[0], &set);
		personality(personality(ASK) | STICKY_TIMEOUTS);
		result = syscall(SYS_select, row->fd[0] + 1, &set, NULL, NULL, &left);
		personality(personality(ASK) & ~STICKY_TIMEOUTS);
		return result;
	}
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	            0);
	*page = *t;
	mprotect(page, 4096, PROT_READ);
	result = syscall(SYS_ppoll, &fd, 1, page, NULL, 8);
	munmap(page, 4096);
	return result;
}

TIMED(ppoll_readonly, 0, 0, select_untold(row, &t, 0))
TIMED(select_sticky, 0, 1000, select_untold(row, &t, 1))
TIMED(nanosleep, 0, 0, syscall(SYS_nanosleep, &t, NULL))
TIMED(clock_nanosleep, 0, 0, syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, NULL))

static long sleep_until(int64_t end)
{
	struct timespec t = timespec_of(end);

	return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static long futex(int operation, int64_t ns)
{
	struct timespec t = timespec_of(ns);
	uint32_t word = 7;

	return syscall(SYS_futex, &word, operation | FUTEX_PRIVATE_FLAG, 7, &t, NULL,
	               FUTEX_BITSET_MATCH_ANY);
}

TIMED(clock_nanosleep_abs, 0, 0, sleep_until(began + row->timeout_ns))
TIMED(futex, ETIMEDOUT, 0, futex(FUTEX_WAIT, row->timeout_ns))
TIMED(futex_abs, ETIMEDOUT, 0, futex(FUTEX_WAIT_BITSET, began + row->timeout_ns))
TIMED(sigtimedwait, EAGAIN, 0, syscall(SYS_rt_sigtimedwait, &usr2, NULL, &t, 8))

static void open_sem(struct row *row)
{
	row->id = checked(semget(IPC_PRIVATE, 1, 0600), "semget");
}

static long take(struct row *row, const struct timespec *t)
{
	struct sembuf down = {0, -1, 0};

	return syscall(SYS_semtimedop, row->id, &down, 1, t);
}

TIMED(semtimedop, EAGAIN, TICK, take(row, &t))

static void set_timeout(struct row *row, int fd, int option)
{
	struct timeval t = {0, row->timeout_ns / 1000};

	checked(setsockopt(fd, SOL_SOCKET, option, &t, sizeof(t)), "SO_RCVTIMEO");
}

static void open_sockets(struct row *row)
{
	checked(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, row->fd),
	        "socketpair");
	set_timeout(row, row->fd[0], SO_RCVTIMEO);
	set_timeout(row, row->fd[0], SO_SNDTIMEO);
}

/* With room for nothing more: a send then blocks before it has sent a byte. */
static void open_full_socket(struct row *row)
{
	char buffer[4096] = {0};

	open_sockets(row);
	while (send(row->fd[0], buffer, sizeof(buffer), MSG_DONTWAIT) > 0)
		;
	while (send(row->fd[0], buffer, 1, MSG_DONTWAIT) > 0)
		;
}

static void open_listener(struct row *row)
{
	struct sockaddr_un any = {.sun_family = AF_UNIX};

	row->fd[0] = checked(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
	checked(bind(row->fd[0], (struct sockaddr *)&any, sizeof(any.sun_family)),
	        "bind");
	checked(listen(row->fd[0], 1), "listen");
	set_timeout(row, row->fd[0], SO_RCVTIMEO);
}

static char bytes[64];

TIMED(recv, EAGAIN, TICK,
      syscall(SYS_recvfrom, row->fd[0], bytes, sizeof(bytes), 0, NULL, NULL))
TIMED(recv_read, EAGAIN, TICK, syscall(SYS_read, row->fd[0], bytes, sizeof(bytes)))
TIMED(send, EAGAIN, TICK, syscall(SYS_sendto, row->fd[0], bytes, 1, 0, NULL, 0))
TIMED(accept, EAGAIN, TICK, syscall(SYS_accept4, row->fd[0], NULL, NULL, 0))

static aio_context_t aio;

static void open_aio(struct row *row)
{
	(void)row;
	aio = 0;
	checked((int)syscall(SYS_io_setup, 1, &aio), "io_setup");
}

TIMED(io_getevents, 0, 0, syscall(SYS_io_getevents, aio, 1, 1, events, &t))

static void open_ring(struct row *row)
{
	struct io_uring_params params = {0};

	row->fd[0] = (int)syscall(SYS_io_uring_setup, 4, &params);
	/* A machine may forbid it: kernel.io_uring_disabled. */
	row->missing = row->fd[0] < 0;
}

static long enter_ring(struct row *row, struct timespec *t)
{
	struct io_uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)t};

	return syscall(SYS_io_uring_enter, row->fd[0], 0, 1,
	               IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof(arg));
}

TIMED(io_uring_enter, ETIME, 0, enter_ring(row, &t))

static void open_queue(struct row *row)
{
	struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = sizeof(bytes)};
	char name[32];

	snprintf(name, sizeof(name), "/eintr-%d", gettid());
	row->fd[0] = checked(mq_open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600, &attr),
	                     "mq_open");
	mq_unlink(name);
}

static long receive_queue(struct row *row)
{
	struct timespec t = timespec_of(now_ns(CLOCK_REALTIME) + row->timeout_ns);

	return syscall(SYS_mq_timedreceive, row->fd[0], bytes, sizeof(bytes), NULL, &t);
}

TIMED(mq_timedreceive, ETIMEDOUT, 0, receive_queue(row))

static void open_timer(struct row *row)
{
	row->fd[0] =
		checked(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), "timerfd_create");
}

static long read_timer(struct row *row)
{
	struct itimerspec once = {.it_value = timespec_of(row->timeout_ns)};
	uint64_t times = 0;

	timerfd_settime(row->fd[0], 0, &once, NULL);
	return read(row->fd[0], &times, sizeof(times)) == 8 && times == 1 ? 0 : -1;
}

TIMED(read_timerfd, 0, 0, read_timer(row))

/* The child sleeps and exits; nothing of ours may run in it: other threads exist. */
static pid_t child_that_sleeps(struct row *row)
{
	struct timespec t = timespec_of(row->timeout_ns);
	pid_t pid = checked(fork(), "fork");

	if (pid == 0) {
		syscall(SYS_nanosleep, &t, NULL);
		syscall(SYS_exit_group, 0);
	}
	return pid;
}

static long wait_child(struct row *row)
{
	pid_t pid = child_that_sleeps(row);
	long got = syscall(SYS_wait4, pid, NULL, 0, NULL);

	return got == pid ? 0 : -1;
}

static long wait_child_by_waitid(struct row *row)
{
	pid_t pid = child_that_sleeps(row);
	siginfo_t info;

	return syscall(SYS_waitid, P_PID, pid, &info, WEXITED, NULL);
}

TIMED(wait4, 0, 0, wait_child(row))
TIMED(waitid, 0, 0, wait_child_by_waitid(row))

#endif
