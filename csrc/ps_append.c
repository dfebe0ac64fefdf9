/* Append and roll: everything that stores to segments in normal life. See I1-I6 in ps_log.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "ps_log_internal.h"

/* From this size on a call is faster than stores through the map, where both are safe: the kernel takes fresh
 * pages many at a time, in large folios, and the map one fault at a time (3.5 against 2.4 GB/s at 256
 * KiB, 1.2 against 1.3 at 16 KiB). */
#define STORE_BY_CALL_BYTES_MIN (64u << 10)

/* The descriptor stays open from before the first store until a sync has covered the last one: only so does
 * that sync learn of every write-back error in between. */
static ps_status keep_descriptor(ps_log *log, ps_segment *segment, ps_error *err) {
  if (PS_LIKELY(segment->fd >= 0)) return PS_OK;
  int fd = ps_os_openat(log->env, AT_FDCWD, segment->path, O_RDWR, 0);
  if (fd < 0) return ps_fail_errno(err, -fd, segment->path, "opening a segment for writing");
  __atomic_store_n(&segment->fd, fd, __ATOMIC_RELEASE);
  return PS_OK;
}

ps_status ps_log_open_active(ps_log *log, int64_t base_offset, ps_error *err) {
  bool known = log->active && log->active->base_offset == base_offset;
  if (PS_LIKELY(known && log->active->fd >= 0)) return PS_OK;
  ps_status status = ps_log_check_place(log, err);
  if (status != PS_OK) return status;
  if (known) return keep_descriptor(log, log->active, err);
  ps_segment *segment;
  status = ps_table_at(log, base_offset, &segment, err);
  if (status == PS_NOT_FOUND)
    return ps_fail_corrupt(err, log->dir, base_offset, -1, base_offset, "the active segment is missing");
  if (status != PS_OK) return status;
  status = keep_descriptor(log, segment, err);
  if (status == PS_OK && !segment->write_map && !segment->pwrite_only) {
    /* Reserve at every open: blocks may have been given back by a copy or a restore. */
    char name[32];
    int rc = 0;
    bool by_call = log->options.io != PS_IO_MAP ||
                   (ps_os_choose_io(segment->fd, name) == PS_IO_PWRITE && strcmp(name, "xfs") == 0);
    if (!by_call) {
      uint64_t bytes = __atomic_load_n(&segment->readable, __ATOMIC_RELAXED);
      rc = ps_os_allocate(log->env, segment->fd, (int64_t)bytes);
      by_call = rc == -EOPNOTSUPP;
      if (rc == 0) segment->reserved = bytes;
      if (rc == 0) rc = ps_os_map(log->env, segment->fd, segment->capacity, true, &segment->write_map);
      if (by_call) rc = 0;
    }
    __atomic_store_n(&segment->pwrite_only, by_call, __ATOMIC_RELAXED);
    if (rc < 0) status = ps_fail_errno(err, -rc, segment->path, "reserving space for a segment");
  }
  if (status == PS_OK) {
    ps_error ignored; /* the index is derived: without it appends go on, reads are slower */
    pthread_mutex_lock(&log->table_mutex);
    (void)ps_index_open(log->env, log->dir, segment, true, segment->pwrite_only, ps_log_index_interval(log),
                        &ignored);
    pthread_mutex_unlock(&log->table_mutex);
    log->active = segment;
    __atomic_store_n(&log->active_unprepared, true, __ATOMIC_RELEASE);
    ps_log_begin_due(log, segment->capacity);
  }
  ps_segment_unref(segment); /* the table's reference keeps it */
  return status;
}

/* How much more there has to be, in parts of the reserve, before what was refused is allowed again: else
 * every byte that comes free would let one append through and refuse the next. */
#define RESUME_PARTS 8

/* May *wanted more bytes of the file system be taken? Where that is too many, `needed` of them. */
static ps_status ask_space(ps_log *log, int fd, uint64_t needed, uint64_t *wanted, const char *path,
                           ps_error *err) {
  ps_reserve *reserve = log->options.reserve;
  if (PS_LIKELY(!reserve || reserve->min_free_bytes == 0)) return PS_OK;
  int64_t available, least = reserve->min_free_bytes, resume = least + least / RESUME_PARTS;
  int rc = ps_os_free_bytes(log->env, fd, &available);
  if (rc < 0) return ps_fail_errno(err, -rc, path, "looking how much space is free");
  if (ps_log_flag(&reserve->low)) least = resume;
  if (available - (int64_t)*wanted < least) *wanted = needed;
  bool low = available - (int64_t)needed < least;
  __atomic_store_n(&reserve->low, low, __ATOMIC_RELEASE);
  if (!low) return PS_OK;
  char what[160];
  snprintf(what, sizeof what,
           "%" PRId64 " bytes are free and min_free_bytes=%" PRId64
           "; appends go on by themselves at %" PRId64,
           available, reserve->min_free_bytes, resume + (int64_t)needed);
  return ps_fail_errno(err, ENOSPC, path, what);
}

ps_status ps_log_ask_space(ps_log *log, int fd, uint64_t bytes, const char *path, ps_error *err) {
  return ask_space(log, fd, bytes, &bytes, path, err);
}

static bool stores_by_call(const ps_segment *segment, uint64_t bytes) {
  return !segment->write_map || bytes >= STORE_BY_CALL_BYTES_MIN;
}

/* Have blocks behind the first `end` bytes of the active segment before anything is stored there: a store to
 * a map on a full disk would be a signal, not an error. */
static ps_status reserve(ps_log *log, uint64_t end, ps_error *err) {
  ps_segment *segment = log->active;
  PS_ASSERT(end <= segment->capacity);
  if (PS_LIKELY(end <= segment->reserved)) return PS_OK;
  uint64_t needed = ps_align_up(end, 4096), bytes = 2 * segment->reserved;
  if (bytes < PS_RESERVE_BYTES_MIN) bytes = PS_RESERVE_BYTES_MIN;
  if (bytes < needed) bytes = needed;
  if (bytes > segment->capacity) bytes = segment->capacity;
  uint64_t more = bytes - segment->reserved;
  ps_status status = ask_space(log, segment->fd, needed - segment->reserved, &more, segment->path, err);
  if (status != PS_OK) return status;
  bytes = segment->reserved + more;
  int rc = ps_os_allocate(log->env, segment->fd, (int64_t)bytes);
  if ((rc == -ENOSPC || rc == -EDQUOT) && bytes > needed) { /* the disk is nearly full: only what is needed */
    bytes = needed;
    rc = ps_os_allocate(log->env, segment->fd, (int64_t)bytes);
  }
  if (rc == -EOPNOTSUPP && !segment->write_map) { /* the file grows as it is written */
    segment->reserved = bytes;
    return PS_OK;
  }
  if (rc < 0) return ps_fail_errno(err, -rc, segment->path, "reserving space for a segment");
  segment->reserved = bytes;
  if (bytes > __atomic_load_n(&segment->readable, __ATOMIC_RELAXED))
    __atomic_store_n(&segment->readable, bytes, __ATOMIC_RELAXED);
  return PS_OK;
}

ps_status ps_log_store(ps_log *log, uint64_t position, const ps_piece *pieces, size_t count, ps_error *err) {
  ps_segment *segment = log->active;
  uint64_t bytes = 0;
  for (size_t i = 0; i < count; i++) bytes += pieces[i].bytes;
  ps_status status = reserve(log, position + bytes, err);
  if (status != PS_OK) return status;
  if (!stores_by_call(segment, bytes)) {
    ps_pieces_copy(pieces, count, segment->write_map + position);
    return PS_OK;
  }
  int rc = ps_os_pwritev_all(log->env, segment->fd, pieces, count, (int64_t)position);
  /* No later answer about this file can be believed. */
  if (rc == -EIO) return ps_log_fail_poisoning(log, EIO, segment->path, "writing to a segment", err);
  return rc < 0 ? ps_fail_errno(err, -rc, segment->path, "writing to a segment") : PS_OK;
}

ps_status ps_log_create_file(ps_log *log, const char *path, uint64_t bytes, int *out, ps_error *err) {
  int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDWR | O_CREAT | O_TRUNC, 0666);
  if (fd < 0) return ps_fail_errno(err, -fd, path, "creating a segment");
  ps_status status = ask_space(log, fd, bytes, &bytes, path, err);
  int rc = status == PS_OK ? ps_os_allocate(log->env, fd, (int64_t)bytes) : 0;
  if (rc == -EOPNOTSUPP && log->options.io == PS_IO_PWRITE) rc = 0; /* the file grows as it is written */
  if (rc < 0) status = ps_fail_errno(err, -rc, path, "reserving space for a segment");
  if (status != PS_OK) {
    ps_os_close(fd);
    (void)ps_os_unlink(log->env, AT_FDCWD, path);
    return status;
  }
  *out = fd;
  return PS_OK;
}

/* Use the file the helper thread made ready, if there is one that is not too large; else make one. */
static ps_status take_file(ps_log *log, uint32_t bytes, char path[512], int *out, ps_error *err) {
  struct stat st;
  ps_log_path(log, PS_NEXT_NAME, path);
  int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDWR, 0);
  if (fd >= 0) {
    if (ps_os_stat_fd(log->env, fd, &st) == 0 && (uint64_t)st.st_size <= bytes) {
      *out = fd;
      return PS_OK;
    }
    ps_os_close(fd);
    (void)ps_os_unlink(log->env, AT_FDCWD, path); /* segments were larger when it was made */
  }
  char name[64];
  snprintf(name, sizeof name, "new.%d.tmp", (int)getpid());
  ps_log_path(log, name, path);
  return ps_log_create_file(log, path, bytes < PS_RESERVE_BYTES_MIN ? bytes : PS_RESERVE_BYTES_MIN, out, err);
}

/* A file of that name is there already: an interrupted roll left it. Keep it aside if it is not just empty.
 */
static ps_status set_aside(ps_log *log, const char *path, int32_t leader_epoch, bool *reuse, ps_error *err) {
  uint8_t start[PS_SEGMENT_HEADER_BYTES + 8];
  ps_segment_info info;
  *reuse = false;
  int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDONLY, 0);
  if (fd == -ENOENT) return PS_OK;
  if (fd < 0) return ps_fail_errno(err, -fd, path, "opening a segment");
  int rc = ps_os_pread_all(log->env, fd, start, sizeof start, 0);
  ps_os_close(fd);
  if (rc < 0 && rc != -ENODATA) return ps_fail_errno(err, -rc, path, "reading a segment header");
  if (rc == 0 && ps_segment_decode_header(start, sizeof start, &info) == PS_OK &&
      info.leader_epoch == leader_epoch && ps_load_u64(start + PS_SEGMENT_HEADER_BYTES) == 0) {
    *reuse = true;
    return PS_OK;
  }
  char aside[600];
  snprintf(aside, sizeof aside, "%s.%010d.cut", path, leader_epoch);
  rc = ps_os_rename(log->env, AT_FDCWD, path, aside);
  return rc < 0 ? ps_fail_errno(err, -rc, path, "setting a segment aside") : PS_OK;
}

ps_status ps_log_create_segment(ps_log *log, int64_t base_offset, int32_t leader_epoch, bool durable,
                                ps_error *err) {
  return ps_log_create_segment_for(log, 0, base_offset, leader_epoch, durable, err);
}

ps_status ps_log_create_segment_for(ps_log *log, uint32_t frame_bytes, int64_t base_offset,
                                    int32_t leader_epoch, bool durable, ps_error *err) {
  char name[PS_SEGMENT_NAME_BYTES], path[512], temporary[512];
  ps_segment_name(base_offset, name);
  ps_log_path(log, name, path);
  bool reuse;
  ps_status status = set_aside(log, path, leader_epoch, &reuse, err);
  if (status != PS_OK || reuse) return status;
  int fd;
  uint32_t capacity = ps_log_segment_bytes(log);
  if (frame_bytes > PS_FRAME_BYTES_MAX(capacity))
    capacity = (uint32_t)ps_align_up(frame_bytes + PS_SEGMENT_HEADER_BYTES + PS_SEAL_BYTES, 4096);
  status = take_file(log, capacity, temporary, &fd, err);
  if (status != PS_OK) return status;
  ps_segment_info info = {.base_offset = base_offset,
                          .salt = ps_os_random_u64(),
                          .leader_epoch = leader_epoch,
                          .partition = log->options.partition,
                          .capacity = capacity,
                          .created_ns = ps_os_now_ns()};
  memcpy(info.topic_uuid, log->options.topic_uuid, 16);
  uint8_t header[PS_SEGMENT_HEADER_BYTES];
  ps_segment_encode_header(&info, header);
  int rc = ps_os_pwrite_all(log->env, fd, header, sizeof header, 0);
  PS_POINT(log->env, "segment.header");
  if (rc == 0 && durable) rc = ps_os_sync_data(log->env, fd);
  ps_os_close(fd);
  if (rc == 0) rc = ps_os_rename(log->env, AT_FDCWD, temporary, path);
  PS_POINT(log->env, "segment.renamed");
  if (rc == 0) return PS_OK;
  (void)ps_os_unlink(log->env, AT_FDCWD, temporary); /* a full disk has no room for it */
  return ps_fail_errno(err, -rc, path, "creating a segment");
}

static ps_status roll_over(ps_log *log, ps_segment *old, ps_slot *slot, uint32_t frame_bytes, ps_error *err) {
  ps_status status = ps_log_check_place(log, err);
  if (status != PS_OK) return status;
  uint8_t seal_bytes[PS_SEAL_BYTES];
  ps_seal seal = {slot->log_end, slot->frames, slot->max_timestamp};
  ps_seal_encode(&seal, old->salt, slot->position, seal_bytes);
  ps_piece piece = {seal_bytes, sizeof seal_bytes};
  PS_POINT(log->env, "roll.seal");
  status = ps_log_store(log, slot->position, &piece, 1, err);
  if (status != PS_OK) return status;
  __atomic_store_n(&old->dirty_end, slot->log_end + 1, __ATOMIC_RELEASE);
  uint64_t used = slot->position + PS_SEAL_BYTES;
  PS_POINT(log->env, "roll.sealed");
  /* Where another process does the syncing, nobody else would close what its syncs have covered. `old`, just
   * stored to, is not among it. */
  if (pthread_mutex_trylock(&log->sync_mutex) == 0) {
    ps_log_close_clean(log, log->active);
    pthread_mutex_unlock(&log->sync_mutex);
  }
  status = ps_log_create_segment_for(log, frame_bytes, slot->log_end, slot->leader_epoch, false, err);
  if (status != PS_OK) return status;
  PS_POINT(log->env, "roll.created");
  status = ps_log_open_active(log, slot->log_end, err);
  if (status != PS_OK) {
    log->active = NULL; /* opened again from the slot by the next append */
    return status;
  }
  slot->sequence++;
  slot->segment = slot->log_end;
  slot->position = PS_SEGMENT_HEADER_BYTES;
  slot->frames = 0;
  slot->max_timestamp = PS_TIMESTAMP_NONE;
  ps_head_write_slot(log->head, slot);
  PS_POINT(log->env, "roll.moved");
  /* From here on nobody stores to the old segment. Giving back its unused space may fail without harm. */
  uint8_t *map = old->write_map;
  old->write_map = NULL;
  ps_os_unmap(map, old->capacity);
  if (ps_os_truncate(log->env, old->fd, (int64_t)used) == 0)
    __atomic_store_n(&old->readable, used, __ATOMIC_RELAXED);
  PS_POINT(log->env, "roll.cut");
  ps_log_count(&log->rolls, 1);
  if (log->options.reserve) {
    __atomic_fetch_add(&log->options.reserve->rolls, 1, __ATOMIC_RELEASE);
    ps_os_futex_wake_all(&log->options.reserve->rolls);
  }
  return PS_OK;
}

ps_status ps_log_roll(ps_log *log, ps_slot *slot, uint32_t frame_bytes, ps_error *err) {
  ps_segment *old = log->active;
  ps_segment_ref(old); /* once it is not the active one, retention may take it out of the table */
  ps_status status = roll_over(log, old, slot, frame_bytes, err);
  ps_segment_unref(old);
  return status;
}

void ps_log_publish(ps_log *log, ps_slot *slot) {
  __atomic_thread_fence(__ATOMIC_RELEASE); /* I5: a slot never covers a frame that is not stored yet */
  ps_head_write_slot(log->head, slot);
  PS_POINT(log->env, "append.log_end");
  ps_release_i64(log->head + PS_HEAD_LOG_END_OFF, slot->log_end);
  if (ps_log_durability(log) == PS_DURABILITY_SYNC) return; /* the sync that covers it moves the watermark */
  ps_max_i64(log->head + PS_HEAD_WATERMARK_OFF, slot->log_end);
  PS_POINT(log->env, "append.published");
  ps_log_signal(log);
}

/* Advance the slot over a frame that stands at its position. */
static void advance(ps_slot *slot, const ps_frame_meta *meta) {
  slot->sequence++;
  slot->log_end = ps_frame_next_offset(meta);
  slot->position += meta->frame_bytes;
  slot->frames++;
  if (meta->max_timestamp > slot->max_timestamp) slot->max_timestamp = meta->max_timestamp;
}

ps_status ps_log_mend(ps_log *log, ps_slot *slot, ps_error *err) {
  static const uint8_t zero[PS_ALIGN];
  ps_segment *segment = log->active;
  ps_frame_meta meta;
  ps_seal seal;
  const uint8_t *p = segment->map + slot->position;
  uint64_t limit = segment->capacity - slot->position;
  bool backed = ps_segment_backed(log->env, segment, slot->position + PS_FRAME_HEADER_BYTES);
  bool whole = backed && ps_frame_decode_header(p, limit, segment->salt, slot->position, &meta) == PS_OK &&
               meta.base_offset == slot->log_end &&
               ps_segment_backed(log->env, segment, slot->position + meta.frame_bytes) &&
               ps_frame_body_ok(p, &meta);
  if (whole) { /* complete, only not published: it was never refused to anyone, so keep it */
    advance(slot, &meta);
    p += meta.frame_bytes;
    limit -= meta.frame_bytes;
  }
  /* An interrupted roll has sealed already: the seal stays, and the next append goes on with the roll. */
  bool sealed = ps_segment_backed(log->env, segment, slot->position + PS_SEAL_BYTES) &&
                ps_seal_decode(p, limit, segment->salt, slot->position, &seal) == PS_OK;
  if (!sealed) {
    ps_piece piece = {zero, PS_ALIGN};
    ps_status status = ps_log_store(log, slot->position, &piece, 1, err);
    if (status != PS_OK) return status;
  }
  if (whole) {
    __atomic_store_n(&segment->dirty_end, slot->log_end, __ATOMIC_RELEASE);
    __atomic_store_n(&log->wrote, true, __ATOMIC_RELEASE);
  } else {
    slot->sequence++;
  }
  ps_log_publish(log, slot);
  ps_log_count(&log->mends, 1);
  return PS_OK;
}

/* *roll: the next frame goes into a new segment. */
static ps_status must_roll(const ps_log *log, const ps_slot *slot, uint32_t frame_bytes, bool *roll,
                           ps_error *err) {
  const ps_segment *segment = log->active;
  *roll = slot->position + frame_bytes + PS_SEAL_BYTES > segment->capacity;
  if (*roll || slot->sequence == log->clear_sequence) return PS_OK;
  /* A seal where the next frame would go: a roll or a cut was interrupted after it. Looking through the map
   * would have the kernel read ahead what was never written, which costs as much as writing it. */
  uint32_t magic = 0;
  int rc = ps_os_pread_all(log->env, segment->fd, &magic, sizeof magic,
                           (int64_t)slot->position + PS_SEAL_MAGIC_OFF);
  if (rc < 0 && rc != -ENODATA)
    return ps_fail_errno(err, -rc, segment->path, "looking for the seal of a segment");
  *roll = rc == 0 && magic == PS_SEAL_MAGIC32;
  return PS_OK;
}

static ps_status write_frame(ps_log *log, const ps_slot *slot, ps_prepared *batch, ps_error *err) {
  static const uint8_t zero[PS_ALIGN];
  ps_segment *segment = log->active;
  ps_frame_meta *meta = &batch->meta;
  uint8_t header[PS_FRAME_HEADER_BYTES];
  meta->base_offset = slot->log_end;
  meta->leader_epoch = slot->leader_epoch;
  meta->durable_offset = ps_head_durable(log->head);
  if (meta->attributes & PS_ATTR_LOG_APPEND_TIME ||
      (ps_log_stamps(log) && meta->attributes & PS_ATTR_TIMESTAMPS_EQUAL)) {
    meta->first_timestamp = meta->max_timestamp = ps_os_now_ns();
    meta->attributes |= PS_ATTR_LOG_APPEND_TIME;
  }
  uint64_t end = slot->position + meta->frame_bytes;
  ps_status status = reserve(log, end + PS_ALIGN, err);
  if (status != PS_OK) return status;
  ps_frame_encode_header(meta, segment->salt, slot->position, header);
  __atomic_store_n(&segment->dirty_end, slot->log_end + 1, __ATOMIC_RELEASE);
  bool by_call = stores_by_call(segment, meta->frame_bytes);
  __atomic_store_n(&log->stores_by_call, by_call, __ATOMIC_RELAXED);
  if (by_call) {
    ps_piece pieces[PS_PIECES_MAX + 2];
    pieces[0] = (ps_piece){header, sizeof header};
    memcpy(pieces + 1, batch->pieces, batch->piece_count * sizeof *pieces);
    pieces[batch->piece_count + 1] = (ps_piece){zero, PS_ALIGN};
    status = ps_log_store(log, slot->position, pieces, batch->piece_count + 2, err);
    if (status == PS_OK && end + PS_ALIGN > segment->readable)
      __atomic_store_n(&segment->readable, end + PS_ALIGN, __ATOMIC_RELAXED);
    return status;
  }
  uint8_t *p = segment->write_map + slot->position;
  ps_pieces_copy(batch->pieces, batch->piece_count, p + PS_FRAME_HEADER_BYTES);
  PS_POINT(log->env, "append.body");
  memset(segment->write_map + end, 0, PS_ALIGN);
  PS_POINT(log->env, "append.zeroed");
  memcpy(p, header, sizeof header);
  PS_POINT(log->env, "append.header");
  return PS_OK;
}

/* Bring the partition to a place where a frame may be written: lock held, state odd. */
static ps_status begin(ps_log *log, ps_slot *slot, ps_error *err) {
  ps_status status = ps_log_check(log, err);
  if (status != PS_OK) return status;
  uint8_t *head = log->head;
  status = ps_log_back_head(log, err);
  if (status != PS_OK) return status;
  if (!ps_head_read_slot(head, slot))
    return ps_fail_corrupt(err, log->dir, -1, -1, -1,
                           "both log-end slots of the head are damaged; reopen the store");
  status = ps_log_open_active(log, slot->segment, err);
  if (status != PS_OK) return status;
  if (slot->position > log->active->capacity - PS_SEAL_BYTES)
    return ps_fail_corrupt(err, log->active->path, slot->segment, (int64_t)slot->position, slot->log_end,
                           "the head places the log end beyond the segment; reopen the store");
  uint64_t state = ps_acquire_u64(head + PS_HEAD_STATE_OFF);
  if (!log->held) ps_release_u64(head + PS_HEAD_HOLDER_OFF, log->pid);
  if (PS_UNLIKELY(state & 1)) return ps_log_mend(log, slot, err); /* state stays odd */
  ps_release_u64(head + PS_HEAD_STATE_OFF, state + 1);
  __atomic_signal_fence(
      __ATOMIC_SEQ_CST); /* what follows is not moved before it: death is seen in this order */
  PS_POINT(log->env, "append.begun");
  return PS_OK;
}

/* A write that failed may have stored the whole frame all the same. The caller hears that it was refused, so
 * nobody may adopt it. */
static bool unmake_frame(ps_log *log, const ps_slot *slot) {
  static const uint8_t zero[PS_ALIGN];
  ps_piece piece = {zero, PS_ALIGN};
  return ps_log_store(log, slot->position, &piece, 1, NULL) == PS_OK;
}

/* The active segment is empty, and too small for what comes, as segments are larger by now: it cannot be
 * sealed as it is, for the next one would have its name. One offset is passed over. */
static ps_status pass_over(ps_log *log, ps_slot *slot, ps_error *err) {
  ps_prepared empty;
  ps_frame_prepare_empty(1, &empty);
  ps_status status = write_frame(log, slot, &empty, err);
  if (status != PS_OK) {
    (void)unmake_frame(log, slot);
    return status;
  }
  advance(slot, &empty.meta);
  ps_log_publish(log, slot);
  return PS_OK;
}

static ps_status append_locked(ps_log *log, ps_prepared *batch, int64_t *base_offset, ps_error *err) {
  ps_slot slot;
  ps_status status = begin(log, &slot, err);
  if (status != PS_OK) return status; /* state odd or even as found: nothing was stored, or mending goes on */
  uint64_t state = ps_acquire_u64(log->head + PS_HEAD_STATE_OFF);
  uint64_t storing = PS_SEAL_BYTES;
  bool roll;
  status = must_roll(log, &slot, batch->meta.frame_bytes, &roll, err);
  while (status == PS_OK && roll) {
    if (slot.position == PS_SEGMENT_HEADER_BYTES) status = pass_over(log, &slot, err);
    if (status == PS_OK) status = ps_log_roll(log, &slot, batch->meta.frame_bytes, err);
    if (status != PS_OK) { /* it may have sealed: whoever knew the place to be clear looks again */
      slot.sequence++;
      ps_head_write_slot(log->head, &slot);
    } else {
      status = must_roll(log, &slot, batch->meta.frame_bytes, &roll, err);
    }
  }
  if (status == PS_OK) {
    storing = batch->meta.frame_bytes;
    status = write_frame(log, &slot, batch, err);
  }
  if (status == PS_OK) {
    *base_offset = slot.log_end;
    uint64_t position = slot.position;
    int64_t max_before = slot.max_timestamp;
    advance(&slot, &batch->meta);
    __atomic_store_n(&log->wrote, true, __ATOMIC_RELEASE);
    ps_log_publish(log, &slot);
    log->clear_sequence = slot.sequence;
    if (PS_UNLIKELY(slot.position >= (__atomic_load_n(&log->due_at, __ATOMIC_RELAXED) & PS_DUE_POSITION)))
      ps_log_ring_due(log, slot.position);
    __atomic_store_n(&log->active->dirty_end, slot.log_end, __ATOMIC_RELEASE);
    ps_index_add(log->env, log->active, *base_offset, position, max_before);
    PS_POINT(log->env, "append.indexed");
  } else if (log->active && stores_by_call(log->active, storing)) {
    /* Part of what was to be stored may stand there: the state stays odd, so that it is mended. */
    if (storing == PS_SEAL_BYTES || !unmake_frame(log, &slot)) return status;
  }
  ps_release_u64(log->head + PS_HEAD_STATE_OFF, state + 1);
  PS_POINT(log->env, "append.even");
  return status;
}

ps_status ps_log_settle(ps_log *log, ps_error *err) {
  ps_slot slot;
  ps_status status = ps_log_check_writable(log, err);
  if (status == PS_OK) status = ps_log_lock_append(log, -1, err);
  if (status != PS_OK) return status;
  uint64_t state = ps_acquire_u64(log->head + PS_HEAD_STATE_OFF);
  if (state & 1) status = begin(log, &slot, err);
  if (state & 1 && status == PS_OK) ps_release_u64(log->head + PS_HEAD_STATE_OFF, state + 1);
  ps_log_unlock_append(log);
  return status;
}

ps_status ps_log_roll_now(ps_log *log, int64_t segment, int64_t timeout_ns, ps_error *err) {
  ps_slot slot;
  ps_status status = ps_log_lock_append(log, timeout_ns, err);
  if (status != PS_OK) return status;
  status = begin(log, &slot, err);
  if (status == PS_OK) {
    uint64_t state = ps_acquire_u64(log->head + PS_HEAD_STATE_OFF);
    bool wanted = slot.segment == segment && slot.log_end > slot.segment;
    if (wanted) status = ps_log_roll(log, &slot, 0, err);
    if (status != PS_OK) { /* as in append_locked */
      slot.sequence++;
      ps_head_write_slot(log->head, &slot);
    }
    bool torn = status != PS_OK && log->active && stores_by_call(log->active, PS_SEAL_BYTES);
    if (!torn) ps_release_u64(log->head + PS_HEAD_STATE_OFF, state + 1);
  }
  ps_log_unlock_append(log);
  return ps_log_explain(log, status, err);
}

ps_status ps_log_append(ps_log *log, ps_prepared *batch, int64_t timeout_ns, int64_t *base_offset,
                        ps_error *err) {
  ps_status status = ps_log_check_writable(log, err);
  if (status != PS_OK) return status;
  /* Who made it went by the limits of then. */
  if (batch->meta.frame_bytes >
      PS_FRAME_BYTES_MAX(__atomic_load_n(&log->segment_bytes_max, __ATOMIC_RELAXED)))
    return ps_fail(err, PS_TOO_LARGE, log->dir, "the batch does not fit a segment");
  status = ps_log_lock_append(log, timeout_ns, err);
  if (status != PS_OK) return status;
  status = append_locked(log, batch, base_offset, err);
  ps_log_unlock_append(log);
  if (status != PS_OK) return ps_log_explain(log, status, err);
  ps_log_count(&log->appends, 1);
  ps_log_count(&log->appended_records, batch->meta.record_count);
  ps_log_count(&log->appended_bytes, batch->meta.frame_bytes);
  int64_t end = ps_frame_next_offset(&batch->meta);
  if (ps_log_durability(log) == PS_DURABILITY_SYNC)
    status = ps_log_sync_to(log, end, err);
  else if (PS_UNLIKELY(ps_head_watermark(log->head) < end)) /* no longer a sync topic since it was stored */
    if (ps_max_i64(log->head + PS_HEAD_WATERMARK_OFF, end)) ps_log_signal(log);
  return status;
}
