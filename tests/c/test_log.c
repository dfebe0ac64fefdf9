/* One partition through its whole life: append, roll, read, seek, reopen, other writers beside it, and the
 * death of a writer at every named point, with both ways of storing. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_logs.h"

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
  for (int64_t offset = 0; offset <= end; offset += 1 + random_below(60))
    CHECK_EQ(read_from(h.log, offset), end);
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

/* A frame is checked once: what is read in order keeps a position, not a bit a frame; what is read elsewhere
 * keeps bits, which say nothing of the frames beside theirs. */
static void test_checked_once(void) {
  enum { FRAMES = 9, FROM = 4 };
  uint64_t at[FRAMES];
  fresh_directory();
  handle h = open_with(&plain);
  for (int i = 0; i < FRAMES; i++) must_append(h.log, 2, 30);
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(h.log, &cursor, 2 * FROM, &err), PS_OK);
  for (int i = FROM; i < FRAMES - 1; i++) CHECK_EQ(ps_cursor_next(h.log, &cursor, &view, &err), PS_OK);
  ps_segment *segment = view.segment;
  CHECK_EQ(segment->verified_end, PS_SEGMENT_HEADER_BYTES);
  CHECK(segment->verified[0] != NULL);
  at[0] = PS_SEGMENT_HEADER_BYTES;
  for (int i = 1; i < FRAMES; i++) at[i] = at[i - 1] + view.meta.frame_bytes;
  for (int i = 0; i < FRAMES; i++)
    CHECK_EQ(ps_segment_is_verified(segment, at[i]), i >= FROM && i < FRAMES - 1);
  CHECK_EQ(ps_cursor_seek(h.log, &cursor, 0, &err), PS_OK);
  for (int i = 0; i < FRAMES; i++) {
    CHECK_EQ(ps_cursor_next(h.log, &cursor, &view, &err), PS_OK);
    CHECK(view.segment == segment && view.position == at[i]);
    CHECK(ps_segment_is_verified(segment, at[i]));
  }
  CHECK_EQ(segment->verified_end, at[FROM]); /* bits serve behind it */
  ps_cursor_clear(&cursor);
  close_handle(h);
  h = open_with(&plain);
  CHECK_EQ(ps_cursor_seek(h.log, &cursor, 0, &err), PS_OK);
  for (int i = 0; i < FRAMES; i++) {
    CHECK_EQ(ps_cursor_next(h.log, &cursor, &view, &err), PS_OK);
    CHECK_EQ(view.segment->verified_end, at[i] + view.meta.frame_bytes);
  }
  CHECK(view.segment->verified[0] == NULL);
  ps_cursor_clear(&cursor);
  close_handle(h);
}

/* What was checked once is believed until a sync fails: from then on each read checks anew. */
static void test_checked_anew_once_poisoned(void) {
  enum { FRAMES = 6, HURT = 3 };
  for (int in_order = 0; in_order < 2; in_order++) {
    fresh_directory();
    handle h = open_with(&plain);
    for (int i = 0; i < FRAMES; i++) must_append(h.log, 1, 100);
    ps_cursor cursor;
    ps_frame_view view;
    ps_error err = {0};
    ps_cursor_init(&cursor);
    int from = in_order ? 0 : 2;
    CHECK_EQ(ps_cursor_seek(h.log, &cursor, from, &err), PS_OK);
    for (int i = from; i < FRAMES; i++) {
      CHECK_EQ(ps_cursor_next(h.log, &cursor, &view, &err), PS_OK);
      if (i == HURT) flip(segment_path(0), (int64_t)view.position + PS_FRAME_HEADER_BYTES + 20);
    }
    for (int poisoned = 0; poisoned < 2; poisoned++) {
      if (poisoned) ps_log_poison(h.log, EIO);
      CHECK_EQ(ps_cursor_seek(h.log, &cursor, from, &err), PS_OK);
      for (int i = from; i < HURT; i++) CHECK_EQ(ps_cursor_next(h.log, &cursor, &view, &err), PS_OK);
      CHECK_EQ(ps_cursor_next(h.log, &cursor, &view, &err), poisoned ? PS_CORRUPT : PS_OK);
    }
    CHECK_EQ(err.offset, HURT);
    ps_cursor_clear(&cursor);
    close_handle(h);
  }
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

/* Looking for a moment in segments that another process has just sealed and is cutting down to what they
 * hold: a signal, were the place read through the map. */
static void test_find_time_beside_rolls(void) {
  fresh_directory();
  handle h = open_with(&plain);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    handle own = open_with(&plain);
    for (int i = 0; i < 1500; i++)
      must_append(own.log, 2, 14000); /* two batches a segment, and unused space */
    _exit(0);
  }
  int status;
  int64_t offset, found;
  ps_error err = {0};
  while (waitpid(pid, &status, WNOHANG) == 0)
    CHECK_EQ(ps_log_find_time(h.log, INT64_MAX - 1, &offset, &found, &err), PS_END);
  CHECK_EQ(status, 0);
  CHECK_EQ(ps_log_find_time(h.log, 1000 + 1501, &offset, &found, &err), PS_OK);
  CHECK_EQ(offset, 1502); /* the batch's own moment is that of its first record */
  close_handle(h);
}

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

/* Every system call of an append and a roll fails once: an error, or none; then all goes on as if it had not.
 */
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

/* Another process rolls more than once while this one looks away: no segment is passed by, neither by a
 * search nor by a sync. */
static void test_rolls_of_others(void) {
  fresh_directory();
  incarnation++;
  ps_fault_plan plan = {.name = "sync", .nth = 1 << 20, .times = 1, .action = PS_FAULT_ERRNO};
  ps_env env = {ps_fault_hook, &plan};
  handle h = open_with(&env), other = open_with(&plain);
  ps_error err;
  ps_log_stats stats;
  int64_t offset, found;
  must_append(h.log, 1, 100);
  do {
    must_append(other.log, 10, 1000);
    ps_log_get_stats(other.log, &stats);
  } while (stats.rolls < 3);
  must_append(h.log, 1, 100); /* goes straight to the active segment */
  int64_t before = plan.seen;
  CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
  CHECK_EQ(plan.seen - before, stats.segments);
  CHECK_EQ(ps_log_durable_offset(h.log), ps_log_end_offset(h.log));
  do {
    must_append(other.log, 10, 1000);
    ps_log_get_stats(other.log, &stats);
  } while (stats.rolls < 6);
  must_append(h.log, 1, 100);
  for (int64_t first = 1; first < ps_log_end_offset(h.log) - 10; first += 10) {
    CHECK_EQ(ps_log_find_time(h.log, 1000 + first, &offset, &found, &err), PS_OK);
    CHECK_EQ(found, 1000 + offset);
    CHECK(offset - first < 10);
  }
  close_handle(other);
  close_handle(h);
}

/* Large batches go through the descriptor, small ones through the map: both in turn, over rolls and syncs. */
static void test_large_and_small(void) {
  fresh_directory();
  incarnation++;
  segment_bytes = 1 << 20;
  handle h = open_with(&plain);
  ps_error err;
  for (int i = 0; i < 60; i++) {
    must_append(h.log, 1, i % 3 == 2 ? 100 : (64 << 10) + random_below(200 << 10));
    if (i % 4 == 0) CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
  }
  check_all(h.log, 60);
  close_handle(h);
  segment_bytes = PS_SEGMENT_BYTES_MIN;
}

static int open_descriptors(void) {
  int count = 0;
  for (int fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

/* One process rolls, another does all the syncing: the first keeps no descriptor for each segment it ever
 * wrote. */
static void test_descriptors(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain), other = open_with(&plain);
  ps_error err;
  ps_log_stats stats;
  int before = open_descriptors();
  do {
    must_append(h.log, 10, 1000);
    CHECK_EQ(ps_log_sync(other.log, &err), PS_OK);
    ps_log_get_stats(h.log, &stats);
  } while (stats.rolls < 20);
  CHECK_MSG(open_descriptors() < before + 8 + (io == PS_IO_PWRITE ? 20 : 0), "(%d)",
            open_descriptors() - before);
  close_handle(other);
  close_handle(h);
}

/* A roll that was interrupted is gone on with, or the append fails: no frame takes the place of a seal. */
static void test_seal_stays(void) {
  fresh_directory();
  incarnation++;
  ps_fault_plan plan = {0};
  ps_env env = {ps_fault_hook, &plan};
  handle h = open_with(&env);
  must_append(h.log, 2, 300);
  bool died;
  int64_t known = run_doomed("roll.created:1:kill", 2, &died), base;
  CHECK(died);
  plan = (ps_fault_plan){.name = "pread", .nth = 1, .times = 1, .os_errno = EIO, .action = PS_FAULT_ERRNO};
  ps_error err;
  CHECK_EQ(append(h.log, known, 1, 8, &base, &err), PS_OS_ERROR); /* so small that it would fit */
  CHECK_EQ(ps_log_end_offset(h.log), known);
  must_append(h.log, 1, 8);
  check_all(h.log, known + 1);
  handle other = open_with(&plain);
  check_all(other.log, known + 1);
  close_handle(other);
  close_handle(h);
}

/* The leader of a group commit dies when all is durable and nobody has been told: who finds it durable tells.
 */
static void test_death_after_sync(void) {
  ps_durability usual = durability;
  durability = PS_DURABILITY_SYNC;
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  must_append(h.log, 2, 300);
  bool died;
  CHECK_EQ(run_doomed("sync.durable:2:kill", 2, &died), 5);
  CHECK(died);
  CHECK_EQ(ps_log_durable_offset(h.log), 8);
  CHECK_EQ(ps_log_high_watermark(h.log), 5);
  ps_error err;
  CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
  check_all(h.log, 8);
  close_handle(h);
  durability = usual;
}

static void everything(void) {
  RUN(test_append_roll_read);
  RUN(test_checked_once);
  RUN(test_checked_anew_once_poisoned);
  RUN(test_largest_batch);
  RUN(test_reopen);
  RUN(test_find_time);
  RUN(test_find_time_beside_rolls);
  RUN(test_large_and_small);
  RUN(test_rolls_of_others);
  RUN(test_descriptors);
  RUN(test_seal_stays);
  RUN(test_death_after_sync);
  RUN(test_death_of_a_writer);
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
