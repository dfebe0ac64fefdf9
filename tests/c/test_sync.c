/* What syncs, and what takes space: several logs together, several threads by one sync, readers that go no
 * further than what is durable, a reserve that nothing but mending may take, and a file system that wants to
 * be asked again. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ps_keeper.h"
#include "ps_logs.h"

/* ---- together ---------------------------------------------------------------------------------- */

#define LOGS 40

static char order[4096]; /* w: told to begin, s: synced */
static size_t orders;
static pthread_mutex_t order_mutex = PTHREAD_MUTEX_INITIALIZER;

static int note_order(void *context, const char *name) {
  (void)context;
  char what = strcmp(name, "writeback") == 0 ? 'w' : strcmp(name, "sync") == 0 ? 's' : 0;
  pthread_mutex_lock(&order_mutex);
  if (what && orders < sizeof order) order[orders++] = what;
  pthread_mutex_unlock(&order_mutex);
  return 0;
}

static void *keep(void *keeper) {
  ps_keeper_run(keeper);
  return NULL;
}

/* A keeper, in a thread of its own, and as many new logs in its care. */
static void start_keeping(ps_keeper *keeper, const ps_env *env, int64_t interval_ns, handle *logs,
                          ps_kept **kept, pthread_t *thread) {
  ps_keeper_init(keeper);
  incarnation++;
  for (int i = 0; i < LOGS; i++) {
    fresh_directory();
    logs[i] = open_with(env);
    kept[i] = ps_keeper_keep(keeper, logs[i].log, interval_ns, false, segment_bytes);
    CHECK(kept[i]);
  }
  CHECK(pthread_create(thread, NULL, keep, keeper) == 0);
}

#define INTERVAL_NS 800000000ll

/* Logs whose time comes at once are all begun before the first is waited for, each is synced once, and none
 * is late. */
static void test_together(void) {
  ps_env env = {0};
  ps_keeper keeper;
  ps_kept *kept[LOGS];
  handle logs[LOGS];
  pthread_t thread;
  start_keeping(&keeper, &env, INTERVAL_NS, logs, kept, &thread);
  __atomic_store_n(&keeper.running, true, __ATOMIC_RELAXED);
  env.hook = note_order;
  size_t near = 0; /* those that a slow machine did not come to much later */
  int64_t first_ns = ps_os_monotonic_ns();
  for (int i = 0; i < LOGS; i++) {
    must_append(logs[i].log, 2, 100);
    ps_kept_note(kept[i], 200);
    near += ps_os_monotonic_ns() - first_ns <= INTERVAL_NS / 8;
  }
  for (int i = 0; i < LOGS; i++)
    for (int n = 0; ps_log_durable_offset(logs[i].log) < 2; n++) {
      CHECK(n < 20000);
      ps_os_nap(1000000);
    }
  ps_keeper_stop(&keeper);
  CHECK(pthread_join(thread, NULL) == 0);
  size_t begun = 0, synced = 0, before = 0;
  for (size_t i = 0; i < orders; i++) {
    begun += order[i] == 'w';
    synced += order[i] == 's';
    if (synced == 0) before = begun;
  }
  CHECK_EQ(synced, LOGS);
  CHECK_MSG(before >= near, "(%zu begun before the first sync, %zu near, %zu in all)", before, near, begun);
  for (int i = 0; i < LOGS; i++) {
    ps_keeper_forget(&keeper, kept[i]);
    ps_kept_free(kept[i]);
    close_handle(logs[i]);
  }
  ps_keeper_destroy(&keeper);
}

/* A log is forgotten, and closed, while the keeper is at the others. */
static void test_forgotten_meanwhile(void) {
  ps_env env = {0};
  ps_keeper keeper;
  ps_kept *kept[LOGS];
  handle logs[LOGS];
  pthread_t thread;
  start_keeping(&keeper, &env, 1000000, logs, kept, &thread);
  for (int left = LOGS; left > 0; left--) {
    for (int i = 0; i < left; i++) {
      must_append(logs[i].log, 1, 100);
      ps_kept_note(kept[i], 100);
    }
    int i = (int)random_below((uint32_t)left);
    ps_keeper_forget(&keeper, kept[i]);
    ps_kept_free(kept[i]);
    close_handle(logs[i]);
    kept[i] = kept[left - 1];
    logs[i] = logs[left - 1];
  }
  ps_keeper_stop(&keeper);
  CHECK(pthread_join(thread, NULL) == 0);
  ps_keeper_destroy(&keeper);
}

/* ---- group commit ------------------------------------------------------------------------------ */

static int slow_sync(void *context, const char *name) {
  if (strcmp(name, "sync") == 0) {
    __atomic_fetch_add((int *)context, 1, __ATOMIC_RELAXED);
    ps_os_nap(2000000);
  }
  return 0;
}

static void *append_some(void *log) {
  for (int i = 0; i < 20; i++) {
    int64_t base;
    ps_error err = {0};
    ps_prepared batch;
    ps_frame_prepare_empty(1, &batch);
    CHECK_EQ(ps_log_append(log, &batch, -1, &base, &err), PS_OK);
    CHECK(ps_log_durable_offset(log) > base);
    CHECK(ps_log_high_watermark(log) > base);
  }
  return NULL;
}

/* One sync serves all that wait for it, in this process and the other. */
static void test_group_commit(void) {
  int syncs = 0;
  ps_env env = {slow_sync, &syncs};
  pthread_t threads[16];
  fresh_directory();
  incarnation++;
  durability = PS_DURABILITY_SYNC;
  handle h = open_with(&env), other = open_with(&env); /* two processes, as far as locks go */
  durability = PS_DURABILITY_INTERVAL;
  for (int i = 0; i < 16; i++)
    CHECK(pthread_create(&threads[i], NULL, append_some, i % 2 ? h.log : other.log) == 0);
  for (int i = 0; i < 16; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK_EQ(ps_log_durable_offset(h.log), 320);
  CHECK_MSG(syncs < 120, "(%d syncs for 320 appends)", syncs);
  close_handle(h);
  close_handle(other);
}

/* ---- readers of durable records ---------------------------------------------------------------- */

static int64_t read_durable(ps_log *log, ps_cursor *cursor) {
  ps_frame_view view;
  ps_error err;
  ps_status status;
  while ((status = ps_cursor_next(log, cursor, &view, &err)) == PS_OK) {
  }
  CHECK_EQ(status, PS_END);
  return cursor->next_offset;
}

static void test_durable_cursor(void) {
  ps_cursor cursor, plain_cursor;
  ps_error err;
  fresh_directory();
  incarnation++;
  handle h = open_with(&plain);
  ps_cursor_init(&cursor);
  ps_cursor_init(&plain_cursor);
  cursor.durable = true;
  CHECK_EQ(ps_cursor_seek(h.log, &cursor, 0, &err), PS_OK);
  CHECK_EQ(ps_cursor_seek(h.log, &plain_cursor, 0, &err), PS_OK);
  int64_t durable = 0;
  for (int i = 0; i < 200; i++) { /* rolls on the way */
    must_append(h.log, 3, 500);
    if (random_below(4) == 0) {
      CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
      durable = ps_log_end_offset(h.log);
    }
    CHECK_EQ(read_durable(h.log, &cursor), durable);
    CHECK_EQ(ps_log_readable_offset(h.log, true), durable);
    CHECK_EQ(read_durable(h.log, &plain_cursor), ps_log_end_offset(h.log));
    if (random_below(10) == 0)
      CHECK_EQ(ps_cursor_seek(h.log, &cursor, random_below(1 + (uint32_t)durable), &err), PS_OK);
  }
  ps_cursor_clear(&cursor);
  ps_cursor_clear(&plain_cursor);
  close_handle(h);
}

/* ---- space ------------------------------------------------------------------------------------- */

static int64_t free_bytes(void) {
  struct statfs fs;
  CHECK(statfs(".", &fs) == 0);
  return (int64_t)fs.f_bavail * (int64_t)fs.f_bsize;
}

/* What is free is what it is, so the reserve moves instead: to just below it, above it, and back. */
static void test_reserve(void) {
  ps_reserve reserve = {0};
  ps_error err = {0};
  int64_t base, slack = 256 << 20; /* others use the disk, too */
  fresh_directory();
  incarnation++;
  reserved_space = &reserve;
  handle h = open_with(&plain);
  must_append(h.log, 1, 100);
  reserve.min_free_bytes = free_bytes() + slack;
  CHECK_EQ(append(h.log, 1, 1, 100, &base, &err), PS_OK); /* in space that it has */
  for (int64_t next = 2;; next++) {
    ps_status status = append(h.log, next, 1, 6000, &base, &err);
    if (status == PS_OK) continue;
    CHECK_EQ(status, PS_OS_ERROR);
    CHECK_EQ(err.os_errno, ENOSPC);
    CHECK(strstr(err.what, "min_free_bytes=") != NULL);
    CHECK(reserve.low);
    break;
  }
  int64_t end = ps_log_end_offset(h.log);
  CHECK_EQ(ps_log_check(h.log, &err), PS_OK);      /* not poisoned */
  reserve.min_free_bytes = free_bytes() / 18 * 17; /* enough, but not by an eighth */
  CHECK_EQ(append(h.log, end, 1, 6000, &base, &err), PS_OS_ERROR);
  CHECK(reserve.low);
  reserve.min_free_bytes = free_bytes() / 9 * 7;
  CHECK_EQ(append(h.log, end, 1, 6000, &base, &err), PS_OK);
  CHECK(!reserve.low);
  reserve.min_free_bytes = free_bytes() / 18 * 17; /* it was not low, so that is enough */
  for (int i = 1; i < 40; i++) CHECK_EQ(append(h.log, end + i, 1, 6000, &base, &err), PS_OK);
  check_all(h.log, end + 40);
  close_handle(h);
  reserved_space = NULL;
}

/* ---- a file system that wants to be asked again -------------------------------------------------- */

static int refusals; /* so many of the next writes answer EAGAIN */

/* In libc's place. */
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t at) {
  if (refusals == 0) return syscall(SYS_pwritev, fd, pieces, count, (long)at, 0L);
  refusals--;
  errno = EAGAIN;
  return -1;
}

static void test_again(void) {
  ps_error err = {0};
  int64_t base;
  fresh_directory();
  incarnation++;
  io = PS_IO_PWRITE;
  handle h = open_with(&plain);
  must_append(h.log, 1, 100);
  refusals = 50;
  must_append(h.log, 1, 100);
  CHECK_EQ(refusals, 0);
  refusals = 51;
  CHECK_EQ(append(h.log, 2, 1, 100, &base, &err), PS_OS_ERROR);
  CHECK_EQ(err.os_errno, EAGAIN);
  CHECK_EQ(refusals, 0);
  must_append(h.log, 1, 100);
  check_all(h.log, 3);
  close_handle(h);
  io = PS_IO_MAP;
}

int main(void) {
  RUN(test_together);
  RUN(test_forgotten_meanwhile);
  RUN(test_group_commit);
  RUN(test_durable_cursor);
  RUN(test_reserve);
  RUN(test_again);
  return 0;
}
