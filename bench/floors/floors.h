/* floors.h - the least work that any log must do for the same result: what pystream is measured against.
 *
 * Nothing here is a log: no headers, locks, index or recovery. Each verb does only what its row of the
 * benchmarks cannot do without, with the same checksum and the same kernel calls as pystream's own kernels.
 * All return 0 or -errno unless they say otherwise. */
#ifndef FLOORS_H
#define FLOORS_H

#include "ps_base.h"
#include "ps_hash.h"

/* Ways to put bytes into space that is reserved and was never touched. */
typedef enum floor_way {
  FLOOR_POPULATE = 0, /* fault the pages in by one call, then memcpy */
  FLOOR_FAULT = 1,    /* memcpy, a fault a page */
  FLOOR_PWRITE = 2
} floor_way;

typedef struct floor_file { /* a file of `bytes` allocated bytes, mapped shared and writable */
  int fd;
  uint8_t *map;
  uint64_t bytes;
  uint64_t end; /* where the next store goes */
} floor_file;

int floor_file_make(const char *path, uint64_t bytes, floor_file *out);
/* An existing file, mapped read-only. */
int floor_file_view(const char *path, floor_file *out);
void floor_file_drop(floor_file *file);

/* Store n bytes at file->end and move it. */
int floor_store(floor_file *file, const void *data, uint64_t n, floor_way way);
int floor_sync(floor_file *file); /* fdatasync */

/* For each `block` bytes of data: checksum, if asked for, store behind a header of 192 bytes, at a multiple
 * of 64. */
int floor_store_blocks(floor_file *file, const uint8_t *data, uint64_t bytes, uint64_t block, floor_way way,
                       bool checksum);
/* The same with checksums, through LZ4; scratch holds LZ4_compressBound(block). Adds the compressed sizes to
 * *stored. */
int floor_compress_blocks(floor_file *file, const uint8_t *data, uint64_t bytes, uint64_t block,
                          uint8_t *scratch, floor_way way, uint64_t *stored);
/* `count` times: write `bytes` at the next multiple of `stride`, fdatasync. */
int floor_sync_loop(floor_file *file, const void *data, uint64_t bytes, uint64_t stride, uint64_t count);
/* One pass of xxh3 over the file in pieces of `block`. populate: fault each MiB in by one call first. */
uint64_t floor_hash_pass(const floor_file *file, uint64_t block, bool populate);

/* Hand-over between two processes through one shared word, which counts messages. The receiver takes the time
 * as soon as it sees each; the sender has put the time just before it published into *sent_ns. */
typedef struct floor_post {
  uint32_t word __attribute__((aligned(128)));
  int64_t sent_ns;
  uint32_t taken __attribute__((aligned(128))); /* messages the receiver has seen */
} floor_post;
void floor_post_send(floor_post *post, bool wake);
/* Wait for message `number` (from 1); spin, or sleep on the word. Returns the latency in ns; -1 after 10 s.
 */
int64_t floor_post_receive(floor_post *post, uint32_t number, bool spin);

#endif
