/* The log start and retention: what goes, and what is left of whoever dies or fails at it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_head.h"
#include "ps_retains.h"

/* ---- the words of the head ------------------------------------------------------------------- */

static void test_log_start_words(void) {
  _Alignas(8) uint8_t head[PS_HEAD_BYTES] = {0};
  CHECK_EQ(ps_head_log_start(head), -1); /* zeros say nothing */
  ps_head_set_log_start(head, 0);
  CHECK_EQ(ps_head_log_start(head), 0);
  for (int64_t offset = 1; offset < 50; offset++) {
    _Alignas(8) uint8_t before[PS_HEAD_BYTES];
    memcpy(before, head, sizeof head);
    ps_head_raise_log_start(head, offset * 1000);
    CHECK_EQ(ps_head_log_start(head), offset * 1000);
    /* Torn in every byte that was stored to, the one before it stays, or the new one has come through. */
    for (uint32_t at = 0; at < PS_HEAD_BYTES; at++) {
      if (before[at] == head[at]) continue;
      for (int value = 0; value < 256; value++) {
        uint8_t stored = head[at];
        head[at] = (uint8_t)value;
        int64_t read = ps_head_log_start(head);
        CHECK_MSG(read == (value == stored ? offset : offset - 1) * 1000, "(byte %u: %d)", at, value);
        head[at] = stored;
      }
    }
  }
  ps_head_set_log_start(head, 7); /* recovery goes by what there is, be it lower */
  CHECK_EQ(ps_head_log_start(head), 7);
}

/* ---- delete_before ---------------------------------------------------------------------------- */

static void test_delete_before(void) {
  handle h = filled(20), other = open_with(&plain);
  ps_error err = {0};
  int files = count_files(".log");
  CHECK(files >= 5);
  CHECK_EQ(ps_log_delete_before(h.log, -1, &err), PS_OUT_OF_RANGE);
  CHECK_EQ(ps_log_delete_before(h.log, 201, &err), PS_OUT_OF_RANGE);
  CHECK_EQ(err.offset, 201);
  delete_before(h.log, 0);
  CHECK_EQ(ps_log_start_offset(h.log), 0);
  delete_before(h.log, 95); /* inside a batch */
  delete_before(h.log, 90); /* never back */
  CHECK_EQ(ps_log_start_offset(other.log), 95);
  must_be_out_of_range(other.log, 94);
  CHECK_EQ(read_from(other.log, 95), 200);
  CHECK_EQ(count_files(".log"), files); /* no file goes yet */
  CHECK(retain(h.log, no_rule, 64).files > 0);
  CHECK(count_files(".log") < files);
  CHECK_EQ(count_files(".index"), count_files(".log"));
  CHECK_EQ(read_from(other.log, 95), 200);
  delete_before(h.log, 200);
  CHECK_EQ(ps_log_start_offset(h.log), 200);
  CHECK_EQ(read_from(other.log, 200), 200);
  close_handle(other);
  close_handle(h);
  for (int i = 0; i < 2; i++) { /* a clean store, and one whose writer died */
    incarnation++;
    h = open_with(&plain);
    CHECK_EQ(ps_log_start_offset(h.log), 200 + 10 * i);
    must_append(h.log, 10, 100);
    CHECK_EQ(read_from(h.log, 200 + 10 * i), 210 + 10 * i);
    delete_before(h.log, 210 + 10 * i);
    drop_handle(h);
  }
}

static void test_nothing_is_held_up(void) {
  handle h = filled(20), other = open_with(&plain);
  ps_error err = {0};
  CHECK_EQ(ps_log_hold(h.log, 0, &err), PS_OK); /* for exclusive writing */
  delete_before(other.log, 50);
  CHECK(retain(other.log, no_rule, 64).files > 0);
  must_append(h.log, 10, 100);
  ps_retention old = {PS_TIMESTAMP_NONE, -1, INT64_MAX};
  ps_retained out;
  CHECK_EQ(ps_log_retain(other.log, &old, 64, &out, &err), PS_TIMEOUT); /* it cannot be rolled for others */
  CHECK(strstr(err.what, "held for exclusive writing") != NULL);
  ps_log_release(h.log);
  CHECK(retain(other.log, old, 64).rolled);
  must_append(h.log, 10, 100);
  CHECK_EQ(read_from(h.log, 50), 220);
  close_handle(other);
  close_handle(h);
}

/* ---- rules ------------------------------------------------------------------------------------ */

static void test_by_age(void) {
  handle h = filled(20);
  ps_segment_facts *facts;
  size_t count = list_segments(h.log, &facts);
  CHECK(count >= 5);
  for (size_t i = 0; i + 1 < count; i++) CHECK_EQ(facts[i].end_offset, facts[i + 1].base_offset);
  CHECK_EQ(facts[count - 1].end_offset, 200);
  CHECK_EQ(facts[1].max_timestamp, 1000 + facts[2].base_offset - 10); /* of the last batch's first record */
  ps_retention rule = {facts[1].max_timestamp, -1, PS_TIMESTAMP_NONE};
  CHECK_EQ(retain(h.log, rule, 64).log_start, facts[1].base_offset); /* as old as that is not older */
  rule.min_timestamp++;
  ps_retained out = retain(h.log, rule, 64);
  CHECK_EQ(out.log_start, facts[2].base_offset);
  CHECK_EQ(out.files, 1);
  CHECK_EQ(out.bytes, facts[1].bytes);
  CHECK(!out.rolled && !out.more);
  rule.min_timestamp = 1190; /* the last batch is not older */
  CHECK_EQ(retain(h.log, rule, 64).log_start, facts[count - 1].base_offset);
  rule.min_timestamp = 1191;
  out = retain(h.log, rule, 64);
  CHECK(out.rolled);
  CHECK_EQ(out.log_start, 200);
  CHECK_EQ(count_files(".log"), 1);
  CHECK(!retain(h.log, rule, 64).rolled); /* an empty one is never too old */
  free(facts);
  must_append(h.log, 10, 100);
  CHECK_EQ(read_from(h.log, 200), 210);
  close_handle(h);
}

/* One late record keeps a segment, and all behind it. */
static void test_by_the_latest_record(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  int64_t base;
  ps_error err = {0};
  for (int i = 0; i < 20; i++) CHECK_EQ(append(h.log, i == 7 ? 1000000 : i, 1, 15000, &base, &err), PS_OK);
  ps_retention rule = {5000, -1, PS_TIMESTAMP_NONE};
  ps_retained out = retain(h.log, rule, 64);
  CHECK(out.log_start <= 7 && out.log_start >= 4);
  close_handle(h);
}

static void test_by_size(void) {
  handle h = filled(20);
  ps_segment_facts *facts;
  size_t count = list_segments(h.log, &facts);
  int64_t bytes = 0;
  for (size_t i = 0; i < count; i++) bytes += (int64_t)facts[i].bytes;
  ps_retention rule = {PS_TIMESTAMP_NONE, bytes - (int64_t)facts[0].bytes + 1, PS_TIMESTAMP_NONE};
  CHECK_EQ(retain(h.log, rule, 64).log_start, 0);
  rule.max_bytes--;
  CHECK_EQ(retain(h.log, rule, 64).log_start, facts[1].base_offset);
  rule.max_bytes = 0; /* the active one stays, whatever its size */
  ps_retained out = retain(h.log, rule, 2);
  CHECK_EQ(out.log_start, facts[count - 1].base_offset);
  CHECK_EQ(out.files, 2);
  CHECK(out.more);
  must_be_out_of_range(h.log, facts[count - 1].base_offset - 1); /* its file is there still */
  for (int i = 0; out.more; i++) {
    CHECK(i < 10);
    out = retain(h.log, no_rule, 1);
  }
  CHECK_EQ(count_files(".log"), 1);
  CHECK_EQ(count_files(".index"), 1);
  free(facts);
  close_handle(h);
}

/* The one that is listed next has gone, whoever took it: then the one before may hold what was in it. */
static void test_nothing_goes_without_the_next(void) {
  handle h = filled(20);
  ps_segment_facts *facts;
  ps_error err = {0};
  size_t count = list_segments(h.log, &facts);
  CHECK(count > 3);
  CHECK_EQ(unlink(segment_path(facts[2].base_offset)), 0);
  CHECK_EQ(ps_log_delete_before(h.log, facts[2].base_offset, &err), PS_OK);
  CHECK_EQ(retain(h.log, no_rule, 64).files, 1);
  CHECK(access(segment_path(facts[0].base_offset), F_OK) != 0);
  CHECK_EQ(access(segment_path(facts[1].base_offset), F_OK), 0);
  free(facts);
  close_handle(h);
}

static void test_segment_age(void) {
  handle h = filled(2);
  ps_segment_facts *facts;
  CHECK_EQ(list_segments(h.log, &facts), 1);
  ps_retention rule = {PS_TIMESTAMP_NONE, -1, facts[0].created_ns};
  CHECK(!retain(h.log, rule, 64).rolled);
  rule.roll_before++;
  CHECK(retain(h.log, rule, 64).rolled);
  CHECK_EQ(count_files(".log"), 2);
  CHECK_EQ(ps_log_start_offset(h.log), 0);
  CHECK(!retain(h.log, rule, 64).rolled); /* nothing in it */
  CHECK_EQ(read_from(h.log, 0), 20);
  free(facts);
  close_handle(h);
}

/* ---- what may go wrong ------------------------------------------------------------------------ */

static const char *const points[] = {
    "retain.synced",    "retain.raised", "retain.durable", "retain.rolling", "retain.done", "retain.unlinked",
    "retain.unlinking", "retain.index",  "unlink",         "sync",           "openat",      "stat"};

/* From the start that is told on, all is there; and what lies below is gone after the next step. */
static void check_after_death(int64_t least, int64_t most, int64_t end) {
  incarnation++;
  handle h = open_with(&plain);
  int64_t start = ps_log_start_offset(h.log);
  CHECK_MSG(start >= least && start <= most, "(%" PRId64 ")", start);
  CHECK_EQ(ps_log_end_offset(h.log), end);
  CHECK_EQ(read_from(h.log, start), end);
  if (start) must_be_out_of_range(h.log, start - 1);
  CHECK(!retain(h.log, no_rule, 64).more);
  ps_segment_facts *facts;
  size_t count = list_segments(h.log, &facts);
  CHECK_EQ((int64_t)count, count_files(".log"));
  CHECK_EQ((int64_t)count, count_files(".index"));
  free(facts);
  must_append(h.log, 10, 100);
  CHECK_EQ(read_from(h.log, start), end + 10);
  close_handle(h);
}

static bool die_at(const char *plan_text, int kind) {
  handle h = filled(20);
  close_handle(h);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    ps_fault_plan plan;
    if (!ps_fault_parse(plan_text, &plan)) _exit(9);
    ps_env env = {ps_fault_hook, &plan};
    ps_retained out;
    ps_error err;
    h = open_with(&env);
    ps_retention age = {1100, -1, PS_TIMESTAMP_NONE}, all = {INT64_MAX, -1, PS_TIMESTAMP_NONE};
    if (kind == 0 && ps_log_delete_before(h.log, 95, &err) == PS_OK) (void)retain(h.log, no_rule, 64);
    if (kind == 1) (void)ps_log_retain(h.log, &age, 64, &out, &err);
    if (kind == 2) (void)ps_log_retain(h.log, &all, 64, &out, &err);
    _exit(0);
  }
  int status;
  CHECK(waitpid(pid, &status, 0) == pid);
  CHECK(WIFEXITED(status) || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
  int64_t most = kind == 0 ? 95 : kind == 1 ? 100 : 200;
  check_after_death(0, most, 200);
  return WIFSIGNALED(status);
}

static void test_death(void) {
  for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
    int deaths = 0;
    for (int nth = 1; nth < 6; nth++)
      for (int kind = 0; kind < 3; kind++) {
        char plan[64];
        snprintf(plan, sizeof plan, "%s:%d:kill", points[i], nth);
        deaths += die_at(plan, kind);
      }
    CHECK_MSG(deaths > 0, "(nobody came to %s)", points[i]);
  }
}

/* On a full disk there is no room for another segment, and all the more need to remove those that are old. */
static void test_full_disk(void) {
  fresh_directory();
  incarnation++;
  ps_fault_plan plan = {.nth = INT64_MAX};
  ps_env env = {ps_fault_hook, &plan};
  handle h = open_with(&env);
  for (int i = 0; i < 20; i++) must_append(h.log, 10, 1500);
  CHECK(ps_fault_parse("allocate:1:errno=28:1000", &plan));
  ps_retention rule = {INT64_MAX, -1, PS_TIMESTAMP_NONE};
  ps_retained out;
  ps_error err = {0};
  CHECK_EQ(ps_log_retain(h.log, &rule, 64, &out, &err), PS_OS_ERROR);
  CHECK_EQ(err.os_errno, ENOSPC);
  CHECK(out.files > 0 && !out.more && !out.rolled);
  CHECK_EQ(count_files(".log"), 1);
  CHECK(ps_log_start_offset(h.log) > 0);
  delete_before(h.log, 195); /* takes no space */
  CHECK_EQ(read_from(h.log, 195), 200);
  plan = (ps_fault_plan){.nth = INT64_MAX};
  CHECK(retain(h.log, rule, 64).rolled);
  CHECK_EQ(ps_log_start_offset(h.log), 200);
  must_append(h.log, 10, 100);
  close_handle(h);
}

/* Each call of the system fails in turn: nothing is lost, nothing is unlinked above the log start, and the
 * next step does what is left, unless a sync has failed. */
static void test_failing_calls(void) {
  static const char *const calls[] = {"unlink", "sync",    "sync_dir", "openat",
                                      "stat",   "readdir", "pread",    "*"};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
    for (int nth = 1; nth < 40; nth++) {
      ps_fault_plan plan;
      char text[64];
      snprintf(text, sizeof text, "%s:%d:errno=5", calls[i], nth);
      CHECK(ps_fault_parse(text, &plan));
      fresh_directory();
      incarnation++;
      ps_fault_plan none = {.nth = INT64_MAX};
      ps_env env = {ps_fault_hook, &none};
      handle h = open_with(&env);
      for (int j = 0; j < 12; j++) must_append(h.log, 10, 1500);
      none = plan;
      ps_retention rule = {1060, 90000, PS_TIMESTAMP_NONE};
      ps_retained out;
      ps_error err = {0};
      ps_status status = ps_log_retain(h.log, &rule, 64, &out, &err);
      bool failed = none.seen >= nth;
      none = (ps_fault_plan){.nth = INT64_MAX};
      CHECK_MSG(status == PS_OK || failed, "(%s: %d %s)", text, status, err.what);
      int64_t start = ps_log_start_offset(h.log);
      CHECK_EQ(read_from(h.log, start), 120);
      if (status != PS_POISONED) {
        out = retain(h.log, rule, 64);
        CHECK(out.log_start > 0);
        must_append(h.log, 10, 100);
      } else {
        CHECK_EQ(ps_log_delete_before(h.log, 120, &err), PS_POISONED);
      }
      drop_handle(h);
      check_after_death(start, 120, status == PS_POISONED ? 120 : 130);
      if (!failed) break;
    }
}

/* Two at once: one waits or is sent away, and nothing goes twice. */
static void test_one_at_a_time(void) {
  handle h = filled(20), other = open_with(&plain);
  off_t at = 3 * PS_LOCK_STRIDE + PS_LOCK_MAINTAIN;
  ps_retained out;
  ps_error err = {0};
  CHECK_EQ(ps_os_lock_try(&plain, other.locks, at, false), 0);
  CHECK_EQ(ps_log_retain(h.log, &no_rule, 64, &out, &err), PS_TIMEOUT);
  CHECK(ps_os_unlock(other.locks, at) == 0);
  CHECK_EQ(ps_log_retain(h.log, &no_rule, 64, &out, &err), PS_OK);
  close_handle(other);
  close_handle(h);
}

/* A head that is lost, or both of whose places are damaged: the first segment says where the log starts. */
static void test_lost_head(void) {
  for (int damaged = 0; damaged < 3; damaged++) {
    handle h = filled(20);
    delete_before(h.log, 95);
    CHECK(retain(h.log, no_rule, 64).files > 0);
    ps_segment_facts *facts;
    list_segments(h.log, &facts);
    int64_t first = facts[0].base_offset;
    free(facts);
    CHECK(first > 0 && first <= 95);
    close_handle(h);
    char path[300];
    snprintf(path, sizeof path, "%s/head", directory);
    if (damaged == 0) CHECK(unlink(path) == 0);
    if (damaged >= 1) flip(path, PS_HEAD_LOG_START_OFF);
    if (damaged == 2) flip(path, PS_HEAD_LOG_START2_OFF);
    incarnation++;
    h = open_with(&plain);
    /* One place alone may be the older one: then the log starts where it did before. */
    int64_t start = ps_log_start_offset(h.log);
    CHECK_MSG(damaged == 1 ? start == 95 || start == 0 : start == first, "(%d: %" PRId64 ")", damaged, start);
    if (start) CHECK_EQ(read_from(h.log, start), 200);
    CHECK_EQ(ps_log_end_offset(h.log), 200);
    close_handle(h);
  }
}

int main(void) {
  RUN(test_log_start_words);
  for (int by_call = 0; by_call < 2; by_call++) {
    io = by_call ? PS_IO_PWRITE : PS_IO_MAP;
    RUN(test_delete_before);
    RUN(test_nothing_is_held_up);
    RUN(test_by_age);
    RUN(test_by_the_latest_record);
    RUN(test_by_size);
    RUN(test_nothing_goes_without_the_next);
    RUN(test_segment_age);
    RUN(test_one_at_a_time);
    RUN(test_full_disk);
    RUN(test_lost_head);
  }
  io = PS_IO_MAP;
  for (int each = PS_DURABILITY_NONE; each <= PS_DURABILITY_SYNC; each++) {
    durability = (ps_durability)each;
    RUN(test_delete_before);
    RUN(test_death);
  }
  durability = PS_DURABILITY_INTERVAL;
  RUN(test_failing_calls);
  return 0;
}
