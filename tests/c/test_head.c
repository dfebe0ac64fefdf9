/* The two looks of ps_head.h, in lock step, millions of times: the writer's at the word and the waiter's at
 * the watermark never both come too early. No sleep is needed to see that: who would have slept for nothing
 * is counted. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>

#include "ps_head.h"
#include "ps_os.h"
#include "ps_test.h"

#define ROUNDS_MAX 3000000
#define SECONDS_MAX 6

static uint8_t *head;
static int64_t begun, stored; /* atomic: rounds that may begin; rounds the writer has ended */

/* Neither side takes the same time each round, so that their looks meet at every distance. */
static void dawdle(uint64_t *state, uint32_t most) {
  *state = *state * 6364136223846793005ull + 1442695040888963407ull;
  for (uint32_t i = (uint32_t)(*state >> 33) % most; i > 0; i--) __asm__ volatile("" ::: "memory");
}

static void *writer(void *argument) {
  uint64_t state = 1;
  (void)argument;
  for (int64_t round = 1;; round++) {
    int64_t go;
    while ((go = __atomic_load_n(&begun, __ATOMIC_ACQUIRE)) < round) ps_pause();
    if (go == INT64_MAX) return NULL;
    dawdle(&state, 60);
    ps_release_i64(head + PS_HEAD_WATERMARK_OFF, round);
    (void)ps_head_signal(head);
    __atomic_store_n(&stored, round, __ATOMIC_RELEASE);
  }
}

static void test_never_both_too_early(void) {
  head = exactly(PS_HEAD_BYTES);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, writer, NULL) == 0);
  int64_t lost = 0, heard = 0, seen_at_once = 0, round,
          end = ps_os_monotonic_ns() + SECONDS_MAX * 1000000000ll;
  uint64_t state = 2;
  for (round = 1; round <= ROUNDS_MAX && (round % 1024 || ps_os_monotonic_ns() < end); round++) {
    __atomic_store_n(&begun, round, __ATOMIC_RELEASE);
    dawdle(&state, 60);
    uint32_t noted = ps_head_listen(head);
    CHECK(noted & PS_HEAD_SIGNAL_WAITED);
    bool there = ps_head_watermark(head) >= round;
    while (__atomic_load_n(&stored, __ATOMIC_ACQUIRE) < round) ps_pause();
    uint32_t now = __atomic_load_n((uint32_t *)(head + PS_HEAD_SIGNAL_OFF), __ATOMIC_RELAXED);
    lost += !there && now == noted; /* asleep, and nobody has woken it */
    heard += !there && now != noted;
    seen_at_once += there;
  }
  __atomic_store_n(&begun, INT64_MAX, __ATOMIC_RELEASE);
  CHECK(pthread_join(thread, NULL) == 0);
  printf("%" PRId64 " rounds: %" PRId64 " heard, %" PRId64 " seen at once, %" PRId64 " lost\n", round - 1,
         heard, seen_at_once, lost);
  CHECK_EQ(lost, 0);
  CHECK(heard > 0 && seen_at_once > 0);
  free(head);
}

static void test_a_call_to_the_kernel_only_for_those_who_wait(void) {
  head = exactly(PS_HEAD_BYTES);
  CHECK(!ps_head_signal(head));
  uint32_t first = ps_head_listen(head);
  CHECK_EQ(ps_head_listen(head), first); /* a hundred of them are one */
  CHECK(ps_head_signal(head));
  CHECK(!ps_head_signal(head));
  CHECK_EQ(ps_load_u32(head + PS_HEAD_SIGNAL_OFF), first + 1);
  CHECK_EQ(ps_head_listen(head), first + 2); /* another value, whatever the mark */
  CHECK(ps_head_signal(head));
  ps_store_u32(head + PS_HEAD_SIGNAL_OFF, UINT32_MAX - 1); /* the count begins anew */
  CHECK_EQ(ps_head_listen(head), UINT32_MAX);
  CHECK(ps_head_signal(head));
  CHECK_EQ(ps_load_u32(head + PS_HEAD_SIGNAL_OFF), 0);
  free(head);
}

int main(void) {
  RUN(test_a_call_to_the_kernel_only_for_those_who_wait);
  RUN(test_never_both_too_early);
  return 0;
}
