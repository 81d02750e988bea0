#pragma once
#include <stdint.h>
#include "api/error.h"

/*
 * Synchronous write protection: the kernel stops a thread of the target at its
 * first write to a protected page until somebody takes the protection off. That
 * somebody is a thread of ours in C; c/faults.c says how it works and why nothing
 * of Python may be on that path.
 */

/* Features of a userfaultfd (linux/userfaultfd.h). */
#define UT_FEATURE_PAGEFAULT_FLAG_WP  0x1
#define UT_FEATURE_WP_HUGETLBFS_SHMEM 0x1000
#define UT_FEATURE_WP_UNPOPULATED     0x2000
#define UT_FEATURE_WP_ASYNC           0x8000

/*
 * What this kernel's userfaultfd can do, asked of one that is thrown away; 0 with
 * *error where even that cannot be made.
 */
uint64_t ut_uffd_features(struct ut_error *error);

/* UFFDIO_API with those of `features` that matter here; returns them, 0 with *error. */
uint64_t ut_uffd_enable_sync(int uffd, struct ut_error *error);

/* A handler thread and its userfaultfd, which stays the caller's. */
struct ut_faults;

struct ut_faults *ut_faults_start(int uffd, struct ut_error *error);

/* Ends the thread. Nothing may be protected any more: a fault would wait for ever. */
void ut_faults_stop(struct ut_faults *faults);

struct ut_faults_count {
	uint64_t faults;  /* messages */
	uint64_t batches; /* reads that brought some */
	uint64_t most;    /* in one read */
	uint64_t refused; /* pages whose protection could not be taken off, woken only */
	int32_t err;      /* errno of a failed read or poll, 0 if none ever was */
};
void ut_faults_count(struct ut_faults *faults, struct ut_faults_count *out);

/* Takes the registration off what is in [start, end), and wakes who waits there. */
int ut_uffd_unregister(int uffd, uint64_t start, uint64_t end, struct ut_error *error);
