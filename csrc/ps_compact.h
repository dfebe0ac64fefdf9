/* ps_compact.h - of each key the last record stays: a log that keeps the last value of every key, and its
 * order.
 *
 * A pass takes on what was appended since the last one (from `cleaned` in the head on; what is finished,
 * durable, and older than the lag), as far as the memory for keys reaches. First it notes where each key of
 * that was seen last. Then it writes every segment from the log start up to there anew, aside, without the
 * records whose key was seen again later; small neighbours become one. `cleaned` moves last. What is
 * interrupted, at any instruction, is begun again by the next pass, and nobody who reads sees anything but a
 * record less.
 *
 * What stays true:
 *  C1  Files of a log cover its offsets, in order; beside them there may be left-overs of a merge that was
 *      interrupted: segments whose base lies below the end of the one before. They are the last ones that it
 *      took in, up to its end, as they were: so who begins to read in one, or recovers from there, finds
 *      records that are superseded, but all of them, in their order. Those who look at files pass over them;
 *      the next pass unlinks them.
 *  C2  Offsets never change. Where records are left out in a batch, it keeps the others with their offsets; a
 *      run of batches of which nothing is left becomes one empty frame. So frames still tile the log (I1).
 *  C3  The active segment is never touched, nor anything that is not durable: recovery has nothing to do with
 *      compaction.
 *  C4  A record without a value (a tombstone) stays until it has been superseded, or `delete_retention` has
 *      passed since the first pass that had it among its keys: that one writes the time when it may go into
 *      the frame's header (delete horizon). By then no older record of its key is left before it: segments
 *      are replaced in the order of the log, each for good before the next one.
 *
 * Records without a key stay: such topics refuse them, but may hold some from before they were compacted. So
 * do control batches. Records below the log start go.
 *
 * Memory: the map (ps_keymap.h), one batch as it was and one as it will be (decompressed, and to be
 * compressed), and 256 KiB. One thread at a time; the log may be used by others meanwhile. */
#ifndef PS_COMPACT_H
#define PS_COMPACT_H

#include "ps_log.h"

/* Segments that one takes in: each that goes is a sync of the directory, under the maintenance lock. */
#define PS_COMPACT_MEMBERS_MAX 16u

typedef struct ps_compaction { /* the rule */
  int64_t now_ns;
  int64_t lag_ns; /* segments with a record younger than this are left alone; 0: none are */
  int64_t delete_retention_ns;
  double min_dirty_ratio;    /* dirty bytes by all bytes: less is not worth the work */
  uint64_t map_bytes;        /* of memory for keys, at most */
  uint64_t bytes_per_second; /* read and written; 0: as fast as it goes */
  uint64_t max_bytes;        /* dirty bytes a pass takes on, about; 0: all there are */
  const int *stop;           /* atomic; not zero: end as soon as can be. NULL: never */
} ps_compaction;

typedef struct ps_compactable {
  uint64_t dirty_bytes, clean_bytes; /* of finished segments */
  double ratio;                      /* dirty by both; 0 when there is nothing */
  bool due;                          /* tombstones may go now, though nothing else has come */
  int64_t cleaned;
} ps_compactable;

typedef struct ps_compacted {
  bool ran;  /* something was to be done, and was begun */
  bool more; /* it was ended before its end, or did not reach as far as it could have with more memory */
  uint64_t dirty_bytes, clean_bytes; /* before */
  uint64_t read_bytes, written_bytes;
  uint64_t records_removed;
  uint64_t segments_before, segments_after;
  int64_t cleaned_offset;
  uint64_t keys;        /* in the part that was dirty */
  int64_t next_horizon; /* ns; when the next tombstone may go; 0: there is none */
} ps_compacted;

/* How much there is to be done: looks at the directory, and at the headers and seals of dirty segments. */
ps_status ps_compact_look(ps_log *log, int64_t now_ns, int64_t lag_ns, ps_compactable *out, ps_error *err);
/* Unlink what interrupted compactions have left. *files: how many. PS_TIMEOUT: somebody else keeps the lock.
 */
ps_status ps_compact_sweep(ps_log *log, uint64_t *files, ps_error *err);

/* A pass, step by step. Begin answers PS_END, and no compactor, where there is too little to do; PS_HELD
 * where a compaction of this log is under way in this process. */
typedef struct ps_compactor ps_compactor;
ps_status ps_compact_begin(ps_log *log, const ps_compaction *rule, ps_compactor **out, ps_error *err);
/* Do about `bytes` bytes of reading and writing; syncing a finished segment comes on top. PS_OK: there is
 * more to do. PS_END: the pass is over. PS_INTERRUPTED: `stop` is set. Else it has failed: all segments that
 * were swapped in stay, and all others are what they were. */
ps_status ps_compact_step(ps_compactor *compactor, uint64_t bytes, ps_error *err);
/* The same until the pass is over (PS_END, PS_INTERRUPTED, or it failed), or slice_ns have gone by (PS_OK;
 * -1: never), and not faster than the rule says. */
ps_status ps_compact_run(ps_compactor *compactor, int64_t slice_ns, ps_error *err);
const ps_compacted *ps_compact_result(const ps_compactor *compactor);
/* Free it, and what it has written but not swapped in. The log is still open. */
void ps_compact_end(ps_compactor *compactor);

#endif
