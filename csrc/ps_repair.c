#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_repair.h"

#include <errno.h>
#include <fcntl.h>

#include "ps_index.h"
#include "ps_walk.h"

typedef struct writer {
  const ps_repair_order *order;
  ps_repair_outcome *out;
  uint64_t position;
  int64_t next, durable, max_timestamp;
  uint64_t frames;
} writer;

static ps_status fail_write(int rc, ps_error *err) {
  return ps_fail_errno(err, -rc, NULL, "writing a segment anew");
}

/* `frame` holds the frame, its header too, which is made anew for this place. */
static ps_status put(writer *w, const ps_frame_meta *meta, uint8_t *frame, ps_error *err) {
  if (w->position + meta->frame_bytes + PS_SEAL_BYTES > PS_SEGMENT_BYTES_MAX)
    return ps_fail(err, PS_TOO_LARGE, NULL, "the segment would be larger than segments may be");
  ps_frame_encode_header(meta, w->order->info.salt, w->position, frame);
  int rc = ps_os_pwrite_all(w->order->env, w->order->to, frame, meta->frame_bytes, (int64_t)w->position);
  if (rc < 0) return fail_write(rc, err);
  w->position += meta->frame_bytes;
  w->next = ps_frame_next_offset(meta);
  w->frames++;
  if (meta->durable_offset > w->durable) w->durable = meta->durable_offset;
  if (meta->max_timestamp > w->max_timestamp) w->max_timestamp = meta->max_timestamp;
  return PS_OK;
}

/* Empty frames for the offsets up to `to`. */
static ps_status put_nothing(writer *w, int64_t to, ps_error *err) {
  ps_status status = PS_OK;
  if (to - w->next > PS_REPAIR_GAP_MAX) /* neither is negative */
    return ps_fail(err, PS_TOO_LARGE, NULL,
                   "more offsets are missing in a row than a log can have given out");
  while (status == PS_OK && w->next < to) {
    uint8_t frame[PS_FRAME_HEADER_BYTES];
    ps_prepared empty;
    int64_t offsets = to - w->next < UINT32_MAX ? to - w->next : UINT32_MAX;
    ps_frame_prepare_empty((uint32_t)offsets, &empty);
    empty.meta.frame_bytes = PS_FRAME_HEADER_BYTES;
    empty.meta.base_offset = w->next;
    empty.meta.leader_epoch = w->order->info.leader_epoch;
    empty.meta.durable_offset = w->durable; /* what the frames before it vouch for */
    status = put(w, &empty.meta, frame, err);
    w->out->lost += offsets;
  }
  return status;
}

static bool is_wanted(const writer *w, const ps_walk *walk) {
  if (walk->body != PS_SOUND || walk->columns != PS_SOUND || walk->meta.base_offset < w->next) return false;
  return !w->order->finished || ps_frame_next_offset(&walk->meta) <= w->order->through;
}

static ps_status grow(ps_walk *walk, ps_error *err) {
  if (walk->need_buffer > walk->buffer_bytes) {
    uint8_t *p = realloc(walk->buffer, walk->need_buffer);
    if (!p) return ps_fail(err, PS_NO_MEMORY, NULL, "reading a segment");
    walk->buffer = p;
    walk->buffer_bytes = walk->need_buffer;
  }
  if (walk->need_scratch > walk->scratch_bytes) {
    uint8_t *p = realloc(walk->scratch, walk->need_scratch);
    if (!p) return ps_fail(err, PS_NO_MEMORY, NULL, "reading a segment");
    walk->scratch = p;
    walk->scratch_bytes = walk->need_scratch;
  }
  return PS_OK;
}

static ps_status copy_sound(writer *w, ps_walk *walk, ps_error *err) {
  for (;;) {
    ps_walk_event event;
    ps_status status = ps_walk_next(walk, &event, err);
    if (status != PS_OK) return status;
    if (event == PS_WALK_END) return PS_OK;
    if (event == PS_WALK_NEED) status = grow(walk, err);
    bool newer = (event == PS_WALK_HEADER && walk->header == PS_NEWER) ||
                 (event == PS_WALK_FRAME && walk->frame == PS_NEWER);
    if (newer) return ps_fail(err, PS_VERSION, NULL, "a later version of pystream wrote something of it");
    if (event == PS_WALK_FRAME && is_wanted(w, walk)) {
      status = put_nothing(w, walk->meta.base_offset, err);
      if (status == PS_OK) status = put(w, &walk->meta, walk->buffer, err);
      w->out->frames++;
      w->out->records += walk->meta.record_count;
    }
    if (status != PS_OK) return status;
  }
}

static ps_status finish(writer *w, ps_error *err) {
  const ps_repair_order *order = w->order;
  uint8_t seal[PS_SEAL_BYTES], header[PS_SEGMENT_HEADER_BYTES];
  ps_segment_info info = order->info;
  int rc = 0;
  if (order->finished) {
    ps_seal last = {w->next, w->frames, w->max_timestamp};
    ps_seal_encode(&last, info.salt, w->position, seal);
    rc = ps_os_pwrite_all(order->env, order->to, seal, sizeof seal, (int64_t)w->position);
  }
  uint64_t bytes = ps_align_up(w->position + PS_SEAL_BYTES, 4096);
  if (bytes > PS_SEGMENT_BYTES_MAX)
    return ps_fail(err, PS_TOO_LARGE, NULL, "the segment would be larger than segments may be");
  if (info.capacity < bytes) info.capacity = (uint32_t)bytes;
  ps_segment_encode_header(&info, header);
  if (rc == 0) rc = ps_os_pwrite_all(order->env, order->to, header, sizeof header, 0);
  if (rc == 0) rc = ps_os_sync_data(order->env, order->to);
  w->out->end_offset = w->next;
  w->out->bytes = w->position + (order->finished ? PS_SEAL_BYTES : 0);
  return rc < 0 ? fail_write(rc, err) : PS_OK;
}

ps_status ps_repair_segment(const ps_repair_order *order, ps_repair_outcome *out, ps_error *err) {
  memset(out, 0, sizeof *out);
  writer w = {.order = order,
              .out = out,
              .position = PS_SEGMENT_HEADER_BYTES,
              .next = order->info.base_offset,
              .max_timestamp = PS_TIMESTAMP_NONE};
  ps_status status = PS_OK;
  if (order->from >= 0) {
    ps_walk walk = {.env = order->env,
                    .fd = order->from,
                    .base_offset = order->info.base_offset,
                    .end_offset = INT64_MAX,
                    .salt = order->salt,
                    .bodies = true,
                    .need_buffer = PS_WALK_BUFFER_BYTES_MIN};
    status = grow(&walk, err);
    if (status == PS_OK) {
      ps_walk_begin(&walk);
      status = copy_sound(&w, &walk, err);
    }
    free(walk.buffer);
    free(walk.scratch);
  }
  if (status == PS_OK) status = put_nothing(&w, order->through, err);
  return status == PS_OK ? finish(&w, err) : status;
}

ps_status ps_repair_index(const ps_env *env, const char *dir, int64_t base_offset, uint32_t interval_bytes,
                          ps_error *err) {
  ps_segment *segment;
  char name[PS_SEGMENT_NAME_BYTES], path[512];
  uint8_t *buffer = malloc(PS_WALK_BUFFER_BYTES_MIN);
  if (!buffer) return ps_fail(err, PS_NO_MEMORY, dir, "making an index");
  ps_status status = ps_segment_open(env, dir, base_offset, &segment, err);
  if (status != PS_OK) {
    free(buffer);
    return status;
  }
  int fd = ps_os_openat(env, AT_FDCWD, segment->path, O_RDONLY, 0);
  if (fd < 0) status = ps_fail_errno(err, -fd, segment->path, "opening a segment");
  /* What stands in its empty room, too, is nothing that was written. */
  ps_index_name(base_offset, name);
  snprintf(path, sizeof path, "%s/%s", dir, name);
  int rc = ps_os_unlink(env, AT_FDCWD, path);
  if (status == PS_OK && rc < 0 && rc != -ENOENT) status = ps_fail_errno(err, -rc, path, "removing an index");
  if (status == PS_OK) status = ps_index_open(env, dir, segment, true, true, interval_bytes, err);
  if (status == PS_OK) {
    ps_walk walk = {.env = env,
                    .fd = fd,
                    .base_offset = base_offset,
                    .end_offset = INT64_MAX,
                    .buffer = buffer,
                    .buffer_bytes = PS_WALK_BUFFER_BYTES_MIN};
    ps_walk_event event = PS_WALK_HEADER;
    int64_t latest = PS_TIMESTAMP_NONE;
    ps_walk_begin(&walk);
    while (status == PS_OK && event != PS_WALK_END) {
      status = ps_walk_next(&walk, &event, err);
      if (status != PS_OK || event != PS_WALK_FRAME) continue;
      ps_index_add(env, segment, walk.meta.base_offset, walk.position, latest);
      if (walk.meta.max_timestamp > latest) latest = walk.meta.max_timestamp;
    }
  }
  if (fd >= 0) ps_os_close(fd);
  ps_segment_unref(segment);
  free(buffer);
  return status;
}

ps_status ps_repair_unsettle(const ps_env *env, const char *path, ps_error *err) {
  uint8_t state[8];
  int fd = ps_os_openat(env, AT_FDCWD, path, O_RDWR, 0);
  if (fd == -ENOENT) return PS_OK;
  if (fd < 0) return ps_fail_errno(err, -fd, path, "opening the head");
  int rc = ps_os_pread_all(env, fd, state, sizeof state, PS_HEAD_STATE_OFF);
  if (rc == 0) {
    ps_store_u64(state, ps_load_u64(state) | 1);
    rc = ps_os_pwrite_all(env, fd, state, sizeof state, PS_HEAD_STATE_OFF);
    if (rc == 0) rc = ps_os_sync_data(env, fd);
  } else if (rc == -ENODATA) {
    rc = 0; /* it is not believed anyway */
  }
  ps_os_close(fd);
  return rc < 0 ? ps_fail_errno(err, -rc, path, "writing the head") : PS_OK;
}

void ps_repair_epoch(int32_t epoch, int64_t first_offset, int64_t created_ns,
                     uint8_t out[PS_EPOCH_ENTRY_BYTES]) {
  ps_store_u32(out + PS_EPOCH_MAGIC_OFF, PS_EPOCH_MAGIC);
  ps_store_i32(out + PS_EPOCH_EPOCH_OFF, epoch);
  ps_store_i64(out + PS_EPOCH_FIRST_OFFSET_OFF, first_offset);
  ps_store_i64(out + PS_EPOCH_CREATED_OFF, created_ns);
  ps_store_u64(out + PS_EPOCH_CHECKSUM_OFF, ps_hash(out, PS_EPOCH_CHECKSUM_OFF));
}
