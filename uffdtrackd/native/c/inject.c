/*
 * The injector, seen from the tracker: a process that opens the stop window, makes the
 * userfaultfd in it, closes it, and hands the result to the tracker that waits.
 *
 *     tracker                      injector                    target
 *     ut_inject
 *       spawn -------------------> prepare, window <---------> one thread
 *       recvmsg <-- report, uffd - report
 *       wait    <----------------- exit
 *
 * If the tracker dies meanwhile, the injector goes on to the end and the report goes
 * nowhere.
 *
 * It is a program of its own (spawn.h), so that its start costs the same whatever the
 * size of the tracker. Where that is no way it is a fork (child.h), which does the same:
 * the program is not there or may not be run (noexec, a filter), it was given less than
 * we have (capabilities that do not pass exec), or a security module lets us do what it
 * may not.
 */
#include "api/inject.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "c/child.h"
#include "c/injector.h"
#include "c/passing.h"
#include "c/spawn.h"

/* The report of the injector. It has ended, so the target is let go for sure. */
static int read_report(int socket, int status, struct ut_inject_result *result,
                       struct ut_error *error)
{
	struct ut_injector_report report;
	struct pollfd end = {.fd = socket, .events = POLLIN};
	int fd;

	/* Somebody may have killed the one that waited for it, and not it. */
	while (poll(&end, 1, -1) < 0 && errno == EINTR)
		;
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

/* One injector. *unfit: it was the program, and another way may do better. */
static int inject(struct ut_injector_job *job, const char *helper, bool *unfit,
                  struct ut_inject_result *result, struct ut_error *error)
{
	const struct ut_inject_args *args = &job->args;
	int ends[2], status = -1, failed = -1;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return ut_fail(error, "socketpair", errno, 0, 0, 0);
	job->socket = ends[1];

	int keep[] = {ends[1], args->proc_fd, args->pidfd, args->device_fd};

	if (!helper) {
		pid_t pid =
			ut_child_start("uffd-inject", ut_injector, job, keep, 4, error);

		if (pid >= 0)
			status = ut_child_wait(pid, error);
	} else if (ut_pass(ends[0], job, sizeof(*job), -1)) {
		ut_fail(error, "tell the injector", errno, 0, 0, 0);
	} else {
		status = ut_spawn("uffd-inject", helper, ends[1], keep, 4, error);
	}
	/* From here on the end of the injector is the end of file. */
	close(ends[1]);
	/* It ends with 0 when it has done its work, whatever came of that. */
	*unfit = helper && (status < 0 || (WIFEXITED(status) && WEXITSTATUS(status)));
	if (status >= 0 && !*unfit) {
		failed = read_report(ends[0], status, result, error);
		*unfit =
			helper && failed && (error->err == EPERM || error->err == EACCES);
	}
	close(ends[0]);
	return failed;
}

int ut_inject(const struct ut_inject_args *args, const char *helper,
              struct ut_inject_result *result, struct ut_error *error)
{
	struct ut_injector_job job = {
		.stamp = UT_INJECTOR_STAMP,
		.args = *args,
		.tracker = getpid(),
		.permitted = ut_injector_rights(),
	};
	bool unfit = false;
	int failed = inject(&job, helper, &unfit, result, error);

	if (failed && unfit)
		failed = inject(&job, NULL, &unfit, result, error);
	return failed;
}
