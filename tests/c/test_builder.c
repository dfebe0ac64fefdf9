/* The builder against a plain list of records: whatever is added, in whatever order nulls, keys, headers and
 * timestamps first appear, the columns say the same, and the frame they make stays within what was promised.
 */
#include "ps_builder.h"
#include "ps_test.h"

#define RECORDS_MAX 400
#define BYTES_MAX 64

typedef struct item {
  uint8_t value[BYTES_MAX], key[BYTES_MAX];
  int64_t value_bytes, key_bytes, timestamp;
  bool has_timestamp;
  uint32_t header_count;
  uint8_t header_key[3][8], header_value[3][8];
  uint32_t header_key_bytes[3];
  int32_t header_value_bytes[3];
} item;

typedef struct mix { /* one in how many; 0 = never */
  uint32_t null_values, keys, timestamps, headers;
  int32_t value_width, key_width;
} mix;

static bool sometimes(uint32_t one_in) { return one_in && random_below(one_in) == 0; }

static int64_t some_bytes(int32_t width) { return width >= 0 ? width : (int64_t)random_below(BYTES_MAX); }

static void make_item(item *it, const mix *m) {
  memset(it, 0, sizeof *it);
  random_fill(it->value, sizeof it->value);
  random_fill(it->key, sizeof it->key);
  it->value_bytes = sometimes(m->null_values) ? -1 : some_bytes(m->value_width);
  it->key_bytes = sometimes(m->keys) ? some_bytes(m->key_width) : -1;
  it->has_timestamp = sometimes(m->timestamps);
  it->timestamp = it->has_timestamp ? (random_below(5) ? (int64_t)random_u64() : PS_TIMESTAMP_NONE) : 0;
  it->header_count = sometimes(m->headers) ? random_below(4) : 0;
  for (uint32_t h = 0; h < it->header_count; h++) {
    random_fill(it->header_key[h], 8);
    random_fill(it->header_value[h], 8);
    it->header_key_bytes[h] = random_below(9);
    it->header_value_bytes[h] = (int32_t)random_below(10) - 1;
  }
}

static ps_status add_item(ps_builder *b, const item *it) {
  /* Memory of exactly the bytes given, so that a byte too many is seen. */
  uint8_t *value = exactly(it->value_bytes > 0 ? (size_t)it->value_bytes : 0);
  uint8_t *key = exactly(it->key_bytes > 0 ? (size_t)it->key_bytes : 0);
  if (it->value_bytes > 0) memcpy(value, it->value, (size_t)it->value_bytes);
  if (it->key_bytes > 0) memcpy(key, it->key, (size_t)it->key_bytes);
  ps_header headers[3];
  for (uint32_t h = 0; h < it->header_count; h++)
    headers[h] = (ps_header){.key = (const char *)it->header_key[h],
                             .key_bytes = it->header_key_bytes[h],
                             .value = it->header_value[h],
                             .value_bytes = it->header_value_bytes[h]};
  ps_record r = {.value = value,
                 .value_bytes = it->value_bytes,
                 .key = key,
                 .key_bytes = it->key_bytes,
                 .timestamp = it->timestamp,
                 .has_timestamp = it->has_timestamp,
                 .headers = headers,
                 .header_count = it->header_count};
  bool simple = it->value_bytes >= 0 && !it->has_timestamp && it->header_count == 0;
  ps_status status = PS_END;
  bool added = false;
  if (simple && it->key_bytes < 0) added = ps_builder_add_plain(b, value, (size_t)it->value_bytes);
  if (simple && it->key_bytes >= 0)
    added = ps_builder_add_keyed(b, value, (size_t)it->value_bytes, key, (size_t)it->key_bytes);
  status = added ? PS_OK : ps_builder_add(b, &r);
  free(value);
  free(key);
  return status;
}

static void check_slot(const ps_binary *c, uint32_t i, const uint8_t *bytes, int64_t size) {
  CHECK_EQ(ps_bit(c->validity, i), size >= 0);
  const uint8_t *at = c->data + (c->width >= 0 ? (size_t)i * (size_t)c->width : (size_t)c->offsets[i]);
  int64_t stored = c->width >= 0 ? c->width : c->offsets[i + 1] - c->offsets[i];
  if (size >= 0) {
    CHECK_EQ(stored, size);
    CHECK(size == 0 || memcmp(at, bytes, (size_t)size) == 0);
  } else if (c->width < 0) {
    CHECK_EQ(stored, 0);
  } else {
    for (int32_t b = 0; b < c->width; b++) CHECK_EQ(at[b], 0);
  }
}

static void check_columns(const ps_builder *b, const item *items, uint32_t count, int64_t stamp) {
  ps_columns c;
  ps_builder_columns(b, &c);
  CHECK_EQ(c.count, count);
  CHECK(ps_frame_bytes_raw(&c) <= b->bytes);
  bool keys = false, headers = false, nulls = false;
  for (uint32_t i = 0; i < count; i++) {
    keys |= items[i].key_bytes >= 0;
    headers |= items[i].header_count > 0;
    nulls |= items[i].value_bytes < 0;
  }
  CHECK_EQ(c.has_keys, keys);
  CHECK_EQ(c.has_headers, headers);
  CHECK_EQ(c.values.validity != NULL, nulls);
  uint32_t header = 0;
  for (uint32_t i = 0; i < count; i++) {
    const item *it = &items[i];
    check_slot(&c.values, i, it->value, it->value_bytes);
    if (keys) check_slot(&c.keys, i, it->key, it->key_bytes);
    CHECK_EQ(ps_builder_timestamp(b, i), it->has_timestamp ? it->timestamp : stamp);
    CHECK_EQ(c.timestamps ? c.timestamps[i] : c.first_timestamp, it->has_timestamp ? it->timestamp : stamp);
    if (!headers) continue;
    CHECK_EQ(c.header_lists[i + 1] - c.header_lists[i], it->header_count);
    for (uint32_t h = 0; h < it->header_count; h++, header++) {
      check_slot(&c.header_keys, header, it->header_key[h], it->header_key_bytes[h]);
      check_slot(&c.header_values, header, it->header_value[h], it->header_value_bytes[h]);
    }
  }
  CHECK_EQ(c.header_count, header);
  ps_frame_meta proto;
  ps_prepared out;
  ps_error err;
  ps_frame_meta_init(&proto);
  CHECK_EQ(ps_frame_prepare(&c, &proto, PS_CODEC_NONE, b->frame_bytes_max, NULL, 0, &out, &err), PS_OK);
}

static void run_mix(const mix *m, uint32_t bytes_max, uint32_t count_max) {
  static item items[RECORDS_MAX];
  ps_builder *b = ps_builder_new(m->value_width, m->key_width, bytes_max, count_max, 1 << 20);
  CHECK(b);
  for (int round = 0; round < 6; round++) {
    uint32_t count = 0;
    b->stamp = 1000 + round;
    if (random_below(2)) ps_builder_size(b, random_below(3 * PS_BUILDER_CAPACITY_MIN));
    while (count < RECORDS_MAX) {
      make_item(&items[count], m);
      ps_status status;
      while ((status = add_item(b, &items[count])) == PS_END && ps_builder_grown(b) > b->capacity) {
        uint32_t to = ps_builder_grown(b);
        CHECK(ps_builder_grow(b));
        CHECK_EQ(b->capacity, to);
      }
      if (status == PS_END) break;
      CHECK_EQ(status, PS_OK);
      count++;
      CHECK(b->bytes <= b->bytes_max || count == 1);
      if (ps_builder_is_full(b)) break;
    }
    CHECK(count > 0 && count <= count_max);
    check_columns(b, items, count, 1000 + round);
    ps_builder_reset(b);
  }
  ps_builder_free(b);
}

/* Capacities: within their bounds, twice as much each time, the last step cut to what a batch may have. */
static void test_sizes(void) {
  ps_builder *b = ps_builder_new(-1, -1, 5000, 1000, 1 << 16);
  CHECK_EQ(b->capacity, 5000);
  CHECK_EQ(ps_builder_grown(b), 5000);
  ps_builder_size(b, 5001);
  CHECK_EQ(b->capacity, 5000);
  ps_builder_size(b, PS_BUILDER_CAPACITY_MIN - 1);
  static const uint32_t steps[] = {1024, 2048, 4096, 5000, 5000};
  for (int i = 0; i < 5; i++) {
    CHECK_EQ(b->capacity, steps[i]);
    CHECK_EQ(b->room, steps[i]);
    CHECK(ps_builder_grow(b));
  }
  ps_builder_limit(b, 3000, 1 << 16); /* less than it has */
  CHECK_EQ(b->capacity, 3000);
  ps_builder_limit(b, 100, 1 << 16); /* less than the least */
  CHECK_EQ(b->capacity, PS_BUILDER_CAPACITY_MIN);
  CHECK_EQ(b->room, 100);
  ps_builder_free(b);
}

/* What is full before the batch is goes on where it grew: exactly up to its room. */
static void test_room(void) {
  uint8_t value[100] = {7};
  ps_builder *b = ps_builder_new(-1, -1, 1 << 16, 1000, 1 << 16);
  ps_record r = {.value = value, .value_bytes = sizeof value, .key_bytes = -1};
  ps_builder_size(b, 2048);
  while (ps_builder_add(b, &r) == PS_OK) CHECK(b->bytes <= 2048);
  uint32_t count = b->count;
  CHECK(b->bytes + 104 > 2048);
  CHECK(!ps_builder_is_full(b));
  CHECK(!ps_builder_add_plain(b, value, sizeof value));
  CHECK(ps_builder_add_plain(b, value, 2048 - b->bytes - 4));
  CHECK_EQ(b->bytes, 2048);
  CHECK(!ps_builder_add_plain(b, value, 0));
  CHECK(ps_builder_grow(b));
  CHECK(ps_builder_add_plain(b, value, sizeof value));
  CHECK_EQ(b->count, count + 2);
  ps_builder_free(b);
}

static void test_model(void) {
  static const int32_t widths[] = {-1, 0, 1, 16};
  static const uint32_t odds[] = {0, 1, 2, 40};
  for (int i = 0; i < 600; i++) {
    mix m = {.null_values = odds[random_below(4)],
             .keys = odds[random_below(4)],
             .timestamps = odds[random_below(4)],
             .headers = odds[random_below(4)],
             .value_width = widths[random_below(4)],
             .key_width = widths[random_below(4)]};
    run_mix(&m, random_below(3) ? 1024u + random_below(8000) : 1u << 20,
            random_below(4) ? RECORDS_MAX : 1 + random_below(5));
  }
}

static void test_refusals(void) {
  uint8_t bytes[5000] = {0};
  ps_builder *b = ps_builder_new(4, -1, 1 << 16, 100, 1 << 16);
  ps_record r = {.value = bytes, .value_bytes = 4, .key_bytes = -1};
  b->stamp = 5;
  CHECK_EQ(ps_builder_add(b, &r), PS_OK);
  uint32_t before = b->bytes;
  r.value_bytes = 5;
  CHECK_EQ(ps_builder_add(b, &r), PS_INVALID);
  r.value_bytes = 3;
  CHECK_EQ(ps_builder_add(b, &r), PS_INVALID);
  CHECK(!ps_builder_add_plain(b, bytes, 5));
  r.value_bytes = 4;
  ps_header many[PS_HEADERS_PER_RECORD_MAX + 1];
  memset(many, 0, sizeof many);
  r.headers = many;
  r.header_count = PS_HEADERS_PER_RECORD_MAX + 1;
  CHECK_EQ(ps_builder_add(b, &r), PS_INVALID);
  CHECK_EQ(b->bytes, before);
  r.header_count = PS_HEADERS_PER_RECORD_MAX;
  CHECK_EQ(ps_builder_add(b, &r), PS_OK);
  CHECK_EQ(b->count, 2);
  ps_builder_free(b);
}

/* One record larger than a batch should be goes alone; one larger than a frame not at all. */
static void test_oversized(void) {
  enum { FRAME_MAX = 1 << 16 };
  uint8_t *bytes = exactly(FRAME_MAX);
  ps_builder *b = ps_builder_new(-1, -1, 2048, 100, FRAME_MAX);
  ps_record small = {.value = bytes, .value_bytes = 10, .key_bytes = -1};
  ps_record large = {.value = bytes, .value_bytes = 20000, .key_bytes = -1};
  b->stamp = 5;
  CHECK_EQ(ps_builder_add(b, &small), PS_OK);
  CHECK_EQ(ps_builder_add(b, &large), PS_END);
  CHECK_EQ(b->count, 1);
  ps_builder_reset(b);
  CHECK_EQ(ps_builder_add(b, &large), PS_OK);
  CHECK(ps_builder_is_full(b));
  CHECK_EQ(ps_builder_add(b, &small), PS_END);
  ps_builder_reset(b);
  CHECK_EQ(b->capacity, 2048);
  /* The bound: limit - 1, limit, limit + 1. */
  large.value_bytes = 0;
  CHECK_EQ(ps_builder_add(b, &large), PS_OK);
  int64_t most = FRAME_MAX - (int64_t)b->bytes;
  for (int64_t d = -1; d <= 1; d++) {
    ps_builder_reset(b);
    large.value_bytes = most + d;
    CHECK_EQ(ps_builder_add(b, &large), d <= 0 ? PS_OK : PS_TOO_LARGE);
    CHECK_EQ(b->count, d <= 0);
    if (d > 0) continue;
    ps_columns c;
    ps_builder_columns(b, &c);
    CHECK(ps_frame_bytes_raw(&c) <= FRAME_MAX);
  }
  ps_builder_free(b);
  free(bytes);
}

int main(void) {
  RUN(test_model);
  RUN(test_sizes);
  RUN(test_room);
  RUN(test_refusals);
  RUN(test_oversized);
  return 0;
}
