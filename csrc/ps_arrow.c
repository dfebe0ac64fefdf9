#include "ps_arrow.h"

/* Validity, offsets and data of columns that are not there. */
static const uint8_t zeros[1u << 16] __attribute__((aligned(64))) = {0};

/* Columns of every batch beside its values, and what hangs below `headers`. */
enum { LEADING = 3 /* offset, timestamp, key */, BELOW_HEADERS = 3 /* struct, key, value */, BUFFERS = 3 };

static uint32_t columns_of(const ps_arrow_plan *plan) {
  return LEADING + (plan->field_count ? plan->field_count : 1) + 1;
}

static void binary_format(int32_t width, char out[PS_ARROW_FORMAT_BYTES]) {
  if (width < 0)
    snprintf(out, PS_ARROW_FORMAT_BYTES, "z");
  else
    snprintf(out, PS_ARROW_FORMAT_BYTES, "w:%d", (int)width);
}

/* ---- plans ---------------------------------------------------------------------------------- */

ps_arrow_plan *ps_arrow_plan_new(int32_t key_width, int32_t value_width, uint32_t field_count) {
  ps_arrow_plan *plan = calloc(1, sizeof *plan);
  if (!plan) return NULL;
  plan->refs = 1;
  plan->key_width = key_width;
  plan->value_width = value_width;
  plan->field_count = field_count;
  binary_format(key_width, plan->key_format);
  binary_format(value_width, plan->value_format);
  if (field_count && !(plan->fields = calloc(field_count, sizeof *plan->fields))) {
    free(plan);
    return NULL;
  }
  return plan;
}

bool ps_arrow_plan_set(ps_arrow_plan *plan, uint32_t i, const char *name, const char *format, uint32_t offset,
                       uint32_t bytes, ps_field_kind kind, bool swapped) {
  PS_ASSERT(i < plan->field_count && plan->value_width >= 0);
  PS_ASSERT((uint64_t)offset + bytes <= (uint64_t)plan->value_width);
  ps_arrow_field *field = &plan->fields[i];
  if (strlen(format) >= sizeof field->format) return false;
  free(field->name);
  field->name = strdup(name);
  if (!field->name) return false;
  strcpy(field->format, format);
  field->offset = offset;
  field->bytes = bytes;
  field->kind = kind;
  field->swapped = swapped;
  return true;
}

void ps_arrow_plan_ref(ps_arrow_plan *plan) { __atomic_fetch_add(&plan->refs, 1, __ATOMIC_RELAXED); }

void ps_arrow_plan_unref(ps_arrow_plan *plan) {
  if (!plan || __atomic_fetch_sub(&plan->refs, 1, __ATOMIC_ACQ_REL) != 1) return;
  for (uint32_t i = 0; i < plan->field_count; i++) free(plan->fields[i].name);
  free(plan->fields);
  free(plan);
}

/* ---- schemas -------------------------------------------------------------------------------- */

typedef struct schema_block {
  int64_t refs; /* atomic: one a node */
  ps_arrow_plan *plan;
  struct ArrowSchema *nodes;
  struct ArrowSchema **children;
  char format[PS_ARROW_FORMAT_BYTES];
} schema_block;

static void schema_release(struct ArrowSchema *schema) {
  for (int64_t i = 0; i < schema->n_children; i++)
    if (schema->children[i]->release) schema->children[i]->release(schema->children[i]);
  schema_block *block = schema->private_data;
  schema->release = NULL;
  if (__atomic_fetch_sub(&block->refs, 1, __ATOMIC_ACQ_REL) != 1) return;
  ps_arrow_plan_unref(block->plan);
  free(block);
}

static schema_block *schema_block_new(ps_arrow_plan *plan, uint32_t nodes) {
  size_t bytes = sizeof(schema_block) + nodes * (sizeof(struct ArrowSchema) + sizeof(struct ArrowSchema *));
  schema_block *block = calloc(1, bytes);
  if (!block) return NULL;
  if (plan) ps_arrow_plan_ref(plan);
  block->plan = plan;
  block->nodes = (struct ArrowSchema *)(block + 1);
  block->children = (struct ArrowSchema **)(block->nodes + nodes);
  return block;
}

static void schema_fill(schema_block *block, struct ArrowSchema *node, const char *name, const char *format,
                        bool nullable) {
  *node = (struct ArrowSchema){.format = format,
                               .name = name,
                               .flags = nullable ? ARROW_FLAG_NULLABLE : 0,
                               .release = schema_release,
                               .private_data = block};
  block->refs++;
}

/* Give `node` the next `count` nodes of the block as children. */
static struct ArrowSchema *schema_adopt(schema_block *block, struct ArrowSchema *node, uint32_t *used,
                                        uint32_t count) {
  struct ArrowSchema *first = block->nodes + *used;
  node->children = block->children + *used;
  node->n_children = count;
  for (uint32_t i = 0; i < count; i++) node->children[i] = first + i;
  *used += count;
  return first;
}

ps_status ps_arrow_schema(ps_arrow_plan *plan, struct ArrowSchema *out) {
  uint32_t columns = columns_of(plan), used = 0;
  schema_block *block = schema_block_new(plan, columns + BELOW_HEADERS);
  out->release = NULL;
  if (!block) return PS_NO_MEMORY;
  schema_fill(block, out, "", "+s", false);
  struct ArrowSchema *column = schema_adopt(block, out, &used, columns);
  schema_fill(block, column++, "offset", "l", false);
  schema_fill(block, column++, "timestamp", "tsn:UTC", true);
  schema_fill(block, column++, "key", plan->key_format, true);
  if (!plan->field_count) schema_fill(block, column++, "value", plan->value_format, true);
  for (uint32_t i = 0; i < plan->field_count; i++)
    schema_fill(block, column++, plan->fields[i].name, plan->fields[i].format, true);
  struct ArrowSchema *headers = column;
  schema_fill(block, headers, "headers", "+l", false);
  struct ArrowSchema *item = schema_adopt(block, headers, &used, 1);
  schema_fill(block, item, "item", "+s", false);
  struct ArrowSchema *pair = schema_adopt(block, item, &used, 2);
  schema_fill(block, pair, "key", "u", false);
  schema_fill(block, pair + 1, "value", "z", true);
  return PS_OK;
}

ps_status ps_arrow_binary_schema(int32_t width, struct ArrowSchema *out) {
  schema_block *block = schema_block_new(NULL, 0);
  out->release = NULL;
  if (!block) return PS_NO_MEMORY;
  binary_format(width, block->format);
  schema_fill(block, out, "", block->format, true);
  return PS_OK;
}

/* ---- arrays --------------------------------------------------------------------------------- */

typedef struct made { /* a buffer made for an export; what it holds stands one line further */
  struct made *next;
} made;

typedef struct array_block {
  int64_t refs; /* atomic: one a node */
  ps_lease *lease;
  made *made;
  bool failed; /* an allocation did; looked at once, at the end */
  uint32_t used;
  uint32_t buffers_used;
  struct ArrowArray *nodes;
  struct ArrowArray **children;
  const void **buffers;
} array_block;

static void array_release(struct ArrowArray *array) {
  for (int64_t i = 0; i < array->n_children; i++)
    if (array->children[i]->release) array->children[i]->release(array->children[i]);
  array_block *block = array->private_data;
  array->release = NULL;
  if (__atomic_fetch_sub(&block->refs, 1, __ATOMIC_ACQ_REL) != 1) return;
  for (made *m = block->made, *next; m; m = next) {
    next = m->next;
    free(m);
  }
  ps_lease_unref(block->lease);
  free(block);
}

static array_block *array_block_new(ps_lease *lease, uint32_t below_root) {
  size_t each = sizeof(struct ArrowArray) + sizeof(struct ArrowArray *);
  size_t bytes = sizeof(array_block) + below_root * each + (below_root + 1) * BUFFERS * sizeof(void *);
  array_block *block = malloc(bytes);
  if (!block) return NULL;
  ps_lease_ref(lease);
  *block = (array_block){.lease = lease, .nodes = (struct ArrowArray *)(block + 1)};
  block->children = (struct ArrowArray **)(block->nodes + below_root);
  block->buffers = (const void **)(block->children + below_root);
  return block;
}

static void *make(array_block *block, uint64_t bytes) {
  made *m = aligned_alloc(PS_ALIGN, PS_ALIGN + ps_align_up(bytes, PS_ALIGN));
  if (!m) {
    block->failed = true;
    return NULL;
  }
  m->next = block->made;
  block->made = m;
  return (uint8_t *)m + PS_ALIGN;
}

static const void *make_zeros(array_block *block, uint64_t bytes) {
  if (bytes <= sizeof zeros) return zeros;
  void *p = make(block, bytes);
  if (p) memset(p, 0, bytes);
  return p;
}

static const void **array_fill(array_block *block, struct ArrowArray *node, int64_t length, int64_t buffers) {
  *node = (struct ArrowArray){.length = length,
                              .n_buffers = buffers,
                              .buffers = block->buffers + block->buffers_used,
                              .release = array_release,
                              .private_data = block};
  block->buffers_used += (uint32_t)buffers;
  block->refs++;
  for (int64_t i = 0; i < buffers; i++) node->buffers[i] = NULL;
  return node->buffers;
}

static struct ArrowArray *array_adopt(array_block *block, struct ArrowArray *node, uint32_t count) {
  struct ArrowArray *first = block->nodes + block->used;
  node->children = block->children + block->used;
  node->n_children = count;
  for (uint32_t i = 0; i < count; i++) node->children[i] = first + i;
  block->used += count;
  return first;
}

/* first, first + step, ... These columns are all that an export costs a record, so they are worth the wider
 * registers where there are some. */
static inline __attribute__((always_inline)) void series(int64_t *out, uint32_t count, int64_t first,
                                                         int64_t step) {
  for (uint32_t i = 0; i < count; i++, first += step) out[i] = first;
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static void series_avx2(int64_t *out, uint32_t count, int64_t first,
                                                        int64_t step) {
  series(out, count, first, step);
}
#endif

static void fill_series(int64_t *out, uint32_t count, int64_t first, int64_t step) {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2")) {
    series_avx2(out, count, first, step);
    return;
  }
#endif
  series(out, count, first, step);
}

static void fill_offsets(array_block *block, struct ArrowArray *node, const ps_columns *columns,
                         int64_t base_offset, uint32_t start, uint32_t count) {
  const void **buffers = array_fill(block, node, count, 2);
  int64_t *out = make(block, (uint64_t)count * 8);
  buffers[1] = out;
  if (!out) return;
  if (columns->offset_deltas) {
    const uint32_t *deltas = columns->offset_deltas + start;
    for (uint32_t i = 0; i < count; i++) out[i] = base_offset + (int64_t)deltas[i];
  } else {
    fill_series(out, count, base_offset + (int64_t)start, 1);
  }
}

/* A bitmap of the times that are not INT64_MIN and stand at a valid slot (NULL: all are); NULL when no
 * bit is clear. */
static const void *time_validity(array_block *block, const int64_t *times, const uint8_t *valid,
                                 uint32_t start, uint32_t count, int64_t *null_count) {
  uint32_t nulls = 0;
  for (uint32_t i = 0; i < count; i++) nulls += times[i] == PS_TIMESTAMP_NONE;
  if (!nulls && !valid) return NULL;
  uint8_t *bits = make(block, ((uint64_t)count + 7) / 8);
  if (!bits) return NULL;
  memset(bits, 0, ((size_t)count + 7) / 8);
  nulls = 0;
  for (uint32_t i = 0; i < count; i++) {
    bool there = times[i] != PS_TIMESTAMP_NONE && ps_bit(valid, start + i);
    bits[i >> 3] |= (uint8_t)(there << (i & 7));
    nulls += !there;
  }
  *null_count = nulls;
  return bits;
}

static void fill_timestamps(array_block *block, struct ArrowArray *node, const ps_columns *columns,
                            uint32_t start, uint32_t count) {
  const void **buffers = array_fill(block, node, count, 2);
  if (columns->timestamps) {
    buffers[1] = columns->timestamps + start;
    buffers[0] = time_validity(block, buffers[1], NULL, 0, count, &node->null_count);
  } else if (columns->first_timestamp == PS_TIMESTAMP_NONE) {
    buffers[0] = make_zeros(block, ((uint64_t)count + 7) / 8);
    buffers[1] = make_zeros(block, (uint64_t)count * 8);
    node->null_count = count;
  } else {
    int64_t *out = make(block, (uint64_t)count * 8);
    buffers[1] = out;
    if (out) fill_series(out, count, columns->first_timestamp, 0);
  }
}

static void fill_binary(array_block *block, struct ArrowArray *node, const ps_binary *column, bool absent,
                        int32_t width, uint32_t start, uint32_t count) {
  const void **buffers = array_fill(block, node, count, width < 0 ? 3 : 2);
  if (absent) {
    buffers[0] = make_zeros(block, ((uint64_t)count + 7) / 8);
    node->null_count = count;
    if (width < 0) {
      buffers[1] = make_zeros(block, ((uint64_t)count + 1) * 4);
      buffers[2] = zeros;
    } else {
      buffers[1] = make_zeros(block, (uint64_t)count * (uint64_t)width);
    }
    return;
  }
  node->offset = start;
  node->null_count = column->validity ? -1 : 0;
  buffers[0] = column->validity;
  const void *data = column->data ? column->data : zeros;
  if (width < 0) buffers[1] = column->offsets;
  buffers[width < 0 ? 2 : 1] = data;
}

/* Strided copy of one field; the sizes that matter become single loads and stores. */
static void gather(const uint8_t *from, size_t stride, uint32_t count, size_t bytes, uint8_t *to) {
#define GATHER(n)                                                                                    \
  case n:                                                                                            \
    for (uint32_t i = 0; i < count; i++) memcpy(to + (size_t)i * (n), from + (size_t)i * stride, n); \
    return;
  switch (bytes) {
    GATHER(1)
    GATHER(2)
    GATHER(4)
    GATHER(8)
    GATHER(16)
  }
#undef GATHER
  for (uint32_t i = 0; i < count; i++) memcpy(to + (size_t)i * bytes, from + (size_t)i * stride, bytes);
}

static void gather_swapped(const uint8_t *from, size_t stride, uint32_t count, size_t bytes, uint8_t *to) {
  for (uint32_t i = 0; i < count; i++)
    for (size_t b = 0; b < bytes; b++) to[(size_t)i * bytes + b] = from[(size_t)i * stride + bytes - 1 - b];
}

static void gather_bits(const uint8_t *from, size_t stride, uint32_t count, uint8_t *to) {
  memset(to, 0, ((size_t)count + 7) / 8);
  for (uint32_t i = 0; i < count; i++) to[i >> 3] |= (uint8_t)((from[(size_t)i * stride] != 0) << (i & 7));
}

static const void *copy_validity(array_block *block, const uint8_t *valid, uint32_t start, uint32_t count) {
  uint8_t *bits = make(block, ((uint64_t)count + 7) / 8);
  if (!bits) return NULL;
  memset(bits, 0, ((size_t)count + 7) / 8);
  for (uint32_t i = 0; i < count; i++) bits[i >> 3] |= (uint8_t)(ps_bit(valid, start + i) << (i & 7));
  return bits;
}

static void fill_field(array_block *block, struct ArrowArray *node, const ps_arrow_field *field,
                       const ps_binary *values, uint32_t start, uint32_t count) {
  const void **buffers = array_fill(block, node, count, 2);
  size_t stride = (size_t)values->width;
  const uint8_t *from = values->data + (size_t)start * stride + field->offset;
  bool plain = field->kind == PS_FIELD_COPY && field->bytes == stride;
  if (plain) { /* the only field: lent like any value */
    buffers[1] = stride ? (const void *)from : zeros;
  } else {
    uint64_t bytes =
        field->kind == PS_FIELD_BOOL ? ((uint64_t)count + 7) / 8 : (uint64_t)count * field->bytes;
    uint8_t *to = make(block, bytes);
    buffers[1] = to;
    if (!to) return;
    if (field->kind == PS_FIELD_BOOL)
      gather_bits(from, stride, count, to);
    else if (field->kind == PS_FIELD_SWAP || field->swapped)
      gather_swapped(from, stride, count, field->bytes, to);
    else
      gather(from, stride, count, field->bytes, to);
    if (field->kind == PS_FIELD_TIME) {
      buffers[0] =
          time_validity(block, (const int64_t *)to, values->validity, start, count, &node->null_count);
      return;
    }
  }
  if (values->validity) {
    buffers[0] = copy_validity(block, values->validity, start, count);
    node->null_count = -1;
  }
}

static void fill_headers(array_block *block, struct ArrowArray *node, const ps_columns *columns,
                         uint32_t start, uint32_t count) {
  uint32_t headers = columns->has_headers ? columns->header_count : 0;
  const void **buffers = array_fill(block, node, count, 2);
  if (columns->has_headers) {
    node->offset = start;
    buffers[1] = columns->header_lists;
  } else {
    buffers[1] = make_zeros(block, ((uint64_t)count + 1) * 4);
  }
  struct ArrowArray *item = array_adopt(block, node, 1);
  array_fill(block, item, headers, 1);
  struct ArrowArray *pair = array_adopt(block, item, 2);
  if (columns->has_headers) {
    fill_binary(block, pair, &columns->header_keys, false, -1, 0, headers);
    fill_binary(block, pair + 1, &columns->header_values, false, -1, 0, headers);
  } else {
    const ps_binary none = {.offsets = (const int32_t *)zeros, .data = zeros, .width = -1};
    fill_binary(block, pair, &none, false, -1, 0, 0);
    fill_binary(block, pair + 1, &none, false, -1, 0, 0);
  }
}

static ps_status finish(array_block *block, struct ArrowArray *out) {
  if (PS_LIKELY(!block->failed)) return PS_OK;
  out->release(out);
  return PS_NO_MEMORY;
}

ps_status ps_arrow_batch(const ps_arrow_plan *plan, ps_lease *lease, const ps_columns *columns,
                         int64_t base_offset, uint32_t start, uint32_t count, struct ArrowArray *out) {
  uint32_t width = columns_of(plan);
  array_block *block = array_block_new(lease, width + BELOW_HEADERS);
  out->release = NULL;
  if (!block) return PS_NO_MEMORY;
  array_fill(block, out, count, 1);
  struct ArrowArray *column = array_adopt(block, out, width);
  fill_offsets(block, column++, columns, base_offset, start, count);
  fill_timestamps(block, column++, columns, start, count);
  fill_binary(block, column++, &columns->keys, !columns->has_keys, plan->key_width, start, count);
  if (!plan->field_count)
    fill_binary(block, column++, &columns->values, false, plan->value_width, start, count);
  for (uint32_t i = 0; i < plan->field_count; i++)
    fill_field(block, column++, &plan->fields[i], &columns->values, start, count);
  fill_headers(block, column, columns, start, count);
  return finish(block, out);
}

ps_status ps_arrow_binary(ps_lease *lease, const ps_binary *column, bool absent, int32_t width,
                          uint32_t start, uint32_t count, struct ArrowArray *out) {
  array_block *block = array_block_new(lease, 0);
  out->release = NULL;
  if (!block) return PS_NO_MEMORY;
  fill_binary(block, out, column, absent, width, start, count);
  return finish(block, out);
}
