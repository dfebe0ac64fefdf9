/* Several threads append to, read, wait on, sync, prepare, populate and look at one log, through two handles:
 * all of it is seen by ThreadSanitizer, under which this program is also run. Without it, what is read is
 * checked. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>

#include "ps_logs.h"
#include "ps_watch.h"

#define WRITERS 3
#define READERS 2
#define APPENDS 1500 /* each, of 3 records: a few hundred segments are filled */
#define RECORDS 3

static handle shared[2]; /* each has maps of its own, as two processes have */
static int64_t done;     /* atomic: writers that have ended */

static void *writer(void *argument) {
  ps_log *log = argument;
  for (int i = 0; i < APPENDS; i++) {
    ps_error err = {0};
    int64_t base;
    ps_status status;
    do /* its waits are cut, for those who look after signals */
      status = append(log, 0, RECORDS, 40, &base, &err);
    while (status == PS_INTERRUPTED);
    CHECK_MSG(status == PS_OK, "(%d: %s)", status, err.what);
    CHECK_EQ(base % RECORDS, 0);
    if (i % 64 == 0) CHECK_EQ(ps_log_sync(log, &err), PS_OK);
  }
  __atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
  return NULL;
}

/* Frames in order, without a gap, each wait ended by what it waited for. */
static void *reader(void *argument) {
  ps_log *log = argument;
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(log, &cursor, 0, &err), PS_OK);
  int64_t next = 0;
  while (next < (int64_t)WRITERS * APPENDS * RECORDS) {
    ps_status status = ps_cursor_next(log, &cursor, &view, &err);
    if (status == PS_END) {
      CHECK_EQ(ps_log_wait(log, next, 1000, 60000000000), PS_OK);
      continue;
    }
    CHECK_MSG(status == PS_OK, "(%d: %s)", status, err.what);
    CHECK_EQ(view.meta.base_offset, next);
    next = ps_frame_next_offset(&view.meta);
  }
  ps_cursor_clear(&cursor);
  return NULL;
}

/* What helper threads and curious users do meanwhile. */
static void *helper(void *argument) {
  ps_log *log = argument;
  ps_log_stats stats;
  while (__atomic_load_n(&done, __ATOMIC_SEQ_CST) < WRITERS) {
    ps_log_prepare_next(log);
    ps_log_populate(log, 64 << 10);
    ps_log_get_stats(log, &stats);
    CHECK(stats.high_watermark <= ps_log_end_offset(log));
    CHECK(ps_log_durable_offset(log) <= ps_log_end_offset(log));
    CHECK(ps_log_leader_epoch(log) >= 0);
    (void)ps_log_is_dirty(log);
    int64_t offset, found;
    ps_error err = {0};
    ps_status status = ps_log_find_time(log, 1001, &offset, &found, &err);
    CHECK_MSG(status == PS_OK || status == PS_END, "(%d: %s)", status, err.what);
  }
  return NULL;
}

/* The same tail, by a bell. */
static void *listener(void *argument) {
  ps_log *log = argument;
  ps_error err = {0};
  ps_bell *bell;
  ps_watcher *watcher = ps_watcher_new();
  CHECK(watcher != NULL);
  CHECK_EQ(ps_bell_new(watcher, &bell, &err), PS_OK);
  ps_watch *watch = ps_watch_new(bell, 1, NULL);
  ps_watch_stand(watch);
  int64_t seen = 0;
  while (seen < (int64_t)WRITERS * APPENDS * RECORDS) {
    ps_watch_log(watch, 0, log, seen, false);
    ps_status status = ps_watch_begin(watch, &err);
    CHECK(status == PS_OK || status == PS_END);
    if (status == PS_OK) CHECK_EQ(ps_bell_wait(bell, 60000000000), 0);
    ps_bell_answer(bell);
    seen = ps_log_high_watermark(log);
  }
  ps_watch_free(watch);
  ps_bell_free(bell);
  ps_watcher_stop(watcher);
  ps_watcher_free(watcher);
  return NULL;
}

static void test_all_at_once(void) {
  pthread_t threads[WRITERS + 2 * READERS + 3];
  size_t count = 0;
  fresh_directory();
  shared[0] = open_with(&plain);
  shared[1] = open_with(&plain);
  done = 0;
  for (int i = 0; i < WRITERS; i++)
    CHECK(pthread_create(&threads[count++], NULL, writer, shared[i % 2].log) == 0);
  for (int i = 0; i < 2 * READERS; i++)
    CHECK(pthread_create(&threads[count++], NULL, reader, shared[i % 2].log) == 0);
  CHECK(pthread_create(&threads[count++], NULL, helper, shared[0].log) == 0);
  CHECK(pthread_create(&threads[count++], NULL, helper, shared[1].log) == 0);
  CHECK(pthread_create(&threads[count++], NULL, listener, shared[1].log) == 0);
  for (size_t i = 0; i < count; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  int64_t end = (int64_t)WRITERS * APPENDS * RECORDS;
  for (int i = 0; i < 2; i++) {
    CHECK_EQ(ps_log_high_watermark(shared[i].log), end);
    close_handle(shared[i]);
  }
}

int main(void) {
  RUN(test_all_at_once);
  io = PS_IO_PWRITE;
  RUN(test_all_at_once);
  durability = PS_DURABILITY_SYNC;
  RUN(test_all_at_once);
  io = PS_IO_MAP;
  RUN(test_all_at_once);
  return 0;
}
