/*
 * Reserved huge pages (hugetlb), private or shared: a huge page that is given back reads
 * zero, but the kernel keeps its "clean" mark (private), or nobody says so (shared).
 *
 *   w   write many pages                    r   read
 *   o   write one page
 *   D   MADV_DONTNEED of one huge page      e   hole in the shared file
 *
 * hugetlb [SEED [OPS [private|shared]]]; the machine must have COUNT free huge pages of
 * 2 MiB.
 */
#define MAX_PAGES 4096
#include "solo.h"

enum { HUGE = 512, COUNT = MAX_PAGES / HUGE };

static void drop(struct area *area, uint32_t page, uint32_t count, int advice)
{
	(void)count;
	page = page / HUGE * HUGE;
	must(madvise(area->base + (size_t)page * PAGE, (size_t)HUGE * PAGE, advice),
	     "madvise");
	if (area->kind == ANON || advice == MADV_REMOVE)
		forget(area, page, HUGE);
}

static void dontneed(struct area *area, uint32_t page, uint32_t count)
{
	drop(area, page, count, MADV_DONTNEED);
}

static void punch(struct area *area, uint32_t page, uint32_t count)
{
	if (area->kind == SHARED)
		drop(area, page, count, MADV_REMOVE);
}

/* So that huge pages stay empty for a while: many writes would touch them all. */
static void write_one(struct area *area, uint32_t page, uint32_t count)
{
	(void)count;
	write_page(area, page);
}

int main(int argc, char **argv)
{
	static const struct solo_op ops[] = {
		{'w', solo_write}, {'o', write_one}, {'r', solo_read},
		{'D', dontneed},   {'e', punch},
	};
	struct area *area = solo_start(argc, argv, "wwwwwwwwwwwwrrDe");
	size_t size = (size_t)MAX_PAGES * PAGE;
	int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;

	*area = (struct area){
		.kind = ANON, .pages = MAX_PAGES, .prot = PROT_READ | PROT_WRITE};
	if (argc > 3 && !strcmp(argv[3], "shared")) {
		fd = memfd_create("hugetlb", MFD_CLOEXEC | MFD_HUGETLB);
		must(fd, "memfd_create");
		must(ftruncate(fd, (off_t)size), "ftruncate");
		flags = MAP_SHARED;
		area->kind = SHARED;
	}
	area->base = mmap(NULL, size, area->prot, flags, fd, 0);
	must(area->base == MAP_FAILED ? -1 : 0, "mmap");
	if (fd >= 0)
		must(close(fd), "close");
	for (uint32_t page = 0; page < MAX_PAGES; page += 2 * HUGE)
		write_page(area, page);
	return solo_run(area, ops, sizeof(ops) / sizeof(ops[0]));
}
