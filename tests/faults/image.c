/* What is on the disk, and how it comes there: see disk.h for the model, image.h for who calls. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

image the_disk;

/* ---- small things ------------------------------------------------------------------------------- */

void *image_must(void *p) {
  if (p) return p;
  fprintf(stderr, "the played disk is out of memory\n");
  abort();
}

#define GROW(array, count, room)                                                \
  do {                                                                          \
    if ((count) == (room)) {                                                    \
      (room) = (room) ? 2 * (room) : 64;                                        \
      (array) = image_must(realloc((array), (size_t)(room) * sizeof *(array))); \
    }                                                                           \
  } while (0)

static uint64_t next(void) {
  uint64_t z = (the_disk.chance += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
int64_t image_chance(int64_t n) { return n > 0 ? (int64_t)(next() % (uint64_t)n) : 0; }

/* Room for `size` bytes in whole pages, with zeros behind what is used. */
static void reserve(bytes *b, int64_t size) {
  int64_t room = pages_of(size) * PAGE;
  if (room <= b->room) return;
  room = larger(room, 2 * b->room);
  b->at = image_must(realloc(b->at, (size_t)room));
  memset(b->at + b->room, 0, (size_t)(room - b->room));
  b->room = room;
}

void image_use(bytes *b, int64_t size) {
  reserve(b, size);
  if (size < b->used) memset(b->at + size, 0, (size_t)(b->used - size));
  b->used = size;
}

/* A page of it, or zeros. */
const uint8_t *image_page(const bytes *b, int64_t page) {
  static const uint8_t zeros[PAGE];
  return page * PAGE < b->used ? b->at + page * PAGE : zeros;
}

/* The file as it reads now. Holes are passed over. */
int64_t image_read_now(const node *n, bytes *out) {
  struct stat st;
  if (fstat(n->fd, &st) < 0) return 0;
  image_use(out, 0);
  image_use(out, st.st_size);
  for (int64_t at = 0; at < st.st_size;) {
    int64_t end = st.st_size;
    if (st.st_size > 16 * PAGE) {
      int64_t data = lseek(n->fd, at, SEEK_DATA);
      if (data < 0) break;
      at = data;
      end = smaller(larger(lseek(n->fd, at, SEEK_HOLE), at), end);
    }
    ssize_t got = syscall(SYS_pread64, n->fd, out->at + at, (size_t)(end - at), at);
    if (got <= 0) break;
    at += got;
  }
  return st.st_size;
}

bool image_is_dirty(const node *n, const bytes *now, int64_t page) {
  const uint8_t *bytes = image_page(now, page);
  if (memcmp(bytes, image_page(&n->image, page), PAGE) == 0) return false;
  return page * PAGE >= n->spoiled.used || memcmp(bytes, image_page(&n->spoiled, page), PAGE) != 0;
}

/* ---- nodes and names ---------------------------------------------------------------------------- */

static int node_add(int fd, const struct stat *st) {
  if (the_disk.node_count == the_disk.node_made) { /* those of earlier disks serve again, with their memory */
    GROW(the_disk.nodes, the_disk.node_made, the_disk.node_room);
    the_disk.nodes[the_disk.node_made++] = image_must(calloc(1, sizeof(node)));
  }
  node *n = the_disk.nodes[the_disk.node_count];
  n->device = st->st_dev;
  n->inode = st->st_ino;
  n->directory = S_ISDIR(st->st_mode);
  n->fd = fd;
  n->size = n->least = 0;
  image_use(&n->image, 0);
  image_use(&n->spoiled, 0);
  return the_disk.node_count++;
}

static int node_of_descriptor(int fd) {
  struct stat st;
  if (fstat(fd, &st) < 0) return NONE;
  for (int i = the_disk.node_count; i-- > 0;)
    if (the_disk.nodes[i]->inode == st.st_ino && the_disk.nodes[i]->device == st.st_dev) return i;
  return NONE;
}

static int text_of(const char *text, size_t length) {
  for (int i = 0; i < the_disk.text_count; i++)
    if (strncmp(the_disk.texts[i], text, length) == 0 && the_disk.texts[i][length] == '\0') return i;
  GROW(the_disk.texts, the_disk.text_count, the_disk.text_room);
  the_disk.texts[the_disk.text_count] = image_must(strndup(text, length));
  return the_disk.text_count++;
}

static name *name_find(names *in, int directory, int text) {
  for (int i = 0; i < in->count; i++)
    if (in->at[i].directory == directory && in->at[i].text == text) return &in->at[i];
  return NULL;
}

void image_set_name(names *in, const name *set) {
  name *found = name_find(in, set->directory, set->text);
  if (set->node == NONE) {
    if (found) *found = in->at[--in->count];
    return;
  }
  if (!found) {
    GROW(in->at, in->count, in->room);
    found = &in->at[in->count++];
  }
  *found = *set;
}

/* The directory and the last part of a path, and what has that name now (NONE: nothing). */
static bool name_at(const char *path, name *out) {
  out->directory = 0;
  const char *at = path + strlen(the_disk.root);
  for (;;) {
    while (*at == '/') at++;
    size_t length = strcspn(at, "/");
    if (length == 0) return false; /* the root itself */
    out->text = text_of(at, length);
    const name *found = name_find(&the_disk.live, out->directory, out->text);
    out->node = found ? found->node : NONE;
    at += length;
    if (*at == '\0') return true;
    if (!found || !the_disk.nodes[found->node]->directory) return false;
    out->directory = found->node;
  }
}

static op *op_begin(void) {
  GROW(the_disk.ops, the_disk.op_count, the_disk.op_room);
  op *o = &the_disk.ops[the_disk.op_count];
  o->sets = 0;
  for (int i = 0; i < OP_NODES; i++) o->nodes[i] = NONE;
  return o;
}

static void op_end(const op *o) {
  for (int i = 0; i < o->sets; i++) image_set_name(&the_disk.live, &o->set[i]);
  the_disk.op_count++;
}

static void op_name(const name *at, int node) {
  op *o = op_begin();
  o->set[o->sets++] = (name){at->directory, at->text, node};
  o->nodes[0] = node;
  o->nodes[1] = at->node;
  op_end(o);
}

static bool connected(const op *a, const op *b) {
  for (int i = 0; i < a->sets; i++)
    for (int j = 0; j < b->sets; j++)
      if (a->set[i].directory == b->set[j].directory && a->set[i].text == b->set[j].text) return true;
  for (int i = 0; i < OP_NODES; i++)
    for (int j = 0; j < OP_NODES; j++)
      if (a->nodes[i] != NONE && a->nodes[i] == b->nodes[j]) return true;
  return false;
}

/* Number the chains: each change gets the number of the first one of its chain. */
void image_find_chains(void) {
  for (int i = 0; i < the_disk.op_count; i++) {
    the_disk.ops[i].chain = i;
    for (int j = 0; j < i; j++) {
      int mine = the_disk.ops[i].chain, other = the_disk.ops[j].chain;
      if (mine == other || !connected(&the_disk.ops[i], &the_disk.ops[j])) continue;
      for (int k = 0; k <= i; k++)
        if (the_disk.ops[k].chain == larger(mine, other)) the_disk.ops[k].chain = (int)smaller(mine, other);
    }
  }
}

/* Of each chain the changes up to upto[chain] are on the disk from now on. */
static void settle(const int *upto) {
  int left = 0;
  for (int i = 0; i < the_disk.op_count; i++) {
    if (i <= upto[the_disk.ops[i].chain])
      for (int j = 0; j < the_disk.ops[i].sets; j++) image_set_name(&the_disk.disk, &the_disk.ops[i].set[j]);
    else
      the_disk.ops[left++] = the_disk.ops[i];
  }
  the_disk.op_count = left;
}

static void sync_names(int directory) {
  if (the_disk.op_count == 0) return;
  int *upto = image_must(malloc((size_t)the_disk.op_count * sizeof *upto));
  image_find_chains();
  for (int i = 0; i < the_disk.op_count; i++) upto[i] = NONE;
  for (int i = 0; i < the_disk.op_count; i++)
    for (int j = 0; j < the_disk.ops[i].sets; j++)
      if (directory == NONE || the_disk.ops[i].set[j].directory == directory) upto[the_disk.ops[i].chain] = i;
  settle(upto);
  free(upto);
}

/* ---- what happens -------------------------------------------------------------------------------- */

static int scan(int at, char *path) {
  DIR *directory = opendir(path);
  if (!directory) return errno;
  size_t length = strlen(path);
  int failed = 0;
  struct dirent *entry;
  while (!failed && (entry = readdir(directory)) != NULL) {
    struct stat st;
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    snprintf(path + length, PATH_MAX - length, "/%s", entry->d_name);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0) {
      failed = errno;
      break;
    }
    int found = node_of_descriptor(fd);
    if (found != NONE) /* another name of it */
      syscall(SYS_close, fd);
    else
      found = node_add(fd, &st);
    node *n = the_disk.nodes[found];
    image_set_name(&the_disk.disk, &(name){at, text_of(entry->d_name, strlen(entry->d_name)), found});
    if (n->directory)
      failed = scan(found, path);
    else
      n->size = n->least = image_read_now(n, &n->image);
  }
  path[length] = '\0';
  closedir(directory);
  return failed;
}

int image_begin(const char *root) {
  char path[PATH_MAX];
  struct stat st;
  image_end();
  strcpy(the_disk.root, root);
  strcpy(path, root);
  the_disk.syncing = NONE;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st) < 0) return errno;
  int rc = scan(node_add(fd, &st), path);
  for (int i = 0; i < the_disk.disk.count; i++) image_set_name(&the_disk.live, &the_disk.disk.at[i]);
  return rc;
}

void image_end(void) {
  for (int i = 0; i < the_disk.node_count; i++) syscall(SYS_close, the_disk.nodes[i]->fd);
  the_disk.node_count = the_disk.live.count = the_disk.disk.count = the_disk.op_count = 0;
  for (int i = 0; i < the_disk.text_count; i++) free(the_disk.texts[i]);
  the_disk.text_count = 0;
}

void image_opened(int fd, const char *path, bool made, bool truncated) {
  name at;
  if (!name_at(path, &at)) return;
  if (truncated && at.node != NONE) the_disk.nodes[at.node]->least = 0;
  if (!made) return;
  struct stat st;
  int own = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  if (own < 0 || fstat(fd, &st) < 0) abort();
  op_name(&at, node_add(own, &st));
}

void image_directory_made(const char *path) {
  name at;
  struct stat st;
  if (!name_at(path, &at)) return;
  int own = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (own < 0 || fstat(own, &st) < 0) abort();
  op_name(&at, node_add(own, &st));
}

void image_renamed(const char *from, const char *to, bool exchanged) {
  name a, b;
  if (!name_at(from, &a) || !name_at(to, &b) || a.node == NONE || a.node == b.node) return;
  op *o = op_begin();
  o->set[o->sets++] = (name){a.directory, a.text, exchanged ? b.node : NONE};
  o->set[o->sets++] = (name){b.directory, b.text, a.node};
  o->nodes[0] = a.node;
  o->nodes[1] = b.node;
  op_end(o);
}

void image_linked(const char *from, const char *to) {
  name a, b;
  if (name_at(from, &a) && name_at(to, &b) && a.node != NONE) op_name(&b, a.node);
}

void image_removed(const char *path) {
  name at;
  if (name_at(path, &at) && at.node != NONE) op_name(&at, NONE);
}

void image_truncated(int fd, int64_t size) {
  int i = node_of_descriptor(fd);
  if (i != NONE) the_disk.nodes[i]->least = smaller(the_disk.nodes[i]->least, size);
}

static void sync_file(node *n, const bytes *content, int64_t size) {
  image_use(&n->image, size);
  for (int64_t page = 0; page < pages_of(size); page++)
    if (image_is_dirty(n, content, page)) memcpy(n->image.at + page * PAGE, image_page(content, page), PAGE);
  n->size = n->least = size;
}

void image_syncing(int fd, bool everything) {
  the_disk.syncing = everything ? EVERY : node_of_descriptor(fd);
  if (the_disk.syncing == EVERY)
    for (int i = 0; i < the_disk.node_count; i++)
      the_disk.nodes[i]->size_now = image_read_now(the_disk.nodes[i], &the_disk.nodes[i]->now);
  else if (the_disk.syncing != NONE && !the_disk.nodes[the_disk.syncing]->directory)
    the_disk.synced_size = image_read_now(the_disk.nodes[the_disk.syncing], &the_disk.synced);
}

void image_synced(void) {
  if (the_disk.syncing == EVERY) {
    for (int i = 0; i < the_disk.node_count; i++)
      if (!the_disk.nodes[i]->directory)
        sync_file(the_disk.nodes[i], &the_disk.nodes[i]->now, the_disk.nodes[i]->size_now);
    sync_names(NONE);
  } else if (the_disk.syncing != NONE && the_disk.nodes[the_disk.syncing]->directory) {
    sync_names(the_disk.syncing);
  } else if (the_disk.syncing != NONE) {
    sync_file(the_disk.nodes[the_disk.syncing], &the_disk.synced, the_disk.synced_size);
  }
  the_disk.syncing = NONE;
}

bool image_sync_failed(void) {
  if (the_disk.syncing < 0 || the_disk.nodes[the_disk.syncing]->directory) return false;
  node *n = the_disk.nodes[the_disk.syncing];
  image_use(&n->spoiled, 0);
  image_use(&n->spoiled, the_disk.synced_size);
  memcpy(n->spoiled.at, the_disk.synced.at, (size_t)the_disk.synced_size);
  the_disk.syncing = NONE;
  return true;
}

/* Some pages of one file reach the disk, its size perhaps too. */
static void write_back_file(node *n, int64_t of) {
  if (n->directory) return;
  n->size_now = image_read_now(n, &n->now);
  for (int64_t page = 0; page < pages_of(n->size_now); page++) {
    const uint8_t *now = image_page(&n->now, page);
    if (image_chance(of) != 0 || !image_is_dirty(n, &n->now, page)) continue;
    if (n->image.used < (page + 1) * PAGE) image_use(&n->image, (page + 1) * PAGE);
    memcpy(n->image.at + page * PAGE, now, PAGE);
  }
  if (image_chance(2) && n->size_now > n->size) n->size = n->size_now;
}

void image_write_back(uint64_t seed) {
  the_disk.chance = seed;
  int64_t of = image_chance(2) ? 1 : 3;
  if (image_chance(4) == 0) {
    for (int i = 0; i < the_disk.node_count; i++) write_back_file(the_disk.nodes[i], of);
  } else {
    write_back_file(the_disk.nodes[image_chance(the_disk.node_count)], of);
  }
  if (the_disk.op_count == 0 || image_chance(3) != 0) return;
  int *upto = image_must(malloc((size_t)the_disk.op_count * sizeof *upto));
  image_find_chains();
  for (int i = 0; i < the_disk.op_count; i++) upto[i] = NONE;
  int until = (int)image_chance(the_disk.op_count);
  for (int i = 0; i <= until; i++)
    if (the_disk.ops[i].chain == the_disk.ops[until].chain) upto[the_disk.ops[i].chain] = i;
  settle(upto);
  free(upto);
}
