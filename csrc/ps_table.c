#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "ps_log_internal.h"

void ps_log_path(const ps_log *log, const char *name, char out[512]) {
  snprintf(out, 512, "%s/%s", log->dir, name);
}

/* Index of the first entry with base_offset >= base. */
static size_t lower_bound(const ps_log *log, int64_t base) {
  size_t low = 0, high = log->table_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (log->table[middle].base_offset < base)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static ps_status insert(ps_log *log, int64_t base, ps_error *err) {
  size_t i = lower_bound(log, base);
  if (i < log->table_count && log->table[i].base_offset == base) return PS_OK;
  if (log->table_count == log->table_room) {
    size_t room = log->table_room ? log->table_room * 2 : 8;
    ps_table_entry *grown = realloc(log->table, room * sizeof *grown);
    if (!grown) return ps_fail(err, PS_NO_MEMORY, log->dir, "listing segments");
    log->table = grown;
    log->table_room = room;
  }
  memmove(log->table + i + 1, log->table + i, (log->table_count - i) * sizeof *log->table);
  log->table[i] = (ps_table_entry){.base_offset = base};
  log->table_count++;
  return PS_OK;
}

static void delist(ps_log *log, ps_segment *segment) {
  if (segment) ps_maps_remove(log->options.maps, segment);
}

static void take_out(ps_log *log, size_t i) {
  delist(log, log->table[i].segment);
  ps_segment_unref(log->table[i].segment);
  memmove(log->table + i, log->table + i + 1, (log->table_count - i - 1) * sizeof *log->table);
  log->table_count--;
}

/* Is its file still this process's to keep? The active one is never removed nor replaced, nor is the one
 * after it, which a roll under way has opened already, and nobody else holds. What is stored but not synced
 * needs its descriptor, unless it lies below the log start: then nobody syncs it any more. */
static bool is_kept(const ps_log *log, size_t i, int64_t active) {
  const ps_segment *segment = log->table[i].segment;
  if (!segment) return false;
  if (segment == log->active || (active >= 0 && segment->base_offset >= active)) return true;
  if (i + 1 < log->table_count && log->table[i + 1].base_offset <= ps_log_start_offset(log)) return false;
  /* A finished one says one offset more, for its seal, which whoever replaces it writes anew. */
  return __atomic_load_n(&segment->fd, __ATOMIC_ACQUIRE) >= 0 &&
         __atomic_load_n(&segment->dirty_end, __ATOMIC_ACQUIRE) > ps_head_durable(log->head) + 1;
}

/* Let go of what nobody uses any more but us. */
static void lay_ghosts(ps_log *log) {
  size_t kept = 0;
  for (size_t i = 0; i < log->ghost_count; i++) {
    ps_segment *segment = log->ghosts[i];
    bool used = segment == log->active || __atomic_load_n(&segment->refs, __ATOMIC_ACQUIRE) > 1;
    if (used && !ps_log_flag(&log->closed))
      log->ghosts[kept++] = segment;
    else
      ps_segment_unref(segment);
  }
  __atomic_store_n(&log->ghost_count, kept, __ATOMIC_RELAXED);
}

/* Keep what leaves the table in sight. False: there is no memory for it. */
static bool haunt(ps_log *log, ps_segment *segment) {
  if (log->ghost_count == log->ghost_room) {
    size_t room = log->ghost_room ? log->ghost_room * 2 : 8;
    ps_segment **grown = realloc(log->ghosts, room * sizeof *grown);
    if (!grown) return false;
    log->ghosts = grown;
    log->ghost_room = room;
  }
  log->ghosts[log->ghost_count] = segment;
  __atomic_store_n(&log->ghost_count, log->ghost_count + 1, __ATOMIC_RELAXED);
  return true;
}

/* What is lent takes space on the disk though its file may be gone: it is kept in sight until it comes back,
 * or the log is closed. Without memory it is only not counted. */
static void let_go(ps_log *log, ps_segment *segment) {
  delist(log, segment);
  bool lent = segment && __atomic_load_n(&segment->refs, __ATOMIC_ACQUIRE) > 1 && !ps_log_flag(&log->closed);
  if (!lent || !haunt(log, segment)) ps_segment_unref(segment);
}

/* What this process was storing to last may have been finished by another, which went on in the next one:
 * then its file may be replaced like any. False: an append is under way here, and may look at it still. */
static bool retire_active(ps_log *log, int64_t active) {
  if (active < 0 || !log->active || log->active->base_offset == active) return true;
  if (pthread_mutex_trylock(&log->append_mutex) != 0) return false;
  if (log->active && log->active->base_offset != active) log->active = NULL; /* opened anew from the slot */
  pthread_mutex_unlock(&log->append_mutex);
  return true;
}

static int64_t active_base(const ps_log *log) {
  ps_slot slot;
  return ps_head_read_slot(log->head, &slot) ? slot.segment : -1;
}

bool ps_table_is_there(const ps_log *log, int64_t base) {
  char name[PS_SEGMENT_NAME_BYTES], path[512];
  struct stat st;
  ps_segment_name(base, name);
  ps_log_path(log, name, path);
  return ps_os_stat_at(log->env, AT_FDCWD, path, &st) != -ENOENT;
}

/* How many entries from the first on may be gone, by what the head says has changed. Below the log start the
 * oldest go first: from the first that is there on, all are. A table with gaps does not tell which holds the
 * log start. */
static size_t count_doubtful(const ps_log *log, uint64_t files) {
  bool replaced = (uint32_t)files != (uint32_t)__atomic_load_n(&log->table_files, __ATOMIC_RELAXED);
  if (replaced || log->table_complete < 0) return log->table_count;
  size_t gone = 0, begun = lower_bound(log, ps_log_start_offset(log) + 1);
  while (gone + 1 < begun && !ps_table_is_there(log, log->table[gone].base_offset)) gone++;
  return gone;
}

/* Drop what may be gone, so that the space of files that were removed is given back; the directory tells of
 * what is there when it is next asked. `all`: not only what the head says has changed. */
static void drop_locked(ps_log *log, bool all) {
  uint64_t files = ps_head_files(log->head); /* before the log start: that is at least as new */
  int64_t active = active_base(log);
  bool retired = retire_active(log, active);
  size_t kept = 0, doubtful = all ? log->table_count : count_doubtful(log, files);
  bool is_partial = doubtful < log->table_count;
  for (size_t i = 0; i < log->table_count; i++) {
    ps_table_entry *entry = &log->table[i];
    if (i >= doubtful) {
      log->table[kept++] = *entry;
      continue;
    }
    bool finished = !retired && entry->segment == log->active && entry->base_offset < active;
    /* Readers are not to find it here: that append may wait for another process, for long. */
    if (finished && haunt(log, entry->segment)) continue;
    if (is_kept(log, i, active))
      log->table[kept++] = (ps_table_entry){.base_offset = entry->base_offset, .segment = entry->segment};
    else
      let_go(log, entry->segment);
  }
  log->table_count = kept;
  if (!is_partial) log->table_complete = -1;
  __atomic_store_n(&log->table_files, files, __ATOMIC_RELEASE);
}

static inline bool is_stale(const ps_log *log) {
  return ps_head_files(log->head) != __atomic_load_n(&log->table_files, __ATOMIC_ACQUIRE);
}

void ps_table_trim(ps_log *log) {
  bool haunted = __atomic_load_n(&log->ghost_count, __ATOMIC_RELAXED) > 0;
  if (PS_LIKELY(!haunted && !is_stale(log)) || ps_log_flag(&log->forked)) return;
  pthread_mutex_lock(&log->table_mutex);
  if (is_stale(log))
    drop_locked(log, false);
  else
    (void)retire_active(log, active_base(log));
  lay_ghosts(log);
  pthread_mutex_unlock(&log->table_mutex);
}

void ps_table_doubt(ps_log *log) {
  pthread_mutex_lock(&log->table_mutex);
  drop_locked(log, true);
  pthread_mutex_unlock(&log->table_mutex);
}

typedef struct bases {
  int64_t *at;
  size_t count, room;
} bases;

static bool add_base(bases *b, int64_t base) {
  if (b->count == b->room) {
    size_t room = b->room ? b->room * 2 : 64;
    int64_t *grown = realloc(b->at, room * sizeof *grown);
    if (!grown) return false;
    b->at = grown;
    b->room = room;
  }
  b->at[b->count++] = base;
  return true;
}

static int compare_bases(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* All at once: directories tell names in any order, and there may be a hundred thousand. */
static ps_status insert_all(ps_log *log, bases *b, ps_error *err) {
  if (b->count == 0) return PS_OK;
  qsort(b->at, b->count, sizeof *b->at, compare_bases);
  size_t room = log->table_count + b->count, old = 0, count = 0;
  ps_table_entry *merged = malloc(room * sizeof *merged);
  if (!merged) return ps_fail(err, PS_NO_MEMORY, log->dir, "listing segments");
  for (size_t i = 0; i < b->count; i++) {
    while (old < log->table_count && log->table[old].base_offset < b->at[i])
      merged[count++] = log->table[old++];
    if (count > 0 && merged[count - 1].base_offset == b->at[i]) continue;
    if (old < log->table_count && log->table[old].base_offset == b->at[i])
      merged[count++] = log->table[old++];
    else
      merged[count++] = (ps_table_entry){.base_offset = b->at[i]};
  }
  while (old < log->table_count) merged[count++] = log->table[old++];
  free(log->table);
  log->table = merged;
  log->table_room = room;
  log->table_count = count;
  return PS_OK;
}

static ps_status scan_locked(ps_log *log, ps_error *err) {
  bases found = {NULL, 0, 0};
  ps_slot slot; /* read first: what it names and all before it is in the directory by then */
  bool known = ps_head_read_slot(log->head, &slot);
  int asked = ps_env_ask(log->env, "readdir");
  DIR *dir = asked ? NULL : opendir(log->dir);
  if (!dir && !asked && errno == ENOENT && log->options.read_only) return PS_OK; /* nobody has made it yet */
  if (!dir) return ps_fail_errno(err, asked ? asked : errno, log->dir, "listing a partition");
  ps_status status = PS_OK;
  struct dirent *entry;
  errno = 0;
  while (status == PS_OK && (entry = readdir(dir)) != NULL) {
    int64_t base = ps_segment_parse_name(entry->d_name);
    if (base >= 0 && !add_base(&found, base))
      status = ps_fail(err, PS_NO_MEMORY, log->dir, "listing segments");
    errno = 0;
  }
  /* Half a listing must not pass for the whole: recovery would end the log there. */
  if (status == PS_OK && errno != 0) status = ps_fail_errno(err, errno, log->dir, "listing a partition");
  closedir(dir);
  if (status == PS_OK) status = insert_all(log, &found, err);
  free(found.at);
  if (status == PS_OK && known) log->table_complete = slot.segment;
  return status;
}

ps_status ps_table_scan(ps_log *log, ps_error *err) {
  pthread_mutex_lock(&log->table_mutex);
  ps_status status = scan_locked(log, err);
  pthread_mutex_unlock(&log->table_mutex);
  return status;
}

void ps_table_close(ps_log *log, const ps_segment *segment) {
  size_t i = lower_bound(log, segment->base_offset);
  PS_ASSERT(i < log->table_count && log->table[i].segment == segment);
  log->table[i].segment = NULL;
}

static ps_status open_segment(ps_log *log, int64_t base_offset, ps_segment **out, ps_error *err) {
  ps_segment *segment;
  ps_status status = ps_segment_open(log->env, log->dir, base_offset, &segment, err);
  if (status != PS_OK) return status;
  if (memcmp(segment->topic_uuid, log->options.topic_uuid, 16) != 0 ||
      segment->partition != log->options.partition) {
    status = ps_fail_corrupt(err, segment->path, base_offset, 0, base_offset,
                             "the segment belongs to another topic or partition");
    ps_segment_unref(segment);
    return status;
  }
  *out = segment;
  return PS_OK;
}

/* How far from the end of the table there may be segments that were finished since they were opened. */
#define UNLISTED_MAX 4

/* Those that are not appended to any more join the ring; one of it may have to go for each. */
static void list_finished(ps_log *log) {
  ps_slot slot;
  if (!log->options.maps || !ps_head_read_slot(log->head, &slot)) return;
  size_t end = lower_bound(log, slot.segment);
  for (size_t i = end; i-- > 0 && i + UNLISTED_MAX >= end;) {
    ps_segment *segment = log->table[i].segment;
    if (!segment || segment->listed_by || segment == log->active) continue;
    ps_segment_ref(segment);
    ps_maps_add(log->options.maps, log, segment);
    ps_segment_unref(segment);
  }
}

static ps_status open_entry(ps_log *log, size_t i, ps_segment **out, ps_error *err) {
  ps_segment *segment = log->table[i].segment;
  if (!segment) {
    ps_status status = open_segment(log, log->table[i].base_offset, &segment, err);
    if (status != PS_OK) return status;
    log->table[i].segment = segment;
    ps_segment_ref(segment);
    ps_slot slot;
    list_finished(log);
    if (ps_head_read_slot(log->head, &slot) && segment->base_offset < slot.segment)
      ps_maps_add(log->options.maps, log, segment);
  } else {
    ps_segment_ref(segment);
    if (!__atomic_load_n(&segment->recent, __ATOMIC_RELAXED))
      __atomic_store_n(&segment->recent, true,
                       __ATOMIC_RELAXED); /* once is no reason to stay: a log is read on */
  }
  *out = segment;
  return PS_OK;
}

void ps_table_index(ps_log *log, ps_segment *segment) {
  if (__atomic_load_n(&segment->index_sought, __ATOMIC_ACQUIRE)) return;
  ps_error ignored; /* an index that cannot be read costs speed only */
  pthread_mutex_lock(&log->table_mutex);
  if (!segment->index_sought)
    (void)ps_index_open(log->env, log->dir, segment, false, false, ps_log_index_interval(log), &ignored);
  __atomic_store_n(&segment->index_sought, true, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&log->table_mutex);
}

ps_status ps_table_at(ps_log *log, int64_t base_offset, ps_segment **out, ps_error *err) {
  pthread_mutex_lock(&log->table_mutex);
  if (PS_UNLIKELY(is_stale(log))) drop_locked(log, false);
  size_t count = log->table_count;
  ps_status status = insert(log, base_offset, err);
  bool added = log->table_count > count;
  if (status == PS_OK) status = open_entry(log, lower_bound(log, base_offset), out, err);
  if (status == PS_NOT_FOUND || (status != PS_OK && added)) /* there is no such file, or nobody knows */
    take_out(log, lower_bound(log, base_offset));
  pthread_mutex_unlock(&log->table_mutex);
  return status;
}

/* Another process may have rolled on since the directory was read. That the table ends with the active
 * segment is not enough: whoever went straight to it has passed by those in between. */
static ps_status refresh_locked(ps_log *log, ps_error *err) {
  ps_slot slot;
  if (ps_head_read_slot(log->head, &slot) && slot.segment == log->table_complete) return PS_OK;
  return scan_locked(log, err);
}

ps_status ps_table_refresh(ps_log *log, ps_error *err) {
  pthread_mutex_lock(&log->table_mutex);
  ps_status status = refresh_locked(log, err);
  pthread_mutex_unlock(&log->table_mutex);
  return status;
}

static ps_status find_holding(ps_log *log, int64_t offset, ps_segment **out, ps_error *err) {
  if (PS_UNLIKELY(is_stale(log))) drop_locked(log, false);
  size_t n = log->table_count;
  /* Never read: somebody may have gone straight to a segment further on. */
  bool unknown = n == 0 || log->table[n - 1].base_offset <= offset || log->table_complete < 0;
  ps_status status = unknown ? refresh_locked(log, err) : PS_OK;
  if (status != PS_OK) return status;
  size_t i = lower_bound(log, offset);
  if (i == log->table_count || log->table[i].base_offset > offset) i--; /* wraps when there is none */
  return i < log->table_count ? open_entry(log, i, out, err) : PS_NOT_FOUND;
}

ps_status ps_table_holding(ps_log *log, int64_t offset, ps_segment **out, ps_error *err) {
  pthread_mutex_lock(&log->table_mutex);
  ps_status status = find_holding(log, offset, out, err);
  if (status == PS_NOT_FOUND) { /* removed, or merged into the one before it, since the directory was read */
    drop_locked(log, true);
    status = find_holding(log, offset, out, err);
  }
  pthread_mutex_unlock(&log->table_mutex);
  if (status != PS_NOT_FOUND) return status;
  if (offset < ps_log_start_offset(log)) return ps_log_fail_below(log, offset, err);
  /* callers ask for offsets the log has: its file is gone */
  return ps_fail_corrupt(err, log->dir, -1, -1, offset, "the segment that holds the offset is missing");
}

/* ---- what segments say without being mapped -------------------------------------------------- */

/* A segment that goes on in another one has a seal, unless a power failure took it: then its frames tell. */
static int64_t walk_timestamps(ps_log *log, ps_segment *segment) {
  int64_t max = PS_TIMESTAMP_NONE;
  ps_frame_meta meta;
  for (uint64_t at = PS_SEGMENT_HEADER_BYTES;
       ps_segment_backed(log->env, segment, at + PS_FRAME_HEADER_BYTES); at += meta.frame_bytes) {
    if (ps_frame_decode_header(segment->map + at, segment->capacity - at, segment->salt, at, &meta) != PS_OK)
      break;
    if (meta.max_timestamp > max) max = meta.max_timestamp;
  }
  return max;
}

static ps_status look(ps_log *log, size_t i, ps_facts *facts, ps_error *err) {
  char name[PS_SEGMENT_NAME_BYTES], path[512];
  ps_segment_ends ends;
  ps_segment_name(log->table[i].base_offset, name);
  ps_log_path(log, name, path);
  int rc = ps_segment_read_ends(log->env, AT_FDCWD, path, &ends);
  if (rc == -ENOENT) return ps_fail(err, PS_NOT_FOUND, path, "no such segment");
  if (rc < 0) return ps_fail_errno(err, -rc, path, "reading a segment's ends");
  *facts = (ps_facts){.max_timestamp = ends.sealed ? ends.seal.max_timestamp : PS_TIMESTAMP_NONE,
                      .created_ns = ends.whole ? ends.info.created_ns : PS_TIMESTAMP_NONE,
                      .bytes = (uint64_t)ends.st.st_size,
                      .known = ends.sealed};
  ps_segment *segment;
  if (!ends.sealed && open_entry(log, i, &segment, NULL) == PS_OK) {
    facts->max_timestamp = walk_timestamps(log, segment);
    ps_segment_unref(segment);
  }
  if (facts->max_timestamp == PS_TIMESTAMP_NONE)
    facts->max_timestamp = (int64_t)ends.st.st_mtim.tv_sec * 1000000000 + ends.st.st_mtim.tv_nsec;
  return PS_OK;
}

static ps_status learn_facts(ps_log *log, size_t i, ps_error *err) {
  ps_facts facts;
  if (log->table[i].facts.known) return PS_OK;
  ps_status status = look(log, i, &facts, err);
  if (status == PS_OK) log->table[i].facts = facts;
  return status;
}

ps_status ps_table_facts(ps_log *log, int64_t base_offset, ps_facts *facts, ps_error *err) {
  pthread_mutex_lock(&log->table_mutex);
  size_t i = lower_bound(log, base_offset);
  bool listed = i < log->table_count && log->table[i].base_offset == base_offset;
  ps_status status =
      listed ? learn_facts(log, i, err) : ps_fail(err, PS_NOT_FOUND, log->dir, "no such segment");
  if (status == PS_OK) *facts = log->table[i].facts;
  pthread_mutex_unlock(&log->table_mutex);
  return status;
}

/* The mutex is given back now and then: of a log that was never looked at, all its segments are opened. */
#define LOOKS_MAX 64

ps_status ps_table_bytes(ps_log *log, int64_t from, int64_t *bytes, ps_error *err) {
  ps_slot slot;
  ps_status status = PS_OK;
  *bytes = 0;
  if (!ps_head_read_slot(log->head, &slot)) return PS_OK;
  pthread_mutex_lock(&log->table_mutex);
  size_t looks = 0, i = lower_bound(log, from);
  for (; i < log->table_count && log->table[i].base_offset < slot.segment; i++) {
    int64_t base = log->table[i].base_offset;
    if (!log->table[i].facts.known && ++looks % LOOKS_MAX == 0) {
      pthread_mutex_unlock(&log->table_mutex);
      pthread_mutex_lock(&log->table_mutex);
      i = lower_bound(log, base);
      if (i == log->table_count) break;
    }
    status = learn_facts(log, i, err);
    if (status == PS_OK) *bytes += (int64_t)log->table[i].facts.bytes;
    if (status != PS_OK && status != PS_NOT_FOUND) break;
    status = PS_OK;
  }
  pthread_mutex_unlock(&log->table_mutex);
  return status;
}

static void empty_locked(ps_log *log) {
  for (size_t i = 0; i < log->table_count; i++) let_go(log, log->table[i].segment);
  lay_ghosts(log);
  log->table_count = 0;
  log->table_complete = -1;
  log->active = NULL;
}

void ps_table_forget(ps_log *log) {
  pthread_mutex_lock(&log->table_mutex);
  empty_locked(log);
  log->table_files = ps_head_files(log->head);
  pthread_mutex_unlock(&log->table_mutex);
}

void ps_table_empty(ps_log *log) {
  pthread_mutex_lock(&log->table_mutex);
  empty_locked(log);
  pthread_mutex_unlock(&log->table_mutex);
}

ps_status ps_table_bases(ps_log *log, int64_t **bases, size_t *count, ps_error *err) {
  pthread_mutex_lock(&log->table_mutex);
  ps_status status = PS_OK;
  *count = log->table_count;
  *bases = malloc((log->table_count + 1) * sizeof **bases);
  if (!*bases)
    status = ps_fail(err, PS_NO_MEMORY, log->dir, "listing segments");
  else
    for (size_t i = 0; i < log->table_count; i++) (*bases)[i] = log->table[i].base_offset;
  pthread_mutex_unlock(&log->table_mutex);
  return status;
}
