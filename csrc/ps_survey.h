/* ps_survey.h - what a partition's directory holds and what its head says, in a few system calls: for
 * maintenance, which decides by it whether there is anything to do before it opens a log. Nothing is locked,
 * mapped or written. What it says is advice: whoever acts looks again under the partition's locks. */
#ifndef PS_SURVEY_H
#define PS_SURVEY_H

#include "ps_head.h"
#include "ps_os.h"

typedef struct ps_survey {
  int64_t changed_ns; /* when a file of the directory was last made, renamed or removed */
  uint64_t files;     /* the head's word for the same */
  bool sound;         /* the head is; what follows of it is only known then */
  bool poisoned, deleted;
  int64_t log_start, log_end, durable;
  int64_t cleaned;                      /* 0: nothing was ever compacted */
  int64_t horizon;                      /* when the first tombstone may go, PS_TIMESTAMP_NONE: none waits */
  uint64_t segments;                    /* the active one included */
  int64_t first;                        /* base offset of the first segment, -1: there is none */
  int64_t second;                       /* of the one after it, -1 */
  int64_t active;                       /* of the one that is written to, -1 */
  uint64_t clean_bytes, dirty_bytes;    /* of finished segments, below `cleaned` and from there on */
  uint64_t active_bytes, active_frames; /* of the active one, as far as it is written */
  uint64_t oldest_bytes;                /* of the first segment, if it is finished */
  bool oldest_known;                    /* and has a sound seal */
  int64_t oldest_timestamp;             /* the largest in it; where none is, its file's */
  int64_t active_since;                 /* when the active one was begun, or is said to have been */
  int64_t active_timestamp;             /* the largest in it */
  uint64_t strays;                      /* files of a maker of segments, perhaps a dead one */
} ps_survey;

/* PS_NOT_FOUND: there is no such directory. A partition that was never used is sound, with no segments. */
ps_status ps_survey_partition(const ps_env *env, const char *dir, ps_survey *out, ps_error *err);

/* When a file or directory of that path last changed, in ns; -errno. */
int64_t ps_survey_changed_ns(const ps_env *env, const char *path);

#endif
