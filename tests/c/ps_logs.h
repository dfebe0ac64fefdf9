/* ps_logs.h - a partition in a directory of its own, for C tests. Each record's value is its own number, so
 * that whatever is read can be checked without a model. */
#ifndef PS_LOGS_H
#define PS_LOGS_H

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
static uint32_t segment_bytes = PS_SEGMENT_BYTES_MIN;
static ps_io io = PS_IO_MAP;
static ps_durability durability = PS_DURABILITY_INTERVAL;
static ps_reserve *reserved_space;
static char directory[256];
static int serial;

__attribute__((unused)) static void fresh_directory(void) {
  snprintf(directory, sizeof directory, "partition-%d-%d", (int)getpid(), serial++);
  CHECK(mkdir(directory, 0777) == 0);
}

typedef struct handle {
  ps_log *log;
  int locks;
} handle;

/* Of the partition of the tests; `reads`: for reading only, without a live file. */
__attribute__((unused)) static ps_log_options options_of(bool reads) {
  ps_log_options options = {.partition = 3,
                            .segment_bytes = segment_bytes,
                            .index_interval_bytes = 1024,
                            .durability = durability,
                            .io = io,
                            .read_only = reads};
  memset(options.topic_uuid, 7, 16);
  if (reads)
    options.live_fd = -1;
  else {
    options.incarnation = incarnation;
    options.reserve = reserved_space;
  }
  return options;
}

__attribute__((unused)) static ps_status try_open(const ps_env *env, handle *h, ps_error *err) {
  char path[300];
  snprintf(path, sizeof path, "%s/locks", directory);
  h->locks = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  CHECK(h->locks >= 0);
  ps_log_options options = options_of(false);
  ps_status status = ps_log_open(env, directory, h->locks, &options, true, &h->log, err);
  if (status != PS_OK) close(h->locks);
  return status;
}

__attribute__((unused)) static handle open_with(const ps_env *env) {
  handle h;
  ps_error err = {0};
  ps_status status = try_open(env, &h, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s, errno %d, %s)", status, err.what, err.os_errno, err.path);
  return h;
}

__attribute__((unused)) static void close_handle(handle h) {
  ps_error err;
  CHECK_EQ(ps_log_close(h.log, &err), PS_OK);
  ps_log_free(h.log);
  close(h.locks);
}

/* As if the process had died: nothing is synced, the locks go. */
__attribute__((unused)) static void drop_handle(handle h) {
  ps_log_after_fork(h.log);
  ps_log_free(h.log);
  close(h.locks);
}

/* Values are padded to `width` bytes; the first 8 hold the offset the record is expected to get. */
__attribute__((unused)) static ps_status append(ps_log *log, int64_t first, uint32_t count, uint32_t width,
                                                int64_t *base, ps_error *err) {
  uint8_t *data = exactly((size_t)count * width);
  for (uint32_t i = 0; i < count; i++) ps_store_i64(data + (size_t)i * width, first + i);
  ps_columns columns = {.count = count, .first_timestamp = 1000 + first};
  columns.values = (ps_binary){.data = data, .bytes = count * width, .width = (int32_t)width};
  columns.keys.width = columns.header_keys.width = columns.header_values.width = -1;
  ps_frame_meta meta;
  ps_prepared batch;
  ps_frame_meta_init(&meta);
  ps_status status =
      ps_frame_prepare(&columns, &meta, PS_CODEC_NONE, ps_log_frame_bytes_max(log), NULL, 0, &batch, err);
  if (status == PS_OK) status = ps_log_append(log, &batch, -1, base, err);
  free(data);
  return status;
}

__attribute__((unused)) static void must_append(ps_log *log, uint32_t count, uint32_t width) {
  ps_error err = {0};
  int64_t base, first = ps_log_end_offset(log);
  ps_status status = append(log, first, count, width, &base, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s, errno %d)", status, err.what, err.os_errno);
  CHECK_EQ(base, first);
}

/* Make the log mend what a dead writer left, at the price of one offset that no record has. */
__attribute__((unused)) static void append_empty(ps_log *log) {
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
      CHECK_EQ(ps_load_i64(columns.values.data + (size_t)i * (size_t)columns.values.width),
               view.meta.base_offset + i);
    next = ps_frame_next_offset(&view.meta);
  }
  CHECK_MSG(status == PS_END, "(%d: %s)", status, err.what);
  ps_cursor_clear(&cursor);
  return next < 0 ? offset : next;
}

__attribute__((unused)) static void check_all(ps_log *log, int64_t at_least) {
  int64_t end = ps_log_high_watermark(log);
  CHECK_MSG(end >= at_least, "(%" PRId64 " >= %" PRId64 ")", end, at_least);
  CHECK_EQ(ps_log_end_offset(log), end);
  CHECK_EQ(read_from(log, 0), end);
}

/* Run a child that appends until the plan kills it, telling each acknowledged offset through a pipe. Returns
 * the first offset that was not acknowledged. */
__attribute__((unused)) static int64_t run_doomed(const char *plan_text, int64_t known, bool *died) {
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

__attribute__((unused)) static const char *const append_points[] = {
    "append.begun",   "append.body", "append.zeroed", "append.header", "append.log_end", "append.published",
    "append.indexed", "append.even", "roll.seal",     "roll.sealed",   "segment.header", "segment.renamed",
    "roll.created",   "roll.moved",  "roll.cut",      "allocate",      "rename",         "truncate",
    "pwrite",         "map",         "openat",        "sync",          "prepare.created"};

__attribute__((unused)) static char *segment_path(int64_t base) {
  static char path[320];
  char name[PS_SEGMENT_NAME_BYTES];
  ps_segment_name(base, name);
  snprintf(path, sizeof path, "%s/%s", directory, name);
  return path;
}

__attribute__((unused)) static char *head_path(void) {
  static char path[320];
  snprintf(path, sizeof path, "%s/head", directory);
  return path;
}

__attribute__((unused)) static void flip(const char *path, int64_t at) {
  int fd = open(path, O_RDWR);
  uint8_t byte;
  CHECK(fd >= 0 && pread(fd, &byte, 1, at) == 1);
  byte ^= 1u << random_below(8);
  CHECK(pwrite(fd, &byte, 1, at) == 1);
  close(fd);
}

__attribute__((unused)) static void overwrite(const char *path, int64_t at, const void *data, size_t bytes) {
  int fd = open(path, O_RDWR);
  CHECK(fd >= 0 && pwrite(fd, data, bytes, at) == (ssize_t)bytes);
  close(fd);
}

__attribute__((unused)) static void zero(const char *path, int64_t at, size_t bytes) {
  uint8_t *p = exactly(bytes);
  overwrite(path, at, p, bytes);
  free(p);
}

#endif
