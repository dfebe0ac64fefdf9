/* The n-th call through the seam fails, for n = 1, 2, ... until none does, with each errno; once, or all from
 * there on. Whatever a partition is asked for then answers, with the errno and a path; never wrongly; and
 * when the fault is gone, all that was acknowledged is there and it goes on. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>

#include "ps_log_internal.h"
#include "ps_logs.h"

static ps_fault_plan plan;
static const ps_env failing = {ps_fault_hook, &plan};
static int64_t calls_failed;

/* What a status may be while calls fail. */
static bool is_fair(ps_status status, const ps_error *err) {
  if (status == PS_OK || status == PS_END) return true;
  CHECK_MSG(status == PS_OS_ERROR || status == PS_POISONED, "(%d: %s, %s; %s:%d)", status, err->what,
            err->path, plan.name, (int)plan.nth);
  CHECK_EQ(err->os_errno, plan.os_errno);
  CHECK_MSG(err->path[0] != 0 && err->what[0] != 0, "(%s, %s)", err->what, err->path);
  return true;
}

static void read_what_can_be(ps_log *log) {
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  int64_t next = 0, offset, found;
  ps_cursor_init(&cursor);
  ps_status status = ps_cursor_seek(log, &cursor, 0, &err);
  CHECK(is_fair(status, &err));
  while (status == PS_OK && (status = ps_cursor_next(log, &cursor, &view, &err)) == PS_OK) {
    ps_columns columns;
    CHECK_EQ(ps_frame_columns(&view.meta, view.body, view.meta.raw_bytes, &columns), PS_OK);
    CHECK_EQ(view.meta.base_offset, next);
    for (uint32_t i = 0; i < columns.count; i++)
      CHECK_EQ(ps_load_i64(columns.values.data + (size_t)i * (size_t)columns.values.width), next + i);
    next = ps_frame_next_offset(&view.meta);
  }
  CHECK(is_fair(status, &err));
  if (status == PS_END) CHECK_EQ(next, ps_log_high_watermark(log));
  ps_cursor_clear(&cursor);
  status = ps_log_find_time(log, 1000 + next / 2, &offset, &found, &err);
  CHECK(is_fair(status, &err));
  if (status == PS_OK) CHECK_EQ(offset, next / 2 / 5 * 5 == next / 2 ? next / 2 : (next / 2 / 5 + 1) * 5);
}

static void append_one(ps_log *log, int64_t *acked) {
  ps_error err = {0};
  int64_t base, first = ps_log_end_offset(log);
  ps_status status = append(log, first, 5, 2500, &base, &err);
  CHECK(is_fair(status, &err));
  if (status == PS_OK) {
    CHECK_EQ(base, first);
    *acked = first + 5;
    if (durability == PS_DURABILITY_SYNC) CHECK(ps_log_durable_offset(log) >= *acked);
  } else if (durability != PS_DURABILITY_SYNC) { /* else it was stored, perhaps, and not synced */
    CHECK_EQ(ps_log_end_offset(log), first);
  }
  CHECK(ps_log_high_watermark(log) >= *acked);
}

/* All that a writer does with a partition. */
static void live(int64_t *acked) {
  handle h;
  ps_error err = {0};
  ps_status status = try_open(&failing, &h, &err);
  CHECK(is_fair(status, &err));
  if (status != PS_OK) return;
  for (int i = 0; i < 9; i++) {
    append_one(h.log, acked);
    if (i == 4) ps_log_prepare_next(h.log);
    if (i == 5) ps_log_populate(h.log, 65536);
    if (i == 6) ps_log_start_writeback(h.log);
    if (i == 7) CHECK(is_fair(ps_log_sync(h.log, &err), &err));
    if (i == 2) {
      status = ps_log_hold(h.log, 0, &err);
      CHECK(is_fair(status, &err));
    }
    if (i == 3) ps_log_release(h.log);
  }
  ps_log_stats stats;
  ps_log_get_stats(h.log, &stats);
  int64_t end;
  CHECK(is_fair(ps_log_epoch_end(h.log, 0, &end, &err), &err));
  CHECK(is_fair(ps_log_settle(h.log, &err), &err));
  read_what_can_be(h.log);
  CHECK(is_fair(ps_log_close(h.log, &err), &err));
  ps_log_free(h.log);
  close(h.locks);
}

static void look(int64_t *acked) {
  char path[300];
  ps_error err = {0};
  handle h;
  (void)acked;
  snprintf(path, sizeof path, "%s/locks", directory);
  h.locks = open(path, O_RDONLY | O_CLOEXEC);
  ps_log_options options = options_of(true);
  ps_status status = ps_log_open(&failing, directory, h.locks, &options, false, &h.log, &err);
  CHECK(is_fair(status, &err));
  if (status == PS_OK) {
    read_what_can_be(h.log);
    ps_log_close(h.log, &err);
    ps_log_free(h.log);
  }
  close(h.locks);
}

/* ---- what it begins with: each leaves what must be there in *acked ------------------------------ */

static void nothing(int64_t *acked) { *acked = 0; }

static handle filled(int64_t *acked) {
  handle h = open_with(&plain);
  for (int i = 0; i < 3; i++) must_append(h.log, 5, 2500);
  ps_error err;
  CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
  *acked = 15;
  return h;
}

static void closed_well(int64_t *acked) {
  close_handle(filled(acked));
  incarnation++;
}

/* Recovery has a tail to cut, and a segment to set aside. */
static void torn(int64_t *acked) {
  handle h = filled(acked);
  ps_slot slot;
  CHECK(ps_head_read_slot(h.log->head, &slot));
  ps_durability mode = h.log->options.durability;
  h.log->options.durability = PS_DURABILITY_NONE;
  for (int i = 0; i < 4; i++) must_append(h.log, 5, 2500);
  h.log->options.durability = mode;
  drop_handle(h);
  zero(segment_path(0), (int64_t)slot.position, 64);
  incarnation++;
}

/* Recovery has segments to write anew. */
static void poisoned(int64_t *acked) {
  handle h = filled(acked);
  ps_durability mode = h.log->options.durability;
  h.log->options.durability = PS_DURABILITY_NONE;
  for (int i = 0; i < 4; i++) must_append(h.log, 5, 2500);
  h.log->options.durability = mode;
  *acked = ps_log_end_offset(h.log);
  ps_log_poison(h.log, EIO);
  drop_handle(h);
  incarnation++;
}

static void remove_directory(void) {
  char path[600];
  DIR *dir = opendir(directory);
  struct dirent *entry;
  CHECK(dir != NULL);
  while ((entry = readdir(dir)) != NULL) {
    snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
    if (entry->d_name[0] != '.') CHECK(unlink(path) == 0);
  }
  closedir(dir);
  CHECK(rmdir(directory) == 0);
}

/* The fault is gone: nothing is lost, and the log goes on. */
static void check_afterwards(int64_t acked) {
  incarnation++;
  handle h = open_with(&plain);
  check_all(h.log, acked);
  int64_t end = ps_log_end_offset(h.log);
  must_append(h.log, 5, 2500);
  must_append(h.log, 5, 100);
  check_all(h.log, end + 10);
  drop_handle(h);
  incarnation++;
  h = open_with(&plain);
  check_all(h.log, end + 10);
  CHECK_EQ(ps_log_end_offset(h.log), end + 10);
  close_handle(h);
}

static void fail_each_call(void (*begin)(int64_t *), void (*life)(int64_t *)) {
  static const int errnos[] = {ENOSPC, EDQUOT, EIO, EMFILE, ENOMEM, EROFS, EACCES};
  static const size_t count = sizeof errnos / sizeof *errnos;
  for (size_t e = 0; e <= count; e++) { /* the last time, all calls from there on, errnos in turn */
    for (int64_t nth = 1;; nth++) {
      int64_t acked;
      fresh_directory();
      incarnation++;
      begin(&acked);
      plan = (ps_fault_plan){.name = "*",
                             .nth = nth,
                             .times = e == count ? INT32_MAX : 1,
                             .action = PS_FAULT_ERRNO,
                             .os_errno = errnos[e == count ? (size_t)nth % count : e]};
      life(&acked);
      bool none = plan.seen < nth;
      calls_failed += !none;
      plan.action = PS_FAULT_NONE;
      check_afterwards(acked);
      remove_directory();
      if (none) {
        CHECK_MSG(nth > 5, "(%d calls)", (int)nth);
        break;
      }
    }
  }
}

static void test_new_log(void) { fail_each_call(nothing, live); }
static void test_log_closed_well(void) { fail_each_call(closed_well, live); }
static void test_torn_log(void) { fail_each_call(torn, live); }
static void test_poisoned_log(void) { fail_each_call(poisoned, live); }
static void test_reading_only(void) { fail_each_call(closed_well, look); }
static void test_reading_torn_only(void) { fail_each_call(torn, look); }

int main(void) {
  char place[] = "/dev/shm/pystream-calls-XXXXXX"; /* thousands of syncs */
  char *memory = mkdtemp(place);
  if (memory) CHECK(chdir(memory) == 0);
  static const struct {
    ps_io io;
    ps_durability durability;
  } ways[] = {{PS_IO_MAP, PS_DURABILITY_INTERVAL}, {PS_IO_PWRITE, PS_DURABILITY_SYNC}};
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    io = ways[i].io;
    durability = ways[i].durability;
    RUN(test_new_log);
    RUN(test_log_closed_well);
    RUN(test_torn_log);
    RUN(test_poisoned_log);
    RUN(test_reading_only);
    RUN(test_reading_torn_only);
  }
  printf("%" PRId64 " calls failed\n", calls_failed);
  if (memory) {
    CHECK(chdir("/") == 0);
    CHECK(rmdir(memory) == 0);
  }
  return 0;
}
