/*
 * A process that has children of every sort; all of them write their memory all the time.
 *
 *	child        -> PID   forks one that works
 *	again PID    -> PID   one that gets this pid, which is free; 0: not allowed
 *	blank PID    -> PID   the same, but it gives its memory up and rests
 *	daemon       -> PID   forks twice and lets the middle one end: an orphan
 *	user UID     -> PID   one that becomes another user
 *	namespace    -> PID   one in a user namespace of its own
 *	headless     -> PID   one whose first thread has ended; another one works
 *	exec         -> PID   one that runs this program anew, in a mode that works
 *	vm           -> PID   clone(CLONE_VM): works in our memory
 *	vfork        -> PID   a thread waits in vfork() until the child is told ...
 *	release      -> done  ... to run this program anew
 *	end PID      -> done  kills a child and waits for it
 *	storm N      -> done  a thread forks as fast as it can, at most N at a
 *	                      time, whose children fork too
 *	calm         -> done  no more of that
 *	count        -> N     forks of the storm so far
 *
 * Nobody outlives the first process: all look at a pipe that ends with it.
 */
#include "victim.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;

enum { PAGE = 4096, PAGES = 64 };

static int life[2], news[2], go[2];
static const char *program;
static unsigned char *area;
static atomic_int storming;
static atomic_ulong storms;
static uint64_t seed;

static int alone(void)
{
	struct pollfd end = {.fd = life[0], .events = POLLIN};

	return poll(&end, 1, 0) > 0;
}

__attribute__((noreturn)) static void wait_for_the_end(void)
{
	struct pollfd end = {.fd = life[0], .events = POLLIN};

	close(life[1]);
	poll(&end, 1, -1);
	_exit(0);
}

static void scribble(int times)
{
	for (int i = 0; i < times; i++) {
		uint64_t at = victim_random(&seed);

		area[at % (PAGES * PAGE)] = (unsigned char)(at >> 32);
	}
}

/* The life of a child: writes, and now and then maps something else. */
__attribute__((noreturn)) static void work(void)
{
	close(life[1]);
	seed ^= victim_mix((uint64_t)getpid());
	while (!alone()) {
		scribble(8);
		if (victim_random(&seed) % 64 == 0) {
			munmap(area, PAGES * PAGE);
			area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
			            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (area == MAP_FAILED)
				_exit(1);
		}
		usleep(200);
	}
	_exit(0);
}

static pid_t forked(void)
{
	pid_t pid = fork();

	if (pid < 0)
		victim_fail("fork: %s", strerror(errno));
	return pid;
}

static pid_t told(void)
{
	pid_t pid;

	if (read(news[0], &pid, sizeof(pid)) != sizeof(pid))
		victim_fail("a child has nothing to say");
	return pid;
}

static void tell(void)
{
	pid_t pid = getpid();

	if (write(news[1], &pid, sizeof(pid)) != sizeof(pid))
		_exit(1);
}

static void run_anew(void)
{
	static char fd[16];
	char *argv[] = {(char *)program, "work", fd, NULL};

	/* No stdio: after vfork() this is our parent's memory. */
	fd[0] = (char)('0' + life[0] / 10);
	fd[1] = (char)('0' + life[0] % 10);
	execve(program, argv, environ);
	_exit(1);
}

static pid_t orphan(void)
{
	pid_t middle = forked();

	if (!middle) {
		if (fork() == 0) {
			setsid();
			tell();
			work();
		}
		_exit(0);
	}
	waitpid(middle, NULL, 0);
	return told();
}

/* Has nothing where others work, so that whatever is held of another is wrong. */
__attribute__((noreturn)) static void rest(void)
{
	madvise(area, PAGES * PAGE, MADV_DONTNEED);
	tell();
	wait_for_the_end();
}

static pid_t forked_as(pid_t wanted, void (*then)(void))
{
	struct clone_args how = {
		.exit_signal = SIGCHLD,
		.set_tid = (uintptr_t)&wanted,
		.set_tid_size = 1,
	};
	long pid = syscall(SYS_clone3, &how, sizeof(how));

	if (pid == 0)
		then();
	return pid < 0 ? 0 : (pid_t)pid;
}

static pid_t other_user(uid_t uid)
{
	pid_t pid = forked();

	if (!pid) {
		if (setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
			_exit(1);
		tell();
		work();
	}
	return told();
}

static pid_t other_namespace(void)
{
	pid_t pid = forked();

	if (!pid) {
		if (unshare(CLONE_NEWUSER))
			_exit(1);
		tell();
		work();
	}
	return told();
}

static void *works_on(void *leader)
{
	pthread_join(*(pthread_t *)leader, NULL);
	tell();
	work();
}

static pid_t headless(void)
{
	static pthread_t leader, other;
	pid_t pid = forked();

	if (!pid) {
		leader = pthread_self();
		if (pthread_create(&other, NULL, works_on, &leader))
			_exit(1);
		pthread_exit(NULL);
	}
	return told();
}

static pid_t executed(void)
{
	pid_t pid = forked();

	if (!pid)
		run_anew();
	return pid;
}

static int in_our_memory(void *unused)
{
	/* The descriptors are a copy: what closes here stays open there. */
	close(life[1]);
	while (!alone()) {
		(*(volatile unsigned *)unused)++;
		usleep(200);
	}
	_exit(0);
}

static pid_t of_our_memory(void)
{
	char *stack = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE,
	                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t pid = clone(in_our_memory, stack + 15 * PAGE, CLONE_VM | SIGCHLD, area);

	if (pid < 0)
		victim_fail("clone: %s", strerror(errno));
	return pid;
}

static void *vforker(void *unused)
{
	if (vfork() == 0) {
		char byte;

		close(life[1]);
		tell();
		while (read(go[0], &byte, 1) != 1)
			;
		run_anew();
	}
	return unused;
}

/* Whoever comes meets some: a child stays until it is pushed out, its own live for 3 ms.
 */
static void *storm(void *most)
{
	pid_t ring[64] = {0};
	size_t size = (uintptr_t)most, at = 0;

	if (size > sizeof(ring) / sizeof(ring[0]))
		victim_fail("a storm of %zu", size);
	while (atomic_load(&storming)) {
		if (ring[at]) {
			kill(ring[at], SIGKILL);
			waitpid(ring[at], NULL, 0);
		}
		ring[at] = fork();
		if (ring[at] < 0)
			victim_fail("fork: %s", strerror(errno));
		if (ring[at] == 0) {
			bool lasting = true;

			/* Four of three generations, each with memory of its own. */
			for (int i = 0; i < 2; i++) {
				pid_t pid = fork();

				if (pid < 0)
					_exit(1);
				lasting = lasting && pid;
			}
			scribble(32);
			if (lasting)
				wait_for_the_end();
			usleep(3000);
			while (wait(NULL) > 0)
				;
			_exit(0);
		}
		at = (at + 1) % size;
		atomic_fetch_add(&storms, 1);
	}
	for (at = 0; at < size; at++)
		if (ring[at] > 0) {
			kill(ring[at], SIGKILL);
			waitpid(ring[at], NULL, 0);
		}
	return NULL;
}

static void obey(const char *line)
{
	static pthread_t thread;
	const char *number = strchr(line, ' ');
	uintptr_t value = number ? strtoul(number, NULL, 0) : 0;
	pid_t pid = 0;

	if (!strcmp(line, "child")) {
		if (!(pid = forked()))
			work();
	} else if (!strncmp(line, "again ", 6)) {
		victim_say("%d", forked_as((pid_t)value, work));
		return;
	} else if (!strncmp(line, "blank ", 6)) {
		pid = forked_as((pid_t)value, rest);
		victim_say("%d", pid ? told() : 0);
		return;
	} else if (!strcmp(line, "daemon")) {
		pid = orphan();
	} else if (!strncmp(line, "user ", 5)) {
		pid = other_user((uid_t)value);
	} else if (!strcmp(line, "namespace")) {
		pid = other_namespace();
	} else if (!strcmp(line, "headless")) {
		pid = headless();
	} else if (!strcmp(line, "exec")) {
		pid = executed();
	} else if (!strcmp(line, "vm")) {
		pid = of_our_memory();
	} else if (!strcmp(line, "vfork")) {
		pthread_create(&thread, NULL, vforker, NULL);
		pid = told();
	} else if (!strcmp(line, "release")) {
		if (write(go[1], "", 1) != 1)
			victim_fail("release");
		pthread_join(thread, NULL);
	} else if (!strncmp(line, "end ", 4)) {
		kill((pid_t)value, SIGKILL);
		waitpid((pid_t)value, NULL, 0);
	} else if (!strncmp(line, "storm ", 6)) {
		atomic_store(&storming, 1);
		pthread_create(&thread, NULL, storm, (void *)value);
	} else if (!strcmp(line, "calm")) {
		atomic_store(&storming, 0);
		pthread_join(thread, NULL);
	} else if (!strcmp(line, "count")) {
		victim_say("%lu", atomic_load(&storms));
		return;
	} else {
		victim_fail("unknown: %s", line);
	}
	if (pid)
		victim_say("%d", pid);
	else
		victim_say("done");
}

int main(int argc, char **argv)
{
	const char *line;

	area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
	            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		victim_fail("mmap");
	if (argc == 3) {
		life[0] = atoi(argv[2]);
		life[1] = -1;
		work();
	}
	program = argv[0];
	if (pipe(life) || pipe(news) || pipe(go))
		victim_fail("pipe");
	/* A child that runs exec() must not hold open what it waits for the end of. */
	fcntl(life[1], F_SETFD, FD_CLOEXEC);
	victim_ready();
	while ((line = victim_command())) {
		scribble(64);
		obey(line);
	}
	victim_say("ok");
	return 0;
}
