#pragma once
/*
 * What the parasite and the injector agree on: two pages in the target.
 *
 *     base          code page, read and execute, never writable
 *                   [ parasite_main ... ]
 *     base + 4096   data page, read and write, not executable once it is
 *                   [ struct parasite | ... free ... | <- stack ]
 *
 * The injector fills both from outside, makes the target do the socketpair() into
 * .sockets, puts the device into that socket and starts the thread at base with rdi = the
 * data page and rsp = its end. From then on the two talk by struct parasite_message. Both
 * sides are built from one tree; .version says so if they ever are not: raise it with any
 * change here.
 */
#include <stdint.h>

#include "arch/frame.h"

#define PARASITE_VERSION 2
#define PARASITE_PAGE    4096

/* What the parasite says last; nothing is open in the target then but sockets[0]. */
enum parasite_word {
	PARASITE_UFFD = 1, /* carries the userfaultfd */
	PARASITE_PARKED,   /* all is done: waits on sockets[0] to be taken out */
	PARASITE_FAILED,   /* .step failed with .error: waits likewise */
	PARASITE_DEVICE,   /* the injector's one message: carries /dev/userfaultfd */
};

enum parasite_step {
	PARASITE_STEP_NONE = 0,
	PARASITE_STEP_RECEIVE,
	PARASITE_STEP_CREATE,
	PARASITE_STEP_SEND,
};

struct parasite_message {
	uint32_t word;
	uint32_t step;
	int32_t error; /* errno of .step */
};

struct parasite {
	uint32_t version;
	uint32_t cured; /* it has put the thread back by itself: nobody was there any more
	                 */
	/* Descriptors in the target, -1 when not open: what is to be closed if it is
	 * stopped half way. */
	int32_t sockets[2]; /* [0] the parasite's end, [1] the injector's */
	int32_t device;
	int32_t uffd;
	uint32_t uffd_flags; /* for USERFAULTFD_IOC_NEW */
	uint32_t calls;      /* system calls made so far */
	uint32_t fail_call;  /* for tests: this one fails with EIO and is not made; 0 none
	                      */
	uint32_t pad;
	uint64_t mask;               /* the thread's signal mask, for the cure */
	struct parasite_frame frame; /* its registers, for the cure */
};
