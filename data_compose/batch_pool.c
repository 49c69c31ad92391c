/* data_compose/batch_pool.c -- finished batches, used again. */
#include "data_compose/batch.h"

#include "runtime/base/mem.h"

#include <string.h>

/* One block: the struct, then its arrays. A pool's batches all have as many features. */
static size_t arrays_bytes(uint32_t n_features)
{
    return (2 * sizeof(uint32_t) + sizeof(uint8_t)) * n_features;
}

struct dc_batch *dc_batch_create(struct dc_batch_pool *pool, uint32_t n_features,
                                 const uint8_t *weighted)
{
    struct dc_batch *batch = pool ? pool->idle : NULL;

    if (batch)
        pool->idle = batch->next;
    else
        batch = rt_xmalloc(sizeof(*batch) + arrays_bytes(n_features));
    memset(batch, 0, sizeof(*batch) + arrays_bytes(n_features));
    batch->n_ids = (uint32_t *)(batch + 1);
    batch->layout = batch->n_ids + n_features;
    if (weighted)
        batch->weighted = memcpy(batch->layout + n_features, weighted, n_features);
    batch->pool = pool;
    return batch;
}

void dc_batch_destroy(struct dc_batch *batch)
{
    if (!batch)
        return;
    rt_buf_unref(batch->ids);
    rt_buf_unref(batch->samples_payload);
    if (!batch->pool) {
        rt_free(batch);
        return;
    }
    batch->next = batch->pool->idle;
    batch->pool->idle = batch;
}

void dc_batch_pool_release(struct dc_batch_pool *pool)
{
    struct dc_batch *next;

    for (struct dc_batch *batch = pool->idle; batch; batch = next) {
        next = batch->next;
        rt_free(batch);
    }
    pool->idle = NULL;
}
