/* The store's liveness file, looked at and entered. */
#include "fuzz.h"
#include "ps_inspect.h"
#include "ps_log.h"

FUZZ_TARGET(live) {
  static const ps_env plain = {0};
  fuzz_in in = {data, data + size};
  unsigned how = (unsigned)fuzz_take(&in, 1);
  uint64_t seen, entered = 0, again = 0;
  ps_presence presence;
  ps_error err = {0};
  size_t bytes;
  uint8_t *p = fuzz_rest(&in, &bytes);
  fuzz_seal_live(p, bytes, how);
  (void)fuzz_directory();
  fuzz_write("live", p, bytes, 0);
  char path[512];
  strcpy(path, fuzz_path("live"));
  int first = open(path, O_RDWR), second = open(path, O_RDWR), reader = open(path, O_RDONLY);
  FUZZ_CHECK(ps_live_look(&plain, reader, &seen, &presence, &err) == PS_OK && presence == PS_PRESENCE_NOBODY);
  FUZZ_CHECK(ps_inspect_in_use(&plain, reader) == 0);
  FUZZ_CHECK(ps_live_enter(&plain, path, first, &entered, &err) == PS_OK);
  FUZZ_CHECK(entered != 0 && entered != seen);
  FUZZ_CHECK(ps_inspect_in_use(&plain, reader) == 1);
  FUZZ_CHECK(ps_live_enter(&plain, path, second, &again, &err) == PS_OK && again == entered);
  /* Damaged while somebody is inside: nobody else comes in, and nobody is told a wrong number. */
  if (bytes) FUZZ_CHECK(pwrite(second, p, bytes, 0) == (ssize_t)bytes);
  int third = open(path, O_RDWR);
  ps_status status = ps_live_enter(&plain, path, third, &again, &err);
  FUZZ_CHECK(status == PS_OK || status == PS_CORRUPT);
  fuzz_check_error(status, &err);
  FUZZ_CHECK(ps_live_look(&plain, reader, &seen, &presence, &err) == PS_OK &&
             presence == PS_PRESENCE_WRITERS);
  FUZZ_CHECK((status == PS_OK) == (seen != 0));
  close(first);
  close(second);
  close(third);
  close(reader);
  free(p);
}
