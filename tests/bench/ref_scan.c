/*
 * The reference for one iteration: a single fast PAGEMAP_SCAN get+clear over memory that
 * the victim registered itself, straight from C. It finds no new memory, tells no
 * discarded page and merges nothing; no tracker built on this interface can be cheaper.
 *
 *   ref_scan PID START END [START END]   one call for each range; their sums are told
 *   -> "clear"  get and clear (also arms)   <- "ok NS PAGES RUNS"
 *   -> "get"    only get                    <- "ok NS PAGES RUNS"
 */
#include "kernel.h"

/* Enough for the worst case of 16 GiB, every second page: it stays one call. */
#define VEC_LEN (1L << 21)

static struct scan_region *vec;

/*
 * One call, and walk_end is not looked at: once the kernel's own buffer of 512 runs has
 * been emptied in mid-walk, a walk that then completes leaves walk_end at the place of
 * the last emptying. Going on from there would walk the tail a second time. A vec with
 * room left says that all was walked.
 */
static void scan(int pagemap, char **ranges, uint64_t flags)
{
	uint64_t pages = 0, runs = 0, ns = 0;

	for (; *ranges; ranges += 2) {
		struct scan_arg arg = {
			.size = sizeof(arg),
			.flags = flags,
			.start = strtoull(ranges[0], NULL, 10),
			.end = strtoull(ranges[1], NULL, 10),
			.vec = (uint64_t)vec,
			.vec_len = VEC_LEN,
			.category_mask = SCAN_WRITTEN,
			.return_mask = SCAN_WRITTEN,
		};
		uint64_t before = now_ns();
		long n = ioctl(pagemap, SCAN_IOCTL, &arg);

		ns += now_ns() - before;
		if (n < 0 || n == VEC_LEN)
			die("PAGEMAP_SCAN");
		for (long i = 0; i < n; i++)
			pages += (vec[i].end - vec[i].start) / PAGE;
		runs += (uint64_t)n;
	}
	printf("ok %lu %lu %lu\n", ns, pages, runs);
}

int main(int argc, char **argv)
{
	char line[64];
	int pagemap;

	if (argc < 4 || argc % 2)
		return 2;
	pagemap = open_proc(atoi(argv[1]), "pagemap");
	vec = mmap(NULL, VEC_LEN * sizeof(*vec), PROT_READ | PROT_WRITE,
	           MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (vec == MAP_FAILED)
		die("mmap");
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "clear\n"))
			scan(pagemap, argv + 2, SCAN_WP_MATCHING);
		else if (!strcmp(line, "get\n"))
			scan(pagemap, argv + 2, 0);
		else
			printf("what\n");
		fflush(stdout);
	}
	return 0;
}
