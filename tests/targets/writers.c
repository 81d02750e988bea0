/*
 * Threads that write to pages of their own as fast as they can, by themselves or by
 * having the kernel write, and know what each page must contain: what a tracker that
 * makes a write wait must not disturb.
 *
 *   writers THREADS PAGES KERNEL SIGNALS
 *
 *   KERNEL: of 100 writes, how many by read(2). SIGNALS: a second, that interrupt
 * whatever runs; a read(2) that comes back short, or a wrong byte, is a failure.
 *
 *   "count"       -> "writes N signals N" so far
 *   "rest"        -> "resting", when no thread writes any more
 *   "at once"     -> all threads write one page each at the same time, once; "written
 * US": microseconds until the last had written "fork"        -> every thread writes, and
 * a child is forked meanwhile that writes to all pages of its own copy and exits;
 * "forked" when it has "go"          -> "going"
 */
#include "victim.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

enum { PAGE = 4096, WORDS = PAGE / 8, MOST_THREADS = 128 };
enum { GO, REST, BURST, END };

static int threads, pages, kernel, memory;
static volatile int mode;
static volatile int resting, bursts, burst_done;
static volatile uint64_t writes, signals;
static char *area;
static uint64_t *expected; /* first and last word of each page */

static void on_signal(int number)
{
	(void)number;
	__atomic_fetch_add(&signals, 1, __ATOMIC_RELAXED);
}

static void check_page(int page)
{
	uint64_t *words = (uint64_t *)(area + (size_t)page * PAGE);

	if (words[0] != expected[page] || words[WORDS - 1] != expected[page])
		victim_fail("page %d: %lx and %lx, not %lx", page, (long)words[0],
		            (long)words[WORDS - 1], (long)expected[page]);
}

static void by_kernel(int thread, uint64_t *words, uint64_t value)
{
	uint64_t content[WORDS];
	ssize_t got;

	memset(content, 0x5a, sizeof(content));
	content[0] = content[WORDS - 1] = value;
	if (pwrite(memory, content, PAGE, (off_t)thread * PAGE) != PAGE)
		victim_fail("pwrite: %s", strerror(errno));
	got = pread(memory, words, PAGE, (off_t)thread * PAGE);
	if (got != PAGE)
		victim_fail("a read of %ld bytes: %s", (long)got,
		            got < 0 ? strerror(errno) : "short");
}

static void write_page(int thread, int page, uint64_t value, uint64_t draw)
{
	uint64_t *words = (uint64_t *)(area + (size_t)page * PAGE);

	check_page(page);
	if ((int)(draw % 100) < kernel) {
		by_kernel(thread, words, value);
	} else {
		words[0] = value;
		words[WORDS - 1] = value;
	}
	expected[page] = value;
	__atomic_fetch_add(&writes, 1, __ATOMIC_RELAXED);
}

static void *work(void *argument)
{
	int thread = (int)(long)argument, seen = 0;
	uint64_t state = (uint64_t)thread;

	while (mode != END) {
		uint64_t draw = victim_random(&state);
		int page = thread * pages + (int)(draw % (uint64_t)pages);

		if (mode == GO) {
			write_page(thread, page, draw, draw >> 32);
			continue;
		}
		__atomic_fetch_add(&resting, 1, __ATOMIC_SEQ_CST);
		while (mode == REST || (mode == BURST && bursts == seen))
			sched_yield();
		if (mode == BURST) {
			seen = bursts;
			write_page(thread, page, draw, draw >> 32);
			__atomic_fetch_add(&burst_done, 1, __ATOMIC_SEQ_CST);
			while (mode == BURST && bursts == seen)
				sched_yield();
		}
		__atomic_fetch_sub(&resting, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void rest(void)
{
	mode = REST;
	while (resting < threads)
		sched_yield();
}

static long at_once(void)
{
	struct timespec from, to;

	rest();
	burst_done = 0;
	clock_gettime(CLOCK_MONOTONIC, &from);
	bursts++;
	mode = BURST;
	while (burst_done < threads)
		sched_yield();
	clock_gettime(CLOCK_MONOTONIC, &to);
	/* Back to rest without a moment in which a thread is in neither. */
	mode = REST;
	return (to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000;
}

static void fork_one(void)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		victim_fail("fork: %s", strerror(errno));
	if (!child) {
		for (int page = 0; page < threads * pages; page++)
			area[(size_t)page * PAGE + 64] = 1;
		_exit(0);
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			victim_fail("waitpid: %s", strerror(errno));
	if (status)
		victim_fail("the child ended with %x", status);
}

static void obey(const char *command)
{
	if (!strcmp(command, "rest")) {
		rest();
		victim_say("resting");
	} else if (!strcmp(command, "at once")) {
		victim_say("written %ld", at_once());
	} else if (!strcmp(command, "fork")) {
		fork_one();
		victim_say("forked");
	} else if (!strcmp(command, "go")) {
		mode = GO;
		victim_say("going");
	} else {
		victim_say("writes %ld signals %ld", (long)writes, (long)signals);
	}
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	struct itimerval timer = {0};
	pthread_t ids[MOST_THREADS];
	int rate = argc == 5 ? atoi(argv[4]) : 0;

	threads = argc == 5 ? atoi(argv[1]) : 0;
	if (threads < 1 || threads > MOST_THREADS)
		victim_fail("writers THREADS PAGES KERNEL SIGNALS");
	pages = atoi(argv[2]);
	kernel = atoi(argv[3]);
	memory = memfd_create("writers", MFD_CLOEXEC);
	area = mmap(NULL, (size_t)threads * pages * PAGE, PROT_READ | PROT_WRITE,
	            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	expected = calloc((size_t)threads * pages, sizeof(*expected));
	if (memory < 0 || area == MAP_FAILED || !expected)
		victim_fail("memory: %s", strerror(errno));
	sigaction(SIGALRM, &action, NULL);
	if (rate) {
		timer.it_interval.tv_usec = timer.it_value.tv_usec = 1000000 / rate;
		setitimer(ITIMER_REAL, &timer, NULL);
	}
	for (long i = 0; i < threads; i++)
		if (pthread_create(&ids[i], NULL, work, (void *)i))
			victim_fail("pthread_create");
	victim_ready();
	for (char *command; (command = victim_command());)
		obey(command);
	mode = END;
	for (int i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	for (int page = 0; page < threads * pages; page++)
		check_page(page);
	victim_say("ok %ld", (long)writes);
	return 0;
}
