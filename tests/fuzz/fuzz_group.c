/* The shared pages of a consumer group: a control page and a member's file, of any bytes and length. */
#include "fuzz.h"
#include "ps_group.h"

static const ps_env plain = {0};

static void seal_control(uint8_t *p, size_t bytes, const ps_control_identity *who, unsigned how) {
  if (!how || bytes < PS_CONTROL_STATE_OFF) return;
  ps_store_u64(p + PS_CONTROL_MAGIC_OFF, PS_CONTROL_MAGIC);
  if (how & FUZZ_FITTED) {
    ps_store_u32(p + PS_CONTROL_VERSION_OFF, PS_FORMAT_VERSION);
    ps_store_u64(p + PS_CONTROL_DEVICE_OFF, who->device);
    ps_store_u64(p + PS_CONTROL_INODE_OFF, who->inode);
    memcpy(p + PS_CONTROL_BOOT_ID_OFF, who->boot_id, 16);
  }
  ps_store_u64(p + PS_CONTROL_CHECKSUM_OFF, ps_hash(p, PS_CONTROL_CHECKSUM_OFF));
}

static void open_control(uint8_t *p, size_t bytes, unsigned how, bool writable) {
  struct stat st;
  uint8_t *page = NULL;
  ps_control_identity who = {.incarnation = 5}, found = who;
  int fd = fuzz_file(NULL, 0);
  FUZZ_CHECK(fstat(fd, &st) == 0);
  who.device = (uint64_t)st.st_dev;
  who.inode = (uint64_t)st.st_ino;
  seal_control(p, bytes, &who, how);
  if (bytes) FUZZ_CHECK(pwrite(fd, p, bytes, 0) == (ssize_t)bytes);
  int rc = ps_control_open(&plain, fd, writable, &page, &found);
  FUZZ_CHECK(rc == 0 || (rc == -ENODATA && !writable && bytes < PS_CONTROL_BYTES));
  if (rc == 0) {
    FUZZ_CHECK(found.device == who.device && found.inode == who.inode);
    ps_control_verdict verdict = ps_control_check(page, &found);
    FUZZ_CHECK(verdict >= PS_CONTROL_SOUND && verdict <= PS_CONTROL_PASSED);
    (void)ps_control_state(page);
    (void)ps_control_signal(page);
    if (writable) {
      ps_control_begin(page, &found, 9);
      FUZZ_CHECK(ps_control_check(page, &found) == PS_CONTROL_SOUND && ps_control_state(page) == 9);
      FUZZ_CHECK(ps_control_swap(page, 9, 10) && !ps_control_swap(page, 9, 11) &&
                 ps_control_state(page) == 10);
      ps_control_notify(page);
    }
    ps_os_unmap(page, PS_CONTROL_BYTES);
  }
  close(fd);
}

static void open_member(uint8_t *p, size_t bytes, unsigned how, bool writable, uint64_t id, size_t zeros) {
  uint8_t *page = NULL;
  size_t mapped = 0;
  if (how && bytes >= PS_MEMBER_FENCED_OFF) {
    ps_store_u64(p + PS_MEMBER_MAGIC_OFF, PS_MEMBER_MAGIC);
    if (how & FUZZ_FITTED) {
      ps_store_u32(p + PS_MEMBER_VERSION_OFF, PS_FORMAT_VERSION);
      ps_store_u64(p + PS_MEMBER_ID_OFF, id);
    }
    ps_store_u64(p + PS_MEMBER_CHECKSUM_OFF, ps_hash(p, PS_MEMBER_CHECKSUM_OFF));
  }
  int fd = fuzz_file(p, bytes);
  FUZZ_CHECK(ftruncate(fd, (off_t)(bytes + zeros)) == 0);
  int rc = ps_member_open(&plain, fd, id, writable, &page, &mapped);
  FUZZ_CHECK(rc == 0 || rc == -EINVAL);
  if (rc == 0) {
    uint64_t sum = 0;
    FUZZ_CHECK(mapped >= PS_MEMBER_MARKS_OFF && mapped <= bytes + zeros);
    for (size_t at = PS_MEMBER_MARKS_OFF; at < mapped; at += 8) sum += ps_load_u64(page + at);
    (void)sum;
    (void)ps_member_beats(page);
    if (writable) ps_member_fence(page);
    FUZZ_CHECK(!writable || (ps_member_is_fenced(page) && !ps_member_confirm(page)));
    ps_os_unmap(page, mapped);
  } else {
    FUZZ_CHECK(page == NULL);
  }
  close(fd);
}

FUZZ_TARGET(group) {
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1) & 3, options = (unsigned)fuzz_take(&in, 1);
  uint64_t id = fuzz_take(&in, 2);
  size_t zeros = (size_t)fuzz_take(&in, 2), bytes;
  uint8_t *p = fuzz_rest(&in, &bytes);
  if (options & 1)
    open_control(p, bytes, how, options & 2);
  else
    open_member(p, bytes, how, options & 2, id, zeros);
  free(p);
}
