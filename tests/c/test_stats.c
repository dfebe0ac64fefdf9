/* Sizes found from files, beside the log that made them, and in what is damaged, torn or gone. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>

#include "ps_logs.h"
#include "ps_peek.h"
#include "ps_retain.h"
#include "ps_stats.h"

static const ps_stats_wanted rough = {.bytes_max = -1};
static const ps_stats_wanted exact = {.exact = true, .bytes_max = -1};

static ps_stats_sizes measure(ps_stats *stats, ps_stats_wanted wanted) {
  ps_stats_sizes out;
  ps_error err = {0};
  ps_status status = ps_stats_measure(stats, &wanted, &out, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s, errno %d, %s)", status, err.what, err.os_errno, err.path);
  return out;
}

/* All that the log knows of itself. */
static void must_agree(ps_stats *stats, ps_log *log) {
  ps_log_stats own;
  ps_log_get_stats(log, &own);
  for (int i = 0; i < 2; i++) {
    ps_stats_sizes found = measure(stats, i ? exact : rough);
    CHECK_EQ(stats->identity, PS_SOUND);
    CHECK(stats->has_slot && !stats->moved);
    CHECK_EQ(found.log_start, own.log_start);
    CHECK_EQ(found.high_watermark, own.high_watermark);
    CHECK_EQ(found.log_end, own.log_end);
    CHECK_EQ(found.durable, own.durable);
    CHECK_EQ(found.records, own.high_watermark - own.log_start);
    CHECK_EQ(found.segments, own.segments);
    CHECK_EQ(found.stored_bytes, own.stored_bytes);
    CHECK_EQ(found.raw_bytes, own.stored_bytes); /* nothing is compressed */
    CHECK(found.disk_bytes > 0 && found.damaged == 0 && found.is_exact == (i == 1));
  }
}

static ps_stats begin(void) {
  ps_stats stats;
  ps_stats_init(&stats, &plain, directory);
  return stats;
}

static void test_beside_the_log(void) {
  fresh_directory();
  incarnation++;
  ps_stats stats = begin();
  measure(&stats, rough);
  CHECK_EQ(stats.identity, PS_UNCHECKED);
  CHECK_EQ(stats.count, 0);
  handle h = open_with(&plain);
  for (int i = 0; i < 60; i++) {
    must_agree(&stats, h.log);
    must_append(h.log, 1 + (uint32_t)i % 9, 16 + (uint32_t)(i * 37) % 1500);
  }
  CHECK(stats.count > 3);
  must_agree(&stats, h.log);
  ps_stats again = begin();
  must_agree(&again, h.log);
  ps_stats_free(&again);
  close_handle(h);
  ps_stats_free(&stats);
}

static void test_times_and_places(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < 40; i++) must_append(h.log, 10, 1500); /* timestamps: 1000 + the first offset */
  ps_stats stats = begin();
  ps_stats_sizes found = measure(&stats, rough);
  CHECK_EQ(found.oldest, 1000);
  CHECK_EQ(found.newest, 1390);
  ps_error err;
  int64_t timestamp;
  for (int64_t offset = 0; offset < 400; offset++) {
    CHECK_EQ(ps_stats_timestamp(&stats, offset, &timestamp, &err), PS_OK);
    CHECK_EQ(timestamp, 1000 + offset / 10 * 10);
  }
  CHECK_EQ(ps_stats_timestamp(&stats, 400, &timestamp, &err), PS_END);
  close_handle(h);
  ps_stats_free(&stats);
}

static void test_what_can_go(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < 40; i++) must_append(h.log, 10, 1500);
  ps_stats stats = begin();
  ps_stats_sizes all = measure(&stats, rough);
  CHECK_EQ(all.reclaimable_bytes, 0);
  CHECK_EQ(measure(&stats, (ps_stats_wanted){.counts_expired = true, .min_timestamp = 1000, .bytes_max = -1})
               .reclaimable_bytes,
           0);
  ps_stats_sizes everything =
      measure(&stats, (ps_stats_wanted){.counts_expired = true, .min_timestamp = 5000, .bytes_max = -1});
  CHECK(everything.reclaimable_bytes > all.stored_bytes);
  /* What is said to be too much is what retention takes away. */
  const int64_t kept[] = {0, 100000, 200000, 300000, (int64_t)all.stored_bytes};
  for (size_t i = sizeof kept / sizeof *kept; i-- > 0;) {
    ps_error err = {0};
    ps_retained out;
    uint64_t files = stats.count;
    ps_stats_sizes found = measure(&stats, (ps_stats_wanted){.bytes_max = kept[i]});
    CHECK_EQ(ps_log_retain(h.log, &(ps_retention){PS_TIMESTAMP_NONE, kept[i], PS_TIMESTAMP_NONE}, 1000, &out,
                           &err),
             PS_OK);
    ps_stats_sizes after = measure(&stats, (ps_stats_wanted){.bytes_max = kept[i]});
    CHECK_EQ(after.reclaimable_bytes, 0);
    CHECK_EQ(stats.count, files - out.files);
    CHECK_EQ(found.stored_bytes - after.stored_bytes, out.bytes);
    CHECK((found.reclaimable_bytes > 0) == (out.files > 0));
    must_agree(&stats, h.log);
  }
  close_handle(h);
  ps_stats_free(&stats);
}

static void test_a_log_that_starts_inside(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < 40; i++) must_append(h.log, 10, 1500);
  ps_stats stats = begin();
  for (int64_t start = 3; start < 400; start += 29) {
    ps_error err = {0};
    CHECK_EQ(ps_log_delete_before(h.log, start, &err), PS_OK);
    ps_stats_sizes found = measure(&stats, exact);
    CHECK(found.is_exact);
    CHECK_EQ(found.records, 400 - start);
    CHECK_EQ(found.oldest, 1000 + start / 10 * 10);
    ps_stats_sizes less = measure(&stats, rough);
    CHECK_EQ(less.records, 400 - start);
    CHECK((less.reclaimable_bytes > 0) == (start > 50) || start < 60);
  }
  ps_error err = {0};
  CHECK_EQ(ps_log_delete_before(h.log, 400, &err), PS_OK);
  CHECK_EQ(measure(&stats, exact).records, 0);
  CHECK_EQ(measure(&stats, rough).oldest, PS_TIMESTAMP_NONE);
  close_handle(h);
  ps_stats_free(&stats);
}

/* Any byte of any file may be any other: it ends, without reading where it must not. */
static void test_damaged_bytes(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < 12; i++) must_append(h.log, 10, 1500);
  close_handle(h);
  char paths[16][512];
  size_t count = 0;
  DIR *dir = opendir(directory);
  struct dirent *entry;
  CHECK(dir != NULL);
  while ((entry = readdir(dir)) != NULL)
    if (entry->d_name[0] != '.' && count < 16)
      snprintf(paths[count++], sizeof *paths, "%s/%s", directory, entry->d_name);
  closedir(dir);
  for (int round = 0; round < 600; round++) {
    uint8_t junk[64];
    random_fill(junk, sizeof junk);
    const char *path = paths[random_below((uint32_t)count)];
    overwrite(path, random_below(round % 3 ? 600 : 60000), junk, 1 + random_below(sizeof junk));
    ps_stats stats = begin();
    for (int i = 0; i < 2; i++) {
      ps_stats_wanted wanted = {.exact = i == 0,
                                .compacted = round % 2,
                                .counts_expired = true,
                                .min_timestamp = 1050,
                                .bytes_max = 1000};
      ps_stats_sizes out;
      ps_error err = {0};
      int64_t timestamp;
      CHECK_EQ(ps_stats_measure(&stats, &wanted, &out, &err), PS_OK);
      ps_status status = ps_stats_timestamp(&stats, 33, &timestamp, &err);
      CHECK(status == PS_OK || status == PS_END);
    }
    ps_stats_free(&stats);
  }
}

static void test_files_that_go(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < 40; i++) must_append(h.log, 10, 1500);
  close_handle(h);
  ps_stats stats = begin();
  ps_stats_sizes before = measure(&stats, rough);
  char path[512];
  for (size_t i = 0; i + 1 < stats.count; i++) {
    char name[PS_SEGMENT_NAME_BYTES];
    ps_segment_name(stats.segments[i].base_offset, name);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    CHECK_EQ(unlink(path), 0);
  }
  ps_stats_sizes after = measure(&stats, exact);
  CHECK(after.segments == 1 && after.stored_bytes < before.stored_bytes && after.is_exact);
  char command[600];
  snprintf(command, sizeof command, "rm -r '%s'", directory);
  CHECK_EQ(system(command), 0);
  ps_error err = {0};
  CHECK_EQ(ps_stats_measure(&stats, &rough, &after, &err), PS_NOT_FOUND);
  ps_stats_free(&stats);
}

/* Each call that fails is told, and the next look is a whole one. */
static void test_calls_that_fail(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < 12; i++) must_append(h.log, 10, 1500);
  close_handle(h);
  int failed = 0;
  for (int64_t nth = 1; nth < 60; nth++) {
    ps_fault_plan plan;
    char text[64];
    snprintf(text, sizeof text, "*:%d:errno=5", (int)nth);
    CHECK(ps_fault_parse(text, &plan));
    ps_env env = {ps_fault_hook, &plan};
    ps_stats stats;
    ps_stats_init(&stats, &env, directory);
    ps_stats_sizes out;
    ps_error err = {0};
    ps_status status = ps_stats_measure(&stats, &exact, &out, &err);
    CHECK(status == PS_OK || status == PS_OS_ERROR);
    if (status == PS_OS_ERROR) CHECK_EQ(err.os_errno, 5);
    failed += status == PS_OS_ERROR;
    env.hook = NULL;
    stats.env = &plain;
    ps_stats_sizes sound = measure(&stats, exact);
    CHECK_EQ(sound.records, 120);
    ps_stats_free(&stats);
  }
  CHECK(failed > 5);
}

int main(void) {
  RUN(test_beside_the_log);
  RUN(test_times_and_places);
  RUN(test_what_can_go);
  RUN(test_a_log_that_starts_inside);
  RUN(test_damaged_bytes);
  RUN(test_files_that_go);
  RUN(test_calls_that_fail);
  return 0;
}
