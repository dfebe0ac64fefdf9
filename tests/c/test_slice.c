/* Some records of a batch as a batch of their own: every stretch of batches of every shape holds what those
 * records hold, in exactly the memory it is said to take. */
#include "ps_batches.h"
#include "ps_slice.h"

static void same_value(const ps_binary *whole, uint32_t at, const ps_binary *part, uint32_t row) {
  bool there = ps_bit(whole->validity, at);
  CHECK_EQ(ps_bit(part->validity, row), there);
  CHECK_EQ(part->width, whole->width);
  uint32_t from = whole->width < 0 ? (uint32_t)whole->offsets[at] : at * (uint32_t)whole->width;
  uint32_t to = whole->width < 0 ? (uint32_t)whole->offsets[at + 1] : from + (uint32_t)whole->width;
  uint32_t first = part->width < 0 ? (uint32_t)part->offsets[row] : row * (uint32_t)part->width;
  uint32_t last = part->width < 0 ? (uint32_t)part->offsets[row + 1] : first + (uint32_t)part->width;
  CHECK_EQ(last - first, to - from);
  CHECK(last <= part->bytes);
  CHECK(to == from || memcmp(part->data + first, whole->data + from, to - from) == 0);
}

static void same_headers(const ps_columns *whole, uint32_t at, const ps_columns *part, uint32_t row) {
  uint32_t from = whole->has_headers ? (uint32_t)whole->header_lists[at] : 0;
  uint32_t to = whole->has_headers ? (uint32_t)whole->header_lists[at + 1] : 0;
  uint32_t first = part->has_headers ? (uint32_t)part->header_lists[row] : 0;
  uint32_t last = part->has_headers ? (uint32_t)part->header_lists[row + 1] : 0;
  CHECK_EQ(last - first, to - from);
  CHECK(last <= part->header_count);
  for (uint32_t i = 0; i < to - from; i++) {
    same_value(&whole->header_keys, from + i, &part->header_keys, first + i);
    same_value(&whole->header_values, from + i, &part->header_values, first + i);
  }
}

static void same_record(const ps_columns *whole, uint32_t at, const ps_columns *part, uint32_t row) {
  CHECK_EQ(part->timestamps ? part->timestamps[row] : part->first_timestamp,
           whole->timestamps ? whole->timestamps[at] : whole->first_timestamp);
  same_value(&whole->values, at, &part->values, row);
  if (whole->has_keys) same_value(&whole->keys, at, &part->keys, row);
  same_headers(whole, at, part, row);
}

static bool keyed(const ps_columns *c, uint32_t start, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    if (!c->has_keys || !ps_bit(c->keys.validity, start + i)) return false;
  return true;
}

/* It can be written, and reads as the same records again. */
static void write_and_read(const ps_columns *part) {
  ps_prepared batch;
  ps_frame_meta meta;
  ps_columns read;
  ps_error err = {0};
  size_t scratch_bytes = ps_frame_scratch_bytes(part, PS_CODEC_NONE);
  uint8_t *scratch = exactly(scratch_bytes);
  ps_frame_meta_init(&meta);
  CHECK_EQ(ps_frame_prepare(part, &meta, PS_CODEC_NONE, PS_SEGMENT_BYTES_MAX, scratch, scratch_bytes, &batch,
                            &err),
           PS_OK);
  uint8_t *body = exactly(batch.meta.frame_bytes - PS_FRAME_HEADER_BYTES);
  ps_pieces_copy(batch.pieces, batch.piece_count, body);
  CHECK_EQ(ps_frame_columns(&batch.meta, body, batch.meta.raw_bytes, &read), PS_OK);
  CHECK_EQ(ps_columns_check(&batch.meta, &read), PS_OK);
  CHECK_EQ(read.count, part->count);
  for (uint32_t i = 0; i < part->count; i++) same_record(part, i, &read, i);
  free(body);
  free(scratch);
}

static void take(const ps_columns *whole, uint32_t start, uint32_t count) {
  uint64_t bytes = ps_slice_bytes(whole, start, count);
  uint8_t *memory = exactly(bytes);
  if (bytes) memset(memory, 0xa5, bytes); /* what is not written is seen */
  ps_columns part;
  ps_columns_slice(whole, start, count, memory, &part);
  CHECK_EQ(part.count, count);
  CHECK(part.offset_deltas == NULL);
  for (uint32_t i = 0; i < count; i++) same_record(whole, start + i, &part, i);
  CHECK(ps_columns_keyed(&part) == keyed(whole, start, count));
  if (count == whole->count) {
    CHECK_EQ(bytes, 0);
    CHECK(part.values.data == whole->values.data);
  }
  write_and_read(&part);
  free(memory);
}

static void random_shapes(void) {
  for (int round = 0; round < 3000; round++) {
    shape s = {.count = random_below(random_below(4) ? 40 : 200),
               .value_width = random_below(2) ? -1 : (int32_t)random_below(20),
               .key_width = random_below(2) ? -1 : (int32_t)random_below(9),
               .values = random_below(2) ? PRESENT : WITH_NULLS,
               .keys = (enum presence)random_below(3),
               .headers = (enum presence)random_below(3),
               .times = (enum times)random_below(4),
               .gaps = random_below(3) == 0};
    batch b = batch_make(&s);
    for (int i = 0; i < 6; i++) {
      uint32_t start = random_below(s.count + 1);
      take(&b.columns, start, random_below(s.count - start + 1));
    }
    take(&b.columns, 0, s.count);
    batch_free(&b);
  }
}

/* Every stretch of one batch: those whose bitmaps begin and end in the middle of a byte among them. */
static void every_stretch(void) {
  shape s = {.count = 21,
             .value_width = -1,
             .key_width = 3,
             .values = WITH_NULLS,
             .keys = WITH_NULLS,
             .headers = WITH_NULLS,
             .times = TIMES_MIXED,
             .gaps = true};
  batch b = batch_make(&s);
  for (uint32_t start = 0; start <= s.count; start++)
    for (uint32_t count = 0; count <= s.count - start; count++) take(&b.columns, start, count);
  batch_free(&b);
}

/* Records without headers out of a batch with some: a batch without. */
static void headers_of_others_are_left_out(void) {
  int32_t lists[] = {0, 0, 0, 2, 2}, offsets[] = {0, 1, 2};
  uint64_t data = 0;
  ps_columns whole = {.count = 4, .has_headers = true, .header_lists = lists, .header_count = 2};
  whole.values = (ps_binary){.data = (uint8_t *)&data, .bytes = 4, .width = 1};
  whole.keys.width = -1;
  whole.header_keys = whole.header_values =
      (ps_binary){.data = (uint8_t *)&data, .bytes = 2, .width = -1, .offsets = offsets};
  ps_columns part;
  CHECK_EQ(ps_slice_bytes(&whole, 0, 2), 0);
  ps_columns_slice(&whole, 0, 2, NULL, &part);
  CHECK(!part.has_headers && part.header_count == 0 && part.header_lists == NULL);
  take(&whole, 0, 2);
  take(&whole, 2, 1);
  take(&whole, 3, 1);
  CHECK(!ps_columns_keyed(&whole));
  ps_columns_slice(&whole, 1, 0, NULL, &part);
  CHECK(ps_columns_keyed(&part)); /* nothing lacks a key where there is nothing */
}

int main(void) {
  RUN(random_shapes);
  RUN(every_stretch);
  RUN(headers_of_others_are_left_out);
  return 0;
}
