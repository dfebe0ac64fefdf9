#include "ps_rows.h"

#include <string.h>

#include "ps_base.h"
#include "ps_hash.h"

/* ---- rows ------------------------------------------------------------------------------------------- */

typedef struct row_list {
  int32_t *starts, *ends;
  size_t count;
} row_list;

static inline void add_row(row_list *rows, const uint8_t *data, const uint8_t *start, const uint8_t *end) {
  rows->starts[rows->count] = (int32_t)(start - data);
  rows->ends[rows->count] = (int32_t)(end - data);
  rows->count += end > start;
}

/* The end of the row at p: of its text, with *next behind what ended it; NULL when it has none. */
static const uint8_t *plain_end(const uint8_t *p, const uint8_t *limit, bool cr_ends, const uint8_t **next) {
  const uint8_t *end = memchr(p, '\n', (size_t)(limit - p));
  const uint8_t *stop = end ? end : limit;
  const uint8_t *cr = cr_ends ? memchr(p, '\r', (size_t)(stop - p)) : NULL;
  if (cr) {
    *next = cr + 1 == end ? end + 1 : cr + 1;
    return cr;
  }
  *next = end ? end + 1 : limit;
  return end;
}

static const uint8_t *quoted_end(const uint8_t *p, const uint8_t *limit, const ps_row_rules *rules,
                                 const uint8_t **next) {
  bool field_start = true;
  while (p < limit) {
    uint8_t c = *p++;
    if (field_start && c == rules->quote) {
      for (;;) {
        p = memchr(p, rules->quote, (size_t)(limit - p));
        if (!p || p + 1 == limit) return NULL; /* whether it is doubled, what follows says */
        p++;
        if (*p != rules->quote) break;
        p++;
      }
      field_start = false;
      continue;
    }
    field_start = c == rules->delimiter;
    if (c == '\n' || (c == '\r' && rules->cr_ends)) {
      *next = c == '\r' && p < limit && *p == '\n' ? p + 1 : p;
      return p - 1;
    }
  }
  return NULL;
}

size_t ps_rows_split(const uint8_t *data, size_t bytes, const ps_row_rules *rules, bool last, int32_t *starts,
                     int32_t *ends, size_t capacity, size_t *consumed) {
  PS_ASSERT(bytes <= INT32_MAX);
  const uint8_t *p = data, *limit = data + bytes;
  row_list rows = {starts, ends, 0};
  /* Quotes are rare: up to the first one, lines are rows. */
  const uint8_t *quote = rules->quote >= 0 ? memchr(data, rules->quote, bytes) : NULL;
  while (p < limit && rows.count < capacity) {
    const uint8_t *next, *end = plain_end(p, limit, rules->cr_ends, &next);
    const uint8_t *stop = end ? end : limit;
    if (quote && quote < stop) {
      end = quoted_end(p, limit, rules, &next);
      stop = end ? end : limit;
      if (quote < stop) quote = memchr(stop, rules->quote, (size_t)(limit - stop));
    }
    if (!end) break;
    add_row(&rows, data, p, end);
    p = next;
  }
  if (last && p < limit && rows.count < capacity) {
    add_row(&rows, data, p, limit);
    p = limit;
  }
  *consumed = (size_t)(p - data);
  return rows.count;
}

void ps_rows_gather(const uint8_t *data, const int32_t *starts, const int32_t *ends, size_t count,
                    uint8_t *out, int32_t *offsets) {
  int32_t at = 0;
  offsets[0] = 0;
  for (size_t i = 0; i < count; i++) {
    int32_t size = ends[i] - starts[i];
    memcpy(out + at, data + starts[i], (size_t)size);
    at += size;
    offsets[i + 1] = at;
  }
}

/* ---- columns ---------------------------------------------------------------------------------------- */

static inline bool is_null(const ps_text *text, size_t i) {
  size_t at = (size_t)text->bit + i;
  return text->validity && !((text->validity[at >> 3] >> (at & 7)) & 1);
}

void ps_rows_partition(const ps_text *keys, size_t count, uint32_t partitions, int32_t *out) {
  for (size_t i = 0; i < count; i++) {
    const uint8_t *key = keys->data + keys->offsets[i];
    size_t bytes = (size_t)(keys->offsets[i + 1] - keys->offsets[i]);
    out[i] = is_null(keys, i) ? -1 : (int32_t)(((uint32_t)ps_murmur2(key, bytes) & 0x7fffffffu) % partitions);
  }
}

/* ---- JSON ------------------------------------------------------------------------------------------- */

/* Most bytes that one byte of text becomes: \u00XX. A number may grow by a digit at each end of its point. */
enum { ESCAPED_BYTES_MAX = 6, CELL_BYTES_MORE = 8 };

static const char *const NOTHING[] = {"#N/A", "#N/A N/A", "#NA",     "-1.#IND", "-1.#QNAN", "-NaN",
                                      "-nan", "1.#IND",   "1.#QNAN", "N/A",     "NA",       "NULL",
                                      "NaN",  "n/a",      "nan",     "null"};

/* One of the words that Arrow's CSV reader takes for null. */
static bool is_nothing(const uint8_t *p, size_t bytes) {
  if (bytes == 0) return true;
  for (size_t i = 0; i < sizeof NOTHING / sizeof *NOTHING; i++)
    if (bytes == strlen(NOTHING[i]) && memcmp(p, NOTHING[i], bytes) == 0) return true;
  return false;
}

static uint8_t *put(uint8_t *out, const void *data, size_t bytes) {
  memcpy(out, data, bytes);
  return out + bytes;
}

/* Bytes of the UTF-8 sequence at p, 0 when it is none (RFC 3629: no surrogates, nothing overlong). */
static size_t sequence_bytes(const uint8_t *p, size_t left) {
  size_t bytes = p[0] >= 0xc2 && p[0] < 0xe0   ? 2
                 : (p[0] & 0xf0) == 0xe0       ? 3
                 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
                                               : 0;
  if (bytes == 0 || bytes > left) return 0;
  uint8_t low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
  uint8_t high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
  if (p[1] < low || p[1] > high) return 0;
  for (size_t i = 2; i < bytes; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  return bytes;
}

/* Nonzero in each byte of w that cannot stand in a JSON string as it is, or is not ASCII. Borrows may mark a
 * byte above such a one as well: only zero is told for sure. */
static inline uint64_t special(uint64_t w) {
  const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
  uint64_t quotes = w ^ (ones * '"'), slashes = w ^ (ones * '\\');
  return ((w - ones * 0x20) | (quotes - ones) | (slashes - ones) | w) & highs;
}

static uint8_t *escape(uint8_t *out, uint8_t c) {
  static const char short_for[] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
  static const char digits[] = "0123456789abcdef";
  *out++ = '\\';
  if (c == '"' || c == '\\') {
    *out++ = c;
  } else if (c < sizeof short_for && short_for[c]) {
    *out++ = (uint8_t)short_for[c];
  } else {
    out = put(out, "u00", 3);
    *out++ = (uint8_t)digits[c >> 4];
    *out++ = (uint8_t)digits[c & 15];
  }
  return out;
}

/* A JSON string, or NULL when the text is not UTF-8. */
static uint8_t *put_text(uint8_t *out, const uint8_t *p, size_t bytes) {
  const uint8_t *limit = p + bytes;
  *out++ = '"';
  while (p < limit) {
    if (limit - p >= 8) {
      uint64_t w = ps_load_u64(p);
      if (PS_LIKELY(!special(w))) {
        ps_store_u64(out, w);
        p += 8;
        out += 8;
        continue;
      }
    }
    /* Up to 8 bytes one by one; then whole words again. */
    const uint8_t *stop = limit - p > 8 ? p + 8 : limit;
    while (p < stop) {
      if (*p >= 0x80) {
        size_t sequence = sequence_bytes(p, (size_t)(limit - p));
        if (sequence == 0) return NULL;
        out = put(out, p, sequence);
        p += sequence;
      } else if (*p < 0x20 || *p == '"' || *p == '\\') {
        out = escape(out, *p++);
      } else {
        *out++ = *p++;
      }
    }
  }
  *out++ = '"';
  return out;
}

static bool is_infinity(const uint8_t *p, size_t bytes) {
  static const char word[] = "infinity";
  if (bytes && (*p == '+' || *p == '-')) p++, bytes--;
  if (bytes != 3 && bytes != 8) return false;
  for (size_t i = 0; i < bytes; i++)
    if ((p[i] | 0x20) != (uint8_t)word[i]) return false;
  return true;
}

static const uint8_t *past_digits(const uint8_t *p, const uint8_t *limit) {
  while (p < limit && (uint8_t)(*p - '0') < 10) p++;
  return p;
}

/* A number with the digits it has, a bare point completed. NULL: it is none, or begins with a zero that JSON
 * would not have there (such a column is text: 00123 is not 123). */
static uint8_t *put_number(uint8_t *out, const uint8_t *p, size_t bytes) {
  const uint8_t *limit = p + bytes;
  while (p < limit && (*p == ' ' || *p == '\t')) p++;
  while (p < limit && (limit[-1] == ' ' || limit[-1] == '\t')) limit--;
  if (p < limit && (*p == '-' || *p == '+')) {
    if (*p == '-') *out++ = '-';
    p++;
  }
  const uint8_t *digits = p;
  p = past_digits(p, limit);
  size_t before = (size_t)(p - digits), after = 0;
  if (before > 1 && *digits == '0') return NULL;
  if (before == 0) *out++ = '0';
  out = put(out, digits, before);
  if (p < limit && *p == '.') {
    const uint8_t *fraction = ++p;
    p = past_digits(p, limit);
    after = (size_t)(p - fraction);
    *out++ = '.';
    if (after == 0) *out++ = '0';
    out = put(out, fraction, after);
  }
  if (before + after > 0 && p < limit && (*p == 'e' || *p == 'E')) {
    const uint8_t *exponent = p++;
    if (p < limit && (*p == '-' || *p == '+')) p++;
    const uint8_t *power = p;
    p = past_digits(p, limit);
    if (p == power) return NULL;
    out = put(out, exponent, (size_t)(p - exponent));
  }
  return p == limit && before + after > 0 ? out : NULL;
}

static uint8_t *put_float(uint8_t *out, const uint8_t *p, size_t bytes) {
  uint8_t *end = put_number(out, p, bytes);
  if (!end) return NULL;
  for (const uint8_t *q = out; q < end; q++)
    if (*q == '.' || *q == 'e' || *q == 'E') return end;
  return put(end, ".0", 2);
}

static uint8_t *put_bool(uint8_t *out, const uint8_t *p, size_t bytes) {
  static const char *const yes[] = {"true", "True", "TRUE", "1"}, *const no[] = {"false", "False", "FALSE",
                                                                                 "0"};
  for (size_t i = 0; i < 4; i++) {
    if (bytes == strlen(yes[i]) && memcmp(p, yes[i], bytes) == 0) return put(out, "true", 4);
    if (bytes == strlen(no[i]) && memcmp(p, no[i], bytes) == 0) return put(out, "false", 5);
  }
  return NULL;
}

static uint8_t *put_cell(uint8_t *out, ps_cell cell, const uint8_t *p, size_t bytes) {
  uint8_t *done = NULL;
  switch (cell) {
  case PS_CELL_JSON:
    return put(out, p, bytes);
  case PS_CELL_TEXT:
    return put_text(out, p, bytes);
  case PS_CELL_TEXT_OR_NULL:
    if (is_nothing(p, bytes)) return put(out, "null", 4);
    return put_text(out, p, bytes);
  case PS_CELL_NUMBER:
    done = put_number(out, p, bytes);
    break;
  case PS_CELL_FLOAT:
    done = put_float(out, p, bytes);
    break;
  case PS_CELL_BOOL:
    done = put_bool(out, p, bytes);
    break;
  }
  if (!done && (is_nothing(p, bytes) || (cell != PS_CELL_BOOL && is_infinity(p, bytes))))
    return put(out, "null", 4);
  return done;
}

size_t ps_rows_json_bound(const ps_json_column *columns, size_t column_count, size_t row) {
  size_t bound = 2;
  for (size_t c = 0; c < column_count; c++) {
    const int32_t *offsets = columns[c].text.offsets + row;
    bound += columns[c].lead_bytes + CELL_BYTES_MORE + ESCAPED_BYTES_MAX * (size_t)(offsets[1] - offsets[0]);
  }
  return bound;
}

size_t ps_rows_to_json(const ps_json_column *columns, size_t column_count, size_t first, size_t count,
                       uint8_t *out, size_t capacity, size_t *used, int32_t *offsets, int32_t *bad) {
  size_t at = *used, i;
  for (i = first; i < first + count; i++) {
    if (capacity - at < ps_rows_json_bound(columns, column_count, i)) break;
    uint8_t *p = out + at;
    bad[i] = -1;
    if (column_count == 0) *p++ = '{';
    for (size_t c = 0; c < column_count; c++) {
      const ps_json_column *column = &columns[c];
      p = put(p, column->lead, column->lead_bytes);
      if (is_null(&column->text, i)) {
        p = put(p, "null", 4);
        continue;
      }
      const int32_t *ends = column->text.offsets + i;
      p = put_cell(p, column->cell, column->text.data + ends[0], (size_t)(ends[1] - ends[0]));
      if (!p) {
        bad[i] = (int32_t)c;
        break;
      }
    }
    if (p) {
      *p++ = '}';
      at = (size_t)(p - out);
    }
    PS_ASSERT(at <= INT32_MAX);
    offsets[i + 1] = (int32_t)at;
  }
  *used = at;
  return i - first;
}
