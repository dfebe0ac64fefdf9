/* Producers and helper threads over a real log: order, linger, back-pressure, failures that pass and failures
 * that do not, the interval sync, fork. Values are 8 bytes: lane << 32 | number. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ps_test.h"
#include "ps_worker.h"

#define LANES_MAX 8

typedef struct rig {
  ps_env env;
  ps_fault_plan plan;
  ps_worker *worker;
  ps_producer *producer;
  ps_log *logs[LANES_MAX];
  ps_kept *kept[LANES_MAX];
  uint64_t sent[LANES_MAX];
  uint32_t lanes;
  int locks;
} rig;

static int serial;

static ps_log *open_log(rig *r, uint32_t lane, ps_durability durability, uint32_t segment_bytes) {
  char directory[100];
  snprintf(directory, sizeof directory, "log-%d-%d", (int)getpid(), serial++);
  CHECK(mkdir(directory, 0777) == 0);
  ps_log_options options = {.partition = lane,
                            .segment_bytes = segment_bytes,
                            .index_interval_bytes = 4096,
                            .durability = durability,
                            .io = PS_IO_MAP,
                            .incarnation = 1};
  ps_log *log;
  ps_error err = {0};
  ps_status status = ps_log_open(&r->env, directory, r->locks, &options, true, &log, &err);
  CHECK_MSG(status == PS_OK, "(%s, errno %d)", err.what, err.os_errno);
  return log;
}

static void fill_lane(rig *r, ps_lane *l, uint32_t index, ps_durability durability, int64_t interval_ns) {
  r->logs[index] = open_log(r, index, durability, 256 << 10);
  r->kept[index] = ps_keeper_keep(&r->worker->keeper, r->logs[index], interval_ns, true, 256 << 10);
  l->log = r->logs[index];
  l->kept = r->kept[index];
  l->value_width = 8;
  l->key_width = -1;
}

static rig *setup(uint32_t lanes, ps_producer_options options, ps_durability durability,
                  int64_t interval_ns) {
  rig *r = calloc(1, sizeof *r);
  ps_error err;
  char path[64];
  snprintf(path, sizeof path, "locks-%d-%d", (int)getpid(), serial++);
  r->locks = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  CHECK(r->locks >= 0);
  r->lanes = lanes;
  r->worker = ps_worker_new();
  CHECK_EQ(ps_worker_start(r->worker, &err), PS_OK);
  r->producer = ps_producer_new(&options, lanes);
  for (uint32_t i = 0; i < lanes; i++)
    fill_lane(r, ps_producer_lane(r->producer, i), i, durability, interval_ns);
  ps_worker_attach(r->worker, r->producer);
  return r;
}

static void arm(rig *r, const char *plan) {
  CHECK(ps_fault_parse(plan, &r->plan));
  r->env.context = &r->plan;
  __atomic_store_n(&r->env.hook, ps_fault_hook, __ATOMIC_SEQ_CST);
}

static void teardown(rig *r, bool close_logs) {
  ps_worker_detach(r->worker, r->producer);
  for (uint32_t i = 0; i < r->lanes; i++) {
    ps_keeper_forget(&r->worker->keeper, r->kept[i]);
    ps_kept_free(r->kept[i]);
  }
  ps_worker_stop(r->worker);
  ps_worker_free(r->worker);
  ps_producer_free(r->producer);
  for (uint32_t i = 0; i < r->lanes; i++) {
    ps_error err;
    ps_status status = ps_log_close(r->logs[i], &err);
    CHECK(status == PS_OK || !close_logs);
    ps_log_free(r->logs[i]);
  }
  close(r->locks);
  free(r);
}

static ps_status send(rig *r, uint32_t lane, bool tracked, ps_error *err) {
  uint64_t value = (uint64_t)lane << 32 | r->sent[lane];
  ps_added added;
  if (!tracked && r->lanes == 1 && ps_producer_add_plain(r->producer, &value, sizeof value)) {
    r->sent[lane]++;
    return PS_OK;
  }
  ps_record record = {.value = &value, .value_bytes = sizeof value, .key_bytes = -1};
  ps_status status = ps_producer_add(r->producer, lane, &record, tracked, &added, err);
  if (status == PS_OK) r->sent[lane]++;
  return status;
}

static void must_send(rig *r, uint32_t lane) {
  ps_error err = {0};
  ps_status status;
  while ((status = send(r, lane, false, &err)) == PS_TIMEOUT) ps_producer_wait_room(r->producer, 1000000000);
  CHECK_MSG(status == PS_OK, "(%s)", err.what);
}

static void must_drain(rig *r) {
  ps_scratch scratch = {0};
  for (uint32_t i = 0; i < r->lanes; i++) CHECK_EQ(ps_producer_drain(r->producer, i, &scratch, -1), PS_OK);
  ps_scratch_free(&scratch);
}

/* Every record there, once, in the order it was sent. */
static void check_log(const rig *r, uint32_t lane) {
  ps_cursor cursor;
  ps_frame_view view;
  ps_columns columns;
  ps_error err = {0};
  uint64_t next = 0;
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(r->logs[lane], &cursor, 0, &err), PS_OK);
  while (ps_cursor_next(r->logs[lane], &cursor, &view, &err) == PS_OK) {
    CHECK_EQ(ps_frame_columns(&view.meta, view.body, view.meta.raw_bytes, &columns), PS_OK);
    for (uint32_t i = 0; i < columns.count; i++, next++)
      CHECK_EQ(ps_load_u64(columns.values.data + 8 * i), (uint64_t)lane << 32 | next);
  }
  ps_cursor_clear(&cursor);
  CHECK_EQ(next, r->sent[lane]);
}

static bool eventually(bool (*ready)(const rig *), const rig *r, int64_t timeout_ns) {
  int64_t until = ps_os_monotonic_ns() + timeout_ns;
  while (!ready(r)) {
    if (ps_os_monotonic_ns() > until) return false;
    usleep(1000);
  }
  return true;
}

static bool all_visible(const rig *r) {
  for (uint32_t i = 0; i < r->lanes; i++)
    if (ps_log_high_watermark(r->logs[i]) != (int64_t)r->sent[i]) return false;
  return true;
}
static bool all_durable(const rig *r) {
  return !ps_log_is_dirty(r->logs[0]) && ps_log_durable_offset(r->logs[0]) > 0;
}

static const ps_producer_options small = {
    .batch_bytes = 2048, .batch_records = 1000, .buffer_bytes = 1 << 20, .linger_ns = 2000000};

static void test_order(void) {
  rig *r = setup(3, small, PS_DURABILITY_INTERVAL, 50000000);
  for (int i = 0; i < 60000; i++) {
    must_send(r, random_below(3));
    if (random_below(5000) == 0) must_drain(r);
  }
  must_drain(r);
  for (uint32_t i = 0; i < 3; i++) check_log(r, i);
  teardown(r, true);
}

static void test_linger(void) {
  rig *r = setup(2, small, PS_DURABILITY_NONE, 0);
  for (int round = 0; round < 20; round++) {
    must_send(r, 0);
    must_send(r, 1);
    CHECK(eventually(all_visible, r, 2000000000));
  }
  check_log(r, 0);
  teardown(r, true);
}

static void test_sticky(void) {
  ps_producer_options options = small;
  options.batch_records = 4;
  options.linger_ns = 1000000000;
  rig *r = setup(3, options, PS_DURABILITY_NONE, 0);
  ps_error err;
  for (uint64_t i = 0; i < 24; i++) {
    ps_added added;
    ps_record record = {.value = &i, .value_bytes = 8, .key_bytes = -1};
    CHECK_EQ(ps_producer_add(r->producer, PS_LANE_STICKY, &record, false, &added, &err), PS_OK);
    CHECK_EQ(added.lane, i / 4 % 3);
    r->sent[added.lane]++;
  }
  CHECK(eventually(all_visible, r, 2000000000));
  teardown(r, true);
}

static void *hammer(void *argument) {
  rig *r = argument;
  uint64_t value = 0;
  ps_error err;
  ps_added added;
  for (int i = 0; i < 20000; i++) {
    ps_record record = {.value = &value, .value_bytes = 8, .key_bytes = -1};
    while (ps_producer_add(r->producer, (uint32_t)i % 2, &record, i % 64 == 0, &added, &err) == PS_TIMEOUT)
      ps_producer_wait_room(r->producer, 1000000);
  }
  return NULL;
}

/* Several threads, a small buffer, builders handed back: all of it is accounted for. */
static void test_threads(void) {
  ps_producer_options options = small;
  options.buffer_bytes = 8192;
  rig *r = setup(2, options, PS_DURABILITY_INTERVAL, 10000000);
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, hammer, r) == 0);
  uint64_t back = 0;
  for (int i = 0; i < 200; i++) {
    ps_builder *b;
    while ((b = ps_producer_fetch(r->producer))) {
      back++;
      ps_producer_recycle(r->producer, b);
    }
    usleep(100);
  }
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  must_drain(r);
  ps_producer_stats stats;
  ps_producer_get_stats(r->producer, &stats);
  CHECK_EQ(stats.records, 60000);
  CHECK_EQ(stats.pending_records, 0);
  CHECK_EQ(ps_log_end_offset(r->logs[0]) + ps_log_end_offset(r->logs[1]), 60000);
  for (ps_builder *b; (b = ps_producer_fetch(r->producer)); back++) ps_producer_recycle(r->producer, b);
  CHECK(back > 0);
  teardown(r, true);
}

static void grow(rig *r, uint32_t count) {
  ps_lanes *more = ps_producer_more(r->producer, count);
  CHECK(more && more->end == r->lanes + count);
  for (uint32_t i = 0; i < count; i++) {
    CHECK_EQ(more->lanes[i].index, r->lanes + i);
    fill_lane(r, &more->lanes[i], r->lanes + i, PS_DURABILITY_NONE, 0);
  }
  ps_producer_grow(r->producer, more);
  r->lanes += count;
}

/* Lanes that come later are like the first ones, which stay where they are. */
static void test_grow(void) {
  rig *r = setup(1, small, PS_DURABILITY_NONE, 0);
  ps_lane *first = ps_producer_lane(r->producer, 0);
  ps_lanes_free(ps_producer_more(r->producer, 3)); /* that came to nothing */
  ps_lanes_free(NULL);
  CHECK_EQ(r->producer->lane_count, 1);
  for (uint32_t step = 0; step < 3; step++) {
    for (int i = 0; i < 5000; i++) must_send(r, random_below(r->lanes));
    grow(r, step + 1);
    CHECK_EQ(r->producer->lane_count, r->lanes);
    CHECK(ps_producer_lane(r->producer, 0) == first);
    for (uint32_t i = 0; i < r->lanes; i++) CHECK_EQ(ps_producer_lane(r->producer, i)->index, i);
  }
  for (int i = 0; i < 5000; i++) must_send(r, random_below(r->lanes));
  must_drain(r);
  for (uint32_t i = 0; i < r->lanes; i++) {
    CHECK(r->sent[i] > 0);
    check_log(r, i);
  }
  teardown(r, true);
}

/* Records without a key go to the new lanes in their turn. */
static void test_sticky_grows(void) {
  ps_producer_options options = small;
  options.batch_records = 4;
  options.linger_ns = 1000000000;
  rig *r = setup(2, options, PS_DURABILITY_NONE, 0);
  grow(r, 2);
  ps_error err;
  for (uint64_t i = 0; i < 32; i++) {
    ps_added added;
    ps_record record = {.value = &i, .value_bytes = 8, .key_bytes = -1};
    CHECK_EQ(ps_producer_add(r->producer, PS_LANE_STICKY, &record, false, &added, &err), PS_OK);
    CHECK_EQ(added.lane, i / 4 % 4);
    r->sent[added.lane]++;
  }
  CHECK(eventually(all_visible, r, 2000000000));
  teardown(r, true);
}

/* While others add, to the lanes there were. */
static void test_grow_beside_others(void) {
  rig *r = setup(2, small, PS_DURABILITY_NONE, 0);
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, hammer, r) == 0);
  for (int i = 0; i < 6; i++) {
    grow(r, 1);
    for (int k = 0; k < 300; k++) must_send(r, 2 + random_below(r->lanes - 2));
  }
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  must_drain(r);
  for (ps_builder *b; (b = ps_producer_fetch(r->producer));) ps_producer_recycle(r->producer, b);
  CHECK_EQ(ps_log_end_offset(r->logs[0]) + ps_log_end_offset(r->logs[1]), 40000);
  for (uint32_t i = 2; i < r->lanes; i++) check_log(r, i);
  teardown(r, true);
}

/* The accounts say what there is, and all of it stays within the buffer. Records here are small. */
static void check_memory(ps_producer *p) {
  uint64_t open = 0, queued = 0, idle = 0, half = p->options.buffer_bytes / 2;
  ps_spin_lock(&p->lock);
  for (uint32_t i = 0; i < p->lane_count; i++) {
    const ps_lane *l = ps_producer_lane(p, i);
    if (l->open) open += l->open->capacity;
    for (const ps_builder *b = l->head; b; b = b->next) queued += b->bytes;
  }
  for (const ps_builder *b = p->free_builders; b; b = b->next) idle += b->capacity;
  CHECK_EQ(open, p->open_capacity);
  CHECK_EQ(queued, p->queued_bytes);
  CHECK_EQ(idle, p->free_capacity);
  ps_spin_unlock(&p->lock);
  uint64_t open_max = half > p->options.batch_bytes ? half : p->options.batch_bytes;
  CHECK(open <= open_max + PS_BUILDER_CAPACITY_MIN);
  CHECK(queued <= p->options.buffer_bytes + p->options.batch_bytes);
  CHECK(idle <= p->options.buffer_bytes);
}

static uint64_t batches(rig *r) {
  ps_producer_stats stats;
  ps_producer_get_stats(r->producer, &stats);
  return stats.batches;
}

/* More lanes than whole batches fit into the buffer: none goes out early because of the others. */
static void test_many_lanes(void) {
  ps_producer_options options = {
      .batch_bytes = 64 << 10, .batch_records = 100000, .buffer_bytes = 64 << 10, .linger_ns = 60000000000};
  rig *r = setup(8, options, PS_DURABILITY_NONE, 0);
  for (int round = 1; round <= 3; round++) {
    for (int i = 0; i < 300 * 8; i++) must_send(r, (uint32_t)i % 8);
    check_memory(r->producer);
    CHECK_EQ(batches(r), 8 * (round - 1));
    must_drain(r);
    CHECK_EQ(batches(r), 8 * round);
  }
  /* One alone fills a whole batch, though it began with a small share. */
  uint32_t most = (options.batch_bytes - PS_BUILDER_FIXED_BYTES) / 8;
  for (uint32_t i = 0; i < most; i++) must_send(r, 5);
  must_drain(r);
  CHECK_EQ(batches(r), 8 * 3 + 1);
  /* Beside others it takes what they leave. */
  for (uint32_t i = 0; i < 8; i++) must_send(r, i);
  for (uint32_t i = 0; i < most; i++) must_send(r, 2);
  check_memory(r->producer);
  must_drain(r);
  CHECK(batches(r) <= 8 * 4 + 1 + 8);
  for (uint32_t i = 0; i < 8; i++) check_log(r, i);
  teardown(r, true);
}

/* A buffer that is full all the time: batches keep their size, and the memory its bounds. */
static void test_small_buffer(void) {
  for (uint32_t skew = 0; skew < 2; skew++) {
    ps_producer_options options = {
        .batch_bytes = 16 << 10, .batch_records = 100000, .buffer_bytes = 64 << 10, .linger_ns = 60000000000};
    rig *r = setup(8, options, PS_DURABILITY_NONE, 0);
    for (int i = 0; i < 200000; i++) {
      must_send(r, skew && random_below(8) ? 3 : random_below(8));
      if (i % 1000 == 0) check_memory(r->producer);
    }
    must_drain(r);
    check_memory(r->producer);
    CHECK(batches(r) < 200000 * 8 / 2048 + 8); /* a lane's share are 4 KiB */
    for (uint32_t i = 0; i < 8; i++) check_log(r, i);
    teardown(r, true);
  }
}

/* A full disk: what was sent stays queued, is said once a try, and goes out in order when there is room. */
static void test_failure_that_passes(void) {
  rig *r = setup(1, small, PS_DURABILITY_NONE, 0);
  ps_error err;
  uint64_t records;
  uint32_t lane;
  must_send(r, 0);
  must_drain(r);
  arm(r, "allocate:1:errno=28:1000000"); /* ENOSPC at the first roll */
  for (int i = 0; i < 60000; i++) must_send(r, 0);
  ps_scratch scratch = {0};
  ps_status status;
  int failures = 0;
  for (int i = 0; i < 500 && failures < 3; i++) {
    CHECK(ps_producer_drain(r->producer, 0, &scratch, 20000000) != PS_OK);
    if (!ps_producer_take_error(r->producer, &err, &records, &lane)) continue;
    CHECK_EQ(err.os_errno, ENOSPC);
    CHECK(records > 0);
    failures++;
  }
  CHECK_EQ(failures, 3);
  __atomic_store_n(&r->plan.nth, INT64_MAX, __ATOMIC_SEQ_CST); /* room again */
  for (int i = 0; i < 500 && (status = ps_producer_drain(r->producer, 0, &scratch, 20000000)) != PS_OK; i++)
    continue;
  ps_scratch_free(&scratch);
  CHECK_EQ(status, PS_OK);
  CHECK(!ps_producer_take_error(r->producer, &err, &records, &lane));
  check_log(r, 0);
  teardown(r, true);
}

/* The helper alone gets over it, too. */
static void test_retries(void) {
  rig *r = setup(1, small, PS_DURABILITY_NONE, 0);
  must_send(r, 0);
  must_drain(r);
  arm(r, "allocate:1:errno=28:2");
  for (int i = 0; i < 60000; i++) must_send(r, 0);
  CHECK(eventually(all_visible, r, 5000000000));
  check_log(r, 0);
  teardown(r, true);
}

static void test_failure_for_good(void) {
  ps_producer_options options = small;
  options.reports = true;
  rig *r = setup(1, options, PS_DURABILITY_SYNC, 0);
  ps_error err;
  uint64_t records = 0;
  uint32_t lane;
  must_send(r, 0);
  must_drain(r);
  arm(r, "sync:1:errno=5:1000000");
  for (int i = 0; i < 10; i++) must_send(r, 0);
  ps_scratch scratch = {0};
  CHECK(ps_producer_drain(r->producer, 0, &scratch, -1) == PS_OS_ERROR);
  ps_scratch_free(&scratch);
  CHECK(ps_producer_take_error(r->producer, &err, &records, &lane));
  CHECK_EQ(records, 10);
  CHECK_EQ(send(r, 0, false, &err), err.status);
  CHECK(err.status == PS_OS_ERROR || err.status == PS_POISONED);
  uint32_t good = 0, failed = 0;
  for (ps_builder *b; (b = ps_producer_fetch(r->producer)); ps_producer_recycle(r->producer, b))
    *(b->error.status == PS_OK ? &good : &failed) += b->count;
  CHECK_EQ(good, 1);
  CHECK_EQ(failed, 10);
  teardown(r, false);
}

static void test_abandon(void) {
  ps_producer_options options = small;
  options.linger_ns = 60000000000;
  rig *r = setup(1, options, PS_DURABILITY_NONE, 0);
  ps_error fallback, why;
  uint32_t lane;
  for (int i = 0; i < 5; i++) must_send(r, 0);
  ps_worker_detach(r->worker, r->producer);
  ps_fail(&fallback, PS_CLOSED, NULL, "closed");
  CHECK_EQ(ps_producer_abandon(r->producer, &fallback, &why, &lane), 5);
  CHECK_EQ(why.status, PS_CLOSED);
  CHECK_EQ(ps_producer_abandon(r->producer, &fallback, &why, &lane), 0);
  ps_worker_attach(r->worker, r->producer); /* for teardown */
  teardown(r, true);
}

static void test_interval_sync(void) {
  rig *r = setup(1, small, PS_DURABILITY_INTERVAL, 20000000);
  for (int round = 0; round < 3; round++) { /* idle in between */
    must_send(r, 0);
    must_drain(r);
    CHECK(eventually(all_durable, r, 3000000000));
    usleep(60000);
  }
  CHECK(ps_kept_lag_ns_max(r->kept[0]) > 0);
  teardown(r, true);
}

static bool dead(const rig *r) { return __atomic_load_n(&r->kept[0]->due_ns, __ATOMIC_RELAXED) == INT64_MAX; }

static void test_interval_sync_fails(void) {
  rig *r = setup(1, small, PS_DURABILITY_INTERVAL, 10000000);
  ps_error err;
  arm(r, "sync:1:errno=5:1000000");
  must_send(r, 0);
  must_drain(r);
  CHECK(eventually(dead, r, 3000000000));
  CHECK_EQ(ps_log_check(r->logs[0], &err), PS_POISONED);
  CHECK_EQ(ps_kept_wait(r->kept[0], 0), PS_OK);
  teardown(r, false);
}

/* A sync that did not come about, for want of a lock say, is no reason to stop syncing. */
static void test_interval_sync_hindered(void) {
  rig *r = setup(1, small, PS_DURABILITY_INTERVAL, 100000000);
  must_send(r, 0);
  must_drain(r);
  arm(r, "lock:1:errno=37:2");
  CHECK(eventually(all_durable, r, 3000000000));
  CHECK(r->plan.seen > 2);
  teardown(r, true);
}

static void test_fork(void) {
  rig *r = setup(2, small, PS_DURABILITY_INTERVAL, 10000000);
  for (int round = 0; round < 20; round++) {
    for (int i = 0; i < 500; i++) must_send(r, random_below(2));
    ps_worker_before_fork(r->worker);
    pid_t child = fork();
    if (child == 0) {
      ps_error err;
      ps_worker_after_fork_child(r->worker);
      for (uint32_t i = 0; i < 2; i++) ps_log_after_fork(r->logs[i]);
      if (!r->producer->forked) _exit(1);
      if (r->worker->producers || r->worker->keeper.first) _exit(2);
      ps_producer_free(r->producer);
      for (uint32_t i = 0; i < 2; i++) ps_kept_free(r->kept[i]);
      if (ps_worker_start(r->worker, &err) != PS_OK) _exit(3);
      ps_worker_stop(r->worker);
      _exit(0);
    }
    ps_worker_after_fork_parent(r->worker);
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
  }
  must_drain(r);
  check_log(r, 0);
  check_log(r, 1);
  teardown(r, true);
}

int main(void) {
  RUN(test_order);
  RUN(test_linger);
  RUN(test_sticky);
  RUN(test_threads);
  RUN(test_grow);
  RUN(test_sticky_grows);
  RUN(test_grow_beside_others);
  RUN(test_many_lanes);
  RUN(test_small_buffer);
  RUN(test_failure_that_passes);
  RUN(test_retries);
  RUN(test_failure_for_good);
  RUN(test_abandon);
  RUN(test_interval_sync);
  RUN(test_interval_sync_fails);
  RUN(test_interval_sync_hindered);
  RUN(test_fork);
  return 0;
}
