/* ps_frame.h - one batch as bytes: header and columns, both ways. Stateless; no allocation; any
 * thread. Decoders take (pointer, limit), never read beyond it, and survive any bytes.
 *
 * Header checksum: xxh3-64 over the 192 header bytes with the checksum field taken as zero, seeded
 * with salt ^ (position * 0x9e3779b97f4a7c15): a frame is sound only in its own segment at its own
 * place, so that stale or copied bytes never pass for it. Body checksum: xxh3-64, unseeded, over
 * everything from the end of the header to frame_bytes, padding included, so that it can be made
 * before the append lock is taken. Lengths are trusted only after the header checksum.
 */
#ifndef PS_FRAME_H
#define PS_FRAME_H

#include "ps_base.h"
#include "ps_format.h"
#include "ps_hash.h"
#include "ps_status.h"

/* A frame header in memory. Field names follow FORMAT.md. */
typedef struct ps_frame_meta {
  uint64_t body_checksum;
  uint32_t frame_bytes;
  uint32_t attributes;
  int64_t base_offset;
  uint32_t record_count;
  uint32_t last_offset_delta;
  int64_t first_timestamp;
  int64_t max_timestamp;
  uint32_t stored_bytes;
  uint32_t raw_bytes;
  int32_t value_width;
  int32_t key_width;
  int64_t delete_horizon;
  int64_t durable_offset;
  int32_t leader_epoch;
  int32_t schema_id;
  int64_t producer_id;
  int32_t base_sequence;
  int16_t producer_epoch;
  uint8_t batch_uuid[16];
  uint32_t key_bytes;
  uint32_t value_bytes;
  uint32_t header_count;
  uint32_t header_key_bytes;
  uint32_t header_value_bytes;
} ps_frame_meta;

/* One variable or fixed width binary column. */
typedef struct ps_binary {
  const uint8_t *validity; /* NULL: no nulls */
  const int32_t *offsets;  /* count + 1, starting at 0; NULL when width >= 0 */
  const uint8_t *data;
  uint32_t bytes; /* of data */
  int32_t width;  /* -1 = variable */
} ps_binary;

/* The columns of a batch, as pointers: what encode takes and decode gives. Nothing is owned. */
typedef struct ps_columns {
  uint32_t count;
  const uint32_t *offset_deltas; /* NULL: dense */
  const int64_t *timestamps;     /* NULL: all equal to first_timestamp */
  int64_t first_timestamp;       /* of record 0; PS_TIMESTAMP_NONE = none */
  bool has_keys;                 /* false: every key is null */
  ps_binary keys;
  ps_binary values;
  bool has_headers;
  const int32_t *header_lists; /* count + 1, into the header columns */
  uint32_t header_count;
  ps_binary header_keys; /* never null */
  ps_binary header_values;
} ps_columns;

/* A batch made ready to be written: everything that needs no lock is done. pieces hold the body and
 * its padding, in order, frame_bytes - PS_FRAME_HEADER_BYTES bytes in all; they point into the
 * caller's columns and scratch, which must outlive it. Offset, epoch and durable offset are filled by
 * the log under its lock. */
#define PS_PIECES_MAX 32
typedef struct ps_prepared {
  ps_frame_meta meta;
  ps_piece pieces[PS_PIECES_MAX];
  size_t piece_count;
} ps_prepared;

/* A meta with every optional field at "none". */
void ps_frame_meta_init(ps_frame_meta *meta);

/* Bytes of the body uncompressed; of the whole frame when stored raw (header and padding included).
 * Sizes beyond 2^31 come back as such, so that the caller can refuse them. */
uint64_t ps_columns_raw_bytes(const ps_columns *columns);
uint64_t ps_frame_bytes_raw(const ps_columns *columns);
/* Scratch that ps_frame_prepare needs for this codec; 0 when none. */
uint64_t ps_frame_scratch_bytes(const ps_columns *columns, uint32_t codec);

/* Lay out, compress if it pays (at least 1/16 saved; else stored raw and flagged so), checksum.
 * `proto` gives the optional header fields (producer id, uuid, attribute flags ...); layout,
 * sizes, counts, widths, timestamps and codec are taken from the columns. When
 * columns->timestamps turn out all equal the column is left out; so it is when proto has
 * PS_ATTR_LOG_APPEND_TIME, which must be set for topics that take the log's clock. PS_TOO_LARGE when the
 * frame would exceed frame_bytes_max. */
ps_status ps_frame_prepare(const ps_columns *columns, const ps_frame_meta *proto, uint32_t codec,
                           uint32_t frame_bytes_max, void *scratch, uint64_t scratch_bytes, ps_prepared *out,
                           ps_error *err);
/* An empty frame that stands for `offsets` (>= 1) offsets and holds no record. */
void ps_frame_prepare_empty(uint32_t offsets, ps_prepared *out);

/* Write the header of a frame that stands at `position` of a segment with `salt`: 192 bytes. */
void ps_frame_encode_header(const ps_frame_meta *meta, uint64_t salt, uint64_t position, uint8_t *out);
/* Copy the pieces end to end. */
void ps_pieces_copy(const ps_piece *pieces, size_t count, uint8_t *out);

/* Decode and check the header at p, which stands at `position`. limit is the number of readable
 * bytes at p. PS_END when nothing was ever written there (magic zero), PS_CORRUPT when the bytes are
 * not a sound header (or the frame would pass the limit), PS_VERSION for an unknown codec, layout or
 * attribute. Never fills an error: the caller knows the place. */
ps_status ps_frame_decode_header(const uint8_t *p, uint64_t limit, uint64_t salt, uint64_t position,
                                 ps_frame_meta *meta);
/* Compare the body checksum. p is the frame's first byte; meta has been decoded from it. */
bool ps_frame_body_ok(const uint8_t *p, const ps_frame_meta *meta);
/* Decompress the body of a frame into out (meta->raw_bytes). PS_CORRUPT when it does not fit exactly. */
ps_status ps_frame_decompress(const uint8_t *p, const ps_frame_meta *meta, uint8_t *out);
/* Point columns into an uncompressed body of raw_bytes. Checks that every column lies inside and
 * that sizes agree with the header; O(1). PS_CORRUPT otherwise. */
ps_status ps_frame_columns(const ps_frame_meta *meta, const uint8_t *body, uint64_t raw_bytes,
                           ps_columns *out);
/* The O(n) half of the same check: offsets start at 0, never fall, end at the data's size; deltas rise
 * and stay within last_offset_delta; header lists likewise. Run once, when a batch is first verified. */
ps_status ps_columns_check(const ps_frame_meta *meta, const ps_columns *columns);

static inline uint32_t ps_frame_codec(const ps_frame_meta *m) { return m->attributes & PS_ATTR_CODEC_MASK; }
/* First offset after the frame. */
static inline int64_t ps_frame_next_offset(const ps_frame_meta *m) {
  return m->base_offset + (int64_t)m->last_offset_delta + 1;
}
static inline bool ps_bit(const uint8_t *bits, uint32_t i) {
  return !bits || ((bits[i >> 3] >> (i & 7)) & 1);
}
/* Index of the first record whose offset is >= offset (count when none). */
uint32_t ps_columns_find_offset(const ps_columns *c, int64_t base_offset, int64_t offset);

#endif
