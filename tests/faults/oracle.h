/* oracle.h - what must be true of a partition whatever happens to the disk: a list of what was appended, what
 * was promised of it, who may have read how far, and the comparison with what a log gives.
 *
 * Nothing here ends the program: the first thing found wrong is told by oracle_wrong, and the trial ends. */
#ifndef PS_ORACLE_H
#define PS_ORACLE_H

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ps_head.h"
#include "ps_log.h"
#include "ps_test.h"

#define RECORDS_MAX 8192
#define EPOCHS_MAX 64

/* One appended record: its value is made from its number and length, and no number is given twice. */
typedef struct record {
  uint64_t number;
  uint32_t bytes;
  int32_t epoch; /* in which it was appended */
} record;

typedef struct oracle {
  record records[RECORDS_MAX]; /* by offset, of the present lineage */
  int64_t end;                 /* acknowledged, or at least seen */
  int64_t pending;             /* records behind `end` of an append that has not returned */
  int64_t promised;            /* nothing below it may be lost */
  int64_t start, start_most;   /* where the log starts: no earlier, as was promised, and no later */
  int64_t read[EPOCHS_MAX];    /* how far somebody may have read records of that epoch: the next offset */
  int64_t limit[EPOCHS_MAX];   /* where records of that epoch must be said to end, because of a cut */
  int32_t epoch;               /* the highest one seen */
  bool compressible;
  bool keyed; /* records have keys, and may have been compacted */
  uint64_t numbers;
  char wrong[600]; /* "" while all is well */
} oracle;

__attribute__((format(printf, 2, 3))) static bool oracle_wrong(oracle *o, const char *format, ...) {
  va_list rest;
  if (o->wrong[0]) return false;
  va_start(rest, format);
  vsnprintf(o->wrong, sizeof o->wrong, format, rest);
  va_end(rest);
  return false;
}
#define EXPECT(o, cond, ...)                                       \
  do {                                                             \
    if (!(cond)) return oracle_wrong((o), #cond ": " __VA_ARGS__); \
  } while (0)

static void oracle_begin(oracle *o, bool compressible) {
  o->end = o->pending = o->promised = 0;
  o->start = o->start_most = 0;
  o->keyed = false;
  o->epoch = 0;
  o->numbers = 0;
  o->compressible = compressible;
  o->wrong[0] = '\0';
  for (int i = 0; i < EPOCHS_MAX; i++) {
    o->read[i] = -1;
    o->limit[i] = INT64_MAX;
  }
}

static uint64_t oracle_word(const oracle *o, const record *r, uint32_t i) {
  if (o->compressible && i > 1) return r->number;
  return (r->number * 0x9e3779b97f4a7c15ull + i) * 0xbf58476d1ce4e5b9ull ^ r->bytes;
}

static void oracle_value(const oracle *o, const record *r, uint8_t *out) {
  for (uint32_t at = 0; at < r->bytes; at += 8) {
    uint64_t word = oracle_word(o, r, at / 8);
    memcpy(out + at, &word, r->bytes - at < 8 ? r->bytes - at : 8);
  }
}

static bool oracle_is_value(const oracle *o, const record *r, const uint8_t *value, uint32_t bytes) {
  uint64_t differ = 0;
  if (bytes != r->bytes) return false;
  for (uint32_t at = 0; at < bytes; at += 8) {
    uint64_t word = oracle_word(o, r, at / 8), found = 0;
    uint32_t n = bytes - at < 8 ? bytes - at : 8;
    memcpy(&found, value + at, n);
    if (n < 8) word &= (1ull << 8 * n) - 1;
    differ |= word ^ found;
  }
  return differ == 0;
}

/* Everything shown now may be read by somebody: note it, with the epoch of each record. */
static void oracle_shown(oracle *o, int64_t watermark) {
  int32_t newest = INT32_MAX;
  for (int64_t i = watermark; i-- > 0 && newest > 0;) {
    int32_t epoch = o->records[i].epoch;
    if (epoch >= newest) continue;
    newest = epoch;
    if (o->read[epoch] < i + 1) o->read[epoch] = i + 1;
  }
}

/* What any process may have been told by now. */
static void oracle_told(oracle *o, ps_log *log, ps_durability durability) {
  int64_t durable = ps_log_durable_offset(log), watermark = ps_log_high_watermark(log);
  if (durability == PS_DURABILITY_SYNC && watermark > durable) durable = watermark;
  if (durable > o->promised) o->promised = durable;
  oracle_shown(o, watermark);
}

/* Of a log that is compacted: each of these keys comes soon again. */
#define KEYS 5
static uint8_t oracle_key(const record *r) {
  return (uint8_t)(r->number * 0x9e3779b97f4a7c15ull >> 32) % KEYS;
}

/* A record may be missing only where a later one of its key is there for good. */
static bool oracle_may_be_gone(const oracle *o, int64_t offset) {
  for (int64_t i = offset + 1; o->keyed && i < o->promised; i++)
    if (oracle_key(&o->records[i]) == oracle_key(&o->records[offset])) return true;
  return false;
}

static bool check_frame(oracle *o, const ps_frame_view *view, int64_t *next) {
  static uint8_t scratch[PS_SEGMENT_BYTES_MIN * 64];
  const uint8_t *body = view->body;
  ps_columns columns;
  EXPECT(o, view->meta.base_offset == *next,
         "frame at %" PRIu64 ": offset %" PRId64 " where %" PRId64 " was due", view->position,
         view->meta.base_offset, *next);
  if (ps_frame_codec(&view->meta) != PS_CODEC_NONE) {
    EXPECT(o, view->meta.raw_bytes <= sizeof scratch, "%u", view->meta.raw_bytes);
    EXPECT(o, ps_frame_decompress(view->frame, &view->meta, scratch) == PS_OK, "offset %" PRId64, *next);
    body = scratch;
  }
  EXPECT(o, ps_frame_columns(&view->meta, body, view->meta.raw_bytes, &columns) == PS_OK, "offset %" PRId64,
         *next);
  for (uint32_t i = 0; i <= columns.count; i++, (*next)++) {
    int64_t there = i == columns.count
                        ? ps_frame_next_offset(&view->meta)
                        : view->meta.base_offset + (columns.offset_deltas ? columns.offset_deltas[i] : i);
    for (; *next < there && *next >= o->start; ++*next)
      EXPECT(o, oracle_may_be_gone(o, *next), "offset %" PRId64 " of %" PRId64 " is missing", *next, o->end);
    *next = there;
    if (i == columns.count) break;
    const ps_binary *v = &columns.values;
    uint32_t from = v->width >= 0 ? i * (uint32_t)v->width : (uint32_t)v->offsets[i];
    uint32_t to = v->width >= 0 ? from + (uint32_t)v->width : (uint32_t)v->offsets[i + 1];
    EXPECT(o, *next < o->end + o->pending,
           "offset %" PRId64 ": nobody has appended it (%" PRId64 " + %" PRId64 ")", *next, o->end,
           o->pending);
    EXPECT(o, oracle_is_value(o, &o->records[*next], v->data + from, to - from),
           "offset %" PRId64 " of %" PRId64 " is not what was appended there", *next, o->end);
  }
  EXPECT(o, *next == ps_frame_next_offset(&view->meta), "offset %" PRId64, *next);
  EXPECT(o, view->meta.leader_epoch == o->records[*next - 1].epoch,
         "offset %" PRId64 ": epoch %d, appended in %d", *next - 1, view->meta.leader_epoch,
         o->records[*next - 1].epoch);
  return true;
}

/* From `offset` to the watermark, all is there; *end: where it ended. */
static bool oracle_read(oracle *o, ps_log *log, int64_t offset, int64_t *end) {
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  ps_status status = ps_cursor_seek(log, &cursor, offset, &err);
  int64_t next = offset;
  bool first = true, good = true;
  while (good && status == PS_OK && (status = ps_cursor_next(log, &cursor, &view, &err)) == PS_OK) {
    if (first) { /* the frame that holds it */
      good = view.meta.base_offset <= offset && offset < ps_frame_next_offset(&view.meta);
      if (!good) oracle_wrong(o, "seeking %" PRId64 " led to %" PRId64, offset, view.meta.base_offset);
      next = view.meta.base_offset;
      first = false;
    }
    good = good && check_frame(o, &view, &next);
  }
  ps_cursor_clear(&cursor);
  if (!good) return false;
  EXPECT(o, status == PS_END, "reading from %" PRId64 " at %" PRId64 ": %d %s, %s", offset, next, status,
         err.what, err.path);
  *end = next;
  return true;
}

/* What was deleted cannot be read. */
static bool oracle_refused(oracle *o, ps_log *log, int64_t offset) {
  ps_cursor cursor;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  ps_status status = ps_cursor_seek(log, &cursor, offset, &err);
  ps_cursor_clear(&cursor);
  EXPECT(o, status == PS_OUT_OF_RANGE, "seeking %" PRId64 " below the log start: %d %s", offset, status,
         err.what);
  return true;
}

/* Nobody who has read what is there hears of a cut: no epoch is said to end before its last record. */
static bool check_epochs(oracle *o, ps_log *log, int64_t end) {
  for (int64_t i = 0; i < end; i++) {
    int64_t said;
    ps_error err;
    int32_t epoch = o->records[i].epoch;
    if (i + 1 < end && o->records[i + 1].epoch == epoch) continue;
    EXPECT(o, i + 1 == end || o->records[i + 1].epoch > epoch, "epoch %d at %" PRId64, epoch, i);
    EXPECT(o, ps_log_epoch_end(log, epoch, &said, &err) == PS_OK, "%s", err.what);
    EXPECT(o, said > i, "records of epoch %d go on at %" PRId64 ", said to end at %" PRId64, epoch, i, said);
  }
  return true;
}

/* What holds at any time: all that is shown is what was appended, and nothing else. */
static bool oracle_check(oracle *o, ps_log *log) {
  int64_t watermark = ps_log_high_watermark(log), end = ps_log_end_offset(log), found;
  int64_t start = ps_log_start_offset(log);
  EXPECT(o, o->start <= start && start <= o->start_most,
         "the log starts at %" PRId64 ", promised %" PRId64 ", asked for %" PRId64, start, o->start,
         o->start_most);
  EXPECT(o, watermark <= end && ps_log_durable_offset(log) <= end,
         "watermark %" PRId64 ", durable %" PRId64 ", end %" PRId64, watermark, ps_log_durable_offset(log),
         end);
  if (!oracle_read(o, log, start, &found)) return false;
  EXPECT(o, found == watermark, "read to %" PRId64 ", watermark %" PRId64, found, watermark);
  if (start > 0 && !oracle_refused(o, log, start - 1)) return false;
  for (int i = 0; i < 2 && watermark > start; i++) {
    int64_t from = start + random_below((uint32_t)(watermark - start) + 1);
    if (!oracle_read(o, log, from, &found)) return false;
    EXPECT(o, found == watermark, "read from %" PRId64 " to %" PRId64 ", watermark %" PRId64, from, found,
           watermark);
  }
  return check_epochs(o, log, watermark);
}

/* What holds of a log that has just been opened, alone, after whatever happened. */
static bool oracle_recovered(oracle *o, ps_log *log, ps_durability durability, bool power_failed) {
  int64_t end = ps_log_end_offset(log), most = o->end + o->pending;
  EXPECT(o, end >= o->promised, "recovered %" PRId64 ", promised %" PRId64 " of %" PRId64, end, o->promised,
         most);
  EXPECT(o, end <= most, "recovered %" PRId64 " of %" PRId64, end, most);
  EXPECT(o, power_failed || end >= o->end, "recovered %" PRId64 ", acknowledged %" PRId64, end, o->end);
  EXPECT(o, ps_log_high_watermark(log) == end, "watermark %" PRId64 " of %" PRId64,
         ps_log_high_watermark(log), end);
  if (durability == PS_DURABILITY_SYNC)
    EXPECT(o, ps_log_durable_offset(log) == end, "durable %" PRId64 " of %" PRId64,
           ps_log_durable_offset(log), end);
  int32_t epoch = ps_log_leader_epoch(log);
  EXPECT(o, epoch >= o->epoch && epoch < EPOCHS_MAX, "epoch %d, was %d", epoch, o->epoch);
  for (int32_t e = 0; e < EPOCHS_MAX; e++)
    if (o->read[e] > end && o->limit[e] > end) o->limit[e] = end;
  for (int32_t e = 0; e < EPOCHS_MAX; e++) {
    int64_t said;
    ps_error err;
    if (o->limit[e] == INT64_MAX) continue;
    EXPECT(o, ps_log_epoch_end(log, e, &said, &err) == PS_OK, "%s", err.what);
    EXPECT(o, said <= o->limit[e],
           "who had read to %" PRId64 " in epoch %d would not hear of the cut at %" PRId64 " (told %" PRId64
           ", epoch now %d)",
           o->read[e], e, o->limit[e], said, epoch);
  }
  o->epoch = epoch;
  o->end = end;
  o->pending = 0;
  if (!oracle_check(o, log)) return false;
  o->start = o->start_most = ps_log_start_offset(log);
  oracle_told(o, log, durability);
  return true;
}

/* ---- files -------------------------------------------------------------------------------------- */

#define FILES_MAX 256
typedef struct file {
  char name[256];
  uint8_t *data;
  int64_t bytes, room;
} file;
/* Those of one directory, by name, without the indexes: they are derived, and made anew at any time. Memory
 * is kept for the next ones. */
typedef struct files {
  file file[FILES_MAX];
  int count;
} files;

static int by_name(const void *a, const void *b) {
  return strcmp(((const file *)a)->name, ((const file *)b)->name);
}

static void files_read(files *all, const char *directory) {
  char path[600];
  DIR *listing = opendir(directory);
  CHECK(listing != NULL);
  struct dirent *entry;
  all->count = 0;
  while ((entry = readdir(listing)) != NULL) {
    struct stat st;
    if (entry->d_name[0] == '.' || strstr(entry->d_name, ".index")) continue;
    CHECK(all->count < FILES_MAX);
    file *f = &all->file[all->count++];
    snprintf(f->name, sizeof f->name, "%s", entry->d_name);
    snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    f->bytes = st.st_size;
    if (f->bytes > f->room) {
      f->room = 2 * f->bytes;
      f->data = realloc(f->data, (size_t)f->room);
      CHECK(f->data != NULL);
    }
    CHECK(pread(fd, f->data, (size_t)f->bytes, 0) == f->bytes);
    close(fd);
  }
  closedir(listing);
  qsort(all->file, (size_t)all->count, sizeof all->file[0], by_name);
}

static void remove_directory(const char *path) {
  char inner[600];
  DIR *listing = opendir(path);
  struct dirent *entry;
  while (listing && (entry = readdir(listing)) != NULL) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
    CHECK(unlink(inner) == 0);
  }
  if (listing) closedir(listing);
  (void)rmdir(path);
}

static const file *files_find(const files *all, const char *name) {
  for (int i = 0; i < all->count; i++)
    if (strcmp(all->file[i].name, name) == 0) return &all->file[i];
  return NULL;
}

/* Words of the head that every opening changes: they are no part of what is compared. */
static void forget_opening(file *f) {
  if (strcmp(f->name, "head") != 0 || f->bytes < (int64_t)PS_HEAD_BYTES) return;
  memset(f->data + PS_HEAD_STATE_OFF, 0, 16);
  memset(f->data + PS_HEAD_INCARNATION_OFF, 0, 8);
  for (int i = 0; i < 2; i++) { /* the order and numbers of the slots, not what they say */
    uint8_t *slot = f->data + (i ? PS_HEAD_SLOT1_OFF : PS_HEAD_SLOT0_OFF);
    memset(slot + PS_SLOT_SEQUENCE_OFF, 0, 8);
    memset(slot + PS_SLOT_CHECKSUM_OFF, 0, 8);
  }
}

static bool oracle_same_files(oracle *o, files *before, files *after, bool opened, const char *what) {
  EXPECT(o, before->count == after->count, "%s: %d files were %d", what, after->count, before->count);
  for (int i = 0; i < before->count; i++) {
    file *a = &before->file[i], *b = &after->file[i];
    EXPECT(o, strcmp(a->name, b->name) == 0, "%s: %s was %s", what, b->name, a->name);
    EXPECT(o, a->bytes == b->bytes, "%s: %s: %" PRId64 " bytes were %" PRId64, what, a->name, b->bytes,
           a->bytes);
    if (opened) {
      forget_opening(a);
      forget_opening(b);
    }
    int64_t at = 0;
    while (at < a->bytes && a->data[at] == b->data[at]) at++;
    EXPECT(o, at == a->bytes, "%s: %s differs at byte %" PRId64, what, a->name, at);
  }
  return true;
}

/* From `at` on, the bytes of `old` that are not zeros stand in a .cut file of that segment, which begins with
 * byte `from` of it. */
static bool stands_in_cut(const files *all, const file *old, int64_t from, int64_t at) {
  for (int i = 0; i < all->count; i++) {
    const file *cut = &all->file[i];
    if (strncmp(cut->name, old->name, 24) != 0 || cut->name[24] != '.') continue;
    int64_t b = at;
    while (b < old->bytes && (b - from < cut->bytes ? cut->data[b - from] : 0) == old->data[b]) b++;
    if (b == old->bytes) return true;
  }
  return false;
}

/* What recoveries have cut is kept: the bytes of every segment are still in it, or from one place on in a
 * .cut file of its tail, or in a file set aside whole; also where power failed on the way, or later. */
static bool oracle_kept_cut(oracle *o, const files *before, const files *after) {
  for (int i = 0; i < before->count; i++) {
    const file *old = &before->file[i], *now = files_find(after, old->name);
    if (strlen(old->name) != 24 || ps_segment_parse_name(old->name) < 0) continue;
    if (stands_in_cut(after, old, 0, 0)) continue;
    if (!now && ps_segment_parse_name(old->name) < o->start_most) continue; /* reading tells of too many */
    EXPECT(o, now != NULL, "%s is gone", old->name);
    int64_t at = 0;
    while (at < old->bytes && (old->data[at] == 0 || (at < now->bytes && now->data[at] == old->data[at])))
      at++;
    if (at == old->bytes) continue;
    /* Where the tail began is not written anywhere: before `at`, when the frame's header was zeros. */
    int64_t seal = (int64_t)PS_SEAL_BYTES, from = at / seal * seal;
    bool kept = false;
    for (; from >= 0 && !kept; from -= seal) kept = stands_in_cut(after, old, from, at);
    EXPECT(o, kept, "byte %" PRId64 " of %s was lost in a cut", at, old->name);
  }
  return true;
}

#endif
