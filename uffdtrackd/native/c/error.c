/* The one place that fills a struct ut_error; api/error.h says how it travels. */
#include <stdio.h>

#include "api/error.h"

int ut_fail(struct ut_error *error, const char *step, int err, int pid, uint64_t address,
            uint64_t length)
{
	snprintf(error->step, sizeof(error->step), "%s", step);
	error->err = err;
	error->pid = pid;
	error->address = address;
	error->length = length;
	return -1;
}
