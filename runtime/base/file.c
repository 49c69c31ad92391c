/* runtime/base/file.c -- whole files.
 *
 * A replacement is written beside the file under a name of its own and renamed over it, with the data and
 * then the folder made durable, so a reader or a crash sees the old file or the new one, never a part. */
#include "runtime/base/file.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_FIRST 4096

static int fail_errno(const char *doing, const char *path)
{
    return RT_FAIL(RT_EFILE, "%s: cannot %s: %s", path, doing, strerror(errno));
}

/* Read until the end, growing; at most limit bytes. *text is the caller's even on error. */
static int read_all(int fd, const char *path, size_t limit, char **text, size_t *size)
{
    size_t capacity = 0, len = 0;

    for (;;) {
        ssize_t n;

        if (len + 1 >= capacity) {
            size_t wider = capacity ? capacity * 2 : READ_FIRST;
            char *grown = rt_try_realloc(*text, wider);

            if (!grown)
                return RT_FAIL(RT_ENOMEM, "%s: out of memory at %zu bytes", path, wider);
            *text = grown;
            capacity = wider;
        }
        n = read(fd, *text + len, capacity - 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno("read", path);
        if (n == 0)
            break;
        len += (size_t)n;
        if (len > limit)
            return RT_FAIL(RT_ELIMIT, "%s: more than %zu bytes", path, limit);
    }
    (*text)[len] = '\0';
    *size = len;
    return 0;
}

int rt_file_read(const char *path, size_t limit, char **text, size_t *size)
{
    char *got = NULL;
    int fd, err;

    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno("open", path);
    err = read_all(fd, path, limit, &got, size);
    close(fd);
    if (err) {
        rt_free(got);
        return err;
    }
    *text = got;
    return 0;
}

static int write_all(int fd, const char *path, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno("write", path);
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

static int write_durable(const char *path, const struct rt_file_part *part, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    int err = 0;

    if (fd < 0)
        return fail_errno("create", path);
    for (size_t i = 0; i < n && !err; i++)
        err = write_all(fd, path, part[i].data, part[i].size);
    if (!err && fsync(fd) != 0)
        err = fail_errno("fsync", path);
    if (close(fd) != 0 && !err)
        err = fail_errno("close", path);
    return err;
}

int rt_file_sync_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = rt_xstrdup(slash ? path : ".");
    int fd, err = 0;

    if (slash)
        dir[slash == path ? 1 : slash - path] = '\0';
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        err = fail_errno("open folder", dir);
    /* Some file systems cannot sync a folder and say EINVAL: nothing more can be done there. */
    else if (fsync(fd) != 0 && errno != EINVAL)
        err = fail_errno("fsync folder", dir);
    if (fd >= 0)
        close(fd);
    rt_free(dir);
    return err;
}

int rt_file_write(const char *path, const void *data, size_t size)
{
    return rt_file_write_parts(path, &(struct rt_file_part){data, size}, 1);
}

int rt_file_write_parts(const char *path, const struct rt_file_part *part, size_t n)
{
    static atomic_uint counter; /* two threads may write the same path */
    char *temporary =
        rt_xasprintf("%s.tmp.%d.%u", path, (int)getpid(), atomic_fetch_add(&counter, 1));
    int err;

    err = write_durable(temporary, part, n);
    if (!err && rename(temporary, path) != 0)
        err = fail_errno("rename to", path);
    if (err)
        unlink(temporary);
    else
        err = rt_file_sync_folder_of(path);
    rt_free(temporary);
    return err;
}

static int make_folder(const char *path)
{
    struct stat st;

    if (mkdir(path, 0755) == 0)
        return 0;
    if (errno != EEXIST)
        return fail_errno("make folder", path);
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        errno = ENOTDIR;
        return fail_errno("make folder", path);
    }
    return 0;
}

int rt_mkdir_all(const char *path)
{
    char *part = rt_xstrdup(path);
    int err = 0;

    for (char *p = part; *p && !err; p++) {
        if (*p != '/' || p == part)
            continue;
        *p = '\0';
        err = make_folder(part);
        *p = '/';
    }
    if (!err)
        err = make_folder(part);
    rt_free(part);
    return err;
}

bool rt_file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

char *rt_path_join(const char *dir, const char *name)
{
    size_t len = strlen(dir);

    if (name[0] == '/' || len == 0)
        return rt_xstrdup(name);
    return rt_xasprintf("%s%s%s", dir, dir[len - 1] == '/' ? "" : "/", name);
}
