#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define ASK(env, name)                            \
  do {                                            \
    int asked_ = ps_env_ask((env), (name));       \
    if (PS_UNLIKELY(asked_ != 0)) return -asked_; \
  } while (0)

/* POSIX knows no EAGAIN of a regular file, but btrfs answers so at times where it is nearly full. */
#define AGAIN_MAX 50
#define AGAIN_NS 1000000

/* Whether to make a call that failed once more: after a signal, and for some time where the kernel asks for
 * it. */
static bool is_again(int *times) {
  if (errno == EINTR) return true;
  if (errno != EAGAIN || ++*times > AGAIN_MAX) return false;
  ps_os_nap(AGAIN_NS);
  return true;
}

int ps_os_openat(const ps_env *env, int dirfd, const char *path, int flags, mode_t mode) {
  ASK(env, "openat");
  int fd;
  do fd = openat(dirfd, path, flags | O_CLOEXEC, mode);
  while (fd < 0 && errno == EINTR);
  return fd < 0 ? -errno : fd;
}

int ps_os_close(int fd) { return close(fd) < 0 ? -errno : 0; }

int ps_os_stat_fd(const ps_env *env, int fd, struct stat *st) {
  ASK(env, "stat");
  return fstat(fd, st) < 0 ? -errno : 0;
}

int ps_os_stat_at(const ps_env *env, int dirfd, const char *path, struct stat *st) {
  ASK(env, "stat");
  return fstatat(dirfd, path, st, 0) < 0 ? -errno : 0;
}

int ps_os_truncate(const ps_env *env, int fd, int64_t bytes) {
  ASK(env, "truncate");
  int rc;
  do rc = ftruncate(fd, bytes);
  while (rc < 0 && errno == EINTR);
  return rc < 0 ? -errno : 0;
}

int ps_os_allocate(const ps_env *env, int fd, int64_t bytes) {
  ASK(env, "allocate");
  int rc, times = 0;
  do rc = fallocate(fd, 0, 0, bytes);
  while (rc < 0 && is_again(&times));
  return rc < 0 ? -errno : 0;
}

int64_t ps_os_seek_data(const ps_env *env, int fd, int64_t at) {
  ASK(env, "seek_data");
  off_t found = lseek(fd, at, SEEK_DATA);
  return found < 0 ? -errno : found;
}

int ps_os_pread_all(const ps_env *env, int fd, void *buffer, size_t bytes, int64_t at) {
  ASK(env, "pread");
  uint8_t *p = buffer;
  while (bytes > 0) {
    ssize_t n = pread(fd, p, bytes, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -errno;
    if (n == 0) return -ENODATA; /* the file ends before the range does */
    p += n;
    bytes -= (size_t)n;
    at += n;
  }
  return 0;
}

int ps_os_pwrite_all(const ps_env *env, int fd, const void *buffer, size_t bytes, int64_t at) {
  ps_piece piece = {buffer, bytes};
  return ps_os_pwritev_all(env, fd, &piece, 1, at);
}

int ps_os_pwritev_all(const ps_env *env, int fd, const ps_piece *pieces, size_t count, int64_t at) {
  ASK(env, "pwrite");
  struct iovec iov[64];
  PS_ASSERT(count <= 64);
  size_t n = 0;
  for (size_t i = 0; i < count; i++) {
    if (pieces[i].bytes == 0) continue;
    iov[n].iov_base = (void *)pieces[i].data;
    iov[n].iov_len = pieces[i].bytes;
    n++;
  }
  struct iovec *next = iov;
  int times = 0;
  while (n > 0) {
    ssize_t wrote = pwritev(fd, next, (int)n, at);
    if (wrote < 0 && is_again(&times)) continue;
    if (wrote < 0) return -errno;
    at += wrote;
    while (n > 0 && (size_t)wrote >= next->iov_len) {
      wrote -= (ssize_t)next->iov_len;
      next++;
      n--;
    }
    if (n > 0) {
      next->iov_base = (uint8_t *)next->iov_base + wrote;
      next->iov_len -= (size_t)wrote;
    }
  }
  return 0;
}

int ps_os_sync_data(const ps_env *env, int fd) {
  ASK(env, "sync");
  return fdatasync(fd) < 0 ? -errno : 0; /* never retried: a second answer proves nothing */
}

int ps_os_sync_derived(const ps_env *env, int fd) {
  ASK(env, "sync_derived");
  return fdatasync(fd) < 0 ? -errno : 0;
}

void ps_os_start_writeback(const ps_env *env, int fd) {
  if (ps_env_ask(env, "writeback") != 0) return;
  (void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

int ps_os_free_bytes(const ps_env *env, int fd, int64_t *out) {
  ASK(env, "statfs");
  struct statfs fs;
  if (fstatfs(fd, &fs) < 0) return -errno;
  *out = (int64_t)fs.f_bavail * (int64_t)fs.f_bsize;
  return 0;
}

int ps_os_sync_dir(const ps_env *env, int dirfd) {
  ASK(env, "sync_dir");
  return fsync(dirfd) < 0 ? -errno : 0;
}

int ps_os_rename(const ps_env *env, int dirfd, const char *from, const char *to) {
  ASK(env, "rename");
  return renameat(dirfd, from, dirfd, to) < 0 ? -errno : 0;
}

int ps_os_link(const ps_env *env, int dirfd, const char *from, const char *to) {
  ASK(env, "link");
  return linkat(dirfd, from, dirfd, to, 0) < 0 ? -errno : 0;
}

int ps_os_unlink(const ps_env *env, int dirfd, const char *path) {
  ASK(env, "unlink");
  return unlinkat(dirfd, path, 0) < 0 ? -errno : 0;
}

int ps_os_map(const ps_env *env, int fd, size_t bytes, bool writable, uint8_t **out) {
  ASK(env, "map");
  void *p = mmap(NULL, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) return -errno;
  *out = p;
  return 0;
}

int ps_os_map_memory(size_t bytes, uint8_t **out) {
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return -errno;
  *out = p;
  return 0;
}

void ps_os_want_huge(void *address, size_t bytes) {
  uintptr_t start = ps_align_up((uintptr_t)address, 4096),
            end = ((uintptr_t)address + bytes) & ~(uintptr_t)4095;
  if (end > start) (void)madvise((void *)start, end - start, MADV_HUGEPAGE);
}

void ps_os_unmap(void *address, size_t bytes) {
  if (address) munmap(address, bytes);
}

void ps_os_read_ahead(const void *address, size_t bytes, bool wanted) {
  (void)madvise((void *)(uintptr_t)address, bytes, wanted ? MADV_NORMAL : MADV_RANDOM);
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

int ps_os_populate_write(void *address, size_t bytes) {
  return madvise(address, bytes, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
}

static int lock_call(int fd, int command, short type, int64_t at, int64_t bytes) {
  struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = bytes};
  return fcntl(fd, command, &range) < 0 ? -errno : 0;
}

int ps_os_lock_try_range(const ps_env *env, int fd, int64_t at, int64_t bytes, bool shared) {
  ASK(env, "lock");
  int rc = lock_call(fd, F_OFD_SETLK, shared ? F_RDLCK : F_WRLCK, at, bytes);
  return rc == -EACCES ? -EAGAIN : rc;
}

int ps_os_lock_try(const ps_env *env, int fd, int64_t at, bool shared) {
  return ps_os_lock_try_range(env, fd, at, 1, shared);
}

int ps_os_lock_wait(const ps_env *env, int fd, int64_t at, bool shared) {
  ASK(env, "lock");
  return lock_call(fd, F_OFD_SETLKW, shared ? F_RDLCK : F_WRLCK, at, 1);
}

int ps_os_unlock(int fd, int64_t at) { return lock_call(fd, F_OFD_SETLK, F_UNLCK, at, 1); }

int ps_os_lock_look(const ps_env *env, int fd, int64_t at) {
  ASK(env, "lock");
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
  if (fcntl(fd, F_OFD_GETLK, &lock) < 0) return -errno;
  return lock.l_type == F_UNLCK ? 0 : lock.l_type + 1;
}

static int64_t clock_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t ps_os_now_ns(void) { return clock_ns(CLOCK_REALTIME); }
int64_t ps_os_monotonic_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

uint64_t ps_os_random_u64(void) {
  uint64_t v = 0;
  while (v == 0) {
    if (getrandom(&v, sizeof v, 0) != (ssize_t)sizeof v)
      v = (uint64_t)ps_os_now_ns() * 0x9e3779b97f4a7c15ull ^ (uint64_t)getpid() << 32 ^ (uintptr_t)&v;
  }
  return v;
}

int ps_os_nap(int64_t ns) {
  struct timespec t = {ns / 1000000000, ns % 1000000000};
  return nanosleep(&t, NULL) < 0 ? -errno : 0;
}

int ps_os_futex_wait(const void *word, uint32_t seen, int64_t timeout_ns) {
  struct timespec t = {timeout_ns / 1000000000, timeout_ns % 1000000000};
  long rc = syscall(SYS_futex, word, FUTEX_WAIT, seen, timeout_ns < 0 ? NULL : &t, NULL, 0);
  if (rc == 0 || errno == EAGAIN) return 0;
  return -errno;
}

void ps_os_futex_wake_all(const void *word) { syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0); }

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449 /* the same number on every architecture */
#endif

/* The kernel's struct futex_waitv, spelt out because older headers lack it. */
struct waitv {
  uint64_t value;
  uint64_t address;
  uint32_t flags;
  uint32_t reserved;
};
#define WAITV_SIZE_32 2u /* FUTEX_32 */

int ps_os_futex_wait_many(const void *const *words, const uint32_t *seen, size_t count, int64_t timeout_ns) {
  struct waitv waits[PS_WAIT_WORDS_MAX];
  if (count == 0 || count > PS_WAIT_WORDS_MAX) return -EINVAL;
  for (size_t i = 0; i < count; i++)
    waits[i] = (struct waitv){seen[i], (uint64_t)(uintptr_t)words[i], WAITV_SIZE_32, 0};
  struct timespec deadline, *until = NULL;
  if (timeout_ns >= 0) { /* unlike FUTEX_WAIT, the time is absolute */
    int64_t at = ps_os_monotonic_ns() + timeout_ns;
    deadline = (struct timespec){at / 1000000000, at % 1000000000};
    until = &deadline;
  }
  long rc = syscall(SYS_futex_waitv, waits, (unsigned)count, 0, until, CLOCK_MONOTONIC);
  if (rc >= 0 || errno == EAGAIN) return 0;
  return -errno;
}

/* Magic numbers of statfs(2); linux/magic.h lacks some of them. */
#define FS_EXT 0xEF53
#define FS_TMPFS 0x01021994
#define FS_XFS 0x58465342
#define FS_BTRFS 0x9123683E
#define FS_OVERLAY 0x794c7630
#define FS_NFS 0x6969
#define FS_SMB 0x517B
#define FS_SMB2 0xFE534D42
#define FS_CIFS 0xFF534D42
#define FS_FUSE 0x65735546
#define FS_9P 0x01021997
#define FS_CEPH 0x00C36400
#define FS_AFS 0x5346414F
#define FS_GFS2 0x01161970
#define FS_OCFS2 0x7461636f
#define FS_LUSTRE 0x0BD00BD0

/* True when any extent of the file is shared, or the file system does not say. */
static bool extents_shared(int fd) {
  uint64_t room[(sizeof(struct fiemap) + 64 * sizeof(struct fiemap_extent)) / 8 + 1];
  uint64_t at = 0;
  for (;;) {
    struct fiemap *map = (struct fiemap *)room;
    memset(room, 0, sizeof room);
    map->fm_start = at;
    map->fm_length = FIEMAP_MAX_OFFSET - at;
    map->fm_extent_count = 64;
    if (ioctl(fd, FS_IOC_FIEMAP, map) < 0) return true;
    if (map->fm_mapped_extents == 0) return false;
    for (uint32_t i = 0; i < map->fm_mapped_extents; i++) {
      if (map->fm_extents[i].fe_flags & FIEMAP_EXTENT_SHARED) return true;
      if (map->fm_extents[i].fe_flags & FIEMAP_EXTENT_LAST) return false;
      at = map->fm_extents[i].fe_logical + map->fm_extents[i].fe_length;
    }
  }
}

void ps_os_keep_in_place(int fd) {
  int flags;
  if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0) return;
  flags |= FS_NOCOW_FL;
  (void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

ps_io ps_os_choose_io(int fd, char *name) {
  struct statfs fs;
  struct stat st;
  if (fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0) {
    snprintf(name, 32, "unknown");
    return PS_IO_PWRITE;
  }
  static const struct {
    uint32_t type;
    ps_io io;
    const char *name;
  } known[] = {
      {FS_EXT, PS_IO_MAP, "ext4"},
      {FS_TMPFS, PS_IO_MAP, "tmpfs"},
      {FS_XFS, PS_IO_MAP, "xfs"},
      {FS_BTRFS, PS_IO_PWRITE, "btrfs"},
      {FS_OVERLAY, PS_IO_PWRITE, "overlay"},
      {FS_NFS, PS_IO_REFUSED, "nfs"},
      {FS_SMB, PS_IO_REFUSED, "smb"},
      {FS_SMB2, PS_IO_REFUSED, "smb2"},
      {FS_CIFS, PS_IO_REFUSED, "cifs"},
      {FS_FUSE, PS_IO_REFUSED, "fuse"},
      {FS_9P, PS_IO_REFUSED, "9p"},
      {FS_CEPH, PS_IO_REFUSED, "ceph"},
      {FS_AFS, PS_IO_REFUSED, "afs"},
      {FS_GFS2, PS_IO_REFUSED, "gfs2"},
      {FS_OCFS2, PS_IO_REFUSED, "ocfs2"},
      {FS_LUSTRE, PS_IO_REFUSED, "lustre"},
  };
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    if ((uint32_t)fs.f_type != known[i].type) continue;
    snprintf(name, 32, "%s", known[i].name);
    if (known[i].type == FS_XFS && S_ISREG(st.st_mode) && extents_shared(fd)) return PS_IO_PWRITE;
    return known[i].io;
  }
  snprintf(name, 32, "0x%x", (unsigned)fs.f_type);
  return PS_IO_PWRITE;
}
