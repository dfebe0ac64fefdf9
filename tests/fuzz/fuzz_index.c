/* An index file: opened for reading and for writing, asked for offsets and times, added to. */
#include "fuzz.h"
#include "ps_inspect.h"

static const ps_env plain = {0};

static void check_entry(const ps_segment *segment, const ps_index_entry *entry) {
  FUZZ_CHECK(entry->position >= PS_SEGMENT_HEADER_BYTES && entry->position < segment->capacity);
  FUZZ_CHECK(entry->position % PS_ALIGN == 0);
}

static void ask(const ps_segment *segment, fuzz_in *in) {
  for (int i = 0; i < 4; i++) {
    int64_t wanted = (int64_t)fuzz_take(in, i < 2 ? 2 : 8);
    ps_index_entry entry;
    if (ps_index_find_offset(segment, wanted, &entry)) {
      check_entry(segment, &entry);
      FUZZ_CHECK(entry.offset <= wanted);
    }
    if (ps_index_find_time(segment, wanted, &entry)) {
      check_entry(segment, &entry);
      FUZZ_CHECK(entry.max_timestamp < wanted);
    }
  }
}

static void write_to(ps_segment *segment, fuzz_in *in) {
  ps_index_entry entry;
  uint32_t capacity = segment->index_capacity;
  int64_t offset = 1000;
  for (int i = 0; i < 6; i++) {
    uint64_t position = PS_SEGMENT_HEADER_BYTES + fuzz_take(in, 2) / PS_ALIGN * PS_ALIGN;
    ps_index_add(&plain, segment, offset + i, position, offset);
    FUZZ_CHECK(segment->index_count <= capacity);
  }
  ps_index_reset(&plain, segment);
  FUZZ_CHECK(segment->index_count == 0 && !ps_index_find_offset(segment, INT64_MAX, &entry));
  ps_index_add(&plain, segment, 7, PS_SEGMENT_HEADER_BYTES + segment->index_interval, 1);
  bool hit = ps_index_find_offset(segment, INT64_MAX, &entry);
  uint64_t position = (uint64_t)PS_SEGMENT_HEADER_BYTES + segment->index_interval;
  bool fits = capacity && position % PS_ALIGN == 0 && position < segment->capacity;
  FUZZ_CHECK(hit == fits && (!hit || entry.offset == 7));
}

static void use(const char *directory, unsigned options, fuzz_in in) {
  ps_error err = {0};
  ps_segment segment = {
      .refs = 1, .salt = FUZZ_SALT, .capacity = FUZZ_SEGMENT_BYTES, .fd = -1, .index_fd = -1};
  bool writable = options & 1, by_pwrite = options & 2;
  ps_status status = PS_NOT_FOUND;
  if (options & 4) status = ps_index_open(&plain, directory, &segment, false, false, 1024, &err);
  FUZZ_CHECK(status == PS_OK || status == PS_NOT_FOUND);
  if (status == PS_OK) ask(&segment, &in);
  if (writable || !(options & 4))
    status = ps_index_open(&plain, directory, &segment, writable, by_pwrite, 1024, &err);
  FUZZ_CHECK(status == PS_OK || (status == PS_NOT_FOUND && !writable));
  if (status == PS_OK) {
    FUZZ_CHECK(segment.index_bytes >=
               PS_INDEX_HEADER_BYTES + (uint64_t)segment.index_capacity * PS_INDEX_ENTRY_BYTES);
    ask(&segment, &in);
    if (writable) write_to(&segment, &in);
  }
  ps_os_unmap(segment.index_map, segment.index_bytes);
  ps_os_unmap(segment.index_write_map, segment.index_bytes);
  if (segment.index_fd >= 0) ps_os_close(segment.index_fd);
}

static void inspect(const uint8_t *p, size_t bytes) {
  ps_index_info info;
  ps_index_entry entry;
  bool hit;
  int fd = fuzz_file(p, bytes);
  ps_inspect_index(p, bytes, &info);
  FUZZ_CHECK(info.verdict == PS_SOUND || info.verdict == PS_DAMAGED || info.verdict == PS_NEWER);
  for (uint64_t i = 0; i < bytes / PS_INDEX_ENTRY_BYTES + 2; i++) {
    ps_verdict verdict = ps_inspect_index_entry(p, bytes, FUZZ_SALT, i, &entry);
    if (verdict == PS_SOUND) FUZZ_CHECK(ps_inspect_index_hit(&plain, fd, FUZZ_SALT, &entry, &hit) == 0);
  }
  (void)ps_inspect_index_entry(p, bytes, FUZZ_SALT, UINT32_MAX, &entry);
  close(fd);
}

FUZZ_TARGET(index) {
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1), options = (unsigned)fuzz_take(&in, 1);
  size_t asked = 24, bytes;
  fuzz_in questions = {.p = fuzz_bytes(&in, &asked)};
  questions.end = questions.p + asked;
  uint8_t *p = fuzz_rest(&in, &bytes);
  fuzz_seal_index(p, bytes, FUZZ_SALT, 0, how);
  const char *directory = fuzz_directory();
  fuzz_write("00000000000000000000.index", p, bytes, 0);
  inspect(p, bytes);
  use(directory, options, questions);
  free(p);
}
