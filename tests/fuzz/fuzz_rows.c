/* Rows of text files: where they end, and columns of them as JSON. */
#include "fuzz.h"
#include "ps_rows.h"

enum { ROWS_MAX = 64, COLUMNS_MAX = 4 };

/* Taken in any portions, the rows are the same. */
static void split(const uint8_t *p, size_t bytes, const ps_row_rules *rules, size_t portion) {
  int32_t starts[ROWS_MAX], ends[ROWS_MAX], offsets[ROWS_MAX + 1];
  size_t at = 0, consumed, most = bytes + 2;
  while (at < bytes && most-- > 0) {
    bool last = portion & 1;
    size_t capacity = 1 + portion % ROWS_MAX;
    size_t count = ps_rows_split(p + at, bytes - at, rules, last, starts, ends, capacity, &consumed);
    FUZZ_CHECK(count <= capacity && consumed <= bytes - at);
    size_t sum = 0, before = 0;
    for (size_t i = 0; i < count; i++) {
      FUZZ_CHECK((size_t)starts[i] >= before && ends[i] > starts[i] && (size_t)ends[i] <= consumed);
      before = (size_t)ends[i];
      sum += (size_t)(ends[i] - starts[i]);
    }
    uint8_t *out = malloc(sum ? sum : 1);
    ps_rows_gather(p + at, starts, ends, count, out, offsets);
    FUZZ_CHECK((size_t)offsets[count] == sum);
    free(out);
    if (last && count < capacity) FUZZ_CHECK(consumed == bytes - at);
    if (consumed == 0) break;
    at += consumed;
  }
}

/* Strings that are closed, in one object: enough to see that no text breaks out of its place. */
static void check_json(const uint8_t *p, size_t bytes) {
  bool quoted = false;
  FUZZ_CHECK(bytes >= 2 && p[0] == '{' && p[bytes - 1] == '}');
  for (size_t i = 0; i < bytes; i++) {
    if (quoted && p[i] == '\\') {
      i++;
      continue;
    }
    if (p[i] == '"') quoted = !quoted;
    FUZZ_CHECK(p[i] >= 0x20);
  }
  FUZZ_CHECK(!quoted);
}

static void write_json(fuzz_in *in) {
  static const char lead[COLUMNS_MAX][8] = {"{\"a\":", ",\"b\":", ",\"c\":", ",\"d\":"};
  size_t column_count = fuzz_take(in, 1) % (COLUMNS_MAX + 1), rows = fuzz_take(in, 1) % 16, bytes, used = 0;
  size_t capacity = (size_t)fuzz_take(in, 2);
  ps_json_column columns[COLUMNS_MAX];
  uint8_t validity[COLUMNS_MAX][4];
  int32_t offsets[COLUMNS_MAX][17], ends[17], bad[16], partitions[16];
  bool verbatim = false;
  for (size_t c = 0; c < column_count; c++) {
    unsigned kind = (unsigned)fuzz_take(in, 1);
    for (int i = 0; i < 4; i++) validity[c][i] = (uint8_t)fuzz_take(in, 1);
    columns[c] =
        (ps_json_column){.lead = (const uint8_t *)lead[c], .lead_bytes = 5, .cell = (ps_cell)(kind % 6)};
    verbatim = verbatim || columns[c].cell == PS_CELL_JSON;
    columns[c].text =
        (ps_text){.validity = kind & 64 ? validity[c] : NULL, .bit = kind & 7, .offsets = offsets[c]};
    offsets[c][0] = (int32_t)fuzz_take(in, 1);
    for (size_t i = 0; i < rows; i++) offsets[c][i + 1] = offsets[c][i] + (int32_t)(fuzz_take(in, 1) & 31);
  }
  uint8_t *p = fuzz_rest(in, &bytes), *out = malloc(capacity ? capacity : 1);
  for (size_t c = 0; c < column_count; c++) {
    columns[c].text.data = p;
    for (size_t i = 0; i <= rows; i++)
      if ((size_t)offsets[c][i] > bytes) offsets[c][i] = (int32_t)bytes;
    ps_rows_partition(&columns[c].text, rows, 1 + (uint32_t)c, partitions);
    for (size_t i = 0; i < rows; i++) FUZZ_CHECK(partitions[i] >= -1 && partitions[i] <= (int32_t)c);
  }
  ends[0] = 0;
  size_t done = ps_rows_to_json(columns, column_count, 0, rows, out, capacity, &used, ends, bad);
  FUZZ_CHECK(done <= rows && used <= capacity);
  for (size_t i = 0; i < done; i++) {
    FUZZ_CHECK(ends[i + 1] >= ends[i] && (size_t)ends[i + 1] <= used && bad[i] < (int32_t)column_count);
    if (bad[i] >= 0)
      FUZZ_CHECK(ends[i + 1] == ends[i]);
    else if (!verbatim)
      check_json(out + ends[i], (size_t)(ends[i + 1] - ends[i]));
  }
  if (done < rows) FUZZ_CHECK(capacity - used < ps_rows_json_bound(columns, column_count, done));
  free(out);
  free(p);
}

FUZZ_TARGET(rows) {
  fuzz_in in = {data, data + size};
  unsigned options = (unsigned)fuzz_take(&in, 1);
  if (options & 1) {
    write_json(&in);
    return;
  }
  ps_row_rules rules = {.delimiter = (uint8_t)fuzz_take(&in, 1), .cr_ends = options & 2};
  rules.quote = (int16_t)(options & 4 ? (int)fuzz_take(&in, 1) : -1);
  size_t portion = (size_t)fuzz_take(&in, 1), bytes;
  uint8_t *p = fuzz_rest(&in, &bytes);
  split(p, bytes, &rules, portion);
  free(p);
}
