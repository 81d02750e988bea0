#pragma once
#include <stdint.h>
#include "error.h"

/*
 * Whether two processes have one and the same address space: after vfork(2) until exec(),
 * or by clone(CLONE_VM). 1 or 0; -1 with *error: ESRCH one has gone, EPERM we may not
 * look at one, ENOSYS a kernel without kcmp(2).
 */
int ut_same_memory(int32_t one, int32_t other, struct ut_error *error);
