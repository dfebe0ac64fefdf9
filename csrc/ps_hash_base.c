/* xxh3-64 with what every machine of the architecture has. */
#include "ps_hash_variants.h"

#if defined(__x86_64__)
#define PS_HASH_NAME "sse2"
#elif defined(__aarch64__)
#define PS_HASH_NAME "neon"
#else
#define PS_HASH_NAME "scalar"
#define XXH_VECTOR 0
#endif
#define PS_HASH_TABLE ps_hash_base
#include "ps_hash_variant.inc.h"
