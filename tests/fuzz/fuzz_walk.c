/* A segment file as verify walks it: the walk ends, and what it tells of tiles the file. */
#include "fuzz.h"
#include "ps_walk.h"

static void grow(uint8_t **p, uint64_t *bytes, uint64_t wanted) {
  if (*bytes >= wanted) return;
  free(*p);
  *p = NULL;
  FUZZ_CHECK(posix_memalign((void **)p, PS_ALIGN, wanted) == 0);
  *bytes = wanted;
}

static void check_frame(const ps_walk *w) {
  FUZZ_CHECK(w->to - w->position == w->meta.frame_bytes && w->to <= w->size);
  FUZZ_CHECK(w->frame == PS_SOUND || w->frame == PS_NEWER);
  if (!w->bodies || w->frame != PS_SOUND) return;
  FUZZ_CHECK(w->body == PS_SOUND || w->body == PS_DAMAGED);
  FUZZ_CHECK(w->columns != PS_SOUND || w->body == PS_SOUND);
  if (w->columns == PS_SOUND) (void)fuzz_walk_columns(&w->view);
}

static void walk_file(ps_walk *w, size_t size) {
  ps_walk_event event;
  ps_error err = {0};
  uint64_t at = 0, events = 0, most = size / PS_ALIGN * 4 + 16;
  ps_walk_begin(w);
  do {
    FUZZ_CHECK(ps_walk_next(w, &event, &err) == PS_OK);
    FUZZ_CHECK(++events < most);
    switch (event) {
    case PS_WALK_HEADER:
      FUZZ_CHECK(w->header == PS_SOUND || w->header == PS_DAMAGED || w->header == PS_NEWER);
      FUZZ_CHECK(w->size == size);
      continue;
    case PS_WALK_NEED:
      FUZZ_CHECK(w->need_buffer <= size && w->need_scratch <= w->need_buffer * 255);
      grow(&w->buffer, &w->buffer_bytes, w->need_buffer);
      grow(&w->scratch, &w->scratch_bytes, w->need_scratch);
      continue;
    case PS_WALK_FRAME:
      check_frame(w);
      break;
    case PS_WALK_SEAL:
      FUZZ_CHECK(w->sealed == PS_SOUND || w->sealed == PS_DAMAGED);
      break;
    case PS_WALK_DAMAGE:
      FUZZ_CHECK(w->missing == -1 || w->found == -1 || w->reason == PS_WALK_OVERLAP ||
                 w->missing <= w->found);
      break;
    case PS_WALK_END:
      break;
    }
    FUZZ_CHECK(w->position >= at || event == PS_WALK_END);
    FUZZ_CHECK(w->to >= w->position);
    at = w->to;
  } while (event != PS_WALK_END);
  FUZZ_CHECK(ps_walk_next(w, &event, &err) == PS_OK && event == PS_WALK_END);
}

FUZZ_TARGET(walk) {
  static const ps_env plain = {0};
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1), options = (unsigned)fuzz_take(&in, 1);
  ps_walk w = {.env = &plain, .end_offset = INT64_MAX, .bodies = options & 1};
  w.base_offset = (int64_t)fuzz_take(&in, 2);
  if (options & 2) w.end_offset = (int64_t)fuzz_take(&in, 4);
  if (options & 4) w.salt = FUZZ_SALT;
  size_t bytes;
  uint8_t *p = fuzz_rest(&in, &bytes);
  fuzz_seal_segment(p, bytes, how);
  if ((how & FUZZ_FITTED) && bytes >= PS_SEGMENT_HEADER_BYTES)
    w.base_offset = ps_load_i64(p + PS_SEG_BASE_OFFSET_OFF);
  if ((options & 8) && bytes) p[0] ^= 1; /* the header is damaged, and so the salt comes from the caller */
  if ((options & 24) == 24) w.salt = bytes >= PS_SEGMENT_HEADER_BYTES ? ps_load_u64(p + PS_SEG_SALT_OFF) : 1;
  w.fd = fuzz_file(p, bytes);
  grow(&w.buffer, &w.buffer_bytes, PS_WALK_BUFFER_BYTES_MIN);
  walk_file(&w, bytes);
  close(w.fd);
  free(w.buffer);
  free(w.scratch);
  free(p);
}
