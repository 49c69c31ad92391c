/* embedding_server/apply.c -- first prepare every update, then commit every update.
 *
 * prepare is all that can run out of memory and changes no value, so a batch whose rows lie in
 * several tables is applied as a whole or can be sent again as if nothing had happened. */
#include "embedding_server/apply.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"

#include <string.h>

void ebs_applier_release(struct ebs_applier *applier)
{
    rt_free(applier->found);
    applier->found = NULL;
    applier->found_capacity = 0;
}

static int reserve(struct ebs_applier *applier, size_t n)
{
    uint32_t *found;

    if (n <= applier->found_capacity)
        return 0;
    found = rt_try_realloc(applier->found, n * sizeof(*found));
    if (!found)
        return RT_FAIL(RT_ENOMEM, "no memory to apply %zu rows", n);
    applier->found = found;
    applier->found_capacity = n;
    return 0;
}

static size_t ids_of(struct ebs_part *const *part, size_t n)
{
    size_t sum = 0;

    for (size_t p = 0; p < n; p++)
        for (uint32_t t = 0; t < part[p]->m.n_tables; t++)
            sum += part[p]->m.n_ids[t];
    return sum;
}

static struct ebs_update update_of(const struct ebs_applier *applier, const struct ebs_part *part,
                                   uint32_t t)
{
    double lr = (double)applier->lr[part->m.table[t]] * part->m.learning_rate;

    return (struct ebs_update){.id = part->id[t],
                               .grad = part->grad[t],
                               .n = part->m.n_ids[t],
                               .lr = (float)lr,
                               .step = part->m.step};
}

static int apply_each(struct ebs_applier *applier, struct ebs_part *const *part, size_t n)
{
    size_t at = 0;
    int err = reserve(applier, ids_of(part, n));

    for (size_t p = 0; p < n && !err; p++) {
        struct ebs_applied applied = {0};

        for (uint32_t t = 0; t < part[p]->m.n_tables && !err; t++) {
            struct ebs_update update = update_of(applier, part[p], t);

            err = ebs_table_prepare(applier->table[part[p]->m.table[t]], &update,
                                    applier->found + at, &applied);
            at += update.n;
        }
        part[p]->rows = applied.rows;
        part[p]->nonfinite = applied.nonfinite;
    }
    if (err)
        return err;
    at = 0;
    for (size_t p = 0; p < n; p++) {
        for (uint32_t t = 0; t < part[p]->m.n_tables; t++) {
            struct ebs_update update = update_of(applier, part[p], t);

            ebs_table_commit(applier->table[part[p]->m.table[t]], &update, applier->found + at);
            at += update.n;
        }
    }
    return 0;
}

/* ---- one update per table for all ranks ---- */

struct merged {
    uint64_t *id; /* [n], in order of first occurrence */
    float *grad;  /* [n][dim] */
    size_t n;
};

static void merged_release(struct merged *merged)
{
    rt_free(merged->id);
    rt_free(merged->grad);
}

static int merge_rows(struct merged *merged, struct rt_map *place, const uint64_t *id,
                      const float *grad, size_t n, size_t dim)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t at;
        float *to;

        if (!rt_map_get(place, id[i], &at)) {
            int err = rt_map_put(place, id[i], merged->n);

            if (err)
                return RT_FAIL(err, "no memory to add up %zu rows", merged->n);
            merged->id[merged->n] = id[i];
            memcpy(merged->grad + merged->n * dim, grad + i * dim, dim * sizeof(float));
            merged->n++;
            continue;
        }
        to = merged->grad + at * dim;
        for (size_t j = 0; j < dim; j++)
            to[j] += grad[i * dim + j];
    }
    return 0;
}

/* All rows that the parts have for one table of the job. */
static int merge_table(uint32_t table, size_t dim, struct ebs_part *const *part, size_t n_parts,
                       struct merged *out)
{
    struct rt_map place;
    size_t most = 0;
    int err = 0;

    for (size_t p = 0; p < n_parts; p++)
        for (uint32_t t = 0; t < part[p]->m.n_tables; t++)
            if (part[p]->m.table[t] == table)
                most += part[p]->m.n_ids[t];
    if (most == 0)
        return 0;
    out->id = rt_try_malloc(most * sizeof(uint64_t));
    out->grad = rt_try_malloc(most * dim * sizeof(float));
    if (!out->id || !out->grad)
        return RT_FAIL(RT_ENOMEM, "no memory to add up %zu rows", most);
    rt_map_init(&place);
    for (size_t p = 0; p < n_parts && !err; p++)
        for (uint32_t t = 0; t < part[p]->m.n_tables && !err; t++)
            if (part[p]->m.table[t] == table)
                err = merge_rows(out, &place, part[p]->id[t], part[p]->grad[t], part[p]->m.n_ids[t],
                                 dim);
    rt_map_release(&place);
    return err;
}

/* Fill merged[] and update[], one per table of the job. */
static int merge_all(const struct ebs_applier *applier, struct ebs_part *const *part, size_t n,
                     struct merged *merged, struct ebs_update *update)
{
    const struct wire_apply_gradients *m = &part[0]->m;

    for (uint32_t t = 0; t < applier->n_tables; t++) {
        size_t dim = ebs_table_dim(applier->table[t]);
        int err = merge_table(t, dim, part, n, &merged[t]);

        if (err)
            return err;
        update[t] = (struct ebs_update){.id = merged[t].id,
                                        .grad = merged[t].grad,
                                        .n = merged[t].n,
                                        .lr = (float)((double)applier->lr[t] * m->learning_rate),
                                        .step = m->step};
    }
    return 0;
}

static int apply_merged(struct ebs_applier *applier, struct ebs_part *const *part, size_t n)
{
    struct merged *merged = rt_try_calloc(applier->n_tables, sizeof(*merged));
    struct ebs_update *update = rt_try_calloc(applier->n_tables, sizeof(*update));
    struct ebs_applied applied = {0};
    uint32_t *found;
    int err = RT_ENOMEM;

    if (!merged || !update) {
        rt_fail(err, "no memory to apply a step to %u tables", applier->n_tables);
        goto out;
    }
    err = reserve(applier, ids_of(part, n));
    if (!err)
        err = merge_all(applier, part, n, merged, update);
    found = applier->found;
    for (uint32_t t = 0; t < applier->n_tables && !err; found += update[t].n, t++)
        err = ebs_table_prepare(applier->table[t], &update[t], found, &applied);
    if (err)
        goto out;
    found = applier->found;
    for (uint32_t t = 0; t < applier->n_tables; found += update[t].n, t++)
        ebs_table_commit(applier->table[t], &update[t], found);
    for (size_t p = 0; p < n; p++)
        part[p]->rows = part[p]->nonfinite = 0;
    part[0]->rows = applied.rows;
    part[0]->nonfinite = applied.nonfinite;
out:
    for (uint32_t t = 0; merged && t < applier->n_tables; t++)
        merged_release(&merged[t]);
    rt_free(merged);
    rt_free(update);
    return err;
}

int ebs_apply_parts(struct ebs_applier *applier, struct ebs_part *const *part, size_t n, bool merge)
{
    if (n == 0)
        return 0;
    return merge ? apply_merged(applier, part, n) : apply_each(applier, part, n);
}
