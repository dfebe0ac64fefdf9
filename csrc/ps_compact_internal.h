/* ps_compact_internal.h - what the files behind ps_compact.h share. */
#ifndef PS_COMPACT_INTERNAL_H
#define PS_COMPACT_INTERNAL_H

#include "ps_compact.h"
#include "ps_rewrite.h"

/* Up to where the log is compacted: not below its start, and never more than is durable. */
int64_t ps_compact_cleaned(const ps_log *log, int64_t log_start);
bool ps_compact_is_young(const ps_source *s, int64_t now_ns, int64_t lag_ns);
/* Bases of all segments before the active one, in order, in a malloc'ed array that the caller frees; and that
 * of the active one, where the last of them ends. */
ps_status ps_compact_bases(ps_log *log, int64_t **bases, size_t *count, int64_t *active, ps_error *err);

/* One compaction of a log at a time in a process. False: there is one. */
bool ps_compact_alone(ps_log *log);
void ps_compact_not_alone(ps_log *log);
ps_status ps_compact_fail_busy(const ps_log *log, ps_error *err);
/* ps_compact_sweep for whoever is alone already. */
ps_status ps_compact_sweep_alone(ps_log *log, uint64_t *files, ps_error *err);

#endif
