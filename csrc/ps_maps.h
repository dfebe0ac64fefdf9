/* ps_maps.h - how many segments stay mapped that nobody is using just now.
 *
 * A process may have 65,530 maps or so (vm.max_map_count), whatever its memory. So all logs of a store in
 * this process share a ring of the segments that their tables keep open, and when there are too many, those
 * go that were not asked for lately and are lent to nobody; they are mapped again when they are next needed.
 * The segments that are being appended to are not among them: a partition that is written has its head, its
 * active segment, that segment once more for writing, and its index, which makes four maps.
 *
 * A segment is in the ring exactly as long as a table holds it open, finished. Whoever changes that holds the
 * mutex of that table. */
#ifndef PS_MAPS_H
#define PS_MAPS_H

#include <pthread.h>

#include "ps_segment.h"

/* Finished segments that stay mapped, two maps each with its index. */
#define PS_MAPS_MAX 1024

struct ps_log;

typedef struct ps_maps { /* zeros: empty, without a bound */
  pthread_mutex_t mutex;
  ps_segment *hand; /* where the search for one to let go goes on; NULL: the ring is empty */
  size_t count, max;
} ps_maps;

/* `segment`, which the table of `log` holds, joins the ring; if that makes too many, others go. The mutex of
 * that table is held, and the caller has a reference of his own. maps may be NULL: nothing is done. */
void ps_maps_add(ps_maps *maps, struct ps_log *log, ps_segment *segment);
/* Some may go now that could not before. The mutex of the table of `log` is held. */
void ps_maps_shrink(ps_maps *maps, struct ps_log *log);
/* It leaves the ring, if it is there. The mutex of its table is held. */
void ps_maps_remove(ps_maps *maps, ps_segment *segment);

#endif
