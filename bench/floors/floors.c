#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "floors.h"

#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ps_format.h"
#include "ps_os.h"

#define PAGE 4096u
#define VIEW_STEP_BYTES (1u << 20)
#define WAIT_NS_MAX 10000000000ll

static const ps_env env;

static int map_file(floor_file *file, int protection) {
  file->map = mmap(NULL, file->bytes, protection, MAP_SHARED, file->fd, 0);
  if (file->map != MAP_FAILED) return 0;
  int failed = errno;
  close(file->fd);
  return -failed;
}

int floor_file_make(const char *path, uint64_t bytes, floor_file *out) {
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return -errno;
  int rc = ps_os_allocate(&env, fd, (int64_t)bytes);
  if (rc < 0) {
    close(fd);
    return rc;
  }
  *out = (floor_file){.fd = fd, .bytes = bytes};
  return map_file(out, PROT_READ | PROT_WRITE);
}

int floor_file_view(const char *path, floor_file *out) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  if (fstat(fd, &st) < 0) {
    int failed = errno;
    close(fd);
    return -failed;
  }
  *out = (floor_file){.fd = fd, .bytes = (uint64_t)st.st_size};
  return map_file(out, PROT_READ);
}

void floor_file_drop(floor_file *file) {
  munmap(file->map, file->bytes);
  close(file->fd);
}

int floor_store(floor_file *file, const void *data, uint64_t n, floor_way way) {
  if (n > file->bytes - file->end) return -ENOSPC;
  uint64_t at = file->end;
  file->end += n;
  if (way == FLOOR_PWRITE) return ps_os_pwrite_all(&env, file->fd, data, n, (int64_t)at);
  if (way == FLOOR_POPULATE) {
    uint64_t from = ps_align_up(at, PAGE), to = ps_align_up(at + n, PAGE); /* the page before is in already */
    if (from < to) {
      int rc = ps_os_populate_write(file->map + from, to - from);
      if (rc < 0) return rc;
    }
  }
  memcpy(file->map + at, data, n);
  return 0;
}

int floor_sync(floor_file *file) { return ps_os_sync_data(&env, file->fd); }

/* Where a checksum goes, so that the compiler cannot leave it out. */
static volatile uint64_t checked;

/* A batch of any log has a header, and its place is not a multiple of pages: with what the kernel does for
 * blocks that are, no log can be compared. */
static int store_batch(floor_file *file, const uint8_t *data, uint64_t n, floor_way way) {
  static const uint8_t header[PS_FRAME_HEADER_BYTES] = {1};
  uint64_t at = ps_align_up(file->end, PS_ALIGN);
  if (at + sizeof header + n > file->bytes) return -ENOSPC;
  file->end = at;
  if (way == FLOOR_PWRITE) {
    const ps_piece pieces[] = {{header, sizeof header}, {data, n}};
    file->end += sizeof header + n;
    return ps_os_pwritev_all(&env, file->fd, pieces, 2, (int64_t)at);
  }
  int rc = floor_store(file, header, sizeof header, way);
  return rc < 0 ? rc : floor_store(file, data, n, way);
}

int floor_store_blocks(floor_file *file, const uint8_t *data, uint64_t bytes, uint64_t block, floor_way way,
                       bool checksum) {
  int rc = 0;
  for (uint64_t at = 0; at < bytes && rc == 0; at += block) {
    uint64_t n = bytes - at < block ? bytes - at : block;
    if (checksum) checked = ps_hash(data + at, n);
    rc = store_batch(file, data + at, n, way);
  }
  return rc;
}

int floor_compress_blocks(floor_file *file, const uint8_t *data, uint64_t bytes, uint64_t block,
                          uint8_t *scratch, floor_way way, uint64_t *stored) {
  for (uint64_t at = 0; at < bytes; at += block) {
    uint64_t n = bytes - at < block ? bytes - at : block;
    int packed =
        LZ4_compress_default((const char *)data + at, (char *)scratch, (int)n, LZ4_compressBound((int)n));
    if (packed <= 0) return -EINVAL;
    checked = ps_hash(scratch, (size_t)packed);
    int rc = store_batch(file, scratch, (uint64_t)packed, way);
    if (rc < 0) return rc;
    *stored += (uint64_t)packed;
  }
  return 0;
}

int floor_sync_loop(floor_file *file, const void *data, uint64_t bytes, uint64_t stride, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) {
    if (file->bytes - file->end < stride) return -ENOSPC;
    int rc = ps_os_pwrite_all(&env, file->fd, data, bytes, (int64_t)file->end);
    file->end += stride;
    if (rc == 0) rc = floor_sync(file);
    if (rc < 0) return rc;
  }
  return 0;
}

uint64_t floor_hash_pass(const floor_file *file, uint64_t block, bool populate) {
  uint64_t sum = 0, faulted = 0;
  for (uint64_t at = 0; at < file->bytes; at += block) {
    uint64_t n = file->bytes - at < block ? file->bytes - at : block;
    for (; populate && faulted < at + n; faulted += VIEW_STEP_BYTES) {
      uint64_t left = file->bytes - faulted;
      (void)madvise(file->map + faulted, left < VIEW_STEP_BYTES ? left : VIEW_STEP_BYTES, MADV_POPULATE_READ);
    }
    sum ^= ps_hash(file->map + at, n);
  }
  return sum;
}

void floor_post_send(floor_post *post, bool wake) {
  post->sent_ns = ps_os_monotonic_ns();
  __atomic_fetch_add(&post->word, 1, __ATOMIC_RELEASE);
  if (wake) ps_os_futex_wake_all(&post->word);
}

int64_t floor_post_receive(floor_post *post, uint32_t number, bool spin) {
  int64_t until = ps_os_monotonic_ns() + WAIT_NS_MAX;
  uint32_t looks = 0;
  for (;;) {
    uint32_t seen = __atomic_load_n(&post->word, __ATOMIC_ACQUIRE);
    if (seen >= number) break;
    if (!spin) {
      if (ps_os_futex_wait(&post->word, seen, WAIT_NS_MAX) == -ETIMEDOUT) return -1;
    } else if (++looks % 1024 == 0 && ps_os_monotonic_ns() > until) {
      return -1;
    }
  }
  int64_t latency = ps_os_monotonic_ns() - post->sent_ns;
  __atomic_store_n(&post->taken, number, __ATOMIC_RELEASE);
  return latency;
}
