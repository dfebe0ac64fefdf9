#include "ps_head.h"

#include "ps_hash.h"
#include "ps_os.h"

void ps_head_write_identity(uint8_t *head, const ps_head_identity *identity) {
  ps_store_u64(head + PS_HEAD_MAGIC_OFF, PS_HEAD_MAGIC);
  ps_store_u32(head + PS_HEAD_VERSION_OFF, PS_FORMAT_VERSION);
  ps_store_u32(head + PS_HEAD_PARTITION_OFF, identity->partition);
  memcpy(head + PS_HEAD_TOPIC_UUID_OFF, identity->topic_uuid, 16);
  ps_store_u64(head + PS_HEAD_DEVICE_OFF, identity->device);
  ps_store_u64(head + PS_HEAD_INODE_OFF, identity->inode);
  ps_store_u64(head + PS_HEAD_IDENTITY_CHECKSUM_OFF, ps_hash(head, PS_HEAD_IDENTITY_CHECKSUM_OFF));
}

ps_head_verdict ps_head_check_identity(const uint8_t *head, const ps_head_identity *expected) {
  bool blank = true;
  for (uint32_t i = 0; i < PS_HEAD_STATE_OFF; i++) blank = blank && head[i] == 0;
  if (blank) return PS_HEAD_BLANK;
  if (ps_load_u64(head + PS_HEAD_MAGIC_OFF) != PS_HEAD_MAGIC) return PS_HEAD_DAMAGED;
  if (ps_load_u64(head + PS_HEAD_IDENTITY_CHECKSUM_OFF) != ps_hash(head, PS_HEAD_IDENTITY_CHECKSUM_OFF))
    return PS_HEAD_DAMAGED;
  if (ps_load_u32(head + PS_HEAD_VERSION_OFF) != PS_FORMAT_VERSION) return PS_HEAD_NEWER;
  if (ps_load_u32(head + PS_HEAD_PARTITION_OFF) != expected->partition) return PS_HEAD_DAMAGED;
  if (memcmp(head + PS_HEAD_TOPIC_UUID_OFF, expected->topic_uuid, 16) != 0) return PS_HEAD_DAMAGED;
  if (ps_load_u64(head + PS_HEAD_DEVICE_OFF) != expected->device) return PS_HEAD_MOVED;
  if (ps_load_u64(head + PS_HEAD_INODE_OFF) != expected->inode) return PS_HEAD_MOVED;
  return PS_HEAD_SOUND;
}

static bool decode_slot(const uint8_t *shared, ps_slot *out) {
  uint8_t p[PS_SLOT_BYTES];
  ps_relaxed_copy_out(p, shared, sizeof p);
  if (ps_load_u64(p + PS_SLOT_CHECKSUM_OFF) != ps_hash(p, PS_SLOT_CHECKSUM_OFF)) return false;
  out->sequence = ps_load_u64(p + PS_SLOT_SEQUENCE_OFF);
  out->log_end = ps_load_i64(p + PS_SLOT_LOG_END_OFF);
  out->segment = ps_load_i64(p + PS_SLOT_SEGMENT_OFF);
  out->position = ps_load_u64(p + PS_SLOT_POSITION_OFF);
  out->frames = ps_load_u64(p + PS_SLOT_FRAMES_OFF);
  out->max_timestamp = ps_load_i64(p + PS_SLOT_MAX_TIMESTAMP_OFF);
  out->leader_epoch = ps_load_i32(p + PS_SLOT_EPOCH_OFF);
  return out->sequence > 0 && out->log_end >= out->segment && out->segment >= 0 &&
         out->position >= PS_SEGMENT_HEADER_BYTES && out->position % PS_ALIGN == 0;
}

bool ps_head_read_slot(const uint8_t *head, ps_slot *out) {
  ps_slot a, b;
  bool sound_a = decode_slot(head + PS_HEAD_SLOT0_OFF, &a);
  bool sound_b = decode_slot(head + PS_HEAD_SLOT1_OFF, &b);
  if (!sound_a && !sound_b) return false;
  *out = !sound_b || (sound_a && a.sequence > b.sequence) ? a : b;
  return true;
}

void ps_head_write_slot(uint8_t *head, const ps_slot *slot) {
  uint8_t p[PS_SLOT_BYTES] = {0};
  ps_store_u64(p + PS_SLOT_SEQUENCE_OFF, slot->sequence);
  ps_store_i64(p + PS_SLOT_LOG_END_OFF, slot->log_end);
  ps_store_i64(p + PS_SLOT_SEGMENT_OFF, slot->segment);
  ps_store_u64(p + PS_SLOT_POSITION_OFF, slot->position);
  ps_store_u64(p + PS_SLOT_FRAMES_OFF, slot->frames);
  ps_store_i64(p + PS_SLOT_MAX_TIMESTAMP_OFF, slot->max_timestamp);
  ps_store_i32(p + PS_SLOT_EPOCH_OFF, slot->leader_epoch);
  ps_store_u64(p + PS_SLOT_CHECKSUM_OFF, ps_hash(p, PS_SLOT_CHECKSUM_OFF));
  ps_relaxed_copy_in(head + (slot->sequence & 1 ? PS_HEAD_SLOT1_OFF : PS_HEAD_SLOT0_OFF), p, sizeof p);
}

/* Inverted, so that zeros do not fit one another. */
static uint64_t start_check(int64_t offset) { return ~((uint64_t)offset * PS_HEAD_DURABLE_FACTOR); }

static int64_t load_start(const uint8_t *head, uint32_t at, uint32_t check_at) {
  int64_t start = ps_acquire_i64(head + at);
  return ps_acquire_u64(head + check_at) == start_check(start) && start >= 0 ? start : -1;
}

static void store_start(uint8_t *head, uint32_t at, uint32_t check_at, int64_t offset) {
  ps_release_i64(head + at, offset);
  ps_release_u64(head + check_at, start_check(offset));
}

/* Only a reader that was kept from running while the one and then the other was written finds neither. */
#define LOG_START_LOOKS 4

int64_t ps_head_log_start_within(const uint8_t *head, int64_t most) {
  for (int i = 0; i < LOG_START_LOOKS; i++) {
    int64_t one = load_start(head, PS_HEAD_LOG_START_OFF, PS_HEAD_LOG_START_CHECK_OFF);
    int64_t two = load_start(head, PS_HEAD_LOG_START2_OFF, PS_HEAD_LOG_START2_CHECK_OFF);
    if (PS_UNLIKELY(one > most)) one = -1;
    if (PS_UNLIKELY(two > most)) two = -1;
    if (PS_LIKELY(one >= 0 || two >= 0)) return one > two ? one : two;
  }
  return -1;
}

int64_t ps_head_log_start(const uint8_t *head) { return ps_head_log_start_within(head, INT64_MAX); }

void ps_head_raise_log_start(uint8_t *head, int64_t offset) {
  int64_t one = load_start(head, PS_HEAD_LOG_START_OFF, PS_HEAD_LOG_START_CHECK_OFF);
  int64_t two = load_start(head, PS_HEAD_LOG_START2_OFF, PS_HEAD_LOG_START2_CHECK_OFF);
  if (one > two)
    store_start(head, PS_HEAD_LOG_START2_OFF, PS_HEAD_LOG_START2_CHECK_OFF, offset);
  else
    store_start(head, PS_HEAD_LOG_START_OFF, PS_HEAD_LOG_START_CHECK_OFF, offset);
}

void ps_head_set_log_start(uint8_t *head, int64_t offset) {
  store_start(head, PS_HEAD_LOG_START_OFF, PS_HEAD_LOG_START_CHECK_OFF, offset);
  store_start(head, PS_HEAD_LOG_START2_OFF, PS_HEAD_LOG_START2_CHECK_OFF, offset);
}

int64_t ps_head_cleaned(const uint8_t *head) {
  int64_t cleaned = ps_acquire_i64(head + PS_HEAD_CLEANED_OFF);
  uint64_t check = ps_acquire_u64(head + PS_HEAD_CLEANED_CHECK_OFF);
  return check == ~(uint64_t)cleaned && cleaned >= 0 ? cleaned : -1;
}

void ps_head_set_cleaned(uint8_t *head, int64_t offset) {
  ps_release_i64(head + PS_HEAD_CLEANED_OFF, offset);
  ps_release_u64(head + PS_HEAD_CLEANED_CHECK_OFF, ~(uint64_t)offset);
}

int64_t ps_head_durable_checked(const uint8_t *head, bool alive) {
  int64_t durable = ps_head_durable(head);
  int64_t other = (int64_t)(ps_acquire_u64(head + PS_HEAD_DURABLE_CHECK_OFF) * PS_HEAD_DURABLE_INVERSE);
  if (durable == other) return durable;
  if (!alive || durable < 0 || other < 0) return -1;
  return durable < other ? durable : other;
}

uint32_t ps_head_listen(uint8_t *head) {
  uint32_t *word = (uint32_t *)(head + PS_HEAD_SIGNAL_OFF);
  uint32_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
  if (!(seen & PS_HEAD_SIGNAL_WAITED)) /* else another's will do: the line stays shared */
    seen = __atomic_fetch_or(word, PS_HEAD_SIGNAL_WAITED, __ATOMIC_SEQ_CST);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return seen | PS_HEAD_SIGNAL_WAITED;
}

bool ps_head_signal(uint8_t *head) {
  uint32_t *word = (uint32_t *)(head + PS_HEAD_SIGNAL_OFF);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  uint32_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
  if (PS_LIKELY(!(seen & PS_HEAD_SIGNAL_WAITED))) return false;
  /* Where it has changed meanwhile, another writer moved it, and wakes those that we saw; who set the bit
   * since, has looked, or will look, after our fence. */
  if (!__atomic_compare_exchange_n(word, &seen, seen + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
    return false;
  ps_os_futex_wake_all(word);
  return true;
}
