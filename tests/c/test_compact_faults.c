/* Compactions that are killed, that fail, that meet readers and others of their kind: the log is there, and
 * the next one does all of the work. */
#include <sys/wait.h>

#include "ps_compactions.h"

/* ---- what interrupts it ------------------------------------------------------------------------ */

static const char *const points[] = {"compact.begun",
                                     "compact.mapped",
                                     "compact.opened",
                                     "compact.written",
                                     "compact.synced",
                                     "compact.indexed",
                                     "compact.renamed",
                                     "compact.dirsynced",
                                     "compact.unlinking",
                                     "compact.cleaned",
                                     "openat",
                                     "pwrite",
                                     "sync",
                                     "sync_dir",
                                     "rename",
                                     "unlink",
                                     "truncate",
                                     "allocate",
                                     "map",
                                     "stat",
                                     "pread",
                                     "readdir"};

/* The tombstones that the pass that died may have given their time. */
static void may_have_marked(void) {
  for (int64_t i = 0; i < end_offset; i++)
    if (entries[i].tag < 0 && !entries[i].horizon)
      entries[i].horizon = clock_ns + everything.delete_retention_ns;
}

static void killed_anywhere(void) {
  int killed = 0;
  for (size_t p = 0; p < sizeof points / sizeof *points; p++) {
    int deaths = 0;
    for (int nth = 1; nth <= 40; nth += nth < 4 ? 1 : 9) {
      handle h = dirty_log(100 + p);
      close_handle(h);
      clock_ns += 5000; /* tombstones of the first pass may go now */
      pid_t pid = fork();
      CHECK(pid >= 0);
      if (pid == 0) {
        char text[64];
        ps_fault_plan plan;
        ps_fault_plan off = {0};
        snprintf(text, sizeof text, "%s:%d:kill", points[p], nth);
        if (!ps_fault_parse(text, &plan)) _exit(9);
        ps_env env = {ps_fault_hook, &off};
        h = open_with(&env);
        env.context = &plan;
        compact(h.log, everything);
        _exit(0);
      }
      int status;
      CHECK(waitpid(pid, &status, 0) == pid);
      bool died = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
      CHECK_MSG(died || (WIFEXITED(status) && WEXITSTATUS(status) == 0), "(%s:%d %x)", points[p], nth,
                (unsigned)status);
      deaths += died;
      may_have_marked();
      incarnation += (uint64_t)nth % 2; /* with and without a recovery */
      h = open_with(&plain);
      finish_after(&h);
      close_handle(h);
      if (!died) break;
    }
    CHECK_MSG(deaths > 0, "(%s was not come to)", points[p]);
    killed += deaths;
  }
  printf("  %d deaths\n", killed);
}

/* A compaction that stops at each swap until it is told to go on, and dies before it unlinks the nth file. */
typedef struct mortal {
  int told, tells, unlinks_left;
} mortal;

static int stop_or_die(void *context, const char *name) {
  mortal *m = context;
  char c = 0;
  if (strcmp(name, "compact.renamed") == 0) CHECK(write(m->tells, &c, 1) == 1 && read(m->told, &c, 1) == 1);
  if (strcmp(name, "compact.unlinking") == 0 && --m->unlinks_left == 0) kill(getpid(), SIGKILL);
  return 0;
}

static uint64_t files_word(void) {
  uint8_t word[8];
  int fd = open(head_path(), O_RDONLY);
  CHECK(fd >= 0 && pread(fd, word, sizeof word, PS_HEAD_FILES_OFF) == sizeof word);
  close(fd);
  return ps_load_u64(word);
}

static void list_all(ps_log *log, int64_t *bytes) {
  ps_segment_facts *facts;
  size_t count;
  ps_error err = {0};
  CHECK_EQ(ps_log_segments(log, &facts, &count, &err), PS_OK);
  *bytes = 0;
  for (size_t i = 0; i < count; i++) *bytes += (int64_t)facts[i].bytes;
  free(facts);
}

/* Another process is killed while it swaps files, and has told nobody of those that it has unlinked.
 * Retention here, which has read the directory just before, must not take what has taken in others for what
 * it was. */
static void retention_after_a_death(void) {
  bool died = true;
  int deaths = 0;
  for (int nth = 1; died; nth++) {
    handle h = dirty_log(300);
    ps_error err = {0};
    int64_t bytes = 0;
    int down[2], up[2];
    char c = 0;
    clock_ns += 5000;
    CHECK(pipe(down) == 0 && pipe(up) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      mortal m = {down[0], up[1], nth};
      ps_env env = {stop_or_die, &m};
      close(up[0]);
      compact(open_with(&env).log, everything);
      _exit(0);
    }
    close(up[1]);
    while (read(up[0], &c, 1) == 1) {
      list_all(h.log, &bytes);
      CHECK(write(down[1], &c, 1) == 1);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    died = WIFSIGNALED(status);
    deaths += died;
    close(up[0]);
    close(down[0]);
    close(down[1]);
    may_have_marked();
    for (int left = 15; left >= 0; left--) {
      ps_retention rule = {PS_TIMESTAMP_NONE, bytes * left / 16, PS_TIMESTAMP_NONE};
      ps_retained out;
      CHECK_EQ(ps_log_retain(h.log, &rule, 64, &out, &err), PS_OK);
      CHECK_EQ(files_word() % 2, 0);
      check_model(h.log, end_offset);
    }
    finish_after(&h);
    close_handle(h);
  }
  CHECK(deaths > 3);
}

static ps_fault_plan plan;
static const ps_env planned = {ps_fault_hook, &plan};

/* Each call fails once: the pass answers with the error, and nothing is lost. Only where the directory cannot
 * be synced may nobody rely on the log any more. */
static void fails_anywhere(void) {
  static const int errnos[] = {ENOSPC, EIO};
  int failed = 0;
  for (size_t e = 0; e < 2; e++)
    for (int64_t nth = 1;; nth++) {
      handle h = dirty_log(7);
      close_handle(h);
      plan = (ps_fault_plan){0};
      h = open_with(&planned);
      clock_ns += 5000;
      plan = (ps_fault_plan){
          .name = "*", .nth = nth, .times = 1, .action = PS_FAULT_ERRNO, .os_errno = errnos[e]};
      ps_compaction rule = everything;
      rule.now_ns = clock_ns;
      ps_compacted out;
      ps_error err = {0};
      ps_status status = pass(h.log, &rule, &out, &err);
      bool over = plan.seen < nth;
      plan = (ps_fault_plan){0};
      may_have_marked();
      failed += status != PS_OK;
      if (status != PS_OK) CHECK_MSG(err.what[0], "(call %" PRId64 ")", nth);
      check_model(h.log, end_offset);
      bool poisoned = ps_log_check(h.log, NULL) == PS_POISONED;
      CHECK(!poisoned || status == PS_POISONED);
      if (poisoned) {
        drop_handle(h);
        incarnation++;
        h = open_with(&plain);
      }
      finish_after(&h);
      close_handle(h);
      if (over) {
        CHECK_EQ(status, PS_OK);
        break;
      }
    }
  printf("  %d failures\n", failed);
  CHECK(failed > 40);
}

/* A full disk: what was begun is taken away again, and all is as it was. */
static void leaves_nothing_on_a_full_disk(void) {
  handle h = dirty_log(11);
  close_handle(h);
  plan = (ps_fault_plan){0};
  h = open_with(&planned);
  uint64_t before = files_named("log$");
  plan = (ps_fault_plan){
      .name = "pwrite", .nth = 1, .times = 1000000, .action = PS_FAULT_ERRNO, .os_errno = ENOSPC};
  ps_compaction rule = everything;
  ps_compacted out;
  ps_error err = {0};
  rule.now_ns = clock_ns;
  CHECK_EQ(pass(h.log, &rule, &out, &err), PS_OS_ERROR);
  CHECK_EQ(err.os_errno, ENOSPC);
  plan = (ps_fault_plan){0};
  CHECK_EQ(files_named("tmp"), 0);
  CHECK_EQ(files_named("log$"), before);
  CHECK_EQ(out.records_removed, 0);
  finish_after(&h);
  close_handle(h);
}

/* The reserve of the store counts for what is written aside, too. */
static void keeps_the_reserve(void) {
  ps_reserve reserve = {.min_free_bytes = INT64_MAX / 4};
  handle h = dirty_log(12);
  close_handle(h);
  reserved_space = &reserve;
  h = open_with(&plain);
  ps_compaction rule = everything;
  ps_compacted out;
  ps_error err = {0};
  rule.now_ns = clock_ns;
  CHECK_EQ(pass(h.log, &rule, &out, &err), PS_OS_ERROR);
  CHECK_EQ(err.os_errno, ENOSPC);
  CHECK(strstr(err.what, "min_free_bytes"));
  reserve.min_free_bytes = 0;
  finish_after(&h);
  close_handle(h);
  reserved_space = NULL;
}

/* Who reads on while segments are swapped under him, sees a log: each frame where the last one ended. */
static void readers_go_on_through_swaps(void) {
  handle h = dirty_log(13);
  ps_cursor cursors[64];
  ps_frame_view view;
  ps_error err = {0};
  for (int i = 0; i < 64; i++) {
    ps_cursor_init(&cursors[i]);
    CHECK_EQ(ps_cursor_seek(h.log, &cursors[i], end_offset * i / 64, &err), PS_OK);
    CHECK_EQ(ps_cursor_next(h.log, &cursors[i], &view, &err), PS_OK);
  }
  CHECK(compact(h.log, everything).ran);
  for (int i = 0; i < 64; i++) {
    ps_status status;
    int64_t next = cursors[i].next_offset;
    while ((status = ps_cursor_next(h.log, &cursors[i], &view, &err)) == PS_OK) {
      CHECK(view.meta.base_offset <= next && ps_frame_next_offset(&view.meta) > next);
      next = ps_frame_next_offset(&view.meta);
    }
    CHECK_MSG(status == PS_END, "(%d: %s at %" PRId64 ")", status, err.what, err.offset);
    CHECK_EQ(next, end_offset);
    ps_cursor_clear(&cursors[i]);
  }
  for (int64_t offset = 0; offset <= end_offset; offset += 7) { /* each offset is found in some frame */
    CHECK_EQ(ps_cursor_seek(h.log, &cursors[0], offset, &err), PS_OK);
    if (offset == end_offset) break;
    CHECK_EQ(ps_cursor_next(h.log, &cursors[0], &view, &err), PS_OK);
    CHECK(view.meta.base_offset <= offset && offset < ps_frame_next_offset(&view.meta));
  }
  ps_cursor_clear(&cursors[0]);
  close_handle(h);
}

/* Another process has compacted, or removed, what this one is about to replace: it stops, and has done no
 * harm. */
static void gives_way_to_others(void) {
  handle a = dirty_log(14), b = open_with(&plain);
  ps_compaction rule = everything;
  ps_compactor *c;
  ps_error err = {0};
  rule.now_ns = clock_ns;
  CHECK_EQ(ps_compact_begin(a.log, &rule, &c, &err), PS_OK);
  for (int i = 0; i < 40; i++) CHECK_EQ(ps_compact_step(c, 4096, &err), PS_OK);
  ps_compactor *second;
  CHECK_EQ(ps_compact_begin(a.log, &rule, &second, &err), PS_HELD); /* one in a process */
  CHECK(second == NULL);
  uint64_t files;
  CHECK_EQ(ps_compact_sweep(a.log, &files, &err), PS_HELD);
  rule.min_dirty_ratio = 0;
  ps_compacted out = compact(b.log, rule);
  CHECK(out.ran && !out.more);
  ps_status status;
  while ((status = ps_compact_step(c, 1 << 20, &err)) == PS_OK) continue;
  CHECK_MSG(status == PS_END || status == PS_OS_ERROR, "(%d)",
            status); /* b swept a file of "its own" process */
  ps_compact_end(c);
  check_model(a.log, end_offset);
  check_model(b.log, end_offset);
  close_handle(b);
  finish_after(&a);
  close_handle(a);
}

static void compact_in_another_process(void) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    handle h = open_with(&plain);
    ps_compaction rule = everything;
    rule.min_dirty_ratio = 0;
    ps_compacted out = compact(h.log, rule);
    _exit(out.ran && !out.more ? 0 : 1);
  }
  int how;
  CHECK(waitpid(child, &how, 0) == child && WIFEXITED(how));
  CHECK_EQ(WEXITSTATUS(how), 0);
}

/* The same, wherever this one is, and another process it is: that leaves the file alone which is written
 * here, so that it could be put in the place of what holds more by now. */
static void gives_way_to_another_process(void) {
  int writing = 0;
  for (int steps = 1; steps < 200; steps += 6) {
    handle h = dirty_log(14);
    ps_compaction rule = everything;
    ps_compactor *c;
    ps_error err = {0};
    ps_status status = PS_OK;
    rule.now_ns = clock_ns;
    CHECK_EQ(ps_compact_begin(h.log, &rule, &c, &err), PS_OK);
    for (int i = 0; i < steps && status == PS_OK; i++) status = ps_compact_step(c, 4096, &err);
    writing += status == PS_OK && files_named("compact") > 0;
    if (status == PS_OK) {
      uint64_t before = files_named("compact");
      add_some(h.log, 60); /* so that the other has more to leave out, and other neighbours to merge */
      must_sync(h.log);
      compact_in_another_process();
      may_have_marked();
      CHECK_EQ(files_named("compact"), before);
      while ((status = ps_compact_step(c, 4096, &err)) == PS_OK) continue;
    }
    CHECK_MSG(status == PS_END, "(%d: %s)", status, err.what);
    ps_compact_end(c);
    check_model(h.log, end_offset);
    finish_after(&h);
    close_handle(h);
  }
  CHECK(writing > 5);
}

static void stops_when_told(void) {
  handle h = dirty_log(15);
  int stop = 1;
  ps_compaction rule = everything;
  ps_compactor *c;
  ps_error err = {0};
  rule.now_ns = clock_ns;
  rule.stop = &stop;
  CHECK_EQ(ps_compact_begin(h.log, &rule, &c, &err), PS_OK);
  CHECK_EQ(ps_compact_run(c, -1, &err), PS_INTERRUPTED);
  CHECK(ps_compact_result(c)->more && ps_compact_result(c)->ran);
  ps_compact_end(c);
  CHECK_EQ(files_named("tmp"), 0);
  stop = 0;
  rule.bytes_per_second = 1 << 20; /* a third of a second or more */
  int64_t start = ps_os_monotonic_ns();
  ps_compacted out = compact(h.log, rule);
  double took = (double)(ps_os_monotonic_ns() - start) / 1e9;
  double least = (double)(out.read_bytes + out.written_bytes) / (1 << 20) - 1; /* a step goes unthrottled */
  CHECK_MSG(took >= least * 0.9, "(%g s for %" PRIu64 " bytes)", took, out.read_bytes + out.written_bytes);
  check_model(h.log, end_offset);
  close_handle(h);
}

int main(void) {
  RUN(readers_go_on_through_swaps);
  RUN(gives_way_to_others);
  RUN(gives_way_to_another_process);
  RUN(stops_when_told);
  RUN(leaves_nothing_on_a_full_disk);
  RUN(keeps_the_reserve);
  RUN(fails_anywhere);
  RUN(killed_anywhere);
  RUN(retention_after_a_death);
  RUN(retention_after_a_death);
  return 0;
}
