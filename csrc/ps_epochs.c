/* The epochs file: leader epoch -> first offset, appended and synced at each change. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>

#include "ps_log_internal.h"

static bool entry_ok(const uint8_t *p) {
  return ps_load_u32(p + PS_EPOCH_MAGIC_OFF) == PS_EPOCH_MAGIC &&
         ps_load_u64(p + PS_EPOCH_CHECKSUM_OFF) == ps_hash(p, PS_EPOCH_CHECKSUM_OFF);
}

/* Calls for each whole entry; a damaged one is passed over: segment headers carry the epochs too. */
static int scan(ps_log *log, int fd, int32_t *last, int64_t *entries) {
  struct stat st;
  *last = -1;
  int rc = ps_os_stat_fd(log->env, fd, &st);
  *entries = rc == 0 ? st.st_size / PS_EPOCH_ENTRY_BYTES : 0;
  for (int64_t i = 0; rc == 0 && i < *entries; i++) {
    uint8_t p[PS_EPOCH_ENTRY_BYTES];
    rc = ps_os_pread_all(log->env, fd, p, sizeof p, i * PS_EPOCH_ENTRY_BYTES);
    if (rc == 0 && entry_ok(p) && ps_load_i32(p + PS_EPOCH_EPOCH_OFF) > *last)
      *last = ps_load_i32(p + PS_EPOCH_EPOCH_OFF);
  }
  return rc;
}

ps_status ps_epochs_last(ps_log *log, int32_t *epoch, ps_error *err) {
  char path[512];
  int64_t entries;
  *epoch = -1;
  ps_log_path(log, "epochs", path);
  int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDONLY, 0);
  if (fd == -ENOENT) return PS_OK;
  if (fd < 0) return ps_fail_errno(err, -fd, path, "opening the epochs file");
  int rc = scan(log, fd, epoch, &entries);
  ps_os_close(fd);
  return rc < 0 ? ps_fail_errno(err, -rc, path, "reading the epochs file") : PS_OK;
}

ps_status ps_epochs_append(ps_log *log, int32_t epoch, int64_t first_offset, ps_error *err) {
  char path[512];
  uint8_t p[PS_EPOCH_ENTRY_BYTES];
  int64_t entries;
  int32_t last;
  ps_log_path(log, "epochs", path);
  int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDWR | O_CREAT, 0666);
  if (fd < 0) return ps_fail_errno(err, -fd, path, "opening the epochs file");
  ps_store_u32(p + PS_EPOCH_MAGIC_OFF, PS_EPOCH_MAGIC);
  ps_store_i32(p + PS_EPOCH_EPOCH_OFF, epoch);
  ps_store_i64(p + PS_EPOCH_FIRST_OFFSET_OFF, first_offset);
  ps_store_i64(p + PS_EPOCH_CREATED_OFF, ps_os_now_ns());
  ps_store_u64(p + PS_EPOCH_CHECKSUM_OFF, ps_hash(p, PS_EPOCH_CHECKSUM_OFF));
  int rc = scan(log, fd, &last, &entries);
  /* After a torn last entry the place is a whole multiple again: it is overwritten. */
  if (rc == 0) rc = ps_os_pwrite_all(log->env, fd, p, sizeof p, entries * PS_EPOCH_ENTRY_BYTES);
  if (rc == 0) rc = ps_os_sync_data(log->env, fd);
  ps_os_close(fd);
  return rc < 0 ? ps_fail_errno(err, -rc, path, "writing the epochs file") : PS_OK;
}
