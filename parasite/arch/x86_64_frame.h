#pragma once
#include <stdint.h>

/* In the order in which PARASITE_RESUME pops them. */
struct parasite_frame {
	uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8;
	uint64_t rax, rcx, rdx, rsi, rdi;
	uint64_t flags;
	uint64_t rsp;
	uint64_t rip;
};
