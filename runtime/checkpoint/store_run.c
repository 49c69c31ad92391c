/* runtime/checkpoint/store_run.c -- of which run of the job checkpoints are.
 *
 * A run's number is drawn when the job begins and kept by all that go on from its checkpoints, so two jobs of the same configuration
 * can be told apart. Manifests of version 1 have none (0): they are taken for whatever run they lie beside. */
#include "runtime/checkpoint/store.h"

bool rt_store_same_run(const struct rt_store_list *list, size_t which)
{
    const struct rt_manifest *newest = list->at[0].manifest, *of = list->at[which].manifest;

    return !of || of->run == 0 || newest->run == 0 || of->run == newest->run;
}

int rt_store_begun_anew(const char *dir)
{
    struct rt_store_list list = {0};
    int rc = rt_store_list(dir, &list);

    if (!rc)
        rc = list.n > 0 && list.at[0].manifest && list.at[0].manifest->anew;
    rt_store_list_release(&list);
    return rc;
}
