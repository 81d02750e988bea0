/* Which calls give EINTR to a thread that was merely stopped; eintr.h has the whole
 * story. */
#include "c/eintr.h"

#include <sys/syscall.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

bool ut_eintr_rerun(long call)
{
	switch (call) {
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_rt_sigtimedwait:
	case SYS_semop:
	case SYS_semtimedop:
	case SYS_io_getevents:
	case SYS_io_pgetevents:
	/*
	 * With a timeout that cannot be written (read-only memory), or the personality
	 * STICKY_TIMEOUTS, the kernel gives EINTR for what it would restart otherwise,
	 * because it cannot note what is left of the timeout (poll_select_finish() in
	 * fs/select.c). No descriptor was ready: else their count is returned. The
	 * program finds its timeout unchanged, as in any other row here.
	 */
	case SYS_ppoll:
	case SYS_pselect6:
	case SYS_select:
	/* EINTR here means that nothing was submitted: else the count is returned. */
	case SYS_io_uring_enter:
	/*
	 * Sockets with SO_RCVTIMEO or SO_SNDTIMEO (sock_intr_errno() in the kernel),
	 * also when used through read and write. What was moved before would have been
	 * returned as a count.
	 */
	case SYS_read:
	case SYS_readv:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_write:
	case SYS_writev:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
	case SYS_accept:
	case SYS_accept4:
	case SYS_connect:
		return true;
	/*
	 * Never close(): it returns EINTR after the descriptor is gone, and a second
	 * run would close whatever another thread got under that number.
	 */
	default:
		return false;
	}
}
