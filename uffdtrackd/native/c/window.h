#pragma once
/*
 * The stop window: the time in which a target is not as it was.
 *
 *     ut_prepare        everything that can be done before: thread, site, descriptors
 *     ut_window_open    stop, keep, block signals
 *     ut_by_parasite or ut_by_call   make the userfaultfd, bring it here
 *     ut_window_close   put everything back, let go: after success and after any failure
 *
 * struct ut_window holds whatever has to be put back; a field says so from before the
 * moment it becomes true, so that ut_window_close() needs nothing but this struct.
 */
#include <stdbool.h>
#include <stdint.h>

#include "api/inject.h"
#include "c/fault.h"
#include "c/limits.h"
#include "c/remote.h"

/* linux/ptrace.h of Linux 6.4; distribution headers are older. */
struct ut_dispatch {
	uint64_t mode, selector, offset, length;
};

struct ut_window {
	const struct ut_inject_args *args;
	struct ut_inject_result *result;
	struct ut_fault fault;
	struct ut_remote remote;
	int mem;        /* /proc/TID/mem */
	int pidfd;      /* for pidfd_getfd: of the thread where the kernel has that */
	int socket;     /* our end of the parasite's socketpair, or -1 */
	int far_socket; /* a copy of its own end, to know that again, or -1 */
	int uffd;       /* ours, or -1 */
	bool parent;  /* the thread had children when it was chosen: no other is better */
	int reproved; /* how many were let go because they had some when they stopped */
	int replaced; /* how often the target took away what we had just made */
	uint64_t began_ns;
	uint64_t began_tick; /* c/strays.h */
	uint64_t base;       /* of the two pages in the target, 0 none */
	uint64_t mapped;     /* the same, also when they are gone; 0 never */
	int32_t target_fd;   /* descriptor to close in the target, -1 none (ut_by_call) */
	struct ut_limits limits;
	struct ut_dispatch dispatch; /* to put back if .mode is not 0 */
};

/* The thread has a seccomp filter, or the strict mode. */
bool ut_filtered(const struct ut_window *window);

int ut_prepare(struct ut_window *window, struct ut_error *error);
void ut_prepare_undo(struct ut_window *window);
int ut_window_open(struct ut_window *window, struct ut_error *error);
int ut_by_parasite(struct ut_window *window, struct ut_error *error);
int ut_by_call(struct ut_window *window, struct ut_error *error);
int ut_window_close(struct ut_window *window, struct ut_error *error);

/* Closes descriptor fd of the stopped thread if it still is what ut_ours() (c/ours.h)
 * takes for ours. */
void ut_close_in_target(struct ut_window *window, int32_t fd, int own, const char *kind,
                        struct ut_error *error);

/* The target's memory from outside, page permissions do not matter: 0, or -1 with *error.
 */
int ut_peek(struct ut_window *window, uint64_t address, void *bytes, size_t length,
            struct ut_error *error);
int ut_poke(struct ut_window *window, uint64_t address, const void *bytes, size_t length,
            struct ut_error *error);
