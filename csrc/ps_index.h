/* ps_index.h - the sparse index of a segment: derived, checked at every hit, rebuilt when in doubt.
 *
 * Invariants: entries stand in order of position, without holes, then zeros. The rule for when a frame
 * gets an entry exists once, in ps_index_add. A reader needs no lock: an entry is believed only when its
 * own checksum holds, and acted upon only after the frame it names has been checked too. */
#ifndef PS_INDEX_H
#define PS_INDEX_H

#include "ps_segment.h"

typedef struct ps_index_entry {
  int64_t offset;        /* base offset of the frame */
  int64_t max_timestamp; /* of all frames of the segment before it */
  uint64_t position;
} ps_index_entry;

/* Open the index of a segment, for writing too if asked: then it is created, or made anew when its header
 * does not fit the segment. Reading: PS_NOT_FOUND when there is none to be used. Caller holds the table
 * mutex, and the append lock when writing. */
ps_status ps_index_open(const ps_env *env, const char *dir, ps_segment *segment, bool writable,
                        bool by_pwrite, uint32_t interval_bytes, ps_error *err);
/* Make the index of a segment that is being written aside, at a path of its own, by calls alone; room for
 * segment->capacity. The segment keeps it. */
ps_status ps_index_make(const ps_env *env, const char *path, ps_segment *segment, uint32_t interval_bytes,
                        ps_error *err);
/* Cut it down to the entries it has and sync it. A failure costs speed only. */
void ps_index_finish(const ps_env *env, ps_segment *segment);
/* Empty it, before a rebuild. Caller holds the append lock. */
void ps_index_reset(const ps_env *env, ps_segment *segment);
/* Offer the frame at position; an entry is made when the last one is at least an interval behind. */
void ps_index_add(const ps_env *env, ps_segment *segment, int64_t offset, uint64_t position,
                  int64_t max_timestamp_before);
/* The last sound entry with offset <= `offset`. False: none, begin at the segment's first frame. */
bool ps_index_find_offset(const ps_segment *segment, int64_t offset, ps_index_entry *out);
/* The last sound entry before which every frame is older than `timestamp`. */
bool ps_index_find_time(const ps_segment *segment, int64_t timestamp, ps_index_entry *out);

#endif
