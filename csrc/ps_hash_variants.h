/* ps_hash_variants.h - the compiled forms of xxh3-64 that ps_hash.c chooses from. Internal to ps_hash*.c. */
#ifndef PS_HASH_VARIANTS_H
#define PS_HASH_VARIANTS_H

#include "ps_hash.h"

typedef struct ps_hash_variant_table {
  const char *name;
  uint64_t (*hash)(const void *data, size_t bytes);
  uint64_t (*hash_seeded)(const void *data, size_t bytes, uint64_t seed);
  uint64_t (*hash_pieces)(const ps_piece *pieces, size_t count);
} ps_hash_variant_table;

/* What every machine of the architecture runs: SSE2, NEON, or plain C. */
extern const ps_hash_variant_table ps_hash_base;
#if defined(__x86_64__) && defined(__GNUC__)
#define PS_HASH_X86 1
extern const ps_hash_variant_table ps_hash_avx2;
extern const ps_hash_variant_table ps_hash_avx512;
#endif

/* The i-th variant this machine can run, the base first; NULL beyond the last. For tests. */
const ps_hash_variant_table *ps_hash_variant_at(size_t i);

#endif
