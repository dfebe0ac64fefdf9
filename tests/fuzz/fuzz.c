/* What fuzz.h promises, but for the checksums. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "fuzz.h"

#include <dirent.h>

uint8_t *fuzz_copy(const uint8_t *p, size_t bytes) {
  void *copy = NULL;
  FUZZ_CHECK(posix_memalign(&copy, PS_ALIGN, bytes ? bytes : 1) == 0);
  if (bytes) memcpy(copy, p, bytes);
  return copy;
}

uint8_t *fuzz_rest(fuzz_in *in, size_t *bytes) {
  *bytes = fuzz_left(in);
  return fuzz_copy(fuzz_bytes(in, bytes), *bytes);
}

/* ---- files ------------------------------------------------------------------------------------ */

int fuzz_file(const void *p, size_t bytes) {
  int fd = memfd_create("fuzz", MFD_CLOEXEC);
  FUZZ_CHECK(fd >= 0);
  if (bytes) FUZZ_CHECK(pwrite(fd, p, bytes, 0) == (ssize_t)bytes);
  return fd;
}

static char directory[256];

void fuzz_names(void (*each)(const char *name, void *context), void *context) {
  DIR *dir = opendir(directory);
  struct dirent *entry;
  FUZZ_CHECK(dir);
  while ((entry = readdir(dir)))
    if (entry->d_name[0] != '.') each(entry->d_name, context);
  closedir(dir);
}

static void remove_file(const char *name, void *context) {
  (void)context;
  unlink(fuzz_path(name));
}

static void remove_directory(void) {
  fuzz_names(remove_file, NULL);
  rmdir(directory);
}

const char *fuzz_directory(void) {
  if (!directory[0]) {
    const char *place = getenv("FUZZ_DIRECTORY"); /* who runs us removes it, however we end */
    if (!place) place = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    FUZZ_CHECK(snprintf(directory, sizeof directory, "%s/pystream-fuzz-XXXXXX", place) <
               (int)sizeof directory);
    FUZZ_CHECK(mkdtemp(directory));
    atexit(remove_directory);
  }
  fuzz_names(remove_file, NULL);
  return directory;
}

const char *fuzz_path(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  return path;
}

void fuzz_write(const char *name, const void *p, size_t bytes, size_t zeros) {
  int fd = open(fuzz_path(name), O_RDWR | O_CREAT | O_TRUNC, 0666);
  FUZZ_CHECK(fd >= 0);
  if (bytes) FUZZ_CHECK(pwrite(fd, p, bytes, 0) == (ssize_t)bytes);
  if (zeros) FUZZ_CHECK(ftruncate(fd, (off_t)(bytes + zeros)) == 0);
  close(fd);
}

uint8_t *fuzz_read(const char *name, size_t *bytes) {
  struct stat st;
  int fd = open(fuzz_path(name), O_RDONLY);
  if (fd < 0) return NULL;
  FUZZ_CHECK(fstat(fd, &st) == 0);
  *bytes = (size_t)st.st_size;
  uint8_t *p = malloc(*bytes + 1);
  FUZZ_CHECK(p && pread(fd, p, *bytes, 0) == (ssize_t)*bytes);
  close(fd);
  return p;
}

size_t fuzz_stripped(const uint8_t *p, size_t bytes) {
  while (bytes && p[bytes - 1] == 0) bytes--;
  return bytes;
}

/* ---- reading ---------------------------------------------------------------------------------- */

static uint64_t walk_binary(const ps_binary *b, uint32_t count) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < count; i++) {
    size_t from = b->offsets ? (size_t)b->offsets[i] : (size_t)i * (size_t)b->width;
    size_t to = b->offsets ? (size_t)b->offsets[i + 1] : from + (size_t)b->width;
    FUZZ_CHECK(from <= to && to <= b->bytes);
    sum += ps_bit(b->validity, i);
    for (size_t at = from; at < to; at++) sum += b->data[at];
  }
  return sum;
}

uint64_t fuzz_walk_columns(const ps_columns *c) {
  uint64_t sum = walk_binary(&c->values, c->count);
  for (uint32_t i = 0; i < c->count; i++) {
    if (c->offset_deltas) sum += c->offset_deltas[i];
    if (c->timestamps) sum += (uint64_t)c->timestamps[i];
  }
  if (c->has_keys) sum += walk_binary(&c->keys, c->count);
  if (!c->has_headers) return sum;
  for (uint32_t i = 0; i <= c->count; i++) FUZZ_CHECK((uint32_t)c->header_lists[i] <= c->header_count);
  return sum + walk_binary(&c->header_keys, c->header_count) +
         walk_binary(&c->header_values, c->header_count);
}

void fuzz_check_error(ps_status status, const ps_error *err) {
  if (status == PS_OK || status == PS_END) return;
  FUZZ_CHECK(err->status == status);
  FUZZ_CHECK(err->what[0] && memchr(err->what, 0, sizeof err->what) &&
             memchr(err->path, 0, sizeof err->path));
  FUZZ_CHECK(status != PS_OS_ERROR || err->os_errno > 0);
}

/* ---- which one -------------------------------------------------------------------------------- */

#define EACH_TARGET(X) \
  X(arrow)             \
  X(compact)           \
  X(cursor)            \
  X(epochs)            \
  X(fault) X(frame) X(group) X(head) X(index) X(lines) X(live) X(recover) X(repair) X(rows) X(segment) X(walk)
#define DECLARE(name) FUZZ_TARGET(name);
EACH_TARGET(DECLARE)

fuzz_target fuzz_find(const char *name) {
#define NAMED(target) \
  if (strcmp(name, #target) == 0) return fuzz_##target;
  EACH_TARGET(NAMED)
  return NULL;
}

static fuzz_target chosen;

int LLVMFuzzerInitialize(int *count, char ***words);
int LLVMFuzzerInitialize(int *count, char ***words) {
  (void)count;
  const char *name = strstr((*words)[0], "fuzz-");
  for (const char *next; name && (next = strstr(name + 1, "fuzz-"));) name = next;
  chosen = name ? fuzz_find(name + 5) : NULL;
  if (!chosen) {
    fprintf(stderr, "%s: call this program by the name of a target, such as fuzz-frame\n", (*words)[0]);
    exit(2);
  }
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  chosen(data, size);
  return 0;
}
