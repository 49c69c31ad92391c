/* runtime/base/file.h -- whole small files, durable replacement, folders. All errors name the path. What is written bit by bit:
 * partial.h. */
#ifndef RT_FILE_H
#define RT_FILE_H

#include <stdbool.h>
#include <stddef.h>

/* Read a whole file of at most `limit` bytes; *text is NUL-terminated and the caller's (rt_free). */
int rt_file_read(const char *path, size_t limit, char **text, size_t *size);

/* Replace `path` as a whole: temporary, write, fsync, rename, fsync of the folder. */
int rt_file_write(const char *path, const void *data, size_t size);
/* The same of data that does not lie together. */
struct rt_file_part {
    const void *data;
    size_t size;
};
int rt_file_write_parts(const char *path, const struct rt_file_part *part, size_t n);

/* A file that was renamed to `path` is there after a crash too. */
int rt_file_sync_folder_of(const char *path);

int rt_mkdir_all(const char *path); /* like mkdir -p */
bool rt_file_exists(const char *path);

/* `dir`/`name`, or `name` alone when it is absolute. Caller frees (rt_free). */
char *rt_path_join(const char *dir, const char *name);

#endif
