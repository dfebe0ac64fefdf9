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

typedef struct ps_segment {
  int64_t refs; /* atomic */
  int64_t base_offset;
  uint64_t salt;
  int32_t leader_epoch;
  uint32_t partition;
  uint32_t capacity; /* bytes the map spans: header, frames, seal */
  uint8_t topic_uuid[16];
  int64_t created_ns;
  const uint8_t *map;    /* read-only, capacity bytes, always there */
  uint64_t readable;     /* bytes of the map the file is known to back, atomic; see ps_segment_backed */
  uint64_t *verified;    /* one bit per PS_ALIGN: the frame that starts there was checked whole */
  int64_t max_timestamp; /* of a sealed segment, once max_timestamp_known (atomic) */
  bool max_timestamp_known;
  /* The index, opened under the log's table mutex and published by index_map (release). */
  uint8_t *index_map; /* NULL until opened; maps to index_bytes */
  size_t index_bytes;
  uint8_t *index_write_map; /* a writer's, where index_map had been opened for reading only */
  uint32_t index_interval, index_capacity;
  bool index_writable;
  /* Writers' side, guarded by the log's append lock. */
  uint32_t index_count; /* entries known to be there */
  int index_fd;         /* open only when the index is written by pwrite */
  uint8_t *write_map;   /* NULL until the segment is written through a map */
  uint64_t reserved;    /* bytes of the file that this process knows to have their blocks */
  bool pwrite_only;     /* a map of this segment is not safe to store to; atomic */
  int fd;               /* -1 when closed; stays open while written and not yet synced; atomic */
  int64_t dirty_end;    /* next offset after this process's last store to it; 0 = clean; atomic */
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

/* Open DIR/BASE20.log for reading and check its header. PS_NOT_FOUND when there is no such file. */
ps_status ps_segment_open(const ps_env *env, const char *dir, int64_t base_offset, ps_segment **out,
                          ps_error *err);
void ps_segment_ref(ps_segment *segment);
void ps_segment_unref(ps_segment *segment);
/* True when the file backs the first `bytes` bytes of the map; asks the file system when it is not known, so
 * that a file cut short by others is found out before a load from it could raise SIGBUS. */
bool ps_segment_backed(const ps_env *env, ps_segment *segment, uint64_t bytes);
static inline bool ps_segment_is_verified(const ps_segment *s, uint64_t position) {
  uint64_t bit = position / PS_ALIGN;
  return (__atomic_load_n(&s->verified[bit >> 6], __ATOMIC_RELAXED) >> (bit & 63)) & 1;
}
static inline void ps_segment_set_verified(ps_segment *s, uint64_t position) {
  uint64_t bit = position / PS_ALIGN;
  __atomic_fetch_or(&s->verified[bit >> 6], 1ull << (bit & 63), __ATOMIC_RELAXED);
}

#endif
