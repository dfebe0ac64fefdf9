/* ps_format.h - every constant of the on-disk format, version 1. FORMAT.md draws the bytes.
 *
 * All integers are little-endian and naturally aligned. Each field's offset is the previous offset
 * plus the previous length; a bare number appears only where a length is defined. Reserved bytes are
 * written as zero and refused when they are not. Nothing here may change once released: a new need
 * takes a reserved field, a feature bit, or a new format version.
 */
#ifndef PS_FORMAT_H
#define PS_FORMAT_H

#include <stdint.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "pystream maps its format natively and so needs a little-endian machine"
#endif

#define PS_FORMAT_VERSION 1u

/* Frames, seals and the frame body all start on this boundary (one cache line). */
#define PS_ALIGN 64u
/* Columns inside a body start on this boundary (Arrow asks for 8). */
#define PS_COLUMN_ALIGN 8u

/* Feature bits known to this code. An unknown incompatible bit refuses the file; an unknown
 * compatible bit is ignored. */
#define PS_INCOMPAT_KNOWN 0ull
#define PS_COMPAT_KNOWN 0ull

/* A timestamp of this value means "none". Timestamps are nanoseconds since the Unix epoch. */
#define PS_TIMESTAMP_NONE INT64_MIN
/* "Not set" for producer id, producer epoch, sequence, schema id and delete horizon. */
#define PS_NONE (-1)

/* ---- segment header: the first PS_SEGMENT_HEADER_BYTES of a BASE20.log ---------------------- */
#define PS_SEGMENT_MAGIC 0x31304745534c5350ull              /* "PSLSEG01" */
#define PS_SEG_MAGIC_OFF 0u                                 /* u64 */
#define PS_SEG_VERSION_OFF (PS_SEG_MAGIC_OFF + 8u)          /* u32 */
#define PS_SEG_HEADER_LEN_OFF (PS_SEG_VERSION_OFF + 4u)     /* u32, PS_SEGMENT_HEADER_BYTES */
#define PS_SEG_INCOMPAT_OFF (PS_SEG_HEADER_LEN_OFF + 4u)    /* u64 */
#define PS_SEG_COMPAT_OFF (PS_SEG_INCOMPAT_OFF + 8u)        /* u64 */
#define PS_SEG_BASE_OFFSET_OFF (PS_SEG_COMPAT_OFF + 8u)     /* i64 */
#define PS_SEG_TOPIC_UUID_OFF (PS_SEG_BASE_OFFSET_OFF + 8u) /* 16 bytes */
#define PS_SEG_SALT_OFF (PS_SEG_TOPIC_UUID_OFF + 16u)       /* u64, random, never zero */
#define PS_SEG_CREATED_OFF (PS_SEG_SALT_OFF + 8u)           /* i64 ns */
#define PS_SEG_EPOCH_OFF (PS_SEG_CREATED_OFF + 8u)          /* i32 leader epoch */
#define PS_SEG_PARTITION_OFF (PS_SEG_EPOCH_OFF + 4u)        /* u32 */
#define PS_SEG_CAPACITY_OFF (PS_SEG_PARTITION_OFF + 4u)     /* u32 bytes, header and seal included */
#define PS_SEG_RESERVED_OFF (PS_SEG_CAPACITY_OFF + 4u)
#define PS_SEG_CHECKSUM_OFF (PS_SEGMENT_HEADER_BYTES - 8u) /* u64 xxh3 of all bytes before it */
#define PS_SEGMENT_HEADER_BYTES 256u

/* ---- seal: written after the last frame when a segment is finished -------------------------- */
#define PS_SEAL_MAGIC32 0x4c455350u                        /* "PSEL" */
#define PS_SEAL_MAGIC_OFF 0u                               /* u32 */
#define PS_SEAL_LEN_OFF (PS_SEAL_MAGIC_OFF + 4u)           /* u32, PS_SEAL_BYTES */
#define PS_SEAL_CHECKSUM_OFF (PS_SEAL_LEN_OFF + 4u)        /* u64, over the seal without this field, seeded */
#define PS_SEAL_END_OFFSET_OFF (PS_SEAL_CHECKSUM_OFF + 8u) /* i64, first offset not in the segment */
#define PS_SEAL_FRAMES_OFF (PS_SEAL_END_OFFSET_OFF + 8u)   /* u64 */
#define PS_SEAL_MAX_TIMESTAMP_OFF (PS_SEAL_FRAMES_OFF + 8u) /* i64 ns or PS_TIMESTAMP_NONE */
#define PS_SEAL_RESERVED_OFF (PS_SEAL_MAX_TIMESTAMP_OFF + 8u)
#define PS_SEAL_BYTES 64u

/* ---- frame header: one batch ---------------------------------------------------------------- */
#define PS_FRAME_MAGIC 0x42465350u /* "PSFB"; zero in this place means never written: the end */
#define PS_FRAME_MAGIC_OFF 0u      /* u32 */
#define PS_FRAME_HEADER_LEN_OFF (PS_FRAME_MAGIC_OFF + 4u)              /* u32, PS_FRAME_HEADER_BYTES */
#define PS_FRAME_HEADER_CHECKSUM_OFF (PS_FRAME_HEADER_LEN_OFF + 4u)    /* u64 xxh3, seeded: ps_frame.h */
#define PS_FRAME_BODY_CHECKSUM_OFF (PS_FRAME_HEADER_CHECKSUM_OFF + 8u) /* u64 xxh3, unseeded */
#define PS_FRAME_BYTES_OFF (PS_FRAME_BODY_CHECKSUM_OFF + 8u)           /* u32, header + body + padding */
#define PS_FRAME_ATTRIBUTES_OFF (PS_FRAME_BYTES_OFF + 4u)              /* u32, PS_ATTR_* */
#define PS_FRAME_BASE_OFFSET_OFF (PS_FRAME_ATTRIBUTES_OFF + 4u)        /* i64 */
#define PS_FRAME_COUNT_OFF (PS_FRAME_BASE_OFFSET_OFF + 8u)             /* u32 records; 0 is legal */
#define PS_FRAME_LAST_DELTA_OFF (PS_FRAME_COUNT_OFF + 4u)              /* u32, last offset - base offset */
#define PS_FRAME_FIRST_TIMESTAMP_OFF (PS_FRAME_LAST_DELTA_OFF + 4u)    /* i64 ns */
#define PS_FRAME_MAX_TIMESTAMP_OFF (PS_FRAME_FIRST_TIMESTAMP_OFF + 8u) /* i64 ns */
#define PS_FRAME_STORED_BYTES_OFF (PS_FRAME_MAX_TIMESTAMP_OFF + 8u)    /* u32 body bytes as stored */
#define PS_FRAME_RAW_BYTES_OFF (PS_FRAME_STORED_BYTES_OFF + 4u)        /* u32 body bytes uncompressed */
#define PS_FRAME_VALUE_WIDTH_OFF (PS_FRAME_RAW_BYTES_OFF + 4u)         /* i32, -1 = variable */
#define PS_FRAME_KEY_WIDTH_OFF (PS_FRAME_VALUE_WIDTH_OFF + 4u)         /* i32, -1 = variable */
#define PS_FRAME_DELETE_HORIZON_OFF (PS_FRAME_KEY_WIDTH_OFF + 4u)      /* i64 ns or PS_NONE */
#define PS_FRAME_DURABLE_OFFSET_OFF (PS_FRAME_DELETE_HORIZON_OFF + 8u) /* i64, as known when written */
#define PS_FRAME_EPOCH_OFF (PS_FRAME_DURABLE_OFFSET_OFF + 8u)          /* i32 leader epoch */
#define PS_FRAME_SCHEMA_ID_OFF (PS_FRAME_EPOCH_OFF + 4u)               /* i32 or PS_NONE */
#define PS_FRAME_PRODUCER_ID_OFF (PS_FRAME_SCHEMA_ID_OFF + 4u)         /* i64 or PS_NONE */
#define PS_FRAME_BASE_SEQUENCE_OFF (PS_FRAME_PRODUCER_ID_OFF + 8u)     /* i32 or PS_NONE */
#define PS_FRAME_PRODUCER_EPOCH_OFF (PS_FRAME_BASE_SEQUENCE_OFF + 4u)  /* i16 or PS_NONE */
#define PS_FRAME_RESERVED16_OFF (PS_FRAME_PRODUCER_EPOCH_OFF + 2u)     /* u16 zero */
#define PS_FRAME_BATCH_UUID_OFF (PS_FRAME_RESERVED16_OFF + 2u)         /* 16 bytes, zero = none */
#define PS_FRAME_KEY_BYTES_OFF (PS_FRAME_BATCH_UUID_OFF + 16u)         /* u32, bytes of key data */
#define PS_FRAME_VALUE_BYTES_OFF (PS_FRAME_KEY_BYTES_OFF + 4u)         /* u32, bytes of value data */
#define PS_FRAME_HEADER_COUNT_OFF (PS_FRAME_VALUE_BYTES_OFF + 4u)      /* u32, headers in the batch */
#define PS_FRAME_HEADER_KEY_BYTES_OFF (PS_FRAME_HEADER_COUNT_OFF + 4u) /* u32, bytes of header keys */
#define PS_FRAME_HEADER_VALUE_BYTES_OFF (PS_FRAME_HEADER_KEY_BYTES_OFF + 4u) /* u32 */
#define PS_FRAME_RESERVED_OFF (PS_FRAME_HEADER_VALUE_BYTES_OFF + 4u)
#define PS_FRAME_HEADER_BYTES 192u

/* Attributes. Bits 0-2 the codec, bits 3-5 the body layout, then one bit a flag. */
#define PS_ATTR_CODEC_MASK 0x7u
#define PS_CODEC_NONE 0u
#define PS_CODEC_LZ4 1u /* LZ4 block format over the whole body */
#define PS_ATTR_LAYOUT_SHIFT 3u
#define PS_ATTR_LAYOUT_MASK (0x7u << PS_ATTR_LAYOUT_SHIFT)
#define PS_LAYOUT_COLUMNS 0u               /* the columns listed below */
#define PS_LAYOUT_ARROW 1u                 /* reserved: an Arrow record batch */
#define PS_LAYOUT_KAFKA 2u                 /* reserved: a Kafka record batch as it came */
#define PS_ATTR_TIMESTAMPS_EQUAL (1u << 6) /* every record has first_timestamp; no timestamp column */
#define PS_ATTR_LOG_APPEND_TIME (1u << 7)
#define PS_ATTR_TRANSACTIONAL (1u << 8)
#define PS_ATTR_CONTROL (1u << 9)
#define PS_ATTR_DELETE_HORIZON (1u << 10)
#define PS_ATTR_OFFSET_DELTAS (1u << 11) /* the offset delta column is present: offsets have gaps */
#define PS_ATTR_KEYS (1u << 12)          /* key columns present; absent = every key is null */
#define PS_ATTR_KEY_NULLS (1u << 13)     /* key validity bitmap present */
#define PS_ATTR_VALUE_NULLS (1u << 14)   /* value validity bitmap present */
#define PS_ATTR_HEADERS (1u << 15)       /* header columns present */
#define PS_ATTR_HEADER_NULLS (1u << 16)  /* header value validity bitmap present */
#define PS_ATTR_KNOWN 0x1ffffu

/* Body, layout 0. Columns in this order, each on PS_COLUMN_ALIGN, present as the attributes say:
 *   offset deltas u32[n] | timestamps i64[n]
 *   key validity bits[n] | key offsets i32[n+1] (variable width) | key data
 *   value validity bits[n] | value offsets i32[n+1] (variable width) | value data
 *   header list offsets i32[n+1] | header key offsets i32[h+1] | header key data (UTF-8)
 *   header value validity bits[h] | header value offsets i32[h+1] | header value data
 * Bits are least significant first, 1 = valid, as in Arrow. Null slots have zero length, or are
 * zero-filled when the width is fixed. raw_bytes is the end of the last column, not aligned. */

/* ---- index entry: BASE20.index is an index header, then entries, zero-filled to its end ------ */
#define PS_INDEX_MAGIC 0x3130584449535350ull                  /* "PSSIDX01" */
#define PS_INDEX_MAGIC_OFF 0u                                 /* u64 */
#define PS_INDEX_VERSION_OFF (PS_INDEX_MAGIC_OFF + 8u)        /* u32 */
#define PS_INDEX_ENTRY_LEN_OFF (PS_INDEX_VERSION_OFF + 4u)    /* u32, PS_INDEX_ENTRY_BYTES */
#define PS_INDEX_SALT_OFF (PS_INDEX_ENTRY_LEN_OFF + 4u)       /* u64, the segment's salt */
#define PS_INDEX_BASE_OFFSET_OFF (PS_INDEX_SALT_OFF + 8u)     /* i64 */
#define PS_INDEX_INTERVAL_OFF (PS_INDEX_BASE_OFFSET_OFF + 8u) /* u32 bytes between entries */
#define PS_INDEX_CAPACITY_OFF (PS_INDEX_INTERVAL_OFF + 4u)    /* u32 entries there is room for */
#define PS_INDEX_RESERVED_OFF (PS_INDEX_CAPACITY_OFF + 4u)
#define PS_INDEX_CHECKSUM_OFF (PS_INDEX_HEADER_BYTES - 8u) /* u64 xxh3 of all bytes before it */
#define PS_INDEX_HEADER_BYTES 64u
#define PS_INDEX_ENTRY_OFFSET_OFF 0u                                   /* i64 base offset of the frame */
#define PS_INDEX_ENTRY_MAX_TS_OFF (PS_INDEX_ENTRY_OFFSET_OFF + 8u)     /* i64, of all frames before it */
#define PS_INDEX_ENTRY_POSITION_OFF (PS_INDEX_ENTRY_MAX_TS_OFF + 8u)   /* u64; 0 = never written */
#define PS_INDEX_ENTRY_CHECKSUM_OFF (PS_INDEX_ENTRY_POSITION_OFF + 8u) /* u64 xxh3, seeded with the salt */
#define PS_INDEX_ENTRY_BYTES 32u

/* ---- epochs: one entry each time the leader epoch changes ------------------------------------ */
#define PS_EPOCH_MAGIC 0x48435045u                            /* "EPCH" */
#define PS_EPOCH_MAGIC_OFF 0u                                 /* u32 */
#define PS_EPOCH_EPOCH_OFF (PS_EPOCH_MAGIC_OFF + 4u)          /* i32 */
#define PS_EPOCH_FIRST_OFFSET_OFF (PS_EPOCH_EPOCH_OFF + 4u)   /* i64 */
#define PS_EPOCH_CREATED_OFF (PS_EPOCH_FIRST_OFFSET_OFF + 8u) /* i64 ns */
#define PS_EPOCH_CHECKSUM_OFF (PS_EPOCH_CREATED_OFF + 8u)     /* u64 xxh3 of all bytes before it */
#define PS_EPOCH_ENTRY_BYTES 32u

/* ---- head: the shared control page of a partition -------------------------------------------- */
/* Groups of words sit on lines of their own so that what one side writes often never slows what
 * the other side reads often. 128 bytes: x86 prefetches lines in pairs. */
#define PS_HEAD_LINE 128u
#define PS_HEAD_MAGIC 0x3130444145485350ull                      /* "PSHEAD01" */
#define PS_HEAD_MAGIC_OFF 0u                                     /* u64 */
#define PS_HEAD_VERSION_OFF (PS_HEAD_MAGIC_OFF + 8u)             /* u32 */
#define PS_HEAD_PARTITION_OFF (PS_HEAD_VERSION_OFF + 4u)         /* u32 */
#define PS_HEAD_TOPIC_UUID_OFF (PS_HEAD_PARTITION_OFF + 4u)      /* 16 bytes */
#define PS_HEAD_DEVICE_OFF (PS_HEAD_TOPIC_UUID_OFF + 16u)        /* u64 st_dev of this file */
#define PS_HEAD_INODE_OFF (PS_HEAD_DEVICE_OFF + 8u)              /* u64 st_ino of this file */
#define PS_HEAD_IDENTITY_CHECKSUM_OFF (PS_HEAD_INODE_OFF + 8u)   /* u64 xxh3 of all bytes before it */
#define PS_HEAD_STATE_OFF (PS_HEAD_LINE)                         /* u64, odd while an append is under way */
#define PS_HEAD_HOLDER_OFF (PS_HEAD_STATE_OFF + 8u)              /* u64 pid of the last writer, advisory */
#define PS_HEAD_HELD_FLAG (1ull << 63)                           /* of `holder`: keeps the append lock */
#define PS_HEAD_INCARNATION_OFF (2u * PS_HEAD_LINE)              /* u64 */
#define PS_HEAD_POISON_OFF (PS_HEAD_INCARNATION_OFF + 8u)        /* u64, 0 = sound, else errno | tag */
#define PS_HEAD_DELETED_OFF (PS_HEAD_POISON_OFF + 8u)            /* u64, PS_HEAD_DELETED_MAGIC = deleted */
#define PS_HEAD_LOG_START_OFF (PS_HEAD_DELETED_OFF + 8u)         /* i64 */
#define PS_HEAD_LOG_START_CHECK_OFF (PS_HEAD_LOG_START_OFF + 8u) /* u64, ~(log start * factor) */
#define PS_HEAD_BOOT_ID_OFF (PS_HEAD_LOG_START_CHECK_OFF + 8u)   /* 16 bytes */
#define PS_HEAD_FILES_OFF (PS_HEAD_BOOT_ID_OFF + 16u)        /* u64, moves when segments do; odd: meanwhile */
#define PS_HEAD_MOVES_OFF (PS_HEAD_FILES_OFF + 8u)           /* u64, moves when the topic is renamed */
#define PS_HEAD_CLEANED_OFF (PS_HEAD_MOVES_OFF + 8u)         /* i64, first offset not yet compacted */
#define PS_HEAD_CLEANED_CHECK_OFF (PS_HEAD_CLEANED_OFF + 8u) /* u64, ~cleaned */
#define PS_HEAD_HORIZON_OFF (PS_HEAD_CLEANED_CHECK_OFF + 8u) /* i64 ns, 0 = none: a tombstone may go then */
/* The log start once more: the two are written in turn, the sound one that is higher counts. */
#define PS_HEAD_LOG_START2_OFF (PS_HEAD_HORIZON_OFF + 8u)          /* i64 */
#define PS_HEAD_LOG_START2_CHECK_OFF (PS_HEAD_LOG_START2_OFF + 8u) /* u64 */
#define PS_HEAD_SLOT0_OFF (3u * PS_HEAD_LINE)
#define PS_HEAD_SLOT1_OFF (4u * PS_HEAD_LINE)
#define PS_HEAD_WATERMARK_OFF (5u * PS_HEAD_LINE)            /* i64, what readers may see ends here */
#define PS_HEAD_LOG_END_OFF (PS_HEAD_WATERMARK_OFF + 8u)     /* i64, copy of the good slot's offset */
#define PS_HEAD_DURABLE_OFF (6u * PS_HEAD_LINE)              /* i64 */
#define PS_HEAD_DURABLE_CHECK_OFF (PS_HEAD_DURABLE_OFF + 8u) /* u64, durable * PS_HEAD_DURABLE_FACTOR */
#define PS_HEAD_STABLE_OFF (7u * PS_HEAD_LINE)               /* i64 last stable offset, reserved */
#define PS_HEAD_SIGNAL_OFF (8u * PS_HEAD_LINE)               /* u32 futex word, moved by every wake-up */
#define PS_HEAD_SIGNAL_WAITED 1u                /* of `signal`: somebody waits for the next one */
#define PS_HEAD_WAITERS_OFF (9u * PS_HEAD_LINE) /* u32 reserved, 0 */
#define PS_HEAD_BYTES 4096u

/* Spreads each bit of a small number over a word: bytes of both that are torn do not fit each other. */
#define PS_HEAD_DURABLE_FACTOR 0x9e3779b97f4a7c15ull
#define PS_HEAD_DURABLE_INVERSE 0xf1de83e19937733dull
_Static_assert(PS_HEAD_DURABLE_FACTOR *PS_HEAD_DURABLE_INVERSE == 1, "modulo 2^64");

#define PS_HEAD_POISON_TAG 0x4e53494f50000000ull /* low 28 bits carry the errno */
#define PS_HEAD_DELETED_MAGIC 0x444554454c454450ull

/* A log-end slot; the two are written in turn, the sound one with the higher sequence counts. */
#define PS_SLOT_SEQUENCE_OFF 0u                             /* u64 */
#define PS_SLOT_LOG_END_OFF (PS_SLOT_SEQUENCE_OFF + 8u)     /* i64 next offset to give out */
#define PS_SLOT_SEGMENT_OFF (PS_SLOT_LOG_END_OFF + 8u)      /* i64 base offset of the active segment */
#define PS_SLOT_POSITION_OFF (PS_SLOT_SEGMENT_OFF + 8u)     /* u64 where the next frame goes */
#define PS_SLOT_FRAMES_OFF (PS_SLOT_POSITION_OFF + 8u)      /* u64 frames in the active segment */
#define PS_SLOT_MAX_TIMESTAMP_OFF (PS_SLOT_FRAMES_OFF + 8u) /* i64 of the active segment */
#define PS_SLOT_EPOCH_OFF (PS_SLOT_MAX_TIMESTAMP_OFF + 8u)  /* i32 leader epoch */
#define PS_SLOT_RESERVED_OFF (PS_SLOT_EPOCH_OFF + 4u)       /* u32 zero */
#define PS_SLOT_CHECKSUM_OFF (PS_SLOT_RESERVED_OFF + 4u)    /* u64 xxh3 of all bytes before it */
#define PS_SLOT_BYTES 64u

/* ---- live: the store's liveness file --------------------------------------------------------- */
#define PS_LIVE_MAGIC 0x31304556494c5350ull                /* "PSLIVE01" */
#define PS_LIVE_MAGIC_OFF 0u                               /* u64 */
#define PS_LIVE_INCARNATION_OFF (PS_LIVE_MAGIC_OFF + 8u)   /* u64, never zero */
#define PS_LIVE_BOOT_ID_OFF (PS_LIVE_INCARNATION_OFF + 8u) /* 16 bytes, a hint for people */
#define PS_LIVE_CHECKSUM_OFF (PS_LIVE_BOOT_ID_OFF + 16u)   /* u64 xxh3 of all bytes before it */
#define PS_LIVE_BYTES 40u
/* Byte ranges of the live file that are locked, never read: presence (shared by every opener), gate (held
 * while presence is being tested) and claim (held by whoever tends the whole store). */
#define PS_LIVE_LOCK_PRESENCE 4096
#define PS_LIVE_LOCK_GATE 4097
#define PS_LIVE_LOCK_CLAIM 4098

/* ---- groups/GROUP/control: what the members of a consumer group share --------------------------- */
#define PS_CONTROL_MAGIC 0x3150554f52475350ull                   /* "PSGROUP1" */
#define PS_CONTROL_MAGIC_OFF 0u                                  /* u64 */
#define PS_CONTROL_VERSION_OFF (PS_CONTROL_MAGIC_OFF + 8u)       /* u32 */
#define PS_CONTROL_RESERVED_OFF (PS_CONTROL_VERSION_OFF + 4u)    /* u32 zero */
#define PS_CONTROL_DEVICE_OFF (PS_CONTROL_RESERVED_OFF + 4u)     /* u64 st_dev of this file */
#define PS_CONTROL_INODE_OFF (PS_CONTROL_DEVICE_OFF + 8u)        /* u64 st_ino of this file */
#define PS_CONTROL_INCARNATION_OFF (PS_CONTROL_INODE_OFF + 8u)   /* u64, of the store */
#define PS_CONTROL_BOOT_ID_OFF (PS_CONTROL_INCARNATION_OFF + 8u) /* 16 bytes */
#define PS_CONTROL_CHECKSUM_OFF (PS_CONTROL_BOOT_ID_OFF + 16u)   /* u64 xxh3 of all bytes before it */
#define PS_CONTROL_STATE_OFF (PS_HEAD_LINE)                      /* u64 id of the state document, 0 = none */
#define PS_CONTROL_SIGNAL_OFF (2u * PS_HEAD_LINE)                /* u32 futex word, changed by every change */
#define PS_CONTROL_BYTES 4096u
/* Byte ranges of the control file that are locked: while it is made anew, and while offsets are saved. */
#define PS_CONTROL_LOCK_GATE 4096
#define PS_CONTROL_LOCK_SAVE 4097

/* ---- groups/GROUP/member+ID: a member's own page, then its marks ------------------------------- */
#define PS_MEMBER_MAGIC 0x3152424d454d5350ull               /* "PSMEMBR1" */
#define PS_MEMBER_MAGIC_OFF 0u                              /* u64 */
#define PS_MEMBER_VERSION_OFF (PS_MEMBER_MAGIC_OFF + 8u)    /* u32 */
#define PS_MEMBER_RESERVED_OFF (PS_MEMBER_VERSION_OFF + 4u) /* u32 zero */
#define PS_MEMBER_ID_OFF (PS_MEMBER_RESERVED_OFF + 4u)      /* u64, as in the file's name */
#define PS_MEMBER_CHECKSUM_OFF (PS_MEMBER_ID_OFF + 8u)      /* u64 xxh3 of all bytes before it */
#define PS_MEMBER_FENCED_OFF (PS_HEAD_LINE)     /* u64, PS_MEMBER_FENCED = removed from the group */
#define PS_MEMBER_BEATS_OFF (2u * PS_HEAD_LINE) /* u64, changes while the member does anything */
#define PS_MEMBER_MARKS_OFF 4096u               /* i64 each: consumed up to here; -1 = nothing said */
#define PS_MEMBER_FENCED 0x4445434e45465350ull
#define PS_MEMBER_PAGE_MARKS (4096u / 8u)
#define PS_MEMBER_MARKS_MAX (1u << 20)
/* Locked by its member for as long as it lives. */
#define PS_MEMBER_LOCK 0

/* Byte ranges of a topic's `locks` file, PS_LOCK_STRIDE bytes a partition. */
#define PS_LOCK_APPEND 0
#define PS_LOCK_SYNC 1
#define PS_LOCK_MAINTAIN 2
#define PS_LOCK_STRIDE 16

/* ---- limits ----------------------------------------------------------------------------------- */
#define PS_SEGMENT_BYTES_MIN (64u << 10)
#define PS_SEGMENT_BYTES_MAX (0x7fffffffu & ~4095u) /* < 2^31, whole pages */
#define PS_RECORDS_PER_BATCH_MAX (1u << 24)
#define PS_HEADERS_PER_RECORD_MAX 1024u
#define PS_HEADER_KEY_BYTES_MAX 65535u
#define PS_PARTITIONS_MAX 65536u
#define PS_TOPIC_NAME_BYTES_MAX 249u
/* The largest frame that fits a segment of `capacity` bytes: room for header and seal is kept. */
#define PS_FRAME_BYTES_MAX(capacity) ((capacity)-PS_SEGMENT_HEADER_BYTES - PS_SEAL_BYTES)

_Static_assert(PS_SEG_RESERVED_OFF == 84u, "segment header grew");
_Static_assert(PS_SEG_RESERVED_OFF < PS_SEG_CHECKSUM_OFF, "segment header overflows");
_Static_assert(PS_SEGMENT_HEADER_BYTES % PS_ALIGN == 0, "first frame is aligned");
_Static_assert(PS_SEAL_RESERVED_OFF <= PS_SEAL_BYTES && PS_SEAL_BYTES == PS_ALIGN, "seal is one line");
_Static_assert(PS_FRAME_RESERVED_OFF == 156u, "frame header grew");
_Static_assert(PS_FRAME_RESERVED_OFF < PS_FRAME_HEADER_BYTES, "frame header overflows");
_Static_assert(PS_FRAME_HEADER_BYTES % PS_ALIGN == 0, "body is aligned");
_Static_assert(PS_FRAME_BASE_OFFSET_OFF % 8 == 0 && PS_FRAME_FIRST_TIMESTAMP_OFF % 8 == 0 &&
                   PS_FRAME_DELETE_HORIZON_OFF % 8 == 0 && PS_FRAME_PRODUCER_ID_OFF % 8 == 0 &&
                   PS_FRAME_BATCH_UUID_OFF % 8 == 0,
               "natural alignment");
_Static_assert(PS_INDEX_RESERVED_OFF <= PS_INDEX_CHECKSUM_OFF, "index header overflows");
_Static_assert(PS_INDEX_ENTRY_CHECKSUM_OFF + 8u == PS_INDEX_ENTRY_BYTES, "index entry size");
_Static_assert(PS_EPOCH_CHECKSUM_OFF + 8u == PS_EPOCH_ENTRY_BYTES, "epoch entry size");
_Static_assert(PS_SLOT_CHECKSUM_OFF + 8u == PS_SLOT_BYTES && PS_SLOT_BYTES <= PS_HEAD_LINE, "slot");
_Static_assert(PS_HEAD_IDENTITY_CHECKSUM_OFF + 8u <= PS_HEAD_STATE_OFF, "identity line");
_Static_assert(PS_HEAD_HORIZON_OFF + 8u <= PS_HEAD_LOG_START2_OFF &&
                   PS_HEAD_LOG_START2_CHECK_OFF + 8u <= PS_HEAD_SLOT0_OFF,
               "cold line");
_Static_assert(PS_HEAD_WAITERS_OFF + PS_HEAD_LINE <= PS_HEAD_BYTES, "head page");
_Static_assert(PS_LIVE_CHECKSUM_OFF + 8u == PS_LIVE_BYTES, "live file");
_Static_assert(PS_CONTROL_CHECKSUM_OFF + 8u <= PS_CONTROL_STATE_OFF, "control identity line");
_Static_assert(PS_CONTROL_SIGNAL_OFF + PS_HEAD_LINE <= PS_CONTROL_BYTES, "control page");
_Static_assert(PS_MEMBER_CHECKSUM_OFF + 8u <= PS_MEMBER_FENCED_OFF, "member identity line");
_Static_assert(PS_MEMBER_BEATS_OFF + PS_HEAD_LINE <= PS_MEMBER_MARKS_OFF, "member page");

#endif
