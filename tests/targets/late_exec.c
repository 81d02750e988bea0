/*
 * A victim of two threads: at "exec FILE" the other one runs execve(2) of that file.
 * While the kernel waits for its first page, the whole process is being changed:
 * cred_guard_mutex is held.
 */
#include "victim.h"
#include <pthread.h>

static void *run(void *file)
{
	execl(file, file, (char *)NULL);
	return NULL; /* it is no program */
}

int main(void)
{
	pthread_t thread;

	victim_ready();
	for (char *command; (command = victim_command());) {
		char *file = strdup(command + strlen("exec "));

		if (pthread_create(&thread, NULL, run, file))
			victim_fail("pthread_create: %s", strerror(errno));
		victim_say("%s", command);
	}
	pthread_join(thread, NULL);
	victim_say("ok");
	return 0;
}
