/* ps_compactions.h - a log that is compacted, beside a list of all that was ever appended to it: what is read
 * back is that list, with nothing missing but what may be; after a whole pass, nothing is left that need not
 * be. */
#ifndef PS_COMPACTIONS_H
#define PS_COMPACTIONS_H

#include "ps_builder.h"
#include "ps_compact.h"
#include "ps_logs.h"
#include "ps_retain.h"

/* ---- the model --------------------------------------------------------------------------------- */

#define RECORDS_MAX 60000
typedef struct entry {
  int32_t key;    /* -1: null */
  int32_t tag;    /* -1: a tombstone; else the value begins with it */
  int32_t header; /* -1: none */
  uint32_t bytes;
  int64_t timestamp;
  int64_t horizon; /* 0: no pass has had it yet */
  int64_t producer;
} entry;
static entry entries[RECORDS_MAX];
static int64_t end_offset;  /* of the model */
static int64_t known_clean; /* up to here, everything that is superseded is gone */
static int32_t tags;
static int64_t clock_ns = 1000000000000;
static uint32_t keys_max = 40;
static bool fixed, by_append_time;

__attribute__((unused)) static void forget_all(void) {
  end_offset = known_clean = 0;
  clock_ns = 1000000000000;
}

__attribute__((unused)) static uint32_t value_bytes(const entry *e) { return fixed ? 24 : e->bytes; }

__attribute__((unused)) static void make_value(const entry *e, uint8_t *out) {
  for (uint32_t i = 0; i < value_bytes(e); i++) out[i] = (uint8_t)(e->tag * 7 + (int32_t)i / 5);
  ps_store_i32(out, e->tag);
}

__attribute__((unused)) static uint32_t make_key(int32_t key, char out[24]) {
  if (fixed) {
    snprintf(out, 24, "%08d", key);
    return 8;
  }
  return (uint32_t)snprintf(out, 24, "%.*s%d", key % 7, "keykeyke", key);
}

typedef struct shape_of_batch {
  uint32_t count;
  uint32_t codec;
  bool keys, nulls, headers, tombstones;
  int64_t producer;
} shape_of_batch;

__attribute__((unused)) static ps_status add_batch(ps_log *log, const shape_of_batch *s, ps_error *err) {
  static uint8_t value[4096], scratch[8 << 20];
  ps_builder *b =
      ps_builder_new(fixed ? 24 : -1, fixed ? 8 : -1, 1 << 20, 1 << 20, ps_log_frame_bytes_max(log));
  b->stamp = clock_ns;
  CHECK(end_offset + s->count < RECORDS_MAX);
  for (uint32_t i = 0; i < s->count; i++) {
    entry *e = &entries[end_offset + i];
    char key[24], name[16] = "h";
    *e = (entry){
        .key = -1, .tag = tags++, .header = -1, .bytes = 4 + random_below(200), .timestamp = clock_ns};
    if (s->keys && !(s->nulls && random_below(6) == 0)) e->key = (int32_t)random_below(keys_max);
    if (s->tombstones && e->key >= 0 && random_below(5) == 0) e->tag = -1;
    if (s->headers && random_below(3) == 0) e->header = (int32_t)random_below(1000);
    if (!by_append_time && random_below(4) == 0) e->timestamp = clock_ns + random_below(1000);
    e->producer = s->producer;
    if (e->tag >= 0) make_value(e, value);
    char text[16];
    ps_header h = {name, text, 1, 0};
    h.value_bytes = snprintf(text, sizeof text, "%d", e->header);
    ps_record r = {.value = e->tag < 0 ? NULL : value,
                   .value_bytes = e->tag < 0 ? -1 : (int64_t)value_bytes(e),
                   .key = e->key < 0 ? NULL : key,
                   .key_bytes = e->key < 0 ? -1 : (int64_t)make_key(e->key, key),
                   .timestamp = e->timestamp,
                   .has_timestamp = e->timestamp != clock_ns,
                   .headers = &h,
                   .header_count = e->header >= 0};
    CHECK_EQ(ps_builder_add(b, &r), PS_OK);
  }
  ps_columns columns;
  ps_frame_meta meta;
  ps_prepared batch;
  ps_builder_columns(b, &columns);
  ps_frame_meta_init(&meta);
  if (by_append_time) meta.attributes |= PS_ATTR_LOG_APPEND_TIME;
  meta.producer_id = s->producer;
  if (s->producer >= 0) {
    meta.producer_epoch = 1;
    meta.base_sequence = (int32_t)(end_offset & 0x7fffffff);
  }
  ps_status status = ps_frame_prepare(&columns, &meta, s->codec, ps_log_frame_bytes_max(log), scratch,
                                      sizeof scratch, &batch, err);
  CHECK_EQ(status, PS_OK);
  int64_t base = -1;
  status = ps_log_append(log, &batch, -1, &base, err);
  if (status == PS_OK) {
    CHECK_EQ(base, end_offset);
    if (by_append_time)
      for (uint32_t i = 0; i < s->count; i++) entries[base + i].timestamp = batch.meta.first_timestamp;
    end_offset += s->count;
  }
  ps_builder_free(b);
  return status;
}

__attribute__((unused)) static void must_add(ps_log *log, const shape_of_batch *s) {
  ps_error err = {0};
  ps_status status = add_batch(log, s, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s)", status, err.what);
}

__attribute__((unused)) static void add_some(ps_log *log, int batches) {
  for (int i = 0; i < batches; i++) {
    shape_of_batch s = {.count = 1 + random_below(random_below(4) ? 30 : 300),
                        .codec = random_below(2),
                        .keys = random_below(12) != 0,
                        .nulls = random_below(4) == 0,
                        .headers = random_below(4) == 0,
                        .tombstones = true,
                        .producer = random_below(5) ? PS_NONE : (int64_t)random_below(3)};
    must_add(log, &s);
    clock_ns += random_below(2000000);
  }
}

/* ---- reading it back --------------------------------------------------------------------------- */

__attribute__((unused)) static void check_record(const ps_frame_meta *meta, const ps_columns *c,
                                                 uint32_t row) {
  int64_t offset = meta->base_offset + (c->offset_deltas ? c->offset_deltas[row] : row);
  const entry *e = &entries[offset];
  char key[24], text[16];
  uint8_t value[4096];
  CHECK_EQ(c->timestamps ? c->timestamps[row] : c->first_timestamp, e->timestamp);
  bool keyed = c->has_keys && ps_bit(c->keys.validity, row);
  CHECK_MSG(keyed == (e->key >= 0), "(offset %" PRId64 ")", offset);
  if (keyed) {
    uint32_t from = c->keys.offsets ? (uint32_t)c->keys.offsets[row] : row * (uint32_t)c->keys.width;
    uint32_t bytes = c->keys.offsets ? (uint32_t)c->keys.offsets[row + 1] - from : (uint32_t)c->keys.width;
    CHECK_EQ(bytes, make_key(e->key, key));
    CHECK(memcmp(c->keys.data + from, key, bytes) == 0);
  }
  CHECK_EQ(ps_bit(c->values.validity, row), e->tag >= 0);
  uint32_t from = c->values.offsets ? (uint32_t)c->values.offsets[row] : row * (uint32_t)c->values.width;
  if (e->tag >= 0) {
    make_value(e, value);
    CHECK(memcmp(c->values.data + from, value, value_bytes(e)) == 0);
  }
  int32_t headers = c->has_headers ? c->header_lists[row + 1] - c->header_lists[row] : 0;
  CHECK_EQ(headers, e->header >= 0);
  if (!headers) return;
  int32_t h = c->header_lists[row], at = c->header_values.offsets[h];
  int bytes = snprintf(text, sizeof text, "%d", e->header);
  CHECK_EQ(c->header_values.offsets[h + 1] - at, bytes);
  CHECK(memcmp(c->header_values.data + at, text, (size_t)bytes) == 0);
  CHECK_EQ(meta->producer_id, e->producer);
}

static bool present[RECORDS_MAX];

/* Read all from the log start; frames tile, records are what they were. Which ones are there: present[]. */
__attribute__((unused)) static void read_all(ps_log *log) {
  memset(present, 0, sizeof present);
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  int64_t start = ps_log_start_offset(log), next = -1;
  ps_status status;
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(log, &cursor, start, &err), PS_OK);
  uint8_t *raw = malloc(8 << 20);
  while ((status = ps_cursor_next(log, &cursor, &view, &err)) == PS_OK) {
    const uint8_t *body = view.body;
    ps_columns c;
    if (next >= 0) CHECK_EQ(view.meta.base_offset, next);
    next = ps_frame_next_offset(&view.meta);
    CHECK(view.meta.raw_bytes <= 8 << 20);
    if (ps_frame_codec(&view.meta) != PS_CODEC_NONE) {
      CHECK_EQ(ps_frame_decompress(view.frame, &view.meta, raw), PS_OK);
      body = raw;
    }
    CHECK_EQ(ps_frame_columns(&view.meta, body, view.meta.raw_bytes, &c), PS_OK);
    CHECK_EQ(ps_columns_check(&view.meta, &c), PS_OK);
    CHECK_EQ((view.meta.attributes & PS_ATTR_LOG_APPEND_TIME) != 0, by_append_time && c.count > 0);
    for (uint32_t i = 0; i < c.count; i++) {
      check_record(&view.meta, &c, i);
      present[view.meta.base_offset + (c.offset_deltas ? c.offset_deltas[i] : i)] = true;
    }
  }
  free(raw);
  CHECK_MSG(status == PS_END, "(%d: %s at %" PRId64 ")", status, err.what, err.offset);
  ps_cursor_clear(&cursor);
  CHECK_EQ(next < 0 ? start : next, end_offset);
}

/* Nothing is missing that must be there, and nothing is there that was to go. `through`: records up to there
 * may have been compacted. */
__attribute__((unused)) static void check_model(ps_log *log, int64_t through) {
  static int64_t later[4096]; /* of each key: the next offset that has it */
  static bool seen[4096];     /* a record of it that is there has been met */
  read_all(log);
  for (uint32_t k = 0; k < keys_max; k++) {
    later[k] = -1;
    seen[k] = false;
  }
  for (int64_t i = end_offset - 1; i >= ps_log_start_offset(log); i--) {
    const entry *e = &entries[i];
    int64_t next = e->key < 0 ? -1 : later[e->key];
    bool superseded = next >= 0 && next < through;
    bool expired = e->key >= 0 && e->tag < 0 && e->horizon && e->horizon <= clock_ns;
    CHECK_MSG(present[i] || (i < through && (superseded || expired)), "(offset %" PRId64 " key %d)", i,
              e->key);
    CHECK_MSG(!present[i] || next < 0 || next >= known_clean, "(offset %" PRId64 " goes at %" PRId64 ")", i,
              next);
    if (e->key < 0) continue;
    /* As a table: the last record that is there is the last one there was. */
    if (present[i]) CHECK_MSG(seen[e->key] || next < 0, "(offset %" PRId64 " came back to life)", i);
    seen[e->key] = seen[e->key] || present[i];
    later[e->key] = i;
  }
}

static const ps_compaction everything = {.delete_retention_ns = 1000, .map_bytes = 1 << 20};

/* A pass, whole. */
__attribute__((unused)) static ps_status pass(ps_log *log, const ps_compaction *rule, ps_compacted *out,
                                              ps_error *err) {
  ps_compactor *c;
  memset(out, 0, sizeof *out);
  ps_status status = ps_compact_begin(log, rule, &c, err);
  if (status == PS_END) return PS_OK;
  if (status != PS_OK) return status;
  status = ps_compact_run(c, -1, err);
  *out = *ps_compact_result(c);
  ps_compact_end(c);
  return status == PS_END ? PS_OK : status;
}

__attribute__((unused)) static ps_compacted compact(ps_log *log, ps_compaction rule) {
  ps_compacted out;
  ps_error err = {0};
  rule.now_ns = clock_ns;
  ps_status status = pass(log, &rule, &out, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s, errno %d, %s, offset %" PRId64 ")", status, err.what, err.os_errno,
            err.path, err.offset);
  for (int64_t i = 0; i < out.cleaned_offset; i++)
    if (entries[i].tag < 0 && !entries[i].horizon) entries[i].horizon = clock_ns + rule.delete_retention_ns;
  if (out.cleaned_offset > known_clean) known_clean = out.cleaned_offset;
  return out;
}

__attribute__((unused)) static void must_sync(ps_log *log) {
  ps_error err = {0};
  CHECK_EQ(ps_log_sync(log, &err), PS_OK);
}

/* A log with something to merge and tombstones in it. */
__attribute__((unused)) static handle dirty_log(uint64_t seed) {
  test_seed = seed;
  forget_all();
  fresh_directory();
  handle h = open_with(&plain);
  add_some(h.log, 150);
  must_sync(h.log);
  compact(h.log, everything);
  clock_ns += 5000;
  add_some(h.log, 100);
  must_sync(h.log);
  return h;
}

/* What is left behind does no harm, and the next pass does all of the work. */
__attribute__((unused)) static void finish_after(handle *h) {
  check_model(h->log, end_offset);
  uint64_t files;
  ps_error err = {0};
  ps_status status = ps_compact_sweep(h->log, &files, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s)", status, err.what);
  check_model(h->log, end_offset);
  ps_compacted out = compact(h->log, everything);
  CHECK(!out.more);
  check_model(h->log, end_offset);
  CHECK_EQ(ps_compact_sweep(h->log, &files, &err), PS_OK);
  CHECK_EQ(files, 0);
  close_handle(*h);
  incarnation++;
  *h = open_with(&plain);
  check_model(h->log, end_offset);
}

__attribute__((unused)) static uint64_t files_named(const char *part) {
  char command[400];
  snprintf(command, sizeof command, "ls %s | grep -c '%s'", directory, part);
  FILE *f = popen(command, "r");
  int n = 0;
  CHECK(f && fscanf(f, "%d", &n) == 1);
  pclose(f);
  return (uint64_t)n;
}

#endif
