/* ps_rewrite.h - a segment written aside, to take the place of one or of several that follow one another.
 *
 * It stands under a temporary name until it is whole and on the disk. Then it is renamed over the first of
 * those it replaces, the directory is synced, and only after that the others are unlinked: so whenever the
 * machine stops, the log is there, and at most left-overs beside it: segments whose base lies below the end
 * of the one before them (C1), which nobody has to read. It has a salt of its own, so that no frame of what
 * stood there before passes for one of it, and an index, renamed before it: an index that does not fit is not
 * used.
 *
 * Owned by one thread. Locks: PS_LOCK_MAINTAIN, taken inside, for making the file and for the swap only,
 * never while syncing its contents. */
#ifndef PS_REWRITE_H
#define PS_REWRITE_H

#include "ps_log_internal.h"

/* How long somebody else may keep PS_LOCK_MAINTAIN before it is given up. */
#define PS_MAINTAIN_WAIT_NS 5000000000

typedef struct ps_source { /* a finished segment, as its file says it */
  int64_t base, end;       /* offsets [base, end) */
  uint64_t salt;
  uint64_t bytes; /* up to and with its seal */
  int64_t max_timestamp, created_ns;
  int32_t leader_epoch;
} ps_source;

/* Read what the file of a segment before the active one says of itself. PS_NOT_FOUND: there is none. PS_END:
 * it is not finished. */
ps_status ps_source_read(ps_log *log, int64_t base, ps_source *out, ps_error *err);

typedef struct ps_rewrite {
  ps_log *log;
  bool open;
  int fd;
  char path[512], index_path[512];
  uint8_t *buffer; /* what comes after `flushed`, not written yet */
  uint64_t flushed, position;
  uint64_t asked;    /* space of the file system that was asked for */
  uint64_t started;  /* bytes that the kernel was told to begin to write out */
  ps_segment *shape; /* carries salt and index of what is being written; never mapped */
  uint64_t frames;
  int64_t max_timestamp;
  /* A run without records, to be written as one empty frame before the next frame (C2). */
  bool pending;
  ps_frame_meta empty;
} ps_rewrite;

void ps_rewrite_init(ps_rewrite *out, ps_log *log);
/* Begin to write what replaces `first` and perhaps more; about `bytes` bytes at most, which the index is made
 * for. */
ps_status ps_rewrite_open(ps_rewrite *out, const ps_source *first, uint64_t bytes, ps_error *err);
/* Add a frame: its header is made anew, its body, PIECES, is taken as it is. PS_TOO_LARGE: the segment would
 * pass PS_SEGMENT_BYTES_MAX. */
ps_status ps_rewrite_frame(ps_rewrite *out, const ps_frame_meta *meta, const ps_piece *pieces, size_t count,
                           ps_error *err);
/* Add the offsets of a frame all of whose records go. Runs of one leader epoch are joined. The frame of a
 * producer id stays as an empty frame of its own while no later one of that producer follows it: its sequence
 * is in it. */
ps_status ps_rewrite_empty(ps_rewrite *out, const ps_frame_meta *meta, ps_error *err);
/* Seal and sync it, and put it in the place of sources[0 .. count), which it covers. PS_END: they are not any
 * more what they were; nothing was done. *bytes: of the file; *files: that went. Closed afterwards, whatever
 * the answer. */
ps_status ps_rewrite_swap(ps_rewrite *out, const ps_source *sources, size_t count, uint64_t *bytes,
                          uint64_t *files, ps_error *err);
/* Unlink the segment with this base, and its index, for good: another one has taken it in. In the order of
 * their offsets, so that those that are left, if power fails, still join one another up to the end of that
 * one: whoever begins to read in one of them goes on. And before anything later is replaced, as they may hold
 * what is left out there. PS_LOCK_MAINTAIN held. */
ps_status ps_rewrite_unlink(ps_log *log, int64_t base, ps_error *err);
/* Give up what was not swapped in. */
void ps_rewrite_drop(ps_rewrite *out);
void ps_rewrite_free(ps_rewrite *out);

#endif
