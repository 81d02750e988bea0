#pragma once
/*
 * What the parasite and the injector agree on: two pages in the target.
 *
 *     base          code page, read and execute, never writable
 *                   [ entry | parasite_main ... | stuck ]
 *     base + 4096   data page, mapped like the code; the parasite's first act makes it
 *                   read and write, and no longer executable
 *                   [ struct parasite | ... free ... | <- stack ]
 *
 * The injector fills struct parasite before the first instruction runs and reads it from
 * outside all along; `state` is how the two talk until there is a socket. Both sides are
 * built from one tree, and `version` says so if they ever are not: raise it with any
 * change here.
 */
#include <stdint.h>

#include "arch/frame.h"

#define PARASITE_VERSION 1
#define PARASITE_PAGE    4096

/* In the order in which they are gone through; written by the parasite. */
enum parasite_state {
	PARASITE_FRESH = 0, /* as the injector left it */
	PARASITE_SOCKET,    /* sockets[] is there; waits for the device on sockets[0] */
	PARASITE_PARKED, /* the userfaultfd is sent, only sockets[0] is open; waits for us
	                  */
	PARASITE_FAILED, /* .step failed with .error, everything is closed; waits for us
	                  */
	PARASITE_CURED, /* nobody was there any more: it has put the thread back by itself
	                 */
};

enum parasite_step {
	PARASITE_STEP_NONE = 0,
	PARASITE_STEP_SOCKETPAIR,
	PARASITE_STEP_WAIT,
	PARASITE_STEP_RECEIVE,
	PARASITE_STEP_CREATE,
	PARASITE_STEP_SEND,
};

struct parasite {
	uint32_t version;
	uint32_t state;
	uint32_t step;
	int32_t error; /* errno of .step */
	/* Descriptors in the target, -1 when not open: what has to be closed if it is
	 * stopped half way. */
	int32_t sockets[2]; /* [0] the parasite's end, [1] the injector's */
	int32_t device;
	int32_t uffd;
	uint32_t calls;     /* system calls made so far */
	uint32_t fail_call; /* for tests: this one fails with EIO and is not made; 0 none
	                     */
	uint32_t uffd_flags;
	uint32_t patience_s; /* how long to wait where the end of the injector cannot be
	                        seen */
	uint64_t mask;       /* the thread's signal mask, for the cure */
	struct parasite_frame frame; /* its registers, for the cure */
};

/* The mark in the message that carries the userfaultfd, and in the one with the device.
 */
#define PARASITE_MARK 0x75746b31u
