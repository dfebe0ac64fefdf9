#include "ps_producer.h"

#include "ps_retain.h"

#include "ps_clock.h"
#include "ps_worker.h"

#define BACKOFF_NS_MIN 10000000ll
#define BACKOFF_NS_MAX 1000000000ll
/* The lock or a late sync is in the way: that is no failure, so look again soon. */
#define LATER_NS 2000000ll

/* ---- under the lock: builders between lists ---------------------------------------------------- */

static void put_free(ps_producer *p, ps_builder *b) {
  ps_builder_reset(b);
  if (p->free_builders && p->free_capacity + b->capacity > p->options.buffer_bytes) {
    ps_builder_free(b);
    return;
  }
  p->free_capacity += b->capacity;
  b->next = p->free_builders; /* last in, first out: the one that is still in the cache */
  p->free_builders = b;
}

/* All lanes of a producer belong to one topic, so their builders are alike. */
static ps_builder *new_builder(const ps_producer *p) {
  const ps_lane *l = &p->first.lanes[0];
  return ps_builder_new(l->value_width, l->key_width, p->options.batch_bytes, p->options.batch_records,
                        ps_log_frame_bytes_max(l->log));
}

static void raise_attention(ps_producer *p) { __atomic_store_n(&p->attention, 1, __ATOMIC_RELAXED); }

/* A builder has come to its end, well or not. */
static void finish(ps_producer *p, ps_builder *b) {
  if (!p->options.reports && !b->tracked) {
    put_free(p, b);
    return;
  }
  b->next = NULL;
  if (p->done_last)
    p->done_last->next = b;
  else
    p->done_first = b;
  p->done_last = b;
  raise_attention(p);
}

static void list_open(ps_producer *p, ps_lane *l, ps_builder *b) {
  l->open = b;
  l->open_next = NULL;
  l->open_prev = p->open_last;
  if (p->open_last)
    p->open_last->open_next = l;
  else
    p->open_first = l;
  p->open_last = l;
  p->open_capacity += b->capacity;
}

static ps_builder *unlist_open(ps_producer *p, ps_lane *l) {
  ps_builder *b = l->open;
  if (l->open_prev)
    l->open_prev->open_next = l->open_next;
  else
    p->open_first = l->open_next;
  if (l->open_next)
    l->open_next->open_prev = l->open_prev;
  else
    p->open_last = l->open_prev;
  l->open = NULL;
  p->open_capacity -= b->capacity;
  return b;
}

/* Move the open builder to the queue. True: the lane had no queue, and now needs somebody's hands. */
static bool seal(ps_producer *p, ps_lane *l) {
  ps_builder *b = unlist_open(p, l);
  bool was_empty = l->head == NULL;
  b->next = NULL;
  if (l->tail)
    l->tail->next = b;
  else
    l->head = b;
  l->tail = b;
  l->sealed++;
  l->bytes_last = b->bytes;
  p->queued_bytes += b->bytes;
  if (l->index == p->sticky && ++p->sticky == p->lane_count) p->sticky = 0;
  return was_empty;
}

static ps_builder *pop(ps_producer *p, ps_lane *l) {
  ps_builder *b = l->head;
  l->head = b->next;
  if (!l->head) l->tail = NULL;
  l->settled++;
  p->queued_bytes -= b->bytes;
  return b;
}

static void note_error(ps_producer *p, const ps_lane *l, const ps_error *err) {
  if (!p->has_error) {
    p->has_error = true;
    p->error = *err;
    p->error_lane = l->index;
  }
  raise_attention(p);
}

static uint64_t fail_builder(ps_producer *p, ps_builder *b, const ps_error *err) {
  uint64_t records = b->count;
  b->error = *err;
  p->stats.failed_records += records;
  finish(p, b);
  return records;
}

static uint64_t fail_lane(ps_producer *p, ps_lane *l, const ps_error *err) {
  uint64_t records = 0;
  while (l->head) records += fail_builder(p, pop(p, l), err);
  if (l->open) records += fail_builder(p, unlist_open(p, l), err);
  return records;
}

static void announce(ps_producer *p) {
  __atomic_add_fetch(&p->deliveries, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&p->listeners, __ATOMIC_SEQ_CST)) ps_os_futex_wake_all(PS_DELIVERIES_WORD(p));
  if (!__atomic_load_n(&p->waiters, __ATOMIC_SEQ_CST)) return;
  pthread_mutex_lock(&p->wait_mutex);
  pthread_cond_broadcast(&p->progress);
  pthread_mutex_unlock(&p->wait_mutex);
}

/* ---- adding ------------------------------------------------------------------------------------ */

static const char *refusal(ps_status status) {
  if (status == PS_TOO_LARGE) return "the record is larger than a segment can hold";
  if (status == PS_NO_MEMORY) return "no memory for a batch";
  return "a value, key or header breaks the topic's limits";
}

/* One builder in the free list; taken outside the lock. False: no memory. */
static bool stock(ps_producer *p) {
  ps_builder *b = new_builder(p);
  if (!b) return false;
  ps_spin_lock(&p->lock);
  put_free(p, b);
  ps_spin_unlock(&p->lock);
  return true;
}

/* What adding has left to be done once the lock is gone. */
typedef struct after {
  ps_lane *schedule[2];
  int count;
  int64_t deadline_ns; /* of a builder that was opened, or PS_NEVER */
} after;

static void seal_and_list(ps_producer *p, ps_lane *l, after *todo) {
  if (seal(p, l)) todo->schedule[todo->count++] = l;
}

static void settle(ps_producer *p, const after *todo) {
  for (int i = 0; i < todo->count; i++) ps_worker_schedule(p->worker, todo->schedule[i], 0);
  if (todo->deadline_ns != PS_NEVER && ps_worker_oversleeps(p->worker, todo->deadline_ns))
    ps_worker_poke(p->worker);
}

/* What open builders may take together; one alone may be a whole batch. */
static uint64_t open_capacity_max(const ps_producer *p) {
  uint64_t half = p->options.buffer_bytes / 2;
  return half > p->options.batch_bytes ? half : p->options.batch_bytes;
}

/* Is there no room for one more? Never because of open builders alone, for nobody would make room. */
static bool is_full(const ps_producer *p) {
  uint64_t half = p->options.buffer_bytes / 2, open = p->open_capacity < half ? p->open_capacity : half;
  return p->queued_bytes >= p->options.buffer_bytes - open;
}

/* Columns for an empty builder that is to be opened. Where there is not enough for all lanes to have a whole
 * batch, they are made for somewhat more than the lane's last one came to hold, or for an equal share. What
 * was a burst may be over, so it begins with a few shares at most, and grows again where there is room. */
static void size_builder(ps_producer *p, const ps_lane *l, ps_builder *b, after *todo) {
  uint64_t max = open_capacity_max(p), batch = p->options.batch_bytes;
  if (PS_LIKELY(p->lane_count * batch <= max)) {
    ps_builder_size(b, p->options.batch_bytes);
    return;
  }
  uint64_t share = max / p->lane_count, wanted = l->bytes_last ? l->bytes_last + l->bytes_last / 8 : share;
  if (wanted > 4 * share) wanted = 4 * share;
  if (wanted > batch) wanted = batch;
  if (b->capacity < wanted || b->capacity > (wanted > share ? wanted : share))
    ps_builder_size(b, (uint32_t)wanted);
  if (p->open_capacity + b->capacity <= max || !p->open_first) return;
  seal_and_list(p, p->open_first, todo); /* the oldest */
  uint64_t left = p->open_capacity < max ? max - p->open_capacity : 0;
  if (b->capacity > left) ps_builder_size(b, (uint32_t)left);
}

/* Start a builder with this record. PS_END: the free list is empty. */
static ps_status open_builder(ps_producer *p, ps_lane *l, const ps_record *r, after *todo) {
  const ps_producer_options *o = &p->options;
  if (is_full(p)) return PS_TIMEOUT;
  ps_builder *b = p->free_builders;
  if (!b) return PS_END;
  p->free_capacity -= b->capacity;
  ps_builder_limit(b, o->batch_bytes, ps_log_frame_bytes_max(l->log));
  size_builder(p, l, b, todo);
  b->stamp = ps_os_now_ns();
  ps_status status = ps_builder_add(b, r);
  if (status == PS_OK) {
    p->free_builders = b->next;
    b->next = NULL;
    b->deadline_ns = todo->deadline_ns = ps_deadline(ps_os_monotonic_ns(), o->linger_ns);
    b->lane = l->index;
    list_open(p, l, b);
  } else {
    p->free_capacity += b->capacity;
  }
  return status;
}

/* Room for more in the builder a lane has open, whose columns are used up: true. */
static bool grow(ps_producer *p, ps_builder *b) {
  uint32_t before = b->capacity, more = ps_builder_grown(b) - before;
  if (!more || p->open_capacity + more > open_capacity_max(p) || !ps_builder_grow(b)) return false;
  p->open_capacity += b->capacity - before;
  return true;
}

/* Add to the builder a lane has open. PS_END: it is full. */
static ps_status add_to_open(ps_producer *p, ps_lane *l, const ps_record *r) {
  ps_status status = ps_builder_add(l->open, r);
  while (status == PS_END && l->open->count < l->open->count_max && grow(p, l->open))
    status = ps_builder_add(l->open, r);
  return status;
}

ps_status ps_producer_add(ps_producer *p, uint32_t lane, const ps_record *r, bool tracked, ps_added *added,
                          ps_error *err) {
  for (;;) {
    after todo = {.deadline_ns = PS_NEVER};
    ps_spin_lock(&p->lock);
    ps_lane *l = ps_producer_lane(p, lane == PS_LANE_STICKY ? p->sticky : lane);
    if (l->dead) {
      *err = l->error;
      if (lane == PS_LANE_STICKY && ++p->sticky == p->lane_count) p->sticky = 0;
      ps_spin_unlock(&p->lock);
      return err->status;
    }
    ps_status status;
    if (l->open && (status = add_to_open(p, l, r)) == PS_END) {
      seal_and_list(p, l, &todo);
      ps_spin_unlock(&p->lock);
      settle(p, &todo); /* and again: into a fresh builder, of the next lane if it is sticky */
      continue;
    }
    if (!l->open) status = open_builder(p, l, r, &todo);
    if (status == PS_OK) {
      if (tracked) l->open->tracked = true;
      *added = (ps_added){.builder = l->open, .index = l->open->count - 1, .lane = l->index};
      if (ps_builder_is_full(l->open)) seal_and_list(p, l, &todo);
    }
    ps_spin_unlock(&p->lock);
    settle(p, &todo);
    if (status == PS_END) {
      if (stock(p)) continue;
      status = PS_NO_MEMORY;
    }
    return status == PS_OK || status == PS_TIMEOUT ? status : ps_fail(err, status, NULL, refusal(status));
  }
}

void ps_producer_seal(ps_producer *p, uint32_t lane) {
  after todo = {.deadline_ns = PS_NEVER};
  ps_spin_lock(&p->lock);
  ps_lane *l = ps_producer_lane(p, lane);
  if (l->open) seal_and_list(p, l, &todo);
  ps_spin_unlock(&p->lock);
  settle(p, &todo);
}

int64_t ps_producer_seal_expired(ps_producer *p, int64_t now_ns, ps_lane_visit list, void *context) {
  int64_t next = PS_NEVER;
  ps_spin_lock(&p->lock);
  while (p->open_first) {
    ps_lane *l = p->open_first;
    next = l->open->deadline_ns;
    if (next > now_ns) break;
    if (seal(p, l)) list(context, l);
    next = PS_NEVER;
  }
  ps_spin_unlock(&p->lock);
  return next;
}

/* ---- delivering -------------------------------------------------------------------------------- */

static ps_status append_builder(ps_lane *l, ps_builder *b, ps_scratch *scratch, int64_t lock_timeout_ns,
                                uint64_t *frame_bytes, ps_error *err) {
  if (l->kept && ps_kept_is_behind(l->kept))
    return ps_fail(err, PS_TIMEOUT, NULL, "syncing has fallen behind");
  if (ps_log_is_late(l->log)) ps_log_catch_up(l->log);
  if (ps_log_is_late(l->log))
    return ps_fail(err, PS_TIMEOUT, NULL, "removing old segments has fallen behind");
  if (b->base_offset >= 0) return ps_log_sync(l->log, err); /* appended before; its sync had failed */
  ps_columns columns;
  ps_frame_meta proto;
  ps_prepared batch;
  ps_builder_columns(b, &columns);
  ps_frame_meta_init(&proto);
  if (ps_log_stamps(l->log)) proto.attributes |= PS_ATTR_LOG_APPEND_TIME;
  uint64_t need = ps_frame_scratch_bytes(&columns, l->codec);
  if (need && !ps_scratch_reserve(scratch, need))
    return ps_fail(err, PS_NO_MEMORY, NULL, "no memory to compress a batch");
  /* The builder's limit: the log's may be lower by now, for what is begun from now on. */
  ps_status status = ps_frame_prepare(&columns, &proto, l->codec, b->frame_bytes_max, scratch->data,
                                      scratch->bytes, &batch, err);
  if (status == PS_OK) status = ps_log_append(l->log, &batch, lock_timeout_ns, &b->base_offset, err);
  if (status != PS_OK) return status;
  *frame_bytes = batch.meta.frame_bytes;
  if (!b->has_timestamps) b->stamp = batch.meta.first_timestamp; /* the log may have set its own */
  if (l->kept) ps_kept_note(l->kept, batch.meta.frame_bytes);
  return PS_OK;
}

/* What a call refused was not stored, so trying again is safe, and somebody may make room, or lift a limit.
 * What left it open what was stored has poisoned the log instead. */
static bool may_pass(const ps_error *err) {
  return err->status == PS_NO_MEMORY || err->status == PS_OS_ERROR;
}

/* Under the lock: what the answer to the head's append means. */
static ps_outcome judge(ps_producer *p, ps_lane *l, ps_status status, uint64_t frame_bytes, int64_t now_ns,
                        const ps_error *err) {
  if (status == PS_OK) {
    ps_builder *b = pop(p, l);
    p->stats.records += b->count;
    p->stats.bytes += frame_bytes;
    p->stats.batches++;
    p->stats.last_ns = now_ns;
    l->attempts = 0;
    l->failing = false;
    l->unsynced = true;
    finish(p, b);
    return PS_DELIVERED;
  }
  if (status == PS_TIMEOUT || status == PS_INTERRUPTED) return PS_LATER;
  l->error = *err;
  p->stats.errors++;
  note_error(p, l, err);
  if (may_pass(err)) {
    p->stats.retries++;
    l->attempts++;
    l->failing = true;
    return PS_FAILING;
  }
  l->failing = false;
  l->dead = true;
  p->lost_records += fail_lane(p, l, err);
  return PS_LANE_DEAD;
}

ps_outcome ps_lane_deliver(ps_lane *l, ps_scratch *scratch, int64_t lock_timeout_ns) {
  ps_producer *p = l->producer;
  ps_spin_lock(&p->lock);
  ps_builder *b = l->busy ? NULL : l->head;
  if (b) l->busy = true;
  ps_spin_unlock(&p->lock);
  if (!b) return PS_NOTHING;

  ps_error err;
  err.status = PS_OK;
  uint64_t frame_bytes = 0;
  ps_status status = append_builder(l, b, scratch, lock_timeout_ns, &frame_bytes, &err);

  int64_t now_ns = ps_os_now_ns();
  ps_spin_lock(&p->lock);
  l->busy = false;
  ps_outcome outcome = judge(p, l, status, frame_bytes, now_ns, &err);
  ps_spin_unlock(&p->lock);
  announce(p);
  return outcome;
}

int64_t ps_lane_backoff_ns(ps_lane *l, ps_outcome outcome) {
  if (outcome == PS_LATER) return LATER_NS;
  if (outcome != PS_FAILING) return 0;
  ps_spin_lock(&l->producer->lock);
  uint32_t attempts = l->attempts;
  ps_spin_unlock(&l->producer->lock);
  uint32_t doublings = attempts > 8 ? 8 : attempts ? attempts - 1 : 0;
  int64_t wait = BACKOFF_NS_MIN << doublings;
  return wait < BACKOFF_NS_MAX ? wait : BACKOFF_NS_MAX;
}

/* ---- waiting ------------------------------------------------------------------------------------ */

bool ps_producer_is_settled(ps_producer *p, uint32_t lane, uint64_t target) {
  ps_spin_lock(&p->lock);
  bool settled = ps_producer_lane(p, lane)->settled >= target;
  ps_spin_unlock(&p->lock);
  return settled;
}

uint64_t ps_producer_send_off(ps_producer *p, uint32_t lane) {
  ps_producer_seal(p, lane);
  ps_spin_lock(&p->lock);
  uint64_t target = ps_producer_lane(p, lane)->sealed;
  ps_spin_unlock(&p->lock);
  return target;
}

/* Wait until something was delivered or failed since `seen`. False: the deadline has passed. */
static bool wait_progress(ps_producer *p, uint64_t seen, int64_t deadline_ns) {
  bool moved = true;
  pthread_mutex_lock(&p->wait_mutex);
  __atomic_add_fetch(&p->waiters, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&p->deliveries, __ATOMIC_SEQ_CST) == seen && moved)
    moved = ps_cond_wait_until(&p->progress, &p->wait_mutex, deadline_ns);
  __atomic_sub_fetch(&p->waiters, 1, __ATOMIC_SEQ_CST);
  pthread_mutex_unlock(&p->wait_mutex);
  return moved;
}

/* This thread lets go of a lane that may still have a queue. */
static void hand_over(ps_lane *l) {
  ps_spin_lock(&l->producer->lock);
  bool queue = l->head != NULL;
  ps_spin_unlock(&l->producer->lock);
  if (queue) ps_worker_schedule(l->producer->worker, l, 0);
}

ps_status ps_producer_drain(ps_producer *p, uint32_t lane, ps_scratch *scratch, int64_t timeout_ns) {
  ps_lane *l = ps_producer_lane(p, lane);
  int64_t deadline = ps_deadline(ps_os_monotonic_ns(), timeout_ns);
  ps_spin_lock(&p->lock);
  if (l->open) seal(p, l); /* this thread is its hands */
  uint64_t target = l->sealed;
  ps_spin_unlock(&p->lock);
  for (;;) {
    uint64_t seen = __atomic_load_n(&p->deliveries, __ATOMIC_SEQ_CST);
    if (ps_producer_is_settled(p, lane, target)) break;
    ps_outcome outcome = ps_lane_deliver(l, scratch, 0);
    if (outcome == PS_DELIVERED) continue;
    if (outcome == PS_LANE_DEAD) return PS_OS_ERROR;
    if (outcome == PS_FAILING) {
      ps_worker_schedule(p->worker, l, ps_lane_backoff_ns(l, outcome));
      return PS_OS_ERROR;
    }
    int64_t now = ps_os_monotonic_ns();
    /* Another thread delivers, or the lock is held elsewhere: look again when something has moved. */
    int64_t until = outcome == PS_LATER ? now + LATER_NS : deadline;
    if (until > deadline) until = deadline;
    wait_progress(p, seen + (outcome == PS_LATER), until);
    if (ps_os_monotonic_ns() >= deadline) {
      hand_over(l);
      return ps_producer_is_settled(p, lane, target) ? PS_OK : PS_TIMEOUT;
    }
  }
  hand_over(l); /* what others have added meanwhile */
  return PS_OK;
}

ps_status ps_producer_wait_room(ps_producer *p, int64_t timeout_ns) {
  int64_t deadline = ps_deadline(ps_os_monotonic_ns(), timeout_ns);
  for (;;) {
    uint64_t seen = __atomic_load_n(&p->deliveries, __ATOMIC_SEQ_CST);
    ps_spin_lock(&p->lock);
    bool room = !is_full(p) || p->has_error;
    ps_spin_unlock(&p->lock);
    if (room) return PS_OK;
    if (!wait_progress(p, seen, deadline)) return PS_TIMEOUT;
  }
}

uint32_t ps_producer_next_sticky(ps_producer *p) {
  ps_spin_lock(&p->lock);
  uint32_t lane = p->sticky;
  p->sticky = lane + 1 == p->lane_count ? 0 : lane + 1;
  ps_spin_unlock(&p->lock);
  return lane;
}

bool ps_lane_take_unsynced(ps_lane *l) {
  ps_spin_lock(&l->producer->lock);
  bool unsynced = l->unsynced;
  l->unsynced = false;
  ps_spin_unlock(&l->producer->lock);
  return unsynced;
}

void ps_lane_set_unsynced(ps_lane *l) {
  ps_spin_lock(&l->producer->lock);
  l->unsynced = true;
  ps_spin_unlock(&l->producer->lock);
}

/* ---- reporting ---------------------------------------------------------------------------------- */

static uint64_t lane_records(const ps_lane *l) {
  uint64_t records = l->open ? l->open->count : 0;
  for (const ps_builder *b = l->head; b; b = b->next) records += b->count;
  return records;
}

/* Under the lock, after something was taken. */
static void settle_attention(ps_producer *p) {
  __atomic_store_n(&p->attention, p->has_error || p->done_first, __ATOMIC_RELAXED);
}

bool ps_producer_take_error(ps_producer *p, ps_error *err, uint64_t *records, uint32_t *lane) {
  ps_spin_lock(&p->lock);
  uint64_t held = p->lost_records;
  if (p->has_error)
    for (uint32_t i = 0; i < p->lane_count; i++) {
      const ps_lane *l = ps_producer_lane(p, i);
      if (l->failing) held += lane_records(l);
    }
  /* An error that has passed, with everything delivered since, is none. */
  bool any = p->has_error && held > 0;
  if (any) {
    *err = p->error;
    *records = held;
    *lane = p->error_lane;
  }
  p->has_error = false;
  p->lost_records = 0;
  settle_attention(p);
  ps_spin_unlock(&p->lock);
  return any;
}

ps_builder *ps_producer_fetch(ps_producer *p) {
  ps_spin_lock(&p->lock);
  ps_builder *b = p->done_first;
  if (b) {
    p->done_first = b->next;
    if (!p->done_first) p->done_last = NULL;
    b->next = NULL;
  }
  settle_attention(p);
  ps_spin_unlock(&p->lock);
  return b;
}

void ps_producer_recycle(ps_producer *p, ps_builder *b) {
  ps_spin_lock(&p->lock);
  put_free(p, b);
  ps_spin_unlock(&p->lock);
}

uint64_t ps_producer_abandon(ps_producer *p, const ps_error *fallback, ps_error *why, uint32_t *lane) {
  uint64_t records = 0;
  for (uint32_t i = 0; i < p->lane_count; i++) {
    ps_lane *l = ps_producer_lane(p, i);
    for (;;) {
      uint64_t seen = __atomic_load_n(&p->deliveries, __ATOMIC_SEQ_CST);
      ps_spin_lock(&p->lock);
      if (!l->busy) break;
      ps_spin_unlock(&p->lock);
      wait_progress(p, seen, PS_NEVER);
    }
    ps_error err = l->failing ? l->error : *fallback;
    l->failing = false;
    uint64_t lost = fail_lane(p, l, &err);
    if (lost) note_error(p, l, &err);
    records += lost;
    ps_spin_unlock(&p->lock);
  }
  ps_spin_lock(&p->lock);
  records += p->lost_records;
  *why = p->has_error ? p->error : *fallback;
  *lane = p->has_error ? p->error_lane : 0;
  p->has_error = false;
  p->lost_records = 0;
  settle_attention(p);
  ps_spin_unlock(&p->lock);
  announce(p);
  return records;
}

void ps_producer_get_stats(ps_producer *p, ps_producer_stats *out) {
  ps_spin_lock(&p->lock);
  *out = p->stats;
  out->pending_records = 0;
  out->pending_bytes = p->queued_bytes;
  for (uint32_t i = 0; i < p->lane_count; i++) {
    const ps_lane *l = ps_producer_lane(p, i);
    out->pending_records += lane_records(l);
    if (l->open) out->pending_bytes += l->open->bytes;
  }
  ps_spin_unlock(&p->lock);
}
