/* Appends to an existing partition what nothing in the library writes yet but the format holds: offsets with
 * gaps, frames without records, and every optional field of the frame header.
 *
 *   make_gaps STORE TOPIC UUID_HEX   (the topic has 1 partition and segments of 64 KiB; the store is closed)
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <unistd.h>

#include "ps_log.h"

#define T0 1700000000000000000ll

static const ps_env plain = {0};
static ps_error err;
static ps_log *partition;

static void must(ps_status status, const char *what) {
  if (status == PS_OK) return;
  fprintf(stderr, "%s: status %d, %s, errno %d, %s\n", what, status, err.what, err.os_errno, err.path);
  exit(1);
}

static void append(const ps_columns *columns, const ps_frame_meta *meta, uint32_t codec) {
  static uint8_t scratch[1 << 18];
  ps_prepared batch;
  int64_t base;
  must(ps_frame_prepare(columns, meta, codec, ps_log_frame_bytes_max(partition), scratch, sizeof scratch,
                        &batch, &err),
       "prepare");
  must(ps_log_append(partition, &batch, -1, &base, &err), "append");
}

static void append_empty(uint32_t offsets) {
  ps_prepared batch;
  int64_t base;
  ps_frame_prepare_empty(offsets, &batch);
  must(ps_log_append(partition, &batch, -1, &base, &err), "append an empty frame");
}

/* Values "0", "1", ...; offsets base + deltas; a timestamp each. */
static ps_columns three(const uint32_t *deltas) {
  static const int32_t offsets[] = {0, 1, 2, 3};
  static const int64_t times[] = {T0, T0 - 1, PS_TIMESTAMP_NONE};
  ps_columns c = {.count = 3, .offset_deltas = deltas, .timestamps = times, .first_timestamp = T0};
  c.values = (ps_binary){.offsets = offsets, .data = (const uint8_t *)"012", .bytes = 3, .width = -1};
  c.keys.width = c.header_keys.width = c.header_values.width = -1;
  return c;
}

int main(int argc, char **argv) {
  if (argc != 4 || strlen(argv[3]) != 32) return 2;
  char path[400];
  ps_log_options options = {.segment_bytes = PS_SEGMENT_BYTES_MIN,
                            .index_interval_bytes = 1024,
                            .durability = PS_DURABILITY_INTERVAL,
                            .io = PS_IO_MAP};
  for (int i = 0; i < 16; i++) sscanf(argv[3] + 2 * i, "%2hhx", &options.topic_uuid[i]);
  snprintf(path, sizeof path, "%s/live", argv[1]);
  int live = open(path, O_RDWR | O_CREAT, 0666);
  must(ps_live_enter(&plain, path, live, &options.incarnation, &err), "live");
  snprintf(path, sizeof path, "%s/topics/%s/locks", argv[1], argv[2]);
  int locks = open(path, O_RDWR | O_CREAT, 0666);
  snprintf(path, sizeof path, "%s/topics/%s/0", argv[1], argv[2]);
  must(ps_log_open(&plain, path, locks, &options, true, &partition, &err), "open");

  static const uint32_t gaps[] = {0, 5, 6}, late[] = {2, 3, 9};
  ps_frame_meta meta;
  ps_frame_meta_init(&meta);
  ps_columns columns = three(gaps);
  append(&columns, &meta, PS_CODEC_NONE); /* offsets 0, 5, 6 */
  append_empty(1);                        /* 7 */
  append_empty(10);                       /* 8 .. 17 */

  /* The first record of the frame is gone too, and the frame goes on after its last record: 20, 21, 27 of 18
   * .. 29 */
  columns = three(late);
  meta.last_offset_delta = 11;
  append(&columns, &meta, PS_CODEC_NONE);

  ps_frame_meta_init(&meta); /* every optional field: 30, 31, 32 */
  meta.attributes = PS_ATTR_TRANSACTIONAL | PS_ATTR_DELETE_HORIZON;
  meta.delete_horizon = T0 + 1;
  meta.producer_id = 1ll << 40;
  meta.producer_epoch = 32767;
  meta.base_sequence = 2147483645;
  meta.schema_id = 77;
  for (int i = 0; i < 16; i++) meta.batch_uuid[i] = (uint8_t)(i + 1);
  columns = three(NULL);
  append(&columns, &meta, PS_CODEC_NONE);

  ps_frame_meta_init(&meta); /* a control batch: 33, 34, 35 */
  meta.attributes = PS_ATTR_CONTROL;
  append(&columns, &meta, PS_CODEC_NONE);

  static uint8_t many[3000]; /* gaps in a compressed batch: 36, 38, ... 634 */
  static int32_t offsets[301];
  static uint32_t even[300];
  ps_frame_meta_init(&meta);
  for (uint32_t i = 0; i < 300; i++) {
    even[i] = 2 * i;
    offsets[i + 1] = 10 * (int32_t)(i + 1);
    memset(many + 10 * i, 'a' + (int)(i % 26), 10);
  }
  columns.count = 300;
  columns.offset_deltas = even;
  columns.timestamps = NULL;
  columns.values = (ps_binary){.offsets = offsets, .data = many, .bytes = sizeof many, .width = -1};
  append(&columns, &meta, PS_CODEC_LZ4);
  append_empty(365); /* 635 .. 999: the log ends at 1000 without a record there */
  must(ps_log_close(partition, &err), "close");
  ps_log_free(partition);
  close(locks);
  close(live);
  return 0;
}
