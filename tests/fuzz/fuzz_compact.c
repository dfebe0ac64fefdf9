/* A partition directory of any contents, looked at by those who open no log; then opened by a writer, who
 * compacts it, raises its log start and removes what is below.
 *
 * Whatever was read from a log before can be read after it was compacted: no more, in the same order, up to
 * the same end. */
#include "fuzz.h"
#include "ps_compact.h"
#include "ps_retain.h"
#include "ps_stats.h"
#include "ps_survey.h"

static const ps_env plain = {0};

#define NOW 2000000000000000000
#define STEPS_MAX 100000

/* ---- from outside ----------------------------------------------------------------------------- */

static void survey(const char *directory) {
  ps_survey s;
  ps_error err = {0};
  ps_status status = ps_survey_partition(&plain, directory, &s, &err);
  fuzz_check_error(status, &err);
  if (status != PS_OK) return;
  FUZZ_CHECK(s.segments <= FUZZ_FILES_MAX && (s.first >= 0) == (s.segments > 0));
  FUZZ_CHECK(s.second == -1 || (s.second > s.first && s.segments > 1));
}

static void measure(const char *directory, unsigned options, int64_t offset) {
  ps_stats stats;
  ps_error err = {0};
  ps_stats_init(&stats, &plain, directory);
  ps_stats_wanted wanted = {.exact = options & 1,
                            .compacted = options & 2,
                            .counts_expired = true,
                            .min_timestamp = NOW,
                            .bytes_max = options & 4 ? 1 << 10 : -1};
  for (int i = 0; i < 2; i++) { /* the second time, with what is kept of the first */
    ps_stats_sizes sizes;
    int64_t timestamp;
    ps_status status = ps_stats_measure(&stats, &wanted, &sizes, &err);
    fuzz_check_error(status, &err);
    if (status != PS_OK) break;
    FUZZ_CHECK(sizes.segments <= FUZZ_FILES_MAX && sizes.damaged <= sizes.segments);
    if (stats.identity != PS_SOUND || stats.moved || !stats.has_slot) continue;
    status = ps_stats_timestamp(&stats, i ? offset : sizes.log_start, &timestamp, &err);
    fuzz_check_error(status, &err);
  }
  ps_stats_free(&stats);
}

/* ---- from inside ------------------------------------------------------------------------------ */

typedef struct reading {
  ps_status status;
  int64_t next;
  uint64_t records;
} reading;

static reading read_all(ps_log *log) {
  reading r = {.next = ps_log_start_offset(log)};
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  r.status = ps_cursor_seek(log, &cursor, r.next, &err);
  while (r.status == PS_OK && (r.status = ps_cursor_next(log, &cursor, &view, &err)) == PS_OK) {
    r.records += view.meta.record_count;
    FUZZ_CHECK(ps_frame_next_offset(&view.meta) > r.next);
    r.next = ps_frame_next_offset(&view.meta);
  }
  fuzz_check_error(r.status, &err);
  ps_cursor_clear(&cursor);
  return r;
}

static ps_status compact(ps_log *log, unsigned options) {
  ps_compaction rule = {.now_ns = NOW,
                        .lag_ns = options & 8 ? NOW : 0,
                        .delete_retention_ns = options & 16 ? 0 : NOW / 2,
                        .map_bytes = options & 32 ? 4096 : 1 << 16};
  ps_compactable look;
  ps_compactor *c = NULL;
  ps_error err = {0};
  uint64_t files;
  ps_status status = ps_compact_sweep(log, &files, &err);
  fuzz_check_error(status, &err);
  status = ps_compact_look(log, NOW, rule.lag_ns, &look, &err);
  fuzz_check_error(status, &err);
  if (status != PS_OK) return status;
  FUZZ_CHECK(look.ratio >= 0 && look.ratio <= 1);
  status = ps_compact_begin(log, &rule, &c, &err);
  int steps = 0;
  while (status == PS_OK && (status = ps_compact_step(c, 1 << 12, &err)) == PS_OK)
    FUZZ_CHECK(++steps < STEPS_MAX);
  fuzz_check_error(status, &err);
  if (c) {
    const ps_compacted *done = ps_compact_result(c);
    FUZZ_CHECK(done->segments_after <= done->segments_before &&
               done->cleaned_offset <= ps_log_end_offset(log));
    ps_compact_end(c);
  }
  return status;
}

static void remove_below(ps_log *log, int64_t offset, unsigned options) {
  ps_error err = {0};
  ps_retained out = {0};
  ps_retention rule = {.min_timestamp = options & 64 ? NOW / 2 : PS_TIMESTAMP_NONE,
                       .max_bytes = options & 128 ? 1 << 10 : -1,
                       .roll_before = PS_TIMESTAMP_NONE};
  int64_t start = ps_log_start_offset(log), end = ps_log_end_offset(log);
  ps_status status = ps_log_delete_before(log, offset, &err);
  fuzz_check_error(status, &err);
  FUZZ_CHECK(status != PS_OK || ps_log_start_offset(log) == (offset > start ? offset : start));
  start = ps_log_start_offset(log);
  status = ps_log_retain(log, &rule, 64, &out, &err);
  fuzz_check_error(status, &err);
  FUZZ_CHECK(ps_log_start_offset(log) >= start && ps_log_start_offset(log) <= end);
  FUZZ_CHECK(ps_log_end_offset(log) == end);
}

static void upkeep(ps_log *log, unsigned options, int64_t offset) {
  int64_t end = ps_log_end_offset(log);
  reading before = read_all(log);
  for (int i = 0; i < 2; i++) {
    ps_status status = compact(log, options);
    reading after = read_all(log);
    int64_t next;
    FUZZ_CHECK(fuzz_read_log(log, ps_log_start_offset(log), &next) == after.status && next == after.next);
    FUZZ_CHECK(ps_log_end_offset(log) == end && after.records <= before.records);
    FUZZ_CHECK(after.next >= before.next &&
               (status != PS_END || before.status != PS_END || after.status == PS_END));
  }
  remove_below(log, offset, options);
  reading rest = read_all(log);
  FUZZ_CHECK(before.status != PS_END || rest.status == PS_END);
}

FUZZ_TARGET(compact) {
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1), options = (unsigned)fuzz_take(&in, 1);
  int64_t offset = (int64_t)fuzz_take(&in, 2);
  fuzz_partition files;
  fuzz_partition_make(&in, how, &files);
  char directory[512];
  strcpy(directory, fuzz_path(""));
  directory[strlen(directory) - 1] = 0;
  survey(directory);
  measure(directory, options, offset);
  ps_log_options o = {.partition = FUZZ_PARTITION,
                      .segment_bytes = FUZZ_SEGMENT_BYTES,
                      .index_interval_bytes = 512,
                      .durability = PS_DURABILITY_SYNC,
                      .io = PS_IO_PWRITE,
                      .incarnation = 0x9d2c5680efc60001ull, /* no head has it by chance */
                      .live_fd = -1};
  memset(o.topic_uuid, FUZZ_UUID_BYTE, 16);
  int locks = fuzz_file(NULL, 0);
  ps_error err = {0};
  ps_log *log;
  ps_status status = ps_log_open(&plain, directory, locks, &o, true, &log, &err);
  fuzz_check_error(status, &err);
  if (status == PS_OK) {
    upkeep(log, options, offset);
    survey(directory);
    measure(directory, options, offset);
    (void)ps_log_close(log, &err);
    ps_log_free(log);
  }
  close(locks);
  fuzz_partition_free(&files);
}
