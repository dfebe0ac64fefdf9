/* What a power failure leaves: see disk.h for the model. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "photo.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "disk.h"
#include "image.h"
#include "inodes.h"

typedef enum pages_mood {
  EVERYTHING,
  NOTHING,
  ONE_LOST,
  ONE_KEPT,
  ONE_TORN,
  EVEN,
  MOSTLY_KEPT,
  MOSTLY_LOST,
  FIRST,
  LAST,
  FILES,
  LAST_TORN
} pages_mood;
const char *const ps_disk_moods[PS_DISK_MOODS] = {"everything", "nothing", "one-lost",    "one-kept",
                                                  "one-torn",   "even",    "mostly-kept", "mostly-lost",
                                                  "first",      "last",    "files",       "last-torn"};
enum { NAMES_ALL, NAMES_NONE, NAMES_EACH, NAMES_NEWEST_LOST, NAMES_JOURNAL, NAMES_MOODS };
static const char *const names_moods[] = {"all", "none", "each", "newest-lost", "journal"};
enum { SIZES_NEW, SIZES_OLD, SIZES_ANY, SIZES_MOODS };
static const char *const sizes_moods[] = {"new", "old", "any"};

static int only_mood; /* + 1 */
static char mood[100];

/* ---- the photo ----------------------------------------------------------------------------------- */

typedef struct photo {
  pages_mood pages;
  int names, sizes;
  bool stale; /* what was never written shows what others wrote */
  names kept;
  FILE *trace;
  const char *dest;
} photo;

static void choose_names(photo *p) {
  int n = the_disk.op_count;
  p->kept = (names){0};
  for (int i = 0; i < the_disk.disk.count; i++) image_set_name(&p->kept, &the_disk.disk.at[i]);
  if (n == 0) return;
  int *upto = image_must(malloc((size_t)n * sizeof *upto)),
      *seen = image_must(calloc((size_t)n, sizeof *seen));
  image_find_chains();
  int until = (int)image_chance(n + 1) - 1; /* the journal's */
  for (int i = 0; i < n; i++) upto[i] = p->names == NAMES_NONE ? NONE : p->names == NAMES_JOURNAL ? until : n;
  if (p->names == NAMES_EACH || p->names == NAMES_NEWEST_LOST) {
    for (int i = 0; i < n; i++) upto[i] = NONE;
    int64_t one = image_chance(2) ? image_chance(n) : NONE; /* of one chain only, else of all */
    for (int i = 0; i < n; i++) { /* each change is the last one, or none, with equal odds */
      int chain = the_disk.ops[i].chain;
      if (p->names == NAMES_EACH && image_chance(++seen[chain] + 1) == 0) upto[chain] = i;
      if (p->names == NAMES_NEWEST_LOST && one != NONE && chain != the_disk.ops[one].chain) upto[chain] = n;
    }
    for (int i = 0; p->names == NAMES_NEWEST_LOST && i < n; i++) { /* up to the last but one */
      bool last = true;
      for (int j = i + 1; j < n; j++) last = last && the_disk.ops[j].chain != the_disk.ops[i].chain;
      if (!last && upto[the_disk.ops[i].chain] != n) upto[the_disk.ops[i].chain] = i;
    }
  }
  for (int i = 0; i < n; i++)
    if (i <= upto[the_disk.ops[i].chain])
      for (int j = 0; j < the_disk.ops[i].sets; j++) image_set_name(&p->kept, &the_disk.ops[i].set[j]);
  free(upto);
  free(seen);
}

static bool page_differs(const node *n, int64_t page) {
  return page * PAGE < n->size_now && image_is_dirty(n, &n->now, page);
}

/* Read every file that has kept a name, and choose which of its pages are kept. */
static void choose_pages(photo *p) {
  int64_t files = 0;
  for (int i = 0; i < the_disk.node_count; i++) the_disk.nodes[i]->listed = false;
  for (int i = 0; i < p->kept.count; i++) {
    node *n = the_disk.nodes[p->kept.at[i].node];
    if (n->directory || n->listed) continue;
    n->listed = true;
    n->path[0] = '\0';
    n->size_now = image_read_now(n, &n->now);
    n->dirty = 0;
    for (int64_t page = 0; page < pages_of(n->size_now); page++) n->dirty += page_differs(n, page);
    files += n->dirty > 0;
    n->one = p->pages == LAST_TORN ? n->dirty - 1 : NONE;
    n->first = 0;
    n->last = n->dirty;
    if (p->pages == NOTHING || p->pages == ONE_KEPT) n->last = 0;
    if (p->pages == FIRST) n->last = image_chance(n->dirty + 1);
    if (p->pages == LAST) n->first = image_chance(n->dirty + 1);
    if (p->pages == FILES && image_chance(2)) n->last = 0;
  }
  bool one = p->pages == ONE_LOST || p->pages == ONE_KEPT || p->pages == ONE_TORN;
  int64_t chosen = image_chance(files);
  for (int i = 0; one && i < the_disk.node_count; i++) {
    node *n = the_disk.nodes[i];
    if (!n->directory && n->listed && n->dirty > 0 && chosen-- == 0) n->one = image_chance(n->dirty);
  }
}

typedef enum fate { KEPT, LOST, TORN } fate;

/* Of the i-th page of a file that differs. */
static fate fate_of(const photo *p, const node *n, int64_t i) {
  switch (p->pages) {
  case EVEN:
    return (fate)image_chance(3);
  case MOSTLY_KEPT:
    return image_chance(10) ? KEPT : (fate)(LOST + image_chance(2));
  case MOSTLY_LOST:
    return image_chance(10) ? LOST : image_chance(2) ? KEPT : TORN;
  case ONE_LOST:
    return i == n->one ? LOST : KEPT;
  case ONE_KEPT:
    return i == n->one ? KEPT : LOST;
  case ONE_TORN:
  case LAST_TORN:
    return i == n->one ? TORN : KEPT;
  default:
    return i >= n->first && i < n->last ? KEPT : LOST;
  }
}

/* What is drawn does not depend on what stands there: so a seed plays the same, whatever is random in a file.
 */
static void tear(uint8_t *out, const uint8_t *before, const uint8_t *now) {
  int64_t how = image_chance(4), sectors = PAGE / SECTOR, upto = image_chance(sectors + 1);
  uint64_t mixed = (uint64_t)image_chance(1 << sectors), garbage = (uint64_t)image_chance(INT64_MAX) | 1;
  for (int64_t s = 0; s < sectors; s++) {
    bool fresh = how == 0 ? mixed >> s & 1 : how == 1 ? s < upto : true;
    memcpy(out + s * SECTOR, (fresh ? now : before) + s * SECTOR, SECTOR);
  }
  for (int i = 0; how >= 2 && i < PAGE; i++) {
    garbage = garbage * 6364136223846793005ull + 1442695040888963407ull;
    if (before[i] != now[i]) out[i] = how == 2 ? 0 : (uint8_t)(garbage >> 56);
  }
}

static int64_t size_of(const photo *p, const node *n) {
  int64_t low = smaller(n->size, n->least), high = larger(n->size, n->size_now);
  int64_t how = p->sizes == SIZES_ANY ? image_chance(4) : p->sizes == SIZES_NEW ? 0 : 1;
  if (how == 0) return n->size_now;
  if (how == 1) return n->size;
  int64_t size = low + image_chance(high - low + 1);
  return how == 2 ? larger(low, size / PAGE * PAGE) : size;
}

/* Nothing was ever written there. */
static bool is_blank(const uint8_t *page) {
  static const uint8_t zeros[PAGE];
  return memcmp(page, zeros, PAGE) == 0;
}

/* That of another file, of whichever comes first that has something there. */
static const uint8_t *stale_page(int64_t page) {
  const uint8_t *found = NULL;
  for (int tries = 0; tries < 6 && (!found || is_blank(found)); tries++)
    found = image_page(&the_disk.nodes[image_chance(the_disk.node_count)]->image, page);
  return found;
}

static int put_file(photo *p, node *n, const char *path) {
  static bytes out;
  int64_t size = size_of(p, n), differing = 0;
  int64_t fates[3] = {0};
  image_use(&out, 0);
  image_use(&out, size);
  for (int64_t page = 0; page < pages_of(size); page++) {
    const uint8_t *before = image_page(&n->image, page), *now = image_page(&n->now, page);
    uint8_t *to = out.at + page * PAGE;
    if (!page_differs(n, page)) {
      memcpy(to, before, PAGE);
      continue;
    }
    fate fate = fate_of(p, n, differing++);
    fates[fate]++;
    if (fate == KEPT)
      memcpy(to, now, PAGE);
    else if (fate == TORN)
      tear(to, before, now);
    else if (page * PAGE >= n->least && page * PAGE < n->size &&
             image_chance(2)) /* taken away, and come back */
      memset(to, 0, PAGE);
    else if (p->stale && page > 0 && is_blank(before))
      memcpy(to, stale_page(page), PAGE);
    else
      memcpy(to, before, PAGE);
  }
  if (size % PAGE) memset(out.at + size, 0, (size_t)(PAGE - size % PAGE));
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) return errno;
  bool holes = image_chance(4) != 0;
  int failed = 0;
  for (int64_t at = 0, end; at < size && !failed; at = end) { /* runs of pages that are not holes */
    end = at;
    while (end < size && !(holes && is_blank(out.at + end))) end += PAGE;
    int64_t length = smaller(end, size) - at;
    if (length > 0 && syscall(SYS_pwrite64, fd, out.at + at, (size_t)length, at) != length) failed = EIO;
    end += PAGE;
  }
  if (!failed && syscall(SYS_ftruncate, fd, size) < 0) failed = errno;
  struct stat st;
  if (syscall(SYS_fstat, fd, &st) == 0) inodes_add(st.st_ino, n->inode);
  syscall(SYS_close, fd);
  if (p->trace)
    fprintf(p->trace, "  %s: %lld bytes (was %lld, would be %lld); pages kept %lld, lost %lld, torn %lld\n",
            path + strlen(p->dest), (long long)size, (long long)n->size, (long long)n->size_now,
            (long long)fates[KEPT], (long long)fates[LOST], (long long)fates[TORN]);
  return failed;
}

static int put_directory(photo *p, int directory, const char *path, int depth) {
  char inner[PATH_MAX];
  int failed = syscall(SYS_mkdirat, AT_FDCWD, path, 0777) < 0 ? errno : 0;
  if (depth > 64) return ELOOP;
  for (int i = 0; i < p->kept.count && !failed; i++) {
    const name *at = &p->kept.at[i];
    if (at->directory != directory) continue;
    node *n = the_disk.nodes[at->node];
    if (snprintf(inner, sizeof inner, "%s/%s", path, the_disk.texts[at->text]) >= (int)sizeof inner)
      return ENAMETOOLONG;
    if (n->directory) {
      failed = put_directory(p, at->node, inner, depth + 1);
    } else if (n->path[0]) {
      failed = syscall(SYS_linkat, AT_FDCWD, n->path, AT_FDCWD, inner, 0) < 0 ? errno : 0;
    } else {
      failed = put_file(p, n, inner);
      strcpy(n->path, inner);
    }
  }
  return failed;
}

int photo_take(const char *dest, uint64_t seed, FILE *trace) {
  the_disk.chance = seed;
  photo p = {.pages = (pages_mood)image_chance(PS_DISK_MOODS), .trace = trace, .dest = dest};
  if (only_mood) p.pages = (pages_mood)(only_mood - 1);
  p.names = image_chance(3) ? (int)image_chance(NAMES_MOODS) : NAMES_ALL;
  p.sizes = image_chance(3) ? (int)image_chance(SIZES_MOODS) : SIZES_NEW;
  p.stale = image_chance(4) == 0;
  snprintf(mood, sizeof mood, "pages %s, names %s, sizes %s%s", ps_disk_moods[p.pages], names_moods[p.names],
           sizes_moods[p.sizes], p.stale ? ", stale" : "");
  choose_names(&p);
  choose_pages(&p);
  if (trace) fprintf(trace, "photo %s: %s\n", dest, mood);
  inodes_begin();
  int failed = put_directory(&p, 0, dest, 0);
  if (!failed) failed = inodes_write(dest);
  free(p.kept.at);
  return failed;
}

const char *photo_mood(void) { return mood; }
void photo_only_mood(int mood) { only_mood = mood + 1; }
