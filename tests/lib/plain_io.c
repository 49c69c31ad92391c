/* tests/lib/plain_io.c -- see plain_io.h. */
#include "tests/lib/plain_io.h"

#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct plain_io {
    struct rt_io io;
    struct rt_pool *pool;
    size_t read_max;
};

struct rt_file {
    struct plain_io *owner;
    int fd;
};

static uint64_t now_ns(struct rt_io *io)
{
    (void)io;
    return rt_now_ns();
}

static int file_open(struct rt_io *io, const char *path, struct rt_file **out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return RT_FAIL(RT_EFILE, "%s: cannot be opened: %s", path, strerror(errno));
    *out = rt_xmalloc(sizeof(**out));
    **out = (struct rt_file){(struct plain_io *)io, fd};
    return 0;
}

static ssize_t file_read(struct rt_file *file, void *out, size_t size)
{
    size_t max = file->owner->read_max;
    ssize_t n = read(file->fd, out, max && max < size ? max : size);

    return n < 0 ? RT_FAIL(RT_EFILE, "cannot be read: %s", strerror(errno)) : n;
}

static void file_close(struct rt_file *file)
{
    close(file->fd);
    rt_free(file);
}

static struct rt_pool *pool(struct rt_io *io)
{
    return ((struct plain_io *)io)->pool;
}

static const struct rt_io_ops ops = {
    .now_ns = now_ns,
    .file_open = file_open,
    .file_read = file_read,
    .file_close = file_close,
    .pool = pool,
};

struct rt_io *plain_io_create(size_t pool_budget)
{
    struct plain_io *p = rt_xcalloc(1, sizeof(*p));

    p->io.ops = &ops;
    p->pool = rt_pool_create(pool_budget);
    return &p->io;
}

void plain_io_destroy(struct rt_io *io)
{
    struct plain_io *p = (struct plain_io *)io;

    rt_pool_destroy(p->pool);
    rt_free(p);
}

void plain_io_set_read_max(struct rt_io *io, size_t bytes)
{
    ((struct plain_io *)io)->read_max = bytes;
}
