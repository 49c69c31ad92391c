/* data_compose/payload.c -- the bytes of a batch, from rows or from a block of the binary form.
 *
 *   records -by tiles of samples-> columns      planes -eight columns at a time-> columns      block -column by column-> columns
 *
 * Payloads have their ids feature by feature, rows have them together: this is a transposition, and its cost is that of the
 * caches' lines (rows.c). Records, which differ in length, are taken by tiles of few samples, which are asked for one tile
 * before. Even rows lie in planes, and are turned eight by eight (plane_loop.inc.h). */
#include "data_compose/payload.h"
#include "data_compose/batch.h"
#include "data_compose/columns.h"
#include "data_compose/plane.h"
#include "data_compose/rows.h"

#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/net/io.h"
#include "runtime/wire/batch.h"

#include <string.h>

#define TILE  32u /* samples whose records are laid out together */
#define AHEAD 16u /* samples whose floats are asked for before */

/* Where a column of planes goes: id `nth` of a feature of `count`; the group's feature is n_features. */
struct place {
    uint32_t feature, nth, count;
};

struct dc_payload {
    struct rt_io *io;
    const struct dc_rows_shape *shape;
    const struct dc_columns *columns;
    dc_plane_fn copy_plane;
    struct place *place;   /* [dc_rows_columns()] even rows */
    uint64_t **cursor;     /* [n_features] where the next id goes */
    float **weight_cursor; /* [n_features] and its weight, where ids have them */
};

static void place_columns(struct dc_payload *p)
{
    uint32_t at = 0;

    p->place = rt_xcalloc((size_t)dc_rows_columns(p->shape) + 1, sizeof(*p->place));
    for (uint32_t f = 0; f < p->shape->n_features; f++)
        for (uint32_t k = 0; k < p->shape->count[f]; k++)
            p->place[at++] = (struct place){f, k, p->shape->count[f]};
    rt_assert(at == p->shape->n_ids);
    p->place[at] = (struct place){p->shape->n_features, 0, 1};
}

struct dc_payload *dc_payload_create(struct rt_io *io, const struct dc_rows_shape *shape,
                                     const struct dc_columns *columns)
{
    struct dc_payload *p = rt_xcalloc(1, sizeof(*p));

    p->io = io;
    p->shape = shape;
    p->columns = columns;
    p->copy_plane = rt_cpu_isa() == RT_ISA_AVX512 ? dc_plane_avx512 : dc_plane_plain;
    p->cursor = (uint64_t **)rt_xcalloc(shape->n_features + 1, sizeof(*p->cursor));
    p->weight_cursor = (float **)rt_xcalloc(shape->n_features + 1, sizeof(*p->weight_cursor));
    if (dc_rows_even(shape))
        place_columns(p);
    return p;
}

void dc_payload_destroy(struct dc_payload *payload)
{
    if (!payload)
        return;
    rt_free(payload->place);
    rt_free((void *)payload->cursor);
    rt_free((void *)payload->weight_cursor);
    rt_free(payload);
}

/* ---- sizes ---- */

/* Ids of each feature, and whether all samples have one. */
static void count_ids(const struct dc_payload *p, const struct dc_rows *rows, const uint32_t *order,
                      struct dc_batch *batch)
{
    uint32_t n_features = p->shape->n_features;
    struct dc_record r;

    for (uint32_t f = 0; f < n_features; f++) {
        batch->layout[f] = WIRE_LAYOUT_ONE;
        if (p->shape->varying)
            continue;
        batch->n_ids[f] = batch->samples * p->shape->count[f];
        if (p->shape->count[f] != 1)
            batch->layout[f] = WIRE_LAYOUT_LENGTHS;
    }
    for (uint32_t s = 0; p->shape->varying && s < batch->samples; s++) {
        dc_rows_at(rows, p->shape, order[s], &r);
        for (uint32_t f = 0; f < n_features; f++) {
            batch->n_ids[f] += r.count[f];
            if (r.count[f] != 1)
                batch->layout[f] = WIRE_LAYOUT_LENGTHS;
        }
    }
}

static size_t ids_bytes(const struct dc_batch *batch, uint32_t n_features)
{
    size_t end = 0;

    for (uint32_t f = 0; f < n_features; f++) {
        if (batch->layout[f] == WIRE_LAYOUT_LENGTHS)
            rt_segment_put(&end, batch->samples * sizeof(uint32_t));
        rt_segment_put(&end, batch->n_ids[f] * sizeof(uint64_t));
        if (batch->weighted && batch->weighted[f])
            rt_segment_put(&end, batch->n_ids[f] * sizeof(float));
    }
    return end;
}

/* Bytes of the segments beside the ids. */
static size_t samples_bytes(const struct dc_rows_shape *shape, const struct dc_batch *batch)
{
    size_t n = batch->samples, end = 0;

    rt_segment_put(&end, n * sizeof(float) * shape->n_dense);
    rt_segment_put(&end, n * sizeof(float) * shape->n_labels);
    if (shape->weighted)
        rt_segment_put(&end, n * sizeof(float));
    if (shape->grouped)
        rt_segment_put(&end, n * sizeof(uint64_t));
    if (batch->key_bytes)
        rt_segment_put(&end, n * sizeof(uint32_t));
    if (batch->key_bytes)
        rt_segment_put(&end, batch->key_bytes);
    return end;
}

static void count_keys(const struct dc_payload *p, const struct dc_rows *rows,
                       const uint32_t *order, struct dc_batch *batch)
{
    struct dc_record r;

    for (uint32_t s = 0; p->shape->keyed && s < batch->samples; s++) {
        dc_rows_at(rows, p->shape, order[s], &r);
        batch->key_bytes += r.key_size;
    }
}

/* ---- segments ---- */

/* The next segment at *end, with the padding before it cleared: the digest covers it. */
static void *segment(struct rt_buf *buf, size_t *end, size_t bytes)
{
    size_t before = *end, at = rt_segment_put(end, bytes);

    memset(buf->data + before, 0, at - before);
    return buf->data + at;
}

/* Segments of the ids, with the lengths filled in. */
static void lay_out_ids(struct dc_payload *p, const struct dc_rows *rows, const uint32_t *order,
                        struct dc_batch *batch)
{
    size_t end = 0;
    struct dc_record r;

    for (uint32_t f = 0; f < p->shape->n_features; f++) {
        if (batch->layout[f] == WIRE_LAYOUT_LENGTHS) {
            uint32_t *length = segment(batch->ids, &end, batch->samples * sizeof(*length));
            for (uint32_t s = 0; s < batch->samples; s++) {
                if (p->shape->varying)
                    dc_rows_at(rows, p->shape, order[s], &r);
                length[s] = p->shape->varying ? r.count[f] : p->shape->count[f];
            }
        }
        p->cursor[f] = segment(batch->ids, &end, batch->n_ids[f] * sizeof(uint64_t));
        if (batch->weighted && batch->weighted[f])
            p->weight_cursor[f] = segment(batch->ids, &end, batch->n_ids[f] * sizeof(float));
    }
    rt_assert(end == batch->ids->size);
}

static struct dc_filling lay_out_samples(const struct dc_rows_shape *shape, struct dc_batch *batch)
{
    struct rt_buf *buf = batch->samples_payload;
    size_t n = batch->samples, end = 0;
    struct dc_filling at = {0};

    at.dense = segment(buf, &end, n * sizeof(float) * shape->n_dense);
    at.label = segment(buf, &end, n * sizeof(float) * shape->n_labels);
    if (shape->weighted)
        at.weight = segment(buf, &end, n * sizeof(float));
    if (shape->grouped)
        at.group = segment(buf, &end, n * sizeof(uint64_t));
    if (batch->key_bytes) {
        at.key_length = segment(buf, &end, n * sizeof(uint32_t));
        at.key = segment(buf, &end, batch->key_bytes);
    }
    rt_assert(end == buf->size);
    return at;
}

/* ---- from records ---- */

/* The ids of up to TILE samples, feature by feature. Sample by sample would write to all features' columns in
 * turn, which lie a power of two apart and so fight for the same few cache lines. */
static void fill_ids(struct dc_payload *p, const struct dc_record *r, uint32_t n)
{
    uint32_t at[TILE] = {0};

    for (uint32_t f = 0; f < p->shape->n_features; f++) {
        uint64_t *to = p->cursor[f];

        for (uint32_t s = 0; s < n; s++)
            for (uint32_t k = 0; k < r[s].count[f]; k++)
                *to++ = r[s].id[at[s]++];
        p->cursor[f] = to;
    }
}

/* And their weights, of the features whose ids have them. */
static void fill_weights(struct dc_payload *p, const struct dc_record *r, uint32_t n)
{
    uint32_t at[TILE] = {0};

    for (uint32_t f = 0; f < p->shape->n_features; f++) {
        for (uint32_t s = 0; s < n; s++) {
            if (p->shape->id_weighted[f]) {
                memcpy(p->weight_cursor[f], r[s].id_weight + at[s], r[s].count[f] * sizeof(float));
                p->weight_cursor[f] += r[s].count[f];
            }
            at[s] += r[s].count[f];
        }
    }
}

static void fill_samples(const struct dc_rows_shape *shape, const struct dc_record *r, uint32_t n,
                         struct dc_filling *at)
{
    for (uint32_t s = 0; s < n; s++) {
        memcpy(at->dense, r[s].dense, shape->n_dense * sizeof(float));
        memcpy(at->label, r[s].label, shape->n_labels * sizeof(float));
        at->dense += shape->n_dense;
        at->label += shape->n_labels;
        if (at->weight)
            *at->weight++ = *r[s].weight;
        if (at->group)
            *at->group++ = *r[s].group;
        if (!at->key)
            continue;
        *at->key_length++ = r[s].key_size;
        memcpy(at->key, r[s].key, r[s].key_size);
        at->key += r[s].key_size;
    }
}

/* The first n samples, which are records. */
static void fill_records(struct dc_payload *p, const struct dc_rows *rows, const uint32_t *order,
                         uint32_t n, struct dc_filling *at)
{
    struct dc_record r[TILE];

    for (uint32_t from = 0; from < n; from += TILE) {
        uint32_t here = n - from < TILE ? n - from : TILE;

        for (uint32_t s = 0; s < here; s++)
            dc_rows_at(rows, p->shape, order[from + s], &r[s]);
        for (uint32_t s = here; s < 2 * TILE && from + s < n; s++)
            dc_rows_prefetch(rows, order[from + s]); /* of the next tile */
        fill_samples(p->shape, r, here, at);
        fill_ids(p, r, here);
        if (p->shape->id_weighted)
            fill_weights(p, r, here);
    }
}

/* ---- from planes ---- */

static void fill_ids_of_planes(const struct dc_payload *p, const struct dc_rows *rows,
                               const uint32_t *order, uint32_t n, struct dc_filling *at)
{
    for (uint32_t i = 0; i * DC_PLANE < dc_rows_columns(p->shape); i++) {
        struct dc_plane_copy copy = {
            .plane = dc_rows_plane(rows, i),
            .order = order,
            .n = n,
            .width = dc_plane_width(p->shape, i),
        };

        for (uint32_t k = 0; k < copy.width; k++) {
            const struct place *to = &p->place[i * DC_PLANE + k];

            copy.to[k] =
                to->feature < p->shape->n_features ? p->cursor[to->feature] + to->nth : at->group;
            copy.stride[k] = to->count;
        }
        p->copy_plane(&copy);
    }
    for (uint32_t f = 0; f < p->shape->n_features; f++)
        p->cursor[f] += (size_t)n * p->shape->count[f];
    if (at->group)
        at->group += n;
}

/* By fours: what is too much is of the same row, and goes where the next sample's come. */
static void copy_fours(float *to, const float *from, uint32_t n)
{
    for (uint32_t k = 0; k < n; k += 4)
        memcpy(to + k, from + k, 4 * sizeof(*to));
}

static void fill_floats(const struct dc_payload *p, const struct dc_rows *rows,
                        const uint32_t *order, uint32_t n, struct dc_filling *at)
{
    const struct dc_rows_shape *shape = p->shape;
    const float *floats = dc_rows_floats(rows, shape);
    size_t pitch = dc_rows_pitch(shape), fours = rt_align_up(shape->n_dense, 4);
    const float *end = at->dense + (size_t)n * shape->n_dense;

    for (uint32_t s = 0; s < n; s++) {
        const float *row = floats + order[s] * pitch;

        if (s + AHEAD < n)
            __builtin_prefetch(floats + order[s + AHEAD] * pitch);
        if ((size_t)(end - at->dense) >= fours)
            copy_fours(at->dense, row, shape->n_dense);
        else
            memcpy(at->dense, row, shape->n_dense * sizeof(float));
        at->dense += shape->n_dense;
        for (uint32_t i = 0; i < shape->n_labels; i++)
            *at->label++ = row[shape->n_dense + i];
        if (at->weight)
            *at->weight++ = row[shape->n_dense + shape->n_labels];
    }
}

/* ---- a batch ---- */

/* Records are queued, so they come first; the others are gathered from the block. */
static void fill(struct dc_payload *p, const struct dc_rows *rows, uint32_t n_records,
                 const uint32_t *order, struct dc_batch *batch)
{
    struct dc_filling at = lay_out_samples(p->shape, batch);
    uint32_t n = batch->samples, records = 0;

    lay_out_ids(p, rows, order, batch);
    while (records < n && order[records] < n_records)
        records++;
    if (records && dc_rows_even(p->shape)) {
        fill_ids_of_planes(p, rows, order, records, &at);
        fill_floats(p, rows, order, records, &at);
    } else {
        fill_records(p, rows, order, records, &at);
    }
    at.id = p->cursor;
    if (records < n)
        dc_columns_fill(p->columns, order + records, n_records, n - records, &at);
    batch->digest = rt_hash_bytes(batch->ids->data, batch->ids->size);
}

bool dc_payload_build(struct dc_payload *payload, const struct dc_rows *rows, uint32_t n_records,
                      const uint32_t *order, struct dc_batch *batch)
{
    struct dc_payload *p = payload;

    count_ids(p, rows, order, batch);
    size_t ids = ids_bytes(batch, p->shape->n_features);
    count_keys(p, rows, order, batch);
    size_t values = samples_bytes(p->shape, batch);
    batch->ids = rt_io_buf(p->io, ids);
    batch->samples_payload = rt_io_buf(p->io, values);
    if (!batch->ids || !batch->samples_payload)
        return false;
    batch->ids->size = ids;
    batch->samples_payload->size = values;
    fill(p, rows, n_records, order, batch);
    return true;
}
