#include "ps_layout.h"

#include <lz4.h>

/* ---- the header as bytes ----------------------------------------------------------------------- */

/* `header` carries a zero where its checksum goes. */
static uint64_t header_checksum(const uint8_t *header, uint64_t salt, uint64_t position) {
  return ps_hash_seeded(header, PS_FRAME_HEADER_BYTES, salt ^ (position * 0x9e3779b97f4a7c15ull));
}

void ps_frame_encode_header(const ps_frame_meta *m, uint64_t salt, uint64_t position, uint8_t *out) {
  uint8_t h[PS_FRAME_HEADER_BYTES] = {0};
  ps_store_u32(h + PS_FRAME_MAGIC_OFF, PS_FRAME_MAGIC);
  ps_store_u32(h + PS_FRAME_HEADER_LEN_OFF, PS_FRAME_HEADER_BYTES);
  ps_store_u64(h + PS_FRAME_BODY_CHECKSUM_OFF, m->body_checksum);
  ps_store_u32(h + PS_FRAME_BYTES_OFF, m->frame_bytes);
  ps_store_u32(h + PS_FRAME_ATTRIBUTES_OFF, m->attributes);
  ps_store_i64(h + PS_FRAME_BASE_OFFSET_OFF, m->base_offset);
  ps_store_u32(h + PS_FRAME_COUNT_OFF, m->record_count);
  ps_store_u32(h + PS_FRAME_LAST_DELTA_OFF, m->last_offset_delta);
  ps_store_i64(h + PS_FRAME_FIRST_TIMESTAMP_OFF, m->first_timestamp);
  ps_store_i64(h + PS_FRAME_MAX_TIMESTAMP_OFF, m->max_timestamp);
  ps_store_u32(h + PS_FRAME_STORED_BYTES_OFF, m->stored_bytes);
  ps_store_u32(h + PS_FRAME_RAW_BYTES_OFF, m->raw_bytes);
  ps_store_i32(h + PS_FRAME_VALUE_WIDTH_OFF, m->value_width);
  ps_store_i32(h + PS_FRAME_KEY_WIDTH_OFF, m->key_width);
  ps_store_i64(h + PS_FRAME_DELETE_HORIZON_OFF, m->delete_horizon);
  ps_store_i64(h + PS_FRAME_DURABLE_OFFSET_OFF, m->durable_offset);
  ps_store_i32(h + PS_FRAME_EPOCH_OFF, m->leader_epoch);
  ps_store_i32(h + PS_FRAME_SCHEMA_ID_OFF, m->schema_id);
  ps_store_i64(h + PS_FRAME_PRODUCER_ID_OFF, m->producer_id);
  ps_store_i32(h + PS_FRAME_BASE_SEQUENCE_OFF, m->base_sequence);
  ps_store_i16(h + PS_FRAME_PRODUCER_EPOCH_OFF, m->producer_epoch);
  memcpy(h + PS_FRAME_BATCH_UUID_OFF, m->batch_uuid, sizeof m->batch_uuid);
  ps_store_u32(h + PS_FRAME_KEY_BYTES_OFF, m->key_bytes);
  ps_store_u32(h + PS_FRAME_VALUE_BYTES_OFF, m->value_bytes);
  ps_store_u32(h + PS_FRAME_HEADER_COUNT_OFF, m->header_count);
  ps_store_u32(h + PS_FRAME_HEADER_KEY_BYTES_OFF, m->header_key_bytes);
  ps_store_u32(h + PS_FRAME_HEADER_VALUE_BYTES_OFF, m->header_value_bytes);
  ps_store_u64(h + PS_FRAME_HEADER_CHECKSUM_OFF, header_checksum(h, salt, position));
  memcpy(out, h, sizeof h);
}

static void header_load(const uint8_t *h, ps_frame_meta *m) {
  m->body_checksum = ps_load_u64(h + PS_FRAME_BODY_CHECKSUM_OFF);
  m->frame_bytes = ps_load_u32(h + PS_FRAME_BYTES_OFF);
  m->attributes = ps_load_u32(h + PS_FRAME_ATTRIBUTES_OFF);
  m->base_offset = ps_load_i64(h + PS_FRAME_BASE_OFFSET_OFF);
  m->record_count = ps_load_u32(h + PS_FRAME_COUNT_OFF);
  m->last_offset_delta = ps_load_u32(h + PS_FRAME_LAST_DELTA_OFF);
  m->first_timestamp = ps_load_i64(h + PS_FRAME_FIRST_TIMESTAMP_OFF);
  m->max_timestamp = ps_load_i64(h + PS_FRAME_MAX_TIMESTAMP_OFF);
  m->stored_bytes = ps_load_u32(h + PS_FRAME_STORED_BYTES_OFF);
  m->raw_bytes = ps_load_u32(h + PS_FRAME_RAW_BYTES_OFF);
  m->value_width = ps_load_i32(h + PS_FRAME_VALUE_WIDTH_OFF);
  m->key_width = ps_load_i32(h + PS_FRAME_KEY_WIDTH_OFF);
  m->delete_horizon = ps_load_i64(h + PS_FRAME_DELETE_HORIZON_OFF);
  m->durable_offset = ps_load_i64(h + PS_FRAME_DURABLE_OFFSET_OFF);
  m->leader_epoch = ps_load_i32(h + PS_FRAME_EPOCH_OFF);
  m->schema_id = ps_load_i32(h + PS_FRAME_SCHEMA_ID_OFF);
  m->producer_id = ps_load_i64(h + PS_FRAME_PRODUCER_ID_OFF);
  m->base_sequence = ps_load_i32(h + PS_FRAME_BASE_SEQUENCE_OFF);
  m->producer_epoch = ps_load_i16(h + PS_FRAME_PRODUCER_EPOCH_OFF);
  memcpy(m->batch_uuid, h + PS_FRAME_BATCH_UUID_OFF, sizeof m->batch_uuid);
  m->key_bytes = ps_load_u32(h + PS_FRAME_KEY_BYTES_OFF);
  m->value_bytes = ps_load_u32(h + PS_FRAME_VALUE_BYTES_OFF);
  m->header_count = ps_load_u32(h + PS_FRAME_HEADER_COUNT_OFF);
  m->header_key_bytes = ps_load_u32(h + PS_FRAME_HEADER_KEY_BYTES_OFF);
  m->header_value_bytes = ps_load_u32(h + PS_FRAME_HEADER_VALUE_BYTES_OFF);
}

/* Everything this version does not know. Asked only of a header whose checksum is right, so that a
 * surprise here was written on purpose, by a later version. */
static bool header_is_known(const uint8_t *h, const ps_frame_meta *m) {
  if (m->attributes & ~PS_ATTR_KNOWN) return false;
  if ((m->attributes & PS_ATTR_CODEC_MASK) > PS_CODEC_LZ4) return false;
  if ((m->attributes & PS_ATTR_LAYOUT_MASK) >> PS_ATTR_LAYOUT_SHIFT != PS_LAYOUT_COLUMNS) return false;
  uint32_t used = ps_load_u16(h + PS_FRAME_RESERVED16_OFF);
  for (uint32_t i = PS_FRAME_RESERVED_OFF; i < PS_FRAME_HEADER_BYTES; i += sizeof(uint32_t))
    used |= ps_load_u32(h + i);
  return used == 0;
}
_Static_assert((PS_FRAME_HEADER_BYTES - PS_FRAME_RESERVED_OFF) % sizeof(uint32_t) == 0, "whole words");

static bool sizes_are_sound(const ps_frame_meta *m, uint64_t limit) {
  if (m->frame_bytes > limit || m->frame_bytes != ps_layout_frame_bytes(m->stored_bytes)) return false;
  if (m->raw_bytes > PS_SEGMENT_BYTES_MAX) return false;
  if (ps_frame_codec(m) == PS_CODEC_NONE) return m->raw_bytes == m->stored_bytes;
  /* One LZ4 byte stands for at most 255: a header cannot make its reader ask for more than that. */
  return m->stored_bytes > 0 && m->raw_bytes > 0 && m->raw_bytes <= (uint64_t)m->stored_bytes * 255;
}

static bool counts_are_sound(const ps_frame_meta *m) {
  if (m->record_count > PS_RECORDS_PER_BATCH_MAX || m->value_width < -1 || m->key_width < -1) return false;
  if (m->base_offset < 0 || m->base_offset > INT64_MAX - 1 - (int64_t)m->last_offset_delta) return false;
  if (m->max_timestamp < m->first_timestamp) return false;
  uint32_t has = m->attributes;
  if ((has & PS_ATTR_TIMESTAMPS_EQUAL) && m->max_timestamp != m->first_timestamp) return false;
  if (!(has & PS_ATTR_DELETE_HORIZON) && m->delete_horizon != PS_NONE) return false;
  if (m->record_count == 0) return (has & PS_ATTR_COLUMNS) == PS_ATTR_TIMESTAMPS_EQUAL && m->raw_bytes == 0;
  uint32_t dense = m->record_count - 1;
  return (has & PS_ATTR_OFFSET_DELTAS) ? m->last_offset_delta >= dense : m->last_offset_delta == dense;
}

/* Sizes of columns that are not there are zero; those of fixed width follow from the count. */
static bool columns_are_sound(const ps_frame_meta *m) {
  uint32_t has = m->attributes;
  uint64_t n = m->record_count;
  if (m->value_width >= 0 && n * (uint64_t)m->value_width != m->value_bytes) return false;
  if (n == 0 && m->value_bytes != 0) return false;
  if (has & PS_ATTR_KEYS) {
    if (m->key_width >= 0 && n * (uint64_t)m->key_width != m->key_bytes) return false;
  } else if ((has & PS_ATTR_KEY_NULLS) || m->key_bytes) {
    return false;
  }
  if (has & PS_ATTR_HEADERS) return true;
  return !(has & PS_ATTR_HEADER_NULLS) && !m->header_count && !m->header_key_bytes && !m->header_value_bytes;
}

ps_status ps_frame_decode_header(const uint8_t *p, uint64_t limit, uint64_t salt, uint64_t position,
                                 ps_frame_meta *meta) {
  if (limit == 0) return PS_END;
  if (limit < sizeof(uint32_t)) return PS_CORRUPT;
  uint32_t magic = ps_load_u32(p + PS_FRAME_MAGIC_OFF);
  if (magic == 0) return PS_END;
  if (magic != PS_FRAME_MAGIC || limit < PS_FRAME_HEADER_BYTES) return PS_CORRUPT;

  /* Judge a copy: the bytes are shared with other processes, and what was checked must be what is used. */
  uint8_t h[PS_FRAME_HEADER_BYTES];
  memcpy(h, p, sizeof h);
  if (ps_load_u32(h + PS_FRAME_MAGIC_OFF) != PS_FRAME_MAGIC) return PS_CORRUPT;
  if (ps_load_u32(h + PS_FRAME_HEADER_LEN_OFF) != PS_FRAME_HEADER_BYTES) return PS_CORRUPT;
  uint64_t checksum = ps_load_u64(h + PS_FRAME_HEADER_CHECKSUM_OFF);
  ps_store_u64(h + PS_FRAME_HEADER_CHECKSUM_OFF, 0);
  if (header_checksum(h, salt, position) != checksum) return PS_CORRUPT;

  header_load(h, meta);
  if (!header_is_known(h, meta)) return PS_VERSION;
  bool sound = sizes_are_sound(meta, limit) && counts_are_sound(meta) && columns_are_sound(meta);
  return sound ? PS_OK : PS_CORRUPT;
}

/* ---- the body ---------------------------------------------------------------------------------- */

bool ps_frame_body_ok(const uint8_t *p, const ps_frame_meta *meta) {
  return ps_hash(p + PS_FRAME_HEADER_BYTES, meta->frame_bytes - PS_FRAME_HEADER_BYTES) == meta->body_checksum;
}

ps_status ps_frame_decompress(const uint8_t *p, const ps_frame_meta *meta, uint8_t *out) {
  const uint8_t *body = p + PS_FRAME_HEADER_BYTES;
  if (ps_frame_codec(meta) == PS_CODEC_NONE) {
    if (meta->raw_bytes) memcpy(out, body, meta->raw_bytes);
    return PS_OK;
  }
  if (ps_frame_codec(meta) != PS_CODEC_LZ4) return PS_VERSION;
  if (meta->stored_bytes > INT32_MAX || meta->raw_bytes > INT32_MAX) return PS_CORRUPT;
  int bytes =
      LZ4_decompress_safe((const char *)body, (char *)out, (int)meta->stored_bytes, (int)meta->raw_bytes);
  return bytes >= 0 && (uint32_t)bytes == meta->raw_bytes ? PS_OK : PS_CORRUPT;
}

/* The one offset of a variable-width column in a frame without records. */
static const int32_t offsets_of_nothing[1];

static ps_binary binary_at(const uint8_t *body, const ps_layout *l, bool nulls, int validity, int offsets,
                           int data, int32_t width) {
  return (ps_binary){
      .validity = nulls ? body + l->at[validity] : NULL,
      .offsets = width >= 0               ? NULL
                 : l->bytes[offsets] == 0 ? offsets_of_nothing
                                          : (const int32_t *)(const void *)(body + l->at[offsets]),
      .data = body + l->at[data],
      .bytes = (uint32_t)l->bytes[data],
      .width = width,
  };
}

ps_status ps_frame_columns(const ps_frame_meta *m, const uint8_t *body, uint64_t raw_bytes, ps_columns *out) {
  ps_layout l;
  ps_layout_make(m, &l);
  if (l.end != raw_bytes || l.end != m->raw_bytes || !columns_are_sound(m)) return PS_CORRUPT;
  uint32_t has = m->attributes;
  memset(out, 0, sizeof *out);
  out->count = m->record_count;
  out->first_timestamp = m->first_timestamp;
  if (has & PS_ATTR_OFFSET_DELTAS)
    out->offset_deltas = (const uint32_t *)(const void *)(body + l.at[PS_COL_OFFSET_DELTAS]);
  if (!(has & PS_ATTR_TIMESTAMPS_EQUAL))
    out->timestamps = (const int64_t *)(const void *)(body + l.at[PS_COL_TIMESTAMPS]);
  out->values = binary_at(body, &l, has & PS_ATTR_VALUE_NULLS, PS_COL_VALUE_VALIDITY, PS_COL_VALUE_OFFSETS,
                          PS_COL_VALUE_DATA, m->value_width);
  out->keys.width = m->key_width;
  if (has & PS_ATTR_KEYS) {
    out->has_keys = true;
    out->keys = binary_at(body, &l, has & PS_ATTR_KEY_NULLS, PS_COL_KEY_VALIDITY, PS_COL_KEY_OFFSETS,
                          PS_COL_KEY_DATA, m->key_width);
  }
  out->header_keys.width = out->header_values.width = -1;
  if (has & PS_ATTR_HEADERS) {
    out->has_headers = true;
    out->header_lists = (const int32_t *)(const void *)(body + l.at[PS_COL_HEADER_LISTS]);
    out->header_count = m->header_count;
    out->header_keys = binary_at(body, &l, false, 0, PS_COL_HEADER_KEY_OFFSETS, PS_COL_HEADER_KEY_DATA, -1);
    out->header_values = binary_at(body, &l, has & PS_ATTR_HEADER_NULLS, PS_COL_HEADER_VALUE_VALIDITY,
                                   PS_COL_HEADER_VALUE_OFFSETS, PS_COL_HEADER_VALUE_DATA, -1);
  }
  return PS_OK;
}

/* Offsets that start at 0, never fall, and end at `end`. If no offset and no difference of neighbours
 * has its sign bit set, then no difference wrapped, so the order is right: one branch-free pass. */
static bool offsets_are_sound(const int32_t *offsets, uint32_t count, uint32_t end) {
  if (offsets[0] != 0 || (uint32_t)offsets[count] != end) return false;
  uint32_t signs = end;
  for (uint32_t i = 0; i < count; i++)
    signs |= (uint32_t)offsets[i] | ((uint32_t)offsets[i + 1] - (uint32_t)offsets[i]);
  return (signs >> 31) == 0;
}

static bool deltas_are_sound(const uint32_t *deltas, uint32_t count, uint32_t last_offset_delta) {
  uint32_t bad = deltas[count - 1] > last_offset_delta;
  for (uint32_t i = 1; i < count; i++) bad |= deltas[i] <= deltas[i - 1];
  return bad == 0;
}

ps_status ps_columns_check(const ps_frame_meta *m, const ps_columns *c) {
  if (c->count == 0) return PS_OK;
  if (c->offset_deltas && !deltas_are_sound(c->offset_deltas, c->count, m->last_offset_delta))
    return PS_CORRUPT;
  if (c->timestamps && c->timestamps[0] != m->first_timestamp) return PS_CORRUPT;
  if (c->values.offsets && !offsets_are_sound(c->values.offsets, c->count, c->values.bytes))
    return PS_CORRUPT;
  if (c->has_keys && c->keys.offsets && !offsets_are_sound(c->keys.offsets, c->count, c->keys.bytes))
    return PS_CORRUPT;
  if (!c->has_headers) return PS_OK;
  bool sound = offsets_are_sound(c->header_lists, c->count, c->header_count) &&
               offsets_are_sound(c->header_keys.offsets, c->header_count, c->header_keys.bytes) &&
               offsets_are_sound(c->header_values.offsets, c->header_count, c->header_values.bytes);
  return sound ? PS_OK : PS_CORRUPT;
}

uint32_t ps_columns_find_offset(const ps_columns *c, int64_t base_offset, int64_t offset) {
  if (offset <= base_offset) return 0;
  uint64_t delta = (uint64_t)offset - (uint64_t)base_offset;
  if (!c->offset_deltas) return delta < c->count ? (uint32_t)delta : c->count;
  uint32_t low = 0, high = c->count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (c->offset_deltas[middle] < delta)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}
