/*
 * Processes that are hard to attach to, one kind a run: odd KIND
 *
 *   dead-leader  the first thread has exited, another serves the commands
 *   nodump       prctl(PR_SET_DUMPABLE, 0)
 *   strict       seccomp strict mode: any call but read, write, _exit kills it
 *   filter       a seccomp filter that allows everything but mmap and userfaultfd
 *   fds          the soft RLIMIT_NOFILE reached; hard-fds: the hard one too
 *   space        RLIMIT_AS reached
 *   vfork        a thread waits in vfork() for a child that does not exec: state D
 *
 * "where" answers with the id of the thread that serves the commands.
 */
#include "victim.h"
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum { SIZE = 1 << 20 };
static unsigned char memory[SIZE];
static int strict;

/* read and write only: what strict mode leaves. */
static void serve(void)
{
	char line[256], answer[64];
	long length;

	if (write(1, "ready\n", 6) < 0)
		_exit(2);
	while ((length = read(0, line, sizeof(line) - 1)) > 0) {
		line[length] = 0;
		if (!strncmp(line, "stop", 4))
			break;
		/* Any thread may ask this of itself, but not in strict mode. */
		length = strncmp(line, "where", 5)
		                 ? snprintf(answer, sizeof(answer), "?\n")
		                 : snprintf(answer, sizeof(answer), "%d\n", gettid());
		if (write(1, answer, length) < 0)
			break;
	}
	for (int i = 0; i < SIZE; i++)
		if (memory[i] != (unsigned char)(i * 31))
			victim_fail("byte %d is %d", i, memory[i]);
	if (length < 0)
		victim_fail("read: %s", strerror(errno));
	if (write(1, "ok\n", 3) < 0)
		_exit(2);
	/* Strict mode allows the exit of one thread only. */
	syscall(strict ? SYS_exit : SYS_exit_group, 0);
}

static void *thread(void *leader)
{
	pthread_join(*(pthread_t *)leader, NULL);
	serve();
	exit(0);
}

static void filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(*code), code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		victim_fail("seccomp: %s", strerror(errno));
}

static void fill_fds(rlim_t most)
{
	struct rlimit limit = {64, most};

	if (setrlimit(RLIMIT_NOFILE, &limit))
		victim_fail("setrlimit: %s", strerror(errno));
	while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0)
		;
	if (errno != EMFILE)
		victim_fail("open: %s", strerror(errno));
}

static void fill_space(void)
{
	struct rlimit limit = {0, RLIM_INFINITY};

	if (setrlimit(RLIMIT_AS, &limit))
		victim_fail("setrlimit: %s", strerror(errno));
}

static _Atomic int vfork_tid;

static void *vforker(void *unused)
{
	vfork_tid = gettid();
	/* The child shares our memory and must do nothing but wait to be killed with us.
	 */
	if (vfork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return unused;
}

static void wait_for_vfork(void)
{
	char path[64], line[256], *state = NULL;
	FILE *stat;

	while (!state || state[2] != 'D') {
		sched_yield();
		snprintf(path, sizeof(path), "/proc/self/task/%d/stat", vfork_tid);
		stat = vfork_tid ? fopen(path, "r") : NULL;
		if (!stat)
			continue;
		state = fgets(line, sizeof(line), stat);
		state = state ? strrchr(line, ')') : NULL;
		fclose(stat);
	}
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	static pthread_t leader, other;

	for (int i = 0; i < SIZE; i++)
		memory[i] = (unsigned char)(i * 31);
	leader = pthread_self();
	if (!strcmp(kind, "dead-leader")) {
		if (pthread_create(&other, NULL, thread, &leader))
			victim_fail("pthread_create");
		pthread_exit(NULL);
	} else if (!strcmp(kind, "nodump")) {
		prctl(PR_SET_DUMPABLE, 0);
	} else if (!strcmp(kind, "strict")) {
		strict = 1;
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
	} else if (!strcmp(kind, "filter")) {
		filter();
	} else if (!strcmp(kind, "fds") || !strcmp(kind, "hard-fds")) {
		fill_fds(*kind == 'h' ? 64 : 256);
	} else if (!strcmp(kind, "space")) {
		fill_space();
	} else if (!strcmp(kind, "vfork")) {
		if (pthread_create(&other, NULL, vforker, NULL))
			victim_fail("pthread_create");
		wait_for_vfork();
	} else {
		victim_fail("odd: no kind %s", kind);
	}
	serve();
	return 0;
}
