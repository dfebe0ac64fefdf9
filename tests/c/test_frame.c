#include "ps_batches.h"

#define SALT 0x0123456789abcdefull
#define POSITION 4096u

/* A whole frame at POSITION, in memory of exactly its size. */
static uint8_t *frame_write(const ps_columns *c, const ps_frame_meta *proto, uint32_t codec,
                            ps_frame_meta *meta) {
  ps_prepared prepared;
  ps_error err;
  uint64_t need = ps_frame_scratch_bytes(c, codec);
  uint8_t *scratch = need ? exactly(need) : NULL;
  ps_status status = ps_frame_prepare(c, proto, codec, PS_SEGMENT_BYTES_MAX, scratch, need, &prepared, &err);
  CHECK_MSG(status == PS_OK, "%s", err.what);
  uint64_t total = 0;
  for (size_t i = 0; i < prepared.piece_count; i++) {
    CHECK(prepared.pieces[i].bytes > 0);
    total += prepared.pieces[i].bytes;
  }
  CHECK_EQ(total, prepared.meta.frame_bytes - PS_FRAME_HEADER_BYTES);
  uint8_t *frame = exactly(prepared.meta.frame_bytes);
  ps_pieces_copy(prepared.pieces, prepared.piece_count, frame + PS_FRAME_HEADER_BYTES);
  prepared.meta.base_offset = proto->base_offset;
  ps_frame_encode_header(&prepared.meta, SALT, POSITION, frame);
  *meta = prepared.meta;
  free(scratch);
  return frame;
}

static uint8_t *frame_of(const shape *s, uint32_t codec, ps_frame_meta *meta) {
  ps_frame_meta proto;
  ps_frame_meta_init(&proto);
  batch b = batch_make(s);
  uint8_t *frame = frame_write(&b.columns, &proto, codec, meta);
  batch_free(&b);
  return frame;
}

/* Header, body checksum, body, columns: all that a reader does. *raw is the body it used; free it. */
static ps_status frame_read(const uint8_t *frame, uint64_t limit, ps_frame_meta *m, uint8_t **raw,
                            ps_columns *c) {
  *raw = NULL;
  ps_status status = ps_frame_decode_header(frame, limit, SALT, POSITION, m);
  if (status != PS_OK) return status;
  if (!ps_frame_body_ok(frame, m)) return PS_CORRUPT;
  *raw = exactly(m->raw_bytes);
  status = ps_frame_decompress(frame, m, *raw);
  if (status == PS_OK) status = ps_frame_columns(m, *raw, m->raw_bytes, c);
  return status == PS_OK ? ps_columns_check(m, c) : status;
}

static void check_round_trip(const shape *s, uint32_t codec) {
  batch b = batch_make(s);
  ps_frame_meta proto, written, read;
  ps_frame_meta_init(&proto);
  proto.base_offset = 1000;
  uint8_t *frame = frame_write(&b.columns, &proto, codec, &written), *raw;
  ps_columns c;
  CHECK_EQ(frame_read(frame, written.frame_bytes, &read, &raw, &c), PS_OK);
  CHECK(memcmp(&read.body_checksum, &written.body_checksum, 8) == 0 &&
        read.frame_bytes == written.frame_bytes);
  columns_same(&b.columns, &c, &read);
  CHECK(read.raw_bytes <= ps_columns_raw_bytes(&b.columns));
  if (ps_frame_codec(&read) == PS_CODEC_NONE) {
    CHECK(read.frame_bytes <= ps_frame_bytes_raw(&b.columns));
    CHECK_EQ(ps_frame_columns(&read, frame + PS_FRAME_HEADER_BYTES, read.raw_bytes, &c), PS_OK);
    columns_same(&b.columns, &c, &read);
  } else {
    CHECK(read.stored_bytes + (read.raw_bytes + 15) / 16 <= read.raw_bytes);
  }
  CHECK(!(read.attributes & PS_ATTR_TIMESTAMPS_EQUAL) == (s->times == TIMES_MIXED && c.timestamps != NULL));
  CHECK_EQ(ps_frame_columns(&read, raw, read.raw_bytes + 1, &c), PS_CORRUPT);
  if (read.raw_bytes) CHECK_EQ(ps_frame_columns(&read, raw, read.raw_bytes - 1, &c), PS_CORRUPT);
  free(raw);
  free(frame);
  batch_free(&b);
}

static uint32_t take(uint32_t *rest, uint32_t choices) {
  uint32_t choice = *rest % choices;
  *rest /= choices;
  return choice;
}

static void test_round_trips(void) {
  static const uint32_t counts[] = {0, 1, 2, 7, 8, 9, 65, 300};
  static const int32_t widths[] = {-1, 0, 1, 12};
  for (uint32_t i = 0; i < 8 * 4 * 2 * 4 * 3 * 3 * 4 * 2 * 2; i++) {
    uint32_t rest = i;
    shape s;
    s.count = counts[take(&rest, 8)];
    s.value_width = widths[take(&rest, 4)];
    s.values = take(&rest, 2) ? WITH_NULLS : PRESENT;
    s.key_width = widths[take(&rest, 4)];
    s.keys = (enum presence)take(&rest, 3);
    s.headers = (enum presence)take(&rest, 3);
    s.times = (enum times)take(&rest, 4);
    s.gaps = take(&rest, 2);
    s.compressible = take(&rest, 2);
    if (s.keys == ABSENT && s.key_width != -1) continue; /* no keys, no width */
    check_round_trip(&s, PS_CODEC_NONE);
    check_round_trip(&s, PS_CODEC_LZ4);
  }
}

static void test_every_header_field_is_kept(void) {
  shape s = {.count = 3, .value_width = -1, .key_width = -1, .values = PRESENT};
  batch b = batch_make(&s);
  ps_frame_meta p, m;
  ps_frame_meta_init(&p);
  p.attributes =
      PS_ATTR_LOG_APPEND_TIME | PS_ATTR_TRANSACTIONAL | PS_ATTR_CONTROL | PS_ATTR_KEYS | PS_CODEC_LZ4;
  p.base_offset = INT64_MAX - 3;
  p.delete_horizon = 12;
  p.durable_offset = 345;
  p.leader_epoch = 6;
  p.schema_id = 7;
  p.producer_id = 89;
  p.base_sequence = 10;
  p.producer_epoch = 11;
  random_fill(p.batch_uuid, sizeof p.batch_uuid);
  ps_frame_meta written;
  uint8_t *frame = frame_write(&b.columns, &p, PS_CODEC_NONE, &written);
  CHECK_EQ(ps_frame_decode_header(frame, written.frame_bytes, SALT, POSITION, &m), PS_OK);
  CHECK_EQ(m.attributes, PS_ATTR_LOG_APPEND_TIME | PS_ATTR_TRANSACTIONAL | PS_ATTR_CONTROL |
                             PS_ATTR_DELETE_HORIZON | PS_ATTR_TIMESTAMPS_EQUAL);
  CHECK(m.base_offset == p.base_offset && ps_frame_next_offset(&m) == INT64_MAX);
  CHECK(m.delete_horizon == 12 && m.durable_offset == 345 && m.leader_epoch == 6 && m.schema_id == 7);
  CHECK(m.producer_id == 89 && m.base_sequence == 10 && m.producer_epoch == 11);
  CHECK(memcmp(m.batch_uuid, p.batch_uuid, sizeof p.batch_uuid) == 0);
  CHECK(m.first_timestamp == PS_TIMESTAMP_NONE && m.max_timestamp == PS_TIMESTAMP_NONE);
  /* One offset more and the next one could not be counted. */
  written.base_offset++;
  ps_frame_encode_header(&written, SALT, POSITION, frame);
  CHECK_EQ(ps_frame_decode_header(frame, written.frame_bytes, SALT, POSITION, &m), PS_CORRUPT);
  free(frame);
  batch_free(&b);
}

static void test_the_log_s_clock_needs_no_column(void) {
  shape s = {.count = 20, .value_width = 4, .key_width = -1, .values = PRESENT, .times = TIMES_MIXED};
  batch b = batch_make(&s);
  ps_frame_meta proto, m, read;
  ps_frame_meta_init(&proto);
  proto.attributes = PS_ATTR_LOG_APPEND_TIME;
  uint8_t *frame = frame_write(&b.columns, &proto, PS_CODEC_NONE, &m), *raw;
  CHECK_EQ(m.raw_bytes, 80);
  m.first_timestamp = m.max_timestamp = 77; /* as the log does */
  ps_frame_encode_header(&m, SALT, POSITION, frame);
  ps_columns c;
  CHECK_EQ(frame_read(frame, m.frame_bytes, &read, &raw, &c), PS_OK);
  CHECK(c.timestamps == NULL && c.first_timestamp == 77);
  free(raw);
  free(frame);
  batch_free(&b);
}

static void test_empty_frames(void) {
  static const uint32_t spans[] = {1, 2, 1000000, UINT32_MAX};
  for (size_t i = 0; i < 4; i++) {
    ps_prepared p;
    ps_frame_meta m;
    uint8_t frame[PS_FRAME_HEADER_BYTES], *raw;
    ps_columns c;
    ps_frame_prepare_empty(spans[i], &p);
    CHECK(p.piece_count == 0 && p.meta.frame_bytes == PS_FRAME_HEADER_BYTES);
    p.meta.base_offset = 5;
    ps_frame_encode_header(&p.meta, SALT, POSITION, frame);
    CHECK_EQ(frame_read(frame, sizeof frame, &m, &raw, &c), PS_OK);
    CHECK_EQ(ps_frame_next_offset(&m), 5 + (int64_t)spans[i]);
    CHECK(c.count == 0 && c.values.offsets && c.values.offsets[0] == 0 && !c.has_keys && !c.has_headers);
    free(raw);
  }
}

static const shape samples[] = {
    {.count = 5,
     .value_width = -1,
     .key_width = -1,
     .values = WITH_NULLS,
     .keys = WITH_NULLS,
     .headers = WITH_NULLS,
     .times = TIMES_MIXED,
     .gaps = true},
    {.count = 40, .value_width = 8, .key_width = 4, .values = PRESENT, .keys = PRESENT, .times = TIMES_ONE},
    {.count = 200,
     .value_width = -1,
     .key_width = -1,
     .values = PRESENT,
     .keys = WITH_NULLS,
     .headers = PRESENT,
     .times = TIMES_MIXED,
     .compressible = true},
    {.count = 0, .value_width = -1, .key_width = -1, .values = PRESENT},
};
#define SAMPLES (sizeof samples / sizeof *samples)

static void test_every_flipped_bit_is_seen(void) {
  for (size_t i = 0; i < SAMPLES; i++)
    for (uint32_t codec = PS_CODEC_NONE; codec <= PS_CODEC_LZ4; codec++) {
      ps_frame_meta meta, m;
      uint8_t *frame = frame_of(&samples[i], codec, &meta);
      for (uint32_t bit = 0; bit < meta.frame_bytes * 8; bit++) {
        frame[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        ps_status status = ps_frame_decode_header(frame, meta.frame_bytes, SALT, POSITION, &m);
        if (bit / 8 < PS_FRAME_HEADER_BYTES)
          CHECK_MSG(status == PS_CORRUPT, "(header bit %u: status %d)", bit, status);
        else
          CHECK_MSG(status == PS_OK && !ps_frame_body_ok(frame, &m), "(body bit %u)", bit);
        frame[bit / 8] ^= (uint8_t)(1u << (bit % 8));
      }
      free(frame);
    }
}

static void test_a_frame_is_sound_only_in_its_place(void) {
  ps_frame_meta meta, m;
  uint8_t *frame = frame_of(&samples[0], PS_CODEC_NONE, &meta);
  CHECK_EQ(ps_frame_decode_header(frame, meta.frame_bytes, SALT, POSITION, &m), PS_OK);
  CHECK_EQ(ps_frame_decode_header(frame, meta.frame_bytes, SALT + 1, POSITION, &m), PS_CORRUPT);
  for (uint64_t position = 0; position < 1u << 20; position += PS_ALIGN)
    if (position != POSITION)
      CHECK_EQ(ps_frame_decode_header(frame, meta.frame_bytes, SALT, position, &m), PS_CORRUPT);
  free(frame);
}

static void test_truncation_at_every_limit(void) {
  for (size_t i = 0; i < SAMPLES; i++) {
    ps_frame_meta meta, m;
    uint8_t *frame = frame_of(&samples[i], PS_CODEC_NONE, &meta);
    for (uint32_t limit = 0; limit < meta.frame_bytes; limit++) {
      uint8_t *part = malloc(limit ? limit : 1);
      memcpy(part, frame, limit);
      CHECK_EQ(ps_frame_decode_header(part, limit, SALT, POSITION, &m), limit ? PS_CORRUPT : PS_END);
      if (limit >= 4) {
        memset(part, 0, limit);
        CHECK_EQ(ps_frame_decode_header(part, limit, SALT, POSITION, &m), PS_END);
      }
      free(part);
    }
    free(frame);
  }
}

/* A header patched at `at` with its checksum made right again: written on purpose, as it were. */
static ps_status decode_patched(const ps_frame_meta *meta, uint32_t at, const void *bytes, size_t count,
                                uint64_t limit) {
  uint8_t h[PS_FRAME_HEADER_BYTES];
  ps_frame_meta m;
  ps_frame_encode_header(meta, SALT, POSITION, h);
  memcpy(h + at, bytes, count);
  ps_store_u64(h + PS_FRAME_HEADER_CHECKSUM_OFF, 0);
  uint64_t seed = SALT ^ (POSITION * 0x9e3779b97f4a7c15ull);
  ps_store_u64(h + PS_FRAME_HEADER_CHECKSUM_OFF, ps_hash_seeded(h, sizeof h, seed));
  return ps_frame_decode_header(h, limit, SALT, POSITION, &m);
}

static void test_what_a_later_version_wrote(void) {
  ps_frame_meta meta;
  uint8_t *frame = frame_of(&samples[1], PS_CODEC_NONE, &meta);
  for (uint32_t bit = 17; bit < 32; bit++) {
    uint32_t attributes = meta.attributes | 1u << bit;
    CHECK_EQ(decode_patched(&meta, PS_FRAME_ATTRIBUTES_OFF, &attributes, 4, meta.frame_bytes), PS_VERSION);
  }
  for (uint32_t codec = 2; codec <= PS_ATTR_CODEC_MASK; codec++) {
    uint32_t attributes = (meta.attributes & ~PS_ATTR_CODEC_MASK) | codec;
    CHECK_EQ(decode_patched(&meta, PS_FRAME_ATTRIBUTES_OFF, &attributes, 4, meta.frame_bytes), PS_VERSION);
  }
  for (uint32_t layout = 1; layout < 8; layout++) {
    uint32_t attributes = meta.attributes | layout << PS_ATTR_LAYOUT_SHIFT;
    CHECK_EQ(decode_patched(&meta, PS_FRAME_ATTRIBUTES_OFF, &attributes, 4, meta.frame_bytes), PS_VERSION);
  }
  uint8_t one = 1;
  for (uint32_t at = PS_FRAME_RESERVED_OFF; at < PS_FRAME_HEADER_BYTES; at++)
    CHECK_EQ(decode_patched(&meta, at, &one, 1, meta.frame_bytes), PS_VERSION);
  for (uint32_t at = PS_FRAME_RESERVED16_OFF; at < PS_FRAME_RESERVED16_OFF + 2; at++)
    CHECK_EQ(decode_patched(&meta, at, &one, 1, meta.frame_bytes), PS_VERSION);
  free(frame);
}

static void test_lengths_that_contradict(void) {
  ps_frame_meta meta, m;
  uint8_t *frame = frame_of(&samples[1], PS_CODEC_NONE, &meta);
  CHECK_EQ(decode_patched(&meta, 0, frame, 4, meta.frame_bytes), PS_OK); /* the patch itself is sound */
#define REFUSED(field, value)                                          \
  do {                                                                 \
    m = meta;                                                          \
    m.field = (value);                                                 \
    CHECK_EQ(decode_patched(&m, 0, frame, 4, UINT32_MAX), PS_CORRUPT); \
  } while (0)
  REFUSED(frame_bytes, meta.frame_bytes + 64);
  REFUSED(frame_bytes, meta.frame_bytes - 64);
  REFUSED(frame_bytes, meta.frame_bytes + 1);
  REFUSED(frame_bytes, 0);
  REFUSED(frame_bytes, 64);
  REFUSED(frame_bytes, UINT32_MAX);
  REFUSED(stored_bytes, meta.stored_bytes + 64);
  REFUSED(stored_bytes, UINT32_MAX);
  REFUSED(raw_bytes, meta.raw_bytes - 1);
  REFUSED(raw_bytes, 0);
  REFUSED(record_count, meta.record_count + 1);
  REFUSED(record_count, 0);
  REFUSED(record_count, PS_RECORDS_PER_BATCH_MAX + 1);
  REFUSED(last_offset_delta, meta.last_offset_delta + 1);
  REFUSED(last_offset_delta, meta.last_offset_delta - 1);
  REFUSED(base_offset, -1);
  REFUSED(base_offset, INT64_MIN);
  REFUSED(base_offset, INT64_MAX);
  REFUSED(value_width, -2);
  REFUSED(value_width, meta.value_width + 1);
  REFUSED(value_width, INT32_MAX);
  REFUSED(value_bytes, meta.value_bytes + 1);
  REFUSED(key_width, -2);
  REFUSED(key_width, INT32_MIN);
  REFUSED(key_bytes, 0);
  REFUSED(max_timestamp, meta.first_timestamp + 1);
  REFUSED(max_timestamp, meta.first_timestamp - 1);
  REFUSED(header_count, 1);
  REFUSED(header_key_bytes, 1);
  REFUSED(header_value_bytes, 1);
  REFUSED(delete_horizon, 5);
  REFUSED(attributes, meta.attributes & ~PS_ATTR_KEYS);
  REFUSED(attributes, (meta.attributes & ~PS_ATTR_KEYS) | PS_ATTR_KEY_NULLS);
  REFUSED(attributes, meta.attributes | PS_ATTR_HEADER_NULLS);
  m = meta;
  m.attributes |= PS_CODEC_LZ4;
  m.raw_bytes = m.stored_bytes * 255;
  CHECK_EQ(decode_patched(&m, 0, frame, 4, UINT32_MAX), PS_OK);
  m.raw_bytes++;
  CHECK_EQ(decode_patched(&m, 0, frame, 4, UINT32_MAX), PS_CORRUPT);
#undef REFUSED
  /* The limit is where the readable bytes end, to the byte. */
  CHECK_EQ(decode_patched(&meta, 0, frame, 4, meta.frame_bytes), PS_OK);
  CHECK_EQ(decode_patched(&meta, 0, frame, 4, meta.frame_bytes - 1), PS_CORRUPT);
  free(frame);
}

static void test_random_bytes(void) {
  for (int round = 0; round < 200000; round++) {
    uint32_t limit = random_below(512);
    uint8_t *p = exactly(limit);
    random_fill(p, limit);
    if (limit >= 8 && random_below(4)) {
      ps_store_u32(p + PS_FRAME_MAGIC_OFF, PS_FRAME_MAGIC);
      if (random_below(2)) ps_store_u32(p + PS_FRAME_HEADER_LEN_OFF, PS_FRAME_HEADER_BYTES);
    }
    ps_frame_meta m;
    ps_status status = ps_frame_decode_header(p, limit, SALT, POSITION, &m);
    CHECK(status == PS_CORRUPT || status == PS_END);
    free(p);
  }
}

static uint32_t odd_number(uint32_t near) {
  static const uint32_t odd[] = {
      0, 1, 63, 64, 65, 0x7fffffff, 0x80000000, UINT32_MAX, PS_RECORDS_PER_BATCH_MAX};
  uint32_t pick = random_below(16);
  return pick < 9 ? odd[pick] : pick < 13 ? near + random_below(17) - 8 : (uint32_t)random_u64();
}

static volatile uint64_t walked;

/* A forged frame whose checksums are right gets past them, and then must still do no harm. */
static void check_forged(uint8_t *frame, uint64_t limit, uint64_t *passed) {
  if (limit > PS_FRAME_HEADER_BYTES) {
    uint64_t body = ps_hash(frame + PS_FRAME_HEADER_BYTES, limit - PS_FRAME_HEADER_BYTES);
    ps_store_u64(frame + PS_FRAME_BODY_CHECKSUM_OFF, body);
  }
  ps_store_u64(frame + PS_FRAME_HEADER_CHECKSUM_OFF, 0);
  uint64_t seed = SALT ^ (POSITION * 0x9e3779b97f4a7c15ull);
  ps_store_u64(frame + PS_FRAME_HEADER_CHECKSUM_OFF, ps_hash_seeded(frame, PS_FRAME_HEADER_BYTES, seed));
  ps_frame_meta m;
  ps_columns c;
  uint8_t *raw;
  if (frame_read(frame, limit, &m, &raw, &c) == PS_OK) {
    walked += columns_walk(&c);
    ++*passed;
    for (int i = 0; i < 4; i++) {
      uint32_t at = ps_columns_find_offset(&c, m.base_offset, m.base_offset + (int64_t)odd_number(c.count));
      CHECK(at <= c.count);
    }
  }
  free(raw);
}

static void test_forged_headers(void) {
  static const uint32_t words[] = {
      PS_FRAME_BYTES_OFF,
      PS_FRAME_ATTRIBUTES_OFF,
      PS_FRAME_COUNT_OFF,
      PS_FRAME_LAST_DELTA_OFF,
      PS_FRAME_STORED_BYTES_OFF,
      PS_FRAME_RAW_BYTES_OFF,
      PS_FRAME_VALUE_WIDTH_OFF,
      PS_FRAME_KEY_WIDTH_OFF,
      PS_FRAME_KEY_BYTES_OFF,
      PS_FRAME_VALUE_BYTES_OFF,
      PS_FRAME_HEADER_COUNT_OFF,
      PS_FRAME_HEADER_KEY_BYTES_OFF,
      PS_FRAME_HEADER_VALUE_BYTES_OFF,
  };
  uint64_t passed = 0;
  for (int round = 0; round < 100000; round++) {
    ps_frame_meta meta;
    shape s = samples[random_below(SAMPLES)];
    s.count = random_below(12);
    uint8_t *frame = frame_of(&s, random_below(2), &meta);
    for (uint32_t i = 1 + random_below(3); i > 0; i--) {
      uint8_t *word = frame + words[random_below(sizeof words / sizeof *words)];
      if (word == frame + PS_FRAME_ATTRIBUTES_OFF)
        ps_store_u32(word, ps_load_u32(word) ^ 1u << random_below(17));
      else
        ps_store_u32(word, odd_number(ps_load_u32(word)));
    }
    check_forged(frame, meta.frame_bytes, &passed);
    free(frame);
  }
  printf("  %" PRIu64 " forged headers were sound\n", passed);
}

static void test_forged_bodies(void) {
  uint64_t passed = 0;
  for (int round = 0; round < 100000; round++) {
    ps_frame_meta meta;
    shape s = samples[random_below(SAMPLES - 1)];
    s.count = 1 + random_below(12);
    uint8_t *frame = frame_of(&s, random_below(2), &meta);
    for (uint32_t i = 1 + random_below(4); i > 0 && meta.stored_bytes; i--) {
      uint32_t at = PS_FRAME_HEADER_BYTES + random_below(meta.stored_bytes);
      if (random_below(2))
        frame[at] = (uint8_t)random_u64();
      else if (at + 4 <= meta.frame_bytes)
        ps_store_u32(frame + at, odd_number(ps_load_u32(frame + at)));
    }
    check_forged(frame, meta.frame_bytes, &passed);
    free(frame);
  }
  printf("  %" PRIu64 " forged bodies were sound\n", passed);
  CHECK(passed > 0 && passed < 100000);
}

static void test_columns_out_of_order(void) {
  shape s = samples[0];
  for (int round = 0; round < 2000; round++) {
    batch b = batch_make(&s);
    ps_frame_meta proto, meta, m;
    ps_frame_meta_init(&proto);
    uint8_t *frame = frame_write(&b.columns, &proto, PS_CODEC_NONE, &meta), *raw;
    ps_columns c;
    CHECK_EQ(frame_read(frame, meta.frame_bytes, &m, &raw, &c), PS_OK);
    const int32_t *lists[] = {c.values.offsets, c.keys.offsets, c.header_lists};
    int32_t *offsets = (int32_t *)(uintptr_t)lists[random_below(3)];
    uint32_t at = random_below(s.count + 1);
    int32_t kept = offsets[at];
    offsets[at] = at == s.count ? kept + 1 : offsets[at + 1] + 1;
    CHECK_EQ(ps_columns_check(&m, &c), PS_CORRUPT);
    offsets[at] = INT32_MIN;
    CHECK_EQ(ps_columns_check(&m, &c), PS_CORRUPT);
    offsets[at] = kept;
    uint32_t *deltas = (uint32_t *)(uintptr_t)c.offset_deltas;
    if (deltas) { /* the gaps drawn may have been none */
      deltas[s.count - 1] = m.last_offset_delta + 1;
      CHECK_EQ(ps_columns_check(&m, &c), PS_CORRUPT);
      deltas[s.count - 1] = deltas[s.count - 2];
      CHECK_EQ(ps_columns_check(&m, &c), PS_CORRUPT);
    }
    free(raw);
    free(frame);
    batch_free(&b);
  }
}

static void test_finding_offsets(void) {
  shape s = {.count = 50, .value_width = 0, .key_width = -1, .values = PRESENT, .gaps = true};
  batch b = batch_make(&s);
  ps_columns dense = b.columns;
  dense.offset_deltas = NULL;
  for (int64_t offset = 990; offset < 1300; offset++) {
    uint32_t want = 0;
    while (want < s.count && 1000 + (int64_t)b.columns.offset_deltas[want] < offset) want++;
    CHECK_EQ(ps_columns_find_offset(&b.columns, 1000, offset), want);
    CHECK_EQ(ps_columns_find_offset(&dense, 1000, offset), offset < 1000   ? 0
                                                           : offset < 1050 ? offset - 1000
                                                                           : 50);
  }
  CHECK_EQ(ps_columns_find_offset(&b.columns, 1000, INT64_MIN), 0);
  CHECK_EQ(ps_columns_find_offset(&b.columns, 0, INT64_MAX), 50);
  CHECK_EQ(ps_columns_find_offset(&dense, 0, INT64_MAX), 50);
  batch_free(&b);
}

static void test_limits(void) {
  shape s = {.count = 100, .value_width = -1, .key_width = -1, .values = PRESENT, .times = TIMES_ONE};
  batch b = batch_make(&s);
  ps_columns *c = &b.columns;
  ps_frame_meta proto;
  ps_prepared out;
  ps_error err;
  ps_frame_meta_init(&proto);
  uint32_t fits = (uint32_t)ps_frame_bytes_raw(c);
  CHECK_EQ(ps_frame_prepare(c, &proto, PS_CODEC_NONE, fits, NULL, 0, &out, &err), PS_OK);
  CHECK_EQ(ps_frame_prepare(c, &proto, PS_CODEC_NONE, fits - 1, NULL, 0, &out, &err), PS_TOO_LARGE);
  uint64_t need = ps_frame_scratch_bytes(c, PS_CODEC_LZ4);
  uint8_t *scratch = exactly(need);
  CHECK_EQ(ps_frame_prepare(c, &proto, PS_CODEC_LZ4, fits, scratch, need, &out, &err), PS_OK);
  CHECK_EQ(ps_frame_prepare(c, &proto, PS_CODEC_LZ4, fits, scratch, need - 1, &out, &err), PS_INVALID);
  CHECK_EQ(ps_frame_prepare(c, &proto, PS_CODEC_LZ4, fits, NULL, need, &out, &err), PS_INVALID);
  CHECK_EQ(ps_frame_prepare(c, &proto, PS_CODEC_LZ4, 256, scratch, need, &out, &err), PS_TOO_LARGE);
  CHECK_EQ(ps_frame_prepare(c, &proto, 2, fits, scratch, need, &out, &err), PS_INVALID);
  free(scratch);

  /* Records without a byte: their number is the only limit. */
  ps_columns many = {.count = PS_RECORDS_PER_BATCH_MAX, .first_timestamp = 1};
  CHECK_EQ(ps_frame_prepare(&many, &proto, PS_CODEC_NONE, 256, NULL, 0, &out, &err), PS_OK);
  CHECK_EQ(out.meta.frame_bytes, PS_FRAME_HEADER_BYTES);
  many.count++;
  CHECK_EQ(ps_frame_prepare(&many, &proto, PS_CODEC_NONE, 256, NULL, 0, &out, &err), PS_TOO_LARGE);

  /* Sizes beyond 2^31 are reported as they are, and refused before a byte is read. */
  static const int32_t lists[3] = {0, 0, 0};
  ps_columns huge = {.count = 2, .values = {.bytes = 0xfffffffe, .width = 0x7fffffff}};
  huge.has_keys = true;
  huge.keys = huge.values;
  CHECK(ps_columns_raw_bytes(&huge) > 0x1fffffff0ull);
  CHECK_EQ(ps_frame_prepare(&huge, &proto, PS_CODEC_NONE, UINT32_MAX, NULL, 0, &out, &err), PS_TOO_LARGE);
  CHECK_EQ(ps_frame_prepare(&huge, &proto, PS_CODEC_LZ4, UINT32_MAX, NULL, 0, &out, &err), PS_TOO_LARGE);

  ps_columns bad = {.count = 2, .values = {.offsets = lists, .width = -1, .bytes = 1}};
  CHECK_EQ(ps_frame_prepare(&bad, &proto, PS_CODEC_NONE, 4096, NULL, 0, &out, &err), PS_INVALID);
  bad.values = (ps_binary){.width = 4, .bytes = 7};
  CHECK_EQ(ps_frame_prepare(&bad, &proto, PS_CODEC_NONE, 4096, NULL, 0, &out, &err), PS_INVALID);
  bad.values = (ps_binary){.width = -2};
  CHECK_EQ(ps_frame_prepare(&bad, &proto, PS_CODEC_NONE, 4096, NULL, 0, &out, &err), PS_INVALID);
  CHECK(err.status == PS_INVALID && err.what[0]);
  batch_free(&b);
}

int main(void) {
  RUN(test_round_trips);
  RUN(test_every_header_field_is_kept);
  RUN(test_the_log_s_clock_needs_no_column);
  RUN(test_empty_frames);
  RUN(test_every_flipped_bit_is_seen);
  RUN(test_a_frame_is_sound_only_in_its_place);
  RUN(test_truncation_at_every_limit);
  RUN(test_what_a_later_version_wrote);
  RUN(test_lengths_that_contradict);
  RUN(test_random_bytes);
  RUN(test_forged_headers);
  RUN(test_forged_bodies);
  RUN(test_columns_out_of_order);
  RUN(test_finding_offsets);
  RUN(test_limits);
  return 0;
}
