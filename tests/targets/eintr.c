/*
 * Threads blocked in every call that a stop could disturb, which count what they see.
 *
 *     eintr            one thread a call, all rows of eintr_calls.h
 *     eintr NAME...    these only; with one NAME there is one thread in the process, so a
 *                      tracker has no other to choose
 *     eintr list       prints the names
 *
 *     main process: the threads -----.        shared: struct row[]
 *                                     +------ calls, interrupted, early, wrong
 *     waker (a child): ends waits ---'        stdin and stdout are the waker's
 *
 * The waker is a process, so that it adds no thread, and serves the commands, because the
 * only thread may be blocked: "stats" answers "calls=N faults=N NAME:calls ...". At the
 * end, any fault is one line and exit 1.
 */
#include "eintr_calls.h"
#include <pthread.h>
#include <sys/prctl.h>

static struct row *rows;
static int used[CALLS], count;
static volatile int *stopping;
static __thread struct row *mine;

static void on_usr1(int signal)
{
	if (mine)
		mine->handled++;
	(void)signal;
}

static void *run(void *index)
{
	const struct call *call = &calls[(intptr_t)index];
	struct row *row = &rows[(intptr_t)index];
	uint64_t seed = (uint64_t)(intptr_t)index * 7919;

	mine = row;
	row->tid = gettid();
	while (!*stopping) {
		/* Sockets keep the timeout of their start. */
		if (call->open != open_sockets && call->open != open_full_socket &&
		    call->open != open_listener)
			row->timeout_ns = (int64_t)(5 + victim_random(&seed) % 26) * MS;
		call->body(row);
		row->calls++;
	}
	return NULL;
}

static uint64_t faults(const struct row *row)
{
	return row->interrupted + row->early + row->wrong;
}

static void answer(void)
{
	uint64_t all = 0, bad = 0;

	for (int i = 0; i < count; i++) {
		all += rows[used[i]].calls;
		bad += faults(&rows[used[i]]);
	}
	printf("calls=%lu faults=%lu", all, bad);
	for (int i = 0; i < count; i++)
		if (!rows[used[i]].missing)
			printf(" %s:%lu", calls[used[i]].name, rows[used[i]].calls);
	puts(""), fflush(stdout);
}

static void wake_all(void)
{
	for (int i = 0; i < count; i++)
		if (calls[used[i]].wake && rows[used[i]].wanted)
			calls[used[i]].wake(&rows[used[i]]);
}

/* Until the main process, which reports, has ended: it may be blocked to the last. */
static void waker(void)
{
	struct pollfd in = {.fd = 0, .events = POLLIN};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	victim_ready();
	for (;;) {
		if (poll(&in, *stopping ? 0 : 1, 2) > 0) {
			if (victim_command())
				answer();
			else
				*stopping = 1;
		}
		wake_all();
	}
}

static int judge(void)
{
	int bad = 0;

	for (int i = 0; i < count; i++) {
		const struct row *row = &rows[used[i]];

		if (calls[used[i]].close)
			calls[used[i]].close(&rows[used[i]]);
		if (!row->missing && (faults(row) || !row->calls)) {
			bad = 1;
			printf("%s: %lu calls, %lu EINTR, %lu early, %lu wrong (%s); ",
			       calls[used[i]].name, row->calls, row->interrupted,
			       row->early, row->wrong, strerror(row->last_error));
		}
	}
	if (bad)
		puts(""), fflush(stdout);
	return bad;
}

static void choose(int argc, char **argv)
{
	for (int i = 0; i < CALLS; i++) {
		int wanted = argc == 1;

		for (int a = 1; a < argc; a++)
			wanted |= !strcmp(argv[a], calls[i].name);
		if (wanted)
			used[count++] = i;
	}
	if (count < (argc == 1 ? CALLS : argc - 1))
		victim_fail("eintr: an unknown name; ask for the list");
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_usr1};
	pthread_t threads[CALLS];

	if (argc == 2 && !strcmp(argv[1], "list")) {
		for (int i = 0; i < CALLS; i++)
			printf("%s\n", calls[i].name);
		return 0;
	}
	choose(argc, argv);
	/* Semaphores and queues of ours go with us, however we end. Not all may do this.
	 */
	unshare(CLONE_NEWIPC);
	rows = mmap(NULL, sizeof(*rows) * (CALLS + 1), PROT_READ | PROT_WRITE,
	            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (rows == MAP_FAILED)
		victim_fail("mmap: %s", strerror(errno));
	stopping = &rows[CALLS].wanted;
	usr2 = only(SIGUSR2);
	sigprocmask(SIG_BLOCK, &usr2, NULL);
	sigaction(SIGUSR1, &action, NULL);
	for (int i = 0; i < count; i++) {
		rows[used[i]].timeout_ns = 30 * MS;
		if (calls[used[i]].open)
			calls[used[i]].open(&rows[used[i]]);
	}

	pid_t child = checked(fork(), "fork");

	if (child == 0)
		waker();
	/* From here on stdin and stdout are the waker's. */
	for (int i = 1; i < count; i++)
		if (!rows[used[i]].missing &&
		    pthread_create(&threads[i], NULL, run, (void *)(intptr_t)used[i]))
			victim_fail("pthread_create");
	if (!rows[used[0]].missing)
		run((void *)(intptr_t)used[0]);
	for (int i = 1; i < count; i++)
		if (!rows[used[i]].missing)
			pthread_join(threads[i], NULL);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (judge())
		return 1;
	victim_say("ok");
	return 0;
}
