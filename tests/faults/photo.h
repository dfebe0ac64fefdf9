/* photo.h - the photo that a power failure takes of what image.h knows. */
#ifndef PS_PHOTO_H
#define PS_PHOTO_H

#include <stdint.h>
#include <stdio.h>

/* Write it into the directory dest, made for it; say on trace (may be NULL) what became of each file. 0, or
 * an errno. */
int photo_take(const char *dest, uint64_t seed, FILE *trace);
/* What the last one was like. */
const char *photo_mood(void);
/* An index into ps_disk_moods, or -1: as chance has it. */
void photo_only_mood(int mood);

#endif
