/* ps_slice.h - some records of a batch, as columns of a batch of their own. Stateless; no allocation.
 *
 * Data is not copied, offsets and bitmaps are: they begin at the first record. Offset deltas are left out, so
 * that the records stand side by side. */
#ifndef PS_SLICE_H
#define PS_SLICE_H

#include "ps_frame.h"

/* Memory that ps_columns_slice needs for `count` records from `start` on; start + count <= columns->count. */
uint64_t ps_slice_bytes(const ps_columns *columns, uint32_t start, uint32_t count);
/* Point *out at these records: into the columns' own memory, and into `memory` (8-byte aligned), which hold
 * for as long as it is used. */
void ps_columns_slice(const ps_columns *columns, uint32_t start, uint32_t count, void *memory,
                      ps_columns *out);
/* Does every record have a key? */
bool ps_columns_keyed(const ps_columns *columns);

#endif
