/* The worked example of FORMAT.md: its bytes are read as the text says, and writing what the text says
 * gives its bytes. And the pages of a group are where the text says. */
#include "ps_frame.h"
#include "ps_group.h"
#include "ps_hash.h"
#include "ps_segment.h"
#include "ps_test.h"

#define FRAME_AT PS_SEGMENT_HEADER_BYTES

static uint8_t bytes[4096];
static size_t byte_count;

static void load(void) {
  FILE *file = fopen(PS_SOURCE_DIR "/FORMAT.md", "r");
  CHECK(file != NULL);
  char line[512];
  bool inside = false;
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, "```", 3) == 0) inside = strncmp(line, "```hexdump", 10) == 0;
    char *at = strchr(line, ':');
    if (!inside || !at) continue;
    CHECK_EQ(strtoul(line, NULL, 16), byte_count);
    unsigned byte;
    int used;
    for (at++; sscanf(at, "%2x%n", &byte, &used) == 1; at += used) {
      CHECK(byte_count < sizeof bytes);
      bytes[byte_count++] = (uint8_t)byte;
    }
  }
  fclose(file);
}

static ps_segment_info info;
static ps_frame_meta meta;
static ps_columns columns;
static ps_seal seal;

static void test_the_bytes_say_what_the_text_says(void) {
  CHECK_EQ(ps_segment_decode_header(bytes, byte_count, &info), PS_OK);
  CHECK_EQ(info.base_offset, 1000);
  CHECK_EQ(info.leader_epoch, 3);
  CHECK_EQ(info.partition, 2);
  CHECK_EQ(info.capacity, 65536);

  const uint8_t *frame = bytes + FRAME_AT;
  CHECK_EQ(ps_frame_decode_header(frame, byte_count - FRAME_AT, info.salt, FRAME_AT, &meta), PS_OK);
  CHECK(ps_frame_body_ok(frame, &meta));
  CHECK_EQ(meta.base_offset, 1000);
  CHECK_EQ(ps_frame_next_offset(&meta), 1002);
  CHECK_EQ(meta.durable_offset, 998);
  CHECK_EQ(ps_frame_columns(&meta, frame + PS_FRAME_HEADER_BYTES, meta.raw_bytes, &columns), PS_OK);
  CHECK_EQ(ps_columns_check(&meta, &columns), PS_OK);
  CHECK_EQ(columns.count, 2);
  CHECK(columns.timestamps[0] == 1357016400000000000 && columns.timestamps[1] == 1357016400000000500);
  CHECK(columns.has_keys && !ps_bit(columns.keys.validity, 0) && ps_bit(columns.keys.validity, 1));
  CHECK(columns.keys.bytes == 2 && memcmp(columns.keys.data, "UA", 2) == 0);
  CHECK(columns.values.bytes == 10 && memcmp(columns.values.data, "helloworld", 10) == 0);
  CHECK(columns.values.offsets[1] == 5 && columns.header_count == 1 && columns.header_lists[1] == 0);
  CHECK(columns.header_keys.bytes == 6 && memcmp(columns.header_keys.data, "origin", 6) == 0);
  CHECK(columns.header_values.bytes == 3 && memcmp(columns.header_values.data, "JFK", 3) == 0);

  uint64_t seal_at = FRAME_AT + meta.frame_bytes;
  CHECK_EQ(ps_seal_decode(bytes + seal_at, byte_count - seal_at, info.salt, seal_at, &seal), PS_OK);
  CHECK(seal.end_offset == 1002 && seal.frames == 1 && seal.max_timestamp == meta.max_timestamp);
  CHECK_EQ(byte_count, seal_at + PS_SEAL_BYTES);
}

static void test_the_text_gives_the_bytes(void) {
  uint8_t out[sizeof bytes] = {0};
  ps_segment_encode_header(&info, out);
  ps_prepared p;
  ps_error err;
  ps_frame_meta proto;
  ps_frame_meta_init(&proto);
  CHECK_EQ(ps_frame_prepare(&columns, &proto, PS_CODEC_NONE, 4096, NULL, 0, &p, &err), PS_OK);
  p.meta.base_offset = meta.base_offset;
  p.meta.leader_epoch = meta.leader_epoch;
  p.meta.durable_offset = meta.durable_offset;
  ps_frame_encode_header(&p.meta, info.salt, FRAME_AT, out + FRAME_AT);
  ps_pieces_copy(p.pieces, p.piece_count, out + FRAME_AT + PS_FRAME_HEADER_BYTES);
  uint64_t seal_at = FRAME_AT + p.meta.frame_bytes;
  ps_seal_encode(&seal, info.salt, seal_at, out + seal_at);
  CHECK_EQ(seal_at + PS_SEAL_BYTES, byte_count);
  CHECK(memcmp(out, bytes, byte_count) == 0);
}

static void test_a_control_page_is_as_the_text_says(void) {
  static uint8_t page[4096];
  ps_control_identity identity = {.device = 7, .inode = 8, .incarnation = 9};
  memset(identity.boot_id, 0xb0, sizeof identity.boot_id);
  CHECK_EQ(ps_control_check(page, &identity), PS_CONTROL_BLANK);
  memcpy(page, "PSGROUP1", 8);
  CHECK_EQ(ps_control_check(page, &identity), PS_CONTROL_DAMAGED); /* cut there: no version is 0 */
  ps_store_u32(page + 8, 1);
  ps_store_u64(page + 16, 7);
  ps_store_u64(page + 24, 8);
  ps_store_u64(page + 32, 9);
  memset(page + 40, 0xb0, 16);
  CHECK_EQ(ps_control_check(page, &identity), PS_CONTROL_PASSED);
  ps_store_u64(page + 56, ps_hash(page, 56) + 1);
  CHECK_EQ(ps_control_check(page, &identity), PS_CONTROL_DAMAGED);
  ps_store_u64(page + 56, ps_hash(page, 56));
  ps_store_u64(page + 128, 0x1122334455667788);
  ps_store_u32(page + 256, 5);
  CHECK_EQ(ps_control_check(page, &identity), PS_CONTROL_SOUND);
  CHECK(ps_control_state(page) == 0x1122334455667788 && ps_control_signal(page) == 5);
  static uint8_t begun[4096];
  ps_control_begin(begun, &identity, 0x1122334455667788);
  ps_store_u32(begun + 256, 5);
  CHECK(memcmp(begun, page, sizeof page) == 0);
}

static void test_a_member_is_as_the_text_says(void) {
  ps_env env = {NULL, NULL};
  FILE *file = tmpfile();
  uint8_t *page, *marks, *all;
  size_t size;
  CHECK(file != NULL);
  CHECK_EQ(ps_member_create(&env, fileno(file), 42, &page), 0);
  CHECK_EQ(ps_member_add_marks(&env, fileno(file), 0, &marks), 0);
  uint8_t expected[4096] = "PSMEMBR1";
  ps_store_u32(expected + 8, 1);
  ps_store_u64(expected + 16, 42);
  ps_store_u64(expected + 24, ps_hash(expected, 24));
  CHECK(memcmp(page, expected, sizeof expected) == 0);
  ps_member_fence(page);
  ps_store_u64(marks + 8, 1000);
  CHECK_EQ(ps_member_open(&env, fileno(file), 42, false, &all, &size), 0);
  CHECK_EQ(size, 8192);
  CHECK(memcmp(all + 128, "PSFENCED", 8) == 0);
  CHECK(ps_load_u64(all + 4096) == UINT64_MAX && ps_load_u64(all + 4096 + 8) == 1000);
  ps_os_unmap(all, size);
  ps_os_unmap(marks, 4096);
  ps_os_unmap(page, 4096);
  fclose(file);
}

int main(void) {
  load();
  RUN(test_a_control_page_is_as_the_text_says);
  RUN(test_a_member_is_as_the_text_says);
  RUN(test_the_bytes_say_what_the_text_says);
  RUN(test_the_text_gives_the_bytes);
  return 0;
}
