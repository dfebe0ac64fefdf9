/* ps_inspect.h - what the small files of a partition say, sound or not: decoders of (pointer, limit) for
 * those who look at a store without opening it. Nothing here trusts anything; ps_walk.h does the same for
 * segments. */
#ifndef PS_INSPECT_H
#define PS_INSPECT_H

#include "ps_head.h"
#include "ps_index.h"
#include "ps_walk.h"

typedef struct ps_index_info { /* an index header */
  ps_verdict verdict;
  uint64_t salt;
  int64_t base_offset;
  uint32_t interval, capacity;
} ps_index_info;
void ps_inspect_index(const uint8_t *p, uint64_t limit, ps_index_info *out);
/* Entry i of the index: PS_UNCHECKED when none was ever written there (or the file ends before it). */
ps_verdict ps_inspect_index_entry(const uint8_t *p, uint64_t limit, uint64_t salt, uint64_t i,
                                  ps_index_entry *out);
/* Does a frame of that offset stand where the entry says, in the segment open as fd? -errno when it cannot be
 * read. */
int ps_inspect_index_hit(const ps_env *env, int fd, uint64_t salt, const ps_index_entry *entry, bool *hit);

typedef struct ps_head_facts {
  ps_verdict identity; /* PS_UNCHECKED: blank */
  ps_head_identity who;
  uint64_t state, holder, incarnation;
  int poison; /* errno, 0: sound */
  bool deleted;
  int64_t log_start; /* -1: it and its check word disagree */
  bool slot_sound[2];
  ps_slot slot[2];
  int64_t watermark, log_end, durable;
  uint32_t signal; /* PS_HEAD_SIGNAL_WAITED: somebody waits for the next append, or did */
} ps_head_facts;
/* p: a copy of the head page, PS_HEAD_BYTES, aligned for its words. Of a page in use, words may be of
 * different moments, and a slot may be half written. */
void ps_inspect_head(const uint8_t *p, ps_head_facts *out);

typedef struct ps_epoch_entry {
  int32_t epoch;
  int64_t first_offset, created_ns;
} ps_epoch_entry;
bool ps_inspect_epoch(const uint8_t p[PS_EPOCH_ENTRY_BYTES], ps_epoch_entry *out);

/* Does anybody have the store open whose `live` file this is? 1, 0, or -errno. Takes no lock. */
int ps_inspect_in_use(const ps_env *env, int live_fd);

/* Where the offsets of a finished segment end: what its seal says. PS_END: it has none at the end of its
 * file, or is not what its name says; PS_NOT_FOUND: there is no such file. */
ps_status ps_inspect_end(const ps_env *env, const char *path, int64_t base_offset, int64_t *end);

#endif
