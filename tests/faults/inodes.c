/* Inode numbers that outlive a power failure: see inodes.h. And stat and its kin, which tell them. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "inodes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SEEN __attribute__((visibility("default")))

typedef struct pair {
  uint64_t inode, told;
} pair;
typedef struct pairs {
  pair *at;
  size_t count, room;
} pairs;
static pairs told, written;
static char path[PATH_MAX];

static void add(pairs *to, pair one) {
  if (to->count == to->room) {
    to->room = to->room ? 2 * to->room : 64;
    to->at = realloc(to->at, to->room * sizeof *to->at);
    if (!to->at) abort();
  }
  to->at[to->count++] = one;
}

static int name_of(const char *directory) {
  return snprintf(path, sizeof path, "%s.inodes", directory) < (int)sizeof path ? 0 : ENAMETOOLONG;
}

void inodes_forget(void) { told.count = 0; }

void inodes_load(const char *root) {
  pair some[256];
  inodes_forget();
  if (name_of(root) != 0) return;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  for (ssize_t n; (n = syscall(SYS_read, fd, some, sizeof some)) > 0;)
    for (size_t i = 0; i < (size_t)n / sizeof *some; i++) add(&told, some[i]);
  syscall(SYS_close, fd);
}

uint64_t inodes_told(uint64_t inode) {
  for (size_t i = 0; i < told.count; i++)
    if (told.at[i].inode == inode) return told.at[i].told;
  return inode;
}

void inodes_begin(void) { written.count = 0; }
void inodes_add(uint64_t inode, uint64_t as) { add(&written, (pair){inode, as}); }

int inodes_write(const char *dest) {
  size_t bytes = written.count * sizeof *written.at;
  if (name_of(dest) != 0) return ENAMETOOLONG;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return errno;
  bool whole = syscall(SYS_write, fd, written.at, bytes) == (ssize_t)bytes;
  syscall(SYS_close, fd);
  return whole ? 0 : EIO;
}

static int tell(int rc, struct stat *st) {
  if (rc == 0 && told.count) st->st_ino = inodes_told(st->st_ino);
  return rc;
}

/* One structure serves for both names of each, wherever pointers have 64 bits. */
_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "one kind of stat");

SEEN int fstatat(int dirfd, const char *name, struct stat *st, int flags) {
  return tell((int)syscall(SYS_newfstatat, dirfd, name, st, flags), st);
}
SEEN int fstat(int fd, struct stat *st) { return tell((int)syscall(SYS_fstat, fd, st), st); }
SEEN int stat(const char *name, struct stat *st) { return fstatat(AT_FDCWD, name, st, 0); }
SEEN int lstat(const char *name, struct stat *st) { return fstatat(AT_FDCWD, name, st, AT_SYMLINK_NOFOLLOW); }
SEEN int fstatat64(int dirfd, const char *name, struct stat64 *st, int flags) {
  return fstatat(dirfd, name, (struct stat *)(void *)st, flags);
}
SEEN int fstat64(int fd, struct stat64 *st) { return fstat(fd, (struct stat *)(void *)st); }
SEEN int stat64(const char *name, struct stat64 *st) { return fstatat64(AT_FDCWD, name, st, 0); }
SEEN int lstat64(const char *name, struct stat64 *st) {
  return fstatat64(AT_FDCWD, name, st, AT_SYMLINK_NOFOLLOW);
}
SEEN int statx(int dirfd, const char *restrict name, int flags, unsigned mask, struct statx *restrict st) {
  int rc = (int)syscall(SYS_statx, dirfd, name, flags, mask, st);
  if (rc == 0 && told.count) st->stx_ino = inodes_told(st->stx_ino);
  return rc;
}
