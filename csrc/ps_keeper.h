/* ps_keeper.h - upkeep of the partitions this process writes to, in a native thread of its own: syncs of
 * `interval` topics, the next segment, pages populated ahead. A sync that hangs holds up nobody else's
 * records, which is why this is not the thread that appends.
 *
 * Whoever appends calls ps_kept_note afterwards: two loads and one addition. An entry with nothing to
 * sync goes idle and costs no wake-ups until the next note. */
#ifndef PS_KEEPER_H
#define PS_KEEPER_H

#include <pthread.h>

#include "ps_log.h"

typedef struct ps_keeper ps_keeper;

typedef struct ps_kept {
  ps_keeper *keeper; /* atomic; NULL once forgotten */
  ps_log *log;
  /* Atomic; ps_kept_set changes them. */
  int64_t interval_ns; /* between starts of syncs; 0 = never sync */
  uint64_t step_bytes; /* how often, in appended bytes, the next segment is looked after at least */
  bool populates;
  /* Shared with appenders, atomic. */
  uint64_t appended; /* bytes, since the entry was made */
  uint64_t wake_at;  /* `appended` at which the keeper wants to be woken */
  int64_t due_ns;    /* monotonic start of the next sync; it stays put until that sync has ended */
  bool idle;
  /* Under the keeper's mutex. */
  bool poked;
  bool busy;
  bool started; /* the kernel was told to begin; the sync follows at once */
  int64_t seen_ns;
  uint64_t seen_bytes;
  int64_t covered_ns; /* everything appended before it has been synced */
  int64_t lag_ns_max; /* the longest time a record has waited for its sync: the achieved loss bound */
  struct ps_kept *prev, *next;
} ps_kept;

struct ps_keeper {
  pthread_mutex_t mutex;
  pthread_cond_t work;
  pthread_cond_t progress;
  ps_kept *first;
  bool stop;
  bool running; /* atomic */
};

/* Pages are populated ahead only above this rate (one page each 60 us). Populated pages are dirty:
 * those that nothing has been stored to by the next sync are written out for nothing. */
#define PS_POPULATE_RATE_MIN (64ull << 20)
#define PS_POPULATE_BYTES_MAX (32ull << 20)
#define PS_POPULATE_BYTES_MIN (1ull << 20)
/* For topics that are never synced: how far ahead, in time, populated pages may lie. */
#define PS_POPULATE_HORIZON_NS 1000000000ll

void ps_keeper_init(ps_keeper *keeper);
void ps_keeper_destroy(ps_keeper *keeper);
/* Start looking after a log. NULL: no memory. The log must outlive the entry. */
ps_kept *ps_keeper_keep(ps_keeper *keeper, ps_log *log, int64_t interval_ns, bool populates,
                        uint32_t segment_bytes);
/* Look after it in another way from now on: as for ps_keeper_keep. Waits while the keeper is busy with it. */
void ps_kept_set(ps_kept *kept, int64_t interval_ns, bool populates, uint32_t segment_bytes);
/* Stop looking after it; waits while the keeper is busy with it. Notes that still come do nothing. */
void ps_keeper_forget(ps_keeper *keeper, ps_kept *kept);
/* Free a forgotten entry, or one of a parent process. No thread may be noting. */
void ps_kept_free(ps_kept *kept);
/* The thread's body; returns after stop. A last sync of every dirty interval log is its last act. */
void ps_keeper_run(ps_keeper *keeper);
void ps_keeper_stop(ps_keeper *keeper);
/* In a forked child, whose parent held the mutex across the fork: drop all entries. */
void ps_keeper_after_fork(ps_keeper *keeper);

void ps_kept_poke(ps_kept *kept);
/* Is the sync so late that appending more would stretch the loss bound beyond use? */
bool ps_kept_is_behind(const ps_kept *kept);
/* Wait until it is not; -1: for ever. PS_OK or PS_TIMEOUT. */
ps_status ps_kept_wait(ps_kept *kept, int64_t timeout_ns);
int64_t ps_kept_lag_ns_max(ps_kept *kept);
/* How long ago the sync should have begun that is holding appends back; 0: none is. */
int64_t ps_kept_late_ns(const ps_kept *kept);

/* Tell of `bytes` just appended. */
static inline void ps_kept_note(ps_kept *kept, uint64_t bytes) {
  /* Sequentially consistent: either the keeper, going idle, sees the log dirty, or this sees it idle. */
  uint64_t total = __atomic_add_fetch(&kept->appended, bytes, __ATOMIC_SEQ_CST);
  if (PS_UNLIKELY(total >= __atomic_load_n(&kept->wake_at, __ATOMIC_RELAXED) ||
                  __atomic_load_n(&kept->idle, __ATOMIC_SEQ_CST)))
    ps_kept_poke(kept);
}

#endif
