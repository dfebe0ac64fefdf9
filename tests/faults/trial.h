/* trial.h - a trial of power.c: what it works with, how its power fails, and how its log is opened. */
#ifndef PS_TRIAL_H
#define PS_TRIAL_H

#include <errno.h>

#include "disk.h"
#include "oracle.h"

typedef struct handle {
  ps_log *log;
  int locks;
} handle;

typedef struct counts {
  int64_t trials, failures, photos, cuts, lost, reads, deepest, kept, spoiled, deleted, removed, compacted,
      merged;
  int64_t moods[PS_DISK_MOODS];
} counts;

typedef struct trial {
  uint64_t seed;
  bool verbose;
  char base[200];
  char directory[256]; /* of the partition, now */
  int photos;
  ps_env env;
  ps_io io;
  ps_durability durability;
  uint32_t codec;
  uint32_t largest;     /* of a batch, usually */
  bool deletes;         /* what is old goes */
  bool compacts;        /* records have keys, and what is superseded goes */
  bool compacting;      /* it is being compacted */
  bool merges;          /* much of it, in many segments: several become one */
  bool alike;           /* all batches are of one size: what is stale stands where the next one would */
  uint64_t incarnation; /* random, as the live file has it: nothing torn is taken for it */
  handle handles[2];
  int handle_count, handle_wish;
  int64_t countdown; /* power fails when it comes to zero; 0: it does not */
  bool points;       /* it fails at one of recovery's named points */
  uint32_t often;    /* of 1,024 calls, so many let the kernel write back */
  bool failed;       /* power has */
  uint64_t boot;
  oracle seen;   /* what is known */
  oracle before; /* as power failed */
  files one, two;
  files found; /* by the last recovery, if there was one: none of it may be lost from then on */
  bool keeps;
  counts *counts;
} trial;

#define SAY(t, ...)                                            \
  do {                                                         \
    if ((t)->verbose) printf("  " __VA_ARGS__), putchar('\n'); \
  } while (0)

static void fail_power(trial *t, const char *where) {
  char dest[256];
  snprintf(dest, sizeof dest, "%s/%d", t->base, t->photos + 1);
  t->countdown = 0;
  t->points = false;
  if (t->handle_count) oracle_told(&t->seen, t->handles[0].log, t->durability);
  int rc = ps_disk_photo(dest, t->seed * 1000 + (uint64_t)t->photos);
  CHECK_MSG(rc == 0, "(%s: %s)", dest, strerror(rc));
  t->failed = true;
  t->photos++;
  t->counts->photos++;
  for (int i = 0; i < PS_DISK_MOODS; i++) {
    size_t length = strlen(ps_disk_moods[i]);
    const char *mood = ps_disk_mood() + 6;
    t->counts->moods[i] += strncmp(mood, ps_disk_moods[i], length) == 0 && mood[length] == ',';
  }
  memcpy(&t->before, &t->seen, sizeof t->seen);
  SAY(t, "power fails: %s; %s; %" PRId64 " promised of %" PRId64 " + %" PRId64, where, ps_disk_mood(),
      t->seen.promised, t->seen.end, t->seen.pending);
}

/* Asked before every call and at every named point. */
static int moment(void *context, const char *name) {
  trial *t = context;
  if (t->failed) return 0;
  if (t->often && random_below(1024) < t->often) ps_disk_write_back(random_u64());
  bool point = t->points && strncmp(name, "recover.", 8) == 0 && random_below(4) == 0;
  /* Names that nobody has synced yet are what a swap is about. */
  point = point || (t->compacting && strcmp(name, "sync_dir") == 0 && random_below(8) == 0);
  if ((t->countdown > 0 && --t->countdown == 0) || point) fail_power(t, name);
  return 0;
}

static void arm(trial *t) {
  int rc = ps_disk_arm(t->directory, "photo:0:0:/");
  CHECK_MSG(rc == 0, "(%s: %s)", t->directory, strerror(rc));
}

static ps_status open_log(trial *t, bool read_only, handle *h, ps_error *err) {
  char path[300];
  snprintf(path, sizeof path, "%s/locks", t->directory);
  h->locks = open(path, read_only ? O_RDONLY | O_CLOEXEC : O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  CHECK(h->locks >= 0 || read_only);
  ps_log_options options = {.partition = 3,
                            .segment_bytes = PS_SEGMENT_BYTES_MIN,
                            .index_interval_bytes = 4096,
                            .durability = t->durability,
                            .io = t->io,
                            .incarnation = read_only ? 0 : t->incarnation,
                            .read_only = read_only,
                            .live_fd = -1};
  memset(options.topic_uuid, 7, 16);
  ps_status status = ps_log_open(&t->env, t->directory, h->locks, &options, !read_only, &h->log, err);
  if (status != PS_OK && h->locks >= 0) close(h->locks);
  return status;
}

/* As if the process had died: nothing is synced, the locks go. */
static void drop(handle *h) {
  ps_log_after_fork(h->log);
  ps_log_free(h->log);
  if (h->locks >= 0) close(h->locks);
}

static void drop_all(trial *t) {
  while (t->handle_count) drop(&t->handles[--t->handle_count]);
}

static bool open_another(trial *t) {
  ps_error err = {0};
  ps_status status = open_log(t, false, &t->handles[t->handle_count], &err);
  EXPECT(&t->seen, status == PS_OK, "opening: %d %s, %s, offset %" PRId64 ", position %" PRId64 ", errno %d",
         status, err.what, err.path, err.offset, err.position, err.os_errno);
  t->handle_count++;
  return true;
}

/* What is known is what was known when power failed. */
static void forget_since(trial *t) {
  char wrong[sizeof t->seen.wrong];
  memcpy(wrong, t->seen.wrong, sizeof wrong);
  memcpy(&t->seen, &t->before, sizeof t->seen);
  memcpy(t->seen.wrong, wrong, sizeof wrong);
}

#endif
