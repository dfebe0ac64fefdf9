/* A log whose options are changed while it is used: what acts at once, what from the next segment, and that
 * nobody who appends meanwhile notices anything else. */
#include <pthread.h>

#include "ps_head.h"
#include "ps_logs.h"

#define SMALL PS_SEGMENT_BYTES_MIN

static ps_log_alterable usual(void) {
  return (ps_log_alterable){
      .segment_bytes = SMALL, .index_interval_bytes = 1024, .durability = PS_DURABILITY_INTERVAL};
}

static handle begin_log(void) {
  fresh_directory();
  return open_with(&plain);
}

/* How large the segment with this base was made: its header says it. */
static uint32_t capacity_of(int64_t base) {
  uint8_t header[PS_SEGMENT_HEADER_BYTES];
  ps_segment_info info;
  int fd = open(segment_path(base), O_RDONLY);
  CHECK(fd >= 0 && pread(fd, header, sizeof header, 0) == (ssize_t)sizeof header);
  close(fd);
  CHECK_EQ(ps_segment_decode_header(header, sizeof header, &info), PS_OK);
  return info.capacity;
}

static int64_t active_base(ps_log *log) {
  ps_slot slot;
  ps_log_stats stats;
  ps_log_get_stats(log, &stats);
  char path[300];
  _Alignas(8) uint8_t head[PS_HEAD_BYTES];
  snprintf(path, sizeof path, "%s/head", directory);
  int fd = open(path, O_RDONLY);
  CHECK(fd >= 0 && pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head);
  close(fd);
  CHECK(ps_head_read_slot(head, &slot));
  return slot.segment;
}

static int64_t fill_to_the_next(ps_log *log) {
  int64_t before = active_base(log), now;
  while ((now = active_base(log)) == before) must_append(log, 4, 1000);
  return now;
}

static void segments_are_as_large_as_is_said(void) {
  handle h = begin_log();
  ps_log_alterable options = usual();
  must_append(h.log, 1, 100);
  CHECK_EQ(capacity_of(0), SMALL);
  options.segment_bytes = 2 * SMALL;
  ps_log_set_options(h.log, &options);
  CHECK_EQ(capacity_of(0), SMALL); /* the one there is stays as it is */
  int64_t second = fill_to_the_next(h.log);
  CHECK_EQ(capacity_of(second), 2 * SMALL);
  options.segment_bytes = SMALL;
  ps_log_set_options(h.log, &options);
  int64_t third = fill_to_the_next(h.log);
  CHECK_EQ(capacity_of(third), SMALL);
  check_all(h.log, third);
  close_handle(h);
  h = open_with(&plain);
  check_all(h.log, third);
  close_handle(h);
}

/* A frame of so many bytes, prepared as large as the log allows just now. */
static ps_status prepare(ps_log *log, uint32_t frame_bytes, uint8_t *data, ps_prepared *batch) {
  ps_error err = {0};
  ps_frame_meta meta;
  uint32_t bytes = frame_bytes - PS_FRAME_HEADER_BYTES;
  ps_columns columns = {.count = 1, .first_timestamp = 1000};
  columns.values = (ps_binary){.data = data, .bytes = bytes, .width = (int32_t)bytes};
  columns.keys.width = columns.header_keys.width = columns.header_values.width = -1;
  ps_store_i64(data, ps_log_end_offset(log));
  ps_frame_meta_init(&meta);
  return ps_frame_prepare(&columns, &meta, PS_CODEC_NONE, ps_log_frame_bytes_max(log), NULL, 0, batch, &err);
}

static void batches_have_their_limit(void) {
  handle h = begin_log();
  ps_prepared batch;
  uint8_t *data = exactly(2 * SMALL);
  ps_error err = {0};
  int64_t base;
  uint32_t whole = ps_log_frame_bytes_max(h.log);
  CHECK_EQ(whole, PS_FRAME_BYTES_MAX(SMALL));
  CHECK_EQ(prepare(h.log, whole + PS_ALIGN, data, &batch), PS_TOO_LARGE);
  ps_log_alterable options = usual();
  options.message_bytes_max = 4096;
  ps_log_set_options(h.log, &options);
  CHECK_EQ(ps_log_frame_bytes_max(h.log), 4096);
  CHECK_EQ(prepare(h.log, 4096 + PS_ALIGN, data, &batch), PS_TOO_LARGE);
  CHECK_EQ(prepare(h.log, 4096 - PS_ALIGN, data, &batch), PS_OK);
  CHECK_EQ(prepare(h.log, 4096, data, &batch), PS_OK);
  CHECK_EQ(batch.meta.frame_bytes, 4096);
  CHECK_EQ(ps_log_append(h.log, &batch, -1, &base, &err), PS_OK);
  options.message_bytes_max = 0;
  ps_log_set_options(h.log, &options);
  CHECK_EQ(ps_log_frame_bytes_max(h.log), whole);
  check_all(h.log, 1);
  free(data);
  close_handle(h);
}

/* Prepared while segments were large, appended when they are small again: the next one is made to hold it. */
static void a_batch_of_before_is_taken(void) {
  handle h = begin_log();
  ps_prepared batch;
  uint8_t *data = exactly(4 * SMALL);
  ps_error err = {0};
  int64_t base;
  ps_log_alterable options = usual();
  must_append(h.log, 1, 100);
  options.segment_bytes = 4 * SMALL;
  ps_log_set_options(h.log, &options);
  CHECK_EQ(prepare(h.log, 3 * SMALL, data, &batch), PS_OK);
  options.segment_bytes = SMALL;
  options.message_bytes_max = 4096;
  ps_log_set_options(h.log, &options);
  ps_status status = ps_log_append(h.log, &batch, -1, &base, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s)", status, err.what);
  CHECK_EQ(base, 1);
  CHECK(capacity_of(1) >= 3 * SMALL);
  must_append(h.log, 3, 1000);
  check_all(h.log, 5);
  close_handle(h);
  h = open_with(&plain);
  check_all(h.log, 5);
  free(data);
  close_handle(h);
}

/* A disk that is slow to sync: whoever does waits at the gate. */
typedef struct gate {
  int closed, waiting; /* atomic */
} gate;

static int pass_gate(void *context, const char *verb) {
  gate *g = context;
  if (strcmp(verb, "sync") != 0) return 0;
  __atomic_fetch_add(&g->waiting, 1, __ATOMIC_ACQ_REL);
  while (__atomic_load_n(&g->closed, __ATOMIC_ACQUIRE)) usleep(100);
  return 0;
}

static void *append_three(void *log) {
  ps_error err = {0};
  int64_t base;
  CHECK_EQ(append(log, 0, 3, 100, &base, &err), PS_OK);
  CHECK_EQ(base, 0);
  return NULL;
}

/* In a "sync" topic readers see what is durable. When it is none any more, they see what there is. */
static void what_a_sync_was_to_show_is_shown(void) {
  gate g = {0};
  ps_env slow = {pass_gate, &g};
  ps_log_alterable options = usual();
  ps_error err = {0};
  pthread_t thread;
  fresh_directory();
  durability = PS_DURABILITY_SYNC;
  handle h = open_with(&slow);
  durability = PS_DURABILITY_INTERVAL;
  g = (gate){.closed = 1};
  CHECK(pthread_create(&thread, NULL, append_three, h.log) == 0);
  while (!__atomic_load_n(&g.waiting, __ATOMIC_ACQUIRE)) usleep(100);
  CHECK_EQ(ps_log_end_offset(h.log), 3);
  CHECK_EQ(ps_log_high_watermark(h.log), 0);
  ps_log_set_options(h.log, &options);
  CHECK_EQ(ps_log_high_watermark(h.log), 3);
  CHECK_EQ(read_from(h.log, 0), 3);
  __atomic_store_n(&g.closed, 0, __ATOMIC_RELEASE);
  CHECK(pthread_join(thread, NULL) == 0);
  int64_t base;
  CHECK_EQ(append(h.log, 3, 2, 100, &base, &err), PS_OK);
  CHECK(ps_log_high_watermark(h.log) == 5 && ps_log_durable_offset(h.log) <= 3);
  options.durability = PS_DURABILITY_SYNC;
  ps_log_set_options(h.log, &options);
  CHECK_EQ(ps_log_high_watermark(h.log), 5); /* what was seen stays */
  CHECK_EQ(append(h.log, 5, 1, 100, &base, &err), PS_OK);
  CHECK_EQ(ps_log_durable_offset(h.log), 6);
  check_all(h.log, 6);
  close_handle(h);
}

static void stamps_as_is_said(void) {
  handle h = begin_log();
  ps_log_alterable options = usual();
  CHECK(!ps_log_stamps(h.log));
  options.log_append_time = true;
  ps_log_set_options(h.log, &options);
  CHECK(ps_log_stamps(h.log));
  must_append(h.log, 1, 100);
  int64_t offset, timestamp;
  ps_error err = {0};
  CHECK_EQ(ps_log_find_time(h.log, 1000000, &offset, &timestamp, &err), PS_OK);
  CHECK_EQ(offset, 0);
  CHECK(timestamp > 1000000000000000000); /* the clock's: the batch had said 1000 */
  close_handle(h);
}

typedef struct turning {
  ps_log *log;
  int over; /* atomic */
} turning;

static void *turn(void *argument) {
  turning *t = argument;
  uint64_t seed = 1;
  while (!__atomic_load_n(&t->over, __ATOMIC_ACQUIRE)) {
    ps_log_alterable options = usual();
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    options.segment_bytes = SMALL << (seed >> 40 & 3);
    options.index_interval_bytes = 512u << (seed >> 44 & 3);
    options.durability = seed >> 48 & 1 ? PS_DURABILITY_INTERVAL : PS_DURABILITY_NONE;
    ps_log_set_options(t->log, &options);
    usleep(50);
  }
  return NULL;
}

static void while_others_append(void) {
  handle h = begin_log();
  turning t = {.log = h.log};
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, turn, &t) == 0);
  for (int i = 0; i < 3000; i++) must_append(h.log, 1 + random_below(5), 8 + random_below(900));
  __atomic_store_n(&t.over, 1, __ATOMIC_RELEASE);
  CHECK(pthread_join(thread, NULL) == 0);
  int64_t end = ps_log_end_offset(h.log);
  check_all(h.log, end);
  close_handle(h);
  h = open_with(&plain);
  check_all(h.log, end);
  close_handle(h);
}

int main(void) {
  for (io = PS_IO_MAP; io <= PS_IO_PWRITE; io++) {
    RUN(segments_are_as_large_as_is_said);
    RUN(batches_have_their_limit);
    RUN(a_batch_of_before_is_taken);
    RUN(what_a_sync_was_to_show_is_shown);
    RUN(stamps_as_is_said);
    RUN(while_others_append);
  }
  return 0;
}
