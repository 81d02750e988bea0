/*
 * Memory of many kinds with content on command, to test what looks at it.
 *
 *   "where"            -> "ANON FILE SHARED" addresses, hexadecimal
 *   "set KIND PAGE V"  -> byte V to the whole page; "ok" when written
 *   "drop KIND PAGE"   -> MADV_DONTNEED (anon, file), MADV_REMOVE (shared)
 *   "unmap KIND PAGE"  -> munmap
 *   "map KIND PAGE"    -> new anonymous memory there, MAP_FIXED
 */
#include "victim.h"
#include <sys/mman.h>

enum { PAGES = 128, PAGE = 4096, KINDS = 3 };

static char *kinds[KINDS];

static void *map_or_fail(int flags, int fd)
{
	void *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (at == MAP_FAILED)
		victim_fail("mmap: %s", strerror(errno));
	return at;
}

static void check(int result, const char *what)
{
	if (result < 0)
		victim_fail("%s: %s", what, strerror(errno));
}

int main(int argc, char **argv)
{
	FILE *file = tmpfile();
	int memory = memfd_create("pieces", MFD_CLOEXEC);

	(void)argc;
	(void)argv;
	if (!file || memory < 0 || ftruncate(memory, PAGES * PAGE))
		victim_fail("files: %s", strerror(errno));
	for (int page = 0; page < PAGES; page++) {
		char content[PAGE];

		memset(content, 0x40 + page % 16, PAGE);
		if (fwrite(content, PAGE, 1, file) != 1)
			victim_fail("tmpfile: %s", strerror(errno));
	}
	fflush(file);
	kinds[0] = map_or_fail(MAP_PRIVATE | MAP_ANONYMOUS, -1);
	kinds[1] = map_or_fail(MAP_PRIVATE, fileno(file));
	kinds[2] = map_or_fail(MAP_SHARED, memory);
	victim_ready();
	for (char *line; (line = victim_command());) {
		int kind = 0, page = 0, value = 0;
		char verb[16] = "";
		char *at;

		sscanf(line, "%15s %d %d %d", verb, &kind, &page, &value);
		at = kinds[kind] + (size_t)page * PAGE;
		if (!strcmp(verb, "where")) {
			victim_say("%lx %lx %lx", (long)kinds[0], (long)kinds[1],
			           (long)kinds[2]);
			continue;
		}
		if (!strcmp(verb, "set"))
			memset(at, value, PAGE);
		else if (!strcmp(verb, "drop"))
			check(madvise(at, PAGE, kind == 2 ? MADV_REMOVE : MADV_DONTNEED),
			      "madvise");
		else if (!strcmp(verb, "unmap"))
			check(munmap(at, PAGE), "munmap");
		else if (!strcmp(verb, "map") &&
		         mmap(at, PAGE, PROT_READ | PROT_WRITE,
		              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
			victim_fail("mmap: %s", strerror(errno));
		victim_say("done");
	}
	victim_say("ok");
	return 0;
}
