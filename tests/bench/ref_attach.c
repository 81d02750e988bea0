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
 * "userfaultfd" makes the calls that make a tracker: userfaultfd() in the thread, its
 * descriptor taken by pidfd_getfd(), close() in the thread; then every mapping that maps
 * shows is registered from here. There is no code of ours in the target, and no care:
 * whatever the thread was doing when it was stopped, and whatever its filters say.
 *
 *   ref_attach TID SITE block|yield|spin
 *   -> "attach"        <- "ok ASKED_NS STOPPED_NS CALLS_NS"   asked..free, stopped..free,
 *                                                             the three calls
 *   -> "userfaultfd"   <- "ok ASKED_NS WHOLE_NS REGISTERED"   asked..free, all of it,
 *                                                             mappings taken
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

static uint64_t call(struct user_regs_struct regs, uint64_t site, uint64_t number,
                     uint64_t argument)
{
	regs.rax = number;
	regs.rdi = argument;
	regs.orig_rax = (uint64_t)-1;
	regs.rip = site;
	trace(PTRACE_SETREGS, 0, &regs);
	for (int stop = 0; stop < 2; stop++) {
		trace(PTRACE_SYSCALL, 0, NULL);
		wait_stop();
	}
	trace(PTRACE_GETREGS, 0, &regs);
	return regs.rax;
}

/* Returns when the stop was asked for. */
static uint64_t stop(void)
{
	uint64_t asked;

	trace(PTRACE_SEIZE, 0, (void *)PTRACE_O_TRACESYSGOOD);
	asked = now_ns();
	trace(PTRACE_INTERRUPT, 0, NULL);
	wait_stop();
	return asked;
}

/* Returns the last moment that is ours: the freed thread may have our CPU for a slice. */
static uint64_t let_go(struct user_regs_struct *saved)
{
	uint64_t free_again;

	trace(PTRACE_SETREGS, 0, saved);
	free_again = now_ns();
	trace(PTRACE_DETACH, 0, NULL);
	return free_again;
}

static void attach(uint64_t site)
{
	struct user_regs_struct saved;
	uint64_t asked = stop(), stopped = now_ns(), before, after, free_again;

	trace(PTRACE_GETREGS, 0, &saved);
	before = now_ns();
	for (int i = 0; i < 3; i++)
		if (call(saved, site, SYS_getppid, 0) != (uint64_t)getppid()) {
			errno = EPROTO; /* one parent started us both */
			die("getppid in the victim");
		}
	after = now_ns();
	free_again = let_go(&saved);
	printf("ok %lu %lu %lu\n", free_again - asked, free_again - stopped,
	       after - before);
}

static void attach_userfaultfd(uint64_t site)
{
	struct user_regs_struct saved;
	uint64_t before = now_ns(), asked, free_again, theirs;
	int pidfd = (int)syscall(SYS_pidfd_open, tid, 0), uffd;
	unsigned registered = 0, refused = 0;

	if (pidfd < 0)
		die("pidfd_open");
	asked = stop();
	trace(PTRACE_GETREGS, 0, &saved);
	theirs = call(saved, site, SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	uffd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)theirs, 0);
	if (uffd < 0)
		die("pidfd_getfd of the userfaultfd");
	call(saved, site, SYS_close, theirs);
	free_again = let_go(&saved);
	enable_async(uffd);
	register_all(uffd, tid, &registered, &refused);
	printf("ok %lu %lu %u\n", free_again - asked, now_ns() - before, registered);
	fflush(stdout);
	close(uffd);
	close(pidfd);
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
		if (!strcmp(line, "userfaultfd\n"))
			attach_userfaultfd(strtoull(argv[2], NULL, 10));
		else
			attach(strtoull(argv[2], NULL, 10));
		fflush(stdout);
	}
	return 0;
}
