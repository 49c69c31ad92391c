/* runtime/checkpoint/store.c -- checkpoints come and go, and which of them is meant.
 *
 * DESIGN: a checkpoint is there if its manifest is. So the manifest comes last, when all that it names is on disk, and goes first, on
 * disk too before a file of it is touched: whenever the power fails, whatever order the disk writes folders in, a manifest has its
 * files. tests/unit/test_store_crash.c tries every moment. Increments go before what they are based on. */
#include "runtime/checkpoint/store.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/wire/member.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LATEST    "latest"
#define ABANDONED ".abandoned" /* no tokens: nobody lists them */
#define DAMAGED   ".damaged"

static int fail(const char *path, const char *what)
{
    return RT_FAIL(RT_EFILE, "%s: %s: %s", path, what, strerror(errno));
}

static int check_name(const char *name)
{
    if (wire_is_token(name) && strcmp(name, LATEST) != 0)
        return 0;
    return RT_FAIL(RT_EUSAGE,
                   "checkpoint '%.64s': expected 1 to 63 of A-Z a-z 0-9 _ -, and not 'latest'",
                   name);
}

static int sync_dir(const char *dir)
{
    int fd = -1, err = rt_folder_open(dir, ".", &fd);

    if (!err)
        err = rt_folder_sync(fd, dir);
    rt_folder_close(fd);
    return err;
}

/* ---- coming ---- */

static int make_folder(const char *path)
{
    return mkdir(path, 0755) == 0 ? 0 : fail(path, "cannot be made");
}

/* What an attempt has left there, unless it came to be or the folder is somebody's. */
static int empty_folder(int folder, const char *path)
{
    char *foreign = NULL;
    int err = rt_folder_has(folder, path, RT_MANIFEST_NAME);

    if (err > 0)
        return RT_FAIL(RT_EUSAGE, "%s: a checkpoint of this name is there", path);
    if (!err)
        err = rt_folder_clear(folder, path, true, &foreign);
    if (!err && foreign)
        err = RT_FAIL(RT_EUSAGE, "%s: no checkpoint, it has '%.100s' in it", path, foreign);
    rt_free(foreign);
    return err;
}

int rt_store_begin(const char *dir, const char *name)
{
    char *path = rt_path_join(dir, name);
    int folder = -1, err = check_name(name);

    if (!err)
        err = rt_folder_open(dir, name, &folder);
    if (!err)
        err = folder < 0 ? make_folder(path) : empty_folder(folder, path);
    rt_folder_close(folder);
    rt_free(path);
    return err;
}

/* On disk before there can be a manifest, which has its folder's name in it. */
int rt_store_rename(const char *dir, const char *from, const char *to)
{
    int above = -1, err = check_name(to);

    if (!err)
        err = rt_folder_open(dir, ".", &above);
    if (!err)
        err = rt_folder_has(above, dir, to);
    if (err > 0)
        err = RT_FAIL(RT_EUSAGE, "%s: a checkpoint of this name is there", to);
    if (!err && renameat(above, from, above, to) != 0)
        err = fail(dir, "a folder in it cannot be renamed");
    if (!err)
        err = rt_folder_sync(above, dir);
    rt_folder_close(above);
    return err;
}

/* Is the file there, with as many bytes? 0, RT_EDATA, RT_EFILE. */
static int check_there(int folder, const char *dir, const char *name,
                       const struct rt_manifest_file *file)
{
    struct stat st;

    if (fstatat(folder, file->name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT)
            return RT_FAIL(RT_EDATA, "%s/%s/%s: it is missing", dir, name, file->name);
        return RT_FAIL(RT_EFILE, "%s/%s/%s: cannot be read: %s", dir, name, file->name,
                       strerror(errno));
    }
    if (!S_ISREG(st.st_mode))
        return RT_FAIL(RT_EDATA, "%s/%s/%s: it is not a file", dir, name, file->name);
    if ((uint64_t)st.st_size != file->bytes)
        return RT_FAIL(RT_EDATA, "%s/%s/%s: it has %lld bytes, expected %" PRIu64, dir, name,
                       file->name, (long long)st.st_size, file->bytes);
    return 0;
}

static int check_all_there(int folder, const char *dir, const struct rt_manifest *manifest)
{
    int err = 0;

    for (uint32_t i = 0; i < manifest->n_files && !err; i++)
        err = check_there(folder, dir, manifest->name, &manifest->file[i]);
    return err;
}

int rt_store_check_there(const char *dir, const struct rt_manifest *manifest)
{
    int folder = -1, err = rt_folder_open(dir, manifest->name, &folder);

    if (!err)
        err = check_all_there(folder, dir, manifest);
    rt_folder_close(folder);
    return err;
}

/* One that cannot be read again is not written. */
static int write_manifest(const char *path, const struct rt_manifest *manifest)
{
    struct rt_manifest *again = NULL;
    struct rt_strbuf text;
    int err;

    rt_strbuf_init(&text);
    rt_manifest_write(manifest, &text);
    err = rt_manifest_parse(path, text.text, text.len, &again);
    if (!err)
        err = rt_file_write(path, text.text, text.len);
    rt_manifest_destroy(again);
    rt_strbuf_release(&text);
    return err;
}

int rt_store_publish(const char *dir, const struct rt_manifest *manifest)
{
    char *path = rt_xasprintf("%s/%s/" RT_MANIFEST_NAME, dir, manifest->name);
    int folder = -1, err = check_name(manifest->name);

    if (!err)
        err = rt_folder_open(dir, manifest->name, &folder);
    if (!err && folder < 0)
        err = RT_FAIL(RT_EFILE, "%s/%s: the folder is gone", dir, manifest->name);
    if (!err)
        err = check_all_there(folder, dir, manifest);
    if (!err)
        err = rt_folder_sync(folder, path);
    if (!err)
        err = write_manifest(path, manifest);
    if (!err)
        err = sync_dir(dir);
    rt_folder_close(folder);
    rt_free(path);
    return err;
}

/* ---- going ---- */

/* The folder DIR/NAME, whose manifest is gone for good. @ours: only if it is a checkpoint's. @return 1: it went, 0: it was not ours */
static int remove_folder(int folder, const char *path, bool ours)
{
    char *foreign = NULL;
    int err = rt_folder_clear(folder, path, ours, &foreign);
    bool gone = !err && !foreign;

    if (gone && rmdir(path) != 0 && errno != ENOENT)
        err = fail(path, "cannot be removed");
    rt_free(foreign);
    return err ? err : gone;
}

static int remove_one(const char *dir, const char *name)
{
    char *path = rt_path_join(dir, name);
    int folder = -1, err = check_name(name);

    if (!err)
        err = rt_folder_open(dir, name, &folder);
    if (!err && folder >= 0) {
        if (unlinkat(folder, RT_MANIFEST_NAME, 0) != 0 && errno != ENOENT)
            err = fail(path, "its manifest cannot be removed");
        if (!err)
            err = rt_folder_sync(folder, path);
        RT_FAILPOINT("P11.manifest_gone");
        if (!err)
            err = remove_folder(folder, path, false);
    }
    rt_folder_close(folder);
    rt_free(path);
    return err < 0 ? err : 0;
}

int rt_store_remove(const char *dir, const char *name)
{
    int err = remove_one(dir, name);

    return err ? err : sync_dir(dir);
}

/* What has a token as its name, one after the other. NULL: that was all, or the rest cannot be read: then *rc says so, for what is
 * not seen is not what is not there. */
static const char *next_name(const char *dir, DIR *entries, int *rc)
{
    struct dirent *e;

    for (errno = 0; (e = readdir(entries)); errno = 0)
        if (wire_is_token(e->d_name))
            return e->d_name;
    if (errno != 0)
        *rc = fail(dir, "checkpoint folder cannot be read to its end");
    return NULL;
}

static DIR *open_dir(const char *dir)
{
    DIR *entries = opendir(dir);

    if (!entries)
        (void)fail(dir, "checkpoint folder cannot be opened");
    return entries;
}

/* @return 1: it went; 0: it is a checkpoint, or nothing of ours */
static int sweep_one(const char *dir, const char *name)
{
    char *path = rt_path_join(dir, name);
    int folder, rc = rt_folder_open_any(dir, name, &folder), has = 1;

    if (!rc && folder >= 0)
        has = rt_folder_has(folder, path, RT_MANIFEST_NAME);
    if (has < 0)
        rc = has;
    else if (has == 0)
        rc = remove_folder(folder, path, true);
    rt_folder_close(folder);
    rt_free(path);
    return rc;
}

int rt_store_sweep(const char *dir, const char *but)
{
    DIR *entries = open_dir(dir);
    int n = 0, rc = 0;

    if (!entries)
        return RT_EFILE;
    for (const char *name; rc >= 0 && (name = next_name(dir, entries, &rc));) {
        if (but && strcmp(name, but) == 0)
            continue;
        rc = sweep_one(dir, name);
        n += rc > 0;
    }
    closedir(entries);
    if (rc >= 0 && n > 0)
        rc = sync_dir(dir);
    return rc < 0 ? rc : n;
}

/* What the keep-th newest full one and all that is newer need stays, and what has a name that somebody gave. @out: [list->n] */
static void mark_kept(const struct rt_store_list *list, uint32_t keep, bool *out)
{
    size_t chain[RT_STORE_CHAIN_MAX], n;
    uint32_t full = 0;

    for (size_t i = 0; i < list->n && list->at[i].manifest; i++) {
        const struct rt_manifest *manifest = list->at[i].manifest;

        if (full == keep && !manifest->named)
            continue;
        out[i] = true;
        if (rt_store_chain(list, i, chain, &n) == 0)
            for (size_t k = 0; k < n; k++)
                out[chain[k]] = true;
        full += full < keep && manifest->base == 0 && !manifest->named;
    }
}

int rt_store_retain(const char *dir, uint32_t keep)
{
    struct rt_store_list list = {0};
    bool *kept = NULL;
    int n = 0, err = rt_store_list(dir, &list);

    rt_assert(keep > 0);
    if (!err) {
        kept = rt_xcalloc(list.n, sizeof(*kept));
        mark_kept(&list, keep, kept);
    }
    for (size_t i = 0; !err && i < list.n && list.at[i].manifest; i++) {
        if (kept[i])
            continue;
        err = remove_one(dir, list.at[i].name);
        n += !err;
    }
    if (!err && n > 0)
        err = sync_dir(dir);
    rt_free(kept);
    rt_store_list_release(&list);
    return err ? err : n;
}

/* ---- back ---- */

/* Under the first name that is free. */
static int set_aside(int above, const char *dir, const char *name, const char *as)
{
    char *to = rt_xasprintf("%s%s", name, as);
    int err;

    for (unsigned i = 2; (err = rt_folder_has(above, dir, to)) > 0; i++) {
        rt_free(to);
        to = rt_xasprintf("%s%s.%u", name, as, i);
    }
    if (!err && renameat(above, name, above, to) != 0)
        err = RT_FAIL(RT_EFILE, "%s/%s: cannot be set aside as %s: %s", dir, name, to,
                      strerror(errno));
    rt_free(to);
    return err;
}

static const struct rt_stored *find(const struct rt_store_list *list, const char *name)
{
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->at[i].name, name) == 0)
            return &list->at[i];
    return NULL;
}

static int no_such(const char *dir, const char *name)
{
    return RT_FAIL(RT_EUSAGE, "%s: there is no checkpoint '%.64s'", dir, name);
}

int rt_store_roll_back(const char *dir, const char *name)
{
    struct rt_store_list list = {0};
    const struct rt_stored *to;
    int above = -1, n = 0, err = rt_store_list(dir, &list);

    to = err ? NULL : find(&list, name);
    if (!err && !to)
        err = no_such(dir, name);
    else if (!err && !to->manifest)
        err = RT_FAIL(RT_EUSAGE, "%s", to->why);
    if (!err)
        err = rt_folder_open(dir, ".", &above);
    for (size_t i = 0; !err && i < list.n; i++) {
        if (list.at[i].manifest && &list.at[i] >= to)
            continue;
        err = set_aside(above, dir, list.at[i].name, ABANDONED);
        n += !err;
    }
    if (!err && n > 0)
        err = rt_folder_sync(above, dir);
    rt_folder_close(above);
    rt_store_list_release(&list);
    return err ? err : n;
}

/* Somebody else may have found the same, and been first. */
int rt_store_set_aside(const char *dir, const char *name)
{
    int above = -1, err = check_name(name), there;

    if (!err)
        err = rt_folder_open(dir, ".", &above);
    if (!err)
        err = set_aside(above, dir, name, DAMAGED);
    if (!err)
        err = rt_folder_sync(above, dir);
    there = err == RT_EFILE && above >= 0 ? rt_folder_has(above, dir, name) : 1;
    rt_folder_close(above);
    return there == 0 ? 0 : err;
}

/* ---- which there are ---- */

/* Is DIR/NAME a checkpoint's folder? 1, 0, or an error. */
static int is_checkpoint(const char *dir, const char *name)
{
    int folder, rc = rt_folder_open_any(dir, name, &folder);

    if (!rc && folder >= 0)
        rc = rt_folder_has(folder, name, RT_MANIFEST_NAME);
    rt_folder_close(folder);
    return rc;
}

/* @return 1: it is a checkpoint; 0: it is none, or was taken away meanwhile. Where memory or disk fail nothing is known of it: it
 * may be the newest. */
static int list_one(const char *dir, const char *name, struct rt_stored *out)
{
    int rc = is_checkpoint(dir, name);

    if (rc <= 0)
        return rc;
    *out = (struct rt_stored){0};
    rc = rt_manifest_read(dir, name, &out->manifest);
    if (rc == RT_EFILE && is_checkpoint(dir, name) == 0)
        return 0;
    if (rc == RT_EFILE || rc == RT_ENOMEM)
        return rc;
    if (rc < 0)
        out->why = rt_xstrdup(rt_err_text());
    out->name = rt_xstrdup(name);
    return 1;
}

int rt_store_is_there(const char *dir, const struct rt_manifest *manifest)
{
    struct rt_stored now = {0};
    int rc = list_one(dir, manifest->name, &now);

    if (rc > 0)
        rc = now.manifest && now.manifest->attempt == manifest->attempt;
    rt_manifest_destroy(now.manifest);
    rt_free(now.name);
    rt_free(now.why);
    return rc;
}

static int by_age(const void *a, const void *b)
{
    const struct rt_stored *x = a, *y = b;

    if (!x->manifest || !y->manifest)
        return x->manifest ? -1 : y->manifest ? 1 : strcmp(x->name, y->name);
    if (x->manifest->attempt != y->manifest->attempt)
        return x->manifest->attempt > y->manifest->attempt ? -1 : 1;
    return strcmp(x->name, y->name);
}

int rt_store_list(const char *dir, struct rt_store_list *out)
{
    DIR *entries = open_dir(dir);
    size_t capacity = 0;
    int rc = 0;

    *out = (struct rt_store_list){0};
    if (!entries)
        return RT_EFILE;
    for (const char *name; rc >= 0 && (name = next_name(dir, entries, &rc));) {
        if (out->n == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            out->at = rt_xrealloc(out->at, capacity * sizeof(*out->at));
        }
        rc = list_one(dir, name, &out->at[out->n]);
        out->n += rc > 0;
        if (out->n > RT_STORE_MAX)
            rc = RT_FAIL(RT_ELIMIT, "%s: more than %u checkpoints", dir, RT_STORE_MAX);
    }
    closedir(entries);
    if (rc < 0) {
        rt_store_list_release(out);
        return rc;
    }
    if (out->n > 0)
        qsort(out->at, out->n, sizeof(*out->at), by_age);
    return 0;
}

void rt_store_list_release(struct rt_store_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        rt_free(list->at[i].name);
        rt_free(list->at[i].why);
        rt_manifest_destroy(list->at[i].manifest);
    }
    rt_free(list->at);
    *list = (struct rt_store_list){0};
}

/* ---- which is meant ---- */

static int check_run(const struct rt_store_list *list, size_t which)
{
    if (rt_store_same_run(list, which))
        return 0;
    return RT_FAIL(RT_EDATA, "checkpoint '%s' is of another run of the job than '%s'",
                   list->at[which].name, list->at[0].name);
}

/* Whole by its manifest and those that it needs, and of this job. */
static int check_chosen(const char *dir, const struct rt_store_list *list, size_t which,
                        const struct rt_job *job)
{
    size_t chain[RT_STORE_CHAIN_MAX], n = 0;
    int err = rt_store_chain(list, which, chain, &n);

    for (size_t i = n; !err && i-- > 0;) {
        const struct rt_stored *at = &list->at[chain[i]];

        err = rt_manifest_check_job(at->manifest, job);
        if (!err)
            err = rt_store_check_there(dir, at->manifest);
    }
    return err;
}

static int choose_latest(const char *dir, const struct rt_store_list *list,
                         const struct rt_job *job, size_t *which)
{
    char *first = NULL;
    int err = 0;

    for (*which = 0; *which < list->n; ++*which) {
        err = check_run(list, *which);
        if (!err)
            err = check_chosen(dir, list, *which, job);
        if (!err || err == RT_EFILE || err == RT_ENOMEM)
            break;
        rt_log(RT_LOG_WARN, "checkpoint_passed_over name=%s reason=\"%s\"", list->at[*which].name,
               rt_err_text());
        if (!first)
            first = rt_xstrdup(rt_err_text());
    }
    if (list->n == 0)
        err = RT_FAIL(RT_EUSAGE, "%s: there is no checkpoint", dir);
    else if (*which == list->n)
        err = RT_FAIL(RT_EDATA, "%s: no checkpoint can be used; the newest: %s", dir, first);
    rt_free(first);
    return err;
}

int rt_store_choose(const char *dir, const char *which, const struct rt_job *job, char **name)
{
    struct rt_store_list list = {0};
    const struct rt_stored *one;
    size_t at = 0;
    int err = rt_store_list(dir, &list);

    if (!err && strcmp(which, LATEST) == 0) {
        err = choose_latest(dir, &list, job, &at);
    } else if (!err) {
        one = find(&list, which);
        at = one ? (size_t)(one - list.at) : 0;
        err = one ? check_chosen(dir, &list, at, job) : no_such(dir, which);
    }
    if (!err)
        *name = rt_xstrdup(list.at[at].name);
    rt_store_list_release(&list);
    return err;
}
