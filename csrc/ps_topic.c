#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_topic.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "ps_head.h"

/* Waits are cut here, so that the caller sees signals. */
#define SLICE_NS 200000000
#define PAUSE_NS_MIN 20000
#define PAUSE_NS_MAX 5000000

/* One byte after the other: that all are free at once may take for ever where writers are busy. In the order
 * of whoever has several: maintenance takes the other two while it has its own. That one takes the rest of
 * the stride along, so that the kernel keeps one range for all partitions and not three each, which it would
 * walk at every call. */
static int lock_partition(const ps_env *env, int fd, uint32_t partition) {
  int64_t at = (int64_t)partition * PS_LOCK_STRIDE;
  int rc = ps_os_lock_try_range(env, fd, at + PS_LOCK_MAINTAIN, PS_LOCK_STRIDE - PS_LOCK_MAINTAIN, false);
  if (rc == 0) rc = ps_os_lock_try(env, fd, at + PS_LOCK_APPEND, false);
  if (rc == 0) rc = ps_os_lock_try(env, fd, at + PS_LOCK_SYNC, false);
  return rc;
}
/* Where somebody holds the append lock of a partition, which may take long, that is waited for before any
 * lock is taken: those taken keep the syncs of other processes waiting, and with them all that these sync. */
static int look_for_holders(const ps_env *env, int fd, uint32_t partitions, uint32_t *found) {
  for (uint32_t i = 0; i < partitions; i++) {
    int rc = ps_os_lock_look(env, fd, (int64_t)i * PS_LOCK_STRIDE + PS_LOCK_APPEND);
    *found = i;
    if (rc != 0) return rc < 0 ? rc : -EAGAIN;
  }
  return 0;
}
_Static_assert(PS_LOCK_APPEND == 0 && PS_LOCK_SYNC == 1 && PS_LOCK_MAINTAIN == 2, "locks of a stride");

ps_status ps_topic_lock(const ps_env *env, int locks_fd, uint32_t partitions, uint32_t *next,
                        int64_t timeout_ns, const char *path, ps_error *err) {
  int64_t begun = ps_os_monotonic_ns(), pause_ns = PAUSE_NS_MIN;
  while (*next < partitions) {
    uint32_t busy = *next;
    int rc = *next == 0 ? look_for_holders(env, locks_fd, partitions, &busy) : 0;
    if (rc == 0) rc = lock_partition(env, locks_fd, busy = *next);
    int64_t waited = ps_os_monotonic_ns() - begun;
    if (rc == 0) {
      (*next)++;
      pause_ns = PAUSE_NS_MIN;
    } else if (rc != -EAGAIN) {
      return ps_fail_errno(err, -rc, path, "taking the locks of a topic");
    } else if (timeout_ns >= 0 && waited >= timeout_ns) {
      char what[128];
      snprintf(what, sizeof what, "a writer kept partition %u for longer than the timeout", busy);
      return ps_fail(err, PS_TIMEOUT, path, what);
    } else {
      struct timespec t = {0, pause_ns};
      bool interrupted = nanosleep(&t, NULL) < 0;
      if (pause_ns < PAUSE_NS_MAX) pause_ns *= 2;
      if (interrupted || waited >= SLICE_NS)
        return ps_fail(err, PS_INTERRUPTED, path, "waiting for the locks of a topic");
    }
  }
  return PS_OK;
}

static ps_status map_head(const ps_env *env, const char *path, uint8_t **head, ps_error *err) {
  struct stat st;
  int fd = ps_os_openat(env, AT_FDCWD, path, O_RDWR, 0);
  if (fd == -ENOENT) return ps_fail(err, PS_NOT_FOUND, path, "there is no such head");
  if (fd < 0) return ps_fail_errno(err, -fd, path, "opening the head");
  int rc = ps_os_stat_fd(env, fd, &st);
  bool whole = rc == 0 && st.st_size >= (int64_t)PS_HEAD_BYTES;
  if (whole) rc = ps_os_map(env, fd, PS_HEAD_BYTES, true, head);
  ps_os_close(fd);
  if (rc == 0 && !whole) return ps_fail(err, PS_NOT_FOUND, path, "the head is not whole");
  if (rc < 0) return ps_fail_errno(err, -rc, path, "mapping the head");
  /* Where maps may meet a full disk, a store that finds no block would be a signal. */
  rc = ps_os_populate_write(*head, PS_HEAD_BYTES);
  if (rc == 0 || rc == -EINVAL || rc == -EAGAIN) return PS_OK;
  ps_os_unmap(*head, PS_HEAD_BYTES);
  return ps_fail_errno(err, rc == -EFAULT ? ENOSPC : -rc, path, "reserving the head page");
}

ps_status ps_topic_mark_deleted(const ps_env *env, const char *path, ps_error *err) {
  uint8_t *head;
  ps_status status = map_head(env, path, &head, err);
  if (status != PS_OK) return status;
  ps_release_u64(head + PS_HEAD_DELETED_OFF, PS_HEAD_DELETED_MAGIC);
  ps_head_signal(head);
  ps_os_unmap(head, PS_HEAD_BYTES);
  return PS_OK;
}

ps_status ps_topic_mark_moved(const ps_env *env, const char *path, ps_error *err) {
  uint8_t *head;
  ps_status status = map_head(env, path, &head, err);
  if (status != PS_OK) return status;
  ps_release_u64(head + PS_HEAD_MOVES_OFF, ps_acquire_u64(head + PS_HEAD_MOVES_OFF) + 1);
  ps_head_signal(head);
  ps_os_unmap(head, PS_HEAD_BYTES);
  return PS_OK;
}
