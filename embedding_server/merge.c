/* embedding_server/merge.c -- add up gradients by id, a table at a time, in pieces.
 *
 *   parts -> source[] {table, ids, gradients}, sorted by table, in the order of the parts
 *         -> slot[]: open addressing from id to place -> merged[]: id[place], gradient[place]
 *
 * The slots are made once, for the table with most rows, and cleared piece by piece before each table, for
 * clearing those of a million ids takes longer than a piece should. All memory is taken before the first row is
 * added, so what can fail fails at once. Sums are float32; what comes narrower is widened into the cache, then added. */
#include "embedding_server/merge.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"

#include <string.h>

#define CLEAR_SLOTS ((size_t)64 << 10) /* in one piece */
#define AHEAD       16u                /* rows whose slots are asked for early */

struct source {
    uint32_t table;         /* in the job's list */
    struct ebs_update rows; /* as ebs_part_rows() tells them */
};

struct sum {
    const struct ebs_table *table;
    struct ebs_merged out;
    uint64_t *id; /* [most], as out.id */
    float *grad;  /* [most][dim] */
    size_t most, dim;
    size_t first, end; /* its sources */
};

struct ebs_merge {
    struct source *source; /* [n_sources] */
    struct sum *sum;       /* [n_sums], one per table */
    uint32_t *slot;        /* place + 1; 0: free */
    size_t n_sources, n_sums;
    /* where we are */
    size_t at_sum, at_source, at_row, cleared;
};

static size_t slots_for(size_t rows)
{
    size_t slots = 64;

    while (slots < 2 * rows)
        slots *= 2;
    return slots;
}

/* ---- what is to be done ---- */

void ebs_part_rows(const struct ebs_part *part, uint32_t t, struct ebs_update *out)
{
    out->id = part->id[t];
    out->grad = part->grad[t];
    out->n = part->m.n_ids[t];
    out->dtype = part->m.dtype;
    out->unscale = part->m.scale ? 1.0f / part->m.scale[t] : 1.0f;
}

/* Counting sort by table; within a table in the order of the parts. */
static int sort_sources(struct ebs_merge *merge, uint32_t n_tables, struct ebs_part *const *part,
                        size_t n)
{
    size_t *begin = rt_try_calloc((size_t)n_tables + 1, sizeof(*begin));

    for (size_t p = 0; p < n; p++)
        merge->n_sources += part[p]->m.n_tables;
    merge->source = rt_try_calloc(merge->n_sources + 1, sizeof(*merge->source));
    if (!begin || !merge->source) {
        rt_free(begin);
        return RT_FAIL(RT_ENOMEM, "no memory to add up the gradients of %zu parts", n);
    }
    for (size_t p = 0; p < n; p++)
        for (uint32_t t = 0; t < part[p]->m.n_tables; t++)
            begin[part[p]->m.table[t] + 1]++;
    for (uint32_t t = 0; t < n_tables; t++) {
        merge->n_sums += begin[t + 1] > 0;
        begin[t + 1] += begin[t];
    }
    for (size_t p = 0; p < n; p++) {
        const struct wire_apply_gradients *m = &part[p]->m;

        for (uint32_t t = 0; t < m->n_tables; t++) {
            struct source *source = &merge->source[begin[m->table[t]]++];

            source->table = m->table[t];
            ebs_part_rows(part[p], t, &source->rows);
        }
    }
    rt_free(begin);
    return 0;
}

static int make_sum(struct sum *sum, const struct ebs_table *table)
{
    size_t bytes;

    sum->table = table;
    sum->dim = ebs_table_dim(table);
    if (sum->most >= UINT32_MAX)
        return RT_FAIL(RT_ELIMIT, "table %s: %zu gradients in one step, expected fewer than %u",
                       ebs_table_name(table), sum->most, UINT32_MAX);
    sum->id = rt_try_malloc(sum->most * sizeof(uint64_t) + 1);
    if (rt_mul_size(sum->most, sum->dim * sizeof(float), &bytes))
        sum->grad = rt_try_malloc(bytes + 1);
    if (!sum->id || !sum->grad)
        return RT_FAIL(RT_ENOMEM, "table %s: no memory to add up %zu gradients",
                       ebs_table_name(table), sum->most);
    sum->out.id = sum->id;
    sum->out.grad = sum->grad;
    return 0;
}

static int make_sums(struct ebs_merge *merge, struct ebs_table *const *table)
{
    size_t largest = 0, s = 0;

    merge->sum = rt_try_calloc(merge->n_sums + 1, sizeof(*merge->sum));
    if (!merge->sum)
        return RT_FAIL(RT_ENOMEM, "no memory to add up gradients for %zu tables", merge->n_sums);
    for (size_t i = 0; i < merge->n_sources; s++) {
        struct sum *sum = &merge->sum[s];
        int err;

        sum->out.table = merge->source[i].table;
        sum->first = i;
        for (; i < merge->n_sources && merge->source[i].table == sum->out.table; i++)
            sum->most += merge->source[i].rows.n;
        sum->end = i;
        err = make_sum(sum, table[sum->out.table]);
        if (err)
            return err;
        largest = sum->most > largest ? sum->most : largest;
    }
    merge->slot = rt_try_malloc(slots_for(largest) * sizeof(uint32_t));
    return merge->slot ? 0 : RT_FAIL(RT_ENOMEM, "no memory to add up %zu gradients", largest);
}

int ebs_merge_create(struct ebs_table *const *table, uint32_t n_tables,
                     struct ebs_part *const *part, size_t n, struct ebs_merge **out)
{
    struct ebs_merge *merge = rt_try_calloc(1, sizeof(*merge));
    int err;

    if (!merge)
        return RT_FAIL(RT_ENOMEM, "no memory to add up the gradients of %zu parts", n);
    err = sort_sources(merge, n_tables, part, n);
    if (!err)
        err = make_sums(merge, table);
    if (err) {
        ebs_merge_destroy(merge);
        return err;
    }
    *out = merge;
    return 0;
}

void ebs_merge_destroy(struct ebs_merge *merge)
{
    if (!merge)
        return;
    for (size_t s = 0; merge->sum && s < merge->n_sums; s++) {
        rt_free(merge->sum[s].id);
        rt_free(merge->sum[s].grad);
    }
    rt_free(merge->source);
    rt_free(merge->sum);
    rt_free(merge->slot);
    rt_free(merge);
}

/* ---- doing it ---- */

static void add_row(struct sum *sum, uint32_t *slot, size_t mask, uint64_t id, const float *grad)
{
    size_t at = rt_hash_id(id) & mask;
    float *to;

    while (slot[at] && sum->id[slot[at] - 1] != id)
        at = (at + 1) & mask;
    if (!slot[at]) {
        sum->id[sum->out.n] = id;
        memcpy(sum->grad + sum->out.n * sum->dim, grad, sum->dim * sizeof(float));
        slot[at] = (uint32_t)++sum->out.n;
        return;
    }
    to = sum->grad + (slot[at] - 1) * sum->dim;
    for (size_t j = 0; j < sum->dim; j++)
        to[j] += grad[j];
}

static void add_rows(struct sum *sum, uint32_t *slot, const struct ebs_update *rows, size_t from,
                     size_t n)
{
    size_t mask = slots_for(sum->most) - 1, most = ebs_update_wide(sum->table, rows), here;
    float wide[EBS_WIDE];

    for (size_t at = from; at < from + n; at += here) {
        const float *grad;

        here = from + n - at < most ? from + n - at : most;
        grad = ebs_update_gradients(sum->table, rows, at, here, wide);
        for (size_t i = at; i < at + here; i++, grad += sum->dim) {
            if (i + AHEAD < rows->n)
                __builtin_prefetch(&slot[rt_hash_id(rows->id[i + AHEAD]) & mask]);
            add_row(sum, slot, mask, rows->id[i], grad);
        }
    }
}

/* true: the table's slots are all clear. */
static bool clear(struct ebs_merge *merge, size_t slots)
{
    size_t left = slots - merge->cleared, n = left < CLEAR_SLOTS ? left : CLEAR_SLOTS;

    memset(merge->slot + merge->cleared, 0, n * sizeof(uint32_t));
    merge->cleared += n;
    return merge->cleared == slots;
}

bool ebs_merge_piece(struct ebs_merge *merge, size_t rows)
{
    struct sum *sum = &merge->sum[merge->at_sum];

    if (merge->at_sum == merge->n_sums)
        return false;
    if (merge->cleared < slots_for(sum->most) && !clear(merge, slots_for(sum->most)))
        return true;
    while (rows > 0 && sum->first + merge->at_source < sum->end) {
        const struct ebs_update *source = &merge->source[sum->first + merge->at_source].rows;
        size_t n = source->n - merge->at_row < rows ? source->n - merge->at_row : rows;

        add_rows(sum, merge->slot, source, merge->at_row, n);
        rows -= n;
        merge->at_row += n;
        if (merge->at_row == source->n) {
            merge->at_row = 0;
            merge->at_source++;
        }
    }
    if (sum->first + merge->at_source == sum->end) {
        merge->at_sum++;
        merge->at_source = merge->cleared = 0;
    }
    return merge->at_sum < merge->n_sums;
}

size_t ebs_merge_tables(const struct ebs_merge *merge)
{
    return merge->n_sums;
}

const struct ebs_merged *ebs_merge_table(const struct ebs_merge *merge, size_t i)
{
    rt_assert(i < merge->n_sums);
    return &merge->sum[i].out;
}
