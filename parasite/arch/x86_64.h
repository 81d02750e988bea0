#pragma once
/*
 * The parasite's assembly for x86-64. No call and no ret anywhere: a target with a shadow
 * stack keeps its pointer untouched, and the target's own stack is never used (a
 * goroutine's has no room, and below the pointer lies the red zone).
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

static inline __attribute__((always_inline)) long
parasite_syscall(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long result;

	__asm__ volatile("syscall"
	                 : "=a"(result)
	                 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
	                 : "rcx", "r11", "memory");
	return result;
}

/*
 * Entry, at offset 0. rdi: the data page. rsp: its end. It may use neither before
 * mprotect has made that page writable. The injector mapped it executable because one
 * mmap is cheaper than two; PROT_EXEC is given up before anything is written, so the
 * target never holds a page that is both (PR_SET_MDWE, SELinux).
 *
 * If mprotect fails (no room for another VMA) nothing can be written to tell: the thread
 * waits at parasite_stuck with -errno in rbx, where the injector finds it. pause() and
 * not nanosleep: that would overwrite the restart block of the target's own interrupted
 * call.
 */
#define PARASITE_ENTRY                                                                   \
	__asm__(".section .text.entry, \"ax\"\n"                                         \
	        ".globl parasite_entry\n"                                                \
	        "parasite_entry:\n"                                                      \
	        "	cld\n"                                                                 \
	        "	mov	%rdi, %r12\n"                                                      \
	        "	mov	$4096, %esi\n"                                                     \
	        "	mov	$3, %edx\n"  /* PROT_READ | PROT_WRITE */                \
	        "	mov	$10, %eax\n" /* mprotect */                              \
	        "	syscall\n"                                                             \
	        "	mov	%rax, %rbx\n"                                                      \
	        "	mov	%r12, %rdi\n"                                                      \
	        "	test	%rax, %rax\n"                                                     \
	        "	jz	parasite_main\n"                                                    \
	        ".globl parasite_stuck\n"                                                \
	        "parasite_stuck:\n"                                                      \
	        "	mov	$34, %eax\n" /* pause */                                 \
	        "	syscall\n"                                                             \
	        "	jmp	parasite_stuck\n"                                                  \
	        ".text\n")

/*
 * Loads the frame and goes on with the target's own code: pops, then a jump through
 * memory, so that no register is needed for the address. Not iretq: with a shadow stack
 * that would compare the return address with an entry that is not there.
 * parasite_data is the data page, known to the linker.
 */
#define PARASITE_RESUME(self_)                                                           \
	do {                                                                             \
		__asm__ volatile("mov	%0, %%rsp\n"                                       \
		                 "pop	%%r15\n	pop	%%r14\n"                               \
		                 "pop	%%r13\n	pop	%%r12\n"                               \
		                 "pop	%%rbp\n	pop	%%rbx\n"                               \
		                 "pop	%%r11\n	pop	%%r10\n"                               \
		                 "pop	%%r9\n	pop	%%r8\n"                                 \
		                 "pop	%%rax\n	pop	%%rcx\n"                               \
		                 "pop	%%rdx\n	pop	%%rsi\n"                               \
		                 "pop	%%rdi\n"                                           \
		                 "popfq\n"                                               \
		                 "mov	(%%rsp), %%rsp\n"                                  \
		                 "jmp	*parasite_data+%c1(%%rip)\n"                       \
		                 :                                                       \
		                 : "r"(&(self_)->frame),                                 \
		                   "i"(offsetof(struct parasite, frame.rip)));           \
		__builtin_unreachable();                                                 \
	} while (0)
