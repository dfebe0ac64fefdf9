/* Batches of any shape as Arrow arrays: a consumer that knows nothing but the schema reads every slot. */
#include "fuzz.h"
#include "ps_arrow.h"

static uint64_t read_bytes(const uint8_t *p, size_t bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes; i++) sum += p[i];
  return sum;
}

static size_t width_of(const char *format) {
  if (format[0] == 'w') return (size_t)atol(format + 2);
  return strchr("cC", format[0]) ? 1 : strchr("sS", format[0]) ? 2 : strchr("iIf", format[0]) ? 4 : 8;
}

/* Slots 0 .. length of the node, as the Arrow specification says where they are. */
static uint64_t read_array(const struct ArrowSchema *schema, const struct ArrowArray *a, int64_t least) {
  const char *format = schema->format;
  uint64_t sum = 0;
  FUZZ_CHECK(a->release && a->length >= least && a->offset >= 0 && a->dictionary == NULL);
  FUZZ_CHECK(a->n_children == schema->n_children);
  const uint8_t *valid = a->buffers[0];
  int64_t nulls = 0, end = a->offset + a->length;
  for (int64_t i = a->offset; valid && i < end; i++) nulls += !((valid[i >> 3] >> (i & 7)) & 1);
  FUZZ_CHECK(a->null_count == -1 || a->null_count == nulls);
  if (strcmp(format, "+s") == 0) {
    FUZZ_CHECK(a->n_buffers == 1);
    for (int64_t i = 0; i < a->n_children; i++) sum += read_array(schema->children[i], a->children[i], end);
  } else if (strcmp(format, "+l") == 0) {
    const int32_t *lists = a->buffers[1];
    FUZZ_CHECK(a->n_buffers == 2 && lists);
    for (int64_t i = a->offset; i < end; i++) FUZZ_CHECK(lists[i] >= 0 && lists[i] <= lists[i + 1]);
    sum += read_array(schema->children[0], a->children[0], lists[end]);
  } else if (strcmp(format, "z") == 0 || strcmp(format, "u") == 0) {
    const int32_t *offsets = a->buffers[1];
    FUZZ_CHECK(a->n_buffers == 3 && offsets && a->buffers[2]);
    for (int64_t i = a->offset; i < end; i++) FUZZ_CHECK(offsets[i] >= 0 && offsets[i] <= offsets[i + 1]);
    sum += read_bytes((const uint8_t *)a->buffers[2] + offsets[a->offset],
                      (size_t)(offsets[end] - offsets[a->offset]));
  } else if (strcmp(format, "b") == 0) {
    sum += read_bytes((const uint8_t *)a->buffers[1] + a->offset / 8,
                      (size_t)(end + 7) / 8 - (size_t)a->offset / 8);
  } else {
    size_t width = width_of(format);
    FUZZ_CHECK(a->n_buffers == 2 && a->buffers[1]);
    sum += read_bytes((const uint8_t *)a->buffers[1] + (size_t)a->offset * width, (size_t)a->length * width);
  }
  return sum;
}

/* Fields somewhere in a value of `width` bytes. */
static ps_arrow_plan *plan_for(const ps_frame_meta *m, fuzz_in *in) {
  static const struct {
    const char *format;
    uint32_t bytes;
    ps_field_kind kind;
  } kinds[] = {{"C", 1, PS_FIELD_COPY},   {"s", 2, PS_FIELD_SWAP},    {"i", 4, PS_FIELD_COPY},
               {"l", 8, PS_FIELD_SWAP},   {"b", 1, PS_FIELD_BOOL},    {"tsn:", 8, PS_FIELD_TIME},
               {"w:3", 3, PS_FIELD_COPY}, {"w:16", 16, PS_FIELD_COPY}};
  uint32_t width = m->value_width > 0 ? (uint32_t)m->value_width : 0;
  uint32_t fields = width ? (uint32_t)fuzz_take(in, 1) % 5 : 0;
  ps_arrow_plan *plan = ps_arrow_plan_new(m->key_width, m->value_width, fields);
  FUZZ_CHECK(plan);
  for (uint32_t i = 0; i < fields; i++) {
    unsigned pick = (unsigned)fuzz_take(in, 1) & 7;
    uint32_t offset = (uint32_t)fuzz_take(in, 1);
    if (kinds[pick].bytes > width) pick = 0;
    offset %= width - kinds[pick].bytes + 1;
    FUZZ_CHECK(ps_arrow_plan_set(plan, i, "f", kinds[pick].format, offset, kinds[pick].bytes,
                                 kinds[pick].kind, i & 1));
    FUZZ_CHECK(!ps_arrow_plan_set(plan, i, "f", "a format of too many bytes", 0, 1, PS_FIELD_COPY, false));
  }
  return plan;
}

static void export_batch(ps_arrow_plan *plan, const ps_frame_meta *m, const ps_columns *columns,
                         uint32_t start, uint32_t count, bool apart) {
  struct ArrowSchema schema;
  struct ArrowArray array;
  ps_lease *lease = ps_lease_of_body(1);
  FUZZ_CHECK(lease && ps_arrow_schema(plan, &schema) == PS_OK);
  FUZZ_CHECK(ps_arrow_batch(plan, lease, columns, m->base_offset, start, count, &array) == PS_OK);
  FUZZ_CHECK(array.length == count);
  (void)read_array(&schema, &array, count);
  if (apart && array.n_children > 1) { /* a child may be moved out, and outlive its parent */
    struct ArrowArray child = *array.children[1];
    struct ArrowSchema name = *schema.children[1];
    array.children[1]->release = NULL;
    schema.children[1]->release = NULL;
    array.release(&array);
    schema.release(&schema);
    (void)read_array(&name, &child, count);
    child.release(&child);
    name.release(&name);
  } else {
    array.release(&array);
    schema.release(&schema);
  }
  const ps_binary *all[] = {&columns->values, &columns->keys};
  for (int i = 0; i < 2; i++) {
    bool absent = i == 1 && !columns->has_keys;
    FUZZ_CHECK(ps_arrow_binary_schema(all[i]->width, &schema) == PS_OK);
    FUZZ_CHECK(ps_arrow_binary(lease, all[i], absent, all[i]->width, start, count, &array) == PS_OK);
    (void)read_array(&schema, &array, count);
    array.release(&array);
    schema.release(&schema);
  }
  ps_lease_unref(lease);
}

FUZZ_TARGET(arrow) {
  fuzz_in in = {data, data + size};
  unsigned options = (unsigned)fuzz_take(&in, 1);
  uint32_t start = (uint32_t)fuzz_take(&in, 1), count = (uint32_t)fuzz_take(&in, 1);
  size_t asked = 9, bytes;
  fuzz_in fields = {.p = fuzz_bytes(&in, &asked)};
  fields.end = fields.p + asked;
  uint8_t *p = fuzz_rest(&in, &bytes);
  ps_frame_meta m;
  ps_columns columns;
  fuzz_seal_frame(p, bytes, FUZZ_SALT, 256, -1, FUZZ_FITTED);
  if (ps_frame_decode_header(p, bytes, FUZZ_SALT, 256, &m) == PS_OK && ps_frame_body_ok(p, &m)) {
    uint8_t *raw = NULL;
    FUZZ_CHECK(posix_memalign((void **)&raw, PS_ALIGN, m.raw_bytes ? m.raw_bytes : 1) == 0);
    if (ps_frame_decompress(p, &m, raw) == PS_OK &&
        ps_frame_columns(&m, raw, m.raw_bytes, &columns) == PS_OK &&
        ps_columns_check(&m, &columns) == PS_OK) {
      if (start > columns.count) start = columns.count;
      if (count > columns.count - start) count = columns.count - start;
      ps_arrow_plan *plan = plan_for(&m, &fields);
      export_batch(plan, &m, &columns, start, count, options & 1);
      ps_arrow_plan_unref(plan);
    }
    free(raw);
  }
  free(p);
}
