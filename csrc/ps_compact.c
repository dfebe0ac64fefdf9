#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_compact.h"

#include "ps_compact_internal.h"
#include "ps_keymap.h"
#include "ps_retain.h"
#include "ps_sieve.h"

/* Keys that are hashed, and their places fetched, before the first of them is looked up: a look into a map
 * that fits no cache is a wait for memory, and so these waits overlap. */
#define KEYS_AHEAD 32u
/* A throttled pass rests after so many bytes, and looks so often whether it is to stop. */
#define PASS_STEP_BYTES (1u << 20)
#define NAP_NS 20000000

typedef enum verdict {
  STAYS,   /* as it is */
  MARKED,  /* but for its delete horizon */
  THINNED, /* some records go */
  EMPTIED  /* all do */
} verdict;

struct ps_compactor {
  ps_log *log;
  ps_compaction rule;
  ps_compacted result;
  ps_source *sources; /* finished segments from the log start on, in order */
  size_t count;       /* of those to map; then of those to write anew */
  int64_t log_start;
  int64_t from, to; /* records in [from, to) have their keys in the map */
  bool mapping;
  ps_keymap map;
  uint8_t *map_memory;
  uint64_t map_bytes;
  uint64_t mapped_bytes;
  int64_t begun_ns; /* monotonic */
  ps_sieve sieve;
  uint8_t *body; /* the batch, decompressed */
  uint64_t body_room;
  /* The place: in sources[at]. */
  size_t at;
  ps_segment *segment;
  uint64_t position;
  int64_t next;
  uint64_t judged; /* frames before it are known to stay as they are */
  ps_rewrite out;
  size_t group;                        /* the first source that `out` replaces */
  uint64_t pending_removed;            /* records, of the segment that is not swapped in yet */
  uint64_t judged_bytes, stayed_bytes; /* of frames written anew: before and after */
};

static bool stopped(const ps_compaction *rule) {
  return rule->stop && __atomic_load_n(rule->stop, __ATOMIC_ACQUIRE) != 0;
}

/* ---- the plan ----------------------------------------------------------------------------------- */

/* All that may be compacted, from the segment that holds the log start on, while one begins where the last
 * one ended. */
static ps_status plan(ps_compactor *c, ps_error *err) {
  ps_log *log = c->log;
  int64_t *bases = NULL, active, durable = ps_head_durable(log->head);
  size_t count = 0;
  ps_status status = ps_compact_bases(log, &bases, &count, &active, err);
  if (status != PS_OK) return status;
  c->result.segments_before = count + 1;
  c->sources = calloc(count ? count : 1, sizeof *c->sources);
  if (!c->sources) status = ps_fail(err, PS_NO_MEMORY, log->dir, "planning a compaction");
  for (size_t i = 0; i < count && status == PS_OK; i++) {
    if ((i + 1 < count ? bases[i + 1] : active) <= c->log_start) continue;
    ps_source *s = &c->sources[c->count];
    status = ps_source_read(log, bases[i], s, err);
    if (status == PS_END ||
        status == PS_NOT_FOUND) { /* not finished after all, or just gone: up to here, then */
      status = PS_OK;
      break;
    }
    if (status != PS_OK || s->end > durable) break;
    if (s->end <= c->log_start) continue;
    if (c->count && s->base != c->sources[c->count - 1].end) break;
    if (s->end > c->from && ps_compact_is_young(s, c->rule.now_ns, c->rule.lag_ns)) break;
    c->count++;
  }
  free(bases);
  return status;
}

static void count_bytes(ps_compactor *c) {
  for (size_t i = 0; i < c->count; i++)
    *(c->sources[i].end <= c->from ? &c->result.clean_bytes : &c->result.dirty_bytes) += c->sources[i].bytes;
}

/* Memory for keys: as many as there can be, if that is less than may be taken. */
static ps_status make_map(ps_compactor *c, ps_error *err) {
  int64_t end = c->count ? c->sources[c->count - 1].end : c->from;
  uint64_t bytes = ps_keymap_bytes_for(end > c->from ? (uint64_t)(end - c->from) : 0);
  if (bytes > c->rule.map_bytes) bytes = c->rule.map_bytes & ~7ull;
  if (bytes < PS_KEYMAP_BYTES_MIN) bytes = PS_KEYMAP_BYTES_MIN;
  int rc = ps_os_map_memory(bytes, &c->map_memory);
  if (rc < 0) return ps_fail(err, PS_NO_MEMORY, c->log->dir, "making the map of keys");
  c->map_bytes = bytes;
  ps_os_want_huge(c->map_memory, bytes); /* else each look is a walk of the page table, too */
  ps_keymap_init(&c->map, c->map_memory, bytes, ps_os_random_u64());
  return PS_OK;
}

static ps_status worth_it(ps_compactor *c) {
  uint64_t dirty = c->result.dirty_bytes, all = dirty + c->result.clean_bytes;
  int64_t horizon = ps_head_horizon(c->log->head);
  bool due = horizon > 0 && horizon <= c->rule.now_ns && all > 0;
  return due || (dirty && (double)dirty >= c->rule.min_dirty_ratio * (double)all) ? PS_OK : PS_END;
}

static void place(ps_compactor *c, size_t at) {
  ps_segment_unref(c->segment);
  c->segment = NULL;
  c->at = at;
  c->judged = 0;
}

/* First segment with anything at or beyond `from`. */
static size_t first_dirty(const ps_compactor *c) {
  size_t i = 0;
  while (i < c->count && c->sources[i].end <= c->from) i++;
  return i;
}

ps_status ps_compact_begin(ps_log *log, const ps_compaction *rule, ps_compactor **out, ps_error *err) {
  *out = NULL;
  ps_status status = ps_log_check_writable(log, err);
  if (status != PS_OK) return status;
  if (!ps_compact_alone(log)) return ps_compact_fail_busy(log, err);
  ps_compactor *c = calloc(1, sizeof *c);
  if (!c) {
    ps_compact_not_alone(log);
    return ps_fail(err, PS_NO_MEMORY, log->dir, "beginning a compaction");
  }
  c->log = log;
  c->rule = *rule;
  c->begun_ns = ps_os_monotonic_ns();
  ps_rewrite_init(&c->out, log);
  ps_sieve_init(&c->sieve);
  uint64_t files;
  status = ps_compact_sweep_alone(log, &files, err);
  c->log_start = ps_log_start_offset(log);
  c->from = c->to = c->result.cleaned_offset = ps_compact_cleaned(log, c->log_start);
  if (status == PS_OK) status = plan(c, err);
  if (status == PS_OK) {
    c->result.segments_after = c->result.segments_before;
    count_bytes(c);
    status = worth_it(c);
  }
  if (status == PS_OK) status = make_map(c, err);
  if (status != PS_OK) {
    *out = NULL;
    ps_compact_end(c);
    return ps_log_explain(log, status, err);
  }
  c->result.ran = c->mapping = true;
  place(c, first_dirty(c));
  PS_POINT(log->env, "compact.begun");
  *out = c;
  return PS_OK;
}

const ps_compacted *ps_compact_result(const ps_compactor *c) { return &c->result; }

void ps_compact_end(ps_compactor *c) {
  if (!c) return;
  ps_log *log = c->log;
  ps_rewrite_free(&c->out);
  ps_segment_unref(c->segment);
  ps_sieve_free(&c->sieve);
  free(c->body);
  ps_os_unmap(c->map_memory, c->map_bytes);
  free(c->sources);
  free(c);
  ps_compact_not_alone(log);
}

/* ---- reading ------------------------------------------------------------------------------------ */

static ps_status fail_damaged(const ps_compactor *c, const char *what, ps_error *err) {
  return ps_fail_corrupt(err, c->segment->path, c->segment->base_offset, (int64_t)c->position, c->next, what);
}

/* Somebody else has changed the segments: this pass ends, the next begins anew. */
static ps_status interfered(ps_compactor *c) {
  c->result.more = true;
  return PS_END;
}

/* Open the source the place is in, as it is now: what the table has open may be what stood there before.
 * PS_END: it is another file by now. */
static ps_status enter(ps_compactor *c, ps_error *err) {
  if (c->segment) return PS_OK;
  const ps_source *s = &c->sources[c->at];
  ps_status status = ps_segment_open(c->log->env, c->log->dir, s->base, &c->segment, err);
  if (status == PS_NOT_FOUND || (status == PS_OK && c->segment->salt != s->salt)) return interfered(c);
  if (status != PS_OK) return status;
  c->position = PS_SEGMENT_HEADER_BYTES;
  c->next = s->base;
  return PS_OK;
}

/* The header of the frame at the place. PS_END: the segment ends here, as it should. */
static ps_status frame_here(ps_compactor *c, ps_frame_meta *meta, ps_error *err) {
  ps_segment *s = c->segment;
  if (c->next == c->sources[c->at].end) return PS_END;
  ps_status status = PS_END;
  if (ps_segment_backed(c->log->env, s, c->position + PS_FRAME_HEADER_BYTES))
    status =
        ps_frame_decode_header(s->map + c->position, s->capacity - c->position, s->salt, c->position, meta);
  if (status == PS_VERSION) return ps_log_fail_newer(s, c->position, c->next, err);
  if (status != PS_OK || meta->base_offset != c->next ||
      !ps_segment_backed(c->log->env, s, c->position + meta->frame_bytes))
    return fail_damaged(c, "no sound frame where one must be", err);
  return PS_OK;
}

/* Check the body and point `columns` at what it holds. */
static ps_status load(ps_compactor *c, const ps_frame_meta *meta, ps_columns *columns, ps_error *err) {
  const uint8_t *p = c->segment->map + c->position, *body = p + PS_FRAME_HEADER_BYTES;
  /* What has its keys in the map was checked when they were put there. */
  bool checked = !c->mapping && meta->base_offset >= c->from && ps_frame_next_offset(meta) <= c->to;
  if (!checked && !ps_frame_body_ok(p, meta))
    return fail_damaged(c, "a batch does not match its checksum", err);
  ps_status status = PS_OK;
  if (ps_frame_codec(meta) != PS_CODEC_NONE) {
    if (meta->raw_bytes > c->body_room) {
      free(c->body);
      c->body_room = ps_align_up(meta->raw_bytes + (uint64_t)meta->raw_bytes / 4, PS_ALIGN);
      c->body = malloc(c->body_room);
      if (!c->body) {
        c->body_room = 0;
        return ps_fail(err, PS_NO_MEMORY, c->segment->path, "decompressing a batch");
      }
    }
    status = ps_frame_decompress(p, meta, c->body);
    body = c->body;
  }
  if (status == PS_OK) status = ps_frame_columns(meta, body, meta->raw_bytes, columns);
  if (status == PS_OK) status = ps_columns_check(meta, columns);
  return status == PS_OK ? PS_OK : fail_damaged(c, "a batch cannot be decoded", err);
}

static void pass_frame(ps_compactor *c, const ps_frame_meta *meta) {
  c->position += meta->frame_bytes;
  c->next = ps_frame_next_offset(meta);
}

static int64_t offset_of(const ps_frame_meta *meta, const ps_columns *columns, uint32_t row) {
  return meta->base_offset + (int64_t)(columns->offset_deltas ? columns->offset_deltas[row] : row);
}

static bool has_keys(const ps_frame_meta *meta) {
  return meta->record_count > 0 && (meta->attributes & PS_ATTR_KEYS) && !(meta->attributes & PS_ATTR_CONTROL);
}

/* Hash the keys of rows [from, from + KEYS_AHEAD) and have their places fetched; how many rows these are. */
static uint32_t hash_rows(const ps_compactor *c, const ps_columns *columns, uint32_t from, ps_key *keys) {
  const ps_binary *k = &columns->keys;
  uint32_t n = columns->count - from < KEYS_AHEAD ? columns->count - from : KEYS_AHEAD;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t row = from + i;
    if (!ps_bit(k->validity, row)) continue;
    uint32_t start = k->offsets ? (uint32_t)k->offsets[row] : row * (uint32_t)k->width;
    uint32_t bytes = k->offsets ? (uint32_t)k->offsets[row + 1] - start : (uint32_t)k->width;
    keys[i] = ps_keymap_hash(&c->map, k->data + start, bytes);
    ps_keymap_prefetch(&c->map, keys[i]);
  }
  return n;
}

/* ---- first: where each key was seen last -------------------------------------------------------- */

/* False: the map is full; c->to is the first record that is not in it. */
static bool map_rows(ps_compactor *c, const ps_frame_meta *meta, const ps_columns *columns) {
  ps_key keys[KEYS_AHEAD];
  uint32_t row = ps_columns_find_offset(columns, meta->base_offset, c->from), n;
  for (; row < columns->count; row += n) {
    n = hash_rows(c, columns, row, keys);
    for (uint32_t i = 0; i < n; i++) {
      if (!ps_bit(columns->keys.validity, row + i)) continue;
      c->to = offset_of(meta, columns, row + i);
      if (!ps_keymap_put(&c->map, keys[i], c->to)) return false;
    }
  }
  c->to = ps_frame_next_offset(meta);
  return true;
}

/* The map is made. What is written anew ends with the segment that holds the last key of it. */
static ps_status start_writing(ps_compactor *c, bool full) {
  c->mapping = false;
  c->result.more = full;
  c->result.keys = c->map.count;
  while (c->count > 0 && c->sources[c->count - 1].base >= c->to) c->count--;
  place(c, 0);
  PS_POINT(c->log->env, "compact.mapped");
  return PS_OK;
}

/* PS_OK: go on. */
static ps_status map_step(ps_compactor *c, ps_error *err) {
  if (c->at == c->count) return start_writing(c, false);
  ps_frame_meta meta;
  ps_columns columns;
  ps_status status = enter(c, err);
  if (status != PS_OK) return status;
  status = frame_here(c, &meta, err);
  if (status == PS_END) {
    place(c, c->at + 1);
    return PS_OK;
  }
  if (status != PS_OK) return status;
  if (ps_frame_next_offset(&meta) > c->from) {
    if (c->rule.max_bytes && c->mapped_bytes >= c->rule.max_bytes) return start_writing(c, true);
    c->mapped_bytes += meta.frame_bytes;
    c->result.read_bytes += meta.frame_bytes;
    c->to = ps_frame_next_offset(&meta);
    if (has_keys(&meta)) {
      status = load(c, &meta, &columns, err);
      if (status != PS_OK) return status;
      if (!map_rows(c, &meta, &columns)) return start_writing(c, true);
    }
  }
  pass_frame(c, &meta);
  return PS_OK;
}

/* ---- then: without those that were superseded --------------------------------------------------- */

/* What becomes of a batch with keys: rows that stay go to sieve.kept; *horizon: what its header is to say. */
static verdict judge_rows(ps_compactor *c, const ps_frame_meta *meta, const ps_columns *columns,
                          uint32_t *kept, int64_t *horizon) {
  ps_key keys[KEYS_AHEAD];
  const uint8_t *values = columns->values.validity,
                *validity = columns->has_keys ? columns->keys.validity : NULL;
  bool over = meta->delete_horizon != PS_NONE && meta->delete_horizon <= c->rule.now_ns;
  bool whole = ps_frame_next_offset(meta) <= c->to; /* every key of it was in a map, of this pass or before */
  uint32_t n, stay = 0, tombstones = 0, *rows = c->sieve.kept;
  for (uint32_t row = 0; row < columns->count; row += n) {
    n = columns->has_keys ? hash_rows(c, columns, row, keys) : columns->count - row;
    for (uint32_t i = 0; i < n; i++) {
      int64_t offset = offset_of(meta, columns, row + i);
      bool keyed = columns->has_keys && ps_bit(validity, row + i),
           tombstone = keyed && !ps_bit(values, row + i);
      if (offset < c->log_start) continue;
      if (keyed && offset < c->to &&
          (ps_keymap_get(&c->map, keys[i]) > offset || (tombstone && over && whole)))
        continue;
      tombstones += tombstone;
      rows[stay++] = row + i;
    }
  }
  *kept = stay;
  *horizon = meta->delete_horizon;
  if (tombstones == 0)
    *horizon = PS_NONE;
  else if (whole && *horizon == PS_NONE)
    *horizon = c->rule.now_ns + c->rule.delete_retention_ns;
  if (stay == 0) return EMPTIED;
  if (stay < columns->count) return THINNED;
  return *horizon == meta->delete_horizon ? STAYS : MARKED;
}

static verdict judge_keyless(const ps_compactor *c, const ps_frame_meta *meta) {
  return ps_frame_next_offset(meta) <= c->log_start ? EMPTIED : STAYS;
}

/* Judge the frame at the place. */
static ps_status judge(ps_compactor *c, const ps_frame_meta *meta, ps_columns *columns, uint32_t *kept,
                       int64_t *horizon, verdict *out, ps_error *err) {
  *horizon = meta->delete_horizon;
  *out = STAYS;
  if ((meta->attributes & PS_ATTR_CONTROL) || c->position < c->judged) return PS_OK;
  bool straddles = meta->base_offset < c->log_start && meta->record_count > 0;
  if (meta->record_count == 0) {
    if (c->out.open) *out = EMPTIED; /* joins others */
    return PS_OK;
  }
  if (meta->base_offset >= c->to && !straddles) return PS_OK;
  if (!has_keys(meta) && !straddles) return PS_OK;
  *out = judge_keyless(c, meta);
  if (*out == EMPTIED) return PS_OK;
  ps_status status = load(c, meta, columns, err);
  if (status != PS_OK) return status;
  if (!ps_sieve_rows(&c->sieve, columns->count))
    return ps_fail(err, PS_NO_MEMORY, c->segment->path, "writing a batch anew");
  *out = judge_rows(c, meta, columns, kept, horizon);
  return PS_OK;
}

/* Of a batch whose tombstones a later pass would leave out. */
static void note_horizon(ps_compactor *c, const ps_frame_meta *meta, int64_t horizon) {
  if (horizon == PS_NONE || !has_keys(meta) || meta->base_offset >= c->to) return;
  if (c->result.next_horizon == 0 || horizon < c->result.next_horizon) c->result.next_horizon = horizon;
}

static ps_status write_frame(ps_compactor *c, const ps_frame_meta *meta, const ps_columns *columns,
                             uint32_t kept, int64_t horizon, verdict what, ps_error *err) {
  ps_prepared thin;
  ps_frame_meta marked = *meta;
  ps_piece body = {c->segment->map + c->position + PS_FRAME_HEADER_BYTES,
                   meta->frame_bytes - PS_FRAME_HEADER_BYTES};
  ps_status status;
  switch (what) {
  case EMPTIED:
    c->pending_removed += meta->record_count;
    return ps_rewrite_empty(&c->out, meta, err);
  case THINNED:
    c->pending_removed += meta->record_count - kept;
    status = ps_sieve_batch(&c->sieve, meta, columns, kept, horizon, &thin, err);
    if (status == PS_OK) status = ps_rewrite_frame(&c->out, &thin.meta, thin.pieces, thin.piece_count, err);
    break;
  default:
    marked.delete_horizon = horizon;
    marked.attributes &= ~PS_ATTR_DELETE_HORIZON;
    if (horizon != PS_NONE) marked.attributes |= PS_ATTR_DELETE_HORIZON;
    status = ps_rewrite_frame(&c->out, &marked, &body, 1, err);
  }
  if (status == PS_OK) note_horizon(c, meta, horizon);
  return status;
}

/* Begin to write what replaces this source, from its first frame on. Frames before `judged` stay as they are.
 */
static ps_status begin_group(ps_compactor *c, uint64_t judged, ps_error *err) {
  uint64_t bytes = ps_log_segment_bytes(c->log);
  if (bytes < c->sources[c->at].bytes * 2) bytes = c->sources[c->at].bytes * 2;
  ps_status status = ps_rewrite_open(&c->out, &c->sources[c->at], bytes, err);
  c->group = c->at;
  c->judged = judged;
  c->position = PS_SEGMENT_HEADER_BYTES;
  c->next = c->sources[c->at].base;
  return status;
}

/* Whether the source after the place goes well into one file with `bytes` bytes before it. What will be left
 * of it is not known yet: as much as of those before, and a fourth more. */
static bool joins(const ps_compactor *c, uint64_t bytes) {
  if (c->at + 1 >= c->count) return false;
  if (c->out.open && c->at + 1 - c->group >= PS_COMPACT_MEMBERS_MAX) return false;
  const ps_source *s = &c->sources[c->at], *next = s + 1;
  double left = c->judged_bytes ? (double)c->stayed_bytes / (double)c->judged_bytes * 1.25 : 1;
  if (left > 1 || next->end <= c->from) left = 1;
  return next->leader_epoch == s->leader_epoch && bytes + 2 * next->bytes < PS_SEGMENT_BYTES_MAX &&
         (double)bytes + (double)next->bytes * left <= (double)ps_log_segment_bytes(c->log);
}

static ps_status end_group(ps_compactor *c, ps_error *err) {
  uint64_t bytes, files;
  size_t members = c->at - c->group + 1;
  ps_status status = ps_rewrite_swap(&c->out, &c->sources[c->group], members, &bytes, &files, err);
  c->result.segments_after -= files;
  if (status == PS_END) return interfered(c);
  if (status != PS_OK) return status;
  c->result.written_bytes += bytes;
  c->result.records_removed += c->pending_removed;
  c->pending_removed = 0;
  ps_log_trim(c->log);
  return PS_OK;
}

/* The place has come to the end of a source. */
static ps_status end_source(ps_compactor *c, ps_error *err) {
  const ps_source *s = &c->sources[c->at];
  if (!c->out.open) {
    /* One that stays as it is, is written anew only to take in its neighbour, and only while it is small:
     * each byte is copied for that a few times, and not at every pass. */
    if (s->bytes <= ps_log_segment_bytes(c->log) / 2 && joins(c, s->bytes))
      return begin_group(c, UINT64_MAX, err);
    place(c, c->at + 1);
    return PS_OK;
  }
  if (!joins(c, c->out.position + PS_FRAME_HEADER_BYTES)) {
    ps_status status = end_group(c, err);
    if (status != PS_OK) return status;
  }
  place(c, c->at + 1);
  return PS_OK;
}

static ps_status end_pass(ps_compactor *c, ps_error *err) {
  ps_log *log = c->log;
  ps_status status = ps_log_lock_maintain(log, PS_MAINTAIN_WAIT_NS, err);
  if (status != PS_OK) return status;
  status = ps_log_check_place(log, err);
  if (status == PS_OK) {
    PS_POINT(log->env, "compact.cleaned");
    ps_head_set_cleaned(log->head, c->to);
    ps_release_i64(log->head + PS_HEAD_HORIZON_OFF, c->result.next_horizon);
  }
  ps_log_unlock_maintain(log);
  if (status != PS_OK) return status;
  c->result.cleaned_offset = c->to;
  return PS_END;
}

static ps_status write_step(ps_compactor *c, ps_error *err) {
  if (c->at == c->count) return end_pass(c, err);
  ps_frame_meta meta;
  ps_columns columns;
  uint32_t kept = 0;
  int64_t horizon;
  verdict what;
  ps_status status = enter(c, err);
  if (status != PS_OK) return status;
  status = frame_here(c, &meta, err);
  if (status == PS_END) return end_source(c, err);
  if (status == PS_OK) status = judge(c, &meta, &columns, &kept, &horizon, &what, err);
  if (status != PS_OK) return status;
  c->result.read_bytes += meta.frame_bytes;
  if (!c->out.open && what != STAYS) return begin_group(c, c->position, err);
  if (c->out.open) {
    uint64_t before = c->out.position;
    status = write_frame(c, &meta, &columns, kept, horizon, what, err);
    c->judged_bytes += meta.frame_bytes;
    c->stayed_bytes += c->out.position - before;
  } else
    note_horizon(c, &meta, horizon);
  if (status == PS_OK) pass_frame(c, &meta);
  return status;
}

/* Bytes read and written so far. */
static uint64_t progress(const ps_compactor *c) {
  return c->result.read_bytes + c->result.written_bytes + (c->out.open ? c->out.position : 0);
}

ps_status ps_compact_step(ps_compactor *c, uint64_t bytes, ps_error *err) {
  uint64_t until = progress(c) + bytes;
  ps_status status = PS_OK;
  while (status == PS_OK && progress(c) < until) {
    if (stopped(&c->rule)) {
      c->result.more = true;
      return PS_INTERRUPTED;
    }
    status = ps_log_check(c->log, err);
    if (status == PS_OK) status = c->mapping ? map_step(c, err) : write_step(c, err);
  }
  return ps_log_explain(c->log, status, err);
}

/* Rest until as many bytes may have been moved as have been, at the rule's rate; no longer than until `end`.
 */
static void rest(const ps_compactor *c, int64_t end) {
  if (!c->rule.bytes_per_second) return;
  int64_t due = c->begun_ns + (int64_t)((double)progress(c) / (double)c->rule.bytes_per_second * 1e9);
  for (;;) {
    int64_t now = ps_os_monotonic_ns(), left = (due < end ? due : end) - now;
    if (left <= 0 || stopped(&c->rule)) return;
    (void)ps_os_nap(left < NAP_NS ? left : NAP_NS);
  }
}

ps_status ps_compact_run(ps_compactor *c, int64_t slice_ns, ps_error *err) {
  int64_t start = ps_os_monotonic_ns(), end = slice_ns < 0 ? INT64_MAX : start + slice_ns;
  ps_status status;
  do {
    status = ps_compact_step(c, PASS_STEP_BYTES, err);
    if (status == PS_OK) rest(c, end);
  } while (status == PS_OK && (slice_ns < 0 || ps_os_monotonic_ns() < end));
  return status;
}
