/* ps_peek.h - the frame headers of a segment and the entries of its index, one at a time, by pread: for who
 * wants to know a few of them and maps nothing. Bodies are not looked at. */
#ifndef PS_PEEK_H
#define PS_PEEK_H

#include "ps_inspect.h"

/* Read at once where frames are small. */
#define PS_PEEK_CHUNK_BYTES 4096u

typedef struct ps_peek {
  const ps_env *env;
  int fd;
  uint64_t salt;
  uint64_t used;      /* bytes of the file that count */
  uint64_t at, bytes; /* what of the file is in `chunk` */
  bool small;         /* the last frame was */
  uint8_t chunk[PS_PEEK_CHUNK_BYTES];
} ps_peek;

/* Open DIR/BASE20.log, of which the first `used` bytes count. PS_NOT_FOUND: there is no such file;
 * PS_CORRUPT: its header is no such segment's; *err is filled for neither. */
ps_status ps_peek_open(ps_peek *p, const ps_env *env, const char *dir, int64_t base_offset, uint64_t used,
                       ps_error *err);
void ps_peek_close(ps_peek *p);
/* The header of the frame at `position`. PS_END: nothing counts there; PS_CORRUPT: no sound header stands
 * there, the seal perhaps; PS_OS_ERROR: it cannot be read. No error is filled. */
ps_status ps_peek_frame(ps_peek *p, uint64_t position, ps_frame_meta *meta);
/* What a frame would take if it had not been compressed. */
uint64_t ps_peek_raw_bytes(const ps_frame_meta *meta);

typedef struct ps_peek_index {
  const ps_env *env;
  int fd;
  uint64_t salt;
  uint32_t capacity; /* entries there is room for */
  uint8_t header[PS_INDEX_HEADER_BYTES];
} ps_peek_index;

/* False: there is none that belongs to that segment, which costs time only. */
bool ps_peek_open_index(ps_peek_index *x, const ps_env *env, const char *dir, int64_t base_offset,
                        uint64_t salt);
void ps_peek_close_index(ps_peek_index *x);
/* Entry i; false: none that is sound was written there. Those that are stand before those that are not. */
bool ps_peek_entry(const ps_peek_index *x, uint32_t i, ps_index_entry *entry);

#endif
