#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ps_watch.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ps_clock.h"
#include "ps_worker.h"

#define SHARDS 8                             /* threads at most; the first one looks after the others */
#define SHARD_POSTS (PS_WAIT_WORDS_MAX - 1u) /* one word is the thread's own */
#define BUCKETS 1024u
#define SLICE_NS 1000000000ll
#define NAP_NS_MIN 1000000ll
#define NAP_NS_MAX 20000000ll
#define STRIKES_MAX 100 /* refused sleeps in a row, after which none is tried */

/* One of the things that a watch waits for. */
typedef struct wait_item {
  ps_watch *watch;
  struct post *post; /* NULL when not registered */
  struct wait_item *prev, *next;
  ps_log *log; /* or NULL */
  ps_producer *producer;
  const uint32_t *word;
  bool durable;   /* of a log: what is on the disk, and not the watermark */
  int64_t asked;  /* by the caller, for the next wait */
  int64_t wanted; /* of a word: the value it must not have */
  uint32_t seen;
  struct wait_item *due_next; /* in a list of those about to ring */
} wait_item;

struct ps_watch {
  ps_bell *bell;
  void *user;
  bool stands; /* what has not rung stays enlisted for the next wait */
  bool due;    /* an item is in a list of those about to ring */
  bool rung;   /* once and for all, or until the next wait */
  bool listed; /* with the bell: rung, and not taken */
  struct ps_watch *next, *prev;
  size_t count;
  wait_item items[];
};

struct ps_bell {
  ps_watcher *watcher;
  int fd;
  bool ringing; /* the descriptor is readable, or about to be */
  ps_watch *first, *last;
};

/* What at least one item waits for: one word, whoever waits. */
typedef struct post {
  struct post *bucket_next;
  struct post *prev, *next; /* in a list of those that are looked at */
  struct post **list;       /* that list; NULL: a thread sleeps on the word */
  ps_log *log;
  ps_producer *producer;
  const uint32_t *word;
  wait_item *items;
  struct shard *shard;
  size_t place; /* in the shard */
  uint32_t seen;
} post;

typedef struct shard {
  ps_watcher *watcher;
  pthread_t thread;
  uint32_t control; /* the thread's own word */
  bool started, asleep;
  size_t count;
  post *posts[SHARD_POSTS];
} shard;

struct ps_watcher {
  pthread_mutex_t mutex;
  shard shards[SHARDS];
  post *buckets[BUCKETS];
  post *crowd; /* too many to sleep on */
  post *mute;  /* words that nobody changes */
  post *free_posts;
  int64_t nap_ns;
  int64_t looked_ns; /* when all that is slept on was last looked at */
  bool no_wait_many;
  bool stop;
};

ps_watcher *ps_watcher_new(void) {
  ps_watcher *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  PS_ASSERT(pthread_mutex_init(&w->mutex, NULL) == 0);
  for (size_t i = 0; i < SHARDS; i++) w->shards[i].watcher = w;
  w->nap_ns = NAP_NS_MIN;
  return w;
}

/* ---- words --------------------------------------------------------------------------------------- */

static const void *word_of(const post *p) {
  if (p->word) return p->word;
  return p->log ? ps_log_signal_word(p->log) : (const void *)PS_DELIVERIES_WORD(p->producer);
}

/* The value to sleep on. Of a log: with the mark of those who wait, which whoever is enlisted has set, and
 * which goes only when the word is moved. */
static uint32_t load_word(const post *p) {
  uint32_t now = __atomic_load_n((const uint32_t *)word_of(p), __ATOMIC_SEQ_CST);
  return p->log ? now | PS_HEAD_SIGNAL_WAITED : now;
}

/* The same, which from now on is changed and woken. */
static uint32_t listen(const post *p) { return p->log ? ps_log_listen(p->log) : load_word(p); }

static bool is_mute(const post *p) { return p->log && ps_log_is_read_only(p->log); }

/* Producers count who listens; logs are told anew after each wake-up; plain words are woken always. */
static void count_listener(const post *p, int n) {
  if (p->producer) __atomic_add_fetch(&p->producer->listeners, (uint32_t)n, __ATOMIC_SEQ_CST);
}

static bool is_there(const wait_item *item) {
  if (item->log) return ps_log_readable_offset(item->log, item->durable) > item->wanted;
  if (item->word) return __atomic_load_n(item->word, __ATOMIC_SEQ_CST) != item->wanted;
  return (int64_t)ps_producer_deliveries(item->producer) != item->wanted;
}

/* ---- posts, under the mutex ----------------------------------------------------------------------- */

static post **bucket_of(ps_watcher *w, const void *source) {
  return &w->buckets[((uintptr_t)source * 0x9e3779b97f4a7c15ull) >> 54];
}

/* Its name: two posts never have the same. */
static const void *source_of(const ps_log *log, const ps_producer *producer, const uint32_t *word) {
  return log ? (const void *)log : producer ? (const void *)producer : word;
}

static const void *source_of_post(const post *p) { return source_of(p->log, p->producer, p->word); }

static void list_post(post **list, post *p) {
  p->list = list;
  p->prev = NULL;
  p->next = *list;
  if (p->next) p->next->prev = p;
  *list = p;
}

static void unlist_post(post *p) {
  if (p->prev)
    p->prev->next = p->next;
  else
    *p->list = p->next;
  if (p->next) p->next->prev = p->prev;
  p->list = NULL;
}

/* Have a shard sleep on it from now on. What was published before is for the caller to look for. */
static void seat(shard *s, post *p) {
  p->shard = s;
  p->place = s->count;
  s->posts[s->count++] = p;
  count_listener(p, 1);
  p->seen = listen(p);
  for (wait_item *item = p->items; item; item = item->next) item->seen = p->seen;
}

static void unseat(post *p) {
  shard *s = p->shard;
  count_listener(p, -1);
  s->posts[p->place] = s->posts[--s->count];
  s->posts[p->place]->place = p->place;
  p->shard = NULL;
}

static shard *with_room(ps_watcher *w) {
  if (w->no_wait_many) return NULL;
  for (size_t i = 0; i < SHARDS; i++)
    if (w->shards[i].count < SHARD_POSTS) return &w->shards[i];
  return NULL;
}

static post *find_post(ps_watcher *w, const void *source) {
  post *p = *bucket_of(w, source);
  while (p && source_of_post(p) != source) p = p->bucket_next;
  return p;
}

/* NULL: no memory. */
static post *new_post(ps_watcher *w, const wait_item *item) {
  post *p = w->free_posts;
  if (p)
    w->free_posts = p->next;
  else if (!(p = malloc(sizeof *p)))
    return NULL;
  *p = (post){.log = item->log, .producer = item->producer, .word = item->word};
  post **bucket = bucket_of(w, source_of_post(p));
  p->bucket_next = *bucket;
  *bucket = p;
  shard *s = is_mute(p) ? NULL : with_room(w);
  if (s)
    seat(s, p);
  else
    list_post(is_mute(p) ? &w->mute : &w->crowd, p);
  if (!s) w->nap_ns = NAP_NS_MIN;
  return p;
}

static void drop_post(ps_watcher *w, post *p) {
  post **at = bucket_of(w, source_of_post(p));
  while (*at != p) at = &(*at)->bucket_next;
  *at = p->bucket_next;
  if (p->shard)
    unseat(p);
  else
    unlist_post(p);
  p->next = w->free_posts;
  w->free_posts = p;
}

static void withdraw(ps_watcher *w, wait_item *item) {
  post *p = item->post;
  if (!p) return;
  item->post = NULL;
  if (item->prev)
    item->prev->next = item->next;
  else
    p->items = item->next;
  if (item->next) item->next->prev = item->prev;
  if (!p->items) drop_post(w, p);
}

static void withdraw_all(ps_watch *watch) {
  for (size_t i = 0; i < watch->count; i++) withdraw(watch->bell->watcher, &watch->items[i]);
}

/* ---- bells ---------------------------------------------------------------------------------------- */

ps_status ps_bell_new(ps_watcher *w, ps_bell **out, ps_error *err) {
  ps_bell *bell = calloc(1, sizeof *bell);
  if (!bell) return ps_fail(err, PS_NO_MEMORY, NULL, "no memory for an event loop's bell");
  bell->watcher = w;
  bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (bell->fd < 0) {
    int failed = errno;
    free(bell);
    return ps_fail_errno(err, failed, NULL, "making an eventfd for an event loop");
  }
  *out = bell;
  return PS_OK;
}

void ps_bell_free(ps_bell *bell) {
  close(bell->fd);
  free(bell);
}

int ps_bell_fd(const ps_bell *bell) { return bell->fd; }

void ps_bell_answer(ps_bell *bell) {
  uint64_t rings;
  pthread_mutex_lock(&bell->watcher->mutex);
  bell->ringing = false;
  ssize_t ignored = read(bell->fd, &rings, sizeof rings);
  (void)ignored; /* never full, never waits */
  pthread_mutex_unlock(&bell->watcher->mutex);
}

int ps_bell_wait(const ps_bell *bell, int64_t timeout_ns) {
  struct pollfd poller = {.fd = bell->fd, .events = POLLIN};
  struct timespec t = {timeout_ns / 1000000000, timeout_ns % 1000000000};
  int n = ppoll(&poller, 1, timeout_ns < 0 ? NULL : &t, NULL);
  return n < 0 ? -errno : n == 0 ? -ETIMEDOUT : 0;
}

static void unlist_watch(ps_watch *watch) {
  ps_bell *bell = watch->bell;
  *(watch->prev ? &watch->prev->next : &bell->first) = watch->next;
  *(watch->next ? &watch->next->prev : &bell->last) = watch->prev;
  watch->listed = false;
}

void *ps_bell_take(ps_bell *bell) {
  pthread_mutex_lock(&bell->watcher->mutex);
  ps_watch *watch = bell->first;
  if (watch) unlist_watch(watch);
  pthread_mutex_unlock(&bell->watcher->mutex);
  return watch ? watch->user : NULL;
}

/* Under the mutex: so the bell is not freed, and its number another file's, before the write. */
static void ring(ps_watch *watch) {
  if (watch->rung) return;
  ps_bell *bell = watch->bell;
  watch->rung = watch->listed = true;
  if (!watch->stands) withdraw_all(watch);
  watch->next = NULL;
  watch->prev = bell->last;
  *(bell->last ? &bell->last->next : &bell->first) = watch;
  bell->last = watch;
  if (bell->ringing) return;
  bell->ringing = true;
  uint64_t one = 1;
  ssize_t ignored = write(bell->fd, &one, sizeof one);
  (void)ignored;
}

/* ---- the threads ---------------------------------------------------------------------------------- */

/* List the items whose time has come; nothing is taken away yet. */
static void look(post *p, wait_item **due) {
  uint32_t now = is_mute(p) ? 0 : load_word(p);
  /* Of words that are slept on, a deletion has changed the word. */
  bool gone = p->log && !p->shard && ps_log_check(p->log, NULL) == PS_DELETED;
  p->seen = now;
  for (wait_item *item = p->items; item; item = item->next) {
    ps_watch *watch = item->watch;
    if ((watch->due && !watch->stands) || !(gone || item->seen != now || is_there(item))) continue;
    watch->due = true;
    item->due_next = *due;
    *due = item;
  }
}

static bool ring_all(ps_watcher *w, wait_item *due) {
  bool any = due != NULL;
  for (; due; due = due->due_next) {
    due->watch->due = false;
    if (due->watch->stands) withdraw(w, due);
    ring(due->watch);
  }
  return any;
}

/* Words that came free go to those who wait for one. */
static void fill(shard *s) {
  ps_watcher *w = s->watcher;
  wait_item *due = NULL;
  while (w->crowd && !w->no_wait_many && s->count < SHARD_POSTS) {
    post *p = w->crowd;
    unlist_post(p);
    seat(s, p);
    look(p, &due);
  }
  ring_all(w, due);
}

static void look_all(const shard *s, wait_item **due) {
  for (size_t i = 0; i < s->count; i++) look(s->posts[i], due);
}

/* For writers that died before they woke anybody: only the first shard's sleeps are cut, and it looks after
 * the others, so that a process wakes once a second, whatever the number of its shards. */
static void look_after_others(ps_watcher *w, wait_item **due) {
  int64_t now = ps_os_monotonic_ns();
  if (now - w->looked_ns < SLICE_NS) return;
  for (size_t i = 1; i < SHARDS; i++) look_all(&w->shards[i], due);
  w->looked_ns = now;
}

/* How long the first shard may sleep before it looks after the others; -1: nobody waits. */
static int64_t slice_left(const ps_watcher *w) {
  size_t posts = 0;
  for (size_t i = 0; i < SHARDS; i++) posts += w->shards[i].count;
  if (posts == 0) return -1;
  int64_t left = w->looked_ns + SLICE_NS - ps_os_monotonic_ns();
  return left > 0 ? left : 0;
}

/* The first shard looks at what cannot be slept on. Returns how long a sleep may be; -1: any time. */
static int64_t scan(shard *s) {
  ps_watcher *w = s->watcher;
  wait_item *due = NULL;
  if (s == w->shards) look_after_others(w, &due);
  look_all(s, &due);
  ring_all(w, due);
  fill(s);
  if (s != w->shards) return -1;
  if (!w->crowd && !w->mute) return slice_left(w);
  due = NULL;
  for (post *p = w->crowd; p; p = p->next) look(p, &due);
  for (post *p = w->mute; p; p = p->next) look(p, &due);
  int64_t nap_ns = w->nap_ns;
  w->nap_ns = ring_all(w, due) ? NAP_NS_MIN : nap_ns * 2 < NAP_NS_MAX ? nap_ns * 2 : NAP_NS_MAX;
  return nap_ns;
}

/* Nothing can be slept on: all is looked at. */
static void forgo_words(ps_watcher *w) {
  w->no_wait_many = true;
  for (size_t i = 0; i < SHARDS; i++)
    while (w->shards[i].count) {
      post *p = w->shards[i].posts[0];
      unseat(p);
      list_post(&w->crowd, p);
    }
}

/* In the place of a sleep, under the mutex. */
static void nap(ps_watcher *w, int64_t timeout_ns) {
  pthread_mutex_unlock(&w->mutex);
  (void)ps_os_nap(timeout_ns >= 0 && timeout_ns < NAP_NS_MAX ? timeout_ns : NAP_NS_MAX);
  pthread_mutex_lock(&w->mutex);
}

static void *shard_main(void *argument) {
  shard *s = argument;
  ps_watcher *w = s->watcher;
  const void *words[PS_WAIT_WORDS_MAX];
  uint32_t seen[PS_WAIT_WORDS_MAX];
  int strikes = 0;
  pthread_mutex_lock(&w->mutex);
  while (!w->stop) {
    int64_t timeout_ns = scan(s);
    size_t count = 1;
    words[0] = &s->control;
    seen[0] = s->control;
    for (size_t i = 0; i < s->count; i++, count++) {
      words[count] = word_of(s->posts[i]);
      seen[count] = s->posts[i]->seen;
    }
    s->asleep = true;
    pthread_mutex_unlock(&w->mutex);
    /* A word whose log was closed and unmapped by now is answered with EFAULT: then the list is another. */
    int answer = count == 1 ? ps_os_futex_wait(words[0], seen[0], timeout_ns)
                            : ps_os_futex_wait_many(words, seen, count, timeout_ns);
    pthread_mutex_lock(&w->mutex);
    s->asleep = false;
    bool odd = answer < 0 && answer != -ETIMEDOUT && answer != -EINTR;
    if (odd && count == 1) nap(w, timeout_ns);
    strikes = odd ? strikes + 1 : 0;
    if (odd && count > 1 && (answer != -EFAULT || strikes == STRIKES_MAX)) forgo_words(w);
  }
  pthread_mutex_unlock(&w->mutex);
  return NULL;
}

/* A set of shards, one bit each, that have something new to sleep on. */
static void wake_shards(ps_watcher *w, uint32_t shards) {
  for (size_t i = 0; i < SHARDS; i++)
    if (shards & 1u << i) ps_os_futex_wake_all(&w->shards[i].control);
}

/* Tell a shard to look again. Returns its bit if it has to be woken, once the mutex is free. */
static uint32_t tell(shard *s) {
  __atomic_add_fetch(&s->control, 1, __ATOMIC_SEQ_CST);
  if (!s->asleep) return 0;
  s->asleep = false;
  return 1u << (s - s->watcher->shards);
}

static ps_status start(shard *s, ps_error *err) {
  if (s->started) return PS_OK;
  int failed = ps_thread_start(&s->thread, shard_main, s, "pystream-watch");
  if (failed) return ps_fail_errno(err, failed, NULL, "cannot start a helper thread");
  s->started = true;
  return PS_OK;
}

void ps_watcher_stop(ps_watcher *w) {
  pthread_mutex_lock(&w->mutex);
  w->stop = true;
  uint32_t wake = 0;
  for (size_t i = 0; i < SHARDS; i++) wake |= tell(&w->shards[i]);
  pthread_mutex_unlock(&w->mutex);
  wake_shards(w, wake);
  for (size_t i = 0; i < SHARDS; i++)
    if (w->shards[i].started) pthread_join(w->shards[i].thread, NULL);
}

void ps_watcher_free(ps_watcher *w) {
  for (post *p = w->free_posts, *next; p; p = next) {
    next = p->next;
    free(p);
  }
  pthread_mutex_destroy(&w->mutex);
  free(w);
}

/* ---- watches -------------------------------------------------------------------------------------- */

ps_watch *ps_watch_new(ps_bell *bell, size_t count, void *user) {
  ps_watch *watch = calloc(1, sizeof *watch + count * sizeof(wait_item));
  if (!watch) return NULL;
  watch->bell = bell;
  watch->user = user;
  watch->count = count;
  for (size_t i = 0; i < count; i++) watch->items[i].watch = watch;
  return watch;
}

void ps_watch_stand(ps_watch *watch) { watch->stands = true; }

void ps_watch_log(ps_watch *watch, size_t i, ps_log *log, int64_t wanted, bool durable) {
  PS_ASSERT(i < watch->count);
  watch->items[i].durable = durable;
  watch->items[i].log = log;
  watch->items[i].asked = wanted;
}

void ps_watch_producer(ps_watch *watch, size_t i, ps_producer *producer, uint64_t seen) {
  PS_ASSERT(i < watch->count);
  watch->items[i].producer = producer;
  watch->items[i].asked = (int64_t)seen;
}

void ps_watch_word(ps_watch *watch, size_t i, const uint32_t *word, uint32_t seen) {
  PS_ASSERT(i < watch->count);
  watch->items[i].word = word;
  watch->items[i].asked = seen;
}

/* Under the mutex. *wake: shards to be told. */
static ps_status enlist(ps_watcher *w, wait_item *item, uint32_t *wake, ps_error *err) {
  post *p = find_post(w, source_of(item->log, item->producer, item->word));
  bool is_new = p == NULL;
  if (is_new && !(p = new_post(w, item))) return ps_fail(err, PS_NO_MEMORY, NULL, "no memory for a wait");
  item->post = p;
  item->prev = NULL;
  item->next = p->items;
  if (item->next) item->next->prev = item;
  p->items = item;
  /* As it is now, not as the thread last saw it: what changed before is found by looking, below. */
  item->seen = is_mute(p) ? 0 : p->shard ? listen(p) : load_word(p);
  if (is_there(item)) return PS_END;
  if (!is_new) return PS_OK;
  shard *s = p->shard ? p->shard : w->shards;
  *wake |= tell(s);
  return start(s, err);
}

ps_status ps_watch_begin(ps_watch *watch, ps_error *err) {
  ps_watcher *w = watch->bell->watcher;
  ps_status status = PS_OK;
  uint32_t wake = 0;
  pthread_mutex_lock(&w->mutex);
  watch->rung = false;
  if (watch->listed) unlist_watch(watch);
  for (size_t i = 0; i < watch->count && status == PS_OK; i++) {
    wait_item *item = &watch->items[i];
    item->wanted =
        item->asked; /* of one still enlisted nothing was published since, or it is about to ring */
    if (!item->post) status = enlist(w, item, &wake, err);
    if (status == PS_END && watch->stands) withdraw(w, item);
  }
  if (status != PS_OK && !(status == PS_END && watch->stands)) withdraw_all(watch);
  pthread_mutex_unlock(&w->mutex);
  wake_shards(w, wake);
  return status;
}

void ps_watch_ring(ps_watch *watch) {
  pthread_mutex_lock(&watch->bell->watcher->mutex);
  ring(watch);
  pthread_mutex_unlock(&watch->bell->watcher->mutex);
}

void ps_watch_free(ps_watch *watch) {
  pthread_mutex_lock(&watch->bell->watcher->mutex);
  withdraw_all(watch);
  if (watch->listed) unlist_watch(watch);
  pthread_mutex_unlock(&watch->bell->watcher->mutex);
  free(watch);
}

void ps_watch_abandon(ps_watch *watch) { free(watch); }
