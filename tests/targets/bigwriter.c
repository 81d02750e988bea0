/*
 * N MiB with content, of which exactly the pages asked for are written: what a tracker
 * says can be compared page by page, and what it costs can be measured.
 *
 *   bigwriter MEGABYTES [anon|thp|memfd|file] [SEED]
 *
 *   where      "START END", hexadecimal
 *   dirty F    write the fraction F of the pages, drawn at random without repetition:
 *              "dirty COUNT N N ...", page numbers within the memory, in order
 *   touch F    the same, but say only "touched COUNT NANOSECONDS"
 *   span P N   write N pages from page P on: "span N NANOSECONDS"
 *   run [F]    a thread writes at random to the first fraction F until "halt"
 *   halt       "halted WRITES"
 *   check      compare all pages with what was written last: "checked"
 */
#include "victim.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE = 4096, HUGE = 2 << 20 };

static char *memory;
static uint32_t *stamps; /* what each page has in its first and last words */
static uint32_t *order;  /* the page numbers, shuffled anew for each "dirty" */
static uint32_t pages, run_pages;
static uint64_t random_state, writes;
static volatile bool running;
static pthread_t runner;

static volatile uint32_t *ends(uint32_t page, int last)
{
	return (uint32_t *)(memory + (size_t)page * PAGE + (last ? PAGE - 4 : 0));
}

static void write_page(uint32_t page)
{
	uint32_t stamp = stamps[page] + 1;

	stamps[page] = stamp;
	*ends(page, 0) = stamp;
	*ends(page, 1) = ~stamp;
}

static void check(void)
{
	for (uint32_t page = 0; page < pages; page++)
		if (*ends(page, 0) != stamps[page] || *ends(page, 1) != ~stamps[page])
			victim_fail("page %u: %#x %#x, not %#x", page, *ends(page, 0),
			            *ends(page, 1), stamps[page]);
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* The first `count` of `order` become a random choice without repetition. */
static uint32_t choose(double fraction)
{
	uint32_t count = (uint32_t)(fraction * pages + 0.5);

	if (count > pages)
		count = pages;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t j = i + victim_random(&random_state) % (pages - i),
			 swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
	return count;
}

static void dirty(double fraction, bool tell)
{
	uint32_t count = choose(fraction);
	uint64_t start = now(), end;

	for (uint32_t i = 0; i < count; i++)
		write_page(order[i]);
	end = now();
	if (!tell) {
		victim_say("touched %u %lu", count, end - start);
		return;
	}
	qsort(order, count, sizeof(*order), by_number);
	printf("dirty %u", count);
	for (uint32_t i = 0; i < count; i++)
		printf(" %u", order[i]);
	victim_say("%s", "");
}

static void span(uint32_t first, uint32_t count)
{
	uint64_t start = now();

	for (uint32_t i = 0; i < count && first + i < pages; i++)
		write_page(first + i);
	victim_say("span %u %lu", count, now() - start);
}

static void *run(void *unused)
{
	uint64_t state = victim_random(&random_state);

	for (writes = 0; running; writes++)
		write_page((uint32_t)(victim_random(&state) % run_pages));
	return unused;
}

static void halt(void)
{
	if (running) {
		running = false;
		pthread_join(runner, NULL);
	}
}

static void *map(size_t size, const char *kind)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS, fd = -1;
	char *at = mmap(NULL, size + HUGE, PROT_NONE, flags, -1, 0);

	if (at == MAP_FAILED)
		victim_fail("mmap: %s", strerror(errno));
	at += -(uintptr_t)at & (HUGE - 1);
	if (!strcmp(kind, "memfd")) {
		flags = MAP_SHARED;
		fd = memfd_create("bigwriter", MFD_CLOEXEC);
	} else if (!strcmp(kind, "file")) {
		flags = MAP_PRIVATE;
		fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	}
	if (!(flags & MAP_ANONYMOUS) && (fd < 0 || ftruncate(fd, (off_t)size)))
		victim_fail("%s: %s", kind, strerror(errno));
	at = mmap(at, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	if (at == MAP_FAILED)
		victim_fail("mmap: %s", strerror(errno));
	/* An open file that can be written is a second way to its content. */
	if (fd >= 0)
		close(fd);
	madvise(at, size, !strcmp(kind, "thp") ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return at;
}

int main(int argc, char **argv)
{
	size_t size = (argc > 1 ? strtoull(argv[1], NULL, 0) : 16) << 20;

	random_state = victim_mix(argc > 3 ? strtoull(argv[3], NULL, 0) : 1);
	memory = map(size, argc > 2 ? argv[2] : "anon");
	pages = (uint32_t)(size / PAGE);
	stamps = malloc(pages * sizeof(*stamps));
	order = malloc(pages * sizeof(*order));
	if (!stamps || !order)
		victim_fail("malloc: %s", strerror(errno));
	for (uint32_t page = 0; page < pages; page++) {
		order[page] = page;
		stamps[page] = page * 7;
		write_page(page);
	}
	victim_ready();
	for (char *line; (line = victim_command());) {
		double fraction = 1;
		uint32_t first = 0, count = 0;

		if (sscanf(line, "dirty %lf", &fraction) == 1) {
			dirty(fraction, true);
		} else if (sscanf(line, "touch %lf", &fraction) == 1) {
			dirty(fraction, false);
		} else if (sscanf(line, "span %u %u", &first, &count) == 2) {
			span(first, count);
		} else if (!strncmp(line, "run", 3) && !running) {
			sscanf(line, "run %lf", &fraction);
			run_pages = (uint32_t)(fraction * pages);
			running = true;
			pthread_create(&runner, NULL, run, NULL);
			victim_say("running");
		} else if (!strcmp(line, "halt")) {
			halt();
			victim_say("halted %lu", writes);
		} else if (!strcmp(line, "check")) {
			check();
			victim_say("checked");
		} else if (!strcmp(line, "where")) {
			victim_say("%lx %lx", (long)memory, (long)memory + (long)size);
		} else {
			victim_say("what is %s?", line);
		}
	}
	halt();
	check();
	victim_say("ok");
	return 0;
}
