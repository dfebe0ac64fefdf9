#include "ps_lease.h"

/* A body stands behind its lease in one allocation. */
#define LEASE_BYTES PS_ALIGN
_Static_assert(sizeof(ps_lease) <= LEASE_BYTES, "the body stays aligned");

ps_lease *ps_lease_of_segment(ps_segment *segment) {
  ps_lease *lease = malloc(sizeof *lease);
  if (!lease) return NULL;
  ps_segment_ref(segment);
  *lease = (ps_lease){.refs = 1, .segment = segment};
  return lease;
}

ps_lease *ps_lease_of_body(uint64_t bytes) {
  /* aligned_alloc asks for whole multiples; at least one line, so that the pointer is never one past
   * the end. */
  ps_lease *lease = aligned_alloc(PS_ALIGN, LEASE_BYTES + ps_align_up(bytes | 1, PS_ALIGN));
  if (!lease) return NULL;
  *lease = (ps_lease){.refs = 1, .body = (uint8_t *)lease + LEASE_BYTES};
  return lease;
}

void ps_lease_unref(ps_lease *lease) {
  if (!lease || __atomic_fetch_sub(&lease->refs, 1, __ATOMIC_ACQ_REL) != 1) return;
  if (lease->segment) ps_segment_unref(lease->segment);
  free(lease);
}
