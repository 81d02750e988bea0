/*
 * One thread in epoll_wait() that must be told of its signals: each EINTR is one line,
 * and nothing else is. With the argument "masked" it is epoll_pwait() and signals come
 * only then.
 *
 *   SIGUSR1     has a handler: "EINTR N", N handlers run so far
 *   SIGRTMIN    queued with a value: "EINTR ..." too; "values" answers how many came, and
 *               whether they came in order, each one more than the last
 *   SIGWINCH    is ignored by default: nothing may happen
 */
#include "victim.h"
#include <signal.h>
#include <sys/epoll.h>

static volatile int handled, values, disorder;

static void on_signal(int signal, siginfo_t *info, void *context)
{
	(void)context;
	handled++;
	if (signal == SIGRTMIN && info->si_value.sival_int != values++)
		disorder++;
}

int main(int argc, char **argv)
{
	int masked = argc > 1 && !strcmp(argv[1], "masked");
	sigset_t none, all;
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
	struct epoll_event event = {.events = EPOLLIN};
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	sigemptyset(&none);
	sigfillset(&all);
	if (masked)
		sigprocmask(SIG_BLOCK, &all, NULL);
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGRTMIN, &action, NULL);
	epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event);
	/* Commands are read one a wakeup: nothing may stay in a buffer. */
	setvbuf(stdin, NULL, _IONBF, 0);
	victim_ready();
	for (;;) {
		int before = handled;
		int got = masked ? epoll_pwait(epoll, &event, 1, -1, &none)
		                 : epoll_wait(epoll, &event, 1, -1);

		if (got < 0 && errno == EINTR) {
			victim_say("EINTR %d", handled - before);
		} else if (got == 1) {
			const char *command = victim_command();

			if (!command)
				break;
			if (!strcmp(command, "values"))
				victim_say("values %d %d", values, disorder);
			else
				victim_say("%s", command);
		} else {
			victim_fail("epoll_wait: %d, %s", got, strerror(errno));
		}
	}
	victim_say("ok");
	return 0;
}
