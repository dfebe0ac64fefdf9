/* A frame: its header, its body stored raw or packed, its columns to the last byte, and the way back. */
#include <lz4.h>

#include "fuzz.h"
#include "ps_layout.h"
#include "ps_lines.h"
#include "ps_slice.h"

/* The same frame with its body packed; NULL when that cannot be. */
static uint8_t *pack(const uint8_t *p, size_t limit, uint64_t position, size_t *bytes) {
  ps_frame_meta m;
  if (ps_frame_decode_header(p, limit, FUZZ_SALT, position, &m) != PS_OK || m.raw_bytes == 0) return NULL;
  if (ps_frame_codec(&m) != PS_CODEC_NONE) return NULL;
  int bound = LZ4_compressBound((int)m.raw_bytes);
  uint8_t *out = calloc(1, PS_FRAME_HEADER_BYTES + (size_t)bound + PS_ALIGN),
          *body = out + PS_FRAME_HEADER_BYTES;
  FUZZ_CHECK(out);
  int stored =
      LZ4_compress_default((const char *)p + PS_FRAME_HEADER_BYTES, (char *)body, (int)m.raw_bytes, bound);
  FUZZ_CHECK(stored > 0);
  m.attributes |= PS_CODEC_LZ4;
  m.stored_bytes = (uint32_t)stored;
  m.frame_bytes = (uint32_t)ps_layout_frame_bytes(m.stored_bytes);
  m.body_checksum = ps_hash(body, m.frame_bytes - PS_FRAME_HEADER_BYTES);
  ps_frame_encode_header(&m, FUZZ_SALT, position, out);
  uint8_t *exact = fuzz_copy(out, *bytes = m.frame_bytes);
  free(out);
  return exact;
}

static void check_header(const ps_frame_meta *m, size_t limit) {
  FUZZ_CHECK(m->frame_bytes <= limit && m->frame_bytes % PS_ALIGN == 0);
  FUZZ_CHECK(m->frame_bytes - PS_FRAME_HEADER_BYTES >= m->stored_bytes);
  FUZZ_CHECK(m->raw_bytes <= (uint64_t)m->stored_bytes * 255);
  FUZZ_CHECK(m->base_offset >= 0 && ps_frame_next_offset(m) > m->base_offset);
  FUZZ_CHECK(m->record_count <= (uint64_t)m->last_offset_delta + 1);
}

static void same_column(const ps_binary *a, const ps_binary *b, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    size_t one, other;
    const uint8_t *p = ps_lines_row(a, i, &one), *q = ps_lines_row(b, i, &other);
    FUZZ_CHECK(!p == !q && one == other && (one == 0 || memcmp(p, q, one) == 0));
  }
}

static void same_records(const ps_columns *a, const ps_columns *b) {
  FUZZ_CHECK(a->count == b->count && a->has_keys == b->has_keys && a->has_headers == b->has_headers);
  for (uint32_t i = 0; i < a->count; i++) {
    FUZZ_CHECK((a->timestamps ? a->timestamps[i] : a->first_timestamp) ==
               (b->timestamps ? b->timestamps[i] : b->first_timestamp));
    FUZZ_CHECK((a->offset_deltas ? a->offset_deltas[i] : i) == (b->offset_deltas ? b->offset_deltas[i] : i));
  }
  same_column(&a->values, &b->values, a->count);
  if (a->has_keys) same_column(&a->keys, &b->keys, a->count);
  if (!a->has_headers) return;
  FUZZ_CHECK(memcmp(a->header_lists, b->header_lists, (a->count + 1) * sizeof(int32_t)) == 0);
  same_column(&a->header_keys, &b->header_keys, a->header_count);
  same_column(&a->header_values, &b->header_values, a->header_count);
}

/* What was read can be written, and reads the same again. */
static void write_again(const ps_columns *columns, uint32_t codec) {
  ps_prepared batch;
  ps_error err = {0};
  size_t scratch_bytes = ps_frame_scratch_bytes(columns, codec);
  uint8_t *scratch = malloc(scratch_bytes ? scratch_bytes : 1);
  ps_frame_meta proto, m;
  ps_frame_meta_init(&proto);
  FUZZ_CHECK(ps_frame_prepare(columns, &proto, codec, PS_SEGMENT_BYTES_MAX, scratch, scratch_bytes, &batch,
                              &err) == PS_OK);
  uint8_t *frame = malloc(batch.meta.frame_bytes);
  FUZZ_CHECK(scratch && frame);
  ps_pieces_copy(batch.pieces, batch.piece_count, frame + PS_FRAME_HEADER_BYTES);
  ps_frame_encode_header(&batch.meta, FUZZ_SALT, 256, frame);
  FUZZ_CHECK(ps_frame_decode_header(frame, batch.meta.frame_bytes, FUZZ_SALT, 256, &m) == PS_OK);
  FUZZ_CHECK(ps_frame_body_ok(frame, &m));
  uint8_t *raw = malloc(m.raw_bytes ? m.raw_bytes : 1);
  ps_columns read;
  FUZZ_CHECK(ps_frame_decompress(frame, &m, raw) == PS_OK);
  FUZZ_CHECK(ps_frame_columns(&m, raw, m.raw_bytes, &read) == PS_OK);
  FUZZ_CHECK(ps_columns_check(&m, &read) == PS_OK);
  same_records(columns, &read);
  free(raw);
  free(frame);
  free(scratch);
}

static void look_up(const ps_frame_meta *m, const ps_columns *c, int64_t wanted) {
  uint32_t i = ps_columns_find_offset(c, m->base_offset, wanted);
  FUZZ_CHECK(i <= c->count);
  int64_t at = m->base_offset + (c->offset_deltas && i < c->count ? c->offset_deltas[i] : i);
  FUZZ_CHECK(i == c->count || at >= wanted || wanted <= m->base_offset);
  size_t bytes;
  for (uint32_t row = 0; row < c->count; row++)
    if (ps_lines_row(&c->values, row, &bytes)) FUZZ_CHECK(bytes <= c->values.bytes);
}

/* Some of the records, in exactly the memory that this is said to take, are those records. */
static void take_slice(const ps_columns *c, int64_t wanted) {
  uint32_t start = (uint32_t)wanted % (c->count + 1);
  uint32_t count = (uint32_t)(wanted >> 8) % (c->count - start + 1);
  uint64_t bytes = ps_slice_bytes(c, start, count);
  uint8_t *memory = fuzz_copy(NULL, 0);
  if (bytes) {
    free(memory);
    FUZZ_CHECK((memory = malloc(bytes)));
  }
  ps_columns slice;
  ps_columns_slice(c, start, count, memory, &slice);
  FUZZ_CHECK(slice.count == count && (!ps_columns_keyed(c) || ps_columns_keyed(&slice)));
  (void)fuzz_walk_columns(&slice);
  for (uint32_t i = 0; i < count; i++) {
    size_t one, other;
    const uint8_t *p = ps_lines_row(&c->values, start + i, &one), *q = ps_lines_row(&slice.values, i, &other);
    FUZZ_CHECK(!p == !q && one == other && (one == 0 || memcmp(p, q, one) == 0));
  }
  if (count) write_again(&slice, PS_CODEC_NONE);
  free(memory);
}

static void read_frame(const uint8_t *p, size_t bytes, uint64_t position, int64_t wanted) {
  ps_frame_meta m;
  ps_columns columns;
  ps_status status = ps_frame_decode_header(p, bytes, FUZZ_SALT, position, &m);
  FUZZ_CHECK(status == PS_OK || status == PS_END || status == PS_CORRUPT || status == PS_VERSION);
  if (status != PS_OK) return;
  check_header(&m, bytes);
  if (!ps_frame_body_ok(p, &m)) return;
  uint8_t *raw = fuzz_copy(NULL, 0);
  if (m.raw_bytes) {
    free(raw);
    FUZZ_CHECK(posix_memalign((void **)&raw, PS_ALIGN, m.raw_bytes) == 0);
  }
  status = ps_frame_decompress(p, &m, raw);
  if (status == PS_OK) status = ps_frame_columns(&m, raw, m.raw_bytes, &columns);
  if (status == PS_OK) status = ps_columns_check(&m, &columns);
  FUZZ_CHECK(status == PS_OK || status == PS_CORRUPT);
  if (status == PS_OK) {
    (void)fuzz_walk_columns(&columns);
    look_up(&m, &columns, wanted);
    take_slice(&columns, wanted);
    write_again(&columns, PS_CODEC_NONE);
    write_again(&columns, PS_CODEC_LZ4);
  }
  free(raw);
}

FUZZ_TARGET(frame) {
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1);
  bool packed = fuzz_take(&in, 1) & 1;
  uint64_t position = fuzz_take(&in, 2) * PS_ALIGN;
  int64_t wanted = (int64_t)fuzz_take(&in, 4);
  size_t bytes;
  uint8_t *p = fuzz_rest(&in, &bytes);
  fuzz_seal_frame(p, bytes, FUZZ_SALT, position, -1, how);
  uint8_t *small = packed ? pack(p, bytes, position, &bytes) : NULL;
  if (small) {
    free(p);
    p = small;
  }
  read_frame(p, bytes, position, wanted);
  free(p);
}
