/* The append lock, for one append or held between appends; and the maintenance lock. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <inttypes.h>
#include <time.h>

#include "ps_log_internal.h"
#include "ps_retain.h"

/* How long a hold that is not to wait waits for a writer that is only passing. */
#define PASSING_NS_MAX 1000000000
/* Waits for the mutex are cut here: no signal ends them, and who has it may be waiting for another process.
 */
#define SLICE_NS 200000000
/* How often a wait for one who keeps the lock looks whether the log is being closed. */
#define LOOK_NS 20000000

static off_t append_place(const ps_log *log) {
  return (off_t)log->options.partition * PS_LOCK_STRIDE + PS_LOCK_APPEND;
}

static off_t maintain_place(const ps_log *log) {
  return (off_t)log->options.partition * PS_LOCK_STRIDE + PS_LOCK_MAINTAIN;
}

static int64_t deadline_in(int64_t timeout_ns) { return ps_os_monotonic_ns() + timeout_ns; }

static int lock_mutex_for(pthread_mutex_t *mutex, int64_t timeout_ns) {
  int rc = pthread_mutex_trylock(mutex);
  if (rc == 0 || timeout_ns == 0) return rc;
  int64_t until = ps_os_now_ns() + timeout_ns;
  struct timespec t = {until / 1000000000, until % 1000000000};
  return pthread_mutex_timedlock(mutex, &t);
}

/* EINTR: a moment has passed in which a signal may have come. */
static int lock_mutex(pthread_mutex_t *mutex, int64_t timeout_ns) {
  if (timeout_ns >= 0 && timeout_ns <= SLICE_NS) return lock_mutex_for(mutex, timeout_ns);
  int rc = lock_mutex_for(mutex, SLICE_NS);
  return rc == ETIMEDOUT ? EINTR : rc;
}

/* A timed wait for the range lock: the kernel has none, so try with growing pauses. -EAGAIN: not in time. */
static int lock_place_until(ps_log *log, off_t at, int64_t deadline) {
  int64_t pause_ns = 20000;
  for (;;) {
    int rc = ps_os_lock_try(log->env, log->locks_fd, at, false);
    if (rc != -EAGAIN) return rc;
    int64_t left = deadline - ps_os_monotonic_ns();
    if (left <= 0) return -EAGAIN;
    if (pause_ns > left) pause_ns = left;
    struct timespec t = {0, pause_ns};
    if (nanosleep(&t, NULL) < 0) return -EINTR;
    if (pause_ns < 5000000) pause_ns *= 2;
  }
}

static int lock_range_until(ps_log *log, int64_t deadline) {
  return lock_place_until(log, append_place(log), deadline);
}

/* Who has the range lock: the last one to write, and whether he said that he would keep it. Advisory: a
 * process that died is named until the next one writes. */
static uint64_t holder_pid(const ps_log *log, bool *keeps) {
  /* A log that is being opened may have no head yet. */
  uint64_t holder = log->head ? ps_acquire_u64(log->head + PS_HEAD_HOLDER_OFF) : 0;
  *keeps = (holder & PS_HEAD_HELD_FLAG) != 0;
  return holder & ~PS_HEAD_HELD_FLAG;
}

/* A writer that is only passing is waited for in the kernel, which hands the lock over at once; one that
 * keeps it, by looking now and then, so that the wait ends when this process closes the log. -ECANCELED: it
 * does. */
static int lock_range_at_last(ps_log *log) {
  for (;;) {
    bool keeps;
    (void)holder_pid(log, &keeps);
    if (!keeps) return ps_os_lock_wait(log->env, log->locks_fd, append_place(log), false);
    if (ps_log_flag(&log->closing)) return -ECANCELED;
    int rc = lock_range_until(log, deadline_in(LOOK_NS));
    if (rc != -EAGAIN) return rc;
  }
}

static int lock_range(ps_log *log, int64_t timeout_ns, int64_t deadline) {
  if (log->held) return 0;
  int rc = ps_os_lock_try(log->env, log->locks_fd, append_place(log), false);
  if (rc != -EAGAIN || timeout_ns == 0) return rc;
  return timeout_ns < 0 ? lock_range_at_last(log) : lock_range_until(log, deadline);
}

static ps_status fail_busy(const ps_log *log, ps_status status, ps_error *err) {
  char what[128];
  bool keeps;
  uint64_t pid = holder_pid(log, &keeps);
  if (keeps)
    snprintf(what, sizeof what, "the partition is held for exclusive writing by process %" PRIu64, pid);
  else
    snprintf(what, sizeof what,
             "another writer (pid %" PRIu64 ") kept the append lock for longer than the timeout", pid);
  return ps_fail(err, status, log->dir, what);
}

static ps_status fail_lock(const ps_log *log, int rc, ps_status busy, ps_error *err) {
  if (rc == EBUSY || rc == ETIMEDOUT || rc == EAGAIN) return fail_busy(log, busy, err);
  if (rc == ECANCELED) return ps_fail(err, PS_CLOSED, log->dir, "the store is closed");
  if (rc == EINTR)
    return ps_fail(err, PS_INTERRUPTED, log->dir, "a signal came while waiting for the append lock");
  return ps_fail_errno(err, rc, log->dir, "taking the append lock");
}

ps_status ps_log_lock_append(ps_log *log, int64_t timeout_ns, ps_error *err) {
  int64_t deadline = timeout_ns > 0 ? deadline_in(timeout_ns) : 0;
  int rc = lock_mutex(&log->append_mutex, timeout_ns);
  if (rc != 0) return fail_lock(log, rc, PS_TIMEOUT, err);
  if (PS_UNLIKELY(ps_log_flag(&log->closed))) { /* meanwhile; the locks' descriptor goes next */
    pthread_mutex_unlock(&log->append_mutex);
    return ps_log_check(log, err);
  }
  rc = lock_range(log, timeout_ns, deadline);
  if (rc == 0) return PS_OK;
  pthread_mutex_unlock(&log->append_mutex);
  return fail_lock(log, -rc, PS_TIMEOUT, err);
}

void ps_log_unlock_append(ps_log *log) {
  if (!log->held) (void)ps_os_unlock(log->locks_fd, append_place(log));
  pthread_mutex_unlock(&log->append_mutex);
}

/* The range lock, to keep. A hold gives up at the deadline where the one who has the lock keeps it, and where
 * he is only passing, not before PASSING_NS_MAX: being refused because of one append would be chance. */
static int lock_range_to_keep(ps_log *log, int64_t timeout_ns) {
  if (timeout_ns < 0) return lock_range(log, -1, 0);
  int64_t start = ps_os_monotonic_ns(), seen_kept = 0;
  for (;;) {
    int rc = lock_range_until(log, start);
    if (rc != -EAGAIN) return rc;
    bool keeps;
    (void)holder_pid(log, &keeps);
    /* Twice: between the lock and its first word, the last writer is still named. */
    seen_kept = keeps ? seen_kept + 1 : 0;
    int64_t waited = ps_os_monotonic_ns() - start;
    if (waited >= timeout_ns && (seen_kept > 1 || waited >= PASSING_NS_MAX)) return -EAGAIN;
    struct timespec t = {0, 1000000};
    if (nanosleep(&t, NULL) < 0) return -EINTR;
  }
}

ps_status ps_log_hold(ps_log *log, int64_t timeout_ns, ps_error *err) {
  ps_status status = ps_log_check_writable(log, err);
  if (status != PS_OK) return status;
  /* This process's own appends are passing, too, unless one of them waits for another process. */
  int rc = timeout_ns < 0 || timeout_ns > PASSING_NS_MAX ? lock_mutex(&log->append_mutex, timeout_ns)
                                                         : lock_mutex_for(&log->append_mutex, PASSING_NS_MAX);
  if (rc != 0) return fail_lock(log, rc, PS_HELD, err);
  bool closed = ps_log_flag(&log->closed);
  if (closed || log->held) {
    pthread_mutex_unlock(&log->append_mutex);
    return closed ? ps_log_check(log, err)
                  : ps_fail(err, PS_HELD, log->dir,
                            "the partition is held for exclusive writing by this process already");
  }
  rc = lock_range_to_keep(log, timeout_ns);
  if (rc == 0) {
    ps_release_u64(log->head + PS_HEAD_HOLDER_OFF, log->pid | PS_HEAD_HELD_FLAG);
    __atomic_store_n(&log->held, true, __ATOMIC_RELEASE);
    PS_POINT(log->env, "hold.held");
  }
  pthread_mutex_unlock(&log->append_mutex);
  return rc == 0 ? PS_OK : fail_lock(log, -rc, PS_HELD, err);
}

void ps_log_release(ps_log *log) {
  if (ps_log_flag(&log->forked)) return; /* the lock is the parent's */
  if (!ps_log_flag(&log->held)) return;  /* who has the mutex may be waiting for another process */
  pthread_mutex_lock(&log->append_mutex);
  if (log->held) {
    __atomic_store_n(&log->held, false, __ATOMIC_RELEASE);
    ps_release_u64(log->head + PS_HEAD_HOLDER_OFF, log->pid);
    (void)ps_os_unlock(log->locks_fd, append_place(log));
  }
  pthread_mutex_unlock(&log->append_mutex);
}

bool ps_log_is_held(const ps_log *log) { return ps_log_flag(&log->held) && !ps_log_flag(&log->forked); }

/* ---- the maintenance lock ------------------------------------------------------------------- */

ps_status ps_log_lock_maintain(ps_log *log, int64_t timeout_ns, ps_error *err) {
  int64_t deadline = timeout_ns > 0 ? deadline_in(timeout_ns) : 0;
  int rc = lock_mutex(&log->maintain_mutex, timeout_ns);
  bool locked = rc == 0;
  if (locked && PS_UNLIKELY(ps_log_flag(&log->closed) || ps_log_flag(&log->forked))) {
    pthread_mutex_unlock(&log->maintain_mutex);
    return ps_log_check(log, err);
  }
  if (locked && timeout_ns < 0)
    rc = -ps_os_lock_wait(log->env, log->locks_fd, maintain_place(log), false);
  else if (locked)
    rc = -lock_place_until(log, maintain_place(log), deadline);
  if (rc == 0 && PS_UNLIKELY(ps_head_files_changing(log->head))) ps_log_files_changed(log); /* it has died */
  if (rc == 0) return PS_OK;
  if (locked) pthread_mutex_unlock(&log->maintain_mutex);
  if (rc == EBUSY || rc == ETIMEDOUT || rc == EAGAIN)
    return ps_fail(err, PS_TIMEOUT, log->dir, "somebody else is looking after the partition just now");
  if (rc == EINTR)
    return ps_fail(err, PS_INTERRUPTED, log->dir, "a signal came while waiting for the maintenance lock");
  return ps_fail_errno(err, rc, log->dir, "taking the maintenance lock");
}

void ps_log_unlock_maintain(ps_log *log) {
  (void)ps_os_unlock(log->locks_fd, maintain_place(log));
  pthread_mutex_unlock(&log->maintain_mutex);
}
