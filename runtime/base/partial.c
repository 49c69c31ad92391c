/* runtime/base/partial.c -- see the header. */
#include "runtime/base/partial.h"

#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define BEHIND ((uint64_t)32 << 20) /* bytes that are sent to the disk at a time */

static int fail(const struct rt_partial *file, const char *what)
{
    return RT_FAIL(RT_EFILE, "%s: %s: %s", file->name, what, strerror(errno));
}

static void forget(struct rt_partial *file)
{
    if (file->fd >= 0)
        close(file->fd);
    rt_free(file->path);
    rt_free(file->name);
    *file = (struct rt_partial){0};
}

/* Who opened it before its writer renamed it has the lock of a file that is whole, and must not empty it. */
static bool is_there(const struct rt_partial *file)
{
    struct stat open_one, named;

    return fstat(file->fd, &open_one) == 0 && stat(file->name, &named) == 0 &&
           open_one.st_dev == named.st_dev && open_one.st_ino == named.st_ino;
}

int rt_partial_open(struct rt_partial *file, const char *path)
{
    int err = 0;

    *file = (struct rt_partial){.path = rt_xstrdup(path), .name = rt_xasprintf("%s.partial", path)};
    file->fd = open(file->name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (file->fd < 0)
        err = fail(file, "cannot be made");
    else if (flock(file->fd, LOCK_EX | LOCK_NB) != 0 || !is_there(file)) /* another's */
        err = RT_FAIL(RT_EFILE, "%s: another process is writing it", file->name);
    else if (ftruncate(file->fd, 0) != 0) /* what a writer that was killed has left */
        err = fail(file, "cannot be emptied");
    if (err)
        forget(file);
    return err;
}

/* A range to the disk; what cannot do that brings all of it there at the end. */
static int send(const struct rt_partial *file, uint64_t from, uint64_t to, unsigned how)
{
    if (sync_file_range(file->fd, (off_t)from, (off_t)(to - from), how) == 0 || errno == EINVAL ||
        errno == ENOSYS || errno == ESPIPE || errno == EOPNOTSUPP)
        return 0;
    return fail(file, "cannot be brought to disk");
}

/* DESIGN: else the system keeps a part of its memory full of what is not on the disk, tens of GB on a large machine, and the fsync at the
 * end waits for all of it: minutes in which nobody can tell a slow disk from one that stands still. */
static int write_behind(struct rt_partial *file)
{
    int err;

    if (file->bytes - file->sent < BEHIND)
        return 0;
    err = send(file, file->sent, file->bytes, SYNC_FILE_RANGE_WRITE);
    if (!err && file->sent > file->there)
        err =
            send(file, file->there, file->sent,
                 SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    file->there = file->sent;
    file->sent = file->bytes;
    return err;
}

int rt_partial_put(struct rt_partial *file, const void *data, size_t size)
{
    const char *from = data;

    while (size > 0) {
        ssize_t n = write(file->fd, from, size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return RT_FAIL(RT_EFILE, "%s: cannot write at byte %" PRIu64 ": %s", file->name,
                           file->bytes, strerror(errno));
        from += n;
        size -= (size_t)n;
        file->bytes += (uint64_t)n;
    }
    return write_behind(file);
}

int rt_partial_finish(struct rt_partial *file)
{
    int err = 0;

    if (fsync(file->fd) != 0)
        return fail(file, "cannot be brought to disk");
    if (rename(file->name, file->path) != 0)
        return fail(file, "cannot be renamed");
    err = rt_file_sync_folder_of(file->path);
    forget(file);
    return err;
}

void rt_partial_drop(struct rt_partial *file)
{
    if (!file->name)
        return;
    unlink(file->name);
    forget(file);
}
