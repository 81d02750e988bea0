/*
 * What the benchmark programs share: the kernel's numbers that older headers lack, the
 * clock, and the line protocol by which run.py drives every one of them.
 *
 *   run.py --- one command a line ---> program      (stdin)
 *   run.py <-- one reply a line ------ program      (stdout, flushed)
 *
 * A program measures itself with CLOCK_MONOTONIC around the smallest piece that means
 * anything and replies with integers (nanoseconds, pages, bytes); what they add up to is
 * worked out in Python.
 */
#ifndef UT_BENCH_KERNEL_H
#define UT_BENCH_KERNEL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE          4096UL
#define ADDRESS_LIMIT 0x7ffffffff000UL

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

/* Linux 6.7, include/uapi/linux/fs.h; named apart so that newer headers do not clash. */
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

struct scan_region {
	uint64_t start, end, categories;
};

#define SCAN_IOCTL       _IOWR('f', 16, struct scan_arg)
#define SCAN_WP_MATCHING 1
#define SCAN_WPALLOWED   1
#define SCAN_WRITTEN     2

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A benchmark that cannot run must not print a number. */
static inline void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static inline int open_proc(int pid, const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(path);
	return fd;
}

/* UFFDIO_API for a tracker; `async` chooses who unprotects, the kernel or a handler. */
static inline void enable_api(int uffd, int async)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP |
		            UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED,
	};

	if (async)
		api.features |= UFFD_FEATURE_WP_ASYNC;
	if (ioctl(uffd, UFFDIO_API, &api))
		die("UFFDIO_API");
}

static inline void enable_async(int uffd)
{
	enable_api(uffd, 1);
}

/* The bare tracker: made by the process that is to be tracked, so that nothing is
 * injected. */
static inline int make_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		die("userfaultfd");
	enable_async(fd);
	return fd;
}

static inline int register_wp(int uffd, uint64_t start, uint64_t end)
{
	struct uffdio_register reg = {
		.range = {.start = start, .len = end - start},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &reg);
}

/* One call a mapping, as read from maps: whole mappings, so that none is split. */
static inline void register_all(int uffd, int pid, unsigned *taken, unsigned *refused)
{
	static char line[512];
	uint64_t start, end;
	FILE *maps = fdopen(open_proc(pid, "maps"), "r");

	if (!maps)
		die("maps");
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx", &start, &end) == 2)
			++*(register_wp(uffd, start, end) ? refused : taken);
	fclose(maps);
}

#endif
