/*
 * Processes in the corners of what a kernel offers, one kind a run: corner KIND
 *
 *   rseq       a thread that is nearly always inside a restartable sequence (rseq(2))
 *   dispatch   syscall user dispatch is on: a call from outside our text is a SIGSYS
 *   mdwe       PR_SET_MDWE: no memory may become executable after it was writable
 *   locked     mlockall(MCL_FUTURE), and RLIMIT_MEMLOCK is used up
 *   mappings   vm.max_map_count is reached
 *   unshared   the thread has a descriptor table of its own, full of other things
 *   forks      threads that fork all the time; no child may have a descriptor too many
 *   execs N    runs itself again, N times, then serves
 *   leader N   the same, but another thread than the first one calls execve()
 *
 * "where" answers with the id of the thread that matters, "rounds" how often it came
 * round.
 */
#include "victim.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
#define PR_SET_MDWE 65 /* Linux 6.3 */

static _Atomic int tid, stopping;
static _Atomic uint64_t rounds;
static char **arguments;

/*
 * Counts down inside the sequence, then looks whether the kernel still knows of it. It
 * forgets it (rseq_cs = 0) when it finds the thread elsewhere, as it does if somebody ran
 * other code in this thread and came back: then a real sequence would have lost its
 * atomicity.
 */
static void *rseq_thread(void *unused)
{
	uint64_t *area =
		(uint64_t *)((char *)__builtin_thread_pointer() + __rseq_offset) + 1;
	uint64_t aborted = 0;

	tid = gettid();
	while (!stopping) {
		uint64_t kept = 0;

		__asm__ goto("lea 3f(%%rip), %%rax\n"
		             "mov %%rax, %[area]\n"
		             "1: mov $100000, %%ecx\n"
		             "5: dec %%ecx\n"
		             "jnz 5b\n"
		             "mov %[area], %%rax\n"
		             "mov %%rax, (%[kept])\n"
		             "2: jmp %l[committed]\n"
		             ".byte 0x0f, 0xb9, 0x3d\n"
		             ".long 0x53053053\n" /* RSEQ_SIG */
		             "4: jmp %l[abort]\n"
		             ".pushsection .data.rel.rseq, \"aw\"\n"
		             ".balign 32\n"
		             "3: .long 0, 0\n"
		             ".quad 1b, 2b - 1b, 4b\n"
		             ".popsection\n"
		             :
		             : [area] "m"(*area), [kept] "r"(&kept)
		             : "rax", "rcx", "cc", "memory"
		             : abort, committed);
	committed:
		if (!kept)
			victim_fail("round %lu: the sequence was broken into", rounds);
		rounds++;
		continue;
	abort:
		aborted++;
	}
	return unused;
}

static char selector;
static _Atomic int dispatched;

static void on_sys(int signal)
{
	(void)signal;
	dispatched++;
	selector = 0;
}

static void *dispatch_thread(void *unused)
{
	extern char __executable_start, etext;

	tid = gettid();
	/* Nothing but our own text may call; libc may only while the selector allows it.
	 */
	if (prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, &__executable_start,
	          &etext - &__executable_start, &selector))
		victim_fail("syscall user dispatch: %s", strerror(errno));
	while (!stopping) {
		int before = dispatched;

		selector = 1;
		for (int i = 0; i < 200000 && selector; i++)
			__asm__ volatile("pause");
		if (dispatched != before)
			victim_fail("a call was made in our name");
		/* And it is still on: this one of libc's is ours. */
		getppid();
		if (dispatched != before + 1)
			victim_fail("syscall user dispatch was lost");
		selector = 0;
		rounds++;
	}
	return unused;
}

/* A number that the first thread's table has for something else. */
static void *unshared_thread(void *unused)
{
	if (unshare(CLONE_FILES))
		victim_fail("unshare: %s", strerror(errno));
	for (int i = 0; i < 40; i++)
		if (dup(2) < 0)
			victim_fail("dup: %s", strerror(errno));
	tid = gettid();
	while (!stopping) {
		rounds++;
		usleep(1000);
	}
	return unused;
}

static int open_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = -3; /* ".", ".." and the folder */

	while (folder && readdir(folder))
		count++;
	if (folder)
		closedir(folder);
	return count;
}

static int fds_at_start;

/* The child lives some milliseconds, so that what it should not have can be taken from
 * it. */
static void *forks_thread(void *unused)
{
	tid = gettid();
	while (!stopping) {
		pid_t child = fork();
		int status;

		if (child < 0)
			victim_fail("fork: %s", strerror(errno));
		if (child == 0) {
			for (int i = 0; open_fds() != fds_at_start; i++) {
				if (i == 2000)
					_exit(3);
				usleep(1000);
			}
			_exit(0);
		}
		if (waitpid(child, &status, 0) != child || status)
			victim_fail("a child ended with status %x", status);
		rounds++;
	}
	return unused;
}

static void *exec_thread(void *unused)
{
	execv("/proc/self/exe", arguments);
	victim_fail("execv: %s", strerror(errno));
	return unused;
}

static void exec_again(int by_thread)
{
	static char left[16];
	pthread_t other;

	snprintf(left, sizeof(left), "%d", atoi(arguments[2]) - 1);
	arguments[2] = left;
	if (!by_thread)
		exec_thread(NULL);
	if (pthread_create(&other, NULL, exec_thread, NULL))
		victim_fail("pthread_create");
	for (;;)
		pause();
}

static void fill_mappings(void)
{
	/* Neighbours differ in protection, so they never merge. */
	for (int protection = PROT_NONE;; protection ^= PROT_READ)
		if (mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
		    MAP_FAILED)
			break;
	if (errno != ENOMEM)
		victim_fail("mmap: %s", strerror(errno));
}

static void lock_all(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct caps[2];
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		victim_fail("getrlimit: %s", strerror(errno));
	limit.rlim_cur = 1 << 20;
	if (mlockall(MCL_FUTURE | MCL_ONFAULT) || setrlimit(RLIMIT_MEMLOCK, &limit))
		victim_fail("mlockall: %s", strerror(errno));
	/* Or else it is not bound by the limit. */
	if (syscall(SYS_capget, &header, caps))
		victim_fail("capget: %s", strerror(errno));
	caps[0].effective &= ~(1u << CAP_IPC_LOCK);
	caps[0].permitted &= ~(1u << CAP_IPC_LOCK);
	if (syscall(SYS_capset, &header, caps))
		victim_fail("capset: %s", strerror(errno));
	while (mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
	       MAP_FAILED)
		;
	if (errno != EAGAIN)
		victim_fail("mmap: %s", strerror(errno));
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	void *(*run)(void *) = NULL;
	pthread_t threads[4];
	int count = 0;

	arguments = argv;
	fds_at_start = open_fds();
	signal(SIGSYS, on_sys);
	if ((!strcmp(kind, "execs") || !strcmp(kind, "leader")) && argc > 2 &&
	    atoi(argv[2]) > 0) {
		if (atoi(argv[2]) % 100 == 0)
			victim_ready();
		exec_again(!strcmp(kind, "leader"));
	}
	if (!strcmp(kind, "rseq"))
		run = rseq_thread;
	else if (!strcmp(kind, "dispatch"))
		run = dispatch_thread;
	else if (!strcmp(kind, "unshared"))
		run = unshared_thread;
	else if (!strcmp(kind, "forks"))
		run = forks_thread;
	else if (!strcmp(kind, "mdwe") && prctl(PR_SET_MDWE, 1, 0, 0, 0))
		victim_fail("PR_SET_MDWE: %s", strerror(errno));
	for (; run && count < (run == forks_thread ? 4 : 1); count++)
		if (pthread_create(&threads[count], NULL, run, NULL))
			victim_fail("pthread_create");
	while (run && !tid)
		sched_yield();
	if (!run)
		tid = gettid();
	victim_ready(); /* stdio has its memory by now */
	if (!strcmp(kind, "mappings"))
		fill_mappings();
	if (!strcmp(kind, "locked"))
		lock_all();
	for (char *command; (command = victim_command());)
		victim_say("%lu", strcmp(command, "where") ? rounds : (uint64_t)tid);
	stopping = 1;
	while (count)
		pthread_join(threads[--count], NULL);
	victim_say("ok");
	return 0;
}
