/* ps_rows.h - rows of text files: where they end, their partition, and rows of columns as JSON objects.
 *
 * Pure functions over memory that the caller owns. Columns come as Arrow lends them: 32-bit offsets, data,
 * and a validity bitmap or NULL. */
#ifndef PS_ROWS_H
#define PS_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ps_row_rules {
  uint8_t delimiter; /* of fields; looked at only where there is a quote */
  int16_t quote;     /* a byte, or -1 where line ends cannot be quoted */
  bool cr_ends;      /* a carriage return ends a row too, alone or before a line feed */
} ps_row_rules;

/* Find the rows of `bytes` (below 2^31) of text: row i is data[starts[i]] up to data[ends[i]], without what
 * ended it. Empty rows are passed over. A quote counts where a field begins, and a doubled one within quotes
 * stands for itself, as Arrow's CSV reader has it. `last`: what follows the last row end is a row too. Stops
 * after `capacity` rows. Returns the number of rows; *consumed is where the next one begins. */
size_t ps_rows_split(const uint8_t *data, size_t bytes, const ps_row_rules *rules, bool last, int32_t *starts,
                     int32_t *ends, size_t capacity, size_t *consumed);

/* Put rows end to end: out needs the sum of their sizes, offsets count + 1 places. */
void ps_rows_gather(const uint8_t *data, const int32_t *starts, const int32_t *ends, size_t count,
                    uint8_t *out, int32_t *offsets);

/* One column of text. Slot i is data[offsets[i]] up to data[offsets[i + 1]]; null where validity says so. */
typedef struct ps_text {
  const uint8_t *validity; /* NULL: no nulls */
  int64_t bit;             /* of slot 0 in validity */
  const int32_t *offsets;
  const uint8_t *data;
} ps_text;

/* Kafka's partition of each key; -1 for a null one. */
void ps_rows_partition(const ps_text *keys, size_t count, uint32_t partitions, int32_t *out);

/* How a column's text becomes a JSON value. */
typedef enum ps_cell {
  PS_CELL_TEXT,         /* a string */
  PS_CELL_TEXT_OR_NULL, /* a string; null where it is one of the words for nothing ("", NA, null ...) */
  PS_CELL_NUMBER,       /* a number, digit for digit; null for those words and for infinities */
  PS_CELL_FLOAT,        /* the same, with ".0" where a whole number has neither point nor exponent */
  PS_CELL_BOOL,         /* true, false, 1, 0, in the spellings that Arrow's CSV reader knows */
  PS_CELL_JSON,         /* JSON already */
} ps_cell;

typedef struct ps_json_column {
  ps_text text;
  const uint8_t *lead; /* what stands before the value: {"name": or ,"name": */
  size_t lead_bytes;
  ps_cell cell;
} ps_json_column;

/* Write rows first .. first + count of the columns as JSON objects, end to end from out[*used]. offsets[i +
 * 1] is the end of row i and bad[i] the column that could not be written there, or -1; such a row is left
 * empty. Stops before a row that might not fit `capacity`. Returns the rows done, with *used after them. */
size_t ps_rows_to_json(const ps_json_column *columns, size_t column_count, size_t first, size_t count,
                       uint8_t *out, size_t capacity, size_t *used, int32_t *offsets, int32_t *bad);
/* Bytes that row `row` may need at most. */
size_t ps_rows_json_bound(const ps_json_column *columns, size_t column_count, size_t row);

#endif
