#include "ps_status.h"

#include <stdio.h>
#include <string.h>

static void fill(ps_error *err, ps_status status, const char *path, const char *what) {
  memset(err, 0, sizeof *err);
  err->status = status;
  err->offset = err->segment = err->position = -1;
  snprintf(err->what, sizeof err->what, "%s", what ? what : "");
  snprintf(err->path, sizeof err->path, "%s", path ? path : "");
}

ps_status ps_fail(ps_error *err, ps_status status, const char *path, const char *what) {
  if (err) fill(err, status, path, what);
  return status;
}

ps_status ps_fail_errno(ps_error *err, int os_errno, const char *path, const char *what) {
  if (err) {
    fill(err, PS_OS_ERROR, path, what);
    err->os_errno = os_errno;
  }
  return PS_OS_ERROR;
}

ps_status ps_fail_corrupt(ps_error *err, const char *path, int64_t segment, int64_t position, int64_t offset,
                          const char *what) {
  if (err) {
    fill(err, PS_CORRUPT, path, what);
    err->segment = segment;
    err->position = position;
    err->offset = offset;
  }
  return PS_CORRUPT;
}
