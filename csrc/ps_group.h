/* ps_group.h - the shared pages of a consumer group: one `control` page a group, one `member` file a member.
 *
 * The group's state (members, claims, targets, committed offsets) is a document in a file of its own; the
 * control page's `state` word names the current one. A change writes a new file under a new random id and
 * moves the word from the old id to the new by compare-and-swap: so the states form one line, whoever
 * dies or is stopped on the way holds up nobody, and an id that was read is never used again for another
 * state.
 *
 * Invariants:
 *  G1  A partition has at most one owner in any state, and states form one line.
 *  G2  A member's file is stored to by that member alone, but for `fenced`; it is never used by another one.
 *      So what a fenced member still stores is seen by nobody.
 *  G3  `fenced` is set before the marks are read for the state that removes the member; a commit stores its
 *      mark before it looks at `fenced`, with a seq_cst fence between on both sides. So a commit either is in
 *      that state, or its member sees that it is fenced: none is acknowledged and lost.
 *  G4  Marks and beats are stored to only within space that was allocated: a full disk is an error, and no
 *      signal.
 *  G5  `signal` changes after `state` does; who waits has read `signal` before `state`. So no change is
 *      slept through, but for that of one who died between the two: waits are cut for him.
 *  G6  Who tells others what a mark says looks at `fenced` after reading it, with the same fence between.
 *      Unset: the mark is in the state that removes the member. Set: it may have come too late for that. */
#ifndef PS_GROUP_H
#define PS_GROUP_H

#include "ps_format.h"
#include "ps_os.h"

/* What a control page was found to be. The one that is not sound is made anew, under its gate lock. */
typedef enum ps_control_verdict {
  PS_CONTROL_SOUND,
  PS_CONTROL_BLANK,   /* never written */
  PS_CONTROL_DAMAGED, /* bytes do not fit their checksum */
  PS_CONTROL_NEWER,   /* another format version */
  PS_CONTROL_MOVED,   /* a copy, or of another boot: what was not synced may not be what it was */
  PS_CONTROL_PASSED   /* of an earlier incarnation, or begun and not finished: as the dead left it */
} ps_control_verdict;

typedef struct ps_control_identity {
  uint64_t device, inode, incarnation;
  uint8_t boot_id[16];
} ps_control_identity;

/* Map `file`, long enough by now, as a control page. */
int ps_control_open(const ps_env *env, int fd, bool writable, uint8_t **page, ps_control_identity *identity);
ps_control_verdict ps_control_check(const uint8_t *page, const ps_control_identity *expected);
/* Gate lock held: from now on it is sound, and `state` is current. */
void ps_control_begin(uint8_t *page, const ps_control_identity *identity, uint64_t state);

static inline uint64_t ps_control_state(const uint8_t *page) {
  return ps_acquire_u64(page + PS_CONTROL_STATE_OFF);
}
/* G1. False: somebody else was first. */
static inline bool ps_control_swap(uint8_t *page, uint64_t from, uint64_t to) {
  return __atomic_compare_exchange_n((uint64_t *)(page + PS_CONTROL_STATE_OFF), &from, to, false,
                                     __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}
static inline uint32_t ps_control_signal(const uint8_t *page) {
  return __atomic_load_n((const uint32_t *)(page + PS_CONTROL_SIGNAL_OFF), __ATOMIC_ACQUIRE);
}
/* G5: all members look again. Changes are rare, so nobody counts who waits. */
static inline void ps_control_notify(uint8_t *page) {
  __atomic_fetch_add((uint32_t *)(page + PS_CONTROL_SIGNAL_OFF), 1, __ATOMIC_SEQ_CST);
  ps_os_futex_wake_all(page + PS_CONTROL_SIGNAL_OFF);
}

/* Make fd, just created, the file of member `id`, with no marks yet, and map its first page. */
int ps_member_create(const ps_env *env, int fd, uint64_t id, uint8_t **page);
/* Map 512 more marks, the `index`th of such runs, all -1. */
int ps_member_add_marks(const ps_env *env, int fd, uint32_t index, uint8_t **marks);
/* Map all that the file of another member has; -EINVAL when it is not the file of `id`. writable: to fence
 * it. */
int ps_member_open(const ps_env *env, int fd, uint64_t id, bool writable, uint8_t **page, size_t *bytes);

static inline bool ps_member_is_fenced(const uint8_t *page) {
  return ps_acquire_u64(page + PS_MEMBER_FENCED_OFF) != 0;
}
static inline uint64_t ps_member_beats(const uint8_t *page) {
  return ps_acquire_u64(page + PS_MEMBER_BEATS_OFF);
}
/* The two sides of G3. */
static inline void ps_member_fence(uint8_t *page) {
  __atomic_store_n((uint64_t *)(page + PS_MEMBER_FENCED_OFF), PS_MEMBER_FENCED, __ATOMIC_SEQ_CST);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
/* Whether what was stored to the marks, or read from them, before counts (G3, G6). */
static inline bool ps_member_confirm(const uint8_t *page) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return __atomic_load_n((const uint64_t *)(page + PS_MEMBER_FENCED_OFF), __ATOMIC_SEQ_CST) == 0;
}

/* The partition whose head stands at path: its topic's uuid and its durable offset. -EINVAL: no sound head.
 */
int ps_group_head_durable(const ps_env *env, const char *path, uint8_t topic_uuid[16], int64_t *durable);

#endif
