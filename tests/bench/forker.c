/*
 * The target that forks: what tracking costs it then, and what a tree costs the tracker.
 *
 *   forker MIB
 *   <- "ready PID"
 *
 *   track            a userfaultfd of its own, asynchronous              "ok 0"
 *   fork COUNT       COUNT children, one at a time, that end at once     "ok MEDIAN P99
 * MAX" children COUNT   COUNT children that stay, each a copy of the arena  "ok 0" write
 * COUNT      each child writes COUNT pages of its copy           "ok NS" end the children
 * end                                    "ok 0"
 *
 * The three times are of the call to fork() in the parent, in ns.
 */
#include "kernel.h"
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <signal.h>

#define MOST 4096

static unsigned char *arena;
static uint64_t arena_pages;
static int lines[MOST];
static int children;

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void fork_some(uint64_t count)
{
	static uint64_t taken[MOST];

	for (uint64_t i = 0; i < count; i++) {
		uint64_t before = now_ns();
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		taken[i] = now_ns() - before;
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			die("fork");
	}
	qsort(taken, count, sizeof(*taken), by_size);
	printf("ok %lu %lu %lu\n", taken[count / 2], taken[(count - 1) * 99 / 100],
	       taken[count - 1]);
}

static void obey(int line)
{
	uint64_t count;

	/* A parent that is killed leaves nobody behind. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (read(line, &count, sizeof(count)) == sizeof(count)) {
		for (uint64_t i = 0; i < count; i++)
			arena[i * PAGE]++;
		if (write(line, "", 1) != 1)
			break;
	}
	_exit(0);
}

static void make_children(int count)
{
	int pair[2];

	for (; count; count--, children++) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
			die("socketpair");
		lines[children] = pair[0];
		switch (fork()) {
		case -1:
			die("fork");
			break;
		case 0:
			for (int i = 0; i <= children; i++)
				close(lines[i]);
			obey(pair[1]);
		}
		close(pair[1]);
	}
}

static uint64_t let_children_write(uint64_t count)
{
	uint64_t before = now_ns();
	char done;

	for (int i = 0; i < children; i++)
		if (write(lines[i], &count, sizeof(count)) != sizeof(count) ||
		    read(lines[i], &done, 1) != 1)
			die("child");
	return now_ns() - before;
}

static void end_children(void)
{
	while (children)
		close(lines[--children]);
	while (wait(NULL) > 0)
		;
}

int main(int argc, char **argv)
{
	char line[64];
	uint64_t count, size;
	unsigned taken = 0, refused = 0;

	if (argc != 2)
		return 2;
	size = strtoull(argv[1], NULL, 10) << 20;
	arena_pages = size / PAGE;
	arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	             0);
	if (arena == MAP_FAILED || madvise(arena, size, MADV_NOHUGEPAGE))
		die("arena");
	memset(arena, 1, size);
	printf("ready %d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "track\n")) {
			register_all(make_uffd(), getpid(), &taken, &refused);
			printf("ok 0\n");
		} else if (sscanf(line, "fork %lu", &count) == 1 && count &&
		           count <= MOST) {
			fork_some(count);
		} else if (sscanf(line, "children %lu", &count) == 1 &&
		           count + (uint64_t)children <= MOST) {
			make_children((int)count);
			printf("ok 0\n");
		} else if (sscanf(line, "write %lu", &count) == 1 &&
		           count <= arena_pages) {
			printf("ok %lu\n", let_children_write(count));
		} else if (!strcmp(line, "end\n")) {
			end_children();
			printf("ok 0\n");
		} else {
			printf("what\n");
		}
		fflush(stdout);
	}
	return 0;
}
