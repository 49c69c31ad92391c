/* tests/unit/disk_watch.inc.h -- the calls by which files are changed, made by the test itself: it can have the n-th one fail, and
 * note them all. Include it first, in one file of a test program: what is defined here takes the place of libc's functions in all of
 * it. fsync() brings nothing to disk here, which a test has no use for. Touch: one thread. */
#undef _FORTIFY_SOURCE /* its inline functions would be in the way */

#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum disk_call {
    DISK_CREATE,
    DISK_WRITE,
    DISK_TRUNCATE,
    DISK_FSYNC,
    DISK_RENAME,
    DISK_MKDIR,
    DISK_UNLINK,
    DISK_RMDIR
};

struct disk_op {
    enum disk_call call;
    char *path, *to; /* absolute */
    uint8_t *data;   /* WRITE: `size` bytes from `at` on; TRUNCATE: to `size` */
    size_t size;
    uint64_t at;
};

/* The n-th call from now on (from 0) fails with disk_errno, and disk_more after it; negative: none. disk_hit: one has. A write that
 * is cut short is no failure: disk_short has the n-th call be that if it is a write. disk_below: of calls that change something in
 * this folder alone; NULL: of all. */
static int64_t disk_fault = -1, disk_more;
static int disk_errno = EIO;
static bool disk_short, disk_hit;
static const char *disk_below;

/* What was done below disk_root; NULL: nothing is noted. */
static const char *disk_root;
static struct disk_op *disk_op;
static size_t disk_ops;

/* Of a name that is relative to an open folder, or of an open file (name NULL). */
static char *disk_name(int fd, const char *name)
{
    char link[64], to[4096];
    ssize_t n;

    if (name && (name[0] == '/' || fd == AT_FDCWD))
        return rt_xstrdup(name);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, to, sizeof(to) - 1);
    to[n > 0 ? n : 0] = '\0';
    return name ? rt_xasprintf("%s/%s", to, name) : rt_xstrdup(to);
}

static bool disk_is_below(int fd, const char *name)
{
    char *path;
    bool is;

    if (!disk_below)
        return true;
    path = disk_name(fd, name);
    is = strncmp(path, disk_below, strlen(disk_below)) == 0;
    rt_free(path);
    return is;
}

static bool disk_fails(int fd, const char *name)
{
    if (disk_fault < 0 || !disk_is_below(fd, name) || disk_fault-- > 0)
        return false;
    if (disk_more > 0) {
        disk_more--;
        disk_fault = 0;
    }
    disk_hit = true;
    errno = disk_errno;
    return true;
}

/* NULL: nothing is noted. */
static char *disk_path(int fd, const char *name)
{
    return disk_root ? disk_name(fd, name) : NULL;
}

static void disk_note(enum disk_call call, char *path, char *to, const void *data, size_t size,
                      uint64_t at)
{
    if (!disk_root || strncmp(path, disk_root, strlen(disk_root)) != 0) {
        rt_free(path);
        rt_free(to);
        return;
    }
    disk_op = rt_xrealloc(disk_op, (disk_ops + 1) * sizeof(*disk_op));
    disk_op[disk_ops++] = (struct disk_op){
        .call = call,
        .path = path,
        .to = to,
        .data = data ? memcpy(rt_xmalloc(size), data, size) : NULL,
        .size = size,
        .at = at,
    };
}

static inline void disk_forget(void)
{
    for (size_t i = 0; i < disk_ops; i++) {
        rt_free(disk_op[i].path);
        rt_free(disk_op[i].to);
        rt_free(disk_op[i].data);
    }
    rt_free(disk_op);
    disk_op = NULL;
    disk_ops = 0;
}

static int disk_open(int folder, const char *name, int flags, mode_t mode)
{
    bool makes = (flags & O_CREAT) && faccessat(folder, name, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
    int fd;

    if ((!disk_below || (flags & O_CREAT)) && disk_fails(folder, name))
        return -1;
    fd = (int)syscall(SYS_openat, folder, name, flags, mode);
    if (fd >= 0 && makes)
        disk_note(DISK_CREATE, disk_path(folder, name), NULL, NULL, 0, 0);
    return fd;
}

static mode_t disk_mode(int flags, va_list args)
{
    return flags & O_CREAT ? (mode_t)va_arg(args, int) : 0;
}

int open(const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = disk_mode(flags, args);
    va_end(args);
    return disk_open(AT_FDCWD, path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = disk_mode(flags, args);
    va_end(args);
    return disk_open(folder, path, flags, mode);
}

ssize_t write(int fd, const void *data, size_t size)
{
    off_t at = lseek(fd, 0, SEEK_CUR);
    bool fails = disk_fails(fd, NULL);

    if (fails && disk_short && size > 1)
        size /= 2;
    else if (fails)
        return -1;
    ssize_t n = syscall(SYS_write, fd, data, size);
    if (n > 0)
        disk_note(DISK_WRITE, disk_path(fd, NULL), NULL, data, (size_t)n, (uint64_t)at);
    return n;
}

int ftruncate(int fd, off_t size)
{
    if (disk_fails(fd, NULL) || syscall(SYS_ftruncate, fd, size) != 0)
        return -1;
    disk_note(DISK_TRUNCATE, disk_path(fd, NULL), NULL, NULL, (size_t)size, 0);
    return 0;
}

int fsync(int fd)
{
    if (disk_fails(fd, NULL))
        return -1;
    disk_note(DISK_FSYNC, disk_path(fd, NULL), NULL, NULL, 0, 0);
    return 0;
}

int renameat(int from, const char *name, int to, const char *new_name)
{
    if (disk_fails(from, name) || syscall(SYS_renameat, from, name, to, new_name) != 0)
        return -1;
    disk_note(DISK_RENAME, disk_path(from, name), disk_path(to, new_name), NULL, 0, 0);
    return 0;
}

int rename(const char *name, const char *new_name)
{
    return renameat(AT_FDCWD, name, AT_FDCWD, new_name);
}

int mkdir(const char *path, mode_t mode)
{
    if (disk_fails(AT_FDCWD, path) || syscall(SYS_mkdirat, AT_FDCWD, path, mode) != 0)
        return -1;
    disk_note(DISK_MKDIR, disk_path(AT_FDCWD, path), NULL, NULL, 0, 0);
    return 0;
}

int unlinkat(int folder, const char *name, int flags)
{
    if (disk_fails(folder, name) || syscall(SYS_unlinkat, folder, name, flags) != 0)
        return -1;
    disk_note(flags & AT_REMOVEDIR ? DISK_RMDIR : DISK_UNLINK, disk_path(folder, name), NULL, NULL,
              0, 0);
    return 0;
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}
