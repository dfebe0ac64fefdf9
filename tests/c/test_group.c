/* The shared pages of a consumer group: what a control page is taken for, whose a member's file is, and that
 * a commit which is acknowledged is always in what the one who puts its member out finds. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_group.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ps_logs.h"

#define MARKS 16
#define ROUNDS 20000

static int new_file(char *path, size_t size) {
  snprintf(path, size, "file-%d-%d", (int)getpid(), serial++);
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  CHECK(fd >= 0);
  return fd;
}

static ps_control_identity identity_of(int fd, uint64_t of_store) {
  struct stat st;
  ps_control_identity identity = {.incarnation = of_store};
  CHECK(fstat(fd, &st) == 0);
  identity.device = (uint64_t)st.st_dev;
  identity.inode = (uint64_t)st.st_ino;
  for (int i = 0; i < 16; i++) identity.boot_id[i] = (uint8_t)(0xb0 + i);
  return identity;
}

/* ---- control ---------------------------------------------------------------------------------- */

static void test_a_control_page_begins(void) {
  char path[64];
  int fd = new_file(path, sizeof path);
  uint8_t *page = NULL, *again = NULL;
  ps_control_identity found = {0}, other;
  CHECK_EQ(ps_control_open(&plain, fd, false, &page, &found),
           -ENODATA); /* only to read: it is not made longer */
  CHECK_EQ(ps_control_open(&plain, fd, true, &page, &found), 0);
  ps_control_identity mine = identity_of(fd, 5);
  CHECK_EQ(found.device, mine.device);
  CHECK_EQ(found.inode, mine.inode);
  CHECK_EQ(ps_control_check(page, &mine), PS_CONTROL_BLANK);
  CHECK_EQ(ps_control_state(page), 0);
  ps_control_begin(page, &mine, 77);
  CHECK_EQ(ps_control_check(page, &mine), PS_CONTROL_SOUND);
  CHECK_EQ(ps_control_state(page), 77);

  CHECK_EQ(ps_control_open(&plain, fd, true, &again, &found), 0); /* the same page */
  CHECK(!ps_control_swap(again, 76, 78));
  CHECK_EQ(ps_control_state(page), 77);
  CHECK(ps_control_swap(again, 77, 78));
  CHECK_EQ(ps_control_state(page), 78);
  CHECK(!ps_control_swap(page, 77, 79));
  CHECK_EQ(ps_control_check(again, &mine), PS_CONTROL_SOUND); /* the state is no part of what it is */
  uint32_t before = ps_control_signal(page);
  ps_control_notify(again);
  CHECK_EQ(ps_control_signal(page), before + 1);

  other = mine;
  other.incarnation++;
  CHECK_EQ(ps_control_check(page, &other), PS_CONTROL_PASSED);
  uint64_t checksum = ps_load_u64(page + PS_CONTROL_CHECKSUM_OFF);
  ps_store_u64(page + PS_CONTROL_CHECKSUM_OFF, 0); /* who makes it anew was killed on the way */
  CHECK_EQ(ps_control_check(page, &mine), PS_CONTROL_PASSED);
  other.boot_id[3] ^= 1;
  CHECK_EQ(ps_control_check(page, &other), PS_CONTROL_MOVED);
  ps_store_u64(page + PS_CONTROL_CHECKSUM_OFF, checksum ^ 1);
  CHECK_EQ(ps_control_check(page, &mine), PS_CONTROL_DAMAGED);
  ps_store_u64(page + PS_CONTROL_CHECKSUM_OFF, checksum);
  other = mine;
  other.device++;
  CHECK_EQ(ps_control_check(page, &other), PS_CONTROL_MOVED);
  other = mine;
  other.inode++;
  CHECK_EQ(ps_control_check(page, &other), PS_CONTROL_MOVED);
  for (int i = 0; i < 16; i++) {
    other = mine;
    other.boot_id[i] ^= 1;
    other.incarnation++; /* another boot matters more than another incarnation */
    CHECK_EQ(ps_control_check(page, &other), PS_CONTROL_MOVED);
  }
  ps_control_begin(page, &other, 80);
  CHECK_EQ(ps_control_check(page, &other), PS_CONTROL_SOUND);
  CHECK_EQ(ps_control_check(page, &mine), PS_CONTROL_MOVED);
  ps_os_unmap(page, PS_CONTROL_BYTES);
  ps_os_unmap(again, PS_CONTROL_BYTES);
  close(fd);
}

static void test_every_bit_of_a_control_page_counts(void) {
  uint8_t *page = exactly(PS_CONTROL_BYTES), *flipped = exactly(PS_CONTROL_BYTES);
  ps_control_identity mine = {.device = 1, .inode = 2, .incarnation = 3};
  memset(mine.boot_id, 4, sizeof mine.boot_id);
  CHECK_EQ(ps_control_check(page, &mine), PS_CONTROL_BLANK);
  ps_control_begin(page, &mine, 9);
  for (uint32_t bit = 0; bit < 8 * (PS_CONTROL_CHECKSUM_OFF + 8); bit++) {
    memcpy(flipped, page, PS_CONTROL_BYTES);
    flipped[bit / 8] ^= (uint8_t)(1u << bit % 8);
    CHECK_MSG(ps_control_check(flipped, &mine) == PS_CONTROL_DAMAGED, "bit %u", bit);
  }
  for (uint32_t bytes = 1; bytes < PS_CONTROL_CHECKSUM_OFF + 8;
       bytes++) { /* torn: the rest was never written */
    memset(flipped, 0, PS_CONTROL_BYTES);
    memcpy(flipped, page, bytes);
    ps_control_verdict verdict = ps_control_check(flipped, &mine);
    /* Where only the checksum is missing, all has been said in this very boot. */
    CHECK_MSG(verdict != PS_CONTROL_SOUND, "%u bytes", bytes);
    CHECK_MSG((verdict == PS_CONTROL_PASSED) == (bytes == PS_CONTROL_CHECKSUM_OFF), "%u bytes", bytes);
  }
  memcpy(flipped, page, PS_CONTROL_BYTES);
  ps_store_u32(flipped + PS_CONTROL_VERSION_OFF, PS_FORMAT_VERSION + 1);
  ps_store_u64(flipped + PS_CONTROL_CHECKSUM_OFF, ps_hash(flipped, PS_CONTROL_CHECKSUM_OFF));
  CHECK_EQ(ps_control_check(flipped, &mine), PS_CONTROL_NEWER);
  free(page);
  free(flipped);
}

/* ---- members ---------------------------------------------------------------------------------- */

static void test_marks_grow(void) {
  char path[64];
  int fd = new_file(path, sizeof path);
  uint8_t *page = NULL, *runs[3] = {NULL}, *seen = NULL;
  size_t bytes = 0;
  CHECK_EQ(ps_member_create(&plain, fd, 42, &page), 0);
  CHECK(!ps_member_is_fenced(page));
  CHECK(ps_member_confirm(page));
  CHECK_EQ(ps_member_open(&plain, fd, 42, false, &seen, &bytes), 0); /* no marks yet */
  CHECK_EQ(bytes, PS_MEMBER_MARKS_OFF);
  ps_os_unmap(seen, bytes);
  for (uint32_t run = 0; run < 3; run++) {
    CHECK_EQ(ps_member_add_marks(&plain, fd, run, &runs[run]), 0);
    for (uint32_t i = 0; i < PS_MEMBER_PAGE_MARKS; i++) {
      CHECK_EQ(ps_load_i64(runs[run] + 8 * i), -1);
      ps_store_i64(runs[run] + 8 * i, run * 1000 + i);
    }
    CHECK_EQ(ps_member_open(&plain, fd, 42, true, &seen, &bytes), 0);
    CHECK_EQ(bytes, PS_MEMBER_MARKS_OFF + (run + 1) * 4096);
    for (uint32_t i = 0; i < (run + 1) * PS_MEMBER_PAGE_MARKS; i++)
      CHECK_EQ(ps_load_i64(seen + PS_MEMBER_MARKS_OFF + 8 * i),
               i / PS_MEMBER_PAGE_MARKS * 1000 + i % PS_MEMBER_PAGE_MARKS);
    ps_os_unmap(seen, bytes);
  }
  uint8_t *none = NULL;
  uint32_t most = PS_MEMBER_MARKS_MAX / PS_MEMBER_PAGE_MARKS;
  CHECK_EQ(ps_member_add_marks(&plain, fd, most, &none), -E2BIG);
  CHECK_EQ(ps_member_add_marks(&plain, fd, UINT32_MAX, &none), -E2BIG);
  CHECK(none == NULL);
  for (uint32_t run = 0; run < 3; run++) ps_os_unmap(runs[run], 4096);
  ps_os_unmap(page, PS_MEMBER_MARKS_OFF);
  close(fd);
}

static void test_whose_file_it_is(void) {
  char path[64];
  int fd = new_file(path, sizeof path);
  uint8_t *page = NULL, *seen = NULL;
  size_t bytes = 0;
  CHECK_EQ(ps_member_open(&plain, fd, 42, false, &seen, &bytes), -EINVAL); /* just created */
  CHECK_EQ(ps_member_create(&plain, fd, 42, &page), 0);
  CHECK_EQ(ps_member_open(&plain, fd, 43, false, &seen, &bytes), -EINVAL);
  for (uint32_t bit = 0; bit < 8 * (PS_MEMBER_CHECKSUM_OFF + 8); bit++) {
    page[bit / 8] ^= (uint8_t)(1u << bit % 8);
    CHECK_MSG(ps_member_open(&plain, fd, 42, false, &seen, &bytes) == -EINVAL, "bit %u", bit);
    CHECK(seen == NULL);
    page[bit / 8] ^= (uint8_t)(1u << bit % 8);
  }
  CHECK(ftruncate(fd, PS_MEMBER_MARKS_OFF + 5000) == 0); /* whole pages of marks, nothing in between */
  CHECK_EQ(ps_member_open(&plain, fd, 42, true, &seen, &bytes), 0);
  CHECK_EQ(bytes, PS_MEMBER_MARKS_OFF + 4096);
  ps_member_fence(seen);
  CHECK(ps_member_is_fenced(page));
  CHECK(!ps_member_confirm(page));
  ps_os_unmap(seen, bytes);
  ps_os_unmap(page, PS_MEMBER_MARKS_OFF);
  close(fd);
}

static void test_no_room(void) {
  char path[64];
  int fd = new_file(path, sizeof path);
  uint8_t *page = NULL, *marks = NULL;
  ps_control_identity found;
  ps_fault_plan plan;
  ps_env env = {ps_fault_hook, &plan};
  CHECK(ps_fault_parse("allocate:1:errno=28:3", &plan));
  CHECK_EQ(ps_control_open(&env, fd, true, &page, &found), -ENOSPC);
  CHECK_EQ(ps_member_create(&env, fd, 1, &page), -ENOSPC);
  CHECK_EQ(ps_member_add_marks(&env, fd, 0, &marks), -ENOSPC);
  CHECK(page == NULL && marks == NULL);
  CHECK_EQ(ps_member_create(&env, fd, 1, &page), 0);
  ps_os_unmap(page, PS_MEMBER_MARKS_OFF);
  close(fd);
}

/* ---- G3: what was acknowledged is in the harvest ----------------------------------------------- */

typedef struct race {
  int fd;
  int round; /* atomic: which both threads run */
  int ready; /* atomic: which the other one has ended */
  uint8_t *page, *marks;
  int64_t acknowledged[MARKS];
  int64_t harvest[MARKS];
} race;

static void *put_out(void *argument) {
  race *r = argument;
  uint8_t *page;
  size_t bytes;
  CHECK_EQ(ps_member_open(&plain, r->fd, 42, true, &page, &bytes),
           0); /* a map of its own, as a process has */
  for (int round = 1; round <= ROUNDS; round++) {
    while (__atomic_load_n(&r->round, __ATOMIC_ACQUIRE) < round) ps_pause();
    for (uint32_t i = random_below(20); i > 0; i--) ps_pause();
    ps_member_fence(page);
    for (int i = 0; i < MARKS; i++)
      r->harvest[i] =
          __atomic_load_n((const int64_t *)(page + PS_MEMBER_MARKS_OFF + 8 * i), __ATOMIC_ACQUIRE);
    __atomic_store_n(&r->ready, round, __ATOMIC_RELEASE);
  }
  ps_os_unmap(page, bytes);
  return NULL;
}

static void test_a_commit_that_is_acknowledged_is_harvested(void) {
  char path[64];
  race r = {.fd = new_file(path, sizeof path)};
  CHECK_EQ(ps_member_create(&plain, r.fd, 42, &r.page), 0);
  CHECK_EQ(ps_member_add_marks(&plain, r.fd, 0, &r.marks), 0);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, put_out, &r) == 0);
  int64_t in_time = 0, newer = 0;
  for (int round = 1; round <= ROUNDS; round++) {
    __atomic_store_n((uint64_t *)(r.page + PS_MEMBER_FENCED_OFF), 0, __ATOMIC_SEQ_CST);
    for (int i = 0; i < MARKS; i++) {
      __atomic_store_n((int64_t *)(r.marks + 8 * i), -1, __ATOMIC_SEQ_CST);
      r.acknowledged[i] = -1;
    }
    __atomic_store_n(&r.round, round, __ATOMIC_RELEASE);
    for (int64_t n = 0;; n++) {
      int i = (int)(n % MARKS);
      __atomic_store_n((int64_t *)(r.marks + 8 * i), n, __ATOMIC_RELEASE);
      if (!ps_member_confirm(r.page)) break;
      r.acknowledged[i] = n;
      in_time++;
    }
    while (__atomic_load_n(&r.ready, __ATOMIC_ACQUIRE) < round) ps_pause();
    for (int i = 0; i < MARKS; i++) {
      CHECK_MSG(r.harvest[i] >= r.acknowledged[i], "round %d, mark %d: %" PRId64 " < %" PRId64, round, i,
                r.harvest[i], r.acknowledged[i]);
      newer += r.harvest[i] > r.acknowledged[i];
    }
  }
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(in_time > 0);
  printf("  %" PRId64 " commits acknowledged, %" PRId64 " refused and harvested\n", in_time, newer);
  ps_os_unmap(r.marks, 4096);
  ps_os_unmap(r.page, PS_MEMBER_MARKS_OFF);
  close(r.fd);
}

/* ---- heads ------------------------------------------------------------------------------------ */

static void test_how_far_a_partition_is_durable(void) {
  fresh_directory();
  char path[300];
  uint8_t uuid[16], wanted[16];
  int64_t durable = 0;
  ps_error err;
  snprintf(path, sizeof path, "%s/head", directory);
  CHECK_EQ(ps_group_head_durable(&plain, path, uuid, &durable), -ENOENT);
  handle h = open_with(&plain);
  must_append(h.log, 5, 8);
  CHECK_EQ(ps_log_sync(h.log, &err), PS_OK);
  must_append(h.log, 3, 8);
  CHECK_EQ(ps_group_head_durable(&plain, path, uuid, &durable), 0);
  CHECK_EQ(durable, ps_log_durable_offset(h.log));
  CHECK(durable >= 5);
  memset(wanted, 7, 16);
  CHECK(memcmp(uuid, wanted, 16) == 0);
  close_handle(h);
  int fd = open(path, O_RDWR);
  CHECK(fd >= 0);
  CHECK(pwrite(fd, "x", 1, 1) == 1);
  CHECK_EQ(ps_group_head_durable(&plain, path, uuid, &durable), -EINVAL);
  CHECK(ftruncate(fd, 100) == 0);
  CHECK_EQ(ps_group_head_durable(&plain, path, uuid, &durable), -EINVAL);
  close(fd);
}

int main(void) {
  RUN(test_a_control_page_begins);
  RUN(test_every_bit_of_a_control_page_counts);
  RUN(test_marks_grow);
  RUN(test_whose_file_it_is);
  RUN(test_no_room);
  RUN(test_a_commit_that_is_acknowledged_is_harvested);
  RUN(test_how_far_a_partition_is_durable);
  return 0;
}
