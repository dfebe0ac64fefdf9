#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

void ps_segment_name(int64_t base_offset, char out[PS_SEGMENT_NAME_BYTES]) {
  snprintf(out, PS_SEGMENT_NAME_BYTES, "%020" PRId64 ".log", base_offset);
}

void ps_index_name(int64_t base_offset, char out[PS_SEGMENT_NAME_BYTES]) {
  snprintf(out, PS_SEGMENT_NAME_BYTES, "%020" PRId64 ".index", base_offset);
}

int64_t ps_segment_parse_name(const char *name) {
  if (strlen(name) != 24 || strcmp(name + 20, ".log") != 0) return -1;
  int64_t base = 0;
  for (int i = 0; i < 20; i++) {
    if (name[i] < '0' || name[i] > '9') return -1;
    if (__builtin_mul_overflow(base, 10, &base) || __builtin_add_overflow(base, name[i] - '0', &base))
      return -1;
  }
  return base;
}

void ps_segment_encode_header(const ps_segment_info *info, uint8_t out[PS_SEGMENT_HEADER_BYTES]) {
  memset(out, 0, PS_SEGMENT_HEADER_BYTES);
  ps_store_u64(out + PS_SEG_MAGIC_OFF, PS_SEGMENT_MAGIC);
  ps_store_u32(out + PS_SEG_VERSION_OFF, PS_FORMAT_VERSION);
  ps_store_u32(out + PS_SEG_HEADER_LEN_OFF, PS_SEGMENT_HEADER_BYTES);
  ps_store_u64(out + PS_SEG_INCOMPAT_OFF, 0);
  ps_store_u64(out + PS_SEG_COMPAT_OFF, 0);
  ps_store_i64(out + PS_SEG_BASE_OFFSET_OFF, info->base_offset);
  memcpy(out + PS_SEG_TOPIC_UUID_OFF, info->topic_uuid, 16);
  ps_store_u64(out + PS_SEG_SALT_OFF, info->salt);
  ps_store_i64(out + PS_SEG_CREATED_OFF, info->created_ns);
  ps_store_i32(out + PS_SEG_EPOCH_OFF, info->leader_epoch);
  ps_store_u32(out + PS_SEG_PARTITION_OFF, info->partition);
  ps_store_u32(out + PS_SEG_CAPACITY_OFF, info->capacity);
  ps_store_u64(out + PS_SEG_CHECKSUM_OFF, ps_hash(out, PS_SEG_CHECKSUM_OFF));
}

static bool all_zero(const uint8_t *p, size_t bytes) {
  for (size_t i = 0; i < bytes; i++)
    if (p[i]) return false;
  return true;
}

ps_status ps_segment_decode_header(const uint8_t *p, uint64_t limit, ps_segment_info *info) {
  if (limit < PS_SEGMENT_HEADER_BYTES) return PS_CORRUPT;
  if (ps_load_u64(p + PS_SEG_MAGIC_OFF) != PS_SEGMENT_MAGIC) return PS_CORRUPT;
  if (ps_load_u64(p + PS_SEG_CHECKSUM_OFF) != ps_hash(p, PS_SEG_CHECKSUM_OFF)) return PS_CORRUPT;
  if (ps_load_u32(p + PS_SEG_VERSION_OFF) != PS_FORMAT_VERSION) return PS_VERSION;
  if (ps_load_u64(p + PS_SEG_INCOMPAT_OFF) & ~PS_INCOMPAT_KNOWN) return PS_VERSION;
  if (ps_load_u32(p + PS_SEG_HEADER_LEN_OFF) != PS_SEGMENT_HEADER_BYTES) return PS_CORRUPT;
  if (!all_zero(p + PS_SEG_RESERVED_OFF, PS_SEG_CHECKSUM_OFF - PS_SEG_RESERVED_OFF)) return PS_CORRUPT;
  info->base_offset = ps_load_i64(p + PS_SEG_BASE_OFFSET_OFF);
  memcpy(info->topic_uuid, p + PS_SEG_TOPIC_UUID_OFF, 16);
  info->salt = ps_load_u64(p + PS_SEG_SALT_OFF);
  info->created_ns = ps_load_i64(p + PS_SEG_CREATED_OFF);
  info->leader_epoch = ps_load_i32(p + PS_SEG_EPOCH_OFF);
  info->partition = ps_load_u32(p + PS_SEG_PARTITION_OFF);
  info->capacity = ps_load_u32(p + PS_SEG_CAPACITY_OFF);
  if (info->base_offset < 0 || info->salt == 0 || info->leader_epoch < 0) return PS_CORRUPT;
  if (info->capacity < PS_SEGMENT_BYTES_MIN || info->capacity > PS_SEGMENT_BYTES_MAX || info->capacity % 4096)
    return PS_CORRUPT;
  return PS_OK;
}

static uint64_t seal_checksum(const uint8_t *p, uint64_t salt, uint64_t position) {
  uint8_t copy[PS_SEAL_BYTES];
  memcpy(copy, p, PS_SEAL_BYTES);
  ps_store_u64(copy + PS_SEAL_CHECKSUM_OFF, 0);
  return ps_hash_seeded(copy, PS_SEAL_BYTES, salt ^ position * 0x9e3779b97f4a7c15ull);
}

void ps_seal_encode(const ps_seal *seal, uint64_t salt, uint64_t position, uint8_t out[PS_SEAL_BYTES]) {
  memset(out, 0, PS_SEAL_BYTES);
  ps_store_u32(out + PS_SEAL_MAGIC_OFF, PS_SEAL_MAGIC32);
  ps_store_u32(out + PS_SEAL_LEN_OFF, PS_SEAL_BYTES);
  ps_store_i64(out + PS_SEAL_END_OFFSET_OFF, seal->end_offset);
  ps_store_u64(out + PS_SEAL_FRAMES_OFF, seal->frames);
  ps_store_i64(out + PS_SEAL_MAX_TIMESTAMP_OFF, seal->max_timestamp);
  ps_store_u64(out + PS_SEAL_CHECKSUM_OFF, seal_checksum(out, salt, position));
}

ps_status ps_seal_decode(const uint8_t *p, uint64_t limit, uint64_t salt, uint64_t position, ps_seal *out) {
  if (limit < PS_SEAL_BYTES || ps_load_u32(p + PS_SEAL_MAGIC_OFF) != PS_SEAL_MAGIC32) return PS_END;
  if (ps_load_u64(p + PS_SEAL_CHECKSUM_OFF) != seal_checksum(p, salt, position)) return PS_CORRUPT;
  if (ps_load_u32(p + PS_SEAL_LEN_OFF) != PS_SEAL_BYTES) return PS_CORRUPT;
  if (!all_zero(p + PS_SEAL_RESERVED_OFF, PS_SEAL_BYTES - PS_SEAL_RESERVED_OFF)) return PS_CORRUPT;
  out->end_offset = ps_load_i64(p + PS_SEAL_END_OFFSET_OFF);
  out->frames = ps_load_u64(p + PS_SEAL_FRAMES_OFF);
  out->max_timestamp = ps_load_i64(p + PS_SEAL_MAX_TIMESTAMP_OFF);
  return PS_OK;
}

int ps_segment_read_ends(const ps_env *env, int dirfd, const char *path, ps_segment_ends *out) {
  uint8_t header[PS_SEGMENT_HEADER_BYTES], last[PS_SEAL_BYTES];
  memset(out, 0, sizeof *out);
  int fd = ps_os_openat(env, dirfd, path, O_RDONLY, 0);
  if (fd < 0) return fd;
  int rc = ps_os_stat_fd(env, fd, &out->st);
  if (rc == 0) rc = ps_os_pread_all(env, fd, header, sizeof header, 0);
  out->whole = rc == 0 && ps_segment_decode_header(header, sizeof header, &out->info) == PS_OK;
  int64_t position = out->st.st_size - (int64_t)sizeof last;
  if (out->whole && position >= (int64_t)sizeof header && position % PS_ALIGN == 0) {
    rc = ps_os_pread_all(env, fd, last, sizeof last, position);
    out->sealed =
        rc == 0 && ps_seal_decode(last, sizeof last, out->info.salt, (uint64_t)position, &out->seal) == PS_OK;
  }
  ps_os_close(fd);
  return rc == -ENODATA ? 0 : rc;
}

static ps_status read_header(const ps_env *env, int fd, ps_segment *segment, uint64_t size, ps_error *err) {
  uint8_t header[PS_SEGMENT_HEADER_BYTES];
  ps_segment_info info;
  int rc = ps_os_pread_all(env, fd, header, sizeof header, 0);
  if (rc == -ENODATA)
    return ps_fail_corrupt(err, segment->path, segment->base_offset, 0, segment->base_offset,
                           "the segment ends inside its header");
  if (rc < 0) return ps_fail_errno(err, -rc, segment->path, "reading the segment header");
  ps_status status = ps_segment_decode_header(header, sizeof header, &info);
  if (status == PS_VERSION)
    return ps_fail(err, status, segment->path,
                   "the segment was written by a newer format version or feature");
  if (status != PS_OK || info.base_offset != segment->base_offset)
    return ps_fail_corrupt(err, segment->path, segment->base_offset, 0, segment->base_offset,
                           "the segment header is damaged");
  segment->salt = info.salt;
  segment->leader_epoch = info.leader_epoch;
  segment->partition = info.partition;
  segment->capacity = info.capacity;
  segment->created_ns = info.created_ns;
  memcpy(segment->topic_uuid, info.topic_uuid, 16);
  segment->readable = size < info.capacity ? size : info.capacity;
  segment->verified_end = PS_SEGMENT_HEADER_BYTES;
  return PS_OK;
}

static size_t verified_pieces(const ps_segment *segment) {
  return segment->capacity / PS_ALIGN / PS_VERIFIED_BITS + 1;
}

void ps_segment_set_verified(ps_segment *segment, uint64_t position, uint64_t bytes) {
  uint64_t end = position;
  if (__atomic_compare_exchange_n(&segment->verified_end, &end, position + bytes, false, __ATOMIC_ACQ_REL,
                                  __ATOMIC_ACQUIRE) ||
      end > position)
    return;
  uint64_t bit = position / PS_ALIGN, **place = &segment->verified[bit / PS_VERIFIED_BITS];
  uint64_t *piece = __atomic_load_n(place, __ATOMIC_ACQUIRE);
  if (PS_UNLIKELY(!piece)) {
    uint64_t *made = calloc(PS_VERIFIED_BITS / 64, sizeof *made);
    if (!made) return;
    bool first = __atomic_compare_exchange_n(place, &piece, made, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    if (first)
      piece = made;
    else
      free(made); /* another thread's is there */
  }
  bit %= PS_VERIFIED_BITS;
  __atomic_fetch_or(&piece[bit >> 6], 1ull << (bit & 63), __ATOMIC_RELAXED);
}

ps_status ps_segment_open(const ps_env *env, const char *dir, int64_t base_offset, ps_segment **out,
                          ps_error *err) {
  char name[PS_SEGMENT_NAME_BYTES];
  ps_segment_name(base_offset, name);
  ps_segment *segment = calloc(1, sizeof *segment);
  if (!segment) return ps_fail(err, PS_NO_MEMORY, dir, "opening a segment");
  segment->refs = 1;
  segment->fd = segment->index_fd = -1;
  segment->base_offset = base_offset;
  snprintf(segment->path, sizeof segment->path, "%s/%s", dir, name);
  int fd = ps_os_openat(env, AT_FDCWD, segment->path, O_RDONLY, 0);
  if (fd < 0) {
    ps_status status = fd == -ENOENT ? ps_fail(err, PS_NOT_FOUND, segment->path, "no such segment")
                                     : ps_fail_errno(err, -fd, segment->path, "opening a segment");
    free(segment);
    return status;
  }
  struct stat st;
  ps_status status;
  int rc = ps_os_stat_fd(env, fd, &st);
  if (rc < 0)
    status = ps_fail_errno(err, -rc, segment->path, "looking at a segment");
  else
    status = read_header(env, fd, segment, (uint64_t)st.st_size, err);
  if (status == PS_OK) {
    segment->device = (uint64_t)st.st_dev;
    segment->inode = (uint64_t)st.st_ino;
    uint8_t *map = NULL;
    rc = ps_os_map(env, fd, segment->capacity, false, &map);
    segment->map = map;
    if (rc < 0) status = ps_fail_errno(err, -rc, segment->path, "mapping a segment");
  }
  ps_os_close(fd);
  if (status == PS_OK) {
    segment->verified = calloc(verified_pieces(segment), sizeof *segment->verified);
    if (!segment->verified) status = ps_fail(err, PS_NO_MEMORY, segment->path, "opening a segment");
  }
  if (status != PS_OK) {
    ps_segment_unref(segment);
    return status;
  }
  *out = segment;
  return PS_OK;
}

void ps_segment_ref(ps_segment *segment) { __atomic_fetch_add(&segment->refs, 1, __ATOMIC_RELAXED); }

void ps_segment_unref(ps_segment *segment) {
  if (!segment || __atomic_sub_fetch(&segment->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
  ps_os_unmap((void *)segment->map, segment->capacity);
  ps_os_unmap(segment->write_map, segment->capacity);
  ps_os_unmap(segment->index_map, segment->index_bytes);
  ps_os_unmap(segment->index_write_map, segment->index_bytes);
  if (segment->fd >= 0) ps_os_close(segment->fd);
  if (segment->index_fd >= 0) ps_os_close(segment->index_fd);
  if (segment->verified)
    for (size_t i = 0; i < verified_pieces(segment); i++) free(segment->verified[i]);
  free(segment->verified);
  free(segment);
}

bool ps_segment_backed(const ps_env *env, ps_segment *segment, uint64_t bytes) {
  if (PS_LIKELY(bytes <= __atomic_load_n(&segment->readable, __ATOMIC_RELAXED))) return true;
  if (bytes > segment->capacity) return false;
  struct stat st;
  if (ps_os_stat_at(env, AT_FDCWD, segment->path, &st) < 0) return false;
  /* Another file has the name: how long this one is, nobody can say. Finished segments are replaced, and of
   * those the size was known, unless this one was opened before it was finished. */
  if ((uint64_t)st.st_ino != segment->inode || (uint64_t)st.st_dev != segment->device) return false;
  uint64_t size = (uint64_t)st.st_size < segment->capacity ? (uint64_t)st.st_size : segment->capacity;
  if (size > __atomic_load_n(&segment->readable, __ATOMIC_RELAXED))
    __atomic_store_n(&segment->readable, size, __ATOMIC_RELAXED);
  return bytes <= size;
}
