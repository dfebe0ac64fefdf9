/* ps_status.h - what a kernel answers. A status says what kind of thing went wrong; a ps_error says
 * where. Kernels fill the error only when they do not return PS_OK. One function in the layer above
 * turns both into an exception. */
#ifndef PS_STATUS_H
#define PS_STATUS_H

#include <stdint.h>

typedef enum ps_status {
  PS_OK = 0,
  PS_END,       /* nothing (yet) to read at this place: not an error */
  PS_OS_ERROR,  /* a system call failed: os_errno says how */
  PS_NO_MEMORY, /* the process's own allocator had none */
  PS_CORRUPT,   /* stored bytes are not what was written */
  PS_VERSION,   /* written by a version, or with features, this code does not know */
  PS_POISONED,  /* an earlier write or sync failed: reopen the store */
  PS_DELETED,   /* the topic was deleted */
  PS_FORKED,    /* the handle belongs to the process this one was forked from */
  PS_CLOSED,
  PS_TOO_LARGE,    /* a record or batch exceeds a limit */
  PS_INVALID,      /* a caller's argument cannot be stored */
  PS_TIMEOUT,      /* a lock or wait did not end in time */
  PS_READ_ONLY,    /* the store was opened for reading */
  PS_HELD,         /* somebody holds the partition for exclusive writing */
  PS_INTERRUPTED,  /* a wait was ended by a signal */
  PS_OUT_OF_RANGE, /* an offset below the log start or beyond the log end */
  PS_NOT_FOUND
} ps_status;

typedef struct ps_error {
  ps_status status;
  int os_errno;
  int64_t offset;   /* record offset, or -1 */
  int64_t segment;  /* base offset of the segment, or -1 */
  int64_t position; /* byte position in the segment, or -1 */
  char what[160];   /* one clause, no path, no trailing stop */
  char path[512];   /* file concerned, or empty */
} ps_error;

/* Fill *err (may be NULL) and return status, so that `return ps_fail(...)` reads well. */
ps_status ps_fail(ps_error *err, ps_status status, const char *path, const char *what);
/* The same for a failed system call: keeps errno. */
ps_status ps_fail_errno(ps_error *err, int os_errno, const char *path, const char *what);
/* The same for damage, with its place. */
ps_status ps_fail_corrupt(ps_error *err, const char *path, int64_t segment, int64_t position, int64_t offset,
                          const char *what);

#endif
