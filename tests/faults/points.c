/* points.c - a writer, a reader or a recovery dies at one named point of the kernels; what is left is
 * checked.
 *
 * One trial a line of standard input: "ID POINT DURABILITY IO COMPANY NTH SEED", durability none, interval or
 * sync, io map or pwrite, company "alone" (whoever comes next recovers) or "beside" (others have the
 * partition open, and go on). One answer a line of standard output: "ID died", "ID lived" (the point was not
 * reached so often), or "ID failed TEXT". Trials run below the current directory, each in a process of its
 * own, so that one that crashes or hangs is a failure and no more.
 *
 * Every value follows from its offset and its size, so all of it can be checked without a model. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>

#include "ps_compact.h"
#include "ps_log_internal.h"
#include "ps_logs.h"
#include "ps_retain.h"

#define TRIAL_S 30 /* longer is a hang */

static char point[64];
static bool beside;
static int nth;
static int live = -1;

/* Of a log that is compacted: the key of a record follows from its offset, so each is superseded by the one
 * so many offsets on. */
#define KEYS 13
static bool keyed;

/* ---- records ---------------------------------------------------------------------------------- */

static void fill(uint8_t *p, int64_t offset, uint32_t width) {
  uint64_t z = (uint64_t)offset * 0x9e3779b97f4a7c15ull + width;
  ps_store_i64(p, offset);
  for (uint32_t i = 8; i < width; i++) {
    z ^= z << 13, z ^= z >> 7, z ^= z << 17;
    p[i] = (uint8_t)z;
  }
}

static ps_status put(ps_log *log, uint32_t count, uint32_t width, int64_t *base, ps_error *err) {
  int64_t first = ps_log_end_offset(log);
  uint8_t *data = exactly((size_t)count * width);
  for (uint32_t i = 0; i < count; i++) fill(data + (size_t)i * width, first + i, width);
  ps_columns columns = {.count = count, .first_timestamp = 1000 + first};
  columns.values = (ps_binary){.data = data, .bytes = count * width, .width = (int32_t)width};
  columns.keys.width = columns.header_keys.width = columns.header_values.width = -1;
  uint8_t keys[16];
  for (uint32_t i = 0; i < count && i < sizeof keys; i++) keys[i] = (uint8_t)((first + i) % KEYS);
  columns.has_keys = keyed;
  if (keyed) columns.keys = (ps_binary){.data = keys, .bytes = count, .width = 1};
  CHECK(!keyed || count <= sizeof keys);
  ps_frame_meta meta;
  ps_prepared batch;
  ps_frame_meta_init(&meta);
  ps_status status =
      ps_frame_prepare(&columns, &meta, PS_CODEC_NONE, ps_log_frame_bytes_max(log), NULL, 0, &batch, err);
  if (status == PS_OK) status = ps_log_append(log, &batch, -1, base, err);
  free(data);
  return status;
}

/* Of any size: a record, or half a segment of them. */
static void put_some(ps_log *log) {
  ps_error err = {0};
  int64_t base, first = ps_log_end_offset(log);
  uint32_t width = 8 + random_below(random_below(3) ? 60 : 2000);
  ps_status status = put(log, 1 + random_below(random_below(4) ? 4 : 12), width, &base, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s, errno %d, %s)", status, err.what, err.os_errno, err.path);
  CHECK_EQ(base, first);
}

/* All that is shown, from the log start on, is whole, in order, and what was appended there. Returns where it
 * ends. */
static int64_t check_records(ps_log *log) {
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  uint8_t expected[4096];
  int64_t start = ps_log_start_offset(log), next = -1, last[KEYS] = {0};
  ps_status status;
  ps_cursor_init(&cursor);
  CHECK_EQ(ps_cursor_seek(log, &cursor, start, &err), PS_OK);
  while ((status = ps_cursor_next(log, &cursor, &view, &err)) == PS_OK) {
    ps_columns columns;
    CHECK_EQ(ps_frame_columns(&view.meta, view.body, view.meta.raw_bytes, &columns), PS_OK);
    if (next < 0) CHECK((next = view.meta.base_offset) <= start && start < ps_frame_next_offset(&view.meta));
    CHECK_EQ(view.meta.base_offset, next);
    uint32_t width = (uint32_t)columns.values.width;
    CHECK(columns.count == 0 || width <= sizeof expected);
    for (uint32_t i = 0; i < columns.count; i++) {
      int64_t offset = next + (columns.offset_deltas ? columns.offset_deltas[i] : i);
      fill(expected, offset, width);
      CHECK(memcmp(columns.values.data + (size_t)i * width, expected, width) == 0);
      last[offset % KEYS] = offset;
    }
    next = ps_frame_next_offset(&view.meta);
    CHECK(keyed || next == view.meta.base_offset + columns.count);
  }
  for (int64_t offset = next - 1; keyed && offset >= 0 && offset > next - 1 - KEYS; offset--)
    CHECK_MSG(last[offset % KEYS] == offset, "(the last record of a key, %" PRId64 ", is missing)", offset);
  CHECK_MSG(status == PS_END, "(%d: %s)", status, err.what);
  ps_cursor_clear(&cursor);
  if (next < 0) next = start;
  CHECK_EQ(next, ps_log_high_watermark(log));
  return next;
}

static void sync_now(ps_log *log) {
  ps_error err = {0};
  ps_status status = ps_log_sync(log, &err);
  CHECK_MSG(status == PS_OK, "(%d: %s, errno %d)", status, err.what, err.os_errno);
  CHECK_EQ(ps_log_durable_offset(log), ps_log_end_offset(log));
}

static void work(ps_log *log, uint32_t steps, int tell) {
  for (uint32_t i = 0; i < steps; i++) {
    uint32_t what = random_below(20);
    if (what == 0) sync_now(log);
    if (what == 1) ps_log_prepare_next(log);
    if (what == 2) ps_log_populate(log, 65536);
    put_some(log);
    int64_t end = ps_log_end_offset(log);
    if (tell >= 0) CHECK(write(tell, &end, sizeof end) == sizeof end);
  }
  ps_log_prepare_next(log);
  if (durability != PS_DURABILITY_NONE || random_below(2)) sync_now(log);
}

/* ---- processes -------------------------------------------------------------------------------- */

static void enter(void) {
  char path[300];
  ps_error err;
  if (live >= 0) close(live);
  snprintf(path, sizeof path, "%s/live", directory);
  live = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  CHECK(live >= 0);
  CHECK_EQ(ps_live_enter(&plain, path, live, &incarnation, &err), PS_OK);
}

static void leave(void) {
  close(live);
  live = -1;
}

static handle open_reader(const ps_env *env) {
  char path[300];
  handle h;
  ps_error err = {0};
  snprintf(path, sizeof path, "%s/locks", directory);
  h.locks = open(path, O_RDONLY | O_CLOEXEC);
  snprintf(path, sizeof path, "%s/live", directory);
  ps_log_options options = {.partition = 3,
                            .segment_bytes = segment_bytes,
                            .index_interval_bytes = 1024,
                            .durability = durability,
                            .io = io,
                            .read_only = true,
                            .live_fd = open(path, O_RDONLY | O_CLOEXEC)};
  memset(options.topic_uuid, 7, 16);
  CHECK_EQ(ps_log_open(env, directory, h.locks, &options, false, &h.log, &err), PS_OK);
  return h;
}

static void compact(ps_log *log) {
  ps_compaction rule = {.now_ns = 1, .map_bytes = 1 << 16};
  ps_compactor *c;
  ps_error err = {0};
  ps_status status = ps_compact_begin(log, &rule, &c, &err);
  if (status == PS_OK) {
    status = ps_compact_run(c, -1, &err);
    ps_compact_end(c);
  }
  CHECK_MSG(status == PS_END, "(%d: %s, errno %d)", status, err.what, err.os_errno);
}

static void retain(ps_log *log) {
  int64_t start = ps_log_start_offset(log), end = ps_log_high_watermark(log);
  ps_retention rule = {PS_TIMESTAMP_NONE, -1, PS_TIMESTAMP_NONE};
  ps_retained out;
  ps_error err = {0};
  ps_status status = PS_OK;
  uint32_t how = random_below(4);
  if (how == 0) rule.max_bytes = random_below(2 * PS_SEGMENT_BYTES_MIN);
  if (how == 1) rule.min_timestamp = random_below(2) ? INT64_MAX : 1000 + start + (end - start) / 2;
  if (how == 2) rule.roll_before = INT64_MAX;
  if (how == 3) status = ps_log_delete_before(log, start + random_below((uint32_t)(end - start) + 1), &err);
  do {
    if (status == PS_OK) status = ps_log_retain(log, &rule, 1 + random_below(4), &out, &err);
  } while (status == PS_OK && out.more);
  CHECK_MSG(status == PS_OK, "(%d: %s, errno %d)", status, err.what, err.os_errno);
}

typedef enum life { LIFE_RETAINS, LIFE_COMPACTS, LIFE_WRITES, LIFE_HOLDS, LIFE_READS, LIFE_OPENS } life;

/* A process that does something until the plan kills it. *known: the highest log end that it had
 * acknowledged. Whether it was killed. */
static bool live_until(life what, const char *plan_text, int64_t *known) {
  int pipes[2];
  CHECK(pipe(pipes) == 0);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    ps_fault_plan plan;
    alarm(TRIAL_S);
    close(pipes[0]);
    CHECK(ps_fault_parse(plan_text, &plan));
    ps_env env = {ps_fault_hook, &plan};
    if (what == LIFE_READS) {
      handle h = open_reader(&env);
      check_records(h.log);
      _exit(0);
    }
    if (!beside) enter();
    handle h = open_with(&env);
    ps_error err;
    if (what == LIFE_HOLDS) CHECK_EQ(ps_log_hold(h.log, -1, &err), PS_OK);
    if (what != LIFE_OPENS) work(h.log, 60, pipes[1]);
    for (int i = 0; what == LIFE_COMPACTS && i < 3; i++) {
      sync_now(h.log);
      compact(h.log);
      work(h.log, 30, pipes[1]);
    }
    for (int i = 0; what == LIFE_RETAINS && i < 12; i++) {
      retain(h.log);
      work(h.log, 12, pipes[1]);
    }
    close_handle(h);
    _exit(0);
  }
  close(pipes[1]);
  int64_t end;
  while (read(pipes[0], &end, sizeof end) == sizeof end) *known = end;
  close(pipes[0]);
  int status;
  CHECK(waitpid(pid, &status, 0) == pid);
  bool died = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  CHECK_MSG(died || (WIFEXITED(status) && WEXITSTATUS(status) == 0), "(status %x)", (unsigned)status);
  return died;
}

/* ---- files ------------------------------------------------------------------------------------ */

/* All files but the head, and the indexes, which are derived; in one number. */
static uint64_t digest(void) {
  uint64_t sum = 0;
  DIR *dir = opendir(directory);
  struct dirent *entry;
  CHECK(dir != NULL);
  while ((entry = readdir(dir)) != NULL) {
    char path[600];
    struct stat st;
    const char *dot = strrchr(entry->d_name, '.');
    if (!dot || strcmp(dot, ".index") == 0) {
      if (strcmp(entry->d_name, "epochs") != 0) continue;
    }
    snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    if (!S_ISREG(st.st_mode)) {
      close(fd);
      continue;
    }
    uint8_t *p = exactly((size_t)st.st_size);
    CHECK(read(fd, p, (size_t)st.st_size) == st.st_size);
    uint8_t last = 0;
    size_t used = (size_t)st.st_size;
    while (used > 0 && (last = p[used - 1]) == 0) used--;
    sum += ps_hash(p, used) ^ ps_hash(entry->d_name, strlen(entry->d_name));
    free(p);
    close(fd);
  }
  closedir(dir);
  return sum;
}

static void remove_files(const char *path) {
  DIR *dir = opendir(path);
  struct dirent *entry;
  while (dir && (entry = readdir(dir)) != NULL) {
    char inner[600];
    if (entry->d_name[0] == '.') continue;
    snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
    unlink(inner);
  }
  if (dir) closedir(dir);
  rmdir(path);
}

/* ---- trials ----------------------------------------------------------------------------------- */

static bool is_of(const char *kind) { return strncmp(point, kind, strlen(kind)) == 0; }

/* Open once more as if all had died, and once more: nothing may change any more. Then go on. */
static void check_life_goes_on(int64_t at_least) {
  enter();
  handle h = open_with(&plain);
  CHECK(ps_log_end_offset(h.log) >= at_least);
  int64_t end = check_records(h.log);
  CHECK_EQ(end, ps_log_end_offset(h.log));
  int32_t epoch = ps_log_leader_epoch(h.log);
  drop_handle(h);
  leave();
  uint64_t before = digest();
  enter();
  h = open_with(&plain);
  CHECK_EQ(ps_log_end_offset(h.log), end);
  CHECK_EQ(ps_log_leader_epoch(h.log), epoch);
  CHECK_EQ(check_records(h.log), end);
  CHECK_EQ(digest(), before);
  work(h.log, 1 + random_below(40), -1);
  CHECK(check_records(h.log) > end);
  close_handle(h);
  leave();
}

/* Writers, holders and readers. */
static bool death_in_life(void) {
  char plan[80];
  snprintf(plan, sizeof plan, "%s:%d:kill", point, nth);
  life what = is_of("hold.")      ? LIFE_HOLDS
              : is_of("compact.") ? LIFE_COMPACTS
              : is_of("retain.")  ? LIFE_RETAINS
              : is_of("view.")    ? LIFE_READS
                                  : LIFE_WRITES;
  beside = beside || what == LIFE_READS; /* else there is nobody to read along with */
  fresh_directory();
  enter();
  handle h = open_with(&plain);
  work(h.log, random_below(15), -1);
  int64_t known = ps_log_end_offset(h.log);
  if (!beside) {
    close_handle(h);
    leave();
  }
  bool died = live_until(what, plan, &known);
  if (beside) {
    CHECK(check_records(h.log) >= (durability == PS_DURABILITY_SYNC ? 0 : known));
    ps_error err;
    CHECK_EQ(ps_log_settle(h.log, &err), PS_OK);
    if (durability == PS_DURABILITY_SYNC) CHECK(ps_log_durable_offset(h.log) >= known);
    CHECK(ps_log_high_watermark(h.log) >= known);
    known = ps_log_end_offset(h.log);
    work(h.log, 1 + random_below(40), -1);
    CHECK(check_records(h.log) > known);
    known = ps_log_end_offset(h.log);
    drop_handle(h);
    leave();
  }
  check_life_goes_on(known);
  return died;
}

static void tear_at(const ps_slot *from, const ps_slot *end) {
  struct stat st;
  const char *path = segment_path(from->segment);
  int64_t low = (int64_t)from->position;
  CHECK(stat(path, &st) == 0);
  int64_t high = from->segment == end->segment ? (int64_t)end->position : st.st_size;
  if (high <= low + 64) return;
  /* Early, so that there is more behind it; the whole of a header, or any byte. */
  int64_t at = low + (int64_t)random_below((uint32_t)(high - low - 64) / (random_below(2) ? 1 : 8) + 1);
  if (random_below(2))
    zero(path, low, 64 * (1 + random_below((uint32_t)(high - low) / 64)));
  else
    flip(path, at);
}

/* A recovery that has something to do: a tail that a power failure has torn, or a log that was poisoned. */
static bool death_in_recovery(void) {
  static const char *const others[] = {"epoch",   "save", "aside", "seal",  "create",
                                       "rewrite", "head", "slot",  "slots", "headed"};
  char plan[80];
  beside = false;
  fresh_directory();
  enter();
  handle h = open_with(&plain);
  put_some(h.log);
  work(h.log, random_below(20), -1);
  sync_now(h.log);
  int64_t known = ps_log_durable_offset(h.log);
  ps_slot from, end;
  CHECK(ps_head_read_slot(h.log->head, &from));
  /* In a sync topic each append is durable: what is torn are batches that nobody has been told of. */
  ps_durability mode = h.log->options.durability;
  h.log->options.durability = PS_DURABILITY_NONE;
  uint32_t steps = is_of("recover.aside") ? 60 : 1 + random_below(40);
  for (uint32_t i = 0; i < steps; i++) put_some(h.log);
  h.log->options.durability = mode;
  CHECK(ps_head_read_slot(h.log->head, &end));
  bool poisoned = is_of("recover.rewrite") || random_below(6) == 0;
  if (poisoned) {
    ps_log_poison(h.log, EIO);
    known = ps_log_end_offset(h.log);
  }
  drop_handle(h);
  leave();
  if (!poisoned) tear_at(&from, &end);
  snprintf(plan, sizeof plan, "%s:%d:kill", point, nth);
  int64_t none = 0;
  bool died = live_until(LIFE_OPENS, plan, &none);
  while (random_below(2)) {
    snprintf(plan, sizeof plan, "recover.%s:1:kill", others[random_below(sizeof others / sizeof *others)]);
    (void)live_until(LIFE_OPENS, plan, &none);
  }
  check_life_goes_on(known);
  return died;
}

/* Again while the point was not come to: a workload may roll too seldom for it, or a tear spare what it
 * takes. */
#define TRIES_MAX 12

static bool play(void) {
  bool died = false;
  for (int i = 0; i < TRIES_MAX && !died; i++) {
    died = is_of("recover.") ? death_in_recovery() : death_in_life();
    remove_files(directory);
  }
  return died;
}

/* NULL, or what is wrong. */
static const char *parse(char *line, char *id) {
  char mode[16], way[16], company[16];
  uint64_t seed;
  if (sscanf(line, "%39s %63s %15s %15s %15s %d %" SCNu64, id, point, mode, way, company, &nth, &seed) != 7)
    return "not a trial";
  durability = strcmp(mode, "sync") == 0   ? PS_DURABILITY_SYNC
               : strcmp(mode, "none") == 0 ? PS_DURABILITY_NONE
                                           : PS_DURABILITY_INTERVAL;
  io = strcmp(way, "pwrite") == 0 ? PS_IO_PWRITE : PS_IO_MAP;
  beside = strcmp(company, "beside") == 0;
  test_seed = seed;
  keyed = is_of("compact.");
  return NULL;
}

int main(void) {
  char line[256], id[40], said[2000];
  while (fgets(line, sizeof line, stdin)) {
    const char *wrong = parse(line, id);
    CHECK_MSG(!wrong, "%s: %s", wrong, line);
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      alarm(TRIAL_S);
      close(pipes[0]);
      dup2(pipes[1], STDERR_FILENO);
      close(pipes[1]);
      _exit(play() ? 0 : 3);
    }
    close(pipes[1]);
    size_t bytes = 0;
    for (;;) {
      char spare[256];
      bool room = bytes + 1 < sizeof said;
      ssize_t n = read(pipes[0], room ? said + bytes : spare, room ? sizeof said - 1 - bytes : sizeof spare);
      if (n <= 0) break;
      if (room) bytes += (size_t)n;
    }
    said[bytes] = 0;
    for (char *p = said; *p; p++)
      if (*p == '\n') *p = ' ';
    close(pipes[0]);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    bool died = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    bool lived = WIFEXITED(status) && WEXITSTATUS(status) == 3;
    if (died || lived)
      printf("%s %s\n", id, died ? "died" : "lived");
    else
      printf("%s failed (status %x) %s\n", id, (unsigned)status, said);
    fflush(stdout);
  }
  return 0;
}
