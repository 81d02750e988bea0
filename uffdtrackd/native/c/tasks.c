/* Reads /proc/PID/task and single files of threads; tasks.h says for whom. */
#include "c/tasks.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* include/linux/sched.h: set in field 9 of proc_pid_stat(5). */
#define PF_IO_WORKER 0x00000010

/* As getdents64(2) lays it out; the C library does not declare it. */
struct entry {
	uint64_t inode;
	int64_t offset;
	uint16_t length;
	uint8_t type;
	char name[];
};

static char *put(char *at, const char *text)
{
	size_t length = strlen(text);

	memcpy(at, text, length + 1);
	return at + length;
}

/* "/proc/TID/what": /proc has a folder for every thread, though it lists leaders only. */
static void path_of(char *path, pid_t tid, const char *what)
{
	char digits[12], *first = digits + sizeof(digits) - 1;

	*first = 0;
	do
		*--first = (char)('0' + tid % 10);
	while (tid /= 10);
	put(put(put(put(path, "/proc/"), first), "/"), what);
}

static ssize_t read_file(pid_t tid, const char *what, char *buffer, size_t size)
{
	char path[64];

	path_of(path, tid, what);

	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;

	ssize_t got = read(fd, buffer, size - 1);

	close(fd);
	if (got >= 0)
		buffer[got] = 0;
	return got;
}

static int list(int fd, int (*each)(void *, pid_t), void *arg)
{
	/* Some 300 threads a call. */
	char buffer[8192] __attribute__((aligned(8)));
	ssize_t got;

	while ((got = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))) > 0) {
		for (ssize_t at = 0; at < got;) {
			const struct entry *entry = (const struct entry *)(buffer + at);
			pid_t tid = 0;

			at += entry->length;
			for (const char *c = entry->name; *c >= '0' && *c <= '9'; c++)
				tid = tid * 10 + (*c - '0');
			if (!tid)
				continue; /* "." and ".." */

			int stop = each(arg, tid);

			if (stop)
				return stop;
		}
	}
	/* The process ended while it was listed. */
	if (got < 0 && errno == ENOENT)
		errno = ESRCH;
	return got < 0 ? -1 : 0;
}

int ut_tasks_each(pid_t pid, int (*each)(void *arg, pid_t tid), void *arg,
                  uint32_t *ret_total)
{
	char path[64];
	struct stat info;

	path_of(path, pid, "task");

	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0) {
		if (errno == ENOENT)
			errno = ESRCH;
		return -1;
	}

	int result = list(fd, each, arg);
	int err = errno;

	/* Links of the folder: its own two and one a thread (proc_task_getattr()). */
	if (!result && !fstat(fd, &info))
		*ret_total = info.st_nlink > 2 ? (uint32_t)info.st_nlink - 2 : 0;
	close(fd);
	errno = err;
	return result;
}

/* proc_pid_stat(5) from its third field, the state, on; NULL if the thread has gone. */
static const char *after_name(pid_t tid, char *buffer, size_t size)
{
	if (read_file(tid, "stat", buffer, size) <= 0)
		return NULL;

	/* The name may hold anything, the last parenthesis closes it. */
	const char *close = strrchr(buffer, ')');

	return close && close[1] == ' ' ? close + 2 : NULL;
}

char ut_task_state(pid_t tid)
{
	char buffer[1024];
	const char *state = after_name(tid, buffer, sizeof(buffer));

	return state ? *state : 0;
}

long ut_task_call(pid_t tid)
{
	char text[256];
	long call = 0;

	/* "running", or "NUMBER ARGUMENTS...", or "-1 SP PC": proc_pid_syscall(5). */
	if (read_file(tid, "syscall", text, sizeof(text)) <= 0 || text[0] == 'r')
		return UT_TASK_RUNS;
	if (text[0] == '-')
		return UT_TASK_WAITS;
	for (const char *at = text; *at >= '0' && *at <= '9'; at++)
		call = call * 10 + (*at - '0');
	return call;
}

bool ut_task_worker(pid_t tid)
{
	char buffer[1024];

	/*
	 * The name is cheap to read but a program may give it to any thread of its own,
	 * which then would never be stopped: so a matching name is only the first sieve.
	 */
	if (read_file(tid, "comm", buffer, sizeof(buffer)) <= 0 ||
	    strncmp(buffer, "iou-wrk-", 8))
		return false;

	const char *at = after_name(tid, buffer, sizeof(buffer));
	unsigned long flags = 0;

	for (int field = 3; at && field < 9; field++) {
		at = strchr(at, ' ');
		at = at ? at + 1 : NULL;
	}
	for (; at && *at >= '0' && *at <= '9'; at++)
		flags = flags * 10 + (unsigned long)(*at - '0');
	return flags & PF_IO_WORKER;
}

bool ut_task_worker_idle(pid_t tid)
{
	char place[128];
	char state = ut_task_state(tid);

	if (state == 0 || state == 'Z' || state == 'X')
		return true;
	if (state == 'R' || state == 'D')
		return false;
	/* "0": a kernel that does not say where its threads sleep. */
	if (read_file(tid, "wchan", place, sizeof(place)) <= 0 || !strcmp(place, "0"))
		return true;
	/* The second is its name before Linux 6.4. */
	return !strncmp(place, "io_wq_worker", 12) ||
	       !strncmp(place, "io_wqe_worker", 13);
}
