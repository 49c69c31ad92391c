/* data_compose/columns.c -- gather loops over the encodings of block.h.
 *
 * A payload has its ids feature by feature and its dense values sample by sample, a block has all by column. So ids
 * are gathered column by column in one run: a column's codes and dictionary lie in the first two caches, and what is
 * written goes forwards. Dense values are gathered by tiles of samples, whose part of the payload stays in the first
 * cache while its columns come one after another. */
#include "data_compose/columns.h"
#include "data_compose/frequency.h"
#include "data_compose/parse_binary.h"

#include "runtime/base/mem.h"
#include "runtime/job/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TILE 256u /* samples; times 13 dense values are 13 KiB */

/* A feature's columns are neighbours in `ids`, in the order of its ids. */
struct dc_columns {
    uint32_t n_features, n_dense, n_labels, n_ids;
    struct dc_binary_field *ids;   /* [n_ids] by feature, then by place */
    uint32_t *first;               /* [n_features + 1] into ids */
    uint32_t *dense, *label;       /* [n_dense], [n_labels] columns of the view */
    const uint32_t *label_classes; /* the job's */
    uint32_t weight, group;        /* UINT32_MAX: none */
    const struct dc_vector *vector;
};

static int by_place(const void *a, const void *b)
{
    const struct dc_binary_field *x = a, *y = b;

    if (x->target != y->target)
        return x->target < y->target ? -1 : 1;
    return x->slot < y->slot ? -1 : x->slot > y->slot;
}

static void add_field(struct dc_columns *c, const struct dc_binary_field *f)
{
    if (f->kind == RT_COLUMN_FEATURE)
        c->ids[c->n_ids++] = *f;
    else if (f->kind == RT_COLUMN_DENSE)
        c->dense[f->target] = f->at;
    else if (f->kind == RT_COLUMN_LABEL)
        c->label[f->target] = f->at;
    else if (f->kind == RT_COLUMN_WEIGHT)
        c->weight = f->at;
    else if (f->kind == RT_COLUMN_GROUP)
        c->group = f->at;
}

struct dc_columns *dc_columns_create(const struct rt_job *job, const struct dc_binary *binary)
{
    uint32_t n = dc_binary_n_fields(binary);
    struct dc_columns *c = rt_xcalloc(1, sizeof(*c));
    bool able = !dc_frequency_wanted(job);

    c->n_features = job->n_features;
    c->n_dense = job->data.n_dense;
    c->n_labels = job->data.n_labels;
    c->label_classes = job->label_classes;
    c->ids = rt_xcalloc((size_t)n + 1, sizeof(*c->ids));
    c->first = rt_xcalloc((size_t)job->n_features + 2, sizeof(*c->first));
    c->dense = rt_xcalloc((size_t)c->n_dense + 1, sizeof(*c->dense));
    c->label = rt_xcalloc((size_t)c->n_labels + 1, sizeof(*c->label));
    c->weight = c->group = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        struct dc_binary_field f = dc_binary_field(binary, i);

        able = able && !f.counted && !f.weighted && !f.standardized;
        add_field(c, &f);
    }
    if (!able) {
        dc_columns_destroy(c);
        return NULL;
    }
    qsort(c->ids, c->n_ids, sizeof(*c->ids), by_place);
    for (uint32_t i = 0; i < c->n_ids; i++)
        c->first[c->ids[i].target + 1] = i + 1;
    for (uint32_t f = 0; f < c->n_features; f++) /* a feature always has a column */
        c->first[f + 1] = c->first[f + 1] ? c->first[f + 1] : c->first[f];
    return c;
}

void dc_columns_destroy(struct dc_columns *columns)
{
    if (!columns)
        return;
    rt_free(columns->ids);
    rt_free(columns->first);
    rt_free(columns->dense);
    rt_free(columns->label);
    rt_free(columns);
}

/* ---- are all values good? ---- */

/* The distinct values of a vector of float32, or all of them. */
static const float *values(const struct dc_vector *v, uint32_t *n)
{
    bool dict = v->encoding == DC_DICT8 || v->encoding == DC_DICT16;

    *n = dict ? v->n_dict : v->n;
    return dict ? v->dict : v->plain;
}

static bool all_finite(const struct dc_vector *v, float least)
{
    uint32_t n, bad = 0;
    const float *x = values(v, &n);

    for (uint32_t i = 0; i < n; i++)
        bad |= !(x[i] - x[i] == 0) | (x[i] < least);
    return !bad;
}

static bool all_labels(const struct dc_vector *v, uint32_t classes)
{
    uint32_t n, bad = 0;
    const float *x = values(v, &n);

    for (uint32_t i = 0; i < n; i++)
        bad |= !rt_label_fits(classes, (double)x[i]);
    return !bad;
}

bool dc_columns_bind(struct dc_columns *columns, const struct dc_block_view *view)
{
    const struct dc_vector *v = view->column;
    bool good = columns->weight == UINT32_MAX || all_finite(&v[columns->weight], 0);

    columns->vector = v;
    for (uint32_t i = 0; good && i < columns->n_labels; i++)
        good = all_labels(&v[columns->label[i]],
                          columns->label_classes ? columns->label_classes[i] : 2);
    for (uint32_t i = 0; good && i < columns->n_dense; i++)
        good = all_finite(&v[columns->dense[i]], -INFINITY);
    return good;
}

/* ---- gathering ---- */

struct gather {
    const uint32_t *row;
    uint32_t base, n;
    size_t stride; /* values of the payload from one sample to the next */
};

/* What the loop needs is in locals: the compiler cannot know that what is written is not `g`. */
#define GATHER(type, value)                                                                        \
    {                                                                                              \
        const uint32_t *row = g->row;                                                              \
        uint32_t base = g->base, n = g->n;                                                         \
        size_t stride = g->stride;                                                                 \
        type *out = to;                                                                            \
                                                                                                   \
        for (uint32_t s = 0; s < n; s++, out += stride) {                                          \
            uint32_t i = row[s] - base;                                                            \
            *out = (value);                                                                        \
        }                                                                                          \
    }

static void gather_64(const struct dc_vector *v, const struct gather *g, uint64_t *to)
{
    const uint64_t *dict = v->dict;
    const uint8_t *code8 = v->code;
    const uint16_t *code16 = v->code;
    const uint32_t *narrow = v->plain;
    const uint64_t *plain = v->plain;

    switch (v->encoding) {
    case DC_DICT8:
        GATHER(uint64_t, dict[code8[i]])
        break;
    case DC_DICT16:
        GATHER(uint64_t, dict[code16[i]])
        break;
    case DC_NARROW:
        GATHER(uint64_t, narrow[i])
        break;
    default:
        GATHER(uint64_t, plain[i])
        break;
    }
}

static void gather_32(const struct dc_vector *v, const struct gather *g, void *to)
{
    const uint32_t *dict = v->dict;
    const uint8_t *code8 = v->code;
    const uint16_t *code16 = v->code;
    const uint32_t *plain = v->plain;

    switch (v->encoding) {
    case DC_DICT8:
        GATHER(uint32_t, dict[code8[i]])
        break;
    case DC_DICT16:
        GATHER(uint32_t, dict[code16[i]])
        break;
    default:
        GATHER(uint32_t, plain[i])
        break;
    }
}

static void fill_ids(const struct dc_columns *c, struct gather g, struct dc_filling *at)
{
    for (uint32_t f = 0; f < c->n_features; f++) {
        uint32_t first = c->first[f], count = c->first[f + 1] - first;

        g.stride = count;
        for (uint32_t k = 0; k < count; k++)
            gather_64(&c->vector[c->ids[first + k].at], &g, at->id[f] + k);
        at->id[f] += (size_t)g.n * count;
    }
}

/* Columns of float32 that lie sample by sample in the payload. */
static void fill_floats(const struct dc_columns *c, const uint32_t *column, uint32_t n_columns,
                        const struct gather *all, float *to)
{
    for (uint32_t from = 0; from < all->n; from += TILE) {
        const struct gather g = {
            .row = all->row + from,
            .base = all->base,
            .n = all->n - from < TILE ? all->n - from : TILE,
            .stride = n_columns,
        };

        for (uint32_t k = 0; k < n_columns; k++)
            gather_32(&c->vector[column[k]], &g, to + (size_t)from * n_columns + k);
    }
}

void dc_columns_fill(const struct dc_columns *columns, const uint32_t *row, uint32_t base,
                     uint32_t n, struct dc_filling *at)
{
    const struct dc_columns *c = columns;
    const struct gather g = {row, base, n, 1};

    fill_ids(c, g, at);
    fill_floats(c, c->dense, c->n_dense, &g, at->dense);
    fill_floats(c, c->label, c->n_labels, &g, at->label);
    at->dense += (size_t)n * c->n_dense;
    at->label += (size_t)n * c->n_labels;
    if (at->weight) {
        gather_32(&c->vector[c->weight], &g, at->weight);
        at->weight += n;
    }
    if (at->group) {
        gather_64(&c->vector[c->group], &g, at->group);
        at->group += n;
    }
}
