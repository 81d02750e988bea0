/*
 * A victim with no will of its own: it does one thing to its memory for each command, so
 * that a test can place any event exactly between two iterations. tests/puppet.py speaks
 * to it.
 *
 *	call NAME ARGS...       a system call, of calls[] below  -> result errno
 *	open PATH FLAGS         open(2)                          -> result errno
 *	store ADDR HEX          plain stores                     -> ok
 *	load ADDR LENGTH        plain loads                      -> HEX
 *	fill ADDR LENGTH SEED   every page other than before     -> ok
 *	touch ADDR LENGTH       one load a page                  -> ok
 *	churn ADDR LENGTH N     N stores to random pages         -> ok
 *	signal ADDR LENGTH      a handler runs on that stack     -> ok
 *	deep BYTES              the main stack grows             -> ok
 *	thread | child | twin   a new agent                      -> number pid
 *	brood N                 N children that only live        -> ok
 *	@I COMMAND              agent I does it                  -> its answer
 *	!I COMMAND, then ?I     the same, in two steps           -> ok, its answer
 *
 * Agents are threads, forked children, and twins: processes that share this memory
 * (CLONE_VM).
 *
 *	stdin -> main --pipe to[I]--> agent I: obey()
 *	stdout <- main <--pipe from[I]----------'
 *
 * Nothing but answers to commands changes memory, and no agent runs without one.
 */
#include "victim.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

enum { AGENTS = 16, TEXT = 16384, PAGE = 4096 };

#define CALL(name) {#name, SYS_##name}
static const struct {
	const char *name;
	long number;
} calls[] = {
	CALL(mmap),
	CALL(execve),
	CALL(munmap),
	CALL(mremap),
	CALL(madvise),
	CALL(mprotect),
	CALL(mlock),
	CALL(munlock),
	CALL(brk),
	CALL(close),
	CALL(dup3),
	CALL(fcntl),
	CALL(read),
	CALL(write),
	CALL(pread64),
	CALL(pwrite64),
	CALL(fallocate),
	CALL(ftruncate),
	CALL(memfd_create),
	CALL(memfd_secret),
	CALL(ioctl),
	CALL(io_setup),
	CALL(io_submit),
	CALL(io_getevents),
	CALL(io_destroy),
	CALL(io_uring_setup),
	CALL(io_uring_enter),
	CALL(shmget),
	CALL(io_uring_register),
	CALL(perf_event_open),
	CALL(shmat),
	CALL(shmdt),
	CALL(shmctl),
	CALL(pipe2),
	CALL(process_vm_readv),
	CALL(process_vm_writev),
	CALL(vmsplice),
	CALL(clock_gettime),
	CALL(userfaultfd),
	CALL(mseal),
	CALL(remap_file_pages),
	CALL(getpid),
	CALL(fsync),
	CALL(sync_file_range),
	CALL(socket),
	CALL(setsockopt),
	CALL(execve),
};

struct agent {
	int to[2];
	int from[2];
	/* Not from malloc: a twin would share its locks and caches with the main thread.
	 */
	char line[TEXT];
	char answer[TEXT];
};

static struct agent agents[AGENTS];
static int agent_count;

static void obey(char *line, char *answer);

static void fail_unless(int good, const char *what)
{
	if (!good)
		victim_fail("%s: %s", what, strerror(errno));
}

static void send_line(int fd, const char *line)
{
	size_t length = strlen(line);

	fail_unless(write(fd, line, length) == (ssize_t)length && write(fd, "\n", 1) == 1,
	            "write");
}

/* 0 at the end of the pipe. A byte at a time: nothing may be left in a buffer. */
static int receive_line(int fd, char *line)
{
	for (int i = 0; i < TEXT; i++) {
		if (read(fd, line + i, 1) != 1)
			return 0;
		if (line[i] == '\n') {
			line[i] = 0;
			return 1;
		}
	}
	victim_fail("line too long");
}

static int agent_loop(void *argument)
{
	struct agent *agent = argument;

	while (receive_line(agent->to[0], agent->line)) {
		obey(agent->line, agent->answer);
		send_line(agent->from[1], agent->answer);
	}
	return 0;
}

static void *agent_thread(void *argument)
{
	agent_loop(argument);
	return NULL;
}

static int agent_twin(void *argument)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	agent_loop(argument);
	_exit(0);
}

static void new_agent(const char *kind, char *answer)
{
	/* Counted before it is forked: what it forks itself may not take its place. */
	int number = agent_count++;
	struct agent *agent = &agents[number];
	pthread_t thread;
	long pid = 0;

	if (number == AGENTS)
		victim_fail("no room for another agent");
	fail_unless(!pipe2(agent->to, O_CLOEXEC) && !pipe2(agent->from, O_CLOEXEC),
	            "pipe2");
	if (!strcmp(kind, "thread")) {
		fail_unless(!pthread_create(&thread, NULL, agent_thread, agent),
		            "thread");
	} else if (!strcmp(kind, "twin")) {
		char *stack = malloc(1 << 18);

		pid = clone(agent_twin, stack + (1 << 18), CLONE_VM | SIGCHLD, agent);
		fail_unless(pid > 0, "clone");
	} else {
		pid = fork();
		fail_unless(pid >= 0, "fork");
		if (!pid)
			agent_twin(agent);
	}
	sprintf(answer, "%d %ld", number, pid);
}

/* Far apart in content, so that no two fills of a page are alike. */
static void fill(char *base, size_t length, uint64_t seed)
{
	for (size_t at = 0; at < length; at += PAGE) {
		uint64_t word = victim_mix(seed * 0x10001 + at / PAGE) | 1;

		for (size_t i = 0; i < PAGE; i += 512)
			*(volatile uint64_t *)(base + at + i) = word + i;
	}
}

static void churn(char *base, size_t length, unsigned long count)
{
	static _Atomic uint64_t seed;
	uint64_t state = victim_mix(seed++);

	while (count--) {
		uint64_t word = victim_random(&state);

		*(volatile uint64_t *)(base + word % (length / PAGE) * PAGE +
		                       (word >> 40) % (PAGE / 8) * 8) = word;
	}
}

static void handler(int number)
{
	(void)number;
}

static void by_signal(void *stack, size_t length)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
	stack_t here = {.ss_sp = stack, .ss_size = length};

	fail_unless(!sigaltstack(&here, NULL) && !sigaction(SIGUSR1, &action, NULL),
	            "sigaltstack");
	fail_unless(!raise(SIGUSR1), "raise");
	here.ss_flags = SS_DISABLE;
	fail_unless(!sigaltstack(&here, NULL), "sigaltstack");
}

__attribute__((noinline)) static void deep(size_t bytes)
{
	volatile char frame[PAGE];

	for (size_t i = 0; i < sizeof(frame); i += 64)
		frame[i] = (char)bytes;
	if (bytes > PAGE)
		deep(bytes - PAGE);
	/* Keeps this from becoming a loop over one frame. */
	frame[0]++;
}

static void call(char *rest, char *answer)
{
	char *save, *name = strtok_r(rest, " ", &save), *word;
	long values[6] = {0}, result;
	size_t which = 0;

	for (int i = 0; i < 6 && (word = strtok_r(NULL, " ", &save)); i++)
		values[i] = (long)(*word == '-' ? (unsigned long)strtol(word, NULL, 0)
		                                : strtoul(word, NULL, 0));
	while (which < sizeof(calls) / sizeof(*calls) && strcmp(calls[which].name, name))
		which++;
	if (which == sizeof(calls) / sizeof(*calls))
		victim_fail("no call %s", name);
	errno = 0;
	result = syscall(calls[which].number, values[0], values[1], values[2], values[3],
	                 values[4], values[5]);
	sprintf(answer, "%ld %d", result, result == -1 ? errno : 0);
}

static void ask_agent(char *line, char *answer)
{
	char *command;
	struct agent *agent = &agents[strtoul(line + 1, &command, 10) % AGENTS];

	if (*line != '?')
		send_line(agent->to[1], command + 1);
	strcpy(answer, "ok");
	if (*line != '!' && !receive_line(agent->from[0], answer))
		victim_fail("agent %s has ended", line + 1);
}

static void brood(size_t count)
{
	while (count--) {
		pid_t pid = fork();

		fail_unless(pid >= 0, "fork");
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
	}
}

static void obey(char *line, char *answer)
{
	char word[16] = "", *rest = line;
	char *at;
	size_t length;
	unsigned long third;

	if (strchr("@!?", *line)) {
		ask_agent(line, answer);
		return;
	}
	sscanf(line, "%15s", word);
	rest += strlen(word);
	strcpy(answer, "ok");
	if (!strcmp(word, "call")) {
		call(rest, answer);
		return;
	}
	if (!strcmp(word, "open")) {
		char *path = strtok(rest, " "), *flags = strtok(NULL, " ");
		int fd = open(path, (int)strtol(flags, NULL, 0) | O_CLOEXEC, 0600);

		sprintf(answer, "%d %d", fd, fd < 0 ? errno : 0);
		return;
	}
	at = (char *)strtoul(rest, &rest, 0);
	if (!strcmp(word, "store")) {
		for (rest++; rest[0] && rest[1]; rest += 2) {
			char byte[3] = {rest[0], rest[1], 0};

			*(volatile char *)at++ = (char)strtoul(byte, NULL, 16);
		}
		return;
	}
	length = strtoul(rest, &rest, 0);
	third = strtoul(rest, &rest, 0);
	if (!strcmp(word, "load")) {
		for (size_t i = 0; i < length; i++)
			sprintf(answer + 2 * i, "%02x", (unsigned char)at[i]);
	} else if (!strcmp(word, "fill")) {
		fill(at, length, third);
	} else if (!strcmp(word, "touch")) {
		for (size_t i = 0; i < length; i += PAGE)
			(void)*(volatile char *)(at + i);
	} else if (!strcmp(word, "churn")) {
		churn(at, length, third);
	} else if (!strcmp(word, "signal")) {
		by_signal(at, length);
	} else if (!strcmp(word, "brood")) {
		brood((size_t)at);
	} else if (!strcmp(word, "deep")) {
		deep((size_t)at);
	} else if (!strcmp(word, "thread") || !strcmp(word, "child") ||
	           !strcmp(word, "twin")) {
		new_agent(word, answer);
	} else {
		victim_fail("no command %s", word);
	}
}

int main(void)
{
	static char answer[TEXT];
	char *line;

	victim_ready();
	while ((line = victim_command())) {
		obey(line, answer);
		victim_say("%s", answer);
	}
	victim_say("ok");
	return 0;
}
