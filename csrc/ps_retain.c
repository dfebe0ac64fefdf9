#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_retain.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>

#include "ps_log_internal.h"

/* How long a call that was asked for waits for the maintenance of others, which works in short steps. */
#define MAINTAIN_WAIT_NS 30000000000ll
/* How long a step waits for it: the helper thread's goes by in a moment. */
#define STEP_WAIT_NS 50000000ll
/* How long a roll waits for writers: the next step tries again. */
#define ROLL_WAIT_NS 100000000ll

/* Removing below the log start moves `files` by so much, everything else by one: what is known of the
 * segments from there on stays known. */
#define REMOVED_BELOW (1ull << 32)

static void add_files(ps_log *log, uint64_t by) {
  __atomic_fetch_add((uint64_t *)(log->head + PS_HEAD_FILES_OFF), by, __ATOMIC_RELEASE);
}

static void move_files(ps_log *log, uint64_t by) {
  add_files(log, by);
  ps_table_trim(log);
}

/* Invariant: whoever takes the maintenance lock finds `files` even, and every table that was read before the
 * last change is stale. Between the two words the directory is neither as it was nor as it will be; who reads
 * it then, reads it again after the second. */
void ps_log_files_changing(ps_log *log) {
  if (!ps_head_files_changing(log->head)) add_files(log, 1);
}

void ps_log_files_changed(ps_log *log) { move_files(log, ps_head_files_changing(log->head) ? 1 : 2); }

void ps_log_trim(ps_log *log) { ps_table_trim(log); }

/* ---- the log start ---------------------------------------------------------------------------- */

/* What it says is on the disk, whoever stored it. */
static ps_status settle_start(ps_log *log, ps_error *err) {
  int64_t start = ps_log_start_offset(log);
  if (start < 0)
    return ps_fail_corrupt(err, log->dir, -1, -1, -1,
                           "the log start of the head is damaged in both its places; reopen the store");
  ps_status status = PS_OK;
  if (log->start_durable != start) status = ps_log_sync_head(log, err);
  if (status != PS_OK) return status;
  PS_POINT(log->env, "retain.durable");
  log->start_durable = start;
  return ps_log_skip_durable(log, start, err);
}

/* Maintenance lock held. */
static ps_status raise_start(ps_log *log, int64_t offset, ps_error *err) {
  ps_status status = settle_start(log, err); /* before the place of the one before it is stored to */
  if (status != PS_OK || offset <= ps_log_start_offset(log)) return status;
  status = ps_log_sync_start(log, offset, err);
  if (status == PS_OK) status = ps_log_back_head(log, err);
  if (status != PS_OK) return status;
  PS_POINT(log->env, "retain.synced");
  ps_head_raise_log_start(log->head, offset);
  PS_POINT(log->env, "retain.raised");
  return settle_start(log, err);
}

/* A lock of the partition, and its directory in its place (I7). */
static ps_status enter(ps_log *log, int64_t timeout_ns, ps_error *err) {
  ps_status status = ps_log_check_writable(log, err);
  if (status == PS_OK) status = ps_log_lock_maintain(log, timeout_ns, err);
  if (status != PS_OK) return status;
  status = ps_log_check(log, err);
  if (status == PS_OK) status = ps_log_check_place(log, err);
  if (status != PS_OK) ps_log_unlock_maintain(log);
  return status;
}

ps_status ps_log_delete_before(ps_log *log, int64_t offset, ps_error *err) {
  ps_status status = ps_log_check_writable(log, err);
  if (status != PS_OK) return status;
  int64_t end = ps_log_high_watermark(log);
  if (offset < 0 || offset > end) {
    char what[160];
    snprintf(what, sizeof what,
             "records can be deleted before an offset from 0 to %" PRId64 ", where the log ends", end);
    ps_fail(err, PS_OUT_OF_RANGE, log->dir, what);
    if (err) err->offset = offset;
    return PS_OUT_OF_RANGE;
  }
  status = enter(log, MAINTAIN_WAIT_NS, err);
  if (status != PS_OK) return status;
  status = raise_start(log, offset, err);
  ps_log_unlock_maintain(log);
  return ps_log_explain(log, status, err);
}

/* ---- what is to go ---------------------------------------------------------------------------- */

/* When the first record of the active segment was written, as far as that is told: not before its file was
 * made, and not before it says itself. */
static int64_t first_written(ps_log *log, const ps_segment *segment) {
  ps_frame_meta meta;
  const uint8_t *p = segment->map + PS_SEGMENT_HEADER_BYTES;
  uint64_t limit = segment->capacity - PS_SEGMENT_HEADER_BYTES;
  int64_t written = segment->created_ns;
  if (ps_segment_backed(log->env, (ps_segment *)segment, PS_SEGMENT_HEADER_BYTES + PS_FRAME_HEADER_BYTES) &&
      ps_frame_decode_header(p, limit, segment->salt, PS_SEGMENT_HEADER_BYTES, &meta) == PS_OK &&
      meta.first_timestamp > written)
    written = meta.first_timestamp;
  return written;
}

/* The latest of its records, or where none says, of the stores to its file. */
static int64_t last_written(ps_log *log, const ps_segment *segment, int64_t max_timestamp) {
  struct stat st;
  if (max_timestamp != PS_TIMESTAMP_NONE) return max_timestamp;
  if (ps_os_stat_at(log->env, AT_FDCWD, segment->path, &st) < 0) return INT64_MAX;
  return (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

static ps_status roll_old(ps_log *log, const ps_retention *rule, bool *rolled, ps_error *err) {
  ps_slot slot;
  ps_segment *segment;
  *rolled = false;
  if (rule->min_timestamp == PS_TIMESTAMP_NONE && rule->roll_before == PS_TIMESTAMP_NONE) return PS_OK;
  if (!ps_head_read_slot(log->head, &slot) || slot.log_end == slot.segment) return PS_OK;
  ps_status status = ps_table_at(log, slot.segment, &segment, err);
  if (status != PS_OK) return status == PS_NOT_FOUND ? PS_OK : status; /* rolled meanwhile, and gone */
  bool old = (rule->min_timestamp != PS_TIMESTAMP_NONE &&
              last_written(log, segment, slot.max_timestamp) < rule->min_timestamp) ||
             (rule->roll_before != PS_TIMESTAMP_NONE && first_written(log, segment) < rule->roll_before);
  ps_segment_unref(segment);
  if (!old) return PS_OK;
  PS_POINT(log->env, "retain.rolling");
  status = ps_log_roll_now(log, slot.segment, ROLL_WAIT_NS, err);
  *rolled = status == PS_OK;
  return status;
}

typedef struct listing {
  int64_t *bases;
  size_t count;
} listing;

static ps_status list(ps_log *log, listing *l, ps_error *err) {
  l->bases = NULL;
  ps_table_trim(log);
  ps_status status = ps_table_refresh(log, err);
  return status == PS_OK ? ps_table_bases(log, &l->bases, &l->count, err) : status;
}

/* Is there a next one, and does that begin at or below `offset`? */
static bool lies_below(const listing *l, size_t i, int64_t offset) {
  return i + 1 < l->count && l->bases[i + 1] <= offset;
}

/* Up to `offset`, but no further than the active segment: of a roll that is under way, the next one is there
 * already, while the head still names this one. */
static int64_t removable_end(const ps_log *log, int64_t offset) {
  ps_slot slot;
  if (!ps_head_read_slot(log->head, &slot)) return -1;
  return offset < slot.segment ? offset : slot.segment;
}

/* Where the log is to start by `rule`. *due: how far the active segment is to be filled for another one to go
 * by its size. */
static ps_status decide(ps_log *log, const listing *l, const ps_retention *rule, int64_t *start,
                        uint64_t *due, ps_error *err) {
  ps_slot slot;
  int64_t end = removable_end(log, ps_log_high_watermark(log)), bytes = 0;
  size_t i = 0;
  *start = ps_log_start_offset(log);
  *due = PS_DUE_NEVER;
  if (!ps_head_read_slot(log->head, &slot)) return PS_OK;
  while (lies_below(l, i, *start)) i++;
  if (rule->max_bytes >= 0 && i < l->count) {
    ps_status status = ps_table_bytes(log, l->bases[i], &bytes, err);
    if (status != PS_OK) return status;
    if (!ps_head_read_slot(log->head, &slot)) return PS_OK;
    bytes += (int64_t)slot.position;
  }
  for (; lies_below(l, i, end); i++) {
    ps_facts facts;
    ps_status status = ps_table_facts(log, l->bases[i], &facts, err);
    if (status == PS_NOT_FOUND) continue;
    if (status != PS_OK) return status;
    int64_t left = bytes - (int64_t)facts.bytes;
    bool old = rule->min_timestamp != PS_TIMESTAMP_NONE && facts.max_timestamp < rule->min_timestamp;
    bool many = rule->max_bytes >= 0 && left >= rule->max_bytes;
    if (rule->max_bytes >= 0) *due = slot.position + (uint64_t)(many ? 0 : rule->max_bytes - left);
    if (!old && !many) return PS_OK;
    bytes = left;
    *start = l->bases[i + 1];
  }
  *due = PS_DUE_NEVER;
  return PS_OK;
}

static ps_status remove_file(ps_log *log, const char *name, uint64_t *bytes, ps_error *err) {
  char path[512];
  struct stat st;
  ps_log_path(log, name, path);
  int rc = ps_os_stat_at(log->env, AT_FDCWD, path, &st);
  *bytes = rc == 0 ? (uint64_t)st.st_size : 0;
  rc = ps_os_unlink(log->env, AT_FDCWD, path);
  return rc < 0 && rc != -ENOENT ? ps_fail_errno(err, -rc, path, "removing a segment") : PS_OK;
}

/* Its index first: one without a segment would be found by nobody. */
static ps_status remove_segment(ps_log *log, int64_t base, ps_retained *out, ps_error *err) {
  char name[PS_SEGMENT_NAME_BYTES];
  uint64_t bytes;
  PS_POINT(log->env, "retain.unlinking");
  ps_index_name(base, name);
  ps_status status = remove_file(log, name, &bytes, err);
  PS_POINT(log->env, "retain.index");
  ps_segment_name(base, name);
  if (status == PS_OK) status = remove_file(log, name, &bytes, err);
  PS_POINT(log->env, "retain.unlinked");
  if (status != PS_OK) return status;
  out->files++;
  out->bytes += bytes;
  return PS_OK;
}

static ps_status remove_below(ps_log *log, const listing *l, uint32_t files_max, ps_retained *out,
                              ps_error *err) {
  int64_t start = removable_end(log, ps_log_start_offset(log));
  ps_status status = PS_OK;
  size_t i = 0;
  if (!lies_below(l, 0, start)) return PS_OK;
  /* The log may have rolled since the start was stored: the segment that holds it is another. */
  status = ps_log_sync_start(log, start, err);
  if (status == PS_OK) status = settle_start(log, err);
  for (; status == PS_OK && lies_below(l, i, start) && out->files < files_max; i++) {
    /* Nothing goes unless that is there which goes on after it. */
    if (!ps_table_is_there(log, l->bases[i + 1])) {
      ps_table_doubt(log);
      break;
    }
    status = remove_segment(log, l->bases[i], out, err);
  }
  out->more = lies_below(l, i, start);
  if (i > 0) move_files(log, REMOVED_BELOW);
  PS_POINT(log->env, "retain.done");
  return status;
}

/* *due: as for decide, PS_DUE_NEVER where that is not known. */
static ps_status step(ps_log *log, const ps_retention *rule, uint32_t files_max, int64_t wait_ns,
                      ps_retained *out, uint64_t *due, ps_error *err) {
  listing l;
  int64_t start;
  memset(out, 0, sizeof *out);
  out->log_start = ps_log_start_offset(log);
  *due = PS_DUE_NEVER;
  ps_status status = enter(log, wait_ns, err);
  if (status != PS_OK) return status;
  ps_status roll = roll_old(log, rule, &out->rolled, err);
  ps_error later;
  /* Where the disk is full there may be no room for a new segment before the old ones are gone. */
  bool goes_on = roll == PS_OK || roll == PS_TIMEOUT || roll == PS_INTERRUPTED || roll == PS_OS_ERROR;
  status = goes_on ? list(log, &l, &later) : roll;
  if (status == PS_OK) {
    status = decide(log, &l, rule, &start, due, &later);
    if (status == PS_OK && start > ps_log_start_offset(log)) status = raise_start(log, start, &later);
    if (status == PS_OK) status = remove_below(log, &l, files_max, out, &later);
    free(l.bases);
  }
  if (status != PS_OK && status != roll && err) *err = later;
  out->log_start = ps_log_start_offset(log);
  ps_log_unlock_maintain(log);
  return ps_log_explain(log, status == PS_OK ? roll : status, err);
}

ps_status ps_log_retain(ps_log *log, const ps_retention *rule, uint32_t files_max, ps_retained *out,
                        ps_error *err) {
  uint64_t due;
  return step(log, rule, files_max, STEP_WAIT_NS, out, &due, err);
}

/* ---- a bound that holds while the log is filled ------------------------------------------------- */

/* Removed in one step, and so many steps at most before others have their turn. */
#define KEEP_FILES_MAX 64
#define KEEP_STEPS_MAX 16
#define KEEP_ROUNDS_MAX 4
/* Nobody is held back for longer: who removes may have been stopped, or its disk be stuck. */
#define LATE_NS_MAX 2000000000ll

static uint64_t due_at(const ps_log *log) { return __atomic_load_n(&log->due_at, __ATOMIC_ACQUIRE); }

static void set_due_at(ps_log *log, uint64_t due) { __atomic_store_n(&log->due_at, due, __ATOMIC_RELEASE); }

/* False: somebody else was first. */
static bool move_due_at(ps_log *log, uint64_t seen, uint64_t due) {
  return __atomic_compare_exchange_n(&log->due_at, &seen, due, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static int64_t keep_bytes(const ps_log *log) { return __atomic_load_n(&log->keep_bytes, __ATOMIC_RELAXED); }

void ps_log_set_keep_bytes(ps_log *log, int64_t bytes) {
  if (keep_bytes(log) == bytes) return;
  __atomic_store_n(&log->keep_bytes, bytes, __ATOMIC_RELAXED);
  set_due_at(log, bytes < 0 ? PS_DUE_NEVER : 0);
}

static uint64_t grace_bytes(const ps_log *log) {
  uint32_t half = ps_log_segment_bytes(log) / 2;
  return half > PS_LATE_BYTES_MIN ? half : PS_LATE_BYTES_MIN;
}

void ps_log_ring_due(ps_log *log, uint64_t position) {
  uint64_t seen = due_at(log);
  if (keep_bytes(log) < 0) {
    (void)move_due_at(log, seen, PS_DUE_NEVER);
  } else if (seen & PS_DUE_RUNG) {
    __atomic_store_n(&log->late_since, ps_os_monotonic_ns(), __ATOMIC_RELAXED);
    (void)move_due_at(log, seen, PS_DUE_LATE | PS_DUE_NEVER);
  } else if (!(seen & PS_DUE_LATE) && move_due_at(log, seen, PS_DUE_RUNG | (position + grace_bytes(log)))) {
    __atomic_store_n(&log->due, true, __ATOMIC_RELEASE);
    if (!log->options.reserve) return;
    __atomic_fetch_add(&log->options.reserve->trims, 1, __ATOMIC_RELEASE);
    ps_os_futex_wake_all(&log->options.reserve->trims);
  }
}

void ps_log_begin_due(ps_log *log, uint32_t segment_bytes) {
  uint64_t seen, position;
  do { /* what has not been told of is told with the first append: how much is too much, nobody has looked */
    seen = due_at(log);
    if (keep_bytes(log) < 0 || seen & PS_DUE_LATE) return;
    position = seen & PS_DUE_POSITION;
    position = seen & PS_DUE_RUNG && position > segment_bytes ? position - segment_bytes : 0;
  } while (!move_due_at(log, seen, (seen & PS_DUE_RUNG) | position));
}

bool ps_log_take_due(ps_log *log) { return __atomic_exchange_n(&log->due, false, __ATOMIC_ACQ_REL); }

bool ps_log_is_late(const ps_log *log) {
  if (PS_LIKELY(!(due_at(log) & PS_DUE_LATE))) return false;
  return ps_os_monotonic_ns() - __atomic_load_n(&log->late_since, __ATOMIC_RELAXED) < LATE_NS_MAX;
}

ps_status ps_log_keep(ps_log *log, ps_error *err) {
  for (int round = 0; round < KEEP_ROUNDS_MAX; round++) {
    ps_retention rule = {PS_TIMESTAMP_NONE, keep_bytes(log), PS_TIMESTAMP_NONE};
    ps_retained done = {.more = true};
    uint64_t due = PS_DUE_NEVER, seen = due_at(log);
    ps_status status = PS_OK;
    if (rule.max_bytes < 0) return PS_OK;
    for (int i = 0; status == PS_OK && done.more && i < KEEP_STEPS_MAX; i++)
      status = step(log, &rule, KEEP_FILES_MAX, STEP_WAIT_NS, &done, &due, err);
    if (status != PS_OK) return status;
    /* Where somebody has rung since, or gone on in a new segment, there may be more to be done by now. */
    if (!done.more && move_due_at(log, seen, due)) return PS_OK;
  }
  return ps_fail(err, PS_TIMEOUT, log->dir, "segments are filled as quickly as they are removed");
}

void ps_log_catch_up(ps_log *log) {
  ps_slot slot;
  ps_status status = ps_log_keep(log, NULL);
  if (status == PS_OK || status == PS_TIMEOUT || status == PS_INTERRUPTED) return;
  /* It fails: no reason to refuse records. It is tried again a while on. */
  if (ps_head_read_slot(log->head, &slot)) set_due_at(log, slot.position + grace_bytes(log));
}

/* ---- what there is ---------------------------------------------------------------------------- */

ps_status ps_log_segments(ps_log *log, ps_segment_facts **out, size_t *count, ps_error *err) {
  listing l;
  ps_slot slot;
  *out = NULL;
  *count = 0;
  ps_status status = ps_log_check(log, NULL);
  if (status != PS_OK && status != PS_POISONED) return ps_log_check(log, err);
  int64_t end = ps_log_end_offset(log), start = ps_log_start_offset(log); /* of a view, this looks anew */
  status = list(log, &l, err);
  if (status != PS_OK) return ps_log_explain(log, status, err);
  ps_segment_facts *all = calloc(l.count + 1, sizeof *all);
  if (!all) status = ps_fail(err, PS_NO_MEMORY, log->dir, "listing segments");
  for (size_t i = 0; status == PS_OK && i < l.count; i++) {
    ps_facts facts;
    if (lies_below(&l, i, start)) continue;
    status = ps_table_facts(log, l.bases[i], &facts, err);
    if (status == PS_NOT_FOUND) { /* it went this moment */
      status = PS_OK;
      continue;
    }
    if (status != PS_OK) break;
    ps_segment_facts *f = &all[(*count)++];
    *f = (ps_segment_facts){.base_offset = l.bases[i],
                            .end_offset = i + 1 < l.count ? l.bases[i + 1] : end,
                            .max_timestamp = facts.max_timestamp,
                            .created_ns = facts.created_ns,
                            .bytes = facts.bytes};
    if (i + 1 == l.count && ps_head_read_slot(log->head, &slot) && slot.segment == f->base_offset) {
      f->bytes = slot.position;
      if (slot.max_timestamp != PS_TIMESTAMP_NONE) f->max_timestamp = slot.max_timestamp;
    }
  }
  free(l.bases);
  if (status != PS_OK) {
    free(all);
    *count = 0;
    return ps_log_explain(log, status, err);
  }
  *out = all;
  return PS_OK;
}
