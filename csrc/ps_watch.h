/* ps_watch.h - waiting without a thread each: a few native threads sleep on the signal words of all that is
 * waited for, and ring bells, which are descriptors that event loops poll.
 *
 * The threads start at the first need, never touch Python, and sleep without a limit while nobody waits. Each
 * sleeps on up to 127 words and one of its own, by which it is told of new ones; there are 8 at most. What is
 * waited for beyond that, or cannot be slept on (a log that is only read; a kernel without futex_waitv), is
 * looked at after naps that double from 1 ms to 20 ms while nothing is found.
 *
 * No wake-up is missed. A wait that begins says that somebody waits and notes the word, then looks whether
 * what it waits for is there; a writer publishes, then looks for waiters, then changes the word (ps_head.h;
 * deliveries of a producer likewise; a plain word is changed, then woken). So what the look did not find
 * changes the noted word, and the kernel lets no thread sleep on a word that differs from what it saw; until
 * it is told of the word, nobody sleeps on it, and when it is, it compares first. Sleeps are cut at 1 s, for
 * the writer that dies in between.
 *
 * Any thread may call. A forked child has no such threads: it must use a watcher of its own, and end the
 * waits it inherited with ps_watch_abandon. */
#ifndef PS_WATCH_H
#define PS_WATCH_H

#include "ps_log.h"
#include "ps_producer.h"

typedef struct ps_watcher ps_watcher;
typedef struct ps_bell ps_bell;
typedef struct ps_watch ps_watch;

/* NULL: no memory. */
ps_watcher *ps_watcher_new(void);
/* End and join the threads; no wait ends any more but by ps_watch_ring. */
void ps_watcher_stop(ps_watcher *watcher);
/* Threads must be stopped, and bells and watches gone. */
void ps_watcher_free(ps_watcher *watcher);

/* One an event loop. Its descriptor can be read from when a watch of it has rung. */
ps_status ps_bell_new(ps_watcher *watcher, ps_bell **out, ps_error *err);
/* Its watches must be gone. */
void ps_bell_free(ps_bell *bell);
int ps_bell_fd(const ps_bell *bell);
/* The descriptor is not readable any more, until another watch rings. */
void ps_bell_answer(ps_bell *bell);
/* Block until a watch has rung: 0, -ETIMEDOUT, or -EINTR on a signal. -1: for ever. */
int ps_bell_wait(const ps_bell *bell, int64_t timeout_ns);
/* The user of the next watch that has rung; NULL: none. */
void *ps_bell_take(ps_bell *bell);

/* A wait for any of `count` things, that rings once. NULL: no memory. */
ps_watch *ps_watch_new(ps_bell *bell, size_t count, void *user);
/* Have it begin again after each ring: ps_watch_begin then enlists only what has rung, so that a wait for a
 * thousand things costs as little as one for those that changed. To be said before the first one. */
void ps_watch_stand(ps_watch *watch);
/* What is waited for: the watermark of a log (`durable`: what of it is on the disk) passes `wanted`; or a
 * delivery of a producer, that the number of its deliveries differs from `seen`; or that a word differs from
 * `seen`, which whoever changes it wakes as a futex. They must outlive the watch. Of one that stands,
 * `wanted` may be changed between its waits. */
void ps_watch_log(ps_watch *watch, size_t i, ps_log *log, int64_t wanted, bool durable);
void ps_watch_producer(ps_watch *watch, size_t i, ps_producer *producer, uint64_t seen);
void ps_watch_word(ps_watch *watch, size_t i, const uint32_t *word, uint32_t seen);
/* PS_OK: it will ring. PS_END: it is there already, and it will not. PS_NO_MEMORY, PS_OS_ERROR: no thread. */
ps_status ps_watch_begin(ps_watch *watch, ps_error *err);
/* Ring at once, if it has not rung. */
void ps_watch_ring(ps_watch *watch);
/* End the wait, rung or not: its user is not named any more. */
void ps_watch_free(ps_watch *watch);
/* In a forked child: give back memory, and nothing else. */
void ps_watch_abandon(ps_watch *watch);

#endif
