/*
 * The code that runs inside a target, for some tens of microseconds, to make a
 * userfaultfd for it: only a thread of the target can, because the kernel binds a
 * userfaultfd to the address space of whoever asks.
 *
 *     parasite                            injector
 *     socketpair                 state -> SOCKET
 *                                         pidfd_getfd(sockets[1])
 *     receive                  <- socket  sends /dev/userfaultfd
 *     USERFAULTFD_IOC_NEW
 *     send the userfaultfd       socket ->
 *     close all but sockets[0]   state -> PARKED
 *     read                                stops the thread, closes, unmaps, restores
 *      '--> end of file: the injector is dead: cure
 *
 * Laws of this file:
 *  - no libc, no global data, no relocation, no stack but the data page's own;
 *  - every function but the entry is inlined: no call, no ret (arch/x86_64.h says why);
 *  - no floating point and no vector register (-mgeneral-regs-only): nobody saved them;
 *  - no call that uses the restart block (poll, nanosleep, futex with a timeout): the
 *    target's own interrupted call needs it to go on. ppoll does not use it;
 *  - it never waits for ever for something whose end it cannot see.
 */
#include "parasite.h"

#include <stddef.h>

#ifdef PARASITE_HOST_TEST
#include "host_test.h"
#else
#include "arch/x86_64.h"
PARASITE_ENTRY;
#endif

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

/* ioctl of /dev/userfaultfd, Linux 6.1: newer than the headers of some distributions. */
#define USERFAULTFD_IOC_NEW 0xaa00

#define INLINE static inline __attribute__((always_inline))

/* The kernel's sigset_t is 8 bytes, libc's is 128. */
#define KERNEL_SIGSET 8

/* Space for a control message with one descriptor, aligned as the kernel wants it. */
union control {
	struct cmsghdr header;
	unsigned char bytes[CMSG_SPACE(sizeof(int32_t))];
};

INLINE long call(struct parasite *self, long nr, long a, long b, long c, long d, long e)
{
	if (++self->calls == self->fail_call)
		return -EIO;
	return parasite_syscall(nr, a, b, c, d, e);
}

/* What the injector may read from outside is written before the state that says so. */
INLINE void tell(struct parasite *self, uint32_t state)
{
	__atomic_store_n(&self->state, state, __ATOMIC_RELEASE);
}

INLINE int failed(struct parasite *self, uint32_t step, long result)
{
	self->step = step;
	self->error = (int32_t)-result;
	return -1;
}

INLINE void close_fd(struct parasite *self, int32_t *fd)
{
	int32_t old = *fd;

	if (old < 0)
		return;
	/* Forgotten first: closed twice it could hit another thread's new descriptor. */
	__atomic_store_n(fd, -1, __ATOMIC_RELEASE);
	/* -EIO: only a test's doing, nothing was closed. */
	if (call(self, SYS_close, old, 0, 0, 0, 0) == -EIO)
		parasite_syscall(SYS_close, old, 0, 0, 0, 0);
}

/* Waits for input (fd -1: for nothing) or patience_s seconds: as ppoll(2) returns. */
INLINE long wait_input(struct parasite *self, int32_t fd)
{
	struct pollfd poll = {.fd = fd, .events = POLLIN};
	struct timespec patience = {.tv_sec = self->patience_s};

	return call(self, SYS_ppoll, (long)&poll, 1, (long)&patience, 0, KERNEL_SIGSET);
}

INLINE void message(struct msghdr *msg, struct iovec *vec, uint32_t *mark,
                    union control *control)
{
	vec->iov_base = mark;
	vec->iov_len = sizeof(*mark);
	msg->msg_name = NULL;
	msg->msg_namelen = 0;
	msg->msg_iov = vec;
	msg->msg_iovlen = 1;
	msg->msg_control = control;
	msg->msg_controllen = sizeof(*control);
	msg->msg_flags = 0;
	control->header.cmsg_len = CMSG_LEN(sizeof(int32_t));
	control->header.cmsg_level = SOL_SOCKET;
	control->header.cmsg_type = SCM_RIGHTS;
}

INLINE int receive_device(struct parasite *self)
{
	struct msghdr msg;
	struct iovec vec;
	uint32_t mark = 0;
	union control control;

	message(&msg, &vec, &mark, &control);

	long got = call(self, SYS_recvmsg, self->sockets[0], (long)&msg,
	                MSG_CMSG_CLOEXEC | MSG_DONTWAIT, 0, 0);

	if (got < 0)
		return failed(self, PARASITE_STEP_RECEIVE, got);
	/* The kernel drops a descriptor for which there is no free number, and says only
	 * this. */
	if (msg.msg_flags & MSG_CTRUNC)
		return failed(self, PARASITE_STEP_RECEIVE, -EMFILE);
	if (mark != PARASITE_MARK || msg.msg_controllen < CMSG_LEN(sizeof(int32_t)))
		return failed(self, PARASITE_STEP_RECEIVE, -EPROTO);
	self->device = *(int32_t *)CMSG_DATA(&control.header);
	return 0;
}

INLINE int send_uffd(struct parasite *self)
{
	struct msghdr msg;
	struct iovec vec;
	uint32_t mark = PARASITE_MARK;
	union control control;

	message(&msg, &vec, &mark, &control);
	*(int32_t *)CMSG_DATA(&control.header) = self->uffd;

	/* NOSIGNAL: the injector may be dead, and a SIGPIPE would be the target's. */
	long sent = call(self, SYS_sendmsg, self->sockets[0], (long)&msg,
	                 MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0);

	return sent < 0 ? failed(self, PARASITE_STEP_SEND, sent) : 0;
}

INLINE int serve(struct parasite *self)
{
	long result = call(self, SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC,
	                   0, (long)self->sockets, 0);

	if (result < 0)
		return failed(self, PARASITE_STEP_SOCKETPAIR, result);
	tell(self, PARASITE_SOCKET);

	result = wait_input(self, self->sockets[0]);
	if (result <= 0)
		return failed(self, PARASITE_STEP_WAIT, result ? result : -ETIMEDOUT);
	if (receive_device(self))
		return -1;
	/* Something came, so the injector has its copy: from here on its end is the end.
	 */
	close_fd(self, &self->sockets[1]);

	result = call(self, SYS_ioctl, self->device, USERFAULTFD_IOC_NEW,
	              self->uffd_flags, 0, 0);
	if (result < 0)
		return failed(self, PARASITE_STEP_CREATE, result);
	self->uffd = (int32_t)result;
	return send_uffd(self);
}

/*
 * Returns when the injector is gone: at end of file, or without a socket after a while.
 * While it lives it stops the thread in here, and the call is never returned from.
 */
INLINE void park(struct parasite *self)
{
	char byte;
	long result;

	do {
		if (self->sockets[0] >= 0)
			result = call(self, SYS_read, self->sockets[0], (long)&byte, 1, 0,
			              0);
		else
			result = wait_input(self, -1);
	} while (result == -EIO); /* only a test's doing */
}

__attribute__((noreturn, used)) void parasite_main(struct parasite *self)
{
	int error = serve(self);

	close_fd(self, &self->uffd);
	close_fd(self, &self->device);
	if (error) {
		/* The other end too may only be here: no end of file would ever come. */
		close_fd(self, &self->sockets[1]);
		close_fd(self, &self->sockets[0]);
		tell(self, PARASITE_FAILED);
	} else {
		tell(self, PARASITE_PARKED);
	}
	park(self);
	close_fd(self, &self->sockets[0]);

	/*
	 * Cure: the injector is dead. Its end of ptrace is gone as well, so nothing stops
	 * this thread any more. The two pages stay mapped: code cannot unmap itself and
	 * go on.
	 */
	tell(self, PARASITE_CURED);
	parasite_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (long)&self->mask, 0,
	                 KERNEL_SIGSET, 0);
	PARASITE_RESUME(self);
}
