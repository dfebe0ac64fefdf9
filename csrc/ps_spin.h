/* ps_spin.h - a lock for critical sections of nanoseconds: one atomic exchange to take it, a plain store to
 * give it back, where a mutex costs two exchanges. It is never held across anything that may wait; a holder
 * that was preempted all the same is given the processor. */
#ifndef PS_SPIN_H
#define PS_SPIN_H

#include "ps_base.h"

void ps_spin_wait(uint32_t *lock);
static inline void ps_spin_lock(uint32_t *lock) {
  if (PS_UNLIKELY(__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE))) ps_spin_wait(lock);
}
static inline void ps_spin_unlock(uint32_t *lock) { __atomic_store_n(lock, 0, __ATOMIC_RELEASE); }

#endif
