/*
 * Mappings that cannot be tracked come and go where mappings that must stay in one piece
 * come next. Each thread has a place of its own:
 *
 *	|         |r--s|              |    a file, shared, opened for reading only
 *	|anonymous                    |    one mmap(2), so mremap(2) of all of it must
 * work
 *
 * A tracker that registers up to a border which it has just seen, and which has gone,
 * cuts the second in two: mremap fails with EFAULT, and so does this program.
 *
 *	"rounds" -> their number
 */
#include "victim.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/mman.h>

enum { THREADS = 3, PAGE = 4096, PAGES = 512 };
#define RW (PROT_READ | PROT_WRITE)

static volatile bool started, stopping;
static volatile uint64_t rounds[THREADS];
static char *places[THREADS];
static int file;

static void *map_or_fail(void *at, int pages, int prot, int flags, int fd)
{
	void *got = mmap(at, (size_t)pages * PAGE, prot, flags, fd, 0);

	if (got == MAP_FAILED)
		victim_fail("mmap: %s", strerror(errno));
	return got;
}

/* A moment of a length by chance, in which others may look. */
static void wait_a_little(uint64_t *random)
{
	for (volatile uint64_t i = victim_random(random) % 40000; i; i--)
		;
}

static void *work(void *number)
{
	long self = (long)number;
	uint64_t random = (uint64_t)self + 1;
	size_t size = (size_t)PAGES * PAGE;
	char *place = places[self], *other = place + size;

	while (!started)
		sched_yield();
	while (!stopping) {
		int first = 1 + (int)(victim_random(&random) % (PAGES - 3));

		map_or_fail(place + (size_t)first * PAGE, 1, PROT_READ,
		            MAP_SHARED | MAP_FIXED, file);
		wait_a_little(&random);
		map_or_fail(place, PAGES, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		            -1);
		memset(place + victim_random(&random) % size, 1, 1);
		wait_a_little(&random);
		if (mremap(place, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, other) !=
		    other)
			victim_fail("mremap: %s", strerror(errno));
		rounds[self]++;
	}
	return NULL;
}

int main(void)
{
	char path[] = "/var/tmp/borders-XXXXXX", content[PAGE] = {1};
	pthread_t ids[THREADS];
	int made = mkostemp(path, O_CLOEXEC);

	if (made < 0 || write(made, content, PAGE) != PAGE)
		victim_fail("file: %s", strerror(errno));
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0 || unlink(path))
		victim_fail("file: %s", strerror(errno));
	close(made);
	for (int i = 0; i < THREADS; i++)
		places[i] = map_or_fail(NULL, 2 * PAGES, PROT_NONE,
		                        MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (long i = 0; i < THREADS; i++)
		if (pthread_create(&ids[i], NULL, work, (void *)i))
			victim_fail("pthread_create");
	/* Their places have holes from now on, where a stack might be put. */
	started = true;
	victim_ready();
	for (char *line; (line = victim_command());)
		victim_say("%lu", rounds[0] + rounds[1] + rounds[2]);
	stopping = true;
	for (int i = 0; i < THREADS; i++)
		pthread_join(ids[i], NULL);
	victim_say("ok");
	return 0;
}
