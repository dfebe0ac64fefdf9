/* ps_builder.h - the records of a batch that is still open: growable columns in memory.
 *
 * Owned by one caller at a time; not locked. Every column is made for `capacity` bytes the first time it is
 * needed, so that adding a record to a builder in use is a bounds check and a memcpy. When that is used up,
 * the owner, who knows what memory there is, has it grow or takes the batch for full. `bytes` never falls
 * below the bytes of the frame the columns would make when stored raw, so that a builder that stays within
 * its bounds always fits its segment.
 *
 * Nulls cost nothing until the first one: a validity bitmap starts with the first null, key and header
 * columns with the first record that has some, the timestamp column with the first timestamp that
 * differs from the batch's. What came before is filled in then. */
#ifndef PS_BUILDER_H
#define PS_BUILDER_H

#include "ps_frame.h"

typedef struct ps_header {
  const char *key; /* UTF-8 */
  const void *value;
  uint32_t key_bytes;
  int32_t value_bytes; /* -1: null */
} ps_header;

typedef struct ps_record {
  const void *value;
  const void *key;
  int64_t value_bytes; /* -1: null */
  int64_t key_bytes;   /* -1: null */
  int64_t timestamp;   /* PS_TIMESTAMP_NONE is a value of its own */
  const ps_header *headers;
  uint32_t header_count;
  bool has_timestamp; /* false: the batch's own, `stamp` */
} ps_record;

typedef struct ps_column_buffer {
  uint8_t *data;     /* NULL until needed */
  int32_t *offsets;  /* rows + 1; NULL until needed, and when the width is fixed */
  uint8_t *validity; /* bits beyond the rows are zero */
  uint32_t bytes;    /* of data in use */
  int32_t width;     /* -1 = variable */
  bool has_nulls;
} ps_column_buffer;

typedef struct ps_builder {
  uint32_t count;
  uint32_t count_max;
  uint32_t bytes;        /* upper bound of the raw frame */
  uint32_t bytes_max;    /* wanted; one record alone may pass it */
  uint32_t room;         /* what `bytes` may reach in the columns as they are: bytes_max or capacity */
  uint32_t record_bytes; /* what each record costs beside its own bytes, with the columns there are */
  bool plain;            /* values without nulls and nothing else, so far */
  bool keyed;            /* values and keys without nulls and nothing else, so far */
  ps_column_buffer values;
  ps_column_buffer keys;
  bool has_keys;
  bool has_headers;
  bool has_timestamps;
  int64_t stamp; /* the timestamp of records that bring none; set by the owner at the first */
  int64_t *timestamps;
  int32_t *header_lists;
  uint32_t header_count;
  ps_column_buffer header_keys;
  ps_column_buffer header_values;
  uint32_t frame_bytes_max; /* what a frame may have */
  uint32_t capacity;        /* `bytes` the columns are made for */
  /* For whoever queues it. */
  struct ps_builder *next;
  int64_t deadline_ns;
  int64_t base_offset;
  uint32_t lane;
  bool tracked; /* is handed back when finished, whatever the producer reports */
  void *user;
  ps_error error;
} ps_builder;

/* The least that columns are made for. */
#define PS_BUILDER_CAPACITY_MIN 1024u
/* What a frame costs before its first record: header, padding, and alignment of each column. */
#define PS_BUILDER_FIXED_BYTES (PS_FRAME_HEADER_BYTES + PS_ALIGN + 14u * (PS_COLUMN_ALIGN + 4u))

/* NULL: no memory. bytes_max is brought between 1 and frame_bytes_max, count_max between 1 and
 * PS_RECORDS_PER_BATCH_MAX. Its capacity is what bytes_max asks for. */
ps_builder *ps_builder_new(int32_t value_width, int32_t key_width, uint32_t bytes_max, uint32_t count_max,
                           uint32_t frame_bytes_max);
void ps_builder_free(ps_builder *builder);
/* Other limits, as for ps_builder_new, of a builder that is empty. */
void ps_builder_limit(ps_builder *builder, uint32_t bytes_max, uint32_t frame_bytes_max);
/* Columns for so many bytes, brought between PS_BUILDER_CAPACITY_MIN and what bytes_max asks for, in a
 * builder that is empty. Its memory is given back if that is another size. */
void ps_builder_size(ps_builder *builder, uint32_t capacity);
/* What the capacity is after growing once: twice as much, up to what bytes_max asks for; the same if there is
 * no growing. */
uint32_t ps_builder_grown(const ps_builder *builder);
/* Grow so, with what it holds. False: no memory, and nothing has changed. */
bool ps_builder_grow(ps_builder *builder);
/* Empty it for the next batch; gives back what an oversized record had made it grow to. */
void ps_builder_reset(ps_builder *builder);
/* Add one record, whole or not at all. PS_END: no room, and the builder holds records already.
 * PS_TOO_LARGE: it would not fit an empty builder either. PS_INVALID: a width or a header limit is not
 * kept. PS_NO_MEMORY. Only PS_OK changes what the columns say. */
ps_status ps_builder_add(ps_builder *builder, const ps_record *record);
/* Point columns at what has been added; valid until the next add or reset. */
void ps_builder_columns(const ps_builder *builder, ps_columns *out);
int64_t ps_builder_timestamp(const ps_builder *builder, uint32_t i);

static inline bool ps_builder_is_full(const ps_builder *b) {
  return b->bytes >= b->bytes_max || b->count >= b->count_max;
}

static inline bool ps_column_takes(const ps_column_buffer *c, size_t bytes) {
  return c->width < 0 || bytes == (size_t)c->width;
}
static inline void ps_column_put(ps_column_buffer *c, uint32_t row, const void *data, size_t bytes) {
  memcpy(c->data + c->bytes, data, bytes);
  c->bytes += (uint32_t)bytes;
  if (c->width < 0) c->offsets[row + 1] = (int32_t)c->bytes;
}

/* The common cases: a value, or a value and its key, into a builder that has seen nothing else. False:
 * nothing was done, use ps_builder_add. */
static inline bool ps_builder_add_plain(ps_builder *b, const void *value, size_t bytes) {
  uint64_t total = (uint64_t)b->bytes + b->record_bytes + bytes;
  if (PS_UNLIKELY(!b->plain || total > b->room || b->count >= b->count_max ||
                  !ps_column_takes(&b->values, bytes)))
    return false;
  ps_column_put(&b->values, b->count++, value, bytes);
  b->bytes = (uint32_t)total;
  return true;
}
static inline bool ps_builder_add_keyed(ps_builder *b, const void *value, size_t bytes, const void *key,
                                        size_t key_bytes) {
  uint64_t total = (uint64_t)b->bytes + b->record_bytes + bytes + key_bytes;
  if (PS_UNLIKELY(!b->keyed || total > b->room || b->count >= b->count_max ||
                  !ps_column_takes(&b->values, bytes) || !ps_column_takes(&b->keys, key_bytes)))
    return false;
  ps_column_put(&b->keys, b->count, key, key_bytes);
  ps_column_put(&b->values, b->count++, value, bytes);
  b->bytes = (uint32_t)total;
  return true;
}

#endif
