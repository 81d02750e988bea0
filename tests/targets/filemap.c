/*
 * A private mapping of a file on a disk, copied on write and given back: after
 * MADV_DONTNEED the page is the file's again, though no scan says that it changed.
 *
 *   w   write: a copy            r   read
 *   d   back to the file         y   fault everything in
 *   p   read-only and back
 *
 * filemap [SEED [OPS [FOLDER]]]; the file is made in FOLDER (/var/tmp) and has no name.
 */
#include "solo.h"
#include <fcntl.h>

enum { PAGES = 1024, ADVICE_POPULATE_READ = 22 };

static void dontneed(struct area *area, uint32_t page, uint32_t count)
{
	must(madvise(area->base + (size_t)page * PAGE, (size_t)count * PAGE,
	             MADV_DONTNEED),
	     "MADV_DONTNEED");
	forget(area, page, count);
}

static void protect(struct area *area, uint32_t page, uint32_t count)
{
	char *at = area->base + (size_t)page * PAGE;

	must(mprotect(at, (size_t)count * PAGE, PROT_READ), "mprotect");
	solo_read(area, page, count);
	must(mprotect(at, (size_t)count * PAGE, PROT_READ | PROT_WRITE), "mprotect");
}

static void populate(struct area *area, uint32_t page, uint32_t count)
{
	may(madvise(area->base + (size_t)page * PAGE, (size_t)count * PAGE,
	            ADVICE_POPULATE_READ),
	    "MADV_POPULATE_READ");
}

int main(int argc, char **argv)
{
	static const struct solo_op ops[] = {
		{'w', solo_write}, {'r', solo_read}, {'d', dontneed},
		{'p', protect},    {'y', populate},
	};
	struct area *area = solo_start(argc, argv, "wwwwwwwrrdddpy");
	char path[200], content[PAGE] = {0};
	int file;

	snprintf(path, sizeof(path), "%s/filemap-XXXXXX",
	         argc > 3 ? argv[3] : "/var/tmp");
	file = mkostemp(path, O_CLOEXEC);
	must(file, path);
	must(unlink(path), "unlink");
	*area = (struct area){
		.kind = FILE_PRIVATE, .pages = PAGES, .prot = PROT_READ | PROT_WRITE};
	for (uint32_t page = 0; page < PAGES; page++) {
		fill(content, file_stamp(page));
		if (write(file, content, PAGE) != PAGE)
			fail("write: %s", strerror(errno));
	}
	area->base = mmap(NULL, (size_t)PAGES * PAGE, area->prot, MAP_PRIVATE, file, 0);
	must(area->base == MAP_FAILED ? -1 : 0, "mmap");
	must(close(file), "close");
	return solo_run(area, ops, sizeof(ops) / sizeof(ops[0]));
}
