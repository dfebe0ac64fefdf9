/* The shared pages of a consumer group. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_group.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "ps_head.h"
#include "ps_log.h"

/* ---- control ---------------------------------------------------------------------------------- */

/* The file is `bytes` long at least, in blocks of its own (G4). */
static int reserve(const ps_env *env, int fd, int64_t bytes) {
  static const uint8_t zero[4096];
  struct stat st;
  int rc = ps_os_stat_fd(env, fd, &st);
  if (rc < 0 || st.st_size >= bytes) return rc;
  ps_os_keep_in_place(fd);
  rc = ps_os_allocate(env, fd, bytes); /* longer, never shorter: other maps stay whole */
  for (int64_t at = st.st_size; rc == -EOPNOTSUPP && at < bytes; at += (int64_t)sizeof zero) {
    int64_t n = bytes - at < (int64_t)sizeof zero ? bytes - at : (int64_t)sizeof zero;
    int wrote = ps_os_pwrite_all(env, fd, zero, (size_t)n, at);
    if (wrote < 0) return wrote;
    if (at + n == bytes) rc = 0;
  }
  return rc;
}

int ps_control_open(const ps_env *env, int fd, bool writable, uint8_t **page, ps_control_identity *identity) {
  struct stat st;
  int rc = writable ? reserve(env, fd, PS_CONTROL_BYTES) : 0;
  if (rc == 0) rc = ps_os_stat_fd(env, fd, &st);
  if (rc == 0 && st.st_size < (int64_t)PS_CONTROL_BYTES) rc = -ENODATA;
  if (rc == 0) rc = ps_os_map(env, fd, PS_CONTROL_BYTES, writable, page);
  if (rc < 0) return rc;
  identity->device = (uint64_t)st.st_dev;
  identity->inode = (uint64_t)st.st_ino;
  return 0;
}

ps_control_verdict ps_control_check(const uint8_t *page, const ps_control_identity *expected) {
  bool blank = true;
  for (uint32_t i = 0; i < PS_CONTROL_STATE_OFF; i++) blank = blank && page[i] == 0;
  if (blank) return PS_CONTROL_BLANK;
  uint64_t checksum = ps_acquire_u64(page + PS_CONTROL_CHECKSUM_OFF);
  uint32_t version = ps_load_u32(page + PS_CONTROL_VERSION_OFF);
  if (ps_load_u64(page + PS_CONTROL_MAGIC_OFF) != PS_CONTROL_MAGIC || version == 0 ||
      (checksum != 0 && checksum != ps_hash(page, PS_CONTROL_CHECKSUM_OFF)))
    return PS_CONTROL_DAMAGED;
  if (version != PS_FORMAT_VERSION) return PS_CONTROL_NEWER;
  if (ps_load_u64(page + PS_CONTROL_DEVICE_OFF) != expected->device ||
      ps_load_u64(page + PS_CONTROL_INODE_OFF) != expected->inode ||
      memcmp(page + PS_CONTROL_BOOT_ID_OFF, expected->boot_id, 16) != 0)
    return PS_CONTROL_MOVED;
  /* No checksum: whoever made it anew was killed in the midst of it. The state before and the one after are
   * both whole, and both as good. */
  bool now = checksum != 0 && ps_load_u64(page + PS_CONTROL_INCARNATION_OFF) == expected->incarnation;
  return now ? PS_CONTROL_SOUND : PS_CONTROL_PASSED;
}

void ps_control_begin(uint8_t *page, const ps_control_identity *identity, uint64_t state) {
  /* Not sound until the checksum fits; the state is there before. */
  ps_release_u64(page + PS_CONTROL_CHECKSUM_OFF, 0);
  ps_release_u64(page + PS_CONTROL_STATE_OFF, state);
  __atomic_thread_fence(__ATOMIC_SEQ_CST); /* no identity of ours beside a state from before */
  ps_store_u64(page + PS_CONTROL_MAGIC_OFF, PS_CONTROL_MAGIC);
  ps_store_u32(page + PS_CONTROL_VERSION_OFF, PS_FORMAT_VERSION);
  ps_store_u32(page + PS_CONTROL_RESERVED_OFF, 0);
  ps_store_u64(page + PS_CONTROL_DEVICE_OFF, identity->device);
  ps_store_u64(page + PS_CONTROL_INODE_OFF, identity->inode);
  ps_store_u64(page + PS_CONTROL_INCARNATION_OFF, identity->incarnation);
  memcpy(page + PS_CONTROL_BOOT_ID_OFF, identity->boot_id, 16);
  ps_release_u64(page + PS_CONTROL_CHECKSUM_OFF, ps_hash(page, PS_CONTROL_CHECKSUM_OFF));
}

/* ---- members ---------------------------------------------------------------------------------- */

static void write_identity(uint8_t *page, uint64_t id) {
  ps_store_u64(page + PS_MEMBER_MAGIC_OFF, PS_MEMBER_MAGIC);
  ps_store_u32(page + PS_MEMBER_VERSION_OFF, PS_FORMAT_VERSION);
  ps_store_u32(page + PS_MEMBER_RESERVED_OFF, 0);
  ps_store_u64(page + PS_MEMBER_ID_OFF, id);
  ps_store_u64(page + PS_MEMBER_CHECKSUM_OFF, ps_hash(page, PS_MEMBER_CHECKSUM_OFF));
}

int ps_member_create(const ps_env *env, int fd, uint64_t id, uint8_t **page) {
  int rc = reserve(env, fd, PS_MEMBER_MARKS_OFF);
  if (rc == 0) rc = ps_os_map(env, fd, PS_MEMBER_MARKS_OFF, true, page);
  if (rc == 0) write_identity(*page, id);
  return rc;
}

int ps_member_add_marks(const ps_env *env, int fd, uint32_t index, uint8_t **marks) {
  int64_t at = (int64_t)PS_MEMBER_MARKS_OFF + (int64_t)index * 4096;
  if (index >= PS_MEMBER_MARKS_MAX / PS_MEMBER_PAGE_MARKS) return -E2BIG;
  int rc = reserve(env, fd, at + 4096);
  if (rc < 0) return rc;
  uint8_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);
  if (p == MAP_FAILED) return -errno;
  memset(p, 0xff, 4096);
  *marks = p;
  return 0;
}

int ps_member_open(const ps_env *env, int fd, uint64_t id, bool writable, uint8_t **page, size_t *bytes) {
  struct stat st;
  int rc = ps_os_stat_fd(env, fd, &st);
  if (rc < 0) return rc;
  if (st.st_size < (int64_t)PS_MEMBER_MARKS_OFF) return -EINVAL;
  *bytes = (size_t)st.st_size & ~(size_t)4095;
  rc = ps_os_map(env, fd, *bytes, writable, page);
  if (rc < 0) return rc;
  if (ps_load_u64(*page + PS_MEMBER_MAGIC_OFF) == PS_MEMBER_MAGIC &&
      ps_load_u32(*page + PS_MEMBER_VERSION_OFF) == PS_FORMAT_VERSION &&
      ps_load_u64(*page + PS_MEMBER_ID_OFF) == id &&
      ps_load_u64(*page + PS_MEMBER_CHECKSUM_OFF) == ps_hash(*page, PS_MEMBER_CHECKSUM_OFF))
    return 0;
  ps_os_unmap(*page, *bytes);
  *page = NULL;
  return -EINVAL;
}

/* ---- heads ------------------------------------------------------------------------------------ */

int ps_group_head_durable(const ps_env *env, const char *path, uint8_t topic_uuid[16], int64_t *durable) {
  uint8_t p[PS_HEAD_BYTES];
  int fd = ps_os_openat(env, AT_FDCWD, path, O_RDONLY, 0);
  if (fd < 0) return fd;
  int rc = ps_os_pread_all(env, fd, p, sizeof p, 0);
  ps_os_close(fd);
  if (rc < 0) return rc == -ENODATA ? -EINVAL : rc;
  if (ps_load_u64(p + PS_HEAD_MAGIC_OFF) != PS_HEAD_MAGIC ||
      ps_load_u64(p + PS_HEAD_IDENTITY_CHECKSUM_OFF) != ps_hash(p, PS_HEAD_IDENTITY_CHECKSUM_OFF))
    return -EINVAL;
  memcpy(topic_uuid, p + PS_HEAD_TOPIC_UUID_OFF, 16);
  *durable = ps_head_durable(p);
  return 0;
}
