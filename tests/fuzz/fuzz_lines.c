/* Lines: split, with and without keys, and joined again. What comes back is what went in. */
#include "fuzz.h"
#include "ps_lines.h"

typedef struct columns {
  uint8_t *data[2], *validity[2];
  int32_t *offsets[2];
} columns;

static void make(columns *c, size_t bytes, uint32_t count_max) {
  for (int i = 0; i < 2; i++) {
    c->data[i] = malloc(bytes + PS_LINES_SLACK);
    c->validity[i] = malloc(count_max / 8 + 1);
    c->offsets[i] = malloc((count_max + 1) * sizeof(int32_t));
    FUZZ_CHECK(c->data[i] && c->validity[i] && c->offsets[i]);
  }
}

static void drop(columns *c) {
  for (int i = 0; i < 2; i++) {
    free(c->data[i]);
    free(c->validity[i]);
    free(c->offsets[i]);
  }
}

static ps_binary column(const columns *c, int i, uint32_t count, bool nulls) {
  return (ps_binary){.validity = nulls ? c->validity[i] : NULL,
                     .offsets = c->offsets[i],
                     .data = c->data[i],
                     .bytes = (uint32_t)c->offsets[i][count],
                     .width = -1};
}

static void check_found(const ps_lines_found *found, const ps_lines_limits *limits, const uint8_t *in,
                        size_t bytes, uint8_t delimiter) {
  FUZZ_CHECK(found->count <= limits->count_max && found->taken <= bytes);
  FUZZ_CHECK(!found->taken == !found->count);
  FUZZ_CHECK(!found->taken || in[found->taken - 1] == delimiter);
  if (!found->full) FUZZ_CHECK(!memchr(in + found->taken, delimiter, bytes - found->taken));
}

/* Join `count` rows in pieces of `room`; the same as the first `bytes` of `in`. */
static void join_again(const ps_lines_text *text, const ps_binary *keys, const ps_binary *values,
                       uint32_t count, size_t room, const uint8_t *in, size_t bytes) {
  uint8_t *out = malloc(room + PS_LINES_SLACK);
  size_t at = 0;
  FUZZ_CHECK(out);
  for (uint32_t row = 0; row < count;) {
    uint32_t rows;
    size_t wrote = ps_lines_join(text, keys, values, row, count - row, out, room, &rows);
    FUZZ_CHECK(wrote <= room && rows <= count - row);
    if (rows == 0) break; /* the next row alone is too long */
    FUZZ_CHECK(!in || (at + wrote <= bytes && memcmp(out, in + at, wrote) == 0));
    at += wrote;
    row += rows;
    FUZZ_CHECK(!in || row < count || at == bytes);
  }
  free(out);
}

FUZZ_TARGET(lines) {
  fuzz_in in = {data, data + size};
  unsigned options = (unsigned)fuzz_take(&in, 1);
  uint8_t delimiter = (uint8_t)fuzz_take(&in, 1);
  ps_lines_limits limits = {.bytes_max = fuzz_take(&in, 2), .record_bytes = (uint32_t)fuzz_take(&in, 1)};
  limits.count_max = (uint32_t)fuzz_take(&in, 1) + 1;
  size_t room = (size_t)fuzz_take(&in, 2), separator_bytes = 1 + (options & 3), null_bytes = options >> 2 & 3,
         bytes;
  const uint8_t *separator = fuzz_bytes(&in, &separator_bytes), *null_text = fuzz_bytes(&in, &null_bytes);
  uint8_t *p = fuzz_rest(&in, &bytes);
  columns c;
  ps_lines_found found;
  make(&c, bytes, limits.count_max);

  ps_lines_split(p, bytes, delimiter, &limits, c.data[1], c.offsets[1], &found);
  check_found(&found, &limits, p, bytes, delimiter);
  FUZZ_CHECK((size_t)c.offsets[1][found.count] + found.count == found.taken);
  ps_binary values = column(&c, 1, found.count, false);
  ps_lines_text text = {.delimiter = delimiter};
  join_again(&text, NULL, &values, found.count, room, p, found.taken);

  ps_lines_form form = {.separator = separator,
                        .separator_bytes = options & 16 ? separator_bytes : 0,
                        .null_text = options & 32 ? null_text : NULL,
                        .null_bytes = null_bytes,
                        .delimiter = delimiter,
                        .strip_cr = options & 64};
  ps_lines_column keys = {c.data[0], c.offsets[0], c.validity[0], 0},
                  rest = {c.data[1], c.offsets[1], c.validity[1], 0};
  ps_lines_split_keyed(p, bytes, &form, &limits, &keys, &rest, &found);
  check_found(&found, &limits, p, bytes, delimiter);
  values = column(&c, 1, found.count, true);
  ps_binary key_column = {.width = -1};
  if (form.separator_bytes) key_column = column(&c, 0, found.count, true);
  text = (ps_lines_text){separator, form.separator_bytes, form.null_text, null_bytes,
                         options & 128 ? -1 : delimiter};
  /* A stripped carriage return does not come back; nor does a null that nothing stands for. */
  bool same = !form.strip_cr && !form.null_text && !(options & 128);
  join_again(&text, form.separator_bytes ? &key_column : NULL, &values, found.count, room, same ? p : NULL,
             found.taken);
  drop(&c);
  free(p);
}
