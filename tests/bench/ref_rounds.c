/*
 * The reference for many sessions that are iterated now and then: for each target what
 * no iteration can do without, from one process that sleeps in between, as the daemon
 * does, and finds its caches cold.
 *
 *   ref_rounds PID START END [PID START END ...]
 *   -> "round I"   read maps of the I-th target and compare it with the last time, ask
 *                  what is not registered, get and clear the arena
 *                  <- "ok NS PAGES SAME RUNS"
 *
 * No answer is made of it, nobody's pages are merged, and what is pinned is not asked.
 */
#include "kernel.h"

#define TEXT_MAX (1ul << 16)
#define VEC_LEN  8192

struct one {
	int maps, pagemap;
	uint64_t start, end;
	size_t length;
	char text[TEXT_MAX];
};

static char text[TEXT_MAX];
static struct scan_region vec[VEC_LEN];

static int same_layout(struct one *one)
{
	size_t used = 0;
	ssize_t n;
	int same;

	while ((n = pread(one->maps, text + used, TEXT_MAX - used, (off_t)used)) > 0)
		used += (size_t)n;
	if (n < 0 || used == TEXT_MAX)
		die("maps");
	same = used == one->length && !memcmp(text, one->text, used);
	if (!same) {
		memcpy(one->text, text, used);
		one->length = used;
	}
	return same;
}

static long scan(int pagemap, struct scan_arg arg)
{
	long n;

	arg.size = sizeof(arg);
	arg.vec = (uint64_t)vec;
	arg.vec_len = VEC_LEN;
	n = ioctl(pagemap, SCAN_IOCTL, &arg);
	if (n < 0 || n == VEC_LEN)
		die("PAGEMAP_SCAN");
	return n;
}

static void go_round(struct one *one)
{
	uint64_t before = now_ns(), pages = 0;
	int same = same_layout(one);
	long missing = scan(one->pagemap, (struct scan_arg){
						  .end = ADDRESS_LIMIT,
						  .category_inverted = SCAN_WPALLOWED,
						  .category_mask = SCAN_WPALLOWED,
						  .return_mask = SCAN_WPALLOWED,
					  });
	long runs = scan(one->pagemap, (struct scan_arg){
					       .flags = SCAN_WP_MATCHING,
					       .start = one->start,
					       .end = one->end,
					       .category_mask = SCAN_WRITTEN,
					       .return_mask = SCAN_WRITTEN,
				       });

	for (long i = 0; i < runs; i++)
		pages += (vec[i].end - vec[i].start) / PAGE;
	printf("ok %lu %lu %d %ld\n", now_ns() - before, pages, same, missing);
}

int main(int argc, char **argv)
{
	int count = (argc - 1) / 3;
	struct one *all;
	char line[64];

	if (argc < 4 || argc % 3 != 1)
		return 2;
	all = calloc((size_t)count, sizeof(*all));
	if (!all)
		die("calloc");
	for (int i = 0; i < count; i++) {
		int pid = atoi(argv[3 * i + 1]);

		all[i].maps = open_proc(pid, "maps");
		all[i].pagemap = open_proc(pid, "pagemap");
		all[i].start = strtoull(argv[3 * i + 2], NULL, 10);
		all[i].end = strtoull(argv[3 * i + 3], NULL, 10);
	}
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		int which = -1;

		if (sscanf(line, "round %d", &which) == 1 && which >= 0 && which < count)
			go_round(&all[which]);
		else
			printf("what\n");
		fflush(stdout);
	}
	return 0;
}
