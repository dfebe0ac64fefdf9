/* ps_stats.h - how much is in a partition, and what of it could go, found from its files without opening its
 * log. Reads by pread; maps, locks and writes nothing: fit for a store that others write to, and for
 * thousands of partitions at a time.
 *
 * What is asked for anew each time is small: the head, the directory where that has changed, and the files of
 * the last two segments. What is known of a finished segment is kept for as long as its file is the same one.
 * One thread at a time. */
#ifndef PS_STATS_H
#define PS_STATS_H

#include "ps_inspect.h"

/* A segment's file, and what is known of its content so far. */
typedef struct ps_stats_segment {
  int64_t base_offset;
  uint64_t inode;
  int64_t changed_ns;  /* st_mtim */
  uint64_t file_bytes; /* reserved ones included */
  uint64_t disk_bytes; /* blocks of the file and of its index */
  uint64_t used_bytes; /* header, frames, seal */
  uint64_t salt;       /* 0: the header was not read yet */
  bool gone;           /* its file went since the directory was listed */
  bool damaged;        /* its header, or a frame that was asked for, is not sound */
  bool stale;          /* left over from a merge: its offsets are in the segment before */
  bool has_seal;
  ps_seal seal;
  uint64_t sampled_at; /* used_bytes when it was sampled; 0: never */
  uint64_t sample_stored, sample_raw;
  /* Sums over all frames below `summed_to` (a position; 0: none was looked at). */
  uint64_t summed_to;
  int64_t summed_offset;
  uint64_t records, stored, raw;
} ps_stats_segment;

typedef struct ps_stats {
  const ps_env *env;
  char dir[512];
  bool listed; /* the directory has been read, and is as it was then at `listed_ns` (its st_mtim) */
  int64_t listed_ns;
  uint64_t directory_inode;
  uint64_t other_bytes;       /* blocks of all that is no segment and no index */
  ps_stats_segment *segments; /* by base offset */
  size_t count, room;
  /* The head as last read. */
  ps_verdict identity; /* PS_UNCHECKED: there is none, or nobody has written it yet */
  bool moved;          /* it was copied: device or inode are not those it was written in */
  ps_head_facts head;
  ps_slot slot;
  bool has_slot;
  int64_t cleaned;
  /* The frame that a place was last found in. */
  int64_t oldest_at; /* log start that `oldest` belongs to; -1: none */
  int64_t oldest;
} ps_stats;

void ps_stats_init(ps_stats *stats, const ps_env *env, const char *dir);
void ps_stats_free(ps_stats *stats);

/* What is to be found out, beyond what costs nothing. */
typedef struct ps_stats_wanted {
  bool exact;            /* count records and raw bytes frame by frame, instead of by a sample */
  bool compacted;        /* segments may be left over from a merge: look at every seal */
  bool counts_expired;   /* `min_timestamp` is to be looked at */
  int64_t min_timestamp; /* what is older has expired */
  int64_t bytes_max;     /* what the partition may keep; -1: all */
} ps_stats_wanted;

typedef struct ps_stats_sizes {
  int64_t log_start, high_watermark, log_end, durable;
  int64_t records; /* between log start and high watermark; without `exact`, offsets */
  uint64_t segments, stored_bytes, raw_bytes, disk_bytes;
  bool is_exact;
  int64_t oldest, newest; /* timestamps, or PS_TIMESTAMP_NONE */
  uint64_t reclaimable_bytes;
  uint64_t dirty_bytes; /* of finished segments, from the first offset that was not compacted yet on */
  uint64_t damaged;     /* segments that could not be looked into */
} ps_stats_sizes;

/* Read the head and the directory, then find out. PS_NOT_FOUND: there is no such directory. PS_OK with an
 * `identity` other than PS_SOUND, or `moved`, or without a slot: sizes of files only, and nothing else is
 * known before the log is opened. */
ps_status ps_stats_measure(ps_stats *stats, const ps_stats_wanted *wanted, ps_stats_sizes *out,
                           ps_error *err);
/* The first timestamp of the batch that holds `offset`, or of the first one after it; PS_END: there is none
 * below the high watermark. As of the last ps_stats_measure. */
ps_status ps_stats_timestamp(ps_stats *stats, int64_t offset, int64_t *timestamp, ps_error *err);

#endif
