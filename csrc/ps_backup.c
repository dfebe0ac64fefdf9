#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_backup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ps_frame.h"
#include "ps_index.h"

/* Large enough for calls to cost nothing beside the copying, small enough to stay in the cache. */
#define BUFFER_BYTES_MIN (1u << 20)
/* A roll cuts the file behind its seal: how often what was there a moment ago is looked for anew. */
#define SHORT_READS_MAX 8

static ps_status fail_at(const ps_backup *b, const char *what, ps_error *err) {
  char text[160];
  snprintf(text, sizeof text, "%s; `pystream verify` says what is damaged, `pystream repair` mends it", what);
  return ps_fail_corrupt(err, b->from_path, b->base_offset, (int64_t)b->position, b->next_offset, text);
}

/* Have as many bytes from `position` on in the buffer as it holds, `bytes` at least if the file has them.
 * What was in it is written by then. */
static ps_status fill(ps_backup *b, uint64_t bytes, ps_error *err) {
  if (bytes > b->buffer_bytes) {
    uint8_t *p = realloc(b->buffer, bytes);
    if (!p) return ps_fail(err, PS_NO_MEMORY, b->from_path, "copying a batch");
    b->buffer = p;
    b->buffer_bytes = bytes;
  }
  int rc = -ENODATA;
  b->start = b->filled = b->position;
  for (int i = 0; rc == -ENODATA && i < SHORT_READS_MAX; i++) {
    struct stat st;
    rc = ps_os_stat_fd(b->env, b->from, &st);
    b->size = rc == 0 ? (uint64_t)st.st_size : 0;
    uint64_t wanted = b->size > b->position ? b->size - b->position : 0;
    if (wanted > b->buffer_bytes) wanted = b->buffer_bytes;
    if (rc == 0 && wanted > 0) rc = ps_os_pread_all(b->env, b->from, b->buffer, wanted, (int64_t)b->position);
    if (rc == 0) b->filled = b->position + wanted;
  }
  return rc < 0 ? ps_fail_errno(err, -rc, b->from_path, "reading a segment") : PS_OK;
}

/* Write what was checked and is not written yet. */
static ps_status flush(ps_backup *b, ps_error *err) {
  if (b->written == b->position) return PS_OK;
  int rc = ps_os_pwrite_all(b->env, b->to, b->buffer + (b->written - b->start), b->position - b->written,
                            (int64_t)b->written);
  if (rc < 0) return ps_fail_errno(err, -rc, b->to_path, "writing the copy of a segment");
  b->written = b->position;
  return PS_OK;
}

/* The bytes from `position` on, of which there are `bytes`; *p is NULL where the file ends before. */
static ps_status have(ps_backup *b, uint64_t bytes, const uint8_t **p, ps_error *err) {
  if (b->filled - b->position < bytes) {
    ps_status status = flush(b, err);
    if (status == PS_OK) status = fill(b, bytes, err);
    if (status != PS_OK) return status;
  }
  *p = b->filled - b->position < bytes ? NULL : b->buffer + (b->position - b->start);
  return PS_OK;
}

static bool is_foreign(const ps_backup *b) {
  return b->info.base_offset != b->base_offset || b->info.partition != b->partition ||
         memcmp(b->info.topic_uuid, b->topic_uuid, sizeof b->topic_uuid) != 0;
}

ps_status ps_backup_begin(ps_backup *b, ps_error *err) {
  const uint8_t *p;
  b->frames = b->records = b->position = b->start = b->filled = b->written = 0;
  b->next_offset = b->base_offset;
  b->max_timestamp = PS_TIMESTAMP_NONE;
  memset(&b->index, 0, sizeof b->index);
  b->index.index_fd = -1;
  b->buffer = malloc(BUFFER_BYTES_MIN);
  if (!b->buffer) return ps_fail(err, PS_NO_MEMORY, b->from_path, "copying a segment");
  b->buffer_bytes = BUFFER_BYTES_MIN;
  ps_status status = have(b, PS_SEGMENT_HEADER_BYTES, &p, err);
  if (status != PS_OK) return status;
  if (p) status = ps_segment_decode_header(p, PS_SEGMENT_HEADER_BYTES, &b->info);
  if (status == PS_VERSION)
    return ps_fail(err, status, b->from_path, "a later version of pystream wrote this segment");
  if (!p || status != PS_OK) return fail_at(b, "the segment header is damaged", err);
  if (is_foreign(b)) return fail_at(b, "this segment is of another topic or partition", err);
  b->position = PS_SEGMENT_HEADER_BYTES;
  b->index.base_offset = b->info.base_offset;
  b->index.salt = b->info.salt;
  /* Room for what is there, and for no more: nothing is ever appended to the copy. */
  b->index.capacity = b->info.capacity < b->size ? b->info.capacity : (uint32_t)b->size;
  return ps_index_open(b->env, b->to_directory, &b->index, true, true, b->index_interval_bytes, err);
}

/* There is no frame at `position`. */
static ps_status fail_frame(ps_backup *b, const char *what, ps_error *err) {
  const uint8_t *p;
  ps_seal seal;
  ps_status status = have(b, PS_SEAL_BYTES, &p, err);
  if (status != PS_OK) return status;
  if (p && ps_seal_decode(p, PS_SEAL_BYTES, b->info.salt, b->position, &seal) == PS_OK &&
      seal.end_offset == b->next_offset)
    what = "the segment that goes on from here is missing";
  return fail_at(b, what, err);
}

static ps_status copy_frame(ps_backup *b, ps_error *err) {
  ps_frame_meta meta;
  const uint8_t *p;
  ps_status status = have(b, PS_FRAME_HEADER_BYTES, &p, err);
  if (status != PS_OK) return status;
  if (!p) return fail_frame(b, "the segment ends too early", err);
  status = ps_frame_decode_header(p, PS_SEGMENT_BYTES_MAX - b->position, b->info.salt, b->position, &meta);
  if (status == PS_VERSION)
    return ps_fail(err, status, b->from_path, "a later version of pystream wrote a batch of this segment");
  if (status != PS_OK) return fail_frame(b, "no sound batch stands here", err);
  if (meta.base_offset != b->next_offset || ps_frame_next_offset(&meta) > b->end_offset)
    return fail_at(b, "a batch stands here that does not join", err);
  status = have(b, meta.frame_bytes, &p, err);
  if (status != PS_OK) return status;
  if (!p) return fail_at(b, "the segment ends inside a batch", err);
  if (!ps_frame_body_ok(p, &meta)) return fail_at(b, "a batch is damaged", err);
  ps_index_add(b->env, &b->index, meta.base_offset, b->position, b->max_timestamp);
  b->position += meta.frame_bytes;
  b->next_offset = ps_frame_next_offset(&meta);
  b->frames++;
  b->records += meta.record_count;
  if (meta.max_timestamp > b->max_timestamp) b->max_timestamp = meta.max_timestamp;
  return PS_OK;
}

ps_status ps_backup_step(ps_backup *b, uint64_t bytes_max, bool *done, ps_error *err) {
  uint64_t begun = b->position;
  ps_status status = PS_OK;
  *done = false;
  while (b->next_offset < b->end_offset) {
    if (b->position - begun >= bytes_max) return PS_OK;
    status = copy_frame(b, err);
    if (status != PS_OK) return status;
  }
  status = flush(b, err);
  if (status != PS_OK) return status;
  uint8_t bytes[PS_SEAL_BYTES];
  ps_seal seal = {b->next_offset, b->frames, b->max_timestamp};
  ps_seal_encode(&seal, b->info.salt, b->position, bytes);
  int rc = ps_os_pwrite_all(b->env, b->to, bytes, sizeof bytes, (int64_t)b->position);
  if (rc < 0) return ps_fail_errno(err, -rc, b->to_path, "writing the copy of a segment");
  *done = true;
  return PS_OK;
}

void ps_backup_end(ps_backup *b) {
  free(b->buffer);
  b->buffer = NULL;
  b->buffer_bytes = 0;
  ps_os_unmap(b->index.index_map, b->index.index_bytes);
  b->index.index_map = NULL;
  if (b->index.index_fd >= 0) ps_os_close(b->index.index_fd);
  b->index.index_fd = -1;
}

bool ps_backup_is_copy(const ps_env *env, int copy, int source, int64_t end_offset) {
  uint8_t header[PS_SEGMENT_HEADER_BYTES], bytes[PS_SEAL_BYTES], theirs[PS_SEGMENT_HEADER_BYTES];
  ps_segment_info info;
  ps_seal seal, other;
  struct stat st;
  if (ps_os_stat_fd(env, copy, &st) < 0) return false;
  uint64_t size = (uint64_t)st.st_size;
  if (size < sizeof header + sizeof bytes || size % PS_ALIGN != 0) return false;
  uint64_t position = size - sizeof bytes;
  if (ps_os_pread_all(env, copy, header, sizeof header, 0) < 0) return false;
  if (ps_os_pread_all(env, copy, bytes, sizeof bytes, (int64_t)position) < 0) return false;
  if (ps_segment_decode_header(header, sizeof header, &info) != PS_OK) return false;
  if (ps_seal_decode(bytes, sizeof bytes, info.salt, position, &seal) != PS_OK) return false;
  if (seal.end_offset != end_offset) return false;
  if (ps_os_pread_all(env, source, theirs, sizeof header, 0) < 0) return false;
  if (memcmp(header, theirs, sizeof header) != 0) return false;
  /* Where the source goes on, it has no seal there. */
  if (ps_os_pread_all(env, source, theirs, sizeof bytes, (int64_t)position) < 0) return false;
  return ps_seal_decode(theirs, sizeof bytes, info.salt, position, &other) != PS_OK ||
         memcmp(bytes, theirs, sizeof bytes) == 0;
}

void ps_backup_head(const ps_head_identity *identity, int64_t log_start, int64_t end_offset,
                    int32_t leader_epoch, const uint8_t boot_id[16], uint8_t *out) {
  memset(out, 0, PS_HEAD_BYTES);
  ps_slot slot = {.log_end = end_offset,
                  .segment = end_offset,
                  .position = PS_SEGMENT_HEADER_BYTES,
                  .max_timestamp = PS_TIMESTAMP_NONE,
                  .leader_epoch = leader_epoch};
  ps_head_write_identity(out, identity);
  for (slot.sequence = 1; slot.sequence <= 2; slot.sequence++) ps_head_write_slot(out, &slot);
  ps_head_set_log_start(out, log_start);
  memcpy(out + PS_HEAD_BOOT_ID_OFF, boot_id, 16);
  ps_head_raise_durable(out, end_offset);
  ps_release_i64(out + PS_HEAD_LOG_END_OFF, end_offset);
  ps_release_i64(out + PS_HEAD_WATERMARK_OFF, end_offset);
}

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE (1 << 1)
#endif

int ps_backup_exchange(const ps_env *env, const char *one, const char *other) {
  int asked = ps_env_ask(env, "exchange");
  if (asked) return -asked;
#ifdef __GLIBC__
  return renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE) < 0 ? -errno : 0;
#else
  return syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE) < 0 ? -errno : 0;
#endif
}
