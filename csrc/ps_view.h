/* ps_view.h - a partition as somebody sees it who may not write: a disk mounted read-only, or files of which
 * he is not the owner.
 *
 * Such a log has a head of its own, a page in memory, which all reading goes by. The partition's head, mapped
 * for reading, is copied to it, word by word, as far as it can be believed:
 *  - While a process that writes has the store open and has used the partition in this incarnation, the head
 * is its word, and the view follows it.
 *  - Otherwise the head may be older than the files (a power failure, a copy). Then the log is walked as
 *    recovery would, but nothing is written: a torn tail is cut in the view only. The view stands still until
 * a writer comes, recovers, and gives the head its incarnation. The walk is made under a shared append lock,
 * for which reading suffices, so that no writer recovers or truncates meanwhile.
 *
 * Nobody can be woken who cannot write his name into the head, so a view is waited on by looking again and
 * again. */
#ifndef PS_VIEW_H
#define PS_VIEW_H

#include "ps_head.h"
#include "ps_log.h"

typedef struct ps_view {
  const uint8_t *shared;     /* the partition's head; NULL while there is none */
  ps_head_identity identity; /* of the file mapped as `shared` */
  uint64_t incarnation;      /* of `shared`, when it was last believed or walked; 0: never */
  uint64_t generation;       /* counts the times a writer's word was taken anew; atomic */
  bool following;            /* what `shared` says of that incarnation is believed */
  pthread_mutex_t mutex;     /* held to change any of these */
} ps_view;

/* Make log->head and bring it up to date. The log has been allocated for reading only. */
ps_status ps_view_open(ps_log *log, ps_error *err);
void ps_view_free(ps_log *log);
/* Bring log->head up to date with what writers have published since. Any thread; no system call where a
 * writer is followed. */
void ps_view_refresh(ps_log *log);
/* The same, and not as another thread has begun to see it a moment ago. */
void ps_view_refresh_now(ps_log *log);

#endif
