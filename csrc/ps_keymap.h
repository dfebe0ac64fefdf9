/* ps_keymap.h - which offset each key was last seen at, in memory that is given and never grows.
 *
 * Open addressing over PS_KEYMAP_SLOT_BYTES a slot: 128 bits of hash and an offset. Keys themselves are not
 * kept. Two keys are taken for one only where all 128 bits of xxh3 agree under a seed that is drawn anew each
 * time, so that nobody can choose keys that do: for a billion keys, once in 10^20 maps.
 *
 * At most three slots of four are used: beyond that, looking for a key that is not there gets slow. So a key
 * takes 32 bytes, and a MiB serves 32,768 keys. Owned by one thread; no allocation. */
#ifndef PS_KEYMAP_H
#define PS_KEYMAP_H

#include "ps_base.h"

#define PS_KEYMAP_SLOT_BYTES 24u
#define PS_KEYMAP_KEY_BYTES 32u /* what a key takes, free slots included */
/* The least memory a map is made in: 32 keys. */
#define PS_KEYMAP_BYTES_MIN 1024u

typedef struct ps_key { /* a key's hash */
  uint64_t low, high;
} ps_key;

typedef struct ps_keymap {
  uint8_t *slots; /* the caller's; zero = free */
  uint64_t slot_count;
  uint64_t count_max; /* keys it takes */
  uint64_t count;
  uint64_t seed;
  uint64_t steps; /* slots passed by, in all: how crowded it is */
} ps_keymap;

/* `memory`: zeroed, 8-byte aligned, PS_KEYMAP_BYTES_MIN at least. */
void ps_keymap_init(ps_keymap *map, void *memory, uint64_t bytes, uint64_t seed);
/* Forget all keys. */
void ps_keymap_clear(ps_keymap *map);
/* Memory for a map of `keys` keys. */
static inline uint64_t ps_keymap_bytes_for(uint64_t keys) {
  uint64_t bytes =
      keys > UINT64_MAX / PS_KEYMAP_KEY_BYTES - 64 ? UINT64_MAX : (keys + 32) * PS_KEYMAP_KEY_BYTES;
  return bytes < PS_KEYMAP_BYTES_MIN ? PS_KEYMAP_BYTES_MIN : bytes;
}

ps_key ps_keymap_hash(const ps_keymap *map, const void *key, size_t bytes);
/* Have the key's place fetched into the cache: to be called some keys ahead of put or get. */
static inline void ps_keymap_prefetch(const ps_keymap *map, ps_key key) {
  uint64_t slot = (uint64_t)(((unsigned __int128)key.low * map->slot_count) >> 64);
  __builtin_prefetch(map->slots + slot * PS_KEYMAP_SLOT_BYTES);
}
/* Note that the key was seen at `offset` (>= 0); the highest one stays. False: the key is new, and the map is
 * full; nothing was changed. */
bool ps_keymap_put(ps_keymap *map, ps_key key, int64_t offset);
/* Where the key was seen last; -1: nowhere. */
int64_t ps_keymap_get(ps_keymap *map, ps_key key);

#endif
