/* ps_repair.h - a segment written anew from what is sound of it, and what is derived from segments made
 * again.
 *
 * For a store that nobody else has open. Files are read and written by calls; nothing is renamed or removed
 * here: the caller puts a new file in the place of the old one, and keeps that. */
#ifndef PS_REPAIR_H
#define PS_REPAIR_H

#include "ps_segment.h"

/* Offsets that empty frames may stand for in one place: 2^50 take 2^18 frames, 48 MiB. It bounds the work
 * where a header lies that has a good checksum all the same; ten million records a second take three years to
 * come so far. */
#define PS_REPAIR_GAP_MAX ((int64_t)1 << 50)

typedef struct ps_repair_order {
  const ps_env *env;
  int from;             /* the old file, open for reading; -1: nothing of it is of use */
  int to;               /* the new one: empty, open for writing */
  uint64_t salt;        /* of the old one, where its header does not say; 0: unknown */
  ps_segment_info info; /* the new one's; its capacity grows if it must */
  int64_t through;      /* offsets below this one are accounted for: the missing ones by empty frames */
  bool finished; /* another segment follows, at `through`: what reaches beyond is left out, a seal is set */
} ps_repair_order;

typedef struct ps_repair_outcome {
  uint64_t frames, records; /* kept */
  int64_t lost;             /* offsets that empty frames stand for now */
  int64_t end_offset;
  uint64_t bytes;
} ps_repair_outcome;

/* Copy every sound frame to its new place, and sync the file. Batches are kept byte for byte, but for what
 * binds their headers to a place. PS_VERSION: a later version wrote something of it. PS_TOO_LARGE: it would
 * pass PS_SEGMENT_BYTES_MAX, or a gap PS_REPAIR_GAP_MAX. On any failure the new file is of no use. */
ps_status ps_repair_segment(const ps_repair_order *order, ps_repair_outcome *out, ps_error *err);
/* Make the index of the segment DIR/BASE20.log again. */
ps_status ps_repair_index(const ps_env *env, const char *dir, int64_t base_offset, uint32_t interval_bytes,
                          ps_error *err);
/* Have the next opener walk from the durable offset, as after the death of a writer: the place of the log end
 * is not what the head page at `path` says. Nothing happens where there is no whole page. */
ps_status ps_repair_unsettle(const ps_env *env, const char *path, ps_error *err);
/* An entry of an epochs file. */
void ps_repair_epoch(int32_t epoch, int64_t first_offset, int64_t created_ns,
                     uint8_t out[PS_EPOCH_ENTRY_BYTES]);

#endif
