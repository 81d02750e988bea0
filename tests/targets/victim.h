/*
 * What all victims share: the protocol with tests/victim.py, and random numbers.
 *
 *   stdout: "ready"               the test goes on
 *   stdin:  "stop", or its end    check the memory, print "ok", exit 0
 *   victim_fail()                 "FAILED why" on stdout and stderr, exit 1: no "ok"
 */
#ifndef VICTIM_H
#define VICTIM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Prints why and ends all threads at once. Keeps errno out of it: name it in the text. */
__attribute__((format(printf, 1, 2), noreturn, unused)) static void
victim_fail(const char *format, ...)
{
	char text[512];
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(text + 7, sizeof(text) - 16, format, args) + 7;
	va_end(args);
	memcpy(text, "FAILED ", 7);
	if (length > (int)sizeof(text) - 10)
		length = (int)sizeof(text) - 10;
	text[length++] = '\n';
	/* write(2): stdio's lock may be held by the thread that we interrupt. */
	if (write(STDOUT_FILENO, text, length) < 0 ||
	    write(STDERR_FILENO, text, length) < 0)
		_exit(2);
	_exit(1);
}

__attribute__((format(printf, 1, 2), unused)) static void victim_say(const char *format,
                                                                     ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

__attribute__((unused)) static void victim_ready(void)
{
	victim_say("ready");
}

/* Next command line without its end; NULL at "stop" or at the end of stdin. EINTR is a
 * fault: an attached tracker must not be seen. */
__attribute__((unused)) static char *victim_command(void)
{
	static char line[4096];

	errno = 0;
	if (!fgets(line, sizeof(line), stdin)) {
		if (ferror(stdin))
			victim_fail("reading commands: %s", strerror(errno));
		return NULL;
	}
	line[strcspn(line, "\n")] = 0;
	return strcmp(line, "stop") ? line : NULL;
}

/* splitmix64: every state is good, so any seed is. */
__attribute__((unused)) static uint64_t victim_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

__attribute__((unused)) static uint64_t victim_random(uint64_t *state)
{
	uint64_t now = *state;

	*state += 0x9e3779b97f4a7c15u;
	return victim_mix(now);
}

#endif
