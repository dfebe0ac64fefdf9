/* The head: its identity, its slots and its words, as a writer, an inspector, a group and a deleter read it.
 */
#include "fuzz.h"
#include "ps_group.h"
#include "ps_inspect.h"
#include "ps_topic.h"

static const ps_env plain = {0};

static void check_slot(const ps_slot *slot) {
  FUZZ_CHECK(slot->sequence > 0 && slot->segment >= 0 && slot->log_end >= slot->segment);
  FUZZ_CHECK(slot->position >= PS_SEGMENT_HEADER_BYTES && slot->position % PS_ALIGN == 0);
}

static void look(uint8_t *page, const ps_head_identity *who) {
  ps_slot slot;
  ps_head_facts facts;
  (void)ps_head_check_identity(page, who);
  (void)ps_head_deleted(page);
  FUZZ_CHECK(ps_head_poison(page) >= 0 && ps_head_log_start(page) >= -1);
  bool sound = ps_head_read_slot(page, &slot);
  if (sound) check_slot(&slot);
  ps_inspect_head(page, &facts);
  FUZZ_CHECK(sound == (facts.slot_sound[0] || facts.slot_sound[1]));
  for (int i = 0; i < 2; i++)
    if (facts.slot_sound[i]) check_slot(&facts.slot[i]);
  /* What is written next is what is read next. */
  ps_slot next = {UINT64_MAX, 5, 3, 320, 1, 0, 0};
  ps_head_write_slot(page, &next);
  FUZZ_CHECK(ps_head_read_slot(page, &slot) && slot.sequence == UINT64_MAX && slot.log_end == 5);
  ps_head_set_log_start(page, 9);
  FUZZ_CHECK(ps_head_log_start(page) == 9);
  int64_t durable = ps_head_durable_checked(page, true);
  FUZZ_CHECK(ps_head_durable_checked(page, false) <= durable || durable < 0);
  ps_head_raise_durable(page, INT64_MAX);
  FUZZ_CHECK(ps_head_durable(page) == INT64_MAX);
  uint32_t seen = ps_head_listen(page);
  FUZZ_CHECK((seen & PS_HEAD_SIGNAL_WAITED) && ps_head_signal(page) && !ps_head_signal(page));
}

static void look_at_file(size_t bytes) {
  ps_error err = {0};
  uint8_t uuid[16];
  int64_t durable;
  char path[512];
  strcpy(path, fuzz_path("head"));
  int rc = ps_group_head_durable(&plain, path, uuid, &durable);
  FUZZ_CHECK(rc == 0 || rc == -EINVAL);
  FUZZ_CHECK(rc == -EINVAL || bytes >= PS_HEAD_BYTES);
  ps_status status = ps_topic_mark_deleted(&plain, path, &err);
  FUZZ_CHECK(status == (bytes >= PS_HEAD_BYTES ? PS_OK : PS_NOT_FOUND));
  size_t after;
  uint8_t *marked = fuzz_read("head", &after);
  FUZZ_CHECK(after == bytes &&
             (status != PS_OK || ps_load_u64(marked + PS_HEAD_DELETED_OFF) == PS_HEAD_DELETED_MAGIC));
  free(marked);
}

FUZZ_TARGET(head) {
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1), options = (unsigned)fuzz_take(&in, 1);
  uint8_t *page = NULL;
  size_t bytes = fuzz_left(&in) < PS_HEAD_BYTES ? fuzz_left(&in) : PS_HEAD_BYTES;
  FUZZ_CHECK(posix_memalign((void **)&page, PS_HEAD_BYTES, PS_HEAD_BYTES) == 0);
  memset(page, 0, PS_HEAD_BYTES);
  if (bytes) memcpy(page, in.p, bytes);
  ps_head_identity who = {.partition = FUZZ_PARTITION, .device = 1, .inode = 2};
  memset(who.topic_uuid, FUZZ_UUID_BYTE, 16);
  fuzz_seal_head(page, PS_HEAD_BYTES, &who, how);
  who.device += options & 1;
  who.partition += options >> 1 & 1;
  (void)fuzz_directory();
  size_t length = options & 4 ? bytes : PS_HEAD_BYTES;
  fuzz_write("head", page, length, 0);
  look_at_file(length);
  look(page, &who);
  free(page);
}
