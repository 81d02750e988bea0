/*
 * The handler of synchronous faults: one thread for one userfaultfd.
 *
 *	target                       kernel              handler thread
 *	writes to a protected page
 *	  stops  -----------------> message ----poll---> read: as many as there are
 *	                                                 sort, merge neighbours
 *	                            bit off <----------- UFFDIO_WRITEPROTECT, mode 0
 *	  writes, runs on <-------- wake
 *
 * Nothing is noted here. A page whose protection is off *is* the note: the collection
 * reads it from the page table (c/protect.c). So a message that is handled twice, or for
 * a page that was protected again in between, lists a page in vain and loses nothing.
 *
 * A thread of the target hangs for as long as this one does nothing. Therefore
 *
 *   - it is C, holds no lock, allocates nothing, and needs neither Python nor its GIL;
 *   - all signals are blocked in it, so that no handler of Python's runs here;
 *   - it goes on while the target is being frozen. A write from kernel mode, as in
 *     read(2), with a signal or a ptrace stop pending, spins in the kernel until the
 *     fault is resolved, and the freeze waits for it;
 *   - what cannot be unprotected is woken all the same: the mapping has changed, and the
 *     write, tried again, finds out how. That is also the answer to EAGAIN, which says
 *     that the layout is changing: to try again in here would hold up all others;
 *   - when this process dies, its descriptor was the last: the kernel then drops all
 *     protection and lets everybody go. A copy of it elsewhere would prevent that. None
 *     stays in the target, exec() closes it, children of ours in C close everything
 *     (c/child.h), and what else is forked closes it by pthread_atfork().
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/userfaultfd.h>

#include "api/faults.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#define PAGE 4096ULL

/* 64 threads that fault at once are one read. */
enum { MESSAGES = 128 };

/*
 * After a fault the next one is often near: a writer that goes on needs some
 * microseconds. To look that often before going to sleep saves it the waking up.
 */
enum { LOOKS = 16 };

struct ut_faults {
	int uffd;
	int stop; /* an eventfd */
	pthread_t thread;
	struct ut_faults_count count; /* written by the thread, read by anybody */
	struct ut_faults *next;
};

/* Every handler there is, for a child that is forked. */
static pthread_mutex_t everybody_lock = PTHREAD_MUTEX_INITIALIZER;
static struct ut_faults *everybody;

static void before_fork(void)
{
	pthread_mutex_lock(&everybody_lock);
}

static void after_fork_here(void)
{
	pthread_mutex_unlock(&everybody_lock);
}

/* The descriptor stays open, as its number is somebody's to close: it becomes another. */
static void after_fork_there(void)
{
	for (struct ut_faults *one = everybody; one; one = one->next)
		dup3(one->stop, one->uffd, O_CLOEXEC);
	pthread_mutex_unlock(&everybody_lock);
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(before_fork, after_fork_here, after_fork_there);
}

static void add(uint64_t *counter, uint64_t more)
{
	__atomic_store_n(counter, *counter + more, __ATOMIC_RELAXED);
}

static int unprotect(int uffd, uint64_t start, uint64_t length)
{
	struct uffdio_writeprotect wp = {.range = {start, length}};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) ? errno : 0;
}

/* One page, which may be huge: then no less than all of it can be unprotected. */
static int unprotect_page(int uffd, uint64_t page)
{
	static const uint64_t sizes[] = {PAGE, 2ULL << 20, 1ULL << 30};
	int err = 0;

	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		err = unprotect(uffd, page & ~(sizes[i] - 1), sizes[i]);
		if (err != EINVAL)
			break;
	}
	return err;
}

static void resolve(struct ut_faults *faults, uint64_t start, uint64_t end)
{
	if (end - start > PAGE && !unprotect(faults->uffd, start, end - start))
		return;
	for (uint64_t page = start; page < end; page += PAGE) {
		struct uffdio_range range = {page, PAGE};

		if (!unprotect_page(faults->uffd, page))
			continue;
		add(&faults->count.refused, 1);
		ioctl(faults->uffd, UFFDIO_WAKE, &range);
	}
}

/* Few, and nearly sorted as often as not. */
static void sort(uint64_t *pages, int count)
{
	for (int i = 1; i < count; i++) {
		uint64_t page = pages[i];
		int at = i;

		for (; at > 0 && pages[at - 1] > page; at--)
			pages[at] = pages[at - 1];
		pages[at] = page;
	}
}

static void resolve_all(struct ut_faults *faults, const struct uffd_msg *messages,
                        int count)
{
	uint64_t pages[MESSAGES];
	int n = 0;

	for (int i = 0; i < count; i++)
		if (messages[i].event == UFFD_EVENT_PAGEFAULT)
			pages[n++] = messages[i].arg.pagefault.address & ~(PAGE - 1);
	sort(pages, n);
	for (int i = 0; i < n;) {
		uint64_t start = pages[i], end = start + PAGE;

		while (++i < n && pages[i] <= end)
			end = pages[i] + PAGE;
		resolve(faults, start, end);
	}
	add(&faults->count.faults, (uint64_t)n);
	add(&faults->count.batches, 1);
	if ((uint64_t)n > faults->count.most)
		__atomic_store_n(&faults->count.most, (uint64_t)n, __ATOMIC_RELAXED);
}

static void *handle(void *argument)
{
	struct ut_faults *faults = argument;
	struct pollfd fds[] = {
		{.fd = faults->uffd, .events = POLLIN},
		{.fd = faults->stop, .events = POLLIN},
	};

	pthread_setname_np(pthread_self(), "uffd-faults");
	for (;;) {
		struct uffd_msg messages[MESSAGES];

		if (poll(fds, 2, -1) < 0 && errno != EINTR && errno != EAGAIN)
			faults->count.err = errno;
		if (fds[1].revents)
			return NULL;
		for (int look = 0; look < LOOKS; look++) {
			ssize_t got = read(faults->uffd, messages, sizeof(messages));

			if (got > 0) {
				resolve_all(faults, messages,
				            (int)(got / (ssize_t)sizeof(*messages)));
				look = -1;
			} else if (got < 0 && errno != EAGAIN && errno != EINTR) {
				faults->count.err = errno;
				break;
			}
		}
	}
}

static int start_thread(struct ut_faults *faults)
{
	sigset_t all, before;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&faults->thread, NULL, handle, faults);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}

struct ut_faults *ut_faults_start(int uffd, struct ut_error *error)
{
	struct ut_faults *faults = calloc(1, sizeof(*faults));
	int err = ENOMEM;

	if (faults) {
		faults->uffd = uffd;
		faults->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		err = faults->stop < 0 ? errno : start_thread(faults);
	}
	if (err) {
		ut_fail(error, "start the fault handler", err, 0, 0, 0);
		if (faults && faults->stop >= 0)
			close(faults->stop);
		free(faults);
		return NULL;
	}
	pthread_mutex_lock(&everybody_lock);
	faults->next = everybody;
	everybody = faults;
	pthread_mutex_unlock(&everybody_lock);
	return faults;
}

void ut_faults_stop(struct ut_faults *faults)
{
	struct ut_faults **at = &everybody;

	if (!faults)
		return;
	pthread_mutex_lock(&everybody_lock);
	while (*at && *at != faults)
		at = &(*at)->next;
	if (*at)
		*at = faults->next;
	pthread_mutex_unlock(&everybody_lock);
	eventfd_write(faults->stop, 1);
	pthread_join(faults->thread, NULL);
	close(faults->stop);
	free(faults);
}

void ut_faults_count(struct ut_faults *faults, struct ut_faults_count *out)
{
	const struct ut_faults_count *count = &faults->count;

	out->faults = __atomic_load_n(&count->faults, __ATOMIC_RELAXED);
	out->batches = __atomic_load_n(&count->batches, __ATOMIC_RELAXED);
	out->most = __atomic_load_n(&count->most, __ATOMIC_RELAXED);
	out->refused = __atomic_load_n(&count->refused, __ATOMIC_RELAXED);
	out->err = __atomic_load_n(&count->err, __ATOMIC_RELAXED);
}

uint64_t ut_uffd_features(struct ut_error *error)
{
	struct uffdio_api api = {.api = UFFD_API};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	int failed;

	if (uffd < 0) {
		ut_fail(error, "userfaultfd", errno, 0, 0, 0);
		return 0;
	}
	failed = ioctl(uffd, UFFDIO_API, &api);
	if (failed)
		ut_fail(error, "UFFDIO_API", errno, 0, 0, 0);
	close(uffd);
	return failed ? 0 : api.features;
}

uint64_t ut_uffd_enable_sync(int uffd, struct ut_error *error)
{
	/*
	 * Never the events, each of which stops the target until it is read. Nor
	 * WP_UNPOPULATED: a page that appears has no bit, which is all that is asked.
	 * Markers for shared and huge pages came with Linux 5.19.
	 */
	static const uint64_t wanted[] = {
		UT_FEATURE_PAGEFAULT_FLAG_WP | UT_FEATURE_WP_HUGETLBFS_SHMEM,
		UT_FEATURE_PAGEFAULT_FLAG_WP,
	};
	int err = 0;

	for (unsigned int i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		struct uffdio_api api = {.api = UFFD_API, .features = wanted[i]};

		if (!ioctl(uffd, UFFDIO_API, &api))
			return wanted[i];
		err = errno;
	}
	ut_fail(error, "UFFDIO_API", err, 0, 0, 0);
	return 0;
}

int ut_uffd_unregister(int uffd, uint64_t start, uint64_t end, struct ut_error *error)
{
	struct uffdio_range range = {start, end - start};
	int err = ioctl(uffd, UFFDIO_UNREGISTER, &range) ? errno : 0;

	/* Unregistering does not wake those who wait. */
	ioctl(uffd, UFFDIO_WAKE, &range);
	return err ? ut_fail(error, "UFFDIO_UNREGISTER", err, 0, start, end - start) : 0;
}
