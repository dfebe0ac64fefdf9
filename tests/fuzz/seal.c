/* Checksums put right, so that what stands behind them is reached. */
#include "fuzz.h"
#include "ps_index.h"
#include "ps_layout.h"

#include <lz4.h>

static uint64_t place_seed(uint64_t salt, uint64_t position) {
  return salt ^ (position * 0x9e3779b97f4a7c15ull);
}

#define OFFSETS_OFF_MAX (1ull << 36)
#define CAPACITY_MAX (8 * FUZZ_SEGMENT_BYTES)

/* ---- frames ----------------------------------------------------------------------------------- */

/* Sizes that hold together, and that the bytes there are could have. */
static void fit_counts(ps_frame_meta *m, uint64_t room) {
  ps_layout l;
  uint32_t most = (uint32_t)(room / 24 + 1);
  if (m->value_width < -1 || m->value_width > 64)
    m->value_width = (int32_t)((uint32_t)m->value_width % 66) - 1;
  if (m->key_width < -1 || m->key_width > 64) m->key_width = (int32_t)((uint32_t)m->key_width % 66) - 1;
  ps_layout_make(m, &l);
  if (l.end > room) {
    m->record_count %= most + 1;
    m->header_count %= most + 1;
    m->key_bytes %= most * 4;
    m->value_bytes %= most * 8;
    m->header_key_bytes %= most * 4;
    m->header_value_bytes %= most * 4;
  }
  if (m->value_width >= 0) m->value_bytes = m->record_count * (uint32_t)m->value_width;
  if (m->key_width >= 0) m->key_bytes = m->record_count * (uint32_t)m->key_width;
  if (!(m->attributes & PS_ATTR_KEYS)) m->key_bytes = 0, m->attributes &= ~PS_ATTR_KEY_NULLS;
  if (!(m->attributes & PS_ATTR_HEADERS)) {
    m->header_count = m->header_key_bytes = m->header_value_bytes = 0;
    m->attributes &= ~PS_ATTR_HEADER_NULLS;
  }
}

static void fit_times(ps_frame_meta *m) {
  if (m->max_timestamp < m->first_timestamp) m->max_timestamp = m->first_timestamp;
  if (m->attributes & PS_ATTR_TIMESTAMPS_EQUAL) m->max_timestamp = m->first_timestamp;
  if (!(m->attributes & PS_ATTR_DELETE_HORIZON)) m->delete_horizon = PS_NONE;
  uint32_t dense = m->record_count ? m->record_count - 1 : 0;
  if (!(m->attributes & PS_ATTR_OFFSET_DELTAS)) m->last_offset_delta = dense;
  if (m->last_offset_delta < dense) m->last_offset_delta = dense;
}

/* Offsets that begin at 0, rise by a little and end at `end`. */
static void fit_offsets(uint8_t *p, uint64_t count, uint32_t end) {
  uint32_t at = 0;
  ps_store_u32(p, 0);
  for (uint64_t i = 1; i <= count; i++) {
    at += ps_load_u32(p + 4 * i) & 15;
    if (at > end || i == count) at = end;
    ps_store_u32(p + 4 * i, at);
  }
}

static void fit_body(const ps_frame_meta *m, const ps_layout *l, uint8_t *body) {
  uint64_t n = m->record_count, h = m->header_count;
  const struct {
    int column;
    uint64_t count;
    uint32_t end;
  } offsets[] = {{PS_COL_KEY_OFFSETS, n, m->key_bytes},
                 {PS_COL_VALUE_OFFSETS, n, m->value_bytes},
                 {PS_COL_HEADER_LISTS, n, m->header_count},
                 {PS_COL_HEADER_KEY_OFFSETS, h, m->header_key_bytes},
                 {PS_COL_HEADER_VALUE_OFFSETS, h, m->header_value_bytes}};
  for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++)
    if (l->bytes[offsets[i].column])
      fit_offsets(body + l->at[offsets[i].column], offsets[i].count, offsets[i].end);
  uint8_t *deltas = body + l->at[PS_COL_OFFSET_DELTAS];
  uint32_t last = 0;
  for (uint64_t i = 0; l->bytes[PS_COL_OFFSET_DELTAS] && i < n; i++) {
    uint32_t step = i ? 1 + (ps_load_u32(deltas + 4 * i) & 3) : 0,
             most = m->last_offset_delta - (uint32_t)(n - 1 - i);
    last = last + step < most ? last + step : most;
    ps_store_u32(deltas + 4 * i, last);
  }
  if (l->bytes[PS_COL_TIMESTAMPS]) ps_store_i64(body + l->at[PS_COL_TIMESTAMPS], m->first_timestamp);
}

/* Give the header sizes that hold together, and the body columns that do. An LZ4 body stays what it is. */
static void fit_frame(uint8_t *p, size_t limit, int64_t base) {
  ps_frame_meta m = {0};
  ps_layout l;
  uint64_t room = limit - PS_FRAME_HEADER_BYTES;
  m.attributes = ps_load_u32(p + PS_FRAME_ATTRIBUTES_OFF) & PS_ATTR_KNOWN & ~PS_ATTR_LAYOUT_MASK;
  bool packed = (m.attributes & PS_ATTR_CODEC_MASK) == PS_CODEC_LZ4;
  if (!packed) m.attributes &= ~PS_ATTR_CODEC_MASK;
  m.record_count = ps_load_u32(p + PS_FRAME_COUNT_OFF);
  m.last_offset_delta = ps_load_u32(p + PS_FRAME_LAST_DELTA_OFF);
  m.first_timestamp = ps_load_i64(p + PS_FRAME_FIRST_TIMESTAMP_OFF);
  m.max_timestamp = ps_load_i64(p + PS_FRAME_MAX_TIMESTAMP_OFF);
  m.value_width = ps_load_i32(p + PS_FRAME_VALUE_WIDTH_OFF);
  m.key_width = ps_load_i32(p + PS_FRAME_KEY_WIDTH_OFF);
  m.delete_horizon = ps_load_i64(p + PS_FRAME_DELETE_HORIZON_OFF);
  m.durable_offset = ps_load_i64(p + PS_FRAME_DURABLE_OFFSET_OFF);
  m.leader_epoch = ps_load_i32(p + PS_FRAME_EPOCH_OFF);
  m.producer_id = ps_load_i64(p + PS_FRAME_PRODUCER_ID_OFF);
  m.stored_bytes = ps_load_u32(p + PS_FRAME_STORED_BYTES_OFF);
  m.raw_bytes = ps_load_u32(p + PS_FRAME_RAW_BYTES_OFF);
  m.key_bytes = ps_load_u32(p + PS_FRAME_KEY_BYTES_OFF);
  m.value_bytes = ps_load_u32(p + PS_FRAME_VALUE_BYTES_OFF);
  m.header_count = ps_load_u32(p + PS_FRAME_HEADER_COUNT_OFF);
  m.header_key_bytes = ps_load_u32(p + PS_FRAME_HEADER_KEY_BYTES_OFF);
  m.header_value_bytes = ps_load_u32(p + PS_FRAME_HEADER_VALUE_BYTES_OFF);
  m.base_offset = base >= 0 ? base : ps_load_i64(p + PS_FRAME_BASE_OFFSET_OFF);
  if (!packed) fit_counts(&m, room);
  if (m.record_count == 0) {
    m.attributes = PS_ATTR_TIMESTAMPS_EQUAL;
    m.value_bytes = m.key_bytes = m.raw_bytes = m.header_count = m.header_key_bytes = m.header_value_bytes =
        0;
  }
  ps_layout_make(&m, &l);
  if (l.end > room || (packed && (m.stored_bytes == 0 || m.stored_bytes > room))) { /* it will not fit */
    m.attributes = PS_ATTR_TIMESTAMPS_EQUAL;
    m.record_count = m.value_bytes = m.key_bytes = m.header_count = 0;
    m.header_key_bytes = m.header_value_bytes = 0;
    ps_layout_make(&m, &l);
  }
  if (!(m.attributes & PS_ATTR_CODEC_MASK)) m.stored_bytes = m.raw_bytes = (uint32_t)l.end;
  fit_times(&m);
  m.frame_bytes = (uint32_t)ps_layout_frame_bytes(m.stored_bytes);
  m.body_checksum = ps_load_u64(p + PS_FRAME_BODY_CHECKSUM_OFF);
  if (!(m.attributes & PS_ATTR_CODEC_MASK)) fit_body(&m, &l, p + PS_FRAME_HEADER_BYTES);
  ps_frame_encode_header(&m, 0, 0, p);
}

void fuzz_seal_frame(uint8_t *p, size_t limit, uint64_t salt, uint64_t position, int64_t base, unsigned how) {
  if (!(how & (FUZZ_SEALED | FUZZ_FITTED)) || limit < PS_FRAME_HEADER_BYTES) return;
  if (how & FUZZ_FITTED) fit_frame(p, limit, base);
  ps_store_u32(p + PS_FRAME_MAGIC_OFF, PS_FRAME_MAGIC);
  ps_store_u32(p + PS_FRAME_HEADER_LEN_OFF, PS_FRAME_HEADER_BYTES);
  uint32_t bytes = ps_load_u32(p + PS_FRAME_BYTES_OFF);
  if (bytes >= PS_FRAME_HEADER_BYTES && bytes <= limit)
    ps_store_u64(p + PS_FRAME_BODY_CHECKSUM_OFF,
                 ps_hash(p + PS_FRAME_HEADER_BYTES, bytes - PS_FRAME_HEADER_BYTES));
  ps_store_u64(p + PS_FRAME_HEADER_CHECKSUM_OFF, 0);
  ps_store_u64(p + PS_FRAME_HEADER_CHECKSUM_OFF,
               ps_hash_seeded(p, PS_FRAME_HEADER_BYTES, place_seed(salt, position)));
}

/* ---- segments --------------------------------------------------------------------------------- */

static void seal_segment_header(uint8_t *p, unsigned how) {
  ps_store_u64(p + PS_SEG_MAGIC_OFF, PS_SEGMENT_MAGIC);
  /* An index is as large as its segment may become: one of gigabytes takes time, and shows nothing. */
  uint32_t capacity = ps_load_u32(p + PS_SEG_CAPACITY_OFF);
  bool odd = capacity < PS_SEGMENT_BYTES_MIN || capacity % 4096;
  if (capacity > CAPACITY_MAX || (odd && (how & FUZZ_FITTED)))
    ps_store_u32(p + PS_SEG_CAPACITY_OFF, FUZZ_SEGMENT_BYTES << capacity % 3);
  if (how & FUZZ_FITTED) {
    ps_store_u32(p + PS_SEG_VERSION_OFF, PS_FORMAT_VERSION);
    ps_store_u32(p + PS_SEG_HEADER_LEN_OFF, PS_SEGMENT_HEADER_BYTES);
    ps_store_u64(p + PS_SEG_INCOMPAT_OFF, 0);
    memset(p + PS_SEG_TOPIC_UUID_OFF, FUZZ_UUID_BYTE, 16);
    ps_store_u32(p + PS_SEG_PARTITION_OFF, FUZZ_PARTITION);
    memset(p + PS_SEG_RESERVED_OFF, 0, PS_SEG_CHECKSUM_OFF - PS_SEG_RESERVED_OFF);
  }
  ps_store_u64(p + PS_SEG_CHECKSUM_OFF, ps_hash(p, PS_SEG_CHECKSUM_OFF));
}

static void seal_seal(uint8_t *p, uint64_t salt, uint64_t position, uint64_t frames, int64_t next,
                      unsigned how) {
  if (how & FUZZ_FITTED) {
    ps_store_u32(p + PS_SEAL_LEN_OFF, PS_SEAL_BYTES);
    ps_store_i64(p + PS_SEAL_END_OFFSET_OFF, next);
    ps_store_u64(p + PS_SEAL_FRAMES_OFF, frames);
    memset(p + PS_SEAL_RESERVED_OFF, 0, PS_SEAL_BYTES - PS_SEAL_RESERVED_OFF);
  }
  ps_store_u64(p + PS_SEAL_CHECKSUM_OFF, 0);
  ps_store_u64(p + PS_SEAL_CHECKSUM_OFF, ps_hash_seeded(p, PS_SEAL_BYTES, place_seed(salt, position)));
}

void fuzz_seal_segment(uint8_t *p, size_t bytes, unsigned how) {
  if (!(how & (FUZZ_SEALED | FUZZ_FITTED)) || bytes < PS_SEGMENT_HEADER_BYTES) return;
  seal_segment_header(p, how);
  uint64_t salt = ps_load_u64(p + PS_SEG_SALT_OFF), frames = 0;
  int64_t next = ps_load_i64(p + PS_SEG_BASE_OFFSET_OFF);
  bool odd = next < 0 || next > INT64_MAX / 2;
  for (size_t at = PS_SEGMENT_HEADER_BYTES; at + PS_ALIGN <= bytes;) {
    uint32_t magic = ps_load_u32(p + at), length = PS_ALIGN;
    if (magic == PS_FRAME_MAGIC && at + PS_FRAME_HEADER_BYTES <= bytes) {
      /* Where the frames do not join, they stay so: that has to be seen, too. But an offset that is far off
       * would have to be made up for by more empty frames than anybody has time for. */
      uint64_t base = ps_load_u64(p + at + PS_FRAME_BASE_OFFSET_OFF);
      if (!odd && base - (uint64_t)next > OFFSETS_OFF_MAX && (uint64_t)next - base > OFFSETS_OFF_MAX)
        ps_store_u64(p + at + PS_FRAME_BASE_OFFSET_OFF, (uint64_t)next + (base & 0xffff));
      bool joins = !odd && base - (uint64_t)next + 64 < 128;
      fuzz_seal_frame(p + at, bytes - at, salt, at, joins ? next : -1, how);
      uint32_t frame = ps_load_u32(p + at + PS_FRAME_BYTES_OFF);
      if (frame >= PS_FRAME_HEADER_BYTES && frame % PS_ALIGN == 0 && frame <= bytes - at) {
        length = frame;
        uint64_t after = (uint64_t)ps_load_i64(p + at + PS_FRAME_BASE_OFFSET_OFF);
        next = (int64_t)(after + ps_load_u32(p + at + PS_FRAME_LAST_DELTA_OFF) + 1);
        odd = next < 0 || next > INT64_MAX / 2;
        frames++;
      }
    } else if (magic == PS_SEAL_MAGIC32) {
      seal_seal(p + at, salt, at, frames, next, how);
    }
    at += length;
  }
}

/* ---- small files ------------------------------------------------------------------------------ */

void fuzz_seal_index(uint8_t *p, size_t bytes, uint64_t salt, int64_t base, unsigned how) {
  if (!(how & (FUZZ_SEALED | FUZZ_FITTED)) || bytes < PS_INDEX_HEADER_BYTES) return;
  ps_store_u64(p + PS_INDEX_MAGIC_OFF, PS_INDEX_MAGIC);
  if (how & FUZZ_FITTED) {
    ps_store_u32(p + PS_INDEX_VERSION_OFF, PS_FORMAT_VERSION);
    ps_store_u32(p + PS_INDEX_ENTRY_LEN_OFF, PS_INDEX_ENTRY_BYTES);
    ps_store_u64(p + PS_INDEX_SALT_OFF, salt);
    ps_store_i64(p + PS_INDEX_BASE_OFFSET_OFF, base);
    /* An odd capacity that the file has no room for becomes one that it has; an even one stays wrong. */
    uint64_t room = (bytes - PS_INDEX_HEADER_BYTES) / PS_INDEX_ENTRY_BYTES;
    uint32_t capacity = ps_load_u32(p + PS_INDEX_CAPACITY_OFF);
    if (capacity > room && (capacity & 1)) ps_store_u32(p + PS_INDEX_CAPACITY_OFF, (uint32_t)room);
  }
  ps_store_u64(p + PS_INDEX_CHECKSUM_OFF, ps_hash(p, PS_INDEX_CHECKSUM_OFF));
  for (size_t at = PS_INDEX_HEADER_BYTES; at + PS_INDEX_ENTRY_BYTES <= bytes; at += PS_INDEX_ENTRY_BYTES)
    if (ps_load_u64(p + at + PS_INDEX_ENTRY_POSITION_OFF))
      ps_store_u64(p + at + PS_INDEX_ENTRY_CHECKSUM_OFF,
                   ps_hash_seeded(p + at, PS_INDEX_ENTRY_CHECKSUM_OFF, salt));
}

void fuzz_seal_head(uint8_t *p, size_t bytes, const ps_head_identity *who, unsigned how) {
  if (!(how & (FUZZ_SEALED | FUZZ_FITTED)) || bytes < PS_HEAD_SLOT1_OFF + PS_SLOT_BYTES) return;
  if (how & FUZZ_FITTED)
    ps_head_write_identity(p, who);
  else
    ps_store_u64(p + PS_HEAD_IDENTITY_CHECKSUM_OFF, ps_hash(p, PS_HEAD_IDENTITY_CHECKSUM_OFF));
  for (uint32_t at = PS_HEAD_SLOT0_OFF; at <= PS_HEAD_SLOT1_OFF; at += PS_HEAD_LINE)
    if (ps_load_u64(p + at + PS_SLOT_SEQUENCE_OFF))
      ps_store_u64(p + at + PS_SLOT_CHECKSUM_OFF, ps_hash(p + at, PS_SLOT_CHECKSUM_OFF));
  ps_store_u64(p + PS_HEAD_LOG_START_CHECK_OFF, ~ps_load_u64(p + PS_HEAD_LOG_START_OFF));
  if (bytes >= PS_HEAD_DURABLE_CHECK_OFF + 8)
    ps_store_u64(p + PS_HEAD_DURABLE_CHECK_OFF,
                 ps_load_u64(p + PS_HEAD_DURABLE_OFF) * PS_HEAD_DURABLE_FACTOR);
}

void fuzz_seal_epochs(uint8_t *p, size_t bytes, unsigned how) {
  if (!(how & (FUZZ_SEALED | FUZZ_FITTED))) return;
  for (size_t at = 0; at + PS_EPOCH_ENTRY_BYTES <= bytes; at += PS_EPOCH_ENTRY_BYTES) {
    ps_store_u32(p + at + PS_EPOCH_MAGIC_OFF, PS_EPOCH_MAGIC);
    ps_store_u64(p + at + PS_EPOCH_CHECKSUM_OFF, ps_hash(p + at, PS_EPOCH_CHECKSUM_OFF));
  }
}

void fuzz_seal_live(uint8_t *p, size_t bytes, unsigned how) {
  if (!(how & (FUZZ_SEALED | FUZZ_FITTED)) || bytes < PS_LIVE_BYTES) return;
  ps_store_u64(p + PS_LIVE_MAGIC_OFF, PS_LIVE_MAGIC);
  ps_store_u64(p + PS_LIVE_CHECKSUM_OFF, ps_hash(p, PS_LIVE_CHECKSUM_OFF));
}
