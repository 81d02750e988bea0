/*
 * Many threads that never rest: crowd KIND N
 *
 *   spin N   N threads count, each its own counter
 *   sleep N  N threads sleep in futex; the leader counts
 *   bomb N   N chains of threads: each counts, makes the next and exits
 *   exec N   N threads count; now and then one of them runs this program anew, which ends
 * the others. Generations are counted in the file open as fd 3; serves no commands
 *
 * "where" answers with the address of the counters and their number; each is a uint64_t
 * that only grows while its thread runs, so a frozen process is one whose counters stand
 * still.
 */
#include "victim.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

enum { MOST = 4096 };

static volatile uint64_t counters[MOST];
static _Atomic int stop, running, started;
static long number;

static void *spin(void *counter)
{
	started++;
	while (!stop)
		++*(volatile uint64_t *)counter;
	return NULL;
}

static void *rest(void *lock)
{
	started++;
	pthread_mutex_lock(lock);
	pthread_mutex_unlock(lock);
	return NULL;
}

static void start(void *(*body)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;
	int err;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 64 << 10);
	/* Threads that have exited still count against the limits for a moment. */
	while ((err = pthread_create(&thread, &attr, body, arg)) == EAGAIN)
		sched_yield();
	if (err)
		victim_fail("pthread_create: %s", strerror(err));
	pthread_attr_destroy(&attr);
}

static void *link_of_chain(void *counter)
{
	++*(volatile uint64_t *)counter;
	if (stop)
		running--;
	else
		start(link_of_chain, counter);
	return NULL;
}

static void exec_now_and_then(char **argv)
{
	uint64_t generation = 0, seed;
	struct timespec now;

	if (pread(3, &generation, sizeof(generation), 0) < 0)
		victim_fail("fd 3: %s", strerror(errno));
	generation++;
	if (pwrite(3, &generation, sizeof(generation), 0) < 0)
		victim_fail("fd 3: %s", strerror(errno));
	if (generation == 1)
		victim_ready();
	clock_gettime(CLOCK_MONOTONIC, &now);
	seed = (uint64_t)now.tv_nsec;
	/* 0 to 2 ms of work: a freeze then falls into every stage of an exec(). */
	for (uint64_t i = victim_random(&seed) % 1000000; i; i--)
		counters[MOST - 1]++;
	execv("/proc/self/exe", argv);
	victim_fail("execv: %s", strerror(errno));
}

static void *exec_thread(void *argv)
{
	exec_now_and_then(argv);
	return NULL;
}

int main(int argc, char **argv)
{
	const char *kind = argc == 3 ? argv[1] : "";
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

	number = argc == 3 ? atol(argv[2]) : 0;
	if (number < 1 || number >= MOST)
		victim_fail("crowd KIND N");
	pthread_mutex_lock(&lock);
	if (!strcmp(kind, "spin")) {
		for (long i = 0; i < number; i++)
			start(spin, (void *)&counters[i]);
	} else if (!strcmp(kind, "sleep")) {
		for (long i = 1; i < number; i++)
			start(rest, &lock);
		start(spin, (void *)&counters[0]);
	} else if (!strcmp(kind, "bomb")) {
		running = (int)number;
		for (long i = 0; i < number; i++)
			start(link_of_chain, (void *)&counters[i]);
	} else if (!strcmp(kind, "exec")) {
		for (long i = 0; i < number; i++)
			start(spin, (void *)&counters[i]);
		start(exec_thread, argv);
		for (;;)
			pause();
	} else {
		victim_fail("crowd: no kind %s", kind);
	}
	/* A thread that is being born has all signals blocked. */
	while (strcmp(kind, "bomb") && started < number)
		sched_yield();
	victim_ready();
	for (char *command; (command = victim_command());)
		victim_say("%lx %ld", (unsigned long)counters, number);
	stop = 1;
	while (running)
		sched_yield();
	victim_say("ok");
	_exit(0);
}
