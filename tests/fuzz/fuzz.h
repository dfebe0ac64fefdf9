/* fuzz.h - what the fuzz targets share: checks, an input taken apart, files made of it, and checksums put
 * right.
 *
 * A target is a file fuzz_NAME.c with `FUZZ_TARGET(NAME)` before its body, which gets any bytes at all and
 * looks at them through the decoders it is for. All targets stand in one program, which takes the one to run
 * from the name it is called by: fuzz-NAME. With clang's libFuzzer that program makes inputs; with any other
 * compiler and main.c it plays those it is given.
 *
 * Most bytes of the format stand behind a checksum, which no mutation passes. So the first byte of an input
 * says how the rest is to be taken: as it is (the decoder has to see wrong checksums, too), or with checksums
 * made right (SEALED), or with the sizes and counts in front of them, too (FITTED), so that what comes after
 * is reached. */
#ifndef FUZZ_H
#define FUZZ_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ps_frame.h"
#include "ps_head.h"
#include "ps_os.h"
#include "ps_segment.h"

#define FUZZ_CHECK(cond)                                                 \
  do {                                                                   \
    if (!(cond)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond); \
      fflush(stderr);                                                    \
      abort();                                                           \
    }                                                                    \
  } while (0)

#define FUZZ_TARGET(name) void fuzz_##name(const uint8_t *data, size_t size)
typedef void (*fuzz_target)(const uint8_t *data, size_t size);
/* The target of that name, NULL: there is none. */
fuzz_target fuzz_find(const char *name);

enum { FUZZ_SEALED = 1, FUZZ_FITTED = 2 };

#define FUZZ_SALT 0x5a17ull
#define FUZZ_PARTITION 3u
#define FUZZ_UUID_BYTE 7
#define FUZZ_SEGMENT_BYTES (64u << 10)

/* ---- the input -------------------------------------------------------------------------------- */
typedef struct fuzz_in {
  const uint8_t *p, *end;
} fuzz_in;

static inline size_t fuzz_left(const fuzz_in *in) { return (size_t)(in->end - in->p); }
/* The next number, little-endian; zeros where the input ends. */
static inline uint64_t fuzz_take(fuzz_in *in, unsigned bytes) {
  uint64_t v = 0;
  for (unsigned i = 0; i < bytes && in->p < in->end; i++) v |= (uint64_t)*in->p++ << (8 * i);
  return v;
}
/* A stretch of at most `bytes` bytes. */
static inline const uint8_t *fuzz_bytes(fuzz_in *in, size_t *bytes) {
  const uint8_t *p = in->p;
  if (*bytes > fuzz_left(in)) *bytes = fuzz_left(in);
  in->p += *bytes;
  return p;
}
/* A copy on a 64-byte boundary that ends where its memory does: one byte too many is seen. free() it. */
uint8_t *fuzz_copy(const uint8_t *p, size_t bytes);
/* The same of whatever is left of the input. */
uint8_t *fuzz_rest(fuzz_in *in, size_t *bytes);

/* ---- checksums -------------------------------------------------------------------------------- */
/* Each takes what may be of that kind, at any length, and `how`: nothing is done when it is 0. */
void fuzz_seal_frame(uint8_t *p, size_t limit, uint64_t salt, uint64_t position, int64_t base, unsigned how);
void fuzz_seal_segment(uint8_t *p, size_t bytes, unsigned how);
void fuzz_seal_index(uint8_t *p, size_t bytes, uint64_t salt, int64_t base, unsigned how);
void fuzz_seal_head(uint8_t *p, size_t bytes, const ps_head_identity *who, unsigned how);
void fuzz_seal_epochs(uint8_t *p, size_t bytes, unsigned how);
void fuzz_seal_live(uint8_t *p, size_t bytes, unsigned how);

/* ---- files ------------------------------------------------------------------------------------ */
/* An unnamed file of these bytes, in memory. */
int fuzz_file(const void *p, size_t bytes);
/* A directory of this process, in memory if it can be, empty now and removed at its end. */
const char *fuzz_directory(void);
/* DIRECTORY/name, in a buffer of its own that the next call uses again. */
const char *fuzz_path(const char *name);
/* Make the file `name` of the directory anew: these bytes, then `zeros` zeros. */
void fuzz_write(const char *name, const void *p, size_t bytes, size_t zeros);
/* What the file `name` holds, malloc'ed; NULL: there is no such file. */
uint8_t *fuzz_read(const char *name, size_t *bytes);
/* Call `each` with every name in the directory. */
void fuzz_names(void (*each)(const char *name, void *context), void *context);
/* How many bytes are left when zeros at the end are not counted. */
size_t fuzz_stripped(const uint8_t *p, size_t bytes);

/* ---- partitions ------------------------------------------------------------------------------- */
/* A partition's directory made of an input, which is a run of chunks: kind u8, length u16, bytes. The low
 * three bits of the kind say which file it is, the next three how many zeros follow its bytes, the last two
 * whether a head is of this very file. A segment's name is what its header says, an index's that of the
 * segment before it. What was written is kept for comparison. */
enum { FUZZ_HEAD, FUZZ_EPOCHS, FUZZ_SEGMENT, FUZZ_INDEX, FUZZ_CUT, FUZZ_TEMPORARY, FUZZ_FOREIGN, FUZZ_LIVE };
#define FUZZ_FILES_MAX 12
typedef struct fuzz_kept {
  char name[64];
  unsigned kind;
  int64_t base;
  uint8_t *bytes;
  size_t size, zeros;
} fuzz_kept;
typedef struct fuzz_partition {
  size_t count;
  fuzz_kept files[FUZZ_FILES_MAX];
} fuzz_partition;
void fuzz_partition_make(fuzz_in *in, unsigned how, fuzz_partition *out);
void fuzz_partition_free(fuzz_partition *partition);
const fuzz_kept *fuzz_partition_last(const fuzz_partition *partition, unsigned kind); /* NULL: none */

/* ---- reading ---------------------------------------------------------------------------------- */
/* Every byte that the columns give access to; a sum that keeps the compiler from leaving it out. */
uint64_t fuzz_walk_columns(const ps_columns *columns);
/* The log's records, by a cursor from `offset` on, until it says why it stops: PS_END at the watermark.
 * *next: where it stopped. Frames that were given out tile the log, and hold what their headers say. */
struct ps_log;
ps_status fuzz_read_log(struct ps_log *log, int64_t offset, int64_t *next);
/* An error says what happened, in words that end. */
void fuzz_check_error(ps_status status, const ps_error *err);

#endif
