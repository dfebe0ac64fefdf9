/* ps_topic.h - what concerns all partitions of a topic at once: locking everybody out, to delete or rename
 * it.
 *
 * A topic is deleted in this order: every lock of it is taken; its directory is renamed, which is the moment
 * of deletion; the directory above is synced; every head is marked, which wakes who waits; the locks are let
 * go; the files are removed. Whoever writes holds one of the locks and looks whether the directory is in its
 * place (I7 in ps_log.h), so the rename alone keeps handles of the old topic away from a later one of that
 * name, even when the deleter dies after it. The mark tells those who look at nothing but the head.
 *
 * A topic is renamed in the same order, but for the last step, and with another mark: `moves` goes up, and
 * handles that were opened before are used no more, while those opened later, under the new name, are. */
#ifndef PS_TOPIC_H
#define PS_TOPIC_H

#include "ps_format.h"
#include "ps_os.h"

/* Take every lock of partitions *next to `partitions` - 1 through locks_fd, which no log uses, one by one,
 * each kept once taken; *next begins at 0 and counts those done. `path` is for messages. PS_TIMEOUT: others
 * kept one for longer than timeout_ns (0: only try, -1: for ever). PS_INTERRUPTED: a signal came, or a moment
 * passed in which one might have: call again. All go when locks_fd is closed. */
ps_status ps_topic_lock(const ps_env *env, int locks_fd, uint32_t partitions, uint32_t *next,
                        int64_t timeout_ns, const char *path, ps_error *err);

/* Say in the head at `path` that the topic was deleted, and wake all who wait for it. The partition's locks
 * are held. PS_NOT_FOUND: no such head, or not a whole one, so that nobody has it mapped. */
ps_status ps_topic_mark_deleted(const ps_env *env, const char *path, ps_error *err);
/* Likewise, that it was renamed. */
ps_status ps_topic_mark_moved(const ps_env *env, const char *path, ps_error *err);

#endif
