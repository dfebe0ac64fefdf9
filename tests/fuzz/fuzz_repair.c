/* A segment of any bytes, written anew from what is sound of it: the new one is sound from end to end, and
 * holds every sound batch of the old one that it was asked for. */
#include "fuzz.h"
#include "ps_repair.h"
#include "ps_walk.h"

static const ps_env plain = {0};

typedef struct tally {
  uint64_t frames, records, sum;
} tally;

static uint8_t *grow(uint8_t *p, uint64_t *bytes, uint64_t wanted) {
  if (wanted <= *bytes) return p;
  free(p);
  FUZZ_CHECK(posix_memalign((void **)&p, PS_ALIGN, wanted) == 0);
  *bytes = wanted;
  return p;
}

/* Walk it; `sound`: nothing may be amiss. Whole batches from `from` on that end at or below `through` count.
 */
static tally walk(int fd, const ps_repair_order *order, bool sound, int64_t from, int64_t through) {
  ps_walk w = {.env = &plain, .fd = fd, .base_offset = order->info.base_offset, .end_offset = INT64_MAX};
  ps_walk_event event;
  ps_error err = {0};
  tally t = {0};
  w.bodies = true;
  w.salt = sound ? order->info.salt : order->salt;
  w.buffer = grow(NULL, &w.buffer_bytes, PS_WALK_BUFFER_BYTES_MIN);
  ps_walk_begin(&w);
  int64_t next = from;
  do {
    FUZZ_CHECK(ps_walk_next(&w, &event, &err) == PS_OK);
    if (event == PS_WALK_NEED) {
      w.buffer = grow(w.buffer, &w.buffer_bytes, w.need_buffer);
      w.scratch = grow(w.scratch, &w.scratch_bytes, w.need_scratch);
    }
    if (sound) FUZZ_CHECK(event != PS_WALK_DAMAGE && w.header == PS_SOUND);
    if (event != PS_WALK_FRAME) continue;
    bool whole = w.body == PS_SOUND && w.columns == PS_SOUND;
    if (sound) FUZZ_CHECK(whole);
    if (!whole || w.meta.base_offset < next || ps_frame_next_offset(&w.meta) > through) continue;
    next = ps_frame_next_offset(&w.meta);
    if (w.meta.record_count == 0 && sound) continue; /* it stands for what was lost, perhaps */
    t.frames += w.meta.record_count > 0;
    t.records += w.meta.record_count;
    t.sum += (uint64_t)w.meta.base_offset * 31 + w.meta.body_checksum;
    if (w.meta.record_count == 0) t.sum -= (uint64_t)w.meta.base_offset * 31 + w.meta.body_checksum;
  } while (event != PS_WALK_END);
  if (sound) FUZZ_CHECK(w.rest == PS_WALK_NOTHING || w.rest == PS_WALK_ZEROS);
  free(w.buffer);
  free(w.scratch);
  return t;
}

static void index_again(const uint8_t *p, size_t bytes, int64_t base) {
  char name[PS_SEGMENT_NAME_BYTES], path[512];
  ps_error err = {0};
  ps_segment_name(base, name);
  const char *directory = fuzz_directory();
  fuzz_write(name, p, bytes, 0);
  ps_status status = ps_repair_index(&plain, directory, base, 512, &err);
  fuzz_check_error(status, &err);
  strcpy(path, fuzz_path(name));
  FUZZ_CHECK(ps_repair_unsettle(&plain, path, &err) == PS_OK); /* any file may stand where a head should */
  strcpy(path, fuzz_path("head"));
  FUZZ_CHECK(ps_repair_unsettle(&plain, path, &err) == PS_OK);
}

FUZZ_TARGET(repair) {
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1), options = (unsigned)fuzz_take(&in, 1);
  ps_repair_order order = {.env = &plain, .finished = options & 1};
  order.info = (ps_segment_info){.salt = 77, .leader_epoch = 1, .partition = FUZZ_PARTITION};
  order.info.capacity = FUZZ_SEGMENT_BYTES;
  order.info.base_offset = (int64_t)fuzz_take(&in, 2);
  order.through = order.info.base_offset + (int64_t)fuzz_take(&in, 2);
  size_t bytes;
  uint8_t *p = fuzz_rest(&in, &bytes);
  if (bytes >=
      PS_SEGMENT_HEADER_BYTES) /* what lies between where it should begin and where it does is made up for */
    ps_store_u64(p + PS_SEG_BASE_OFFSET_OFF, ps_load_u64(p + PS_SEG_BASE_OFFSET_OFF) & 0xffffffffffull);
  fuzz_seal_segment(p, bytes, how);
  if (bytes >= PS_SEGMENT_HEADER_BYTES) {
    order.salt = ps_load_u64(p + PS_SEG_SALT_OFF);
    int64_t base = ps_load_i64(p + PS_SEG_BASE_OFFSET_OFF);
    if (options & 2) {
      order.through += base - order.info.base_offset;
      order.info.base_offset = base;
    }
    if (options & 4) p[1] ^= 0x10; /* its header is damaged */
  }
  order.from = options & 8 ? -1 : fuzz_file(p, bytes);
  order.to = fuzz_file(NULL, 0);
  ps_repair_outcome outcome;
  ps_error err = {0};
  ps_status status = ps_repair_segment(&order, &outcome, &err);
  fuzz_check_error(status, &err);
  FUZZ_CHECK(status == PS_OK || status == PS_VERSION || status == PS_TOO_LARGE);
  if (status == PS_OK) {
    int64_t through = order.finished ? order.through : INT64_MAX;
    tally after = walk(order.to, &order, true, order.info.base_offset, INT64_MAX);
    FUZZ_CHECK(after.records == outcome.records && outcome.end_offset >= order.through);
    if (order.from >= 0) {
      tally before = walk(order.from, &order, false, order.info.base_offset, through);
      FUZZ_CHECK(before.records == after.records && before.frames == after.frames && before.sum == after.sum);
    }
  }
  close(order.to);
  if (order.from >= 0) close(order.from);
  index_again(p, bytes, order.info.base_offset);
  free(p);
}
