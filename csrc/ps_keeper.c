#include "ps_keeper.h"

#include "ps_clock.h"

/* A sync later than this many intervals holds new appends back; on a slow disk, or with an interval shorter
 * than a sync, at least so long. */
#define BEHIND_INTERVALS 2
#define BEHIND_NS_MIN 250000000ll
/* First look at a log's rate. */
#define STEP_BYTES_FIRST (4ull << 20)

void ps_keeper_init(ps_keeper *k) {
  memset(k, 0, sizeof *k);
  PS_ASSERT(pthread_mutex_init(&k->mutex, NULL) == 0);
  ps_cond_init(&k->work);
  ps_cond_init(&k->progress);
}

void ps_keeper_destroy(ps_keeper *k) {
  pthread_mutex_destroy(&k->mutex);
  pthread_cond_destroy(&k->work);
  pthread_cond_destroy(&k->progress);
}

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

static int64_t due(const ps_kept *e) { return __atomic_load_n(&e->due_ns, __ATOMIC_RELAXED); }
static void set_due(ps_kept *e, int64_t at_ns) { __atomic_store_n(&e->due_ns, at_ns, __ATOMIC_RELAXED); }
static void set_idle(ps_kept *e, bool idle) { __atomic_store_n(&e->idle, idle, __ATOMIC_SEQ_CST); }

ps_kept *ps_keeper_keep(ps_keeper *k, ps_log *log, int64_t interval_ns, bool populates,
                        uint32_t segment_bytes) {
  ps_kept *e = calloc(1, sizeof *e);
  if (!e) return NULL;
  e->keeper = k;
  e->log = log;
  e->interval_ns = interval_ns;
  e->populates = populates;
  e->step_bytes = max_u64(segment_bytes / 4, 4096);
  e->wake_at = min_u64(e->step_bytes, STEP_BYTES_FIRST);
  e->due_ns = PS_NEVER;
  e->idle = interval_ns > 0;
  e->seen_ns = ps_os_monotonic_ns();
  pthread_mutex_lock(&k->mutex);
  e->next = k->first;
  if (k->first) k->first->prev = e;
  k->first = e;
  pthread_mutex_unlock(&k->mutex);
  return e;
}

/* Each is read by itself; a look that falls in between goes by some of each, once. */
static int64_t interval(const ps_kept *e) { return __atomic_load_n(&e->interval_ns, __ATOMIC_RELAXED); }

static ps_keeper *keeper_of(const ps_kept *e) { return __atomic_load_n(&e->keeper, __ATOMIC_RELAXED); }

static void orphan(ps_kept *e) {
  __atomic_store_n(&e->keeper, NULL, __ATOMIC_RELAXED);
  __atomic_store_n(&e->wake_at, UINT64_MAX, __ATOMIC_RELAXED);
  set_idle(e, false);
  set_due(e, PS_NEVER);
}

void ps_kept_set(ps_kept *e, int64_t interval_ns, bool populates, uint32_t segment_bytes) {
  ps_keeper *k = keeper_of(e);
  if (!k) return;
  pthread_mutex_lock(&k->mutex);
  while (e->busy && e->keeper) pthread_cond_wait(&k->progress, &k->mutex);
  if (keeper_of(e)) {
    e->started = false;
    __atomic_store_n(&e->step_bytes, max_u64(segment_bytes / 4, 4096), __ATOMIC_RELAXED);
    __atomic_store_n(&e->populates, populates, __ATOMIC_RELAXED);
    __atomic_store_n(&e->interval_ns, interval_ns, __ATOMIC_RELAXED);
    set_due(e, PS_NEVER);
    e->covered_ns = ps_os_monotonic_ns();
    set_idle(e, interval_ns > 0);
    if (interval_ns > 0 && ps_log_is_dirty(e->log)) {
      set_due(e, ps_deadline(e->covered_ns, interval_ns));
      set_idle(e, false);
    }
    pthread_cond_signal(&k->work);
    pthread_cond_broadcast(&k->progress); /* whom a late sync held back */
  }
  pthread_mutex_unlock(&k->mutex);
}

void ps_keeper_forget(ps_keeper *k, ps_kept *e) {
  pthread_mutex_lock(&k->mutex);
  while (e->busy && e->keeper) pthread_cond_wait(&k->progress, &k->mutex);
  if (e->keeper) {
    if (e->prev)
      e->prev->next = e->next;
    else
      k->first = e->next;
    if (e->next) e->next->prev = e->prev;
    orphan(e);
    pthread_cond_broadcast(&k->progress);
  }
  pthread_mutex_unlock(&k->mutex);
}

void ps_kept_free(ps_kept *e) {
  PS_ASSERT(!e || !keeper_of(e));
  free(e);
}

void ps_keeper_after_fork(ps_keeper *k) {
  for (ps_kept *e = k->first; e; e = e->next) orphan(e);
  ps_keeper_init(k);
}

/* ---- appenders' side -------------------------------------------------------------------------- */

void ps_kept_poke(ps_kept *e) {
  ps_keeper *k = keeper_of(e);
  if (!k) return;
  int64_t now = ps_os_monotonic_ns();
  pthread_mutex_lock(&k->mutex);
  if (!keeper_of(e)) { /* forgotten meanwhile */
    pthread_mutex_unlock(&k->mutex);
    return;
  }
  if (__atomic_load_n(&e->idle, __ATOMIC_RELAXED)) {
    e->covered_ns = now;
    set_due(e, ps_deadline(now, interval(e)));
    set_idle(e, false);
  }
  if (__atomic_load_n(&e->appended, __ATOMIC_RELAXED) >= __atomic_load_n(&e->wake_at, __ATOMIC_RELAXED)) {
    __atomic_store_n(&e->wake_at, UINT64_MAX, __ATOMIC_RELAXED); /* once is enough */
    e->poked = true;
  }
  pthread_cond_signal(&k->work);
  pthread_mutex_unlock(&k->mutex);
}

bool ps_kept_is_behind(const ps_kept *e) {
  int64_t at = due(e);
  const ps_keeper *k = keeper_of(e);
  if (at == PS_NEVER || !k || !__atomic_load_n(&k->running, __ATOMIC_RELAXED)) return false;
  int64_t grace = interval(e) * BEHIND_INTERVALS;
  return ps_os_monotonic_ns() > ps_deadline(at, grace > BEHIND_NS_MIN ? grace : BEHIND_NS_MIN);
}

int64_t ps_kept_late_ns(const ps_kept *e) {
  int64_t at = due(e);
  return ps_kept_is_behind(e) && at != PS_NEVER ? ps_os_monotonic_ns() - at : 0;
}

ps_status ps_kept_wait(ps_kept *e, int64_t timeout_ns) {
  if (!ps_kept_is_behind(e)) return PS_OK;
  ps_keeper *k = keeper_of(e);
  if (!k) return PS_OK;
  int64_t deadline = ps_deadline(ps_os_monotonic_ns(), timeout_ns);
  ps_status status = PS_OK;
  pthread_mutex_lock(&k->mutex);
  while (ps_kept_is_behind(e)) {
    if (!ps_cond_wait_until(&k->progress, &k->mutex, deadline)) {
      if (ps_kept_is_behind(e)) status = PS_TIMEOUT;
      break;
    }
  }
  pthread_mutex_unlock(&k->mutex);
  return status;
}

int64_t ps_kept_lag_ns_max(ps_kept *e) {
  ps_keeper *k = keeper_of(e);
  if (!k) return 0;
  pthread_mutex_lock(&k->mutex);
  int64_t lag = e->lag_ns_max;
  pthread_mutex_unlock(&k->mutex);
  return lag;
}

/* ---- the keeper's side: called without the mutex, with the entry marked busy ------------------- */

/* Never more than the present rate fills before the next sync. */
static uint64_t populate_bytes(const ps_kept *e, int64_t now, uint64_t appended) {
  if (!__atomic_load_n(&e->populates, __ATOMIC_RELAXED) || now <= e->seen_ns) return 0;
  uint64_t rate = (uint64_t)((double)(appended - e->seen_bytes) * 1e9 / (double)(now - e->seen_ns));
  if (rate < PS_POPULATE_RATE_MIN) return 0;
  int64_t horizon = PS_POPULATE_HORIZON_NS;
  if (interval(e) > 0) horizon = due(e) == PS_NEVER ? 0 : due(e) - now;
  if (horizon <= 0) return 0;
  double bytes = (double)rate * (double)horizon / 1e9;
  if (bytes < (double)PS_POPULATE_BYTES_MIN) return 0;
  return bytes > (double)PS_POPULATE_BYTES_MAX ? PS_POPULATE_BYTES_MAX : (uint64_t)bytes;
}

static void look_ahead(ps_kept *e) {
  int64_t now = ps_os_monotonic_ns();
  uint64_t appended = __atomic_load_n(&e->appended, __ATOMIC_RELAXED);
  uint64_t ahead = populate_bytes(e, now, appended);
  if (ahead) ps_log_populate(e->log, ahead);
  ps_log_prepare_next(e->log);
  e->seen_ns = now;
  e->seen_bytes = appended;
  uint64_t step = ahead ? max_u64(ahead / 2, PS_POPULATE_BYTES_MIN) : STEP_BYTES_FIRST;
  __atomic_store_n(&e->wake_at, appended + min_u64(step, __atomic_load_n(&e->step_bytes, __ATOMIC_RELAXED)),
                   __ATOMIC_RELAXED);
}

static void go_idle(ps_kept *e, int64_t now) {
  set_due(e, PS_NEVER);
  set_idle(e, interval(e) > 0);
  if (interval(e) == 0) return;
  if (!ps_log_is_dirty(e->log)) return;
  set_due(e, ps_deadline(now, interval(e)));
  set_idle(e, false);
}

static void sync_now(ps_kept *e) {
  int64_t started = ps_os_monotonic_ns();
  if (!ps_log_is_dirty(e->log)) {
    e->covered_ns = started;
    go_idle(e, started);
    return;
  }
  ps_error err;
  ps_status status = ps_log_sync(e->log, &err);
  int64_t ended = ps_os_monotonic_ns();
  if (status == PS_OK) {
    if (ended - e->covered_ns > e->lag_ns_max) e->lag_ns_max = ended - e->covered_ns;
    e->covered_ns = started;
  } else if (ps_log_check(e->log, NULL) != PS_OK) {
    set_due(e, PS_NEVER); /* poisoned or gone: every append and acknowledgement hears of it there */
    return;
  } /* else it did not come to a sync, for want of descriptors or memory: the next one covers it */
  int64_t next = interval(e) > 0 ? ps_deadline(started, interval(e)) : PS_NEVER;
  set_due(e, next > ended ? next : ended);
  ps_log_prepare_next(e->log);
}

/* ---- the thread ------------------------------------------------------------------------------- */

/* What to do next: an entry that was poked, or the one whose sync is most overdue; they take turns. */
static ps_kept *pick(ps_keeper *k, int64_t now, bool prefer_sync, bool *sync, int64_t *wake_ns) {
  ps_kept *poked = NULL, *late = NULL;
  *wake_ns = PS_NEVER;
  for (ps_kept *e = k->first; e; e = e->next) {
    if (e->poked && !poked) poked = e;
    int64_t at = due(e);
    if (e->started && at > now) at = now;
    if (at < *wake_ns) {
      *wake_ns = at;
      late = e;
    }
  }
  if (*wake_ns > now) late = NULL;
  *sync = late && (prefer_sync || !poked);
  return *sync ? late : poked;
}

/* How long before its time a log is synced along with others, as a part of its interval. */
#define TOGETHER_PARTS 8
#define TOGETHER_MAX 256

/* `late` is about to be synced: have the kernel begin with those too whose time is near, all at once, and
 * sync them one after the other then. 1,000 partitions take 78 ms so and 176 without, 155 and 375 with 64 KiB
 * each. (syncfs would take 14 and 81, but also all that others have written to that file system, and as long
 * as that takes.) Called and left with the mutex. */
static void start_together(ps_keeper *k, ps_kept *late, int64_t now) {
  ps_kept *together[TOGETHER_MAX];
  size_t count = 0;
  if (late->started) return;
  together[count++] = late;
  for (ps_kept *e = k->first; e && count < TOGETHER_MAX; e = e->next)
    if (e != late && !e->started && due(e) != PS_NEVER && due(e) - now <= interval(e) / TOGETHER_PARTS)
      together[count++] = e;
  if (count < 2) return;
  for (size_t i = 0; i < count; i++) together[i]->busy = true; /* none is forgotten meanwhile */
  pthread_mutex_unlock(&k->mutex);
  for (size_t i = 0; i < count; i++) ps_log_start_writeback(together[i]->log);
  pthread_mutex_lock(&k->mutex);
  for (size_t i = 0; i < count; i++) {
    together[i]->busy = false;
    together[i]->started = true;
  }
  pthread_cond_broadcast(&k->progress);
}

static void last_syncs(ps_keeper *k) {
  for (ps_kept *e = k->first; e; e = e->next)
    if (interval(e) > 0 && due(e) != PS_NEVER) ps_log_start_writeback(e->log);
  for (ps_kept *e = k->first; e; e = e->next) {
    ps_error err;
    if (interval(e) > 0 && due(e) != PS_NEVER && ps_log_is_dirty(e->log)) ps_log_sync(e->log, &err);
  }
}

void ps_keeper_run(ps_keeper *k) {
  bool prefer_sync = false;
  pthread_mutex_lock(&k->mutex);
  while (!k->stop) {
    bool sync;
    int64_t wake_ns;
    ps_kept *e = pick(k, ps_os_monotonic_ns(), prefer_sync, &sync, &wake_ns);
    if (!e) {
      ps_cond_wait_until(&k->work, &k->mutex, wake_ns);
      continue;
    }
    prefer_sync = !sync;
    if (sync) start_together(k, e, ps_os_monotonic_ns());
    e->busy = true;
    if (sync)
      e->started = false;
    else
      e->poked = false;
    pthread_mutex_unlock(&k->mutex);
    if (sync)
      sync_now(e);
    else
      look_ahead(e);
    pthread_mutex_lock(&k->mutex);
    e->busy = false;
    pthread_cond_broadcast(&k->progress);
  }
  last_syncs(k);
  __atomic_store_n(&k->running, false, __ATOMIC_RELAXED);
  pthread_cond_broadcast(&k->progress);
  pthread_mutex_unlock(&k->mutex);
}

void ps_keeper_stop(ps_keeper *k) {
  pthread_mutex_lock(&k->mutex);
  k->stop = true;
  pthread_cond_broadcast(&k->work);
  pthread_mutex_unlock(&k->mutex);
}
