/* Segments written anew: whatever the old file holds, the new one is sound, ends where it must, and has every
 * sound frame of the old one as it was. */
#include "ps_repair.h"

#include "ps_inspect.h"
#include "ps_logs.h"

#define FRAMES 12
#define RECORDS 3
#define WIDTH 700
#define END (FRAMES * RECORDS)

static const char *make_log(void) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < FRAMES; i++) must_append(h.log, RECORDS, WIDTH);
  close_handle(h);
  return segment_path(0);
}

static ps_status rewrite(const char *from, const char *to, int64_t through, bool finished,
                         ps_repair_outcome *out) {
  ps_error err;
  ps_repair_order order = {.env = &plain,
                           .from = from ? open(from, O_RDONLY) : -1,
                           .to = open(to, O_RDWR | O_CREAT | O_TRUNC, 0666),
                           .info = {.salt = 99, .partition = 3, .capacity = PS_SEGMENT_BYTES_MIN},
                           .through = through,
                           .finished = finished};
  CHECK(order.to >= 0 && (from == NULL || order.from >= 0));
  ps_status status = ps_repair_segment(&order, out, &err);
  if (order.from >= 0) close(order.from);
  close(order.to);
  return status;
}

typedef struct tally {
  int64_t records, empty, end_offset; /* empty: offsets of frames without a record */
  uint64_t position;
  ps_verdict sealed;
  uint32_t capacity;
} tally;

/* Everything in the file is sound, and values say that they are where they were. */
static tally must_be_sound(const char *path) {
  tally t = {0};
  ps_error err;
  ps_walk w = {.env = &plain, .end_offset = INT64_MAX, .bodies = true, .buffer_bytes = 1 << 20};
  w.fd = open(path, O_RDONLY);
  w.buffer = exactly(w.buffer_bytes);
  ps_walk_begin(&w);
  for (;;) {
    ps_walk_event event;
    CHECK_EQ(ps_walk_next(&w, &event, &err), PS_OK);
    if (event == PS_WALK_END) break;
    CHECK(event == PS_WALK_HEADER || event == PS_WALK_FRAME || event == PS_WALK_SEAL);
    CHECK_EQ(w.header, PS_SOUND);
    if (event != PS_WALK_FRAME) continue;
    CHECK(w.frame == PS_SOUND && w.body == PS_SOUND && w.columns == PS_SOUND);
    t.records += w.meta.record_count;
    if (w.meta.record_count == 0) t.empty += ps_frame_next_offset(&w.meta) - w.meta.base_offset;
    for (uint32_t i = 0; i < w.meta.record_count; i++)
      CHECK_EQ(ps_load_i64(w.view.values.data + (size_t)i * WIDTH), w.meta.base_offset + i);
  }
  t.end_offset = w.next_offset;
  t.position = w.position;
  t.sealed = w.sealed;
  t.capacity = w.info.capacity;
  CHECK(w.rest == PS_WALK_NOTHING);
  close(w.fd);
  free(w.buffer);
  return t;
}

static void test_whole(void) {
  const char *path = make_log();
  ps_repair_outcome out;
  for (int finished = 0; finished < 2; finished++) {
    CHECK_EQ(rewrite(path, "whole", END, finished, &out), PS_OK);
    tally t = must_be_sound("whole");
    CHECK_EQ(t.records, END);
    CHECK_EQ(t.empty, 0);
    CHECK_EQ(t.end_offset, END);
    CHECK_EQ(t.sealed, finished ? PS_SOUND : PS_UNCHECKED);
    CHECK_EQ(t.capacity, PS_SEGMENT_BYTES_MIN);
    CHECK(out.frames == FRAMES && out.records == END && out.lost == 0 && out.end_offset == END);
    CHECK_EQ(out.bytes, t.position);
  }
}

static void test_through(void) {
  const char *path = make_log();
  ps_repair_outcome out;
  CHECK_EQ(rewrite(path, "short", END - 1, true, &out), PS_OK); /* the last frame reaches beyond */
  tally t = must_be_sound("short");
  CHECK(t.end_offset == END - 1 && t.records == END - RECORDS && t.empty == RECORDS - 1);
  CHECK_EQ(rewrite(path, "open", END - 1, false, &out), PS_OK); /* nothing follows: it stays */
  CHECK_EQ(must_be_sound("open").end_offset, END);
  CHECK_EQ(rewrite(path, "long", END + 1, true, &out), PS_OK);
  t = must_be_sound("long");
  CHECK(t.end_offset == END + 1 && t.records == END && t.empty == 1);
}

static void test_nothing(void) {
  static const int64_t ends[] = {0, 1, UINT32_MAX - 1ll, UINT32_MAX, UINT32_MAX + 1ll, 3 * (1ll << 32) + 7};
  ps_repair_outcome out;
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
    CHECK_EQ(rewrite(NULL, "nothing", ends[i], true, &out), PS_OK);
    tally t = must_be_sound("nothing");
    CHECK(t.end_offset == ends[i] && t.empty == ends[i] && t.records == 0 && out.lost == ends[i]);
  }
  /* More than a log can have given out: refused at once, not cut short. */
  CHECK_EQ(rewrite(NULL, "nothing", PS_REPAIR_GAP_MAX, true, &out), PS_OK);
  CHECK(out.lost == PS_REPAIR_GAP_MAX && out.end_offset == PS_REPAIR_GAP_MAX);
  struct stat made;
  for (int64_t end = PS_REPAIR_GAP_MAX + 1; end > 0; end = end < INT64_MAX ? INT64_MAX : 0) {
    CHECK_EQ(rewrite(NULL, "nothing", end, true, &out), PS_TOO_LARGE);
    CHECK(stat("nothing", &made) == 0 && made.st_size == 0);
  }
}

static void test_anything(void) {
  const char *path = make_log();
  static uint8_t whole[PS_SEGMENT_BYTES_MIN], bytes[PS_SEGMENT_BYTES_MIN];
  int fd = open(path, O_RDWR);
  CHECK(pread(fd, whole, sizeof whole, 0) == (ssize_t)sizeof whole);
  ps_repair_outcome plainly;
  CHECK_EQ(rewrite(path, "any", END, false, &plainly), PS_OK);
  uint64_t used = plainly.bytes;
  for (int turn = 0; turn < 400; turn++) {
    ps_repair_outcome out;
    memcpy(bytes, whole, sizeof whole);
    for (int n = 1 + (int)random_below(3); n-- > 0;) {
      uint64_t at = PS_SEGMENT_HEADER_BYTES + random_below((uint32_t)(used - PS_SEGMENT_HEADER_BYTES));
      uint64_t size = 1 + random_below(turn % 2 ? 8 : 9000), from = random_below((uint32_t)used);
      if (size > used - at) size = used - at;
      if (size > used - from) size = used - from;
      if (turn % 3 == 0)
        memset(bytes + at, 0, size);
      else if (turn % 3 == 1)
        memmove(bytes + at, bytes + from, size);
      else
        for (uint64_t i = 0; i < size; i++) bytes[at + i] ^= (uint8_t)random_below(256);
    }
    CHECK(pwrite(fd, bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes);
    CHECK_EQ(rewrite(path, "any", END, true, &out), PS_OK);
    tally t = must_be_sound("any");
    CHECK(t.end_offset == END && t.sealed == PS_SOUND);
    CHECK_EQ(t.records + t.empty, END);
    CHECK_EQ(t.records, (int64_t)out.records);
    CHECK_EQ(t.empty, out.lost);
  }
  close(fd);
}

static void test_index(void) {
  static uint8_t before[1 << 16], after[1 << 16];
  char path[300];
  ps_error err;
  make_log();
  snprintf(path, sizeof path, "%s/%020d.index", directory, 0);
  int fd = open(path, O_RDWR);
  ssize_t size = pread(fd, before, sizeof before, 0);
  CHECK(size > (ssize_t)PS_INDEX_HEADER_BYTES);
  for (int turn = 0; turn < 50; turn++) {
    uint8_t bad = (uint8_t)random_below(256);
    CHECK(pwrite(fd, &bad, 1, (off_t)random_below((uint32_t)size)) == 1);
    close(fd);
    CHECK_EQ(ps_repair_index(&plain, directory, 0, 1024, &err), PS_OK);
    fd = open(path, O_RDWR);
    CHECK(pread(fd, after, sizeof after, 0) == size);
    CHECK(memcmp(before, after, (size_t)size) == 0); /* the one rule, and so the same bytes */
  }
  close(fd);
  CHECK(unlink(path) == 0);
  CHECK_EQ(ps_repair_index(&plain, directory, 0, 1024, &err), PS_OK);
  fd = open(path, O_RDONLY);
  CHECK(pread(fd, after, sizeof after, 0) == size && memcmp(before, after, (size_t)size) == 0);
  close(fd);
  CHECK_EQ(ps_repair_index(&plain, directory, 77, 1024, &err), PS_NOT_FOUND);
}

static void test_unsettle(void) {
  char path[300];
  ps_error err;
  make_log();
  snprintf(path, sizeof path, "%s/head", directory);
  CHECK_EQ(ps_repair_unsettle(&plain, path, &err), PS_OK);
  uint64_t state;
  int fd = open(path, O_RDWR);
  CHECK(pread(fd, &state, 8, PS_HEAD_STATE_OFF) == 8 && state % 2 == 1);
  incarnation++;
  handle h = open_with(&plain); /* walks, and finds the end where it was */
  CHECK_EQ(ps_log_end_offset(h.log), END);
  close_handle(h);
  CHECK(pread(fd, &state, 8, PS_HEAD_STATE_OFF) == 8 && state % 2 == 0);
  CHECK(ftruncate(fd, 100) == 0);
  CHECK_EQ(ps_repair_unsettle(&plain, path, &err), PS_OK);
  close(fd);
  CHECK(unlink(path) == 0);
  CHECK_EQ(ps_repair_unsettle(&plain, path, &err), PS_OK);
}

static void test_epoch(void) {
  uint8_t bytes[PS_EPOCH_ENTRY_BYTES];
  ps_epoch_entry entry;
  ps_repair_epoch(5, 1000, 77, bytes);
  CHECK(ps_inspect_epoch(bytes, &entry));
  CHECK(entry.epoch == 5 && entry.first_offset == 1000 && entry.created_ns == 77);
}

int main(void) {
  test_whole();
  test_through();
  test_nothing();
  test_anything();
  test_index();
  test_unsettle();
  test_epoch();
  return 0;
}
