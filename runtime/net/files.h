/* runtime/net/files.h -- the file part of rt_io_ops, on real files, for every implementation of rt_io. */
#ifndef RT_FILES_H
#define RT_FILES_H

#include "runtime/net/io.h"

int rt_files_open(struct rt_io *io, const char *path, struct rt_file **out);
ssize_t rt_files_read(struct rt_file *file, void *out, size_t size);
void rt_files_close(struct rt_file *file);

#endif
