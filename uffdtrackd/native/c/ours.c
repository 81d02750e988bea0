/* Looks at descriptors before we believe in them; ours.h says why. */
#include "c/ours.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A target that does it each time is one that cannot be attached to. */
#define REPLACED 8

int ut_same_file(pid_t tid, int fd, int own)
{
	long order;

	if (own < 0)
		return -1;
	order = syscall(SYS_kcmp, getpid(), tid, KCMP_FILE, (unsigned long)own,
	                (unsigned long)fd);
	if (order >= 0)
		return order == 0;
	/* EBADF: it has no such descriptor. ENOSYS: a kernel without kcmp(2). */
	return errno == EBADF || errno == ESRCH ? 0 : -1;
}

static bool leads_to(int dir, const char *path, const char *kind)
{
	char target[64];
	size_t length = strlen(kind);
	ssize_t got = readlinkat(dir, path, target, sizeof(target));

	/* Nobody can tell: what we left there would be worse. */
	if (got < 0)
		return errno != ENOENT;
	return got >= (ssize_t)length && !memcmp(target, kind, length);
}

/* /proc/self/fd of the injector, which is a process of its own. */
static int own_folder = -1;

void ut_ours_prepare(void)
{
	if (own_folder < 0)
		own_folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

bool ut_own_kind(int own, const char *kind)
{
	char name[16];

	snprintf(name, sizeof(name), "%d", own);
	return leads_to(own_folder, name, kind);
}

bool ut_ours(const struct ut_window *window, int fd, int own, const char *kind)
{
	char path[64];
	int same = ut_same_file(window->remote.tid, fd, own);

	if (same >= 0)
		return same;
	snprintf(path, sizeof(path), "task/%d/fd/%d", window->remote.tid, fd);
	return leads_to(window->args->proc_fd, path, kind);
}

int ut_replaced(struct ut_window *window, const char *step, struct ut_error *error)
{
	int err = window->replaced++ < REPLACED ? EAGAIN : ETIMEDOUT;

	return ut_fail(error, step, err, window->remote.tid, 0, 0);
}
