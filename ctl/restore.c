/* ctl/restore.c -- see restore.h. */
#include "ctl/restore.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/checkpoint/lock.h"
#include "runtime/checkpoint/store.h"

#include <string.h>

#define NAMES_MAX 8 /* that are told where one is not there */

void ctl_restorable_release(struct ctl_restorable *checkpoint)
{
    rt_free(checkpoint->name);
    *checkpoint = (struct ctl_restorable){0};
}

static void take(const struct rt_stored *stored, struct ctl_restorable *out)
{
    *out = (struct ctl_restorable){.name = rt_xstrdup(stored->name),
                                   .step = stored->manifest->step,
                                   .age = stored->manifest->age,
                                   .suspect = stored->manifest->suspect};
}

/* All bytes of it, and of those that it goes on from. */
static int look_at(const char *dir, const struct rt_store_list *list, size_t which,
                   const struct rt_job *job)
{
    const struct rt_stored *stored = &list->at[which];
    size_t chain[RT_STORE_CHAIN_MAX], n = 0;
    int err;

    if (!stored->manifest)
        return RT_FAIL(RT_EDATA, "%s", stored->why);
    err = rt_manifest_check_job(stored->manifest, job);
    if (!err)
        err = rt_store_chain(list, which, chain, &n);
    for (size_t i = 0; i < n && !err; i++)
        err = rt_store_verify(dir, list->at[chain[i]].manifest, job, NULL, NULL);
    return err;
}

static int none_of(const char *dir, const char *which, const struct rt_store_list *list)
{
    struct rt_strbuf names;
    int err;

    if (list->n == 0)
        return RT_FAIL(RT_EUSAGE, "--restore %s: there is no checkpoint in %s", which, dir);
    rt_strbuf_init(&names);
    for (size_t i = 0; i < list->n && i < NAMES_MAX; i++)
        rt_strbuf_addf(&names, "%s%s", i ? ", " : "", list->at[i].name);
    err = RT_FAIL(RT_EUSAGE,
                  "--restore %s: there is none of that name in %s; there are, newest first: %s%s",
                  which, dir, names.text, list->n > NAMES_MAX ? " ..." : "");
    rt_strbuf_release(&names);
    return err;
}

static int choose_named(const char *dir, const char *name, const struct rt_store_list *list,
                        const struct rt_job *job, struct ctl_restorable *out)
{
    size_t i = 0;
    int err;

    while (i < list->n && strcmp(list->at[i].name, name) != 0)
        i++;
    if (i == list->n)
        return none_of(dir, name, list);
    err = look_at(dir, list, i, job);
    if (!err)
        take(&list->at[i], out);
    else
        rt_fail_prefix(err, "--restore: ");
    return err;
}

static int choose_latest(const char *dir, const struct rt_store_list *list,
                         const struct rt_job *job, struct ctl_progress *progress,
                         struct ctl_restorable *out)
{
    int err = list->n == 0 ? none_of(dir, "latest", list) : RT_EDATA;

    for (size_t i = 0; i < list->n && err; i++) {
        err =
            rt_store_same_run(list, i)
                ? look_at(dir, list, i, job)
                : RT_FAIL(RT_EDATA, "it is of another run of the job than '%s'", list->at[0].name);
        if (err == RT_ENOMEM)
            return err;
        if (err)
            ctl_progress_say(progress, "the checkpoint %s is passed over: %s", list->at[i].name,
                             rt_err_text());
        else
            take(&list->at[i], out);
    }
    if (err && list->n > 0)
        rt_fail_prefix(err, "--restore latest: none is good; the oldest: ");
    return err;
}

int ctl_restore_choose(const char *dir, const char *which, const struct rt_job *job,
                       struct ctl_progress *progress, struct ctl_restorable *out)
{
    struct rt_store_list list = {0};
    int err = 0;

    if (rt_file_exists(dir))
        err = rt_store_list(dir, &list);
    if (!err)
        err = strcmp(which, "latest") == 0 ? choose_latest(dir, &list, job, progress, out)
                                           : choose_named(dir, which, &list, job, out);
    rt_store_list_release(&list);
    return err == 0 || err == RT_ENOMEM ? err : RT_EUSAGE; /* nothing was started */
}

int ctl_restore_go_back(const char *dir, const struct ctl_restorable *to,
                        struct ctl_progress *progress)
{
    int lock, n, err = rt_store_lock(dir, "saffron local --restore", &lock);

    if (err)
        return err == RT_EFULL ? rt_fail_prefix(RT_EUSAGE, "--restore: ") : err;
    n = rt_store_roll_back(dir, to->name);
    rt_store_unlock(lock);
    if (n < 0)
        return n;
    if (n > 0)
        ctl_progress_say(progress, "%d checkpoint%s newer than %s %s set aside: %s/NAME.abandoned",
                         n, n == 1 ? "" : "s", to->name, n == 1 ? "was" : "were", dir);
    ctl_progress_say(progress, "going on from the checkpoint %s, step %llu%s", to->name,
                     (unsigned long long)to->step,
                     to->suspect ? "; it is suspect: made while the loss or the gradients stood "
                                   "above what was usual"
                                 : "");
    return 0;
}

int ctl_restore_check_free(const char *dir)
{
    int lock, err = rt_store_lock(dir, "saffron local", &lock);

    if (!err)
        rt_store_unlock(lock);
    if (err == RT_EFULL)
        err = RT_FAIL(RT_EUSAGE,
                      "%s; a checkpoint folder is one job's: stop that process, or give another "
                      "folder",
                      rt_err_text());
    return err;
}

void ctl_restore_newest(const char *dir, struct ctl_restorable *out)
{
    struct rt_store_list list = {0};

    if (rt_store_list(dir, &list) == 0) {
        for (size_t i = 0; i < list.n && !out->name; i++) {
            if (list.at[i].manifest)
                take(&list.at[i], out);
        }
    }
    rt_store_list_release(&list);
}
