/* Making, growing and freeing producers, and the memory they work in. */
#include "ps_clock.h"
#include "ps_producer.h"

void *ps_scratch_reserve(ps_scratch *s, uint64_t bytes) {
  if (s->bytes < bytes) {
    ps_scratch_free(s);
    s->data = malloc(bytes);
    if (s->data) s->bytes = bytes;
  }
  return s->data;
}

void ps_scratch_free(ps_scratch *s) {
  free(s->data);
  s->data = NULL;
  s->bytes = 0;
}

static bool make_lanes(ps_producer *p, ps_lanes *block, uint32_t begin, uint32_t count) {
  block->lanes = calloc(count, sizeof *block->lanes);
  if (!block->lanes) return false;
  block->end = begin + count;
  for (uint32_t i = 0; i < count; i++) {
    block->lanes[i].producer = p;
    block->lanes[i].index = begin + i;
  }
  return true;
}

ps_producer *ps_producer_new(const ps_producer_options *options, uint32_t lane_count) {
  PS_ASSERT(lane_count > 0);
  ps_producer *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  if (!make_lanes(p, &p->first, 0, lane_count)) {
    free(p);
    return NULL;
  }
  p->options = *options;
  p->lane_count = lane_count;
  PS_ASSERT(pthread_mutex_init(&p->wait_mutex, NULL) == 0);
  ps_cond_init(&p->progress);
  return p;
}

ps_lanes *ps_producer_more(ps_producer *p, uint32_t count) {
  ps_lanes *more = calloc(1, sizeof *more);
  if (more && make_lanes(p, more, p->lane_count, count)) return more;
  ps_lanes_free(more);
  return NULL;
}

void ps_lanes_free(ps_lanes *more) {
  if (!more) return;
  free(more->lanes);
  free(more);
}

void ps_producer_grow(ps_producer *p, ps_lanes *more) {
  ps_lanes *last = &p->first;
  while (last->next) last = last->next;
  ps_spin_lock(&p->lock);
  __atomic_store_n(&last->next, more, __ATOMIC_RELEASE);
  __atomic_store_n(&p->lane_count, more->end, __ATOMIC_RELEASE);
  ps_spin_unlock(&p->lock);
}

static void free_list(ps_builder *b) {
  while (b) {
    ps_builder *next = b->next;
    ps_builder_free(b);
    b = next;
  }
}

void ps_producer_free(ps_producer *p) {
  if (!p) return;
  for (uint32_t i = 0; i < p->lane_count; i++) {
    ps_builder_free(ps_producer_lane(p, i)->open);
    free_list(ps_producer_lane(p, i)->head);
  }
  free_list(p->free_builders);
  free_list(p->done_first);
  pthread_mutex_destroy(&p->wait_mutex);
  pthread_cond_destroy(&p->progress);
  free(p->first.lanes);
  for (ps_lanes *more = p->first.next; more;) {
    ps_lanes *next = more->next;
    ps_lanes_free(more);
    more = next;
  }
  free(p);
}
