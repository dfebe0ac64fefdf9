#include "ps_lines.h"
#include "ps_test.h"

static const ps_lines_limits no_limits = {.bytes_max = UINT32_MAX, .record_bytes = 0, .count_max = 1 << 20};

/* Random bytes in which the delimiter is about one in `every`. */
static uint8_t *random_lines(size_t bytes, uint32_t every, uint8_t delimiter) {
  uint8_t *p = exactly(bytes);
  for (size_t i = 0; i < bytes; i++) {
    p[i] = (uint8_t)random_u64();
    if (p[i] == delimiter) p[i]++;
    if (random_below(every) == 0) p[i] = delimiter;
  }
  return p;
}

/* Compares with the plainest splitter there is: each line against its place in the input. */
static void check_split(const uint8_t *in, size_t bytes, uint8_t delimiter, const ps_lines_limits *limits) {
  size_t lines = 0;
  for (size_t i = 0; i < bytes; i++) lines += in[i] == delimiter;
  size_t room = lines < limits->count_max ? lines : limits->count_max;
  uint8_t *data = exactly(bytes + PS_LINES_SLACK);
  int32_t *offsets = exactly((room + 1) * sizeof *offsets);
  ps_lines_found found;
  ps_lines_limits l = *limits;
  if (l.count_max > room) l.count_max = (uint32_t)room;
  ps_lines_split(in, bytes, delimiter, &l, data, offsets, &found);

  size_t at = 0, used = 0;
  uint64_t cost = 0;
  uint32_t count = 0;
  bool full = false;
  CHECK_EQ(offsets[0], 0);
  for (;;) {
    size_t end = at;
    while (end < bytes && in[end] != delimiter) end++;
    if (end == bytes) break;
    cost += end - at + limits->record_bytes;
    if (count == limits->count_max || cost > limits->bytes_max) {
      full = true;
      break;
    }
    CHECK(count < found.count);
    CHECK_EQ(offsets[count], used);
    CHECK(memcmp(data + used, in + at, end - at) == 0);
    used += end - at;
    count++;
    at = end + 1;
  }
  CHECK_EQ(found.count, count);
  CHECK_EQ(offsets[count], used);
  CHECK_EQ(found.taken, at);
  CHECK_EQ(found.full, full);
  free(data);
  free(offsets);
}

static void test_split(void) {
  for (size_t bytes = 0; bytes < 700; bytes++) {
    for (uint32_t every = 1; every <= 243; every *= 3) {
      uint8_t delimiter = (uint8_t)random_u64();
      uint8_t *in = random_lines(bytes, every, delimiter);
      check_split(in, bytes, delimiter, &no_limits);
      free(in);
    }
  }
}

/* Every place of one delimiter and of two in a few blocks. */
static void test_split_places(void) {
  enum { BYTES = 330 };
  for (size_t a = 0; a < BYTES; a++) {
    for (size_t b = a; b < BYTES; b += 1 + random_below(7)) {
      uint8_t *in = exactly(BYTES);
      memset(in, 'x', BYTES);
      for (size_t i = 0; i < BYTES; i++) in[i] = (uint8_t)('a' + i % 26);
      in[a] = in[b] = '\n';
      check_split(in, BYTES, '\n', &no_limits);
      free(in);
    }
  }
}

static void test_split_limits(void) {
  for (int round = 0; round < 3000; round++) {
    size_t bytes = random_below(900);
    uint8_t *in = random_lines(bytes, 1 + random_below(60), '\n');
    ps_lines_limits limits = {.bytes_max = random_below((uint32_t)bytes + 40),
                              .record_bytes = random_below(30),
                              .count_max = random_below(50)};
    check_split(in, bytes, '\n', &limits);
    free(in);
  }
  /* One line of a length around the limit. */
  for (uint64_t most = 99; most <= 101; most++) {
    uint8_t in[101], data[101 + PS_LINES_SLACK];
    int32_t offsets[2];
    memset(in, 'x', 100);
    in[90] = '\n';
    ps_lines_limits limits = {.bytes_max = most, .record_bytes = 10, .count_max = 1};
    ps_lines_found found;
    ps_lines_split(in, 91, '\n', &limits, data, offsets, &found);
    CHECK_EQ(found.count, most >= 100);
    CHECK_EQ(found.full, most < 100);
    CHECK_EQ(found.taken, most >= 100 ? 91 : 0);
  }
}

typedef struct keyed {
  ps_lines_column keys, values;
  size_t room;
} keyed;

static keyed make_keyed(size_t bytes, size_t lines) {
  keyed k = {.room = lines};
  ps_lines_column *columns[] = {&k.keys, &k.values};
  for (int i = 0; i < 2; i++) {
    columns[i]->data = exactly(bytes + PS_LINES_SLACK);
    columns[i]->offsets = exactly((lines + 1) * sizeof(int32_t));
    columns[i]->validity = exactly((lines + 7) / 8);
    memset(columns[i]->validity, 0xff, (lines + 7) / 8);
  }
  return k;
}
static void free_keyed(keyed *k) {
  ps_lines_column *columns[] = {&k->keys, &k->values};
  for (int i = 0; i < 2; i++) free(columns[i]->data), free(columns[i]->offsets), free(columns[i]->validity);
}

static void check_slot(const ps_lines_column *column, uint32_t i, const char *wanted) {
  size_t bytes = (size_t)(column->offsets[i + 1] - column->offsets[i]);
  CHECK_EQ((column->validity[i >> 3] >> (i & 7)) & 1, wanted != NULL);
  CHECK_EQ(bytes, wanted ? strlen(wanted) : 0);
  if (wanted) CHECK(memcmp(column->data + column->offsets[i], wanted, bytes) == 0);
}

static void test_keyed(void) {
  static const char text[] = "a::1\nno key\n::\nb::2::3\r\n\r\nNULL::NULL\n:\nc:::\n:::\nunfinished::";
  static const char *wanted[][2] = {
      {"a", "1"},   {NULL, "no key"}, {"", ""},   {"b", "2::3"}, {NULL, ""},
      {NULL, NULL}, {NULL, ":"},      {"c", ":"}, {"", ":"},
  };
  enum { LINES = sizeof wanted / sizeof *wanted };
  ps_lines_form form = {.separator = (const uint8_t *)"::",
                        .separator_bytes = 2,
                        .null_text = (const uint8_t *)"NULL",
                        .null_bytes = 4,
                        .delimiter = '\n',
                        .strip_cr = true};
  size_t bytes = sizeof text - 1;
  uint8_t *in = exactly(bytes);
  memcpy(in, text, bytes);
  keyed k = make_keyed(bytes, LINES);
  ps_lines_found found;
  ps_lines_limits limits = {.bytes_max = 1000, .record_bytes = 0, .count_max = LINES};
  ps_lines_split_keyed(in, bytes, &form, &limits, &k.keys, &k.values, &found);
  CHECK_EQ(found.count, LINES);
  CHECK_EQ(found.taken, bytes - strlen("unfinished::"));
  CHECK(!found.full);
  CHECK_EQ(k.keys.nulls, 4);
  CHECK_EQ(k.values.nulls, 1);
  for (uint32_t i = 0; i < LINES; i++) {
    check_slot(&k.keys, i, wanted[i][0]);
    check_slot(&k.values, i, wanted[i][1]);
  }
  CHECK_EQ(k.keys.validity[LINES / 8] >> (LINES % 8), 0);
  free_keyed(&k);
  free(in);
}

/* Without keys, nulls and carriage returns it must agree with the other splitter, limits included. */
static void test_keyed_agrees(void) {
  for (int round = 0; round < 3000; round++) {
    size_t bytes = random_below(900);
    uint8_t *in = random_lines(bytes, 1 + random_below(60), 0);
    ps_lines_limits limits = {.bytes_max = random_below((uint32_t)bytes + 900),
                              .record_bytes = random_below(30),
                              .count_max = random_below(200)};
    ps_lines_form form = {.delimiter = 0};
    keyed k = make_keyed(bytes, limits.count_max);
    uint8_t *data = exactly(bytes + PS_LINES_SLACK);
    int32_t *offsets = exactly((limits.count_max + 1) * sizeof *offsets);
    ps_lines_found a, b;
    ps_lines_split(in, bytes, 0, &limits, data, offsets, &a);
    ps_lines_split_keyed(in, bytes, &form, &limits, NULL, &k.values, &b);
    CHECK_EQ(a.count, b.count);
    CHECK_EQ(a.taken, b.taken);
    CHECK_EQ(a.full, b.full);
    CHECK(memcmp(offsets, k.values.offsets, (a.count + 1) * sizeof *offsets) == 0);
    CHECK(memcmp(data, k.values.data, (size_t)offsets[a.count]) == 0);
    free(data);
    free(offsets);
    free_keyed(&k);
    free(in);
  }
}

/* Split, joined in pieces of every size, is what it was. */
static void test_round_trip(void) {
  for (int round = 0; round < 2000; round++) {
    size_t bytes = random_below(1500), whole = bytes;
    uint8_t *in = random_lines(bytes, 1 + random_below(300), '\n');
    while (whole && in[whole - 1] != '\n') whole--;
    uint8_t *data = exactly(bytes + PS_LINES_SLACK);
    int32_t *offsets = exactly((bytes + 1) * sizeof *offsets);
    ps_lines_limits limits = {.bytes_max = bytes, .record_bytes = 0, .count_max = (uint32_t)bytes};
    ps_lines_found found;
    ps_lines_split(in, bytes, '\n', &limits, data, offsets, &found);
    CHECK_EQ(found.taken, whole);

    /* A column of exactly its size: nothing behind it may be read. */
    uint8_t *column = exactly((size_t)offsets[found.count]);
    memcpy(column, data, (size_t)offsets[found.count]);
    ps_binary values = {
        .offsets = offsets, .data = column, .bytes = (uint32_t)offsets[found.count], .width = -1};
    ps_lines_text text = {.delimiter = '\n'};
    uint8_t *back = exactly(whole + PS_LINES_SLACK);
    size_t at = 0;
    for (uint32_t row = 0; row < found.count;) {
      uint32_t rows, wanted = 1 + random_below(found.count - row);
      size_t room = random_below(200);
      if (room > whole - at) room = whole - at;
      size_t wrote = ps_lines_join(&text, NULL, &values, row, wanted, back + at, room, &rows);
      CHECK(wrote <= room && rows <= wanted);
      if (rows == 0) { /* it says so only of a line that does not fit */
        CHECK((size_t)(offsets[row + 1] - offsets[row]) + 1 > room);
        room = (size_t)(offsets[row + 1] - offsets[row]) + 1;
        wrote = ps_lines_join(&text, NULL, &values, row, 1, back + at, room, &rows);
        CHECK_EQ(rows, 1);
      }
      at += wrote;
      row += rows;
    }
    CHECK_EQ(at, whole);
    CHECK(memcmp(back, in, whole) == 0);
    free(back);
    free(column);
    free(offsets);
    free(data);
    free(in);
  }
}

static void check_join(const ps_lines_text *text, const ps_binary *keys, const ps_binary *values,
                       uint32_t count, const char *wanted) {
  uint8_t out[200 + PS_LINES_SLACK];
  uint32_t rows;
  size_t bytes = ps_lines_join(text, keys, values, 0, count, out, 200, &rows);
  CHECK_EQ(rows, count);
  CHECK_MSG(bytes == strlen(wanted) && memcmp(out, wanted, bytes) == 0, "(%.*s)", (int)bytes, out);
}

static void test_join_columns(void) {
  static const int32_t offsets[] = {0, 1, 1, 3};
  static const uint8_t valid[] = {0x5};
  ps_binary some = {
      .validity = valid, .offsets = offsets, .data = (const uint8_t *)"abb", .bytes = 3, .width = -1};
  ps_binary fixed = {.data = (const uint8_t *)"112233", .bytes = 6, .width = 2};
  ps_binary none = {.width = -1}, empty = {.width = 0};
  ps_lines_text text = {.separator = (const uint8_t *)", ", .separator_bytes = 2, .delimiter = '\n'};
  check_join(&text, NULL, &some, 3, "a\n\nbb\n");
  check_join(&text, NULL, &fixed, 3, "11\n22\n33\n");
  check_join(&text, NULL, &empty, 3, "\n\n\n");
  check_join(&text, &some, &fixed, 3, "a, 11\n22\nbb, 33\n");
  check_join(&text, &none, &some, 3, "a\n\nbb\n");
  text.null_text = (const uint8_t *)"-";
  text.null_bytes = 1;
  check_join(&text, &some, &fixed, 3, "a, 11\n-, 22\nbb, 33\n");
  check_join(&text, &none, &some, 3, "-, a\n-, -\n-, bb\n");
  text.delimiter = -1;
  check_join(&text, NULL, &some, 3, "a-bb");
  check_join(&text, &fixed, &some, 3, "11, a22, -33, bb");

  for (size_t room = 0; room <= 16; room++) { /* stops before what does not fit, and says where */
    uint8_t out[16 + PS_LINES_SLACK];
    uint32_t rows;
    CHECK_EQ(ps_lines_join(&text, &fixed, &some, 0, 3, out, room, &rows), room < 5    ? 0
                                                                          : room < 10 ? 5
                                                                          : room < 16 ? 10
                                                                                      : 16);
    CHECK_EQ(rows, room < 5 ? 0 : room < 10 ? 1 : room < 16 ? 2 : 3);
  }
}

int main(void) {
  RUN(test_split);
  RUN(test_split_places);
  RUN(test_split_limits);
  RUN(test_keyed);
  RUN(test_keyed_agrees);
  RUN(test_round_trip);
  RUN(test_join_columns);
  return 0;
}
