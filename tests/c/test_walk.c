/* Walking segment files, whole, damaged, and being anything at all; nothing is read beyond what is there. */
#include "ps_walk.h"

#include "ps_inspect.h"
#include "ps_logs.h"

#define FRAMES 12
#define RECORDS 3
#define WIDTH 700

typedef struct seen {
  int frames, sound, damage, seals;
  int64_t lost; /* offsets that cannot be read */
  ps_walk walk;
} seen;

/* Walk the file at path with buffers of exactly the size asked for. */
static seen walk_file(const char *path, int64_t end_offset, uint64_t salt, bool bodies) {
  seen s = {0};
  ps_walk *w = &s.walk;
  *w = (ps_walk){.env = &plain, .end_offset = end_offset, .salt = salt, .bodies = bodies};
  w->fd = open(path, O_RDONLY);
  CHECK(w->fd >= 0);
  w->buffer = exactly(PS_WALK_BUFFER_BYTES_MIN);
  w->buffer_bytes = PS_WALK_BUFFER_BYTES_MIN;
  ps_walk_begin(w);
  uint64_t reached = 0;
  for (int step = 0;; step++) {
    ps_walk_event event;
    ps_error err;
    CHECK_EQ(ps_walk_next(w, &event, &err), PS_OK);
    CHECK_EQ(event == PS_WALK_HEADER, step == 0);
    CHECK(step < 100000);
    if (event == PS_WALK_END) break;
    if (event == PS_WALK_NEED) {
      CHECK(w->need_buffer > w->buffer_bytes || w->need_scratch > w->scratch_bytes);
      free(w->buffer);
      free(w->scratch);
      w->buffer = exactly(w->buffer_bytes = w->need_buffer);
      w->scratch = w->need_scratch ? exactly(w->scratch_bytes = w->need_scratch) : NULL;
      continue;
    }
    CHECK(w->position >= reached && w->to >= w->position && w->to <= w->size);
    reached = w->to;
    if (event == PS_WALK_FRAME) {
      bool sound = w->body != PS_DAMAGED && w->columns != PS_DAMAGED;
      CHECK_EQ(w->to - w->position, w->meta.frame_bytes);
      s.frames++;
      s.sound += sound;
      if (!sound) s.lost += ps_frame_next_offset(&w->meta) - w->meta.base_offset;
    } else if (event == PS_WALK_DAMAGE) {
      s.damage++;
      if (w->found > w->missing) s.lost += w->found - w->missing;
    } else if (event == PS_WALK_SEAL) {
      s.seals++;
    }
  }
  ps_walk_event again;
  ps_error err;
  CHECK(ps_walk_next(w, &again, &err) == PS_OK && again == PS_WALK_END); /* and it stays there */
  close(w->fd);
  free(w->buffer);
  free(w->scratch);
  return s;
}

/* One partition with FRAMES frames; the path of its segment. */
static const char *make_log(uint64_t *salt) {
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  for (int i = 0; i < FRAMES; i++) must_append(h.log, RECORDS, WIDTH);
  close_handle(h);
  const char *path = segment_path(0);
  seen s = walk_file(path, INT64_MAX, 0, true);
  *salt = s.walk.info.salt;
  CHECK_EQ(s.walk.header, PS_SOUND);
  CHECK_EQ(s.frames, FRAMES);
  CHECK_EQ(s.sound, FRAMES);
  CHECK_EQ(s.damage, 0);
  CHECK_EQ(s.walk.next_offset, FRAMES * RECORDS);
  CHECK_EQ(s.walk.rest, PS_WALK_ZEROS);
  return path;
}

static void test_bounded(void) {
  uint64_t salt;
  const char *path = make_log(&salt);
  for (int64_t end = 0; end <= FRAMES * RECORDS; end++) {
    seen s = walk_file(path, end, 0, true);
    CHECK_EQ(s.frames, (end + RECORDS - 1) / RECORDS);
    CHECK_EQ(s.walk.rest, PS_WALK_UNSEEN);
    CHECK_EQ(s.damage, 0);
  }
}

static void test_flipped(void) {
  uint64_t salt;
  const char *path = make_log(&salt);
  seen whole = walk_file(path, INT64_MAX, 0, true);
  uint64_t end = whole.walk.position, frame = (end - PS_SEGMENT_HEADER_BYTES) / FRAMES;
  int fd = open(path, O_RDWR);
  for (uint64_t at = 0; at < end; at += at < 256 ? 1 : 1 + random_below(16)) {
    uint8_t byte, bad;
    CHECK(pread(fd, &byte, 1, (off_t)at) == 1);
    bad = byte ^ (uint8_t)(1u << random_below(8));
    CHECK(pwrite(fd, &bad, 1, (off_t)at) == 1);
    seen s = walk_file(path, INT64_MAX, salt, true);
    if (at < PS_SEGMENT_HEADER_BYTES) {
      CHECK(s.walk.header != PS_SOUND);
      CHECK_EQ(s.sound, FRAMES);
    } else {
      bool last = (at - PS_SEGMENT_HEADER_BYTES) / frame == FRAMES - 1;
      CHECK_EQ(s.sound, FRAMES - 1);
      /* The last frame without its header looks like a torn append: only the head knows better. */
      CHECK(s.lost == RECORDS || (last && s.walk.rest == PS_WALK_BYTES));
    }
    CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1);
  }
  close(fd);
  CHECK_EQ(walk_file(path, INT64_MAX, 0, true).sound, FRAMES);
}

static void test_truncated(void) {
  uint64_t salt;
  const char *path = make_log(&salt);
  seen whole = walk_file(path, INT64_MAX, 0, true);
  uint64_t end = whole.walk.position, frame = (end - PS_SEGMENT_HEADER_BYTES) / FRAMES;
  for (uint64_t size = end + 64; size-- > 0; size -= size > 700 ? random_below(97) : 0) {
    CHECK(truncate(path, (off_t)size) == 0);
    seen s = walk_file(path, INT64_MAX, salt, true);
    uint64_t kept = size < PS_SEGMENT_HEADER_BYTES ? 0 : (size - PS_SEGMENT_HEADER_BYTES) / frame;
    CHECK_EQ(s.sound, (int)(kept < FRAMES ? kept : FRAMES));
    CHECK(s.walk.size == size);
  }
}

static void test_sealed(void) {
  uint64_t salt;
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  while (access(segment_path(ps_log_end_offset(h.log) - RECORDS), F_OK) != 0 ||
         ps_log_end_offset(h.log) < 2 * RECORDS)
    must_append(h.log, RECORDS, WIDTH);
  int64_t next = ps_log_end_offset(h.log) - RECORDS;
  close_handle(h);
  const char *path = segment_path(0);
  seen s = walk_file(path, INT64_MAX, 0, true);
  salt = s.walk.info.salt;
  CHECK_EQ(s.seals, 1);
  CHECK_EQ(s.walk.sealed, PS_SOUND);
  CHECK_EQ(s.walk.seal.end_offset, next);
  CHECK_EQ(s.walk.seal.frames, (uint64_t)s.frames);
  CHECK_EQ(s.walk.rest, PS_WALK_NOTHING);
  for (int at = 0; at < (int)PS_SEAL_BYTES; at++) {
    flip(path, (int64_t)s.walk.size - PS_SEAL_BYTES + at);
    seen bad = walk_file(path, INT64_MAX, salt, true);
    CHECK_EQ(bad.sound, s.frames);
    CHECK(bad.walk.sealed != PS_SOUND);
    CHECK(bad.walk.sealed == PS_DAMAGED || bad.walk.rest == PS_WALK_BYTES);
    zero(path, (int64_t)s.walk.size - PS_SEAL_BYTES, PS_SEAL_BYTES);
    uint8_t seal[PS_SEAL_BYTES];
    ps_seal_encode(&s.walk.seal, salt, s.walk.size - PS_SEAL_BYTES, seal);
    int fd = open(path, O_RDWR);
    CHECK(pwrite(fd, seal, sizeof seal, (off_t)(s.walk.size - PS_SEAL_BYTES)) == sizeof seal);
    close(fd);
  }
}

/* Frames that do not join, and one of a later version. */
static void test_forged(void) {
  uint64_t salt;
  const char *path = make_log(&salt);
  seen whole = walk_file(path, INT64_MAX, 0, true);
  uint64_t frame = (whole.walk.position - PS_SEGMENT_HEADER_BYTES) / FRAMES;
  uint64_t at = PS_SEGMENT_HEADER_BYTES + 4 * frame;
  uint8_t header[PS_FRAME_HEADER_BYTES];
  ps_frame_meta meta;
  int fd = open(path, O_RDWR);
  CHECK(pread(fd, header, sizeof header, (off_t)at) == sizeof header);
  CHECK_EQ(ps_frame_decode_header(header, frame, salt, at, &meta), PS_OK);
  for (int64_t shift = -2; shift <= 2; shift++) {
    ps_frame_meta moved = meta;
    moved.base_offset += shift;
    ps_frame_encode_header(&moved, salt, at, header);
    CHECK(pwrite(fd, header, sizeof header, (off_t)at) == sizeof header);
    seen s = walk_file(path, INT64_MAX, 0, true);
    CHECK_EQ(s.frames, FRAMES);
    CHECK_EQ(s.damage, shift ? 2 : 0); /* before it, and after it */
    CHECK_EQ(s.lost, shift < 0 ? -shift : shift);
  }
  meta.attributes |= 1u << 30;
  ps_frame_encode_header(&meta, salt, at, header);
  CHECK(pwrite(fd, header, sizeof header, (off_t)at) == sizeof header);
  seen s = walk_file(path, INT64_MAX, 0, true);
  CHECK_EQ(s.frames, FRAMES);
  CHECK_EQ(s.damage, 0);
  meta.frame_bytes = 1u << 30; /* longer than the file: passed over */
  ps_frame_encode_header(&meta, salt, at, header);
  CHECK(pwrite(fd, header, sizeof header, (off_t)at) == sizeof header);
  s = walk_file(path, INT64_MAX, 0, true);
  CHECK_EQ(s.frames, FRAMES - 1);
  CHECK_EQ(s.lost, RECORDS);
  close(fd);
}

static void test_larger_than_the_buffer(void) {
  fresh_directory();
  incarnation++;
  segment_bytes = 1u << 20;
  handle h = open_with(&plain);
  for (int i = 0; i < 4; i++) must_append(h.log, 1, 100000 + 50000 * (uint32_t)i);
  close_handle(h);
  segment_bytes = PS_SEGMENT_BYTES_MIN;
  const char *path = segment_path(0);
  CHECK_EQ(walk_file(path, INT64_MAX, 0, true).sound, 4);
  CHECK_EQ(walk_file(path, INT64_MAX, 0, false).frames, 4);
  flip(path, 200000);
  seen s = walk_file(path, INT64_MAX, 0, true);
  CHECK_EQ(s.sound, 3);
  CHECK_EQ(s.lost, 1);
}

static void test_any_bytes(void) {
  fresh_directory();
  char path[300];
  snprintf(path, sizeof path, "%s/garbage", directory);
  for (int round = 0; round < 200; round++) {
    size_t size = random_below(round % 2 ? 700 : 200000);
    uint8_t *bytes = exactly(size);
    for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)random_below(256);
    for (size_t i = 0; i + 64 <= size; i += 64)
      ps_store_u32(bytes + i, round % 3 ? PS_FRAME_MAGIC : PS_SEAL_MAGIC32);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0666);
    CHECK(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
    close(fd);
    seen s = walk_file(path, round % 5 ? INT64_MAX : 3, round % 4 ? 77 : 0, round % 2);
    CHECK_EQ(s.frames, 0);
    CHECK_EQ(s.walk.header, PS_DAMAGED);
    ps_index_info info;
    ps_index_entry entry;
    ps_inspect_index(bytes, size, &info);
    CHECK_EQ(info.verdict, PS_DAMAGED);
    for (uint64_t i = 0; i < size / 32 + 3; i++) (void)ps_inspect_index_entry(bytes, size, 5, i, &entry);
    free(bytes);
  }
}

static void test_failing_reads(void) {
  uint64_t salt;
  const char *path = make_log(&salt);
  ps_fault_plan plan;
  ps_env env = {ps_fault_hook, &plan};
  CHECK(ps_fault_parse("pread:5:errno=5", &plan));
  ps_walk w = {.env = &env, .end_offset = INT64_MAX, .bodies = true, .fd = open(path, O_RDONLY)};
  w.buffer = exactly(w.buffer_bytes = PS_WALK_BUFFER_BYTES_MIN);
  ps_walk_begin(&w);
  int frames = 0, failed = 0;
  for (;;) {
    ps_walk_event event;
    ps_error err;
    ps_status status = ps_walk_next(&w, &event, &err);
    if (status != PS_OK) {
      CHECK_EQ(status, PS_OS_ERROR);
      CHECK_EQ(err.os_errno, 5);
      failed++;
      continue; /* it goes on from there */
    }
    if (event == PS_WALK_END) break;
    frames += event == PS_WALK_FRAME;
  }
  CHECK_EQ(failed, 1);
  CHECK_EQ(frames, FRAMES);
  close(w.fd);
  free(w.buffer);
}

int main(void) {
  RUN(test_bounded);
  RUN(test_flipped);
  RUN(test_truncated);
  RUN(test_sealed);
  RUN(test_forged);
  RUN(test_larger_than_the_buffer);
  RUN(test_any_bytes);
  RUN(test_failing_reads);
  return 0;
}
