/* ps_producer.h - a producer's side of the way to disk: one lane a partition, each with the builder that
 * is open and a queue of those that are full.
 *
 * Any thread may add and deliver; the lock is held for the copy of a record and for pointer moves, never
 * across a system call that can wait, an allocation of columns apart. Order within a lane is the order of
 * adding: one thread at a time delivers a lane (`busy`), and a builder that cannot go out stays at the
 * head of its queue. A lane with a queue is always in somebody's hands: listed with the worker, being
 * delivered, or waiting for its retry.
 *
 * Memory: buffer_bytes are shared by the queues, counted by what they hold, and the open builders, counted by
 * what their columns are made for. Neither takes more than half where the other wants it, so a long queue
 * makes no batch smaller. Where there are so many lanes that not all of them could have a builder for a whole
 * batch, builders start with what their lane came to need before, and grow as they fill; when there is
 * nothing left to grow into, or for another lane's builder, the batch goes out as it is, or the oldest one
 * does. Of builders that are free, as many are kept as stay within buffer_bytes.
 *
 * Who failed: errors that may pass (disk full, out of descriptors or memory) are reported once and the
 * builder is tried again; errors that cannot pass kill the lane, and what it held is handed back failed. */
#ifndef PS_PRODUCER_H
#define PS_PRODUCER_H

#include <pthread.h>

#include "ps_builder.h"
#include "ps_keeper.h"
#include "ps_spin.h"

struct ps_worker;
struct ps_producer;

typedef enum ps_lane_place { PS_LANE_NOWHERE = 0, PS_LANE_READY, PS_LANE_DELAYED } ps_lane_place;

typedef struct ps_lane {
  struct ps_producer *producer;
  ps_log *log;
  ps_kept *kept; /* may be NULL */
  uint32_t index;
  uint32_t codec;
  int32_t value_width;
  int32_t key_width;
  /* Under the producer's lock. */
  ps_builder *open;        /* holds at least one record, or NULL */
  ps_builder *head, *tail; /* sealed, in order */
  bool busy;               /* a thread is delivering the head */
  bool failing;            /* the last try failed and will be repeated */
  bool dead;
  bool unsynced; /* delivered to since the flag was last cleared */
  uint32_t attempts;
  uint32_t bytes_last;                   /* of the builder sealed last; 0: none yet */
  uint64_t sealed, settled;              /* builders that entered and left the queue */
  ps_error error;                        /* why it is failing or dead */
  struct ps_lane *open_prev, *open_next; /* lanes with an open builder, oldest first */
  /* Under the worker's mutex. */
  ps_lane_place place;
  int64_t retry_ns;
  struct ps_lane *work_next;
} ps_lane;

/* Lanes that came together. They stay where they are for as long as the producer lives. */
typedef struct ps_lanes {
  uint32_t end; /* the index after the last one's */
  ps_lane *lanes;
  struct ps_lanes *next; /* atomic: set once */
} ps_lanes;

typedef struct ps_producer_options {
  uint32_t batch_bytes; /* as far as the log's limit allows, which may change */
  uint32_t batch_records;
  uint64_t buffer_bytes; /* of builders with records; adding waits beyond it */
  int64_t linger_ns;
  bool reports; /* every delivered builder is handed back, not only tracked ones */
} ps_producer_options;

typedef struct ps_producer_stats {
  uint64_t records, bytes, batches; /* delivered; bytes of frames */
  uint64_t failed_records;
  uint64_t errors, retries; /* tries that failed; those after which a batch waits for the next try */
  int64_t last_ns;          /* wall clock of the last delivery; 0: none yet */
  uint64_t pending_records;
  uint64_t pending_bytes;
} ps_producer_stats;

typedef struct ps_producer {
  uint32_t lock;      /* see ps_spin_lock */
  uint32_t attention; /* atomic: an error or finished builders wait to be fetched */
  bool forked;
  bool attached; /* under the worker's mutex */
  ps_producer_options options;
  struct ps_worker *worker;
  uint32_t lane_count; /* atomic; only rises */
  uint32_t sticky;     /* the lane records without a key go to, until its builder is sealed */
  ps_lanes first;
  uint64_t queued_bytes;
  uint64_t open_capacity; /* of open builders */
  uint64_t free_capacity; /* of free builders */
  ps_lane *open_first, *open_last;
  ps_builder *free_builders;
  ps_builder *done_first, *done_last; /* finished and to be reported: lane, error, base_offset, user */
  bool has_error;
  ps_error error; /* the first since it was last taken */
  uint32_t error_lane;
  uint64_t lost_records; /* of dead lanes, since last taken */
  ps_producer_stats stats;
  /* Waiters for deliveries. */
  pthread_mutex_t wait_mutex;
  pthread_cond_t progress;
  uint32_t waiters;                /* atomic */
  uint64_t deliveries;             /* atomic; counts every attempt that changed something */
  uint32_t listeners;              /* atomic: who sleeps on `deliveries` as on a futex (ps_watch.h) */
  struct ps_producer *prev, *next; /* under the worker's mutex */
} ps_producer;

static inline uint64_t ps_producer_deliveries(const ps_producer *p) {
  return __atomic_load_n(&p->deliveries, __ATOMIC_SEQ_CST);
}
/* The low half of that: it changes with each. */
#define PS_DELIVERIES_WORD(p) ((const uint32_t *)&(p)->deliveries + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__))

/* Memory that compression needs; one a thread. */
typedef struct ps_scratch {
  void *data;
  uint64_t bytes;
} ps_scratch;
void *ps_scratch_reserve(ps_scratch *scratch, uint64_t bytes); /* NULL: no memory */
void ps_scratch_free(ps_scratch *scratch);

/* Lanes are filled in by the caller (log, kept, codec, widths) before the producer is attached to its worker.
 * NULL: no memory. */
ps_producer *ps_producer_new(const ps_producer_options *options, uint32_t lane_count);
/* Lanes for `count` more partitions, for the caller to fill in and hand to ps_producer_grow. NULL: no memory.
 */
ps_lanes *ps_producer_more(ps_producer *producer, uint32_t count);
/* Free lanes that never came to be a producer's. */
void ps_lanes_free(ps_lanes *more);
/* From now on records go to these, too; any thread may be inside, one at a time grows. */
void ps_producer_grow(ps_producer *producer, ps_lanes *more);
/* No thread may be inside, and it must be detached. Builders with a `user` must have been fetched. */
void ps_producer_free(ps_producer *producer);

#define PS_LANE_STICKY UINT32_MAX
typedef struct ps_added {
  ps_builder *builder; /* where it went; only good to a caller who keeps the builder from being fetched */
  uint32_t index;      /* in that builder */
  uint32_t lane;
} ps_added;
/* Add one record to a lane. tracked: hand the builder back when it is finished. PS_TIMEOUT: the buffer is
 * full, nothing was added, wait with ps_producer_wait_room. Else as ps_builder_add, without PS_END, or
 * the error of a dead lane. *err is filled for everything but PS_OK and PS_TIMEOUT. */
ps_status ps_producer_add(ps_producer *producer, uint32_t lane, const ps_record *record, bool tracked,
                          ps_added *added, ps_error *err);
/* Seal a lane's open builder and see to its delivery. */
void ps_producer_seal(ps_producer *producer, uint32_t lane);
/* The same for every builder whose time has come, or for all; for the worker, who lists the lanes that
 * now have work through `list`. Returns the next deadline. */
typedef void (*ps_lane_visit)(void *context, ps_lane *lane);
int64_t ps_producer_seal_expired(ps_producer *producer, int64_t now_ns, ps_lane_visit list, void *context);

typedef enum ps_outcome {
  PS_DELIVERED,
  PS_NOTHING,  /* the queue is empty, or another thread is delivering it */
  PS_LATER,    /* no error: the append lock or a late sync is in the way */
  PS_FAILING,  /* failed, and will be tried again */
  PS_LANE_DEAD /* failed for good */
} ps_outcome;
/* Append the head of a lane's queue. lock_timeout_ns as for ps_log_append. */
ps_outcome ps_lane_deliver(ps_lane *lane, ps_scratch *scratch, int64_t lock_timeout_ns);
/* How long to leave a lane alone after `outcome`. */
int64_t ps_lane_backoff_ns(ps_lane *lane, ps_outcome outcome);

/* Seal a lane and deliver all it holds now, in this thread as far as possible. PS_OK: it is out. PS_TIMEOUT.
 * PS_OS_ERROR: a try failed meanwhile; ps_producer_take_error says how. */
ps_status ps_producer_drain(ps_producer *producer, uint32_t lane, ps_scratch *scratch, int64_t timeout_ns);
/* The same, begun and not waited for: seal a lane and see to its delivery. Returns how many of its builders
 * are to be settled. */
uint64_t ps_producer_send_off(ps_producer *producer, uint32_t lane);
/* Have the first `target` builders of a lane left its queue, delivered or failed for good? */
bool ps_producer_is_settled(ps_producer *producer, uint32_t lane, uint64_t target);
/* The lane that records without a key go to; the next one becomes it. */
uint32_t ps_producer_next_sticky(ps_producer *producer);
/* Was anything delivered to the lane since the last call? */
bool ps_lane_take_unsynced(ps_lane *lane);
void ps_lane_set_unsynced(ps_lane *lane);
ps_status ps_producer_wait_room(ps_producer *producer, int64_t timeout_ns); /* PS_OK, PS_TIMEOUT */

/* The first error since the last call and the number of records it keeps or lost; false: none. */
bool ps_producer_take_error(ps_producer *producer, ps_error *err, uint64_t *records, uint32_t *lane);
/* Finished builders in order of finishing, to be given back with ps_producer_recycle; NULL: none. */
ps_builder *ps_producer_fetch(ps_producer *producer);
void ps_producer_recycle(ps_producer *producer, ps_builder *builder);
/* Give up what is still there: it is handed back as failed with its lane's error, or *fallback. Waits for a
 * delivery under way. Returns the records lost, those since the last ps_producer_take_error included, and the
 * first error and its lane. */
uint64_t ps_producer_abandon(ps_producer *producer, const ps_error *fallback, ps_error *why, uint32_t *lane);
void ps_producer_get_stats(ps_producer *producer, ps_producer_stats *out);

/* The lane with an index below lane_count. */
static inline ps_lane *ps_producer_lane(ps_producer *p, uint32_t index) {
  ps_lanes *block = &p->first;
  uint32_t begin = 0;
  while (PS_UNLIKELY(index >= block->end)) {
    begin = block->end;
    block = __atomic_load_n(&block->next, __ATOMIC_ACQUIRE);
  }
  return &block->lanes[index - begin];
}

/* The fast paths: into an open builder that has room. False: nothing was done. */
static inline bool ps_producer_settle(ps_producer *p, uint32_t lane, const ps_builder *b, bool added) {
  bool full = added && ps_builder_is_full(b);
  ps_spin_unlock(&p->lock);
  if (PS_UNLIKELY(full)) ps_producer_seal(p, lane);
  return added;
}
static inline bool ps_producer_add_plain(ps_producer *p, const void *value, size_t bytes) {
  ps_spin_lock(&p->lock);
  uint32_t lane = p->sticky;
  ps_builder *b = ps_producer_lane(p, lane)->open;
  return ps_producer_settle(p, lane, b, PS_LIKELY(b != NULL) && ps_builder_add_plain(b, value, bytes));
}
static inline bool ps_producer_add_keyed(ps_producer *p, uint32_t lane, const void *value, size_t bytes,
                                         const void *key, size_t key_bytes) {
  ps_spin_lock(&p->lock);
  ps_builder *b = ps_producer_lane(p, lane)->open;
  return ps_producer_settle(p, lane, b,
                            PS_LIKELY(b != NULL) && ps_builder_add_keyed(b, value, bytes, key, key_bytes));
}

#endif
