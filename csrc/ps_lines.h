/* ps_lines.h - lines of text as columns of a batch, and back. Stateless; no allocation; any thread.
 *
 * A line ends with a delimiter of one byte, which is not part of it. Bytes mean nothing else here: text and
 * anything that is not text are split alike. Only whole lines are taken: who has come to the end of the
 * input puts the delimiter of the last line there himself. */
#ifndef PS_LINES_H
#define PS_LINES_H

#include "ps_base.h"
#include "ps_frame.h"

/* Bytes behind what is used of an output that may be written to: lines are copied in whole vectors. */
#define PS_LINES_SLACK 64u

/* What one batch may take. A line counts with its bytes and record_bytes. */
typedef struct ps_lines_limits {
  uint64_t bytes_max;
  uint32_t record_bytes;
  uint32_t count_max;
} ps_lines_limits;

typedef struct ps_lines_found {
  size_t taken; /* bytes of input, up to behind the delimiter of the last line taken */
  uint32_t count;
  bool full; /* a limit ended it: there is a further line, which alone exceeds bytes_max if count is 0 */
} ps_lines_found;

/* Split: the values end to end in `data` (room: bytes + PS_LINES_SLACK), offsets[0] = 0 and one more for
 * each line (room: count_max + 1). bytes < 2^31. */
void ps_lines_split(const uint8_t *in, size_t bytes, uint8_t delimiter, const ps_lines_limits *limits,
                    uint8_t *data, int32_t *offsets, ps_lines_found *found);

/* How a line is read that is more than a value. */
typedef struct ps_lines_form {
  const uint8_t *separator; /* of key and value: its first occurrence; a line without it has no key */
  size_t separator_bytes;   /* 0: no keys */
  const uint8_t *null_text; /* a key or value of exactly these bytes is null; NULL: none is */
  size_t null_bytes;
  uint8_t delimiter;
  bool strip_cr; /* one carriage return before the delimiter is not part of the line */
} ps_lines_form;

/* One column being filled. Room: data as for ps_lines_split, offsets count_max + 1, validity a bit for each
 * of count_max; its unused bits come out zero. */
typedef struct ps_lines_column {
  uint8_t *data;
  int32_t *offsets;
  uint8_t *validity;
  uint32_t nulls;
} ps_lines_column;

/* Split, and each line into key and value. `keys` is not touched when there is no separator. A null takes no
 * bytes. */
void ps_lines_split_keyed(const uint8_t *in, size_t bytes, const ps_lines_form *form,
                          const ps_lines_limits *limits, ps_lines_column *keys, ps_lines_column *values,
                          ps_lines_found *found);

/* How records are written as lines. */
typedef struct ps_lines_text {
  const uint8_t *separator; /* after a key; a null key is written without it, unless as null_text */
  size_t separator_bytes;
  const uint8_t *null_text; /* what stands for null; NULL: nothing */
  size_t null_bytes;
  int delimiter; /* after each record; -1: none */
} ps_lines_text;

/* Join rows from .. from + count of a batch's columns into `out`, as many as fit `room` bytes (behind which
 * PS_LINES_SLACK bytes may be written). keys: NULL leaves them out; a column without offsets and with
 * width < 0 is all null. *rows: how many were written. Returns their bytes; 0 rows: the first does not fit.
 */
size_t ps_lines_join(const ps_lines_text *text, const ps_binary *keys, const ps_binary *values, uint32_t from,
                     uint32_t count, uint8_t *out, size_t room, uint32_t *rows);
/* Row i of a column: its first byte, or NULL for null. */
const uint8_t *ps_lines_row(const ps_binary *column, uint32_t i, size_t *bytes);

#endif
