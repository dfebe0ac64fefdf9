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

typedef struct found {
  int32_t last;    /* the highest epoch, -1: none */
  int32_t after;   /* asked for: epochs above this one */
  int64_t end;     /* where the lowest of them begins */
  int64_t entries; /* up to the last sound one */
} found;

/* A damaged entry is passed over: segment headers carry the epochs too. */
static int scan(ps_log *log, int fd, found *out) {
  struct stat st;
  out->last = -1;
  out->end = INT64_MAX;
  int rc = ps_os_stat_fd(log->env, fd, &st);
  out->entries = 0;
  int64_t room = rc == 0 ? st.st_size / PS_EPOCH_ENTRY_BYTES : 0;
  for (int64_t i = 0; rc == 0 && i < room; i++) {
    uint8_t p[PS_EPOCH_ENTRY_BYTES];
    rc = ps_os_pread_all(log->env, fd, p, sizeof p, i * PS_EPOCH_ENTRY_BYTES);
    if (rc < 0 || !entry_ok(p)) continue;
    out->entries = i + 1;
    int32_t epoch = ps_load_i32(p + PS_EPOCH_EPOCH_OFF);
    int64_t first = ps_load_i64(p + PS_EPOCH_FIRST_OFFSET_OFF);
    if (epoch > out->last) out->last = epoch;
    if (epoch > out->after && first < out->end) out->end = first;
  }
  return rc;
}

/* Nothing is found where there is no such file. */
static ps_status scan_file(ps_log *log, found *out, ps_error *err) {
  char path[512];
  out->last = -1;
  out->end = INT64_MAX;
  ps_log_path(log, "epochs", path);
  int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDONLY, 0);
  if (fd == -ENOENT) return PS_OK;
  if (fd < 0) return ps_fail_errno(err, -fd, path, "opening the epochs file");
  int rc = scan(log, fd, out);
  ps_os_close(fd);
  return rc < 0 ? ps_fail_errno(err, -rc, path, "reading the epochs file") : PS_OK;
}

ps_status ps_epochs_last(ps_log *log, int32_t *epoch, ps_error *err) {
  found all = {.after = INT32_MAX};
  ps_status status = scan_file(log, &all, err);
  *epoch = all.last;
  return status;
}

ps_status ps_log_epoch_end(ps_log *log, int32_t epoch, int64_t *end, ps_error *err) {
  found later = {.after = epoch};
  ps_status status = scan_file(log, &later, err);
  *end = later.end;
  return status;
}

ps_status ps_epochs_append(ps_log *log, int32_t epoch, int64_t first_offset, ps_error *err) {
  char path[512];
  uint8_t p[PS_EPOCH_ENTRY_BYTES];
  found all = {.after = INT32_MAX};
  ps_log_path(log, "epochs", path);
  int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDWR | O_CREAT, 0666);
  if (fd < 0) return ps_fail_errno(err, -fd, path, "opening the epochs file");
  ps_store_u32(p + PS_EPOCH_MAGIC_OFF, PS_EPOCH_MAGIC);
  ps_store_i32(p + PS_EPOCH_EPOCH_OFF, epoch);
  ps_store_i64(p + PS_EPOCH_FIRST_OFFSET_OFF, first_offset);
  ps_store_i64(p + PS_EPOCH_CREATED_OFF, ps_os_now_ns());
  ps_store_u64(p + PS_EPOCH_CHECKSUM_OFF, ps_hash(p, PS_EPOCH_CHECKSUM_OFF));
  int rc = scan(log, fd, &all);
  /* A torn last entry is overwritten: what it was to say was never relied upon. */
  if (rc == 0) rc = ps_os_pwrite_all(log->env, fd, p, sizeof p, all.entries * PS_EPOCH_ENTRY_BYTES);
  if (rc == 0) rc = ps_os_sync_data(log->env, fd);
  ps_os_close(fd);
  if (rc < 0) return ps_fail_errno(err, -rc, path, "writing the epochs file");
  return all.entries == 0 ? ps_log_sync_directory(log, err) : PS_OK; /* its name is new */
}
