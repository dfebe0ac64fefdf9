/* The map of keys against a plain array, full and not, and what it takes. */
#include "ps_keymap.h"
#include "ps_test.h"

static ps_keymap make(uint64_t bytes, uint64_t seed) {
  ps_keymap map;
  ps_keymap_init(&map, exactly(bytes), bytes, seed);
  return map;
}

static ps_key key_of(const ps_keymap *map, uint64_t i) { return ps_keymap_hash(map, &i, sizeof i); }

static void agrees_with_an_array(void) {
  enum { KEYS = 5000 };
  static int64_t last[KEYS];
  ps_keymap map = make(ps_keymap_bytes_for(KEYS), 7);
  for (int i = 0; i < KEYS; i++) last[i] = -1;
  uint64_t distinct = 0;
  for (int64_t step = 0; step < 40000; step++) {
    uint32_t i = random_below(KEYS);
    int64_t offset = random_below(1000000);
    distinct += last[i] < 0;
    if (offset > last[i]) last[i] = offset;
    CHECK(ps_keymap_put(&map, key_of(&map, i), offset));
    CHECK_EQ(map.count, distinct);
    uint32_t look = random_below(KEYS);
    CHECK_EQ(ps_keymap_get(&map, key_of(&map, look)), last[look]);
  }
  for (uint64_t i = 0; i < KEYS; i++) CHECK_EQ(ps_keymap_get(&map, key_of(&map, i)), last[i]);
  ps_keymap_clear(&map);
  CHECK_EQ(map.count, 0);
  for (uint64_t i = 0; i < KEYS; i++) CHECK_EQ(ps_keymap_get(&map, key_of(&map, i)), -1);
  free(map.slots);
}

/* One below what it takes, what it takes, and one above: keys that it has can be moved all the same. */
static void is_full_at_its_limit(void) {
  static const uint64_t sizes[] = {PS_KEYMAP_BYTES_MIN, PS_KEYMAP_BYTES_MIN + 8, 4096, 1u << 20};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    ps_keymap map = make(sizes[s], random_u64());
    uint64_t most = sizes[s] / PS_KEYMAP_KEY_BYTES;
    CHECK_EQ(map.count_max, most);
    for (uint64_t i = 0; i < most; i++) CHECK(ps_keymap_put(&map, key_of(&map, i), (int64_t)i));
    CHECK(!ps_keymap_put(&map, key_of(&map, most), 5));
    CHECK_EQ(ps_keymap_get(&map, key_of(&map, most)), -1);
    CHECK_EQ(map.count, most);
    CHECK(ps_keymap_put(&map, key_of(&map, 0), INT64_MAX - 1));
    CHECK_EQ(ps_keymap_get(&map, key_of(&map, 0)), INT64_MAX - 1);
    for (uint64_t i = 1; i < most; i++) CHECK_EQ(ps_keymap_get(&map, key_of(&map, i)), i);
    free(map.slots);
  }
}

/* What the header promises: 32,768 keys a MiB, found without passing by many others. */
static void a_mebibyte_serves_32768_keys(void) {
  ps_keymap map = make(1u << 20, 99);
  for (uint64_t i = 0; i < 32768; i++) CHECK(ps_keymap_put(&map, key_of(&map, i), 1));
  CHECK(!ps_keymap_put(&map, key_of(&map, 32768), 1));
  map.steps = 0;
  for (uint64_t i = 0; i < 32768; i++) CHECK_EQ(ps_keymap_get(&map, key_of(&map, i)), 1);
  CHECK_MSG(map.steps < 5 * 32768, "(%" PRIu64 " steps for 32768 keys)", map.steps);
  free(map.slots);
}

static void seeds_and_lengths_differ(void) {
  ps_keymap a = make(PS_KEYMAP_BYTES_MIN, 1), b = make(PS_KEYMAP_BYTES_MIN, 2);
  uint8_t bytes[400];
  random_fill(bytes, sizeof bytes);
  for (size_t n = 0; n <= sizeof bytes; n++) {
    ps_key one = ps_keymap_hash(&a, bytes, n), other = ps_keymap_hash(&b, bytes, n);
    CHECK(one.low != other.low && one.high != other.high);
    ps_key again = ps_keymap_hash(&a, bytes, n);
    CHECK(again.low == one.low && again.high == one.high);
    if (n == 0) continue;
    ps_key shorter = ps_keymap_hash(&a, bytes, n - 1);
    CHECK(shorter.low != one.low || shorter.high != one.high);
    ps_keymap_prefetch(&a, one);
  }
  free(a.slots);
  free(b.slots);
}

static void sizes_do_not_overflow(void) {
  CHECK_EQ(ps_keymap_bytes_for(0), PS_KEYMAP_BYTES_MIN);
  CHECK(ps_keymap_bytes_for(1000) / PS_KEYMAP_KEY_BYTES >= 1000);
  CHECK(ps_keymap_bytes_for(UINT64_MAX) == UINT64_MAX);
  CHECK(ps_keymap_bytes_for(UINT64_MAX / 32) >= UINT64_MAX / 2);
}

int main(void) {
  RUN(agrees_with_an_array);
  RUN(is_full_at_its_limit);
  RUN(a_mebibyte_serves_32768_keys);
  RUN(seeds_and_lengths_differ);
  RUN(sizes_do_not_overflow);
  return 0;
}
