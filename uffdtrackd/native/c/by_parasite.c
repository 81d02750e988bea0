/*
 * The userfaultfd by way of the parasite: mapped, written, run, listened to.
 *
 * The thread runs the parasite under PTRACE_CONT without stops of its own; we follow the
 * `state` in its data page from outside, because a ptrace stop costs more than the whole
 * of what it does, and look for a stop that should not be in between.
 */
#include "c/window.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "parasite.h"
#include "parasite_blob.h" /* made by the build from parasite/: UT_BLOB, UT_BLOB_STUCK, ... */

#include "c/eintr.h"
#include "c/passing.h"

/* How long to look without sleeping; from when on to suspect that it got stuck. */
#define SPIN_NS  200000
#define STUCK_NS 2000000

/* A parasite that cannot see us waits so long before it gives up, in seconds. */
#define PATIENCE_S 10

static const char *const step_names[] = {
	[PARASITE_STEP_NONE] = "parasite",
	[PARASITE_STEP_SOCKETPAIR] = "socketpair in the target",
	[PARASITE_STEP_WAIT] = "wait for the device in the target",
	[PARASITE_STEP_RECEIVE] = "receive the device in the target",
	[PARASITE_STEP_CREATE] = "create the userfaultfd in the target",
	[PARASITE_STEP_SEND] = "send the userfaultfd from the target",
};

static int map(struct ut_window *window, struct ut_error *error)
{
	/*
	 * Read and execute, and written from outside: never writable and executable at
	 * once, which PR_SET_MDWE and SELinux would refuse. The parasite takes its data
	 * page.
	 */
	uint64_t args[6] = {
		0,
		2 * PARASITE_PAGE,
		PROT_READ | PROT_EXEC,
		MAP_PRIVATE | MAP_ANONYMOUS,
		(uint64_t)-1,
		0,
	};

	for (int tries = 0;; tries++) {
		long result;

		if (ut_remote_call(&window->remote, SYS_mmap, args, &result, error))
			return -1;
		if (result >= 0) {
			window->base = (uint64_t)result;
			return 0;
		}
		if (tries || !ut_limits_raise(&window->limits, window->remote.tid,
		                              (int)-result, &window->fault))
			return ut_fail(error, "mmap in the target", (int)-result,
			               window->remote.tid, 0, 2 * PARASITE_PAGE);
	}
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
				.fail_call = window->args->fail.parasite,
				.calls = window->result->calls.parasite,
				.uffd_flags = O_CLOEXEC | O_NONBLOCK,
				.patience_s = PATIENCE_S,
				.mask = window->remote.mask,
			},
	};
	const struct ut_regs *regs = &window->remote.regs;

	ut_regs_cure(regs, ut_eintr_rerun(ut_regs_call(regs)), &image.data.frame);
	return ut_poke(window, window->base, &image, sizeof(image), error);
}

/* The parasite's entry could not make its data page writable: the errno of that, or 0. */
static int stuck(struct ut_window *window, const struct ut_regs *regs)
{
	uint64_t at = ut_regs_ip(regs) - window->base;

	return at >= UT_BLOB_STUCK && at < UT_BLOB_MAIN ? -(int)ut_regs_stuck(regs) : 0;
}

/* Any stop that comes while the parasite should run: a stop signal goes on, a fault is
 * its end. */
static int look_for_stop(struct ut_window *window, struct ut_error *error)
{
	struct ut_remote *remote = &window->remote;
	int got = ut_remote_wait(remote, 0, error);

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

/* Stops it to see whether it is stuck at the entry; it runs on if not. */
static int look_if_stuck(struct ut_window *window, struct ut_error *error)
{
	struct ut_remote *remote = &window->remote;
	struct ut_regs regs;

	if (ut_remote_stop(remote, UINT64_MAX, error) ||
	    ut_remote_get(remote, &regs, error))
		return -1;

	int err = stuck(window, &regs);

	if (err)
		return ut_fail(error, "mprotect in the target", err, remote->tid,
		               window->base, 0);
	return ut_remote_resume(remote, PTRACE_CONT, error);
}

/* Looks until a state is there; PARASITE_FAILED becomes *error. */
static int follow(struct ut_window *window, enum parasite_state wanted,
                  struct ut_error *error)
{
	uint64_t data = window->base + PARASITE_PAGE;
	uint64_t began = ut_now_ns(), suspect = began + STUCK_NS;
	uint64_t deadline = window->remote.deadline_ns;
	struct parasite parasite;

	if (deadline < began + 1000000000)
		deadline = began + 1000000000;
	for (;;) {
		if (ut_peek(window, data, &parasite, offsetof(struct parasite, calls),
		            error))
			return -1;
		if (parasite.state == PARASITE_FAILED) {
			uint32_t step =
				parasite.step <= PARASITE_STEP_SEND ? parasite.step : 0;

			return ut_fail(error, step_names[step], parasite.error,
			               window->remote.tid, 0, 0);
		}
		if (parasite.state >= wanted)
			return 0;
		if (look_for_stop(window, error))
			return -1;

		uint64_t now = ut_now_ns();

		if (now >= deadline)
			return ut_fail(error, "run the parasite", ETIMEDOUT,
			               window->remote.tid, window->base, 0);
		if (parasite.state == PARASITE_FRESH && now >= suspect) {
			if (look_if_stuck(window, error))
				return -1;
			suspect = now + 100 * STUCK_NS;
		}
		if (now - began < SPIN_NS)
			sched_yield();
		else
			nanosleep(&(struct timespec){0, 50000}, NULL);
	}
}

static int await(struct ut_window *window, enum parasite_state wanted,
                 struct ut_error *error)
{
	int result;

	if (ut_fault_call(&window->fault, UT_FAULT_TRACER))
		return ut_fail(error, "follow the parasite", errno, window->remote.tid, 0,
		               0);
	window->fault.paused = true;
	result = follow(window, wanted, error);
	window->fault.paused = false;
	return result;
}

/* What is said while the parasite runs. */
static int talk(struct ut_window *window, struct ut_error *error)
{
	int32_t sockets[2];
	pid_t tid = window->remote.tid;

	if (await(window, PARASITE_SOCKET, error) ||
	    ut_peek(window,
	            window->base + PARASITE_PAGE + offsetof(struct parasite, sockets),
	            sockets, sizeof(sockets), error))
		return -1;
	/* No name, no port, no namespace: the descriptor itself is fetched (Linux 5.6).
	 */
	if (ut_fault_call(&window->fault, UT_FAULT_TRACER))
		window->socket = -1;
	else
		window->socket =
			(int)syscall(SYS_pidfd_getfd, window->pidfd, sockets[1], 0);
	if (window->socket < 0)
		return ut_fail(error, "pidfd_getfd", errno, tid, 0, 0);
	ut_fault_point(&window->fault, UT_POINT_SOCKET);

	if (ut_fault_call(&window->fault, UT_FAULT_TRACER) ||
	    ut_pass_fd(window->socket, PARASITE_MARK, window->args->device_fd))
		return ut_fail(error, "send the device", errno, tid, 0, 0);
	ut_fault_point(&window->fault, UT_POINT_SENT);

	if (await(window, PARASITE_PARKED, error))
		return -1;
	ut_fault_point(&window->fault, UT_POINT_PARKED);

	if (ut_fault_call(&window->fault, UT_FAULT_TRACER) ||
	    ut_take_fd(window->socket, PARASITE_MARK, &window->uffd))
		return ut_fail(error, "receive the userfaultfd", errno, tid, 0, 0);
	ut_fault_point(&window->fault, UT_POINT_RECEIVED);
	return 0;
}

static int run(struct ut_window *window, struct ut_error *error)
{
	struct ut_remote *remote = &window->remote;
	struct ut_regs regs = remote->regs;
	uint64_t data = window->base + PARASITE_PAGE;

	ut_regs_to_code(&regs, window->base, data + PARASITE_PAGE, data);
	if (ut_remote_put(remote, &regs, error) ||
	    ut_remote_resume(remote, PTRACE_CONT, error) || talk(window, error))
		return -1;
	return ut_remote_stop(remote, UINT64_MAX, error);
}

int ut_by_parasite(struct ut_window *window, struct ut_error *error)
{
	struct ut_remote *remote = &window->remote;
	struct ut_error again;

	if (map(window, error))
		return -1;
	ut_fault_point(&window->fault, UT_POINT_MAPPED);
	if (write_pages(window, error))
		return -1;
	ut_fault_point(&window->fault, UT_POINT_WRITTEN);
	if (!run(window, error))
		return 0;

	/* No free descriptor number: with more of them, once more from the start. */
	if (error->err != EMFILE || remote->gone ||
	    !ut_limits_raise(&window->limits, remote->tid, EMFILE, &window->fault))
		return -1;
	if (window->socket >= 0)
		close(window->socket);
	window->socket = -1;
	if (!remote->stopped && ut_remote_stop(remote, UINT64_MAX, &again))
		return -1;
	return write_pages(window, error) || run(window, error) ? -1 : 0;
}
