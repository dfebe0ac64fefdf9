/* Leases and the Arrow C data interface: what is lent, what is made, and who frees it. */
#include <pthread.h>

#include "ps_arrow.h"
#include "ps_test.h"

enum { RECORDS = 1000, HEADERS = 700, BYTES = 5 };

/* A body as a lease with every column; strings of BYTES each. */
typedef struct body {
  uint32_t deltas[RECORDS];
  int64_t timestamps[RECORDS];
  uint8_t bits[RECORDS / 8];
  int32_t offsets[RECORDS + 1];
  int32_t lists[RECORDS + 1];
  uint8_t data[RECORDS * BYTES];
} body;

static ps_lease *make_lease(ps_columns *columns) {
  ps_lease *lease = ps_lease_of_body(sizeof(body));
  CHECK(lease != NULL && (uintptr_t)lease->body % PS_ALIGN == 0);
  body *b = (body *)lease->body;
  for (int i = 0; i <= RECORDS; i++) {
    b->offsets[i] = i * BYTES;
    b->lists[i] = i < HEADERS ? i : HEADERS;
    if (i == RECORDS) break;
    b->deltas[i] = (uint32_t)i * 2;
    b->timestamps[i] = i % 10 ? i : PS_TIMESTAMP_NONE;
  }
  random_fill(b->data, sizeof b->data);
  random_fill(b->bits, sizeof b->bits);
  ps_binary strings = {
      .validity = b->bits, .offsets = b->offsets, .data = b->data, .bytes = sizeof b->data, .width = -1};
  ps_binary names = strings;
  names.validity = NULL;
  *columns = (ps_columns){.count = RECORDS,
                          .offset_deltas = b->deltas,
                          .timestamps = b->timestamps,
                          .first_timestamp = PS_TIMESTAMP_NONE,
                          .has_keys = true,
                          .keys = strings,
                          .values = names,
                          .has_headers = true,
                          .header_lists = b->lists,
                          .header_count = HEADERS,
                          .header_keys = names,
                          .header_values = strings};
  return lease;
}

static bool bit_of(const struct ArrowArray *a, int64_t i) {
  const uint8_t *bits = a->buffers[0];
  i += a->offset;
  return !bits || (bits[i >> 3] >> (i & 7) & 1);
}

static void check_slice(ps_arrow_plan *plan, ps_lease *lease, const ps_columns *c, uint32_t start,
                        uint32_t count) {
  struct ArrowArray a;
  CHECK_EQ(ps_arrow_batch(plan, lease, c, 5000, start, count, &a), PS_OK);
  CHECK_EQ(a.n_children, 5);
  const body *b = (const body *)lease->body;
  for (int64_t i = 0; i < 5; i++) CHECK_EQ(a.children[i]->length, count);
  struct ArrowArray *offset = a.children[0], *time = a.children[1], *key = a.children[2],
                    *value = a.children[3], *headers = a.children[4];
  CHECK(key->buffers[2] == b->data && key->buffers[1] == b->offsets && key->buffers[0] == b->bits);
  CHECK(value->buffers[2] == b->data && value->offset == start && headers->offset == start);
  CHECK(headers->buffers[1] == b->lists);
  CHECK_EQ(headers->children[0]->length, HEADERS);
  int64_t nulls = 0;
  for (uint32_t i = 0; i < count; i++) {
    CHECK_EQ(((const int64_t *)offset->buffers[1])[i], 5000 + (int64_t)(start + i) * 2);
    bool there = (start + i) % 10 != 0;
    CHECK_EQ(bit_of(time, i), there);
    nulls += !there;
    if (there) CHECK_EQ(((const int64_t *)time->buffers[1])[i], start + i);
  }
  CHECK_EQ(time->null_count, nulls);
  a.release(&a);
  CHECK(a.release == NULL);
}

static void test_slices(void) {
  ps_columns c;
  ps_lease *lease = make_lease(&c);
  ps_arrow_plan *plan = ps_arrow_plan_new(-1, -1, 0);
  check_slice(plan, lease, &c, 0, RECORDS);
  for (int i = 0; i < 200; i++) {
    uint32_t start = random_below(RECORDS + 1);
    check_slice(plan, lease, &c, start, random_below(RECORDS - start + 1));
  }
  ps_arrow_plan_unref(plan);
  ps_lease_unref(lease);
}

/* Columns that are not there come from zeros, short or long. */
static void test_absent(void) {
  for (uint32_t count = 0; count < 200000; count = count * 7 + 3) {
    for (int32_t width = -1; width < 4; width += 2) {
      ps_lease *lease = ps_lease_of_body((uint64_t)count * 8);
      memset(lease->body, 0, (size_t)count * 8);
      ps_columns c = {.count = count, .first_timestamp = count % 2 ? PS_TIMESTAMP_NONE : 77};
      c.values = (ps_binary){.data = lease->body, .bytes = count * 8, .width = 8};
      ps_arrow_plan *plan = ps_arrow_plan_new(width, 8, 0);
      struct ArrowArray a;
      CHECK_EQ(ps_arrow_batch(plan, lease, &c, 0, 0, count, &a), PS_OK);
      ps_lease_unref(lease);
      ps_arrow_plan_unref(plan);
      CHECK_EQ(a.children[2]->null_count, count);
      CHECK_EQ(a.children[1]->null_count, count % 2 ? count : 0);
      for (uint32_t i = 0; i < count; i++) {
        CHECK(!bit_of(a.children[2], i));
        CHECK_EQ(bit_of(a.children[1], i), count % 2 == 0);
        if (width < 0) CHECK_EQ(((const int32_t *)a.children[2]->buffers[1])[i + 1], 0);
        if (width > 0)
          CHECK_EQ(((const uint8_t *)a.children[2]
                        ->buffers[1])[(uint64_t)i * (uint32_t)width + (uint32_t)width - 1],
                   0);
        CHECK_EQ(((const int32_t *)a.children[4]->buffers[1])[i + 1], 0);
      }
      a.release(&a);
    }
  }
}

/* What Arrow allows: children moved out, the parent released, then the children, in any order. */
static void test_moved_children(void) {
  for (int round = 0; round < 50; round++) {
    ps_columns c;
    ps_lease *lease = make_lease(&c);
    ps_arrow_plan *plan = ps_arrow_plan_new(-1, -1, 0);
    struct ArrowArray a, taken[5];
    struct ArrowSchema s, names[5];
    CHECK_EQ(ps_arrow_batch(plan, lease, &c, 0, 10, 100, &a), PS_OK);
    CHECK_EQ(ps_arrow_schema(plan, &s), PS_OK);
    ps_arrow_plan_unref(plan);
    ps_lease_unref(lease);
    bool move[5];
    for (int i = 0; i < 5; i++) {
      if (!(move[i] = random_below(2))) continue;
      taken[i] = *a.children[i];
      a.children[i]->release = NULL;
      names[i] = *s.children[i];
      s.children[i]->release = NULL;
    }
    a.release(&a);
    s.release(&s);
    uint32_t first = random_below(5);
    for (uint32_t k = 0; k < 5; k++) {
      uint32_t i = (first + k) % 5;
      if (!move[i]) continue;
      CHECK_EQ(taken[i].length, 100);
      if (i == 3) CHECK_EQ(((const int32_t *)taken[i].buffers[1])[50], 50 * BYTES);
      CHECK(strlen(names[i].name) > 0 && strlen(names[i].format) > 0);
      taken[i].release(&taken[i]);
      names[i].release(&names[i]);
    }
  }
}

typedef struct __attribute__((packed)) row {
  uint8_t flag;
  uint32_t number; /* big-endian */
  int64_t time;
  uint8_t rest[3];
} row;

static void test_fields(void) {
  enum { ROWS = 203 };
  ps_lease *lease = ps_lease_of_body(ROWS * sizeof(row) + ROWS);
  row *rows = (row *)lease->body;
  uint8_t *bits = lease->body + ROWS * sizeof(row);
  random_fill(bits, ROWS);
  for (uint32_t i = 0; i < ROWS; i++)
    rows[i] =
        (row){.flag = i % 3 ? 0 : 2, .number = __builtin_bswap32(i), .time = i % 5 ? i : PS_TIMESTAMP_NONE};
  ps_arrow_plan *plan = ps_arrow_plan_new(-1, sizeof(row), 4);
  CHECK(ps_arrow_plan_set(plan, 0, "flag", "b", 0, 1, PS_FIELD_BOOL, false));
  CHECK(ps_arrow_plan_set(plan, 1, "number", "I", 1, 4, PS_FIELD_SWAP, true));
  CHECK(ps_arrow_plan_set(plan, 2, "time", "tsn:", 5, 8, PS_FIELD_TIME, false));
  CHECK(ps_arrow_plan_set(plan, 3, "rest", "w:3", 13, 3, PS_FIELD_COPY, false));
  for (int nulls = 0; nulls < 2; nulls++)
    for (uint32_t start = 0; start < ROWS; start += 11) {
      ps_columns c = {.count = ROWS,
                      .values = {.data = lease->body, .bytes = ROWS * sizeof(row), .width = sizeof(row)}};
      if (nulls) c.values.validity = bits;
      struct ArrowArray a;
      uint32_t count = ROWS - start;
      CHECK_EQ(ps_arrow_batch(plan, lease, &c, 0, start, count, &a), PS_OK);
      CHECK_EQ(a.n_children, 8);
      const uint8_t *flags = a.children[3]->buffers[1];
      for (uint32_t i = 0; i < count; i++) {
        uint32_t at = start + i;
        bool there = ps_bit(c.values.validity, at);
        CHECK_EQ(flags[i >> 3] >> (i & 7) & 1, at % 3 == 0);
        CHECK_EQ(((const uint32_t *)a.children[4]->buffers[1])[i], at);
        CHECK_EQ(bit_of(a.children[4], i), there);
        CHECK_EQ(bit_of(a.children[5], i), there && at % 5 != 0);
      }
      a.release(&a);
    }
  ps_lease_unref(lease);
  ps_arrow_plan_unref(plan);
}

static ps_lease *shared;
static void *use_shared(void *unused) {
  for (int i = 0; i < 20000; i++) {
    struct ArrowArray a;
    ps_binary strings = {.data = shared->body, .bytes = 64, .width = 8};
    CHECK_EQ(ps_arrow_binary(shared, &strings, false, 8, 0, 8, &a), PS_OK);
    a.release(&a);
  }
  ps_lease_unref(shared); /* one reference a thread */
  return unused;
}

static void test_threads(void) {
  pthread_t threads[4];
  shared = ps_lease_of_body(64);
  for (int i = 0; i < 4; i++) ps_lease_ref(shared);
  for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, use_shared, NULL) == 0);
  ps_lease_unref(shared);
  for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

int main(void) {
  RUN(test_slices);
  RUN(test_absent);
  RUN(test_moved_children);
  RUN(test_fields);
  RUN(test_threads);
  return 0;
}
