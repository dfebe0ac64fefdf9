/* ps_retain.h - where the log starts, and what may go because it lies below.
 *
 * The log start only rises. What readers may see begins there; a frame that straddles it stays, and is sliced
 * by whoever reads records; a segment that lies wholly below it may be removed. In this order, each step
 * ending before the next begins, so that no power failure leaves a log that starts at what is not there:
 *
 *   1. The segment that holds the new start, and its name, are made durable.
 *   2. The start is stored, in that of its two places in the head that does not count (ps_head.h), and the
 *      head is synced.
 *   3. The durable offset is raised to it: what was not synced below need not be any more.
 *   4. Segments below it are removed, oldest first, each index before its segment.
 *   5. `files` of the head moves: every process lets go of what it has open of them (ps_table_trim).
 *
 * All of it under the maintenance lock alone: appenders, and who holds the partition for exclusive writing,
 * wait for nothing, and are not waited for, but where the active segment is to be rolled. Whoever dies at any
 * step leaves a sound log; the next one goes on with what is left to do. */
#ifndef PS_RETAIN_H
#define PS_RETAIN_H

#include "ps_log.h"

/* Which segments are too many. The active one stays. */
typedef struct ps_retention {
  int64_t min_timestamp; /* ns: those whose records are all older go; PS_TIMESTAMP_NONE: none for their age */
  int64_t max_bytes;     /* the oldest go as long as no less than this is left; -1: none for their size */
  int64_t roll_before;   /* ns: an active segment whose first record is older is rolled; PS_TIMESTAMP_NONE */
} ps_retention;

typedef struct ps_retained {
  int64_t log_start;
  uint64_t bytes; /* of the files removed, their indexes not counted */
  uint32_t files; /* segments removed */
  bool rolled;
  bool more; /* the bound was reached: some are left to be removed */
} ps_retained;

/* Move the log start up to `offset`, durably; nothing where it is there already. Records below are out of
 * range from then on, in every process; no file goes yet. PS_OUT_OF_RANGE: beyond the high watermark, or
 * negative. PS_TIMEOUT: maintenance of another kept the partition for half a minute. */
ps_status ps_log_delete_before(ps_log *log, int64_t offset, ps_error *err);

/* One bounded step: roll the active segment where `rule` has it, move the log start past the segments that
 * are to go, and remove at most files_max of those below it. A segment none of whose records has a timestamp
 * is as old as its file. PS_TIMEOUT: another is at it, or, where something was to be rolled, kept the append
 * lock. Where the roll fails, for that or another reason, what can be done without it has been done. */
ps_status ps_log_retain(ps_log *log, const ps_retention *rule, uint32_t files_max, ps_retained *out,
                        ps_error *err);

/* A log that is appended to is kept within a bound as it is filled. Whoever appends compares one word; when a
 * segment has become due, it is told to the thread that keeps the logs of this process (`trims` of the
 * reserve), which asks ps_log_take_due and calls ps_log_keep. Where that has not come to its end before half
 * a segment more was appended, and no less than PS_LATE_BYTES_MIN, as the machine is busy, or the log filled
 * faster than the disk takes it, ps_log_is_late says so to those who append: they call ps_log_catch_up before
 * their next append. So records take no more than the bound and a segment where the thread is in time, and
 * that much more, for each process that appends, where it is not. */
#define PS_LATE_BYTES_MIN (4u << 20)

/* From now on, so many bytes are kept; -1: all. */
void ps_log_set_keep_bytes(ps_log *log, int64_t bytes);
/* Whether there was something to be done since this was last asked. */
bool ps_log_take_due(ps_log *log);
/* Remove what is too much. PS_TIMEOUT: another is at it; to be tried again. */
ps_status ps_log_keep(ps_log *log, ps_error *err);
/* Not for longer than two seconds in a row: who is stopped in the midst of it holds up nobody for ever. */
bool ps_log_is_late(const ps_log *log);
/* Do it for the thread, or wait some 50 ms for whoever does. No lock of the partition is held. */
void ps_log_catch_up(ps_log *log);

/* Segments are about to be replaced, or such removed as are not below the log start; and it is done.
 * Maintenance lock held. Whoever dies between the two: the next to take that lock says the second for it. */
void ps_log_files_changing(ps_log *log);
void ps_log_files_changed(ps_log *log);
/* Let go of segments that others removed or replaced. One load where none was. Any thread. */
void ps_log_trim(ps_log *log);

/* A segment that holds records from the log start on; the last one is being written to. */
typedef struct ps_segment_facts {
  int64_t base_offset, end_offset;
  int64_t max_timestamp; /* where no record has one, when the file was last written to */
  int64_t created_ns;
  uint64_t bytes; /* used, of those that are reserved */
} ps_segment_facts;
/* All of them, in order, in a malloc'ed array that the caller frees. No segment is mapped, nor read but for
 * its two ends, and these once. */
ps_status ps_log_segments(ps_log *log, ps_segment_facts **out, size_t *count, ps_error *err);

#endif
