/*
 * The reference for finding out that an address space changed, by each way there is:
 *
 *   ref_layout PID
 *   -> "maps"      read /proc/PID/maps and compare with the previous reading   <- "ok NS
 * BYTES SAME"
 *   -> "new"       one scan for memory that is not registered                  <- "ok NS
 * RUNS"
 *   -> "refuse N"  register our own shared read-only file mapping, N times     <- "ok NS
 * ERRNO"
 */
#include "kernel.h"

#define TEXT_MAX (32ul << 20)
#define VEC_LEN  65536

static char *text, *previous;
static struct scan_region *vec;

static void *room(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void compare_maps(int maps)
{
	uint64_t before = now_ns();
	size_t used = 0;
	ssize_t n;
	char *swap;
	int same;

	if (lseek(maps, 0, SEEK_SET) < 0)
		die("lseek");
	while ((n = read(maps, text + used, TEXT_MAX - used)) > 0)
		used += (size_t)n;
	if (n < 0)
		die("maps");
	same = !memcmp(text, previous, used);
	printf("ok %lu %zu %d\n", now_ns() - before, used, same);
	swap = text;
	text = previous;
	previous = swap;
}

static void find_new(int pagemap)
{
	struct scan_arg arg = {
		.size = sizeof(arg),
		.end = ADDRESS_LIMIT,
		.vec = (uint64_t)vec,
		.vec_len = VEC_LEN,
		.category_inverted = SCAN_WPALLOWED,
		.category_mask = SCAN_WPALLOWED,
		.return_mask = SCAN_WPALLOWED,
	};
	uint64_t before = now_ns();
	long n = ioctl(pagemap, SCAN_IOCTL, &arg);

	if (n < 0)
		die("PAGEMAP_SCAN");
	printf("ok %lu %ld\n", now_ns() - before, n);
}

static void refuse(unsigned long times)
{
	int uffd = make_uffd(), fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC),
	    err = 0;
	void *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	uint64_t before = now_ns();

	if (p == MAP_FAILED)
		die("mmap");
	for (unsigned long i = 0; i < times; i++)
		err = register_wp(uffd, (uint64_t)p, (uint64_t)p + PAGE) ? errno : 0;
	printf("ok %lu %d\n", now_ns() - before, err);
	munmap(p, PAGE);
	close(fd);
	close(uffd);
}

int main(int argc, char **argv)
{
	char line[64];
	int maps, pagemap;

	if (argc != 2)
		return 2;
	maps = open_proc(atoi(argv[1]), "maps");
	pagemap = open_proc(atoi(argv[1]), "pagemap");
	text = room(TEXT_MAX);
	previous = room(TEXT_MAX);
	vec = room(VEC_LEN * sizeof(*vec));
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "maps\n"))
			compare_maps(maps);
		else if (!strcmp(line, "new\n"))
			find_new(pagemap);
		else if (!strncmp(line, "refuse ", 7))
			refuse(strtoul(line + 7, NULL, 10));
		else
			printf("what\n");
		fflush(stdout);
	}
	return 0;
}
