/*
 * More of what churn does: writes by the kernel, fork, deep stacks, the brk heap; and the
 * table of all operations. See churn_ops.h.
 */
#ifndef CHURN_CALLS_H
#define CHURN_CALLS_H

#include "churn_ops.h"
#include <sched.h>

/* The kernel fills the page, not a store of ours: read(2) or process_vm_writev(2). */
static void op_kernel(char op)
{
	struct area *area = pick(ANY, PROT_WRITE);
	char content[PAGE] = {0};
	struct iovec from = {content, PAGE}, to;
	uint32_t page;

	if (!area)
		return;
	page = below(area->pages);
	to = (struct iovec){page_at(area, page), PAGE};
	note(op, to.iov_base, PAGE);
	area->stamp[page] = victim_random(&self->random) | 1;
	area->freed[page] = 0;
	fill(content, area->stamp[page]);
	if (below(2)) {
		if (write(self->pipe[1], content, PAGE) != PAGE ||
		    read(self->pipe[0], to.iov_base, PAGE) != PAGE)
			fail("pipe: %s", strerror(errno));
	} else if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != PAGE) {
		fail("process_vm_writev: %s", strerror(errno));
	}
}

/* A child that checks and changes its own copy: the parent's must not change. Nothing
 * that takes a lock may run in it: other threads may hold one. */
static void op_fork(char op)
{
	pid_t child;
	int status;

	/* A fork costs as much as hundreds of other operations. */
	if (below(8))
		return;
	note(op, NULL, 0);
	child = fork();
	must(child, "fork");
	if (!child) {
		for (int i = 0; i < 20; i++) {
			struct area *area = pick(PRIVATE | ONLY(BRK), RW);

			if (!area)
				continue;
			check_page(area, below(area->pages));
			write_page(area, below(area->pages));
		}
		_exit(0);
	}
	if (waitpid(child, &status, 0) != child)
		fail("waitpid: %s", strerror(errno));
	if (status)
		fail("the child ended with status %#x", status);
}

__attribute__((noinline)) static void deep(unsigned depth, uint64_t stamp)
{
	volatile uint64_t frame[256];

	for (int i = 0; i < 256; i += 51)
		frame[i] = victim_mix(stamp + depth * 256 + i);
	if (depth)
		deep(depth - 1, stamp);
	for (int i = 0; i < 256; i += 51)
		if (frame[i] != victim_mix(stamp + depth * 256 + i))
			fail("stack frame %u at %p", depth, (void *)frame);
}

/* Thread 0 is the main thread: its stack grows by faults, the others' are plain mappings.
 */
static void op_stack(char op)
{
	unsigned depth = below(self->number ? 200 : 1500);

	note(op, NULL, depth);
	deep(depth, victim_random(&self->random));
}

/* Only thread 0: the heap is the process's. Nothing here calls malloc once it runs. */
static void op_brk(char op)
{
	struct area *heap = NULL;
	uint32_t pages = 1 + below(40);

	if (self->number)
		return;
	for (int i = 0; i < MAX_AREAS; i++)
		if (self->areas[i].kind == BRK)
			heap = &self->areas[i];
	if (!heap) {
		heap = new_slot();
		if (!heap)
			return;
		must((long)sbrk(-(long)sbrk(0) & (PAGE - 1)), "sbrk");
		*heap = (struct area){.base = sbrk(0), .kind = BRK, .prot = RW};
	}
	if (below(2) && heap->pages + pages <= MAX_PAGES) {
		note(op, page_at(heap, heap->pages), bytes(pages));
		if (sbrk((long)bytes(pages)) != page_at(heap, heap->pages))
			fail("sbrk grow: %s", strerror(errno));
		forget(heap, heap->pages, pages);
		heap->pages += pages;
	} else if (heap->pages > pages) {
		note(op, page_at(heap, heap->pages - pages), bytes(pages));
		if (sbrk(-(long)bytes(pages)) != page_at(heap, heap->pages))
			fail("sbrk shrink: %s", strerror(errno));
		heap->pages -= pages;
	}
}

static void op_yield(char op)
{
	note(op, NULL, 0);
	sched_yield();
}

static const struct op {
	char letter;
	void (*run)(char op);
} op_table[] = {
	{'w', op_write},        {'r', op_read},     {'m', op_map},    {'u', op_unmap},
	{'x', op_over},         {'g', op_grow},     {'s', op_shrink}, {'v', op_move},
	{'t', op_move_content}, {'d', op_dontneed}, {'f', op_free},   {'e', op_remove},
	{'h', op_advise},       {'c', op_advise},   {'o', op_advise}, {'y', op_advise},
	{'G', op_guard},        {'p', op_protect},  {'l', op_lock},   {'i', op_kernel},
	{'n', op_fork},         {'k', op_stack},    {'b', op_brk},    {'z', op_yield},
};

/* Letters as often as they should happen. */
#define DEFAULT_OPS "wwwwwwwwwwwwrrrrrrmmmmuuxxgggsvvtdddddffeehhcoyGppplikkkbbiiinzz"

#endif
