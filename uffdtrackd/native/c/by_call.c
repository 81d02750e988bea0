/*
 * The userfaultfd by one injected userfaultfd(2), fetched from the target's descriptor
 * table and closed there. Nothing is mapped or written, so there is nothing that a policy
 * against executable memory, an address-space limit or a full table of mappings could
 * refuse. api/inject.h says when this is enough.
 */
#include "c/window.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "c/ours.h"

#ifndef UFFD_USER_MODE_ONLY /* linux/userfaultfd.h, Linux 5.11 */
#define UFFD_USER_MODE_ONLY 1
#endif

static int create(struct ut_window *window, uint64_t flags, long *result,
                  struct ut_error *error)
{
	uint64_t args[6] = {flags};

	for (int tries = 0;; tries++) {
		if (ut_remote_call(&window->remote, SYS_userfaultfd, args, result, error))
			return -1;
		if (*result != -EMFILE || tries ||
		    !ut_limits_raise(&window->limits, window->remote.tid, EMFILE,
		                     &window->fault))
			return 0;
	}
}

int ut_by_call(struct ut_window *window, struct ut_error *error)
{
	uint64_t flags = O_CLOEXEC | O_NONBLOCK;
	pid_t tid = window->remote.tid;
	long fd;

	window->result->method = UT_METHOD_CALL;
	window->result->user_mode_only = !window->args->kernel_faults;
	if (!window->args->kernel_faults)
		flags |= UFFD_USER_MODE_ONLY;
	if (create(window, flags, &fd, error))
		return -1;
	if (fd < 0)
		return ut_fail(error, "userfaultfd in the target", (int)-fd, tid, 0, 0);
	window->target_fd = (int32_t)fd; /* closed there with everything else */
	ut_fault_point(&window->fault, UT_POINT_MADE);

	if (ut_fault_call(&window->fault, UT_FAULT_TRACER))
		window->uffd = -1;
	else
		window->uffd = (int)syscall(SYS_pidfd_getfd, window->pidfd, fd, 0);
	if (window->uffd < 0 && errno != EBADF)
		return ut_fail(error, "pidfd_getfd", errno, tid, 0, 0);
	if (window->uffd < 0 || !ut_own_kind(window->uffd, UT_KIND_UFFD)) {
		/* Another thread closed ours: what is there, if anything, is not ours. */
		if (window->uffd >= 0)
			close(window->uffd);
		window->uffd = window->target_fd = -1;
		return ut_replaced(window, "fetch the userfaultfd", error);
	}
	ut_fault_point(&window->fault, UT_POINT_RECEIVED);
	return 0;
}
