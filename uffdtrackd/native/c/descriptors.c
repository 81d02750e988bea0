/*
 * A pass over /proc/PID/fd, at every iteration: a link is read for each
 * descriptor, and flags only of those that are files or block devices.
 *
 *	socket:[17]  pipe:[4]                nothing
 *	anon_inode:[io_uring]                RING
 *	/dev/infiniband/...  /dev/vfio/...   DEVICE
 *	/any/thing  --fdinfo--> flags: 0140000   DIRECT
 *
 * 2 us a descriptor, 7 us a file (proc_pid_fd(5), proc_pid_fdinfo(5)), and nothing of it
 * can be kept for the next time: a number is another file in a moment, and O_DIRECT is
 * set by fcntl(2) as well.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "api/descriptors.h"

static int starts_with(const char *text, const char *start)
{
	return !strncmp(text, start, strlen(start));
}

static int is_direct(int infos, const char *name)
{
	char text[256], *flags;
	int fd = openat(infos, name, O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return 0; /* closed meanwhile */
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (length <= 0)
		return 0;
	text[length] = 0;
	flags = strstr(text, "flags:");
	return flags && strtoul(flags + strlen("flags:"), NULL, 8) & O_DIRECT;
}

static int look_at(int links, int infos, const char *name)
{
	char target[64];
	ssize_t length = readlinkat(links, name, target, sizeof(target) - 1);

	if (length <= 0)
		return 0;
	target[length] = 0;
	if (starts_with(target, "anon_inode:[io_uring]"))
		return UT_DESCRIPTORS_RING;
	if (starts_with(target, "anon_inode:[vfio") ||
	    starts_with(target, "/dev/infiniband/") || starts_with(target, "/dev/vfio/"))
		return UT_DESCRIPTORS_DEVICE;
	if (*target != '/' || starts_with(target, "/dev/pts/") ||
	    !strcmp(target, "/dev/null"))
		return 0;
	return is_direct(infos, name) ? UT_DESCRIPTORS_DIRECT : 0;
}

int ut_descriptors_look(int links, int infos, struct ut_error *error)
{
	/* readdir(3) would open the directory anew, a third of the cost of it all. */
	_Alignas(struct dirent64) char buffer[4096];
	int found = 0;

	if (lseek(links, 0, SEEK_SET) < 0)
		return ut_fail(error, "list descriptors", errno, 0, 0, 0);
	for (;;) {
		long length = syscall(SYS_getdents64, links, buffer, sizeof(buffer));

		if (length < 0)
			return ut_fail(error, "list descriptors", errno, 0, 0, 0);
		if (!length)
			return found;
		for (long at = 0; at < length;) {
			const struct dirent64 *entry = (void *)(buffer + at);

			if (entry->d_name[0] != '.')
				found |= look_at(links, infos, entry->d_name);
			at += entry->d_reclen;
		}
		/* With room for one more there was none left (a name is a number). */
		if (length <= (long)(sizeof(buffer) - sizeof(struct dirent64)))
			return found;
	}
}
