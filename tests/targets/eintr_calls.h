/* The table of all calls of eintr.c. */
#ifndef EINTR_CALLS_H
#define EINTR_CALLS_H

#include "eintr_timed.h"
#include "eintr_woken.h"

struct call {
	const char *name;
	void (*body)(struct row *row);
	void (*open)(struct row *row);
	void (*wake)(struct row *row);
	void (*close)(struct row *row);
};

static const struct call calls[] = {
	{"epoll_wait", call_epoll_wait, open_epoll, NULL, NULL},
	{"epoll_pwait", call_epoll_pwait, open_epoll, NULL, NULL},
	{"epoll_pwait2", call_epoll_pwait2, open_epoll, NULL, NULL},
	{"epoll_pwait_signal", call_epoll_pwait_signal, open_epoll, wake_signal, NULL},
	{"poll", call_poll, open_eventfd, NULL, NULL},
	{"ppoll", call_ppoll, open_eventfd, NULL, NULL},
	{"ppoll_signal", call_ppoll_signal, NULL, wake_signal, NULL},
	{"select", call_select, open_eventfd, NULL, NULL},
	{"pselect", call_pselect, open_eventfd, NULL, NULL},
	{"ppoll_readonly", call_ppoll_readonly, open_eventfd, NULL, NULL},
	{"select_sticky", call_select_sticky, open_eventfd, NULL, NULL},
	{"nanosleep", call_nanosleep, NULL, NULL, NULL},
	{"clock_nanosleep", call_clock_nanosleep, NULL, NULL, NULL},
	{"clock_nanosleep_abs", call_clock_nanosleep_abs, NULL, NULL, NULL},
	{"futex", call_futex, NULL, NULL, NULL},
	{"futex_abs", call_futex_abs, NULL, NULL, NULL},
	{"sigtimedwait", call_sigtimedwait, NULL, NULL, NULL},
	{"sigwaitinfo", call_sigwaitinfo, NULL, wake_usr2, NULL},
	{"sigsuspend", call_sigsuspend, NULL, wake_signal, NULL},
	{"pause", call_pause, NULL, wake_signal, NULL},
	{"semtimedop", call_semtimedop, open_sem, NULL, close_sem},
	{"semop", call_semop, open_sem, wake_sem, close_sem},
	{"msgrcv", call_msgrcv, open_msg, wake_msg, close_msg},
	{"mq_timedreceive", call_mq_timedreceive, open_queue, NULL, NULL},
	{"recv", call_recv, open_sockets, NULL, NULL},
	{"recv_read", call_recv_read, open_sockets, NULL, NULL},
	{"send", call_send, open_full_socket, NULL, NULL},
	{"accept", call_accept, open_listener, NULL, NULL},
	{"io_getevents", call_io_getevents, open_aio, NULL, NULL},
	{"io_uring_enter", call_io_uring_enter, open_ring, NULL, NULL},
	{"inotify", call_inotify, open_inotify, wake_write, NULL},
	{"read_pipe", call_read_pipe, open_pipe, wake_write, NULL},
	{"read_eventfd", call_read_eventfd, open_event, wake_write, NULL},
	{"read_timerfd", call_read_timerfd, open_timer, NULL, NULL},
	{"read_signalfd", call_read_signalfd, open_signalfd, wake_usr2, NULL},
	{"flock", call_flock, open_lock, wake_lock, NULL},
	{"wait4", call_wait4, NULL, NULL, NULL},
	{"waitid", call_waitid, NULL, NULL, NULL},
};

enum { CALLS = sizeof(calls) / sizeof(*calls) };

#endif
