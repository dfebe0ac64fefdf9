#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_survey.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "ps_segment.h"

#define SUFFIX_STRAY ".tmp"
#define NEXT_NAME "next.tmp" /* the segment to come, made ready: nobody's left-over */

static int64_t changed_ns(const struct stat *st) {
  return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

int64_t ps_survey_changed_ns(const ps_env *env, const char *path) {
  struct stat st;
  int rc = ps_os_stat_at(env, AT_FDCWD, path, &st);
  return rc < 0 ? rc : changed_ns(&st);
}

static ps_status read_head(const ps_env *env, int dirfd, const char *dir, ps_survey *out, ps_slot *slot,
                           bool *known, ps_error *err) {
  _Alignas(8) uint8_t page[PS_HEAD_BYTES];
  *known = false;
  int fd = ps_os_openat(env, dirfd, "head", O_RDONLY, 0);
  if (fd == -ENOENT) {
    out->sound = true; /* never used */
    return PS_OK;
  }
  if (fd < 0) return ps_fail_errno(err, -fd, dir, "opening the head");
  int rc = ps_os_pread_all(env, fd, page, sizeof page, 0);
  ps_os_close(fd);
  if (rc == -ENODATA) return PS_OK; /* not whole */
  if (rc < 0) return ps_fail_errno(err, -rc, dir, "reading the head");
  out->poisoned = ps_head_poison(page) != 0;
  out->deleted = ps_head_deleted(page);
  *known = ps_head_read_slot(page, slot);
  out->log_start = ps_head_log_start(page);
  out->sound = *known && out->log_start >= 0;
  out->log_end = ps_head_log_end(page);
  out->durable = ps_head_durable(page);
  out->files = ps_head_files(page);
  int64_t cleaned = ps_head_cleaned(page), horizon = ps_head_horizon(page);
  out->cleaned = cleaned > 0 ? cleaned : 0;
  if (horizon > 0) out->horizon = horizon;
  return PS_OK;
}

/* The largest timestamp of a finished segment stands in its last 64 bytes. */
static void read_oldest(const ps_env *env, int dirfd, int64_t base, ps_survey *out) {
  char name[PS_SEGMENT_NAME_BYTES];
  ps_segment_ends ends;
  ps_segment_name(base, name);
  (void)ps_segment_read_ends(env, dirfd, name, &ends);
  out->oldest_bytes = (uint64_t)ends.st.st_size;
  if (!ends.sealed) return;
  out->oldest_known = true;
  out->oldest_timestamp =
      ends.seal.max_timestamp != PS_TIMESTAMP_NONE ? ends.seal.max_timestamp : changed_ns(&ends.st);
}

static void read_active(const ps_env *env, int dirfd, const ps_slot *slot, ps_survey *out) {
  char name[PS_SEGMENT_NAME_BYTES];
  uint8_t start[PS_SEGMENT_HEADER_BYTES + PS_FRAME_HEADER_BYTES];
  ps_segment_info info;
  ps_frame_meta meta;
  out->active = slot->segment;
  out->active_bytes = slot->position;
  out->active_frames = slot->frames;
  out->active_timestamp = slot->max_timestamp;
  if (slot->position == PS_SEGMENT_HEADER_BYTES) return;
  ps_segment_name(slot->segment, name);
  int fd = ps_os_openat(env, dirfd, name, O_RDONLY, 0);
  if (fd < 0) return;
  if (ps_os_pread_all(env, fd, start, sizeof start, 0) == 0 &&
      ps_segment_decode_header(start, sizeof start, &info) == PS_OK &&
      ps_frame_decode_header(start + PS_SEGMENT_HEADER_BYTES, PS_SEGMENT_BYTES_MAX, info.salt,
                             PS_SEGMENT_HEADER_BYTES, &meta) == PS_OK)
    out->active_since = meta.first_timestamp > info.created_ns ? meta.first_timestamp : info.created_ns;
  ps_os_close(fd);
}

static bool is_stray(const char *name) {
  size_t length = strlen(name), suffix = sizeof SUFFIX_STRAY - 1;
  return length > suffix && strcmp(name + length - suffix, SUFFIX_STRAY) == 0 && strcmp(name, NEXT_NAME) != 0;
}

/* `active`: of the slot, read first: whatever it names is in the directory by now. */
static void count_segment(const ps_env *env, int dirfd, const char *name, int64_t base, int64_t active,
                          ps_survey *out) {
  struct stat st;
  if (active >= 0 && base > active) return; /* being made */
  out->segments++;
  if (out->first < 0 || base < out->first) {
    out->second = out->first;
    out->first = base;
  } else if (out->second < 0 || base < out->second) {
    out->second = base;
  }
  if (base == active || ps_os_stat_at(env, dirfd, name, &st) < 0) return;
  *(base < out->cleaned ? &out->clean_bytes : &out->dirty_bytes) += (uint64_t)st.st_size;
}

ps_status ps_survey_partition(const ps_env *env, const char *dir, ps_survey *out, ps_error *err) {
  struct stat st;
  ps_slot slot;
  bool known;
  memset(out, 0, sizeof *out);
  out->first = out->second = out->active = -1;
  out->horizon = PS_TIMESTAMP_NONE;
  out->oldest_timestamp = out->active_since = out->active_timestamp = PS_TIMESTAMP_NONE;
  int fd = ps_os_openat(env, AT_FDCWD, dir, O_RDONLY | O_DIRECTORY, 0);
  if (fd == -ENOENT || fd == -ENOTDIR) return ps_fail(err, PS_NOT_FOUND, dir, "there is no such partition");
  if (fd < 0) return ps_fail_errno(err, -fd, dir, "listing a partition");
  DIR *entries = fdopendir(fd);
  if (!entries) {
    int failed = errno;
    ps_os_close(fd);
    return ps_fail_errno(err, failed, dir, "listing a partition");
  }
  /* The time first: what changes from here on is seen by the next look. */
  int rc = ps_os_stat_fd(env, fd, &st);
  ps_status status = rc < 0 ? ps_fail_errno(err, -rc, dir, "looking at a partition")
                            : read_head(env, fd, dir, out, &slot, &known, err);
  if (status == PS_OK) {
    struct dirent *entry;
    out->changed_ns = changed_ns(&st);
    while ((entry = readdir(entries)) != NULL) {
      int64_t base = ps_segment_parse_name(entry->d_name);
      if (base >= 0) count_segment(env, fd, entry->d_name, base, known ? slot.segment : -1, out);
      out->strays += is_stray(entry->d_name);
    }
    if (known) read_active(env, fd, &slot, out);
    if (out->first >= 0 && out->first != out->active) read_oldest(env, fd, out->first, out);
  }
  closedir(entries);
  return status;
}
