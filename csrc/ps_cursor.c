/* Reading: one acquire load of the watermark, then plain loads below it (I3). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <string.h>

#include "ps_log_internal.h"

void ps_cursor_init(ps_cursor *cursor) { memset(cursor, 0, sizeof *cursor); }

void ps_cursor_clear(ps_cursor *cursor) {
  ps_segment_unref(cursor->segment);
  ps_cursor_init(cursor);
}

static void place(ps_cursor *cursor, ps_segment *segment, uint64_t position, int64_t next_offset) {
  ps_segment_unref(cursor->segment);
  *cursor = (ps_cursor){segment, position, next_offset, cursor->generation, cursor->durable};
}

/* Decode the header at the cursor. PS_END: no frame of this log stands there. */
static ps_status frame_here(ps_log *log, const ps_cursor *cursor, ps_frame_meta *meta) {
  ps_segment *segment = cursor->segment;
  uint64_t position = cursor->position;
  if (!ps_segment_backed(log->env, segment, position + PS_FRAME_HEADER_BYTES)) return PS_END;
  ps_status status = ps_frame_decode_header(segment->map + position, segment->capacity - position,
                                            segment->salt, position, meta);
  if (status == PS_VERSION) return status;
  if (status != PS_OK || meta->base_offset != cursor->next_offset) return PS_END;
  return ps_segment_backed(log->env, segment, position + meta->frame_bytes) ? PS_OK : PS_END;
}

/* No frame at the cursor though records follow: the segment must end here, and the next begin. */
static ps_status next_segment(ps_log *log, ps_cursor *cursor, ps_error *err) {
  ps_segment *segment = cursor->segment, *next;
  ps_status status = PS_NOT_FOUND;
  if (cursor->next_offset != segment->base_offset) status = ps_table_at(log, cursor->next_offset, &next, err);
  if (status == PS_OK) {
    place(cursor, next, PS_SEGMENT_HEADER_BYTES, cursor->next_offset);
    return PS_OK;
  }
  if (status != PS_NOT_FOUND) return status;
  return ps_fail_corrupt(err, segment->path, segment->base_offset, (int64_t)cursor->position,
                         cursor->next_offset, "no sound frame where one must be");
}

ps_status ps_log_fail_newer(const ps_segment *segment, uint64_t position, int64_t offset, ps_error *err) {
  ps_fail(err, PS_VERSION, segment->path,
          "a batch has a codec, layout or attribute this version does not know");
  if (err) {
    err->segment = segment->base_offset;
    err->position = (int64_t)position;
    err->offset = offset;
  }
  return PS_VERSION;
}

static ps_status newer_frame(const ps_cursor *cursor, ps_error *err) {
  return ps_log_fail_newer(cursor->segment, cursor->position, cursor->next_offset, err);
}

/* A position that the index offers, if a frame of the right offset does stand there; else the first frame. */
static void start_in_segment(ps_log *log, ps_segment *segment, const ps_index_entry *entry,
                             ps_cursor *cursor) {
  ps_frame_meta meta;
  if (entry) {
    place(cursor, segment, entry->position, entry->offset);
    if (frame_here(log, cursor, &meta) == PS_OK) return;
    cursor->segment = NULL; /* keep the caller's reference */
  }
  place(cursor, segment, PS_SEGMENT_HEADER_BYTES, segment->base_offset);
}

ps_status ps_cursor_seek(ps_log *log, ps_cursor *cursor, int64_t offset, ps_error *err) {
  ps_status status = ps_log_check(log, NULL);
  if (status != PS_OK && status != PS_POISONED) return ps_log_check(log, err); /* poisoned logs can be read */
  int64_t watermark = ps_log_high_watermark(log), start = ps_log_start_offset(log);
  if (offset < start || offset > watermark) {
    ps_fail(err, PS_OUT_OF_RANGE, log->dir,
            offset < start ? "the offset is below the log start" : "the offset is beyond the log end");
    if (err) err->offset = offset;
    return PS_OUT_OF_RANGE;
  }
  ps_segment *segment;
  ps_slot slot;
  ps_cursor at;
  ps_cursor_init(&at);
  if (ps_head_read_slot(log->head, &slot) && slot.log_end == offset) { /* at the end: no need to walk */
    status = ps_table_at(log, slot.segment, &segment, err);
    if (status == PS_OK) place(&at, segment, slot.position, offset);
    if (status == PS_NOT_FOUND && log->options.read_only) { /* nothing was ever written: placed when it is */
      at.next_offset = offset;
      status = PS_OK;
    }
  } else {
    status = ps_table_holding(log, offset, &segment, err);
    if (status == PS_OK) {
      ps_index_entry entry;
      bool hit = ps_index_find_offset(segment, offset, &entry);
      start_in_segment(log, segment, hit ? &entry : NULL, &at);
    }
  }
  while (status == PS_OK && at.next_offset < offset && at.next_offset < watermark) {
    ps_frame_meta meta;
    ps_status here = frame_here(log, &at, &meta);
    if (here == PS_OK) {
      if (ps_frame_next_offset(&meta) > offset) break;
      at.position += meta.frame_bytes;
      at.next_offset = ps_frame_next_offset(&meta);
    } else {
      status = here == PS_VERSION ? newer_frame(&at, err) : next_segment(log, &at, err);
    }
  }
  if (status != PS_OK) {
    ps_cursor_clear(&at);
    return ps_log_explain(log, status, err);
  }
  at.generation = cursor->generation;
  at.durable = cursor->durable;
  ps_cursor_clear(cursor);
  *cursor = at;
  return PS_OK;
}

/* Checksum of the body, and for a raw one the columns too: once per segment and process, then one bit. */
static ps_status verify(const ps_cursor *cursor, const ps_frame_meta *meta, ps_error *err) {
  ps_segment *segment = cursor->segment;
  if (PS_LIKELY(ps_segment_is_verified(segment, cursor->position))) return PS_OK;
  const uint8_t *p = segment->map + cursor->position;
  ps_columns columns;
  bool sound = ps_frame_body_ok(p, meta);
  if (sound && ps_frame_codec(meta) == PS_CODEC_NONE)
    sound = ps_frame_columns(meta, p + PS_FRAME_HEADER_BYTES, meta->raw_bytes, &columns) == PS_OK &&
            ps_columns_check(meta, &columns) == PS_OK;
  if (!sound)
    return ps_fail_corrupt(err, segment->path, segment->base_offset, (int64_t)cursor->position,
                           meta->base_offset, "a batch does not match its checksum");
  ps_segment_set_verified(segment, cursor->position);
  return PS_OK;
}

/* Since a writer's recovery, the file the cursor is in may be another's, or aside: it is placed anew. */
static void leave_old_view(ps_log *log, ps_cursor *cursor) {
  uint64_t now = __atomic_load_n(&log->view.generation, __ATOMIC_ACQUIRE);
  if (cursor->generation == now) return;
  int64_t offset = cursor->next_offset;
  bool durable = cursor->durable;
  ps_cursor_clear(cursor);
  cursor->durable = durable;
  cursor->next_offset = offset;
  cursor->generation = now;
}

ps_status ps_cursor_next(ps_log *log, ps_cursor *cursor, ps_frame_view *view, ps_error *err) {
  for (;;) {
    if (PS_UNLIKELY(ps_log_flag(&log->closed) || ps_log_flag(&log->forked) || ps_head_deleted(log->head)))
      return ps_log_check(log, err);
    if (cursor->next_offset >= ps_log_readable_offset(log, cursor->durable)) return PS_END;
    if (PS_UNLIKELY(log->options.read_only)) leave_old_view(log, cursor);
    if (PS_UNLIKELY(!cursor->segment)) {
      ps_status placed = ps_cursor_seek(log, cursor, cursor->next_offset, err);
      if (placed != PS_OK) return placed;
    }
    ps_status status = frame_here(log, cursor, &view->meta);
    if (PS_LIKELY(status == PS_OK)) break;
    status = status == PS_VERSION ? newer_frame(cursor, err) : next_segment(log, cursor, err);
    if (status != PS_OK) return ps_log_explain(log, status, err);
  }
  ps_status status = verify(cursor, &view->meta, err);
  if (status != PS_OK) return status;
  view->segment = cursor->segment;
  view->position = cursor->position;
  view->frame = cursor->segment->map + cursor->position;
  view->body = view->frame + PS_FRAME_HEADER_BYTES;
  cursor->position += view->meta.frame_bytes;
  cursor->next_offset = ps_frame_next_offset(&view->meta);
  return PS_OK;
}

/* ---- by time -------------------------------------------------------------------------------- */

/* The first record of the batch that is not older than `timestamp` and not below `from`. */
static ps_status find_in_batch(const ps_frame_view *view, int64_t timestamp, int64_t from, int64_t *offset,
                               int64_t *found, ps_error *err) {
  const ps_frame_meta *meta = &view->meta;
  const uint8_t *body = view->body;
  uint8_t *raw = NULL;
  ps_columns columns;
  ps_status status = PS_OK;
  if (ps_frame_codec(meta) != PS_CODEC_NONE) {
    body = raw = malloc(meta->raw_bytes ? meta->raw_bytes : 1);
    if (!raw) return ps_fail(err, PS_NO_MEMORY, view->segment->path, "decompressing a batch");
    status = ps_frame_decompress(view->frame, meta, raw);
  }
  if (status == PS_OK) status = ps_frame_columns(meta, body, meta->raw_bytes, &columns);
  if (status == PS_OK && raw) status = ps_columns_check(meta, &columns);
  if (status != PS_OK) {
    status = ps_fail_corrupt(err, view->segment->path, view->segment->base_offset, (int64_t)view->position,
                             meta->base_offset, "a batch cannot be decoded");
  } else {
    status = PS_END;
    for (uint32_t i = 0; i < columns.count && status == PS_END; i++) {
      int64_t t = columns.timestamps ? columns.timestamps[i] : columns.first_timestamp;
      int64_t at = meta->base_offset + (columns.offset_deltas ? columns.offset_deltas[i] : i);
      if (t == PS_TIMESTAMP_NONE || t < timestamp || at < from) continue;
      *offset = at;
      *found = t;
      status = PS_OK;
    }
  }
  free(raw);
  return status;
}

/* The seal at the end of a segment's file. Read by a call: the writer may be about to cut the file down to
 * it, and where the end has been, a load from the map would be a signal. */
static bool read_seal(ps_log *log, const ps_segment *segment, ps_seal *seal) {
  uint8_t bytes[PS_SEAL_BYTES];
  struct stat st;
  int fd = ps_os_openat(log->env, AT_FDCWD, segment->path, O_RDONLY, 0);
  if (fd < 0) return false;
  int rc = ps_os_stat_fd(log->env, fd, &st);
  int64_t position = rc == 0 ? st.st_size - (int64_t)PS_SEAL_BYTES : -1;
  bool whole = position >= 0 && ps_os_pread_all(log->env, fd, bytes, sizeof bytes, position) == 0;
  ps_os_close(fd);
  return whole && ps_seal_decode(bytes, sizeof bytes, segment->salt, (uint64_t)position, seal) == PS_OK;
}

/* True when the seal says that every record of a finished segment is older. */
static bool all_older(ps_log *log, ps_segment *segment, int64_t timestamp) {
  if (!__atomic_load_n(&segment->max_timestamp_known, __ATOMIC_ACQUIRE)) {
    ps_seal seal;
    if (!read_seal(log, segment, &seal)) return false;
    segment->max_timestamp = seal.max_timestamp;
    __atomic_store_n(&segment->max_timestamp_known, true, __ATOMIC_RELEASE);
  }
  return segment->max_timestamp < timestamp;
}

static ps_status find_in_segment(ps_log *log, ps_segment *segment, int64_t timestamp, int64_t end,
                                 int64_t *offset, int64_t *found, ps_error *err) {
  ps_cursor at;
  ps_index_entry entry;
  ps_cursor_init(&at);
  /* What the index says of places beyond the end is from before a power failure. */
  bool hit = ps_index_find_time(segment, timestamp, &entry) && entry.offset < end;
  ps_segment_ref(segment);
  start_in_segment(log, segment, hit ? &entry : NULL, &at);
  int64_t from = ps_log_start_offset(log);
  ps_status status = PS_END;
  while (status == PS_END && at.next_offset < end) {
    ps_frame_view view;
    ps_status here = frame_here(log, &at, &view.meta);
    if (here == PS_OK && view.meta.max_timestamp < timestamp) { /* not in here: pass by without a look */
      at.position += view.meta.frame_bytes;
      at.next_offset = ps_frame_next_offset(&view.meta);
      continue;
    }
    here = ps_cursor_next(log, &at, &view, err);
    if (here != PS_OK) {
      status = here;
      break;
    }
    status = find_in_batch(&view, timestamp, from, offset, found, err);
  }
  ps_cursor_clear(&at);
  return status;
}

ps_status ps_log_find_time(ps_log *log, int64_t timestamp, int64_t *offset, int64_t *found, ps_error *err) {
  /* First: where the log is read_only, it may have the table read anew. */
  int64_t *bases, watermark = ps_log_high_watermark(log);
  size_t count;
  ps_status status = ps_table_refresh(log, err);
  if (status != PS_OK) return ps_log_explain(log, status, err);
  status = ps_table_bases(log, &bases, &count, err);
  if (status != PS_OK) return status;
  status = PS_END;
  for (size_t i = 0; i < count && status == PS_END && bases[i] < watermark; i++) {
    ps_segment *segment;
    int64_t end = i + 1 < count && bases[i + 1] < watermark ? bases[i + 1] : watermark;
    status = ps_table_at(log, bases[i], &segment, err);
    if (status != PS_OK) break;
    bool skip = i + 1 < count && all_older(log, segment, timestamp);
    status = skip ? PS_END : find_in_segment(log, segment, timestamp, end, offset, found, err);
    ps_segment_unref(segment);
  }
  free(bases);
  return ps_log_explain(log, status, err);
}
