#pragma once
/*
 * The parasite's assembly for x86-64. No call and no ret anywhere: a target with a shadow
 * stack keeps its pointer untouched, and the target's own stack is never used (a
 * goroutine's has no room, and below the pointer lies the red zone).
 */
#include <stddef.h>
#include <stdint.h>

static inline __attribute__((always_inline)) long parasite_syscall(long nr, long a,
                                                                   long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
	                 : "=a"(result)
	                 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
	                 : "rcx", "r11", "memory");
	return result;
}

/*
 * Loads the frame and goes on with the target's own code: pops, then a jump through
 * memory, so that no register is needed for the address. Not iretq: with a shadow stack
 * that would compare the return address with an entry that is not there. parasite_data
 * is the data page, known to the linker; the frame's last two words are rsp and rip.
 */
#define PARASITE_RESUME(self_)                                                           \
	do {                                                                             \
		__asm__ volatile("mov %0, %%rsp\n"                                       \
		                 "pop %%r15\n"                                           \
		                 "pop %%r14\n"                                           \
		                 "pop %%r13\n"                                           \
		                 "pop %%r12\n"                                           \
		                 "pop %%rbp\n"                                           \
		                 "pop %%rbx\n"                                           \
		                 "pop %%r11\n"                                           \
		                 "pop %%r10\n"                                           \
		                 "pop %%r9\n"                                            \
		                 "pop %%r8\n"                                            \
		                 "pop %%rax\n"                                           \
		                 "pop %%rcx\n"                                           \
		                 "pop %%rdx\n"                                           \
		                 "pop %%rsi\n"                                           \
		                 "pop %%rdi\n"                                           \
		                 "popfq\n"                                               \
		                 "mov (%%rsp), %%rsp\n"                                  \
		                 "jmp *parasite_data+%c1(%%rip)\n"                       \
		                 :                                                       \
		                 : "r"(&(self_)->frame),                                 \
		                   "i"(offsetof(struct parasite, frame.rip))             \
		                 : "memory");                                            \
		__builtin_unreachable();                                                 \
	} while (0)
