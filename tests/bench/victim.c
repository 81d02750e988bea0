/*
 * The process that is measured: MIB of populated private memory in pages of 4 KiB (or, as
 * far as the kernel has them, huge ones), REGIONS one-page mappings beside it and THREADS
 * threads asleep in pause(), so that each cost can be grown alone. Its main thread sleeps
 * in read(2) on stdin between commands, a call that restarts by itself.
 *
 *   victim MIB REGIONS THREADS 4k|huge
 *   <- "ready PID SITE START END START END"
 *      SITE: address of a syscall instruction; then the arena, and the one-page mappings
 *
 *   track             make a userfaultfd, register everything        "ok REFUSED"
 *   dirty COUNT SEED  write COUNT different pages in random order     "ok NS"
 *   block COUNT       write the first COUNT pages in order            "ok NS"
 *   touch             write every page of the arena in order          "ok NS"
 *   threads COUNT     start so many more threads                      "ok 0"
 *   files COUNT       open its own program so many more times         "ok 0"
 *   sockets COUNT     make so many more sockets                       "ok 0"
 *   spin MS           read the clock for so long                      "ok GAP_NS LEFT_NS"
 *   write MS          the same, and write a page between any two      "ok GAP_NS LEFT_NS"
 *   map MS            the same, and map and unmap a page              "ok GAP_NS LEFT_NS"
 *
 * GAP_NS is the longest time between two readings of the clock: what the tracker costs
 * as the target itself sees it. "spin" waits for nothing but the CPU, "write" for faults
 * as well, "map" for the lock of its address space. LEFT_NS is the longest of what is
 * left of a gap without the time that the target was ready to run and did not: others had
 * its CPU (/proc/PID/schedstat, Documentation/scheduler/sched-stats.rst), or the
 * hypervisor had, which shows where the target did not sleep, as what it neither ran nor
 * waited (the clock of a thread stands still meanwhile, with
 * CONFIG_PARAVIRT_TIME_ACCOUNTING).
 *
 * The permutation behind "dirty" needs no memory: a table would be dirty pages of its
 * own.
 */
#include "kernel.h"
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define HUGE_PAGE (2UL << 20)

static unsigned char *arena;
static uint64_t arena_pages;

__asm__(".globl injection_site\ninjection_site: syscall\nret\n");
extern const char injection_site[];

static void *asleep(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void start_threads(int count)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (int i = 0; i < count; i++)
		if ((errno = pthread_create(&thread, &attr, asleep, NULL)))
			die("pthread_create");
}

static int open_file(void)
{
	return open("/proc/self/exe", O_RDONLY);
}

static int open_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static void open_many(uint64_t count, int (*open_one)(void))
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		die("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		die("setrlimit");
	while (count--)
		if (open_one() < 0)
			die("open");
}

/* Aligned so that huge pages may be used in all of it. */
static void make_arena(int huge)
{
	uint64_t size = arena_pages * PAGE;
	unsigned char *p = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
	                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t skip = -(uint64_t)p % HUGE_PAGE;

	if (p == MAP_FAILED)
		die("arena");
	if (skip)
		munmap(p, skip);
	arena = p + skip;
	munmap(arena + size, HUGE_PAGE - skip);
	if (madvise(arena, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		die("madvise");
}

/* Every second page differs in protection, so that no two of them can merge. */
static uint64_t make_regions(uint64_t count)
{
	unsigned char *p;

	if (!count)
		return 0;
	p = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	         -1, 0);
	if (p == MAP_FAILED)
		die("mmap");
	for (uint64_t i = 0; i < count; i++)
		p[i * PAGE] = 1;
	for (uint64_t i = 1; i < count; i += 2)
		if (mprotect(p + i * PAGE, PAGE, PROT_READ))
			die("mprotect");
	return (uint64_t)p;
}

/* A bijection of [0, 2^bits): each step can be undone; values past the end are walked on.
 */
static uint64_t permute(uint64_t x, unsigned bits, uint64_t seed)
{
	uint64_t mask = (1ull << bits) - 1;

	do {
		x = (x + seed) & mask;
		for (int round = 0; round < 3; round++) {
			x = (x * (2 * seed + 0x9e3779b97f4a7c15ull)) & mask;
			x ^= x >> (bits / 2 + 1);
		}
	} while (x >= arena_pages);
	return x;
}

static uint64_t dirty(uint64_t count, uint64_t seed)
{
	uint64_t start = now_ns();
	unsigned bits = 2;

	while ((1ull << bits) < arena_pages)
		bits++;
	for (uint64_t i = 0; i < count; i++)
		arena[permute(i, bits, seed) * PAGE + (seed % 4096)]++;
	return now_ns() - start;
}

static uint64_t touch(uint64_t count)
{
	uint64_t start = now_ns();

	for (uint64_t i = 0; i < count; i++)
		*(volatile unsigned char *)(arena + i * PAGE) = (unsigned char)i;
	return now_ns() - start;
}

static void nothing(void)
{
}

static void write_page(void)
{
	static uint64_t page;

	/* A prime: no arena is a multiple of it, so every page has its turn. */
	page = (page + 104729) % arena_pages;
	arena[page * PAGE]++;
}

static void map_page(void)
{
	void *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || munmap(p, PAGE))
		die("mmap");
}

/* Of this thread, all its life: when it ran, when it could have, how often it slept. */
struct account {
	uint64_t ran, waited;
	long sleeps;
};

static struct account account(int schedstat)
{
	char text[64];
	ssize_t length = pread(schedstat, text, sizeof(text) - 1, 0);
	struct account now = {0};
	struct timespec ran;
	struct rusage usage;

	text[length > 0 ? length : 0] = 0;
	if (sscanf(text, "%*u %lu", &now.waited) != 1)
		now.waited = 0;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ran);
	now.ran = ran.tv_sec * 1000000000UL + ran.tv_nsec;
	getrusage(RUSAGE_THREAD, &usage);
	now.sleeps = usage.ru_nvcsw;
	return now;
}

/* What is left of a gap between two accounts. */
static uint64_t ours(uint64_t gap, struct account before, struct account now)
{
	uint64_t ran = now.ran - before.ran, waited = now.waited - before.waited;

	gap -= waited < gap ? waited : gap;
	return now.sleeps == before.sleeps && ran < gap ? ran : gap;
}

static void tell_longest_gap(uint64_t ms, void (*work)(void))
{
	int schedstat = open("/proc/self/schedstat", O_RDONLY);
	struct account now = account(schedstat);
	uint64_t longest = 0, left = 0;
	uint64_t last = now_ns(), until = last + ms * 1000000;

	while (last < until) {
		struct account before = now;
		uint64_t gap;

		work();
		/* Before the clock: what is lost in between counts against us. */
		now = account(schedstat);
		gap = now_ns() - last;
		last += gap;
		longest = gap > longest ? gap : longest;
		gap = ours(gap, before, now);
		left = gap > left ? gap : left;
	}
	close(schedstat);
	printf("ok %lu %lu\n", longest, left);
}

static unsigned track(void)
{
	unsigned taken = 0, refused = 0;

	register_all(make_uffd(), getpid(), &taken, &refused);
	return refused;
}

int main(int argc, char **argv)
{
	char line[128];
	uint64_t count, seed, regions;

	if (argc != 5)
		return 2;
	arena_pages = strtoull(argv[1], NULL, 10) << 8;
	make_arena(!strcmp(argv[4], "huge"));
	touch(arena_pages);
	count = strtoull(argv[2], NULL, 10);
	regions = make_regions(count);
	start_threads(atoi(argv[3]) - 1);

	printf("ready %d %lu %lu %lu %lu %lu\n", getpid(), (uint64_t)injection_site,
	       (uint64_t)arena, (uint64_t)arena + arena_pages * PAGE, regions,
	       regions + count * PAGE);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "dirty %lu %lu", &count, &seed) == 2 &&
		    count <= arena_pages)
			printf("ok %lu\n", dirty(count, seed));
		else if (!strcmp(line, "touch\n"))
			printf("ok %lu\n", touch(arena_pages));
		else if (sscanf(line, "block %lu", &count) == 1 && count <= arena_pages)
			printf("ok %lu\n", touch(count));
		else if (sscanf(line, "threads %lu", &count) == 1) {
			start_threads((int)count);
			printf("ok 0\n");
		} else if (sscanf(line, "files %lu", &count) == 1) {
			open_many(count, open_file);
			printf("ok 0\n");
		} else if (sscanf(line, "sockets %lu", &count) == 1) {
			open_many(count, open_socket);
			printf("ok 0\n");
		} else if (sscanf(line, "spin %lu", &count) == 1)
			tell_longest_gap(count, nothing);
		else if (sscanf(line, "write %lu", &count) == 1)
			tell_longest_gap(count, write_page);
		else if (sscanf(line, "map %lu", &count) == 1)
			tell_longest_gap(count, map_page);
		else if (!strcmp(line, "track\n"))
			printf("ok %u\n", track());
		else
			printf("what\n");
		fflush(stdout);
	}
	return 0;
}
