#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_stats.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "ps_peek.h"

/* A slot that is being written is whole a moment later. */
#define HEAD_READS 5
/* A directory that was changed less than this ago may change again within the grain of its clock. */
#define SETTLED_NS 200000000ll
/* Segments, places in each, and bytes from each place on whose frames tell how well a partition compresses.
 */
#define SAMPLE_SEGMENTS 8u
#define SAMPLE_PLACES 4u
#define SAMPLE_BYTES (32u << 10)
#define BLOCK_BYTES 512u /* of st_blocks, whatever the file system's own are */

void ps_stats_init(ps_stats *s, const ps_env *env, const char *dir) {
  memset(s, 0, sizeof *s);
  s->env = env;
  snprintf(s->dir, sizeof s->dir, "%s", dir);
  s->oldest_at = -1;
}

void ps_stats_free(ps_stats *s) {
  free(s->segments);
  s->segments = NULL;
  s->count = s->room = 0;
}

static int64_t moment(struct timespec t) { return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec; }
static uint64_t blocks(const struct stat *st) { return (uint64_t)st->st_blocks * BLOCK_BYTES; }

/* ---- the head --------------------------------------------------------------------------------- */

static ps_status read_head(ps_stats *s, ps_error *err) {
  _Alignas(8) uint8_t page[PS_HEAD_BYTES];
  char path[sizeof s->dir + 8];
  struct stat st;
  s->identity = PS_UNCHECKED;
  s->has_slot = false;
  snprintf(path, sizeof path, "%s/head", s->dir);
  int fd = ps_os_openat(s->env, AT_FDCWD, path, O_RDONLY, 0);
  if (fd == -ENOENT) return PS_OK;
  if (fd < 0) return ps_fail_errno(err, -fd, path, "opening the head");
  int rc = ps_os_stat_fd(s->env, fd, &st);
  for (int i = 0; rc == 0 && i < HEAD_READS; i++) {
    rc = ps_os_pread_all(s->env, fd, page, sizeof page, 0);
    if (rc == 0) ps_inspect_head(page, &s->head);
    if (rc == 0 && s->head.slot_sound[0] && s->head.slot_sound[1] && s->head.log_start >= 0) break;
  }
  ps_os_close(fd);
  if (rc == -ENODATA) return PS_OK; /* being made */
  if (rc < 0) return ps_fail_errno(err, -rc, path, "reading the head");
  s->identity = s->head.identity;
  s->moved = s->head.who.device != (uint64_t)st.st_dev || s->head.who.inode != (uint64_t)st.st_ino;
  s->has_slot = ps_head_read_slot(page, &s->slot) && s->head.log_start >= 0;
  s->cleaned = ps_head_cleaned(page);
  return PS_OK;
}

/* ---- the directory ---------------------------------------------------------------------------- */

static ps_stats_segment *find(ps_stats *s, int64_t base, size_t *at) {
  size_t low = 0, high = s->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (s->segments[middle].base_offset < base)
      low = middle + 1;
    else
      high = middle;
  }
  *at = low;
  return low < s->count && s->segments[low].base_offset == base ? &s->segments[low] : NULL;
}

static ps_stats_segment *add(ps_stats *s, int64_t base) {
  size_t at;
  ps_stats_segment *found = find(s, base, &at);
  if (found) return found;
  if (s->count == s->room) {
    size_t room = s->room ? s->room * 2 : 4;
    ps_stats_segment *grown = realloc(s->segments, room * sizeof *grown);
    if (!grown) return NULL;
    s->segments = grown;
    s->room = room;
  }
  memmove(s->segments + at + 1, s->segments + at, (s->count - at) * sizeof *s->segments);
  s->count++;
  memset(&s->segments[at], 0, sizeof s->segments[at]);
  s->segments[at].base_offset = base;
  return &s->segments[at];
}

/* Ask for a segment's file and index. What is known of its content stays while it is the same file. */
static ps_status look_at(ps_stats *s, int dirfd, ps_stats_segment *segment, ps_error *err) {
  char name[PS_SEGMENT_NAME_BYTES];
  struct stat st, index;
  ps_segment_name(segment->base_offset, name);
  int rc = ps_os_stat_at(s->env, dirfd, name, &st);
  segment->gone = rc == -ENOENT;
  if (segment->gone) return PS_OK;
  if (rc < 0) return ps_fail_errno(err, -rc, s->dir, "asking for a segment's size");
  bool same = segment->inode == (uint64_t)st.st_ino;
  bool rewritten = segment->has_seal &&
                   (segment->changed_ns != moment(st.st_mtim) || segment->file_bytes != (uint64_t)st.st_size);
  if (!same || rewritten) {
    int64_t base = segment->base_offset;
    memset(segment, 0, sizeof *segment);
    segment->base_offset = base;
    segment->inode = (uint64_t)st.st_ino;
  }
  segment->changed_ns = moment(st.st_mtim);
  segment->file_bytes = (uint64_t)st.st_size;
  segment->disk_bytes = blocks(&st);
  ps_index_name(segment->base_offset, name);
  if (ps_os_stat_at(s->env, dirfd, name, &index) == 0) segment->disk_bytes += blocks(&index);
  return PS_OK;
}

static bool is_index(const char *name) {
  size_t n = strlen(name);
  return n == 26 && strspn(name, "0123456789") == 20 && strcmp(name + 20, ".index") == 0;
}

static ps_status list_directory(ps_stats *s, DIR *dir, ps_error *err) {
  struct dirent *entry;
  s->other_bytes = 0;
  for (size_t i = 0; i < s->count; i++) s->segments[i].gone = true;
  errno = 0;
  while ((entry = readdir(dir)) != NULL) {
    int64_t base = ps_segment_parse_name(entry->d_name);
    struct stat st;
    if (base >= 0) {
      ps_stats_segment *segment = add(s, base);
      if (!segment) return ps_fail(err, PS_NO_MEMORY, s->dir, "listing segments");
      ps_status status = look_at(s, dirfd(dir), segment, err);
      if (status != PS_OK) return status;
    } else if (!is_index(entry->d_name) && entry->d_name[0] != '.' &&
               ps_os_stat_at(s->env, dirfd(dir), entry->d_name, &st) == 0) {
      s->other_bytes += blocks(&st);
    }
    errno = 0;
  }
  if (errno != 0) return ps_fail_errno(err, errno, s->dir, "listing a partition");
  size_t kept = 0;
  for (size_t i = 0; i < s->count; i++)
    if (!s->segments[i].gone) s->segments[kept++] = s->segments[i];
  s->count = kept;
  return PS_OK;
}

static ps_status read_directory(ps_stats *s, ps_error *err) {
  struct stat st;
  int asked = ps_env_ask(s->env, "readdir");
  int fd = asked ? -asked : ps_os_openat(s->env, AT_FDCWD, s->dir, O_RDONLY | O_DIRECTORY, 0);
  if (fd == -ENOENT || fd == -ENOTDIR) return PS_NOT_FOUND;
  if (fd < 0) return ps_fail_errno(err, -fd, s->dir, "listing a partition");
  int rc = ps_os_stat_fd(s->env, fd, &st);
  if (rc < 0) {
    ps_os_close(fd);
    return ps_fail_errno(err, -rc, s->dir, "listing a partition");
  }
  int64_t changed = moment(st.st_mtim);
  if (s->listed && s->listed_ns == changed && s->directory_inode == (uint64_t)st.st_ino) {
    ps_status status = PS_OK; /* the active one, and one that a roll may just have cut to its size */
    for (size_t i = s->count > 2 ? s->count - 2 : 0; i < s->count && status == PS_OK; i++)
      status = look_at(s, fd, &s->segments[i], err);
    ps_os_close(fd);
    return status;
  }
  int64_t now = ps_os_now_ns();
  s->listed = false;
  DIR *dir = fdopendir(fd); /* takes the descriptor */
  if (!dir) {
    ps_os_close(fd);
    return ps_fail_errno(err, errno, s->dir, "listing a partition");
  }
  ps_status status = list_directory(s, dir, err);
  closedir(dir);
  s->listed = status == PS_OK && now - changed > SETTLED_NS;
  s->listed_ns = changed;
  s->directory_inode = (uint64_t)st.st_ino;
  return status;
}

/* ---- frames ----------------------------------------------------------------------------------- */

/* PS_NOT_FOUND: its file is gone. PS_CORRUPT: its header is no such segment's. No error is filled for them.
 */
static ps_status open_peek(ps_stats *s, ps_stats_segment *segment, ps_peek *p, ps_error *err) {
  ps_status status = ps_peek_open(p, s->env, s->dir, segment->base_offset, segment->used_bytes, err);
  segment->gone = segment->gone || status == PS_NOT_FOUND;
  segment->damaged = segment->damaged || status == PS_CORRUPT;
  if (status == PS_OK) {
    if (segment->salt && segment->salt != p->salt) { /* swapped for another since it was looked at */
      segment->has_seal = false;
      segment->sampled_at = segment->summed_to = 0;
    }
    segment->salt = p->salt;
  }
  return status;
}

/* A position at or before the frame that holds `offset`. */
static uint64_t place_before(ps_stats *s, const ps_stats_segment *segment, int64_t offset) {
  ps_peek_index x;
  ps_index_entry entry;
  uint64_t position = PS_SEGMENT_HEADER_BYTES;
  if (offset <= segment->base_offset ||
      !ps_peek_open_index(&x, s->env, s->dir, segment->base_offset, segment->salt))
    return position;
  uint32_t low = 0, high = x.capacity; /* entries that are not there yet stand behind all that are */
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (ps_peek_entry(&x, middle, &entry) && entry.offset <= offset) {
      position = entry.position;
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  ps_peek_close_index(&x);
  return position;
}

/* ---- one segment ------------------------------------------------------------------------------ */

static bool is_active(const ps_stats *s, const ps_stats_segment *segment) {
  return s->has_slot && segment->base_offset == s->slot.segment;
}

/* A finished segment's seal. Without one (it is being cut to its size, or damaged), nothing is known of it.
 */
static ps_status read_seal(ps_stats *s, ps_stats_segment *segment, ps_error *err) {
  ps_peek r;
  if (segment->has_seal || segment->gone || segment->damaged || is_active(s, segment)) return PS_OK;
  ps_status status = open_peek(s, segment, &r, err);
  if (status != PS_OK) return status == PS_OS_ERROR ? status : PS_OK;
  uint64_t at = segment->file_bytes - PS_SEAL_BYTES;
  if (segment->file_bytes >= PS_SEGMENT_HEADER_BYTES + PS_SEAL_BYTES && at % PS_ALIGN == 0 &&
      ps_os_pread_all(s->env, r.fd, r.chunk, PS_SEAL_BYTES, (int64_t)at) == 0)
    segment->has_seal = ps_seal_decode(r.chunk, PS_SEAL_BYTES, r.salt, at, &segment->seal) == PS_OK;
  ps_peek_close(&r);
  return PS_OK;
}

static ps_status sample(ps_stats *s, ps_stats_segment *segment, ps_error *err) {
  ps_peek r;
  ps_peek_index x;
  ps_frame_meta meta;
  if (segment->gone || segment->damaged) return PS_OK;
  /* Of one that grows, again when it has grown by a quarter. */
  if (segment->sampled_at && segment->used_bytes < segment->sampled_at + segment->sampled_at / 4)
    return PS_OK;
  ps_status status = open_peek(s, segment, &r, err);
  if (status != PS_OK) return status == PS_OS_ERROR ? status : PS_OK;
  segment->sampled_at = segment->used_bytes;
  segment->sample_stored = segment->sample_raw = 0;
  bool indexed = ps_peek_open_index(&x, s->env, s->dir, segment->base_offset, segment->salt);
  for (uint32_t i = 0; i < SAMPLE_PLACES; i++) {
    ps_index_entry entry = {.position = PS_SEGMENT_HEADER_BYTES};
    if (i > 0) {
      if (!indexed) break;
      uint32_t at = (uint32_t)((uint64_t)x.capacity * i / SAMPLE_PLACES);
      while (at > 0 && (!ps_peek_entry(&x, at, &entry) || entry.position >= r.used)) at /= 2;
      if (at == 0) continue;
    }
    uint64_t at = entry.position, end = at + SAMPLE_BYTES;
    while (at < end && ps_peek_frame(&r, at, &meta) == PS_OK) {
      segment->sample_stored += meta.frame_bytes;
      segment->sample_raw += ps_peek_raw_bytes(&meta);
      at += meta.frame_bytes;
    }
  }
  if (indexed) ps_peek_close_index(&x);
  ps_peek_close(&r);
  return PS_OK;
}

/* Go on with the sums over its frames, up to the high watermark. */
static ps_status sum(ps_stats *s, ps_stats_segment *segment, ps_error *err) {
  ps_peek r;
  ps_frame_meta meta;
  if (segment->gone || segment->damaged) return PS_OK;
  if (segment->summed_to && segment->summed_to + PS_FRAME_HEADER_BYTES > segment->used_bytes &&
      segment->summed_to <= segment->used_bytes)
    return PS_OK;
  ps_status status = open_peek(s, segment, &r, err);
  if (status != PS_OK) return status == PS_OS_ERROR ? status : PS_OK;
  if (!segment->summed_to || segment->summed_to > segment->used_bytes) {
    segment->summed_to = PS_SEGMENT_HEADER_BYTES;
    segment->summed_offset = segment->base_offset;
    segment->records = segment->stored = segment->raw = 0;
  }
  while ((status = ps_peek_frame(&r, segment->summed_to, &meta)) == PS_OK) {
    if (ps_frame_next_offset(&meta) > s->head.watermark) break;
    segment->records += meta.record_count;
    segment->stored += meta.frame_bytes;
    segment->raw += ps_peek_raw_bytes(&meta);
    segment->summed_to += meta.frame_bytes;
    segment->summed_offset = ps_frame_next_offset(&meta);
  }
  ps_peek_close(&r);
  if (status == PS_OS_ERROR) return ps_fail_errno(err, EIO, s->dir, "reading a segment");
  return PS_OK;
}

/* Records of the first segment that lie below `offset`. Of a batch that it divides, those are counted that
 * would be there without gaps. */
static ps_status count_below(ps_stats *s, ps_stats_segment *segment, int64_t offset, uint64_t *records,
                             ps_error *err) {
  ps_peek r;
  ps_frame_meta meta;
  *records = 0;
  if (offset <= segment->base_offset || segment->gone || segment->damaged) return PS_OK;
  ps_status status = open_peek(s, segment, &r, err);
  if (status != PS_OK) return status == PS_OS_ERROR ? status : PS_OK;
  uint64_t at = PS_SEGMENT_HEADER_BYTES;
  while (ps_peek_frame(&r, at, &meta) == PS_OK && meta.base_offset < offset) {
    uint64_t below = (uint64_t)(offset - meta.base_offset);
    *records += below < meta.record_count ? below : meta.record_count;
    at += meta.frame_bytes;
  }
  ps_peek_close(&r);
  return PS_OK;
}

ps_status ps_stats_timestamp(ps_stats *s, int64_t offset, int64_t *timestamp, ps_error *err) {
  size_t i;
  ps_peek r;
  ps_frame_meta meta;
  if (!s->has_slot || offset >= s->head.watermark) return PS_END;
  if (!find(s, offset, &i) && i > 0) i--;
  for (; i < s->count && s->segments[i].base_offset <= s->slot.segment; i++) {
    ps_stats_segment *segment = &s->segments[i];
    if (segment->gone || segment->damaged || segment->stale) continue;
    ps_status status = open_peek(s, segment, &r, err);
    if (status == PS_OS_ERROR) return status;
    if (status != PS_OK) continue;
    uint64_t at = place_before(s, segment, offset);
    while ((status = ps_peek_frame(&r, at, &meta)) == PS_OK && meta.base_offset < s->head.watermark) {
      if (meta.record_count > 0 && ps_frame_next_offset(&meta) > offset) {
        ps_peek_close(&r);
        *timestamp = meta.first_timestamp;
        return PS_OK;
      }
      at += meta.frame_bytes;
    }
    ps_peek_close(&r);
    if (status == PS_OS_ERROR) return ps_fail_errno(err, EIO, s->dir, "reading a segment");
  }
  return PS_END;
}

/* ---- the partition ---------------------------------------------------------------------------- */

/* Segments from `first` on count; those before lie wholly below the log start, and those behind `end` are
 * being made. */
static void bounds(ps_stats *s, size_t *first, size_t *end) {
  *first = 0;
  *end = 0;
  while (*end < s->count && s->segments[*end].base_offset <= s->slot.segment) ++*end;
  for (size_t i = 0; i + 1 < *end; i++)
    if (s->segments[i + 1].base_offset <= s->head.log_start) *first = i + 1;
}

/* What a merge has left over when its process died: a segment that begins before the one ahead of it ends. */
static ps_status mark_stale(ps_stats *s, size_t end, ps_error *err) {
  int64_t reached = -1;
  for (size_t i = 0; i < end; i++) {
    ps_status status = read_seal(s, &s->segments[i], err);
    if (status != PS_OK) return status;
    s->segments[i].stale = s->segments[i].base_offset < reached;
    if (!s->segments[i].stale && s->segments[i].has_seal) reached = s->segments[i].seal.end_offset;
  }
  return PS_OK;
}

static bool counts(const ps_stats_segment *segment) { return !segment->gone && !segment->stale; }

/* When its last record was written; where no record says, its file. INT64_MAX: not known. */
static ps_status last_written(ps_stats *s, ps_stats_segment *segment, int64_t *at, ps_error *err) {
  bool active = is_active(s, segment);
  ps_status status = active ? PS_OK : read_seal(s, segment, err);
  bool known = active ? s->slot.frames > 0 : segment->has_seal;
  *at = active ? s->slot.max_timestamp : segment->seal.max_timestamp;
  if (*at == PS_TIMESTAMP_NONE) *at = segment->changed_ns;
  if (!known) *at = INT64_MAX;
  return status;
}

/* Bytes that go with the next pass of retention: whole segments from the oldest on, as ps_retain.c decides.
 */
static ps_status count_expired(ps_stats *s, size_t first, size_t end, const ps_stats_wanted *wanted,
                               uint64_t stored, uint64_t *out, ps_error *err) {
  for (size_t i = first; i < end && (wanted->counts_expired || wanted->bytes_max >= 0); i++) {
    ps_stats_segment *segment = &s->segments[i];
    if (!counts(segment)) continue;
    int64_t newest = INT64_MAX;
    ps_status status = wanted->counts_expired ? last_written(s, segment, &newest, err) : PS_OK;
    if (status != PS_OK) return status;
    bool old = wanted->counts_expired && newest < wanted->min_timestamp;
    bool many = wanted->bytes_max >= 0 && !is_active(s, segment) &&
                stored >= segment->used_bytes + (uint64_t)wanted->bytes_max;
    if (!old && !many) break;
    *out += segment->disk_bytes;
    stored -= segment->used_bytes;
  }
  return PS_OK;
}

static ps_status find_times(ps_stats *s, size_t first, size_t end, ps_stats_sizes *out, ps_error *err) {
  ps_status status = PS_OK;
  if (s->head.log_start >= s->head.watermark) return PS_OK;
  if (s->oldest_at != s->head.log_start || s->oldest == PS_TIMESTAMP_NONE) {
    status = ps_stats_timestamp(s, s->head.log_start, &s->oldest, err);
    if (status != PS_OK && status != PS_END) return status;
    if (status == PS_END) s->oldest = PS_TIMESTAMP_NONE;
    s->oldest_at = s->head.log_start;
  }
  out->oldest = s->oldest;
  out->newest = s->slot.frames > 0 ? s->slot.max_timestamp : PS_TIMESTAMP_NONE;
  for (size_t i = end; i-- > first && out->newest == PS_TIMESTAMP_NONE;) {
    if (!counts(&s->segments[i]) || is_active(s, &s->segments[i])) continue;
    status = read_seal(s, &s->segments[i], err);
    if (status != PS_OK) return status;
    if (s->segments[i].has_seal) out->newest = s->segments[i].seal.max_timestamp;
  }
  return PS_OK;
}

static ps_status estimate(ps_stats *s, size_t first, size_t end, ps_stats_sizes *out, ps_error *err) {
  size_t stride = (end - first + SAMPLE_SEGMENTS - 1) / SAMPLE_SEGMENTS;
  uint64_t stored = 0, raw = 0;
  for (size_t i = first; i < end; i++) {
    ps_stats_segment *segment = &s->segments[i];
    if (!counts(segment) || ((i - first) % stride != 0 && i + 1 != end)) continue;
    ps_status status = sample(s, segment, err);
    if (status != PS_OK) return status;
    stored += segment->sample_stored;
    raw += segment->sample_raw;
  }
  out->raw_bytes =
      stored ? (uint64_t)((double)out->stored_bytes * (double)raw / (double)stored + 0.5) : out->stored_bytes;
  return PS_OK;
}

static ps_status count_all(ps_stats *s, size_t first, size_t end, ps_stats_sizes *out, ps_error *err) {
  uint64_t records = 0, stored = 0, raw = 0, below = 0;
  out->is_exact = true;
  for (size_t i = first; i < end; i++) {
    ps_stats_segment *segment = &s->segments[i];
    if (!counts(segment)) continue;
    ps_status status = sum(s, segment, err);
    if (status == PS_OK && i == first) status = count_below(s, segment, s->head.log_start, &below, err);
    if (status != PS_OK) return status;
    int64_t to = i + 1 < end ? s->segments[i + 1].base_offset : s->head.watermark;
    if (to > s->head.watermark) to = s->head.watermark;
    out->is_exact = out->is_exact && !segment->damaged && segment->summed_offset >= to;
    records += segment->records;
    stored += segment->stored;
    raw += segment->raw;
  }
  if (!out->is_exact) return estimate(s, first, end, out, err);
  out->records = (int64_t)(records - below);
  out->raw_bytes = out->stored_bytes - stored + raw;
  return PS_OK;
}

ps_status ps_stats_measure(ps_stats *s, const ps_stats_wanted *wanted, ps_stats_sizes *out, ps_error *err) {
  memset(out, 0, sizeof *out);
  out->oldest = out->newest = PS_TIMESTAMP_NONE;
  /* The head first: what its slot names, and all before that, is in the directory by then. */
  ps_status status = read_head(s, err);
  if (status == PS_OK) status = read_directory(s, err);
  if (status != PS_OK) return status;
  out->disk_bytes = s->other_bytes;
  for (size_t i = 0; i < s->count; i++) {
    ps_stats_segment *segment = &s->segments[i];
    out->disk_bytes += segment->gone ? 0 : segment->disk_bytes;
    segment->used_bytes = is_active(s, segment) ? s->slot.position : segment->file_bytes;
  }
  if (s->identity != PS_SOUND || s->moved || !s->has_slot) return PS_OK;
  out->log_start = s->head.log_start;
  out->high_watermark = s->head.watermark > s->head.log_start ? s->head.watermark : s->head.log_start;
  out->log_end = s->slot.log_end;
  out->durable = s->head.durable;
  out->records = out->high_watermark - out->log_start;
  size_t first, end;
  bounds(s, &first, &end);
  if (wanted->compacted) status = mark_stale(s, end, err);
  for (size_t i = 0; i < end; i++) {
    const ps_stats_segment *segment = &s->segments[i];
    if (i < first || segment->stale) out->reclaimable_bytes += segment->gone ? 0 : segment->disk_bytes;
    if (i < first || !counts(segment)) continue;
    out->segments++;
    out->stored_bytes += segment->used_bytes;
    int64_t after = i + 1 < end ? s->segments[i + 1].base_offset : INT64_MAX;
    if (wanted->compacted && !is_active(s, segment) && after > s->cleaned)
      out->dirty_bytes += segment->used_bytes;
  }
  if (status == PS_OK)
    status = count_expired(s, first, end, wanted, out->stored_bytes, &out->reclaimable_bytes, err);
  if (status == PS_OK) status = find_times(s, first, end, out, err);
  if (status == PS_OK)
    status = wanted->exact ? count_all(s, first, end, out, err) : estimate(s, first, end, out, err);
  for (size_t i = first; i < end; i++) out->damaged += s->segments[i].damaged;
  return status;
}
