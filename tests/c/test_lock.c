/* Holding a partition for exclusive writing: who waits, who is refused, who is told what, and what is left by
 * a holder that dies or stops. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <time.h>

#include "ps_logs.h"

#define MS 1000000

/* Appends one record of 64 bytes, as `append` of ps_logs.h does, within a timeout. */
static ps_status append_within(ps_log *log, int64_t timeout_ns, ps_error *err) {
  uint8_t data[64] = {0};
  int64_t base;
  ps_store_i64(data, ps_log_end_offset(log));
  ps_columns columns = {.count = 1, .first_timestamp = 1};
  columns.values = (ps_binary){.data = data, .bytes = sizeof data, .width = sizeof data};
  columns.keys.width = columns.header_keys.width = columns.header_values.width = -1;
  ps_frame_meta meta;
  ps_prepared batch;
  ps_frame_meta_init(&meta);
  CHECK_EQ(
      ps_frame_prepare(&columns, &meta, PS_CODEC_NONE, ps_log_frame_bytes_max(log), NULL, 0, &batch, err),
      PS_OK);
  return ps_log_append(log, &batch, timeout_ns, &base, err);
}

/* A child that holds the partition, says so, and waits to be killed. */
static pid_t run_holder(const char *plan_text) {
  int pipes[2];
  char said = 0;
  CHECK(pipe(pipes) == 0);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    ps_fault_plan plan;
    ps_env env = plain;
    ps_error err;
    if (plan_text) {
      if (!ps_fault_parse(plan_text, &plan)) _exit(9);
      env = (ps_env){ps_fault_hook, &plan};
    }
    handle h = open_with(&env);
    if (ps_log_hold(h.log, 0, &err) != PS_OK) _exit(8);
    must_append(h.log, 2, 64);
    must_append(h.log, 2, 64);
    if (write(pipes[1], "h", 1) != 1) _exit(7);
    for (;;) pause();
  }
  close(pipes[1]);
  CHECK(read(pipes[0], &said, 1) == (plan_text ? 0 : 1));
  close(pipes[0]);
  return pid;
}

static void reap(pid_t pid) {
  int status;
  CHECK(waitpid(pid, &status, 0) == pid);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_held_by_another(void) {
  fresh_directory();
  handle h = open_with(&plain);
  ps_error err = {0};
  must_append(h.log, 1, 64);
  pid_t pid = run_holder(NULL);
  char told[32];
  snprintf(told, sizeof told, "process %d", (int)pid);
  CHECK_EQ(ps_log_hold(h.log, 0, &err), PS_HELD);
  CHECK_MSG(strstr(err.what, told), "(%s)", err.what);
  CHECK(!ps_log_is_held(h.log));
  int64_t start = ps_os_monotonic_ns();
  CHECK_EQ(ps_log_hold(h.log, 50 * MS, &err), PS_HELD);
  CHECK(ps_os_monotonic_ns() - start >= 50 * MS);
  CHECK_EQ(append_within(h.log, 0, &err), PS_TIMEOUT);
  CHECK_MSG(strstr(err.what, told), "(%s)", err.what);
  CHECK(kill(pid, SIGSTOP) == 0); /* stopped is not dead: nothing is stolen */
  CHECK_EQ(append_within(h.log, 50 * MS, &err), PS_TIMEOUT);
  CHECK_EQ(ps_log_high_watermark(h.log), 5);
  check_all(h.log, 5); /* reading needs nobody's leave */
  CHECK(kill(pid, SIGKILL) == 0);
  CHECK_EQ(append_within(h.log, -1, &err), PS_OK); /* waits for the death, no longer */
  reap(pid);
  CHECK_EQ(ps_log_hold(h.log, 0, &err), PS_OK);
  CHECK(ps_log_is_held(h.log));
  check_all(h.log, 6);
  close_handle(h);
}

static void test_held_here(void) {
  fresh_directory();
  handle h = open_with(&plain), other = open_with(&plain); /* descriptors of their own, so two processes */
  ps_error err = {0};
  CHECK_EQ(ps_log_hold(h.log, -1, &err), PS_OK);
  CHECK_EQ(ps_log_hold(h.log, -1, &err), PS_HELD);          /* not for ever: nobody would let go */
  for (int i = 0; i < 300; i++) must_append(h.log, 3, 200); /* rolls */
  CHECK_EQ(append_within(other.log, 0, &err), PS_TIMEOUT);
  ps_log_release(h.log);
  ps_log_release(h.log);
  CHECK_EQ(append_within(other.log, 0, &err), PS_OK);
  must_append(h.log, 1, 64);
  CHECK_EQ(ps_log_hold(other.log, 0, &err), PS_OK);
  CHECK_EQ(append_within(h.log, 0, &err), PS_TIMEOUT);
  close_handle(other); /* closing lets go */
  must_append(h.log, 1, 64);
  check_all(h.log, 903);
  close_handle(h);
}

static void test_passing_writers(void) {
  fresh_directory();
  handle h = open_with(&plain);
  ps_error err = {0};
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    handle other = open_with(&plain);
    for (;;) CHECK_EQ(append_within(other.log, -1, &err), PS_OK);
  }
  while (ps_log_end_offset(h.log) == 0) usleep(100);
  for (int i = 0; i < 200; i++) { /* a writer that is only passing never refuses a hold */
    ps_status status = ps_log_hold(h.log, 0, &err);
    CHECK_MSG(status == PS_OK, "(%d: %s)", status, err.what);
    int64_t end = ps_log_end_offset(h.log);
    if (i % 20 == 0) usleep(2000);
    CHECK_EQ(ps_log_end_offset(h.log), end); /* while it is held, it stands still */
    ps_log_release(h.log);
  }
  CHECK(kill(pid, SIGKILL) == 0);
  reap(pid);
  CHECK_EQ(append_within(h.log, -1, &err), PS_OK);
  CHECK_EQ(read_from(h.log, 0), ps_log_end_offset(h.log));
  close_handle(h);
}

/* The partition is made while another process has its lock: there is no head yet to say who that is. */
static void test_opened_while_it_is_being_made(void) {
  fresh_directory();
  char path[300];
  snprintf(path, sizeof path, "%s/locks", directory);
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  CHECK(fd >= 0);
  CHECK_EQ(ps_os_lock_try(&plain, fd, 3 * PS_LOCK_STRIDE + PS_LOCK_APPEND, false), 0);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    close(fd);
    handle h = open_with(&plain);
    must_append(h.log, 1, 64);
    _exit(0);
  }
  usleep(50000);
  close(fd);
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  handle h = open_with(&plain);
  check_all(h.log, 1);
  close_handle(h);
}

static void test_death_while_holding(void) {
  static const char *const points[] = {"hold.held:1",       "append.begun:2",   "append.body:2",
                                       "append.header:2",   "append.log_end:2", "append.even:2",
                                       "append.published:2"};
  for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
    char plan[64];
    fresh_directory();
    handle h = open_with(&plain);
    ps_error err = {0};
    if (io == PS_IO_PWRITE && (strstr(points[i], "body") || strstr(points[i], "header"))) {
      snprintf(plan, sizeof plan, "pwrite:3:kill");
    } else {
      snprintf(plan, sizeof plan, "%s:kill", points[i]);
    }
    reap(run_holder(plan));
    CHECK_EQ(ps_log_hold(h.log, 0, &err), PS_OK); /* nobody is blocked */
    append_empty(h.log);
    must_append(h.log, 1, 64);
    check_all(h.log, i == 0 ? 2 : 4); /* nothing acknowledged is lost, nothing is torn */
    close_handle(h);
  }
}

static void test_fork_of_a_holder(void) {
  fresh_directory();
  handle h = open_with(&plain);
  ps_error err = {0};
  CHECK_EQ(ps_log_hold(h.log, 0, &err), PS_OK);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) { /* what the fork handler does: close, never unlock */
    close(h.locks);
    ps_log_after_fork(h.log);
    ps_log_release(h.log);
    handle own = open_with(&plain);
    _exit(append_within(own.log, 20 * MS, &err) == PS_TIMEOUT && !ps_log_is_held(h.log) ? 0 : 1);
  }
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  must_append(h.log, 1, 64);
  close_handle(h);
}

/* A thread of ours waits to append until another process lets go: the others are not to wait for it. */
static void *append_for_ever(void *context) {
  ps_error err = {0};
  ps_status status;
  do status = append_within(context, -1, &err);
  while (status == PS_INTERRUPTED);
  CHECK_MSG(status == PS_OK, "(%d: %s)", status, err.what);
  return NULL;
}

static void on_alarm(int number) { (void)number; }

static void test_beside_a_thread_that_waits(void) {
  fresh_directory();
  handle h = open_with(&plain);
  ps_error err = {0};
  pid_t pid = run_holder(NULL);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, append_for_ever, h.log) == 0);
  usleep(50000);
  CHECK(signal(SIGALRM, on_alarm) != SIG_ERR);
  alarm(20); /* ends nothing, but what is to end by then has failed */
  int64_t start = ps_os_monotonic_ns();
  CHECK_EQ(append_within(h.log, 50 * MS, &err), PS_TIMEOUT);
  ps_log_release(h.log); /* nothing is held, so there is nothing to wait for */
  CHECK_EQ(append_within(h.log, -1, &err), PS_INTERRUPTED); /* now and then signals can be looked at */
  CHECK_EQ(ps_log_hold(h.log, -1, &err), PS_INTERRUPTED);
  CHECK(ps_os_monotonic_ns() - start < 2000 * (int64_t)MS);
  CHECK_EQ(ps_log_hold(h.log, 50 * MS, &err), PS_HELD);
  char told[32];
  snprintf(told, sizeof told, "process %d", (int)pid);
  CHECK_MSG(strstr(err.what, told), "(%s)", err.what);
  CHECK(ps_os_monotonic_ns() - start < 4000 * (int64_t)MS);
  alarm(0);
  CHECK(kill(pid, SIGKILL) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  reap(pid);
  CHECK_EQ(ps_log_hold(h.log, 0, &err), PS_OK);
  close_handle(h);
}

static void *append_until_closed(void *context) {
  ps_error err;
  ps_status status;
  do status = append_within(context, -1, &err);
  while (status == PS_INTERRUPTED);
  CHECK_EQ(status, PS_CLOSED);
  return NULL;
}

/* Threads wait, without a limit, for another process that keeps the partition: closing the log ends that. */
static void test_closed_while_threads_wait_for_a_holder(void) {
  fresh_directory();
  handle h = open_with(&plain);
  ps_error err = {0};
  must_append(h.log, 1, 64);
  pid_t pid = run_holder(NULL);
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, append_until_closed, h.log) == 0);
  usleep(50000);
  int64_t start = ps_os_monotonic_ns();
  CHECK_EQ(ps_log_close(h.log, &err), PS_OK);
  CHECK(ps_os_monotonic_ns() - start < 5000 * (int64_t)MS);
  for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  ps_log_free(h.log);
  close(h.locks);
  CHECK(kill(pid, SIGKILL) == 0);
  reap(pid);
  h = open_with(&plain);
  check_all(h.log, 5);
  CHECK_EQ(ps_log_end_offset(h.log), 5); /* what waited was refused, and is not there */
  close_handle(h);
}

/* The log is closed while a thread waits its turn. The number of the locks' descriptor may be another file's
 * by the time that it comes: it is not used any more. */
typedef struct closing {
  ps_log *log;
  pthread_t threads[2];
  ps_status late;
  int locks_asked;
  bool slow;
} closing;

static void *close_log(void *context) {
  ps_error err = {0};
  CHECK_EQ(ps_log_close(((closing *)context)->log, &err), PS_OK);
  return NULL;
}

static void *append_late(void *context) {
  closing *c = context;
  ps_error err = {0};
  c->late = append_within(c->log, -1, &err);
  return NULL;
}

/* Within an append: closing comes first of those who wait for its end, then another append. */
static int during_append(void *context, const char *name) {
  closing *c = context;
  if (strcmp(name, "lock") == 0) __atomic_fetch_add(&c->locks_asked, 1, __ATOMIC_SEQ_CST);
  if (strcmp(name, "append.even") != 0 || !c->slow) return 0;
  c->slow = false;
  CHECK(pthread_create(&c->threads[0], NULL, close_log, c) == 0);
  usleep(30000);
  CHECK(pthread_create(&c->threads[1], NULL, append_late, c) == 0);
  usleep(30000);
  return 0;
}

static void test_closed_while_a_thread_waits(void) {
  ps_durability usual = durability;
  durability = PS_DURABILITY_NONE;
  fresh_directory();
  closing c = {0};
  ps_env env = {during_append, &c};
  handle h = open_with(&env);
  ps_error err = {0};
  c.log = h.log;
  must_append(h.log, 1, 64);
  c.slow = true;
  c.locks_asked = 0;
  CHECK_EQ(append_within(h.log, -1, &err), PS_OK);
  for (int i = 0; i < 2; i++) CHECK(pthread_join(c.threads[i], NULL) == 0);
  CHECK_EQ(c.late, PS_CLOSED);
  CHECK_EQ(c.locks_asked, 1);
  CHECK_EQ(ps_log_hold(h.log, 0, &err), PS_CLOSED);
  ps_log_free(h.log);
  close(h.locks);
  durability = usual;
}

static void everything(void) {
  RUN(test_held_by_another);
  RUN(test_held_here);
  RUN(test_passing_writers);
  RUN(test_opened_while_it_is_being_made);
  RUN(test_death_while_holding);
  RUN(test_fork_of_a_holder);
  RUN(test_beside_a_thread_that_waits);
  RUN(test_closed_while_threads_wait_for_a_holder);
  RUN(test_closed_while_a_thread_waits);
}

int main(void) {
  everything();
  io = PS_IO_PWRITE;
  everything();
  return 0;
}
