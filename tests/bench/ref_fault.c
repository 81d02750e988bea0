/*
 * The reference for synchronous tracking: a handler with nothing around it. One thread
 * reads faults in batches, notes their pages and lets each go; that is the least that a
 * process outside of the target can do.
 *
 *   target --- fault ---> kernel --- read(), a batch ---> thread --- UFFDIO_WRITEPROTECT
 *     ^----------------------------- wakes --------------------------------|
 *
 *   ref_fault PID FD START END poll|spin   FD: the userfaultfd, as the target knows it
 *   -> "protect"   protect all of it, forget what was noted   <- "ok NS NOTED"
 *
 * "poll" sleeps until there is a fault; "spin" reads again and again and costs a CPU.
 */
#include "kernel.h"
#include <poll.h>
#include <pthread.h>

#define BATCH 64
#define NOTES (1ul << 20)
/* The lock of the target's address space is held for one piece at a time. */
#define PIECE    (128ul << 20)
#define FOR_EVER (-1)

static int uffd, spin;
static uint64_t notes[NOTES];
static volatile uint64_t noted;

static void unprotect(uint64_t page)
{
	struct uffdio_writeprotect arg = {.range = {.start = page, .len = PAGE}};

	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &arg))
		die("UFFDIO_WRITEPROTECT");
}

static void *answer(void *unused)
{
	static struct uffd_msg batch[BATCH];
	struct pollfd ready = {.fd = uffd, .events = POLLIN};

	for (;;) {
		ssize_t n = read(uffd, batch, sizeof(batch));

		if (n < 0 && errno == EAGAIN) {
			if (!spin)
				poll(&ready, 1, FOR_EVER);
			continue;
		}
		if (n <= 0)
			return unused;
		for (size_t i = 0; i < (size_t)n / sizeof(*batch); i++) {
			uint64_t page = batch[i].arg.pagefault.address & ~(PAGE - 1);

			notes[noted++ % NOTES] = page;
			unprotect(page);
		}
	}
}

static void protect(uint64_t start, uint64_t end)
{
	uint64_t before = now_ns(), found = noted;

	noted = 0;
	for (; start < end; start += PIECE) {
		struct uffdio_writeprotect arg = {
			.range = {.start = start,
			          .len = end - start < PIECE ? end - start : PIECE},
			.mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		if (ioctl(uffd, UFFDIO_WRITEPROTECT, &arg))
			die("UFFDIO_WRITEPROTECT");
	}
	printf("ok %lu %lu\n", now_ns() - before, found);
}

int main(int argc, char **argv)
{
	char line[64];
	pthread_t thread;
	int pidfd;

	if (argc != 6)
		return 2;
	pidfd = (int)syscall(SYS_pidfd_open, atoi(argv[1]), 0);
	uffd = (int)syscall(SYS_pidfd_getfd, pidfd, atoi(argv[2]), 0);
	if (uffd < 0)
		die("pidfd_getfd");
	spin = !strcmp(argv[5], "spin");
	if ((errno = pthread_create(&thread, NULL, answer, NULL)))
		die("pthread_create");
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "protect\n"))
			protect(strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
		else
			printf("what\n");
		fflush(stdout);
	}
	return 0;
}
