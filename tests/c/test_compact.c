/* Compaction against a list of all that was appended: what stays, what goes, and when. */
#include <stdarg.h>

#include "ps_compact_internal.h"
#include "ps_compactions.h"
#include "ps_index.h"
#include "ps_log_internal.h"

/* ---- lives ------------------------------------------------------------------------------------- */

static void random_life(uint64_t seed) {
  test_seed = seed;
  forget_all();
  fixed = random_below(3) == 0;
  by_append_time = random_below(4) == 0;
  keys_max = random_below(2) ? 10 : 400;
  fresh_directory();
  handle h = open_with(&plain);
  int steps = 6 + (int)random_below(8);
  for (int step = 0; step < steps; step++) {
    if (end_offset < RECORDS_MAX - 30000) add_some(h.log, 10 + (int)random_below(60));
    if (random_below(6)) must_sync(h.log);
    if (random_below(4) == 0) {
      close_handle(h);
      incarnation += random_below(2);
      h = open_with(&plain);
      check_model(h.log, end_offset);
    }
    ps_compaction rule = everything;
    rule.delete_retention_ns = random_below(2) ? 1000 : 40000000;
    if (random_below(3) == 0) rule.map_bytes = 1024;
    if (random_below(4) == 0) rule.max_bytes = 1 + random_below(200000);
    if (random_below(5) == 0) rule.lag_ns = random_below(40000000);
    (void)compact(h.log, rule);
    check_model(h.log, end_offset);
    clock_ns += random_below(2) ? 5000 : 50000000;
  }
  close_handle(h);
  incarnation++;
  h = open_with(&plain);
  check_model(h.log, end_offset);
  close_handle(h);
  by_append_time = fixed = false;
  keys_max = 40;
}

static void random_lives(void) {
  for (uint64_t seed = 1; seed <= 40; seed++) random_life(seed);
}

/* ---- what it keeps ----------------------------------------------------------------------------- */

static void begin_log(uint64_t seed) {
  test_seed = seed;
  forget_all();
  fresh_directory();
}

static void fill(ps_log *log, uint32_t batches, bool keys, bool tombstones, int64_t producer) {
  for (uint32_t i = 0; i < batches; i++) {
    shape_of_batch s = {.count = 20, .keys = keys, .tombstones = tombstones, .producer = producer};
    must_add(log, &s);
    clock_ns += 1000;
  }
}

static void null_keys_stay(void) {
  begin_log(20);
  handle h = open_with(&plain);
  fill(h.log, 100, false, false, PS_NONE);
  must_sync(h.log);
  ps_compacted out = compact(h.log, everything);
  CHECK(out.ran);
  CHECK_EQ(out.records_removed, 0);
  check_model(h.log, end_offset);
  for (int64_t i = 0; i < end_offset; i++) CHECK(present[i]);
  close_handle(h);
}

static void the_young_stay(void) {
  begin_log(21);
  handle h = open_with(&plain);
  fill(h.log, 120, true, false, PS_NONE);
  int64_t old = end_offset, then = clock_ns;
  fill(h.log, 120, true, false, PS_NONE);
  must_sync(h.log);
  ps_compaction rule = everything;
  rule.lag_ns = clock_ns - then;
  ps_compacted out = compact(h.log, rule);
  CHECK(out.ran && out.cleaned_offset <= old && out.records_removed > 0);
  check_model(h.log, end_offset);
  for (int64_t i = old; i < end_offset; i++) CHECK(present[i]);
  ps_compactable look;
  ps_error err;
  CHECK_EQ(ps_compact_look(h.log, clock_ns, rule.lag_ns, &look, &err), PS_OK);
  CHECK_EQ(look.dirty_bytes, 0);
  CHECK_EQ(ps_compact_look(h.log, clock_ns, 0, &look, &err), PS_OK);
  CHECK(look.dirty_bytes > 0 && look.clean_bytes > 0 && look.ratio > 0.5 && look.ratio < 1);
  rule.lag_ns = 0;
  rule.min_dirty_ratio = look.ratio + 1e-9; /* one less, and it would be worth it */
  CHECK(!compact(h.log, rule).ran);
  rule.min_dirty_ratio = look.ratio;
  CHECK(compact(h.log, rule).ran);
  check_model(h.log, end_offset);
  close_handle(h);
}

/* A tombstone goes when its time is over, though nothing new has come; not a nanosecond before. */
static void tombstones_have_their_time(void) {
  begin_log(22);
  handle h = open_with(&plain);
  ps_compaction rule = everything;
  rule.delete_retention_ns = 1000000000;
  fill(h.log, 200, true, true, PS_NONE);
  fill(h.log, 200, false, false, PS_NONE);
  must_sync(h.log);
  ps_compacted out = compact(h.log, rule);
  CHECK_EQ(out.next_horizon, clock_ns + rule.delete_retention_ns);
  uint64_t tombstones = 0;
  check_model(h.log, end_offset);
  for (int64_t i = 0; i < out.cleaned_offset; i++) tombstones += present[i] && entries[i].tag < 0;
  CHECK(tombstones > 0);
  /* A pass that leaves their segments as they are remembers when that is. */
  int64_t horizon = out.next_horizon;
  fill(h.log, 200, false, false, PS_NONE);
  must_sync(h.log);
  out = compact(h.log, rule);
  CHECK(out.ran);
  CHECK_EQ(out.records_removed, 0);
  CHECK_EQ(out.next_horizon, horizon);
  clock_ns = out.next_horizon - 1;
  ps_compactable look;
  ps_error err;
  CHECK_EQ(ps_compact_look(h.log, clock_ns, 0, &look, &err), PS_OK);
  CHECK(!look.due && look.dirty_bytes == 0);
  CHECK(!compact(h.log, everything).ran);
  clock_ns++;
  CHECK_EQ(ps_compact_look(h.log, clock_ns, 0, &look, &err), PS_OK);
  CHECK(look.due);
  out = compact(h.log, everything);
  CHECK(out.ran);
  CHECK_EQ(out.records_removed, tombstones);
  CHECK_EQ(out.next_horizon, 0);
  check_model(h.log, end_offset);
  CHECK(!compact(h.log, everything).ran);
  close_handle(h);
}

/* Where a log ends before what is said to be compacted, what comes there has yet to be. */
static void a_cut_takes_back_what_was_compacted(void) {
  begin_log(29);
  handle h = open_with(&plain);
  fill(h.log, 10, true, false, PS_NONE);
  must_sync(h.log);
  ps_head_set_cleaned(h.log->head, end_offset + 1000);
  close_handle(h);
  incarnation++;
  h = open_with(&plain);
  CHECK_EQ(ps_head_cleaned(h.log->head), end_offset);
  close_handle(h);
}

/* The batch with the highest sequence of a producer stays, if only as an empty frame of its. */
static void producers_stay_known(void) {
  begin_log(23);
  keys_max = 5;
  handle h = open_with(&plain);
  for (int64_t i = 0; i < 6; i++) fill(h.log, 2, true, false, i);
  fill(h.log, 200, true, false, PS_NONE);
  must_sync(h.log);
  CHECK(compact(h.log, everything).records_removed > 0);
  int seen[6] = {0};
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(h.log, &cursor, 0, &err), PS_OK);
  while (ps_cursor_next(h.log, &cursor, &view, &err) == PS_OK) {
    if (view.meta.producer_id == PS_NONE) continue;
    CHECK_EQ(view.meta.record_count, 0);
    CHECK_EQ(view.meta.producer_epoch, 1);
    CHECK_EQ(view.meta.base_sequence, view.meta.base_offset); /* its last batch: as it was numbered */
    seen[view.meta.producer_id]++;
  }
  ps_cursor_clear(&cursor);
  for (int i = 0; i < 6; i++) CHECK_EQ(seen[i], 1);
  check_model(h.log, end_offset);
  close_handle(h);
  keys_max = 40;
}

static int64_t last_base(void) {
  char command[400];
  long long base = -1;
  snprintf(command, sizeof command, "ls %s | grep 'log$' | tail -1", directory);
  FILE *f = popen(command, "r");
  CHECK(f && fscanf(f, "%lld", &base) == 1);
  pclose(f);
  return base;
}

/* Several leader epochs: files of one are merged, of two they are not, and each frame keeps its own. */
static void epochs_stay_apart(void) {
  begin_log(24);
  for (int life = 0; life < 3; life++) {
    handle h = open_with(&plain);
    fill(h.log, 150, true, false, PS_NONE);
    must_sync(h.log);
    ps_slot slot;
    CHECK(ps_head_read_slot(h.log->head, &slot));
    close_handle(h);
    char *path = segment_path(last_base()); /* a torn tail: the next life begins a segment, and an epoch */
    int fd = open(path, O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, path, 20, (off_t)slot.position) == 20);
    close(fd);
    incarnation++;
  }
  handle h = open_with(&plain);
  check_model(h.log, 0);
  compact(h.log, everything);
  check_model(h.log, end_offset);
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(h.log, &cursor, 0, &err), PS_OK);
  while (ps_cursor_next(h.log, &cursor, &view, &err) == PS_OK)
    CHECK_EQ(view.meta.leader_epoch, view.segment->leader_epoch);
  CHECK_EQ(cursor.next_offset, end_offset);
  ps_cursor_clear(&cursor);
  CHECK_EQ(ps_log_leader_epoch(h.log), 3);
  close_handle(h);
}

/* The log starts within a segment: what lies below it goes, even of those without a key. */
static void below_the_log_start_all_goes(void) {
  begin_log(25);
  handle h = open_with(&plain);
  fill(h.log, 30, false, false, PS_NONE);
  fill(h.log, 200, true, false, PS_NONE);
  must_sync(h.log);
  ps_error err = {0};
  CHECK_EQ(ps_log_delete_before(h.log, 305, &err), PS_OK);
  check_model(h.log, 0);
  ps_compacted out = compact(h.log, everything);
  CHECK(out.ran);
  check_model(h.log, end_offset);
  for (int64_t i = 305; i < 600; i++) CHECK(present[i]);
  CHECK_EQ(ps_log_start_offset(h.log), 305);
  finish_after(&h);
  close_handle(h);
}

/* What is damaged stops it before anything is changed. */
static void damage_is_left_alone(void) {
  begin_log(26);
  handle h = open_with(&plain);
  fill(h.log, 200, true, false, PS_NONE);
  must_sync(h.log);
  close_handle(h);
  flip(segment_path(0), 5000);
  h = open_with(&plain);
  ps_compaction rule = everything;
  ps_compacted out;
  ps_error err = {0};
  rule.now_ns = clock_ns;
  uint64_t before = files_named("log$");
  CHECK_EQ(pass(h.log, &rule, &out, &err), PS_CORRUPT);
  CHECK_EQ(err.segment, 0);
  CHECK(err.offset >= 0 && err.position > 0);
  CHECK_EQ(files_named("log$"), before);
  CHECK_EQ(files_named("tmp"), 0);
  flip(segment_path(0), 5000);
  close_handle(h);
}

static void run_command(const char *format, ...) {
  char command[1200];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(command, sizeof command, format, arguments);
  va_end(arguments);
  CHECK_EQ(system(command), 0);
}

/* The seal of a finished segment never reached the disk. */
static void take_seal(int64_t base) {
  struct stat st;
  CHECK_EQ(stat(segment_path(base), &st), 0);
  zero(segment_path(base), st.st_size - (int64_t)PS_SEAL_BYTES, (int)PS_SEAL_BYTES);
}

static size_t all_bases(handle *h, int64_t **bases) {
  int64_t active;
  size_t count;
  ps_error err = {0};
  CHECK_EQ(ps_compact_bases(h->log, bases, &count, &active, &err), PS_OK);
  CHECK_EQ(active, last_base());
  return count;
}

/* Where no seal says where a finished segment ends, its frames do. */
static void seals_may_be_lost(void) {
  for (int which = 0; which < 4; which++) {
    int64_t *bases;
    begin_log(30);
    handle h = open_with(&plain);
    fill(h.log, 200, true, false, PS_NONE);
    must_sync(h.log);
    size_t count = all_bases(&h, &bases);
    CHECK(count >= 3);
    close_handle(h);
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
      struct stat st;
      CHECK_EQ(stat(segment_path(bases[i]), &st), 0);
      bytes += (uint64_t)st.st_size;
      if (which == 0 || (which == 1 && i == 0) || (which == 2 && i == count - 1) ||
          (which == 3 && random_below(2)))
        take_seal(bases[i]);
    }
    free(bases);
    h = open_with(&plain);
    ps_compactable look;
    ps_error err;
    CHECK_EQ(ps_compact_look(h.log, clock_ns, 0, &look, &err), PS_OK);
    CHECK_EQ(look.dirty_bytes + look.clean_bytes, bytes);
    ps_compacted out = compact(h.log, everything);
    CHECK(out.ran && out.cleaned_offset == last_base());
    check_model(h.log, end_offset);
    finish_after(&h);
    close_handle(h);
  }
}

/* What a merge has left behind goes in the order of its offsets, with or without seals; where one cannot be
 * read, those after it stay, so that whoever reads there goes on (C1). */
static void leftovers_go_in_order(void) {
  for (int damaged = 0; damaged < 2; damaged++) {
    int64_t *bases;
    uint64_t files;
    ps_error err = {0};
    begin_log(31);
    handle h = open_with(&plain);
    fill(h.log, 200, true, false, PS_NONE);
    must_sync(h.log);
    size_t count = all_bases(&h, &bases);
    CHECK(count >= 4);
    run_command("rm -rf %s.before && cp -a %s %s.before", directory, directory, directory);
    CHECK(compact(h.log, everything).segments_after < count);
    close_handle(h);
    /* All but the first were taken in by it. */
    CHECK(access(segment_path(bases[count - 1]), F_OK) != 0);
    for (size_t i = 1; i < count; i++) {
      run_command("cp -a %s.before/%020lld.log %s/", directory, (long long)bases[i], directory);
      if (i % 2) take_seal(bases[i]);
    }
    if (damaged) flip(segment_path(bases[2]), 10);
    h = open_with(&plain);
    check_model(h.log, end_offset);
    CHECK_EQ(ps_compact_sweep(h.log, &files, &err), PS_OK);
    CHECK_EQ(files, damaged ? 1 : count - 1);
    for (size_t i = 0; i < count; i++) {
      ps_cursor cursor;
      ps_frame_view view;
      if (damaged && i == 2) continue;
      ps_cursor_init(&cursor);
      CHECK_EQ(ps_cursor_seek(h.log, &cursor, bases[i], &err), PS_OK);
      CHECK_EQ(ps_cursor_next(h.log, &cursor, &view, &err), PS_OK);
      CHECK(view.meta.base_offset <= bases[i] && ps_frame_next_offset(&view.meta) > bases[i]);
      ps_cursor_clear(&cursor);
    }
    close_handle(h);
    free(bases);
    run_command("rm -rf %s.before", directory);
  }
}

/* With an older head, recovery would begin in what a merge has left, while readers come to what it has made:
 * both begin there. Nothing of what is left is written to, and what is shown ends with a frame. */
static void recovery_begins_with_the_merged(void) {
  durability = PS_DURABILITY_SYNC;
  for (int reads = 0; reads < 2; reads++) {
    int64_t *bases;
    begin_log(33);
    handle h = open_with(&plain);
    fill(h.log, 60, true, false, PS_NONE);
    must_sync(h.log);
    run_command("cp %s/head %s.head", directory, directory);
    int64_t durable = ps_log_durable_offset(h.log);
    fill(h.log, 140, true, false, PS_NONE);
    must_sync(h.log);
    size_t count = all_bases(&h, &bases);
    run_command("rm -rf %s.before && cp -a %s %s.before", directory, directory, directory);
    ps_compacted out = compact(h.log, everything);
    CHECK(out.segments_after < count);
    int64_t last = bases[count - 1];
    close_handle(h);
    for (size_t i = 1; i < count; i++) {
      run_command("cp -a %s.before/%020lld.log %s/", directory, (long long)bases[i], directory);
      take_seal(bases[i]);
    }
    run_command("cat %s.head > %s/head", directory, directory); /* the same inode */
    incarnation++;
    CHECK(durable > 0 && durable < last);
    if (reads) {
      ps_log_options options = options_of(true);
      ps_log *log;
      ps_error err = {0};
      ps_status status = ps_log_open(&plain, directory, -1, &options, false, &log, &err);
      CHECK_MSG(status == PS_OK, "(%d: %s)", status, err.what);
      int64_t shown = ps_log_high_watermark(log);
      CHECK(shown > durable);
      ps_cursor cursor;
      ps_frame_view view;
      ps_cursor_init(&cursor);
      CHECK_EQ(ps_cursor_seek(log, &cursor, 0, &err), PS_OK);
      while ((status = ps_cursor_next(log, &cursor, &view, &err)) == PS_OK) continue;
      CHECK_EQ(status, PS_END);
      CHECK_EQ(cursor.next_offset, shown);
      ps_cursor_clear(&cursor);
      CHECK_EQ(ps_log_close(log, &err), PS_OK);
      ps_log_free(log);
    } else {
      h = open_with(&plain);
      CHECK_EQ(ps_log_end_offset(h.log), end_offset);
      check_model(h.log, end_offset);
      close_handle(h);
    }
    for (size_t i = 1; i < count; i++)
      run_command("tail -c 64 %s/%020lld.log | cmp -s -n 64 - /dev/zero", directory, (long long)bases[i]);
    free(bases);
    run_command("rm -rf %s.before %s.head", directory, directory);
  }
  durability = PS_DURABILITY_INTERVAL;
}

/* A segment that lies below the log start is nobody's, even if it is the last one that is finished. */
static void what_was_deleted_may_be_damaged(void) {
  begin_log(32);
  handle h = open_with(&plain);
  fill(h.log, 60, true, false, PS_NONE);
  must_sync(h.log);
  int64_t *bases, active = last_base();
  size_t count = all_bases(&h, &bases);
  CHECK(count >= 1);
  run_command("rm -rf %s.before && cp -a %s %s.before", directory, directory, directory);
  ps_error err = {0};
  CHECK_EQ(ps_log_delete_before(h.log, active, &err), PS_OK);
  run_command("cp -a %s.before/*.log %s/", directory, directory);
  flip(segment_path(bases[count - 1]), 10);
  ps_compactable look;
  CHECK_EQ(ps_compact_look(h.log, clock_ns, 0, &look, &err), PS_OK);
  CHECK_EQ(look.dirty_bytes + look.clean_bytes, 0);
  CHECK(!compact(h.log, everything).ran);
  close_handle(h);
  free(bases);
  run_command("rm -rf %s.before", directory);
}

/* One that was never written to, and one whose only segment is being written to. */
static void nothing_to_do(void) {
  begin_log(27);
  handle h = open_with(&plain);
  CHECK(!compact(h.log, everything).ran);
  fill(h.log, 2, true, false, PS_NONE);
  must_sync(h.log);
  CHECK(!compact(h.log, everything).ran);
  ps_compactable look;
  ps_error err;
  CHECK_EQ(ps_compact_look(h.log, clock_ns, 0, &look, &err), PS_OK);
  CHECK(look.dirty_bytes == 0 && look.clean_bytes == 0 && look.ratio == 0 && !look.due);
  close_handle(h);
}

/* What is not durable yet is not touched. */
static void only_what_is_durable(void) {
  begin_log(28);
  handle h = open_with(&plain);
  fill(h.log, 100, true, false, PS_NONE);
  must_sync(h.log);
  int64_t durable = ps_log_durable_offset(h.log);
  fill(h.log, 200, true, false, PS_NONE);
  ps_compacted out = compact(h.log, everything);
  CHECK(out.cleaned_offset <= durable);
  check_model(h.log, end_offset);
  for (int64_t i = durable; i < end_offset; i++) CHECK(present[i]);
  close_handle(h);
}

/* The index of what was written anew is whole, and no larger than it has to be. */
static void is_indexed(void) {
  begin_log(29);
  handle h = open_with(&plain);
  keys_max = 3000;
  fill(h.log, 400, true, false, PS_NONE);
  must_sync(h.log);
  CHECK(compact(h.log, everything).ran);
  ps_segment *segment;
  ps_error err = {0};
  CHECK_EQ(ps_segment_open(&plain, directory, 0, &segment, &err), PS_OK);
  CHECK_EQ(ps_index_open(&plain, directory, segment, false, false, 1024, &err), PS_OK);
  CHECK(segment->index_capacity >= 10);
  ps_index_entry entry, last = {0};
  for (int64_t offset = 0; offset < 4000; offset += 50)
    if (ps_index_find_offset(segment, offset, &entry)) {
      ps_frame_meta meta;
      CHECK_EQ(ps_frame_decode_header(segment->map + entry.position, segment->capacity - entry.position,
                                      segment->salt, entry.position, &meta),
               PS_OK);
      CHECK_EQ(meta.base_offset, entry.offset);
      CHECK(entry.position >= last.position);
      last = entry;
    }
  CHECK(last.position > 0);
  ps_segment_unref(segment);
  close_handle(h);
  keys_max = 40;
}

int main(void) {
  RUN(random_lives);
  RUN(null_keys_stay);
  RUN(the_young_stay);
  RUN(tombstones_have_their_time);
  RUN(producers_stay_known);
  RUN(a_cut_takes_back_what_was_compacted);
  RUN(epochs_stay_apart);
  RUN(below_the_log_start_all_goes);
  RUN(damage_is_left_alone);
  RUN(seals_may_be_lost);
  RUN(leftovers_go_in_order);
  RUN(recovery_begins_with_the_merged);
  RUN(what_was_deleted_may_be_damaged);
  RUN(nothing_to_do);
  RUN(only_what_is_durable);
  RUN(is_indexed);
  return 0;
}
