/* ps_base.h - what every kernel stands on: assertions that stay on, unaligned loads and stores,
 * and the named memory orders used on shared words. */
#ifndef PS_BASE_H
#define PS_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* CPython's build flags carry -DNDEBUG, so assert() would vanish. This one never does. */
#define PS_ASSERT(cond)                                                            \
  do {                                                                             \
    if (__builtin_expect(!(cond), 0)) ps_assert_failed(#cond, __FILE__, __LINE__); \
  } while (0)

__attribute__((noreturn, cold, unused)) static void ps_assert_failed(const char *cond, const char *file,
                                                                     int line) {
  fprintf(stderr, "pystream: internal invariant broken: %s (%s:%d)\n", cond, file, line);
  abort();
}

#define PS_LIKELY(x) __builtin_expect(!!(x), 1)
#define PS_UNLIKELY(x) __builtin_expect(!!(x), 0)

static inline uint64_t ps_align_up(uint64_t n, uint64_t to) { return (n + (to - 1)) & ~(to - 1); }

#define PS_DEFINE_LOAD_STORE(name, type)             \
  static inline type ps_load_##name(const void *p) { \
    type v;                                          \
    memcpy(&v, p, sizeof v);                         \
    return v;                                        \
  }                                                  \
  static inline void ps_store_##name(void *p, type v) { memcpy(p, &v, sizeof v); }

PS_DEFINE_LOAD_STORE(u16, uint16_t)
PS_DEFINE_LOAD_STORE(u32, uint32_t)
PS_DEFINE_LOAD_STORE(u64, uint64_t)
PS_DEFINE_LOAD_STORE(i16, int16_t)
PS_DEFINE_LOAD_STORE(i32, int32_t)
PS_DEFINE_LOAD_STORE(i64, int64_t)

/* Shared words live in mapped files: aligned, and touched only through these. */
static inline int64_t ps_acquire_i64(const void *p) {
  return __atomic_load_n((const int64_t *)p, __ATOMIC_ACQUIRE);
}
static inline void ps_release_i64(void *p, int64_t v) { __atomic_store_n((int64_t *)p, v, __ATOMIC_RELEASE); }
static inline uint64_t ps_acquire_u64(const void *p) {
  return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE);
}
static inline void ps_release_u64(void *p, uint64_t v) {
  __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE);
}
/* Bytes that another thread may be storing to, or reading, right now; aligned, a multiple of 8. Each word is
 * whole, all of them together are not: a checksum says whether they are. */
static inline void ps_relaxed_copy_out(void *to, const void *shared, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 8) {
    uint64_t word = __atomic_load_n((const uint64_t *)((const uint8_t *)shared + i), __ATOMIC_RELAXED);
    memcpy((uint8_t *)to + i, &word, 8);
  }
}
static inline void ps_relaxed_copy_in(void *shared, const void *from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 8) {
    uint64_t word;
    memcpy(&word, (const uint8_t *)from + i, 8);
    __atomic_store_n((uint64_t *)((uint8_t *)shared + i), word, __ATOMIC_RELAXED);
  }
}
/* Between two looks at a word that another thread is about to change. */
static inline void ps_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb"); /* waits a moment, which yield does not on most cores */
#endif
}
/* Moves *p up to v, never down. Returns true if it moved. Release: what v covers is visible. */
static inline bool ps_max_i64(void *p, int64_t v) {
  int64_t seen = __atomic_load_n((int64_t *)p, __ATOMIC_RELAXED);
  while (seen < v) {
    if (__atomic_compare_exchange_n((int64_t *)p, &seen, v, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
      return true;
  }
  return false;
}

#endif
