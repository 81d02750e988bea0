#pragma once
/* Folders and small files of /proc, read where malloc and stdio are not allowed
 * (child.h). */
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* A file as a string, cut at size - 1 bytes; its length, or -1 with errno. */
ssize_t ut_read_file(int dir, const char *path, char *text, size_t size);

/*
 * Calls visit(argument, name) for each entry but . and .., until it returns false. Not
 * recursive on the stack beyond one block of entries. 0, or -1 with errno.
 */
int ut_list(int dir, const char *path, bool (*visit)(void *argument, const char *name),
            void *argument);

/*
 * A number of /proc/PID/status by its name ("Seccomp"), -1 if it has none. The groups of
 * the process come before most, and there may be 65536.
 */
long ut_status_number(int fd, const char *name);
