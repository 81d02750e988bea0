/* Appending to a struct ut_copy_runs; private to the C floor. */
#pragma once
#include "api/copy.h"

/* Adds [start, end), not before what is there; joins it to a neighbour. -1: no memory. */
int ut_runs_append(struct ut_copy_runs *list, uint64_t start, uint64_t end,
                   struct ut_error *error);
