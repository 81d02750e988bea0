/*
 * The parasite as an ordinary program, for the sanitizers and for every way out of it.
 *
 *     main: the injector's part -- socketpair, device, messages
 *       '--fork--> a child that runs parasite_main() on a struct in memory of its own
 *
 * Each case: what is put into the socket, which call fails, what must be heard, and that
 * in the end the child has no descriptor that it had not before. It resumes (here: exits)
 * only when our end is closed, so every case also is one of the cure.
 *
 *     cc -DPARASITE_HOST_TEST -fsanitize=address,undefined -I. host_test.c && ./a.out
 */
#ifndef PARASITE_HOST_TEST
#define PARASITE_HOST_TEST
#endif
#include "parasite.c"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define CURED       7 /* exit status of a child that resumed as it should */
#define FRAME_VALUE 0x1122334455667788u
#define MASK        ((uint64_t)1 << (SIGUSR2 - 1))

enum sent { DEVICE, NOTHING, NO_DESCRIPTOR, OTHER_WORD };

static int fds_before;

static void check(int good, const char *what, unsigned int nth)
{
	if (good)
		return;
	printf("FAILED %s, call %u failing\n", what, nth);
	exit(1);
}

static int count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = -3; /* ".", ".." and the folder */

	while (folder && readdir(folder))
		count++;
	if (folder)
		closedir(folder);
	return count;
}

void host_resumed(struct parasite *self)
{
	uint64_t mask = 0;

	parasite_syscall(SYS_rt_sigprocmask, SIG_SETMASK, 0, (long)&mask, KERNEL_SIGSET);
	_exit(self->cured && self->frame.rip == FRAME_VALUE && mask == MASK &&
	                      count_fds() == fds_before
		      ? CURED
		      : 1);
}

static void put(int socket, enum sent sent)
{
	struct parasite_message message = {.word = sent == OTHER_WORD ? PARASITE_PARKED
	                                                              : PARASITE_DEVICE};
	struct parasite sender = {.sockets = {socket, -1}};
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	if (device < 0)
		device = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (sent != NOTHING)
		say(&sender, &message, sent == NO_DESCRIPTOR ? -1 : device);
	close(device);
}

/* The next message; its descriptor in *fd or -1. False at the end of file. */
static int hear(int socket, struct parasite_message *message, int *fd)
{
	union control control;
	struct iovec vec = {message, sizeof(*message)};
	struct msghdr header = {.msg_iov = &vec,
	                        .msg_iovlen = 1,
	                        .msg_control = &control,
	                        .msg_controllen = sizeof(control)};

	*fd = -1;
	if (recvmsg(socket, &header, MSG_CMSG_CLOEXEC) != sizeof(*message))
		return 0;
	if (header.msg_controllen >= CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(&control.header), sizeof(*fd));
	return 1;
}

static pid_t start(int sockets[2], unsigned int nth, int no_numbers)
{
	pid_t pid = fork();

	if (pid)
		return pid;

	struct parasite self = {
		.version = PARASITE_VERSION,
		/* The injector's end as the target has it: a copy of its own. */
		.sockets = {sockets[0], dup(sockets[1])},
		.device = -1,
		.uffd = -1,
		.uffd_flags = O_CLOEXEC | O_NONBLOCK,
		.fail_call = nth,
		.mask = MASK,
		.frame = {.rip = FRAME_VALUE},
	};

	if (no_numbers)
		dup2(0, sockets[1]);
	else
		close(sockets[1]);
	fds_before = count_fds() - 2; /* the cure closes both ends */
	if (no_numbers) {
		struct rlimit limit = {(rlim_t)self.sockets[1] + 1, 4096};

		/* No number is free but that of sockets[1], once it is closed. */
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	parasite_main(&self);
}

/* Runs one case; returns how many calls could have failed: the child's count is not ours.
 */
static struct parasite_message run(enum sent sent, unsigned int nth, int no_numbers,
                                   int *uffds)
{
	struct parasite_message message;
	int sockets[2], status, fd;

	check(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets),
	      "socketpair", nth);
	put(sockets[1], sent);

	pid_t pid = start(sockets, nth, no_numbers);

	close(sockets[0]);
	*uffds = 0;
	do {
		check(hear(sockets[1], &message, &fd), "a last word", nth);
		check((fd >= 0) == (message.word == PARASITE_UFFD), "a descriptor", nth);
		*uffds += fd >= 0;
		if (fd >= 0)
			close(fd);
	} while (message.word == PARASITE_UFFD);
	check(message.word == PARASITE_PARKED || message.word == PARASITE_FAILED,
	      "PARKED or FAILED", nth);
	/* It waits for us now, for as long as we are there. */
	check(!waitpid(pid, &status, WNOHANG), "waiting", nth);
	close(sockets[1]);
	check(waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
	              WEXITSTATUS(status) == CURED,
	      "the cure", nth);
	return message;
}

int main(void)
{
	struct parasite_message last;
	int uffds, device = access("/dev/userfaultfd", R_OK | W_OK) == 0;

	last = run(DEVICE, 0, 0, &uffds);
	if (device)
		check(last.word == PARASITE_PARKED && uffds == 1, "a userfaultfd", 0);
	else
		check(last.step == PARASITE_STEP_CREATE && last.error == ENOTTY,
		      "no device", 0);

	last = run(NOTHING, 0, 0, &uffds);
	check(last.step == PARASITE_STEP_RECEIVE && last.error == EAGAIN, "nothing sent",
	      0);
	last = run(NO_DESCRIPTOR, 0, 0, &uffds);
	check(last.step == PARASITE_STEP_RECEIVE && last.error == EPROTO, "no descriptor",
	      0);
	last = run(OTHER_WORD, 0, 0, &uffds);
	check(last.step == PARASITE_STEP_RECEIVE && last.error == EPROTO, "another word",
	      0);
	if (device) {
		last = run(DEVICE, 0, 1, &uffds);
		check(last.step == PARASITE_STEP_CREATE && last.error == EMFILE,
		      "no number left", 0);
	}
	/* close, recvmsg, ioctl, sendmsg, close, close, sendmsg, read, close: and no
	 * more. */
	for (unsigned int nth = 1; nth <= 10; nth++) {
		last = run(DEVICE, nth, 0, &uffds);
		check(last.word != PARASITE_FAILED || last.error == EIO || !device, "EIO",
		      nth);
		check(uffds == (last.word == PARASITE_PARKED), "one userfaultfd", nth);
	}
	puts("ok");
	return 0;
}
