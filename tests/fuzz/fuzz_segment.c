/* A segment's header, its seal and its name: what is read can be written, and is the same bytes again; and
 * the seal at the end of a file, which says where its offsets end. */
#include "fuzz.h"
#include "ps_inspect.h"

static const ps_env plain = {0};

static void look_at_header(const uint8_t *p, size_t bytes) {
  ps_segment_info info;
  uint8_t again[PS_SEGMENT_HEADER_BYTES];
  ps_status status = ps_segment_decode_header(p, bytes, &info);
  FUZZ_CHECK(status == PS_OK || status == PS_CORRUPT || status == PS_VERSION);
  if (status != PS_OK) return;
  ps_segment_encode_header(&info, again);
  ps_store_u64(again + PS_SEG_COMPAT_OFF, ps_load_u64(p + PS_SEG_COMPAT_OFF)); /* what we need not know */
  ps_store_u64(again + PS_SEG_CHECKSUM_OFF, ps_hash(again, PS_SEG_CHECKSUM_OFF));
  FUZZ_CHECK(memcmp(p, again, sizeof again) == 0);
}

/* The seal that a file says it has at its end: made right, where all is, for the salt of its header. */
static void look_at_end(uint8_t *p, size_t bytes, unsigned how) {
  ps_segment_info info = {0};
  int64_t end = -1;
  size_t position = bytes - PS_SEAL_BYTES;
  bool is_segment = ps_segment_decode_header(p, bytes, &info) == PS_OK;
  if (how && bytes >= PS_SEGMENT_HEADER_BYTES + PS_SEAL_BYTES) {
    ps_store_u32(p + position + PS_SEAL_MAGIC_OFF, PS_SEAL_MAGIC32);
    ps_store_u64(p + position + PS_SEAL_CHECKSUM_OFF, 0);
    uint64_t seed = info.salt ^ (position * 0x9e3779b97f4a7c15ull);
    ps_store_u64(p + position + PS_SEAL_CHECKSUM_OFF, ps_hash_seeded(p + position, PS_SEAL_BYTES, seed));
  }
  fuzz_write("segment", p, bytes, 0);
  const char *path = fuzz_path("segment");
  FUZZ_CHECK(ps_inspect_end(&plain, path, info.base_offset ^ 1, &end) == PS_END && end == -1);
  ps_status status = ps_inspect_end(&plain, path, info.base_offset, &end);
  FUZZ_CHECK(status == PS_END || (status == PS_OK && is_segment && bytes >= PS_SEAL_BYTES));
  if (status == PS_OK) FUZZ_CHECK(end == ps_load_i64(p + position + PS_SEAL_END_OFFSET_OFF));
}

static void look_at_seal(uint8_t *p, size_t bytes, uint64_t position, unsigned how) {
  ps_seal seal;
  uint8_t again[PS_SEAL_BYTES];
  if (how && bytes >= PS_SEAL_BYTES) {
    ps_store_u32(p + PS_SEAL_MAGIC_OFF, PS_SEAL_MAGIC32);
    ps_store_u64(p + PS_SEAL_CHECKSUM_OFF, 0);
    uint64_t seed = FUZZ_SALT ^ (position * 0x9e3779b97f4a7c15ull);
    ps_store_u64(p + PS_SEAL_CHECKSUM_OFF, ps_hash_seeded(p, PS_SEAL_BYTES, seed));
  }
  ps_status status = ps_seal_decode(p, bytes, FUZZ_SALT, position, &seal);
  FUZZ_CHECK(status == PS_OK || status == PS_CORRUPT || status == PS_END);
  if (status != PS_OK) return;
  ps_seal_encode(&seal, FUZZ_SALT, position, again);
  FUZZ_CHECK(memcmp(p, again, sizeof again) == 0);
}

static void look_at_name(const uint8_t *p, size_t bytes) {
  char name[PS_SEGMENT_NAME_BYTES + 1] = {0}, again[PS_SEGMENT_NAME_BYTES];
  memcpy(name, p, bytes < PS_SEGMENT_NAME_BYTES ? bytes : PS_SEGMENT_NAME_BYTES);
  int64_t base = ps_segment_parse_name(name);
  FUZZ_CHECK(base >= -1);
  if (base < 0) return;
  ps_segment_name(base, again);
  FUZZ_CHECK(strcmp(name, again) == 0);
}

FUZZ_TARGET(segment) {
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1) & 3;
  unsigned what = (unsigned)fuzz_take(&in, 1) % 3;
  size_t bytes;
  uint64_t position = fuzz_take(&in, 2) * PS_ALIGN;
  uint8_t *p = fuzz_rest(&in, &bytes);
  if (what == 0) {
    fuzz_seal_segment(p, bytes, how);
    look_at_header(p, bytes);
    look_at_end(p, bytes, how);
  } else if (what == 1) {
    look_at_seal(p, bytes, position, how);
  } else {
    look_at_name(p, bytes);
  }
  free(p);
}
