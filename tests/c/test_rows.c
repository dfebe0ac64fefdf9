#include "ps_rows.h"
#include "ps_test.h"

#define ROWS_MAX 512

/* The rules of ps_rows_split once more, a byte at a time. */
static size_t split_slowly(const uint8_t *data, size_t bytes, const ps_row_rules *rules, bool last,
                           int32_t *starts, int32_t *ends, size_t *consumed) {
  enum { FIELD_START, FIELD, QUOTED, QUOTE_SEEN } state = FIELD_START;
  size_t count = 0, start = 0, i;
  for (i = 0; i < bytes; i++) {
    uint8_t c = data[i];
    if (state == QUOTED) {
      if (c == rules->quote) state = QUOTE_SEEN;
      continue;
    }
    if (state == QUOTE_SEEN && c == rules->quote) {
      state = QUOTED;
      continue;
    }
    if (state == FIELD_START && rules->quote >= 0 && c == rules->quote) {
      state = QUOTED;
      continue;
    }
    state = c == rules->delimiter ? FIELD_START : FIELD;
    if (c == '\n' || (c == '\r' && rules->cr_ends)) {
      if (i > start) starts[count] = (int32_t)start, ends[count++] = (int32_t)i;
      start = i + 1;
      state = FIELD_START;
    }
  }
  if (last && start < bytes) {
    starts[count] = (int32_t)start, ends[count++] = (int32_t)bytes;
    start = bytes;
  }
  *consumed = start;
  return count;
}

static void test_split_is_what_it_says(void) {
  static const uint8_t alphabet[] = {'a', ',', '"', '\n', '\r', 'b', '\n', 'c'};
  int32_t starts[ROWS_MAX], ends[ROWS_MAX], slow_starts[ROWS_MAX], slow_ends[ROWS_MAX];
  for (int round = 0; round < 200000; round++) {
    size_t bytes = random_below(48), consumed, slow_consumed;
    uint8_t *data = exactly(bytes);
    for (size_t i = 0; i < bytes; i++) data[i] = alphabet[random_below(sizeof alphabet)];
    ps_row_rules rules = {',', random_below(3) ? '"' : -1, random_below(2)};
    bool last = random_below(2);
    size_t count = ps_rows_split(data, bytes, &rules, last, starts, ends, ROWS_MAX, &consumed);
    CHECK_EQ(count, split_slowly(data, bytes, &rules, last, slow_starts, slow_ends, &slow_consumed));
    CHECK(memcmp(starts, slow_starts, count * sizeof *starts) == 0);
    CHECK(memcmp(ends, slow_ends, count * sizeof *ends) == 0);
    /* The line feed after a carriage return at the end goes with it, or makes an empty row: no difference. */
    CHECK(consumed >= slow_consumed || !last);
    free(data);
  }
}

static void test_split_stops_at_capacity(void) {
  const uint8_t data[] = "a\nb\n\nc\nd";
  ps_row_rules rules = {',', '"', true};
  int32_t starts[2], ends[2];
  size_t consumed;
  CHECK_EQ(ps_rows_split(data, sizeof data - 1, &rules, true, starts, ends, 2, &consumed), 2);
  CHECK_EQ(consumed, 4);
}

/* Every text of any bytes: what is written stays within its bound, and memory of exactly that size. */
static void test_json_stays_within_its_bound(void) {
  static const uint8_t alphabet[] = {'0',  '1',  '9', '.',  'e',  '-',  '+', ' ', '"',
                                     '\\', '\n', 0,   0xc3, 0xbc, 0xff, 'N', 'A'};
  for (int round = 0; round < 100000; round++) {
    enum { COLUMNS = 3 };
    ps_json_column columns[COLUMNS];
    uint8_t *texts[COLUMNS];
    int32_t offsets[COLUMNS][2], ends[2] = {0}, bad[1];
    for (int c = 0; c < COLUMNS; c++) {
      size_t bytes = random_below(20);
      texts[c] = exactly(bytes);
      for (size_t i = 0; i < bytes; i++) texts[c][i] = alphabet[random_below(sizeof alphabet)];
      offsets[c][0] = 0;
      offsets[c][1] = (int32_t)bytes;
      columns[c] = (ps_json_column){.text = {NULL, 0, offsets[c], texts[c]},
                                    .lead = (const uint8_t *)(c ? ",\"b\":" : "{\"a\":"),
                                    .lead_bytes = 5,
                                    .cell = (ps_cell)random_below(PS_CELL_JSON + 1)};
    }
    size_t bound = ps_rows_json_bound(columns, COLUMNS, 0), used = 0;
    uint8_t *out = exactly(bound);
    CHECK_EQ(ps_rows_to_json(columns, COLUMNS, 0, 1, out, bound - 1, &used, ends, bad), 0);
    CHECK_EQ(ps_rows_to_json(columns, COLUMNS, 0, 1, out, bound, &used, ends, bad), 1);
    CHECK(used <= bound);
    CHECK_EQ(ends[1], used);
    CHECK(bad[0] >= -1 && bad[0] < COLUMNS);
    CHECK((bad[0] == -1) == (used > 0));
    free(out);
    for (int c = 0; c < COLUMNS; c++) free(texts[c]);
  }
}

int main(void) {
  RUN(test_split_is_what_it_says);
  RUN(test_split_stops_at_capacity);
  RUN(test_json_stays_within_its_bound);
  return 0;
}
