/* The smallest victim: some memory with known content, then it waits for commands. */
#include "victim.h"

enum { SIZE = 1 << 20 };

int main(void)
{
	unsigned char *memory = malloc(SIZE);

	if (!memory)
		victim_fail("malloc: %s", strerror(errno));
	for (int i = 0; i < SIZE; i++)
		memory[i] = (unsigned char)(i * 31);
	victim_ready();
	for (char *command; (command = victim_command());)
		victim_say("%s", command);
	for (int i = 0; i < SIZE; i++)
		if (memory[i] != (unsigned char)(i * 31))
			victim_fail("byte %d is %d", i, memory[i]);
	victim_say("ok");
	return 0;
}
