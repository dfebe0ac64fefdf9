/* A partition directory of any contents, opened by somebody who may only read, then recovered, twice, and
 * used.
 *
 * Recovery ends; it does not change anything the second time; what the head says was durable is not cut; no
 * byte of a segment is lost that is not zero; and the log can be appended to. */
#include "fuzz.h"
#include "ps_log.h"

static const ps_env plain = {0};

/* No head is of this incarnation by chance: it would be believed. */
#define INCARNATION 0x9d2c5680efc60000ull

typedef struct state {
  ps_status status;
  int64_t start, end, watermark, durable;
  int32_t epoch;
} state;

static ps_log_options options_of(unsigned options, uint64_t incarnation) {
  ps_log_options o = {.partition = FUZZ_PARTITION,
                      .segment_bytes = FUZZ_SEGMENT_BYTES,
                      .index_interval_bytes = 512,
                      .durability = options & 2 ? PS_DURABILITY_SYNC : PS_DURABILITY_INTERVAL,
                      .io = options & 1 ? PS_IO_PWRITE : PS_IO_MAP,
                      .incarnation = incarnation,
                      .read_only = incarnation == 0,
                      .live_fd = -1};
  memset(o.topic_uuid, FUZZ_UUID_BYTE, 16);
  return o;
}

static state open_log(const char *directory, int locks, unsigned options, uint64_t incarnation,
                      ps_log **log) {
  ps_error err = {0};
  ps_log_options o = options_of(options, incarnation);
  state s = {.status = ps_log_open(&plain, directory, locks, &o, incarnation != 0, log, &err)};
  fuzz_check_error(s.status, &err);
  if (s.status != PS_OK) return s;
  s.start = ps_log_start_offset(*log);
  s.end = ps_log_end_offset(*log);
  s.watermark = ps_log_high_watermark(*log);
  s.durable = ps_log_durable_offset(*log);
  s.epoch = ps_log_leader_epoch(*log);
  FUZZ_CHECK(s.watermark <= s.end);
  FUZZ_CHECK(s.durable <= s.end);
  FUZZ_CHECK(s.start <= s.end);
  return s;
}

static void leave(ps_log *log, bool die) {
  ps_error err = {0};
  if (die)
    ps_log_after_fork(log); /* nothing is synced, nothing is said */
  else
    (void)ps_log_close(log, &err);
  ps_log_free(log);
}

/* ---- nothing is lost -------------------------------------------------------------------------- */

typedef struct search {
  const fuzz_kept *file;
  size_t from; /* what is missing begins here */
  bool found;
} search;

/* Is [from, end) of the file, without zeros at its end, what this .cut file holds? */
static void look_in_cut(const char *name, void *context) {
  search *s = context;
  size_t bytes, wanted = fuzz_stripped(s->file->bytes, s->file->size);
  if (s->found || strncmp(name, s->file->name, strlen(s->file->name)) != 0 || !strstr(name, ".cut")) return;
  uint8_t *p = fuzz_read(name, &bytes);
  size_t held = fuzz_stripped(p, bytes);
  size_t missing = wanted > s->from ? wanted - s->from : 0;
  s->found = held >= missing && fuzz_stripped(p + missing, held - missing) == 0 &&
             (missing == 0 || memcmp(p, s->file->bytes + s->from, missing) == 0);
  free(p);
}

static bool is_kept(const fuzz_kept *file) {
  size_t bytes, wanted = fuzz_stripped(file->bytes, file->size), same = 0;
  search s = {.file = file};
  uint8_t *p = fuzz_read(file->name, &bytes);
  if (p) { /* how far it is what it was; from a place for a frame on, it may be aside */
    while (same < bytes && same < wanted && p[same] == file->bytes[same]) same++;
    free(p);
    if (same >= wanted) return true;
    s.from = same / PS_ALIGN * PS_ALIGN;
    if (s.from >= PS_SEGMENT_HEADER_BYTES) fuzz_names(look_in_cut, &s);
  }
  s.from = s.found ? s.from : 0;
  if (!s.found) fuzz_names(look_in_cut, &s); /* whole, under another name */
  return s.found;
}

static void check_kept(const fuzz_partition *files) {
  for (size_t i = 0; i < files->count; i++) {
    const fuzz_kept *file = &files->files[i];
    size_t bytes;
    uint8_t *p = NULL;
    switch (file->kind) {
    case FUZZ_SEGMENT:
      FUZZ_CHECK(is_kept(file));
      break;
    case FUZZ_CUT:
    case FUZZ_FOREIGN:
      p = fuzz_read(file->name, &bytes);
      FUZZ_CHECK(p && bytes == file->size + file->zeros && memcmp(p, file->bytes, file->size) == 0);
      free(p);
      break;
    default:
      break;
    }
  }
}

/* ---- what was durable ------------------------------------------------------------------------- */

/* The offset below which the head, if it can be believed, says that all was durable; else -1. */
static int64_t durable_before(const fuzz_partition *files) {
  const fuzz_kept *file = fuzz_partition_last(files, FUZZ_HEAD);
  ps_slot slot;
  struct stat st;
  if (!file || file->size + file->zeros < PS_HEAD_BYTES) return -1;
  _Alignas(8) uint8_t head[PS_HEAD_BYTES] = {0};
  memcpy(head, file->bytes, file->size < sizeof head ? file->size : sizeof head);
  FUZZ_CHECK(stat(fuzz_path("head"), &st) == 0);
  ps_head_identity who = {
      .partition = FUZZ_PARTITION, .device = (uint64_t)st.st_dev, .inode = (uint64_t)st.st_ino};
  memset(who.topic_uuid, FUZZ_UUID_BYTE, 16);
  ps_head_verdict verdict = ps_head_check_identity(head, &who);
  if ((verdict != PS_HEAD_SOUND && verdict != PS_HEAD_MOVED) || !ps_head_read_slot(head, &slot)) return -1;
  int64_t durable = ps_head_durable_checked(head, false);
  return durable < slot.log_end ? durable : slot.log_end;
}

/* A reader for whom nothing may be written. */
static void view(const char *directory, unsigned options, const fuzz_partition *files) {
  ps_log *log;
  int64_t next;
  state s = open_log(directory, -1, options, 0, &log);
  if (s.status == PS_OK) {
    ps_status status = fuzz_read_log(log, s.start, &next);
    FUZZ_CHECK(status != PS_END || next >= s.watermark);
    leave(log, false);
  }
  for (size_t i = 0; i < files->count; i++) {
    const fuzz_kept *file = &files->files[i];
    size_t bytes;
    uint8_t *p = fuzz_read(file->name, &bytes);
    FUZZ_CHECK(p && bytes == file->size + file->zeros && memcmp(p, file->bytes, file->size) == 0);
    free(p);
  }
}

/* `whole`: there is no damage on the way to the end. */
static void append(ps_log *log, bool whole) {
  ps_prepared batch;
  ps_error err = {0};
  int64_t base = -1, next, end = ps_log_end_offset(log);
  if (end > INT64_MAX - 16) return;
  ps_columns columns = {.count = 1, .first_timestamp = 5};
  columns.values = (ps_binary){.data = (const uint8_t *)"after", .bytes = 5, .width = 5};
  columns.keys.width = columns.header_keys.width = columns.header_values.width = -1;
  ps_frame_meta meta;
  ps_frame_meta_init(&meta);
  FUZZ_CHECK(ps_frame_prepare(&columns, &meta, PS_CODEC_NONE, ps_log_frame_bytes_max(log), NULL, 0, &batch,
                              &err) == PS_OK);
  ps_status status = ps_log_append(log, &batch, -1, &base, &err);
  fuzz_check_error(status, &err);
  if (status != PS_OK) return;
  FUZZ_CHECK(base == end && ps_log_high_watermark(log) == end + 1);
  if (whole) FUZZ_CHECK(fuzz_read_log(log, end, &next) == PS_END && next == end + 1);
}

FUZZ_TARGET(recover) {
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1), options = (unsigned)fuzz_take(&in, 1);
  fuzz_partition files;
  fuzz_partition_make(&in, how, &files);
  char directory[512];
  strcpy(directory, fuzz_path(""));
  directory[strlen(directory) - 1] = 0;
  ps_log *log;
  int64_t next, durable = durable_before(&files);
  ps_status read = PS_OK;
  if (options & 4) view(directory, options, &files);
  int locks = fuzz_file(NULL, 0);
  state first = open_log(directory, locks, options, INCARNATION + 1, &log);
  check_kept(&files);
  if (first.status == PS_OK) {
    FUZZ_CHECK(first.end >= durable);
    read = fuzz_read_log(log, first.start, &next);
    FUZZ_CHECK(read != PS_END || next >= first.watermark);
    leave(log, options & 8);
  }
  state second = open_log(directory, locks, options, INCARNATION + 2, &log);
  check_kept(&files);
  FUZZ_CHECK(second.status == first.status);
  if (second.status == PS_OK) {
    FUZZ_CHECK(second.end == first.end && second.start == first.start && second.epoch == first.epoch);
    append(log, read == PS_END);
    leave(log, options & 16);
    state third = open_log(directory, locks, options, INCARNATION + 3, &log);
    FUZZ_CHECK(third.status == PS_OK && third.end >= second.end);
    leave(log, false);
  }
  close(locks);
  fuzz_partition_free(&files);
}
