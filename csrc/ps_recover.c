/* Recovery of one partition: the first use in an incarnation, append lock held, nobody else inside.
 *
 * The log is walked from the durable offset; every frame is checked whole. The walk ends at the first place
 * where no sound frame follows. If a sound frame further on says that this place was durable, it is damage:
 * it stays, and the walk goes on beyond it. Otherwise what stands there is a torn tail: it is kept in a .cut
 * file and the log goes on in a new segment with a higher epoch. Every step may be interrupted and begun
 * again. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "ps_compact.h"
#include "ps_log_internal.h"

typedef struct walk {
  int64_t *bases;
  size_t count, at; /* segments of the directory, and the one the walk is in */
  ps_segment *segment;
  uint64_t position;
  int64_t next;    /* offset expected at position */
  int64_t durable; /* frames that end at or below it were checked in an earlier life */
  int64_t sure;    /* what is durable: that, or more */
  int32_t epoch;   /* the highest one met */
  uint64_t frames; /* in this segment */
  bool counted;    /* all of them: nothing of it was passed over */
  int64_t max_timestamp;
  bool sealed; /* a sound seal stands at position */
  bool torn;   /* at its end: something stands beyond */
  bool reindex;
} walk;

/* Begin segment `at`; on failure the walk stays where it is. */
static ps_status enter(ps_log *log, walk *w, size_t at, ps_error *err) {
  ps_segment *segment;
  ps_status status = ps_table_at(log, w->bases[at], &segment, err);
  if (status != PS_OK) return status;
  ps_segment_unref(w->segment);
  w->segment = segment;
  w->at = at;
  w->position = PS_SEGMENT_HEADER_BYTES;
  w->next = w->bases[at];
  w->frames = 0;
  w->counted = true;
  w->max_timestamp = PS_TIMESTAMP_NONE;
  w->sealed = false;
  if (segment->leader_epoch > w->epoch) w->epoch = segment->leader_epoch;
  if (w->reindex) {
    ps_error ignored;
    pthread_mutex_lock(&log->table_mutex);
    /* By pwrite: the file may be on a disk that is full, and a failed write costs speed only. */
    (void)ps_index_open(log->env, log->dir, w->segment, true, true, ps_log_index_interval(log), &ignored);
    pthread_mutex_unlock(&log->table_mutex);
    if (w->segment->index_map && w->segment->index_writable) ps_index_reset(log->env, w->segment);
  }
  return PS_OK;
}

static void step(ps_log *log, walk *w, const ps_frame_meta *meta) {
  if (w->reindex) ps_index_add(log->env, w->segment, meta->base_offset, w->position, w->max_timestamp);
  w->position += meta->frame_bytes;
  w->next = ps_frame_next_offset(meta);
  /* Only compaction joins frames, and only what is durable: who says less, is an older head. */
  if (meta->base_offset < w->sure && w->next > w->sure) w->sure = w->next;
  w->frames++;
  if (meta->max_timestamp > w->max_timestamp) w->max_timestamp = meta->max_timestamp;
  if (meta->leader_epoch > w->epoch) w->epoch = meta->leader_epoch;
}

/* PS_OK or, of a frame that a later version wrote, PS_VERSION: a sound header stands there. */
static ps_status header_at(ps_log *log, const walk *w, uint64_t position, ps_frame_meta *meta) {
  ps_segment *s = w->segment;
  if (!ps_segment_backed(log->env, s, position + PS_FRAME_HEADER_BYTES)) return PS_END;
  ps_status status =
      ps_frame_decode_header(s->map + position, s->capacity - position, s->salt, position, meta);
  return status != PS_OK || ps_segment_backed(log->env, s, position + meta->frame_bytes) ? status : PS_END;
}

/* Does the segment's file hold nothing but zeros from `position` on? Space that is only reserved is not read.
 */
static bool blank_from(ps_log *log, ps_segment *segment, uint64_t position) {
  int fd = ps_os_openat(log->env, AT_FDCWD, segment->path, O_RDONLY, 0);
  if (fd < 0) return false;
  uint64_t end = segment->readable & ~7ull, at = position;
  bool blank = true;
  for (uint64_t i = end; i < segment->readable; i++) blank = blank && segment->map[i] == 0; /* of any size */
  ps_os_read_ahead(segment->map, segment->capacity, false);
  while (blank && at < end) {
    int64_t data = ps_os_seek_data(log->env, fd, (int64_t)at);
    if (data == -ENXIO) break;
    if (data > (int64_t)at) at = (uint64_t)data;
    /* Whole pages: the rest of one that was looked into would count as data. */
    uint64_t stop = (at & ~4095ull) + PS_RESERVE_BYTES_MIN, any = 0;
    for (; at < stop && at < end; at += 8) any |= ps_load_u64(segment->map + at);
    blank = any == 0;
  }
  ps_os_read_ahead(segment->map, segment->capacity, true);
  ps_os_close(fd);
  return blank;
}

/* The log goes on in the next segment, so here was a seal, which has never reached the disk. It only says
 * what the segments do: a failure is none. */
static void seal_anew(ps_log *log, const walk *w) {
  uint8_t bytes[PS_SEAL_BYTES];
  if (w->position + PS_SEAL_BYTES > w->segment->capacity || !blank_from(log, w->segment, w->position)) return;
  ps_seal seal = {w->next, w->frames, w->max_timestamp};
  ps_seal_encode(&seal, w->segment->salt, w->position, bytes);
  int fd = ps_os_openat(log->env, AT_FDCWD, w->segment->path, O_RDWR, 0);
  if (fd < 0) return;
  (void)ps_os_pwrite_all(log->env, fd, bytes, sizeof bytes, (int64_t)w->position);
  ps_os_close(fd);
}

/* Over all frames that follow one another soundly, into further segments too. */
static ps_status run(ps_log *log, walk *w, ps_error *err) {
  for (;;) {
    ps_frame_meta meta;
    const uint8_t *p = w->segment->map + w->position;
    ps_status here = header_at(log, w, w->position, &meta);
    if (here == PS_VERSION) return ps_log_fail_newer(w->segment, w->position, w->next, err);
    if (here == PS_OK && meta.base_offset == w->next &&
        (ps_frame_next_offset(&meta) <= w->durable || ps_frame_body_ok(p, &meta))) {
      step(log, w, &meta);
      continue;
    }
    ps_seal seal;
    w->sealed = ps_segment_backed(log->env, w->segment, w->position + PS_SEAL_BYTES) &&
                ps_seal_decode(p, PS_SEAL_BYTES, w->segment->salt, w->position, &seal) == PS_OK &&
                seal.end_offset == w->next;
    size_t after = w->at + 1;
    while (after < w->count && w->bases[after] < w->next)
      after++; /* left-overs of a merge: C1, ps_compact.h */
    if (after == w->count || w->bases[after] != w->next) return PS_OK;
    if (!w->sealed && w->counted && w->reindex) seal_anew(log, w);
    ps_status status = enter(log, w, after, err); /* with or without its seal: offsets go on there */
    /* A segment whose header never reached the disk holds nothing that was durable: the log ends before it.
     */
    if (status == PS_CORRUPT && w->bases[after] >= w->durable) return PS_OK;
    if (status != PS_OK) return status;
  }
}

/* Looks beyond the end of the walk for sound frames. *durable: the highest durable offset any of them knew;
 * *resume: the first of them (segment index, position, offset) if there is one. */
typedef struct beyond {
  int64_t durable;
  bool any;
  size_t at;
  uint64_t position;
  int64_t offset;
  bool bytes; /* anything but zeros, or a later segment */
} beyond;

static void look_in(ps_log *log, const walk *w, size_t at, uint64_t from, beyond *b) {
  ps_segment *s = w->segment;
  uint64_t end = __atomic_load_n(&s->readable, __ATOMIC_RELAXED);
  uint64_t position = from;
  for (; position + PS_ALIGN <= end; position += PS_ALIGN) {
    const uint8_t *p = s->map + position;
    if (!b->bytes)
      for (unsigned i = 0; i < PS_ALIGN; i += 8) b->bytes = b->bytes || ps_load_u64(p + i) != 0;
    ps_frame_meta meta;
    if (ps_load_u32(p + PS_FRAME_MAGIC_OFF) != PS_FRAME_MAGIC) continue;
    ps_status here = header_at(log, w, position, &meta);
    if (here != PS_OK && here != PS_VERSION) continue;
    /* Not the bad place itself, whose header may well be sound, nor anything older than it. */
    if (meta.base_offset <= w->next || meta.base_offset < s->base_offset) continue;
    if (b->any && meta.base_offset < b->offset) continue;
    if (!b->any) {
      b->at = at;
      b->position = position;
      b->offset = meta.base_offset;
    }
    b->any = true;
    if (meta.durable_offset > b->durable) b->durable = meta.durable_offset;
  }
  for (; position < end; position++) b->bytes = b->bytes || s->map[position] != 0; /* a file of any size */
}

static ps_status look_beyond(ps_log *log, walk *w, beyond *b, ps_error *err) {
  memset(b, 0, sizeof *b);
  b->durable = -1;
  look_in(log, w, w->at, w->position + (w->sealed ? PS_SEAL_BYTES : 0), b);
  for (size_t i = w->at + 1; i < w->count; i++) {
    walk other = *w;
    b->bytes = true;
    ps_status status = ps_table_at(log, w->bases[i], &other.segment, err);
    if (status == PS_CORRUPT) continue; /* not even its header stands: it says nothing */
    if (status != PS_OK) return status;
    look_in(log, &other, i, PS_SEGMENT_HEADER_BYTES, b);
    ps_segment_unref(other.segment);
  }
  return PS_OK;
}

/* Two thousand million recoveries are not to be expected; a damaged file may say that they were. */
static int32_t epoch_after(int32_t epoch) { return epoch < INT32_MAX ? epoch + 1 : epoch; }

/* The next epoch under which nothing of these segments was set aside yet: where the epochs file and the
 * latest segments were lost, it comes round again, and must not take the name of what an earlier cut kept. */
static ps_status unused_epoch(const ps_log *log, const walk *w, int32_t *epoch, ps_error *err) {
  bool used = true;
  while (used && *epoch < INT32_MAX) {
    ++*epoch;
    used = false;
    for (size_t i = w->at; i < w->count && !used; i++) {
      char name[PS_SEGMENT_NAME_BYTES], path[512], aside[600];
      struct stat st;
      ps_segment_name(w->bases[i], name);
      ps_log_path(log, name, path);
      snprintf(aside, sizeof aside, "%s.%010d.cut", path, *epoch);
      int rc = ps_os_stat_at(log->env, AT_FDCWD, aside, &st);
      if (rc < 0 && rc != -ENOENT) return ps_fail_errno(err, -rc, aside, "looking for what was cut before");
      used = rc == 0;
    }
  }
  return PS_OK;
}

/* `stays`: under its own name too, until another file takes that. Else a power failure in between would leave
 * a log without any segment, which no head explains. */
static ps_status set_aside(ps_log *log, const char *path, int32_t epoch, bool stays, ps_error *err) {
  char aside[600];
  snprintf(aside, sizeof aside, "%s.%010d.cut", path, epoch);
  int rc = stays ? ps_os_link(log->env, AT_FDCWD, path, aside) : -EPERM;
  if (rc == -EPERM || rc == -EOPNOTSUPP || rc == -EMLINK) /* some file systems have no second names */
    rc = ps_os_rename(log->env, AT_FDCWD, path, aside);
  return rc < 0 && rc != -ENOENT ? ps_fail_errno(err, -rc, path, "setting a segment aside") : PS_OK;
}

/* Copy [from, end) of the segment's file to its .cut file and sync that. */
static ps_status save_tail(ps_log *log, const walk *w, int32_t epoch, ps_error *err) {
  uint64_t from = w->position, end = w->segment->readable;
  while (end > from && w->segment->map[end - 1] == 0) end--;
  if (end == from) return PS_OK;
  char path[600];
  snprintf(path, sizeof path, "%s.%010d.cut", w->segment->path, epoch);
  int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDWR | O_CREAT | O_TRUNC, 0666);
  if (fd < 0) return ps_fail_errno(err, -fd, path, "saving a torn tail");
  int rc = ps_os_pwrite_all(log->env, fd, w->segment->map + from, end - from, 0);
  if (rc == 0) rc = ps_os_sync_data(log->env, fd);
  ps_os_close(fd);
  return rc < 0 ? ps_fail_errno(err, -rc, path, "saving a torn tail") : PS_OK;
}

/* End the log at the walk's place: I6. The epoch is written first, so that an interrupted cut, begun again,
 * ends with a higher one still. */
static ps_status cut(ps_log *log, walk *w, int32_t epoch, ps_error *err) {
  PS_POINT(log->env, "recover.epoch");
  ps_status status = ps_epochs_append(log, epoch, w->next, err);
  PS_POINT(log->env, "recover.save");
  bool whole = w->position == PS_SEGMENT_HEADER_BYTES; /* nothing of the segment stays */
  if (status == PS_OK && !whole) status = save_tail(log, w, epoch, err);
  for (size_t i = w->count; status == PS_OK && i-- > w->at + (whole ? 0 : 1);) {
    char name[PS_SEGMENT_NAME_BYTES], path[512];
    ps_segment_name(w->bases[i], name);
    ps_log_path(log, name, path);
    status = set_aside(log, path, epoch, i == w->at, err);
    PS_POINT(log->env, "recover.aside");
  }
  /* What was kept has its name for good before anything is taken away. */
  if (status == PS_OK) status = ps_log_sync_directory(log, err);
  if (status == PS_OK && !whole) {
    uint8_t bytes[PS_SEAL_BYTES];
    ps_seal seal = {w->next, w->frames, w->max_timestamp};
    ps_seal_encode(&seal, w->segment->salt, w->position, bytes);
    int fd = ps_os_openat(log->env, AT_FDCWD, w->segment->path, O_RDWR, 0);
    int rc = fd < 0 ? fd : ps_os_pwrite_all(log->env, fd, bytes, sizeof bytes, (int64_t)w->position);
    PS_POINT(log->env, "recover.seal");
    if (rc == 0) rc = ps_os_truncate(log->env, fd, (int64_t)(w->position + PS_SEAL_BYTES));
    if (rc == 0) rc = ps_os_sync_data(log->env, fd);
    if (fd >= 0) ps_os_close(fd);
    if (rc < 0) status = ps_fail_errno(err, -rc, w->segment->path, "cutting a torn tail");
  }
  PS_POINT(log->env, "recover.create");
  if (status == PS_OK) status = ps_log_create_segment(log, w->next, epoch, true, err);
  if (status == PS_OK) status = ps_log_sync_directory(log, err);
  ps_log_count(&log->cuts, 1);
  return status;
}

/* After a failed sync the page cache is all there is: copy each segment that holds anything above the durable
 * offset, as it now reads, to a new file, sync that, and put it in the old one's place. */
static ps_status rewrite(ps_log *log, const walk *w, bool cuts, ps_error *err) {
  bool whole = cuts && w->position == PS_SEGMENT_HEADER_BYTES; /* goes aside, all of it, as it is */
  for (size_t i = 0; i < w->at + (whole ? 0 : 1); i++) {
    if (i < w->at && w->bases[i + 1] <= w->durable) continue;
    ps_segment *s;
    char temporary[512];
    int fd;
    ps_status status = ps_table_at(log, w->bases[i], &s, err);
    if (status != PS_OK) return status;
    uint64_t bytes = s->readable, walked = w->position + (w->sealed ? PS_SEAL_BYTES : 0);
    if (i == w->at && !cuts) bytes = walked;
    /* What is to be cut is in it still: it has no file of its own yet. */
    while (i == w->at && bytes > walked && s->map[bytes - 1] == 0) bytes--;
    ps_log_path(log, "rewrite.tmp", temporary);
    status = ps_log_create_file(log, temporary, bytes, &fd, err);
    if (status == PS_OK) {
      int rc = ps_os_pwrite_all(log->env, fd, s->map, bytes, 0);
      if (rc == 0) rc = ps_os_sync_data(log->env, fd);
      ps_os_close(fd);
      PS_POINT(log->env, "recover.rewrite");
      if (rc == 0) rc = ps_os_rename(log->env, AT_FDCWD, temporary, s->path);
      if (rc < 0) status = ps_fail_errno(err, -rc, s->path, "rewriting a segment after a failed sync");
    }
    ps_segment_unref(s);
    if (status != PS_OK) return status;
  }
  return ps_log_sync_directory(log, err);
}

/* Whoever made the topic, or the store, may have died between giving it its name and syncing that. A name
 * above that we may not open is not ours to sync. */
static ps_status sync_names_above(ps_log *log, ps_error *err) {
  static const char *const above[] = {"/../..", "/../../..", "/../../../.."}; /* topics, store, its parent */
  for (size_t i = 0; log->options.topic_locks && i < sizeof above / sizeof *above; i++) {
    char path[512];
    snprintf(path, sizeof path, "%s%s", log->dir, above[i]);
    int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd == -EACCES) return PS_OK;
    int rc = fd < 0 ? fd : ps_os_sync_dir(log->env, fd);
    if (fd >= 0) ps_os_close(fd);
    if (rc < 0 && rc != -EINVAL && rc != -EROFS) /* file systems on which it cannot be asked for */
      return ps_fail_errno(err, -rc, path, "syncing a directory above the partition");
  }
  return PS_OK;
}

static ps_status fresh(ps_log *log, walk *w, int32_t epoch, ps_error *err) {
  ps_status status = sync_names_above(log, err);
  if (status == PS_OK) status = ps_epochs_append(log, epoch, 0, err);
  if (status == PS_OK) status = ps_log_create_segment(log, 0, epoch, true, err);
  if (status == PS_OK) status = ps_log_sync_directory(log, err);
  w->position = PS_SEGMENT_HEADER_BYTES;
  w->next = 0;
  return status;
}

/* Write every word of the head anew. Order: what readers go by comes last. */
static void write_head(ps_log *log, const ps_head_identity *identity, const ps_slot *slot, int64_t log_start,
                       int64_t durable, int64_t watermark, const uint8_t boot_id[16]) {
  uint8_t *head = log->head;
  ps_slot both = *slot;
  PS_POINT(log->env, "recover.head");
  ps_release_u64(head + PS_HEAD_INCARNATION_OFF, 0);
  /* Whoever copies the words below (ps_view.c) finds the incarnation gone if he sees one of them. */
  __atomic_thread_fence(__ATOMIC_RELEASE);
  ps_head_write_identity(head, identity);
  both.sequence = slot->sequence;
  ps_head_write_slot(head, &both);
  both.sequence++;
  PS_POINT(log->env, "recover.slot");
  ps_head_write_slot(head, &both);
  PS_POINT(log->env, "recover.slots");
  ps_head_set_log_start(head, log_start);
  if (ps_head_cleaned(head) > slot->log_end)
    ps_head_set_cleaned(head, slot->log_end); /* a cut takes it back */
  memcpy(head + PS_HEAD_BOOT_ID_OFF, boot_id, 16);
  ps_release_u64(head + PS_HEAD_POISON_OFF, 0);
  if (!ps_head_deleted(head)) ps_release_u64(head + PS_HEAD_DELETED_OFF, 0);
  ps_release_i64(head + PS_HEAD_STABLE_OFF, 0);
  __atomic_store_n((uint32_t *)(head + PS_HEAD_WAITERS_OFF), 0, __ATOMIC_SEQ_CST);
  ps_release_i64(head + PS_HEAD_DURABLE_OFF, durable);
  ps_release_u64(head + PS_HEAD_DURABLE_CHECK_OFF, (uint64_t)durable * PS_HEAD_DURABLE_FACTOR);
  ps_release_i64(head + PS_HEAD_LOG_END_OFF, slot->log_end);
  ps_release_i64(head + PS_HEAD_WATERMARK_OFF, watermark);
  ps_release_u64(head + PS_HEAD_STATE_OFF, (ps_acquire_u64(head + PS_HEAD_STATE_OFF) + 2) & ~1ull);
  PS_POINT(log->env, "recover.headed");
}

/* Files that an interrupted roll, preparation or rewrite left under a temporary name. */
static void sweep(ps_log *log) {
  DIR *dir = opendir(log->dir);
  struct dirent *entry;
  while (dir && (entry = readdir(dir)) != NULL) {
    size_t length = strlen(entry->d_name);
    if (length < 4 || length > 60 || strcmp(entry->d_name + length - 4, ".tmp") != 0) continue;
    char path[512];
    ps_log_path(log, entry->d_name, path);
    (void)ps_os_unlink(log->env, AT_FDCWD, path);
  }
  if (dir) closedir(dir);
}

/* What the old head still says, as far as it can be believed. */
typedef struct belief {
  bool slot_known;
  ps_slot slot;
  int64_t durable, log_start;
  bool poisoned, clean;
  bool same_boot; /* nothing but processes can have died since it was written */
  bool copied;    /* of a store that somebody had used: perhaps while he did */
} belief;

static bool boot_known(const uint8_t boot_id[16]) {
  static const uint8_t unknown[16];
  return memcmp(boot_id, unknown, 16) != 0;
}

static belief read_belief(const ps_log *log, ps_head_verdict verdict, const uint8_t boot_id[16]) {
  belief b = {.durable = -1, .log_start = -1};
  const uint8_t *head = log->head;
  /* Of a head that is this partition's, though its checksum was torn, as it may be when a moved one is given
   * its new identity: what was deleted does not come back. */
  bool ours = memcmp(head + PS_HEAD_TOPIC_UUID_OFF, log->options.topic_uuid, 16) == 0 &&
              ps_load_u32(head + PS_HEAD_PARTITION_OFF) == log->options.partition;
  if (verdict == PS_HEAD_DAMAGED && ours) b.log_start = ps_head_log_start(head);
  if (verdict != PS_HEAD_SOUND && verdict != PS_HEAD_MOVED) return b;
  b.slot_known = ps_head_read_slot(head, &b.slot);
  b.poisoned = ps_head_poison(head) != 0;
  b.copied = verdict == PS_HEAD_MOVED && ps_acquire_u64(head + PS_HEAD_INCARNATION_OFF) != 0;
  b.same_boot = boot_known(boot_id) && memcmp(head + PS_HEAD_BOOT_ID_OFF, boot_id, 16) == 0;
  b.durable = ps_head_durable_checked(head, b.same_boot);
  /* The slots bound it, too. */
  if (!b.slot_known)
    b.durable = -1;
  else if (b.durable > b.slot.log_end)
    b.durable = b.slot.log_end;
  /* A word as the durable offset is one: bounded. Where the page was torn while it was raised, the one before
   * it counts, which had been made durable with a slot that is not below it. And nothing below it need be
   * there any more. */
  b.log_start = ps_head_log_start_within(head, b.slot_known ? b.slot.log_end : INT64_MAX);
  if (b.durable >= 0 && b.durable < b.log_start) b.durable = b.log_start;
  b.clean = verdict == PS_HEAD_SOUND && b.slot_known && !b.poisoned && b.durable == b.slot.log_end &&
            b.durable == ps_head_log_end(head) && b.log_start >= 0 && b.log_start <= b.durable &&
            !(ps_acquire_u64(head + PS_HEAD_STATE_OFF) & 1);
  return b;
}

/* Everything was synced and nobody died, says the head. But after a power failure it may be an old head: then
 * something may stand beyond, in a later segment, in this one, or in its index. */
static bool still_clean(ps_log *log, const belief *b) {
  ps_segment *segment;
  ps_index_entry last;
  if (ps_table_holding(log, INT64_MAX, &segment, NULL) != PS_OK) return false;
  uint64_t position = b->slot.position;
  bool clean = segment->base_offset == b->slot.segment && ps_segment_backed(log->env, segment, position) &&
               position + PS_SEAL_BYTES <= segment->capacity && blank_from(log, segment, position) &&
               !(ps_index_find_offset(segment, INT64_MAX, &last) && last.position >= position);
  ps_segment_unref(segment);
  return clean;
}

/* Where to begin instead of at `first`: that may be what a merge has left (C1, ps_compact.h), and readers
 * come to the merged segment, all of which is durable, whatever an older head says. */
static size_t before_leftovers(const ps_log *log, const walk *w, size_t first) {
  for (size_t i = first > PS_COMPACT_MEMBERS_MAX ? first - PS_COMPACT_MEMBERS_MAX : 0; i < first; i++) {
    char name[PS_SEGMENT_NAME_BYTES], path[512];
    ps_segment_ends ends;
    ps_segment_name(w->bases[i], name);
    ps_log_path(log, name, path);
    if (ps_segment_read_ends(log->env, AT_FDCWD, path, &ends) == 0 && ends.sealed &&
        ends.info.base_offset == w->bases[i] && ends.seal.end_offset > w->bases[first])
      return i;
  }
  return first;
}

static ps_status walk_log(ps_log *log, walk *w, const belief *b, ps_error *err) {
  size_t first = 0; /* unknown durable offset: from the very beginning, as far as it is not deleted */
  int64_t from = b->durable > b->log_start ? b->durable : b->log_start;
  while (from >= 0 && first + 1 < w->count && w->bases[first + 1] <= from) first++;
  first = before_leftovers(log, w, first);
  ps_status status = enter(log, w, first, err);
  if (status == PS_CORRUPT && first > 0 && w->bases[first] >= from)
    status = enter(log, w, before_leftovers(log, w, first - 1), err);
  while (status == PS_OK) {
    beyond beyond;
    status = run(log, w, err);
    if (status != PS_OK) break;
    status = look_beyond(log, w, &beyond, err);
    if (status != PS_OK) break;
    if (!beyond.any || beyond.durable <= w->next) { /* the end: torn, or clean */
      w->torn = beyond.bytes;
      return PS_OK;
    }
    /* Damage: leave it, and go on with what is sound beyond. */
    if (beyond.at != w->at) status = enter(log, w, beyond.at, err);
    w->position = beyond.position;
    w->counted = false;
    w->next = beyond.offset;
    if (w->sure < w->next)
      w->sure = w->next; /* the next recovery finds it, whatever is cut of what said so */
  }
  return status;
}

ps_status ps_log_recover(ps_log *log, ps_head_verdict verdict, const ps_head_identity *identity,
                         ps_error *err) {
  uint8_t boot_id[16];
  ps_live_boot_id(log->env, boot_id);
  belief b = read_belief(log, verdict, boot_id);
  ps_table_forget(log);
  ps_status status = ps_table_scan(log, err);
  if (status != PS_OK) return status;
  bool writes = !log->options.read_only;
  /* After a power failure all that was not durable may be gone without a trace, and the head be as old as
   * what is left: then only another boot tells. What was shown above the end may have been read, and its
   * offsets are given out again: in a later epoch. A sync topic shows nothing that can be gone. And the head
   * of a copy says nothing of what came after it was copied: a position saved later may lie beyond. */
  /* Also in sync topics: they may have been others before, and records shown then are gone without a trace.
   */
  bool new_epoch = writes && (b.copied || !b.same_boot);
  int32_t epoch;
  status = ps_epochs_last(log, &epoch, err);
  if (status != PS_OK) return status;
  if (b.slot_known && b.slot.leader_epoch > epoch) epoch = b.slot.leader_epoch;
  if (writes) sweep(log);
  if (b.clean && still_clean(log, &b)) {
    ps_slot slot = b.slot;
    slot.sequence++;
    if (new_epoch) status = ps_epochs_append(log, epoch = epoch_after(epoch), slot.log_end, err);
    if (status != PS_OK) return status;
    slot.leader_epoch = epoch;
    write_head(log, identity, &slot, b.log_start, b.durable, b.durable, boot_id);
    return PS_OK;
  }
  walk w = {.durable = b.durable,
            .sure = b.durable < 0 ? b.log_start : b.durable,
            .max_timestamp = PS_TIMESTAMP_NONE,
            .reindex = writes};
  status = ps_table_bases(log, &w.bases, &w.count, err);
  if (status != PS_OK) return status;
  bool new_segment = false, new_log = w.count == 0;
  if (status == PS_OK && new_log && b.slot_known && b.slot.log_end > 0)
    status =
        ps_fail_corrupt(err, log->dir, b.slot.segment, -1, 0, "every segment of the partition is missing");
  if (status == PS_OK && new_log) {
    epoch = epoch > 0 ? epoch_after(epoch) : 0;
    status = writes ? fresh(log, &w, epoch, err) : PS_OK;
  } else if (status == PS_OK) {
    status = walk_log(log, &w, &b, err);
    if (status == PS_OK && w.next < b.durable) {
      status =
          ps_fail_corrupt(err, w.segment->path, w.segment->base_offset, (int64_t)w.position, w.next,
                          b.copied ? "records that were durable are missing from here on: is this a copy of "
                                     "files that were in use? `pystream backup` copies such stores"
                                   : "records that were durable are missing from here on");
    }
    if (status == PS_OK) {
      if (w.epoch > epoch) epoch = w.epoch;
      /* Offsets above the walk's end may have been given out: only a slot that agrees proves they were not.
       */
      new_segment = writes && (w.torn || !b.slot_known || b.slot.log_end > w.next);
      ps_reserve *reserve = log->options.reserve;
      log->options.reserve = NULL; /* mending is what the reserve is for */
      if (b.poisoned && writes) status = rewrite(log, &w, new_segment, err);
      if (status == PS_OK && new_segment) status = unused_epoch(log, &w, &epoch, err);
      if (status == PS_OK && new_segment)
        status = cut(log, &w, epoch, err);
      else if (status == PS_OK && new_epoch)
        status = ps_epochs_append(log, epoch = epoch_after(epoch), w.next, err);
      log->options.reserve = reserve;
    }
  }
  ps_slot slot = {.sequence = b.slot_known ? b.slot.sequence + 1 : 1,
                  .log_end = w.next,
                  .segment = w.next,
                  .position = PS_SEGMENT_HEADER_BYTES,
                  .max_timestamp = PS_TIMESTAMP_NONE,
                  .leader_epoch = epoch};
  if (status == PS_OK && !new_segment && !new_log) {
    slot.segment = w.segment->base_offset;
    slot.position = w.position;
    slot.frames = w.frames;
    slot.max_timestamp = w.max_timestamp;
  }
  int64_t log_start = b.log_start >= 0 ? b.log_start : (w.count ? w.bases[0] : 0);
  if (log_start > slot.log_end) log_start = slot.log_end; /* a word as the durable offset is one: bounded */
  ps_segment_unref(w.segment);
  free(w.bases);
  if (status != PS_OK) return status;
  if (writes) ps_table_forget(log); /* cut and rewritten files are other files now */
  int64_t durable = b.durable < 0 ? log_start : b.durable;
  if (durable < w.sure) durable = w.sure;
  if (durable > slot.log_end)
    durable = slot.log_end; /* what was sure lies below the log start, or is not ours */
  bool dirty = writes && durable < slot.log_end;
  if (dirty && (ps_log_durability(log) == PS_DURABILITY_SYNC || b.poisoned)) {
    /* Acknowledged or not, what is shown from now on must be durable. */
    status = ps_table_scan(log, err);
    if (status == PS_OK) status = ps_log_sync_segments(log, durable, slot.log_end, err);
    if (status != PS_OK) return status;
    durable = slot.log_end;
    dirty = false;
  }
  /* A sync topic shows what is durable; whoever cannot sync goes by what is known to be. */
  bool only_durable = !writes && ps_log_durability(log) == PS_DURABILITY_SYNC && b.durable >= 0;
  write_head(log, identity, &slot, log_start, durable, only_durable ? durable : slot.log_end, boot_id);
  if (dirty) __atomic_store_n(&log->wrote, true, __ATOMIC_RELEASE); /* the next interval syncs it */
  return PS_OK;
}
