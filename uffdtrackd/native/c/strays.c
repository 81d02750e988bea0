/* Finds and closes copies of a userfaultfd that a fork took along; strays.h. */
#include "c/strays.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "c/listing.h"
#include "c/ours.h"
#include "c/place.h"
#include "parasite.h"

/* A child that was stopped too late may have forked as well; nobody forks deeper in a
 * millisecond. */
#define DEPTH 4

/* Fields of proc_pid_stat(5), counted from 1; the state is the one after the name. */
#define FIELD_STATE     3
#define FIELD_STARTTIME 22

/* What a child is waited for that cannot be stopped now. */
#define STOP_NS 1000000000

uint64_t ut_forks(void)
{
	static char text[1 << 16];
	ssize_t got = ut_read_file(AT_FDCWD, "/proc/stat", text, sizeof(text));
	const char *line = got > 0 ? strstr(text, "\nprocesses ") : NULL;

	return line ? strtoull(line + 11, NULL, 10) : 0;
}

/*
 * Are the two pages in the list of mappings as they were between the mmap() and the
 * madvise() of by_parasite.c, and alone? Nothing else can have come there: the place was
 * taken.
 */
static bool untouched(int proc_fd, uint64_t base)
{
	char text[4096], line[64];
	int fd = openat(proc_fd, "maps", O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	ssize_t got = 0;
	bool found = false;

	if (fd < 0)
		return false;
	snprintf(line, sizeof(line), "%08lx-%08lx r-xp 00000000 00:00 0 \n", base,
	         base + 2 * PARASITE_PAGE);
	while (!found && (got = read(fd, text + have, sizeof(text) - 1 - have)) > 0) {
		have += (size_t)got;
		text[have] = 0;
		found = strstr(text, line);
		/* It may lie across the border of two reads. */
		if (have > sizeof(line)) {
			memmove(text, text + have - sizeof(line), sizeof(line));
			have = sizeof(line);
		}
	}
	close(fd);
	return found;
}

/* Makes the process close one descriptor, or (fd is -1) unmap two pages. */
static void rid(pid_t pid, int proc_fd, int fd, int own, uint64_t base)
{
	struct ut_inject_args args = {.pid = pid, .proc_fd = proc_fd, .pidfd = -1};
	struct ut_inject_result result = {0};
	struct ut_error error;
	struct ut_window there = {
		.args = &args,
		.result = &result,
		.mem = -1,
		.pidfd = -1,
		.socket = -1,
		.far_socket = -1,
		.uffd = own,
		.target_fd = -1,
	};

	there.remote.fault = &there.fault;
	there.remote.deadline_ns = ut_now_ns() + STOP_NS;
	if (!ut_prepare(&there, &error)) {
		/* It may have closed it by itself: looked at again when it is closed. */
		if (!ut_window_open(&there, &error)) {
			uint64_t args[6] = {base, 2 * PARASITE_PAGE};

			there.target_fd = fd;
			if (base && untouched(proc_fd, base))
				ut_remote_surely(&there.remote, SYS_munmap, args, &error);
		}
		ut_window_close(&there, &error);
		ut_place_away();
	}
	ut_prepare_undo(&there);
}

struct search {
	const struct ut_window *window;
	int depth;
	pid_t pid; /* whose descriptors are listed */
	int proc_fd;
};

static void look_at_children(const struct ut_window *window, int proc_fd, int depth);

static bool look_at_fd(void *argument, const char *name)
{
	struct search *search = argument;
	int fd = atoi(name);

	const struct ut_window *window = search->window;
	/* What the parasite had open, and was fetched or given by us. */
	bool parasite = window->socket >= 0;
	int own[] = {
		window->uffd,
		parasite ? window->socket : -1,
		parasite ? window->far_socket : -1,
		parasite ? window->args->device_fd : -1,
	};

	for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
		if (ut_same_file(search->pid, fd, own[i]) == 1) {
			rid(search->pid, search->proc_fd, fd, own[i], 0);
			break;
		}
	return true;
}

/*
 * Was this process made after the window was opened? Older ones have nothing of it, and
 * there may be thousands of them. starttime of proc_pid_stat(5) is in whole ticks.
 */
static bool born_since(int proc_fd, uint64_t tick)
{
	char text[1024];
	const char *at = NULL;

	if (ut_read_file(proc_fd, "stat", text, sizeof(text)) > 0)
		at = strrchr(text, ')');
	for (int field = FIELD_STATE; at && field <= FIELD_STARTTIME; field++)
		at = strchr(at + 1, ' ');
	return !at || strtoull(at, NULL, 10) >= tick;
}

uint64_t ut_tick(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_BOOTTIME, &now))
		return 0;
	return ((uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec) /
	       (1000000000 / (uint64_t)sysconf(_SC_CLK_TCK));
}

static void look_at_child(const struct ut_window *window, pid_t pid, int depth)
{
	char path[32];
	struct search search = {.window = window, .pid = pid};

	snprintf(path, sizeof(path), "/proc/%d", pid);
	search.proc_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (search.proc_fd < 0)
		return;
	if (born_since(search.proc_fd, window->began_tick)) {
		ut_limits_inherited(&window->limits, pid);
		ut_list(search.proc_fd, "fd", look_at_fd, &search);
		if (window->mapped && untouched(search.proc_fd, window->mapped))
			rid(pid, search.proc_fd, -1, -1, window->mapped);
		if (depth < DEPTH)
			look_at_children(window, search.proc_fd, depth + 1);
	}
	close(search.proc_fd);
}

/* The lists of children that are being looked through, one behind the other. */
static char lists[1 << 20];
static size_t lists_used;

/* Reads one of them to its end, the newest child is the last. How many reads that took.
 */
static int read_list(int dir, const char *path)
{
	int fd = openat(dir, path, O_RDONLY | O_CLOEXEC), reads = 0;
	ssize_t got;

	if (fd < 0)
		return 0;
	while ((got = read(fd, lists + lists_used, sizeof(lists) - 1 - lists_used)) > 0) {
		lists_used += (size_t)got;
		reads++;
	}
	close(fd);
	return reads;
}

/* proc_tid_children(5): those that this thread has started, in one line. */
static bool look_at_thread(void *argument, const char *name)
{
	struct search *search = argument;
	char path[64], *at = lists + lists_used;
	size_t before = lists_used;

	snprintf(path, sizeof(path), "task/%s/children", name);
	/*
	 * A page a read, and for each the kernel counts again from the first child: one
	 * that ends meanwhile hides another. Not twice the same.
	 */
	if (read_list(search->proc_fd, path) > 1)
		read_list(search->proc_fd, path);
	lists[lists_used] = 0;
	for (long pid; (pid = strtol(at, &at, 10)) > 0;)
		look_at_child(search->window, (pid_t)pid, search->depth);
	lists_used = before;
	return true;
}

static void look_at_children(const struct ut_window *window, int proc_fd, int depth)
{
	struct search search = {.window = window, .depth = depth, .proc_fd = proc_fd};

	ut_list(proc_fd, "task", look_at_thread, &search);
}

/* Only one of several threads can have forked: the one that we used was stopped. */
static bool has_threads(const struct ut_window *window)
{
	struct stat task;

	/* The number of links of /proc/PID/task is 2 and one for each thread. */
	return fstatat(window->args->proc_fd, "task", &task, 0) || task.st_nlink > 3;
}

void ut_strays(const struct ut_window *window, uint64_t forks_before)
{
	struct timespec pause = {0, 1000000};
	uint64_t forks;
	char byte;

	/* Those of a process that runs another program now are gone, and may have forked.
	 */
	if ((window->uffd < 0 && !window->mapped && !window->limits.known) ||
	    (!window->remote.gone && !has_threads(window)))
		return;
	/*
	 * A fork copies the descriptors first, then the memory, and only then does the
	 * child show. It holds the lock of the memory while it copies that, for a long
	 * time if it is large: so does this read wait. What is left of the fork is short.
	 */
	if (pread(window->mem, &byte, 1, (off_t)window->remote.site) < 0)
		return;
	nanosleep(&pause, NULL);
	forks = ut_forks();
	if (!forks || forks != forks_before)
		look_at_children(window, window->args->proc_fd, 0);
}
