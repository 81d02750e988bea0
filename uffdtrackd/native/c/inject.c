/*
 * The injector: a child that opens the stop window, makes the userfaultfd in it, closes
 * it, and hands the result to the tracker that waits (child.h says why it is a process).
 *
 *     tracker                      child                       target
 *     ut_inject
 *       clone -------------------> prepare, window <---------> one thread
 *       recvmsg <-- report, uffd - report
 *       wait    <----------------- exit
 *
 * If the tracker dies meanwhile, the child goes on to the end and the report goes
 * nowhere.
 */
#include "c/window.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "c/child.h"
#include "c/passing.h"
#include "c/place.h"
#include "c/strays.h"

struct report {
	int32_t failed;
	struct ut_error error;
	struct ut_inject_result result;
};

struct job {
	const struct ut_inject_args *args;
	pid_t tracker;
	int socket; /* the child's end */
};

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

/* One thread: prepared, stopped, used, let go. */
static int attempt(struct ut_window *window, struct ut_error *error)
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
	return failed ? -1 : 0;
}

static int work(struct ut_window *window, struct ut_error *error)
{
	uint64_t forks = ut_forks();

	while (attempt(window, error)) {
		/*
		 * A thread that ended before it was stopped: there may be others. Once
		 * more of it was changed than the stop, its end is the end of them all
		 * (exit, exec), which is the caller's business.
		 */
		if (error->err != ESRCH || !window->remote.tid || window->remote.masked ||
		    window->args->tid || ut_now_ns() >= window->remote.deadline_ns)
			return -1;
		ut_prepare_undo(window);
		window->remote.gone = window->remote.stopped = false;
	}
	ut_strays(window, forks);
	ut_fault_point(&window->fault, UT_POINT_RELEASED);
	return 0;
}

static int child(void *argument)
{
	struct job *job = argument;
	struct report report = {0};
	struct ut_window window = {
		.args = job->args,
		.result = &report.result,
		.fault = {.point = (enum ut_inject_point)job->args->point,
		          .action = (enum ut_inject_action)job->args->action,
		          .fail = job->args->fail,
		          .tracker = job->tracker,
		          .target = job->args->pid},
		.mem = -1,
		.pidfd = -1,
		.socket = -1,
		.uffd = -1,
		.target_fd = -1,
	};

	window.remote.fault = &window.fault;
	window.remote.deadline_ns = ut_now_ns() + job->args->deadline_ns;
	report.failed = work(&window, &report.error);
	report.result.tid = window.remote.tid;
	report.result.calls.tracer = window.fault.calls.tracer;
	report.result.calls.remote = window.fault.calls.remote;
	/* Nobody may be there to take it: then the userfaultfd ends with us. */
	ut_pass(job->socket, &report, sizeof(report), report.failed ? -1 : window.uffd);
	ut_fault_point(&window.fault, UT_POINT_REPORTED);
	return 0;
}

/* The report of the child, once it has ended: until then the target is not let go for
 * sure. */
static int read_report(int socket, int status, struct ut_inject_result *result,
                       struct ut_error *error)
{
	struct report report;
	int fd;

	if (ut_take(socket, &report, sizeof(report), &fd)) {
		/* Killed, by a test or for want of memory. */
		int err = errno;

		if (fd >= 0)
			close(fd);
		return ut_fail(error, "injector", WIFSIGNALED(status) ? EINTR : err, 0, 0,
		               0);
	}
	if (report.failed) {
		*error = report.error;
		return -1;
	}
	*result = report.result;
	result->uffd = fd;
	return 0;
}

int ut_inject(const struct ut_inject_args *args, struct ut_inject_result *result,
              struct ut_error *error)
{
	struct job job = {.args = args, .tracker = getpid()};
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return ut_fail(error, "socketpair", errno, 0, 0, 0);
	job.socket = ends[1];

	int keep[] = {ends[1], args->proc_fd, args->pidfd, args->device_fd};
	pid_t pid = ut_child_start("uffd-inject", child, &job, keep, 4, error);
	int status = pid < 0 ? -1 : ut_child_wait(pid, error);
	int failed = status < 0 ? -1 : read_report(ends[0], status, result, error);

	close(ends[0]);
	close(ends[1]);
	return failed;
}
