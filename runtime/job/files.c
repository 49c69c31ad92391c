/* runtime/job/files.c -- lists of globs -> the files of a set, sorted, each once.
 *
 * The order of files is a part of the data plan: it is that of their paths' bytes, whatever the order of the
 * patterns or of the folder. Whatever cannot be read as a file is refused here, before anything starts: an
 * unreadable one of a hundred files would else end the job hours later, and a named pipe would hang it. */
#include "runtime/job/read.h"

#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"

#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_MAX 100000

struct file {
    const char *path;
    dev_t device;
    ino_t number;
};

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct file *)a)->path, ((const struct file *)b)->path);
}

static int by_number(const void *a, const void *b)
{
    const struct file *x = a, *y = b;

    if (x->device != y->device)
        return x->device < y->device ? -1 : 1;
    if (x->number != y->number)
        return x->number < y->number ? -1 : 1;
    return strcmp(x->path, y->path);
}

/* The folder is a name, not a part of the pattern. */
static char *pattern_in(const char *base, const char *pattern)
{
    struct rt_strbuf sb;

    rt_strbuf_init(&sb);
    for (const char *c = pattern[0] == '/' ? "" : base; *c; c++) {
        if (strchr("*?[]{},\\~", *c))
            rt_strbuf_add(&sb, "\\", 1);
        rt_strbuf_add(&sb, c, 1);
    }
    if (sb.len && sb.text[sb.len - 1] != '/')
        rt_strbuf_add(&sb, "/", 1);
    rt_strbuf_add(&sb, pattern, strlen(pattern));
    return rt_strbuf_detach(&sb);
}

static int expand_one(const struct rt_node *node, const char *base, glob_t *found)
{
    const char *pattern;
    int err = rt_node_str(node, &pattern);
    if (err)
        return err;
    if (!pattern[0])
        return rt_node_fail(node, "expected a file name or pattern, got nothing");
    if (strstr(pattern, "**"))
        return rt_node_fail(node,
                            "'%s': '**' is not supported; write a '*' for each level of folders, "
                            "as in day=*/part-*.tsv",
                            pattern);
    char *path = pattern_in(base, pattern);
    int rc = glob(path, GLOB_BRACE | (found->gl_pathc ? GLOB_APPEND : 0), NULL, found);
    if (rc == GLOB_NOSPACE)
        err = RT_FAIL(RT_ENOMEM, "no memory for the files of '%s'", path);
    else if (rc != 0)
        err = rt_node_fail(
            node, "no file matches '%s' in %s (--data or SAFFRON_DATA_DIR names the folder)",
            pattern, pattern[0] == '/' ? "/" : base);
    rt_free(path);
    return err;
}

static int check_file(const struct rt_node *list, const char *path, struct file *out)
{
    struct stat st;

    if (stat(path, &st) != 0)
        return rt_node_fail(list, "%s: cannot be read: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return rt_node_fail(list, "%s: expected a file, got a %s", path,
                            S_ISDIR(st.st_mode) ? "folder (name its files, as in FOLDER/*.tsv)"
                                                : "pipe, socket or device");
    if (access(path, R_OK) != 0)
        return rt_node_fail(list, "%s: cannot be read: %s", path, strerror(errno));
    *out = (struct file){path, st.st_dev, st.st_ino};
    return 0;
}

/* Sorted, and each path once, however many patterns match it. One file under two names is an error: to count
 * its rows twice, and not to, would both surprise somebody. */
static int tidy(const struct rt_node *list, struct file *file, size_t *n)
{
    size_t kept = 0;

    qsort(file, *n, sizeof(*file), by_number);
    for (size_t i = 0; i < *n; i++) {
        struct file *last = kept ? &file[kept - 1] : NULL;

        if (last && last->device == file[i].device && last->number == file[i].number) {
            if (strcmp(last->path, file[i].path) != 0)
                return rt_node_fail(list, "%s and %s are the same file", last->path, file[i].path);
            continue;
        }
        file[kept++] = file[i];
    }
    qsort(file, kept, sizeof(*file), by_path);
    *n = kept;
    return 0;
}

static int keep(const struct rt_node *list, const glob_t *found, struct rt_job *job,
                const char *const **out, uint32_t *n_out)
{
    size_t n = found->gl_pathc;
    struct file *file = rt_try_calloc(n + 1, sizeof(*file));
    const char **path = rt_arena_array(job->arena, const char *, n + 1);
    int err = file && path ? 0 : RT_FAIL(RT_ENOMEM, "no memory for %zu paths", n);

    for (size_t i = 0; !err && i < n; i++)
        err = check_file(list, found->gl_pathv[i], &file[i]);
    if (!err)
        err = tidy(list, file, &n);
    for (size_t i = 0; !err && i < n; i++) {
        path[i] = rt_arena_strdup(job->arena, file[i].path);
        if (!path[i])
            err = RT_FAIL(RT_ENOMEM, "no memory for %zu paths", n);
    }
    if (!err) {
        *out = path;
        *n_out = (uint32_t)n;
    }
    rt_free(file);
    return err;
}

int rt_job_read_files(const struct rt_node *list, const char *base, struct rt_job *job,
                      const char *const **out, uint32_t *n_out)
{
    glob_t found = {0};
    int err = list ? rt_node_want_list(list) : 0;

    for (size_t i = 0; !err && list && i < rt_node_count(list); i++) {
        err = expand_one(rt_node_at(list, i), base, &found);
        if (!err && found.gl_pathc > FILES_MAX)
            err =
                rt_node_fail(list, "expected at most %d files, got %zu", FILES_MAX, found.gl_pathc);
    }
    if (!err)
        err = keep(list, &found, job, out, n_out);
    globfree(&found);
    return err;
}
