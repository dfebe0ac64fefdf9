/* ps_os.h - the one seam through which files, maps, locks and clocks are reached, and the points at
 * which a test can make a call fail or the process die.
 *
 * Every verb takes a ps_env. env->hook, when set, is asked before each verb and at each named point;
 * it returns 0 to go on or an errno to fail with (points ignore the answer), or ends the process.
 * With no hook the cost is one load and one untaken branch. */
#ifndef PS_OS_H
#define PS_OS_H

#include <sys/stat.h>
#include <sys/types.h>

#include "ps_base.h"
#include "ps_hash.h"
#include "ps_status.h"

typedef int (*ps_hook)(void *context, const char *name);

typedef struct ps_env {
  ps_hook hook; /* NULL in normal life */
  void *context;
} ps_env;

static inline int ps_env_ask(const ps_env *env, const char *name) {
  return PS_UNLIKELY(env->hook != NULL) ? env->hook(env->context, name) : 0;
}
/* A named place between two stores where a test may kill the process. */
#define PS_POINT(env, name) ((void)ps_env_ask((env), (name)))

/* A plan the tests arm through the environment or the native module: at the nth time `name` (or any
 * name, when it is "*") is asked, act. Verb names are those of the functions below without ps_os_. */
typedef enum ps_fault_action { PS_FAULT_NONE = 0, PS_FAULT_KILL, PS_FAULT_ERRNO } ps_fault_action;
typedef struct ps_fault_plan {
  char name[64];
  int64_t nth;   /* 1-based */
  int64_t times; /* how many calls fail from then on; kill ignores it */
  int64_t seen;  /* calls counted, atomically */
  ps_fault_action action;
  int os_errno;
} ps_fault_plan;
/* "NAME:NTH:kill" or "NAME:NTH:errno=28[:TIMES]". Returns false when the text is not of that form. */
bool ps_fault_parse(const char *text, ps_fault_plan *plan);
int ps_fault_hook(void *context, const char *name); /* context: ps_fault_plan* */

/* All return 0 (or a value >= 0) or -errno. */
int ps_os_openat(const ps_env *env, int dirfd, const char *path, int flags, mode_t mode);
int ps_os_close(int fd);
int ps_os_stat_fd(const ps_env *env, int fd, struct stat *st);
int ps_os_stat_at(const ps_env *env, int dirfd, const char *path, struct stat *st);
int ps_os_truncate(const ps_env *env, int fd, int64_t bytes);
int ps_os_allocate(const ps_env *env, int fd, int64_t bytes); /* raw fallocate, never emulated */
/* Where, from `at` on, the file has data rather than holes; -ENXIO: nowhere. */
int64_t ps_os_seek_data(const ps_env *env, int fd, int64_t at);
int ps_os_pread_all(const ps_env *env, int fd, void *buffer, size_t bytes, int64_t at);
int ps_os_pwrite_all(const ps_env *env, int fd, const void *buffer, size_t bytes, int64_t at);
int ps_os_pwritev_all(const ps_env *env, int fd, const ps_piece *pieces, size_t count, int64_t at);
int ps_os_sync_data(const ps_env *env, int fd);    /* fdatasync */
int ps_os_sync_derived(const ps_env *env, int fd); /* the same for what can be made anew */
/* Have the kernel begin to write a file out. A hint: promises nothing, and takes no error away from the next
 * sync. */
void ps_os_start_writeback(const ps_env *env, int fd);
/* Bytes of the file system of fd that a user without privileges may still take. */
int ps_os_free_bytes(const ps_env *env, int fd, int64_t *out);
int ps_os_sync_dir(const ps_env *env, int dirfd);
int ps_os_rename(const ps_env *env, int dirfd, const char *from, const char *to);
int ps_os_link(const ps_env *env, int dirfd, const char *from, const char *to); /* a second name */
int ps_os_unlink(const ps_env *env, int dirfd, const char *path);
int ps_os_map(const ps_env *env, int fd, size_t bytes, bool writable, uint8_t **out);
int ps_os_map_memory(size_t bytes, uint8_t **out); /* zeros, of no file */
void ps_os_unmap(void *address, size_t bytes);
/* Memory that is looked into all over: huge pages, where the system gives any. A hint. */
void ps_os_want_huge(void *address, size_t bytes);
/* Whether faults of a map read ahead, as they do at first. Reading ahead of what was never written makes
 * pages that count as data from then on. */
void ps_os_read_ahead(const void *address, size_t bytes, bool wanted);
/* Fault pages in for writing; 0, or -errno that the caller may ignore. */
int ps_os_populate_write(void *address, size_t bytes);

/* Open-file-description locks: they belong to the descriptor, die with the last copy of it, and do not
 * tell threads of one process apart, so each stands behind a mutex. */
int ps_os_lock_try(const ps_env *env, int fd, int64_t at, bool shared); /* -EAGAIN: held elsewhere */
int ps_os_lock_try_range(const ps_env *env, int fd, int64_t at, int64_t bytes, bool shared);
int ps_os_lock_wait(const ps_env *env, int fd, int64_t at, bool shared); /* -EINTR on a signal */
int ps_os_unlock(int fd, int64_t at);
/* Who else has it: 0 nobody, F_RDLCK + 1 some shared, F_WRLCK + 1 one alone. fd may be open for reading only.
 */
int ps_os_lock_look(const ps_env *env, int fd, int64_t at);

int64_t ps_os_now_ns(void);       /* CLOCK_REALTIME */
int64_t ps_os_monotonic_ns(void); /* CLOCK_MONOTONIC */
uint64_t ps_os_random_u64(void);  /* never zero */

/* Sleep; 0, or -EINTR on a signal. */
int ps_os_nap(int64_t ns);
/* Shared futex words in mapped files. wait: 0 woken or changed, -ETIMEDOUT, -EINTR; anything else: this
 * kernel lets nobody sleep on it. */
int ps_os_futex_wait(const void *word, uint32_t seen, int64_t timeout_ns);
void ps_os_futex_wake_all(const void *word);
/* The same for up to 128 words at once; -ENOSYS where the kernel has no futex_waitv. */
#define PS_WAIT_WORDS_MAX 128
int ps_os_futex_wait_many(const void *const *words, const uint32_t *seen, size_t count, int64_t timeout_ns);

/* How records may be stored on the file system that holds fd. */
typedef enum ps_io { PS_IO_AUTO = 0, PS_IO_MAP = 1, PS_IO_PWRITE = 2, PS_IO_REFUSED = 3 } ps_io;
/* AUTO's answer: MAP on ext4, tmpfs and xfs without shared extents, REFUSED on network and user-space
 * file systems, PWRITE on everything else. name (>= 32 bytes) gets a word for messages. */
ps_io ps_os_choose_io(int fd, char *name);
/* Of a file that is empty and will be mapped and stored to, whatever the file system: btrfs is not to write
 * it to another place each time, for which a full disk has no room, and a store no other answer than SIGBUS.
 * Elsewhere it does nothing. */
void ps_os_keep_in_place(int fd);

#endif
