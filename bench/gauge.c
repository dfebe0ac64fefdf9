/* gauge.c - user-space instructions of this thread between two points of a program.
 *
 * Under valgrind's callgrind they are callgrind's, which writes them to a file at the end of each span;
 * elsewhere they are the processor's own, if the system lends its counters. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined __has_include
#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#endif
#endif
#ifndef RUNNING_ON_VALGRIND
#define RUNNING_ON_VALGRIND 0
#define CALLGRIND_START_INSTRUMENTATION
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS_AT(label) ((void)(label))
#endif

int gauge_on_valgrind(void) { return RUNNING_ON_VALGRIND != 0; }

/* A counter of this thread: its descriptor, or -errno. faults: of page faults in place of instructions; every
 * Linux counts those. */
int gauge_open(int faults) {
  struct perf_event_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.size = sizeof attr;
  attr.type = faults ? PERF_TYPE_SOFTWARE : PERF_TYPE_HARDWARE;
  attr.config = faults ? PERF_COUNT_SW_PAGE_FAULTS : PERF_COUNT_HW_INSTRUCTIONS;
  attr.exclude_kernel = attr.exclude_hv = 1;
  int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

void gauge_close(int fd) { close(fd); }

/* -1: it cannot be read. */
int64_t gauge_read(int fd) {
  int64_t count;
  return read(fd, &count, sizeof count) == sizeof count ? count : -1;
}

void gauge_callgrind_start(void) { CALLGRIND_START_INSTRUMENTATION; }

void gauge_callgrind_begin(void) { CALLGRIND_ZERO_STATS; }

void gauge_callgrind_end(const char *label) { CALLGRIND_DUMP_STATS_AT(label); }
