/*
 * A thread that knows what must be in each of its registers, and looks.
 *
 *     registers spin     in user mode: compares them over and over
 *     registers CALL     puts known values in all of them, makes a blocking system call,
 *                        looks when it returns: epoll, nanosleep, futex, poll, read
 *
 * General registers, arithmetic flags and xmm0..15. rax, rcx and r11 belong to the system
 * call (they return its result, the address and the flags). Any difference ends the
 * process. "where" answers the thread's id, "rounds" how often it has looked. The main
 * thread serves commands and waits in read() otherwise, so a test names the thread that
 * it wants stopped.
 */
#include "victim.h"
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>

#ifndef __x86_64__
#error "the registers of this architecture are not known here"
#endif

/* rbx rdx rsi rdi rbp r8 r9 r10 r12 r13 r14 r15; rsp is saved and compared apart. */
enum { COUNT = 12, FLAGS = 0x8d5 /* CF PF AF ZF SF OF */ };

/* Named by assembly only. */
#define NAMED __attribute__((used)) static
NAMED uint64_t in[COUNT], out[COUNT], number, result, stack_before, stack_after;
NAMED uint64_t flags_before, flags_after;
NAMED unsigned char vectors_in[16][16], vectors_out[16][16];
static _Atomic uint64_t rounds;
static _Atomic int tid, stopping;
static sigset_t mask;

#define VECTORS(move)                                                                    \
	move(0) move(1) move(2) move(3) move(4) move(5) move(6) move(7) move(8) move(9)  \
		move(10) move(11) move(12) move(13) move(14) move(15)
#define LOAD_VECTOR(n)  "movups vectors_in+16*" #n "(%%rip), %%xmm" #n "\n"
#define STORE_VECTOR(n) "movups %%xmm" #n ", vectors_out+16*" #n "(%%rip)\n"
#define GENERAL(move)                                                                    \
	move(0, rbx) move(1, rdx) move(2, rsi) move(3, rdi) move(4, rbp) move(5, r8)     \
		move(6, r9) move(7, r10) move(8, r12) move(9, r13) move(10, r14)         \
			move(11, r15)
#define LOAD(n, reg)  "mov in+8*" #n "(%%rip), %%" #reg "\n"
#define STORE(n, reg) "mov %%" #reg ", out+8*" #n "(%%rip)\n"

/* One call, or (body "spin") some 10 us of user mode, between loading and storing all. */
#define PASS(body)                                                                       \
	__asm__ volatile(                                                                \
		"push %%rbp\n push %%rbx\n" VECTORS(                                     \
			LOAD_VECTOR) "mov %%rsp, stack_before(%%rip)\n"                  \
				     "push flags_before(%%rip)\n popfq\n"                \
				     "mov number(%%rip), %%rax\n" GENERAL(LOAD)          \
					     body GENERAL(                               \
						     STORE) "mov %%rax, result(%%rip)\n" \
							    "pushfq\n pop "              \
							    "flags_after(%%rip)\n"       \
							    "mov %%rsp, "                \
							    "stack_after(%%rip)"         \
							    "\n" VECTORS(                \
								    STORE_VECTOR) "pop " \
										  "%%"   \
										  "rbx"  \
										  "\n "  \
										  "pop " \
										  "%%"   \
										  "rbp"  \
										  "\n "  \
										  "cld"  \
										  "\n"   \
		:                                                                        \
		:                                                                        \
		: "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",    \
		  "r13", "r14", "r15", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3",   \
		  "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",      \
		  "xmm12", "xmm13", "xmm14", "xmm15")

/* The red zone is ours in user mode: a word below the stack pointer must stay. */
static void __attribute__((noinline)) pass_spin(void)
{
	number = 0;
	/* lea and jrcxz leave the flags alone. */
	PASS("mov $20000, %%ecx\n"
	     "mov %%rsp, -8(%%rsp)\n"
	     "1: lea -1(%%rcx), %%rcx\n"
	     "jrcxz 2f\n"
	     "jmp 1b\n"
	     "2: mov -8(%%rsp), %%rcx\n"
	     "lea (%%rcx), %%rax\n");
	if (result != stack_before)
		victim_fail("the red zone holds %lx", result);
}

static void __attribute__((noinline)) pass_call(void)
{
	PASS("syscall\n");
}

static void look(const char *what)
{
	sigset_t now;

	for (int i = 0; i < COUNT; i++)
		if (in[i] != out[i])
			victim_fail("%s: register %d is %lx, was %lx", what, i, out[i],
			            in[i]);
	if (stack_before != stack_after)
		victim_fail("%s: rsp is %lx, was %lx", what, stack_after, stack_before);
	if ((flags_before ^ flags_after) & FLAGS)
		victim_fail("%s: flags are %lx, were %lx", what, flags_after,
		            flags_before);
	if (memcmp(vectors_in, vectors_out, sizeof(vectors_in)))
		victim_fail("%s: a vector register changed", what);
	pthread_sigmask(SIG_SETMASK, NULL,
	                &now); /* fills the 8 bytes that the kernel knows */
	if (memcmp(&now, &mask, 8))
		victim_fail("%s: the signal mask changed", what);
	rounds++;
}

/* Sets the arguments in their registers; all others keep random values. */
static void arguments(uint64_t *seed, long call, const uint64_t args[6])
{
	static const int place[6] = {3, 2, 1, 7, 5, 6}; /* rdi rsi rdx r10 r8 r9 */

	for (int i = 0; i < COUNT; i++)
		in[i] = victim_random(seed);
	for (int i = 0; i < 16 * 16; i++)
		vectors_in[i / 16][i % 16] = (unsigned char)victim_random(seed);
	flags_before = 2 | (victim_random(seed) & FLAGS);
	number = (uint64_t)call;
	for (int i = 0; args && i < 6; i++)
		in[place[i]] = args[i];
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void run_call(const char *kind, uint64_t *seed)
{
	static struct epoll_event event;
	static struct timespec pause = {0, 20000000};
	static int word, ring[2];
	static struct pollfd poll_none;
	static unsigned char byte;
	static int epoll = -1;
	long expected = 0;
	uint64_t began;

	if (epoll < 0) {
		epoll = epoll_create1(0);
		poll_none.fd = ring[0] = eventfd(0, 0);
	}
	if (!strcmp(kind, "epoll")) {
		arguments(seed, SYS_epoll_wait,
		          (uint64_t[]){epoll, (uint64_t)&event, 1, 20, 0, 0});
	} else if (!strcmp(kind, "nanosleep")) {
		arguments(seed, SYS_nanosleep, (uint64_t[6]){(uint64_t)&pause});
	} else if (!strcmp(kind, "futex")) {
		arguments(seed, SYS_futex,
		          (uint64_t[]){(uint64_t)&word, FUTEX_WAIT, 0, (uint64_t)&pause,
		                       0, 0});
		expected = -ETIMEDOUT;
	} else if (!strcmp(kind, "poll")) {
		arguments(seed, SYS_poll, (uint64_t[6]){(uint64_t)&poll_none, 1, 20});
	} else if (!strcmp(kind, "read")) {
		/* Never ends by itself: "stop" leaves it there. */
		arguments(seed, SYS_read, (uint64_t[6]){ring[0], (uint64_t)&byte, 8});
	} else {
		victim_fail("registers: no kind %s", kind);
	}
	began = now_ns();
	pass_call();
	if ((long)result != expected)
		victim_fail("%s returned %ld", kind, (long)result);
	if (now_ns() - began < 20000000)
		victim_fail("%s returned after %lu ns", kind, now_ns() - began);
	look(kind);
}

static void *thread(void *argument)
{
	const char *kind = argument;
	uint64_t seed = 1;

	/* Not empty, not full. */
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	sigaddset(&mask, SIGALRM);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	tid = gettid();
	while (!stopping) {
		if (strcmp(kind, "spin")) {
			run_call(kind, &seed);
			continue;
		}
		arguments(&seed, 0, NULL);
		pass_spin();
		look(kind);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "spin";
	pthread_t other;

	if (pthread_create(&other, NULL, thread, (void *)kind))
		victim_fail("pthread_create");
	while (!tid || (!rounds && strcmp(kind, "read")))
		sched_yield();
	victim_ready();
	for (char *command; (command = victim_command());)
		victim_say("%lu", strcmp(command, "where") ? rounds : (uint64_t)tid);
	stopping = 1;
	if (strcmp(kind, "read"))
		pthread_join(other, NULL);
	victim_say("ok");
	return 0;
}
