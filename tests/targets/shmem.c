/*
 * Shared memory whose holes come and go: the kernel leaves "clean" markers behind when a
 * page is taken away through the file, so a tracker that only asks which pages were
 * written misses it.
 *
 *   w   write                                r   read
 *   e   hole by MADV_REMOVE                  f   hole by fallocate(2)
 *   d   MADV_DONTNEED: the file keeps it     t   the file is cut short and grown again
 *   W   pwrite(2): no mapping is written     a   write through a second mapping
 *
 * shmem [SEED [OPS]]. Without W the file is closed, so that only the mapping can write to
 * it; f and t then reopen it for a moment through /proc/self/map_files.
 */
#include "solo.h"
#include <fcntl.h>

enum { PAGES = 1024 };

static char *alias;
static int file;

static int reopen(struct area *area)
{
	char path[80];
	int fd = file;

	if (fd >= 0)
		return fd;
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (long)area->base,
	         (long)area->base + (long)PAGES * PAGE);
	fd = open(path, O_RDWR | O_CLOEXEC);
	must(fd, path);
	return fd;
}

static void done_with(int fd)
{
	if (fd != file)
		must(close(fd), "close");
}

static void dontneed(struct area *area, uint32_t page, uint32_t count)
{
	must(madvise(area->base + (size_t)page * PAGE, (size_t)count * PAGE,
	             MADV_DONTNEED),
	     "MADV_DONTNEED");
}

static void remove_pages(struct area *area, uint32_t page, uint32_t count)
{
	must(madvise(area->base + (size_t)page * PAGE, (size_t)count * PAGE, MADV_REMOVE),
	     "MADV_REMOVE");
	forget(area, page, count);
}

static void punch(struct area *area, uint32_t page, uint32_t count)
{
	int fd = reopen(area);

	must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)page * PAGE,
	               (off_t)count * PAGE),
	     "fallocate");
	done_with(fd);
	forget(area, page, count);
}

static void truncate_file(struct area *area, uint32_t page, uint32_t count)
{
	int fd = reopen(area);

	/* Mostly near the end, or little would ever stay. */
	page = PAGES - count;
	must(ftruncate(fd, (off_t)page * PAGE), "ftruncate");
	must(ftruncate(fd, (off_t)PAGES * PAGE), "ftruncate");
	done_with(fd);
	forget(area, page, count);
}

static void by_pwrite(struct area *area, uint32_t page, uint32_t count)
{
	char content[PAGE] = {0};
	int fd = reopen(area);

	(void)count;
	area->stamp[page] = victim_random(&self->random) | 1;
	fill(content, area->stamp[page]);
	if (pwrite(fd, content, PAGE, (off_t)page * PAGE) != PAGE)
		fail("pwrite: %s", strerror(errno));
	done_with(fd);
}

static void by_alias(struct area *area, uint32_t page, uint32_t count)
{
	(void)count;
	area->stamp[page] = victim_random(&self->random) | 1;
	fill(alias + (size_t)page * PAGE, area->stamp[page]);
}

int main(int argc, char **argv)
{
	static const struct solo_op ops[] = {
		{'w', solo_write}, {'r', solo_read},     {'e', remove_pages},
		{'f', punch},      {'t', truncate_file}, {'d', dontneed},
		{'W', by_pwrite},  {'a', by_alias},
	};
	struct area *area = solo_start(argc, argv, "wwwwwwwwwwwwwwwwwwrreefd");
	size_t size = (size_t)PAGES * PAGE;

	file = memfd_create("shmem", MFD_CLOEXEC);
	must(file, "memfd_create");
	must(ftruncate(file, (off_t)size), "ftruncate");
	*area = (struct area){
		.kind = SHARED, .pages = PAGES, .prot = PROT_READ | PROT_WRITE};
	area->base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	must(area->base == MAP_FAILED ? -1 : 0, "mmap");
	if (strchr(solo_ops, 'a')) {
		alias = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		must(alias == MAP_FAILED ? -1 : 0, "mmap");
	}
	if (!strchr(solo_ops, 'W')) {
		must(close(file), "close");
		file = -1;
	}
	return solo_run(area, ops, sizeof(ops) / sizeof(ops[0]));
}
