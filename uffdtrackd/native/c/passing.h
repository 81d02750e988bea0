#pragma once
/* Messages with at most one descriptor over a UNIX socket (unix(7), SCM_RIGHTS). */
#include <stddef.h>

/* Sends a message, with fd unless that is -1. Never blocks, never raises SIGPIPE. */
int ut_pass(int socket, const void *message, size_t length, int fd);

/*
 * Takes a message of exactly that length; *fd is its descriptor, close-on-exec, or -1. 0,
 * or -1 with errno: EAGAIN none there, EPIPE end of file, EPROTO of another length,
 * EMFILE no room for the descriptor. Never blocks.
 */
int ut_take(int socket, void *message, size_t length, int *fd);
