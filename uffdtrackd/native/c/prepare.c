/*
 * What is done before anything is stopped: choosing the thread and opening what the stop
 * window needs, so that the window holds nothing that could be done outside it.
 */
#include "c/window.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "c/choose.h"
#include "c/listing.h"
#include "c/ours.h"
#include "c/place.h"

#define PIDFD_THREAD O_EXCL /* Linux 6.9: a pidfd of one thread */

static int open_proc(const struct ut_window *window, const char *name, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "task/%d/%s", window->remote.tid, name);
	return openat(window->args->proc_fd, path, flags | O_CLOEXEC);
}

bool ut_filtered(const struct ut_window *window)
{
	int status = open_proc(window, "status", O_RDONLY);

	if (status < 0)
		return false;

	long mode = ut_status_number(status, "Seccomp");

	close(status);
	return mode > 0;
}

static int choose(struct ut_window *window, struct ut_error *error)
{
	struct timespec pause = {0, 1000000};

	for (;;) {
		int class;

		if (window->args->tid) {
			window->remote.tid = window->args->tid;
			class = (int)ut_choose_class(window->args->proc_fd,
			                             window->args->tid);
		} else {
			class = ut_choose(window->args->proc_fd, window->args->pid,
			                  &window->remote.tid, error);
		}
		if (class == UT_CHOICE_DEAD)
			class = ut_fail(error, "find a thread", ESRCH, window->remote.tid,
			                0, 0);
		if (class < 0) {
			window->remote.tid = 0;
			return -1;
		}
		window->result->thread_class = class;
		if (class < UT_CHOICE_CUT_SHORT) {
			window->parent = ut_choose_parent(window->args->proc_fd,
			                                  window->remote.tid);
			return 0;
		}
		if (ut_now_ns() >= window->remote.deadline_ns)
			return ut_fail(error,
			               class == UT_CHOICE_CUT_SHORT
					       ? "find a call that may be interrupted"
					       : "find a thread that can be stopped",
			               ETIMEDOUT, window->args->pid, 0, 0);
		nanosleep(&pause, NULL);
		/* Wait a little longer each time: the target should not pay for our
		 * looking. */
		if (pause.tv_nsec < 20000000)
			pause.tv_nsec *= 2;
	}
}

/* Offset of a system call instruction in text, or -1. */
static long find_insn(const unsigned char *text, ssize_t length)
{
	for (ssize_t i = 0; i + UT_SYSCALL_BYTES <= length; i++)
		if (ut_syscall_insn(text + i))
			return i;
	return -1;
}

/* Looks through [start, end) of the target; the site, or 0. */
static uint64_t search(struct ut_window *window, uint64_t start, uint64_t end)
{
	unsigned char text[8192];

	while (start < end) {
		size_t length = end - start < sizeof(text) ? end - start : sizeof(text);
		ssize_t got = pread(window->mem, text, length, (off_t)start);
		long at = find_insn(text, got);

		if (at >= 0)
			return start + (uint64_t)at;
		if (got <= UT_SYSCALL_BYTES)
			return 0;
		/* One byte less than read: an instruction may lie across the border. */
		start += (uint64_t)got - (UT_SYSCALL_BYTES - 1);
	}
	return 0;
}

/* The vdso, by the address that the kernel gave the program at its start: no maps to
 * read. */
static uint64_t site_in_vdso(struct ut_window *window)
{
	Elf64_auxv_t entries[64];
	int fd = open_proc(window, "auxv", O_RDONLY);
	ssize_t got = fd < 0 ? -1 : read(fd, entries, sizeof(entries));
	unsigned char magic[SELFMAG];

	if (fd >= 0)
		close(fd);
	for (ssize_t i = 0; i < got / (ssize_t)sizeof(entries[0]); i++) {
		uint64_t start = entries[i].a_un.a_val;

		if (entries[i].a_type != AT_SYSINFO_EHDR)
			continue;
		/* A restored process may have it elsewhere (mremap). */
		if (pread(window->mem, magic, sizeof(magic), (off_t)start) !=
		            sizeof(magic) ||
		    memcmp(magic, ELFMAG, SELFMAG))
			return 0;
		return search(window, start, start + 2 * 4096);
	}
	return 0;
}

/* Without a vdso: any executable mapping will do. */
static uint64_t site_in_maps(struct ut_window *window)
{
	int fd = open_proc(window, "maps", O_RDONLY);
	char text[4096 + 1];
	size_t have = 0;
	uint64_t site = 0;

	if (fd < 0)
		return 0;
	while (!site) {
		ssize_t got = read(fd, text + have, sizeof(text) - 1 - have);
		char *line = text, *end;

		if (got <= 0)
			break;
		have += (size_t)got;
		text[have] = '\0';
		while (!site && (end = strchr(line, '\n'))) {
			unsigned long first, last;
			char perms[5];

			*end = '\0';
			if (sscanf(line, "%lx-%lx %4s", &first, &last, perms) == 3 &&
			    perms[0] == 'r' && perms[2] == 'x')
				site = search(window, first, last);
			line = end + 1;
		}
		have -= (size_t)(line - text);
		memmove(text, line, have);
	}
	close(fd);
	return site;
}

/*
 * Of the thread, where the kernel can: it may have a descriptor table of its own, and a
 * leader that has ended has none.
 */
static int open_pidfd(struct ut_window *window, struct ut_error *error)
{
	pid_t pid = window->args->pid, tid = window->remote.tid;

	window->pidfd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
	if (window->pidfd >= 0)
		return 0;
	if (errno == ESRCH)
		return ut_fail(error, "pidfd_open", errno, tid, 0, 0);
	/* Older kernels have only that of the leader: good if both have one table. */
	if (tid != pid && syscall(SYS_kcmp, pid, tid, KCMP_FILES, 0, 0))
		return ut_fail(error, "pidfd_open of a thread", ENOSYS, tid, 0, 0);
	window->pidfd = window->args->pidfd;
	return 0;
}

int ut_prepare(struct ut_window *window, struct ut_error *error)
{
	if (choose(window, error))
		return -1;

	window->mem = open_proc(window, "mem", O_RDWR);
	if (window->mem < 0)
		/* ENOENT: the thread has ended. */
		return ut_fail(error, "open /proc/PID/mem",
		               errno == ENOENT ? ESRCH : errno, window->remote.tid, 0, 0);

	window->remote.site = site_in_vdso(window);
	if (!window->remote.site)
		window->remote.site = site_in_maps(window);
	if (!window->remote.site) {
		bool ended = ut_choose_class(window->args->proc_fd, window->remote.tid) ==
		             UT_CHOICE_DEAD;

		return ut_fail(error, "find a system call instruction",
		               ended ? ESRCH : ENOEXEC, window->remote.tid, 0, 0);
	}

	if (open_pidfd(window, error))
		return -1;
	ut_ours_prepare();
	ut_place_beside(window->args->proc_fd, window->remote.tid);
	return 0;
}

void ut_prepare_undo(struct ut_window *window)
{
	if (window->mem >= 0)
		close(window->mem);
	if (window->pidfd >= 0 && window->pidfd != window->args->pidfd)
		close(window->pidfd);
	window->mem = window->pidfd = -1;
}
