#include "ps_keymap.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* A slot: the two halves of the hash, then the offset plus one. */
#define SLOT_LOW 0u
#define SLOT_HIGH (SLOT_LOW + 8u)
#define SLOT_OFFSET (SLOT_HIGH + 8u)
_Static_assert(SLOT_OFFSET + 8u == PS_KEYMAP_SLOT_BYTES, "a slot");
_Static_assert(PS_KEYMAP_SLOT_BYTES * 4 == PS_KEYMAP_KEY_BYTES * 3, "three slots of four");
_Static_assert(PS_KEYMAP_BYTES_MIN / PS_KEYMAP_SLOT_BYTES >= 4, "some slot is always free");

void ps_keymap_init(ps_keymap *map, void *memory, uint64_t bytes, uint64_t seed) {
  PS_ASSERT(bytes >= PS_KEYMAP_BYTES_MIN && (uintptr_t)memory % 8 == 0);
  *map = (ps_keymap){.slots = memory,
                     .slot_count = bytes / PS_KEYMAP_SLOT_BYTES,
                     .count_max = bytes / PS_KEYMAP_KEY_BYTES,
                     .seed = seed};
}

void ps_keymap_clear(ps_keymap *map) {
  memset(map->slots, 0, map->slot_count * PS_KEYMAP_SLOT_BYTES);
  map->count = map->steps = 0;
}

ps_key ps_keymap_hash(const ps_keymap *map, const void *key, size_t bytes) {
  XXH128_hash_t hash = XXH3_128bits_withSeed(key, bytes, map->seed);
  return (ps_key){hash.low64, hash.high64};
}

/* The key's slot, or the free one where it would go. */
static uint8_t *find(ps_keymap *map, ps_key key) {
  uint64_t i = (uint64_t)(((unsigned __int128)key.low * map->slot_count) >> 64);
  uint8_t *slot = map->slots + i * PS_KEYMAP_SLOT_BYTES;
  for (;;) {
    if (ps_load_i64(slot + SLOT_OFFSET) == 0) return slot;
    if (ps_load_u64(slot + SLOT_LOW) == key.low && ps_load_u64(slot + SLOT_HIGH) == key.high) return slot;
    map->steps++;
    slot += PS_KEYMAP_SLOT_BYTES;
    if (++i == map->slot_count) {
      i = 0;
      slot = map->slots;
    }
  }
}

bool ps_keymap_put(ps_keymap *map, ps_key key, int64_t offset) {
  PS_ASSERT(offset >= 0);
  uint8_t *slot = find(map, key);
  int64_t stored = ps_load_i64(slot + SLOT_OFFSET);
  if (stored == 0) {
    if (map->count == map->count_max) return false;
    map->count++;
    ps_store_u64(slot + SLOT_LOW, key.low);
    ps_store_u64(slot + SLOT_HIGH, key.high);
  }
  if (stored < offset + 1) ps_store_i64(slot + SLOT_OFFSET, offset + 1);
  return true;
}

int64_t ps_keymap_get(ps_keymap *map, ps_key key) { return ps_load_i64(find(map, key) + SLOT_OFFSET) - 1; }
