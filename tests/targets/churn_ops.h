/*
 * What churn does to its memory: one function an operation, one letter each, in the table
 * below. Every function picks an area by chance, does the call, and brings the stamps up
 * to date. All touch only the calling thread's own areas, so what must be there is always
 * known.
 */
#ifndef CHURN_OPS_H
#define CHURN_OPS_H

#include "churn_area.h"
#include <fcntl.h>
#include <sys/uio.h>
#include <sys/wait.h>

/* Newer than some distributions' headers (uapi/asm-generic/mman-common.h). */
#define ADVICE_POPULATE_READ  22
#define ADVICE_POPULATE_WRITE 23
#define ADVICE_COLLAPSE       25
#define ADVICE_GUARD_INSTALL  102
#define ADVICE_GUARD_REMOVE   103

#define MAPPED  (ANY & ~ONLY(BRK))
#define PRIVATE (MAPPED & ~ONLY(SHARED))
#define RW      (PROT_READ | PROT_WRITE)

static size_t bytes(uint32_t pages)
{
	return (size_t)pages * PAGE;
}

static char *page_at(const struct area *area, uint32_t page)
{
	return area->base + bytes(page);
}

static void op_write(char op)
{
	struct area *area = pick(ANY, PROT_WRITE);
	uint32_t page, count;

	if (!area)
		return;
	page = part(area, &count);
	note(op, page_at(area, page), bytes(count));
	if (count > 64)
		count = 64;
	if (below(2))
		for (uint32_t i = 0; i < count; i++)
			write_page(area, page + i);
	else
		for (uint32_t i = 0; i < count / 2 + 1; i++)
			write_page(area, below(area->pages));
}

static void op_read(char op)
{
	struct area *area = pick(ANY, PROT_READ);
	uint32_t page, count;

	if (!area)
		return;
	page = part(area, &count);
	note(op, page_at(area, page), bytes(count));
	for (uint32_t i = 0; i < count && i < 256; i++)
		check_page(area, page + i);
}

static void op_unmap(char op)
{
	struct area *area = pick(MAPPED, 0);
	uint32_t page = 0, count;

	if (!area)
		return;
	count = area->pages;
	if (below(2)) {
		page = part(area, &count);
		area = cut(area, page, count);
		if (!area)
			return;
	}
	note(op, area->base, bytes(area->pages));
	must(munmap(area->base, bytes(area->pages)), "munmap");
	self->used -= area->pages;
	area->kind = FREE_SLOT;
}

static void op_map(char op)
{
	static const uint32_t sizes[] = {1, 3, 16, 64, 300, 1024, MAX_PAGES};
	uint32_t pages = 1 + below(sizes[below(7)]), first = 0;
	enum kind kind = below(2) ? ANON : (enum kind)(ANON + below(4));
	struct area *area = new_slot();
	int flags = MAP_PRIVATE, fd = -1;

	if (!area || self->used + pages > self->quota) {
		op_unmap('u');
		return;
	}
	if (kind == ANON) {
		flags |= MAP_ANONYMOUS;
	} else if (kind == SHARED) {
		flags = MAP_SHARED;
		fd = memfd_create("churn", MFD_CLOEXEC);
		must(fd, "memfd_create");
		must(ftruncate(fd, bytes(pages)), "ftruncate");
	} else {
		fd = kind == FILE_PRIVATE ? self->file : self->memfd;
		first = below(MAX_PAGES - pages + 1);
	}
	*area = (struct area){.pages = pages, .kind = kind, .prot = RW, .first = first};
	area->base = mmap(NULL, bytes(pages), RW, flags, fd, bytes(first));
	must(area->base == MAP_FAILED ? -1 : 0, "mmap");
	note(op, area->base, bytes(pages));
	if (kind == SHARED) {
		must(close(fd), "close");
		area->first = 0;
	}
	self->used += pages;
}

/* New anonymous memory over a part of an area: the same address range, other content. */
static void op_over(char op)
{
	struct area *area = pick(MAPPED, 0);
	uint32_t page, count;

	if (!area)
		return;
	page = part(area, &count);
	area = cut(area, page, count);
	if (!area)
		return;
	note(op, area->base, bytes(area->pages));
	if (mmap(area->base, bytes(area->pages), RW,
	         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != area->base)
		fail("mmap fixed: %s", strerror(errno));
	area->kind = ANON;
	area->prot = RW;
	area->first = 0;
	forget(area, 0, area->pages);
}

static void op_grow(char op)
{
	/* Not shared memory: two halves of one memfd would grow into each other. */
	struct area *area = pick(PRIVATE, 0);
	uint32_t more = 1 + below(64);
	char *base;

	if (!area || area->pages + area->first + more > MAX_PAGES ||
	    self->used + more > self->quota)
		return;
	note(op, area->base, bytes(more));
	base = mremap(area->base, bytes(area->pages), bytes(area->pages + more),
	              below(2) ? MREMAP_MAYMOVE : 0);
	if (base == MAP_FAILED) {
		if (errno != ENOMEM)
			fail("mremap grow: %s", strerror(errno));
		return;
	}
	area->base = base;
	forget(area, area->pages, more);
	area->pages += more;
	self->used += more;
}

static void op_shrink(char op)
{
	struct area *area = pick(MAPPED, 0);
	uint32_t left;

	if (!area || area->pages < 2)
		return;
	left = 1 + below(area->pages - 1);
	note(op, page_at(area, left), bytes(area->pages - left));
	if (mremap(area->base, bytes(area->pages), bytes(left), 0) != area->base)
		fail("mremap shrink: %s", strerror(errno));
	self->used -= area->pages - left;
	area->pages = left;
}

/* Moves an area, or a part of it, onto a place reserved for it. */
static void op_move(char op)
{
	struct area *area = pick(MAPPED, 0);
	uint32_t page, count;
	char *place;

	if (!area)
		return;
	if (below(2)) {
		page = part(area, &count);
		area = cut(area, page, count);
		if (!area)
			return;
	}
	place = mmap(NULL, bytes(area->pages), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	             0);
	must(place == MAP_FAILED ? -1 : 0, "mmap");
	note(op, area->base, bytes(area->pages));
	if (mremap(area->base, bytes(area->pages), bytes(area->pages),
	           MREMAP_MAYMOVE | MREMAP_FIXED, place) != place)
		fail("mremap move: %s", strerror(errno));
	area->base = place;
}

/* The content moves away, the mapping stays behind, empty. */
static void op_move_content(char op)
{
	struct area *area = pick(ONLY(ANON), 0), *moved;
	char *place;

	if (!area || self->used + area->pages > self->quota)
		return;
	moved = new_slot();
	if (!moved)
		return;
	note(op, area->base, bytes(area->pages));
	place = mremap(area->base, bytes(area->pages), bytes(area->pages),
	               MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	if (place == MAP_FAILED)
		fail("mremap dontunmap: %s", strerror(errno));
	*moved = *area;
	moved->base = place;
	forget(area, 0, area->pages);
	self->used += area->pages;
}

static void op_dontneed(char op)
{
	struct area *area = pick(ANY, 0);
	uint32_t page, count;

	if (!area)
		return;
	page = part(area, &count);
	note(op, page_at(area, page), bytes(count));
	must(madvise(page_at(area, page), bytes(count), MADV_DONTNEED), "MADV_DONTNEED");
	/* Shared memory keeps its content: only this mapping of it went. */
	if (area->kind != SHARED)
		forget(area, page, count);
}

static void op_free(char op)
{
	struct area *area = pick(ONLY(ANON) | ONLY(BRK), 0);
	uint32_t page, count;

	if (!area)
		return;
	page = part(area, &count);
	note(op, page_at(area, page), bytes(count));
	must(madvise(page_at(area, page), bytes(count), MADV_FREE), "MADV_FREE");
	for (uint32_t i = page; i < page + count; i++)
		area->freed[i] = area->stamp[i] != 0;
}

/* A hole in the memory file itself. */
static void op_remove(char op)
{
	struct area *area = pick(ONLY(SHARED), RW);
	uint32_t page, count;

	if (!area)
		return;
	page = part(area, &count);
	note(op, page_at(area, page), bytes(count));
	must(madvise(page_at(area, page), bytes(count), MADV_REMOVE), "MADV_REMOVE");
	forget(area, page, count);
}

/* Advice that changes no content; the kernel may refuse it. */
static void op_advise(char op)
{
	static const int pageout[] = {MADV_PAGEOUT, MADV_COLD};
	static const int populate[] = {ADVICE_POPULATE_READ, ADVICE_POPULATE_WRITE};
	static const int huge[] = {MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_HUGEPAGE};
	struct area *area = pick(op == 'h' ? PRIVATE : ANY, RW);
	int advice;

	if (!area)
		return;
	advice = op == 'h'   ? huge[below(3)]
	         : op == 'c' ? ADVICE_COLLAPSE
	         : op == 'o' ? pageout[below(2)]
	                     : populate[below(2)];
	note(op, area->base, bytes(area->pages));
	/* The whole area: HUGEPAGE on a part of it would split the VMA. */
	may(madvise(area->base, bytes(area->pages), advice), "madvise");
}

static void op_guard(char op)
{
	struct area *area = pick(ONLY(ANON), RW);
	uint32_t page, count;

	if (!area)
		return;
	page = part(area, &count);
	note(op, page_at(area, page), bytes(count));
	if (madvise(page_at(area, page), bytes(count), ADVICE_GUARD_INSTALL)) {
		if (errno != EINVAL)
			fail("MADV_GUARD_INSTALL: %s", strerror(errno));
		return;
	}
	forget(area, page, count);
	must(madvise(page_at(area, page), bytes(count), ADVICE_GUARD_REMOVE),
	     "GUARD_REMOVE");
}

static void op_protect(char op)
{
	static const int choices[] = {PROT_READ, PROT_NONE, RW, RW, RW};
	struct area *area = pick(MAPPED, 0);
	uint32_t page, count;

	if (!area)
		return;
	if (below(2)) {
		page = part(area, &count);
		area = cut(area, page, count);
		if (!area)
			return;
	}
	area->prot = area->prot == RW ? choices[below(5)] : RW;
	note(op, area->base, bytes(area->pages));
	must(mprotect(area->base, bytes(area->pages), area->prot), "mprotect");
}

static void op_lock(char op)
{
	struct area *area = pick(MAPPED, RW);

	if (!area || area->pages > 256)
		return;
	note(op, area->base, bytes(area->pages));
	may(mlock(area->base, bytes(area->pages)), "mlock");
	must(munlock(area->base, bytes(area->pages)), "munlock");
}

#endif
