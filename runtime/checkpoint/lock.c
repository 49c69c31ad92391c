/* runtime/checkpoint/lock.c -- see lock.h. */
#include "runtime/checkpoint/lock.h"

#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

int rt_store_lock(const char *dir, int *lock)
{
    char *path = rt_path_join(dir, ".lock");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644), err = 0;

    if (fd < 0)
        err = RT_FAIL(RT_EFILE, "%s: cannot be made: %s", path, strerror(errno));
    else if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        err = errno == EWOULDBLOCK
                  ? RT_FAIL(RT_EFULL, "%s: another process makes checkpoints there", path)
                  : RT_FAIL(RT_EFILE, "%s: cannot be locked: %s", path, strerror(errno));
    if (err && fd >= 0)
        close(fd);
    if (!err)
        *lock = fd;
    rt_free(path);
    return err;
}

void rt_store_unlock(int lock)
{
    close(lock);
}
