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
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "c/child.h"
#include "c/passing.h"

#define REPORT_MARK 0x75747266u

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

/* Errors of the parasite's way that the other way does not have. */
static bool cannot_map(const struct ut_error *error)
{
	return !strcmp(error->step, "mmap in the target") ||
	       !strcmp(error->step, "mprotect in the target");
}

static int make(struct ut_window *window, struct ut_error *error)
{
	int method = window->args->method;

	if (method == UT_METHOD_BARE ||
	    (method == UT_METHOD_AUTO && window->args->device_fd < 0)) {
		window->result->method = UT_METHOD_BARE;
		return ut_by_call(window, error);
	}
	window->result->method = UT_METHOD_PARASITE;
	if (!ut_by_parasite(window, error))
		return 0;
	if (method != UT_METHOD_AUTO || !cannot_map(error) || !window->remote.stopped)
		return -1;
	window->result->method = UT_METHOD_BARE;
	return ut_by_call(window, error);
}

static int work(struct ut_window *window, struct ut_error *error)
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
	ut_fault_point(&window->fault, UT_POINT_RELEASED);
	return failed ? -1 : 0;
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
	send(job->socket, &report, sizeof(report), MSG_NOSIGNAL);
	if (!report.failed)
		ut_pass_fd(job->socket, REPORT_MARK, window.uffd);
	ut_fault_point(&window.fault, UT_POINT_REPORTED);
	return 0;
}

static int receive(int socket, struct report *report, struct ut_error *error)
{
	ssize_t got;

	do
		got = recv(socket, report, sizeof(*report), 0);
	while (got < 0 && errno == EINTR);
	if (got != sizeof(*report))
		/* End of file: killed, by a test or by the OOM killer. */
		return ut_fail(error, "injector died", got < 0 ? errno : EPIPE, 0, 0, 0);
	if (report->failed) {
		*error = report->error;
		return -1;
	}
	return 0;
}

int ut_inject(const struct ut_inject_args *args, struct ut_inject_result *result,
              struct ut_error *error)
{
	struct job job = {.args = args, .tracker = getpid()};
	struct report report;
	struct ut_error waiting;
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return ut_fail(error, "socketpair", errno, 0, 0, 0);
	job.socket = ends[1];

	int keep[] = {ends[1], args->proc_fd, args->pidfd, args->device_fd};
	pid_t pid = ut_child_start("uffd-inject", child, &job, keep, 4, error);
	int failed = pid < 0;

	close(ends[1]);
	if (!failed)
		failed = receive(ends[0], &report, error);
	/* Only after its end: then the target is let go, whatever the report says. */
	if (pid > 0 && ut_child_wait(pid, &waiting) < 0 && !failed) {
		*error = waiting;
		failed = 1;
	}
	if (!failed && ut_take_fd(ends[0], REPORT_MARK, &report.result.uffd))
		failed =
			ut_fail(error, "receive the userfaultfd", errno, args->pid, 0, 0);
	close(ends[0]);
	if (failed)
		return -1;
	*result = report.result;
	return 0;
}
