/* ps_walk.h - one pass over the bytes of a segment file, sound or not, without opening its log.
 *
 * Reads by pread, maps nothing, locks nothing, writes nothing, allocates nothing: fit for a store that others
 * write to and for read-only media. The caller fills in the first part of a ps_walk, calls ps_walk_next until
 * it answers PS_WALK_END, and finds what each event speaks of in the second part.
 *
 *   HEADER  once, first
 *   FRAME   a sound frame header, with the verdicts on its body and columns
 *   DAMAGE  a stretch in which no sound frame begins, or offsets that do not join; the walk goes on at the
 *           next frame or seal whose header is sound for the salt and its place: stale and copied bytes, and
 *           frames that somebody stored inside a record, are not
 *   SEAL    where the next frame would begin
 *   NEED    the frame at `position` does not fit `buffer` (or, decompressed, `scratch`): give larger ones, of
 *           `need_buffer` and `need_scratch` bytes, and call again
 *   END     the end of the walk, and what stands behind it
 *
 * What is being written is not damage: with `end_offset` set to the high watermark, read before the walk
 * began, the walk ends where the frames do that were published by then. */
#ifndef PS_WALK_H
#define PS_WALK_H

#include "ps_frame.h"
#include "ps_os.h"
#include "ps_segment.h"

#define PS_WALK_BUFFER_BYTES_MIN (64u << 10)

typedef enum ps_walk_event {
  PS_WALK_END = 0,
  PS_WALK_HEADER,
  PS_WALK_FRAME,
  PS_WALK_DAMAGE,
  PS_WALK_SEAL,
  PS_WALK_NEED
} ps_walk_event;

typedef enum ps_verdict {
  PS_UNCHECKED = 0,
  PS_SOUND,
  PS_DAMAGED,
  PS_NEWER /* its checksum is right; a later version wrote it */
} ps_verdict;

typedef enum ps_walk_reason {
  PS_WALK_NO_FRAME = 0, /* no sound header where a frame or the seal must begin */
  PS_WALK_CUT_OFF,      /* the file ends inside a frame */
  PS_WALK_GAP,          /* a sound frame, whose base offset is too high */
  PS_WALK_OVERLAP       /* a sound frame, whose base offset is too low */
} ps_walk_reason;

typedef enum ps_walk_rest {
  PS_WALK_NOTHING = 0, /* the file ends here */
  PS_WALK_ZEROS,       /* reserved space */
  PS_WALK_BYTES,       /* what is no sound frame: a torn append, or damage */
  PS_WALK_UNSEEN       /* not looked at: the walk has come to end_offset */
} ps_walk_rest;

typedef struct ps_walk {
  /* The caller's. */
  const ps_env *env;
  int fd;              /* open for reading */
  int64_t base_offset; /* what the file's name says */
  int64_t end_offset;  /* INT64_MAX: to the end */
  uint64_t salt;   /* to go by when the header is damaged, 0: none; then what stands in the header is tried */
  bool bodies;     /* check bodies and columns, too */
  uint8_t *buffer; /* aligned for any column, >= PS_WALK_BUFFER_BYTES_MIN */
  uint64_t buffer_bytes;
  uint8_t *scratch; /* may be NULL until it is asked for */
  uint64_t scratch_bytes;

  /* HEADER. info is only good when `header` is PS_SOUND. */
  uint64_t size; /* of the file, as the walk began */
  ps_verdict header;
  ps_segment_info info;

  /* Where the event is: FRAME, DAMAGE and SEAL stand in [position, to); END: the log ends at `position`, and
   * from `to` on there are only zeros. */
  uint64_t position, to;
  /* FRAME. body and columns are in buffer (and scratch) until the next call. */
  ps_frame_meta meta;
  ps_verdict frame, body, columns; /* frame: PS_SOUND or PS_NEWER */
  ps_columns view;                 /* when columns is PS_SOUND */
  /* SEAL */
  ps_verdict sealed; /* PS_UNCHECKED: none was found */
  ps_seal seal;
  /* DAMAGE: what does not stand there, [missing, found); -1 where it is not known. */
  ps_walk_reason reason;
  int64_t missing, found;
  /* END */
  ps_walk_rest rest;
  /* NEED */
  uint64_t need_buffer, need_scratch;

  /* The walk's own. */
  uint64_t at;         /* where it goes on */
  int64_t next_offset; /* expected there; when it has ended, the first offset that it did not find */
  uint64_t frames;     /* that it has found */
  int stage;
} ps_walk;

/* Put the walk at the file's beginning. */
void ps_walk_begin(ps_walk *walk);
/* The next event. PS_OK, or PS_OS_ERROR: the file could not be read (once read, it goes on from there). */
ps_status ps_walk_next(ps_walk *walk, ps_walk_event *event, ps_error *err);

#endif
