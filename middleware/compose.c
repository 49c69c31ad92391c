/* middleware/compose.c -- see compose.h. The rows of an id are a bag of one length, so the loops are those of pool and
 * scatter, on every instruction set. */
#include "middleware/batch.h"
#include "middleware/pool.h"
#include "middleware/scatter.h"
#include "runtime/base/rand.h"

void mw_compose_ids(const struct rt_job *job, uint32_t table, const uint64_t *id, size_t n,
                    uint64_t *row)
{
    const struct rt_table_conf *conf = &job->table[table];
    uint64_t key = rt_draw_key(job->global.seed, "hash", conf->name);

    for (uint32_t j = 0; j < conf->hash_functions; j++) {
        uint64_t of = rt_draw(key, j);

        for (size_t i = 0; i < n; i++)
            row[i * conf->hash_functions + j] = rt_below(rt_hash_id(id[i] ^ of), conf->hash_rows);
    }
}

static size_t table_floats(const struct mw_batch *batch, uint32_t table)
{
    return (size_t)batch->composed[table].n_ids * batch->loop->conf.job->table[table].dim;
}

size_t mw_compose_bytes(const struct mw_batch *batch)
{
    size_t floats = 0;

    for (uint32_t t = 0; t < batch->loop->conf.job->n_tables; t++)
        floats += table_floats(batch, t);
    return floats * sizeof(float);
}

size_t mw_compose_most(const struct mw_batch *batch)
{
    size_t most = 0;

    for (uint32_t t = 0; t < batch->loop->conf.job->n_tables; t++)
        most = table_floats(batch, t) > most ? table_floats(batch, t) : most;
    return most * sizeof(float);
}

float *mw_compose_of(const struct mw_batch *batch, uint32_t table, float *area)
{
    for (uint32_t t = 0; t < table; t++)
        area += table_floats(batch, t);
    return area;
}

/* The ids of a table, each a bag of its rows. Uses scratch.position. */
static struct mw_bags bags_of(struct mw_batch *batch, uint32_t table)
{
    const struct rt_table_conf *conf = &batch->loop->conf.job->table[table];
    const struct mw_composed *of = &batch->composed[table];
    uint32_t *length = batch->loop->scratch.position;

    for (uint32_t i = 0; i < of->n_ids; i++)
        length[i] = conf->hash_functions;
    return (struct mw_bags){.samples = of->n_ids,
                            .length = length,
                            .slot = of->position,
                            .pooling = RT_POOL_SUM,
                            .dim = conf->dim};
}

void mw_compose_sum(struct mw_batch *batch, float *area)
{
    const struct rt_job *job = batch->loop->conf.job;

    for (uint32_t t = 0; t < job->n_tables; t++) {
        struct mw_bags bags;
        void **row;

        if (batch->composed[t].n_ids == 0)
            continue;
        bags = bags_of(batch, t);
        bags.row_dtype = job->global.wire.rows;
        row = mw_batch_rows(batch, t, wire_dtype_size(job->global.wire.rows));
        mw_pool(&bags, (const void *const *)row, mw_compose_of(batch, t, area));
    }
}

void mw_compose_add(struct mw_batch *batch, uint32_t table, const float *sum, float *const *row)
{
    struct mw_bags bags = bags_of(batch, table);

    mw_scatter(&bags, sum, 1, row);
}
