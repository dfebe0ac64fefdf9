/* ps_hash.h - checksums and key hashing.
 *
 * xxh3-64 (xxHash 0.8, https://github.com/Cyan4973/xxHash) is compiled once per vector set and chosen
 * when first used, so that a generic wheel runs at the speed of the machine. All variants give the
 * same value. murmur2 is the 32-bit hash of Kafka's Java client (Utils.murmur2). */
#ifndef PS_HASH_H
#define PS_HASH_H

#include <stddef.h>
#include <stdint.h>

/* One piece of a body that is not contiguous in memory. */
typedef struct ps_piece {
  const void *data;
  size_t bytes;
} ps_piece;

uint64_t ps_hash(const void *data, size_t bytes);
uint64_t ps_hash_seeded(const void *data, size_t bytes, uint64_t seed);
/* The hash of the pieces put end to end; equal to ps_hash of their concatenation. */
uint64_t ps_hash_pieces(const ps_piece *pieces, size_t count);
/* The vector set in use: "scalar", "sse2", "avx2", "avx512", "neon". */
const char *ps_hash_variant(void);

int32_t ps_murmur2(const void *data, size_t bytes);

#endif
