#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_maps.h"

#include "ps_log_internal.h"

/* How many are looked at for one that may go. */
#define LOOKS_MAX 64
/* How many go for one that comes, where there were too many for a while as none could go. */
#define GO_MAX 4

static void enter(ps_maps *maps, ps_log *log, ps_segment *segment) {
  if (maps->hand) {
    segment->next = maps->hand; /* the last to be looked at */
    segment->previous = maps->hand->previous;
    segment->previous->next = segment->next->previous = segment;
  } else {
    maps->hand = segment->next = segment->previous = segment;
  }
  segment->listed_by = log;
  maps->count++;
}

static void leave(ps_maps *maps, ps_segment *segment) {
  if (maps->hand == segment) maps->hand = segment->next == segment ? NULL : segment->next;
  segment->previous->next = segment->next;
  segment->next->previous = segment->previous;
  segment->listed_by = NULL;
  maps->count--;
}

static bool is_idle(ps_segment *segment) {
  if (__atomic_exchange_n(&segment->recent, false, __ATOMIC_RELAXED)) return false; /* a second chance */
  return __atomic_load_n(&segment->refs, __ATOMIC_ACQUIRE) == 1 &&
         __atomic_load_n(&segment->fd, __ATOMIC_ACQUIRE) < 0 && !segment->write_map;
}

/* Its table lets go of it: that table's mutex held. */
static ps_segment *take(ps_maps *maps, ps_segment *segment) {
  ps_table_close(segment->listed_by, segment);
  leave(maps, segment);
  return segment;
}

/* One that nobody uses, out of the ring and its table. The tables of others are only tried: their mutexes
 * come before the ring's. */
static ps_segment *find_idle(ps_maps *maps, const ps_log *log) {
  for (int i = 0; i < LOOKS_MAX && maps->hand; i++) {
    ps_segment *segment = maps->hand;
    ps_log *owner = segment->listed_by;
    maps->hand = segment->next;
    if (owner == log) {
      if (is_idle(segment)) return take(maps, segment);
    } else if (pthread_mutex_trylock(&owner->table_mutex) == 0) {
      ps_segment *idle = is_idle(segment) ? take(maps, segment) : NULL;
      pthread_mutex_unlock(&owner->table_mutex);
      if (idle) return idle;
    }
  }
  return NULL;
}

/* Where there are too many, some go. The mutex of the table of `log` is held. */
static void shrink(ps_maps *maps, ps_log *log, ps_segment *comes) {
  ps_segment *idle[GO_MAX];
  int count = 0;
  pthread_mutex_lock(&maps->mutex);
  if (comes) enter(maps, log, comes);
  while (maps->max > 0 && maps->count > maps->max && count < GO_MAX &&
         (idle[count] = find_idle(maps, log)) != NULL)
    count++;
  pthread_mutex_unlock(&maps->mutex);
  while (count > 0) ps_segment_unref(idle[--count]);
}

void ps_maps_add(ps_maps *maps, ps_log *log, ps_segment *segment) {
  if (maps && !segment->listed_by) shrink(maps, log, segment);
}

void ps_maps_shrink(ps_maps *maps, ps_log *log) {
  if (maps) shrink(maps, log, NULL);
}

void ps_maps_remove(ps_maps *maps, ps_segment *segment) {
  if (!maps || !segment->listed_by) return;
  pthread_mutex_lock(&maps->mutex);
  leave(maps, segment);
  pthread_mutex_unlock(&maps->mutex);
}
