/* The stop and the release of one thread by ptrace(2); stop.h has the way through. */
#include "c/stop.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include "c/eintr.h"

uint64_t ut_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

int ut_stop_seize(pid_t tid, unsigned long options, struct ut_error *error)
{
	if (ptrace(PTRACE_SEIZE, tid, 0, options))
		return ut_fail(error, "PTRACE_SEIZE", errno, tid, 0, 0);
	return 0;
}

int ut_stop_request(pid_t tid, struct ut_error *error)
{
	if (ptrace(PTRACE_INTERRUPT, tid, 0, 0))
		return ut_fail(error, "PTRACE_INTERRUPT", errno, tid, 0, 0);
	return 0;
}

void ut_stop_read(pid_t tid, int status, struct ut_stop *stop)
{
	*stop = (struct ut_stop){.tid = tid, .status = status};
	if (!WIFSTOPPED(status)) {
		stop->kind = UT_STOP_GONE;
		return;
	}

	int signal = WSTOPSIG(status);
	int event = status >> 16;

	if (event == PTRACE_EVENT_STOP) {
		/* With SEIZE the signal of this event is SIGTRAP, or what stopped the
		 * group. */
		stop->kind = signal == SIGTRAP ? UT_STOP_TRAP : UT_STOP_GROUP;
		stop->signal = signal == SIGTRAP ? 0 : signal;
	} else if (event) {
		stop->kind = UT_STOP_EVENT;
		stop->event = event;
	} else if (signal == (SIGTRAP | 0x80)) { /* PTRACE_O_TRACESYSGOOD */
		stop->kind = UT_STOP_SYSCALL;
	} else {
		stop->kind = UT_STOP_SIGNAL;
		stop->signal = signal;
	}
}

/*
 * Not every end of a tracee comes with a SIGCHLD: when another thread runs execve(), a
 * traced leader is taken away silently (de_thread() in fs/exec.c only wakes a blocked
 * wait4), and the next waitpid says ECHILD. So no sleep is longer than this.
 */
#define LOOK_NS 10000000

/* Until a SIGCHLD is there to take or time is over; may return early, the caller looks
 * again. */
static void sleep_for_child(uint64_t now, uint64_t deadline_ns)
{
	uint64_t left = deadline_ns - now < LOOK_NS ? deadline_ns - now : LOOK_NS;
	struct timespec timeout = {(time_t)(left / 1000000000),
	                           (long)(left % 1000000000)};
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigtimedwait(&child, NULL, &timeout);
}

int ut_stop_wait(pid_t tid, uint64_t deadline_ns, struct ut_stop *stop,
                 struct ut_error *error)
{
	for (;;) {
		int status;
		/* __WALL: threads other than a leader are not reported without it. */
		pid_t got = waitpid(tid, &status, WNOHANG | __WALL);

		if (got > 0) {
			ut_stop_read(got, status, stop);
			return 1;
		}
		if (got < 0 && errno != EINTR)
			return ut_fail(error, "waitpid", errno, tid, 0, 0);

		uint64_t now = ut_now_ns();

		if (now >= deadline_ns)
			return 0;
		/*
		 * No stop can be lost between the look above and this sleep: SIGCHLD is
		 * blocked, so a later one stays pending and ends the sleep at once.
		 * Looking a while longer before sleeping gains nothing: on a loaded
		 * machine it takes the CPU from the very thread that is to stop.
		 */
		sleep_for_child(now, deadline_ns);
	}
}

int ut_stop_pass(const struct ut_stop *stop, int request, struct ut_error *error)
{
	/* Only a signal-delivery-stop takes a signal; elsewhere a number would send a new
	 * one. */
	long signal = stop->kind == UT_STOP_SIGNAL ? stop->signal : 0;

	if (ptrace(request, stop->tid, 0, signal))
		return ut_fail(error, "resume", errno, stop->tid, 0, 0);
	return 0;
}

/* The thread came here by `syscall`: not by int 0x80, whose call numbers are other ones.
 */
static bool entered_natively(pid_t tid, uint64_t ip)
{
	union {
		long word;
		unsigned char bytes[sizeof(long)];
	} text;

	errno = 0;
	text.word = ptrace(PTRACE_PEEKTEXT, tid, ip - UT_SYSCALL_BYTES, 0);
	return !errno && ut_syscall_insn(text.bytes);
}

/* Changes *regs so that a call that gave EINTR to nobody's signal runs again. */
static bool repair_eintr(pid_t tid, struct ut_regs *regs)
{
	if (!ut_regs_native(regs) || ut_regs_result(regs) != -EINTR ||
	    !ut_eintr_rerun(ut_regs_call(regs)) ||
	    !entered_natively(tid, ut_regs_ip(regs)))
		return false;
	/*
	 * The thread is stopped inside the kernel's signal code (or is sent there by
	 * PTRACE_DETACH, which sets TIF_SIGPENDING), before it decides on restarts. With
	 * this result it decides as it would for, say, msgrcv: a handler runs -> EINTR
	 * (which the program must see); none, or an ignored signal -> the call again,
	 * from the same arguments. So nothing is left to a race between us and a signal.
	 */
	ut_regs_set_result(regs, -UT_ERESTARTNOHAND);
	return true;
}

int ut_stop_settle(const struct ut_stop *stop, struct ut_error *error)
{
	struct ut_regs now;

	if (stop->kind == UT_STOP_GONE)
		return 0;
	if (ut_regs_get(stop->tid, &now)) {
		if (errno == ESRCH || errno == ENOEXEC)
			return 0;
		return ut_fail(error, "registers", errno, stop->tid, 0, 0);
	}
	if (repair_eintr(stop->tid, &now) && ut_regs_put(stop->tid, &now) &&
	    errno != ESRCH)
		return ut_fail(error, "registers back", errno, stop->tid, 0, 0);
	return 0;
}

int ut_stop_release(const struct ut_stop *stop, const struct ut_regs *regs,
                    struct ut_error *error)
{
	struct ut_regs now = {0};
	bool write = regs != NULL;

	if (stop->kind == UT_STOP_GONE)
		return 0;
	if (regs)
		now = *regs;
	else if (ut_regs_get(stop->tid, &now) && errno != ENOEXEC)
		return errno == ESRCH
			       ? 0
			       : ut_fail(error, "registers", errno, stop->tid, 0, 0);

	write |= repair_eintr(stop->tid, &now);
	if (write && ut_regs_put(stop->tid, &now) && errno != ESRCH)
		return ut_fail(error, "registers back", errno, stop->tid, 0, 0);

	long signal = stop->kind == UT_STOP_SIGNAL ? stop->signal : 0;

	if (ptrace(PTRACE_DETACH, stop->tid, 0, signal) && errno != ESRCH)
		return ut_fail(error, "PTRACE_DETACH", errno, stop->tid, 0, 0);
	return 0;
}
