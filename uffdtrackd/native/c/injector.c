/* The work of the injector, whichever process does it; injector.h. */
#include "c/injector.h"

#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "c/passing.h"
#include "c/place.h"
#include "c/strays.h"
#include "c/window.h"

static int make(struct ut_window *window, struct ut_error *error)
{
	const struct ut_inject_args *args = window->args;

	if (args->method == UT_METHOD_PARASITE)
		return ut_by_parasite(window, error);
	if (!ut_by_call(window, error))
		return 0;
	if (args->method == UT_METHOD_AUTO && args->kernel_faults &&
	    args->device_fd >= 0 && error->err == EPERM && window->remote.stopped)
		return ut_by_parasite(window, error);
	return -1;
}

/* One thread: prepared, stopped, used, let go; then its children. */
static int attempt(struct ut_window *window, uint64_t forks, struct ut_error *error)
{
	struct ut_error closing;

	if (ut_prepare(window, error))
		return -1;
	ut_fault_point(&window->fault, UT_POINT_CHOSEN);

	int failed = ut_window_open(window, error) || make(window, error);

	/* The first error says why; one of the closing says that the target may be hurt.
	 */
	if (ut_window_close(window, &closing)) {
		*error = closing;
		failed = 1;
	}
	ut_place_away();
	ut_strays(window, forks);
	return failed ? -1 : 0;
}

static void drop(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* For another attempt. */
static void forget(struct ut_window *window)
{
	ut_prepare_undo(window);
	drop(&window->socket);
	drop(&window->far_socket);
	drop(&window->uffd);
	window->target_fd = -1;
	window->mapped = 0;
	window->remote.gone = window->remote.stopped = false;
	window->remote.asked = window->remote.kept = false;
}

static int work(struct ut_window *window, struct ut_error *error)
{
	uint64_t forks = ut_forks();

	while (attempt(window, forks, error)) {
		/*
		 * A thread that ended before it was stopped, or (EAGAIN) was let go for
		 * a better one or lost what it had just made: there may be others. Once
		 * more of it was changed than the stop, its end is the end of them all
		 * (exit, exec), which is the caller's business.
		 */
		bool again =
			error->err == EAGAIN ||
			(error->err == ESRCH && ut_now_ns() < window->remote.deadline_ns);

		if (!again || !window->remote.tid || window->remote.masked ||
		    window->base || window->args->tid)
			return -1;
		forget(window);
	}
	ut_fault_point(&window->fault, UT_POINT_RELEASED);
	return 0;
}

/* For late(). */
static struct ut_injector_report *unsent;
static int tracker;

/*
 * On SIGALRM, which window.c lets through while it sleeps in PTRACE_SEIZE: nothing was
 * changed in the target, and whoever was seized after all runs on when we end.
 */
static void late(int signal)
{
	(void)signal;
	unsent->failed = ut_fail(&unsent->error, "PTRACE_SEIZE", ETIMEDOUT, 0, 0, 0);
	ut_pass(tracker, unsent, sizeof(*unsent), -1);
	_exit(0);
}

int ut_injector(void *argument)
{
	struct ut_injector_job *job = argument;
	struct ut_injector_report report = {0};
	struct sigaction alarm = {.sa_handler = late};
	struct ut_window window = {
		.args = &job->args,
		.result = &report.result,
		.fault = {.point = (enum ut_inject_point)job->args.point,
		          .action = (enum ut_inject_action)job->args.action,
		          .fail = job->args.fail,
		          .tracker = job->tracker,
		          .target = job->args.pid},
		.mem = -1,
		.pidfd = -1,
		.socket = -1,
		.far_socket = -1,
		.uffd = -1,
		.target_fd = -1,
	};

	unsent = &report;
	tracker = job->socket;
	sigaction(SIGALRM, &alarm, NULL);
	window.remote.fault = &window.fault;
	window.remote.deadline_ns = ut_now_ns() + job->args.deadline_ns;
	report.failed = work(&window, &report.error);
	report.result.tid = window.remote.tid;
	report.result.calls.tracer = window.fault.calls.tracer;
	report.result.calls.remote = window.fault.calls.remote;
	/* Nobody may be there to take it: then the userfaultfd ends with us. */
	ut_pass(job->socket, &report, sizeof(report), report.failed ? -1 : window.uffd);
	ut_fault_point(&window.fault, UT_POINT_REPORTED);
	return 0;
}

uint64_t ut_injector_rights(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {0};

	if (syscall(SYS_capget, &header, data))
		return 0;
	return (uint64_t)data[1].effective << 32 | data[0].effective;
}
