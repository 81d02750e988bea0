/* Opens and closes the stop window; window.h says what it holds, api/inject.h draws it.
 */
#include "c/window.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "c/choose.h"
#include "c/ours.h"
#include "c/strays.h"
#include "parasite.h"

#define TRIES 3

/* Threads that are let go again because they have children; the next is taken as it is.
 */
#define REPROVED 8

#ifndef PTRACE_GET_RSEQ_CONFIGURATION /* Linux 5.13 */
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#define SET_DISPATCH 0x4210 /* PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4 */
#define GET_DISPATCH 0x4211

/* linux/ptrace.h and linux/rseq.h, as far as needed. */
struct rseq_configuration {
	uint64_t area;
	uint32_t area_size, signature, flags, pad;
};
#define RSEQ_CS_OFFSET 8 /* of rseq_cs in struct rseq */
struct rseq_section {
	uint32_t version, flags;
	uint64_t start, length, abort;
};

int ut_peek(struct ut_window *window, uint64_t address, void *bytes, size_t length,
            struct ut_error *error)
{
	for (int i = 0; i < TRIES; i++)
		if (!ut_fault_call(&window->fault, UT_FAULT_TRACER) &&
		    pread(window->mem, bytes, length, (off_t)address) == (ssize_t)length)
			return 0;
	return ut_fail(error, "read the target", errno, window->remote.tid, address,
	               length);
}

int ut_poke(struct ut_window *window, uint64_t address, const void *bytes, size_t length,
            struct ut_error *error)
{
	if (!ut_fault_call(&window->fault, UT_FAULT_TRACER) &&
	    pwrite(window->mem, bytes, length, (off_t)address) == (ssize_t)length)
		return 0;

	/* Where proc_mem.force_override=never (Linux 6.12) forbids this, a tracer still
	 * may. */
	const uint64_t *words = bytes;

	for (size_t i = 0; i < length / sizeof(*words); i++)
		if (ut_remote_ptrace(&window->remote, PTRACE_POKEDATA,
		                     address + i * sizeof(*words), words[i]))
			return ut_fail(error, "write the parasite", errno,
			               window->remote.tid, address, length);
	return 0;
}

/* Least time for a call that takes microseconds if it need not wait. */
#define LEAST_US 50000

/* SIGALRM when time is over, or not any more: 0. */
static void alarm_at(uint64_t deadline_ns)
{
	struct itimerval once = {0};
	uint64_t now = ut_now_ns(), us = LEAST_US;
	sigset_t set;

	if (deadline_ns > now + LEAST_US * 1000)
		us = (deadline_ns - now) / 1000;
	if (deadline_ns)
		once.it_value = (struct timeval){(time_t)(us / 1000000),
		                                 (suseconds_t)(us % 1000000)};
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	setitimer(ITIMER_REAL, &once, NULL);
	sigprocmask(deadline_ns ? SIG_UNBLOCK : SIG_BLOCK, &set, NULL);
}

/*
 * Waits while another thread is in execve() of a file that does not come, for as long as
 * that takes: that one holds the cred_guard_mutex that ptrace_attach() wants.
 */
static int seize_thread(struct ut_window *window, unsigned long options,
                        struct ut_error *error)
{
	alarm_at(window->remote.deadline_ns);

	int failed = ut_stop_seize(window->remote.tid, options, error);

	alarm_at(0);
	return failed;
}

static int seize(struct ut_window *window, struct ut_error *error)
{
	pid_t tid = window->remote.tid;
	char path[32];
	struct ut_error refused;

	if (ut_fault_call(&window->fault, UT_FAULT_TRACER))
		return ut_fail(error, "PTRACE_SEIZE", errno, tid, 0, 0);
	/*
	 * Asked for always, not only for a target that has a filter now: another of its
	 * threads may install one for all (SECCOMP_FILTER_FLAG_TSYNC) at any moment.
	 * Needs CAP_SYS_ADMIN and a tracer without a filter.
	 */
	if (seize_thread(window, PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP,
	                 &refused)) {
		if (seize_thread(window, PTRACE_O_TRACESYSGOOD, error))
			return -1;
		/* A call of ours under somebody's filter may be answered with SIGKILL. */
		if (ut_filtered(window))
			return ut_fail(error, "PTRACE_O_SUSPEND_SECCOMP", refused.err,
			               tid, 0, 0);
	}
	/* A tracee's tid is not reused; if it is in the list now, it was the right one.
	 */
	snprintf(path, sizeof(path), "task/%d", tid);
	if (faccessat(window->args->proc_fd, path, F_OK, 0))
		return ut_fail(error, "PTRACE_SEIZE", ESRCH, tid, 0, 0);
	return 0;
}

/*
 * A thread inside a restartable sequence (rseq(2)) is sent to the abort handler of that
 * sequence when it is resumed after a preemption, and it was preempted by our stop. But
 * the kernel looks when the thread next enters user mode, and that would be in code of
 * ours: it would find it outside the sequence, forget that, and let the rest of it run
 * later without the atomicity that it counts on. So the move to the abort handler is made
 * here, with the checks that the kernel makes (kernel/rseq.c); what fails them is left to
 * the kernel.
 */
static void abort_sequence(struct ut_window *window)
{
	struct ut_remote *remote = &window->remote;
	struct rseq_configuration rseq = {0};
	struct rseq_section section;
	uint64_t pointer = 0;
	uint32_t signature;

	/* Before Linux 5.13 nobody can know. */
	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, remote->tid, sizeof(rseq), &rseq) < 0 ||
	    !rseq.area)
		return;
	if (pread(window->mem, &pointer, sizeof(pointer),
	          (off_t)(rseq.area + RSEQ_CS_OFFSET)) != sizeof(pointer) ||
	    !pointer ||
	    pread(window->mem, &section, sizeof(section), (off_t)pointer) !=
	            sizeof(section))
		return;
	if (section.version ||
	    ut_regs_ip(&remote->regs) - section.start >= section.length ||
	    section.abort - section.start < section.length ||
	    pread(window->mem, &signature, sizeof(signature),
	          (off_t)(section.abort - sizeof(signature))) != sizeof(signature) ||
	    signature != rseq.signature)
		return;
	ut_regs_set_ip(&remote->regs, section.abort);
}

/*
 * A thread that was chosen because it had no children may have made one before it
 * stopped. If that ends while we hold the thread, SIGCHLD wakes another one (see
 * c/choose.c), and on a busy machine we may hold it for longer than a child lives. Now
 * that it stands it makes no more: so this look is the last that is needed.
 */
static bool became_parent(const struct ut_window *window)
{
	return !window->parent && !window->args->tid && window->reproved < REPROVED &&
	       ut_choose_parent(window->args->proc_fd, window->remote.tid);
}

/* Calls of ours must not be turned into SIGSYS by syscall user dispatch (Wine uses it).
 */
static int suspend_dispatch(struct ut_window *window, struct ut_error *error)
{
	struct ut_dispatch off = {0};
	struct ut_remote *remote = &window->remote;

	if (ptrace(GET_DISPATCH, remote->tid, sizeof(window->dispatch),
	           &window->dispatch)) {
		window->dispatch.mode = 0; /* before Linux 6.4: nothing can be known */
		return 0;
	}
	if (!window->dispatch.mode)
		return 0;
	if (ut_remote_ptrace(remote, SET_DISPATCH, sizeof(off), (uint64_t)&off))
		return ut_fail(error, "suspend syscall user dispatch", errno, remote->tid,
		               0, 0);
	return 0;
}

int ut_window_open(struct ut_window *window, struct ut_error *error)
{
	struct ut_remote *remote = &window->remote;
	unsigned char insn[UT_SYSCALL_BYTES];

	if (seize(window, error))
		return -1;
	ut_fault_point(&window->fault, UT_POINT_SEIZED);

	window->began_ns = ut_now_ns();
	window->began_tick = ut_tick();
	if (ut_remote_stop(remote, remote->deadline_ns, error) ||
	    ut_remote_get(remote, &remote->regs, error))
		return -1;
	remote->kept = true;
	if (!ut_regs_native(&remote->regs))
		return ut_fail(error, "64-bit registers", ENOEXEC, remote->tid, 0, 0);
	if (became_parent(window)) {
		window->reproved++;
		return ut_fail(error, "find a thread without children", EAGAIN,
		               remote->tid, 0, 0);
	}
	abort_sequence(window);
	ut_fault_point(&window->fault, UT_POINT_STOPPED);

	if (suspend_dispatch(window, error) || ut_remote_block(remote, error))
		return -1;
	ut_fault_point(&window->fault, UT_POINT_MASKED);

	if (ut_peek(window, remote->site, insn, sizeof(insn), error))
		return -1;
	if (!ut_syscall_insn(insn))
		return ut_fail(error, "find a system call instruction", ENOEXEC,
		               remote->tid, remote->site, 0);
	return 0;
}

/*
 * Asked just before: what is left is a time of microseconds in which another thread of
 * the target can put a file of its own there.
 */
void ut_close_in_target(struct ut_window *window, int32_t fd, int own, const char *kind,
                        struct ut_error *error)
{
	uint64_t args[6] = {(uint64_t)fd};

	if (fd >= 0 && ut_ours(window, fd, own, kind))
		ut_remote_surely(&window->remote, SYS_close, args, error);
}

/* Takes the parasite out: its descriptors, then its pages. The thread is stopped. */
static void evict(struct ut_window *window, struct ut_error *error)
{
	struct ut_remote *remote = &window->remote;
	struct parasite parasite;
	struct ut_regs now;
	uint64_t args[6] = {window->base, 2 * PARASITE_PAGE};

	if (ut_remote_get(remote, &now, error) ||
	    ut_peek(window, window->base + PARASITE_PAGE, &parasite, sizeof(parasite),
	            error))
		return;
	if (parasite.cured && ut_regs_ip(&now) - window->base >= PARASITE_PAGE) {
		/* Its socket was cut by somebody else: the thread is on its way again. */
		remote->regs = now;
		if (ut_remote_block(remote, error))
			return;
	}
	window->result->calls.parasite = parasite.calls;
	/* Written at all? Fresh pages are zero, and 0 would be a descriptor. */
	if (parasite.version == PARASITE_VERSION) {
		ut_close_in_target(window, parasite.uffd, window->uffd, UT_KIND_UFFD,
		                   error);
		ut_close_in_target(window, parasite.device, window->args->device_fd,
		                   UT_KIND_ANY, error);
		ut_close_in_target(window, parasite.sockets[1], window->socket,
		                   UT_KIND_SOCKET, error);
		ut_close_in_target(window, parasite.sockets[0], window->far_socket,
		                   UT_KIND_SOCKET, error);
	}
	if (!ut_remote_surely(remote, SYS_munmap, args, error))
		window->base = 0;
}

/*
 * They are of the process, which outlives the thread: that may have been taken away by
 * another one that ran execve(). A process that has ended has none, and its number may be
 * another's.
 */
static void limits_back(struct ut_window *window, struct ut_error *error)
{
	pid_t pid = window->args->pid;

	if (!window->limits.count ||
	    (syscall(SYS_pidfd_send_signal, window->args->pidfd, 0, NULL, 0) &&
	     errno == ESRCH))
		return;
	if (ut_limits_restore(&window->limits, pid, &window->fault))
		ut_fail(error, "limits back", errno, pid, 0, 0);
}

/* Every step is made whatever happened to those before it; *error is of the last that
 * failed. */
int ut_window_close(struct ut_window *window, struct ut_error *error)
{
	struct ut_remote *remote = &window->remote;
	uint64_t deadline_ns = remote->deadline_ns;

	*error = (struct ut_error){.err = 0};
	if (!remote->gone && !remote->stopped && (remote->masked || window->base) &&
	    ut_remote_stop(remote, UINT64_MAX, error) && !remote->gone) {
		struct ut_error ignored;

		limits_back(window, &ignored);
		return -1;
	}
	if (remote->gone) {
		limits_back(window, error);
		return 0;
	}
	/* Else never stopped: the end of this process takes the request back. */
	if (!remote->stopped && !ut_remote_settle(remote))
		return 0;
	/*
	 * What is in the target has to come out of it, however long that takes: its
	 * cgroup may have been frozen in the middle of the window.
	 */
	remote->deadline_ns = UINT64_MAX;
	if (window->base)
		evict(window, error);
	ut_close_in_target(window, window->target_fd, window->uffd, UT_KIND_UFFD, error);
	limits_back(window, error);
	if (window->dispatch.mode &&
	    ut_remote_ptrace(remote, SET_DISPATCH, sizeof(window->dispatch),
	                     (uint64_t)&window->dispatch))
		ut_fail(error, "syscall user dispatch back", errno, remote->tid, 0, 0);
	ut_fault_point(&window->fault, UT_POINT_CLEAN);

	ut_remote_unblock(remote, error);
	/* Read before: after the release the freed thread may have our CPU for a time
	 * slice. */
	window->result->stopped_ns = ut_now_ns() - window->began_ns;
	for (int i = 0; i < TRIES; i++)
		if (!ut_fault_call(&window->fault, UT_FAULT_TRACER) &&
		    !ut_stop_release(&remote->stop, remote->kept ? &remote->regs : NULL,
		                     error))
			break;
	window->result->stops = remote->stops;
	remote->stopped = false;
	/* There may be another window after this one. */
	remote->deadline_ns = deadline_ns;
	return error->step[0] && !remote->gone ? -1 : 0;
}
