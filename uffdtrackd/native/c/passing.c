/* Descriptors over a socket; passing.h. */
#include "c/passing.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(sizeof(int))];
};

int ut_pass(int socket, const void *message, size_t length, int fd)
{
	union control control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
	                                    .cmsg_level = SOL_SOCKET,
	                                    .cmsg_type = SCM_RIGHTS}};
	struct iovec vec = {(void *)message, length};
	struct msghdr header = {.msg_iov = &vec, .msg_iovlen = 1};

	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
	}
	return sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -1 : 0;
}

int ut_take(int socket, void *message, size_t length, int *fd)
{
	union control control;
	struct iovec vec = {message, length};
	struct msghdr header = {.msg_iov = &vec,
	                        .msg_iovlen = 1,
	                        .msg_control = &control,
	                        .msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	*fd = -1;
	if (got < 0)
		return -1;
	if (header.msg_flags & MSG_CTRUNC) /* the descriptor table is full */
		errno = EMFILE;
	else if (got == 0)
		errno = EPIPE;
	else if ((size_t)got != length)
		errno = EPROTO;
	else
		errno = 0;
	if (header.msg_controllen >= CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(&control.header), sizeof(*fd));
	return errno ? -1 : 0;
}
