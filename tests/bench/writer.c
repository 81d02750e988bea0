/*
 * The target that writes as fast as it can: what tracking costs it, in writes. It can be
 * tracked from outside, or bring one of the older ways with it:
 *
 *   writer MIB
 *   <- "ready PID START END"
 *
 *   track               a userfaultfd of its own, asynchronous           "ok 0"
 *   handler             a synchronous one, for ref_fault to answer       "ok FD"
 *   protect             mprotect() all of it, SIGSEGV lets a page go     "ok NS"
 *   run MS PATTERN GAP  write so long; protect every GAP ms (0: never)   "ok NS WRITES"
 *   passes COUNT        write each page once, COUNT times over           "ok NS"
 *   first PATTERN SHARE write one page in SHARE, each for the first time "ok NS WRITES"
 *
 * `run` and `passes` write one word a page, as the loop does that the literature on
 * tracking measures with.
 */
#include "pattern.h"
#include <pthread.h>
#include <signal.h>

static unsigned char *arena;
static uint64_t arena_pages;
static uint32_t *choices;
static volatile int protecting;

static void let_page_go(int sig, siginfo_t *info, void *context)
{
	uint64_t page = (uint64_t)info->si_addr & ~(PAGE - 1);

	(void)sig;
	(void)context;
	if (page < (uint64_t)arena || page >= (uint64_t)arena + arena_pages * PAGE)
		abort();
	/* Each hole splits a mapping, and there is a limit to their number
	 * (max_map_count): then all counts as written, which is what such a tracker
	 * would have to say. */
	if (mprotect((void *)page, PAGE, PROT_READ | PROT_WRITE))
		mprotect(arena, arena_pages * PAGE, PROT_READ | PROT_WRITE);
}

static uint64_t protect(void)
{
	struct sigaction action = {.sa_sigaction = let_page_go, .sa_flags = SA_SIGINFO};
	uint64_t start = now_ns();

	sigaction(SIGSEGV, &action, NULL);
	if (mprotect(arena, arena_pages * PAGE, PROT_READ))
		die("mprotect");
	return now_ns() - start;
}

static void *protect_again(void *gap)
{
	struct timespec wait = {.tv_sec = *(uint64_t *)gap / 1000,
	                        .tv_nsec = (long)(*(uint64_t *)gap % 1000) * 1000000};

	while (protecting) {
		protect();
		nanosleep(&wait, NULL);
	}
	return NULL;
}

static void run(uint64_t ms, uint64_t count, uint64_t gap)
{
	uint64_t writes = 0, at = 0, start, now, until;
	pthread_t thread;

	protecting = gap != 0;
	if (gap && (errno = pthread_create(&thread, NULL, protect_again, &gap)))
		die("pthread_create");
	start = now = now_ns();
	for (until = start + ms * 1000000; now < until; now = now_ns())
		for (int i = 0; i < 128; i++, writes++) {
			arena[choices[at] * PAGE]++;
			if (++at == count)
				at = 0;
		}
	if (gap) {
		protecting = 0;
		pthread_join(thread, NULL);
		mprotect(arena, arena_pages * PAGE, PROT_READ | PROT_WRITE);
	}
	printf("ok %lu %lu\n", now - start, writes);
}

static void passes(uint64_t count)
{
	uint64_t start = now_ns();

	for (uint64_t pass = 0; pass < count; pass++)
		for (uint64_t i = 0; i < arena_pages; i++)
			*(volatile uint64_t *)(arena + i * PAGE) = pass;
	printf("ok %lu\n", now_ns() - start);
}

/* A prime step meets every page before it meets one again. */
static void first(int scattered, uint64_t share)
{
	uint64_t step = scattered ? 104729 : 1, at = 0, count = arena_pages / share;
	uint64_t start = now_ns();

	for (uint64_t i = 0; i < count; i++) {
		arena[at * PAGE]++;
		at = (at + step) % arena_pages;
	}
	printf("ok %lu %lu\n", now_ns() - start, count);
}

static int sync_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		die("userfaultfd");
	enable_api(fd, 0);
	if (register_wp(fd, (uint64_t)arena, (uint64_t)arena + arena_pages * PAGE))
		die("UFFDIO_REGISTER");
	return fd;
}

static void *room(uint64_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED || madvise(p, size, MADV_NOHUGEPAGE))
		die("mmap");
	memset(p, 1, size);
	return p;
}

int main(int argc, char **argv)
{
	char line[128], pattern[16];
	uint64_t a, b, size;
	unsigned taken = 0, refused = 0;

	if (argc != 2)
		return 2;
	size = strtoull(argv[1], NULL, 10) << 20;
	arena_pages = size / PAGE;
	arena = room(size);
	choices = malloc((arena_pages > CHOICES ? arena_pages : CHOICES) *
	                 sizeof(*choices));
	if (!choices)
		die("malloc");
	printf("ready %d %lu %lu\n", getpid(), (uint64_t)arena, (uint64_t)arena + size);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "track\n")) {
			register_all(make_uffd(), getpid(), &taken, &refused);
			printf("ok 0\n");
		} else if (!strcmp(line, "handler\n")) {
			printf("ok %d\n", sync_uffd());
		} else if (!strcmp(line, "protect\n")) {
			printf("ok %lu\n", protect());
		} else if (sscanf(line, "run %lu %15s %lu", &a, pattern, &b) == 3) {
			run(a, choose(choices, arena_pages, pattern), b);
		} else if (sscanf(line, "passes %lu", &a) == 1) {
			passes(a);
		} else if (sscanf(line, "first %15s %lu", pattern, &a) == 2 && a) {
			first(!strcmp(pattern, "random"), a);
		} else {
			printf("what\n");
		}
		fflush(stdout);
	}
	return 0;
}
