#include "ps_builder.h"

/* Bytes a record costs in a column beside its data. A validity bit is counted as a byte: simple, and
 * never too little. */
#define COST_OFFSET 4u
#define COST_BIT 1u
#define COST_TIMESTAMP 8u
#define COST_HEADER (2u * COST_OFFSET + COST_BIT)

static uint32_t clamp_u32(uint32_t v, uint32_t low, uint32_t high) {
  if (v < low) v = low;
  return v > high ? high : v;
}

static uint32_t column_cost(const ps_column_buffer *c) {
  return (c->width < 0 ? COST_OFFSET : 0u) + (c->has_nulls ? COST_BIT : 0u);
}

static uint32_t capacity_max(const ps_builder *b) {
  return b->bytes_max < PS_BUILDER_CAPACITY_MIN ? PS_BUILDER_CAPACITY_MIN : b->bytes_max;
}

static void set_capacity(ps_builder *b, uint32_t capacity) {
  b->capacity = capacity;
  b->room = capacity < b->bytes_max ? capacity : b->bytes_max;
}

ps_builder *ps_builder_new(int32_t value_width, int32_t key_width, uint32_t bytes_max, uint32_t count_max,
                           uint32_t frame_bytes_max) {
  ps_builder *b = calloc(1, sizeof *b);
  if (!b) return NULL;
  b->frame_bytes_max = frame_bytes_max;
  b->bytes_max = clamp_u32(bytes_max, 1, frame_bytes_max);
  b->count_max = clamp_u32(count_max, 1, PS_RECORDS_PER_BATCH_MAX);
  set_capacity(b, capacity_max(b));
  b->values.width = value_width;
  b->keys.width = key_width;
  b->header_keys.width = b->header_values.width = -1;
  ps_builder_reset(b);
  return b;
}

static void column_free(ps_column_buffer *c) {
  free(c->data);
  free(c->offsets);
  free(c->validity);
  c->data = NULL;
  c->offsets = NULL;
  c->validity = NULL;
}

static void columns_free(ps_builder *b) {
  column_free(&b->values);
  column_free(&b->keys);
  column_free(&b->header_keys);
  column_free(&b->header_values);
  free(b->timestamps);
  free(b->header_lists);
  b->timestamps = NULL;
  b->header_lists = NULL;
}

void ps_builder_free(ps_builder *b) {
  if (!b) return;
  columns_free(b);
  free(b);
}

void ps_builder_size(ps_builder *b, uint32_t capacity) {
  PS_ASSERT(b->count == 0);
  capacity = clamp_u32(capacity, PS_BUILDER_CAPACITY_MIN, capacity_max(b));
  if (capacity != b->capacity) columns_free(b);
  set_capacity(b, capacity);
}

void ps_builder_limit(ps_builder *b, uint32_t bytes_max, uint32_t frame_bytes_max) {
  bytes_max = clamp_u32(bytes_max, 1, frame_bytes_max);
  if (PS_LIKELY(b->bytes_max == bytes_max && b->frame_bytes_max == frame_bytes_max)) return;
  b->bytes_max = bytes_max;
  b->frame_bytes_max = frame_bytes_max;
  ps_builder_size(b, b->capacity);
}

static void column_reset(ps_column_buffer *c) {
  c->bytes = 0;
  c->has_nulls = false;
}

/* What an oversized record has made it grow to. */
static void shrink(ps_builder *b) {
  if (b->capacity <= capacity_max(b)) return;
  columns_free(b);
  set_capacity(b, capacity_max(b));
}

void ps_builder_reset(ps_builder *b) {
  shrink(b);
  column_reset(&b->values);
  column_reset(&b->keys);
  column_reset(&b->header_keys);
  column_reset(&b->header_values);
  b->count = 0;
  b->bytes = PS_BUILDER_FIXED_BYTES;
  b->record_bytes = column_cost(&b->values);
  b->plain = b->keyed = false;
  b->has_keys = b->has_headers = b->has_timestamps = false;
  b->header_count = 0;
  b->stamp = PS_TIMESTAMP_NONE;
  b->next = NULL;
  b->deadline_ns = 0;
  b->base_offset = -1;
  b->tracked = false;
  b->user = NULL;
  b->error.status = PS_OK;
}

/* ---- making room ------------------------------------------------------------------------------ */

static bool make(void *slot, size_t bytes) {
  void *now;
  memcpy(&now, slot, sizeof now);
  if (now) return true;
  now = malloc(bytes);
  if (!now) return false;
  memcpy(slot, &now, sizeof now);
  return true;
}

/* Sizes follow from `capacity`: each row of an offset column is counted as 4 bytes of it, each
 * timestamp as 8, each validity bit as 1, so none of them can pass it. A column of width 0 counts
 * nothing; the rows that have a bitmap all the same are bounded by count_max. */
static bool make_column(const ps_builder *b, ps_column_buffer *c) {
  if (!make(&c->data, (size_t)b->capacity + 1)) return false;
  return c->width >= 0 || make(&c->offsets, (size_t)b->capacity + 2 * sizeof(int32_t));
}

static bool make_validity(const ps_builder *b, ps_column_buffer *c) {
  return make(&c->validity, (size_t)b->capacity / 8 + 2);
}

static bool width_ok(const ps_column_buffer *c, int64_t bytes) {
  return bytes < 0 || c->width < 0 || bytes == c->width;
}

static bool widen(void *slot, size_t bytes) {
  void *now;
  memcpy(&now, slot, sizeof now);
  if (!now) return true;
  now = realloc(now, bytes);
  if (!now) return false;
  memcpy(slot, &now, sizeof now);
  return true;
}

/* Sizes as in make_column and make_validity. */
static bool widen_column(ps_column_buffer *c, uint32_t from, uint32_t to) {
  size_t bitmap = (size_t)from / 8 + 2, more = (size_t)to / 8 + 2 - bitmap;
  if (!widen(&c->data, (size_t)to + 1) || !widen(&c->offsets, (size_t)to + 2 * sizeof(int32_t)) ||
      !widen(&c->validity, bitmap + more))
    return false;
  if (c->has_nulls) memset(c->validity + bitmap, 0, more);
  return true;
}

uint32_t ps_builder_grown(const ps_builder *b) {
  uint32_t max = capacity_max(b);
  if (b->capacity >= max) return b->capacity;
  return b->capacity > max / 2 ? max : 2 * b->capacity;
}

bool ps_builder_grow(ps_builder *b) {
  uint32_t to = ps_builder_grown(b);
  /* Where one fails, others have room that is not used. */
  if (!widen_column(&b->values, b->capacity, to) || !widen_column(&b->keys, b->capacity, to) ||
      !widen_column(&b->header_keys, b->capacity, to) || !widen_column(&b->header_values, b->capacity, to) ||
      !widen(&b->timestamps, (size_t)to + sizeof(int64_t)) ||
      !widen(&b->header_lists, (size_t)to + 2 * sizeof(int32_t)))
    return false;
  set_capacity(b, to);
  return true;
}

/* What the record adds, column by column, and what the builder costs with it. */
typedef struct change {
  bool value_nulls, keys, key_nulls, headers, timestamps; /* columns this record brings in */
  uint64_t bytes;
  uint32_t record_bytes;
} change;

static ps_status plan(const ps_builder *b, const ps_record *r, change *c) {
  memset(c, 0, sizeof *c);
  if (!width_ok(&b->values, r->value_bytes) || !width_ok(&b->keys, r->key_bytes)) return PS_INVALID;
  c->value_nulls = r->value_bytes < 0 && !b->values.has_nulls;
  c->keys = r->key_bytes >= 0 && !b->has_keys;
  /* Rows before the first key are null, and so is a null key once there are keys. */
  c->key_nulls = !b->keys.has_nulls && ((c->keys && b->count > 0) || (b->has_keys && r->key_bytes < 0));
  c->headers = r->header_count > 0 && !b->has_headers;
  c->timestamps = r->has_timestamp && !b->has_timestamps && !(b->count > 0 && r->timestamp == b->stamp);

  uint32_t extra = 0;
  uint64_t filled = 0; /* data of fixed width that earlier null keys take */
  if (c->value_nulls) extra += COST_BIT;
  if (c->keys && b->keys.width < 0) extra += COST_OFFSET;
  if (c->keys && b->keys.width >= 0) filled = (uint64_t)b->count * (uint32_t)b->keys.width;
  if (c->key_nulls) extra += COST_BIT;
  if (c->headers) extra += COST_OFFSET;
  if (c->timestamps) extra += COST_TIMESTAMP;
  c->record_bytes = b->record_bytes + extra;

  uint64_t own = 0;
  if (r->value_bytes >= 0)
    own += (uint64_t)r->value_bytes;
  else if (b->values.width > 0)
    own += (uint32_t)b->values.width;
  if (r->key_bytes >= 0)
    own += (uint64_t)r->key_bytes;
  else if (b->has_keys && b->keys.width > 0)
    own += (uint32_t)b->keys.width;
  if (r->header_count > PS_HEADERS_PER_RECORD_MAX) return PS_INVALID;
  for (uint32_t i = 0; i < r->header_count; i++) {
    const ps_header *h = &r->headers[i];
    if (h->key_bytes > PS_HEADER_KEY_BYTES_MAX) return PS_INVALID;
    own += COST_HEADER + h->key_bytes + (h->value_bytes > 0 ? (uint32_t)h->value_bytes : 0u);
  }
  c->bytes = b->bytes + (uint64_t)extra * b->count + filled + c->record_bytes + own;
  return PS_OK;
}

static void fill_valid(ps_column_buffer *c, uint32_t rows, uint32_t capacity) {
  memset(c->validity, 0, (size_t)capacity / 8 + 2);
  memset(c->validity, 0xff, rows / 8);
  if (rows % 8) c->validity[rows / 8] = (uint8_t)((1u << (rows % 8)) - 1u);
  c->has_nulls = true;
}

static bool make_all(ps_builder *b, const change *c) {
  if (!make_column(b, &b->values)) return false;
  if (c->value_nulls && !make_validity(b, &b->values)) return false;
  if (c->keys && !make_column(b, &b->keys)) return false;
  if (c->key_nulls && !make_validity(b, &b->keys)) return false;
  if (c->timestamps && !make(&b->timestamps, (size_t)b->capacity + sizeof(int64_t))) return false;
  if (!c->headers) return true;
  return make(&b->header_lists, (size_t)b->capacity + 2 * sizeof(int32_t)) &&
         make_column(b, &b->header_keys) && make_column(b, &b->header_values) &&
         make_validity(b, &b->header_values);
}

/* ---- adding ----------------------------------------------------------------------------------- */

static void start_column(ps_column_buffer *c) {
  c->bytes = 0;
  if (c->width < 0) c->offsets[0] = 0;
}

static void add_slot(ps_column_buffer *c, uint32_t row, const void *data, int64_t bytes) {
  if (bytes > 0) {
    memcpy(c->data + c->bytes, data, (size_t)bytes);
    c->bytes += (uint32_t)bytes;
  } else if (bytes < 0 && c->width > 0) {
    memset(c->data + c->bytes, 0, (size_t)c->width);
    c->bytes += (uint32_t)c->width;
  }
  if (c->width < 0) c->offsets[row + 1] = (int32_t)c->bytes;
  if (c->has_nulls && bytes >= 0) c->validity[row / 8] |= (uint8_t)(1u << (row % 8));
}

/* Bring in the columns the plan names; the rows already there get what they meant all along. */
static void introduce(ps_builder *b, const change *c) {
  if (b->count == 0) start_column(&b->values);
  if (c->value_nulls) fill_valid(&b->values, b->count, b->capacity);
  if (c->keys) {
    start_column(&b->keys);
    if (c->key_nulls) fill_valid(&b->keys, 0, b->capacity);
    for (uint32_t i = 0; i < b->count; i++) add_slot(&b->keys, i, NULL, -1);
    b->has_keys = true;
  } else if (c->key_nulls) {
    fill_valid(&b->keys, b->count, b->capacity);
  }
  if (c->headers) {
    memset(b->header_lists, 0, ((size_t)b->count + 1) * sizeof(int32_t));
    start_column(&b->header_keys);
    start_column(&b->header_values);
    b->has_headers = true;
  }
  if (c->timestamps) {
    for (uint32_t i = 0; i < b->count; i++) b->timestamps[i] = b->stamp;
    b->has_timestamps = true;
  }
}

static void add_headers(ps_builder *b, const ps_record *r) {
  for (uint32_t i = 0; i < r->header_count; i++) {
    const ps_header *h = &r->headers[i];
    uint32_t row = b->header_count++;
    if (h->value_bytes < 0 && !b->header_values.has_nulls) fill_valid(&b->header_values, row, b->capacity);
    add_slot(&b->header_keys, row, h->key, h->key_bytes);
    add_slot(&b->header_values, row, h->value, h->value_bytes);
  }
  b->header_lists[b->count + 1] = (int32_t)b->header_count;
}

ps_status ps_builder_add(ps_builder *b, const ps_record *r) {
  change c;
  ps_status status = plan(b, r, &c);
  if (status != PS_OK) return status;
  if (b->count > 0 && (c.bytes > b->room || b->count >= b->count_max)) return PS_END;
  if (c.bytes > b->frame_bytes_max) return PS_TOO_LARGE;
  if (c.bytes > b->capacity) { /* one record that is larger than a batch should be */
    columns_free(b);
    set_capacity(b, (uint32_t)c.bytes);
  }
  if (!make_all(b, &c)) {
    if (b->count == 0) shrink(b);
    return PS_NO_MEMORY;
  }

  introduce(b, &c);
  add_slot(&b->values, b->count, r->value, r->value_bytes);
  if (b->has_keys) add_slot(&b->keys, b->count, r->key, r->key_bytes);
  if (b->has_headers) add_headers(b, r);
  if (b->has_timestamps) b->timestamps[b->count] = r->has_timestamp ? r->timestamp : b->stamp;
  b->count++;
  b->bytes = (uint32_t)c.bytes;
  b->record_bytes = c.record_bytes;
  bool simple = !b->values.has_nulls && !b->keys.has_nulls && !b->has_headers && !b->has_timestamps;
  b->plain = simple && !b->has_keys;
  b->keyed = simple && b->has_keys;
  return PS_OK;
}

/* ---- reading it back -------------------------------------------------------------------------- */

static ps_binary as_binary(const ps_column_buffer *c) {
  return (ps_binary){.validity = c->has_nulls ? c->validity : NULL,
                     .offsets = c->width < 0 ? c->offsets : NULL,
                     .data = c->data,
                     .bytes = c->bytes,
                     .width = c->width};
}

void ps_builder_columns(const ps_builder *b, ps_columns *out) {
  memset(out, 0, sizeof *out);
  out->count = b->count;
  out->timestamps = b->has_timestamps ? b->timestamps : NULL;
  out->first_timestamp = b->count ? ps_builder_timestamp(b, 0) : PS_TIMESTAMP_NONE;
  out->values = as_binary(&b->values);
  out->has_keys = b->has_keys;
  out->keys.width = b->keys.width;
  if (b->has_keys) out->keys = as_binary(&b->keys);
  out->has_headers = b->has_headers;
  out->header_keys.width = out->header_values.width = -1;
  if (b->has_headers) {
    out->header_lists = b->header_lists;
    out->header_count = b->header_count;
    out->header_keys = as_binary(&b->header_keys);
    out->header_values = as_binary(&b->header_values);
  }
}

int64_t ps_builder_timestamp(const ps_builder *b, uint32_t i) {
  return b->has_timestamps ? b->timestamps[i] : b->stamp;
}
