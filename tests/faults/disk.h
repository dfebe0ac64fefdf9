/* disk.h - a disk on which calls fail, processes die, and power goes, when a test says so.
 *
 * disk.c takes the place of libc's calls on files: linked into a C program, or loaded before libc by
 * LD_PRELOAD. Calls on paths and descriptors below one directory, the root, are counted; all others pass.
 * Counted are open, close, read, write (pread, pwritev, ... too), fsync, fdatasync, syncfs, ftruncate,
 * fallocate, rename, link, unlink, mkdir, rmdir, copy_file_range, sendfile and mmap, and, where a program
 * says so, moments between calls (ps_disk_moment). Stores to a map are no calls.
 *
 * ---- what a power failure leaves -------------------------------------------------------------------
 *
 * The disk has, of every file, an image: pages of 4 KiB and a size; and of every directory its names. What
 * was there when the disk was armed is on it.
 *
 *   - fdatasync or fsync of a file brings its content and its size to the image, fsync of a directory the
 *     names in it, syncfs everything. fsync of a file brings no name, not even its own: ext4 does that,
 * others need not.
 *   - Of its own accord the kernel writes pages and sizes back at any moment (names too): so may the image
 *     be of some moment between the last sync and now, and each page of another one.
 *
 * When power fails, each of these is decided by chance, and apart from all others:
 *
 *   - A page that differs from its image is kept (as it now reads), lost (as in the image; zeros where that
 *     has nothing) or torn. Of a torn page, bytes that are the same in both stay: a disk that overwrites a
 *     sector with what stands there already does not harm it ("power-safe overwrite"). Those that differ are
 *     zeros, or anything; or each sector of 512 bytes is the old or the new one.
 *   - A lost page on which nothing of its file was ever written is zeros; or, in a few photos, that of
 *     another file at the same place, as if its blocks had been of a file whose end was cut off (ext4 with
 *     data=writeback shows such). The first page of a file never is.
 *   - A size is that of the image, the present one, or one in between; never below what a sync has covered,
 *     unless the file was truncated since. A truncation that did not happen leaves what it would have taken
 *     away. Space that was only reserved reads as zeros, or is not there.
 *   - What happened to names since they were synced (created, renamed, linked, removed) falls into chains:
 *     changes are of one chain that speak of one name or of one file. Of each chain the first few changes
 *     happened, none or all. A rename is one change: both names, in whatever directories, or neither; so a
 *     sync of either directory brings both.
 *   - Files keep their inode numbers: stat tells a process that is armed on the photo those that they had, by
 *     DEST.inodes, which is written beside it.
 *   - A file of which no name is left is lost. A file whose name came, and whose content was never synced,
 *     has any size up to the present one, and any of its pages.
 *
 * Were every page decided with the same odds, what matters most would never come up: one page lost of
 * hundreds, or one kept. So each failure has a mood: see ps_disk_mood.
 *
 * Not in the model: pages that were synced and are lost or changed all the same (disks that lie about their
 * cache, decay), sectors that cannot be read any more, and neighbours of a sector that are harmed by its
 * writing. */
#ifndef PS_DISK_H
#define PS_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Begin to count, for the calls below `root` (a directory, by its absolute path without links; "photo" wants
 * it to be there). Ends what was armed before. 0, or an errno.
 *
 *   "count"                        nothing more
 *   "fail:N:ERRNO[:TIMES]"         the N-th call (from 1) is not done, and answers ERRNO (a number); so do
 * the following, TIMES (1) in all, -1: all "kill:N"                       the process is killed (SIGKILL)
 * before the N-th call "photo:N:SEED:DEST"            before the N-th call, what a power failure leaves of
 * root is written into the directory DEST, made for it (not below root); then the process is killed, or the
 * handler is called, if there is one. N = 0: only ps_disk_photo does it.
 *
 * A close that fails closes all the same, as Linux does. A process armed by the environment
 * (PYSTREAM_DISK="ROOT|PLAN" when the library is loaded) and one armed by this call are the same; a child
 * that was forked goes on counting for itself. A photo knows of one process only: no other may change files
 * below root. Threads may: a photo waits for the call that is under way, and holds up all that come later. */
int ps_disk_arm(const char *root, const char *plan);
/* Calls of this name are counted, and never fail. Kept, not copied; NULL: none. Survives a new arming. */
void ps_disk_spare(const char *name);
/* Forget everything; calls pass. */
void ps_disk_disarm(void);

/* Calls and moments counted since the disk was armed. */
int64_t ps_disk_calls(void);
/* The call that was made to fail (the last one), and the path below root that it was for ("" when there was
 * none yet). Valid until the next arming. */
const char *ps_disk_failed(void);
const char *ps_disk_failed_path(void);

/* A counted moment that is no call: a named point in a program. */
void ps_disk_moment(const char *name);

/* Instead of being killed: called once, inside the N-th call, which is done afterwards; no call below root
 * may be made in it. Armed with a photo plan only. NULL: killed. Survives a new arming. */
typedef void (*ps_disk_handler)(void *context);
void ps_disk_handle(ps_disk_handler handler, void *context);

/* Take the photo now: armed with a photo plan. 0, or an errno. */
int ps_disk_photo(const char *dest, uint64_t seed);
/* Armed with a photo plan: let the kernel write some pages and names back, by chance; calls and moments do so
 * too, if `often` (in 1,024 of them) says so. */
void ps_disk_write_back(uint64_t seed);
void ps_disk_write_back_often(uint32_t often, uint64_t seed);

/* Armed with a photo plan: the next sync of a file fails with EIO, and does what Linux does then: calls the
 * pages clean that it has not written. False: none fails any more. True if it was still to come. */
bool ps_disk_fail_sync(bool fails);

/* What the last photo was like, in words. The moods:
 * pages:  everything, nothing, one-lost, one-kept, one-torn, even, mostly-kept, mostly-lost, first (of each
 *         file the pages up to one are kept), last (those from one on), files (each file wholly or not at
 *         all), last-torn
 * names:  all, none, each (of each chain a part), newest-lost, journal (what happened before a moment) */
const char *ps_disk_mood(void);
#define PS_DISK_MOODS 12
extern const char *const ps_disk_moods[PS_DISK_MOODS];
/* Take all photos in the mood of that name (NULL: as chance has it); an errno when there is none. */
int ps_disk_only_mood(const char *mood);

/* After a power failure the machine boots again: whoever reads the kernel's boot id hears a name made of
 * `number` instead (0: the true one), armed or not. The environment can say so: PYSTREAM_DISK_BOOT=NUMBER. */
void ps_disk_boot(uint64_t number);

/* Write a line for every counted call, and for what a photo did to each file, to `out` (NULL: no more). The
 * environment can ask for it: PYSTREAM_DISK_TRACE=FILE. */
void ps_disk_trace(FILE *out);

#endif
