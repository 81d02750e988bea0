/*
 * A mapping that moves in beside another: the kernel merges the two and takes the
 * registration with a userfaultfd off both, without taking off the protection bits.
 *
 *   |AAAA|        |B|     "where": START END of A, hexadecimal
 *   |AAAAB|               "join": B moves to the end of A
 *   |AAAA|        |B|     "part": and back
 *   "write V"             byte V to every page of A
 *
 * Each of the last three is answered by "done". B is never written: only then do they
 * merge.
 */
#include "victim.h"
#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 16 };

static char *map_at(char *at, size_t pages)
{
	char *got = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (got == MAP_FAILED)
		victim_fail("mmap: %s", strerror(errno));
	return got;
}

static void move(char *from, char *to)
{
	if (mremap(from, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		victim_fail("mremap: %s", strerror(errno));
}

int main(void)
{
	/* Room with nothing in it, so that no other mapping is a neighbour. */
	char *room = mmap(NULL, 8 * PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
	                  -1, 0);
	char *a, *b, *end;
	int value = 1;

	if (room == MAP_FAILED || munmap(room, 8 * PAGES * PAGE))
		victim_fail("room: %s", strerror(errno));
	a = map_at(room + PAGES * PAGE, PAGES);
	b = map_at(room + 4 * PAGES * PAGE, 1);
	end = a + PAGES * PAGE;
	memset(a, value, PAGES * PAGE);
	victim_ready();
	for (char *line; (line = victim_command());) {
		if (!strcmp(line, "where")) {
			victim_say("%lx %lx", (long)a, (long)end);
			continue;
		}
		if (!strcmp(line, "join"))
			move(b, end);
		else if (!strcmp(line, "part"))
			move(end, b);
		else if (sscanf(line, "write %d", &value) == 1)
			memset(a, value, PAGES * PAGE);
		victim_say("done");
	}
	for (int i = 0; i < PAGES * PAGE; i++)
		if (a[i] != (char)value)
			victim_fail("byte %d is %d, not %d", i, a[i], value);
	victim_say("ok");
	return 0;
}
