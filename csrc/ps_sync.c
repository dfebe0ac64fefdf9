/* Durability: group commit, the helper thread's work on a log, poison. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "ps_log_internal.h"

#define OPEN_AGAIN_MAX 3
#define OPEN_AGAIN_NS 1000000

void ps_log_poison(ps_log *log, int os_errno) { ps_head_set_poison(log->head, os_errno ? os_errno : EIO); }

ps_status ps_log_fail_poisoning(ps_log *log, int os_errno, const char *path, const char *what,
                                ps_error *err) {
  ps_log_poison(log, os_errno);
  ps_fail_errno(err, os_errno, path, what);
  if (err) err->status = PS_POISONED;
  return PS_POISONED;
}

/* What is to be synced is there already, and whoever is told that it failed appends it once more: so a lack
 * that may pass in a moment is waited for. */
static int open_to_sync(const ps_log *log, const char *path, int flags) {
  int fd = ps_os_openat(log->env, AT_FDCWD, path, flags, 0);
  for (int tries = 0; fd < 0 && fd != -ENOENT && tries < OPEN_AGAIN_MAX; tries++) {
    (void)ps_os_nap(OPEN_AGAIN_NS);
    fd = ps_os_openat(log->env, AT_FDCWD, path, flags, 0);
  }
  return fd;
}

ps_status ps_log_sync_directory(ps_log *log, ps_error *err) {
  int fd = open_to_sync(log, log->dir, O_RDONLY | O_DIRECTORY);
  if (fd < 0) return ps_fail_errno(err, -fd, log->dir, "opening the partition directory");
  int rc = ps_os_sync_dir(log->env, fd);
  ps_os_close(fd);
  return rc < 0 ? ps_log_fail_poisoning(log, -rc, log->dir, "syncing the partition directory", err) : PS_OK;
}

/* Sync one segment's file, through the descriptor that saw the writes where there is one. is_behind: all it
 * holds is durable already, but perhaps its seal. */
static ps_status sync_segment(ps_log *log, ps_segment *segment, bool is_behind, ps_error *err) {
  int fd = __atomic_load_n(&segment->fd, __ATOMIC_ACQUIRE);
  int own = -1;
  if (fd < 0) {
    own = fd = open_to_sync(log, segment->path, O_RDONLY);
    if (fd == -ENOENT && is_behind) return PS_OK; /* removed meanwhile, as nobody needs it any more */
    if (fd < 0) return ps_fail_errno(err, -fd, segment->path, "opening a segment to sync it");
  }
  int rc = ps_os_sync_data(log->env, fd);
  if (own >= 0) ps_os_close(own);
  /* What the kernel dropped, a retry would not bring back: nobody may rely on this log any more. */
  return rc < 0 ? ps_log_fail_poisoning(log, -rc, segment->path, "syncing a segment", err) : PS_OK;
}

/* The index of a segment that is full, so that a power failure leaves whole ones behind. It is derived: what
 * goes wrong here costs speed only. */
static void sync_index(ps_log *log, int64_t base_offset) {
  char name[PS_SEGMENT_NAME_BYTES], path[512];
  ps_index_name(base_offset, name);
  ps_log_path(log, name, path);
  int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDONLY, 0);
  if (fd < 0) return;
  (void)ps_os_sync_derived(log->env, fd);
  ps_os_close(fd);
}

ps_status ps_log_sync_segments(ps_log *log, int64_t from, int64_t to, ps_error *err) {
  ps_segment *segment;
  ps_status status = PS_NOT_FOUND;
  bool is_behind = false;
  /* Where all of a segment is durable already, its seal may not be. */
  if (from > ps_log_start_offset(log)) status = ps_table_holding(log, from - 1, &segment, NULL);
  if (status == PS_OK)
    is_behind = true;
  else
    status = ps_table_holding(log, from, &segment, err);
  bool new_file = false;
  while (status == PS_OK) {
    new_file = new_file || segment->base_offset >= from;
    status = sync_segment(log, segment, is_behind, err);
    is_behind = false;
    int64_t base = segment->base_offset;
    ps_segment_unref(segment);
    if (status != PS_OK) break;
    /* The next segment, if it begins below `to` (or at it: an empty one whose name must last too). */
    int64_t *bases;
    size_t count, i = 0;
    status = ps_table_bases(log, &bases, &count, err);
    if (status != PS_OK) break;
    while (i < count && bases[i] <= base) i++;
    int64_t next = i < count && bases[i] <= to ? bases[i] : -1;
    free(bases);
    if (next < 0) break;
    sync_index(log, base);
    status = ps_table_at(log, next, &segment, err);
  }
  if (status == PS_OK && new_file) status = ps_log_sync_directory(log, err);
  return status;
}

void ps_log_close_clean(ps_log *log, const ps_segment *busy) {
  int64_t durable = ps_head_durable(log->head);
  pthread_mutex_lock(&log->table_mutex);
  for (size_t i = 0; i < log->table_count; i++) {
    ps_segment *segment = log->table[i].segment;
    if (!segment || segment == busy || segment->fd < 0 || segment->dirty_end > durable) continue;
    if (segment == log->active && !segment->write_map) continue; /* pwrite needs it */
    ps_os_close(segment->fd);
    segment->fd = -1;
  }
  ps_maps_shrink(log->options.maps, log);
  pthread_mutex_unlock(&log->table_mutex);
}

/* In a sync topic readers may see what is durable. Done by all who find it durable, not only by the one who
 * synced: he may have died in between. In others, some readers want no more than that. */
static void show_durable(ps_log *log) {
  bool moved = ps_max_i64(log->head + PS_HEAD_WATERMARK_OFF, ps_head_durable(log->head));
  if (moved || ps_log_durability(log) != PS_DURABILITY_SYNC) ps_log_signal(log);
}

/* All from `from` on, a moment ago, stands in a segment that holds something durable already, and so has a
 * name that is: its file is synced, and that is all. False: it is not so simple. Nothing is looked for by its
 * name here, so the topic's place need not be looked at either. */
static bool sync_one(ps_log *log, int64_t from, ps_status *status, ps_error *err) {
  ps_segment *segment;
  ps_slot slot;
  if (from == 0 || ps_table_holding(log, from - 1, &segment, NULL) != PS_OK) return false;
  bool one = __atomic_load_n(&segment->fd, __ATOMIC_ACQUIRE) >= 0 && ps_head_read_slot(log->head, &slot) &&
             slot.segment == segment->base_offset;
  if (one) *status = sync_segment(log, segment, false, err);
  ps_segment_unref(segment);
  return one;
}

/* Another process may have rolled: its segments must be in the table before they are synced. */
static ps_status sync_segments_anew(ps_log *log, int64_t from, int64_t to, ps_error *err) {
  ps_status status = ps_log_check_place(log, err);
  if (status == PS_OK) status = ps_table_refresh(log, err);
  if (status == PS_OK) status = ps_log_sync_segments(log, from, to, err);
  return status;
}

static ps_status sync_held(ps_log *log, int64_t target, ps_error *err) {
  if (ps_head_durable(log->head) >= target) { /* somebody synced for us while we waited */
    show_durable(log);
    return PS_OK;
  }
  ps_status status = ps_log_check(log, err);
  if (status != PS_OK) return status;
  int64_t end = ps_head_log_end(log->head);
  int64_t from = ps_head_durable(log->head), start = ps_log_start_offset(log);
  if (from < start) from = start; /* who raised it, died before he said so: ps_retain.h */
  if (!sync_one(log, from, &status, err)) status = sync_segments_anew(log, from, end, err);
  if (status != PS_OK) return status;
  ps_log_count(&log->syncs, 1);
  ps_head_raise_durable(log->head, end);
  PS_POINT(log->env, "sync.durable");
  show_durable(log);
  if (pthread_mutex_trylock(&log->append_mutex) == 0) { /* else the next sync or roll will */
    ps_log_close_clean(log, NULL);
    pthread_mutex_unlock(&log->append_mutex);
  }
  return PS_OK;
}

static off_t sync_place(const ps_log *log) {
  return (off_t)log->options.partition * PS_LOCK_STRIDE + PS_LOCK_SYNC;
}

static ps_status lock_sync(ps_log *log, ps_error *err) {
  pthread_mutex_lock(&log->sync_mutex);
  int rc = 0;
  if (PS_UNLIKELY(ps_log_flag(&log->closed))) { /* meanwhile; the locks' descriptor goes next */
    pthread_mutex_unlock(&log->sync_mutex);
    return ps_log_check(log, err);
  }
  do rc = ps_os_lock_wait(log->env, log->locks_fd, sync_place(log), false);
  while (rc == -EINTR); /* appended already: the answer must be true, so a signal waits */
  if (rc == 0) return PS_OK;
  pthread_mutex_unlock(&log->sync_mutex);
  return ps_fail_errno(err, -rc, log->dir, "taking the sync lock");
}

static void unlock_sync(ps_log *log) {
  (void)ps_os_unlock(log->locks_fd, sync_place(log));
  pthread_mutex_unlock(&log->sync_mutex);
}

/* Alone in this process, wait for the other processes and sync. */
static ps_status lead(ps_log *log, int64_t target, ps_error *err) {
  ps_status status = lock_sync(log, err);
  if (status != PS_OK) return status;
  status = sync_held(log, target, err);
  unlock_sync(log);
  return status;
}

/* ---- the log start ---------------------------------------------------------------------------- */

ps_status ps_log_sync_start(ps_log *log, int64_t offset, ps_error *err) {
  if (ps_head_durable(log->head) > offset) return PS_OK; /* so is the segment that holds it, and its name */
  ps_status status = lock_sync(log, err);
  if (status != PS_OK) return status;
  status = ps_table_refresh(log, err);
  if (status == PS_OK) status = ps_log_sync_segments(log, offset, offset, err);
  if (status == PS_OK) status = ps_log_sync_directory(log, err);
  unlock_sync(log);
  return status;
}

ps_status ps_log_sync_head(ps_log *log, ps_error *err) {
  char path[512];
  ps_log_path(log, "head", path);
  int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDONLY, 0);
  if (fd < 0) return ps_fail_errno(err, -fd, path, "opening the head to sync it");
  int rc = ps_os_sync_data(log->env, fd);
  ps_os_close(fd);
  return rc < 0 ? ps_log_fail_poisoning(log, -rc, path, "syncing the head", err) : PS_OK;
}

ps_status ps_log_skip_durable(ps_log *log, int64_t offset, ps_error *err) {
  if (ps_head_durable(log->head) >= offset) return PS_OK;
  ps_status status = lock_sync(log, err);
  if (status != PS_OK) return status;
  ps_head_raise_durable(log->head, offset);
  show_durable(log);
  unlock_sync(log);
  return PS_OK;
}

/* Group commit. Who waits, waits for a sync to end and not for a mutex: that would be handed from one to the
 * next, with a new sync in between whenever one who is through comes back first. */
ps_status ps_log_sync_to(ps_log *log, int64_t target, ps_error *err) {
  pthread_mutex_lock(&log->turn_mutex);
  while (log->syncing && ps_head_durable(log->head) < target)
    pthread_cond_wait(&log->turn_over, &log->turn_mutex);
  bool leads = ps_head_durable(log->head) < target;
  if (leads) log->syncing = true;
  pthread_mutex_unlock(&log->turn_mutex);
  if (!leads) {
    ps_status status = ps_log_check(log, err);
    if (status == PS_OK) show_durable(log);
    return status;
  }
  ps_status status = lead(log, target, err);
  pthread_mutex_lock(&log->turn_mutex);
  log->syncing = false;
  pthread_cond_broadcast(&log->turn_over);
  pthread_mutex_unlock(&log->turn_mutex);
  return ps_log_explain(log, status, err);
}

ps_status ps_log_sync(ps_log *log, ps_error *err) {
  ps_status status = ps_log_check_writable(log, err);
  return status == PS_OK ? ps_log_sync_to(log, ps_head_log_end(log->head), err) : status;
}

/* The sync mutex keeps the descriptors open. Who finds it taken finds a sync under way. */
void ps_log_start_writeback(ps_log *log) {
  int fds[8];
  size_t count = 0;
  if (pthread_mutex_trylock(&log->sync_mutex) != 0) return;
  if (!ps_log_flag(&log->closed) && !ps_log_flag(&log->forked)) {
    int64_t durable = ps_head_durable(log->head);
    pthread_mutex_lock(&log->table_mutex);
    for (size_t i = log->table_count; i-- > 0 && count < sizeof fds / sizeof *fds;) {
      const ps_segment *segment = log->table[i].segment;
      if (!segment || segment->dirty_end <= durable) continue;
      int fd = __atomic_load_n(&segment->fd, __ATOMIC_ACQUIRE);
      if (fd >= 0) fds[count++] = fd;
    }
    pthread_mutex_unlock(&log->table_mutex);
  }
  for (size_t i = 0; i < count; i++) ps_os_start_writeback(log->env, fds[i]);
  pthread_mutex_unlock(&log->sync_mutex);
}

bool ps_log_is_dirty(const ps_log *log) {
  return __atomic_load_n(&log->wrote, __ATOMIC_ACQUIRE) &&
         ps_head_durable(log->head) < ps_head_log_end(log->head);
}

void ps_log_prepare_next(ps_log *log) {
  if (!ps_log_flag(&log->active_unprepared) || ps_log_check(log, NULL) != PS_OK) return;
  ps_slot slot;
  if (!ps_head_read_slot(log->head, &slot) || slot.position < ps_log_segment_bytes(log) / 2) return;
  if (ps_log_lock_maintain(log, 0, NULL) != PS_OK) return; /* another is at it */
  char path[512], temporary[512], name[64];
  struct stat st;
  ps_log_path(log, PS_NEXT_NAME, path);
  if (ps_log_check_place(log, NULL) == PS_OK && ps_os_stat_at(log->env, AT_FDCWD, path, &st) < 0) {
    int fd;
    snprintf(name, sizeof name, "next.%d.tmp", (int)getpid());
    ps_log_path(log, name, temporary);
    ps_error ignored; /* the roll makes its own file then, and reports */
    uint32_t bytes = ps_log_segment_bytes(log);
    if (ps_log_create_file(log, temporary, bytes, &fd, &ignored) == PS_OK) {
      PS_POINT(log->env, "prepare.created");
      /* pwrite-only file systems may not allocate: an empty file would be taken for a wrong size. */
      if (ps_os_stat_fd(log->env, fd, &st) == 0 && (uint64_t)st.st_size == bytes)
        (void)ps_os_rename(log->env, AT_FDCWD, temporary, path);
      else
        (void)ps_os_unlink(log->env, AT_FDCWD, temporary);
      ps_os_close(fd);
    }
  }
  __atomic_store_n(&log->active_unprepared, false, __ATOMIC_RELEASE);
  ps_log_unlock_maintain(log);
}

void ps_log_populate(ps_log *log, uint64_t bytes) {
  if (ps_log_durability(log) == PS_DURABILITY_SYNC || ps_log_check(log, NULL) != PS_OK) return;
  if (__atomic_load_n(&log->stores_by_call, __ATOMIC_RELAXED)) return; /* calls bring their own pages */
  ps_slot slot;
  if (!ps_head_read_slot(log->head, &slot)) return;
  if (pthread_mutex_trylock(&log->table_mutex) != 0) return;
  ps_segment *segment = NULL;
  for (size_t i = log->table_count; i-- > 0 && !segment;)
    if (log->table[i].base_offset == slot.segment) segment = log->table[i].segment;
  if (segment) ps_segment_ref(segment);
  pthread_mutex_unlock(&log->table_mutex);
  if (!segment) return;
  /* A map of its own, so that a roll in between cannot unmap it under us; a segment cut meanwhile answers
   * with an error, never a signal. */
  uint64_t from = ps_align_up(slot.position, 4096), to = from + ps_align_up(bytes, 4096);
  uint64_t backed = __atomic_load_n(&segment->readable, __ATOMIC_RELAXED);
  if (to > backed) to = backed;
  bool wanted = from < to && !__atomic_load_n(&segment->pwrite_only, __ATOMIC_RELAXED);
  bool locked = wanted && ps_log_lock_maintain(log, 0, NULL) == PS_OK;
  int fd = locked && ps_log_check_place(log, NULL) == PS_OK
               ? ps_os_openat(log->env, AT_FDCWD, segment->path, O_RDWR, 0)
               : -1;
  if (fd >= 0) {
    uint8_t *map;
    if (ps_os_map(log->env, fd, segment->capacity, true, &map) == 0) {
      (void)ps_os_populate_write(map + from, to - from);
      ps_os_unmap(map, segment->capacity);
    }
    ps_os_close(fd);
  }
  if (locked) ps_log_unlock_maintain(log);
  ps_segment_unref(segment);
}
