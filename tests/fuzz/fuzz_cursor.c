/* Segments read as a log by a process that has attached to it: nothing is recovered first, the bytes are what
 * they are. Seeks, reads, searches by time; by a handle that may write, and by one that may not. */
#include "fuzz.h"
#include "ps_log.h"

static const ps_env plain = {0};

/* A head that says the log ends at `end`, in the last segment. */
static void attach(const fuzz_partition *files, uint64_t incarnation, int64_t end, int64_t start,
                   uint64_t position) {
  _Alignas(8) uint8_t head[PS_HEAD_BYTES] = {0};
  const fuzz_kept *last = fuzz_partition_last(files, FUZZ_SEGMENT);
  struct stat st;
  fuzz_write("head", head, sizeof head, 0);
  FUZZ_CHECK(stat(fuzz_path("head"), &st) == 0);
  ps_head_identity who = {
      .partition = FUZZ_PARTITION, .device = (uint64_t)st.st_dev, .inode = (uint64_t)st.st_ino};
  memset(who.topic_uuid, FUZZ_UUID_BYTE, 16);
  ps_slot slot = {.sequence = 1,
                  .log_end = last && end < last->base ? last->base : end,
                  .segment = last ? last->base : 0,
                  .position = position,
                  .max_timestamp = PS_TIMESTAMP_NONE};
  ps_head_write_identity(head, &who);
  ps_head_write_slot(head, &slot);
  ps_head_set_log_start(head, start);
  ps_store_u64(head + PS_HEAD_INCARNATION_OFF, incarnation);
  ps_store_i64(head + PS_HEAD_WATERMARK_OFF, slot.log_end);
  ps_store_i64(head + PS_HEAD_LOG_END_OFF, slot.log_end);
  ps_head_raise_durable(head, slot.log_end);
  int fd = open(fuzz_path("head"), O_RDWR); /* the same file: its number is in it */
  FUZZ_CHECK(pwrite(fd, head, sizeof head, 0) == (ssize_t)sizeof head);
  close(fd);
}

static void search(ps_log *log, int64_t moment) {
  ps_error err = {0};
  int64_t offset, found;
  ps_status status = ps_log_find_time(log, moment, &offset, &found, &err);
  fuzz_check_error(status, &err);
  if (status != PS_OK) return;
  FUZZ_CHECK(found >= moment && offset >= ps_log_start_offset(log));
}

static void use(ps_log *log, fuzz_in *in) {
  ps_log_stats stats;
  int64_t next, start = ps_log_start_offset(log), end = ps_log_high_watermark(log);
  ps_status status = fuzz_read_log(log, start, &next);
  FUZZ_CHECK(status != PS_END || next >= end);
  for (int i = 0; i < 5; i++) { /* offsets of the input, and each one near a gap that stopped us */
    int64_t offset = i < 4 ? start + (int64_t)fuzz_take(in, 2) : next + 1;
    status = fuzz_read_log(log, offset, &next);
    FUZZ_CHECK(offset <= end || status == PS_OUT_OF_RANGE);
  }
  search(log, (int64_t)fuzz_take(in, 8));
  search(log, INT64_MIN + 1);
  ps_log_get_stats(log, &stats);
  FUZZ_CHECK(stats.high_watermark == end);
}

FUZZ_TARGET(cursor) {
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1), options = (unsigned)fuzz_take(&in, 1);
  int64_t end = (int64_t)fuzz_take(&in, 2), start = (int64_t)fuzz_take(&in, 1);
  uint64_t position = PS_SEGMENT_HEADER_BYTES + fuzz_take(&in, 2) * PS_ALIGN;
  size_t asked = 16;
  fuzz_in questions = {.p = fuzz_bytes(&in, &asked)};
  questions.end = questions.p + asked;
  fuzz_partition files;
  fuzz_partition_make(&in, how, &files);
  uint64_t incarnation = 1;
  char path[512];
  ps_error err = {0};
  fuzz_write("alive", NULL, 0, 0);
  strcpy(path, fuzz_path("alive"));
  int live = open(path, O_RDWR), look = open(path, O_RDONLY);
  if (options & 4) /* a writer is there, whom a reader follows */
    FUZZ_CHECK(ps_live_enter(&plain, path, live, &incarnation, &err) == PS_OK);
  attach(&files, incarnation, end, start, position);
  ps_log_options log_options = {.partition = FUZZ_PARTITION,
                                .segment_bytes = FUZZ_SEGMENT_BYTES,
                                .index_interval_bytes = 1024,
                                .durability = PS_DURABILITY_NONE,
                                .io = options & 1 ? PS_IO_PWRITE : PS_IO_MAP,
                                .incarnation = options & 2 ? 0 : incarnation,
                                .read_only = options & 2,
                                .live_fd = look};
  memset(log_options.topic_uuid, FUZZ_UUID_BYTE, 16);
  char directory[512];
  strcpy(directory, fuzz_path(""));
  directory[strlen(directory) - 1] = 0;
  int locks = fuzz_file(NULL, 0);
  ps_log *log;
  ps_status status = ps_log_open(&plain, directory, locks, &log_options, false, &log, &err);
  fuzz_check_error(status, &err);
  FUZZ_CHECK(status == PS_OK || log_options.read_only); /* it was attached to before */
  if (status == PS_OK) {
    use(log, &questions);
    (void)ps_log_close(log, &err);
    ps_log_free(log);
  }
  close(locks);
  close(live);
  close(look);
  fuzz_partition_free(&files);
}
