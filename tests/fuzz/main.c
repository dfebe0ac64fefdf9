/* Plays inputs, files or directories of them, where there is no libFuzzer. */
#include <dirent.h>

#include "fuzz.h"

int LLVMFuzzerInitialize(int *count, char ***words);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static long played;

static void play(const char *path) {
  DIR *dir = opendir(path);
  if (dir) {
    struct dirent *entry;
    while ((entry = readdir(dir))) {
      char inside[4096];
      if (entry->d_name[0] == '.') continue;
      snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
      play(inside);
    }
    closedir(dir);
    return;
  }
  struct stat st;
  int fd = open(path, O_RDONLY);
  if (fd < 0 || fstat(fd, &st) < 0) {
    perror(path);
    exit(2);
  }
  uint8_t *data = malloc((size_t)st.st_size + 1);
  FUZZ_CHECK(data && read(fd, data, (size_t)st.st_size) == st.st_size);
  close(fd);
  uint8_t *exact = fuzz_copy(data, (size_t)st.st_size);
  free(data);
  fprintf(stderr, "%s\n", path); /* the last one named is the one that failed */
  LLVMFuzzerTestOneInput(exact, (size_t)st.st_size);
  free(exact);
  played++;
}

int main(int count, char **words) {
  LLVMFuzzerInitialize(&count, &words);
  for (int i = 1; i < count; i++) play(words[i]);
  printf("%ld\n", played);
  return 0;
}
