/* ps_arrow.h - batches and topics in the Arrow C data interface
 * (https://arrow.apache.org/docs/format/CDataInterface.html).
 *
 * Keys, values and headers are lent: their buffers are the batch's own memory, and a slice is said with
 * the children's `offset`. Offsets, equal timestamps, missing validity and the fields of a dtype are
 * made. Every exported node, parent or child, holds a reference on one shared block, so that nodes may
 * be moved out and released apart. Release callbacks call no Python and may run on any thread. */
#ifndef PS_ARROW_H
#define PS_ARROW_H

#include "ps_frame.h"
#include "ps_lease.h"

/* The structures and their guard are those of the Arrow specification. */
#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE
#define ARROW_FLAG_DICTIONARY_ORDERED 1
#define ARROW_FLAG_NULLABLE 2
#define ARROW_FLAG_MAP_KEYS_SORTED 4
struct ArrowSchema {
  const char *format;
  const char *name;
  const char *metadata;
  int64_t flags;
  int64_t n_children;
  struct ArrowSchema **children;
  struct ArrowSchema *dictionary;
  void (*release)(struct ArrowSchema *);
  void *private_data;
};
struct ArrowArray {
  int64_t length;
  int64_t null_count;
  int64_t offset;
  int64_t n_buffers;
  int64_t n_children;
  const void **buffers;
  struct ArrowArray **children;
  struct ArrowArray *dictionary;
  void (*release)(struct ArrowArray *);
  void *private_data;
};
#endif
#ifndef ARROW_C_STREAM_INTERFACE
#define ARROW_C_STREAM_INTERFACE
struct ArrowArrayStream {
  int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *out);
  int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *out);
  const char *(*get_last_error)(struct ArrowArrayStream *);
  void (*release)(struct ArrowArrayStream *);
  void *private_data;
};
#endif

/* How a field of a dtype becomes an Arrow column. */
typedef enum ps_field_kind {
  PS_FIELD_COPY = 0, /* its bytes as they are */
  PS_FIELD_SWAP,     /* its bytes in reverse: big-endian numbers */
  PS_FIELD_BOOL,     /* one byte to one bit */
  PS_FIELD_TIME      /* as COPY, INT64_MIN is null */
} ps_field_kind;

#define PS_ARROW_FORMAT_BYTES 16
typedef struct ps_arrow_field {
  char *name;
  char format[PS_ARROW_FORMAT_BYTES];
  uint32_t offset; /* in the value */
  uint32_t bytes;
  ps_field_kind kind;
  bool swapped; /* TIME: big-endian */
} ps_arrow_field;

/* What all batches of a topic export as. Counted; immutable once in use. With no fields the values are
 * one binary column. */
typedef struct ps_arrow_plan {
  int64_t refs; /* atomic */
  int32_t key_width;
  int32_t value_width;
  char key_format[PS_ARROW_FORMAT_BYTES];
  char value_format[PS_ARROW_FORMAT_BYTES];
  uint32_t field_count;
  ps_arrow_field *fields;
} ps_arrow_plan;

/* NULL: no memory. */
ps_arrow_plan *ps_arrow_plan_new(int32_t key_width, int32_t value_width, uint32_t field_count);
/* Describe field i; name and format are copied. False: no memory, or a format too long. */
bool ps_arrow_plan_set(ps_arrow_plan *plan, uint32_t i, const char *name, const char *format, uint32_t offset,
                       uint32_t bytes, ps_field_kind kind, bool swapped);
void ps_arrow_plan_ref(ps_arrow_plan *plan);
void ps_arrow_plan_unref(ps_arrow_plan *plan);

/* All fill *out or leave it released, and answer PS_OK or PS_NO_MEMORY. */
ps_status ps_arrow_schema(ps_arrow_plan *plan, struct ArrowSchema *out);
/* Records start .. start + count of a batch. base_offset is the frame's. */
ps_status ps_arrow_batch(const ps_arrow_plan *plan, ps_lease *lease, const ps_columns *columns,
                         int64_t base_offset, uint32_t start, uint32_t count, struct ArrowArray *out);
/* One binary column on its own; absent: every slot is null. */
ps_status ps_arrow_binary_schema(int32_t width, struct ArrowSchema *out);
ps_status ps_arrow_binary(ps_lease *lease, const ps_binary *column, bool absent, int32_t width,
                          uint32_t start, uint32_t count, struct ArrowArray *out);

#endif
