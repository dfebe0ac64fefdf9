#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_inspect.h"

#include <errno.h>
#include <fcntl.h>

#include "ps_hash.h"

void ps_inspect_index(const uint8_t *p, uint64_t limit, ps_index_info *out) {
  memset(out, 0, sizeof *out);
  out->verdict = PS_DAMAGED;
  if (limit < PS_INDEX_HEADER_BYTES || ps_load_u64(p + PS_INDEX_MAGIC_OFF) != PS_INDEX_MAGIC ||
      ps_load_u64(p + PS_INDEX_CHECKSUM_OFF) != ps_hash(p, PS_INDEX_CHECKSUM_OFF))
    return;
  bool known = ps_load_u32(p + PS_INDEX_VERSION_OFF) == PS_FORMAT_VERSION &&
               ps_load_u32(p + PS_INDEX_ENTRY_LEN_OFF) == PS_INDEX_ENTRY_BYTES;
  out->verdict = known ? PS_SOUND : PS_NEWER;
  if (!known) return;
  out->salt = ps_load_u64(p + PS_INDEX_SALT_OFF);
  out->base_offset = ps_load_i64(p + PS_INDEX_BASE_OFFSET_OFF);
  out->interval = ps_load_u32(p + PS_INDEX_INTERVAL_OFF);
  out->capacity = ps_load_u32(p + PS_INDEX_CAPACITY_OFF);
}

ps_verdict ps_inspect_index_entry(const uint8_t *p, uint64_t limit, uint64_t salt, uint64_t i,
                                  ps_index_entry *out) {
  uint64_t at = PS_INDEX_HEADER_BYTES + i * PS_INDEX_ENTRY_BYTES;
  if (at + PS_INDEX_ENTRY_BYTES > limit) return PS_UNCHECKED;
  p += at;
  bool any = false;
  for (unsigned j = 0; j < PS_INDEX_ENTRY_BYTES; j++) any = any || p[j] != 0;
  out->offset = ps_load_i64(p + PS_INDEX_ENTRY_OFFSET_OFF);
  out->max_timestamp = ps_load_i64(p + PS_INDEX_ENTRY_MAX_TS_OFF);
  out->position = ps_load_u64(p + PS_INDEX_ENTRY_POSITION_OFF);
  if (!any) return PS_UNCHECKED;
  return ps_load_u64(p + PS_INDEX_ENTRY_CHECKSUM_OFF) == ps_hash_seeded(p, PS_INDEX_ENTRY_CHECKSUM_OFF, salt)
             ? PS_SOUND
             : PS_DAMAGED;
}

int ps_inspect_index_hit(const ps_env *env, int fd, uint64_t salt, const ps_index_entry *entry, bool *hit) {
  uint8_t header[PS_FRAME_HEADER_BYTES];
  ps_frame_meta meta;
  *hit = false;
  if (entry->position > PS_SEGMENT_BYTES_MAX - PS_FRAME_HEADER_BYTES) return 0;
  int rc = ps_os_pread_all(env, fd, header, sizeof header, (int64_t)entry->position);
  if (rc == -ENODATA) return 0;
  if (rc < 0) return rc;
  ps_status status =
      ps_frame_decode_header(header, PS_SEGMENT_BYTES_MAX - entry->position, salt, entry->position, &meta);
  *hit = (status == PS_OK || status == PS_VERSION) && meta.base_offset == entry->offset;
  return 0;
}

static void head_identity(const uint8_t *p, ps_head_facts *out) {
  memcpy(out->who.topic_uuid, p + PS_HEAD_TOPIC_UUID_OFF, 16);
  out->who.partition = ps_load_u32(p + PS_HEAD_PARTITION_OFF);
  out->who.device = ps_load_u64(p + PS_HEAD_DEVICE_OFF);
  out->who.inode = ps_load_u64(p + PS_HEAD_INODE_OFF);
  switch (ps_head_check_identity(p, &out->who)) {
  case PS_HEAD_SOUND:
  case PS_HEAD_MOVED:
    out->identity = PS_SOUND;
    break;
  case PS_HEAD_NEWER:
    out->identity = PS_NEWER;
    break;
  case PS_HEAD_BLANK:
    out->identity = PS_UNCHECKED;
    break;
  default:
    out->identity = PS_DAMAGED;
    break;
  }
}

/* Each slot by itself: a page in which the other one is blank has only this one to tell of. */
static bool head_slot(const uint8_t *p, uint32_t at, ps_slot *out) {
  _Alignas(8) uint8_t page[PS_HEAD_BYTES] = {0};
  memcpy(page + at, p + at, PS_SLOT_BYTES);
  return ps_head_read_slot(page, out);
}

void ps_inspect_head(const uint8_t *p, ps_head_facts *out) {
  memset(out, 0, sizeof *out);
  head_identity(p, out);
  out->state = ps_load_u64(p + PS_HEAD_STATE_OFF);
  out->holder = ps_load_u64(p + PS_HEAD_HOLDER_OFF);
  out->incarnation = ps_load_u64(p + PS_HEAD_INCARNATION_OFF);
  out->poison = ps_head_poison(p);
  out->deleted = ps_head_deleted(p);
  out->log_start = ps_head_log_start(p);
  out->slot_sound[0] = head_slot(p, PS_HEAD_SLOT0_OFF, &out->slot[0]);
  out->slot_sound[1] = head_slot(p, PS_HEAD_SLOT1_OFF, &out->slot[1]);
  out->watermark = ps_head_watermark(p);
  out->log_end = ps_head_log_end(p);
  out->durable = ps_head_durable(p);
  out->signal = ps_load_u32(p + PS_HEAD_SIGNAL_OFF);
}

bool ps_inspect_epoch(const uint8_t p[PS_EPOCH_ENTRY_BYTES], ps_epoch_entry *out) {
  out->epoch = ps_load_i32(p + PS_EPOCH_EPOCH_OFF);
  out->first_offset = ps_load_i64(p + PS_EPOCH_FIRST_OFFSET_OFF);
  out->created_ns = ps_load_i64(p + PS_EPOCH_CREATED_OFF);
  return ps_load_u32(p + PS_EPOCH_MAGIC_OFF) == PS_EPOCH_MAGIC &&
         ps_load_u64(p + PS_EPOCH_CHECKSUM_OFF) == ps_hash(p, PS_EPOCH_CHECKSUM_OFF);
}

int ps_inspect_in_use(const ps_env *env, int live_fd) {
  int held = ps_os_lock_look(env, live_fd, PS_LIVE_LOCK_PRESENCE);
  return held > 0 ? 1 : held;
}

ps_status ps_inspect_end(const ps_env *env, const char *path, int64_t base_offset, int64_t *end) {
  ps_segment_ends ends;
  int rc = ps_segment_read_ends(env, AT_FDCWD, path, &ends);
  if (rc < 0) return rc == -ENOENT ? PS_NOT_FOUND : PS_OS_ERROR;
  if (!ends.sealed || ends.info.base_offset != base_offset) return PS_END;
  *end = ends.seal.end_offset;
  return PS_OK;
}
