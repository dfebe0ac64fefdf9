/* inodes.h - files keep their inode numbers over a power failure; those of a photo are new files. A photo
 * says in DEST.inodes which number each file had, and a process armed on DEST hears these from stat and its
 * kin. */
#ifndef PS_INODES_H
#define PS_INODES_H

#include <stdint.h>

/* Go by ROOT.inodes from now on; where there is no such file, numbers are told as they are. */
void inodes_load(const char *root);
void inodes_forget(void);
/* The number that is told for a file whose true one is `inode`. */
uint64_t inodes_told(uint64_t inode);

/* While a photo is written: the next ones go to DEST.inodes. 0, or an errno. */
void inodes_begin(void);
void inodes_add(uint64_t inode, uint64_t told);
int inodes_write(const char *dest);

#endif
