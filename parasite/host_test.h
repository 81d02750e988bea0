#pragma once
/* What stands in for arch/NAME.h when the parasite is built as an ordinary program. */
#include <errno.h>
#include <unistd.h>

/* By way of libc, so that the sanitizers see every buffer that is handed to the kernel.
 */
static inline long parasite_syscall(long nr, long a, long b, long c, long d)
{
	long result = syscall(nr, a, b, c, d);

	return result < 0 ? -errno : result;
}

struct parasite;
__attribute__((noreturn)) void host_resumed(struct parasite *self);

#define PARASITE_RESUME(self_) host_resumed(self_)
