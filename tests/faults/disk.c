/* Libc's calls on files, counted, failed and watched: see disk.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#undef _FORTIFY_SOURCE
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "image.h"
#include "inodes.h"
#include "photo.h"

#define SEEN __attribute__((visibility("default")))
#define DESCRIPTORS_MAX 65536

typedef enum mode { OFF = 0, COUNT, FAIL, KILL, PHOTO } mode;
typedef enum side { UNKNOWN = 0, INSIDE, OUTSIDE } side;

static struct {
  mode mode; /* atomic */
  char root[PATH_MAX];
  size_t root_bytes;
  int64_t calls; /* atomic */
  int64_t nth, times;
  int os_errno;
  uint64_t seed;
  char dest[PATH_MAX];
  uint32_t often;
  uint64_t chance;
  const char *failed;
  char failed_path[PATH_MAX];
} plan;

static const char *spared;
static bool sync_fails;
static ps_disk_handler handler;
static uint64_t boot;
static void *handler_context;
static FILE *trace;
static uint8_t sides[DESCRIPTORS_MAX]; /* of descriptors, where they were opened while armed */
static pthread_mutex_t watching = PTHREAD_MUTEX_INITIALIZER;

static mode armed(void) { return __atomic_load_n(&plan.mode, __ATOMIC_ACQUIRE); }

/* ---- which side of the root -------------------------------------------------------------------- */

/* Without "//", "." and "..". */
static void clean(char *path) {
  char *to = path;
  for (char *from = path; *from;) {
    while (*from == '/') from++;
    size_t bytes = strcspn(from, "/");
    if (bytes == 2 && from[0] == '.' && from[1] == '.') {
      while (to > path && *--to != '/') continue;
    } else if (bytes > 0 && !(bytes == 1 && from[0] == '.')) {
      *to++ = '/';
      memmove(to, from, bytes);
      to += bytes;
    }
    from += bytes;
  }
  if (to == path) *to++ = '/';
  *to = '\0';
}

static bool path_of_descriptor(int fd, char *out) {
  char link[40];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
  if (n < 0) return false;
  out[n] = '\0';
  return true;
}

static bool below_root(const char *path) {
  return strncmp(path, plan.root, plan.root_bytes) == 0 &&
         (path[plan.root_bytes] == '\0' || path[plan.root_bytes] == '/');
}

/* full (PATH_MAX): the whole path, when it is below the root. */
static bool path_inside(int dirfd, const char *path, char *full) {
  if (armed() == OFF || !path) return false;
  size_t bytes = 0;
  if (path[0] != '/') {
    if (dirfd == AT_FDCWD ? syscall(SYS_getcwd, full, PATH_MAX) < 0 : !path_of_descriptor(dirfd, full))
      return false;
    bytes = strlen(full);
    full[bytes++] = '/';
  }
  if (bytes + strlen(path) >= PATH_MAX) return false;
  strcpy(full + bytes, path);
  clean(full);
  return below_root(full);
}

static void note_side(int fd, side side) {
  if (fd >= 0 && fd < DESCRIPTORS_MAX) sides[fd] = (uint8_t)side;
}

static bool descriptor_inside(int fd) {
  char path[PATH_MAX];
  if (armed() == OFF || fd < 0) return false;
  if (fd < DESCRIPTORS_MAX && sides[fd] != UNKNOWN) return sides[fd] == INSIDE;
  return path_of_descriptor(fd, path) && below_root(path);
}

/* ---- counting ------------------------------------------------------------------------------------ */

static void die(void) {
  syscall(SYS_kill, (int)syscall(SYS_getpid), SIGKILL);
  for (;;) syscall(SYS_sched_yield);
}

static const char *relative(const char *path) {
  if (strlen(path) <= plan.root_bytes) return "";
  return path + plan.root_bytes + 1;
}

static uint64_t next_chance(void) {
  uint64_t z = (plan.chance += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

static void tell(int64_t n, const char *name, const char *path, int fd, bool failed) {
  char found[PATH_MAX];
  if (!path) path = fd >= 0 && path_of_descriptor(fd, found) && below_root(found) ? found : plan.root;
  if (trace) {
    fprintf(trace, "%lld %s %s\n", (long long)n, name, relative(path));
    fflush(trace);
  }
  if (failed) strcpy(plan.failed_path, relative(path));
}

/* One more call below the root. The errno with which it is to fail, or 0: then leave() follows. */
static int enter(const char *name, const char *path, int fd) {
  if (armed() == PHOTO) pthread_mutex_lock(&watching);
  int64_t n = __atomic_add_fetch(&plan.calls, 1, __ATOMIC_SEQ_CST);
  int asked = 0;
  bool due = plan.mode == FAIL && n >= plan.nth && (plan.times < 0 || n - plan.nth < plan.times);
  if (due && !(spared && strcmp(name, spared) == 0)) {
    plan.failed = name;
    asked = plan.os_errno;
  }
  if (trace || asked) tell(n, name, path, fd, asked != 0);
  if (plan.mode == KILL && n == plan.nth) die();
  if (plan.mode != PHOTO) return asked;
  if (plan.often && next_chance() % 1024 < plan.often) image_write_back(next_chance());
  if (n == plan.nth) {
    (void)photo_take(plan.dest, plan.seed, trace);
    if (!handler) die();
    handler(handler_context);
  }
  return 0;
}

/* Done; errno stays as the call has left it. */
static void leave(void) {
  if (plan.mode == PHOTO) pthread_mutex_unlock(&watching);
}

static bool watched(long rc) { return rc >= 0 && plan.mode == PHOTO; }

SEEN void ps_disk_spare(const char *name) { spared = name; }

SEEN void ps_disk_moment(const char *name) {
  if (armed() == OFF) return;
  (void)enter(name, NULL, -1);
  leave();
}

/* ---- arming -------------------------------------------------------------------------------------- */

static int parse(const char *text, mode *found) {
  int used = -1;
  long long nth = 0, times = 1;
  unsigned long long seed = 0;
  if (strcmp(text, "count") == 0) {
    *found = COUNT;
    used = 5;
  } else if (sscanf(text, "kill:%lld%n", &nth, &used) == 1) {
    *found = KILL;
  } else if (sscanf(text, "photo:%lld:%llu:%n", &nth, &seed, &used) == 2 && used > 0) {
    *found = PHOTO;
    if (text[used] != '/' || strlen(text + used) >= sizeof plan.dest) return EINVAL;
    strcpy(plan.dest, text + used);
    clean(plan.dest);
    used = (int)strlen(text);
  } else if (sscanf(text, "fail:%lld:%d%n", &nth, &plan.os_errno, &used) == 2) {
    *found = FAIL;
    int more = 0;
    if (sscanf(text + used, ":%lld%n", &times, &more) == 1) used += more;
    if (plan.os_errno <= 0 || times < -1 || times == 0) return EINVAL;
  }
  if (used < 0 || text[used] != '\0' || nth < 0) return EINVAL;
  if (nth == 0 && (*found == KILL || *found == FAIL)) return EINVAL;
  plan.nth = nth;
  plan.times = times;
  plan.seed = seed;
  return 0;
}

SEEN int ps_disk_arm(const char *root, const char *text) {
  ps_disk_disarm();
  memset(&plan, 0, sizeof plan);
  mode found = OFF;
  if (root[0] != '/' || strlen(root) >= sizeof plan.root || parse(text, &found) != 0) return EINVAL;
  strcpy(plan.root, root);
  clean(plan.root);
  plan.root_bytes = strlen(plan.root);
  if (plan.root_bytes == 1 || (found == PHOTO && below_root(plan.dest))) return EINVAL;
  inodes_load(plan.root);
  pthread_mutex_init(&watching, NULL); /* a parent may have held it when this process was forked */
  if (found == PHOTO) {
    int rc = image_begin(plan.root);
    if (rc != 0) return rc;
  }
  __atomic_store_n(&plan.mode, found, __ATOMIC_RELEASE);
  return 0;
}

SEEN void ps_disk_disarm(void) {
  if (armed() == PHOTO) image_end();
  inodes_forget();
  __atomic_store_n(&plan.mode, OFF, __ATOMIC_RELEASE);
  memset(sides, UNKNOWN, sizeof sides);
}

SEEN int64_t ps_disk_calls(void) { return __atomic_load_n(&plan.calls, __ATOMIC_SEQ_CST); }
SEEN const char *ps_disk_failed(void) { return plan.failed ? plan.failed : ""; }
SEEN const char *ps_disk_failed_path(void) { return plan.failed_path; }
SEEN void ps_disk_trace(FILE *out) { trace = out; }
SEEN const char *ps_disk_mood(void) { return photo_mood(); }

SEEN void ps_disk_boot(uint64_t number) { boot = number; }

SEEN void ps_disk_handle(ps_disk_handler wanted, void *context) {
  handler = wanted;
  handler_context = context;
}

SEEN int ps_disk_only_mood(const char *mood) {
  int i = 0;
  while (mood && i < PS_DISK_MOODS && strcmp(ps_disk_moods[i], mood) != 0) i++;
  if (i == PS_DISK_MOODS) return EINVAL;
  photo_only_mood(mood ? i : -1);
  return 0;
}

SEEN int ps_disk_photo(const char *dest, uint64_t seed) {
  if (armed() != PHOTO) return EINVAL;
  pthread_mutex_lock(&watching);
  int rc = photo_take(dest, seed, trace);
  pthread_mutex_unlock(&watching);
  return rc;
}

SEEN void ps_disk_write_back(uint64_t seed) {
  if (armed() != PHOTO) return;
  pthread_mutex_lock(&watching);
  image_write_back(seed);
  pthread_mutex_unlock(&watching);
}

SEEN bool ps_disk_fail_sync(bool fails) { return __atomic_exchange_n(&sync_fails, fails, __ATOMIC_SEQ_CST); }

SEEN void ps_disk_write_back_often(uint32_t often, uint64_t seed) {
  plan.often = often;
  plan.chance = seed;
}

__attribute__((constructor)) static void arm_by_environment(void) {
  const char *text = getenv("PYSTREAM_DISK"), *path = getenv("PYSTREAM_DISK_TRACE");
  if (path) trace = fopen(path, "ae");
  const char *number = getenv("PYSTREAM_DISK_BOOT");
  if (number) boot = strtoull(number, NULL, 10);
  if (!text) return;
  char root[PATH_MAX];
  const char *bar = strrchr(text, '|');
  int rc = EINVAL;
  if (bar && (size_t)(bar - text) < sizeof root) {
    memcpy(root, text, (size_t)(bar - text));
    root[bar - text] = '\0';
    rc = ps_disk_arm(root, bar + 1);
  }
  if (rc == 0) return;
  fprintf(stderr, "PYSTREAM_DISK=%s: %s\n", text, strerror(rc));
  _exit(97);
}

/* ---- names --------------------------------------------------------------------------------------- */

/* One file serves, in turn, for all boots. */
static int open_boot_id(void) {
  static int kept = -1;
  static uint64_t written;
  char text[40];
  if (kept < 0) kept = (int)syscall(SYS_memfd_create, "boot_id", 1u /* MFD_CLOEXEC */);
  if (written == boot) return (int)syscall(SYS_fcntl, kept, F_DUPFD_CLOEXEC, 0);
  int n = snprintf(text, sizeof text, "b0070000-0000-4000-8000-%012llx\n",
                   (unsigned long long)boot & 0xffffffffffffull);
  if (syscall(SYS_pwrite64, kept, text, n, 0) == n) written = boot;
  return (int)syscall(SYS_fcntl, kept, F_DUPFD_CLOEXEC, 0);
}

static int open_counted(const char *name, int dirfd, const char *path, int flags, mode_t bits) {
  if (boot && path && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) return open_boot_id();
  char full[PATH_MAX];
  if (!path_inside(dirfd, path, full)) {
    int fd = (int)syscall(SYS_openat, dirfd, path, flags, bits);
    if (armed() != OFF) note_side(fd, OUTSIDE);
    return fd;
  }
  int asked = enter(name, full, -1);
  if (asked) {
    errno = asked;
    return -1;
  }
  struct stat st;
  bool was_there = plan.mode == PHOTO && flags & O_CREAT && fstatat(dirfd, path, &st, 0) == 0;
  int fd = (int)syscall(SYS_openat, dirfd, path, flags, bits);
  note_side(fd, INSIDE);
  if (watched(fd)) image_opened(fd, full, flags & O_CREAT && !was_there, flags & O_TRUNC);
  leave();
  return fd;
}

static mode_t bits_of(int flags, va_list rest) {
  return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                                 \
  SEEN int name(const char *path, int flags, ...) {                \
    va_list rest;                                                  \
    va_start(rest, flags);                                         \
    mode_t bits = bits_of(flags, rest);                            \
    va_end(rest);                                                  \
    return open_counted("open", AT_FDCWD, path, flags, bits);      \
  }                                                                \
  SEEN int name##at(int dirfd, const char *path, int flags, ...) { \
    va_list rest;                                                  \
    va_start(rest, flags);                                         \
    mode_t bits = bits_of(flags, rest);                            \
    va_end(rest);                                                  \
    return open_counted("open", dirfd, path, flags, bits);         \
  }
OPEN(open)
#define open64at openat64
OPEN(open64)

/* What fortified programs call. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dirfd, const char *path, int flags);
int __openat64_2(int dirfd, const char *path, int flags);
SEEN int __open_2(const char *path, int flags) { return open_counted("open", AT_FDCWD, path, flags, 0); }
SEEN int __open64_2(const char *path, int flags) { return open_counted("open", AT_FDCWD, path, flags, 0); }
SEEN int __openat_2(int dirfd, const char *path, int flags) {
  return open_counted("open", dirfd, path, flags, 0);
}
SEEN int __openat64_2(int dirfd, const char *path, int flags) {
  return open_counted("open", dirfd, path, flags, 0);
}

SEEN int creat(const char *path, mode_t bits) {
  return open_counted("open", AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, bits);
}
SEEN int creat64(const char *path, mode_t bits) { return creat(path, bits); }

SEEN int close(int fd) {
  bool inside = descriptor_inside(fd);
  int asked = inside ? enter("close", NULL, fd) : 0;
  if (armed() != OFF) note_side(fd, UNKNOWN);
  int rc = (int)syscall(SYS_close, fd);
  if (asked) {
    errno = asked;
    return -1;
  }
  if (inside) leave();
  return rc;
}

SEEN int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
  char a[PATH_MAX], b[PATH_MAX];
  bool from_inside = path_inside(from_fd, from, a), to_inside = path_inside(to_fd, to, b);
  if (!from_inside && !to_inside) return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
  int asked = enter("rename", from_inside ? a : b, -1);
  if (asked) {
    errno = asked;
    return -1;
  }
  int rc = (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
  if (watched(rc)) image_renamed(a, b, flags & RENAME_EXCHANGE);
  leave();
  return rc;
}
SEEN int renameat(int from_fd, const char *from, int to_fd, const char *to) {
  return renameat2(from_fd, from, to_fd, to, 0);
}
SEEN int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

SEEN int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
  char a[PATH_MAX], b[PATH_MAX];
  if (!path_inside(to_fd, to, b)) return (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
  int asked = enter("link", b, -1);
  if (asked) {
    errno = asked;
    return -1;
  }
  int rc = (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
  if (watched(rc) && path_inside(from_fd, from, a)) image_linked(a, b);
  leave();
  return rc;
}
SEEN int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

SEEN int unlinkat(int dirfd, const char *path, int flags) {
  char full[PATH_MAX];
  if (!path_inside(dirfd, path, full)) return (int)syscall(SYS_unlinkat, dirfd, path, flags);
  int asked = enter(flags & AT_REMOVEDIR ? "rmdir" : "unlink", full, -1);
  if (asked) {
    errno = asked;
    return -1;
  }
  int rc = (int)syscall(SYS_unlinkat, dirfd, path, flags);
  if (watched(rc)) image_removed(full);
  leave();
  return rc;
}
SEEN int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
SEEN int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

SEEN int mkdirat(int dirfd, const char *path, mode_t bits) {
  char full[PATH_MAX];
  if (!path_inside(dirfd, path, full)) return (int)syscall(SYS_mkdirat, dirfd, path, bits);
  int asked = enter("mkdir", full, -1);
  if (asked) {
    errno = asked;
    return -1;
  }
  int rc = (int)syscall(SYS_mkdirat, dirfd, path, bits);
  if (watched(rc)) image_directory_made(full);
  leave();
  return rc;
}
SEEN int mkdir(const char *path, mode_t bits) { return mkdirat(AT_FDCWD, path, bits); }

/* ---- contents ------------------------------------------------------------------------------------ */

/* A call of type `type` with its arguments on fd, and what the photo is to know of it. */
#define ON_DESCRIPTOR(type, name, fd, call, noted)   \
  do {                                               \
    if (!descriptor_inside(fd)) return (type)(call); \
    int asked_ = enter(name, NULL, fd);              \
    if (asked_) {                                    \
      errno = asked_;                                \
      return -1;                                     \
    }                                                \
    type rc = (type)(call);                          \
    if (watched(rc)) noted;                          \
    leave();                                         \
    return rc;                                       \
  } while (0)
#define NOTHING (void)0

SEEN int ftruncate(int fd, off_t bytes) {
  ON_DESCRIPTOR(int, "ftruncate", fd, syscall(SYS_ftruncate, fd, bytes), image_truncated(fd, bytes));
}
SEEN int ftruncate64(int fd, off64_t bytes) { return ftruncate(fd, bytes); }

SEEN int truncate(const char *path, off_t bytes) {
  char full[PATH_MAX];
  if (!path_inside(AT_FDCWD, path, full)) return (int)syscall(SYS_truncate, path, bytes);
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  int rc = ftruncate(fd, bytes), kept = errno;
  syscall(SYS_close, fd);
  errno = kept;
  return rc;
}
SEEN int truncate64(const char *path, off64_t bytes) { return truncate(path, bytes); }

SEEN int fallocate(int fd, int flags, off_t at, off_t bytes) {
  ON_DESCRIPTOR(int, "fallocate", fd, syscall(SYS_fallocate, fd, flags, at, bytes), NOTHING);
}
SEEN int fallocate64(int fd, int flags, off64_t at, off64_t bytes) { return fallocate(fd, flags, at, bytes); }

SEEN ssize_t write(int fd, const void *data, size_t bytes) {
  ON_DESCRIPTOR(ssize_t, "write", fd, syscall(SYS_write, fd, data, bytes), NOTHING);
}
SEEN ssize_t writev(int fd, const struct iovec *pieces, int count) {
  ON_DESCRIPTOR(ssize_t, "write", fd, syscall(SYS_writev, fd, pieces, count), NOTHING);
}
SEEN ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) {
  ON_DESCRIPTOR(ssize_t, "pwrite", fd, syscall(SYS_pwrite64, fd, data, bytes, at), NOTHING);
}
SEEN ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at) {
  return pwrite(fd, data, bytes, at);
}
SEEN ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t at) {
  ON_DESCRIPTOR(ssize_t, "pwrite", fd, syscall(SYS_pwritev, fd, pieces, count, at, 0L), NOTHING);
}
SEEN ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t at) {
  return pwritev(fd, pieces, count, at);
}
SEEN ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t bytes,
                             unsigned flags) {
  ON_DESCRIPTOR(ssize_t, "copy_file_range", to,
                syscall(SYS_copy_file_range, from, from_at, to, to_at, bytes, flags), NOTHING);
}
SEEN ssize_t sendfile(int to, int from, off_t *at, size_t bytes) {
  ON_DESCRIPTOR(ssize_t, "sendfile", to, syscall(SYS_sendfile, to, from, at, bytes), NOTHING);
}
SEEN ssize_t sendfile64(int to, int from, off64_t *at, size_t bytes) { return sendfile(to, from, at, bytes); }

SEEN ssize_t read(int fd, void *data, size_t bytes) {
  ON_DESCRIPTOR(ssize_t, "read", fd, syscall(SYS_read, fd, data, bytes), NOTHING);
}
SEEN ssize_t readv(int fd, const struct iovec *pieces, int count) {
  ON_DESCRIPTOR(ssize_t, "read", fd, syscall(SYS_readv, fd, pieces, count), NOTHING);
}
SEEN ssize_t pread(int fd, void *data, size_t bytes, off_t at) {
  ON_DESCRIPTOR(ssize_t, "pread", fd, syscall(SYS_pread64, fd, data, bytes, at), NOTHING);
}
SEEN ssize_t pread64(int fd, void *data, size_t bytes, off64_t at) { return pread(fd, data, bytes, at); }
SEEN ssize_t preadv(int fd, const struct iovec *pieces, int count, off_t at) {
  ON_DESCRIPTOR(ssize_t, "pread", fd, syscall(SYS_preadv, fd, pieces, count, at, 0L), NOTHING);
}
SEEN ssize_t preadv64(int fd, const struct iovec *pieces, int count, off64_t at) {
  return preadv(fd, pieces, count, at);
}
ssize_t __read_chk(int fd, void *data, size_t bytes, size_t room);
ssize_t __pread_chk(int fd, void *data, size_t bytes, off_t at, size_t room);
ssize_t __pread64_chk(int fd, void *data, size_t bytes, off64_t at, size_t room);
SEEN ssize_t __read_chk(int fd, void *data, size_t bytes, size_t room) {
  if (bytes > room) abort();
  return read(fd, data, bytes);
}
SEEN ssize_t __pread_chk(int fd, void *data, size_t bytes, off_t at, size_t room) {
  if (bytes > room) abort();
  return pread(fd, data, bytes, at);
}
SEEN ssize_t __pread64_chk(int fd, void *data, size_t bytes, off64_t at, size_t room) {
  if (bytes > room) abort();
  return pread(fd, data, bytes, at);
}

static int sync_counted(const char *name, int fd, long number) {
  if (!descriptor_inside(fd)) return (int)syscall(number, fd);
  int asked = enter(name, NULL, fd);
  if (asked) {
    errno = asked;
    return -1;
  }
  if (plan.mode == PHOTO) image_syncing(fd, number == SYS_syncfs);
  bool fails = plan.mode == PHOTO && sync_fails && image_sync_failed();
  int rc = fails ? -1 : (int)syscall(number, fd);
  if (fails) sync_fails = false;
  if (fails) errno = EIO;
  if (watched(rc)) image_synced();
  leave();
  return rc;
}
SEEN int fsync(int fd) { return sync_counted("fsync", fd, SYS_fsync); }
SEEN int fdatasync(int fd) { return sync_counted("fdatasync", fd, SYS_fdatasync); }
SEEN int syncfs(int fd) { return sync_counted("syncfs", fd, SYS_syncfs); }

SEEN void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t at) {
  bool inside = fd >= 0 && !(flags & MAP_ANONYMOUS) && descriptor_inside(fd);
  int asked = inside ? enter("mmap", NULL, fd) : 0;
  if (asked) {
    errno = asked;
    return MAP_FAILED;
  }
  void *map = (void *)syscall(SYS_mmap, address, bytes, protection, flags, fd, at);
  if (inside) leave();
  return map;
}
SEEN void *mmap64(void *address, size_t bytes, int protection, int flags, int fd, off64_t at) {
  return mmap(address, bytes, protection, flags, fd, at);
}
