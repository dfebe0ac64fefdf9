#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* F_SETPIPE_SZ */
#endif
#include "ps_pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <unistd.h>

#define NS_PER_MS 1000000

static int wait_for(int fd, short events, int64_t timeout_ns) {
  struct pollfd wanted = {.fd = fd, .events = events};
  /* Rounded up: a wait must not end before its time, and then again and again. */
  int64_t ms = timeout_ns < 0 ? -1 : timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);
  int ready = poll(&wanted, 1, ms > INT_MAX ? INT_MAX : (int)ms);
  return ready < 0 ? -errno : ready;
}

int ps_pipe_wait_readable(int fd, int64_t timeout_ns) { return wait_for(fd, POLLIN, timeout_ns); }
int ps_pipe_wait_writable(int fd, int64_t timeout_ns) { return wait_for(fd, POLLOUT, timeout_ns); }

int64_t ps_pipe_read(int fd, void *out, size_t bytes) {
  ssize_t got = read(fd, out, bytes);
  return got < 0 ? -errno : got;
}

int64_t ps_pipe_write(int fd, const void *data, size_t bytes) {
  ssize_t wrote = write(fd, data, bytes);
  return wrote < 0 ? -errno : wrote;
}

void ps_pipe_widen(int fd, int bytes) { (void)fcntl(fd, F_SETPIPE_SZ, bytes); }
