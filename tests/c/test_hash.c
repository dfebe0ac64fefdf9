#include "ps_hash_variants.h"
#include "ps_test.h"

#define BYTES_MAX 70000u

static uint8_t *data;

static void test_published_values(void) {
  /* xxh3-64 of nothing, seed 0: every implementation's first test vector. */
  CHECK(ps_hash("", 0) == 0x2d06800538d394c2ull);
  CHECK(ps_hash(NULL, 0) == 0x2d06800538d394c2ull);
  CHECK(ps_hash_seeded("", 0, 0) == ps_hash("", 0));
  /* The vectors of Kafka's UtilsTest.testMurmur2. */
  static const struct {
    const char *key;
    int32_t hash;
  } kafka[] = {
      {"21", -973932308},
      {"foobar", -790332482},
      {"a-little-bit-long-string", -985981536},
      {"a-little-bit-longer-string", -1486304829},
      {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
      {"abc", 479470107},
      {"", 275646681},
  };
  for (size_t i = 0; i < sizeof kafka / sizeof *kafka; i++)
    CHECK_EQ(ps_murmur2(kafka[i].key, strlen(kafka[i].key)), kafka[i].hash);
}

/* Lengths around every place where xxh3 changes its path: 16, 128, 240, stripes of 64, blocks of 1024. */
static void each_length(void (*check)(size_t bytes)) {
  for (size_t bytes = 0; bytes <= 1200; bytes++) check(bytes);
  for (size_t blocks = 2; blocks <= 64; blocks *= 2)
    for (size_t bytes = blocks * 1024 - 66; bytes <= blocks * 1024 + 66; bytes++) check(bytes);
}

static void check_variants(size_t bytes) {
  uint64_t seed = random_u64();
  const uint8_t *p = data + random_below(64);
  uint64_t plain = ps_hash_base.hash(p, bytes), seeded = ps_hash_base.hash_seeded(p, bytes, seed);
  CHECK(ps_hash(p, bytes) == plain && ps_hash_seeded(p, bytes, seed) == seeded);
  const ps_hash_variant_table *v;
  for (size_t i = 0; (v = ps_hash_variant_at(i)) != NULL; i++) {
    ps_piece piece = {p, bytes};
    CHECK_MSG(v->hash(p, bytes) == plain, "(%s, %zu bytes)", v->name, bytes);
    CHECK_MSG(v->hash_seeded(p, bytes, seed) == seeded, "(%s, %zu bytes)", v->name, bytes);
    CHECK_MSG(v->hash_pieces(&piece, 1) == plain, "(%s, %zu bytes)", v->name, bytes);
  }
}
static void test_variants_agree(void) { each_length(check_variants); }

static void check_pieces(size_t bytes) {
  const ps_hash_variant_table *v;
  for (int round = 0; round < 4; round++) {
    ps_piece pieces[12];
    size_t count = 1 + random_below(11), at = 0;
    for (size_t i = 0; i < count; i++) {
      size_t left = bytes - at, length = i + 1 == count ? left : random_below((uint32_t)left + 1);
      if (random_below(3) == 0 && i + 1 < count) length = length < 70 ? length : random_below(70);
      pieces[i] = (ps_piece){length ? data + at : NULL, length};
      at += length;
    }
    uint64_t whole = ps_hash(data, bytes);
    CHECK_MSG(ps_hash_pieces(pieces, count) == whole, "(%zu bytes in %zu pieces)", bytes, count);
    for (size_t i = 0; (v = ps_hash_variant_at(i)) != NULL; i++)
      CHECK_MSG(v->hash_pieces(pieces, count) == whole, "(%s, %zu bytes)", v->name, bytes);
  }
  CHECK(ps_hash_pieces(NULL, 0) == ps_hash(NULL, 0));
}
static void test_pieces_equal_the_whole(void) { each_length(check_pieces); }

static void test_exact_bounds(void) {
  for (size_t bytes = 0; bytes <= 2300; bytes++) { /* the sanitizer watches the ends */
    uint8_t *p = exactly(bytes);
    memcpy(p, data, bytes);
    CHECK(ps_hash(p, bytes) == ps_hash(data, bytes));
    CHECK(ps_murmur2(p, bytes) == ps_murmur2(data, bytes));
    free(p);
  }
}

int main(void) {
  data = exactly(BYTES_MAX);
  random_fill(data, BYTES_MAX);
  printf("variant in use: %s\n", ps_hash_variant());
  RUN(test_published_values);
  RUN(test_variants_agree);
  RUN(test_pieces_equal_the_whole);
  RUN(test_exact_bounds);
  free(data);
  return 0;
}
