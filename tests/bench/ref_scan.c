/*
 * The reference for one iteration: a single fast PAGEMAP_SCAN get+clear over memory that
 * the victim registered itself, straight from C. It finds no new memory, tells no
 * discarded page and merges nothing; no tracker built on this interface can be cheaper.
 *
 *   ref_scan PID START END
 *   -> "clear"  get and clear (also arms)   <- "ok NS PAGES RUNS"
 *   -> "get"    only get                    <- "ok NS PAGES RUNS"
 */
#include "kernel.h"

/* Enough for the worst case of 1 GiB, every second page: it stays one call. */
#define VEC_LEN 262144

static struct scan_region *vec;

/*
 * One call, and walk_end is not looked at: once the kernel's own buffer of 512 runs has
 * been emptied in mid-walk, a walk that then completes leaves walk_end at the place of
 * the last emptying. Going on from there would walk the tail a second time. A vec with
 * room left says that all was walked.
 */
static void scan(int pagemap, uint64_t start, uint64_t end, uint64_t flags)
{
	struct scan_arg arg = {
		.size = sizeof(arg),
		.flags = flags,
		.start = start,
		.end = end,
		.vec = (uint64_t)vec,
		.vec_len = VEC_LEN,
		.category_mask = SCAN_WRITTEN,
		.return_mask = SCAN_WRITTEN,
	};
	uint64_t pages = 0, before = now_ns(), ns;
	long runs = ioctl(pagemap, SCAN_IOCTL, &arg);

	ns = now_ns() - before;
	if (runs < 0 || runs == VEC_LEN)
		die("PAGEMAP_SCAN");
	for (long i = 0; i < runs; i++)
		pages += (vec[i].end - vec[i].start) / PAGE;
	printf("ok %lu %lu %ld %lu\n", ns, pages, runs, end - arg.walk_end);
}

int main(int argc, char **argv)
{
	uint64_t start, end;
	char line[64];
	int pagemap;

	if (argc != 4)
		return 2;
	pagemap = open_proc(atoi(argv[1]), "pagemap");
	start = strtoull(argv[2], NULL, 10);
	end = strtoull(argv[3], NULL, 10);
	vec = mmap(NULL, VEC_LEN * sizeof(*vec), PROT_READ | PROT_WRITE,
	           MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (vec == MAP_FAILED)
		die("mmap");
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "clear\n"))
			scan(pagemap, start, end, SCAN_WP_MATCHING);
		else if (!strcmp(line, "get\n"))
			scan(pagemap, start, end, 0);
		else
			printf("what\n");
		fflush(stdout);
	}
	return 0;
}
