/* The store's liveness file: who finds nobody else there begins a new incarnation. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>

#include "ps_log.h"

void ps_live_boot_id(const ps_env *env, uint8_t out[16]) {
  char text[40] = {0};
  memset(out, 0, 16);
  int fd = ps_os_openat(env, AT_FDCWD, "/proc/sys/kernel/random/boot_id", O_RDONLY, 0);
  if (fd < 0) return;
  if (ps_os_pread_all(env, fd, text, 36, 0) == 0) {
    int n = 0;
    for (int i = 0; i + 1 < 36 && n < 16; i++) {
      unsigned byte;
      if (text[i] == '-') continue;
      if (sscanf(text + i, "%2x", &byte) != 1) break;
      out[n++] = (uint8_t)byte;
      i++;
    }
  }
  ps_os_close(fd);
}

/* Read the incarnation; 0 when the file is new or damaged. */
static int read_incarnation(const ps_env *env, int fd, uint64_t *out) {
  uint8_t p[PS_LIVE_BYTES];
  *out = 0;
  int rc = ps_os_pread_all(env, fd, p, sizeof p, 0);
  if (rc == -ENODATA) return 0;
  if (rc < 0) return rc;
  if (ps_load_u64(p + PS_LIVE_MAGIC_OFF) == PS_LIVE_MAGIC &&
      ps_load_u64(p + PS_LIVE_CHECKSUM_OFF) == ps_hash(p, PS_LIVE_CHECKSUM_OFF))
    *out = ps_load_u64(p + PS_LIVE_INCARNATION_OFF);
  return 0;
}

/* Random, not counted up: copies of a store that go separate ways must not meet in the same number again. */
static int begin_incarnation(const ps_env *env, int fd, uint64_t *incarnation) {
  uint8_t p[PS_LIVE_BYTES];
  uint64_t old = *incarnation;
  do *incarnation = ps_os_random_u64();
  while (*incarnation == old);
  ps_store_u64(p + PS_LIVE_MAGIC_OFF, PS_LIVE_MAGIC);
  ps_store_u64(p + PS_LIVE_INCARNATION_OFF, *incarnation);
  ps_live_boot_id(env, p + PS_LIVE_BOOT_ID_OFF);
  ps_store_u64(p + PS_LIVE_CHECKSUM_OFF, ps_hash(p, PS_LIVE_CHECKSUM_OFF));
  return ps_os_pwrite_all(env, fd, p, sizeof p, 0);
}

ps_status ps_live_enter(const ps_env *env, const char *path, int fd, uint64_t *incarnation, ps_error *err) {
  int rc;
  do rc = ps_os_lock_wait(env, fd, PS_LIVE_LOCK_GATE, false);
  while (rc == -EINTR);
  if (rc == 0) {
    rc = read_incarnation(env, fd, incarnation);
    bool alone = rc == 0 && ps_os_lock_try(env, fd, PS_LIVE_LOCK_PRESENCE, false) == 0;
    /* A new incarnation would begin recovery under those who are inside. */
    bool damaged = rc == 0 && !alone && *incarnation == 0;
    if (rc == 0 && alone) rc = begin_incarnation(env, fd, incarnation);
    /* Alone: turns the exclusive lock into a shared one in one step. */
    if (rc == 0 && !damaged) rc = ps_os_lock_try(env, fd, PS_LIVE_LOCK_PRESENCE, true);
    (void)ps_os_unlock(fd, PS_LIVE_LOCK_GATE);
    if (damaged)
      return ps_fail_corrupt(err, path, -1, -1, -1,
                             "the liveness file is damaged; close the store in every process first");
  }
  return rc < 0 ? ps_fail_errno(err, -rc, path, "taking the liveness lock") : PS_OK;
}

ps_status ps_live_claim(const ps_env *env, const char *path, int fd, ps_error *err) {
  int rc = ps_os_lock_try(env, fd, PS_LIVE_LOCK_CLAIM, false);
  if (rc == -EAGAIN) return ps_fail(err, PS_TIMEOUT, path, "another process is tending the store");
  return rc < 0 ? ps_fail_errno(err, -rc, path, "claiming the store's maintenance") : PS_OK;
}

void ps_live_unclaim(int fd) { (void)ps_os_unlock(fd, PS_LIVE_LOCK_CLAIM); }

ps_status ps_live_look(const ps_env *env, int fd, uint64_t *incarnation, ps_presence *presence,
                       ps_error *err) {
  *incarnation = 0;
  *presence = PS_PRESENCE_NOBODY;
  if (fd < 0) return PS_OK;
  int held = ps_os_lock_look(env, fd, PS_LIVE_LOCK_PRESENCE);
  /* Alone for the moment of its coming: the incarnation is being changed. */
  *presence = held == 0             ? PS_PRESENCE_NOBODY
              : held == F_WRLCK + 1 ? PS_PRESENCE_CHANGING
                                    : PS_PRESENCE_WRITERS;
  int rc = held < 0 ? held : read_incarnation(env, fd, incarnation); /* after the look: it is theirs */
  return rc < 0 ? ps_fail_errno(err, -rc, NULL, "looking who has the store open") : PS_OK;
}
