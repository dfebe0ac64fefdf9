#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_index.h"

#include <errno.h>
#include <fcntl.h>

static uint8_t *entry_at(const ps_segment *segment, uint32_t i) {
  return segment->index_map + PS_INDEX_HEADER_BYTES + (size_t)i * PS_INDEX_ENTRY_BYTES;
}

static void encode_header(const ps_segment *segment, uint32_t interval, uint32_t capacity, uint8_t *out) {
  memset(out, 0, PS_INDEX_HEADER_BYTES);
  ps_store_u64(out + PS_INDEX_MAGIC_OFF, PS_INDEX_MAGIC);
  ps_store_u32(out + PS_INDEX_VERSION_OFF, PS_FORMAT_VERSION);
  ps_store_u32(out + PS_INDEX_ENTRY_LEN_OFF, PS_INDEX_ENTRY_BYTES);
  ps_store_u64(out + PS_INDEX_SALT_OFF, segment->salt);
  ps_store_i64(out + PS_INDEX_BASE_OFFSET_OFF, segment->base_offset);
  ps_store_u32(out + PS_INDEX_INTERVAL_OFF, interval);
  ps_store_u32(out + PS_INDEX_CAPACITY_OFF, capacity);
  ps_store_u64(out + PS_INDEX_CHECKSUM_OFF, ps_hash(out, PS_INDEX_CHECKSUM_OFF));
}

/* True when the header is sound, belongs to this segment, and the file holds all it promises. */
static bool header_ok(const ps_segment *segment, const uint8_t *p, uint64_t size) {
  if (ps_load_u64(p + PS_INDEX_MAGIC_OFF) != PS_INDEX_MAGIC) return false;
  if (ps_load_u64(p + PS_INDEX_CHECKSUM_OFF) != ps_hash(p, PS_INDEX_CHECKSUM_OFF)) return false;
  if (ps_load_u32(p + PS_INDEX_VERSION_OFF) != PS_FORMAT_VERSION) return false;
  if (ps_load_u32(p + PS_INDEX_ENTRY_LEN_OFF) != PS_INDEX_ENTRY_BYTES) return false;
  if (ps_load_u64(p + PS_INDEX_SALT_OFF) != segment->salt) return false;
  if (ps_load_i64(p + PS_INDEX_BASE_OFFSET_OFF) != segment->base_offset) return false;
  uint64_t capacity = ps_load_u32(p + PS_INDEX_CAPACITY_OFF);
  return ps_load_u32(p + PS_INDEX_INTERVAL_OFF) > 0 &&
         PS_INDEX_HEADER_BYTES + capacity * PS_INDEX_ENTRY_BYTES <= size;
}

static int create(const ps_env *env, int fd, const ps_segment *segment, uint32_t interval) {
  uint8_t header[PS_INDEX_HEADER_BYTES];
  uint32_t capacity = segment->capacity / interval + 2;
  int64_t bytes = PS_INDEX_HEADER_BYTES + (int64_t)capacity * PS_INDEX_ENTRY_BYTES;
  encode_header(segment, interval, capacity, header);
  int rc = ps_os_truncate(env, fd, 0);
  if (rc == 0) {
    rc = ps_os_allocate(env, fd, bytes); /* so that a store to the map finds its block */
    if (rc == -EOPNOTSUPP) rc = ps_os_truncate(env, fd, bytes);
  }
  return rc < 0 ? rc : ps_os_pwrite_all(env, fd, header, sizeof header, 0);
}

static int open_file(const ps_env *env, const char *path, ps_segment *segment, bool writable,
                     uint32_t interval, int *out, uint64_t *size) {
  uint8_t header[PS_INDEX_HEADER_BYTES];
  struct stat st;
  int fd = ps_os_openat(env, AT_FDCWD, path, writable ? O_RDWR | O_CREAT : O_RDONLY, 0666);
  if (fd < 0) return fd;
  int rc = ps_os_stat_fd(env, fd, &st);
  if (rc == 0) {
    rc = ps_os_pread_all(env, fd, header, sizeof header, 0);
    bool sound = rc == 0 && header_ok(segment, header, (uint64_t)st.st_size);
    if (rc == -ENODATA) rc = 0;
    if (rc == 0 && !sound) rc = writable ? create(env, fd, segment, interval) : -ENOENT;
  }
  if (rc == 0) rc = ps_os_stat_fd(env, fd, &st);
  if (rc < 0) {
    ps_os_close(fd);
    return rc;
  }
  *out = fd;
  *size = (uint64_t)st.st_size;
  return 0;
}

ps_status ps_index_open(const ps_env *env, const char *dir, ps_segment *segment, bool writable,
                        bool by_pwrite, uint32_t interval_bytes, ps_error *err) {
  if (segment->index_map && (segment->index_writable || !writable)) return PS_OK;
  char name[PS_SEGMENT_NAME_BYTES], path[sizeof segment->path];
  ps_index_name(segment->base_offset, name);
  snprintf(path, sizeof path, "%s/%s", dir, name);
  int fd;
  uint64_t size;
  int rc = open_file(env, path, segment, writable, interval_bytes, &fd, &size);
  if (rc == -ENOENT && !writable) return PS_NOT_FOUND;
  if (rc < 0) return ps_fail_errno(err, -rc, path, "opening an index");
  if (segment->index_map) { /* was open for reading: readers keep that map, the writer gets its own */
    bool mapped = !by_pwrite && size == segment->index_bytes && ps_os_allocate(env, fd, (int64_t)size) == 0 &&
                  ps_os_map(env, fd, size, true, &segment->index_write_map) == 0;
    by_pwrite = !mapped;
  } else {
    uint8_t *map;
    rc = ps_os_map(env, fd, size, writable && !by_pwrite, &map);
    if (rc < 0) {
      ps_os_close(fd);
      return ps_fail_errno(err, -rc, path, "mapping an index");
    }
    segment->index_bytes = size;
    segment->index_interval = ps_load_u32(map + PS_INDEX_INTERVAL_OFF);
    segment->index_capacity = ps_load_u32(map + PS_INDEX_CAPACITY_OFF);
    __atomic_store_n(&segment->index_map, map, __ATOMIC_RELEASE);
  }
  segment->index_writable = writable;
  __atomic_store_n(&segment->index_sought, true, __ATOMIC_RELEASE);
  if (writable && by_pwrite)
    segment->index_fd = fd;
  else
    ps_os_close(fd);
  return PS_OK;
}

static void store_entry(const ps_env *env, ps_segment *segment, uint32_t i, const uint8_t *entry) {
  if (segment->index_fd >= 0) /* derived data: a failed write costs speed only */
    (void)ps_os_pwrite_all(env, segment->index_fd, entry, PS_INDEX_ENTRY_BYTES,
                           PS_INDEX_HEADER_BYTES + (int64_t)i * PS_INDEX_ENTRY_BYTES);
  else if (segment->index_write_map)
    memcpy(segment->index_write_map + (entry_at(segment, i) - segment->index_map), entry,
           PS_INDEX_ENTRY_BYTES);
  else
    memcpy(entry_at(segment, i), entry, PS_INDEX_ENTRY_BYTES);
}

void ps_index_reset(const ps_env *env, ps_segment *segment) {
  static const uint8_t zero[PS_INDEX_ENTRY_BYTES];
  for (uint32_t i = 0; i < segment->index_capacity; i++) {
    if (ps_load_u64(entry_at(segment, i) + PS_INDEX_ENTRY_POSITION_OFF) == 0 &&
        ps_load_u64(entry_at(segment, i) + PS_INDEX_ENTRY_CHECKSUM_OFF) == 0)
      continue;
    store_entry(env, segment, i, zero);
  }
  segment->index_count = 0;
}

ps_status ps_index_make(const ps_env *env, const char *path, ps_segment *segment, uint32_t interval_bytes,
                        ps_error *err) {
  int fd = ps_os_openat(env, AT_FDCWD, path, O_RDWR | O_CREAT | O_TRUNC, 0666);
  if (fd < 0) return ps_fail_errno(err, -fd, path, "making an index");
  uint8_t *map;
  uint32_t capacity = segment->capacity / interval_bytes + 2;
  size_t bytes = PS_INDEX_HEADER_BYTES + (size_t)capacity * PS_INDEX_ENTRY_BYTES;
  int rc = create(env, fd, segment, interval_bytes);
  if (rc == 0) rc = ps_os_map(env, fd, bytes, false, &map);
  if (rc < 0) {
    ps_os_close(fd);
    (void)ps_os_unlink(env, AT_FDCWD, path);
    return ps_fail_errno(err, -rc, path, "making an index");
  }
  segment->index_map = map;
  segment->index_bytes = bytes;
  segment->index_interval = interval_bytes;
  segment->index_capacity = capacity;
  segment->index_writable = true;
  segment->index_fd = fd;
  return PS_OK;
}

void ps_index_finish(const ps_env *env, ps_segment *segment) {
  if (!segment->index_map || segment->index_fd < 0) return;
  uint8_t header[PS_INDEX_HEADER_BYTES];
  encode_header(segment, segment->index_interval, segment->index_count, header);
  int rc = ps_os_pwrite_all(env, segment->index_fd, header, sizeof header, 0);
  if (rc == 0)
    rc = ps_os_truncate(env, segment->index_fd,
                        PS_INDEX_HEADER_BYTES + (int64_t)segment->index_count * PS_INDEX_ENTRY_BYTES);
  if (rc == 0) (void)ps_os_sync_derived(env, segment->index_fd);
}

void ps_index_add(const ps_env *env, ps_segment *segment, int64_t offset, uint64_t position,
                  int64_t max_timestamp_before) {
  if (!segment->index_map || !segment->index_writable) return;
  uint32_t n = segment->index_count; /* other processes may have added entries since */
  while (n < segment->index_capacity && ps_load_u64(entry_at(segment, n) + PS_INDEX_ENTRY_POSITION_OFF) != 0)
    n++;
  segment->index_count = n;
  if (n == segment->index_capacity) return;
  uint64_t last = n ? ps_load_u64(entry_at(segment, n - 1) + PS_INDEX_ENTRY_POSITION_OFF) : 0;
  if (position < last + segment->index_interval) return;
  uint8_t entry[PS_INDEX_ENTRY_BYTES];
  ps_store_i64(entry + PS_INDEX_ENTRY_OFFSET_OFF, offset);
  ps_store_i64(entry + PS_INDEX_ENTRY_MAX_TS_OFF, max_timestamp_before);
  ps_store_u64(entry + PS_INDEX_ENTRY_POSITION_OFF, position);
  ps_store_u64(entry + PS_INDEX_ENTRY_CHECKSUM_OFF,
               ps_hash_seeded(entry, PS_INDEX_ENTRY_CHECKSUM_OFF, segment->salt));
  store_entry(env, segment, n, entry);
  segment->index_count = n + 1;
}

static bool load_entry(const ps_segment *segment, uint32_t i, ps_index_entry *out) {
  uint8_t entry[PS_INDEX_ENTRY_BYTES]; /* a copy: another process may be storing to it */
  memcpy(entry, entry_at(segment, i), sizeof entry);
  if (ps_load_u64(entry + PS_INDEX_ENTRY_CHECKSUM_OFF) !=
      ps_hash_seeded(entry, PS_INDEX_ENTRY_CHECKSUM_OFF, segment->salt))
    return false;
  out->offset = ps_load_i64(entry + PS_INDEX_ENTRY_OFFSET_OFF);
  out->max_timestamp = ps_load_i64(entry + PS_INDEX_ENTRY_MAX_TS_OFF);
  out->position = ps_load_u64(entry + PS_INDEX_ENTRY_POSITION_OFF);
  return out->position >= PS_SEGMENT_HEADER_BYTES && out->position % PS_ALIGN == 0 &&
         out->position < segment->capacity;
}

/* The last entry for which before(entry) holds, by bisection; unsound entries count as beyond. */
static bool find_last(const ps_segment *segment, int64_t key, bool by_time, ps_index_entry *out) {
  if (!__atomic_load_n(&segment->index_map, __ATOMIC_ACQUIRE)) return false;
  uint32_t low = 0, high = segment->index_capacity; /* entries below low qualify, from high on do not */
  bool found = false;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    ps_index_entry entry;
    bool sound = load_entry(segment, middle, &entry);
    if (sound && (by_time ? entry.max_timestamp < key : entry.offset <= key)) {
      *out = entry;
      found = true;
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return found;
}

bool ps_index_find_offset(const ps_segment *segment, int64_t offset, ps_index_entry *out) {
  return find_last(segment, offset, false, out);
}

bool ps_index_find_time(const ps_segment *segment, int64_t timestamp, ps_index_entry *out) {
  return find_last(segment, timestamp, true, out);
}
