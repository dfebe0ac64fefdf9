/* How many segments stay mapped: several logs share a ring. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>

#include "ps_log_internal.h"
#include "ps_logs.h"

static ps_maps maps;

static handle open_shared(void) {
  char path[300];
  handle h;
  ps_error err = {0};
  snprintf(path, sizeof path, "%s/locks", directory);
  h.locks = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  ps_log_options options = {.partition = 3,
                            .segment_bytes = segment_bytes,
                            .index_interval_bytes = 1024,
                            .durability = durability,
                            .io = io,
                            .incarnation = incarnation,
                            .maps = &maps};
  memset(options.topic_uuid, 7, 16);
  CHECK_EQ(ps_log_open(&plain, directory, h.locks, &options, true, &h.log, &err), PS_OK);
  return h;
}

static handle filled(void) {
  fresh_directory();
  handle h = open_shared();
  for (int i = 0; i < 60; i++) must_append(h.log, 10, 1500);
  ps_error err;
  CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
  return h;
}

static size_t mapped(ps_log *log) {
  size_t count = 0;
  pthread_mutex_lock(&log->table_mutex);
  for (size_t i = 0; i < log->table_count; i++) count += log->table[i].segment != NULL;
  pthread_mutex_unlock(&log->table_mutex);
  return count;
}

static void check_ring(void) {
  size_t count = 0;
  ps_segment *s = maps.hand;
  if (s) do {
      CHECK(s->listed_by != NULL && s->next->previous == s && s->previous->next == s);
      count++;
    } while ((s = s->next) != maps.hand);
  CHECK_EQ(count, maps.count);
}

static void close_all(handle *h, int count) {
  for (int i = 0; i < count; i++) {
    close_handle(h[i]);
    check_ring();
  }
  CHECK_EQ(maps.count, 0);
  CHECK(maps.hand == NULL);
}

static void test_bound(void) {
  maps.max = 5;
  handle h[3];
  for (int i = 0; i < 3; i++) h[i] = filled();
  CHECK(h[0].log->table_count > 10);
  for (int round = 0; round < 3; round++)
    for (int i = 0; i < 3; i++) {
      CHECK_EQ(read_from(h[i].log, 0), 600 + round);
      check_ring();
      CHECK(maps.count <= 5);
      /* Beside them the one of each that is appended to, and the one that was last. */
      CHECK(mapped(h[0].log) + mapped(h[1].log) + mapped(h[2].log) <= 5 + 3 * 2);
      must_append(h[i].log, 1, 8);
      CHECK_EQ(ps_log_end_offset(h[i].log), 601 + round);
    }
  close_all(h, 3);
}

/* What is lent stays, and does not keep the others. */
static void test_lent(void) {
  maps.max = 3;
  handle h = filled();
  ps_cursor cursors[6];
  ps_frame_view view;
  ps_error err = {0};
  for (int i = 0; i < 6; i++) {
    ps_cursor_init(&cursors[i]);
    CHECK_EQ(ps_cursor_seek(h.log, &cursors[i], 80 * i, &err), PS_OK);
    CHECK_EQ(ps_cursor_next(h.log, &cursors[i], &view, &err), PS_OK);
  }
  check_ring();
  CHECK(maps.count >= 3);
  CHECK_EQ(read_from(h.log, 0), 600);
  for (int i = 0; i < 6; i++) {
    CHECK_EQ(ps_cursor_next(h.log, &cursors[i], &view, &err), PS_OK);
    CHECK_EQ(view.meta.base_offset, 80 * i + 10);
    ps_cursor_clear(&cursors[i]);
  }
  for (int i = 0; i < 8; i++) { /* each sync that closes a descriptor lets some go */
    must_append(h.log, 1, 8);
    CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
    CHECK_EQ(read_from(h.log, 590), 601 + i);
  }
  CHECK_EQ(maps.count, 3);
  close_all(&h, 1);
}

/* What is asked for again and again stays, while others come and go. */
static void test_recent(void) {
  maps.max = 4;
  handle h = filled();
  ps_segment *often, *again;
  ps_error err = {0};
  for (int i = 0; i < 8; i++) {
    must_append(h.log, 1, 8);
    CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
  }
  CHECK(maps.count <= 4);
  for (int i = 0; i < 2; i++) {
    CHECK_EQ(ps_table_at(h.log, 0, &often, &err), PS_OK);
    ps_segment_unref(often);
  }
  for (int64_t offset = 50; offset < 600; offset += 45) {
    CHECK_EQ(ps_table_holding(h.log, offset, &again, &err), PS_OK);
    ps_segment_unref(again);
    CHECK_EQ(ps_table_at(h.log, 0, &again, &err), PS_OK);
    CHECK(again == often);
    ps_segment_unref(again);
  }
  close_all(&h, 1);
}

static bool stop;

static void *read_on(void *argument) {
  ps_log *log = argument;
  while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) CHECK(read_from(log, 0) >= 600);
  return NULL;
}

static void *append_on(void *argument) {
  ps_log *log = argument;
  while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE) && ps_log_end_offset(log) < 4000)
    must_append(log, 10, 1500);
  return NULL;
}

/* Tables of several logs at once, each of which may close what another has open. */
static void test_threads(void) {
  maps.max = 4;
  handle h[3];
  pthread_t threads[9];
  stop = false;
  for (int i = 0; i < 3; i++) h[i] = filled();
  for (int i = 0; i < 9; i++)
    CHECK(pthread_create(&threads[i], NULL, i % 3 ? read_on : append_on, h[i / 3].log) == 0);
  usleep(1500000);
  __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
  for (int i = 0; i < 9; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  check_ring();
  close_all(h, 3);
}

int main(void) {
  incarnation = 7;
  RUN(test_bound);
  RUN(test_lent);
  RUN(test_recent);
  RUN(test_threads);
  return 0;
}
