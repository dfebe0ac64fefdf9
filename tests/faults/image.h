/* image.h - what is on the disk: images of files, names of directories, and what has happened to names since.
 * The model is told in disk.h; disk.c says here what happens below the root, photo.c reads it.
 *
 * Not for several threads at once. Calls go to the kernel by syscall(2), past disk.c. Paths are absolute and
 * clean (no ".", "..", "//", no links). */
#ifndef PS_IMAGE_H
#define PS_IMAGE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

/* All that stands below root is on the disk. 0, or an errno. */
int image_begin(const char *root);
void image_end(void);

/* After the call has been done. Paths and descriptors that nobody has heard of are passed over. */
void image_opened(int fd, const char *path, bool made, bool truncated);
void image_renamed(const char *from, const char *to, bool exchanged);
void image_linked(const char *from, const char *to);
void image_removed(const char *path);
void image_directory_made(const char *path);
void image_truncated(int fd, int64_t bytes);
/* Before the call is done, so that what other threads store meanwhile is not taken for synced; `synced` after
 * it has succeeded. */
void image_syncing(int fd, bool everything);
void image_synced(void);
/* Instead: it fails. What was to be written is called clean all the same, and is not written before it is
 * stored to again, whoever syncs. False: it is no sync of a file. */
bool image_sync_failed(void);

/* The kernel writes something back. */
void image_write_back(uint64_t seed);

/* ---- for photo.c --------------------------------------------------------------------------------- */

#define PAGE 4096
#define SECTOR 512
#define NONE (-1)
#define EVERY (-2)

typedef struct bytes { /* zeros behind `used`, up to room */
  uint8_t *at;
  int64_t used, room;
} bytes;

typedef struct node { /* a file or a directory, for as long as it may be on the disk */
  dev_t device;
  ino_t inode;
  bool directory;
  int fd;        /* ours: what has lost its name can still be read */
  int64_t size;  /* of the image */
  int64_t least; /* the smallest that the file has been since it was synced */
  bytes image;
  bytes now; /* as it reads */
  int64_t size_now;
  bytes spoiled; /* as it read when a sync of it failed; `used` is 0 where none has */
  bool listed;
  int64_t dirty;       /* pages that differ; the following are numbers among them */
  int64_t first, last; /* those in [first, last) are kept */
  int64_t one;         /* the one that fares otherwise; NONE */
  char path[PATH_MAX]; /* where it was put; "" */
} node;

typedef struct name { /* of `node` in a directory */
  int directory, text, node;
} name;

#define OP_NODES 3
typedef struct op { /* one change of names: the last one of a name counts; node NONE takes it away */
  name set[2];
  int sets;
  int nodes[OP_NODES];
  int chain;
} op;

typedef struct names {
  name *at;
  int count, room;
} names;

typedef struct image {
  char root[PATH_MAX];
  node **nodes; /* 0: the root */
  int node_count, node_room, node_made;
  char **texts;
  int text_count, text_room;
  names live, disk;
  op *ops; /* from `disk` to `live`, in order */
  int op_count, op_room;
  int syncing; /* the file of which `synced` is the content; NONE; EVERY */
  bytes synced;
  int64_t synced_size;
  uint64_t chance; /* state of the generator */
} image;
extern image the_disk;

/* A number below n (0 when n is not above 0), by chance. */
int64_t image_chance(int64_t n);
void image_use(bytes *b, int64_t size);
const uint8_t *image_page(const bytes *b, int64_t page);
/* Is there anything in this page of `now` that the kernel has still to write? */
bool image_is_dirty(const node *n, const bytes *now, int64_t page);
int64_t image_read_now(const node *n, bytes *out);
void image_set_name(names *in, const name *set);
void image_find_chains(void);
void *image_must(void *p);

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t pages_of(int64_t size) { return (size + PAGE - 1) / PAGE; }

#endif
