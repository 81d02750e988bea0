/* kcmp(2), the kernel's own word on what two processes share; the C library has none. */
#define _GNU_SOURCE /* syscall */
#include "api/kin.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

int ut_same_memory(int32_t one, int32_t other, struct ut_error *error)
{
	long order = syscall(SYS_kcmp, one, other, KCMP_VM, 0, 0);

	if (order < 0)
		return ut_fail(error, "kcmp", errno, one, 0, 0);
	return order == 0;
}
