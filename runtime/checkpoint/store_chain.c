/* runtime/checkpoint/store_chain.c -- what a checkpoint needs: an increment the one that it goes on from, and so on, up to a full one. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/checkpoint/store.h"

#include <inttypes.h>
#include <string.h>

static int too_long(const char *name)
{
    return RT_FAIL(RT_EDATA, "checkpoint '%s' needs more than %u others", name, RT_STORE_CHAIN_MAX);
}

/* The one that it goes on from, which is older: it stands behind it in the list. */
static size_t base_of(const struct rt_store_list *list, size_t i)
{
    const struct rt_manifest *of = list->at[i].manifest;

    for (size_t k = i + 1; k < list->n && list->at[k].manifest; k++)
        if (list->at[k].manifest->attempt == of->base &&
            strcmp(list->at[k].name, of->base_name) == 0)
            return k;
    return list->n;
}

int rt_store_chain(const struct rt_store_list *list, size_t which, size_t *chain, size_t *n)
{
    size_t at = which, count = 0;

    rt_assert(which < list->n);
    if (!list->at[which].manifest)
        return RT_FAIL(RT_EDATA, "%s", list->at[which].why);
    for (;; count++) {
        const struct rt_manifest *m = list->at[at].manifest;

        if (count == RT_STORE_CHAIN_MAX)
            return too_long(list->at[which].name);
        chain[count] = at;
        if (m->base == 0)
            break;
        at = base_of(list, at);
        if (at == list->n)
            return RT_FAIL(RT_EDATA,
                           "checkpoint '%s' needs '%s' (attempt %" PRIu64 "), which is not there",
                           list->at[which].name, m->base_name, m->base);
    }
    for (size_t i = 0; i < (count + 1) / 2; i++) {
        size_t swap = chain[i];

        chain[i] = chain[count - i];
        chain[count - i] = swap;
    }
    *n = count + 1;
    return 0;
}

/* ---- without a list ---- */

static int read_whole(const char *dir, const char *name, uint64_t attempt, struct rt_manifest **out)
{
    int err = rt_manifest_read(dir, name, out);

    if (err)
        return err;
    if ((*out)->attempt != attempt)
        err = RT_FAIL(RT_EDATA, "checkpoint '%s' is of attempt %" PRIu64 ", expected %" PRIu64,
                      name, (*out)->attempt, attempt);
    else
        err = rt_store_check_there(dir, *out);
    if (err) {
        rt_manifest_destroy(*out);
        *out = NULL;
    }
    return err;
}

int rt_store_check_whole(const char *dir, const char *name, uint64_t attempt)
{
    struct rt_manifest *at = NULL;
    int err = 0;

    for (size_t n = 0; attempt > 0 && !err; n++) {
        struct rt_manifest *next = NULL;

        err = n < RT_STORE_CHAIN_MAX ? read_whole(dir, at ? at->base_name : name, attempt, &next)
                                     : too_long(name);
        rt_manifest_destroy(at);
        at = next;
        attempt = err ? 0 : at->base;
    }
    rt_manifest_destroy(at);
    return err;
}
