#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_rewrite.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "ps_retain.h"

/* Small frames are gathered up to this size; a larger one is written from where it stands. */
#define BUFFER_BYTES (256u << 10)
/* Space is asked for, and writing out begun, in steps of this. */
#define STEP_BYTES (8u << 20)

/* ---- what is there ------------------------------------------------------------------------------ */

static bool has_segment(const ps_log *log, int64_t base) {
  char name[PS_SEGMENT_NAME_BYTES], path[512];
  struct stat st;
  ps_segment_name(base, name);
  ps_log_path(log, name, path);
  return ps_os_stat_at(log->env, AT_FDCWD, path, &st) == 0;
}

/* The seal is not where the file ends: whoever finished the segment did not live to cut the file; or it has
 * never reached the disk. Then the segment ends where the next one begins, if its frames lead up to there. */
static ps_status find_end(ps_log *log, ps_source *s, ps_error *err) {
  ps_segment *segment;
  ps_status status = ps_segment_open(log->env, log->dir, s->base, &segment, err);
  if (status != PS_OK) return status;
  uint64_t position = PS_SEGMENT_HEADER_BYTES;
  int64_t next = s->base;
  ps_frame_meta meta;
  ps_seal seal = {.max_timestamp = PS_TIMESTAMP_NONE};
  int64_t latest = PS_TIMESTAMP_NONE;
  while (ps_segment_backed(log->env, segment, position + PS_FRAME_HEADER_BYTES) &&
         ps_frame_decode_header(segment->map + position, segment->capacity - position, segment->salt,
                                position, &meta) == PS_OK &&
         meta.base_offset == next) {
    position += meta.frame_bytes;
    next = ps_frame_next_offset(&meta);
    if (meta.max_timestamp > latest) latest = meta.max_timestamp;
  }
  bool same = segment->salt == s->salt;
  bool sealed =
      same && ps_segment_backed(log->env, segment, position + PS_SEAL_BYTES) &&
      ps_seal_decode(segment->map + position, PS_SEAL_BYTES, segment->salt, position, &seal) == PS_OK &&
      seal.end_offset == next;
  ps_segment_unref(segment);
  if (!same || (!sealed && (next == s->base || !has_segment(log, next)))) return PS_END;
  s->end = next;
  s->max_timestamp = sealed ? seal.max_timestamp : latest;
  s->bytes = position + PS_SEAL_BYTES;
  return PS_OK;
}

ps_status ps_source_read(ps_log *log, int64_t base, ps_source *out, ps_error *err) {
  char name[PS_SEGMENT_NAME_BYTES], path[512];
  ps_segment_ends ends;
  ps_segment_name(base, name);
  ps_log_path(log, name, path);
  int rc = ps_segment_read_ends(log->env, AT_FDCWD, path, &ends);
  if (rc == -ENOENT) return ps_fail(err, PS_NOT_FOUND, path, "no such segment");
  if (rc < 0) return ps_fail_errno(err, -rc, path, "reading a segment's ends");
  if (ends.st.st_size < (off_t)PS_SEGMENT_HEADER_BYTES) return PS_END;
  if (!ends.whole || ends.info.base_offset != base)
    return ps_fail_corrupt(err, path, base, 0, base, "the segment header is damaged");
  *out = (ps_source){.base = base,
                     .salt = ends.info.salt,
                     .bytes = (uint64_t)ends.st.st_size,
                     .created_ns = ends.info.created_ns,
                     .leader_epoch = ends.info.leader_epoch};
  if (!ends.sealed) return find_end(log, out, err);
  out->end = ends.seal.end_offset;
  out->max_timestamp = ends.seal.max_timestamp;
  return PS_OK;
}

/* ---- writing ------------------------------------------------------------------------------------ */

void ps_rewrite_init(ps_rewrite *out, ps_log *log) {
  memset(out, 0, sizeof *out);
  out->log = log;
  out->fd = -1;
}

/* The file, and its index, under names that no reader looks at. */
static ps_status make_files(ps_rewrite *out, ps_error *err) {
  ps_log *log = out->log;
  char name[64];
  snprintf(name, sizeof name, "compact.%d.tmp", (int)getpid());
  ps_log_path(log, name, out->path);
  snprintf(name, sizeof name, "compact.%d.index.tmp", (int)getpid());
  ps_log_path(log, name, out->index_path);
  ps_status status = ps_log_lock_maintain(log, PS_MAINTAIN_WAIT_NS, err);
  if (status != PS_OK) return status;
  status = ps_log_check_place(log, err);
  if (status == PS_OK) status = ps_log_create_file(log, out->path, BUFFER_BYTES, &out->fd, err);
  if (status == PS_OK) {
    ps_error ignored; /* an index that cannot be made costs speed only */
    (void)ps_index_make(log->env, out->index_path, out->shape, ps_log_index_interval(log), &ignored);
  }
  ps_log_unlock_maintain(log);
  return status;
}

ps_status ps_rewrite_open(ps_rewrite *out, const ps_source *first, uint64_t bytes, ps_error *err) {
  PS_ASSERT(!out->open);
  if (!out->buffer) out->buffer = malloc(BUFFER_BYTES);
  ps_segment *shape = out->buffer ? calloc(1, sizeof *shape) : NULL;
  if (!shape) return ps_fail(err, PS_NO_MEMORY, out->log->dir, "writing a segment anew");
  shape->refs = 1;
  shape->fd = shape->index_fd = -1;
  shape->base_offset = first->base;
  shape->salt = ps_os_random_u64();
  shape->leader_epoch = first->leader_epoch;
  shape->created_ns = first->created_ns;
  shape->capacity = bytes < PS_SEGMENT_BYTES_MAX ? (uint32_t)ps_align_up(bytes, 4096) : PS_SEGMENT_BYTES_MAX;
  out->shape = shape;
  out->flushed = 0;
  out->position = PS_SEGMENT_HEADER_BYTES; /* the header is written last */
  out->asked = BUFFER_BYTES;
  out->started = 0;
  out->frames = 0;
  out->max_timestamp = PS_TIMESTAMP_NONE;
  out->pending = false;
  memset(out->buffer, 0, PS_SEGMENT_HEADER_BYTES);
  ps_status status = make_files(out, err);
  PS_POINT(out->log->env, "compact.opened");
  if (status == PS_OK)
    out->open = true;
  else
    ps_rewrite_drop(out);
  return status;
}

/* Write `bytes` bytes that come after what was written so far. */
static ps_status write_on(ps_rewrite *out, const void *data, uint64_t bytes, ps_error *err) {
  ps_log *log = out->log;
  uint64_t end = out->flushed + bytes;
  if (end > out->asked) {
    uint64_t more = ps_align_up(end - out->asked, STEP_BYTES);
    ps_status status = ps_log_ask_space(log, out->fd, more, out->path, err);
    if (status != PS_OK) return status;
    out->asked += more;
  }
  int rc = ps_os_pwrite_all(log->env, out->fd, data, bytes, (int64_t)out->flushed);
  if (rc < 0) return ps_fail_errno(err, -rc, out->path, "writing a segment anew");
  out->flushed = end;
  if (end - out->started >= STEP_BYTES) { /* so that the sync at the end is short */
    ps_os_start_writeback(log->env, out->fd);
    out->started = end;
  }
  return PS_OK;
}

static ps_status flush(ps_rewrite *out, ps_error *err) {
  uint64_t bytes = out->position - out->flushed;
  return bytes ? write_on(out, out->buffer, bytes, err) : PS_OK;
}

static ps_status put(ps_rewrite *out, const void *data, uint64_t bytes, ps_error *err) {
  if (out->position - out->flushed + bytes > BUFFER_BYTES) {
    ps_status status = flush(out, err);
    if (status != PS_OK) return status;
  }
  ps_status status = PS_OK;
  if (bytes >= BUFFER_BYTES)
    status = write_on(out, data, bytes, err);
  else
    memcpy(out->buffer + (out->position - out->flushed), data, bytes);
  out->position += bytes;
  return status;
}

static ps_status put_frame(ps_rewrite *out, const ps_frame_meta *meta, const ps_piece *pieces, size_t count,
                           ps_error *err) {
  uint8_t header[PS_FRAME_HEADER_BYTES];
  if (out->position + meta->frame_bytes + PS_SEAL_BYTES > PS_SEGMENT_BYTES_MAX) {
    ps_fail(err, PS_TOO_LARGE, out->path,
            "with the gaps that compaction leaves, the segment would pass the largest size there is");
    if (err) err->offset = meta->base_offset;
    return PS_TOO_LARGE;
  }
  ps_index_add(out->log->env, out->shape, meta->base_offset, out->position, out->max_timestamp);
  ps_frame_encode_header(meta, out->shape->salt, out->position, header);
  ps_status status = put(out, header, sizeof header, err);
  for (size_t i = 0; i < count && status == PS_OK; i++)
    status = put(out, pieces[i].data, pieces[i].bytes, err);
  out->frames++;
  if (meta->max_timestamp > out->max_timestamp) out->max_timestamp = meta->max_timestamp;
  return status;
}

static ps_status put_pending(ps_rewrite *out, ps_error *err) {
  if (!out->pending) return PS_OK;
  out->pending = false;
  return put_frame(out, &out->empty, NULL, 0, err);
}

/* A later frame of the producer that the pending run names: the run need not carry the sequence any more. */
static void pass_producer(ps_rewrite *out, const ps_frame_meta *meta) {
  if (!out->pending || out->empty.producer_id != meta->producer_id ||
      out->empty.producer_epoch != meta->producer_epoch)
    return;
  out->empty.producer_id = PS_NONE;
  out->empty.producer_epoch = PS_NONE;
  out->empty.base_sequence = PS_NONE;
}

ps_status ps_rewrite_frame(ps_rewrite *out, const ps_frame_meta *meta, const ps_piece *pieces, size_t count,
                           ps_error *err) {
  pass_producer(out, meta);
  ps_status status = put_pending(out, err);
  return status == PS_OK ? put_frame(out, meta, pieces, count, err) : status;
}

ps_status ps_rewrite_empty(ps_rewrite *out, const ps_frame_meta *meta, ps_error *err) {
  pass_producer(out, meta);
  ps_frame_meta *e = &out->empty;
  int64_t next = ps_frame_next_offset(meta);
  bool joins = out->pending && e->producer_id == PS_NONE && meta->producer_id == PS_NONE &&
               e->leader_epoch == meta->leader_epoch && next - e->base_offset <= UINT32_MAX;
  if (joins) {
    e->last_offset_delta = (uint32_t)(next - e->base_offset - 1);
    if (meta->durable_offset > e->durable_offset) e->durable_offset = meta->durable_offset;
    return PS_OK;
  }
  ps_status status = put_pending(out, err);
  if (status != PS_OK) return status;
  ps_prepared made;
  ps_frame_prepare_empty((uint32_t)(next - meta->base_offset), &made);
  *e = made.meta;
  e->base_offset = meta->base_offset;
  e->leader_epoch = meta->leader_epoch;
  e->durable_offset = meta->durable_offset;
  e->producer_id = meta->producer_id;
  e->producer_epoch = meta->producer_epoch;
  e->base_sequence = meta->base_sequence;
  out->pending = true;
  return PS_OK;
}

/* ---- the swap ----------------------------------------------------------------------------------- */

static ps_status finish(ps_rewrite *out, int64_t end, ps_error *err) {
  ps_log *log = out->log;
  ps_segment *shape = out->shape;
  ps_status status = put_pending(out, err);
  if (status != PS_OK) return status;
  uint8_t seal_bytes[PS_SEAL_BYTES], header[PS_SEGMENT_HEADER_BYTES];
  ps_seal seal = {end, out->frames, out->max_timestamp};
  ps_seal_encode(&seal, shape->salt, out->position, seal_bytes);
  status = put(out, seal_bytes, sizeof seal_bytes, err);
  if (status == PS_OK) status = flush(out, err);
  if (status != PS_OK) return status;
  ps_segment_info info = {.base_offset = shape->base_offset,
                          .salt = shape->salt,
                          .leader_epoch = shape->leader_epoch,
                          .partition = log->options.partition,
                          .capacity = (uint32_t)ps_align_up(out->position, 4096),
                          .created_ns = shape->created_ns};
  if (info.capacity < PS_SEGMENT_BYTES_MIN) info.capacity = PS_SEGMENT_BYTES_MIN;
  memcpy(info.topic_uuid, log->options.topic_uuid, 16);
  ps_segment_encode_header(&info, header);
  int rc = ps_os_pwrite_all(log->env, out->fd, header, sizeof header, 0);
  if (rc == 0) rc = ps_os_truncate(log->env, out->fd, (int64_t)out->position); /* of the space made with it */
  PS_POINT(log->env, "compact.written");
  if (rc == 0) rc = ps_os_sync_data(log->env, out->fd);
  if (rc < 0) return ps_fail_errno(err, -rc, out->path, "writing a segment anew");
  ps_index_finish(log->env, shape);
  PS_POINT(log->env, "compact.synced");
  return PS_OK;
}

/* Whoever retains or compacts in another process may have been here meanwhile. */
static ps_status still_there(ps_log *log, const ps_source *sources, size_t count, ps_error *err) {
  for (size_t i = 0; i < count; i++) {
    ps_source now;
    ps_status status = ps_source_read(log, sources[i].base, &now, err);
    if (status == PS_NOT_FOUND) return PS_END;
    if (status != PS_OK) return status;
    if (now.salt != sources[i].salt || now.end != sources[i].end) return PS_END;
  }
  return PS_OK;
}

static int unlink_segment(ps_log *log, int64_t base) {
  char name[PS_SEGMENT_NAME_BYTES], path[512];
  ps_index_name(base, name);
  ps_log_path(log, name, path);
  int rc = ps_os_unlink(log->env, AT_FDCWD, path); /* first: nobody would look for it without its segment */
  if (rc < 0 && rc != -ENOENT) return rc;
  ps_segment_name(base, name);
  ps_log_path(log, name, path);
  rc = ps_os_unlink(log->env, AT_FDCWD, path);
  return rc == -ENOENT ? 0 : rc;
}

ps_status ps_rewrite_unlink(ps_log *log, int64_t base, ps_error *err) {
  PS_POINT(log->env, "compact.unlinking");
  int rc = unlink_segment(log, base);
  if (rc < 0) return ps_fail_errno(err, -rc, log->dir, "removing a segment that another has taken in");
  return ps_log_sync_directory(log, err);
}

static ps_status rename_in(ps_rewrite *out, ps_error *err) {
  ps_log *log = out->log;
  char name[PS_SEGMENT_NAME_BYTES], path[512];
  ps_index_name(out->shape->base_offset, name);
  ps_log_path(log, name, path);
  if (ps_os_rename(log->env, AT_FDCWD, out->index_path, path) < 0) /* derived: reads are slower without */
    (void)ps_os_unlink(log->env, AT_FDCWD, out->index_path);
  PS_POINT(log->env, "compact.indexed");
  ps_segment_name(out->shape->base_offset, name);
  ps_log_path(log, name, path);
  int rc = ps_os_rename(log->env, AT_FDCWD, out->path, path);
  if (rc < 0) return ps_fail_errno(err, -rc, path, "putting a compacted segment in its place");
  ps_os_close(out->fd);
  out->fd = -1;
  PS_POINT(log->env, "compact.renamed");
  ps_status status = ps_log_sync_directory(log, err);
  PS_POINT(log->env, "compact.dirsynced");
  return status;
}

/* PS_LOCK_MAINTAIN held. */
static ps_status swap_locked(ps_rewrite *out, const ps_source *sources, size_t count, uint64_t *files,
                             ps_error *err) {
  ps_log *log = out->log;
  ps_status status = ps_log_check_writable(log, err);
  if (status == PS_OK) status = ps_log_check_place(log, err);
  if (status == PS_OK) status = still_there(log, sources, count, err);
  if (status != PS_OK) return status;
  ps_log_files_changing(log);
  status = rename_in(out, err);
  for (size_t i = 1; i < count && status == PS_OK; i++) {
    status = ps_rewrite_unlink(log, sources[i].base, err);
    *files += status == PS_OK;
  }
  ps_log_files_changed(log);
  return status;
}

ps_status ps_rewrite_swap(ps_rewrite *out, const ps_source *sources, size_t count, uint64_t *bytes,
                          uint64_t *files, ps_error *err) {
  PS_ASSERT(out->open && count >= 1 && sources[0].base == out->shape->base_offset);
  *files = 0;
  ps_status status = finish(out, sources[count - 1].end, err);
  *bytes = out->position;
  if (status == PS_OK) status = ps_log_lock_maintain(out->log, PS_MAINTAIN_WAIT_NS, err);
  if (status == PS_OK) {
    status = swap_locked(out, sources, count, files, err);
    ps_log_unlock_maintain(out->log);
  }
  ps_rewrite_drop(out);
  return status;
}

/* Its own names only: by now they may be another topic's directory, where nothing of this process stands. */
void ps_rewrite_drop(ps_rewrite *out) {
  ps_log *log = out->log;
  if (out->fd >= 0) {
    ps_os_close(out->fd);
    if (!ps_log_flag(&log->forked) && ps_log_check_place(log, NULL) == PS_OK) {
      (void)ps_os_unlink(log->env, AT_FDCWD, out->path);
      (void)ps_os_unlink(log->env, AT_FDCWD, out->index_path);
    }
  }
  out->fd = -1;
  ps_segment_unref(out->shape);
  out->shape = NULL;
  out->open = out->pending = false;
}

void ps_rewrite_free(ps_rewrite *out) {
  ps_rewrite_drop(out);
  free(out->buffer);
  out->buffer = NULL;
}
