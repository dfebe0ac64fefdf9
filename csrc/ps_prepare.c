#include "ps_layout.h"

#include <lz4.h>

/* Flags that a caller of prepare chooses; all others follow from what is stored. */
#define ATTR_CHOSEN (PS_ATTR_LOG_APPEND_TIME | PS_ATTR_TRANSACTIONAL | PS_ATTR_CONTROL)

/* ---- what the columns say about the header ----------------------------------------------------- */

void ps_frame_meta_init(ps_frame_meta *meta) {
  memset(meta, 0, sizeof *meta);
  meta->frame_bytes = PS_FRAME_HEADER_BYTES;
  meta->first_timestamp = meta->max_timestamp = PS_TIMESTAMP_NONE;
  meta->value_width = meta->key_width = -1;
  meta->delete_horizon = PS_NONE;
  meta->schema_id = PS_NONE;
  meta->producer_id = PS_NONE;
  meta->base_sequence = PS_NONE;
  meta->producer_epoch = PS_NONE;
}

/* Sizes, widths and column flags; timestamps count as a column of their own when they are given. */
static void meta_set_shape(ps_frame_meta *m, const ps_columns *c) {
  m->attributes &= ~(PS_ATTR_COLUMNS | PS_ATTR_CODEC_MASK | PS_ATTR_LAYOUT_MASK);
  m->record_count = c->count;
  m->value_width = c->values.width;
  m->key_width = c->has_keys ? c->keys.width : -1;
  m->key_bytes = m->value_bytes = 0;
  m->header_count = m->header_key_bytes = m->header_value_bytes = 0;
  if (c->count == 0 || !c->timestamps) m->attributes |= PS_ATTR_TIMESTAMPS_EQUAL;
  if (c->count == 0) return;

  if (c->offset_deltas) m->attributes |= PS_ATTR_OFFSET_DELTAS;
  if (c->values.validity) m->attributes |= PS_ATTR_VALUE_NULLS;
  m->value_bytes = c->values.bytes;
  if (c->has_keys) {
    m->attributes |= PS_ATTR_KEYS | (c->keys.validity ? PS_ATTR_KEY_NULLS : 0);
    m->key_bytes = c->keys.bytes;
  }
  if (c->has_headers) {
    m->attributes |= PS_ATTR_HEADERS | (c->header_values.validity ? PS_ATTR_HEADER_NULLS : 0);
    m->header_count = c->header_count;
    m->header_key_bytes = c->header_keys.bytes;
    m->header_value_bytes = c->header_values.bytes;
  }
}

/* One pass over the timestamps. "None" is the smallest int64, so the plain maximum ignores it. */
static void meta_set_timestamps(ps_frame_meta *m, const ps_columns *c) {
  m->first_timestamp = m->max_timestamp = c->count ? c->first_timestamp : PS_TIMESTAMP_NONE;
  if (!c->timestamps || c->count == 0) return;
  int64_t first = c->timestamps[0], max = first;
  uint64_t differ = 0;
  for (uint32_t i = 1; i < c->count; i++) {
    int64_t t = c->timestamps[i];
    max = t > max ? t : max;
    differ |= (uint64_t)(t ^ first);
  }
  m->first_timestamp = first;
  m->max_timestamp = max;
  if (!differ) m->attributes |= PS_ATTR_TIMESTAMPS_EQUAL;
}

/* Offsets without a gap need no column. */
static void meta_set_offsets(ps_frame_meta *m, const ps_columns *c) {
  if (c->count == 0) return; /* proto says how many offsets the empty frame stands for */
  uint32_t dense = c->count - 1;
  uint32_t last = c->offset_deltas ? c->offset_deltas[c->count - 1] : dense;
  if (c->offset_deltas && m->last_offset_delta > last) last = m->last_offset_delta;
  m->last_offset_delta = last;
  if (last == dense) m->attributes &= ~PS_ATTR_OFFSET_DELTAS;
}

uint64_t ps_columns_raw_bytes(const ps_columns *columns) {
  ps_frame_meta m;
  ps_layout l;
  ps_frame_meta_init(&m);
  meta_set_shape(&m, columns);
  ps_layout_make(&m, &l);
  return l.end;
}

uint64_t ps_frame_bytes_raw(const ps_columns *columns) {
  return ps_layout_frame_bytes(ps_columns_raw_bytes(columns));
}

/* ---- prepare ----------------------------------------------------------------------------------- */

/* The largest compressed size that saves at least one sixteenth. */
static uint64_t worthwhile_bytes(uint64_t raw_bytes) { return raw_bytes - (raw_bytes + 15) / 16; }

/* The raw body first, then the compressed one, each with room for the padding of a frame. */
uint64_t ps_frame_scratch_bytes(const ps_columns *columns, uint32_t codec) {
  if (codec == PS_CODEC_NONE) return 0;
  uint64_t raw = ps_columns_raw_bytes(columns);
  return ps_align_up(raw, PS_ALIGN) + ps_align_up(worthwhile_bytes(raw), PS_ALIGN);
}

static const char *binary_fault(const ps_binary *b, uint32_t count) {
  if (b->width < -1) return "a column has a negative width";
  if (b->width >= 0)
    return (uint64_t)b->width * count == b->bytes ? NULL : "a fixed-width column has the wrong size";
  if (!b->offsets) return "a variable-width column has no offsets";
  if (b->offsets[0] != 0 || b->offsets[count] < 0 || (uint32_t)b->offsets[count] != b->bytes)
    return "the offsets of a column do not span its data";
  return NULL;
}

/* What O(1) can tell about a caller's columns; NULL when nothing is wrong. */
static const char *columns_fault(const ps_columns *c) {
  const char *fault = c->count ? binary_fault(&c->values, c->count) : NULL;
  if (!fault && c->count && c->has_keys) fault = binary_fault(&c->keys, c->count);
  if (!fault && c->count && c->has_headers) {
    if (!c->header_lists || c->header_lists[0] != 0 || c->header_lists[c->count] < 0 ||
        (uint32_t)c->header_lists[c->count] != c->header_count)
      return "the header lists do not span the headers";
    if (c->header_keys.validity) return "a header key is null";
    if (c->header_keys.width >= 0 || c->header_values.width >= 0) return "headers have variable width";
    fault = binary_fault(&c->header_keys, c->header_count);
    if (!fault) fault = binary_fault(&c->header_values, c->header_count);
  }
  return fault;
}

_Static_assert(2 * PS_COLUMN_COUNT + 1 <= PS_PIECES_MAX,
               "every column, its padding, and the frame's padding");

static const uint8_t zeros[PS_ALIGN] __attribute__((aligned(64)));

static void piece_add(ps_prepared *out, const void *data, uint64_t bytes) {
  if (bytes == 0) return;
  PS_ASSERT(out->piece_count < PS_PIECES_MAX);
  out->pieces[out->piece_count++] = (ps_piece){.data = data, .bytes = (size_t)bytes};
}

static void pieces_make(const ps_columns *c, const ps_layout *l, ps_prepared *out) {
  const void *source[PS_COLUMN_COUNT] = {
      [PS_COL_OFFSET_DELTAS] = c->offset_deltas,
      [PS_COL_TIMESTAMPS] = c->timestamps,
      [PS_COL_KEY_VALIDITY] = c->keys.validity,
      [PS_COL_KEY_OFFSETS] = c->keys.offsets,
      [PS_COL_KEY_DATA] = c->keys.data,
      [PS_COL_VALUE_VALIDITY] = c->values.validity,
      [PS_COL_VALUE_OFFSETS] = c->values.offsets,
      [PS_COL_VALUE_DATA] = c->values.data,
      [PS_COL_HEADER_LISTS] = c->header_lists,
      [PS_COL_HEADER_KEY_OFFSETS] = c->header_keys.offsets,
      [PS_COL_HEADER_KEY_DATA] = c->header_keys.data,
      [PS_COL_HEADER_VALUE_VALIDITY] = c->header_values.validity,
      [PS_COL_HEADER_VALUE_OFFSETS] = c->header_values.offsets,
      [PS_COL_HEADER_VALUE_DATA] = c->header_values.data,
  };
  uint64_t end = 0;
  out->piece_count = 0;
  for (int i = 0; i < PS_COLUMN_COUNT; i++) {
    if (l->bytes[i] == 0) continue;
    piece_add(out, zeros, l->at[i] - end);
    piece_add(out, source[i], l->bytes[i]);
    end = l->at[i] + l->bytes[i];
  }
}

void ps_pieces_copy(const ps_piece *pieces, size_t count, uint8_t *out) {
  for (size_t i = 0; i < count; i++) {
    memcpy(out, pieces[i].data, pieces[i].bytes);
    out += pieces[i].bytes;
  }
}

/* Put the body together in scratch and compress it behind itself. What is stored then, compressed or
 * not, is one piece with its padding. */
static ps_status body_compress(ps_prepared *out, uint8_t *scratch, uint64_t scratch_bytes, ps_error *err) {
  ps_frame_meta *m = &out->meta;
  uint64_t raw_padded = ps_align_up(m->raw_bytes, PS_ALIGN), most = worthwhile_bytes(m->raw_bytes);
  if (!scratch || scratch_bytes < raw_padded + ps_align_up(most, PS_ALIGN))
    return ps_fail(err, PS_INVALID, NULL, "the scratch buffer is too small to compress the batch");
  uint8_t *body = scratch;
  ps_pieces_copy(out->pieces, out->piece_count, body);
  if (most > 0 && m->raw_bytes <= LZ4_MAX_INPUT_SIZE) {
    int stored =
        LZ4_compress_default((const char *)body, (char *)scratch + raw_padded, (int)m->raw_bytes, (int)most);
    if (stored > 0) {
      body = scratch + raw_padded;
      m->stored_bytes = (uint32_t)stored;
      m->attributes |= PS_CODEC_LZ4;
    }
  }
  uint64_t padded = ps_align_up(m->stored_bytes, PS_ALIGN);
  memset(body + m->stored_bytes, 0, padded - m->stored_bytes);
  out->piece_count = 0;
  piece_add(out, body, padded);
  return PS_OK;
}

ps_status ps_frame_prepare(const ps_columns *columns, const ps_frame_meta *proto, uint32_t codec,
                           uint32_t frame_bytes_max, void *scratch, uint64_t scratch_bytes, ps_prepared *out,
                           ps_error *err) {
  if (codec > PS_CODEC_LZ4) return ps_fail(err, PS_INVALID, NULL, "unknown codec");
  if (columns->count > PS_RECORDS_PER_BATCH_MAX)
    return ps_fail(err, PS_TOO_LARGE, NULL, "the batch has too many records");
  const char *fault = columns_fault(columns);
  if (fault) return ps_fail(err, PS_INVALID, NULL, fault);

  ps_columns log_time;
  if (proto->attributes & PS_ATTR_LOG_APPEND_TIME) {
    log_time = *columns; /* one time for all, filled in under the append lock */
    log_time.timestamps = NULL;
    columns = &log_time;
  }
  ps_frame_meta *m = &out->meta;
  *m = *proto;
  m->attributes &= ATTR_CHOSEN;
  if (m->delete_horizon != PS_NONE) m->attributes |= PS_ATTR_DELETE_HORIZON;
  meta_set_shape(m, columns);
  meta_set_timestamps(m, columns);
  meta_set_offsets(m, columns);

  ps_layout l;
  ps_layout_make(m, &l);
  uint64_t frame_bytes = ps_layout_frame_bytes(l.end);
  if (frame_bytes > (codec == PS_CODEC_NONE ? frame_bytes_max : PS_SEGMENT_BYTES_MAX))
    return ps_fail(err, PS_TOO_LARGE, NULL, "the batch does not fit a segment");
  m->raw_bytes = m->stored_bytes = (uint32_t)l.end;
  pieces_make(columns, &l, out);
  if (codec == PS_CODEC_NONE || l.end == 0) {
    piece_add(out, zeros, frame_bytes - PS_FRAME_HEADER_BYTES - l.end);
  } else {
    ps_status status = body_compress(out, scratch, scratch_bytes, err);
    if (status != PS_OK) return status;
    frame_bytes = ps_layout_frame_bytes(m->stored_bytes);
    if (frame_bytes > frame_bytes_max)
      return ps_fail(err, PS_TOO_LARGE, NULL, "the compressed batch does not fit a segment");
  }
  m->frame_bytes = (uint32_t)frame_bytes;
  m->body_checksum = ps_hash_pieces(out->pieces, out->piece_count);
  return PS_OK;
}

void ps_frame_prepare_empty(uint32_t offsets, ps_prepared *out) {
  PS_ASSERT(offsets >= 1);
  ps_frame_meta_init(&out->meta);
  out->meta.attributes = PS_ATTR_TIMESTAMPS_EQUAL;
  out->meta.last_offset_delta = offsets - 1;
  out->meta.body_checksum = ps_hash(zeros, 0);
  out->piece_count = 0;
}
