#define XXH_INLINE_ALL
#include <xxhash.h>

#include "ps_base.h"
#include "ps_hash_variants.h"

/* Up to this length xxh3 takes paths that no vector set changes: they are inlined here, so that a frame
 * header costs no indirect call. */
#define SHORT_BYTES_MAX 240u
/* Up to this total, copying the pieces together costs less than the state of the streaming hash. */
#define GATHER_BYTES_MAX 2048u

/* A vector set counts only when the processor has it and the system saves its registers, both of which
 * __builtin_cpu_supports looks at. AVX-512 is taken from Ice Lake and Zen 4 on (which VBMI2 tells apart):
 * before them its multiplications lower the clock for everything else on the core. */
const ps_hash_variant_table *ps_hash_variant_at(size_t i) {
  const ps_hash_variant_table *found[3] = {&ps_hash_base};
  size_t count = 1;
#ifdef PS_HASH_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) found[count++] = &ps_hash_avx2;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vbmi2"))
    found[count++] = &ps_hash_avx512;
#endif
  return i < count ? found[i] : NULL;
}

/* Threads that race here store the same pointer. */
static const ps_hash_variant_table *chosen;

__attribute__((noinline, cold)) static const ps_hash_variant_table *choose(void) {
  const ps_hash_variant_table *best = NULL, *next;
  for (size_t i = 0; (next = ps_hash_variant_at(i)) != NULL; i++) best = next;
  __atomic_store_n(&chosen, best, __ATOMIC_RELAXED);
  return best;
}

static inline const ps_hash_variant_table *variant(void) {
  const ps_hash_variant_table *known = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
  return PS_LIKELY(known != NULL) ? known : choose();
}

const char *ps_hash_variant(void) { return variant()->name; }

uint64_t ps_hash(const void *data, size_t bytes) {
  if (bytes <= SHORT_BYTES_MAX) return XXH3_64bits(data, bytes);
  return variant()->hash(data, bytes);
}

uint64_t ps_hash_seeded(const void *data, size_t bytes, uint64_t seed) {
  if (bytes <= SHORT_BYTES_MAX) return XXH3_64bits_withSeed(data, bytes, seed);
  return variant()->hash_seeded(data, bytes, seed);
}

uint64_t ps_hash_pieces(const ps_piece *pieces, size_t count) {
  if (count == 1) return ps_hash(pieces[0].data, pieces[0].bytes);
  size_t total = 0;
  for (size_t i = 0; i < count; i++) total += pieces[i].bytes;
  if (total > GATHER_BYTES_MAX) return variant()->hash_pieces(pieces, count);

  uint8_t together[GATHER_BYTES_MAX];
  uint8_t *end = together;
  for (size_t i = 0; i < count; i++) {
    if (pieces[i].bytes == 0) continue;
    memcpy(end, pieces[i].data, pieces[i].bytes);
    end += pieces[i].bytes;
  }
  return ps_hash(together, total);
}

/* org.apache.kafka.common.utils.Utils.murmur2: MurmurHash2, 32 bits, with Kafka's seed. */
#define MURMUR2_SEED 0x9747b28cu
#define MURMUR2_M 0x5bd1e995u
#define MURMUR2_R 24

int32_t ps_murmur2(const void *data, size_t bytes) {
  const uint8_t *p = data, *end = p + (bytes & ~(size_t)3);
  uint32_t h = MURMUR2_SEED ^ (uint32_t)bytes;
  for (; p < end; p += 4) {
    uint32_t k = ps_load_u32(p) * MURMUR2_M;
    k = (k ^ (k >> MURMUR2_R)) * MURMUR2_M;
    h = h * MURMUR2_M ^ k;
  }
  uint32_t tail = 0;
  for (size_t i = bytes & 3; i-- > 0;) tail = tail << 8 | p[i];
  if (bytes & 3) h = (h ^ tail) * MURMUR2_M;
  h = (h ^ (h >> 13)) * MURMUR2_M;
  h ^= h >> 15;
  int32_t result;
  memcpy(&result, &h, sizeof result);
  return result;
}
