/* ps_worker.h - the native helper threads of a process, two whatever the number of partitions: the
 * appender, which delivers full and lingering builders, and the keeper (ps_keeper.h).
 *
 * They start at the first need, block every signal, and never touch Python. Nothing is locked while they
 * sleep or append. Order of locks: worker's mutex, keeper's mutex, a producer's lock. */
#ifndef PS_WORKER_H
#define PS_WORKER_H

#include "ps_keeper.h"
#include "ps_producer.h"

typedef struct ps_worker {
  pthread_mutex_t mutex;
  pthread_cond_t work;
  pthread_cond_t rested; /* `current` was given back */
  ps_producer *producers;
  ps_lane *ready_first, *ready_last;
  uint32_t ready_count;
  uint32_t turns;   /* lanes of this round that are still to have theirs */
  ps_lane *delayed; /* unordered: failing lanes are few */
  ps_lane *current;
  int64_t wake_ns; /* atomic: when the appender looks by itself; INT64_MIN: it is awake */
  bool poked;
  bool stop;
  bool started;
  pthread_t appender_thread;
  pthread_t keeper_thread;
  ps_keeper keeper;
} ps_worker;

/* A thread that blocks every signal and needs little stack; name: 15 bytes at most. 0, or an errno. */
int ps_thread_start(pthread_t *thread, void *(*body)(void *), void *argument, const char *name);

ps_worker *ps_worker_new(void); /* NULL: no memory */
/* Threads must be stopped. */
void ps_worker_free(ps_worker *worker);
/* Start the threads unless they run. */
ps_status ps_worker_start(ps_worker *worker, ps_error *err);
/* End and join them; what is queued stays queued. */
void ps_worker_stop(ps_worker *worker);

void ps_worker_attach(ps_worker *worker, ps_producer *producer);
/* Afterwards the appender does not know the producer; waits while it is delivering for it. */
void ps_worker_detach(ps_worker *worker, ps_producer *producer);

/* A lane has work, now or after delay_ns. */
void ps_worker_schedule(ps_worker *worker, ps_lane *lane, int64_t delay_ns);
/* A builder was opened that is due at deadline_ns. Cheap unless the appender would oversleep. */
static inline bool ps_worker_oversleeps(ps_worker *worker, int64_t deadline_ns) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the builder is listed before wake_ns is read */
  return deadline_ns < __atomic_load_n(&worker->wake_ns, __ATOMIC_RELAXED);
}
void ps_worker_poke(ps_worker *worker);

/* Around fork: nothing is half done while it happens. In the child no thread runs, and every producer
 * there was is marked forked; their builders are the parent's to deliver. */
void ps_worker_before_fork(ps_worker *worker);
void ps_worker_after_fork_parent(ps_worker *worker);
void ps_worker_after_fork_child(ps_worker *worker);

#endif
