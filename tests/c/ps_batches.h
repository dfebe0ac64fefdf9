/* ps_batches.h - batches of every shape for C tests, and the comparison of what was put in with what
 * came out. Columns are allocated to the byte. */
#ifndef PS_BATCHES_H
#define PS_BATCHES_H

#include "ps_frame.h"
#include "ps_test.h"

enum presence { ABSENT, PRESENT, WITH_NULLS };
enum times { TIMES_NONE, TIMES_ONE, TIMES_SAME_COLUMN, TIMES_MIXED };

typedef struct shape {
  uint32_t count;
  int32_t value_width, key_width;      /* -1 = variable */
  enum presence values, keys, headers; /* values: PRESENT or WITH_NULLS */
  enum times times;
  bool gaps;
  bool compressible;
} shape;

typedef struct batch { /* owns what columns point to */
  ps_columns columns;
  void *owned[16];
  size_t owned_count;
} batch;

static void *batch_bytes(batch *b, size_t bytes) {
  void *p = exactly(bytes);
  b->owned[b->owned_count++] = p;
  return p;
}

static ps_binary batch_binary(batch *b, const shape *s, uint32_t count, int32_t width, bool nulls) {
  ps_binary out = {.width = width};
  uint8_t *validity = NULL;
  if (nulls) {
    out.validity = validity = batch_bytes(b, (count + 7) / 8);
    for (uint32_t i = 0; i < count; i++)
      if (random_below(3)) validity[i >> 3] |= (uint8_t)(1u << (i & 7));
  }
  if (width < 0) {
    int32_t *offsets = batch_bytes(b, (count + 1) * sizeof *offsets);
    for (uint32_t i = 0; i < count; i++)
      offsets[i + 1] =
          offsets[i] + (int32_t)(ps_bit(validity, i) ? random_below(random_below(4) ? 20 : 1) : 0);
    out.offsets = offsets;
    out.bytes = (uint32_t)offsets[count];
  } else {
    out.bytes = count * (uint32_t)width;
  }
  uint8_t *data = batch_bytes(b, out.bytes);
  if (s->compressible)
    memset(data, 'x', out.bytes);
  else
    random_fill(data, out.bytes);
  for (uint32_t i = 0; width > 0 && i < count; i++)
    if (!ps_bit(validity, i)) memset(data + (size_t)i * (size_t)width, 0, (size_t)width);
  out.data = data;
  return out;
}

__attribute__((unused)) static batch batch_make(const shape *s) {
  batch b = {.columns = {.count = s->count, .first_timestamp = PS_TIMESTAMP_NONE}};
  ps_columns *c = &b.columns;
  if (s->gaps && s->count) {
    uint32_t *deltas = batch_bytes(&b, s->count * sizeof *deltas), delta = random_below(3);
    for (uint32_t i = 0; i < s->count; i++, delta += 1 + random_below(4)) deltas[i] = delta;
    c->offset_deltas = deltas;
  }
  if (s->times == TIMES_ONE) c->first_timestamp = 1357016400000000000;
  if (s->times >= TIMES_SAME_COLUMN) {
    int64_t *t = batch_bytes(&b, s->count * sizeof *t);
    for (uint32_t i = 0; i < s->count; i++) {
      t[i] = 1357016400000000000;
      if (s->times == TIMES_MIXED)
        t[i] = random_below(4) ? t[i] + random_below(1000000) - 500000 : PS_TIMESTAMP_NONE;
    }
    c->timestamps = t;
  }
  c->values = batch_binary(&b, s, s->count, s->value_width, s->values == WITH_NULLS);
  c->keys.width = c->header_keys.width = c->header_values.width = -1;
  c->has_keys = s->keys != ABSENT;
  if (c->has_keys) c->keys = batch_binary(&b, s, s->count, s->key_width, s->keys == WITH_NULLS);
  c->has_headers = s->headers != ABSENT;
  if (c->has_headers) {
    int32_t *lists = batch_bytes(&b, (s->count + 1) * sizeof *lists);
    for (uint32_t i = 0; i < s->count; i++) lists[i + 1] = lists[i] + (int32_t)random_below(4);
    c->header_lists = lists;
    c->header_count = (uint32_t)lists[s->count];
    c->header_keys = batch_binary(&b, s, c->header_count, -1, false);
    c->header_values = batch_binary(&b, s, c->header_count, -1, s->headers == WITH_NULLS);
  }
  return b;
}

__attribute__((unused)) static void batch_free(batch *b) {
  for (size_t i = 0; i < b->owned_count; i++) free(b->owned[i]);
  b->owned_count = 0;
}

static void binary_same(const ps_binary *a, const ps_binary *b, uint32_t count) {
  CHECK_EQ(a->width, b->width);
  CHECK_EQ(a->bytes, b->bytes);
  CHECK((a->validity == NULL) == (b->validity == NULL));
  CHECK((b->offsets == NULL) == (b->width >= 0));
  for (uint32_t i = 0; i < count; i++) CHECK(ps_bit(a->validity, i) == ps_bit(b->validity, i));
  if (a->offsets) CHECK(memcmp(a->offsets, b->offsets, (count + 1) * sizeof *a->offsets) == 0);
  if (a->bytes) CHECK(memcmp(a->data, b->data, a->bytes) == 0);
}

/* What was decoded (b, with its header m) says the same as what was put in (a). */
__attribute__((unused)) static void columns_same(const ps_columns *a, const ps_columns *b,
                                                 const ps_frame_meta *m) {
  CHECK_EQ(a->count, b->count);
  CHECK_EQ(a->count, m->record_count);
  int64_t max = PS_TIMESTAMP_NONE;
  for (uint32_t i = 0; i < a->count; i++) {
    int64_t put = a->timestamps ? a->timestamps[i] : a->first_timestamp;
    CHECK_EQ(put, b->timestamps ? b->timestamps[i] : b->first_timestamp);
    CHECK_EQ(a->offset_deltas ? a->offset_deltas[i] : i, b->offset_deltas ? b->offset_deltas[i] : i);
    max = put > max ? put : max;
  }
  CHECK_EQ(m->max_timestamp, max);
  if (a->count == 0) return;
  CHECK_EQ(m->first_timestamp, a->timestamps ? a->timestamps[0] : a->first_timestamp);
  binary_same(&a->values, &b->values, a->count);
  CHECK_EQ(a->has_keys, b->has_keys);
  if (a->has_keys) binary_same(&a->keys, &b->keys, a->count);
  CHECK_EQ(a->has_headers, b->has_headers);
  if (!a->has_headers) return;
  CHECK_EQ(a->header_count, b->header_count);
  CHECK(memcmp(a->header_lists, b->header_lists, (a->count + 1) * sizeof *a->header_lists) == 0);
  binary_same(&a->header_keys, &b->header_keys, a->header_count);
  binary_same(&a->header_values, &b->header_values, a->header_count);
}

static uint64_t binary_walk(const ps_binary *b, uint32_t count) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < count; i++) {
    size_t from = b->offsets ? (size_t)b->offsets[i] : (size_t)i * (size_t)b->width;
    size_t to = b->offsets ? (size_t)b->offsets[i + 1] : from + (size_t)b->width;
    sum += ps_bit(b->validity, i);
    for (size_t at = from; at < to; at++) sum += b->data[at];
  }
  return sum;
}

/* Read every byte that checked columns give access to. */
__attribute__((unused)) static uint64_t columns_walk(const ps_columns *c) {
  uint64_t sum = binary_walk(&c->values, c->count);
  for (uint32_t i = 0; i < c->count; i++) {
    if (c->offset_deltas) sum += c->offset_deltas[i];
    if (c->timestamps) sum += (uint64_t)c->timestamps[i];
  }
  if (c->has_keys) sum += binary_walk(&c->keys, c->count);
  if (!c->has_headers) return sum;
  for (uint32_t i = 0; i <= c->count; i++) CHECK((uint32_t)c->header_lists[i] <= c->header_count);
  return sum + binary_walk(&c->header_keys, c->header_count) +
         binary_walk(&c->header_values, c->header_count);
}

#endif
