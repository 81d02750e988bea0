/*
 * The userfaultfd by way of the parasite: mapped, written, connected, run, listened to.
 * parasite/parasite.h has the two pages and the messages, parasite/parasite.c the other
 * half.
 */
#include "c/window.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parasite.h"
#include "parasite_blob.h" /* UT_BLOB: made by the build from parasite/ */

#include "c/eintr.h"
#include "c/ours.h"
#include "c/passing.h"

/* How often to look for a stop that should not be, while waiting for the parasite. */
#define LOOK_MS 2

static const char *const step_names[] = {
	[PARASITE_STEP_NONE] = "parasite",
	[PARASITE_STEP_RECEIVE] = "receive the device in the target",
	[PARASITE_STEP_CREATE] = "userfaultfd in the target",
	[PARASITE_STEP_SEND] = "send the userfaultfd from the target",
};

/* A call in the target; what a limit refuses is tried again with that limit raised. */
static int call_with_room(struct ut_window *window, const char *step, long call,
                          const uint64_t args[6], long *result, struct ut_error *error)
{
	for (int tries = 0;; tries++) {
		if (ut_remote_call(&window->remote, call, args, result, error))
			return -1;
		if (*result >= 0)
			return 0;
		if (tries || !ut_limits_raise(&window->limits, window->remote.tid,
		                              (int)-*result, &window->fault))
			return ut_fail(error, step, (int)-*result, window->remote.tid,
			               window->base, 0);
	}
}

/*
 * Read and execute, and written from outside: never writable and executable at once,
 * which PR_SET_MDWE and SELinux would refuse; nor executable after having been writable.
 */
static int map(struct ut_window *window, struct ut_error *error)
{
	uint64_t args[6] = {
		0,
		2 * PARASITE_PAGE,
		PROT_READ | PROT_EXEC,
		MAP_PRIVATE | MAP_ANONYMOUS,
		(uint64_t)-1,
		0,
	};
	long result;

	if (call_with_room(window, "mmap in the target", SYS_mmap, args, &result, error))
		return -1;
	window->base = window->mapped = (uint64_t)result;

	ut_fault_point(&window->fault, UT_POINT_MADE);

	/* Another thread may fork: no child gets these pages. If that cannot be, it does.
	 */
	uint64_t advice[6] = {window->base, 2 * PARASITE_PAGE, MADV_DONTFORK};

	return ut_remote_call(&window->remote, SYS_madvise, advice, &result, error);
}

static int write_pages(struct ut_window *window, struct ut_error *error)
{
	struct {
		unsigned char code[PARASITE_PAGE];
		struct parasite data;
	} image = {
		.code = UT_BLOB,
		.data =
			{
				.version = PARASITE_VERSION,
				.sockets = {-1, -1},
				.device = -1,
				.uffd = -1,
				.uffd_flags = O_CLOEXEC | O_NONBLOCK,
				.calls = window->result->calls.parasite,
				.fail_call = window->args->fail.parasite,
				.mask = window->remote.mask,
			},
	};
	const struct ut_regs *regs = &window->remote.regs;

	ut_regs_cure(regs, ut_eintr_rerun(ut_regs_call(regs)), &image.data.frame);
	return ut_poke(window, window->base, &image, sizeof(image), error);
}

/*
 * A socketpair in the target, of which we fetch one end. So there is no name, no port, no
 * network or mount namespace between us, and nothing that a third could connect to.
 */
static int connect_parasite(struct ut_window *window, struct ut_error *error)
{
	uint64_t data = window->base + PARASITE_PAGE;
	uint64_t protect[6] = {data, PARASITE_PAGE, PROT_READ | PROT_WRITE};
	uint64_t pair[6] = {AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
	                    data + offsetof(struct parasite, sockets)};
	int32_t sockets[2];
	long result;

	if (call_with_room(window, "mprotect in the target", SYS_mprotect, protect,
	                   &result, error) ||
	    call_with_room(window, "socketpair in the target", SYS_socketpair, pair,
	                   &result, error) ||
	    ut_peek(window, pair[3], sockets, sizeof(sockets), error))
		return -1;

	if (ut_fault_call(&window->fault, UT_FAULT_TRACER))
		window->socket = -1;
	else
		window->socket =
			(int)syscall(SYS_pidfd_getfd, window->pidfd, sockets[1], 0);
	if (window->socket < 0)
		return ut_fail(error, "pidfd_getfd", errno, window->remote.tid, 0, 0);
	if (!ut_own_kind(window->socket, UT_KIND_SOCKET))
		return ut_replaced(window, "fetch the socket", error);
	/* Where that fails, descriptors are told apart by their kind only. */
	window->far_socket = (int)syscall(SYS_pidfd_getfd, window->pidfd, sockets[0], 0);
	return 0;
}

/* Put there before the parasite runs, so that it need not wait for it. */
static int send_device(struct ut_window *window, struct ut_error *error)
{
	struct parasite_message message = {.word = PARASITE_DEVICE};

	if (ut_fault_call(&window->fault, UT_FAULT_TRACER) ||
	    ut_pass(window->socket, &message, sizeof(message), window->args->device_fd))
		return ut_fail(error, "send the device", errno, window->remote.tid, 0, 0);
	return 0;
}

/* A stop that comes while the parasite should run: a stop signal goes on, a fault is its
 * end. */
static int look_for_stop(struct ut_window *window, struct ut_error *error)
{
	struct ut_remote *remote = &window->remote;
	int got;

	window->fault.paused = true; /* how often we look depends on the scheduler */
	got = ut_remote_wait(remote, 0, error);
	window->fault.paused = false;
	if (got <= 0)
		return got;
	if (remote->stop.kind == UT_STOP_SIGNAL && remote->stop.signal != SIGSTOP) {
		/* Not delivered: it is our code's fault, and would be the target's death.
		 */
		remote->stop.signal = 0;
		return ut_fail(error, "parasite faulted", EFAULT, remote->tid,
		               window->base, 0);
	}
	return ut_remote_resume(remote, PTRACE_CONT, error);
}

/* The next message of the parasite; *fd its descriptor or -1. */
static int hear(struct ut_window *window, struct parasite_message *message, int *fd,
                struct ut_error *error)
{
	uint64_t soon = ut_now_ns() + 1000000000;
	uint64_t deadline =
		window->remote.deadline_ns > soon ? window->remote.deadline_ns : soon;
	struct pollfd poll_socket = {.fd = window->socket, .events = POLLIN};

	if (ut_fault_call(&window->fault, UT_FAULT_TRACER))
		return ut_fail(error, "listen to the parasite", errno, window->remote.tid,
		               0, 0);
	while (ut_take(window->socket, message, sizeof(*message), fd)) {
		if (errno != EAGAIN)
			return ut_fail(error, "listen to the parasite", errno,
			               window->remote.tid, 0, 0);
		if (ut_now_ns() >= deadline)
			return ut_fail(error, "run the parasite", ETIMEDOUT,
			               window->remote.tid, window->base, 0);
		poll(&poll_socket, 1, LOOK_MS);
		if (look_for_stop(window, error))
			return -1;
	}
	return 0;
}

static int run(struct ut_window *window, struct ut_error *error)
{
	struct ut_remote *remote = &window->remote;
	struct ut_regs regs = remote->regs;
	uint64_t data = window->base + PARASITE_PAGE;
	struct parasite_message message;

	ut_regs_to_code(&regs, window->base, data + PARASITE_PAGE, data);
	if (ut_remote_put(remote, &regs, error) ||
	    ut_remote_resume(remote, PTRACE_CONT, error))
		return -1;
	do {
		int fd;

		if (hear(window, &message, &fd, error))
			return -1;
		if (message.word == PARASITE_UFFD && ut_own_kind(fd, UT_KIND_UFFD))
			window->uffd = fd;
		else if (fd >= 0)
			close(fd);
	} while (message.word == PARASITE_UFFD);
	if (message.word == PARASITE_FAILED) {
		uint32_t step = message.step <= PARASITE_STEP_SEND ? message.step : 0;

		return ut_fail(error, step_names[step], message.error, remote->tid, 0, 0);
	}
	if (window->uffd < 0)
		return ut_replaced(window, "fetch the userfaultfd", error);
	ut_fault_point(&window->fault, UT_POINT_RECEIVED);
	/* It has closed everything but its end of the socket, and sleeps. */
	return ut_remote_stop(remote, UINT64_MAX, error);
}

/* No number was free for a descriptor: take it out of its wait, and all again with more
 * room. */
static int again(struct ut_window *window, struct ut_error *error)
{
	struct ut_remote *remote = &window->remote;
	int32_t sockets[2];
	uint64_t data = window->base + PARASITE_PAGE;

	if (ut_remote_stop(remote, UINT64_MAX, error) ||
	    ut_peek(window, data + offsetof(struct parasite, sockets), sockets,
	            sizeof(sockets), error))
		return -1;

	int old = window->far_socket;

	close(window->socket);
	window->socket = window->far_socket = -1;
	/* First forgotten there, then closed: what is in the page is closed at the end
	 * again. */
	if (write_pages(window, error))
		return -1;
	*error = (struct ut_error){.err = 0};
	ut_close_in_target(window, sockets[0], old, UT_KIND_SOCKET, error);
	if (old >= 0)
		close(old);
	if (error->err || connect_parasite(window, error) || send_device(window, error))
		return -1;
	return run(window, error);
}

int ut_by_parasite(struct ut_window *window, struct ut_error *error)
{
	struct ut_remote *remote = &window->remote;

	window->result->method = UT_METHOD_PARASITE;
	window->result->user_mode_only = 0;
	if (window->args->device_fd < 0)
		return ut_fail(error, "open /dev/userfaultfd", ENOENT, 0, 0, 0);
	if (map(window, error))
		return -1;
	ut_fault_point(&window->fault, UT_POINT_MAPPED);
	if (write_pages(window, error))
		return -1;
	ut_fault_point(&window->fault, UT_POINT_WRITTEN);
	if (connect_parasite(window, error))
		return -1;
	ut_fault_point(&window->fault, UT_POINT_SOCKET);
	if (send_device(window, error))
		return -1;
	ut_fault_point(&window->fault, UT_POINT_SENT);
	if (!run(window, error))
		return 0;
	if (error->err == EMFILE && !remote->gone && !remote->stopped &&
	    ut_limits_raise(&window->limits, remote->tid, EMFILE, &window->fault))
		return again(window, error);
	return -1;
}
