/* Opening, closing, looking at and waiting on a partition. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_log.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "ps_log_internal.h"

/* ---- the place ------------------------------------------------------------------------------ */

static ps_status note_locks(ps_log *log, ps_error *err) {
  struct stat st;
  int rc = ps_os_stat_fd(log->env, log->locks_fd, &st);
  if (rc < 0) return ps_fail_errno(err, -rc, log->dir, "looking at the topic's locks");
  log->locks_device = (uint64_t)st.st_dev;
  log->locks_inode = (uint64_t)st.st_ino;
  return PS_OK;
}

static ps_status fail_deleted(const ps_log *log, ps_error *err) {
  bool renamed = log->head && !ps_head_deleted(log->head) && ps_head_moves(log->head) != log->moves;
  return ps_fail(err, PS_DELETED, log->dir, renamed ? "the topic was renamed" : "the topic was deleted");
}

ps_status ps_log_check_place(ps_log *log, ps_error *err) {
  char path[512];
  struct stat st;
  const char *slash = strrchr(log->dir, '/');
  if (!log->options.topic_locks || !slash) return PS_OK;
  if (ps_log_flag(&log->gone)) return fail_deleted(log, err);
  snprintf(path, sizeof path, "%.*s/locks", (int)(slash - log->dir), log->dir);
  int rc = ps_os_stat_at(log->env, AT_FDCWD, path, &st);
  if (rc < 0 && rc != -ENOENT && rc != -ENOTDIR)
    return ps_fail_errno(err, -rc, path, "looking for the topic's directory");
  if (rc == 0 && (uint64_t)st.st_dev == log->locks_device && (uint64_t)st.st_ino == log->locks_inode)
    return PS_OK;
  __atomic_store_n(&log->gone, true, __ATOMIC_RELEASE);
  return fail_deleted(log, err);
}

ps_status ps_log_explain(ps_log *log, ps_status status, ps_error *err) {
  if (PS_LIKELY(status != PS_CORRUPT && status != PS_OS_ERROR && status != PS_NOT_FOUND)) return status;
  if (log->head && ps_log_is_gone(log)) return fail_deleted(log, err);
  return ps_log_check_place(log, NULL) == PS_DELETED ? fail_deleted(log, err) : status;
}

/* ---- opening and closing -------------------------------------------------------------------- */

/* Map the head. `make`, append lock held: it is made if it is not there, or not whole; else PS_NOT_FOUND. */
static ps_status map_head(ps_log *log, bool make, ps_head_identity *identity, ps_error *err) {
  char path[512];
  struct stat st;
  ps_log_path(log, "head", path);
  int fd = ps_os_openat(log->env, AT_FDCWD, path, make ? O_RDWR | O_CREAT : O_RDWR, 0666);
  if (fd == -ENOENT && !make) return ps_fail(err, PS_NOT_FOUND, path, "there is no such partition");
  if (fd < 0) return ps_fail_errno(err, -fd, path, "opening the head");
  int rc = ps_os_stat_fd(log->env, fd, &st);
  if (rc == 0 && st.st_size < (int64_t)PS_HEAD_BYTES) {
    if (!make) {
      ps_os_close(fd);
      return ps_fail(err, PS_NOT_FOUND, path, "the head is not whole");
    }
    ps_os_keep_in_place(fd);
    rc = ps_os_allocate(log->env, fd, PS_HEAD_BYTES); /* longer, never shorter: other maps stay whole */
    if (rc == -EOPNOTSUPP) {
      static const uint8_t zero[PS_HEAD_BYTES];
      rc = ps_os_pwrite_all(log->env, fd, zero + st.st_size, PS_HEAD_BYTES - (size_t)st.st_size, st.st_size);
    }
  }
  if (rc == 0) rc = ps_os_map(log->env, fd, PS_HEAD_BYTES, true, &log->head);
  ps_os_close(fd);
  if (rc < 0) return ps_fail_errno(err, -rc, path, "mapping the head");
  memcpy(identity->topic_uuid, log->options.topic_uuid, 16);
  identity->partition = log->options.partition;
  identity->device = (uint64_t)st.st_dev;
  identity->inode = (uint64_t)st.st_ino;
  log->moves = ps_head_moves(log->head);
  return PS_OK;
}

/* Has somebody attached to the partition in this incarnation? Recovery sets the incarnation last, so the
 * answer needs no lock: opening never waits for a writer that holds it. */
static bool is_attached(const ps_log *log, const ps_head_identity *identity) {
  return ps_acquire_u64(log->head + PS_HEAD_INCARNATION_OFF) == log->options.incarnation &&
         ps_head_check_identity(log->head, identity) == PS_HEAD_SOUND;
}

/* First use in this incarnation: append lock held. */
static ps_status attach(ps_log *log, const ps_head_identity *identity, ps_error *err) {
  ps_head_verdict verdict = ps_head_check_identity(log->head, identity);
  if (verdict == PS_HEAD_NEWER)
    return ps_fail(err, PS_VERSION, log->dir, "the head was written by a newer format version");
  if (is_attached(log, identity)) return PS_OK;
  ps_status status = ps_log_recover(log, verdict, identity, err);
  if (status == PS_OK) ps_release_u64(log->head + PS_HEAD_INCARNATION_OFF, log->options.incarnation);
  return status;
}

/* Under the append lock, nobody can take the directory away. */
static ps_status open_head(ps_log *log, bool create, ps_error *err) {
  ps_head_identity identity;
  ps_status status = map_head(log, false, &identity, err);
  if (status == PS_OK && is_attached(log, &identity)) return PS_OK;
  if (status != PS_OK && status != PS_NOT_FOUND) return status;
  status = ps_log_lock_append(log, -1, err);
  if (status != PS_OK) return status;
  status = ps_log_check_place(log, err);
  if (status == PS_OK) {
    ps_os_unmap(log->head, PS_HEAD_BYTES); /* perhaps a later topic's of that name */
    log->head = NULL;
    status = map_head(log, create, &identity, err);
  }
  if (status == PS_OK) status = attach(log, &identity, err);
  ps_log_unlock_append(log);
  return status;
}

ps_status ps_log_open(const ps_env *env, const char *dir, int locks_fd, const ps_log_options *options,
                      bool create, ps_log **out, ps_error *err) {
  PS_ASSERT(options->segment_bytes % 4096 == 0 && options->segment_bytes >= PS_SEGMENT_BYTES_MIN &&
            options->segment_bytes <= PS_SEGMENT_BYTES_MAX);
  PS_ASSERT(options->io == PS_IO_MAP || options->io == PS_IO_PWRITE);
  PS_ASSERT(options->index_interval_bytes > 0 && (options->incarnation != 0) != options->read_only);
  ps_log *log = calloc(1, sizeof *log);
  if (!log) return ps_fail(err, PS_NO_MEMORY, dir, "opening a partition");
  if (strlen(dir) >= sizeof log->dir) {
    free(log);
    return ps_fail(err, PS_INVALID, dir, "the path is longer than 447 bytes");
  }
  log->env = env;
  log->locks_fd = locks_fd;
  log->pid = (uint64_t)getpid();
  log->options = *options;
  log->segment_bytes_max = options->segment_bytes;
  log->table_complete = -1;
  log->start_durable = -1;
  log->keep_bytes = -1;
  log->due_at = PS_DUE_NEVER;
  strcpy(log->dir, dir);
  pthread_mutex_init(&log->append_mutex, NULL);
  pthread_mutex_init(&log->sync_mutex, NULL);
  pthread_mutex_init(&log->maintain_mutex, NULL);
  pthread_mutex_init(&log->table_mutex, NULL);
  pthread_mutex_init(&log->turn_mutex, NULL);
  pthread_cond_init(&log->turn_over, NULL);
  ps_status status = PS_OK;
  if (locks_fd >= 0) status = note_locks(log, err);
  if (status == PS_OK)
    status =
        options->read_only ? ps_log_explain(log, ps_view_open(log, err), err) : open_head(log, create, err);
  if (status == PS_OK) {
    if (options->read_only) log->moves = ps_head_moves(log->head);
    log->table_files = ps_head_files(log->head);
    if (ps_head_deleted(log->head)) status = ps_log_check(log, err);
  }
  if (status == PS_OK && !options->read_only) status = ps_log_explain(log, ps_table_scan(log, err), err);
  if (status != PS_OK) {
    ps_log_free(log);
    return status;
  }
  *out = log;
  return PS_OK;
}

/* What only writers need goes at once, even of segments that are lent. Append and sync mutex held. */
static void close_writing(ps_log *log) {
  pthread_mutex_lock(&log->table_mutex);
  for (size_t i = 0; i < log->table_count; i++) {
    ps_segment *segment = log->table[i].segment;
    if (!segment) continue;
    uint8_t *map = segment->write_map;
    segment->write_map = NULL;
    ps_os_unmap(map, segment->capacity);
    if (segment->fd >= 0) ps_os_close(segment->fd);
    if (segment->index_fd >= 0) ps_os_close(segment->index_fd);
    segment->fd = segment->index_fd = -1;
  }
  pthread_mutex_unlock(&log->table_mutex);
}

ps_status ps_log_close(ps_log *log, ps_error *err) {
  if (ps_log_flag(&log->closed) || ps_log_flag(&log->forked)) return PS_OK;
  ps_status status = PS_OK;
  if (ps_log_durability(log) != PS_DURABILITY_NONE && ps_log_is_dirty(log) &&
      ps_log_check(log, NULL) == PS_OK)
    status = ps_log_sync(log, err);
  __atomic_store_n(&log->closing, true, __ATOMIC_RELEASE);
  ps_log_release(log);
  pthread_mutex_lock(&log->maintain_mutex); /* let what is under way end first */
  pthread_mutex_lock(&log->append_mutex);
  pthread_mutex_lock(&log->sync_mutex);
  __atomic_store_n(&log->closed, true, __ATOMIC_RELEASE);
  close_writing(log);
  ps_table_empty(log);
  pthread_mutex_unlock(&log->sync_mutex);
  pthread_mutex_unlock(&log->append_mutex);
  pthread_mutex_unlock(&log->maintain_mutex);
  ps_log_wake(log);
  return status;
}

void ps_log_free(ps_log *log) {
  if (!log) return;
  if (!ps_log_flag(&log->forked)) ps_table_empty(log); /* leaves the ring that others go round */
  for (size_t i = 0; i < log->table_count; i++) ps_segment_unref(log->table[i].segment);
  for (size_t i = 0; i < log->ghost_count; i++) ps_segment_unref(log->ghosts[i]);
  free(log->table);
  free(log->ghosts);
  if (log->options.read_only) ps_view_free(log);
  ps_os_unmap(log->head, PS_HEAD_BYTES);
  pthread_mutex_destroy(&log->append_mutex);
  pthread_mutex_destroy(&log->sync_mutex);
  pthread_mutex_destroy(&log->maintain_mutex);
  pthread_mutex_destroy(&log->table_mutex);
  pthread_mutex_destroy(&log->turn_mutex);
  if (!ps_log_flag(&log->forked))
    pthread_cond_destroy(&log->turn_over); /* it would wait for the parent's threads */
  free(log);
}

void ps_log_after_fork(ps_log *log) { __atomic_store_n(&log->forked, true, __ATOMIC_RELEASE); }

ps_status ps_log_check(const ps_log *log, ps_error *err) {
  if (PS_UNLIKELY(ps_log_flag(&log->forked)))
    return ps_fail(err, PS_FORKED, log->dir,
                   "the store was opened before a fork; open it again in the child");
  if (PS_UNLIKELY(ps_log_is_gone(log) || ps_log_flag(&log->gone))) return fail_deleted(log, err);
  if (PS_UNLIKELY(ps_log_flag(&log->closed))) return ps_fail(err, PS_CLOSED, log->dir, "the store is closed");
  int poison = ps_head_poison(log->head);
  if (PS_UNLIKELY(poison != 0)) {
    ps_fail(err, PS_POISONED, log->dir,
            "an earlier write or sync of this partition failed, so it takes no more");
    if (err) err->os_errno = poison;
    return PS_POISONED;
  }
  return PS_OK;
}

ps_status ps_log_check_writable(const ps_log *log, ps_error *err) {
  ps_status status = ps_log_check(log, err);
  if (status != PS_OK || !log->options.read_only) return status;
  return ps_fail(err, PS_READ_ONLY, log->dir, "the store was opened for reading only");
}

ps_status ps_log_back_head(ps_log *log, ps_error *err) {
  if (log->options.io != PS_IO_PWRITE) return PS_OK;
  int rc = ps_os_populate_write(log->head, PS_HEAD_BYTES);
  if (rc >= 0 || rc == -EINVAL || rc == -EAGAIN) return PS_OK;
  return ps_fail_errno(err, rc == -EFAULT ? ENOSPC : -rc, log->dir, "reserving the head page");
}

int64_t ps_log_start_offset(const ps_log *log) { return ps_head_log_start(log->head); }
bool ps_log_is_read_only(const ps_log *log) { return log->options.read_only; }

/* The head to go by, as new as it gets. */
static const uint8_t *head_now(ps_log *log) {
  if (PS_UNLIKELY(log->options.read_only) && !ps_log_flag(&log->forked)) ps_view_refresh(log);
  return log->head;
}

int64_t ps_log_high_watermark(ps_log *log) { return ps_head_watermark(head_now(log)); }
int64_t ps_log_readable_offset(ps_log *log, bool durable) {
  const uint8_t *head = head_now(log);
  int64_t watermark = ps_head_watermark(head);
  if (PS_LIKELY(!durable)) return watermark;
  int64_t synced = ps_head_durable(head); /* a sync may have come between the log end and the watermark */
  return synced < watermark ? synced : watermark;
}
int64_t ps_log_end_offset(ps_log *log) { return ps_head_log_end(head_now(log)); }
int64_t ps_log_durable_offset(ps_log *log) { return ps_head_durable(head_now(log)); }

int32_t ps_log_leader_epoch(const ps_log *log) {
  ps_slot slot;
  while (!ps_head_read_slot(log->head, &slot)) /* both are never being written at once */
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return slot.leader_epoch;
}

uint64_t ps_log_rolls(const ps_log *log) { return __atomic_load_n(&log->rolls, __ATOMIC_ACQUIRE); }

uint32_t ps_log_segment_bytes(const ps_log *log) {
  return __atomic_load_n(&log->options.segment_bytes, __ATOMIC_RELAXED);
}

uint32_t ps_log_frame_bytes_max(const ps_log *log) {
  uint32_t segment = PS_FRAME_BYTES_MAX(ps_log_segment_bytes(log));
  uint32_t message = __atomic_load_n(&log->options.message_bytes_max, __ATOMIC_RELAXED);
  return message && message < segment ? message : segment;
}

bool ps_log_stamps(const ps_log *log) {
  return __atomic_load_n(&log->options.log_append_time, __ATOMIC_RELAXED);
}

void ps_log_set_needs_keys(ps_log *log, bool needs_keys) {
  __atomic_store_n(&log->needs_keys, needs_keys, __ATOMIC_RELAXED);
}

bool ps_log_needs_keys(const ps_log *log) { return __atomic_load_n(&log->needs_keys, __ATOMIC_RELAXED); }

const bool *ps_log_needs_keys_place(const ps_log *log) { return &log->needs_keys; }

void ps_log_set_options(ps_log *log, const ps_log_alterable *options) {
  PS_ASSERT(options->segment_bytes % 4096 == 0 && options->segment_bytes >= PS_SEGMENT_BYTES_MIN &&
            options->segment_bytes <= PS_SEGMENT_BYTES_MAX && options->index_interval_bytes > 0);
  if (options->segment_bytes > __atomic_load_n(&log->segment_bytes_max, __ATOMIC_RELAXED))
    __atomic_store_n(&log->segment_bytes_max, options->segment_bytes, __ATOMIC_RELAXED);
  __atomic_store_n(&log->options.segment_bytes, options->segment_bytes, __ATOMIC_RELAXED);
  __atomic_store_n(&log->options.index_interval_bytes, options->index_interval_bytes, __ATOMIC_RELAXED);
  __atomic_store_n(&log->options.message_bytes_max, options->message_bytes_max, __ATOMIC_RELAXED);
  __atomic_store_n(&log->options.log_append_time, options->log_append_time, __ATOMIC_RELAXED);
  bool was_sync = ps_log_durability(log) == PS_DURABILITY_SYNC;
  __atomic_store_n(&log->options.durability, options->durability, __ATOMIC_RELEASE);
  /* What a sync was to show is shown now: all below the log end is whole. */
  if (was_sync && options->durability != PS_DURABILITY_SYNC && !log->options.read_only &&
      ps_log_check(log, NULL) == PS_OK &&
      ps_max_i64(log->head + PS_HEAD_WATERMARK_OFF, ps_head_log_end(log->head)))
    ps_log_signal(log);
}

static void get_words(ps_log *log, ps_log_stats *out) {
  memset(out, 0, sizeof *out);
  out->log_start = ps_log_start_offset(log);
  out->high_watermark = ps_log_high_watermark(log);
  out->log_end = ps_log_end_offset(log);
  out->durable = ps_log_durable_offset(log);
  out->appends = __atomic_load_n(&log->appends, __ATOMIC_RELAXED);
  out->appended_records = __atomic_load_n(&log->appended_records, __ATOMIC_RELAXED);
  out->appended_bytes = __atomic_load_n(&log->appended_bytes, __ATOMIC_RELAXED);
  out->syncs = __atomic_load_n(&log->syncs, __ATOMIC_RELAXED);
  out->rolls = __atomic_load_n(&log->rolls, __ATOMIC_RELAXED);
  out->mends = __atomic_load_n(&log->mends, __ATOMIC_RELAXED);
  out->wakes = __atomic_load_n(&log->wakes, __ATOMIC_RELAXED);
  out->cuts = __atomic_load_n(&log->cuts, __ATOMIC_RELAXED);
}

static void count_lent(const ps_segment *segment, ps_log_stats *out) {
  if (!segment || __atomic_load_n(&segment->refs, __ATOMIC_RELAXED) <= 1) return;
  out->lent_segments++;
  out->lent_bytes += __atomic_load_n(&segment->readable, __ATOMIC_RELAXED);
}

/* Those too whose files are gone. Table mutex held. */
static void count_all_lent(const ps_log *log, ps_log_stats *out) {
  for (size_t i = 0; i < log->ghost_count; i++) count_lent(log->ghosts[i], out);
  out->pinned_bytes = out->lent_bytes;
  for (size_t i = 0; i < log->table_count; i++) count_lent(log->table[i].segment, out);
}

void ps_log_get_counters(ps_log *log, ps_log_stats *out) {
  get_words(log, out);
  if (ps_log_flag(&log->forked)) return; /* the table's mutex may be held by a thread that is not here */
  ps_table_trim(log);
  pthread_mutex_lock(&log->table_mutex);
  count_all_lent(log, out);
  pthread_mutex_unlock(&log->table_mutex);
}

void ps_log_get_stats(ps_log *log, ps_log_stats *out) {
  get_words(log, out);
  if (ps_log_flag(&log->forked)) return;
  ps_table_trim(log);
  (void)ps_table_scan(log, NULL);
  ps_slot slot;
  bool known = ps_head_read_slot(log->head, &slot);
  pthread_mutex_lock(&log->table_mutex);
  count_all_lent(log, out);
  out->segments = log->table_count;
  for (size_t i = 0; i < log->table_count; i++) {
    char name[PS_SEGMENT_NAME_BYTES], path[512];
    struct stat st;
    ps_segment_name(log->table[i].base_offset, name);
    ps_log_path(log, name, path);
    if (known && log->table[i].base_offset == slot.segment)
      out->stored_bytes += slot.position; /* the rest is only reserved */
    else if (ps_os_stat_at(log->env, AT_FDCWD, path, &st) == 0)
      out->stored_bytes += (uint64_t)st.st_size;
  }
  pthread_mutex_unlock(&log->table_mutex);
}

/* ---- waiting -------------------------------------------------------------------------------- */

const void *ps_log_signal_word(const ps_log *log) { return log->head + PS_HEAD_SIGNAL_OFF; }

uint32_t ps_log_listen(ps_log *log) { return ps_head_listen(log->head); }

void ps_log_wake(ps_log *log) { ps_log_signal(log); }

/* A writer that dies between the watermark and the wake-up tells nobody: look again this often. */
#define WAIT_SLICE_NS 1000000000
/* Whoever only reads, or has no futexes, cannot be woken, and looks again after pauses that grow between
 * these.
 */
#define LOOK_NS_MIN 50000
#define LOOK_NS_MAX 20000000

ps_status ps_log_wait(ps_log *log, int64_t offset, int64_t spin_ns, int64_t timeout_ns) {
  int64_t start = ps_os_monotonic_ns();
  for (;;) {
    if (ps_log_high_watermark(log) > offset) return PS_OK;
    int64_t waited = ps_os_monotonic_ns() - start;
    if (waited >= spin_ns || (timeout_ns >= 0 && waited >= timeout_ns)) break;
    for (int i = 0; i < 32 && ps_log_high_watermark(log) <= offset; i++) ps_pause();
  }
  bool looks = log->options.read_only;
  int64_t pause = LOOK_NS_MIN;
  for (;;) {
    int64_t left = looks ? pause : WAIT_SLICE_NS;
    if (looks && pause < LOOK_NS_MAX) pause *= 2;
    if (timeout_ns >= 0) {
      int64_t rest = timeout_ns - (ps_os_monotonic_ns() - start);
      if (rest <= 0) return ps_log_high_watermark(log) > offset ? PS_OK : PS_TIMEOUT;
      if (rest < left) left = rest;
    }
    ps_table_trim(log);
    uint32_t seen = looks ? 0 : ps_log_listen(log);
    int rc = 0;
    ps_status ended = ps_log_check(log, NULL);
    if (ended == PS_OK && ps_log_high_watermark(log) <= offset)
      rc = looks ? ps_os_nap(left) : ps_os_futex_wait(ps_log_signal_word(log), seen, left);
    if (ps_log_high_watermark(log) > offset) return PS_OK;
    if (ended != PS_OK) return ended;
    if (rc == -EINTR) return PS_INTERRUPTED;
    looks = looks || (rc < 0 && rc != -ETIMEDOUT);
  }
}
