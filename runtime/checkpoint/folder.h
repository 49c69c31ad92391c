/* runtime/checkpoint/folder.h -- a checkpoint's folder and its files, never by way of a link; for this folder's files only.
 *
 * DIR is the operator's and may be anything; what is below it is a folder, and regular files in it. Any thread. */
#ifndef RT_FOLDER_H
#define RT_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RT_FOLDER_FILE_MAX 128u /* characters of a file's name */

/* [A-Za-z0-9._-]{1,128}, not beginning with '.' */
bool rt_folder_is_file_name(const char *name);

/* DIR/NAME; *fd -1: there is none. RT_EFILE: something else is there, or it cannot be opened; DIR itself has to be there. */
int rt_folder_open(const char *dir, const char *name, int *fd);
/* The same; also -1 where something else is there. */
int rt_folder_open_any(const char *dir, const char *name, int *fd);
void rt_folder_close(int fd); /* -1 is legal */

/* A file of it, for reading; *fd -1: there is none. @path: for words. RT_EDATA: it is no file, a link for instance; RT_EFILE. */
int rt_folder_open_file(int folder, const char *path, const char *file, int *fd, uint64_t *size);
/* All of it, at most `limit` bytes: *text is the caller's (rt_free). RT_EFILE, RT_EDATA, RT_ENOMEM */
int rt_folder_read(int folder, const char *path, const char *file, size_t limit, char **text,
                   size_t *size);
/* Is there an entry of that name, of whatever kind? 1, 0, or RT_EFILE: nobody knows. */
int rt_folder_has(int folder, const char *path, const char *file);

/* What is in it is there after a crash too. @path: for words. RT_EFILE */
int rt_folder_sync(int folder, const char *path);

/* Unlink all of its files. @ours: none at all if one of them has no name that a checkpoint's files have; *foreign then names it
 * (rt_free), else it is NULL. RT_EFILE */
int rt_folder_clear(int folder, const char *path, bool ours, char **foreign);

#endif
