/* runtime/checkpoint/folder.c -- folders and files below DIR, each opened from the one above without following a link. */
#include "runtime/checkpoint/folder.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

bool rt_folder_is_file_name(const char *name)
{
    size_t len = strspn(name, LETTERS);

    return len > 0 && len <= RT_FOLDER_FILE_MAX && name[len] == '\0' && name[0] != '.';
}

static int fail(const char *path, const char *what)
{
    return RT_FAIL(RT_EFILE, "%s: %s: %s", path, what, strerror(errno));
}

int rt_folder_open(const char *dir, const char *name, int *fd)
{
    int above = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int err = 0;

    if (above < 0)
        return fail(dir, "checkpoint folder cannot be opened");
    *fd = openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*fd < 0 && errno != ENOENT)
        err = RT_FAIL(RT_EFILE, "%s/%s: checkpoint folder cannot be opened: %s", dir, name,
                      strerror(errno));
    close(above);
    return err;
}

int rt_folder_open_any(const char *dir, const char *name, int *fd)
{
    char *path = rt_path_join(dir, name);
    struct stat st;
    int err = 0;

    *fd = -1;
    if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
        err = rt_folder_open(dir, name, fd);
    rt_free(path);
    return err;
}

void rt_folder_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

int rt_folder_open_file(int folder, const char *path, const char *file, int *fd, uint64_t *size)
{
    struct stat st;
    int err = 0;

    *fd = openat(folder, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (*fd < 0 && (errno == ELOOP || errno == ENXIO)) /* a link, a socket */
        return RT_FAIL(RT_EDATA, "%s: it is not a file", path);
    if (*fd < 0)
        return errno == ENOENT ? 0 : fail(path, "cannot be opened");
    if (fstat(*fd, &st) != 0)
        err = fail(path, "cannot be opened");
    else if (!S_ISREG(st.st_mode))
        err = RT_FAIL(RT_EDATA, "%s: it is not a file", path);
    if (err) {
        close(*fd);
        *fd = -1;
        return err;
    }
    *size = (uint64_t)st.st_size;
    return 0;
}

/* `size` bytes, and no less; a NUL behind them. */
static int read_all(int fd, const char *path, char *text, size_t size)
{
    size_t at = 0;

    while (at < size) {
        ssize_t n = rt_fault_now() ? (errno = EIO, -1) : read(fd, text + at, size - at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return RT_FAIL(RT_EFILE, "%s: cannot be read: %s", path,
                           n < 0 ? strerror(errno) : "it has become shorter");
        at += (size_t)n;
    }
    text[size] = '\0';
    return 0;
}

int rt_folder_read(int folder, const char *path, const char *file, size_t limit, char **text,
                   size_t *size)
{
    uint64_t bytes = 0;
    int fd, err = rt_folder_open_file(folder, path, file, &fd, &bytes);

    if (!err && fd < 0)
        err = RT_FAIL(RT_EFILE, "%s: there is no such file", path);
    if (!err && bytes > limit)
        err = RT_FAIL(RT_EDATA, "%s: %llu bytes, at most %zu are read", path,
                      (unsigned long long)bytes, limit);
    if (!err) {
        *size = (size_t)bytes;
        *text = rt_try_malloc(*size + 1);
        err = *text ? read_all(fd, path, *text, *size)
                    : RT_FAIL(RT_ENOMEM, "%s: out of memory for %zu bytes", path, *size);
        if (err) {
            rt_free(*text);
            *text = NULL;
        }
    }
    rt_folder_close(fd);
    return err;
}

int rt_folder_has(int folder, const char *path, const char *file)
{
    struct stat st;

    if (fstatat(folder, file, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return 1;
    return errno == ENOENT ? 0 : fail(path, "cannot be looked into");
}

int rt_folder_sync(int folder, const char *path)
{
    /* Some file systems cannot sync a folder and say EINVAL: nothing more can be done there. */
    if (fsync(folder) != 0 && errno != EINVAL)
        return fail(path, "cannot be brought to disk");
    return 0;
}

/* Does the name begin with `word`, and is what follows only the end of one that is being written? */
static bool is_or_becomes(const char *name, const char *word)
{
    size_t len = strlen(word);

    return strncmp(name, word, len) == 0 &&
           (name[len] == '\0' || strcmp(name + len, ".partial") == 0 ||
            strncmp(name + len, ".tmp.", 5) == 0);
}

static bool is_ours(const char *name)
{
    static const char *const word[] = {"manifest.json", "dense.safetensors",
                                       "dense_state.safetensors", "model.yml"};
    size_t digits = strncmp(name, "rows.", 5) == 0 ? strspn(name + 5, "0123456789") : 0;

    if (digits > 0 && is_or_becomes(name + 5 + digits, ""))
        return true;
    for (size_t i = 0; i < ARRAY_LEN(word); i++)
        if (is_or_becomes(name, word[i]))
            return true;
    return false;
}

/* The folder's entries from the first one on; NULL is RT_EFILE. */
static DIR *open_entries(int folder, const char *path)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* with a place of its own */
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);

    if (!entries) {
        (void)fail(path, "cannot be listed");
        rt_folder_close(fd);
    }
    return entries;
}

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static int find_foreign(int folder, const char *path, char **foreign)
{
    DIR *entries = open_entries(folder, path);

    if (!entries)
        return RT_EFILE;
    errno = 0;
    for (struct dirent *e; !*foreign && (e = readdir(entries)); errno = 0)
        if (!is_dot(e->d_name) && !is_ours(e->d_name))
            *foreign = rt_xstrdup(e->d_name);
    int err = !*foreign && errno != 0 ? fail(path, "cannot be read to its end") : 0;
    closedir(entries);
    return err;
}

int rt_folder_clear(int folder, const char *path, bool ours, char **foreign)
{
    int err = 0;

    *foreign = NULL;
    if (ours)
        err = find_foreign(folder, path, foreign);
    if (err || *foreign)
        return err;
    DIR *entries = open_entries(folder, path);
    if (!entries)
        return RT_EFILE;
    errno = 0;
    for (struct dirent *e; !err && (e = readdir(entries)); errno = 0)
        if (!is_dot(e->d_name) && unlinkat(folder, e->d_name, 0) != 0 && errno != ENOENT)
            err = fail(path, "a file in it cannot be removed");
    if (!err && errno != 0)
        err = fail(path, "cannot be read to its end");
    closedir(entries);
    return err;
}
