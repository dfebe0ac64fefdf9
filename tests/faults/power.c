/* power.c - power failures of one partition, as many as one likes.
 *
 * A trial is a seed: a partition is worked on until power fails, at a call, at a named point or between
 * operations; what disk.h says may be left is recovered, with further failures on the way; all is compared
 * with what was promised (oracle.h); the work goes on, and power fails again. In the end the log is opened
 * once more, which must change nothing.
 *
 * A failure does not end the process: the photo of the disk is taken, what the oracle knows by then is noted,
 * and the operation under way comes to its end on a disk that nobody will look at again. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>

#include "disk.h"
#include "oracle.h"
#include "ps_compact.h"
#include "ps_retain.h"
#include "trial.h"

/* What the library draws is drawn from the seed. */
ssize_t getrandom(void *out, size_t bytes, unsigned flags) {
  (void)flags;
  random_fill(out, bytes);
  return (ssize_t)bytes;
}

/* ---- operations ----------------------------------------------------------------------------------- */

static bool begin_again(trial *t);

/* A sync has failed: nobody may rely on this log any more. Once all have left it, the next one writes anew
 * what is not known to be on the disk. */
static bool leave_poisoned(trial *t) {
  ps_error err = {0};
  for (int i = 0; i < t->handle_count && !t->failed; i++)
    EXPECT(&t->seen, ps_log_sync(t->handles[i].log, &err) == PS_POISONED, "a failed sync is forgotten");
  if (t->failed) return true;
  SAY(t, "all processes leave a poisoned log");
  t->counts->spoiled++;
  drop_all(t);
  if (!begin_again(t)) return false;
  if (t->failed) return true;
  int64_t durable = ps_log_durable_offset(t->handles[0].log);
  EXPECT(&t->seen, durable == t->seen.end, "durable %" PRId64 " of %" PRId64, durable, t->seen.end);
  return true;
}

static bool append(trial *t, ps_log *log, bool sync_fails) {
  static uint8_t data[PS_SEGMENT_BYTES_MIN], scratch[PS_SEGMENT_BYTES_MIN * 3];
  static int32_t offsets[PS_SEGMENT_BYTES_MIN / 8 + 2];
  oracle *o = &t->seen;
  uint32_t count = t->alike || random_below(3) ? 1 : 1 + random_below(12), at = 0;
  uint32_t most = t->alike || random_below(16) ? t->largest : PS_SEGMENT_BYTES_MIN / 2;
  uint32_t width = t->alike ? most : 8 + random_below(most / count);
  bool fixed = t->alike || random_below(4) != 0;
  EXPECT(o, o->end + count < RECORDS_MAX, "%u", count);
  int32_t epoch = ps_log_leader_epoch(log);
  for (uint32_t i = 0; i < count; i++) {
    record *r = &o->records[o->end + i];
    *r = (record){++o->numbers, fixed ? width : random_below(width + 1), epoch};
    oracle_value(o, r, data + at);
    at += r->bytes;
    offsets[i + 1] = (int32_t)at;
  }
  ps_columns columns = {.count = count, .first_timestamp = 1000 + o->end};
  columns.values = (ps_binary){.data = data, .bytes = at, .width = fixed ? (int32_t)width : -1};
  if (!fixed) columns.values.offsets = offsets;
  columns.keys.width = columns.header_keys.width = columns.header_values.width = -1;
  uint8_t keys[16];
  for (uint32_t i = 0; i < count; i++) keys[i] = oracle_key(&o->records[o->end + i]);
  columns.has_keys = t->compacts;
  if (t->compacts) columns.keys = (ps_binary){.data = keys, .bytes = count, .width = 1};
  ps_frame_meta meta;
  ps_prepared batch;
  ps_error err = {0};
  int64_t base = -1;
  ps_frame_meta_init(&meta);
  ps_status status = ps_frame_prepare(&columns, &meta, t->codec, ps_log_frame_bytes_max(log), scratch,
                                      sizeof scratch, &batch, &err);
  o->pending = count;
  SAY(t, "append %u records, %u bytes, at %" PRId64, count, at, o->end);
  if (sync_fails) (void)ps_disk_fail_sync(true);
  if (status == PS_OK) status = ps_log_append(log, &batch, -1, &base, &err);
  if (sync_fails && !ps_disk_fail_sync(false)) {
    EXPECT(o, status == PS_POISONED, "append whose sync failed: %d %s", status, err.what);
    return leave_poisoned(t);
  }
  EXPECT(o, status == PS_OK, "append: %d %s, %s, errno %d", status, err.what, err.path, err.os_errno);
  EXPECT(o, base == o->end, "appended at %" PRId64 ", not %" PRId64, base, o->end);
  if (t->failed) return true;
  o->pending = 0;
  o->end += count;
  if (t->durability == PS_DURABILITY_SYNC && o->promised < o->end) o->promised = o->end;
  oracle_told(o, log, t->durability);
  return true;
}

static bool sync_log(trial *t, ps_log *log) {
  ps_error err = {0};
  SAY(t, "sync");
  EXPECT(&t->seen, ps_log_sync(log, &err) == PS_OK, "sync: %s, %s", err.what, err.path);
  if (t->failed) return true;
  t->seen.promised = t->seen.end;
  oracle_told(&t->seen, log, t->durability);
  return true;
}

static bool fail_sync(trial *t, ps_log *log) {
  ps_error err = {0};
  SAY(t, "a sync fails");
  if (t->durability == PS_DURABILITY_SYNC) return append(t, log, true);
  (void)ps_disk_fail_sync(true);
  ps_status status = ps_log_sync(log, &err);
  if (ps_disk_fail_sync(false)) return true; /* there was nothing to sync */
  EXPECT(&t->seen, status == PS_POISONED, "sync that failed: %d %s", status, err.what);
  return leave_poisoned(t);
}

/* Every process is gone; the next one is alone. */
static bool begin_again(trial *t) {
  t->incarnation = random_u64();
  if (!open_another(t)) return false;
  if (t->failed) return true;
  if (!oracle_recovered(&t->seen, t->handles[0].log, t->durability, false)) return false;
  return t->handle_wish == 1 || open_another(t);
}

static bool close_and_open(trial *t, int i) {
  ps_error err = {0};
  int64_t end = t->seen.end;
  SAY(t, "close %d of %d", i + 1, t->handle_count);
  handle h = t->handles[i];
  EXPECT(&t->seen, ps_log_close(h.log, &err) == PS_OK, "close: %s, %s", err.what, err.path);
  if (!t->failed && t->durability != PS_DURABILITY_NONE && t->handle_wish == 1 && t->seen.promised < end)
    t->seen.promised = end;
  ps_log_free(h.log);
  close(h.locks);
  t->handles[i] = t->handles[--t->handle_count];
  if (t->failed) return true;
  return t->handle_count ? open_another(t) : begin_again(t);
}

/* The machine is well, but the processes die. */
static bool die(trial *t) {
  SAY(t, "all processes die");
  drop_all(t);
  return begin_again(t);
}

/* A while passes: the kernel writes back, of its own accord. */
static bool idle(trial *t) {
  SAY(t, "idle");
  for (uint32_t times = 1 + random_below(6); times > 0; times--) ps_disk_write_back(random_u64());
  return true;
}

/* The log starts later, and what is below goes, or some of it. */
static bool delete_some(trial *t, ps_log *log) {
  oracle *o = &t->seen;
  ps_error err = {0};
  ps_retained out = {0};
  ps_retention rule = {PS_TIMESTAMP_NONE, -1, PS_TIMESTAMP_NONE};
  ps_status status = PS_OK;
  int64_t shown = ps_log_high_watermark(log);
  uint32_t how = random_below(4);
  if (random_below(4) == 0) t->countdown = 1 + random_below(how ? 24 : 8); /* in the midst of it */
  if (how == 0) {
    int64_t offset = o->start + random_below((uint32_t)(shown - o->start) + 1);
    if (random_below(4) == 0) offset = shown;
    o->start_most = offset;
    SAY(t, "delete before %" PRId64, offset);
    status = ps_log_delete_before(log, offset, &err);
  } else {
    if (how == 1) rule.max_bytes = random_below(4 * PS_SEGMENT_BYTES_MIN);
    if (how == 2) rule.min_timestamp = 1000 + o->start + random_below((uint32_t)(o->end - o->start) + 2);
    if (how == 3) rule.roll_before = INT64_MAX;
    o->start_most = shown;
    SAY(t, "retain by rule %u", how);
  }
  if (status == PS_OK && (how || random_below(2)))
    status = ps_log_retain(log, &rule, random_below(2) ? 64 : random_below(3), &out, &err);
  EXPECT(o, status == PS_OK, "deleting: %d %s, %s, errno %d", status, err.what, err.path, err.os_errno);
  if (t->failed) return true;
  int64_t start = ps_log_start_offset(log);
  EXPECT(o, o->start <= start && start <= o->start_most, "%" PRId64 " of %" PRId64, start, o->start_most);
  t->counts->deleted += start - o->start;
  t->counts->removed += out.files;
  o->start = o->start_most = start;
  oracle_told(o, log, t->durability);
  return true;
}

/* What is superseded goes, and small segments become one. */
static bool compact_log(trial *t, ps_log *log) {
  oracle *o = &t->seen;
  ps_error err = {0};
  ps_compaction rule = {.now_ns = 1, .map_bytes = random_below(3) ? 1 << 16 : 1024};
  ps_compactor *c;
  SAY(t, "compact");
  t->keeps = false; /* of what the last recovery found, some goes */
  if (!t->countdown && random_below(4) == 0) t->countdown = 1 + random_below(150); /* within it, mostly */
  t->compacting = true;
  ps_status status = ps_compact_begin(log, &rule, &c, &err);
  if (status == PS_OK) {
    status = ps_compact_run(c, -1, &err);
    const ps_compacted *done = ps_compact_result(c);
    t->counts->compacted += (int64_t)done->records_removed;
    t->counts->merged += (int64_t)(done->segments_before - done->segments_after);
    ps_compact_end(c);
  }
  t->compacting = false;
  EXPECT(o, status == PS_END, "compacting: %d %s, %s, errno %d", status, err.what, err.path, err.os_errno);
  if (!t->failed) oracle_told(o, log, t->durability);
  return true;
}

static bool operate(trial *t) {
  int i = (int)random_below((uint32_t)t->handle_count);
  ps_log *log = t->handles[i].log;
  switch (random_below(16)) {
  case 0:
  case 1:
  case 2:
    return sync_log(t, log);
  case 3:
    SAY(t, "prepare");
    ps_log_prepare_next(log);
    return true;
  case 4:
    SAY(t, "populate");
    ps_log_populate(log, 1 + random_below(65536));
    return true;
  case 5:
    return random_below(3) ? append(t, log, false) : close_and_open(t, i);
  case 6:
    return random_below(4) ? append(t, log, false) : die(t);
  case 7:
    return random_below(3) ? idle(t) : fail_sync(t, log);
  case 8: {
    int64_t end;
    return random_below(4) ? append(t, log, false)
                           : oracle_read(&t->seen, log, ps_log_start_offset(log), &end);
  }
  case 9:
  case 10:
    if (t->compacts && random_below(4)) return compact_log(t, log);
    return t->deletes ? delete_some(t, log) : append(t, log, false);
  default:
    return t->compacts && random_below(10) == 0 ? compact_log(t, log) : append(t, log, false);
  }
}

/* Until power fails. */
static bool work(trial *t) {
  int operations = 1 + (int)random_below(random_below(3) ? 12 : 40);
  if (t->merges) operations += 30;
  int fails_in =
      random_below(6) ? (int)random_below((uint32_t)operations) : operations; /* else: between two */
  for (int i = 0; i < operations && !t->failed; i++) {
    if (i == fails_in) t->countdown = 1 + random_below(random_below(2) ? 8 : 40);
    if (!operate(t)) return false;
  }
  if (!t->failed) fail_power(t, "between operations");
  return true;
}

/* ---- after a failure ------------------------------------------------------------------------------ */

/* The disk is what the photo shows. */
static void move_on(trial *t) {
  drop_all(t);
  if (t->failed) forget_since(t);
  if (t->failed) ps_disk_boot(++t->boot);
  t->failed = false;
  snprintf(t->directory, sizeof t->directory, "%s/%d", t->base, t->photos);
  if (random_below(16) == 0) { /* put on another disk, by a restore: other inodes */
    char path[300];
    snprintf(path, sizeof path, "%s.inodes", t->directory);
    (void)unlink(path);
  }
  arm(t);
}

/* Somebody who may not write looks first: he sees nothing wrong, and changes nothing. */
static bool look(trial *t) {
  handle h;
  ps_error err = {0};
  SAY(t, "look, for reading only");
  files_read(&t->one, t->directory);
  ps_status status = open_log(t, true, &h, &err);
  EXPECT(&t->seen, status == PS_OK, "opening for reading: %d %s, %s, offset %" PRId64, status, err.what,
         err.path, err.offset);
  t->counts->reads++;
  int64_t shown = ps_log_high_watermark(h.log), found = 0;
  bool good = oracle_read(&t->seen, h.log, ps_log_start_offset(h.log), &found);
  if (good && found != shown) good = oracle_wrong(&t->seen, "read to %" PRId64 " of %" PRId64, found, shown);
  drop(&h);
  files_read(&t->two, t->directory);
  return good && oracle_same_files(&t->seen, &t->one, &t->two, false, "opened for reading");
}

/* What the last recovery found is still somewhere, whatever it has cut and whatever came since. */
static bool check_kept(trial *t) {
  if (!t->keeps) return true;
  files_read(&t->two, t->directory);
  t->counts->kept++;
  return oracle_kept_cut(&t->seen, &t->found, &t->two);
}

/* Open what a power failure has left; up to `depth` times power fails in that, too. */
static bool recover(trial *t, int depth) {
  files_read(&t->found, t->directory);
  t->keeps = true;
  for (int i = 0;; i++) {
    bool fails = i < depth;
    t->incarnation = random_u64();
    t->points = fails && random_below(2);
    t->countdown = fails && !t->points ? 1 + random_below(random_below(2) ? 12 : 50) : 0;
    SAY(t, "recover %s", t->directory);
    if (!open_another(t)) return false;
    t->countdown = 0;
    t->points = false;
    if (t->failed) {
      if (i + 1 > t->counts->deepest) t->counts->deepest = i + 1;
      move_on(t);
      continue;
    }
    ps_log *log = t->handles[0].log;
    ps_log_stats stats;
    ps_log_get_stats(log, &stats);
    t->counts->cuts += (int64_t)stats.cuts;
    int64_t most = t->seen.end + t->seen.pending;
    if (!oracle_recovered(&t->seen, log, t->durability, true)) return false;
    t->counts->lost += most - t->seen.end;
    SAY(t, "recovered %" PRId64 " of %" PRId64 ", epoch %d, durable %" PRId64, t->seen.end, most,
        t->seen.epoch, ps_log_durable_offset(log));
    return check_kept(t) && (t->handle_wish == 1 || open_another(t));
  }
}

/* Another recovery changes nothing. */
static bool again(trial *t) {
  ps_log *log = t->handles[0].log;
  int64_t end = ps_log_end_offset(log), durable = ps_log_durable_offset(log);
  drop_all(t);
  files_read(&t->one, t->directory);
  SAY(t, "open once more");
  t->incarnation = random_u64();
  if (!open_another(t)) return false;
  log = t->handles[0].log;
  EXPECT(&t->seen,
         ps_log_end_offset(log) == end && ps_log_durable_offset(log) == durable &&
             ps_log_leader_epoch(log) == t->seen.epoch,
         "end %" PRId64 " was %" PRId64 ", durable %" PRId64 " was %" PRId64 ", epoch %d was %d",
         ps_log_end_offset(log), end, ps_log_durable_offset(log), durable, ps_log_leader_epoch(log),
         t->seen.epoch);
  if (!oracle_recovered(&t->seen, log, t->durability, false)) return false;
  drop_all(t);
  files_read(&t->two, t->directory);
  return oracle_same_files(&t->seen, &t->one, &t->two, true, "opened once more");
}

static bool play(trial *t) {
  static const uint32_t sizes[] = {64, 600, 3648, 16000}; /* 3648: the second batch begins with a page */
  static const uint32_t often[] = {0, 0, 8, 64};
  test_seed = t->seed * 0x9e3779b97f4a7c15ull + 1;
  t->io = random_below(2) ? PS_IO_MAP : PS_IO_PWRITE;
  t->durability = (ps_durability)random_below(3);
  t->codec = random_below(3) ? PS_CODEC_NONE : PS_CODEC_LZ4;
  t->handle_wish = random_below(4) ? 1 : 2;
  t->largest = sizes[random_below(4)];
  t->deletes = random_below(2);
  if (t->deletes && random_below(2)) t->largest = sizes[3]; /* a segment does not last long */
  t->often = often[random_below(4)];
  t->alike = random_below(2);
  oracle_begin(&t->seen, t->codec != PS_CODEC_NONE);
  t->seen.keyed = t->compacts = random_below(2);
  t->merges = t->compacts && random_below(3) == 0;
  if (t->merges) t->largest = 16000;
  SAY(t, "seed %" PRIu64 ": %s, durability %d, codec %u, %d processes, batches to %u bytes, write-back %u",
      t->seed, t->io == PS_IO_MAP ? "maps" : "calls", t->durability, t->codec, t->handle_wish, t->largest,
      t->often);
  snprintf(t->directory, sizeof t->directory, "%s/0", t->base);
  CHECK(mkdir(t->directory, 0777) == 0);
  arm(t);
  t->incarnation = random_u64();
  ps_disk_boot(++t->boot);
  if (random_below(8) == 0) t->countdown = 1 + random_below(60); /* the making of it may fail, too */
  if (!open_another(t)) return false;
  if (!t->failed && t->handle_wish == 2 && !open_another(t)) return false;
  int failures = 1 + (int)random_below(3);
  for (int i = 0; i < failures; i++) {
    if (!t->failed && !work(t)) return false;
    move_on(t);
    if (!check_kept(t) || (random_below(8) == 0 && !look(t))) return false;
    if (!recover(t, random_below(2) ? 0 : 1 + (int)random_below(3))) return false;
  }
  return again(t);
}

static void remove_photo(const trial *t, int i) {
  char path[300];
  snprintf(path, sizeof path, "%s/%d.inodes", t->base, i);
  (void)unlink(path);
  snprintf(path, sizeof path, "%s/%d", t->base, i);
  remove_directory(path);
}

/* ---- the program ---------------------------------------------------------------------------------- */

static bool stops; /* at the first failure */

typedef struct shared { /* with the process that watches */
  uint64_t seed;        /* atomic: under way */
  counts counts;
} shared;

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void run_trials(trial *t, shared *all, uint64_t first, uint64_t end, double until) {
  t->env = (ps_env){moment, t};
  t->counts = &all->counts;
  for (uint64_t seed = first; seed < end && now_s() < until; seed++) {
    __atomic_store_n(&all->seed, seed, __ATOMIC_SEQ_CST);
    t->seed = seed;
    t->photos = 0;
    t->boot = 0;
    t->keeps = t->points = false;
    t->failed = false;
    t->countdown = 0;
    bool good = play(t);
    drop_all(t);
    ps_disk_disarm();
    if (!good) {
      all->counts.failures++;
      printf("FAILED seed %" PRIu64 ": %s\n", seed, t->seen.wrong);
      fflush(stdout);
      if (stops) end = seed + 1;
    }
    all->counts.trials++;
    for (int i = 0; i <= t->photos; i++) remove_photo(t, i);
  }
}

/* Run them in a child; one that dies, or comes to no end, is a trial that failed, and the next one goes on
 * behind it. */
#define TRIAL_SECONDS_MAX 30
static void watch(trial *t, shared *all, uint64_t first, uint64_t end, double until) {
  while (first < end && now_s() < until) {
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      run_trials(t, all, first, end, until);
      fflush(stdout);
      _exit(0);
    }
    uint64_t seen = UINT64_MAX;
    double since = now_s();
    int status;
    while (waitpid(pid, &status, WNOHANG) == 0) {
      uint64_t seed = __atomic_load_n(&all->seed, __ATOMIC_SEQ_CST);
      if (seed != seen) since = now_s();
      seen = seed;
      if (now_s() - since > TRIAL_SECONDS_MAX) kill(pid, SIGKILL);
      usleep(2000);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    uint64_t seed = __atomic_load_n(&all->seed, __ATOMIC_SEQ_CST);
    bool endless = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (endless)
      printf("FAILED seed %" PRIu64 ": it comes to no end\n", seed);
    else
      printf("FAILED seed %" PRIu64 ": the process ended with %d, signal %d\n", seed, WEXITSTATUS(status),
             WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    all->counts.failures++;
    all->counts.trials++;
    first = stops ? end : seed + 1;
    for (int i = 0; i < 64; i++) remove_photo(t, i); /* what it left */
  }
}

static const char usage[] =
    "power --first SEED --trials N [--seconds S] [--mood MOOD] [--stop] [--verbose] [--trace]\n";

int main(int argc, char **argv) {
  static trial t;
  uint64_t first = 1, trials = 1000;
  double seconds = 1e9;
  bool trace = false;
  for (int i = 1; i < argc; i++) {
    const char *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(argv[i], "--verbose") == 0)
      t.verbose = true;
    else if (strcmp(argv[i], "--stop") == 0)
      stops = true;
    else if (strcmp(argv[i], "--trace") == 0)
      t.verbose = trace = true;
    else if (value && strcmp(argv[i], "--first") == 0)
      first = strtoull(argv[++i], NULL, 10);
    else if (value && strcmp(argv[i], "--trials") == 0)
      trials = strtoull(argv[++i], NULL, 10);
    else if (value && strcmp(argv[i], "--seconds") == 0)
      seconds = strtod(argv[++i], NULL);
    else if (value && strcmp(argv[i], "--mood") == 0 && ps_disk_only_mood(value) == 0)
      i++;
    else {
      fputs(usage, stderr);
      return 2;
    }
  }
  char here[128];
  CHECK(getcwd(here, sizeof here) != NULL);
  snprintf(t.base, sizeof t.base, "%s/power-%d", here, (int)getpid());
  CHECK(mkdir(t.base, 0777) == 0);
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (trace) ps_disk_trace(stdout);
  shared *all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(all != MAP_FAILED);
  double begun = now_s();
  watch(&t, all, first, first + trials, begun + seconds);
  remove_directory(t.base);
  const counts *c = &all->counts;
  printf("{\"first_seed\": %" PRIu64 ", \"trials\": %" PRId64 ", \"failures\": %" PRId64
         ", \"seconds\": %.3f, \"power_failures\": %" PRId64 ", \"cuts\": %" PRId64
         ", \"records_lost\": %" PRId64 ", \"deepest\": %" PRId64 ", \"looks\": %" PRId64
         ", \"cuts_checked\": %" PRId64 ", \"failed_syncs\": %" PRId64 ", \"records_deleted\": %" PRId64
         ", \"segments_removed\": %" PRId64 ", \"records_compacted\": %" PRId64
         ", \"segments_merged\": %" PRId64 ", \"moods\": {",
         first, c->trials, c->failures, now_s() - begun, c->photos, c->cuts, c->lost, c->deepest, c->reads,
         c->kept, c->spoiled, c->deleted, c->removed, c->compacted, c->merged);
  for (int i = 0; i < PS_DISK_MOODS; i++)
    printf("%s\"%s\": %" PRId64, i ? ", " : "", ps_disk_moods[i], c->moods[i]);
  printf("}}\n");
  return c->failures ? 1 : 0;
}
