#include "ps_spin.h"

#include <sched.h>
#include <time.h>

void ps_spin_wait(uint32_t *lock) {
  for (uint32_t round = 0;; round++) {
    for (int i = 0; i < 64; i++) {
      if (!__atomic_load_n(lock, __ATOMIC_RELAXED) && !__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE)) return;
      ps_pause();
    }
    if (round < 16) {
      sched_yield();
    } else { /* the holder may be of lower priority: only sleep lets it run */
      struct timespec nap = {.tv_nsec = 50000};
      nanosleep(&nap, NULL);
    }
  }
}
