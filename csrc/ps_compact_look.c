/* What there is to compact, and what interrupted compactions have left. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "ps_compact_internal.h"
#include "ps_retain.h"

/* ---- what there is to do ------------------------------------------------------------------------ */

/* Up to where the log is compacted: not below its start, and never more than is durable. */
int64_t ps_compact_cleaned(const ps_log *log, int64_t log_start) {
  int64_t cleaned = ps_head_cleaned(log->head), durable = ps_head_durable(log->head);
  if (cleaned > durable) cleaned = durable;
  return cleaned < log_start ? log_start : cleaned;
}

bool ps_compact_is_young(const ps_source *s, int64_t now_ns, int64_t lag_ns) {
  return lag_ns > 0 && s->max_timestamp != PS_TIMESTAMP_NONE && s->max_timestamp > now_ns - lag_ns;
}

ps_status ps_compact_bases(ps_log *log, int64_t **bases, size_t *count, int64_t *active, ps_error *err) {
  ps_slot slot;
  if (!ps_head_read_slot(log->head, &slot))
    return ps_fail_corrupt(err, log->dir, -1, -1, -1, "both log-end slots of the head are damaged");
  ps_status status = ps_table_scan(log, err);
  if (status == PS_OK) status = ps_table_bases(log, bases, count, err);
  if (status != PS_OK) return status;
  while (*count > 0 && (*bases)[*count - 1] >= slot.segment) --*count;
  *active = slot.segment;
  return PS_OK;
}

static uint64_t file_bytes(ps_log *log, int64_t base) {
  char name[PS_SEGMENT_NAME_BYTES], path[512];
  struct stat st;
  ps_segment_name(base, name);
  ps_log_path(log, name, path);
  return ps_os_stat_at(log->env, AT_FDCWD, path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

ps_status ps_compact_look(ps_log *log, int64_t now_ns, int64_t lag_ns, ps_compactable *out, ps_error *err) {
  memset(out, 0, sizeof *out);
  ps_status status = ps_log_check(log, err);
  if (status != PS_OK) return status;
  int64_t *bases = NULL, active, log_start = ps_log_start_offset(log), durable = ps_head_durable(log->head);
  size_t count = 0;
  status = ps_compact_bases(log, &bases, &count, &active, err);
  if (status != PS_OK) return ps_log_explain(log, status, err);
  out->cleaned = ps_compact_cleaned(log, log_start);
  for (size_t i = 0; i < count; i++) {
    int64_t next = i + 1 < count ? bases[i + 1] : active;
    if (next <= log_start) continue;
    if (next <= out->cleaned) {
      out->clean_bytes += file_bytes(log, bases[i]);
      continue;
    }
    ps_source s;
    ps_error ignored; /* a pass that comes to it says what is wrong with it */
    if (ps_source_read(log, bases[i], &s, &ignored) != PS_OK || s.end > durable) break;
    if (s.end <= out->cleaned)
      out->clean_bytes += s.bytes;
    else if (ps_compact_is_young(&s, now_ns, lag_ns))
      break;
    else
      out->dirty_bytes += s.bytes;
  }
  free(bases);
  uint64_t all = out->dirty_bytes + out->clean_bytes;
  out->ratio = all ? (double)out->dirty_bytes / (double)all : 0;
  int64_t horizon = ps_head_horizon(log->head);
  out->due = horizon > 0 && horizon <= now_ns && out->clean_bytes > 0;
  return PS_OK;
}

/* ---- what others have left ---------------------------------------------------------------------- */

/* compact.PID.tmp and compact.PID.index.tmp of processes that are no more. */
static uint64_t sweep_temporary(ps_log *log) {
  uint64_t files = 0;
  DIR *dir = opendir(log->dir);
  struct dirent *entry;
  while (dir && (entry = readdir(dir)) != NULL) {
    size_t length = strlen(entry->d_name);
    int pid;
    if (sscanf(entry->d_name, "compact.%d.", &pid) != 1 || pid <= 0 || length > 60) continue;
    if (length < 4 || strcmp(entry->d_name + length - 4, ".tmp") != 0) continue;
    if (pid != (int)getpid() && (kill(pid, 0) == 0 || errno != ESRCH)) continue;
    char path[512];
    ps_log_path(log, entry->d_name, path);
    files += ps_os_unlink(log->env, AT_FDCWD, path) == 0;
  }
  if (dir) closedir(dir);
  return files;
}

static ps_status sweep_locked(ps_log *log, uint64_t *files, ps_error *err) {
  int64_t *bases = NULL, active, end = INT64_MIN;
  size_t count = 0;
  ps_status status = ps_log_check_place(log, err);
  if (status == PS_OK) *files += sweep_temporary(log);
  if (status == PS_OK) status = ps_compact_bases(log, &bases, &count, &active, err);
  uint64_t unlinked = 0;
  for (size_t i = 0; i < count && status == PS_OK; i++) {
    ps_source s;
    ps_error ignored; /* what cannot be read is damaged, and stays */
    if (ps_source_read(log, bases[i], &s, &ignored) != PS_OK) {
      if (bases[i] < end) break; /* and so do those after it: C1 */
      continue;
    }
    if (s.base < end && s.end <= end) {
      ps_log_files_changing(log);
      status = ps_rewrite_unlink(log, s.base, err);
      unlinked += status == PS_OK;
    }
    if (s.end > end) end = s.end;
  }
  free(bases);
  if (ps_head_files_changing(log->head)) ps_log_files_changed(log);
  *files += unlinked;
  return status;
}

bool ps_compact_alone(ps_log *log) { return !__atomic_exchange_n(&log->compacting, true, __ATOMIC_ACQ_REL); }
void ps_compact_not_alone(ps_log *log) { __atomic_store_n(&log->compacting, false, __ATOMIC_RELEASE); }

ps_status ps_compact_fail_busy(const ps_log *log, ps_error *err) {
  return ps_fail(err, PS_HELD, log->dir, "a compaction of the partition is under way in this process");
}

/* log->compacting is the caller's. */
ps_status ps_compact_sweep_alone(ps_log *log, uint64_t *files, ps_error *err) {
  *files = 0;
  ps_status status = ps_log_check_writable(log, err);
  if (status == PS_OK) status = ps_log_lock_maintain(log, PS_MAINTAIN_WAIT_NS, err);
  if (status != PS_OK) return status;
  status = sweep_locked(log, files, err);
  ps_log_unlock_maintain(log);
  if (*files) ps_log_trim(log);
  return ps_log_explain(log, status, err);
}

ps_status ps_compact_sweep(ps_log *log, uint64_t *files, ps_error *err) {
  *files = 0;
  if (!ps_compact_alone(log)) return ps_compact_fail_busy(log, err);
  ps_status status = ps_compact_sweep_alone(log, files, err);
  ps_compact_not_alone(log);
  return status;
}
