/* The first opener after a death or a power failure: what it mends, cuts, reports and leaves alone, with both
 * ways of storing. A power failure is played by taking stored bytes away. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_head.h"
#include "ps_log_internal.h"
#include "ps_logs.h"
#include "ps_retain.h"

/* Death with nobody else there: the next opener is alone and recovers. Then death in that recovery too. */
static void test_death_and_recovery(void) {
  static const char *const recovery_points[] = {"recover.epoch",   "recover.save",   "recover.aside",
                                                "recover.seal",    "recover.create", "segment.header",
                                                "segment.renamed", "sync_dir"};
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
      CHECK(unlink(head_path()) == 0); /* without a head, too */
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
  for (int at = 0; at < (int)PS_HEAD_WAITERS_OFF + 8; at++) {
    flip(head_path(), at);
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
  CHECK(ps_fault_parse("sync:4:errno=5", &plan));
  ps_env env = {ps_fault_hook, &plan};
  handle h = open_with(&env); /* two syncs: epochs, header of the segment */
  handle other = open_with(&plain);
  ps_error err;
  must_append(h.log, 10, 100);
  CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
  for (int i = 0; i < 100; i++) must_append(h.log, 10, 100);
  CHECK_EQ(ps_log_sync(h.log, &err), PS_POISONED);
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

/* How many bytes the .cut file of epoch `epoch` of segment 0 has; -1: there is none. */
static int64_t cut_bytes(int epoch) {
  char path[400];
  struct stat st;
  snprintf(path, sizeof path, "%s.%010d.cut", segment_path(0), epoch);
  return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

/* After a failed sync the segment is written anew; where its very first batch is torn, it goes aside as it
 * was, with every byte of it. */
static void test_poison_and_torn_first_batch(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < 5; i++) must_append(h.log, 10, 100);
  int64_t used = PS_SEGMENT_HEADER_BYTES + 5 * (PS_FRAME_HEADER_BYTES + (int64_t)ps_align_up(1000, PS_ALIGN));
  ps_log_poison(h.log, EIO);
  drop_handle(h);
  flip(segment_path(0), PS_SEGMENT_HEADER_BYTES + PS_FRAME_HEADER_BYTES + 5);
  incarnation++;
  h = open_with(&plain);
  CHECK_EQ(ps_log_end_offset(h.log), 0);
  CHECK(cut_bytes(ps_log_leader_epoch(h.log)) >= used);
  must_append(h.log, 10, 100);
  check_all(h.log, 10);
  close_handle(h);
}

/* Where the epochs are lost, they come round again: what an earlier cut has kept stays what it is. */
static void test_cut_keeps_earlier_cuts(void) {
  static const char kept[] = "what was kept";
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < 3; i++) must_append(h.log, 10, 100);
  drop_handle(h);
  char path[400];
  snprintf(path, sizeof path, "%s.%010d.cut", segment_path(0), 1);
  int fd = open(path, O_RDWR | O_CREAT, 0666);
  CHECK(fd >= 0 && write(fd, kept, sizeof kept) == (ssize_t)sizeof kept);
  close(fd);
  flip(segment_path(0), PS_SEGMENT_HEADER_BYTES + 3 * PS_FRAME_HEADER_BYTES + 2 * 1024);
  incarnation++;
  h = open_with(&plain);
  CHECK_EQ(ps_log_end_offset(h.log), 20);
  CHECK_EQ(ps_log_leader_epoch(h.log), 2);
  CHECK_EQ(cut_bytes(1), sizeof kept);
  CHECK(cut_bytes(2) > 1000);
  close_handle(h);
}

/* Of a seal only the first bytes reached the disk, and the log goes on behind it: they are not written over,
 * whatever the size of the file; zeros are. */
static void test_torn_seal(void) {
  static const char torn[16] = "PSEL torn";
  for (int bytes = 0; bytes <= 9; bytes++) {
    fresh_directory();
    incarnation++;
    handle h = open_with(&plain);
    ps_slot slot;
    must_append(h.log, 10, 100);
    CHECK(ps_head_read_slot(h.log->head, &slot));
    int64_t frame = (int64_t)(slot.position - PS_SEGMENT_HEADER_BYTES), records = 10;
    for (; slot.segment == 0; records += 10) {
      must_append(h.log, 10, 100);
      CHECK(ps_head_read_slot(h.log->head, &slot));
    }
    CHECK_EQ(ps_log_durable_offset(h.log), 0);
    drop_handle(h);
    off_t seal = (off_t)PS_SEGMENT_HEADER_BYTES + slot.segment / 10 * frame;
    int fd = open(segment_path(0), O_RDWR);
    CHECK(fd >= 0 && ftruncate(fd, seal) == 0 && pwrite(fd, torn, (size_t)bytes, seal) == bytes);
    incarnation++;
    h = open_with(&plain);
    CHECK_EQ(ps_log_end_offset(h.log), records);
    char found[16] = {0};
    CHECK(pread(fd, found, sizeof found, seal) == (bytes ? bytes : (ssize_t)sizeof found));
    CHECK(memcmp(found, torn, bytes ? (size_t)bytes : 4) == 0);
    close(fd);
    close_handle(h);
  }
}

/* A log start beyond the end is not believed: nothing says what was deleted, so what is there is there. */
static void test_log_start_beyond_the_end(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < 3; i++) must_append(h.log, 10, 100);
  close_handle(h);
  uint8_t words[16];
  ps_store_i64(words, 1000);
  ps_store_u64(words + 8, ~((uint64_t)1000 * PS_HEAD_DURABLE_FACTOR));
  overwrite(head_path(), PS_HEAD_LOG_START_OFF, words, sizeof words);
  incarnation++;
  h = open_with(&plain);
  CHECK_EQ(ps_log_start_offset(h.log), 0);
  CHECK_EQ(ps_log_end_offset(h.log), 30);
  must_append(h.log, 10, 100);
  CHECK_EQ(read_from(h.log, 0), 40);
  close_handle(h);
}

/* Nothing is durable beyond the end, where the files were cut below a log start that is sound. */
static void test_a_log_cut_below_its_start(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  ps_error err;
  must_append(h.log, 10, 100);
  ps_slot slot;
  CHECK(ps_head_read_slot(h.log->head, &slot));
  must_append(h.log, 10, 100);
  CHECK_EQ(ps_log_delete_before(h.log, 12, &err), PS_OK);
  close_handle(h);
  uint8_t torn[8];
  memset(torn, 0x55, sizeof torn);
  overwrite(head_path(), PS_HEAD_DURABLE_CHECK_OFF, torn, sizeof torn);
  CHECK(truncate(segment_path(0), (off_t)slot.position) == 0);
  incarnation++;
  h = open_with(&plain);
  CHECK_EQ(ps_log_end_offset(h.log), 10);
  CHECK(ps_log_start_offset(h.log) <= 10);
  CHECK(ps_log_durable_offset(h.log) <= 10);
  close_handle(h);
}

/* What it may leave of one that was torn while the log start was raised: the new word, and a slot from before
 * the records below it. The word before that one counts: what was deleted does not come back. */
static void test_log_start_beyond_an_older_slot(void) {
  for (int known = 0; known < 2; known++) {
    fresh_directory();
    incarnation++;
    handle h = open_with(&plain);
    ps_error err;
    ps_slot slot;
    must_append(h.log, 20, 100);
    CHECK_EQ(ps_log_delete_before(h.log, 12, &err), PS_OK);
    CHECK(ps_head_read_slot(h.log->head, &slot));
    must_append(h.log, 20, 100);
    CHECK_EQ(ps_log_delete_before(h.log, 36, &err), PS_OK);
    must_append(h.log, 20, 100);
    CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
    memset(h.log->head + PS_HEAD_SLOT0_OFF, 0xff, PS_HEAD_LINE);
    memset(h.log->head + PS_HEAD_SLOT1_OFF, 0xff, PS_HEAD_LINE);
    if (known) ps_head_write_slot(h.log->head, &slot);
    close_handle(h);
    incarnation++;
    h = open_with(&plain);
    CHECK_EQ(ps_log_start_offset(h.log), known ? 12 : 36);
    CHECK_EQ(ps_log_end_offset(h.log), 60);
    CHECK(ps_log_durable_offset(h.log) >= (known ? 12 : 36));
    close_handle(h);
  }
}

/* What a power failure may leave of a head: an old one, that was clean when it reached the disk. */
static void test_stale_clean_head(void) {
  for (int round = 0; round < 3; round++) {
    fresh_directory();
    incarnation++;
    handle h = open_with(&plain);
    must_append(h.log, 10, 100);
    ps_error err;
    CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
    char path[300], kept[400];
    uint8_t head[PS_HEAD_BYTES];
    snprintf(path, sizeof path, "%s/head", directory);
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0 && pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head);
    for (int i = 0; i < (round == 2 ? 100 : 5); i++) must_append(h.log, 10, 100);
    drop_handle(h);
    CHECK(pwrite(fd, head, sizeof head, 0) == (ssize_t)sizeof head);
    close(fd);
    if (round > 0) { /* the page with the first header never reached the disk, those behind it did */
      zero(segment_path(0),
           PS_SEGMENT_HEADER_BYTES + PS_FRAME_HEADER_BYTES + (int64_t)ps_align_up(1000, PS_ALIGN), 64);
    }
    incarnation++;
    h = open_with(&plain);
    CHECK_EQ(ps_log_end_offset(h.log), round ? 10 : 60);
    CHECK_EQ(ps_log_leader_epoch(h.log), round ? 1 : 0);
    snprintf(kept, sizeof kept, "%s.%010d.cut", segment_path(0), 1);
    CHECK((access(kept, F_OK) == 0) == (round > 0));
    must_append(h.log, 10, 100);
    check_all(h.log, round ? 20 : 70);
    close_handle(h);
  }
}

/* A name in the directory must not reach the disk before the header it stands for, where no segment before it
 * could take over. */
static bool header_stored, header_synced;
static int watch_header(void *context, const char *name) {
  (void)context;
  if (strcmp(name, "segment.header") == 0) header_stored = true;
  if (strcmp(name, "sync") == 0) header_synced = header_stored;
  if (strcmp(name, "rename") == 0 && header_stored) CHECK(header_synced);
  if (strcmp(name, "segment.renamed") == 0) header_stored = header_synced = false;
  return 0;
}

static void test_first_header_is_synced(void) {
  ps_env env = {watch_header, NULL};
  fresh_directory();
  incarnation++;
  handle h = open_with(&env);
  must_append(h.log, 10, 100);
  drop_handle(h);
  zero(segment_path(0), PS_SEGMENT_HEADER_BYTES, 64);
  incarnation++;
  h = open_with(&env); /* nothing is left: the log begins again */
  CHECK_EQ(ps_log_end_offset(h.log), 0);
  CHECK_EQ(ps_log_leader_epoch(h.log), 1);
  close_handle(h);
}

/* The log's only segment is cut away whole: there is no moment without one, or with nothing kept of it. */
static int watch_segment(void *context, const char *name) {
  (void)name;
  if (context != NULL) CHECK(access(segment_path(0), F_OK) == 0);
  return 0;
}

static void test_only_segment_is_cut(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  must_append(h.log, 10, 100);
  drop_handle(h);
  zero(segment_path(0), PS_SEGMENT_HEADER_BYTES, 64);
  incarnation++;
  h = open_with(&(ps_env){watch_segment, directory});
  CHECK_EQ(ps_log_leader_epoch(h.log), 1);
  char kept[400];
  snprintf(kept, sizeof kept, "%s.%010d.cut", segment_path(0), 1);
  CHECK(access(kept, F_OK) == 0);
  drop_handle(h);
}

/* The machine has booted since: what was shown and not synced may be gone without a trace, even from the
 * head. Who has read it hears that its epoch ended before; who has not, hears nothing. */
static void test_another_boot(void) {
  for (int round = 0; round < 4; round++) {
    bool lost = round % 2, sync = round / 2;
    ps_durability usual = durability;
    fresh_directory();
    incarnation++;
    handle h = open_with(&plain);
    must_append(h.log, 10, 100);
    ps_error err;
    CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
    char path[300];
    uint8_t head[PS_HEAD_BYTES];
    int64_t end;
    snprintf(path, sizeof path, "%s/head", directory);
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0 && pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head);
    must_append(h.log, 10, 100);
    drop_handle(h);
    if (lost) {
      CHECK(pwrite(fd, head, sizeof head, 0) == (ssize_t)sizeof head);
      zero(segment_path(0),
           PS_SEGMENT_HEADER_BYTES + PS_FRAME_HEADER_BYTES + (int64_t)ps_align_up(1000, PS_ALIGN), 4096);
    }
    close(fd);
    flip(path, PS_HEAD_BOOT_ID_OFF + random_below(16));
    for (int life = 0; life < 2; life++) { /* the second one in the same boot */
      incarnation++;
      durability = sync ? PS_DURABILITY_SYNC : usual;
      h = open_with(&plain);
      CHECK_EQ(ps_log_end_offset(h.log), (lost ? 10 : 20) + 10 * life);
      CHECK_EQ(ps_log_leader_epoch(h.log), 1); /* in sync topics, too: they may not have been that for long */
      CHECK_EQ(ps_log_epoch_end(h.log, 0, &end, &err), PS_OK);
      CHECK_EQ(end, lost ? 10 : 20);
      CHECK(access(segment_path(lost ? 10 : 20), F_OK) < 0); /* nothing is cut, so it goes on where it was */
      must_append(h.log, 10, 100);
      check_all(h.log, (lost ? 20 : 30) + 10 * life);
      drop_handle(h);
    }
    durability = usual;
  }
}

/* The page with the durable offset was torn as it was written: what it now says more is not believed, else
 * what was never synced would be missed. */
static void test_torn_durable_word(void) {
  for (int round = 0; round < 2; round++) {
    fresh_directory();
    incarnation++;
    handle h = open_with(&plain);
    must_append(h.log, 10, 100);
    ps_error err;
    CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
    must_append(h.log, 10, 100);
    drop_handle(h);
    zero(segment_path(0),
         PS_SEGMENT_HEADER_BYTES + PS_FRAME_HEADER_BYTES + (int64_t)ps_align_up(1000, PS_ALIGN), 64);
    int64_t torn = 19;
    if (round)
      flip(head_path(), PS_HEAD_BOOT_ID_OFF); /* else whoever moved it died between the word and its check */
    overwrite(head_path(), PS_HEAD_DURABLE_OFF, &torn, sizeof torn);
    incarnation++;
    h = open_with(&plain);
    CHECK_EQ(ps_log_end_offset(h.log), 10);
    CHECK_EQ(ps_log_durable_offset(h.log), round ? 0 : 10);
    CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
    check_all(h.log, 10);
    drop_handle(h);
  }
}

/* A batch that a later version wrote is not a torn tail. */
static void test_newer_batch(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  must_append(h.log, 10, 100);
  uint64_t position = PS_SEGMENT_HEADER_BYTES + PS_FRAME_HEADER_BYTES + ps_align_up(1000, PS_ALIGN);
  must_append(h.log, 10, 100);
  drop_handle(h);
  uint8_t header[PS_SEGMENT_HEADER_BYTES];
  ps_segment_info info;
  ps_frame_meta meta;
  int fd = open(segment_path(0), O_RDWR);
  CHECK(fd >= 0 && pread(fd, header, sizeof header, 0) == (ssize_t)sizeof header);
  CHECK_EQ(ps_segment_decode_header(header, sizeof header, &info), PS_OK);
  uint8_t *frame = exactly(4096);
  CHECK(pread(fd, frame, 4096, (off_t)position) == 4096);
  CHECK_EQ(ps_frame_decode_header(frame, 4096, info.salt, position, &meta), PS_OK);
  meta.attributes |= 1u << 20;
  ps_frame_encode_header(&meta, info.salt, position, frame);
  CHECK(pwrite(fd, frame, PS_FRAME_HEADER_BYTES, (off_t)position) == (ssize_t)PS_FRAME_HEADER_BYTES);
  close(fd);
  free(frame);
  incarnation++;
  ps_error err;
  CHECK_EQ(try_open(&plain, &h, &err), PS_VERSION);
  CHECK_EQ(err.offset, 10);
  CHECK_EQ(err.position, position);
}

/* Who cannot read the incarnation does not begin another while somebody is there. */
static void test_damaged_live_file(void) {
  fresh_directory();
  uint64_t mine, theirs;
  ps_error err;
  char path[300];
  snprintf(path, sizeof path, "%s/live", directory);
  int first = open(path, O_RDWR | O_CREAT, 0666), second = open(path, O_RDWR);
  CHECK_EQ(ps_live_enter(&plain, path, first, &mine, &err), PS_OK);
  flip(path, PS_LIVE_INCARNATION_OFF);
  CHECK_EQ(ps_live_enter(&plain, path, second, &theirs, &err), PS_CORRUPT);
  close(first);
  CHECK_EQ(ps_live_enter(&plain, path, second, &theirs, &err), PS_OK);
  CHECK(theirs != mine);
  close(second);
}

static void everything(void) {
  RUN(test_death_and_recovery);
  RUN(test_torn_tail);
  RUN(test_damage);
  RUN(test_flipped_head);
  RUN(test_lost_head_and_index);
  RUN(test_poison);
  RUN(test_poison_and_torn_first_batch);
  RUN(test_cut_keeps_earlier_cuts);
  RUN(test_torn_seal);
  RUN(test_log_start_beyond_the_end);
  RUN(test_a_log_cut_below_its_start);
  RUN(test_log_start_beyond_an_older_slot);
  RUN(test_stale_clean_head);
  RUN(test_first_header_is_synced);
  RUN(test_only_segment_is_cut);
  RUN(test_another_boot);
  RUN(test_torn_durable_word);
  RUN(test_newer_batch);
}

int main(void) {
  everything();
  io = PS_IO_PWRITE;
  everything();
  RUN(test_damaged_live_file);
  return 0;
}
