/* ps_test.h - the little a C test needs: checks that name their place, a seeded generator, and memory of
 * exactly the size asked for, so that the sanitizers see one byte too many. */
#ifndef PS_TEST_H
#define PS_TEST_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond) CHECK_MSG(cond, "%s", "")
#define CHECK_MSG(cond, ...)                                                          \
  do {                                                                                \
    if (!(cond)) {                                                                    \
      fprintf(stderr, "%s:%d: %s: not so: %s ", __FILE__, __LINE__, __func__, #cond); \
      fprintf(stderr, __VA_ARGS__);                                                   \
      fputc('\n', stderr);                                                            \
      exit(1);                                                                        \
    }                                                                                 \
  } while (0)
#define CHECK_EQ(a, b)                                                                         \
  do {                                                                                         \
    int64_t left_ = (int64_t)(a), right_ = (int64_t)(b);                                       \
    CHECK_MSG(left_ == right_, "(%s = %" PRId64 ", %s = %" PRId64 ")", #a, left_, #b, right_); \
  } while (0)
#define RUN(test)          \
  do {                     \
    printf("%s\n", #test); \
    fflush(stdout);        \
    test();                \
  } while (0)

/* splitmix64 */
static uint64_t test_seed = 20130101;
__attribute__((unused)) static uint64_t random_u64(void) {
  uint64_t z = (test_seed += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
__attribute__((unused)) static uint32_t random_below(uint32_t n) { return (uint32_t)(random_u64() % n); }
__attribute__((unused)) static void random_fill(void *p, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) ((uint8_t *)p)[i] = (uint8_t)random_u64();
}

/* Zeroed, on a 64-byte boundary, followed by nothing. free() it. */
__attribute__((unused)) static void *exactly(size_t bytes) {
  void *p = NULL;
  CHECK(posix_memalign(&p, 64, bytes ? bytes : 1) == 0);
  memset(p, 0, bytes ? bytes : 1);
  return p;
}

#endif
