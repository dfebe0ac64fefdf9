#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_walk.h"

#include <errno.h>

enum { STAGE_HEADER, STAGE_FRAMES, STAGE_SEALED, STAGE_ENDED };

void ps_walk_begin(ps_walk *w) {
  PS_ASSERT(w->buffer && w->buffer_bytes >= PS_WALK_BUFFER_BYTES_MIN);
  w->stage = STAGE_HEADER;
  w->at = PS_SEGMENT_HEADER_BYTES;
  w->next_offset = w->base_offset;
  w->frames = 0;
  w->sealed = PS_UNCHECKED;
}

static ps_status fail_read(int rc, ps_error *err) {
  return ps_fail_errno(err, -rc, NULL, "reading a segment");
}

/* Bytes at `at` of the file, as many as there are of `bytes`; the rest reads as zeros. */
static int read_at(const ps_walk *w, uint64_t at, uint8_t *out, uint64_t bytes) {
  uint64_t there = at < w->size ? w->size - at : 0;
  if (there > bytes) there = bytes;
  memset(out + there, 0, bytes - there);
  int rc = there ? ps_os_pread_all(w->env, w->fd, out, there, (int64_t)at) : 0;
  if (rc != -ENODATA) return rc;
  memset(out, 0, bytes); /* cut short by somebody while we read: as if it had never been there */
  return 0;
}

/* What stands at `at`: PS_OK or PS_VERSION for a sound frame header, PS_END for zeros, PS_CORRUPT. The frame
 * may be longer than the file. */
static int frame_at(const ps_walk *w, uint64_t at, uint64_t salt, ps_frame_meta *meta, ps_status *status) {
  uint8_t header[PS_FRAME_HEADER_BYTES];
  *status = PS_END;
  if (at + PS_FRAME_HEADER_BYTES > PS_SEGMENT_BYTES_MAX) return 0;
  int rc = read_at(w, at, header, sizeof header);
  if (rc == 0) *status = ps_frame_decode_header(header, PS_SEGMENT_BYTES_MAX - at, salt, at, meta);
  return rc;
}

/* The same for a seal. */
static int seal_at(const ps_walk *w, uint64_t at, ps_seal *seal, ps_status *status) {
  uint8_t bytes[PS_SEAL_BYTES];
  int rc = read_at(w, at, bytes, sizeof bytes);
  if (rc == 0) *status = ps_seal_decode(bytes, sizeof bytes, w->info.salt, at, seal);
  return rc;
}

/* Without its header a segment is still its frames, if the salt is known: from the header all the same, where
 * only something else in it is damaged, or from the caller. The first frame tells. */
static int choose_salt(ps_walk *w, const uint8_t *header) {
  ps_frame_meta meta;
  ps_status status;
  uint64_t stored = ps_load_u64(header + PS_SEG_SALT_OFF);
  memset(&w->info, 0, sizeof w->info);
  w->info.salt = stored;
  if (!w->salt) return 0;
  int rc = frame_at(w, PS_SEGMENT_HEADER_BYTES, stored, &meta, &status);
  if (rc == 0 && status != PS_OK) w->info.salt = w->salt;
  return rc;
}

static int read_header(ps_walk *w) {
  uint8_t header[PS_SEGMENT_HEADER_BYTES];
  struct stat st;
  int rc = ps_os_stat_fd(w->env, w->fd, &st);
  if (rc < 0) return rc;
  w->size = (uint64_t)st.st_size;
  rc = read_at(w, 0, header, sizeof header);
  if (rc < 0) return rc;
  ps_status status =
      w->size < sizeof header ? PS_CORRUPT : ps_segment_decode_header(header, sizeof header, &w->info);
  w->header = status == PS_OK ? PS_SOUND : status == PS_VERSION ? PS_NEWER : PS_DAMAGED;
  return status == PS_OK ? 0 : choose_salt(w, header);
}

/* Of a frame that a later version wrote: its checksum vouches for its length and offsets, if they still mean
 * what they did. */
static bool newer_fits(const ps_walk *w, uint64_t at, const ps_frame_meta *m) {
  return m->frame_bytes >= PS_FRAME_HEADER_BYTES && m->frame_bytes % PS_ALIGN == 0 && at < w->size &&
         m->frame_bytes <= w->size - at && m->base_offset >= 0 &&
         m->base_offset <= INT64_MAX - 1 - (int64_t)m->last_offset_delta;
}

/* Look from `from` on for a place where a sound frame or seal begins, that is no older than where the walk is
 * and was published. *to: where the last byte is that is not zero, plus one; `from` when there is none. */
typedef struct found {
  bool frame, seal;
  uint64_t position, to;
  int64_t offset;
} found;

static int scan(const ps_walk *w, uint64_t from, found *f) {
  memset(f, 0, sizeof *f);
  f->to = from;
  uint64_t step = w->buffer_bytes & ~(uint64_t)(PS_ALIGN - 1);
  for (uint64_t chunk = from; chunk < w->size; chunk += step) {
    uint64_t bytes = w->size - chunk < step ? w->size - chunk : step;
    int rc = read_at(w, chunk, w->buffer, ps_align_up(bytes, PS_ALIGN));
    if (rc < 0) return rc;
    for (uint64_t i = 0; i < bytes; i += PS_ALIGN) {
      const uint8_t *p = w->buffer + i;
      uint64_t any = 0;
      for (unsigned j = 0; j < PS_ALIGN; j += 8) any |= ps_load_u64(p + j);
      if (!any) continue;
      for (unsigned j = PS_ALIGN; j-- > 0;)
        if (p[j]) {
          f->to = chunk + i + j + 1;
          break;
        }
      uint64_t at = chunk + i;
      ps_status status = PS_END;
      ps_frame_meta meta;
      ps_seal seal;
      uint32_t magic = ps_load_u32(p);
      if (magic == PS_FRAME_MAGIC) {
        rc = frame_at(w, at, w->info.salt, &meta, &status);
        f->frame = (status == PS_OK || (status == PS_VERSION && newer_fits(w, at, &meta))) &&
                   meta.base_offset >= w->next_offset && meta.base_offset < w->end_offset;
        f->offset = meta.base_offset;
      } else if (magic == PS_SEAL_MAGIC32) {
        rc = seal_at(w, at, &seal, &status);
        f->seal = status == PS_OK && seal.end_offset >= w->next_offset;
        f->offset = seal.end_offset;
      }
      if (rc < 0) return rc;
      f->position = at;
      if (f->frame || f->seal) return 0;
    }
  }
  return 0;
}

static ps_walk_event damage(ps_walk *w, ps_walk_reason reason, uint64_t to, int64_t missing, int64_t found) {
  w->reason = reason;
  w->position = w->at;
  w->to = to;
  w->missing = missing;
  w->found = found;
  w->at = to;
  return PS_WALK_DAMAGE;
}

static ps_walk_event end(ps_walk *w, ps_walk_rest rest, uint64_t to) {
  w->stage = STAGE_ENDED;
  w->rest = rest;
  w->position = w->at;
  w->to = to;
  return PS_WALK_END;
}

/* No sound frame or seal stands here. */
static int not_a_frame(ps_walk *w, ps_walk_event *event) {
  found f;
  int rc = scan(w, w->at, &f);
  if (rc < 0) return rc;
  if (f.frame || f.seal) {
    *event = damage(w, PS_WALK_NO_FRAME, f.position, w->next_offset, f.offset);
    w->next_offset = f.offset;
  } else {
    *event = end(w, w->at >= w->size ? PS_WALK_NOTHING : f.to > w->at ? PS_WALK_BYTES : PS_WALK_ZEROS, f.to);
  }
  return 0;
}

/* The body, and the columns where they can be had. False: larger buffers are needed. */
static bool check_body(ps_walk *w, int *rc) {
  const ps_frame_meta *m = &w->meta;
  bool packed = ps_frame_codec(m) != PS_CODEC_NONE;
  w->need_buffer = m->frame_bytes;
  w->need_scratch = packed ? m->raw_bytes : 0;
  if (w->buffer_bytes < w->need_buffer || (packed && (!w->scratch || w->scratch_bytes < w->need_scratch)))
    return false;
  *rc = read_at(w, w->at, w->buffer, m->frame_bytes);
  if (*rc < 0) return true;
  w->body = ps_frame_body_ok(w->buffer, m) ? PS_SOUND : PS_DAMAGED;
  if (w->body != PS_SOUND) return true;
  const uint8_t *body = w->buffer + PS_FRAME_HEADER_BYTES;
  ps_status status = packed ? ps_frame_decompress(w->buffer, m, w->scratch) : PS_OK;
  if (status == PS_OK) status = ps_frame_columns(m, packed ? w->scratch : body, m->raw_bytes, &w->view);
  if (status == PS_OK) status = ps_columns_check(m, &w->view);
  w->columns = status == PS_OK ? PS_SOUND : PS_DAMAGED;
  return true;
}

static int frame(ps_walk *w, ps_walk_event *event) {
  const ps_frame_meta *m = &w->meta;
  uint64_t to = w->at + m->frame_bytes;
  int64_t next = ps_frame_next_offset(m), expected = w->next_offset;
  int rc = 0;
  if (m->base_offset != expected) {
    ps_walk_reason reason = m->base_offset > expected ? PS_WALK_GAP : PS_WALK_OVERLAP;
    w->next_offset = m->base_offset;
    *event = damage(w, reason, w->at, expected, m->base_offset);
    return 0;
  }
  if (to > w->size) {
    w->next_offset = next;
    *event = damage(w, PS_WALK_CUT_OFF, w->size, m->base_offset, next);
    return 0;
  }
  w->body = w->columns = PS_UNCHECKED;
  if (w->bodies && w->frame == PS_SOUND && !check_body(w, &rc)) {
    w->position = w->at;
    *event = PS_WALK_NEED;
    return 0;
  }
  if (rc < 0) return rc;
  w->position = w->at;
  w->to = w->at = to;
  w->next_offset = next;
  w->frames++;
  *event = PS_WALK_FRAME;
  return 0;
}

static int step(ps_walk *w, ps_walk_event *event) {
  if (w->next_offset >= w->end_offset) {
    *event = end(w, w->at < w->size ? PS_WALK_UNSEEN : PS_WALK_NOTHING, w->at);
    return 0;
  }
  ps_status status;
  int rc = frame_at(w, w->at, w->info.salt, &w->meta, &status);
  if (rc < 0) return rc;
  w->frame = status == PS_VERSION ? PS_NEWER : PS_SOUND;
  if (status == PS_OK) return frame(w, event);
  if (status == PS_VERSION && newer_fits(w, w->at, &w->meta) && w->meta.base_offset == w->next_offset)
    return frame(w, event);
  rc = seal_at(w, w->at, &w->seal, &status);
  if (rc < 0) return rc;
  if (status == PS_END) return not_a_frame(w, event);
  w->sealed = status == PS_OK ? PS_SOUND : PS_DAMAGED;
  w->position = w->at;
  w->to = w->at = w->at + PS_SEAL_BYTES;
  w->stage = STAGE_SEALED;
  *event = PS_WALK_SEAL;
  return 0;
}

/* After the seal there is at most space that a crash left uncut. After what may have been a seal, there may
 * be frames. */
static int after_seal(ps_walk *w, ps_walk_event *event) {
  if (w->sealed == PS_SOUND && w->seal.end_offset != w->next_offset && w->seal.end_offset >= 0) {
    int64_t expected = w->next_offset;
    w->next_offset = w->seal.end_offset;
    *event = damage(w, expected < w->seal.end_offset ? PS_WALK_GAP : PS_WALK_OVERLAP, w->at, expected,
                    w->seal.end_offset);
    return 0;
  }
  found f;
  int rc = scan(w, w->at, &f);
  if (rc < 0) return rc;
  if (w->sealed == PS_DAMAGED && f.frame) {
    w->stage = STAGE_FRAMES;
    *event = damage(w, PS_WALK_NO_FRAME, f.position, w->next_offset, f.offset);
    w->next_offset = f.offset;
    return 0;
  }
  *event = end(w, w->at >= w->size ? PS_WALK_NOTHING : f.to > w->at ? PS_WALK_BYTES : PS_WALK_ZEROS, f.to);
  return 0;
}

ps_status ps_walk_next(ps_walk *w, ps_walk_event *event, ps_error *err) {
  int rc = 0;
  switch (w->stage) {
  case STAGE_HEADER:
    rc = read_header(w);
    if (rc == 0) {
      w->stage = STAGE_FRAMES;
      w->position = 0;
      w->to = w->size < PS_SEGMENT_HEADER_BYTES ? w->size : PS_SEGMENT_HEADER_BYTES;
      if (w->header == PS_SOUND) w->next_offset = w->info.base_offset;
      if (w->header == PS_NEWER) { /* frames may be something else there */
        w->stage = STAGE_ENDED;
        w->rest = PS_WALK_UNSEEN;
      }
      *event = PS_WALK_HEADER;
    }
    break;
  case STAGE_FRAMES:
    rc = step(w, event);
    break;
  case STAGE_SEALED:
    rc = after_seal(w, event);
    break;
  default:
    *event = PS_WALK_END;
    break;
  }
  return rc < 0 ? fail_read(rc, err) : PS_OK;
}
