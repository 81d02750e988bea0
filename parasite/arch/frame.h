#pragma once
/* The registers that the cure loads, by architecture: no code, so that anyone may include
 * it. */
#if defined(__x86_64__)
#include "x86_64_frame.h"
#else
#error "no parasite for this architecture yet: write arch/NAME_frame.h and arch/NAME.h"
#endif
