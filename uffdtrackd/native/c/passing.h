#pragma once
/* One descriptor in one message over a UNIX socket (unix(7), SCM_RIGHTS). */
#include <stdint.h>

/* Sends fd with a mark that says what it is. Never blocks, never raises SIGPIPE. */
int ut_pass_fd(int socket, uint32_t mark, int fd);

/* Takes it, close-on-exec. EPROTO if the message is not that. Never blocks. */
int ut_take_fd(int socket, uint32_t mark, int *fd);
