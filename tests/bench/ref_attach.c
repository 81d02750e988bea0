/*
 * The reference for attaching: what any tracer must pay to make three calls in a
 * stranger's thread.
 *
 *   SEIZE  INTERRUPT  wait | 3 x (SETREGS, SYSCALL wait, SYSCALL wait) | SETREGS  DETACH
 *          ^ asked         ^ stopped                                             ^ free
 *
 * The calls are getppid(), which does nothing, so what is left is the price of the stops.
 * How the tracer waits for each stop decides most of it: "block" sleeps in wait4, "yield"
 * asks again and again and gives the CPU away in between, "spin" does not. In a virtual
 * machine a CPU that went idle takes long to wake, so "yield" is the cheapest and is what
 * the tracker is compared with.
 *
 *   ref_attach TID SITE block|yield|spin
 *   -> "attach"   <- "ok ASKED_NS STOPPED_NS CALLS_NS"   asked..free, stopped..free, the
 * three calls
 */
#include "kernel.h"
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#ifndef __x86_64__
#error "the reference needs this architecture's registers"
#endif

enum waiting { BLOCK, YIELD, SPIN };

static int tid;
static enum waiting waiting;

static void trace(long request, unsigned long addr, void *data)
{
	if (ptrace(request, tid, addr, data) == -1)
		die("ptrace");
}

static void wait_stop(void)
{
	int status, got;

	if (waiting == BLOCK) {
		got = waitpid(tid, &status, __WALL);
	} else {
		while (!(got = waitpid(tid, &status, __WALL | WNOHANG)))
			if (waiting == YIELD)
				sched_yield();
	}
	if (got != tid || !WIFSTOPPED(status))
		die("waitpid");
}

static void call(struct user_regs_struct regs, uint64_t site)
{
	regs.rax = SYS_getppid;
	regs.orig_rax = (uint64_t)-1;
	regs.rip = site;
	trace(PTRACE_SETREGS, 0, &regs);
	for (int stop = 0; stop < 2; stop++) {
		trace(PTRACE_SYSCALL, 0, NULL);
		wait_stop();
	}
	trace(PTRACE_GETREGS, 0, &regs);
	if (regs.rax != (uint64_t)getppid()) {
		errno = EPROTO; /* one parent started us both */
		die("getppid in the victim");
	}
}

static void attach(uint64_t site)
{
	struct user_regs_struct saved;
	uint64_t asked, stopped, before, after, free_again;

	trace(PTRACE_SEIZE, 0, (void *)PTRACE_O_TRACESYSGOOD);
	asked = now_ns();
	trace(PTRACE_INTERRUPT, 0, NULL);
	wait_stop();
	stopped = now_ns();
	trace(PTRACE_GETREGS, 0, &saved);
	before = now_ns();
	for (int i = 0; i < 3; i++)
		call(saved, site);
	after = now_ns();
	trace(PTRACE_SETREGS, 0, &saved);
	/* Read before: after it, the freed thread may have our CPU for a whole time
	 * slice. */
	free_again = now_ns();
	trace(PTRACE_DETACH, 0, NULL);
	printf("ok %lu %lu %lu\n", free_again - asked, free_again - stopped,
	       after - before);
}

int main(int argc, char **argv)
{
	char line[64];

	if (argc != 4)
		return 2;
	tid = atoi(argv[1]);
	waiting = !strcmp(argv[3], "spin")    ? SPIN
	          : !strcmp(argv[3], "yield") ? YIELD
	                                      : BLOCK;
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		attach(strtoull(argv[2], NULL, 10));
		fflush(stdout);
	}
	return 0;
}
