/*
 * What each page of a victim's memory must contain, and the report when it does not.
 *
 *   worker --> area[]: base, pages, kind, protection
 *                      stamp[page]   0: the page is untouched, it reads as its backing
 *                      freed[page]   after MADV_FREE: old content or zero
 *
 * A page's content is eight words spread over it, made from its stamp.
 */
#ifndef AREA_H
#define AREA_H

#include "victim.h"
#include <stdbool.h>
#include <sys/mman.h>

#ifndef MAX_PAGES
#define MAX_PAGES 1536
#endif

enum { PAGE = 4096, MAX_AREAS = 40, WORDS = 8, TRACE = 12 };
enum kind { FREE_SLOT, ANON, SHARED, FILE_PRIVATE, MEMFD_PRIVATE, BRK };
enum { ANY = 0xff };
#define ONLY(kind) (1u << (kind))

struct area {
	char *base;
	uint32_t pages;
	enum kind kind;
	int prot;
	uint32_t first; /* page of the backing file at base */
	uint64_t stamp[MAX_PAGES];
	uint8_t freed[MAX_PAGES];
};

/* One line of a worker's recent past, for the report of a failure. */
struct trace {
	char op;
	void *at;
	size_t bytes;
};

struct worker {
	struct area areas[MAX_AREAS];
	struct trace trace[TRACE];
	unsigned traced;
	uint64_t random;
	uint64_t seed;
	uint64_t used; /* pages */
	uint64_t quota;
	uint64_t counts[128];
	int number;
	int file;  /* on a disk */
	int memfd; /* the same content in memory */
	int pipe[2];
};

static _Thread_local struct worker *self;

static uint32_t below(uint32_t limit)
{
	return victim_random(&self->random) % limit;
}

/* Ends the program with the seed, and what this thread did last. */
__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
	char text[700];
	int at = 0;
	va_list args;

	va_start(args, format);
	at += vsnprintf(text, 160, format, args);
	va_end(args);
	if (at > 159)
		at = 159;
	if (self) {
		at += snprintf(text + at, 60, "; thread %d seed %lu; last:", self->number,
		               self->seed);
		for (unsigned i = 0; i < TRACE && i < self->traced && at < 460; i++) {
			struct trace *one = &self->trace[(self->traced - 1 - i) % TRACE];

			at += snprintf(text + at, 50, " %c:%lx+%zx", one->op,
			               (long)one->at, one->bytes);
		}
	}
	victim_fail("%s", text);
}

static void note(char op, void *at, size_t bytes)
{
	self->trace[self->traced++ % TRACE] = (struct trace){op, at, bytes};
	self->counts[(int)op]++;
}

/* For calls that a correct target can rely on. */
static void must(long result, const char *what)
{
	if (result == -1)
		fail("%s: %s", what, strerror(errno));
}

/* For calls that may refuse (no memory, busy), but must never be interrupted or fault. */
__attribute__((unused)) static void may(long result, const char *what)
{
	if (result == -1 && (errno == EINTR || errno == EFAULT))
		fail("%s: %s", what, strerror(errno));
}

static uint64_t *word(char *page, int index)
{
	return (uint64_t *)page + index * 73;
}

static void fill(char *page, uint64_t stamp)
{
	for (int i = 0; i < WORDS; i++)
		*word(page, i) = stamp ? victim_mix(stamp + i) : 0;
}

/* What page `index` of the backing files has: never 0, so a zeroed page is seen. */
static uint64_t file_stamp(uint32_t index)
{
	return victim_mix(self->seed ^ (0xf11e000000ull + index)) | 1;
}

static uint64_t backing(const struct area *area, uint32_t page)
{
	if (area->kind == FILE_PRIVATE || area->kind == MEMFD_PRIVATE)
		return file_stamp(area->first + page);
	return 0;
}

static void write_page(struct area *area, uint32_t page)
{
	area->stamp[page] = victim_random(&self->random) | 1;
	area->freed[page] = 0;
	fill(area->base + (size_t)page * PAGE, area->stamp[page]);
}

static void check_page(struct area *area, uint32_t page)
{
	char *at = area->base + (size_t)page * PAGE;
	uint64_t stamp = area->stamp[page] ? area->stamp[page] : backing(area, page);
	int right = 0, zero = 0;

	for (int i = 0; i < WORDS; i++) {
		uint64_t value = *(volatile uint64_t *)word(at, i);

		right += value == (stamp ? victim_mix(stamp + i) : 0);
		zero += value == 0;
	}
	if (area->freed[page] && zero == WORDS) {
		area->freed[page] = 0;
		area->stamp[page] = 0;
	} else if (right != WORDS) {
		fail("page %p (kind %d, page %u of %u): %d of %d words right, %d zero, "
		     "stamp %lx",
		     at, area->kind, page, area->pages, right, WORDS, zero,
		     area->stamp[page]);
	}
}

static void check_area(struct area *area)
{
	if (area->kind == FREE_SLOT)
		return;
	if (area->prot == PROT_NONE) {
		must(mprotect(area->base, (size_t)area->pages * PAGE, PROT_READ),
		     "mprotect");
		area->prot = PROT_READ;
	}
	for (uint32_t page = 0; page < area->pages; page++)
		check_page(area, page);
}

/* The pages now read as their backing. */
static void forget(struct area *area, uint32_t page, uint32_t count)
{
	memset(area->stamp + page, 0, count * sizeof(area->stamp[0]));
	memset(area->freed + page, 0, count);
}

/* A random part of an area, in pages; small parts are as likely as large ones. */
static uint32_t part(const struct area *area, uint32_t *count)
{
	uint32_t limit = below(2) ? area->pages : area->pages < 16 ? area->pages : 16;

	*count = 1 + below(limit);
	return below(area->pages - *count + 1);
}

#endif
