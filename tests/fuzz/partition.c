/* Partitions made of inputs, and logs read to their end. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "fuzz.h"
#include "ps_log.h"

static const size_t zeros_behind[8] = {0, 8, 64, 192, 4096, 8192, FUZZ_SEGMENT_BYTES, 70000};

static int64_t base_of(fuzz_kept *file, unsigned how) {
  if (file->size < PS_SEGMENT_HEADER_BYTES) return file->kind;
  uint64_t base = ps_load_u64(file->bytes + PS_SEG_BASE_OFFSET_OFF);
  if (base > INT64_MAX) base &= 0xffff;
  if (how & FUZZ_FITTED) ps_store_u64(file->bytes + PS_SEG_BASE_OFFSET_OFF, base);
  return (int64_t)base;
}

static bool is_there(const fuzz_partition *partition, const char *name) {
  for (size_t i = 0; i < partition->count; i++)
    if (strcmp(partition->files[i].name, name) == 0) return true;
  return false;
}

/* The head is told of the file it stands in, which has to be there for that. */
static void seal_head(fuzz_kept *file, unsigned how) {
  struct stat st;
  ps_head_identity who = {.partition = FUZZ_PARTITION};
  fuzz_write("head", NULL, 0, 0);
  FUZZ_CHECK(stat(fuzz_path("head"), &st) == 0);
  memset(who.topic_uuid, FUZZ_UUID_BYTE, 16);
  who.device = (uint64_t)st.st_dev;
  who.inode = (uint64_t)st.st_ino + (file->kind >> 6 == 3);
  fuzz_seal_head(file->bytes, file->size, &who, how);
}

static void make_file(fuzz_partition *out, fuzz_kept *file, unsigned how) {
  const fuzz_kept *segment = fuzz_partition_last(out, FUZZ_SEGMENT);
  int64_t base = segment ? segment->base : 0;
  uint64_t salt = segment && segment->size >= PS_SEGMENT_HEADER_BYTES
                      ? ps_load_u64(segment->bytes + PS_SEG_SALT_OFF)
                      : FUZZ_SALT;
  switch (file->kind & 7) {
  case FUZZ_HEAD:
    if (!is_there(out, "head")) seal_head(file, how);
    strcpy(file->name, "head");
    break;
  case FUZZ_EPOCHS:
    strcpy(file->name, "epochs");
    fuzz_seal_epochs(file->bytes, file->size, how);
    break;
  case FUZZ_SEGMENT:
    file->base = base_of(file, how);
    ps_segment_name(file->base, file->name);
    fuzz_seal_segment(file->bytes, file->size, how);
    break;
  case FUZZ_INDEX:
    ps_index_name(base, file->name);
    fuzz_seal_index(file->bytes, file->size, salt, base, how);
    break;
  case FUZZ_CUT:
    snprintf(file->name, sizeof file->name, "%020" PRId64 ".log.%010d.cut", base, 1 + (file->kind >> 6));
    break;
  case FUZZ_TEMPORARY:
    strcpy(file->name, file->kind >> 6 ? "next.tmp" : "rewrite.tmp");
    break;
  case FUZZ_FOREIGN:
    strcpy(file->name, "README");
    break;
  default:
    strcpy(file->name, "live");
    fuzz_seal_live(file->bytes, file->size, how);
  }
}

void fuzz_partition_make(fuzz_in *in, unsigned how, fuzz_partition *out) {
  memset(out, 0, sizeof *out);
  (void)fuzz_directory();
  while (fuzz_left(in) && out->count < FUZZ_FILES_MAX) {
    fuzz_kept *file = &out->files[out->count];
    file->kind = (unsigned)fuzz_take(in, 1);
    file->size = (size_t)fuzz_take(in, 2);
    file->zeros = zeros_behind[file->kind >> 3 & 7];
    const uint8_t *bytes = fuzz_bytes(in, &file->size);
    file->bytes = fuzz_copy(bytes, file->size);
    make_file(out, file, how);
    if (is_there(out, file->name)) {
      free(file->bytes);
      memset(file, 0, sizeof *file);
      continue;
    }
    fuzz_write(file->name, file->bytes, file->size, file->zeros);
    file->kind &= 7;
    out->count++;
  }
}

void fuzz_partition_free(fuzz_partition *partition) {
  for (size_t i = 0; i < partition->count; i++) free(partition->files[i].bytes);
}

const fuzz_kept *fuzz_partition_last(const fuzz_partition *partition, unsigned kind) {
  for (size_t i = partition->count; i-- > 0;)
    if ((partition->files[i].kind & 7) == kind) return &partition->files[i];
  return NULL;
}

ps_status fuzz_read_log(ps_log *log, int64_t offset, int64_t *next) {
  ps_cursor cursor;
  ps_frame_view view;
  ps_error err = {0};
  ps_cursor_init(&cursor);
  *next = offset;
  ps_status status = ps_cursor_seek(log, &cursor, offset, &err);
  uint64_t file = 0; /* that the last frame was in */
  while (status == PS_OK && (status = ps_cursor_next(log, &cursor, &view, &err)) == PS_OK) {
    const ps_frame_meta *m = &view.meta;
    /* The first of a file may begin below: what has the offset may be another file than the table said. */
    FUZZ_CHECK(ps_frame_next_offset(m) > *next);
    FUZZ_CHECK(view.segment->inode == file ? m->base_offset == *next : !file || m->base_offset <= *next);
    FUZZ_CHECK(view.position + m->frame_bytes <= view.segment->capacity);
    FUZZ_CHECK(ps_frame_body_ok(view.frame, m));
    *next = ps_frame_next_offset(m);
    file = view.segment->inode;
    uint8_t *raw = fuzz_copy(NULL, 0);
    const uint8_t *body = view.body;
    ps_status read = PS_OK;
    if (ps_frame_codec(m) != PS_CODEC_NONE) {
      free(raw);
      raw = malloc(m->raw_bytes);
      read = ps_frame_decompress(view.frame, m, raw);
      body = raw;
    }
    ps_columns columns;
    if (read == PS_OK) read = ps_frame_columns(m, body, m->raw_bytes, &columns);
    if (read == PS_OK) read = ps_columns_check(m, &columns);
    FUZZ_CHECK(read == PS_OK || ps_frame_codec(m) != PS_CODEC_NONE);
    if (read == PS_OK) (void)fuzz_walk_columns(&columns);
    free(raw);
  }
  fuzz_check_error(status, &err);
  ps_cursor_clear(&cursor);
  return status;
}
