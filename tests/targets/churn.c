/*
 * The hardest honest target: threads that change their address space in every way there
 * is, as fast as they can, and know at any time what every page must contain.
 *
 *   thread 0 (main)   ops on its own areas, brk, a growing stack; looks at stdin
 *   threads 1..N-1    ops on their own areas
 *
 *   a wrong byte, a failed call, EINTR, SIGSEGV   the reason, seed, last ops; exit 1
 *   "stop"                                        every page is checked, "ok OPS ..."
 *   any other line                                the same line and the counts by letter
 *
 *   churn [-s SEED] [-t THREADS] [-m MEGABYTES] [-p PAUSE_US] [-o OPS] [-n COUNT]
 *
 * -o: letters of churn_calls.h's table, one drawn at random each time: repeat one to have
 * more of it, give few to narrow a fault down. -n: stop changing after COUNT ops a thread
 * (a run that repeats exactly); the threads then wait for "stop".
 */
#include "churn_calls.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { MAX_THREADS = 64, THREAD_STACK = 2 << 20 };

static struct worker *workers[MAX_THREADS];
static int threads = 4;
static long megabytes = 64, pause_us;
static uint64_t seed = 1, op_limit = UINT64_MAX;
static const char *ops = DEFAULT_OPS;
static volatile bool stopping;

static void crashed(int number, siginfo_t *info, void *context)
{
	(void)context;
	fail("signal %d at %p", number, info->si_addr);
}

static void *reserve(size_t size)
{
	void *at = mmap(NULL, size, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(at == MAP_FAILED ? -1 : 0, "mmap");
	return at;
}

/* A file whose every page is known, in memory or on a disk. */
static int backing_file(bool on_disk)
{
	char path[] = "/var/tmp/churn-XXXXXX", content[PAGE] = {0};
	int fd = on_disk ? mkostemp(path, O_CLOEXEC)
	                 : memfd_create("backing", MFD_CLOEXEC);

	must(fd, "backing file");
	if (on_disk)
		must(unlink(path), "unlink");
	for (uint32_t page = 0; page < MAX_PAGES; page++) {
		fill(content, file_stamp(page));
		if (write(fd, content, PAGE) != PAGE)
			fail("backing file: %s", strerror(errno));
	}
	return fd;
}

static struct worker *new_worker(int number)
{
	struct worker *worker = reserve(sizeof(*worker));

	self = worker;
	worker->number = number;
	worker->seed = seed;
	worker->random = victim_mix(seed * 1000 + (uint64_t)number);
	worker->quota = (uint64_t)megabytes * 256 / (uint64_t)threads;
	worker->file = backing_file(true);
	worker->memfd = backing_file(false);
	must(pipe2(worker->pipe, O_CLOEXEC), "pipe");
	return worker;
}

static void one_op(void)
{
	static _Thread_local size_t count;
	char letter;

	if (!count)
		count = strlen(ops);
	letter = ops[below((uint32_t)count)];
	for (size_t i = 0; i < sizeof(op_table) / sizeof(op_table[0]); i++)
		if (op_table[i].letter == letter)
			op_table[i].run(letter);
	if (pause_us) {
		struct timespec wait = {pause_us / 1000000, pause_us % 1000000 * 1000};

		must(nanosleep(&wait, NULL), "nanosleep");
	}
}

static void check_all(void)
{
	for (int i = 0; i < MAX_AREAS; i++)
		check_area(&self->areas[i]);
}

static void *work(void *worker)
{
	self = worker;
	for (uint64_t i = 0; !stopping; i++) {
		if (i < op_limit)
			one_op();
		else
			sched_yield();
	}
	check_all();
	return NULL;
}

static void say_counts(const char *first)
{
	char text[512];
	size_t at = 0;
	uint64_t total = 0, used = 0;

	for (size_t i = 0; i < sizeof(op_table) / sizeof(op_table[0]); i++) {
		uint64_t count = 0;

		for (int t = 0; t < threads; t++)
			count += workers[t]->counts[(int)op_table[i].letter];
		total += count;
		if (count)
			at += (size_t)snprintf(text + at, sizeof(text) - at, " %c=%lu",
			                       op_table[i].letter, count);
	}
	for (int t = 0; t < threads; t++)
		used += workers[t]->used;
	victim_say("%s %lu%s pages=%lu", first, total, text, used);
}

static void main_thread(void)
{
	struct pollfd input = {STDIN_FILENO, POLLIN, 0};

	self = workers[0];
	for (uint64_t i = 0;; i++) {
		int waiting = i % 8 ? 0 : poll(&input, 1, 0);

		must(waiting, "poll");
		if (waiting) {
			char *line = victim_command();

			if (!line)
				break;
			say_counts(line);
		}
		if (i < op_limit)
			one_op();
		else
			sched_yield();
	}
	stopping = true;
	check_all();
}

static void options(int argc, char **argv)
{
	for (int option; (option = getopt(argc, argv, "s:t:m:p:o:n:")) != -1;) {
		switch (option) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 't':
			threads = atoi(optarg);
			break;
		case 'm':
			megabytes = atol(optarg);
			break;
		case 'p':
			pause_us = atol(optarg);
			break;
		case 'o':
			ops = optarg;
			break;
		case 'n':
			op_limit = strtoull(optarg, NULL, 0);
			break;
		default:
			exit(2);
		}
	}
	if (threads < 1 || threads > MAX_THREADS || !*ops)
		victim_fail("1..%d threads, some ops", MAX_THREADS);
}

int main(int argc, char **argv)
{
	static char input[4096], output[4096];
	struct sigaction action = {.sa_sigaction = crashed,
	                           .sa_flags = SA_SIGINFO | SA_ONSTACK};
	stack_t other = {.ss_sp = reserve(1 << 16), .ss_size = 1 << 16};
	pthread_t ids[MAX_THREADS];
	pthread_attr_t attributes;

	/* The heap is ours to grow and shrink, so stdio must not ask malloc for buffers.
	 */
	setvbuf(stdin, input, _IOFBF, sizeof(input));
	setvbuf(stdout, output, _IOFBF, sizeof(output));
	options(argc, argv);
	must(sigaltstack(&other, NULL), "sigaltstack");
	must(sigaction(SIGSEGV, &action, NULL), "sigaction");
	must(sigaction(SIGBUS, &action, NULL), "sigaction");
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, THREAD_STACK);
	for (int i = threads - 1; i >= 0; i--) {
		workers[i] = new_worker(i);
		for (int j = 0; j < 20; j++)
			op_map('m');
	}
	for (int i = 1; i < threads; i++)
		if (pthread_create(&ids[i], &attributes, work, workers[i]))
			fail("pthread_create");
	victim_ready();
	main_thread();
	for (int i = 1; i < threads; i++)
		pthread_join(ids[i], NULL);
	say_counts("ok");
	return 0;
}
