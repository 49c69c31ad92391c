/* runtime/base/partial.h -- a file that is written bit by bit and is there whole or not at all: PATH.partial -> PATH.
 *
 *     err = rt_partial_open(&file, path);
 *     err = rt_partial_put(&file, data, size);     again and again
 *     err = rt_partial_finish(&file);              on disk, and by its name
 *     rt_partial_drop(&file);                      whatever came of it
 * A second writer of the same path is refused while the first one lives; what one that was killed has left is written over.
 * Touch: any one thread. */
#ifndef RT_PARTIAL_H
#define RT_PARTIAL_H

#include <stddef.h>
#include <stdint.h>

/* Zero-initialise. */
struct rt_partial {
    char *path, *name; /* NULL: none is open; name: PATH.partial */
    int fd;
    uint64_t bytes;       /* written */
    uint64_t sent, there; /* on their way to the disk; on it: all before */
};

/* Empty, for reading too. RT_EFILE, as all of these, names the path; nothing is open then. */
int rt_partial_open(struct rt_partial *file, const char *path);
/* Now and then it waits for the disk, so that of a large file little is left to bring there at its end. */
int rt_partial_put(struct rt_partial *file, const void *data, size_t size);
/* fsync, rename, fsync of the folder; nothing is open then. After an error only rt_partial_drop(). */
int rt_partial_finish(struct rt_partial *file);
void rt_partial_drop(struct rt_partial *file); /* removes what is open; nothing where nothing is */

#endif
