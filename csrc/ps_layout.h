/* ps_layout.h - where each column of a body stands: the one place that knows their order. Used by the
 * two halves of ps_frame.h, ps_frame.c and ps_prepare.c, and by nobody else. */
#ifndef PS_LAYOUT_H
#define PS_LAYOUT_H

#include "ps_frame.h"

enum ps_column {
  PS_COL_OFFSET_DELTAS,
  PS_COL_TIMESTAMPS,
  PS_COL_KEY_VALIDITY,
  PS_COL_KEY_OFFSETS,
  PS_COL_KEY_DATA,
  PS_COL_VALUE_VALIDITY,
  PS_COL_VALUE_OFFSETS,
  PS_COL_VALUE_DATA,
  PS_COL_HEADER_LISTS,
  PS_COL_HEADER_KEY_OFFSETS,
  PS_COL_HEADER_KEY_DATA,
  PS_COL_HEADER_VALUE_VALIDITY,
  PS_COL_HEADER_VALUE_OFFSETS,
  PS_COL_HEADER_VALUE_DATA,
  PS_COLUMN_COUNT
};

/* Flags that describe which columns stand in the body. */
#define PS_ATTR_COLUMNS                                                                  \
  (PS_ATTR_TIMESTAMPS_EQUAL | PS_ATTR_OFFSET_DELTAS | PS_ATTR_KEYS | PS_ATTR_KEY_NULLS | \
   PS_ATTR_VALUE_NULLS | PS_ATTR_HEADERS | PS_ATTR_HEADER_NULLS)

typedef struct ps_layout {
  uint64_t at[PS_COLUMN_COUNT]; /* from the body's first byte; 0 for a column without bytes */
  uint64_t bytes[PS_COLUMN_COUNT];
  uint64_t end; /* of the last column that has bytes */
} ps_layout;

static inline uint64_t ps_bitmap_bytes(uint64_t bits) { return (bits + 7) / 8; }

/* Place the columns of a batch whose header says `m`. 64-bit sums of 32-bit sizes cannot overflow. */
static inline void ps_layout_make(const ps_frame_meta *m, ps_layout *l) {
  memset(l, 0, sizeof *l);
  uint64_t n = m->record_count, h = m->header_count;
  if (n == 0) return; /* an empty frame has no body, not even the single offset of an empty column */

  uint32_t has = m->attributes;
  uint64_t *size = l->bytes;
  if (has & PS_ATTR_OFFSET_DELTAS) size[PS_COL_OFFSET_DELTAS] = n * sizeof(uint32_t);
  if (!(has & PS_ATTR_TIMESTAMPS_EQUAL)) size[PS_COL_TIMESTAMPS] = n * sizeof(int64_t);
  if (has & PS_ATTR_KEYS) {
    if (has & PS_ATTR_KEY_NULLS) size[PS_COL_KEY_VALIDITY] = ps_bitmap_bytes(n);
    if (m->key_width < 0) size[PS_COL_KEY_OFFSETS] = (n + 1) * sizeof(int32_t);
    size[PS_COL_KEY_DATA] = m->key_bytes;
  }
  if (has & PS_ATTR_VALUE_NULLS) size[PS_COL_VALUE_VALIDITY] = ps_bitmap_bytes(n);
  if (m->value_width < 0) size[PS_COL_VALUE_OFFSETS] = (n + 1) * sizeof(int32_t);
  size[PS_COL_VALUE_DATA] = m->value_bytes;
  if (has & PS_ATTR_HEADERS) {
    size[PS_COL_HEADER_LISTS] = (n + 1) * sizeof(int32_t);
    size[PS_COL_HEADER_KEY_OFFSETS] = (h + 1) * sizeof(int32_t);
    size[PS_COL_HEADER_KEY_DATA] = m->header_key_bytes;
    if (has & PS_ATTR_HEADER_NULLS) size[PS_COL_HEADER_VALUE_VALIDITY] = ps_bitmap_bytes(h);
    size[PS_COL_HEADER_VALUE_OFFSETS] = (h + 1) * sizeof(int32_t);
    size[PS_COL_HEADER_VALUE_DATA] = m->header_value_bytes;
  }
  for (int i = 0; i < PS_COLUMN_COUNT; i++) {
    if (size[i] == 0) continue;
    l->at[i] = ps_align_up(l->end, PS_COLUMN_ALIGN);
    l->end = l->at[i] + size[i];
  }
}

static inline uint64_t ps_layout_frame_bytes(uint64_t stored_bytes) {
  return ps_align_up(PS_FRAME_HEADER_BYTES + stored_bytes, PS_ALIGN);
}

#endif
