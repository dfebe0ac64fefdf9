/* One partition through its whole life: append, roll, read, seek, reopen, and the death of a writer at every named
 * point, with both ways of storing. Each record's value is its own number, so that whatever is read can be checked
 * without a model. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ps_log.h"
#include "ps_test.h"

static const ps_env plain = {0};
static uint64_t incarnation = 1;
static ps_io io = PS_IO_MAP;
static ps_durability durability = PS_DURABILITY_INTERVAL;
static char directory[256];
static int serial;

static void fresh_directory(void) {
  snprintf(directory, sizeof directory, "partition-%d-%d", (int)getpid(), serial++);
  CHECK(mkdir(directory, 0777) == 0);
}

typedef struct handle {
  ps_log *log;
  int locks;
} handle;

static ps_status try_open(const ps_env *env, handle *h, ps_error *err) {
  char path[300];
  snprintf(path, sizeof path, "%s/locks", directory);
  h->locks = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  CHECK(h->locks >= 0);
  ps_log_options options = {.partition = 3,
                            .segment_bytes = PS_SEGMENT_BYTES_MIN,
                            .index_interval_bytes = 1024,
                            .durability = durability,
                            .io = io,
                            .incarnation = incarnation};
  memset(options.topic_uuid, 7, 16);
  ps_status status = ps_log_open(env, directory, h->locks, &options, true, &h->log, err);
  if (status != PS_OK) close(h->locks);
  return status;
}

static handle open_with(const ps_env *env) {
  handle h;
  ps_error err = {0};
  ps_status status = try_open(env, &h, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s, errno %d, %s)", status, err.what, err.os_errno, err.path);
  return h;
}

static void close_handle(handle h) {
  ps_error err;
  CHECK_EQ(ps_log_close(h.log, &err), PS_OK);
  ps_log_free(h.log);
  close(h.locks);
}

/* As if the process had died: nothing is synced, the locks go. */
static void drop_handle(handle h) {
  ps_log_after_fork(h.log);
  ps_log_free(h.log);
  close(h.locks);
}

/* Values are padded to `width` bytes; the first 8 hold the offset the record is expected to get. */
static ps_status append(ps_log *log, int64_t first, uint32_t count, uint32_t width, int64_t *base, ps_error *err) {
  uint8_t *data = exactly((size_t)count * width);
  for (uint32_t i = 0; i < count; i++) ps_store_i64(data + (size_t)i * width, first + i);
  ps_columns columns = {.count = count, .first_timestamp = 1000 + first};
  columns.values = (ps_binary){.data = data, .bytes = count * width, .width = (int32_t)width};
  columns.keys.width = columns.header_keys.width = columns.header_values.width = -1;
  ps_frame_meta meta;
  ps_prepared batch;
  ps_frame_meta_init(&meta);
  ps_status status = ps_frame_prepare(&columns, &meta, PS_CODEC_NONE, ps_log_frame_bytes_max(log), NULL, 0, &batch, err);
  if (status == PS_OK) status = ps_log_append(log, &batch, -1, base, err);
  free(data);
  return status;
}

static void must_append(ps_log *log, uint32_t count, uint32_t width) {
  ps_error err = {0};
  int64_t base, first = ps_log_end_offset(log);
  ps_status status = append(log, first, count, width, &base, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s, errno %d)", status, err.what, err.os_errno);
  CHECK_EQ(base, first);
}

/* Make the log mend what a dead writer left, at the price of one offset that no record has. */
static void append_empty(ps_log *log) {
  ps_prepared batch;
  int64_t base;
  ps_error err = {0};
  ps_frame_prepare_empty(1, &batch);
  CHECK_EQ(ps_log_append(log, &batch, -1, &base, &err), PS_OK);
}

/* Read everything from `offset`; returns the offset after the last record. */
static int64_t read_from(ps_log *log, int64_t offset) {
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(log, &cursor, offset, &err), PS_OK);
  ps_status status;
  int64_t next = -1;
  while ((status = ps_cursor_next(log, &cursor, &view, &err)) == PS_OK) {
    ps_columns columns;
    CHECK_EQ(ps_frame_columns(&view.meta, view.body, view.meta.raw_bytes, &columns), PS_OK);
    CHECK(next < 0 ? view.meta.base_offset <= offset && offset < ps_frame_next_offset(&view.meta)
                   : view.meta.base_offset == next);
    for (uint32_t i = 0; i < columns.count; i++)
      CHECK_EQ(ps_load_i64(columns.values.data + (size_t)i * (size_t)columns.values.width), view.meta.base_offset + i);
    next = ps_frame_next_offset(&view.meta);
  }
  CHECK_MSG(status == PS_END, "(%d: %s)", status, err.what);
  ps_cursor_clear(&cursor);
  return next < 0 ? offset : next;
}

static void check_all(ps_log *log, int64_t at_least) {
  int64_t end = ps_log_high_watermark(log);
  CHECK_MSG(end >= at_least, "(%" PRId64 " >= %" PRId64 ")", end, at_least);
  CHECK_EQ(ps_log_end_offset(log), end);
  CHECK_EQ(read_from(log, 0), end);
}

static void test_append_roll_read(void) {
  fresh_directory();
  handle h = open_with(&plain);
  CHECK_EQ(ps_log_end_offset(h.log), 0);
  CHECK_EQ(read_from(h.log, 0), 0);
  for (int i = 0; i < 300; i++) must_append(h.log, 1 + random_below(40), 8 + random_below(40));
  int64_t end = ps_log_end_offset(h.log);
  ps_log_stats stats;
  ps_log_get_stats(h.log, &stats);
  CHECK(stats.segments > 3 && stats.rolls == stats.segments - 1);
  CHECK_EQ(stats.appended_records, end);
  for (int64_t offset = 0; offset <= end; offset += 1 + random_below(60)) CHECK_EQ(read_from(h.log, offset), end);
  CHECK_EQ(read_from(h.log, end), end);
  ps_cursor cursor;
  ps_error err;
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(h.log, &cursor, end + 1, &err), PS_OUT_OF_RANGE);
  CHECK_EQ(ps_cursor_seek(h.log, &cursor, -1, &err), PS_OUT_OF_RANGE);
  CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
  CHECK_EQ(ps_log_durable_offset(h.log), end);
  CHECK(!ps_log_is_dirty(h.log));
  close_handle(h);
}

static void test_largest_batch(void) {
  fresh_directory();
  handle h = open_with(&plain);
  uint32_t room = ps_log_frame_bytes_max(h.log) - PS_FRAME_HEADER_BYTES;
  int64_t base;
  ps_error err;
  must_append(h.log, 1, room);
  CHECK_EQ(append(h.log, 1, 1, room + 1, &base, &err), PS_TOO_LARGE);
  CHECK_EQ(ps_log_end_offset(h.log), 1);
  must_append(h.log, 1, room); /* rolls */
  check_all(h.log, 2);
  close_handle(h);
}

static void test_reopen(void) {
  fresh_directory();
  for (int life = 0; life < 8; life++, incarnation++) {
    handle h = open_with(&plain);
    check_all(h.log, 0);
    int64_t end = ps_log_end_offset(h.log);
    CHECK_EQ(ps_log_leader_epoch(h.log), 0); /* nothing was torn, so nothing is cut */
    for (int i = 0; i < 30; i++) must_append(h.log, 5, 100);
    if (life % 3 == 2)
      drop_handle(h);
    else
      close_handle(h);
    h = open_with(&plain); /* the same incarnation: another process is there */
    check_all(h.log, end + 150);
    close_handle(h);
  }
}

static void test_find_time(void) {
  fresh_directory();
  handle h = open_with(&plain);
  int64_t offset, found;
  ps_error err;
  CHECK_EQ(ps_log_find_time(h.log, 0, &offset, &found, &err), PS_END);
  int64_t starts[400];
  for (int i = 0; i < 400; i++) {
    starts[i] = ps_log_end_offset(h.log);
    must_append(h.log, 1 + random_below(9), 64); /* the whole batch at 1000 + its first offset */
  }
  for (int i = 1; i < 400; i++) {
    CHECK_EQ(ps_log_find_time(h.log, 1000 + starts[i], &offset, &found, &err), PS_OK);
    CHECK_EQ(offset, starts[i]);
    CHECK_EQ(ps_log_find_time(h.log, 1000 + starts[i - 1] + 1, &offset, &found, &err), PS_OK);
    CHECK_EQ(offset, starts[i]);
    CHECK_EQ(found, 1000 + starts[i]);
  }
  CHECK_EQ(ps_log_find_time(h.log, 1000 + starts[399] + 1, &offset, &found, &err), PS_END);
  close_handle(h);
}

/* Run a child that appends until the plan kills it, telling each acknowledged offset through a pipe. Returns the
 * first offset that was not acknowledged. */
static int64_t run_doomed(const char *plan_text, int64_t known, bool *died) {
  int pipes[2];
  CHECK(pipe(pipes) == 0);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    ps_fault_plan plan;
    close(pipes[0]);
    if (!ps_fault_parse(plan_text, &plan)) _exit(9);
    ps_env env = {ps_fault_hook, &plan};
    handle h = open_with(&env);
    for (int i = 0; i < 120; i++) {
      must_append(h.log, 3, 500);
      int64_t end = ps_log_end_offset(h.log);
      if (write(pipes[1], &end, sizeof end) != sizeof end) _exit(8);
    }
    ps_error err;
    ps_log_prepare_next(h.log);
    if (ps_log_sync(h.log, &err) != PS_OK) _exit(7);
    _exit(0);
  }
  close(pipes[1]);
  int64_t end;
  while (read(pipes[0], &end, sizeof end) == sizeof end) known = end;
  close(pipes[0]);
  int status;
  CHECK(waitpid(pid, &status, 0) == pid);
  *died = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  CHECK_MSG(*died || (WIFEXITED(status) && WEXITSTATUS(status) == 0), "(status %x)", (unsigned)status);
  return known;
}

static const char *const append_points[] = {
    "append.begun", "append.body",    "append.zeroed",   "append.header", "append.log_end", "append.published",
    "append.indexed", "append.even",  "roll.seal",       "roll.sealed",   "segment.header", "segment.renamed",
    "roll.created", "roll.moved",     "roll.cut",        "allocate",      "rename",         "truncate",
    "pwrite",       "map",            "openat",          "sync",          "prepare.created"};

static void test_death_of_a_writer(void) {
  int deaths = 0;
  for (size_t i = 0; i < sizeof append_points / sizeof *append_points; i++) {
    for (int nth = 1; nth <= 3; nth++) {
      char plan[80];
      bool died;
      snprintf(plan, sizeof plan, "%s:%d:kill", append_points[i], nth);
      fresh_directory();
      incarnation++;
      handle h = open_with(&plain); /* stays open: the next writer mends, in the same incarnation */
      must_append(h.log, 2, 300);
      int64_t known = run_doomed(plan, ps_log_end_offset(h.log), &died);
      deaths += died;
      CHECK(ps_log_high_watermark(h.log) >= known);
      CHECK_EQ(read_from(h.log, 0), ps_log_high_watermark(h.log)); /* before any mending */
      append_empty(h.log);
      must_append(h.log, 1, 300);
      check_all(h.log, known + 2);
      drop_handle(h);
      incarnation++; /* and now nobody is left: the next opener recovers */
      h = open_with(&plain);
      check_all(h.log, known + 2);
      must_append(h.log, 4, 200);
      check_all(h.log, known + 6);
      close_handle(h);
    }
  }
  CHECK_MSG(deaths >= 40, "(%d deaths)", deaths);
}

/* Death with nobody else there: the next opener is alone and recovers. Then death in that recovery too. */
static void test_death_and_recovery(void) {
  static const char *const recovery_points[] = {"recover.epoch", "recover.save",   "recover.aside",  "recover.seal",
                                                "recover.create", "segment.header", "segment.renamed", "sync_dir"};
  for (size_t i = 0; i < 9; i++) {
    for (size_t j = 0; j < sizeof recovery_points / sizeof *recovery_points; j++) {
      char plan[80];
      bool died;
      fresh_directory();
      incarnation++;
      snprintf(plan, sizeof plan, "%s:%d:kill", append_points[i], 5);
      int64_t known = run_doomed(plan, 0, &died);
      CHECK(died || i >= 8 || io == PS_IO_PWRITE);
      incarnation++;
      snprintf(plan, sizeof plan, "%s:1:kill", recovery_points[j]);
      known = run_doomed(plan, known, &died);
      incarnation++;
      handle h = open_with(&plain);
      check_all(h.log, known);
      int64_t end = ps_log_end_offset(h.log);
      int32_t epoch = ps_log_leader_epoch(h.log);
      drop_handle(h);
      incarnation++;
      h = open_with(&plain); /* a second recovery changes nothing */
      CHECK_EQ(ps_log_end_offset(h.log), end);
      CHECK_EQ(ps_log_leader_epoch(h.log), epoch);
      check_all(h.log, end);
      close_handle(h);
    }
  }
}

static char *segment_path(int64_t base) {
  static char path[320];
  char name[PS_SEGMENT_NAME_BYTES];
  ps_segment_name(base, name);
  snprintf(path, sizeof path, "%s/%s", directory, name);
  return path;
}

static void flip(const char *path, int64_t at) {
  int fd = open(path, O_RDWR);
  uint8_t byte;
  CHECK(fd >= 0 && pread(fd, &byte, 1, at) == 1);
  byte ^= 1u << random_below(8);
  CHECK(pwrite(fd, &byte, 1, at) == 1);
  close(fd);
}

static void zero(const char *path, int64_t at, size_t bytes) {
  int fd = open(path, O_RDWR);
  uint8_t *p = exactly(bytes);
  CHECK(fd >= 0 && pwrite(fd, p, bytes, at) == (ssize_t)bytes);
  free(p);
  close(fd);
}

/* A tail that was never synced is lost: the log ends before it, in a new segment with a higher epoch. */
static void test_torn_tail(void) {
  for (int round = 0; round < 20; round++) {
    fresh_directory();
    incarnation++;
    handle h = open_with(&plain);
    must_append(h.log, 10, 100);
    ps_error err;
    CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
    int64_t lost_at = PS_SEGMENT_HEADER_BYTES + PS_FRAME_HEADER_BYTES + (int64_t)ps_align_up(1000, PS_ALIGN);
    for (int i = 0; i < 5; i++) must_append(h.log, 10, 100);
    drop_handle(h);
    bool first_frame = round % 2;
    if (first_frame)
      zero(segment_path(0), lost_at, 64); /* the page with the first header never reached the disk */
    else
      flip(segment_path(0), lost_at + random_below(1200));
    incarnation++;
    h = open_with(&plain);
    CHECK_EQ(ps_log_end_offset(h.log), 10);
    CHECK_EQ(ps_log_leader_epoch(h.log), 1);
    CHECK(access(segment_path(10), F_OK) == 0);
    char kept[400];
    snprintf(kept, sizeof kept, "%s.%010d.cut", segment_path(0), 1);
    CHECK(access(kept, F_OK) == 0);
    must_append(h.log, 10, 100);
    check_all(h.log, 20);
    drop_handle(h);
    incarnation++;
    h = open_with(&plain); /* frames beyond the cut stay dead */
    CHECK_EQ(ps_log_end_offset(h.log), 20);
    CHECK_EQ(ps_log_leader_epoch(h.log), 1);
    check_all(h.log, 20);
    close_handle(h);
  }
}

/* Damage below a durable offset is reported and never cut, and what is sound beyond it stays readable. */
static void test_damage(void) {
  for (int round = 0; round < 40; round++) {
    fresh_directory();
    incarnation++;
    handle h = open_with(&plain);
    for (int i = 0; i < 10; i++) must_append(h.log, 10, 100);
    ps_error err;
    CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
    for (int i = 0; i < 3; i++) must_append(h.log, 10, 100);
    if (round % 2)
      close_handle(h);
    else
      drop_handle(h);
    uint64_t frame = PS_FRAME_HEADER_BYTES + ps_align_up(1000, PS_ALIGN);
    flip(segment_path(0), PS_SEGMENT_HEADER_BYTES + (int64_t)(4 * frame) + random_below((uint32_t)frame));
    if (round % 5 == 0) {
      char path[300]; /* without a head, too */
      snprintf(path, sizeof path, "%s/head", directory);
      CHECK(unlink(path) == 0);
    }
    incarnation++;
    h = open_with(&plain);
    CHECK_EQ(ps_log_end_offset(h.log), 130);
    ps_cursor cursor;
    ps_frame_view view;
    ps_cursor_init(&cursor);
    CHECK_EQ(ps_cursor_seek(h.log, &cursor, 0, &err), PS_OK);
    for (int i = 0; i < 4; i++) CHECK_EQ(ps_cursor_next(h.log, &cursor, &view, &err), PS_OK);
    CHECK_EQ(ps_cursor_next(h.log, &cursor, &view, &err), PS_CORRUPT);
    CHECK_EQ(err.offset, 40);
    CHECK_EQ(err.position, PS_SEGMENT_HEADER_BYTES + 4 * frame);
    ps_cursor_clear(&cursor);
    must_append(h.log, 10, 100);
    close_handle(h);
  }
}

/* Any one flipped byte of the head: the log comes back whole, or says what is wrong. */
static void test_flipped_head(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < 4; i++) must_append(h.log, 10, 100);
  close_handle(h);
  char path[300];
  snprintf(path, sizeof path, "%s/head", directory);
  for (int at = 0; at < (int)PS_HEAD_WAITERS_OFF + 8; at++) {
    flip(path, at);
    incarnation++;
    ps_error err;
    if (try_open(&plain, &h, &err) != PS_OK) {
      CHECK(err.what[0] != 0);
      continue;
    }
    bool deleted = ps_log_check(h.log, &err) == PS_DELETED;
    CHECK(!deleted);
    CHECK_EQ(ps_log_end_offset(h.log), 40);
    check_all(h.log, 40);
    close_handle(h);
  }
}

static void test_lost_head_and_index(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < 200; i++) must_append(h.log, 10, 100);
  close_handle(h);
  char command[400];
  snprintf(command, sizeof command, "cd %s && rm -f head epochs [0-9]*.index", directory);
  CHECK(system(command) == 0);
  incarnation++;
  h = open_with(&plain);
  check_all(h.log, 2000);
  for (int64_t offset = 0; offset <= 2000; offset += 37) CHECK_EQ(read_from(h.log, offset), 2000);
  must_append(h.log, 1, 100);
  close_handle(h);
}

/* After a failed sync nothing is acknowledged any more; reopening writes what was not durable anew. */
static void test_poison(void) {
  fresh_directory();
  incarnation++;
  ps_fault_plan plan;
  CHECK(ps_fault_parse("sync:3:errno=5", &plan));
  ps_env env = {ps_fault_hook, &plan};
  handle h = open_with(&env); /* one sync: epochs */
  handle other = open_with(&plain);
  ps_error err;
  must_append(h.log, 10, 100);
  CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
  for (int i = 0; i < 100; i++) must_append(h.log, 10, 100);
  CHECK_EQ(ps_log_sync(h.log, &err), PS_OS_ERROR);
  CHECK_EQ(err.os_errno, EIO);
  int64_t base;
  CHECK_EQ(append(h.log, 1010, 1, 100, &base, &err), PS_POISONED);
  CHECK_EQ(append(other.log, 1010, 1, 100, &base, &err), PS_POISONED);
  CHECK_EQ(err.os_errno, EIO);
  CHECK_EQ(ps_log_sync(other.log, &err), PS_POISONED);
  CHECK_EQ(read_from(other.log, 0), 1010); /* it can be read */
  drop_handle(h);
  drop_handle(other);
  struct stat before, after;
  CHECK(stat(segment_path(0), &before) == 0);
  incarnation++;
  h = open_with(&plain);
  CHECK(stat(segment_path(0), &after) == 0);
  CHECK(before.st_ino != after.st_ino);
  CHECK_EQ(ps_log_durable_offset(h.log), 1010);
  check_all(h.log, 1010);
  must_append(h.log, 10, 100);
  check_all(h.log, 1020);
  close_handle(h);
}

/* Every system call of an append and a roll fails once: an error, or none; then all goes on as if it had not. */
static void test_failing_calls(void) {
  static const int errnos[] = {ENOSPC, EMFILE, ENOMEM, EIO};
  for (size_t e = 0; e < sizeof errnos / sizeof *errnos; e++) {
    for (int nth = 1; nth < 60; nth++) {
      char text[80];
      fresh_directory();
      incarnation++;
      handle h = open_with(&plain);
      must_append(h.log, 1, 100);
      close_handle(h);
      ps_fault_plan plan;
      snprintf(text, sizeof text, "*:%d:errno=%d", nth, errnos[e]);
      CHECK(ps_fault_parse(text, &plan));
      ps_env env = {ps_fault_hook, &plan};
      ps_error err;
      int64_t end = 1, base;
      if (try_open(&env, &h, &err) != PS_OK) continue;
      bool poisoned = false;
      for (int i = 0; i < 40; i++) {
        ps_status status = append(h.log, end, 5, 500, &base, &err);
        poisoned = poisoned || status == PS_POISONED;
        CHECK(status == PS_OK || status == PS_OS_ERROR || status == PS_NO_MEMORY || status == PS_POISONED);
        if (status == PS_OK) end += 5;
        CHECK_EQ(ps_log_high_watermark(h.log), end);
      }
      CHECK(end == 201 || (end >= 196 && !poisoned) || poisoned);
      CHECK_EQ(read_from(h.log, 0), end);
      drop_handle(h);
      incarnation++;
      h = open_with(&plain);
      check_all(h.log, end);
      close_handle(h);
    }
  }
}

static void everything(void) {
  RUN(test_append_roll_read);
  RUN(test_largest_batch);
  RUN(test_reopen);
  RUN(test_find_time);
  RUN(test_death_of_a_writer);
  RUN(test_death_and_recovery);
  RUN(test_torn_tail);
  RUN(test_damage);
  RUN(test_flipped_head);
  RUN(test_lost_head_and_index);
  RUN(test_poison);
  RUN(test_failing_calls);
}

int main(void) {
  everything();
  io = PS_IO_PWRITE;
  everything();
  io = PS_IO_MAP;
  durability = PS_DURABILITY_SYNC;
  RUN(test_append_roll_read);
  RUN(test_reopen);
  return 0;
}
