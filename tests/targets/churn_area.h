/*
 * The areas of one churn thread: found by chance, cut in parts.
 *
 * An area is always a part of one VMA, so any mremap of it must work: operations that
 * split the VMA split the area. A tracker that splits VMAs behind the target's back is
 * thereby caught (mremap: EFAULT).
 */
#ifndef CHURN_AREA_H
#define CHURN_AREA_H

#include "area.h"

static struct area *new_slot(void)
{
	for (int i = 0; i < MAX_AREAS; i++)
		if (self->areas[i].kind == FREE_SLOT)
			return &self->areas[i];
	return NULL;
}

/* A random area of one of the kinds with at least this protection, NULL if none found. */
static struct area *pick(unsigned kinds, int prot)
{
	for (int tries = 0; tries < 16; tries++) {
		struct area *area = &self->areas[below(MAX_AREAS)];

		if (area->kind != FREE_SLOT && kinds & ONLY(area->kind) &&
		    (area->prot & prot) == prot && area->pages)
			return area;
	}
	return NULL;
}

/* Cuts an area in two at a page; returns the second half, NULL if there is no free slot.
 */
static struct area *split(struct area *area, uint32_t at)
{
	struct area *rest = new_slot();

	if (!rest)
		return NULL;
	*rest = (struct area){
		.base = area->base + (size_t)at * PAGE,
		.pages = area->pages - at,
		.kind = area->kind,
		.prot = area->prot,
		.first = area->first + at,
	};
	memcpy(rest->stamp, area->stamp + at, rest->pages * sizeof(area->stamp[0]));
	memcpy(rest->freed, area->freed + at, rest->pages);
	area->pages = at;
	return rest;
}

/* Makes [page, page + count) an area of its own; NULL if there are no free slots. */
static struct area *cut(struct area *area, uint32_t page, uint32_t count)
{
	if (page + count < area->pages && !split(area, page + count))
		return NULL;
	return page ? split(area, page) : area;
}

#endif
