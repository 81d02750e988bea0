#pragma once
#include <stdint.h>
#include "error.h"

/*
 * Makes a userfaultfd for another process and brings it here:
 * uffdtrackd/native/c/inject.c.
 *
 * The sequence, with the points where a test may strike beside it (left of the line the
 * target is as it was; right of it it is not, and every way out must put it back):
 *
 *                choose a thread, open what is needed
 *     CHOSEN     |
 *                PTRACE_SEIZE
 *     SEIZED     |
 *                PTRACE_INTERRUPT, wait
 *     STOPPED      |
 *                  registers and mask kept, all signals blocked
 *     MASKED       |
 *                  +-- by call ----------------+-- by parasite -------------------------+
 *                  |   userfaultfd in the      |   mmap in the target: two pages        |
 *     MADE         |   target                  |                                        |
 *                  |                           |   madvise: no fork copies them         |
 *     MAPPED       |                           |                                        |
 *                  |                           |   code and data written from outside   |
 *     WRITTEN      |                           |                                        |
 *                  |                           |   mprotect, socketpair in the target;  |
 *                  |                           |   one end fetched by pidfd_getfd       |
 *     SOCKET       |                           |                                        |
 *                  |                           |   /dev/userfaultfd put into it         |
 *     SENT         |                           |                                        |
 *                  |                           |   the parasite runs, the userfaultfd   |
 *                  |   fetched by pidfd_getfd  |   and its last word are received       |
 *     RECEIVED     |                           |                                        |
 *                  |                           |   stopped again                        |
 *                  |   close in the target     |   close, munmap in the target          |
 *     CLEAN        |                           |                                        |
 *                  +---------------------------+----------------------------------------+
 *                  registers and mask back, PTRACE_DETACH
 *     RELEASED   |
 *                result to the tracker
 *     REPORTED   |
 */
enum ut_inject_point {
	UT_POINT_NONE = 0,
	UT_POINT_CHOSEN,
	UT_POINT_SEIZED,
	UT_POINT_STOPPED,
	UT_POINT_MASKED,
	UT_POINT_MADE, /* the four after it by parasite only */
	UT_POINT_MAPPED,
	UT_POINT_WRITTEN,
	UT_POINT_SOCKET,
	UT_POINT_SENT,
	UT_POINT_RECEIVED,
	UT_POINT_CLEAN,
	UT_POINT_RELEASED,
	UT_POINT_REPORTED,
};

/* What a test does to us at .point. */
enum ut_inject_action {
	UT_ACTION_NONE = 0,
	UT_ACTION_KILL_TRACKER,  /* SIGKILL to the process that called ut_inject() */
	UT_ACTION_KILL_INJECTOR, /* SIGKILL to the child that does the work */
	UT_ACTION_STOP_TARGET,   /* SIGSTOP to the target, as a user may at any time */
	UT_ACTION_KILL_TARGET,
	UT_ACTION_STOP_INJECTOR, /* SIGSTOP to that child, until the test sends SIGCONT */
};

/* Where a call is counted, and where the fail_*th one fails once with EIO without being
 * made. */
struct ut_inject_calls {
	uint32_t tracer;   /* system calls that the injector makes while it traces */
	uint32_t remote;   /* calls that it makes the target do */
	uint32_t parasite; /* calls that the parasite does */
};

/*
 * Two ways to the same thing. By call: userfaultfd(2) injected, nothing is mapped, five
 * stops. By parasite: code of ours in the target is handed /dev/userfaultfd, fourteen
 * stops.
 *
 * They differ in what the userfaultfd sees. One with UFFD_USER_MODE_ONLY anybody may
 * make; it does not deliver faults that happen in kernel mode (read(2) into a protected
 * page then fails), but asynchronous write-protection delivers no faults at all and loses
 * nothing. A handler of synchronous faults needs one without that flag. A privileged
 * target may make that by call as well; any other needs the device, hence the parasite.
 */
enum ut_inject_method {
	UT_METHOD_AUTO =
		0, /* by call; by parasite if .kernel_faults and the target may not */
	UT_METHOD_CALL,
	UT_METHOD_PARASITE,
};

struct ut_inject_args {
	int32_t pid;
	int32_t tid;     /* thread to use; 0: choose */
	int32_t proc_fd; /* /proc/PID, a directory */
	int32_t pidfd;
	int32_t device_fd;     /* /dev/userfaultfd, or -1 */
	int32_t method;        /* enum ut_inject_method */
	int32_t kernel_faults; /* it must deliver faults from kernel mode */
	uint64_t deadline_ns;  /* how long to wait for a good moment and the first stop */
	int32_t point;
	int32_t action;
	struct ut_inject_calls fail;
};

struct ut_inject_result {
	int32_t uffd;   /* O_CLOEXEC, O_NONBLOCK, UFFDIO_API not called yet */
	int32_t tid;    /* the thread that was stopped */
	int32_t method; /* CALL or PARASITE */
	int32_t user_mode_only;
	uint64_t stopped_ns;  /* from PTRACE_INTERRUPT to PTRACE_DETACH */
	uint32_t stops;       /* ptrace stops in that time */
	int32_t thread_class; /* enum ut_choice of c/choose.h: how good the thread was */
	struct ut_inject_calls calls;
};

/*
 * 0 and *result, or -1 and *error. The target is as it was in either case. Blocks the
 * calling thread, not more than deadline_ns while the target cannot be stopped. helper:
 * the program that does it; NULL: a fork of this process.
 */
int ut_inject(const struct ut_inject_args *args, const char *helper,
              struct ut_inject_result *result, struct ut_error *error);
