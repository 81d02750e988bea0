/*
 * A victim with one thread and one area: operations drawn at random, at full speed, until
 * "stop". The page book-keeping is that of area.h.
 *
 *   main: solo_start(argc, argv) --> area set up --> solo_run(ops, count) --> "ok OPS"
 *
 *   NAME [SEED [OPS]]   OPS: letters, repeated ones are drawn more often
 *
 * "step N" on stdin does N operations and then waits; "run" goes on at full speed; any
 * other line is answered with the number of operations.
 */
#ifndef SOLO_H
#define SOLO_H

#include "area.h"
#include <poll.h>
#include <signal.h>

struct solo_op {
	char letter;
	void (*run)(struct area *area, uint32_t page, uint32_t count);
};

static struct worker solo_worker;
static const char *solo_ops;

static void solo_crashed(int number, siginfo_t *info, void *context)
{
	(void)context;
	fail("signal %d at %p", number, info->si_addr);
}

/* Returns the area to set up: kind, base, pages, protection. */
static struct area *solo_start(int argc, char **argv, const char *ops)
{
	struct sigaction action = {.sa_sigaction = solo_crashed, .sa_flags = SA_SIGINFO};

	self = &solo_worker;
	self->seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	self->random = victim_mix(self->seed);
	solo_ops = argc > 2 ? argv[2] : ops;
	must(sigaction(SIGSEGV, &action, NULL), "sigaction");
	must(sigaction(SIGBUS, &action, NULL), "sigaction");
	return &self->areas[0];
}

static void solo_write(struct area *area, uint32_t page, uint32_t count)
{
	for (uint32_t i = 0; i < count && i < 32; i++)
		write_page(area, below(2) ? page + i : below(area->pages));
}

static void solo_read(struct area *area, uint32_t page, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		check_page(area, page + i);
}

static void solo_one(struct area *area, const struct solo_op *ops, size_t number)
{
	char letter = solo_ops[below((uint32_t)strlen(solo_ops))];
	uint32_t count, page = part(area, &count);

	for (size_t i = 0; i < number; i++)
		if (ops[i].letter == letter) {
			note(letter, area->base + (size_t)page * PAGE,
			     (size_t)count * PAGE);
			ops[i].run(area, page, count);
		}
}

static int solo_run(struct area *area, const struct solo_op *ops, size_t number)
{
	struct pollfd input = {STDIN_FILENO, POLLIN, 0};
	uint64_t done = 0, until = UINT64_MAX;

	setvbuf(stdin, NULL, _IONBF, 0);
	victim_ready();
	for (;;) {
		int waiting = poll(&input, 1, done < until ? 0 : -1);

		must(waiting, "poll");
		if (waiting) {
			char *line = victim_command();

			if (!line)
				break;
			if (sscanf(line, "step %lu", &until) == 1)
				until += done;
			else if (!strcmp(line, "run"))
				until = UINT64_MAX;
			else
				victim_say("%lu", done);
			if (until == UINT64_MAX || until == done)
				continue;
		}
		if (done < until) {
			solo_one(area, ops, number);
			done++;
			if (done == until)
				victim_say("stepped %lu", done);
		}
	}
	check_area(area);
	victim_say("ok %lu", done);
	return 0;
}

#endif
