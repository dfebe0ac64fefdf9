/* Reading while files go, or are replaced by others. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_head.h"
#include "ps_log_internal.h"
#include "ps_retains.h"

static void test_reader_in_what_goes(void) {
  handle h = filled(20), reader = open_with(&plain);
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(reader.log, &cursor, 0, &err), PS_OK);
  CHECK_EQ(ps_cursor_next(reader.log, &cursor, &view, &err), PS_OK);
  ps_segment *lent = view.segment;
  ps_frame_meta meta = view.meta;
  ps_segment_ref(lent);
  ps_retention rule = {PS_TIMESTAMP_NONE, 0, PS_TIMESTAMP_NONE};
  int64_t start = retain(h.log, rule, 64).log_start;
  CHECK_EQ(count_files(".log"), 1);
  CHECK_EQ(ps_cursor_next(reader.log, &cursor, &view, &err), PS_OUT_OF_RANGE);
  CHECK_EQ(err.offset, 10);
  ps_cursor_clear(&cursor);
  /* What was lent stays, and is told of until it comes back. */
  ps_log_stats stats;
  ps_log_get_stats(reader.log, &stats);
  CHECK_EQ(stats.segments, 1);
  CHECK(stats.pinned_bytes > 40000 && stats.lent_bytes >= stats.pinned_bytes);
  CHECK(ps_frame_body_ok(lent->map + PS_SEGMENT_HEADER_BYTES, &meta));
  ps_segment_unref(lent);
  ps_log_get_stats(reader.log, &stats);
  CHECK_EQ(stats.pinned_bytes, 0);
  must_be_out_of_range(reader.log, start - 1);
  CHECK_EQ(read_from(reader.log, start), 200);
  int64_t offset, found;
  CHECK_EQ(ps_log_find_time(reader.log, 0, &offset, &found, &err), PS_OK);
  CHECK_EQ(offset, start);
  close_handle(reader);
  close_handle(h);
}

/* A cursor that stands at the end of a segment finds the next one gone. */
static void test_reader_between_segments(void) {
  handle h = filled(20), reader = open_with(&plain);
  ps_segment_facts *facts;
  CHECK(list_segments(h.log, &facts) >= 5);
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(reader.log, &cursor, 0, &err), PS_OK);
  do CHECK_EQ(ps_cursor_next(reader.log, &cursor, &view, &err), PS_OK);
  while (ps_frame_next_offset(&view.meta) < facts[1].base_offset);
  ps_retention rule = {facts[2].max_timestamp, -1, PS_TIMESTAMP_NONE};
  CHECK_EQ(retain(h.log, rule, 64).log_start, facts[2].base_offset);
  CHECK_EQ(ps_cursor_next(reader.log, &cursor, &view, &err), PS_OUT_OF_RANGE);
  CHECK_EQ(err.offset, facts[1].base_offset);
  free(facts);
  ps_cursor_clear(&cursor);
  close_handle(reader);
  close_handle(h);
}

static void copy_file(const char *from, const char *to) {
  static uint8_t buffer[1 << 20];
  int in = open(from, O_RDONLY), out = open(to, O_RDWR | O_CREAT | O_TRUNC, 0666);
  ssize_t bytes = read(in, buffer, sizeof buffer);
  CHECK(in >= 0 && out >= 0 && bytes > 0 && write(out, buffer, (size_t)bytes) == bytes);
  close(in);
  close(out);
}

/* Two segments become one, as compaction would have it: whoever stands in or before the second goes on in
 * the merged one. */
static void test_reader_in_what_is_merged(void) {
  for (int place = 0; place < 3; place++) {
    handle h = filled(20), reader = open_with(&plain);
    ps_segment_facts *facts;
    CHECK(list_segments(h.log, &facts) >= 5);
    ps_cursor cursor;
    ps_frame_view view;
    ps_error err = {0};
    int64_t stands = place == 0 ? 0 : place == 1 ? facts[1].base_offset : facts[1].base_offset + 10;
    ps_cursor_init(&cursor);
    CHECK_EQ(ps_cursor_seek(reader.log, &cursor, stands, &err), PS_OK);
    CHECK_EQ(ps_cursor_next(reader.log, &cursor, &view, &err), PS_OK);
    /* The records of both behind one header: a header and a seal for the larger file, frames placed anew. */
    char merged[300];
    snprintf(merged, sizeof merged, "%s/merged.tmp", directory);
    uint8_t header[PS_SEGMENT_HEADER_BYTES], seal_bytes[PS_SEAL_BYTES];
    ps_segment_info info = {
        .base_offset = 0, .salt = 77, .partition = 3, .capacity = 4 * PS_SEGMENT_BYTES_MIN};
    memset(info.topic_uuid, 7, 16);
    ps_segment_encode_header(&info, header);
    int out = open(merged, O_RDWR | O_CREAT | O_TRUNC, 0666);
    CHECK(pwrite(out, header, sizeof header, 0) == (ssize_t)sizeof header);
    uint64_t at = sizeof header, frames = 0;
    ps_cursor source;
    ps_cursor_init(&source);
    CHECK_EQ(ps_cursor_seek(h.log, &source, 0, &err), PS_OK);
    while (source.next_offset < facts[2].base_offset) {
      ps_frame_view frame;
      uint8_t frame_header[PS_FRAME_HEADER_BYTES];
      CHECK_EQ(ps_cursor_next(h.log, &source, &frame, &err), PS_OK);
      ps_frame_encode_header(&frame.meta, info.salt, at, frame_header);
      CHECK(pwrite(out, frame_header, sizeof frame_header, (off_t)at) == (ssize_t)sizeof frame_header);
      size_t body = frame.meta.frame_bytes - sizeof frame_header;
      CHECK(pwrite(out, frame.body, body, (off_t)(at + sizeof frame_header)) == (ssize_t)body);
      at += frame.meta.frame_bytes;
      frames++;
    }
    ps_cursor_clear(&source);
    ps_seal seal = {facts[2].base_offset, frames, facts[1].max_timestamp};
    ps_seal_encode(&seal, info.salt, at, seal_bytes);
    CHECK(pwrite(out, seal_bytes, sizeof seal_bytes, (off_t)at) == (ssize_t)sizeof seal_bytes);
    close(out);
    CHECK(rename(merged, segment_path(0)) == 0);
    CHECK(unlink(segment_path(facts[1].base_offset)) == 0);
    if (place == 1) ps_log_files_changed(h.log); /* else nobody has been told yet */
    int64_t next = ps_frame_next_offset(&view.meta);
    ps_status status;
    while ((status = ps_cursor_next(reader.log, &cursor, &view, &err)) == PS_OK) {
      CHECK_EQ(view.meta.base_offset, next);
      next = ps_frame_next_offset(&view.meta);
    }
    CHECK_MSG(status == PS_END, "(%d: %s)", status, err.what);
    CHECK_EQ(next, 200);
    ps_cursor_clear(&cursor);
    CHECK_EQ(read_from(h.log, facts[1].base_offset + 5), 200);
    int64_t offset, found;
    CHECK_EQ(ps_log_find_time(h.log, 1000 + facts[1].base_offset, &offset, &found, &err), PS_OK);
    CHECK_EQ(offset, facts[1].base_offset);
    free(facts);
    must_append(h.log, 10, 100);
    CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
    close_handle(reader);
    close_handle(h);
  }
}

/* A file of the same name that is larger than the one that is open does not stretch that. */
static void test_reader_of_a_replaced_file(void) {
  handle h = filled(20), reader = open_with(&plain);
  ps_segment_facts *facts;
  CHECK(list_segments(h.log, &facts) >= 5);
  CHECK_EQ(read_from(reader.log, 0), 200);
  char aside[300];
  snprintf(aside, sizeof aside, "%s/aside", directory);
  copy_file(segment_path(0), aside);
  CHECK(truncate(aside, 1 << 20) == 0);
  CHECK(rename(aside, segment_path(0)) == 0);
  CHECK_EQ(read_from(reader.log, 0), 200);
  ps_log_files_changed(h.log);
  CHECK_EQ(read_from(reader.log, 0), 200);
  free(facts);
  close_handle(reader);
  close_handle(h);
}

/* What this process stored to last was filled and finished by another, and replaced, while an append here is
 * waiting for that one: whoever reads goes on in the file that is there now. */
static void test_reader_beside_an_append_that_waits(void) {
  uint32_t bytes = segment_bytes;
  char aside[300];
  segment_bytes = 1 << 20;
  fresh_directory();
  incarnation++;
  handle waits = open_with(&plain);
  must_append(waits.log, 10, 100); /* knows the beginning of the file */
  handle h = open_with(&plain);
  while (ps_log_rolls(h.log) == 0) must_append(h.log, 10, 1500);
  int64_t end = ps_log_end_offset(h.log);
  ps_error err;
  CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
  snprintf(aside, sizeof aside, "%s/aside", directory);
  copy_file(segment_path(0), aside);
  CHECK(rename(aside, segment_path(0)) == 0);
  ps_log_files_changed(h.log);
  pthread_mutex_lock(&waits.log->append_mutex);
  CHECK_EQ(read_from(waits.log, 0), end);
  CHECK_EQ(waits.log->ghost_count, 1);
  ps_log_trim(waits.log);
  CHECK_EQ(waits.log->ghost_count, 1);
  pthread_mutex_unlock(&waits.log->append_mutex);
  ps_log_trim(waits.log); /* and the space of the old one is given back though nothing is appended */
  CHECK_EQ(waits.log->ghost_count, 0);
  must_append(waits.log, 10, 100);
  CHECK_EQ(read_from(waits.log, 0), end + 10);
  close_handle(h);
  close_handle(waits);
  segment_bytes = bytes;
}

/* What is stored but not synced keeps the descriptor that hears of it when that fails; what was synced, or
 * is deleted, does not. */
static void test_descriptors_stay_until_a_sync(void) {
  handle h = filled(20), other = open_with(&plain);
  ps_segment_facts *facts;
  CHECK(list_segments(h.log, &facts) >= 5);
  for (int round = 0; round < 2; round++) {
    size_t open = 0;
    ps_log_files_changed(other.log);
    ps_log_trim(h.log);
    for (size_t i = 0; i < h.log->table_count; i++)
      open += h.log->table[i].segment && h.log->table[i].segment->fd >= 0;
    CHECK_EQ(open, round == 0 ? ps_log_rolls(h.log) + 1 : ps_log_rolls(h.log) - 1);
    delete_before(other.log, facts[2].base_offset);
  }
  CHECK(ps_log_durable_offset(h.log) >= facts[2].base_offset); /* nobody has to sync what is deleted */
  free(facts);
  close_handle(other);
  close_handle(h);
}

typedef struct meddler {
  ps_log *other;
  int64_t end;
  bool met;
} meddler;

/* Between a new segment's file and the word that it is the active one, all is deleted. */
static int delete_while_rolling(void *context, const char *name) {
  meddler *m = context;
  if (!m->other || strcmp(name, "roll.created") != 0) return 0;
  ps_log *other = m->other;
  m->other = NULL;
  m->end = ps_log_end_offset(other);
  m->met = true;
  ps_log_files_changed(other); /* so that it reads the directory, and finds both */
  delete_before(other, m->end);
  (void)retain(other, no_rule, 64);
  CHECK_EQ(count_files(".log"), 2); /* the one that is written to, as the head says, and the next */
  return 0;
}

static void test_the_active_segment_stays_while_it_is_left(void) {
  fresh_directory();
  incarnation++;
  handle other = open_with(&plain);
  meddler m = {other.log, -1, false};
  ps_env env = {delete_while_rolling, &m};
  handle h = open_with(&env);
  while (!m.met) must_append(h.log, 10, 1500);
  CHECK_EQ(ps_log_start_offset(h.log), m.end);
  CHECK_EQ(read_from(other.log, m.end), m.end + 10);
  CHECK(retain(other.log, no_rule, 64).files > 0);
  CHECK_EQ(read_from(h.log, m.end), m.end + 10);
  close_handle(h);
  close_handle(other);
}

/* Renamed: every handle that was opened under the earlier name says so. */
static void test_moves(void) {
  handle h = filled(3), other = open_with(&plain);
  ps_error err = {0};
  char path[300];
  uint64_t moved = 1;
  snprintf(path, sizeof path, "%s/head", directory);
  int fd = open(path, O_RDWR);
  CHECK(fd >= 0 && pwrite(fd, &moved, sizeof moved, PS_HEAD_MOVES_OFF) == (ssize_t)sizeof moved);
  close(fd);
  CHECK_EQ(ps_log_check(other.log, &err), PS_DELETED);
  CHECK(strstr(err.what, "renamed") != NULL);
  int64_t base;
  CHECK_EQ(append(other.log, 30, 1, 100, &base, &err), PS_DELETED);
  CHECK_EQ(ps_log_delete_before(other.log, 3, &err), PS_DELETED);
  drop_handle(other);
  drop_handle(h);
  h = open_with(&plain);
  CHECK_EQ(read_from(h.log, 0), 30);
  close_handle(h);
}

int main(void) {
  for (int by_call = 0; by_call < 2; by_call++) {
    io = by_call ? PS_IO_PWRITE : PS_IO_MAP;
    RUN(test_reader_in_what_goes);
    RUN(test_reader_between_segments);
    RUN(test_reader_in_what_is_merged);
    RUN(test_reader_of_a_replaced_file);
    RUN(test_reader_beside_an_append_that_waits);
    RUN(test_descriptors_stay_until_a_sync);
    RUN(test_the_active_segment_stays_while_it_is_left);
    RUN(test_moves);
  }
  return 0;
}
