/* Waits that ring bells: each publication is heard, by futex_waitv and without it; what is ended rings no
 * more. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>

#include "ps_logs.h"
#include "ps_watch.h"

#define LOGS 4
#define ROUNDS 2000

static handle logs[LOGS];
static int64_t go; /* atomic: rounds the appender may do */

static void *appender(void *argument) {
  (void)argument;
  for (int64_t round = 0; round < ROUNDS; round++) {
    while (__atomic_load_n(&go, __ATOMIC_ACQUIRE) <= round) ps_pause();
    if (round % 3) usleep(round % 7 * 10);
    must_append(logs[round % LOGS].log, 1, 8);
  }
  return NULL;
}

static bool is_ringing(ps_bell *bell, int milliseconds) {
  struct pollfd poller = {.fd = ps_bell_fd(bell), .events = POLLIN};
  return poll(&poller, 1, milliseconds) == 1;
}

/* One wait for all logs; each is named twice, as a careless caller might. */
static ps_watch *watch_all(ps_bell *bell, void *user) {
  ps_watch *watch = ps_watch_new(bell, 2 * LOGS, user);
  CHECK(watch != NULL);
  for (size_t i = 0; i < 2 * LOGS; i++) {
    ps_log *log = logs[i % LOGS].log;
    ps_watch_log(watch, i, log, ps_log_high_watermark(log), false);
  }
  return watch;
}

/* Nobody waits any more: after one wake-up that may be needless, appends wake nobody. */
static void check_all_gone(void) {
  for (int i = 0; i < LOGS; i++) {
    ps_log_stats before, after;
    must_append(logs[i].log, 1, 8);
    ps_log_get_stats(logs[i].log, &before);
    must_append(logs[i].log, 1, 8);
    ps_log_get_stats(logs[i].log, &after);
    CHECK_EQ(after.wakes, before.wakes);
  }
}

static void test_every_publication_is_heard(void) {
  ps_error err;
  ps_bell *bell;
  ps_watcher *watcher = ps_watcher_new();
  CHECK(watcher != NULL);
  CHECK_EQ(ps_bell_new(watcher, &bell, &err), PS_OK);
  for (int i = 0; i < LOGS; i++) {
    fresh_directory();
    logs[i] = open_with(&plain);
  }
  go = 0;
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, appender, NULL) == 0);
  for (int64_t round = 0; round < ROUNDS; round++) {
    ps_log *log = logs[round % LOGS].log;
    int64_t before = ps_log_high_watermark(log);
    ps_watch *watch = watch_all(bell, &go);
    __atomic_store_n(&go, round + 1, __ATOMIC_RELEASE);
    ps_status status = ps_watch_begin(watch, &err);
    CHECK(status == PS_OK || status == PS_END);
    if (status == PS_OK) {
      CHECK(is_ringing(bell, 700)); /* less than a slice: it was woken */
      ps_bell_answer(bell);
      CHECK(ps_bell_take(bell) == &go);
      CHECK(ps_bell_take(bell) == NULL);
    }
    ps_watch_free(watch);
    while (ps_log_high_watermark(log) == before) ps_pause();
  }
  pthread_join(thread, NULL);
  check_all_gone();

  /* Ended before it rings, after it rang, and rung by hand. */
  ps_watch *kept = watch_all(bell, &logs), *ended = watch_all(bell, &go);
  CHECK_EQ(ps_watch_begin(ended, &err), PS_OK);
  CHECK_EQ(ps_watch_begin(kept, &err), PS_OK);
  ps_watch_free(ended);
  must_append(logs[0].log, 1, 8);
  CHECK(is_ringing(bell, 700));
  ps_watch_ring(kept); /* again is once */
  ps_bell_answer(bell);
  CHECK(ps_bell_take(bell) == &logs);
  CHECK(ps_bell_take(bell) == NULL);
  ps_watch_free(kept);
  ended = watch_all(bell, &go);
  CHECK_EQ(ps_watch_begin(ended, &err), PS_OK);
  ps_watch_ring(ended);
  CHECK(is_ringing(bell, 0));
  ps_watch_free(ended);
  CHECK(ps_bell_take(bell) == NULL);
  check_all_gone();
  for (int i = 0; i < LOGS; i++) close_handle(logs[i]);
  ps_bell_free(bell);
  ps_watcher_stop(watcher);
  ps_watcher_free(watcher);
}

/* One watch for all rounds: each publication is heard; what did not ring stays enlisted and costs nothing. */
static void test_a_standing_watch(void) {
  ps_error err;
  ps_bell *bell;
  ps_watcher *watcher = ps_watcher_new();
  CHECK(watcher != NULL);
  CHECK_EQ(ps_bell_new(watcher, &bell, &err), PS_OK);
  for (int i = 0; i < LOGS; i++) {
    fresh_directory();
    logs[i] = open_with(&plain);
  }
  uint32_t flag = 0;
  ps_watch *watch = ps_watch_new(bell, LOGS + 1, NULL);
  ps_watch_stand(watch);
  ps_watch_word(watch, LOGS, &flag, 0);
  go = 0;
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, appender, NULL) == 0);
  int64_t there[LOGS] = {0};
  for (int64_t round = 0; round < ROUNDS; round++) {
    ps_log *log = logs[round % LOGS].log;
    __atomic_store_n(&go, round + 1, __ATOMIC_RELEASE);
    while (ps_log_high_watermark(log) == there[round % LOGS]) {
      for (size_t i = 0; i < LOGS; i++) ps_watch_log(watch, i, logs[i].log, there[i], false);
      ps_status status = ps_watch_begin(watch, &err);
      CHECK(status == PS_OK || status == PS_END);
      if (status == PS_OK) CHECK_EQ(ps_bell_wait(bell, 700000000), 0); /* less than a slice: it was woken */
      ps_bell_answer(bell);
    }
    there[round % LOGS] = ps_log_high_watermark(log);
  }
  pthread_join(thread, NULL);

  /* Nothing new: it waits as long as it may; a word that changes ends that. */
  for (size_t i = 0; i < LOGS; i++) ps_watch_log(watch, i, logs[i].log, there[i], false);
  while (ps_watch_begin(watch, &err) == PS_OK && ps_bell_wait(bell, 20000000) == 0) ps_bell_answer(bell);
  __atomic_store_n(&flag, 1, __ATOMIC_SEQ_CST);
  ps_os_futex_wake_all(&flag);
  CHECK_EQ(ps_bell_wait(bell, 700000000), 0);
  ps_bell_answer(bell);
  CHECK_EQ(ps_watch_begin(watch, &err), PS_END);
  __atomic_store_n(&flag, 0, __ATOMIC_SEQ_CST);
  CHECK_EQ(ps_watch_begin(watch, &err), PS_OK);
  CHECK_EQ(ps_bell_wait(bell, 1000000), -ETIMEDOUT);
  ps_watch_free(watch);
  check_all_gone();
  for (int i = 0; i < LOGS; i++) close_handle(logs[i]);
  ps_bell_free(bell);
  ps_watcher_stop(watcher);
  ps_watcher_free(watcher);
}

/* From now on this process has a kernel without futex_waitv. */
static void forget_futex_waitv(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 449, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
  uint32_t word = 0, seen = 0;
  const void *words[1] = {&word};
  CHECK_EQ(ps_os_futex_wait_many(words, &seen, 1, 0), -ENOSYS);
}

int main(void) {
  RUN(test_every_publication_is_heard);
  RUN(test_a_standing_watch);
  forget_futex_waitv();
  RUN(test_every_publication_is_heard);
  RUN(test_a_standing_watch);
  return 0;
}
