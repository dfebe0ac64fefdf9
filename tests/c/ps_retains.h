/* ps_retains.h - for C tests of retention: rules, and what they leave. */
#ifndef PS_RETAINS_H
#define PS_RETAINS_H

#include <dirent.h>

#include "ps_logs.h"
#include "ps_retain.h"

static const ps_retention no_rule = {PS_TIMESTAMP_NONE, -1, PS_TIMESTAMP_NONE};

__attribute__((unused)) static int count_files(const char *suffix) {
  DIR *dir = opendir(directory);
  struct dirent *entry;
  int count = 0;
  CHECK(dir != NULL);
  while ((entry = readdir(dir)) != NULL) {
    size_t length = strlen(entry->d_name), end = strlen(suffix);
    count += length > end && strcmp(entry->d_name + length - end, suffix) == 0;
  }
  closedir(dir);
  return count;
}

__attribute__((unused)) static ps_retained retain(ps_log *log, ps_retention rule, uint32_t files_max) {
  ps_retained out;
  ps_error err = {0};
  ps_status status = ps_log_retain(log, &rule, files_max, &out, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s, errno %d, %s)", status, err.what, err.os_errno, err.path);
  return out;
}

__attribute__((unused)) static void delete_before(ps_log *log, int64_t offset) {
  ps_error err = {0};
  ps_status status = ps_log_delete_before(log, offset, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s)", status, err.what);
}

__attribute__((unused)) static size_t list_segments(ps_log *log, ps_segment_facts **facts) {
  size_t count;
  ps_error err = {0};
  CHECK_EQ(ps_log_segments(log, facts, &count, &err), PS_OK);
  return count;
}

/* 20 batches fill five segments or so. */
__attribute__((unused)) static handle filled(int batches) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < batches; i++) must_append(h.log, 10, 1500);
  return h;
}

__attribute__((unused)) static void must_be_out_of_range(ps_log *log, int64_t offset) {
  ps_cursor cursor;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(log, &cursor, offset, &err), PS_OUT_OF_RANGE);
  CHECK_EQ(err.offset, offset);
  CHECK(cursor.segment == NULL);
}

#endif
