/*
 * Transparent huge pages, made, split, dropped whole or in part, and collapsed again.
 *
 *   w   write                       r   read
 *   h   write a whole huge page     D   MADV_DONTNEED a whole one: no table entry is left
 *   d   MADV_DONTNEED any part      f   MADV_FREE any part
 *   c   MADV_COLLAPSE               n   a child that writes to its copy
 *
 * thp [SEED [OPS]]. The kernel does not promise huge pages: the content is right anyhow.
 */
#define MAX_PAGES 8192
#include "solo.h"
#include <sys/wait.h>

enum { HUGE = 512, ADVICE_COLLAPSE = 25 };

static void advise(struct area *area, uint32_t page, uint32_t count, int advice)
{
	must(madvise(area->base + (size_t)page * PAGE, (size_t)count * PAGE, advice),
	     "madvise");
}

static void dontneed(struct area *area, uint32_t page, uint32_t count)
{
	advise(area, page, count, MADV_DONTNEED);
	forget(area, page, count);
}

static void dontneed_huge(struct area *area, uint32_t page, uint32_t count)
{
	(void)count;
	dontneed(area, page / HUGE * HUGE, HUGE);
}

static void lazy_free(struct area *area, uint32_t page, uint32_t count)
{
	advise(area, page, count, MADV_FREE);
	for (uint32_t i = page; i < page + count; i++)
		area->freed[i] = area->stamp[i] != 0;
}

static void write_huge(struct area *area, uint32_t page, uint32_t count)
{
	(void)count;
	for (uint32_t i = 0; i < HUGE; i++)
		write_page(area, page / HUGE * HUGE + i);
}

static void collapse(struct area *area, uint32_t page, uint32_t count)
{
	(void)count;
	may(madvise(area->base + (size_t)(page / HUGE * HUGE) * PAGE, (size_t)HUGE * PAGE,
	            ADVICE_COLLAPSE),
	    "MADV_COLLAPSE");
}

static void child(struct area *area, uint32_t page, uint32_t count)
{
	pid_t pid;
	int status;

	if (below(16))
		return;
	pid = fork();
	must(pid, "fork");
	if (!pid) {
		solo_write(area, page, count);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || status)
		fail("child: status %#x, %s", status, strerror(errno));
}

int main(int argc, char **argv)
{
	static const struct solo_op ops[] = {
		{'w', solo_write}, {'r', solo_read}, {'D', dontneed_huge},
		{'d', dontneed},   {'f', lazy_free}, {'h', write_huge},
		{'c', collapse},   {'n', child},
	};
	struct area *area = solo_start(argc, argv, "wwwwwwwwrrDDdfhhhhcccn");
	size_t size = (size_t)MAX_PAGES * PAGE, huge = (size_t)HUGE * PAGE;
	char *at = mmap(NULL, size + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(at == MAP_FAILED ? -1 : 0, "mmap");
	at += -(uintptr_t)at & (huge - 1);
	*area = (struct area){
		.kind = ANON, .pages = MAX_PAGES, .prot = PROT_READ | PROT_WRITE};
	area->base = mmap(at, size, area->prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
	                  -1, 0);
	must(area->base == at ? 0 : -1, "mmap");
	must(madvise(at, size, MADV_HUGEPAGE), "MADV_HUGEPAGE");
	for (uint32_t page = 0; page < MAX_PAGES; page += HUGE)
		write_huge(area, page, HUGE);
	return solo_run(area, ops, sizeof(ops) / sizeof(ops[0]));
}
