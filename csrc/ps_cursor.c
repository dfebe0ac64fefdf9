/* Reading: one acquire load of the watermark, then plain loads below it (I3). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <inttypes.h>
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

/* The frame that holds `offset`, or the end of what is sound, from a cursor at or before it in its segment.
 */
static void walk_to(ps_log *log, ps_cursor *at, int64_t offset) {
  ps_frame_meta meta;
  while (at->next_offset < offset && frame_here(log, at, &meta) == PS_OK &&
         ps_frame_next_offset(&meta) <= offset) {
    at->position += meta.frame_bytes;
    at->next_offset = ps_frame_next_offset(&meta);
  }
}

static bool is_same_file(const ps_segment *a, const ps_segment *b) {
  return a->inode == b->inode && a->device == b->device && a->salt == b->salt;
}

/* No frame at the cursor though records follow: the segment must end here, and the next begin. Or its file
 * was replaced, or the next one's merged into another, since they were opened: then that has the offset, if
 * perhaps in a frame that begins below it. */
static ps_status next_segment(ps_log *log, ps_cursor *cursor, ps_error *err) {
  ps_segment *segment = cursor->segment, *next;
  int64_t offset = cursor->next_offset;
  ps_status status = PS_NOT_FOUND;
  ps_table_trim(log); /* who reads on lets go of what others have removed, though nobody maintains here */
  if (offset != segment->base_offset) status = ps_table_at(log, offset, &next, err);
  if (status == PS_OK) {
    place(cursor, next, PS_SEGMENT_HEADER_BYTES, offset);
    return PS_OK;
  }
  if (status != PS_NOT_FOUND) return status;
  ps_table_doubt(log);
  status = ps_table_holding(log, offset, &next, err);
  if (status != PS_OK) return status;
  if (!is_same_file(next, segment)) {
    ps_index_entry entry;
    ps_cursor at = *cursor;
    ps_frame_meta meta;
    at.segment = NULL;
    ps_table_index(log, next);
    bool hit = ps_index_find_offset(next, offset, &entry);
    start_in_segment(log, next, hit ? &entry : NULL, &at);
    walk_to(log, &at, offset);
    if (at.next_offset <= offset && frame_here(log, &at, &meta) == PS_OK) {
      place(cursor, at.segment, at.position, at.next_offset);
      return PS_OK;
    }
    ps_cursor_clear(&at);
  } else {
    ps_segment_unref(next);
  }
  return ps_fail_corrupt(err, segment->path, segment->base_offset, (int64_t)cursor->position, offset,
                         "no sound frame where one must be");
}

ps_status ps_log_fail_below(const ps_log *log, int64_t offset, ps_error *err) {
  char what[160];
  snprintf(what, sizeof what, "the offset is below the log start, which is %" PRId64 " by now",
           ps_log_start_offset(log));
  ps_fail(err, PS_OUT_OF_RANGE, log->dir, what);
  if (err) err->offset = offset;
  return PS_OUT_OF_RANGE;
}

/* What failed, failed perhaps because retention has taken `offset` away. */
static ps_status explain(ps_log *log, int64_t offset, ps_status status, ps_error *err) {
  if (PS_LIKELY(status != PS_CORRUPT && status != PS_OS_ERROR && status != PS_NOT_FOUND)) return status;
  status = ps_log_explain(log, status, err);
  if (status == PS_DELETED || status == PS_OS_ERROR) return status;
  if (log->options.read_only) ps_view_refresh_now(log);
  return offset < ps_log_start_offset(log) ? ps_log_fail_below(log, offset, err) : status;
}

ps_status ps_cursor_seek(ps_log *log, ps_cursor *cursor, int64_t offset, ps_error *err) {
  ps_status status = ps_log_check(log, NULL);
  if (status != PS_OK && status != PS_POISONED) return ps_log_check(log, err); /* poisoned logs can be read */
  int64_t watermark = ps_log_high_watermark(log), start = ps_log_start_offset(log);
  if (offset < start) return ps_log_fail_below(log, offset, err);
  if (offset > watermark) {
    ps_fail(err, PS_OUT_OF_RANGE, log->dir, "the offset is beyond the log end");
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
      bool inside = offset > segment->base_offset; /* else its index need not even be opened */
      if (inside) ps_table_index(log, segment);
      bool hit = inside && ps_index_find_offset(segment, offset, &entry);
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
    return explain(log, offset, status, err);
  }
  at.generation = cursor->generation;
  at.durable = cursor->durable;
  ps_cursor_clear(cursor);
  *cursor = at;
  return PS_OK;
}

/* Checksum of the body, and for a raw one the columns too: once per segment and process. Of a poisoned
 * partition each time: after a failed sync the kernel may have let go of a page, and reads what the disk has.
 */
static ps_status verify(const ps_log *log, const ps_cursor *cursor, const ps_frame_meta *meta,
                        ps_error *err) {
  ps_segment *segment = cursor->segment;
  if (PS_LIKELY(ps_segment_is_verified(segment, cursor->position) && ps_head_poison(log->head) == 0))
    return PS_OK;
  const uint8_t *p = segment->map + cursor->position;
  ps_columns columns;
  bool sound = ps_frame_body_ok(p, meta);
  if (sound && ps_frame_codec(meta) == PS_CODEC_NONE)
    sound = ps_frame_columns(meta, p + PS_FRAME_HEADER_BYTES, meta->raw_bytes, &columns) == PS_OK &&
            ps_columns_check(meta, &columns) == PS_OK;
  if (!sound)
    return ps_fail_corrupt(err, segment->path, segment->base_offset, (int64_t)cursor->position,
                           meta->base_offset, "a batch does not match its checksum");
  ps_segment_set_verified(segment, cursor->position, meta->frame_bytes);
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

/* A cursor that has lost its segment. The frame it stood at may begin below the log start, and end above. */
static ps_status place_anew(ps_log *log, ps_cursor *cursor, ps_error *err) {
  int64_t offset = cursor->next_offset, start = ps_log_start_offset(log);
  if (PS_LIKELY(offset >= start)) return ps_cursor_seek(log, cursor, offset, err);
  ps_status status = ps_cursor_seek(log, cursor, start, err);
  if (status != PS_OK || cursor->next_offset <= offset) return status;
  ps_segment_unref(cursor->segment);
  cursor->segment = NULL;
  cursor->next_offset = offset;
  return ps_log_fail_below(log, offset, err);
}

ps_status ps_cursor_next(ps_log *log, ps_cursor *cursor, ps_frame_view *view, ps_error *err) {
  for (;;) {
    if (PS_UNLIKELY(ps_log_flag(&log->closed) || ps_log_flag(&log->forked) || ps_log_is_gone(log)))
      return ps_log_check(log, err);
    if (cursor->next_offset >= ps_log_readable_offset(log, cursor->durable)) return PS_END;
    if (PS_UNLIKELY(log->options.read_only)) leave_old_view(log, cursor);
    if (PS_UNLIKELY(!cursor->segment)) {
      ps_status placed = place_anew(log, cursor, err);
      if (placed != PS_OK) return placed;
    }
    ps_status status = frame_here(log, cursor, &view->meta);
    if (PS_LIKELY(status == PS_OK)) {
      /* Its file may be there still, but nobody is to read what was deleted. */
      if (PS_UNLIKELY(ps_frame_next_offset(&view->meta) <= ps_log_start_offset(log)))
        return ps_log_fail_below(log, cursor->next_offset, err);
      break;
    }
    status = status == PS_VERSION ? newer_frame(cursor, err) : next_segment(log, cursor, err);
    if (status != PS_OK) return explain(log, cursor->next_offset, status, err);
  }
  ps_status status = verify(log, cursor, &view->meta, err);
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

static ps_status find_in_segment(ps_log *log, ps_segment *segment, int64_t timestamp, int64_t end,
                                 int64_t *offset, int64_t *found, ps_error *err) {
  ps_cursor at;
  ps_index_entry entry;
  ps_cursor_init(&at);
  /* What the index says of places beyond the end is from before a power failure. */
  ps_table_index(log, segment);
  bool hit = ps_index_find_time(segment, timestamp, &entry) && entry.offset < end;
  ps_segment_ref(segment);
  start_in_segment(log, segment, hit ? &entry : NULL, &at);
  int64_t from = ps_log_start_offset(log);
  ps_status status = PS_END;
  while (status == PS_END && at.next_offset < end) {
    ps_frame_view view;
    ps_status here = frame_here(log, &at, &view.meta);
    int64_t next = here == PS_OK ? ps_frame_next_offset(&view.meta) : 0;
    if (here == PS_OK && (view.meta.max_timestamp < timestamp || next <= from)) {
      at.position += view.meta.frame_bytes; /* not in here, or below the log start: pass by without a look */
      at.next_offset = next;
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

/* *again: a segment was removed or merged meanwhile. */
static ps_status find_time(ps_log *log, int64_t timestamp, int64_t *offset, int64_t *found, bool *again,
                           ps_error *err) {
  /* First: where the log is read_only, it may have the table read anew. */
  int64_t *bases, watermark = ps_log_high_watermark(log);
  size_t count;
  *again = false;
  ps_status status = ps_table_refresh(log, err);
  if (status != PS_OK) return status;
  status = ps_table_bases(log, &bases, &count, err);
  if (status != PS_OK) return status;
  status = PS_END;
  for (size_t i = 0; i < count && status == PS_END && bases[i] < watermark; i++) {
    ps_segment *segment;
    ps_facts facts;
    bool last = i + 1 == count;
    if (!last && bases[i + 1] <= ps_log_start_offset(log)) continue;
    int64_t end = !last && bases[i + 1] < watermark ? bases[i + 1] : watermark;
    if (!last && ps_table_facts(log, bases[i], &facts, NULL) == PS_OK && facts.max_timestamp < timestamp)
      continue;
    status = ps_table_at(log, bases[i], &segment, err);
    *again = status == PS_NOT_FOUND;
    if (status != PS_OK) break;
    status = find_in_segment(log, segment, timestamp, end, offset, found, err);
    *again = status == PS_OUT_OF_RANGE; /* it was taken away while it was looked through */
    ps_segment_unref(segment);
  }
  free(bases);
  return status;
}

/* How often files may go while a moment is looked for, before that is taken for an error. */
#define FIND_TIME_TRIES 16

ps_status ps_log_find_time(ps_log *log, int64_t timestamp, int64_t *offset, int64_t *found, ps_error *err) {
  ps_status status = PS_NOT_FOUND;
  bool again = true;
  for (int i = 0; again && i < FIND_TIME_TRIES; i++) {
    if (i) ps_table_doubt(log);
    status = find_time(log, timestamp, offset, found, &again, err);
  }
  return ps_log_explain(log, status, err);
}
