/*
 * The holder of a freeze: a child process that halts a crowd of threads (crowd.h), tells
 * so, and holds them until it is told, its caller is gone, or its lease is over.
 *
 * However it ends (thaw, failure, death of the caller, SIGKILL at itself), the kernel
 * then detaches all that it held, at one blow; crowd.h says why that is wanted.
 */
#include "api/freeze.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "c/child.h"
#include "c/crowd.h"

struct holder {
	const int32_t *pids;
	uint32_t count;
	bool follow;
	uint64_t deadline_ns; /* how long stopping may take */
	uint64_t lease_ns;    /* how long they are held, 0 for ever */
	int socket;
	struct ut_crowd crowd;
	struct ut_freeze_report report;
};

static void report(struct holder *holder, enum ut_freeze_state state)
{
	holder->report.state = state;
	holder->report.rounds = holder->crowd.rounds;
	holder->report.stopped_ns = holder->crowd.tracees.first_ns;
	/* Nobody there to read it is no failure of ours. */
	while (send(holder->socket, &holder->report, sizeof(holder->report),
	            MSG_NOSIGNAL) < 0 &&
	       errno == EINTR)
		;
}

static int caller_gone(void *arg)
{
	struct holder *holder = arg;
	struct pollfd socket = {.fd = holder->socket, .events = POLLIN};

	/* While we are halting there is nothing to be said to us but the end. */
	return poll(&socket, 1, 0) > 0 ? ECANCELED : 0;
}

static void stuck(void *arg)
{
	struct holder *holder = arg;

	ut_fail(&holder->report.error, "PTRACE_SEIZE", ETIMEDOUT, 0, 0, 0);
	ut_crowd_settle(&holder->crowd);
	report(holder, UT_FREEZE_FAILED);
	_exit(1);
}

/* Halts whoever is not halted yet, and tells. */
static int halt(struct holder *holder)
{
	struct ut_crowd *crowd = &holder->crowd;
	int threads = ut_crowd_halt(crowd, &holder->report.error);

	if (threads < 0) {
		ut_crowd_settle(crowd);
		report(holder, UT_FREEZE_FAILED);
		return -1;
	}
	holder->report.threads = (uint32_t)threads;
	holder->report.frozen_ns = ut_now_ns();
	report(holder, UT_FREEZE_FROZEN);
	return 0;
}

/* What the caller has said: more processes, or (by the end of file) that it is over. */
static int told(struct holder *holder)
{
	static struct ut_freeze_more more;
	ssize_t got = recv(holder->socket, &more, sizeof(more), MSG_DONTWAIT);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got < (ssize_t)offsetof(struct ut_freeze_more, pids) ||
	    more.count > UT_FREEZE_MORE)
		return -1;
	holder->crowd.deadline_ns = ut_now_ns() + more.deadline_ns;
	if (ut_crowd_add(&holder->crowd, more.pids, more.count, &holder->report.error)) {
		report(holder, UT_FREEZE_FAILED);
		return -1;
	}
	return halt(holder);
}

/* Returns when the crowd is to be let go. */
static void hold(struct holder *holder)
{
	struct signalfd_siginfo news;
	struct pollfd fds[2] = {{.fd = holder->socket, .events = POLLIN},
	                        {.events = POLLIN}};
	uint64_t end = holder->lease_ns ? ut_now_ns() + holder->lease_ns : 0;
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	/* Without it (no descriptor left) killed threads stay zombies until we let go. */
	fds[1].fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	ut_crowd_reap(&holder->crowd);

	for (;;) {
		uint64_t now = end ? ut_now_ns() : 0;
		/* Rounded up, so as not to spin through the last millisecond. */
		uint64_t left = end > now ? (end - now + 999999) / 1000000 : 0;

		if (end && !left) {
			/*
			 * Said before it is done: who reads the memory and then asks
			 * whether it was held all the time must not hear "yes" from a
			 * holder that is just letting go.
			 */
			holder->report.thawed_ns = now;
			report(holder, UT_FREEZE_LEASE_OVER);
			return;
		}
		if (left > 1000000)
			left = 1000000;
		if (poll(fds, 2, end ? (int)left : -1) < 0)
			continue;
		if (fds[0].revents && told(holder))
			return;
		if (fds[1].revents) {
			while (read(fds[1].fd, &news, sizeof(news)) > 0)
				;
			ut_crowd_reap(&holder->crowd);
		}
	}
}

static int run(void *arg)
{
	struct holder *holder = arg;
	struct ut_crowd *crowd = &holder->crowd;

	*crowd = (struct ut_crowd){
		.follow = holder->follow,
		/* From here on: to make the holder may take long, a large process on a
		 * busy machine more than a second. */
		.deadline_ns = ut_now_ns() + holder->deadline_ns,
		.give_up = caller_gone,
		.stuck = stuck,
		.arg = holder,
	};
	if (ut_crowd_init(crowd, &holder->report.error) ||
	    ut_crowd_add(crowd, holder->pids, holder->count, &holder->report.error)) {
		report(holder, UT_FREEZE_FAILED);
		return 1;
	}
	if (halt(holder))
		return 1;
	hold(holder);
	return 0;
}

int ut_freeze_start(const int32_t *pids, uint32_t count, uint32_t follow,
                    uint64_t deadline_ns, uint64_t lease_ns, int32_t *ret_holder,
                    struct ut_error *error)
{
	struct holder holder = {
		.pids = pids,
		.count = count,
		.follow = follow,
		.deadline_ns = deadline_ns,
		.lease_ns = lease_ns,
	};
	int pair[2];

	if (!count)
		return ut_fail(error, "freeze of no process", EINVAL, 0, 0, 0);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return ut_fail(error, "socketpair", errno, 0, 0, 0);
	/* The child has a copy of all this, pids included: it shares no memory with us.
	 */
	holder.socket = pair[1];

	pid_t child = ut_child_start("uffd-freeze", run, &holder, &pair[1], 1, error);

	close(pair[1]);
	if (child < 0) {
		close(pair[0]);
		return -1;
	}
	*ret_holder = child;
	return pair[0];
}

int ut_freeze_reap(int32_t holder, struct ut_error *error)
{
	return ut_child_wait(holder, error) < 0 ? -1 : 0;
}
