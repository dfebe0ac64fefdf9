#include "ps_slice.h"

#include "ps_layout.h"

static uint64_t offsets_bytes(uint32_t count) { return ps_align_up(4ull * count + 4, 8); }
static uint64_t bits_bytes(uint32_t count) { return ps_align_up((uint64_t)count / 8 + 1, 8); }

static uint64_t column_bytes(const ps_binary *column, uint32_t count) {
  return (column->width < 0 ? offsets_bytes(count) : 0) + (column->validity ? bits_bytes(count) : 0);
}

static void header_range(const ps_columns *c, uint32_t start, uint32_t count, uint32_t *first, uint32_t *n) {
  *first = c->has_headers ? (uint32_t)c->header_lists[start] : 0;
  *n = c->has_headers ? (uint32_t)c->header_lists[start + count] - *first : 0;
}

uint64_t ps_slice_bytes(const ps_columns *c, uint32_t start, uint32_t count) {
  uint32_t first, headers;
  PS_ASSERT((uint64_t)start + count <= c->count);
  if (count == c->count) return 0;
  header_range(c, start, count, &first, &headers);
  uint64_t bytes = column_bytes(&c->values, count);
  if (c->has_keys) bytes += column_bytes(&c->keys, count);
  if (headers)
    bytes += offsets_bytes(count) + column_bytes(&c->header_keys, headers) +
             column_bytes(&c->header_values, headers);
  return bytes;
}

/* count + 1 offsets from `start` on, counted from the first. */
static const int32_t *move_offsets(const int32_t *offsets, uint32_t start, uint32_t count, uint8_t **memory) {
  int32_t *out = (int32_t *)*memory;
  for (uint32_t i = 0; i <= count; i++) out[i] = offsets[start + i] - offsets[start];
  *memory += offsets_bytes(count);
  return out;
}

static const uint8_t *move_bits(const uint8_t *bits, uint32_t start, uint32_t count, uint8_t **memory) {
  uint8_t *out = *memory;
  memset(out, 0, bits_bytes(count));
  for (uint32_t i = 0; i < count; i++)
    if (ps_bit(bits, start + i)) out[i >> 3] |= (uint8_t)(1u << (i & 7));
  *memory += bits_bytes(count);
  return out;
}

static void slice_column(const ps_binary *in, uint32_t start, uint32_t count, uint8_t **memory,
                         ps_binary *out) {
  *out = *in;
  if (in->validity) out->validity = move_bits(in->validity, start, count, memory);
  if (in->width >= 0) {
    out->data = in->data + (uint64_t)start * (uint32_t)in->width;
    out->bytes = count * (uint32_t)in->width;
    return;
  }
  out->data = in->data + in->offsets[start];
  out->bytes = (uint32_t)(in->offsets[start + count] - in->offsets[start]);
  out->offsets = move_offsets(in->offsets, start, count, memory);
}

void ps_columns_slice(const ps_columns *c, uint32_t start, uint32_t count, void *memory, ps_columns *out) {
  uint8_t *rest = memory;
  uint32_t first, headers;
  *out = *c;
  out->offset_deltas = NULL;
  if (count == c->count) return;
  out->count = count;
  if (c->timestamps) {
    out->timestamps = c->timestamps + start;
    if (count) out->first_timestamp = c->timestamps[start];
  }
  slice_column(&c->values, start, count, &rest, &out->values);
  if (c->has_keys) slice_column(&c->keys, start, count, &rest, &out->keys);
  header_range(c, start, count, &first, &headers);
  out->has_headers = headers > 0;
  out->header_count = headers;
  if (!headers) {
    out->header_lists = NULL;
    out->header_keys = out->header_values = (ps_binary){.width = -1};
    return;
  }
  out->header_lists = move_offsets(c->header_lists, start, count, &rest);
  slice_column(&c->header_keys, first, headers, &rest, &out->header_keys);
  slice_column(&c->header_values, first, headers, &rest, &out->header_values);
}

bool ps_columns_keyed(const ps_columns *c) {
  if (c->count == 0) return true;
  if (!c->has_keys) return false;
  for (uint32_t i = 0; c->keys.validity && i < c->count; i++)
    if (!ps_bit(c->keys.validity, i)) return false;
  return true;
}
