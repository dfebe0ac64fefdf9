/* ps_segment.h - one BASE20.log file seen by this process: a counted read-only map that anything lent
 * from it keeps alive, and, for writers, the descriptor and the writable map.
 *
 * Created by open or create with one reference. A reference may be taken and dropped by any thread at
 * any time, with no lock and no Python. The read map is never moved, truncated or unmapped before the
 * last reference goes, whatever becomes of the file. */
#ifndef PS_SEGMENT_H
#define PS_SEGMENT_H

#include "ps_format.h"
#include "ps_frame.h"
#include "ps_os.h"

struct ps_log;

typedef struct ps_segment {
  int64_t refs; /* atomic */
  int64_t base_offset;
  uint64_t salt;
  int32_t leader_epoch;
  uint32_t partition;
  uint32_t capacity; /* bytes the map spans: header, frames, seal */
  uint8_t topic_uuid[16];
  int64_t created_ns;
  const uint8_t *map;     /* read-only, capacity bytes, always there */
  uint64_t device, inode; /* of the file: another may have its name by now */
  uint64_t readable;      /* bytes of the map the file is known to back, atomic; see ps_segment_backed */
  /* Which frames were checked whole: all that start below verified_end, which who reads in order moves on,
   * and of those behind it, for who reads elsewhere, one bit per PS_ALIGN, in pieces made when they are
   * needed. */
  uint64_t verified_end; /* where a frame ends, atomic */
  uint64_t **verified;   /* atomic */
  /* The index, opened under the log's table mutex and published by index_map (release). */
  uint8_t *index_map; /* NULL until opened; maps to index_bytes */
  size_t index_bytes;
  uint8_t *index_write_map; /* a writer's, where index_map had been opened for reading only */
  uint32_t index_interval, index_capacity;
  bool index_writable;
  bool index_sought; /* opened, or found to be of no use; atomic */
  /* Writers' side, guarded by the log's append lock. */
  uint32_t index_count; /* entries known to be there */
  int index_fd;         /* open only when the index is written by pwrite */
  uint8_t *write_map;   /* NULL until the segment is written through a map */
  uint64_t reserved;    /* bytes of the file that this process knows to have their blocks */
  bool pwrite_only;     /* a map of this segment is not safe to store to; atomic */
  int fd;               /* -1 when closed; stays open while written and not yet synced; atomic */
  int64_t dirty_end;    /* next offset after this process's last store to it; 0 = clean; atomic */
  /* The ring of those that stay mapped: ps_maps.h. */
  struct ps_log *listed_by; /* whose table holds it; NULL: it is not in the ring; that table's mutex */
  struct ps_segment *next, *previous;
  bool recent; /* asked for since it was last looked at; atomic */
  char path[512];
} ps_segment;

#define PS_SEGMENT_NAME_BYTES 32
void ps_segment_name(int64_t base_offset, char out[PS_SEGMENT_NAME_BYTES]);
void ps_index_name(int64_t base_offset, char out[PS_SEGMENT_NAME_BYTES]);
/* The base offset in a name "BASE20.log", or -1. */
int64_t ps_segment_parse_name(const char *name);

typedef struct ps_segment_info { /* what a new segment's header says */
  int64_t base_offset;
  uint64_t salt;
  int32_t leader_epoch;
  uint32_t partition;
  uint32_t capacity;
  uint8_t topic_uuid[16];
  int64_t created_ns;
} ps_segment_info;
void ps_segment_encode_header(const ps_segment_info *info, uint8_t out[PS_SEGMENT_HEADER_BYTES]);
/* PS_CORRUPT, PS_VERSION, or PS_OK. limit: readable bytes at p. */
ps_status ps_segment_decode_header(const uint8_t *p, uint64_t limit, ps_segment_info *info);

typedef struct ps_seal {
  int64_t end_offset;
  uint64_t frames;
  int64_t max_timestamp;
} ps_seal;
void ps_seal_encode(const ps_seal *seal, uint64_t salt, uint64_t position, uint8_t out[PS_SEAL_BYTES]);
/* PS_OK, PS_END when no seal stands there, PS_CORRUPT when one does but its checksum fails. */
ps_status ps_seal_decode(const uint8_t *p, uint64_t limit, uint64_t salt, uint64_t position, ps_seal *out);

/* What the first and the last bytes of a segment's file say. */
typedef struct ps_segment_ends {
  bool whole;  /* `info` is sound */
  bool sealed; /* so is `seal`, at the end of the file; else it may be about to be cut to its size */
  ps_segment_info info;
  ps_seal seal;
  struct stat st;
} ps_segment_ends;
/* Read by calls: the writer may be about to cut the file down to its seal, and where the end has been, a load
 * from a map would be a signal. 0, or -errno; a file that is too short is not whole. */
int ps_segment_read_ends(const ps_env *env, int dirfd, const char *path, ps_segment_ends *out);

/* Open DIR/BASE20.log for reading and check its header. PS_NOT_FOUND when there is no such file. */
ps_status ps_segment_open(const ps_env *env, const char *dir, int64_t base_offset, ps_segment **out,
                          ps_error *err);
void ps_segment_ref(ps_segment *segment);
void ps_segment_unref(ps_segment *segment);
/* True when the file backs the first `bytes` bytes of the map; asks the file system when it is not known, so
 * that a file cut short by others is found out before a load from it could raise SIGBUS. */
bool ps_segment_backed(const ps_env *env, ps_segment *segment, uint64_t bytes);
/* Bits of a piece: for 2 MiB of the file. */
#define PS_VERIFIED_BITS 32768u
/* position: where a frame starts. */
static inline bool ps_segment_is_verified(const ps_segment *s, uint64_t position) {
  if (PS_LIKELY(position < __atomic_load_n(&s->verified_end, __ATOMIC_ACQUIRE))) return true;
  uint64_t bit = position / PS_ALIGN;
  const uint64_t *piece = __atomic_load_n(&s->verified[bit / PS_VERIFIED_BITS], __ATOMIC_ACQUIRE);
  bit %= PS_VERIFIED_BITS;
  return piece && ((__atomic_load_n(&piece[bit >> 6], __ATOMIC_RELAXED) >> (bit & 63)) & 1);
}
/* The frame of `bytes` bytes at `position` was checked. Without memory it is checked again the next time. */
void ps_segment_set_verified(ps_segment *s, uint64_t position, uint64_t bytes);

#endif
