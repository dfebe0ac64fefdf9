/* ps_hash_variant.inc.h - xxh3-64 for one vector set. Included once by each ps_hash_SET.c, which defines
 * first PS_HASH_TABLE (the table to fill), PS_HASH_NAME and, where the architecture's baseline is not
 * enough, XXH_VECTOR and the compiler's target. It uses the public xxHash interface only, so that any
 * header of the 0.8 series will do. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "ps_hash_variants.h"

static uint64_t hash(const void *data, size_t bytes) { return XXH3_64bits(data, bytes); }

static uint64_t hash_seeded(const void *data, size_t bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(data, bytes, seed);
}

static uint64_t hash_pieces(const ps_piece *pieces, size_t count) {
  XXH3_state_t state; /* half a KiB, on a 64-byte boundary that its type asks for */
  XXH3_64bits_reset(&state);
  for (size_t i = 0; i < count; i++)
    if (pieces[i].bytes) XXH3_64bits_update(&state, pieces[i].data, pieces[i].bytes);
  return XXH3_64bits_digest(&state);
}

const ps_hash_variant_table PS_HASH_TABLE = {
    .name = PS_HASH_NAME,
    .hash = hash,
    .hash_seeded = hash_seeded,
    .hash_pieces = hash_pieces,
};
