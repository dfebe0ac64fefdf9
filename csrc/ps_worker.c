#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_worker.h"

#include <signal.h>

#include "ps_clock.h"

/* The appender waits this long for an append lock, then sees to other lanes. */
#define LOCK_TIMEOUT_NS 50000000ll
#define STACK_BYTES (512u << 10)

static void init_primitives(ps_worker *w) {
  PS_ASSERT(pthread_mutex_init(&w->mutex, NULL) == 0);
  ps_cond_init(&w->work);
  ps_cond_init(&w->rested);
}

ps_worker *ps_worker_new(void) {
  ps_worker *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  init_primitives(w);
  ps_keeper_init(&w->keeper);
  w->wake_ns = INT64_MIN;
  return w;
}

void ps_worker_free(ps_worker *w) {
  if (!w) return;
  PS_ASSERT(!w->started);
  ps_keeper_destroy(&w->keeper);
  pthread_mutex_destroy(&w->mutex);
  pthread_cond_destroy(&w->work);
  pthread_cond_destroy(&w->rested);
  free(w);
}

/* ---- lists of lanes, under the mutex ----------------------------------------------------------- */

static void push_ready(ps_worker *w, ps_lane *l) {
  l->place = PS_LANE_READY;
  l->work_next = NULL;
  if (w->ready_last)
    w->ready_last->work_next = l;
  else
    w->ready_first = l;
  w->ready_last = l;
  w->ready_count++;
}

static void push_delayed(ps_worker *w, ps_lane *l, int64_t retry_ns) {
  l->place = PS_LANE_DELAYED;
  l->retry_ns = retry_ns;
  l->work_next = w->delayed;
  w->delayed = l;
}

static ps_lane *pop_ready(ps_worker *w) {
  ps_lane *l = w->ready_first;
  if (!l) return NULL;
  w->ready_first = l->work_next;
  if (!w->ready_first) w->ready_last = NULL;
  w->ready_count--;
  l->place = PS_LANE_NOWHERE;
  return l;
}

static void remove_delayed(ps_worker *w, ps_lane *l) {
  ps_lane **at = &w->delayed;
  while (*at != l) at = &(*at)->work_next;
  *at = l->work_next;
  l->place = PS_LANE_NOWHERE;
}

static void place(ps_worker *w, ps_lane *l, int64_t delay_ns) {
  if (l->place == PS_LANE_READY) return;
  if (l->place == PS_LANE_DELAYED) {
    if (delay_ns > 0) return; /* it has its time */
    remove_delayed(w, l);
  }
  if (delay_ns > 0)
    push_delayed(w, l, ps_deadline(ps_os_monotonic_ns(), delay_ns));
  else
    push_ready(w, l);
}

static void wake(ps_worker *w) {
  w->poked = true;
  pthread_cond_signal(&w->work);
}

void ps_worker_schedule(ps_worker *w, ps_lane *l, int64_t delay_ns) {
  pthread_mutex_lock(&w->mutex);
  if (l->producer->attached) { /* else somebody is closing it, and sees to what is left */
    place(w, l, delay_ns);
    wake(w);
  }
  pthread_mutex_unlock(&w->mutex);
}

void ps_worker_poke(ps_worker *w) {
  pthread_mutex_lock(&w->mutex);
  wake(w);
  pthread_mutex_unlock(&w->mutex);
}

/* ---- producers ---------------------------------------------------------------------------------- */

void ps_worker_attach(ps_worker *w, ps_producer *p) {
  pthread_mutex_lock(&w->mutex);
  p->worker = w;
  p->attached = true;
  p->prev = NULL;
  p->next = w->producers;
  if (p->next) p->next->prev = p;
  w->producers = p;
  pthread_mutex_unlock(&w->mutex);
}

static void forget_lanes(ps_worker *w, const ps_producer *p) {
  ps_lane *l = w->ready_first;
  w->ready_first = w->ready_last = NULL;
  w->ready_count = 0;
  while (l) {
    ps_lane *next = l->work_next;
    if (l->producer == p)
      l->place = PS_LANE_NOWHERE;
    else
      push_ready(w, l);
    l = next;
  }
  for (ps_lane **at = &w->delayed; *at;) {
    if ((*at)->producer == p) {
      (*at)->place = PS_LANE_NOWHERE;
      *at = (*at)->work_next;
    } else {
      at = &(*at)->work_next;
    }
  }
}

void ps_worker_detach(ps_worker *w, ps_producer *p) {
  pthread_mutex_lock(&w->mutex);
  while (w->current && w->current->producer == p) pthread_cond_wait(&w->rested, &w->mutex);
  forget_lanes(w, p);
  if (p->prev)
    p->prev->next = p->next;
  else
    w->producers = p->next;
  if (p->next) p->next->prev = p->prev;
  p->prev = p->next = NULL;
  p->attached = false;
  pthread_mutex_unlock(&w->mutex);
}

/* ---- the appender ------------------------------------------------------------------------------- */

static void list_lane(void *context, ps_lane *l) { place(context, l, 0); }

/* Builders and retries whose time has come become ready. Returns the next time there will be some. */
static int64_t collect(ps_worker *w) {
  int64_t now = ps_os_monotonic_ns(), next = PS_NEVER;
  for (ps_producer *p = w->producers; p; p = p->next) {
    int64_t at = ps_producer_seal_expired(p, now, list_lane, w);
    if (at < next) next = at;
  }
  for (ps_lane **at = &w->delayed; *at;) {
    ps_lane *l = *at;
    if (l->retry_ns <= now) {
      *at = l->work_next;
      push_ready(w, l);
    } else {
      if (l->retry_ns < next) next = l->retry_ns;
      at = &l->work_next;
    }
  }
  return next;
}

static void deliver(ps_worker *w, ps_lane *l, ps_scratch *scratch) {
  w->current = l;
  int64_t lock_timeout_ns = w->ready_first ? 0 : LOCK_TIMEOUT_NS;
  pthread_mutex_unlock(&w->mutex);
  ps_outcome outcome = ps_lane_deliver(l, scratch, lock_timeout_ns);
  int64_t delay_ns = ps_lane_backoff_ns(l, outcome);
  pthread_mutex_lock(&w->mutex);
  w->current = NULL;
  /* One batch a turn, so that lanes share. Once its queue is empty a turn finds nothing. */
  if (outcome != PS_NOTHING && outcome != PS_LANE_DEAD) place(w, l, delay_ns);
  pthread_cond_broadcast(&w->rested);
}

static void sleep_until_work(ps_worker *w) {
  /* Announce the sleep before the last look: who opens a builder after that look sees this. */
  __atomic_store_n(&w->wake_ns, PS_NEVER, __ATOMIC_SEQ_CST);
  int64_t next = collect(w);
  if (!w->ready_first && !w->poked && !w->stop) {
    __atomic_store_n(&w->wake_ns, next, __ATOMIC_SEQ_CST);
    ps_cond_wait_until(&w->work, &w->mutex, next);
  }
  w->poked = false;
  __atomic_store_n(&w->wake_ns, INT64_MIN, __ATOMIC_SEQ_CST);
}

static void *appender_main(void *argument) {
  ps_worker *w = argument;
  ps_scratch scratch = {0};
  pthread_mutex_lock(&w->mutex);
  while (!w->stop) {
    /* Once a round: builders whose time comes within one would go behind its lanes, so they fill meanwhile.
     */
    if (w->turns == 0) {
      collect(w);
      w->turns = w->ready_count;
    }
    ps_lane *l = pop_ready(w);
    if (l) {
      w->turns--;
      deliver(w, l, &scratch);
    } else {
      w->turns = 0; /* lanes may have been taken out of it */
      sleep_until_work(w);
    }
  }
  pthread_mutex_unlock(&w->mutex);
  ps_scratch_free(&scratch);
  return NULL;
}

/* ---- threads ------------------------------------------------------------------------------------ */

static void *keeper_main(void *argument) {
  ps_keeper_run(&((ps_worker *)argument)->keeper);
  return NULL;
}

int ps_thread_start(pthread_t *thread, void *(*body)(void *), void *argument, const char *name) {
  pthread_attr_t attributes;
  PS_ASSERT(pthread_attr_init(&attributes) == 0);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* inherited: signals are for the program's own threads */
  int failed = pthread_create(thread, &attributes, body, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (!failed) pthread_setname_np(*thread, name);
  return failed;
}

ps_status ps_worker_start(ps_worker *w, ps_error *err) {
  pthread_mutex_lock(&w->mutex);
  int failed = 0;
  if (!w->started) {
    w->stop = w->keeper.stop = false;
    failed = ps_thread_start(&w->keeper_thread, keeper_main, w, "pystream-keep");
    if (!failed) {
      __atomic_store_n(&w->keeper.running, true, __ATOMIC_RELAXED);
      failed = ps_thread_start(&w->appender_thread, appender_main, w, "pystream-append");
      if (failed) {
        ps_keeper_stop(&w->keeper);
        pthread_join(w->keeper_thread, NULL);
      }
    }
    w->started = !failed;
  }
  pthread_mutex_unlock(&w->mutex);
  return failed ? ps_fail_errno(err, failed, NULL, "cannot start a helper thread") : PS_OK;
}

void ps_worker_stop(ps_worker *w) {
  pthread_mutex_lock(&w->mutex);
  bool started = w->started;
  w->started = false;
  w->stop = true;
  pthread_cond_broadcast(&w->work);
  pthread_mutex_unlock(&w->mutex);
  if (!started) return;
  pthread_join(w->appender_thread, NULL);
  ps_keeper_stop(&w->keeper);
  pthread_join(w->keeper_thread, NULL);
}

/* ---- fork --------------------------------------------------------------------------------------- */

void ps_worker_before_fork(ps_worker *w) {
  pthread_mutex_lock(&w->mutex);
  pthread_mutex_lock(&w->keeper.mutex);
  for (ps_producer *p = w->producers; p; p = p->next) ps_spin_lock(&p->lock);
}

void ps_worker_after_fork_parent(ps_worker *w) {
  for (ps_producer *p = w->producers; p; p = p->next) ps_spin_unlock(&p->lock);
  pthread_mutex_unlock(&w->keeper.mutex);
  pthread_mutex_unlock(&w->mutex);
}

void ps_worker_after_fork_child(ps_worker *w) {
  for (ps_producer *p = w->producers; p;) {
    ps_producer *next = p->next;
    p->forked = true;
    p->attached = false;
    p->prev = p->next = NULL;
    PS_ASSERT(pthread_mutex_init(&p->wait_mutex, NULL) == 0);
    ps_cond_init(&p->progress);
    for (uint32_t i = 0; i < p->lane_count; i++) ps_producer_lane(p, i)->place = PS_LANE_NOWHERE;
    ps_spin_unlock(&p->lock);
    p = next;
  }
  w->producers = NULL;
  w->ready_first = w->ready_last = w->delayed = w->current = NULL;
  w->ready_count = w->turns = 0;
  w->poked = w->stop = w->started = false;
  w->wake_ns = INT64_MIN;
  init_primitives(w);
  ps_keeper_after_fork(&w->keeper);
}
