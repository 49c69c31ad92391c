/* tests/lib/temp.h -- folders and files for a test, under TMPDIR. The runner gives each run a TMPDIR of its own
 * and removes it, so a test that fails or dies leaves nothing behind. */
#ifndef TEST_TEMP_H
#define TEST_TEMP_H

#define TEMP_PATH_MAX 128

/* Where temporary things go: $TMPDIR, else /tmp. */
const char *temp_root(void);

/* A new empty folder; its path in `path`. The test fails when it cannot be. */
void temp_folder(char path[TEMP_PATH_MAX]);

/* A folder with all that is in it; links are not followed. */
void temp_remove(const char *path);

/* A new empty file; its descriptor, the caller's. */
int temp_file(char path[TEMP_PATH_MAX]);

#endif
