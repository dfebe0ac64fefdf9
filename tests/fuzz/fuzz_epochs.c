/* The epochs file: the last epoch, where one ends, and a new one behind whatever stands there. */
#include "fuzz.h"
#include "ps_inspect.h"
#include "ps_log_internal.h"

FUZZ_TARGET(epochs) {
  static const ps_env plain = {0};
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1);
  int32_t asked = (int32_t)fuzz_take(&in, 4), last, after;
  int64_t end;
  size_t whole = 0; /* up to the last sound entry */
  ps_error err = {0};
  ps_epoch_entry entry;
  size_t bytes;
  uint8_t *p = fuzz_rest(&in, &bytes);
  fuzz_seal_epochs(p, bytes, how);
  ps_log *log = calloc(1, sizeof *log);
  FUZZ_CHECK(log);
  log->env = &plain;
  strcpy(log->dir, fuzz_directory());
  fuzz_write("epochs", p, bytes, 0);
  int32_t highest = -1;
  int64_t lowest = INT64_MAX;
  for (size_t at = 0; at + PS_EPOCH_ENTRY_BYTES <= bytes; at += PS_EPOCH_ENTRY_BYTES) {
    if (!ps_inspect_epoch(p + at, &entry)) continue;
    whole = at + PS_EPOCH_ENTRY_BYTES;
    if (entry.epoch > highest) highest = entry.epoch;
    if (entry.epoch > asked && entry.first_offset < lowest) lowest = entry.first_offset;
  }
  FUZZ_CHECK(ps_epochs_last(log, &last, &err) == PS_OK && last == highest);
  FUZZ_CHECK(ps_log_epoch_end(log, asked, &end, &err) == PS_OK && end == lowest);
  if (last < INT32_MAX) {
    FUZZ_CHECK(ps_epochs_append(log, last + 1, 42, &err) == PS_OK);
    FUZZ_CHECK(ps_epochs_last(log, &after, &err) == PS_OK && after == last + 1);
    FUZZ_CHECK(ps_log_epoch_end(log, last, &end, &err) == PS_OK && end == 42);
  }
  size_t size_after;
  uint8_t *read = fuzz_read("epochs", &size_after);
  FUZZ_CHECK(read && memcmp(read, p, whole) == 0); /* what says something is left alone */
  free(read);
  free(log);
  free(p);
}
