/* runtime/net/files.c -- plain blocking reads: input files come from the page cache or a local disk. */
#include "runtime/net/files.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct rt_file {
    int fd;
    char *path;
};

int rt_files_open(struct rt_io *io, const char *path, struct rt_file **out)
{
    (void)io;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return RT_FAIL(RT_EFILE, "%s: cannot be opened: %s", path, strerror(errno));
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    *out = rt_xmalloc(sizeof(**out));
    **out = (struct rt_file){fd, rt_xstrdup(path)};
    return 0;
}

ssize_t rt_files_read(struct rt_file *file, void *out, size_t size)
{
    ssize_t n;
    do
        n = read(file->fd, out, size);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return RT_FAIL(RT_EFILE, "%s: cannot be read: %s", file->path, strerror(errno));
    return n;
}

void rt_files_close(struct rt_file *file)
{
    if (!file)
        return;
    close(file->fd);
    rt_free(file->path);
    rt_free(file);
}
