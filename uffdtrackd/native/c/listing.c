/* getdents64(2) and read(2) of /proc; listing.h. */
#include "c/listing.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* struct linux_dirent64, getdents64(2). */
struct entry {
	uint64_t inode;
	int64_t offset;
	uint16_t size;
	uint8_t type;
	char name[];
};

ssize_t ut_read_file(int dir, const char *path, char *text, size_t size)
{
	int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;

	ssize_t got = read(fd, text, size - 1);
	int err = errno;

	close(fd);
	errno = err;
	if (got >= 0)
		text[got] = '\0';
	return got;
}

/* More than a line with a number has. */
#define LINE 64

long ut_status_number(int fd, const char *name)
{
	char text[8192], start[LINE];
	ssize_t got;

	snprintf(start, sizeof(start), "\n%s:", name);
	for (off_t at = 0;; at += got - LINE) {
		got = pread(fd, text, sizeof(text) - 1, at);
		if (got <= 0)
			return -1;
		text[got] = '\0';

		const char *line = strstr(text, start);

		if (line && strchr(line + 1, '\n'))
			return strtol(line + strlen(start), NULL, 10);
		if (got <= LINE)
			return -1;
	}
}

int ut_list(int dir, const char *path, bool (*visit)(void *argument, const char *name),
            void *argument)
{
	int fd = openat(dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_Alignas(struct entry) char entries[4096];
	bool more = true;
	long got = 0;

	if (fd < 0)
		return -1;
	while (more && (got = syscall(SYS_getdents64, fd, entries, sizeof(entries))) > 0)
		for (long at = 0; more && at < got;) {
			const struct entry *entry = (const struct entry *)(entries + at);

			at += entry->size;
			if (entry->name[0] != '.')
				more = visit(argument, entry->name);
		}

	int err = errno;

	close(fd);
	errno = err;
	return got < 0 ? -1 : 0;
}
