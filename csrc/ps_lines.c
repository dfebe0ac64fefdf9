#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include "ps_lines.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* ---- split ------------------------------------------------------------------------------------- */

/* Lines being split: where the next byte of data goes, and what is still allowed. */
typedef struct splitter {
  const uint8_t *line; /* first byte of input not yet taken */
  uint8_t *out;        /* end of the data of the lines taken */
  int32_t *offsets;
  uint8_t *data;
  uint64_t left; /* where data must end, counted from its beginning: falls with each line */
  uint32_t count;
  ps_lines_limits limits;
  bool full;
} splitter;

/* A line of input ends at the byte `delimiter`, its data at `end`. False: it is one too many. */
static inline bool take_line(splitter *s, const uint8_t *delimiter, uint8_t *end) {
  uint64_t used = (uint64_t)(end - s->data);
  if (PS_UNLIKELY(s->count == s->limits.count_max || s->left < s->limits.record_bytes ||
                  used > s->left - s->limits.record_bytes)) {
    s->full = true;
    return false;
  }
  s->left -= s->limits.record_bytes;
  s->offsets[++s->count] = (int32_t)used;
  s->line = delimiter + 1;
  s->out = end;
  return true;
}

#if defined(__SSE2__)
#define BLOCK 64u

/* Bit i: byte i is the delimiter. Every x86-64 has SSE2; wider vectors gain nothing measurable beside the
 * copies of the same bytes. */
static inline uint64_t find_in_block(const uint8_t *in, __m128i delimiter) {
  uint64_t mask = 0;
  for (int i = 0; i < 4; i++) {
    __m128i some = _mm_loadu_si128((const __m128i *)(in + 16 * i));
    mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(some, delimiter)) << (16 * i);
  }
  return mask;
}

/* Whole blocks, while a further block can be read behind each. What follows a delimiter in a block is copied
 * once more to its place, one byte lower: that is a few stores, and no branch that depends on lengths. */
static const uint8_t *split_blocks(splitter *s, const uint8_t *in, const uint8_t *end, uint8_t delimiter) {
  __m128i wanted = _mm_set1_epi8((char)delimiter);
  uint8_t *out = s->out;
  for (; end - in >= (ptrdiff_t)(2 * BLOCK); in += BLOCK) {
    uint64_t mask = find_in_block(in, wanted);
    size_t removed = 0; /* delimiters of this block: byte i goes to out + i - removed */
    memcpy(out, in, BLOCK);
    for (; mask; mask &= mask - 1) {
      size_t i = (size_t)__builtin_ctzll(mask);
      if (!take_line(s, in + i, out + i - removed)) return NULL;
      memcpy(out + i - removed++, in + i + 1, BLOCK);
    }
    out += BLOCK - removed;
  }
  s->out = out;
  return in;
}
#endif

void ps_lines_split(const uint8_t *in, size_t bytes, uint8_t delimiter, const ps_lines_limits *limits,
                    uint8_t *data, int32_t *offsets, ps_lines_found *found) {
  const uint8_t *end = in + bytes, *at = in;
  splitter s = {.line = in, .out = data, .offsets = offsets, .data = data, .limits = *limits};
  s.left = limits->bytes_max;
  offsets[0] = 0;
#if defined(__SSE2__)
  at = split_blocks(&s, in, end, delimiter);
#endif
  while (at && at < end) {
    const uint8_t *next = memchr(at, delimiter, (size_t)(end - at));
    if (!next) break;
    memcpy(s.out, at, (size_t)(next - at));
    if (!take_line(&s, next, s.out + (next - at))) break;
    at = next + 1;
  }
  *found = (ps_lines_found){.taken = (size_t)(s.line - in), .count = s.count, .full = s.full};
}

/* ---- split, with keys -------------------------------------------------------------------------- */

static bool is_null_text(const ps_lines_form *form, const uint8_t *p, size_t bytes) {
  return form->null_text && bytes == form->null_bytes && memcmp(p, form->null_text, bytes) == 0;
}

/* Slot i of a column; p NULL: null. */
static void put_slot(ps_lines_column *column, uint32_t i, const uint8_t *p, size_t bytes) {
  uint8_t bit = (uint8_t)(1u << (i & 7));
  if ((i & 7) == 0) column->validity[i >> 3] = 0;
  if (p) {
    memcpy(column->data + column->offsets[i], p, bytes);
    column->validity[i >> 3] |= bit;
  } else {
    bytes = 0;
    column->nulls++;
  }
  column->offsets[i + 1] = column->offsets[i] + (int32_t)bytes;
}

static const uint8_t *find_separator(const ps_lines_form *form, const uint8_t *line, size_t bytes) {
  if (form->separator_bytes == 1) return memchr(line, form->separator[0], bytes);
  return memmem(line, bytes, form->separator, form->separator_bytes);
}

void ps_lines_split_keyed(const uint8_t *in, size_t bytes, const ps_lines_form *form,
                          const ps_lines_limits *limits, ps_lines_column *keys, ps_lines_column *values,
                          ps_lines_found *found) {
  const uint8_t *at = in, *end = in + bytes;
  uint64_t used = 0;
  *found = (ps_lines_found){0};
  values->offsets[0] = 0;
  values->nulls = 0;
  if (form->separator_bytes) {
    keys->offsets[0] = 0;
    keys->nulls = 0;
  }
  while (at < end) {
    const uint8_t *next = memchr(at, form->delimiter, (size_t)(end - at));
    if (!next) break;
    const uint8_t *value = at, *key = NULL;
    size_t value_bytes = (size_t)(next - at), key_bytes = 0;
    if (form->strip_cr && value_bytes && next[-1] == '\r') value_bytes--;
    const uint8_t *separator = form->separator_bytes ? find_separator(form, at, value_bytes) : NULL;
    if (separator) {
      key = at;
      key_bytes = (size_t)(separator - at);
      value = separator + form->separator_bytes;
      value_bytes -= key_bytes + form->separator_bytes;
    }
    if (key && is_null_text(form, key, key_bytes)) key = NULL;
    if (is_null_text(form, value, value_bytes)) value = NULL;
    used += limits->record_bytes + (key ? key_bytes : 0) + (value ? value_bytes : 0);
    if (found->count == limits->count_max || used > limits->bytes_max) {
      found->full = true;
      break;
    }
    if (form->separator_bytes) put_slot(keys, found->count, key, key_bytes);
    put_slot(values, found->count++, value, value_bytes);
    at = next + 1;
  }
  found->taken = (size_t)(at - in);
}

/* ---- join -------------------------------------------------------------------------------------- */

#define COPY_STEP 32u
/* From here on a call of memcpy is faster than steps. */
#define COPY_STEPS_MAX 256u

/* Copies in whole steps where the source may be read that far; `end` is where it may not. */
static inline void copy_value(uint8_t *out, const uint8_t *in, size_t bytes, const uint8_t *end) {
  if (PS_LIKELY(bytes <= COPY_STEPS_MAX && (size_t)(end - in) >= bytes + COPY_STEP)) {
    for (size_t i = 0; i < bytes; i += COPY_STEP) memcpy(out + i, in + i, COPY_STEP);
  } else {
    memcpy(out, in, bytes);
  }
}

const uint8_t *ps_lines_row(const ps_binary *column, uint32_t i, size_t *bytes) {
  *bytes = 0;
  if (!ps_bit(column->validity, i)) return NULL;
  if (column->offsets) {
    *bytes = (size_t)(column->offsets[i + 1] - column->offsets[i]);
    return column->data + column->offsets[i];
  }
  if (column->width < 0) return NULL;
  *bytes = (size_t)column->width;
  return column->data + (size_t)i * (size_t)column->width;
}

/* The common case: values of any length, no nulls, nothing beside them. */
static size_t join_values(const ps_binary *values, uint32_t from, uint32_t count, int delimiter, uint8_t *out,
                          size_t room, uint32_t *rows) {
  const int32_t *offsets = values->offsets + from;
  const uint8_t *end = values->data + values->bytes;
  uint8_t *at = out, *limit = out + room;
  uint32_t i = 0;
  for (; i < count; i++) {
    size_t bytes = (size_t)(offsets[i + 1] - offsets[i]);
    if (bytes + 1 > (size_t)(limit - at)) break;
    copy_value(at, values->data + offsets[i], bytes, end);
    at += bytes;
    *at++ = (uint8_t)delimiter;
  }
  *rows = i;
  return (size_t)(at - out);
}

static inline uint8_t *put(uint8_t *out, const void *p, size_t bytes) {
  if (bytes) memcpy(out, p, bytes);
  return out + bytes;
}

size_t ps_lines_join(const ps_lines_text *text, const ps_binary *keys, const ps_binary *values, uint32_t from,
                     uint32_t count, uint8_t *out, size_t room, uint32_t *rows) {
  if (!keys && values->offsets && !values->validity && text->delimiter >= 0)
    return join_values(values, from, count, text->delimiter, out, room, rows);
  uint8_t *at = out, *limit = out + room;
  uint32_t i = 0;
  for (; i < count; i++) {
    size_t key_bytes = 0, value_bytes;
    const uint8_t *key = keys ? ps_lines_row(keys, from + i, &key_bytes) : NULL;
    const uint8_t *value = ps_lines_row(values, from + i, &value_bytes);
    bool has_key = keys && (key || text->null_text);
    if (!key) key = text->null_text, key_bytes = has_key ? text->null_bytes : 0;
    if (!value) value = text->null_text, value_bytes = value ? text->null_bytes : 0;
    size_t bytes = value_bytes + (text->delimiter >= 0);
    if (has_key) bytes += key_bytes + text->separator_bytes;
    if (bytes > (size_t)(limit - at)) break;
    if (has_key) at = put(put(at, key, key_bytes), text->separator, text->separator_bytes);
    at = put(at, value, value_bytes);
    if (text->delimiter >= 0) *at++ = (uint8_t)text->delimiter;
  }
  *rows = i;
  return (size_t)(at - out);
}
