/* ps_clock.h - condition variables on the monotonic clock, and deadlines in nanoseconds. */
#ifndef PS_CLOCK_H
#define PS_CLOCK_H

#include <pthread.h>
#include <time.h>

#include "ps_os.h"

#define PS_NEVER INT64_MAX

static inline void ps_cond_init(pthread_cond_t *cond) {
  pthread_condattr_t attributes;
  PS_ASSERT(pthread_condattr_init(&attributes) == 0);
  PS_ASSERT(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
  PS_ASSERT(pthread_cond_init(cond, &attributes) == 0);
  pthread_condattr_destroy(&attributes);
}

/* `now` plus a duration, where a negative duration is no limit. */
static inline int64_t ps_deadline(int64_t now_ns, int64_t duration_ns) {
  return duration_ns < 0 || duration_ns > PS_NEVER - now_ns ? PS_NEVER : now_ns + duration_ns;
}

/* Wait for a signal, at most until a monotonic time. False: the time has come. */
static inline bool ps_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_ns) {
  if (deadline_ns == PS_NEVER) return pthread_cond_wait(cond, mutex) == 0;
  if (deadline_ns < 0) deadline_ns = 0;
  struct timespec at = {.tv_sec = (time_t)(deadline_ns / 1000000000),
                        .tv_nsec = (long)(deadline_ns % 1000000000)};
  return pthread_cond_timedwait(cond, mutex, &at) == 0;
}

#endif
