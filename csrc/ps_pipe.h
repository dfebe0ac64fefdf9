/* ps_pipe.h - the ends through which a command reads and writes: pipes, terminals, files, sockets. They are
 * other people's: nothing is promised about them and no test makes them fail, so they have no ps_env.
 * All answer a value >= 0 or -errno. Any thread. */
#ifndef PS_PIPE_H
#define PS_PIPE_H

#include "ps_base.h"

/* Whether fd can be read from (or has ended) within timeout_ns, -1 being for ever: 1, or 0. */
int ps_pipe_wait_readable(int fd, int64_t timeout_ns);
/* Likewise written to, or found broken. */
int ps_pipe_wait_writable(int fd, int64_t timeout_ns);
/* As much as there is, at most `bytes`; 0 at the end. */
int64_t ps_pipe_read(int fd, void *out, size_t bytes);
/* As much as it takes. */
int64_t ps_pipe_write(int fd, const void *data, size_t bytes);
/* Let a pipe hold this much: with the 64 KiB it has, both sides change places for each. What is no pipe, or
 * may not be so large, stays as it is. */
void ps_pipe_widen(int fd, int bytes);

#endif
