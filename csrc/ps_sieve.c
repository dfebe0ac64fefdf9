#include "ps_sieve.h"

void ps_sieve_init(ps_sieve *sieve) { memset(sieve, 0, sizeof *sieve); }

void ps_sieve_free(ps_sieve *sieve) {
  free(sieve->kept);
  free(sieve->columns);
  free(sieve->scratch);
  ps_sieve_init(sieve);
}

static bool grow(void *slot, uint64_t *room, uint64_t bytes) {
  void *now;
  if (bytes <= *room) return true;
  memcpy(&now, slot, sizeof now);
  free(now); /* nothing in it is needed any more */
  bytes = ps_align_up(bytes + bytes / 4, PS_ALIGN);
  now = malloc(bytes);
  *room = now ? bytes : 0;
  memcpy(slot, &now, sizeof now);
  return now != NULL;
}

bool ps_sieve_rows(ps_sieve *sieve, uint32_t count) {
  uint64_t room = sieve->kept_room * sizeof *sieve->kept;
  bool grown = grow(&sieve->kept, &room, (uint64_t)count * sizeof *sieve->kept);
  sieve->kept_room = room / sizeof *sieve->kept;
  return grown;
}

/* Memory handed out piece by piece, each on a column's boundary. */
typedef struct arena {
  uint8_t *next;
} arena;

static void *take(arena *a, uint64_t bytes) {
  uint8_t *p = a->next;
  a->next += ps_align_up(bytes, PS_COLUMN_ALIGN);
  return p;
}

static uint64_t binary_bytes(const ps_binary *b, uint64_t rows) {
  return (rows + 7) / 8 + (rows + 1) * sizeof(int32_t) + b->bytes + 4 * PS_COLUMN_ALIGN;
}

/* How many of kept[i..] follow one another: they are copied as one. */
static uint32_t run_from(const uint32_t *kept, uint32_t count, uint32_t i) {
  uint32_t n = 1;
  while (i + n < count && kept[i + n] == kept[i] + n) n++;
  return n;
}

static uint32_t data_start(const ps_binary *b, uint32_t row) {
  return b->offsets ? (uint32_t)b->offsets[row] : row * (uint32_t)b->width;
}

static ps_binary pick_binary(arena *a, const ps_binary *in, const uint32_t *kept, uint32_t count) {
  ps_binary out = {.width = in->width};
  int32_t *offsets = in->offsets ? take(a, ((uint64_t)count + 1) * sizeof *offsets) : NULL;
  uint8_t *validity = in->validity ? take(a, ((uint64_t)count + 7) / 8) : NULL;
  uint8_t *data = a->next;
  bool nulls = false;
  if (validity) memset(validity, 0, ((uint64_t)count + 7) / 8);
  if (offsets) offsets[0] = 0;
  for (uint32_t i = 0, n; i < count; i += n) {
    n = run_from(kept, count, i);
    uint32_t from = data_start(in, kept[i]), bytes = data_start(in, kept[i] + n) - from;
    if (bytes) memcpy(data + out.bytes, in->data + from, bytes);
    for (uint32_t j = 0; offsets && j < n; j++)
      offsets[i + j + 1] = (int32_t)((uint32_t)in->offsets[kept[i] + j + 1] - from + out.bytes);
    for (uint32_t j = 0; validity && j < n; j++) {
      bool valid = ps_bit(in->validity, kept[i] + j);
      validity[(i + j) / 8] |= (uint8_t)(valid << ((i + j) % 8));
      nulls = nulls || !valid;
    }
    out.bytes += bytes;
  }
  take(a, out.bytes);
  out.offsets = offsets;
  out.validity = nulls ? validity : NULL; /* as whoever never had a null would write it */
  out.data = data;
  return out;
}

/* The rows of the header columns that belong to the kept records. They take the place of `kept` in the lists.
 */
static void pick_headers(arena *a, const ps_columns *in, const uint32_t *kept, uint32_t count,
                         ps_columns *out) {
  int32_t *lists = take(a, ((uint64_t)count + 1) * sizeof *lists);
  uint32_t *rows = take(a, (uint64_t)in->header_count * sizeof *rows), n = 0;
  lists[0] = 0;
  for (uint32_t i = 0; i < count; i++) {
    for (int32_t h = in->header_lists[kept[i]]; h < in->header_lists[kept[i] + 1]; h++)
      rows[n++] = (uint32_t)h;
    lists[i + 1] = (int32_t)n;
  }
  if (n == 0) return; /* those that had some are gone */
  out->has_headers = true;
  out->header_lists = lists;
  out->header_count = n;
  out->header_keys = pick_binary(a, &in->header_keys, rows, n);
  out->header_values = pick_binary(a, &in->header_values, rows, n);
}

static uint64_t columns_bytes(const ps_columns *in, uint64_t kept_count) {
  uint64_t bytes = kept_count * (sizeof(uint32_t) + sizeof(int64_t)) + 4 * PS_COLUMN_ALIGN;
  bytes += binary_bytes(&in->values, kept_count);
  if (in->has_keys) bytes += binary_bytes(&in->keys, kept_count);
  if (!in->has_headers) return bytes;
  bytes += (kept_count + 1) * sizeof(int32_t) + (uint64_t)in->header_count * sizeof(uint32_t);
  return bytes + binary_bytes(&in->header_keys, in->header_count) +
         binary_bytes(&in->header_values, in->header_count);
}

/* Whether any key that stays is there: a batch of null keys has no key column. */
static bool any_key(const ps_binary *keys, const uint32_t *kept, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    if (ps_bit(keys->validity, kept[i])) return true;
  return false;
}

ps_status ps_sieve_batch(ps_sieve *sieve, const ps_frame_meta *meta, const ps_columns *in, uint32_t count,
                         int64_t delete_horizon, ps_prepared *out, ps_error *err) {
  PS_ASSERT(count >= 1 && count <= in->count);
  const uint32_t *kept = sieve->kept;
  if (!grow(&sieve->columns, &sieve->columns_room, columns_bytes(in, count)))
    return ps_fail(err, PS_NO_MEMORY, NULL, "writing a batch anew");
  arena a = {sieve->columns};
  ps_columns c = {.count = count};
  c.keys.width = in->keys.width;
  c.header_keys.width = c.header_values.width = -1;
  uint32_t *deltas = take(&a, (uint64_t)count * sizeof *deltas);
  for (uint32_t i = 0; i < count; i++) deltas[i] = in->offset_deltas ? in->offset_deltas[kept[i]] : kept[i];
  c.offset_deltas = deltas;
  c.first_timestamp = in->timestamps ? in->timestamps[kept[0]] : in->first_timestamp;
  if (in->timestamps) {
    int64_t *times = take(&a, (uint64_t)count * sizeof *times);
    for (uint32_t i = 0; i < count; i++) times[i] = in->timestamps[kept[i]];
    c.timestamps = times;
  }
  c.has_keys = in->has_keys && any_key(&in->keys, kept, count);
  if (c.has_keys) c.keys = pick_binary(&a, &in->keys, kept, count);
  c.values = pick_binary(&a, &in->values, kept, count);
  if (in->has_headers) pick_headers(&a, in, kept, count, &c);

  uint32_t codec = ps_frame_codec(meta);
  if (!grow(&sieve->scratch, &sieve->scratch_room, ps_frame_scratch_bytes(&c, codec)))
    return ps_fail(err, PS_NO_MEMORY, NULL, "writing a batch anew");
  ps_frame_meta proto = *meta;
  proto.delete_horizon = delete_horizon;
  return ps_frame_prepare(&c, &proto, codec, PS_FRAME_BYTES_MAX(PS_SEGMENT_BYTES_MAX), sieve->scratch,
                          sieve->scratch_room, out, err);
}
