#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_view.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "ps_log_internal.h"

/* How often a walk is begun anew because writers came or went meanwhile, a millisecond apart. */
#define TRIES_MAX 2000

static void pause_ms(void) {
  struct timespec t = {0, 1000000};
  nanosleep(&t, NULL);
}

/* PS_NOT_FOUND: there is no head yet, so nobody has used the partition, or its head is lost. */
static ps_status map_shared(ps_log *log, ps_error *err) {
  char path[512];
  struct stat st;
  uint8_t *map = NULL;
  ps_log_path(log, "head", path);
  int fd = ps_os_openat(log->env, AT_FDCWD, path, O_RDONLY, 0);
  if (fd == -ENOENT) return PS_NOT_FOUND;
  if (fd < 0) return ps_fail_errno(err, -fd, path, "opening the head");
  int rc = ps_os_stat_fd(log->env, fd, &st);
  bool whole = rc == 0 && st.st_size >= (int64_t)PS_HEAD_BYTES;
  if (whole) rc = ps_os_map(log->env, fd, PS_HEAD_BYTES, false, &map);
  ps_os_close(fd);
  if (rc < 0) return ps_fail_errno(err, -rc, path, "mapping the head");
  if (!whole) return PS_NOT_FOUND; /* being made */
  ps_view *view = &log->view;
  memcpy(view->identity.topic_uuid, log->options.topic_uuid, 16);
  view->identity.partition = log->options.partition;
  view->identity.device = (uint64_t)st.st_dev;
  view->identity.inode = (uint64_t)st.st_ino;
  view->shared = map;
  return PS_OK;
}

static uint64_t incarnation_of(const ps_view *view) {
  return ps_acquire_u64(view->shared + PS_HEAD_INCARNATION_OFF);
}

/* Copy the words of the head if they are all of `incarnation`. The slot before the watermark: what the one
 * names is then there for whoever goes by the other. The log start is read before the watermark and shown
 * after it: so it never lies beyond. */
static bool copy_words(ps_log *log, uint64_t incarnation, bool anew) {
  const uint8_t *shared = log->view.shared;
  uint8_t *head = log->head;
  ps_slot slot;
  uint64_t files = ps_head_files(shared); /* it moves after the log start does, here and below */
  int64_t log_start = ps_head_log_start(shared);
  int64_t watermark = ps_head_watermark(shared), durable = ps_head_durable(shared);
  int64_t log_end = ps_head_log_end(shared);
  uint64_t poison = ps_acquire_u64(shared + PS_HEAD_POISON_OFF);
  uint64_t deleted = ps_acquire_u64(shared + PS_HEAD_DELETED_OFF);
  uint64_t moves = ps_head_moves(shared);
  if (!ps_head_read_slot(shared, &slot) || log_start < 0) return false;
  __atomic_thread_fence(__ATOMIC_ACQUIRE); /* recovery takes the incarnation away before it changes a word */
  if (incarnation_of(&log->view) != incarnation) return false;
  if (anew) { /* those of the view may be numbered higher */
    memset(head + PS_HEAD_SLOT0_OFF, 0, PS_HEAD_LINE);
    memset(head + PS_HEAD_SLOT1_OFF, 0, PS_HEAD_LINE);
  }
  ps_head_write_slot(head, &slot);
  ps_release_u64(head + PS_HEAD_MOVES_OFF, moves);
  ps_release_u64(head + PS_HEAD_POISON_OFF, poison);
  ps_release_u64(head + PS_HEAD_DELETED_OFF, deleted);
  ps_release_i64(head + PS_HEAD_DURABLE_OFF, durable);
  ps_release_i64(head + PS_HEAD_LOG_END_OFF, log_end);
  ps_release_i64(head + PS_HEAD_WATERMARK_OFF, watermark);
  int64_t known = ps_head_log_start(head);
  if (log_start > known && known >= 0)
    ps_head_raise_log_start(head, log_start); /* others read it meanwhile */
  else if (log_start != known)
    ps_head_set_log_start(head, log_start);
  ps_release_u64(head + PS_HEAD_FILES_OFF, files);
  return true;
}

/* Believe the head from now on. */
static bool follow(ps_log *log, uint64_t incarnation) {
  ps_view *view = &log->view;
  if (ps_head_check_identity(view->shared, &view->identity) != PS_HEAD_SOUND) return false;
  /* The writer's recovery may have put other files in the place of those that are open. They go before its
   * words are shown: who sees the new watermark, in another thread, sees that he has to leave them. */
  ps_table_forget(log);
  __atomic_fetch_add(&view->generation, 1, __ATOMIC_RELEASE);
  view->following = copy_words(log, incarnation, true);
  PS_POINT(log->env, "view.anew");
  if (view->following) view->incarnation = incarnation;
  return view->following;
}

/* Nobody writes: find out from the files where the log ends. Shared append lock held, if it can be had. */
static ps_status walk(ps_log *log, ps_error *err) {
  ps_view *view = &log->view;
  ps_head_verdict verdict = PS_HEAD_BLANK;
  view->following = false;
  if (view->shared) {
    verdict = ps_head_check_identity(view->shared, &view->identity);
    if (verdict == PS_HEAD_NEWER)
      return ps_fail(err, PS_VERSION, log->dir, "the head was written by a newer format version");
    view->incarnation = incarnation_of(view);
    memcpy(log->head, view->shared, PS_HEAD_BYTES);
  }
  return ps_log_recover(log, verdict, &view->identity, err);
}

/* Follow a writer who is there and has used the partition, if there is one. */
static ps_status look(ps_log *log, bool *followed, bool *changing, ps_error *err) {
  ps_view *view = &log->view;
  uint64_t now;
  ps_presence presence;
  *followed = *changing = false;
  if (!view->shared) {
    ps_status status = map_shared(log, err);
    if (status != PS_OK && status != PS_NOT_FOUND) return status;
  }
  ps_status status = ps_live_look(log->env, log->options.live_fd, &now, &presence, err);
  if (status != PS_OK && err) snprintf(err->path, sizeof err->path, "%s", log->dir);
  if (status != PS_OK) return status;
  *changing = presence == PS_PRESENCE_CHANGING;
  *followed = presence == PS_PRESENCE_WRITERS && view->shared && now != 0 && incarnation_of(view) == now &&
              follow(log, now);
  return PS_OK;
}

static ps_status find_out(ps_log *log, ps_error *err) {
  off_t at = (off_t)log->options.partition * PS_LOCK_STRIDE + PS_LOCK_APPEND;
  for (int tries = 0; tries < TRIES_MAX; tries++, pause_ms()) {
    bool followed, changing;
    ps_status status = look(log, &followed, &changing, err);
    if (status != PS_OK || followed) return status;
    if (changing) continue;
    int rc = log->locks_fd < 0 ? 0 : ps_os_lock_try(log->env, log->locks_fd, at, true);
    if (rc == -EAGAIN) continue; /* a writer is at work here: soon there is a head to follow */
    if (rc < 0) return ps_fail_errno(err, -rc, log->dir, "taking the append lock to read");
    /* A writer may have come between the look and the lock, and be at work here. From now on none can. */
    status = look(log, &followed, &changing, err);
    if (status == PS_OK && !followed) status = walk(log, err);
    if (log->locks_fd >= 0) (void)ps_os_unlock(log->locks_fd, at);
    return status;
  }
  return ps_fail(err, PS_TIMEOUT, log->dir, "a writer keeps the partition busy without attaching to it");
}

ps_status ps_view_open(ps_log *log, ps_error *err) {
  pthread_mutex_init(&log->view.mutex, NULL);
  int rc = ps_os_map_memory(PS_HEAD_BYTES, &log->head);
  if (rc < 0) return ps_fail_errno(err, -rc, log->dir, "opening a partition");
  return find_out(log, err);
}

void ps_view_free(ps_log *log) {
  ps_os_unmap((void *)log->view.shared, PS_HEAD_BYTES);
  pthread_mutex_destroy(&log->view.mutex);
}

static void refresh_locked(ps_log *log) {
  ps_view *view = &log->view;
  bool copied = false;
  ps_error ignored; /* the next look tries again */
  /* Of a partition that nobody has used there is no head in which its deletion could be marked. */
  if (!view->shared && ps_log_check_place(log, NULL) == PS_DELETED)
    ps_release_u64(log->head + PS_HEAD_DELETED_OFF, PS_HEAD_DELETED_MAGIC);
  else if (!view->shared)
    (void)map_shared(log, &ignored); /* a writer has made it, and is followed below */
  if (view->shared) {
    uint64_t now = incarnation_of(view);
    if (ps_head_deleted(view->shared)) ps_release_u64(log->head + PS_HEAD_DELETED_OFF, PS_HEAD_DELETED_MAGIC);
    if (view->following && now == view->incarnation)
      copied = copy_words(log, now, false);
    else if (now != 0 && now != view->incarnation) /* a writer came, and recovered what had to be */
      (void)follow(log, now);
  }
  pthread_mutex_unlock(&view->mutex);
  if (copied) ps_table_trim(log);
}

void ps_view_refresh(ps_log *log) {
  if (pthread_mutex_trylock(&log->view.mutex) == 0) refresh_locked(log); /* else another thread is at it */
}

void ps_view_refresh_now(ps_log *log) {
  pthread_mutex_lock(&log->view.mutex);
  refresh_locked(log);
}
