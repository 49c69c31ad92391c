/* runtime/checkpoint/lock.c -- see lock.h. */
#include "runtime/checkpoint/lock.h"

#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* Who has it wrote that into it, if it is one of us. */
static int fail_held(const char *path, int fd)
{
    char who[RT_STORE_HOLDER_MAX], shown[4 * sizeof(who)];
    ssize_t n = pread(fd, who, sizeof(who) - 1, 0);

    who[n > 0 ? n : 0] = '\0';
    return RT_FAIL(RT_EFULL, "%s: held by %s", path,
                   n > 0 ? rt_log_escape(who, shown, sizeof(shown)) : "another process");
}

/* It is for people: where it cannot be written the lock holds all the same. */
static void write_holder(int fd, const char *who)
{
    if (ftruncate(fd, 0) != 0 || pwrite(fd, who, strlen(who), 0) < 0)
        rt_log(RT_LOG_WARN, "holder_not_written error=\"%s\"", strerror(errno));
}

int rt_store_lock(const char *dir, const char *who, int *lock)
{
    char *path = rt_path_join(dir, ".lock");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644), err = 0;

    if (fd < 0)
        err = RT_FAIL(RT_EFILE, "%s: cannot be made: %s", path, strerror(errno));
    else if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        err = errno == EWOULDBLOCK
                  ? fail_held(path, fd)
                  : RT_FAIL(RT_EFILE, "%s: cannot be locked: %s", path, strerror(errno));
    if (err && fd >= 0)
        close(fd);
    if (!err) {
        write_holder(fd, who);
        *lock = fd;
    }
    rt_free(path);
    return err;
}

void rt_store_unlock(int lock)
{
    if (ftruncate(lock, 0) != 0) /* who has it next writes over it */
        rt_log(RT_LOG_DEBUG, "holder_not_removed error=\"%s\"", strerror(errno));
    close(lock);
}
