/* xxh3-64 with AVX2. The target is set in the source, not by a flag for this file, which setuptools cannot
 * give. What the system's headers define inline is taken in before it, so that only the hash is affected. */
#include "ps_hash_variants.h"

#ifdef PS_HASH_X86
#include <immintrin.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define XXH_VECTOR XXH_AVX2
#define PS_HASH_TABLE ps_hash_avx2
#define PS_HASH_NAME "avx2"
#include "ps_hash_variant.inc.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
typedef int ps_hash_no_avx2; /* a file may not be empty */
#endif
