/*
 * A process with a worker of io_uring: uring idle | uring sqpoll | uring blocked FIFO
 *
 *   idle      the worker has done its work and waits for more
 *   sqpoll    a thread of the kernel looks for work as well
 *   blocked   it waits in open() of a FIFO, which a signal would end with EINTR
 *
 * The only thread waits in epoll_wait() for commands. "reap" waits for the next
 * completion and answers with its result; "start" gives an idle worker something short to
 * do.
 */
#include "victim.h"
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static int ring;
static struct io_uring_params params;
static unsigned char *sq, *cq;
static struct io_uring_sqe *entries;

static unsigned *word(unsigned char *base, unsigned offset)
{
	return (unsigned *)(void *)(base + offset);
}

static void *map(size_t size, off_t what)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
	                ring, what);

	if (at == MAP_FAILED)
		victim_fail("mmap of the ring: %s", strerror(errno));
	return at;
}

static void submit(struct io_uring_sqe sqe)
{
	unsigned tail = *word(sq, params.sq_off.tail);
	unsigned slot = tail & *word(sq, params.sq_off.ring_mask);

	/* To a worker at once: it would be tried in this thread first. */
	sqe.flags |= IOSQE_ASYNC;
	entries[slot] = sqe;
	word(sq, params.sq_off.array)[slot] = slot;
	__atomic_store_n(word(sq, params.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	/* The flag is for a poller that has gone to sleep; ignored if there is none. */
	if (syscall(SYS_io_uring_enter, ring, 1, 0, IORING_ENTER_SQ_WAKEUP, NULL, 0) != 1)
		victim_fail("io_uring_enter: %s", strerror(errno));
}

static int reap(void)
{
	unsigned head = *word(cq, params.cq_off.head);
	struct io_uring_cqe *cqes = (void *)(cq + params.cq_off.cqes);

	while (head == __atomic_load_n(word(cq, params.cq_off.tail), __ATOMIC_ACQUIRE))
		if (syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL,
		            0) < 0)
			victim_fail("io_uring_enter: %s", strerror(errno));

	int result = cqes[head & *word(cq, params.cq_off.ring_mask)].res;

	__atomic_store_n(word(cq, params.cq_off.head), head + 1, __ATOMIC_RELEASE);
	return result;
}

static void start_short(void)
{
	submit((struct io_uring_sqe){.opcode = IORING_OP_OPENAT,
	                             .fd = AT_FDCWD,
	                             .addr = (uint64_t)(uintptr_t)"/dev/null"});
}

int main(int argc, char **argv)
{
	struct epoll_event event = {.events = EPOLLIN};
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (argc > 1 && !strcmp(argv[1], "sqpoll"))
		params = (struct io_uring_params){.flags = IORING_SETUP_SQPOLL,
		                                  .sq_thread_idle = 1};
	ring = (int)syscall(SYS_io_uring_setup, 4, &params);
	if (ring < 0) {
		victim_say("none");
		return 0;
	}
	sq = map(params.sq_off.array + params.sq_entries * sizeof(unsigned),
	         IORING_OFF_SQ_RING);
	cq = map(params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
	         IORING_OFF_CQ_RING);
	entries = map(params.sq_entries * sizeof(*entries), IORING_OFF_SQES);
	if (argc > 2) {
		submit((struct io_uring_sqe){.opcode = IORING_OP_OPENAT,
		                             .fd = AT_FDCWD,
		                             .addr = (uint64_t)(uintptr_t)argv[2]});
	} else {
		start_short();
		if (reap() < 0)
			victim_fail("open of /dev/null");
	}
	epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event);
	setvbuf(stdin, NULL, _IONBF, 0);
	victim_ready();
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			victim_fail("epoll_wait: %s", strerror(errno));

		const char *command = victim_command();

		if (!command)
			break;
		if (!strcmp(command, "start"))
			start_short();
		else
			victim_say("%s", command);
		if (!strcmp(command, "reap") || !strcmp(command, "start"))
			victim_say("%d", reap());
	}
	victim_say("ok");
	return 0;
}
