/* ps_log_internal.h - what the files behind ps_log.h share. */
#ifndef PS_LOG_INTERNAL_H
#define PS_LOG_INTERNAL_H

#include "ps_head.h"
#include "ps_index.h"
#include "ps_log.h"
#include "ps_maps.h"
#include "ps_view.h"

/* What a segment that is finished says of itself, without being mapped. */
typedef struct ps_facts {
  int64_t max_timestamp; /* of its records; where none has one, when the file was last written to */
  int64_t created_ns;
  uint64_t bytes;
  bool known;
} ps_facts;

typedef struct ps_table_entry { /* a segment known to exist; opened when first needed */
  int64_t base_offset;
  ps_segment *segment; /* NULL until opened; the table holds one reference */
  ps_facts facts;
} ps_table_entry;

struct ps_log {
  const ps_env *env;
  int locks_fd;
  ps_log_options options;
  uint8_t *head;       /* mapped for the life of the handle; read_only: a page of our own */
  ps_view view;        /* read_only */
  uint64_t pid;        /* of the process that may append: no forked child may */
  bool closed, forked; /* atomic */
  bool closing;        /* nobody begins to wait for another process any more; atomic */
  bool gone;           /* the topic's directory was not found in its place; atomic */
  bool wrote;          /* this process has appended; atomic */
  pthread_mutex_t append_mutex, sync_mutex, maintain_mutex, table_mutex;
  pthread_mutex_t turn_mutex; /* never held while another is taken */
  pthread_cond_t turn_over;
  bool syncing; /* turn_mutex: a thread of this process syncs, or waits for another process's sync */
  /* table_mutex */
  ps_table_entry *table;
  size_t table_count, table_room;
  int64_t table_complete; /* no segment up to this base is missing from the table; -1: never read */
  uint64_t
      table_files; /* of the head: files removed or replaced since then may still be in the table; atomic */
  ps_segment **ghosts; /* no longer in the table, as their files were removed or replaced, but still lent */
  size_t ghost_count, ghost_room;
  uint64_t moves;        /* of the head, when the log was opened */
  int64_t start_durable; /* a log start that is known to be on the disk; maintenance lock */
  /* What is said in ps_retain.h of a log that is kept within a bound; atomic. */
  int64_t keep_bytes; /* -1: there is none */
  uint64_t due_at;    /* PS_DUE_*: how far the active segment is to be filled for somebody to be told */
  int64_t late_since; /* monotonic ns */
  bool due;           /* the thread that keeps it has been told, and has not begun to see to it */
  /* append lock */
  ps_segment *active;      /* borrowed from the table */
  uint64_t clear_sequence; /* of the slot this process wrote last: no seal stands at the place it names */
  bool held;               /* this process keeps the range lock between appends */
  bool stores_by_call;     /* the last batch was not stored through the map; atomic */
  bool needs_keys;         /* see ps_log.h; atomic */
  bool compacting;         /* by a thread of this process; atomic */
  bool active_unprepared;  /* the active segment's next one has not been made ready; atomic */
  uint32_t wakes;          /* counter, atomic */
  /* counters, atomic */
  uint64_t appends, appended_records, appended_bytes, syncs, rolls, mends, cuts;
  uint64_t locks_device, locks_inode; /* of the topic's `locks`, where options.topic_locks */
  char dir[448];
  uint32_t segment_bytes_max; /* the largest that new segments ever had here; atomic */
};

/* In due_at, a position of the active segment, and who is to be told there. Nothing: the thread that keeps
 * the log. PS_DUE_RUNG: that has been told, so then those who append. PS_DUE_LATE: they have been, too. */
#define PS_DUE_POSITION ((1ull << 62) - 1)
#define PS_DUE_NEVER PS_DUE_POSITION
#define PS_DUE_RUNG (1ull << 62)
#define PS_DUE_LATE (1ull << 63)

#define PS_NEXT_NAME "next.tmp"
/* A segment's file begins with this much space and doubles it as it fills, up to its capacity: a partition
 * that holds little takes little. */
#define PS_RESERVE_BYTES_MIN (256u << 10)

static inline bool ps_log_flag(const bool *flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }
/* Options that may change at any time. Who goes by one twice in one matter reads it once. */
static inline uint32_t ps_log_index_interval(const ps_log *log) {
  return __atomic_load_n(&log->options.index_interval_bytes, __ATOMIC_RELAXED);
}
static inline ps_durability ps_log_durability(const ps_log *log) {
  return __atomic_load_n(&log->options.durability, __ATOMIC_ACQUIRE);
}
static inline void ps_log_count(uint64_t *counter, uint64_t n) {
  __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Wake who waits for what was just stored. */
static inline void ps_log_signal(ps_log *log) {
  if (PS_UNLIKELY(ps_head_signal(log->head))) __atomic_fetch_add(&log->wakes, 1, __ATOMIC_RELAXED);
}

static inline bool ps_log_is_gone(const ps_log *log) {
  return ps_head_deleted(log->head) || ps_head_moves(log->head) != log->moves;
}

/* I7, a lock of the partition held: PS_OK, PS_DELETED, or PS_OS_ERROR when that cannot be found out. */
ps_status ps_log_check_place(ps_log *log, ps_error *err);
/* What failed, failed perhaps because the topic was deleted: its files have other names by now, or none.
 * Answers `status`, or PS_DELETED. */
ps_status ps_log_explain(ps_log *log, ps_status status, ps_error *err);
/* What failed leaves it open what the disk holds: poisons the log and answers PS_POISONED, with the errno. */
ps_status ps_log_fail_poisoning(ps_log *log, int os_errno, const char *path, const char *what, ps_error *err);
/* ps_log_check, and that the store may be written to. */
ps_status ps_log_check_writable(const ps_log *log, ps_error *err);

/* DIR/name */
void ps_log_path(const ps_log *log, const char *name, char out[512]);

/* Table: find (opening if need be) a segment; the answer carries a reference of its own. `at`: the segment
 * with exactly this base; PS_NOT_FOUND when there is none. `holding`: the last one whose base is <= offset,
 * which the log has; PS_CORRUPT when there is none. */
ps_status ps_table_at(ps_log *log, int64_t base_offset, ps_segment **out, ps_error *err);
ps_status ps_table_holding(ps_log *log, int64_t offset, ps_segment **out, ps_error *err);
/* Let go of files that were removed or replaced since the table was made. Cheap where none was. */
void ps_table_trim(ps_log *log);
/* The same in any case: something was not where the table says. */
void ps_table_doubt(ps_log *log);
/* Whether the directory has the segment; true where that cannot be told. */
bool ps_table_is_there(const ps_log *log, int64_t base_offset);
/* It is mapped no more, and will be opened again; the caller has the reference. Table mutex held. */
void ps_table_close(ps_log *log, const ps_segment *segment);
/* Open the index of a segment, if there is one to be used, before it is looked into. */
void ps_table_index(ps_log *log, ps_segment *segment);
/* What is told of the segment with this base. PS_NOT_FOUND: there is no such file, any more. */
ps_status ps_table_facts(ps_log *log, int64_t base_offset, ps_facts *facts, ps_error *err);
/* What finished segments take, from the one with base `from` on. */
ps_status ps_table_bytes(ps_log *log, int64_t from, int64_t *bytes, ps_error *err);
/* Read the directory again. Caller does not hold table_mutex. */
ps_status ps_table_scan(ps_log *log, ps_error *err);
/* The same, unless the table is known to hold every segment up to the active one. */
ps_status ps_table_refresh(ps_log *log, ps_error *err);
/* Forget all segments (lent ones live on): recovery has changed the files. */
void ps_table_forget(ps_log *log);
/* The same at the end, when nothing is known of the head any more: its file may have been cut off. */
void ps_table_empty(ps_log *log);
/* Base offsets known, in order, as a malloc'ed array the caller frees. */
ps_status ps_table_bases(ps_log *log, int64_t **bases, size_t *count, ps_error *err);

/* Writers' side of a segment (append lock held). */
ps_status ps_log_open_active(ps_log *log, int64_t base_offset, ps_error *err);
/* Store pieces at a position of the active segment, through its map or by pwrite. */
ps_status ps_log_store(ps_log *log, uint64_t position, const ps_piece *pieces, size_t count, ps_error *err);
/* Make DIR/BASE20.log, empty, with this epoch; replaces nothing that holds records. `durable`: its header is
 * synced before it gets its name, as it must be where no segment before it could take its place. */
ps_status ps_log_create_segment(ps_log *log, int64_t base_offset, int32_t leader_epoch, bool durable,
                                ps_error *err);
/* The same, with room for a frame of that many bytes, though segments are smaller by now. */
ps_status ps_log_create_segment_for(ps_log *log, uint32_t frame_bytes, int64_t base_offset,
                                    int32_t leader_epoch, bool durable, ps_error *err);
/* Make a new file of `bytes` bytes with their blocks at path and leave it open. */
ps_status ps_log_create_file(ps_log *log, const char *path, uint64_t bytes, int *fd, ps_error *err);
/* May so many more bytes of the file system of fd be taken? ENOSPC where the store's reserve says no. */
ps_status ps_log_ask_space(ps_log *log, int fd, uint64_t bytes, const char *path, ps_error *err);
/* frame_bytes: of the batch to come, 0 where there is none. */
ps_status ps_log_roll(ps_log *log, ps_slot *slot, uint32_t frame_bytes, ps_error *err);
ps_status ps_log_mend(ps_log *log, ps_slot *slot, ps_error *err);
/* The active segment is filled as far as due_at says: tell whom it says. Append lock held, as for the next.
 */
void ps_log_ring_due(ps_log *log, uint64_t position);
/* A segment has become the active one, with others of so many bytes before it. */
void ps_log_begin_due(ps_log *log, uint32_t segment_bytes);
/* Move the log end (slot already advanced) and, outside sync topics, the watermark; wake waiters. */
void ps_log_publish(ps_log *log, ps_slot *slot);

/* The append lock: the mutex, then the kernel's range lock unless this process holds the partition. */
ps_status ps_log_lock_append(ps_log *log, int64_t timeout_ns, ps_error *err);
void ps_log_unlock_append(ps_log *log);

/* The maintenance lock: the mutex, then the kernel's range lock. PS_TIMEOUT: another is at it. 0: only try;
 * -1: wait for ever. Before the append lock, and before the sync lock, where they are needed together. */
ps_status ps_log_lock_maintain(ps_log *log, int64_t timeout_ns, ps_error *err);
void ps_log_unlock_maintain(ps_log *log);

/* Begin a new segment if the active one is still `segment` and holds anything. */
ps_status ps_log_roll_now(ps_log *log, int64_t segment, int64_t timeout_ns, ps_error *err);
/* Have a block behind the head before it is stored to, where maps may meet a full disk. */
ps_status ps_log_back_head(ps_log *log, ps_error *err);

/* All that is to be durable before the log may begin at `offset`: nothing below it. */
ps_status ps_log_sync_start(ps_log *log, int64_t offset, ps_error *err);
/* The log does begin at `offset`, durably: nobody syncs what was below it. */
ps_status ps_log_skip_durable(ps_log *log, int64_t offset, ps_error *err);
/* The head's page is on the disk as it is now. Poisons the log where that cannot be told. */
ps_status ps_log_sync_head(ps_log *log, ps_error *err);
/* The offset is below the log start by now: PS_OUT_OF_RANGE. */
ps_status ps_log_fail_below(const ps_log *log, int64_t offset, ps_error *err);

/* Sync up to the present log end; sync mutex and range lock are taken inside. */
ps_status ps_log_sync_to(ps_log *log, int64_t target, ps_error *err);
/* fdatasync the files of segments that hold offsets in [from, to), and the directory if one is new. */
ps_status ps_log_sync_segments(ps_log *log, int64_t from, int64_t to, ps_error *err);
ps_status ps_log_sync_directory(ps_log *log, ps_error *err);
/* Close descriptors of segments that a sync has covered and nobody is storing to; not of `busy` (may be
 * NULL), which is about to be stored to. Append and sync mutex held. */
void ps_log_close_clean(ps_log *log, const ps_segment *busy);

/* PS_VERSION: at this place stands a batch that only a later version understands. */
ps_status ps_log_fail_newer(const ps_segment *segment, uint64_t position, int64_t offset, ps_error *err);
/* Recovery: append lock held, head not believed. Where the log is read_only nothing is written but log->head.
 */
ps_status ps_log_recover(ps_log *log, ps_head_verdict verdict, const ps_head_identity *identity,
                         ps_error *err);
/* The epochs file: the highest epoch in it (-1 when empty); append one entry and sync it. */
ps_status ps_epochs_last(ps_log *log, int32_t *epoch, ps_error *err);
ps_status ps_epochs_append(ps_log *log, int32_t epoch, int64_t first_offset, ps_error *err);

#endif
