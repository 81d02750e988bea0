/*
 * The code that runs inside a target, for some tens of microseconds, to make a
 * userfaultfd that sees faults from kernel mode as well: only a thread of the target can
 * make one for its address space, and a target without privilege may do so only through
 * /dev/userfaultfd, which it cannot open. So that comes to it through a socket.
 *
 *     parasite                            injector
 *                                         has put the device into the socket
 *     receive                  <- socket
 *     USERFAULTFD_IOC_NEW
 *     send UFFD                  socket ->
 *     close all but sockets[0]
 *     send PARKED                socket ->
 *     read                                stops the thread, closes, unmaps, restores
 *      '--> end of file: the injector is dead: cure
 *
 * Laws of this file:
 *  - no libc, no global data, no relocation, no stack but the data page's own;
 *  - everything is inlined into one function: no call, no ret (arch/x86_64.h says why);
 *  - no floating point and no vector register (-mgeneral-regs-only): nobody saved them;
 *  - no call that uses the restart block (poll, nanosleep, futex with a timeout): the
 * target's own interrupted call needs it to go on;
 *  - it waits in one place only, and that wait ends when the injector does.
 */
#include "parasite.h"

#include <stddef.h>

#ifdef PARASITE_HOST_TEST
#include "host_test.h"
#else
#include "arch/x86_64.h"
#endif

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>

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

INLINE long call(struct parasite *self, long nr, long a, long b, long c, long d)
{
	if (++self->calls == self->fail_call)
		return -EIO;
	return parasite_syscall(nr, a, b, c, d);
}

/* For what must be done: an EIO can only be a test's doing, and nothing was done then. */
INLINE long call_surely(struct parasite *self, long nr, long a, long b, long c, long d)
{
	long result;

	do
		result = call(self, nr, a, b, c, d);
	while (result == -EIO);
	return result;
}

INLINE void close_fd(struct parasite *self, int32_t *fd)
{
	int32_t old = *fd;

	if (old < 0)
		return;
	/* Forgotten first: closed twice it could hit another thread's new descriptor. */
	__atomic_store_n(fd, -1, __ATOMIC_RELEASE);
	call_surely(self, SYS_close, old, 0, 0, 0);
}

/* One message with, if fd is not -1, one descriptor. NOSIGNAL: a SIGPIPE would be the
 * target's. */
INLINE long say(struct parasite *self, const struct parasite_message *message, int32_t fd)
{
	union control control;
	struct iovec vec = {.iov_base = (void *)message, .iov_len = sizeof(*message)};
	struct msghdr header = {.msg_iov = &vec, .msg_iovlen = 1};

	if (fd >= 0) {
		control.header.cmsg_len = CMSG_LEN(sizeof(int32_t));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		*(int32_t *)CMSG_DATA(&control.header) = fd;
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
	}
	return call(self, SYS_sendmsg, self->sockets[0], (long)&header,
	            MSG_NOSIGNAL | MSG_DONTWAIT, 0);
}

INLINE int failed(struct parasite_message *message, uint32_t step, long result)
{
	message->word = PARASITE_FAILED;
	message->step = step;
	message->error = (int32_t)-result;
	return -1;
}

INLINE int receive_device(struct parasite *self, struct parasite_message *message)
{
	union control control;
	struct iovec vec = {.iov_base = message, .iov_len = sizeof(*message)};
	struct msghdr header = {.msg_iov = &vec,
	                        .msg_iovlen = 1,
	                        .msg_control = &control,
	                        .msg_controllen = sizeof(control)};
	long got = call(self, SYS_recvmsg, self->sockets[0], (long)&header,
	                MSG_CMSG_CLOEXEC | MSG_DONTWAIT, 0);

	if (got < 0)
		return failed(message, PARASITE_STEP_RECEIVE, got);
	/* The kernel drops a descriptor for which there is no free number, and says only
	 * this. */
	if (header.msg_flags & MSG_CTRUNC)
		return failed(message, PARASITE_STEP_RECEIVE, -EMFILE);
	/* Whatever came is ours to close. */
	if (header.msg_controllen >= CMSG_LEN(sizeof(int32_t)))
		self->device = *(int32_t *)CMSG_DATA(&control.header);
	if (message->word != PARASITE_DEVICE || self->device < 0)
		return failed(message, PARASITE_STEP_RECEIVE, -EPROTO);
	return 0;
}

INLINE int serve(struct parasite *self, struct parasite_message *message)
{
	if (receive_device(self, message))
		return -1;

	long result = call(self, SYS_ioctl, self->device, USERFAULTFD_IOC_NEW,
	                   (long)self->uffd_flags, 0);

	if (result < 0)
		return failed(message, PARASITE_STEP_CREATE, result);
	self->uffd = (int32_t)result;

	message->word = PARASITE_UFFD;
	result = say(self, message, self->uffd);
	if (result < 0)
		return failed(message, PARASITE_STEP_SEND, result);
	message->word = PARASITE_PARKED;
	return 0;
}

__attribute__((noreturn, used, section(".text.entry"))) void
parasite_main(struct parasite *self)
{
	struct parasite_message message = {.word = 0};
	char byte;

	/*
	 * The injector has a copy of its own. Without this one its death is our end of
	 * file.
	 */
	close_fd(self, &self->sockets[1]);
	serve(self, &message);
	close_fd(self, &self->uffd);
	close_fd(self, &self->device);
	while (say(self, &message, -1) == -EIO)
		; /* only a test's doing, as in call_surely() */

	/*
	 * While the injector lives it stops the thread in here, and this never ends. What
	 * may still be in the socket is a message that could not be received.
	 */
	while (call_surely(self, SYS_read, self->sockets[0], (long)&byte, 1, 0) > 0)
		;

	/*
	 * Cure: the injector is dead. Its end of ptrace is gone as well, so nothing stops
	 * this thread any more. The two pages stay mapped: code cannot unmap itself and
	 * go on.
	 */
	close_fd(self, &self->sockets[0]);
	__atomic_store_n(&self->cured, 1, __ATOMIC_RELEASE);
	parasite_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (long)&self->mask, 0,
	                 KERNEL_SIGSET);
	PARASITE_RESUME(self);
}
