/* Reading a partition without writing a byte: beside writers, after them, after their death, after a power
 * failure, and where there is nothing yet. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <pthread.h>
#include <time.h>

#include "ps_logs.h"

static int live_of_reader = -1;

/* A log for reading only; its locks and live file are open for reading only too. */
static ps_status try_read_with(const ps_env *env, handle *h, ps_error *err) {
  char path[300];
  snprintf(path, sizeof path, "%s/locks", directory);
  h->locks = open(path, O_RDONLY | O_CLOEXEC);
  snprintf(path, sizeof path, "%s/live", directory);
  live_of_reader = open(path, O_RDONLY | O_CLOEXEC);
  ps_log_options options = options_of(true);
  options.live_fd = live_of_reader;
  return ps_log_open(env, directory, h->locks, &options, false, &h->log, err);
}

static handle open_reader_with(const ps_env *env) {
  handle h;
  ps_error err = {0};
  ps_status status = try_read_with(env, &h, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s, errno %d, %s)", status, err.what, err.os_errno, err.path);
  return h;
}

static handle open_reader(void) { return open_reader_with(&plain); }

static void close_reader(handle h) {
  close_handle(h);
  close(live_of_reader);
}

/* Enter the store as a writer does; the incarnation is the store's from now on. */
static int enter(void) {
  char path[300];
  ps_error err;
  snprintf(path, sizeof path, "%s/live", directory);
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  CHECK(fd >= 0);
  CHECK_EQ(ps_live_enter(&plain, path, fd, &incarnation, &err), PS_OK);
  return fd;
}

/* Everything in the directory, in one number. */
static uint64_t digest(void) {
  uint64_t sum = 0;
  DIR *dir = opendir(directory);
  struct dirent *entry;
  CHECK(dir);
  while ((entry = readdir(dir)) != NULL) {
    char path[600];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode)) continue;
    uint8_t *bytes = exactly((size_t)st.st_size + 1);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && read(fd, bytes, (size_t)st.st_size) == st.st_size);
    close(fd);
    sum += ps_hash(bytes, (size_t)st.st_size) ^ ps_hash((uint8_t *)entry->d_name, strlen(entry->d_name)) ^
           (uint64_t)st.st_mtim.tv_nsec ^ (uint64_t)st.st_blocks;
    free(bytes);
  }
  closedir(dir);
  return sum;
}

static void test_nothing_yet(void) {
  fresh_directory();
  CHECK(rmdir(directory) == 0);
  handle r = open_reader();
  CHECK_EQ(ps_log_high_watermark(r.log), 0);
  CHECK_EQ(ps_log_start_offset(r.log), 0);
  CHECK_EQ(ps_log_wait(r.log, 0, 0, 2000000), PS_TIMEOUT);
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(r.log, &cursor, 0, &err), PS_OK);
  CHECK_EQ(ps_cursor_next(r.log, &cursor, &view, &err), PS_END);
  CHECK(mkdir(directory, 0777) == 0);
  int live = enter();
  handle w = open_with(&plain);
  CHECK_EQ(ps_cursor_next(r.log, &cursor, &view, &err), PS_END);
  must_append(w.log, 5, 40);
  CHECK_EQ(ps_log_wait(r.log, 4, 0, 2000000000), PS_OK);
  CHECK_EQ(ps_cursor_next(r.log, &cursor, &view, &err), PS_OK);
  CHECK_EQ(view.meta.record_count, 5);
  ps_cursor_clear(&cursor);
  check_all(r.log, 5);
  close_handle(w);
  close(live);
  close_reader(r);
}

static void test_at_rest(void) {
  fresh_directory();
  for (int way = 0; way < 3; way++) { /* closed in order, left by a dead process, the head lost */
    int live = enter();
    handle w = open_with(&plain);
    for (int i = 0; i < 200; i++) must_append(w.log, 7, 100);
    int64_t end = ps_log_end_offset(w.log);
    if (way == 0)
      close_handle(w);
    else
      drop_handle(w);
    close(live);
    char path[300];
    snprintf(path, sizeof path, "%s/head", directory);
    if (way == 2) CHECK(unlink(path) == 0);
    uint64_t before = digest();
    handle r = open_reader();
    CHECK_EQ(ps_log_high_watermark(r.log), end);
    check_all(r.log, end);
    for (int64_t offset = 0; offset <= end; offset += 97) CHECK_EQ(read_from(r.log, offset), end);
    int64_t base, found;
    ps_error err = {0};
    CHECK_EQ(ps_log_find_time(r.log, 1000 + 700, &base, &found, &err), PS_OK);
    CHECK_EQ(base, 700);
    CHECK_EQ(append(r.log, end, 1, 64, &base, &err), PS_READ_ONLY);
    CHECK_EQ(ps_log_hold(r.log, 0, &err), PS_READ_ONLY);
    CHECK_EQ(ps_log_sync(r.log, &err), PS_READ_ONLY);
    close_reader(r);
    CHECK_EQ(digest(), before);
  }
}

/* The tail is torn, as by a power failure: cut in the view; the writer who comes cuts it in truth. */
static void test_torn_tail(void) {
  for (int64_t keep = 0; keep <= 192; keep += 64) {
    fresh_directory();
    int live = enter();
    handle w = open_with(&plain);
    for (int i = 0; i < 9; i++) must_append(w.log, 2, 100);
    drop_handle(w);
    close(live);
    struct stat st;
    char *path = segment_path(0);
    CHECK(stat(path, &st) == 0);
    /* The last frame: 192 of header and 256 of body, behind the segment's header and eight like it. */
    int64_t last = PS_SEGMENT_HEADER_BYTES + 8 * (192 + 256);
    zero(path, last + keep, 448 - (size_t)keep);
    char live_path[300]; /* the incarnation that wrote it is over */
    snprintf(live_path, sizeof live_path, "%s/live", directory);
    CHECK(unlink(live_path) == 0);
    uint64_t before = digest();
    handle r = open_reader();
    CHECK_EQ(ps_log_high_watermark(r.log), 16);
    check_all(r.log, 16);
    ps_cursor cursor;
    ps_frame_view view;
    ps_error err = {0};
    ps_cursor_init(&cursor);
    CHECK_EQ(ps_cursor_seek(r.log, &cursor, 16, &err), PS_OK);
    CHECK_EQ(ps_cursor_next(r.log, &cursor, &view, &err), PS_END);
    CHECK_EQ(digest(), before);
    live = enter();
    w = open_with(&plain);
    CHECK_EQ(ps_log_end_offset(w.log), 16);
    CHECK_EQ(ps_log_leader_epoch(w.log), 1);
    must_append(w.log, 3, 100);
    CHECK_EQ(ps_cursor_next(r.log, &cursor, &view, &err), PS_OK);
    CHECK(view.meta.base_offset == 16 && view.meta.leader_epoch == 1);
    CHECK_EQ(ps_cursor_next(r.log, &cursor, &view, &err), PS_END);
    ps_cursor_clear(&cursor);
    check_all(r.log, 19);
    CHECK_EQ(ps_log_leader_epoch(r.log), 1);
    close_reader(r);
    close_handle(w);
    close(live);
  }
}

/* A reader beside writers that are killed anywhere, one after the other; each begins with recovery. */
static void test_beside_dying_writers(void) {
  for (size_t i = 0; i < sizeof append_points / sizeof *append_points; i++) {
    if (strcmp(append_points[i], "map") == 0) continue; /* dies before it has begun */
    char plan[64];
    fresh_directory();
    handle r = open_reader();
    int64_t known = 0, seen = 0;
    for (int life = 1; life <= 3; life++) {
      bool died;
      incarnation++;
      snprintf(plan, sizeof plan, "%s:%d:kill", append_points[i], life * 7);
      known = run_doomed(plan, known, &died);
      int64_t now = ps_log_high_watermark(r.log);
      CHECK_MSG(now >= known && now >= seen, "(%s, life %d: %" PRId64 " of %" PRId64 ")", append_points[i],
                life, now, known);
      CHECK_EQ(read_from(r.log, 0), now);
      seen = now;
    }
    close_reader(r);
    handle again = open_reader();
    CHECK(ps_log_high_watermark(again.log) >= seen); /* a frame that was only not published is adopted */
    check_all(again.log, known);
    close_reader(again);
  }
}

static void test_follows_a_writer(void) {
  fresh_directory();
  int live = enter();
  handle w = open_with(&plain);
  must_append(w.log, 1, 64);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    handle own = open_with(&plain);
    for (int i = 0; i < 3000; i++) must_append(own.log, 3, 64);
    _exit(0);
  }
  handle r = open_reader();
  int64_t last = 0;
  while (last < 9001) {
    CHECK_EQ(ps_log_wait(r.log, last, 0, 10000000000), PS_OK);
    int64_t now = read_from(r.log, last);
    CHECK(now > last);
    last = now;
  }
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  check_all(r.log, 9001);
  ps_error err = {0};
  CHECK_EQ(ps_log_sync(w.log, &err), PS_OK);
  CHECK_EQ(ps_log_durable_offset(r.log), 9001);
  close_reader(r);
  close_handle(w);
  close(live);
}

/* Bytes that were durable are damaged: said, as to a writer, not cut. */
static void test_damage(void) {
  fresh_directory();
  int live = enter();
  handle w = open_with(&plain);
  ps_error err = {0};
  for (int i = 0; i < 9; i++) must_append(w.log, 2, 100);
  CHECK_EQ(ps_log_sync(w.log, &err), PS_OK);
  must_append(w.log, 2, 100);
  drop_handle(w);
  close(live);
  flip(segment_path(0), PS_SEGMENT_HEADER_BYTES + 3 * 448 + 200);
  handle r = open_reader();
  CHECK_EQ(ps_log_high_watermark(r.log), 20);
  ps_cursor cursor;
  ps_frame_view view;
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(r.log, &cursor, 6, &err), PS_OK);
  CHECK_EQ(ps_cursor_next(r.log, &cursor, &view, &err), PS_CORRUPT);
  CHECK_EQ(err.offset, 6);
  ps_cursor_clear(&cursor);
  close_reader(r);
}

/* What a sync topic had not made durable is not shown by somebody who cannot sync it. */
static void test_sync_topic(void) {
  ps_durability usual = durability;
  fresh_directory();
  durability = PS_DURABILITY_NONE; /* writes beyond what is durable */
  handle w = open_with(&plain);
  ps_error err = {0};
  must_append(w.log, 4, 100);
  CHECK_EQ(ps_log_sync(w.log, &err), PS_OK);
  must_append(w.log, 4, 100);
  drop_handle(w);
  durability = PS_DURABILITY_SYNC;
  handle r = open_reader();
  CHECK_EQ(ps_log_high_watermark(r.log), 4);
  CHECK_EQ(read_from(r.log, 0), 4);
  close_reader(r);
  durability = usual;
}

/* Beside a writer, only the end is looked at first; then the beginning, several segments before it. */
static void test_from_the_end_to_the_beginning(void) {
  fresh_directory();
  int live = enter();
  handle w = open_with(&plain);
  for (int i = 0; i < 400; i++) must_append(w.log, 1, 500);
  handle r = open_reader();
  CHECK_EQ(read_from(r.log, 400), 400);
  CHECK_EQ(read_from(r.log, 0), 400);
  close_reader(r);
  close_handle(w);
  close(live);
}

/* The first thing asked after a writer has come and recovered is for a moment. */
static void test_time_after_a_recovery(void) {
  fresh_directory();
  int live = enter();
  handle w = open_with(&plain);
  for (int i = 0; i < 40; i++) must_append(w.log, 1, 500);
  drop_handle(w);
  close(live);
  handle r = open_reader();
  live = enter();
  w = open_with(&plain);
  int64_t base, found;
  ps_error err = {0};
  CHECK_EQ(ps_log_find_time(r.log, 1000 + 17, &base, &found, &err), PS_OK);
  CHECK_EQ(base, 17);
  close_reader(r);
  close_handle(w);
  close(live);
}

/* A writer comes and goes to work after the reader has looked who is there, and before it has the lock. */
typedef struct arrival {
  int locks_asked;
  int live;
  handle w;
} arrival;

static int arrive(void *context, const char *name) {
  arrival *a = context;
  if (strcmp(name, "lock") != 0 || ++a->locks_asked != 2) return 0;
  a->live = enter();
  a->w = open_with(&plain);
  must_append(a->w.log, 1, 64);
  return 0;
}

static void test_a_writer_comes_meanwhile(void) {
  fresh_directory();
  int live = enter();
  handle w = open_with(&plain);
  must_append(w.log, 1, 64);
  close_handle(w);
  close(live);
  arrival a = {0};
  ps_env env = {arrive, &a};
  handle r = open_reader_with(&env);
  CHECK(a.locks_asked >= 2);
  CHECK_EQ(ps_log_high_watermark(r.log), 2);
  must_append(a.w.log, 1, 64);
  CHECK_EQ(ps_log_high_watermark(r.log), 3);
  CHECK_EQ(read_from(r.log, 0), 3);
  close_reader(r);
  close_handle(a.w);
  close(a.live);
}

/* Another thread reads on while one takes a writer's word anew, whose recovery has put another file in the
 * place of the one that is being read. */
typedef struct other_thread {
  ps_log *log;
  ps_cursor cursor;
  ps_status status;
  int64_t base;
  int epoch;
  pthread_t thread;
  bool started;
} other_thread;

static void *read_one(void *context) {
  other_thread *o = context;
  ps_frame_view view;
  ps_error err = {0};
  o->status = ps_cursor_next(o->log, &o->cursor, &view, &err);
  o->base = view.meta.base_offset;
  o->epoch = view.meta.leader_epoch;
  return NULL;
}

static int taken_anew(void *context, const char *name) {
  other_thread *o = context;
  if (strcmp(name, "view.anew") != 0 || !o->log || o->started) return 0;
  o->started = true;
  CHECK(pthread_create(&o->thread, NULL, read_one, o) == 0);
  struct timespec t = {0, 50000000};
  nanosleep(&t, NULL);
  return 0;
}

static void test_threads_at_a_recovery(void) {
  fresh_directory();
  int live = enter();
  handle w = open_with(&plain);
  do must_append(w.log, 1, 500);
  while (access(segment_path(ps_log_end_offset(w.log) - 1), F_OK) != 0 || ps_log_end_offset(w.log) == 1);
  drop_handle(w);
  close(live);
  int64_t last;
  { /* the only frame of the last segment is torn: all of that file goes */
    handle first = open_reader();
    last = ps_log_high_watermark(first.log) - 1;
    close_reader(first);
  }
  zero(segment_path(last), PS_SEGMENT_HEADER_BYTES + 192, 100);
  char path[300];
  snprintf(path, sizeof path, "%s/live", directory);
  CHECK(unlink(path) == 0);
  other_thread o = {0};
  ps_env env = {taken_anew, &o};
  handle r = open_reader_with(&env);
  ps_error err = {0};
  CHECK_EQ(ps_log_high_watermark(r.log), last);
  CHECK_EQ(ps_cursor_seek(r.log, &o.cursor, last, &err), PS_OK);
  live = enter();
  w = open_with(&plain);
  must_append(w.log, 1, 500);
  o.log = r.log;
  CHECK_EQ(ps_log_high_watermark(r.log), last + 1);
  CHECK(o.started && pthread_join(o.thread, NULL) == 0);
  CHECK_EQ(o.status, PS_OK);
  CHECK(o.base == last && o.epoch == 1);
  ps_cursor_clear(&o.cursor);
  close_reader(r);
  close_handle(w);
  close(live);
}

static void everything(void) {
  RUN(test_nothing_yet);
  RUN(test_at_rest);
  RUN(test_torn_tail);
  RUN(test_beside_dying_writers);
  RUN(test_follows_a_writer);
  RUN(test_damage);
  RUN(test_sync_topic);
  RUN(test_from_the_end_to_the_beginning);
  RUN(test_time_after_a_recovery);
  RUN(test_a_writer_comes_meanwhile);
  RUN(test_threads_at_a_recovery);
}

int main(void) {
  everything();
  io = PS_IO_PWRITE;
  everything();
  return 0;
}
