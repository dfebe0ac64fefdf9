/* ps_sieve.h - a batch without some of its records: the same offsets, timestamps, keys, values and headers,
 * and gaps where the others were.
 *
 * Owned by one thread. Its memory grows to what the largest batch took and is kept for the next. */
#ifndef PS_SIEVE_H
#define PS_SIEVE_H

#include "ps_frame.h"

typedef struct ps_sieve {
  uint32_t *kept; /* rows that stay, rising; the caller's to fill, after ps_sieve_rows */
  uint64_t kept_room;
  uint8_t *columns, *scratch; /* the columns of the new batch; to compress it in */
  uint64_t columns_room, scratch_room;
} ps_sieve;

void ps_sieve_init(ps_sieve *sieve);
void ps_sieve_free(ps_sieve *sieve);
/* Have room for `count` rows in `kept`. False: no memory. */
bool ps_sieve_rows(ps_sieve *sieve, uint32_t count);
/* Make the batch of `kept_count` (>= 1) rows of `columns`, whose header said `meta`: it stands for the same
 * offsets, and keeps epoch, producer and all else that is not of the records left out. `delete_horizon` as it
 * is to be. Compressed as it was. The answer's pieces are in the sieve's memory, or the columns', until the
 * next call. PS_TOO_LARGE: with its gaps the batch would fit no segment. */
ps_status ps_sieve_batch(ps_sieve *sieve, const ps_frame_meta *meta, const ps_columns *columns,
                         uint32_t kept_count, int64_t delete_horizon, ps_prepared *out, ps_error *err);

#endif
