/* ps_backup.h - a segment copied while others append to it, every frame of it checked on the way.
 *
 * What is written is what was checked: the bytes go from one buffer, and are not read a second time. The copy
 * ends with the frame that ends at `end_offset`, and a seal, whose bytes depend on the frames alone; so the
 * copy of a finished segment is, byte for byte, what it was copied from. Its index is made on the way.
 *
 * Reads by pread, takes no lock, writes to nothing but the copy and its index. The caller fills in the first
 * part, calls ps_backup_begin, then ps_backup_step until it is done, and ps_backup_end in any case. Syncing,
 * and removing what has failed, is the caller's. */
#ifndef PS_BACKUP_H
#define PS_BACKUP_H

#include "ps_head.h"
#include "ps_os.h"
#include "ps_segment.h"

typedef struct ps_backup {
  /* The caller's. */
  const ps_env *env;
  int from, to; /* the segment, open for reading; the copy, empty, open for writing */
  const char *from_path, *to_path, *to_directory;
  uint8_t topic_uuid[16]; /* what the segment's header must say */
  uint32_t partition;
  int64_t base_offset;
  int64_t end_offset; /* of the last frame to copy; a frame must end there */
  uint32_t index_interval_bytes;

  /* What was found. */
  ps_segment_info info;
  uint64_t frames, records;
  uint64_t position; /* in the file: up to there it was checked, and is copied, or is about to be */
  int64_t next_offset;
  int64_t max_timestamp;

  /* The copy's own. */
  uint8_t *buffer; /* holds bytes [start, filled) of the file */
  uint64_t buffer_bytes, start, filled;
  uint64_t written; /* up to there it is copied */
  uint64_t size;    /* of the segment's file, when it was last looked at */
  ps_segment index; /* stands for the copy where its index is made */
} ps_backup;

/* Check the header. PS_CORRUPT: it is damaged, or another segment's. PS_VERSION. PS_OS_ERROR. */
ps_status ps_backup_begin(ps_backup *copy, ps_error *err);
/* Copy about bytes_max bytes more. *done: all is copied, and sealed. PS_CORRUPT: what stands at `position` is
 * not the frame that must be there. PS_VERSION: a later version wrote it. PS_NO_MEMORY, PS_OS_ERROR. */
ps_status ps_backup_step(ps_backup *copy, uint64_t bytes_max, bool *done, ps_error *err);
/* Let go of memory and of the index; twice is once. */
void ps_backup_end(ps_backup *copy);

/* Is `copy` what ps_backup_step would make of `source`, up to `end_offset`? By what both say of themselves,
 * the header and the seal: frames are not looked at. True only of a file that it has finished. */
bool ps_backup_is_copy(const ps_env *env, int copy, int source, int64_t end_offset);

/* A head page as its last writer leaves it who has synced everything and appends next at `end_offset`, where
 * an empty segment begins. `out`: PS_HEAD_BYTES, aligned. */
void ps_backup_head(const ps_head_identity *identity, int64_t log_start, int64_t end_offset,
                    int32_t leader_epoch, const uint8_t boot_id[16], uint8_t *out);

/* Change the names of two directories, in one step. -EINVAL, -ENOSYS, -EOPNOTSUPP: it cannot be done here. */
int ps_backup_exchange(const ps_env *env, const char *one, const char *other);

#endif
