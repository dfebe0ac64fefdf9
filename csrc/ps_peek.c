#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_peek.h"

#include <errno.h>
#include <fcntl.h>

ps_status ps_peek_open(ps_peek *p, const ps_env *env, const char *dir, int64_t base_offset, uint64_t used,
                       ps_error *err) {
  char name[PS_SEGMENT_NAME_BYTES], path[512 + PS_SEGMENT_NAME_BYTES];
  uint8_t header[PS_SEGMENT_HEADER_BYTES];
  ps_segment_info info;
  ps_segment_name(base_offset, name);
  snprintf(path, sizeof path, "%s/%s", dir, name);
  p->env = env;
  p->fd = ps_os_openat(env, AT_FDCWD, path, O_RDONLY, 0);
  if (p->fd == -ENOENT) return PS_NOT_FOUND;
  if (p->fd < 0) return ps_fail_errno(err, -p->fd, path, "opening a segment");
  int rc = ps_os_pread_all(env, p->fd, header, sizeof header, 0);
  if (rc == 0 && ps_segment_decode_header(header, sizeof header, &info) == PS_OK &&
      info.base_offset == base_offset) {
    p->salt = info.salt;
    p->used = used;
    p->at = p->bytes = 0;
    p->small = false;
    return PS_OK;
  }
  ps_os_close(p->fd);
  return rc < 0 && rc != -ENODATA ? ps_fail_errno(err, -rc, path, "reading a segment") : PS_CORRUPT;
}

void ps_peek_close(ps_peek *p) { ps_os_close(p->fd); }

ps_status ps_peek_frame(ps_peek *p, uint64_t position, ps_frame_meta *meta) {
  if (position + PS_FRAME_HEADER_BYTES > p->used) return PS_END;
  if (position < p->at || position + PS_FRAME_HEADER_BYTES > p->at + p->bytes) {
    uint64_t want = p->small ? PS_PEEK_CHUNK_BYTES : PS_FRAME_HEADER_BYTES;
    if (want > p->used - position) want = p->used - position;
    p->bytes = 0;
    int rc = ps_os_pread_all(p->env, p->fd, p->chunk, want, (int64_t)position);
    if (rc < 0) return rc == -ENODATA ? PS_END : PS_OS_ERROR;
    p->at = position;
    p->bytes = want;
  }
  ps_status status =
      ps_frame_decode_header(p->chunk + (position - p->at), p->used - position, p->salt, position, meta);
  if (status == PS_VERSION) status = PS_OK; /* its header is sound, and that is all that is asked */
  if (status == PS_OK) p->small = meta->frame_bytes < PS_PEEK_CHUNK_BYTES / 2;
  return status;
}

uint64_t ps_peek_raw_bytes(const ps_frame_meta *m) {
  return ps_frame_codec(m) == PS_CODEC_NONE ? m->frame_bytes
                                            : PS_FRAME_HEADER_BYTES + ps_align_up(m->raw_bytes, PS_ALIGN);
}

bool ps_peek_open_index(ps_peek_index *x, const ps_env *env, const char *dir, int64_t base_offset,
                        uint64_t salt) {
  char name[PS_SEGMENT_NAME_BYTES], path[512 + PS_SEGMENT_NAME_BYTES];
  ps_index_info info;
  ps_index_name(base_offset, name);
  snprintf(path, sizeof path, "%s/%s", dir, name);
  x->env = env;
  x->fd = ps_os_openat(env, AT_FDCWD, path, O_RDONLY, 0);
  if (x->fd < 0) return false;
  if (ps_os_pread_all(env, x->fd, x->header, sizeof x->header, 0) == 0) {
    ps_inspect_index(x->header, sizeof x->header, &info);
    if (info.verdict == PS_SOUND && info.salt == salt && info.base_offset == base_offset) {
      x->salt = salt;
      x->capacity = info.capacity;
      return true;
    }
  }
  ps_os_close(x->fd);
  return false;
}

void ps_peek_close_index(ps_peek_index *x) { ps_os_close(x->fd); }

bool ps_peek_entry(const ps_peek_index *x, uint32_t i, ps_index_entry *entry) {
  uint8_t both[PS_INDEX_HEADER_BYTES + PS_INDEX_ENTRY_BYTES];
  int64_t at = PS_INDEX_HEADER_BYTES + (int64_t)i * PS_INDEX_ENTRY_BYTES;
  if (i >= x->capacity) return false;
  memcpy(both, x->header, sizeof x->header);
  if (ps_os_pread_all(x->env, x->fd, both + sizeof x->header, PS_INDEX_ENTRY_BYTES, at) < 0) return false;
  return ps_inspect_index_entry(both, sizeof both, x->salt, 0, entry) == PS_SOUND;
}
