/* ps_log.h - one partition in this process: append, publish, sync, roll, find, read.
 *
 * Invariants (tests hold them, recovery restores them):
 *  I1  Frames tile the log: each starts where the last one ended, with the last one's next offset as
 *      its base offset, from a segment's header to its seal; the next segment's base offset is the
 *      seal's end offset.
 *  I2  high watermark <= log end; durable offset <= log end; both only rise within an incarnation.
 *      Outside sync topics the watermark equals the log end whenever no append is under way. (A topic that
 *      was a sync topic a moment ago may be one still for other processes: until they know.)
 *  I3  Every byte below the frame that ends at the watermark was stored before the watermark was
 *      (release), so a reader that loads it (acquire) reads whole frames without a lock.
 *  I4  Every store to shared words or segments happens under the append lock with the state word odd,
 *      except: watermark and durable offset (atomic maximum), poison, signal; the log start, `files`,
 *      `cleaned` and `horizon`, under the maintenance lock (ps_retain.h, ps_compact.h); and `deleted`, set
 * once, and `moves`, with every lock of the topic held. I5  A slot names a place where a frame may be
 * written: all before it is whole. If the state word is odd at acquire, the last writer died; what stands at
 * the good slot's place is either one whole frame (adopted) or nothing that counts (first 64 bytes zeroed).
 *  I6  A cut goes on in a new segment with a new salt and a higher epoch, written to `epochs` first. What was
 *      shown and never synced may also be gone without a trace: so the epoch rises with each boot of the
 *      machine, in the same segment where nothing stands beyond its end.
 *  I7  A file is made, renamed or opened to be stored to only while a lock of the partition is held and the
 *      topic's directory has been found in its place since that lock was taken. Who deletes a topic holds all
 *      its locks while the directory moves: so no handle of a deleted topic touches a later one of that name.
 *
 *  I8  The log start only rises, and is on the disk before anything below it goes. A segment that holds an
 *      offset from it on is removed only when another holds that, too, durably. The active one is neither
 *      removed nor replaced.
 *
 * Locks, in this order: maintenance mutex -> maintenance range lock; append mutex -> append range lock; sync
 * mutex -> sync range lock; table mutex last. The append and sync locks are never held together by one thread
 * except in recovery (append, then sync is not needed: recovery excludes appenders and moves durable by
 * maximum). */
#ifndef PS_LOG_H
#define PS_LOG_H

#include <pthread.h>

#include "ps_frame.h"
#include "ps_os.h"
#include "ps_segment.h"

typedef enum ps_durability {
  PS_DURABILITY_NONE = 0,
  PS_DURABILITY_INTERVAL = 1,
  PS_DURABILITY_SYNC = 2
} ps_durability;

/* What a store leaves free on its file system: one for all logs of the store in this process. Whatever takes
 * space asks; once refused, nothing grows before there is an eighth more than that again. */
typedef struct ps_reserve {
  int64_t min_free_bytes; /* 0: all may be taken */
  bool low;               /* atomic */
  uint32_t rolls;         /* futex word, moved by every roll: who tends the logs sleeps on it */
  uint32_t trims;         /* futex word, moved when a log is beyond its bound: who keeps them sleeps on it */
} ps_reserve;

typedef struct ps_log_options {
  uint8_t topic_uuid[16];
  uint32_t partition;
  uint32_t segment_bytes; /* capacity of new segments, multiple of 4096 */
  uint32_t index_interval_bytes;
  ps_durability durability;
  ps_io io;             /* MAP or PWRITE, already chosen */
  uint64_t incarnation; /* of the open store; 0 where it is only read */
  bool log_append_time;
  bool topic_locks;    /* locks_fd is DIR/../locks: where another file has that name, the topic was deleted */
  bool read_only;      /* nothing is written: see ps_view.h */
  int live_fd;         /* read_only: STORE/live, open for reading; the caller's, as locks_fd is */
  ps_reserve *reserve; /* outlives the log; NULL: all may be taken */
  struct ps_maps *maps;       /* likewise: ps_maps.h; NULL: what was mapped stays */
  uint32_t message_bytes_max; /* of new frames; 0: what a segment holds */
} ps_log_options;

/* Of the options, those that may change while the log is in use, in other processes at other moments: any
 * mixture keeps all promises. Segments and indexes that are there already stay as they are. */
typedef struct ps_log_alterable {
  uint32_t segment_bytes, index_interval_bytes, message_bytes_max;
  ps_durability durability;
  bool log_append_time;
} ps_log_alterable;

typedef struct ps_log ps_log;

/* Open (creating it when `create` and missing) the partition in directory `dir`. locks_fd is the
 * topic's `locks` file; it stays the caller's and must outlive the log, as must env. Checks the
 * head against the incarnation and, when they differ, recovers under the append lock. PS_INTERRUPTED: a
 * signal came while waiting for that. PS_DELETED: the topic was deleted. PS_NOT_FOUND: there is no such
 * partition, and not `create`. read_only: locks_fd is open for reading, or -1 where there is no such file; a
 * partition that was never used, or is not even there, is empty. */
ps_status ps_log_open(const ps_env *env, const char *dir, int locks_fd, const ps_log_options *options,
                      bool create, ps_log **out, ps_error *err);
/* Sync what this process wrote (unless durability is none), then drop descriptors. Lent segments live
 * on. The handle answers PS_CLOSED afterwards. Never call it in a forked child. */
ps_status ps_log_close(ps_log *log, ps_error *err);
/* Go by other options from now on. Batches that were begun before are taken as they are. */
void ps_log_set_options(ps_log *log, const ps_log_alterable *options);
/* Whether records are to have keys, as those of compacted topics are. Kept for whoever accepts them: what was
 * accepted before is appended without. */
void ps_log_set_needs_keys(ps_log *log, bool needs_keys);
bool ps_log_needs_keys(const ps_log *log);
/* Where that is kept, for who asks for each record; valid as long as the log. */
const bool *ps_log_needs_keys_place(const ps_log *log);
/* Free the handle: no thread may be inside, nothing may use it again. Works after close or fork. */
void ps_log_free(ps_log *log);
/* In a forked child: forget descriptors without unlocking (the locks are the parent's), mark the handle
 * PS_FORKED. Async-signal-safe. */
void ps_log_after_fork(ps_log *log);

/* Append one prepared batch. Blocks for the append lock at most timeout_ns (-1: for ever). On PS_OK the
 * batch is published (sync topics: once durable) and *base_offset is its first offset. PS_INTERRUPTED:
 * a signal came while waiting for the lock, or may have; nothing was written. */
ps_status ps_log_append(ps_log *log, ps_prepared *batch, int64_t timeout_ns, int64_t *base_offset,
                        ps_error *err);
/* Hold the partition for exclusive writing: keep the append lock between appends, so that this process (all
 * its threads) appends without asking the kernel and every other one waits, or times out, until
 * ps_log_release, ps_log_close or the death of this process. PS_HELD: somebody holds it already, this process
 * perhaps, and did not let go within timeout_ns (-1: wait for ever); a writer that is only passing is waited
 * for a little longer. PS_INTERRUPTED: a signal came while waiting, or may have. */
ps_status ps_log_hold(ps_log *log, int64_t timeout_ns, ps_error *err);
/* Let go; an append under way ends first. Nothing where it is not held. */
void ps_log_release(ps_log *log);
bool ps_log_is_held(const ps_log *log);
/* Finish or undo what a writer that died left half done, as the next append would: afterwards no batch of a
 * writer that is dead comes to light any more. PS_INTERRUPTED: a signal came while waiting for the lock. */
ps_status ps_log_settle(ps_log *log, ps_error *err);
/* Make everything below the present log end durable; one sync serves all that wait. */
ps_status ps_log_sync(ps_log *log, ps_error *err);
/* Have the kernel begin to write out what this process stored and nobody has synced yet, and do not wait.
 * Before the syncs of several logs: each then finds its bytes under way, and most of its metadata committed.
 */
void ps_log_start_writeback(ps_log *log);
/* True when this process stored something that is not yet known to be durable. */
bool ps_log_is_dirty(const ps_log *log);
/* How often this process has gone on in a new segment. */
uint64_t ps_log_rolls(const ps_log *log);
/* Make the next segment ready when the active one is more than half full. Off the append path. */
void ps_log_prepare_next(ps_log *log);
/* Fault in pages ahead of the log end, at most `bytes`; for the helper thread. */
void ps_log_populate(ps_log *log, uint64_t bytes);

int64_t ps_log_start_offset(const ps_log *log);
int64_t ps_log_high_watermark(ps_log *log); /* one acquire load */
bool ps_log_is_read_only(const ps_log *log);
/* The same, or what of it is known to be durable. */
int64_t ps_log_readable_offset(ps_log *log, bool durable);
int64_t ps_log_end_offset(ps_log *log);
int64_t ps_log_durable_offset(ps_log *log);
int32_t ps_log_leader_epoch(const ps_log *log);
/* Where records of `epoch` end for certain: the lowest offset at which a later epoch begins; INT64_MAX where
 * none does. A position beyond it was read before a cut, and is another record's by now. */
ps_status ps_log_epoch_end(ps_log *log, int32_t epoch, int64_t *end, ps_error *err);
ps_status ps_log_check(const ps_log *log, ps_error *err); /* poisoned, deleted, forked, closed */
void ps_log_poison(ps_log *log, int os_errno);
uint32_t ps_log_segment_bytes(const ps_log *log); /* of those to come */
/* The largest frame that is to be made: by the segments' size, and message_bytes_max. */
uint32_t ps_log_frame_bytes_max(const ps_log *log);
/* Whether new batches get the time of their append. */
bool ps_log_stamps(const ps_log *log);

typedef struct ps_log_stats {
  int64_t log_start, high_watermark, log_end, durable;
  uint64_t appends, appended_records, appended_bytes; /* by this process */
  uint64_t syncs, rolls, mends, cuts;
  uint64_t wakes;                  /* calls to the kernel to wake who waited, or had waited */
  uint64_t segments, stored_bytes; /* on disk */
  uint64_t lent_segments;          /* segments that a cursor or something lent holds in this process */
  uint64_t lent_bytes;             /* of their files: deleting them frees nothing until they are let go */
  uint64_t pinned_bytes;           /* of those, what is of files that were removed or replaced already */
} ps_log_stats;
void ps_log_get_stats(ps_log *log, ps_log_stats *out);
/* The same without asking the disk: segments and stored_bytes stay 0. */
void ps_log_get_counters(ps_log *log, ps_log_stats *out);

/* ---- reading: no locks, no system calls but to open a segment ------------------------------- */
/* A place between frames. Owned by one thread at a time; holds one reference on its segment. */
typedef struct ps_cursor {
  ps_segment *segment; /* NULL when not placed */
  uint64_t position;
  int64_t next_offset; /* base offset expected of the frame at position */
  uint64_t generation; /* of the view it was placed in, where the log is read_only */
  bool durable;        /* goes no further than the durable offset; the owner's to set */
} ps_cursor;

typedef struct ps_frame_view { /* borrowed: valid while the cursor or a reference holds the segment */
  ps_segment *segment;
  uint64_t position;
  const uint8_t *frame;
  const uint8_t *body; /* as stored: frame + PS_FRAME_HEADER_BYTES */
  ps_frame_meta meta;
} ps_frame_view;

void ps_cursor_init(ps_cursor *cursor);
void ps_cursor_clear(ps_cursor *cursor);
/* Place the cursor at the frame that holds `offset`, or the first after it; at the watermark it waits
 * there. PS_OUT_OF_RANGE below the log start or beyond the watermark. */
ps_status ps_cursor_seek(ps_log *log, ps_cursor *cursor, int64_t offset, ps_error *err);
/* The next frame below the watermark (`durable`: and the durable offset), its header checked, its body too
 * unless already verified. PS_END when there is none yet. Raw bodies have also had their columns checked; a
 * compressed body is checked as stored, and the caller runs ps_columns_check after decompression. Empty
 * frames (no records) are returned too. */
ps_status ps_cursor_next(ps_log *log, ps_cursor *cursor, ps_frame_view *view, ps_error *err);
/* The offset of the first record with a timestamp >= timestamp below the watermark, and that timestamp;
 * PS_END when there is none. Reads columns of at most one batch (decompressing into scratch it allocates). */
ps_status ps_log_find_time(ps_log *log, int64_t timestamp, int64_t *offset, int64_t *found, ps_error *err);

/* ---- waiting -------------------------------------------------------------------------------- */
/* The futex word that changes with the next publication after ps_log_listen. */
const void *ps_log_signal_word(const ps_log *log);
/* Say that somebody waits; the word's value to sleep on. Look at the watermark again before sleeping. Nothing
 * is to be taken back. See ps_head.h. */
uint32_t ps_log_listen(ps_log *log);
/* Wait until the watermark passes `offset`: PS_OK, PS_TIMEOUT, PS_INTERRUPTED (signal). -1: for ever. */
ps_status ps_log_wait(ps_log *log, int64_t offset, int64_t spin_ns, int64_t timeout_ns);
/* End every wait on this log in all processes (they look again). */
void ps_log_wake(ps_log *log);

/* ---- the store's liveness file --------------------------------------------------------------- */
/* Lock STORE/live, open for reading and writing as fd, for as long as fd or a copy of it is open: the
 * incarnation, a new one when no other opener was there. PS_CORRUPT when the file is damaged while others
 * are. */
ps_status ps_live_enter(const ps_env *env, const char *path, int fd, uint64_t *incarnation, ps_error *err);
/* The claim to tend the whole store: one holder at a time, until ps_live_unclaim, or the death of its
 * process. It belongs to fd, so threads of one process need a lock of their own before it. PS_TIMEOUT:
 * another process has it. */
ps_status ps_live_claim(const ps_env *env, const char *path, int fd, ps_error *err);
void ps_live_unclaim(int fd);
/* What the kernel calls this boot; zeros where it does not say. */
void ps_live_boot_id(const ps_env *env, uint8_t out[16]);
/* Look without entering: the incarnation (0: none, or damaged), and who is there. fd may be open for reading
 * only, or -1 where there is no such file. */
typedef enum ps_presence { PS_PRESENCE_NOBODY, PS_PRESENCE_WRITERS, PS_PRESENCE_CHANGING } ps_presence;
ps_status ps_live_look(const ps_env *env, int fd, uint64_t *incarnation, ps_presence *presence,
                       ps_error *err);

#endif
