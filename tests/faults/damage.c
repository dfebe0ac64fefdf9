/* Every byte of a partition's files flipped, every length of them cut: what is shown is what was written,
 * what is not shown is said to be damaged, and no byte of it is thrown away.
 *
 *   damage --count              how many cases there are
 *   damage FIRST TRIALS APART SECONDS   run trials FIRST .. FIRST + TRIALS - 1, in the working directory, for
 * at most so long (0: as long as it takes)
 *
 * There are two partitions, with raw batches and with packed ones; each has three segments, with keys,
 * headers, nulls and gaps, and was closed in order, so that all of it is durable. A case is a file of one of
 * them and a place in it, where a bit is turned over, or where the file ends. Trials go through all cases in
 * an order that is spread evenly, so that any run of them is a sample; once they have been through, they
 * begin anew with other bits. APART further cases stand before these, which are somebody else's (damage.py).
 */
#include <dirent.h>

#include "ps_batches.h"
#include "ps_head.h"
#include "ps_log_internal.h"
#include "ps_logs.h"
#include "ps_walk.h"

enum { FILES_MAX = 16, FRAMES_MAX = 64, VARIANTS = 2 };

typedef struct image { /* a file as it was when all was well */
  char name[64];
  int64_t base; /* of a segment; -1: another file */
  uint8_t *bytes;
  size_t size, used; /* used: up to the end of the last frame */
} image;

typedef struct frame { /* a batch that was acknowledged */
  int64_t base, next;
  size_t segment; /* among the images */
  uint64_t position;
  uint32_t bytes;
} frame;

typedef struct variant {
  char directory[32];
  uint32_t codec;
  size_t file_count, frame_count;
  image files[FILES_MAX];
  frame frames[FRAMES_MAX];
  int64_t end;
} variant;

static variant variants[VARIANTS];
static long failures;
static uint64_t trial;
static char what[128];

#define EXPECT(cond, ...)                                              \
  do {                                                                 \
    if (!(cond)) {                                                     \
      failures++;                                                      \
      printf("seed %" PRIu64 ": %s: not so: %s ", trial, what, #cond); \
      printf(__VA_ARGS__);                                             \
      printf("\n");                                                    \
      return;                                                          \
    }                                                                  \
  } while (0)

/* ---- the partitions --------------------------------------------------------------------------- */

static void append_batch(ps_log *log, const shape *s, uint32_t codec) {
  ps_error err = {0};
  ps_prepared prepared;
  ps_frame_meta proto;
  int64_t base;
  batch b = batch_make(s);
  uint64_t scratch_bytes = ps_frame_scratch_bytes(&b.columns, codec);
  uint8_t *scratch = exactly(scratch_bytes);
  ps_frame_meta_init(&proto);
  CHECK_EQ(ps_frame_prepare(&b.columns, &proto, codec, ps_log_frame_bytes_max(log), scratch, scratch_bytes,
                            &prepared, &err),
           PS_OK);
  CHECK_EQ(ps_log_append(log, &prepared, -1, &base, &err), PS_OK);
  free(scratch);
  batch_free(&b);
}

static void roll(ps_log *log) {
  ps_error err = {0};
  ps_slot slot;
  CHECK_EQ(ps_log_lock_append(log, -1, &err), PS_OK);
  CHECK(ps_head_read_slot(log->head, &slot));
  CHECK_EQ(ps_log_roll(log, &slot, 0, &err), PS_OK);
  ps_log_unlock_append(log);
}

static void fill(variant *v) {
  static const shape shapes[] = {
      {.count = 3,
       .value_width = -1,
       .key_width = -1,
       .values = WITH_NULLS,
       .keys = WITH_NULLS,
       .headers = WITH_NULLS,
       .times = TIMES_MIXED},
      {.count = 5,
       .value_width = -1,
       .key_width = -1,
       .values = PRESENT,
       .times = TIMES_ONE,
       .compressible = true},
      {.count = 4,
       .value_width = 8,
       .key_width = 4,
       .values = PRESENT,
       .keys = PRESENT,
       .times = TIMES_SAME_COLUMN,
       .gaps = true},
      {.count = 40,
       .value_width = -1,
       .key_width = -1,
       .values = PRESENT,
       .keys = PRESENT,
       .headers = PRESENT,
       .times = TIMES_MIXED,
       .compressible = true},
  };
  ps_prepared empty;
  int64_t base;
  ps_error err = {0};
  strcpy(directory, v->directory);
  handle h = open_with(&plain);
  for (int segment = 0; segment < 3; segment++) {
    if (segment) roll(h.log);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) append_batch(h.log, &shapes[i], v->codec);
    ps_frame_prepare_empty(7, &empty);
    CHECK_EQ(ps_log_append(h.log, &empty, -1, &base, &err), PS_OK);
    append_batch(h.log, &shapes[1], v->codec);
  }
  v->end = ps_log_end_offset(h.log);
  close_handle(h);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const image *)a)->name, ((const image *)b)->name);
}

static char *path_of(const variant *v, const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", v->directory, name);
  return path;
}

static uint8_t *read_file(const variant *v, const char *name, size_t *size) {
  struct stat st;
  int fd = open(path_of(v, name), O_RDONLY);
  if (fd < 0) return NULL;
  CHECK(fstat(fd, &st) == 0);
  *size = (size_t)st.st_size;
  uint8_t *bytes = exactly(*size);
  CHECK(pread(fd, bytes, *size, 0) == (ssize_t)*size);
  close(fd);
  return bytes;
}

static void note_frames(variant *v, size_t number) {
  image *file = &v->files[number];
  uint64_t salt = ps_load_u64(file->bytes + PS_SEG_SALT_OFF), at = PS_SEGMENT_HEADER_BYTES;
  ps_frame_meta meta;
  while (at < file->size &&
         ps_frame_decode_header(file->bytes + at, file->size - at, salt, at, &meta) == PS_OK) {
    CHECK(v->frame_count < FRAMES_MAX);
    v->frames[v->frame_count++] =
        (frame){meta.base_offset, ps_frame_next_offset(&meta), number, at, meta.frame_bytes};
    at += meta.frame_bytes;
  }
  file->used = at;
}

static void remember(variant *v) {
  DIR *dir = opendir(v->directory);
  struct dirent *entry;
  CHECK(dir);
  while ((entry = readdir(dir))) {
    if (entry->d_name[0] == '.' || strcmp(entry->d_name, "locks") == 0) continue;
    CHECK(v->file_count < FILES_MAX);
    image *file = &v->files[v->file_count++];
    snprintf(file->name, sizeof file->name, "%.63s", entry->d_name);
    file->base = ps_segment_parse_name(file->name);
    file->bytes = read_file(v, file->name, &file->size);
  }
  closedir(dir);
  qsort(v->files, v->file_count, sizeof *v->files, by_name);
  int segments = 0;
  for (size_t i = 0; i < v->file_count; i++) {
    if (v->files[i].base < 0) continue;
    segments++;
    note_frames(v, i);
  }
  CHECK_EQ(segments, 3);
  CHECK_EQ(v->frames[v->frame_count - 1].next, v->end);
}

static void make(variant *v, const char *name, uint32_t codec) {
  snprintf(v->directory, sizeof v->directory, "%s", name);
  v->codec = codec;
  CHECK(mkdir(v->directory, 0777) == 0);
  fill(v);
  remember(v);
}

/* ---- one case --------------------------------------------------------------------------------- */

typedef struct harm {
  variant *v;
  size_t file;
  bool cuts;
  size_t at;
  unsigned bit;
} harm;

/* In place: the head is believed only in the file it was written to. */
static void put_file(const variant *v, const char *name, const uint8_t *bytes, size_t size) {
  int fd = open(path_of(v, name), O_RDWR | O_CREAT, 0666);
  struct stat st;
  CHECK(fd >= 0 && fstat(fd, &st) == 0);
  if ((size_t)st.st_size > size) CHECK(ftruncate(fd, 0) == 0);
  CHECK(pwrite(fd, bytes, size, 0) == (ssize_t)size);
  close(fd);
}

static const image *image_of(const variant *v, const char *name) {
  for (size_t i = 0; i < v->file_count; i++)
    if (strcmp(v->files[i].name, name) == 0) return &v->files[i];
  return NULL;
}

static void restore(const variant *v) {
  DIR *dir = opendir(v->directory);
  struct dirent *entry;
  CHECK(dir);
  while ((entry = readdir(dir)))
    if (entry->d_name[0] != '.' && strcmp(entry->d_name, "locks") != 0 && !image_of(v, entry->d_name))
      unlink(path_of(v, entry->d_name));
  closedir(dir);
  for (size_t i = 0; i < v->file_count; i++)
    put_file(v, v->files[i].name, v->files[i].bytes, v->files[i].size);
}

static void do_harm(const harm *h) {
  const image *file = &h->v->files[h->file];
  int fd = open(path_of(h->v, file->name), O_RDWR);
  uint8_t byte = file->bytes[h->at < file->size ? h->at : 0] ^ (uint8_t)(1u << h->bit);
  CHECK(fd >= 0);
  if (h->cuts)
    CHECK(ftruncate(fd, (off_t)h->at) == 0);
  else
    CHECK(pwrite(fd, &byte, 1, (off_t)h->at) == 1);
  close(fd);
}

/* Is this stretch of the file still what was written? */
static bool untouched(const harm *h, size_t file, uint64_t from, uint64_t to) {
  if (file != h->file) return true;
  return h->cuts ? h->at >= to : h->at < from || h->at >= to;
}

/* Must the batch be shown? Those behind a place where no header can be read cannot be got at, as long as the
 * segment has not been repaired. */
static bool reachable(const harm *h, const frame *f) {
  const variant *v = h->v;
  if (!untouched(h, f->segment, f->position, f->position + f->bytes)) return false;
  if (!untouched(h, f->segment, 0, PS_SEGMENT_HEADER_BYTES)) return false;
  for (size_t i = 0; i < v->frame_count; i++) {
    const frame *g = &v->frames[i];
    if (g->segment != f->segment || g->position >= f->position) continue;
    if (!untouched(h, g->segment, g->position, g->position + PS_FRAME_HEADER_BYTES)) return false;
  }
  return true;
}

static void check_says(const ps_error *err) {
  EXPECT(err->path[0] && err->what[0], "(%s)", err->what);
  EXPECT(err->segment >= 0 || err->offset >= 0, "(%s)", err->what);
}

/* Each batch by itself: it is what was written, or damage is reported and it was touched. */
static void read_all(const harm *h, ps_log *log) {
  const variant *v = h->v;
  for (size_t i = 0; i < v->frame_count; i++) {
    const frame *f = &v->frames[i];
    ps_cursor cursor;
    ps_frame_view view;
    ps_error err = {0};
    ps_cursor_init(&cursor);
    ps_status status = ps_cursor_seek(log, &cursor, f->base, &err);
    if (status == PS_OK) status = ps_cursor_next(log, &cursor, &view, &err);
    bool same = status == PS_OK && view.meta.base_offset == f->base && view.meta.frame_bytes == f->bytes &&
                memcmp(view.frame, v->files[f->segment].bytes + f->position, f->bytes) == 0;
    ps_cursor_clear(&cursor);
    EXPECT(status == PS_OK || status == PS_CORRUPT, "(offset %" PRId64 ": %d %s)", f->base, status, err.what);
    EXPECT(same || status != PS_OK, "(offset %" PRId64 ")", f->base);
    EXPECT(status == PS_OK || !reachable(h, f), "(offset %" PRId64 ": %s)", f->base, err.what);
    EXPECT(status != PS_OK || untouched(h, f->segment, f->position, f->position + f->bytes),
           "(offset %" PRId64 ")", f->base);
    if (status == PS_CORRUPT) check_says(&err);
  }
}

/* In one go: offsets follow one another up to the damage, or to the end. */
static void read_on(const harm *h, ps_log *log) {
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  int64_t next = 0, end = ps_log_high_watermark(log);
  ps_cursor_init(&cursor);
  ps_status status = ps_cursor_seek(log, &cursor, 0, &err);
  while (status == PS_OK && (status = ps_cursor_next(log, &cursor, &view, &err)) == PS_OK) {
    EXPECT(view.meta.base_offset == next, "(%" PRId64 ")", next);
    next = ps_frame_next_offset(&view.meta);
  }
  ps_cursor_clear(&cursor);
  EXPECT(status == PS_CORRUPT || (status == PS_END && next == end), "(%d at %" PRId64 ")", status, next);
  EXPECT(status == PS_END || h->v->files[h->file].base >= 0, "(%s)", err.what);
}

/* A damaged segment, walked as verify does: each sound batch is found, and whatever else there is, too. */
static void walk(const harm *h) {
  static uint8_t buffer[PS_WALK_BUFFER_BYTES_MIN] __attribute__((aligned(64))), scratch[1 << 16];
  const variant *v = h->v;
  const image *file = &v->files[h->file];
  ps_walk w = {.env = &plain, .base_offset = file->base, .end_offset = INT64_MAX, .bodies = true};
  ps_walk_event event;
  ps_error err = {0};
  size_t sound = 0, wanted = 0;
  bool amiss = false;
  w.salt = ps_load_u64(file->bytes + PS_SEG_SALT_OFF);
  w.buffer = buffer;
  w.buffer_bytes = sizeof buffer;
  w.scratch = scratch;
  w.scratch_bytes = sizeof scratch;
  w.fd = open(path_of(v, file->name), O_RDONLY);
  ps_walk_begin(&w);
  do {
    ps_status status = ps_walk_next(&w, &event, &err);
    CHECK(status == PS_OK && event != PS_WALK_NEED);
    bool whole = event == PS_WALK_FRAME && w.body == PS_SOUND && w.columns == PS_SOUND;
    sound += whole;
    amiss = amiss || event == PS_WALK_DAMAGE || (event == PS_WALK_FRAME && !whole) ||
            (event == PS_WALK_HEADER && w.header != PS_SOUND) ||
            (event == PS_WALK_SEAL && w.sealed != PS_SOUND);
  } while (event != PS_WALK_END);
  close(w.fd);
  bool sealed = file->size < PS_SEGMENT_BYTES_MIN;
  amiss = amiss || w.rest == PS_WALK_BYTES || w.next_offset < v->end * (sealed ? 0 : 1);
  amiss = amiss || (sealed && w.sealed != PS_SOUND);
  for (size_t i = 0; i < v->frame_count; i++) {
    const frame *f = &v->frames[i];
    wanted += f->segment == h->file && untouched(h, h->file, f->position, f->position + f->bytes);
  }
  EXPECT(sound == wanted, "(%zu sound batches, not %zu)", sound, wanted);
  /* Where only zeros are cut off, the walk reads zeros all the same. */
  size_t matters = h->cuts ? file->used + (sealed ? PS_SEAL_RESERVED_OFF : 0) : file->size;
  EXPECT(amiss == (h->at < matters), "(at %zu of %zu)", h->at, matters);
}

/* ---- nothing is thrown away ------------------------------------------------------------------- */

static size_t stripped(const uint8_t *p, size_t bytes) {
  while (bytes && p[bytes - 1] == 0) bytes--;
  return bytes;
}

/* Is what the file held from `from` on in a .cut file of its name? */
static bool in_cut(const variant *v, const char *name, const uint8_t *bytes, size_t from, size_t to) {
  DIR *dir = opendir(v->directory);
  struct dirent *entry;
  bool found = false;
  while (!found && (entry = readdir(dir))) {
    size_t size;
    if (strncmp(entry->d_name, name, strlen(name)) != 0 || !strstr(entry->d_name, ".cut")) continue;
    uint8_t *cut = read_file(v, entry->d_name, &size);
    found = from >= to || (stripped(cut, size) == to - from && memcmp(cut, bytes + from, to - from) == 0);
    free(cut);
  }
  closedir(dir);
  return found;
}

static void check_kept(const harm *h) {
  const variant *v = h->v;
  for (size_t i = 0; i < v->file_count; i++) {
    const image *file = &v->files[i];
    if (file->base < 0) continue;
    uint8_t *before = exactly(file->size);
    size_t size = file->size, same = 0, now = 0;
    memcpy(before, file->bytes, size);
    if (i == h->file && h->cuts) size = h->at;
    if (i == h->file && !h->cuts) before[h->at] ^= (uint8_t)(1u << h->bit);
    size = stripped(before, size);
    uint8_t *after = read_file(v, file->name, &now);
    while (after && same < now && same < size && after[same] == before[same]) same++;
    bool kept =
        same >= size || in_cut(v, file->name, before, 0, size) ||
        (same >= PS_SEGMENT_HEADER_BYTES && in_cut(v, file->name, before, same / PS_ALIGN * PS_ALIGN, size));
    free(after);
    free(before);
    EXPECT(kept, "(%s)", file->name);
  }
}

/* ---- trials ----------------------------------------------------------------------------------- */

static ps_status look(const harm *h, uint64_t inside, handle *opened, ps_error *err) {
  ps_log_options options = {.partition = 3,
                            .segment_bytes = segment_bytes,
                            .index_interval_bytes = 1024,
                            .durability = PS_DURABILITY_INTERVAL,
                            .io = PS_IO_PWRITE,
                            .incarnation = inside,
                            .read_only = inside == 0,
                            .live_fd = -1};
  memset(options.topic_uuid, 7, 16);
  opened->locks = open(path_of(h->v, "locks"), O_RDWR);
  ps_status status =
      ps_log_open(&plain, h->v->directory, opened->locks, &options, inside != 0, &opened->log, err);
  if (status != PS_OK) close(opened->locks);
  return status;
}

static void open_and_read(const harm *h, uint64_t inside) {
  handle opened;
  ps_error err = {0};
  ps_status status = look(h, inside, &opened, &err);
  bool segment = h->v->files[h->file].base >= 0;
  EXPECT(status == PS_OK || (status == PS_CORRUPT && segment), "(%d: %s)", status, err.what);
  if (status == PS_OK) {
    int64_t end = ps_log_end_offset(opened.log), watermark = ps_log_high_watermark(opened.log);
    read_all(h, opened.log);
    read_on(h, opened.log);
    ps_log_after_fork(opened.log);
    ps_log_free(opened.log);
    close(opened.locks);
    EXPECT(end == h->v->end && watermark == end, "(%" PRId64 ", not %" PRId64 ")", end, h->v->end);
  } else {
    check_says(&err);
  }
}

static void run_case(harm *h) {
  const image *file = &h->v->files[h->file];
  snprintf(what, sizeof what, "%s/%s %s %zu, bit %u", h->v->directory, file->name,
           h->cuts ? "cut to" : "flipped at", h->at, h->bit);
  restore(h->v);
  do_harm(h);
  if (file->base >= 0) walk(h);
  open_and_read(h, 0);
  open_and_read(h, ++incarnation);
  check_kept(h);
  open_and_read(h, ++incarnation);
  check_kept(h);
}

/* Cases: of each file, its places, then its lengths. */
static uint64_t count_cases(void) {
  uint64_t count = 0;
  for (int i = 0; i < VARIANTS; i++)
    for (size_t j = 0; j < variants[i].file_count; j++) count += 2 * variants[i].files[j].size;
  return count;
}

static harm case_of(uint64_t number, uint64_t pass) {
  harm h = {0};
  for (int i = 0; i < VARIANTS; i++)
    for (size_t j = 0; j < variants[i].file_count; j++) {
      uint64_t size = variants[i].files[j].size;
      if (number < 2 * size) {
        h = (harm){&variants[i], j, number >= size, (size_t)(number % size), 0};
        h.bit = (unsigned)((number * 0x9e3779b97f4a7c15ull >> 61) + pass) & 7;
        return h;
      }
      number -= 2 * size;
    }
  return h;
}

/* A step that has no factor in common with the number of cases, near its golden section: see damage.py. */
static uint64_t common_factor(uint64_t a, uint64_t b) { return b ? common_factor(b, a % b) : a; }
static uint64_t stride_of(uint64_t count) {
  uint64_t stride = (uint64_t)((double)count * 0.6180339887498949);
  while (common_factor(stride, count) != 1) stride++;
  return stride;
}

int main(int argc, char **argv) {
  make(&variants[0], "raw", PS_CODEC_NONE);
  make(&variants[1], "packed", PS_CODEC_LZ4);
  uint64_t cases = count_cases(), ran = 0;
  if (argc == 2 && strcmp(argv[1], "--count") == 0) {
    printf("%" PRIu64 "\n", cases);
    return 0;
  }
  CHECK(argc == 5);
  uint64_t first = strtoull(argv[1], NULL, 10), trials = strtoull(argv[2], NULL, 10);
  uint64_t apart = strtoull(argv[3], NULL, 10), all = apart + cases, stride = stride_of(all);
  double seconds = strtod(argv[4], NULL);
  int64_t until = seconds > 0 ? ps_os_monotonic_ns() + (int64_t)(seconds * 1e9) : 0, done = 0;
  for (trial = first; trial < first + trials; trial++, done++) {
    if (until > 0 && done % 64 == 0 && ps_os_monotonic_ns() > until) break;
    uint64_t number = (uint64_t)((unsigned __int128)(trial % all) * stride % all);
    if (number < apart) continue;
    harm h = case_of(number - apart, trial / all);
    run_case(&h);
    ran++;
    if (failures >= 20) break;
  }
  printf("{\"done\": %" PRId64 ", \"trials\": %" PRIu64 ", \"failures\": %ld}\n", done, ran, failures);
  return failures > 0;
}
