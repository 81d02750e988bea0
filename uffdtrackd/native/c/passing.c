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

int ut_pass_fd(int socket, uint32_t mark, int fd)
{
	union control control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
	                                    .cmsg_level = SOL_SOCKET,
	                                    .cmsg_type = SCM_RIGHTS}};
	struct iovec vec = {&mark, sizeof(mark)};
	struct msghdr message = {.msg_iov = &vec,
	                         .msg_iovlen = 1,
	                         .msg_control = &control,
	                         .msg_controllen = sizeof(control)};

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -1 : 0;
}

int ut_take_fd(int socket, uint32_t mark, int *fd)
{
	uint32_t got = 0;
	union control control;
	struct iovec vec = {&got, sizeof(got)};
	struct msghdr message = {.msg_iov = &vec,
	                         .msg_iovlen = 1,
	                         .msg_control = &control,
	                         .msg_controllen = sizeof(control)};

	if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < 0)
		return -1;
	if (message.msg_flags & MSG_CTRUNC) { /* the descriptor table is full */
		errno = EMFILE;
		return -1;
	}
	if (message.msg_controllen < CMSG_LEN(sizeof(int)) || got != mark) {
		errno = EPROTO;
		return -1;
	}
	memcpy(fd, CMSG_DATA(&control.header), sizeof(*fd));
	return 0;
}
