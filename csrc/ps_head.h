/* ps_head.h - the shared control page of a partition. The page is mapped writable by every process; its words
 * are touched only through these helpers, which state the memory order. */
#ifndef PS_HEAD_H
#define PS_HEAD_H

#include "ps_base.h"
#include "ps_format.h"

typedef struct ps_slot { /* a log-end slot, decoded */
  uint64_t sequence;
  int64_t log_end;
  int64_t segment;
  uint64_t position;
  uint64_t frames;
  int64_t max_timestamp;
  int32_t leader_epoch;
} ps_slot;

typedef struct ps_head_identity {
  uint8_t topic_uuid[16];
  uint32_t partition;
  uint64_t device, inode;
} ps_head_identity;

void ps_head_write_identity(uint8_t *head, const ps_head_identity *identity);
/* PS_HEAD_SOUND, or what is wrong with it. */
typedef enum ps_head_verdict {
  PS_HEAD_SOUND,
  PS_HEAD_BLANK,   /* never written */
  PS_HEAD_DAMAGED, /* bytes do not fit their checksum, or it belongs to another partition */
  PS_HEAD_MOVED,   /* sound, but copied: device or inode differ */
  PS_HEAD_NEWER    /* another format version */
} ps_head_verdict;
ps_head_verdict ps_head_check_identity(const uint8_t *head, const ps_head_identity *expected);

/* The sound slot with the higher sequence; false when neither is sound. Under the append lock the answer is
 * exact; without it, a slot may change while it is read, which its checksum shows. */
bool ps_head_read_slot(const uint8_t *head, ps_slot *out);
/* Write the slot that is not the good one. Append lock held; slot->sequence must be the good one's plus one.
 */
void ps_head_write_slot(uint8_t *head, const ps_slot *slot);

/* The log start: it stands there twice, each with its check word, and the sound one that is higher counts.
 * -1: neither is sound. */
int64_t ps_head_log_start(const uint8_t *head);
/* The same, of those up to `most`. */
int64_t ps_head_log_start_within(const uint8_t *head, int64_t most);
/* Raise it. Only the one that does not count is stored to, so that whoever dies in between, and whatever a
 * power failure tears, the last one stays; which the caller has made durable, or nobody has relied on.
 * Maintenance lock held. */
void ps_head_raise_log_start(uint8_t *head, int64_t offset);
/* Both anew, whatever they say: of a head that nobody goes by yet. */
void ps_head_set_log_start(uint8_t *head, int64_t offset);

/* Moved whenever segments are removed or replaced, and whenever the topic is renamed. */
static inline uint64_t ps_head_files(const uint8_t *head) { return ps_acquire_u64(head + PS_HEAD_FILES_OFF); }
/* Somebody is replacing segments, or has died at it. */
static inline bool ps_head_files_changing(const uint8_t *head) { return ps_head_files(head) & 1; }
static inline uint64_t ps_head_moves(const uint8_t *head) { return ps_acquire_u64(head + PS_HEAD_MOVES_OFF); }
/* Up to where the log was compacted, with its check word; -1 when they disagree: nowhere. */
int64_t ps_head_cleaned(const uint8_t *head);
/* PS_LOCK_MAINTAIN held, or the partition being recovered. */
void ps_head_set_cleaned(uint8_t *head, int64_t offset);
/* When the first tombstone of what was compacted may go; 0: there is none, as far as is known. A hint. */
static inline int64_t ps_head_horizon(const uint8_t *head) {
  return ps_acquire_i64(head + PS_HEAD_HORIZON_OFF);
}

/* Poison: 0 when sound, else the errno. A damaged word counts as poison with EIO. */
static inline int ps_head_poison(const uint8_t *head) {
  uint64_t v = __atomic_load_n((const uint64_t *)(head + PS_HEAD_POISON_OFF), __ATOMIC_ACQUIRE);
  if (PS_LIKELY(v == 0)) return 0;
  return (v & ~0xfffffffull) == PS_HEAD_POISON_TAG && (v & 0xfffffff) ? (int)(v & 0xfffffff) : 5 /* EIO */;
}
static inline void ps_head_set_poison(uint8_t *head, int os_errno) {
  uint64_t none = 0; /* the first one stays: it is the cause */
  __atomic_compare_exchange_n((uint64_t *)(head + PS_HEAD_POISON_OFF), &none,
                              PS_HEAD_POISON_TAG | ((uint64_t)os_errno & 0xfffffff), false, __ATOMIC_SEQ_CST,
                              __ATOMIC_RELAXED);
}
static inline bool ps_head_deleted(const uint8_t *head) {
  return ps_acquire_u64(head + PS_HEAD_DELETED_OFF) == PS_HEAD_DELETED_MAGIC;
}
static inline int64_t ps_head_watermark(const uint8_t *head) {
  return ps_acquire_i64(head + PS_HEAD_WATERMARK_OFF);
}
static inline int64_t ps_head_log_end(const uint8_t *head) {
  return ps_acquire_i64(head + PS_HEAD_LOG_END_OFF);
}
static inline int64_t ps_head_durable(const uint8_t *head) {
  return ps_acquire_i64(head + PS_HEAD_DURABLE_OFF);
}

/* Never down. Sync lock held, or the partition recovered: nobody else moves it. */
static inline void ps_head_raise_durable(uint8_t *head, int64_t offset) {
  if (ps_max_i64(head + PS_HEAD_DURABLE_OFF, offset))
    ps_release_u64(head + PS_HEAD_DURABLE_CHECK_OFF, (uint64_t)offset * PS_HEAD_DURABLE_FACTOR);
}
/* What may be believed of a head that others wrote: -1 where the word does not fit its check. `alive`: the
 * page is as it was stored, so whoever moved them died between the two, and the lower one is true. */
int64_t ps_head_durable_checked(const uint8_t *head, bool alive);

/* Waiting for the watermark: an eventcount in one word. Bit 0 of `signal` says that somebody waits, the rest
 * counts wake-ups.
 *
 *   waiter: set the bit -> fence -> look at the watermark -> sleep while the word is what it was with the bit
 *   writer: move the watermark -> fence -> look at the word -> if the bit is set: to the next even value in
 *           one step, and wake all
 *
 * No wake-up is lost. Of the two fences one comes first. If the writer's, the waiter's look finds the new
 * watermark, and nobody sleeps. If the waiter's, the writer's look finds the bit, or a value from after it:
 * then another writer has moved the word since, and wakes. In each case the word is not what the waiter
 * noted, so it sleeps no more, or is refused the sleep. Without the writer's fence both may look too early.
 *
 * Bit and count are one word, changed in one step, because two words would be changed in some order, and both
 * orders go wrong. The writer clears the mark, then counts: a waiter that marks before the one and notes
 * after the other sleeps on the new count without a mark, and the next writer sees nobody. It counts, then
 * clears: so does a waiter that comes between the two. (A number of waiters, which each takes back, has no
 * such gap, but outlives a waiter that is killed: writers would pay for it for ever.)
 *
 * Nothing is taken back: who gives up waiting, or is killed, costs the next writer one needless wake-up. A
 * writer that dies, or is stopped, between the step and the call leaves sleepers to the end of their slice.
 */

/* Say that somebody waits, until the next wake-up; the value to sleep on. The watermark is to be looked at
 * between this and the sleep. */
uint32_t ps_head_listen(uint8_t *head);
/* Wake whoever waits for what the caller has just stored. True: somebody did, or had. */
bool ps_head_signal(uint8_t *head);

#endif
