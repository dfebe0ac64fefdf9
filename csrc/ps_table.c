#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>

#include "ps_log_internal.h"

void ps_log_path(const ps_log *log, const char *name, char out[512]) {
  snprintf(out, 512, "%s/%s", log->dir, name);
}

/* Index of the first entry with base_offset >= base. */
static size_t lower_bound(const ps_log *log, int64_t base) {
  size_t low = 0, high = log->table_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (log->table[middle].base_offset < base)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static ps_status insert(ps_log *log, int64_t base, ps_error *err) {
  size_t i = lower_bound(log, base);
  if (i < log->table_count && log->table[i].base_offset == base) return PS_OK;
  if (log->table_count == log->table_room) {
    size_t room = log->table_room ? log->table_room * 2 : 8;
    ps_table_entry *grown = realloc(log->table, room * sizeof *grown);
    if (!grown) return ps_fail(err, PS_NO_MEMORY, log->dir, "listing segments");
    log->table = grown;
    log->table_room = room;
  }
  memmove(log->table + i + 1, log->table + i, (log->table_count - i) * sizeof *log->table);
  log->table[i] = (ps_table_entry){base, NULL};
  log->table_count++;
  return PS_OK;
}

static ps_status scan_locked(ps_log *log, ps_error *err) {
  ps_slot slot; /* read first: what it names and all before it is in the directory by then */
  bool known = ps_head_read_slot(log->head, &slot);
  int asked = ps_env_ask(log->env, "readdir");
  DIR *dir = asked ? NULL : opendir(log->dir);
  if (!dir && !asked && errno == ENOENT && log->options.read_only) return PS_OK; /* nobody has made it yet */
  if (!dir) return ps_fail_errno(err, asked ? asked : errno, log->dir, "listing a partition");
  ps_status status = PS_OK;
  struct dirent *entry;
  errno = 0;
  while (status == PS_OK && (entry = readdir(dir)) != NULL) {
    int64_t base = ps_segment_parse_name(entry->d_name);
    if (base >= 0) status = insert(log, base, err);
    errno = 0;
  }
  /* Half a listing must not pass for the whole: recovery would end the log there. */
  if (status == PS_OK && errno != 0) status = ps_fail_errno(err, errno, log->dir, "listing a partition");
  closedir(dir);
  if (status == PS_OK && known) log->table_complete = slot.segment;
  return status;
}

ps_status ps_table_scan(ps_log *log, ps_error *err) {
  pthread_mutex_lock(&log->table_mutex);
  ps_status status = scan_locked(log, err);
  pthread_mutex_unlock(&log->table_mutex);
  return status;
}

static ps_status open_entry(ps_log *log, size_t i, ps_segment **out, ps_error *err) {
  ps_table_entry *entry = &log->table[i];
  if (!entry->segment) {
    ps_segment *segment;
    ps_status status = ps_segment_open(log->env, log->dir, entry->base_offset, &segment, err);
    if (status != PS_OK) return status;
    if (memcmp(segment->topic_uuid, log->options.topic_uuid, 16) != 0 ||
        segment->partition != log->options.partition) {
      status = ps_fail_corrupt(err, segment->path, entry->base_offset, 0, entry->base_offset,
                               "the segment belongs to another topic or partition");
      ps_segment_unref(segment);
      return status;
    }
    ps_error ignored; /* an index that cannot be read costs speed only */
    (void)ps_index_open(log->env, log->dir, segment, false, false, log->options.index_interval_bytes,
                        &ignored);
    entry->segment = segment;
  }
  ps_segment_ref(entry->segment);
  *out = entry->segment;
  return PS_OK;
}

ps_status ps_table_at(ps_log *log, int64_t base_offset, ps_segment **out, ps_error *err) {
  pthread_mutex_lock(&log->table_mutex);
  size_t count = log->table_count;
  ps_status status = insert(log, base_offset, err);
  bool added = log->table_count > count;
  if (status == PS_OK) status = open_entry(log, lower_bound(log, base_offset), out, err);
  if (status == PS_NOT_FOUND || (status != PS_OK && added)) { /* there is no such file, or nobody knows */
    size_t i = lower_bound(log, base_offset);
    memmove(log->table + i, log->table + i + 1, (log->table_count - i - 1) * sizeof *log->table);
    log->table_count--;
  }
  pthread_mutex_unlock(&log->table_mutex);
  return status;
}

/* Another process may have rolled on since the directory was read. That the table ends with the active
 * segment is not enough: whoever went straight to it has passed by those in between. */
static ps_status refresh_locked(ps_log *log, ps_error *err) {
  ps_slot slot;
  if (ps_head_read_slot(log->head, &slot) && slot.segment == log->table_complete) return PS_OK;
  return scan_locked(log, err);
}

ps_status ps_table_refresh(ps_log *log, ps_error *err) {
  pthread_mutex_lock(&log->table_mutex);
  ps_status status = refresh_locked(log, err);
  pthread_mutex_unlock(&log->table_mutex);
  return status;
}

ps_status ps_table_holding(ps_log *log, int64_t offset, ps_segment **out, ps_error *err) {
  pthread_mutex_lock(&log->table_mutex);
  size_t n = log->table_count;
  /* Never read: somebody may have gone straight to a segment further on. */
  bool unknown = n == 0 || log->table[n - 1].base_offset <= offset || log->table_complete < 0;
  ps_status status = unknown ? refresh_locked(log, err) : PS_OK;
  if (status == PS_OK) {
    size_t i = lower_bound(log, offset);
    if (i == log->table_count || log->table[i].base_offset > offset) i--; /* wraps when there is none */
    status = i < log->table_count ? open_entry(log, i, out, err) : PS_NOT_FOUND;
    if (status == PS_NOT_FOUND) /* callers ask for offsets the log has: its file is gone */
      status = ps_fail_corrupt(err, log->dir, -1, -1, offset, "the segment that holds the offset is missing");
  }
  pthread_mutex_unlock(&log->table_mutex);
  return status;
}

void ps_table_forget(ps_log *log) {
  pthread_mutex_lock(&log->table_mutex);
  for (size_t i = 0; i < log->table_count; i++) ps_segment_unref(log->table[i].segment);
  log->table_count = 0;
  log->table_complete = -1;
  log->active = NULL;
  pthread_mutex_unlock(&log->table_mutex);
}

ps_status ps_table_bases(ps_log *log, int64_t **bases, size_t *count, ps_error *err) {
  pthread_mutex_lock(&log->table_mutex);
  ps_status status = PS_OK;
  *count = log->table_count;
  *bases = malloc((log->table_count + 1) * sizeof **bases);
  if (!*bases)
    status = ps_fail(err, PS_NO_MEMORY, log->dir, "listing segments");
  else
    for (size_t i = 0; i < log->table_count; i++) (*bases)[i] = log->table[i].base_offset;
  pthread_mutex_unlock(&log->table_mutex);
  return status;
}
