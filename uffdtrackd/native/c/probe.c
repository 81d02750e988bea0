/*
 * Each probe runs in a child of its own, forked here:
 *
 *   we -- fork --> child: probe, write struct ut_error to a pipe, _exit
 *    \                \-- fork --> somebody to attach to, where a probe needs one
 *     \-- read the pipe, wait
 *
 * A kernel bug then kills or hangs the child, not us: an alarm ends it. Between
 * fork and _exit only system calls are made, as other threads may hold locks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/probe.h"

/* Newer than the headers of some distributions. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define FEATURE_WP_UNPOPULATED (1ULL << 13)
#define FEATURE_WP_ASYNC       (1ULL << 15)
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

/* <linux/fs.h> of 6.7. */
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct page_region {
	uint64_t start, end, categories;
};
#define SCAN               _IOWR('f', 16, struct scan_arg)
#define SCAN_WP_MATCHING   1
#define SCAN_CHECK_WPASYNC 2
#define CATEGORY_WRITTEN   2

enum { DEADLINE_SECONDS = 5, PAGE = 4096, HUGE = 2 << 20 };

static int failed(struct ut_error *error, const char *step)
{
	return ut_fail(error, step, errno, 0, 0, 0);
}

/* Whom the probe of this process attaches to, 0 if nobody yet. */
static pid_t helper;

/* A child that waits for ever; with a filter that allows everything if asked. */
static pid_t somebody(bool filtered)
{
	pid_t parent = getpid();

	helper = fork();
	if (helper)
		return helper;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0); /* it died before it was asked to take us along */
	if (filtered) {
		struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
		struct sock_fprog program = {1, &allow};

		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
	}
	for (;;)
		pause();
}

static int probe_ptrace(unsigned long options, struct ut_error *error)
{
	pid_t pid = somebody(options != 0);
	int status;

	if (pid < 0)
		return failed(error, "fork");
	if (ptrace(PTRACE_SEIZE, pid, 0, options))
		return failed(error, "PTRACE_SEIZE");
	if (ptrace(PTRACE_INTERRUPT, pid, 0, 0))
		return failed(error, "PTRACE_INTERRUPT");
	if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
		return failed(error, "wait for the stop");
	if (ptrace(PTRACE_DETACH, pid, 0, 0))
		return failed(error, "PTRACE_DETACH");
	return 0;
}

static int probe_pidfd_getfd(struct ut_error *error)
{
	pid_t pid = somebody(false);
	int pidfd;

	if (pid < 0)
		return failed(error, "fork");
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return failed(error, "pidfd_open");
	if (syscall(SYS_pidfd_getfd, pidfd, 0, 0) < 0 && errno != EBADF)
		return failed(error, "pidfd_getfd");
	return 0;
}

static int probe_read_memory(struct ut_error *error)
{
	static const char here[] = "here";
	pid_t pid = somebody(false);
	char there[sizeof(here)] = "";
	struct iovec local = {there, sizeof(there)};
	struct iovec remote = {(void *)here, sizeof(here)};

	if (pid < 0)
		return failed(error, "fork");
	if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != (ssize_t)sizeof(here))
		return failed(error, "process_vm_readv");
	return memcmp(here, there, sizeof(here)) ? ut_fail(error, "compare", 0, 0, 0, 0)
	                                         : 0;
}

static int probe_map_files(struct ut_error *error)
{
	int fd = memfd_create("probe", MFD_CLOEXEC);
	char path[64];
	char *area;

	if (fd < 0 || ftruncate(fd, PAGE))
		return failed(error, "memfd_create");
	area = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	if (area == MAP_FAILED)
		return failed(error, "mmap");
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)area,
	         (unsigned long)area + PAGE);
	return open(path, O_RDONLY) < 0 ? failed(error, "open /proc/PID/map_files") : 0;
}

static int uffd_from_device(struct ut_error *error)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int uffd;

	if (device < 0)
		return failed(error, "open /dev/userfaultfd");
	uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	return uffd < 0 ? failed(error, "USERFAULTFD_IOC_NEW") : uffd;
}

static int uffd_by_call(int flags, struct ut_error *error)
{
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);

	return uffd < 0 ? failed(error, "userfaultfd") : uffd;
}

static int async_uffd(struct ut_error *error)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED,
	};
	int uffd = uffd_by_call(UFFD_USER_MODE_ONLY, error);

	if (uffd < 0)
		return -1;
	return ioctl(uffd, UFFDIO_API, &api) ? failed(error, "UFFDIO_API with WP_ASYNC")
	                                     : uffd;
}

static int protect(int uffd, void *start, uint64_t length, struct ut_error *error)
{
	struct uffdio_register range = {
		.range = {(uint64_t)start, length},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &range) ? failed(error, "UFFDIO_REGISTER")
	                                            : 0;
}

/* A private mapping of a file on a disk: what only asynchronous protection allows. */
static int probe_private_file(struct ut_error *error)
{
	int uffd = async_uffd(error);
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	char *area;

	if (uffd < 0)
		return -1;
	if (fd < 0)
		return failed(error, "open /proc/self/exe");
	area = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (area == MAP_FAILED)
		return failed(error, "mmap");
	return protect(uffd, area, PAGE, error);
}

/* Writes to *page; runs in our memory. */
static int write_to(void *page)
{
	*(volatile char *)page = 2;
	return 0;
}

/* Protect a page, let somebody write to it, be told, let him go on. */
static int probe_sync(struct ut_error *error)
{
	static char stack[16384] __attribute__((aligned(16)));
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	};
	char *area = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	                  -1, 0);
	struct uffdio_writeprotect change = {
		.range = {(uint64_t)area, PAGE},
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int uffd = uffd_from_device(error);
	struct pollfd ready = {.events = POLLIN};
	struct uffd_msg told;
	pid_t writer;

	if (uffd < 0)
		uffd = uffd_by_call(0, error);
	if (uffd < 0)
		return -1;
	if (area == MAP_FAILED)
		return failed(error, "mmap");
	area[0] = 1;
	if (ioctl(uffd, UFFDIO_API, &api))
		return failed(error, "UFFDIO_API with PAGEFAULT_FLAG_WP");
	if (protect(uffd, area, PAGE, error))
		return -1;
	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &change))
		return failed(error, "UFFDIO_WRITEPROTECT");
	writer = clone(write_to, stack + sizeof(stack), CLONE_VM | SIGCHLD, area);
	if (writer < 0)
		return failed(error, "clone");
	ready.fd = uffd;
	/* A writer that was not stopped ends, and its SIGCHLD does not wake us. */
	if (poll(&ready, 1, 1000 * (DEADLINE_SECONDS - 2)) != 1 ||
	    read(uffd, &told, sizeof(told)) != (ssize_t)sizeof(told) ||
	    told.event != UFFD_EVENT_PAGEFAULT ||
	    !(told.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)) {
		kill(writer, SIGKILL);
		return ut_fail(error, "be told of the write", 0, 0, 0, 0);
	}
	change.mode = 0;
	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &change)) {
		failed(error, "UFFDIO_WRITEPROTECT");
		kill(writer, SIGKILL);
		return -1;
	}
	if (waitpid(writer, NULL, 0) != writer)
		return failed(error, "wait for the writer");
	return area[0] == 2 ? 0 : ut_fail(error, "let the writer go on", 0, 0, 0, 0);
}

/* Written pages in [area, area + length), protected again if flags say so; -1: error. */
static int64_t written(char *area, uint64_t length, uint64_t flags,
                       struct ut_error *error)
{
	struct page_region found[8];
	struct scan_arg arg = {
		.size = sizeof(arg),
		.flags = flags,
		.start = (uint64_t)area,
		.end = (uint64_t)area + length,
		.vec = (uint64_t)found,
		.vec_len = 8,
		.category_mask = CATEGORY_WRITTEN,
		.return_mask = CATEGORY_WRITTEN,
	};
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int64_t pages = 0;
	int n;

	if (pagemap < 0)
		return failed(error, "open /proc/PID/pagemap");
	n = ioctl(pagemap, SCAN, &arg);
	if (n < 0)
		return failed(error, "PAGEMAP_SCAN");
	for (int i = 0; i < n; i++)
		pages += (int64_t)((found[i].end - found[i].start) / PAGE);
	close(pagemap);
	return pages;
}

/* The whole of it, once: protect two pages, write one, see exactly that one. */
static int probe_scan(struct ut_error *error)
{
	const uint64_t clear = SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC;
	volatile char *area = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
	                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int uffd = async_uffd(error);
	int64_t pages;

	if (uffd < 0)
		return -1;
	area[0] = 1;
	area[PAGE] = 1;
	if (protect(uffd, (void *)area, 2 * PAGE, error) ||
	    written((char *)area, 2 * PAGE, clear, error) < 0)
		return -1;
	area[PAGE] = 2;
	pages = written((char *)area, 2 * PAGE, clear, error);
	if (pages < 0)
		return -1;
	return pages == 1 ? 0 : ut_fail(error, "find the one written page", 0, 0, 0, 0);
}

/*
 * Where there is no page table, kernels before 6.12.103 and 6.18.44 report nothing:
 * neither here, where none was made yet, nor where a protected huge page was given
 * back, which took its entry along. It is the same function that is not asked.
 * Where that is fixed, so is the hang on empty hugetlb entries, which came earlier.
 */
static int probe_empty_huge_page(struct ut_error *error)
{
	char *area = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE,
	                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int uffd = async_uffd(error);
	int64_t pages;

	if (uffd < 0)
		return -1;
	if (area == MAP_FAILED)
		return failed(error, "mmap");
	area = (char *)(((uint64_t)area + HUGE - 1) & ~(uint64_t)(HUGE - 1));
	if (protect(uffd, area, HUGE, error))
		return -1;
	pages = written(area, HUGE, 0, error);
	if (pages < 0)
		return -1;
	return pages == HUGE / PAGE
		       ? 0
		       : ut_fail(error, "see what has no page table", 0, 0, 0, 0);
}

/* The whole of our vdso, which the kernel does not let anybody split. */
static int find_vdso(uint64_t *start, uint64_t *end, struct ut_error *error)
{
	static char text[1 << 16];
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got = 1;
	char *line;

	if (fd < 0)
		return failed(error, "open /proc/PID/maps");
	/* It is among the last lines: what goes before is not kept. */
	while (got > 0) {
		if (length > sizeof(text) / 2) {
			memmove(text, text + length / 2, length - length / 2);
			length -= length / 2;
		}
		got = read(fd, text + length, sizeof(text) - 1 - length);
		length += got > 0 ? (size_t)got : 0;
		text[length] = 0;
		line = strstr(text, "[vdso]");
		if (!line)
			continue;
		while (line > text && line[-1] != '\n')
			line--;
		if (sscanf(line, "%lx-%lx", start, end) == 2)
			return 0;
	}
	return ut_fail(error, "find the vdso", 0, 0, 0, 0);
}

/*
 * Pages of the vdso are put in place by the kernel itself: a protected hole there
 * is a fault that never ends, and kernels before 6.12.105 do not refuse it.
 */
static int probe_special_refused(struct ut_error *error)
{
	struct ut_error refused;
	uint64_t start, end;
	int uffd = async_uffd(error);

	if (uffd < 0 || find_vdso(&start, &end, error))
		return -1;
	if (protect(uffd, (void *)start, end - start, &refused))
		return 0;
	return ut_fail(error, "refuse to register the vdso", 0, 0, 0, 0);
}

static int probe(int which, struct ut_error *error)
{
	switch (which) {
	case UT_PROBE_PIDFD_GETFD:
		return probe_pidfd_getfd(error);
	case UT_PROBE_PTRACE:
		return probe_ptrace(0, error);
	case UT_PROBE_SUSPEND_SECCOMP:
		return probe_ptrace(PTRACE_O_SUSPEND_SECCOMP, error);
	case UT_PROBE_READ_MEMORY:
		return probe_read_memory(error);
	case UT_PROBE_MAP_FILES:
		return probe_map_files(error);
	case UT_PROBE_UFFD:
		return uffd_by_call(0, error);
	case UT_PROBE_UFFD_USER_MODE:
		return uffd_by_call(UFFD_USER_MODE_ONLY, error);
	case UT_PROBE_UFFD_DEVICE:
		return uffd_from_device(error);
	case UT_PROBE_WP_ASYNC:
		return async_uffd(error);
	case UT_PROBE_PRIVATE_FILE:
		return probe_private_file(error);
	case UT_PROBE_PAGEMAP_SCAN:
		return probe_scan(error);
	case UT_PROBE_EMPTY_HUGE_PAGE:
		return probe_empty_huge_page(error);
	case UT_PROBE_SPECIAL_REFUSED:
		return probe_special_refused(error);
	case UT_PROBE_WP_SYNC:
		return probe_sync(error);
	}
	return ut_fail(error, "choose a probe", EINVAL, 0, 0, 0);
}

__attribute__((noreturn)) static void be_child(int which, int answer)
{
	struct ut_error told = {0};
	size_t length;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* A tracker that changed its user may not be dumpable; what it attaches to will
	 * be. */
	prctl(PR_SET_DUMPABLE, 1);
	/* Handlers are the interpreter's: they must not run here. */
	for (int signum = 1; signum < NSIG; signum++)
		signal(signum, SIG_DFL);
	alarm(DEADLINE_SECONDS);
	length = probe(which, &told) < 0 ? sizeof(told) : 1;
	if (helper > 0) {
		kill(helper, SIGKILL);
		waitpid(helper, NULL, __WALL);
	}
	_exit(write(answer, &told, length) != (ssize_t)length);
}

int ut_probe(int which, struct ut_error *error)
{
	struct ut_error told = {0};
	int ends[2];
	ssize_t got;
	pid_t child;

	if (pipe2(ends, O_CLOEXEC))
		return failed(error, "pipe");
	child = fork();
	if (child < 0) {
		failed(error, "fork");
		close(ends[0]);
		close(ends[1]);
		return -1;
	}
	if (!child)
		be_child(which, ends[1]);
	close(ends[1]);
	do
		got = read(ends[0], &told, sizeof(told));
	while (got < 0 && errno == EINTR);
	close(ends[0]);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	if (got == 1)
		return 0;
	if (got == (ssize_t)sizeof(told)) {
		*error = told;
		return -1;
	}
	return ut_fail(error, "the probe died or hung", 0, 0, 0, 0);
}
