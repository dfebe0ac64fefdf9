/* ps_lease.h - the owner of one batch's memory: a reference on the mapped segment the batch lies in, or
 * the body it was decompressed into. A batch, its columns, the memoryviews and arrays made from them
 * and exported Arrow arrays each hold one reference; the memory goes with the last.
 *
 * Made with one reference. ref and unref may be called by any thread at any time: no lock, no Python. */
#ifndef PS_LEASE_H
#define PS_LEASE_H

#include "ps_base.h"
#include "ps_segment.h"

typedef struct ps_lease {
  int64_t refs;        /* atomic */
  ps_segment *segment; /* NULL when the body is our own */
  uint8_t *body;       /* PS_ALIGN-aligned; NULL when the segment has it */
} ps_lease;

/* Keeps `segment` mapped. NULL: no memory. */
ps_lease *ps_lease_of_segment(ps_segment *segment);
/* Owns `bytes` of uninitialised memory at lease->body. NULL: no memory. */
ps_lease *ps_lease_of_body(uint64_t bytes);

static inline void ps_lease_ref(ps_lease *lease) { __atomic_fetch_add(&lease->refs, 1, __ATOMIC_RELAXED); }
/* NULL is allowed. */
void ps_lease_unref(ps_lease *lease);

#endif
