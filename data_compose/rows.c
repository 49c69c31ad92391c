/* data_compose/rows.c -- the store of parsed rows of one split. */
#include "data_compose/rows.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <string.h>

#define PREFETCH_BYTES 512 /* of a row; what is beyond comes by itself */

void dc_rows_release(struct dc_rows *rows)
{
    rt_free(rows->word);
    rt_free(rows->start);
    *rows = (struct dc_rows){0};
}

size_t dc_rows_bytes(const struct dc_rows *rows)
{
    return rows->words_capacity * 8 + (size_t)rows->rows_capacity * 4;
}

static size_t words_of(size_t bytes)
{
    return (bytes + 7) / 8;
}

static int reserve(struct dc_rows *rows, size_t words, uint32_t n)
{
    if (rows->n_words + words > UINT32_MAX || rows->n > UINT32_MAX - n)
        return RT_FAIL(RT_ELIMIT,
                       "over 32 GiB of rows in one chunk: data.shuffle_rows is too large");
    if (rows->n_words + words > rows->words_capacity) {
        size_t capacity = rows->words_capacity * 2;
        if (capacity < rows->n_words + words)
            capacity = rows->n_words + words;
        uint64_t *grown = rt_try_realloc(rows->word, capacity * 8);
        if (!grown)
            return RT_FAIL(RT_ENOMEM, "no memory for %zu bytes of rows", capacity * 8);
        rows->word = grown;
        rows->words_capacity = capacity;
    }
    if (rows->n + n > rows->rows_capacity) {
        uint32_t capacity =
            rows->rows_capacity * 2 > rows->n + n ? rows->rows_capacity * 2 : rows->n + n;
        uint32_t *grown = rt_try_realloc(rows->start, (size_t)capacity * 4);
        if (!grown)
            return RT_FAIL(RT_ENOMEM, "no memory for %u rows", capacity);
        rows->start = grown;
        rows->rows_capacity = capacity;
    }
    return 0;
}

/* `rows` is of no more use: the larger of it and what is there stays. */
static void leave(struct dc_rows *spare, struct dc_rows *rows)
{
    struct dc_rows less = *rows;

    if (rows->words_capacity > spare->words_capacity) {
        less = *spare;
        *spare = *rows;
        spare->n = 0;
        spare->n_words = 0;
    }
    dc_rows_release(&less);
    *rows = (struct dc_rows){0};
}

/* The few rows that a split has kept go into the large store that another one has left. */
static void swap_into_spare(struct dc_rows *rows, struct dc_spares *spare)
{
    struct dc_rows small = *rows;

    *rows = spare->large;
    spare->large = (struct dc_rows){0};
    if (small.n) {
        memcpy(rows->word, small.word, small.n_words * 8);
        memcpy(rows->start, small.start, (size_t)small.n * 4);
    }
    rows->n = small.n;
    rows->n_words = small.n_words;
    leave(&spare->small, &small);
}

static size_t count_words(const struct dc_rows_shape *shape)
{
    return shape->varying ? words_of(sizeof(uint32_t) + shape->n_features * sizeof(uint16_t)) : 0;
}

static size_t value_bytes(const struct dc_rows_shape *shape)
{
    return ((size_t)shape->n_labels + shape->n_dense + shape->weighted) * sizeof(float);
}

static uint64_t *put_counts(uint64_t *at, const struct dc_rows_shape *shape,
                            const struct dc_row *row)
{
    size_t words = count_words(shape);

    if (words) {
        at[words - 1] = 0;
        memcpy(at, &row->n_ids, sizeof(uint32_t));
        memcpy((char *)at + sizeof(uint32_t), row->count, shape->n_features * sizeof(uint16_t));
    }
    if (shape->grouped)
        at[words++] = row->group;
    return at + words;
}

static void put_values(float *value, const struct dc_rows_shape *shape, const struct dc_row *row)
{
    if (shape->id_weighted) {
        memcpy(value, row->id_weight, row->n_ids * sizeof(float));
        value += row->n_ids;
    }
    memcpy(value, row->label, shape->n_labels * sizeof(float));
    memcpy(value + shape->n_labels, row->dense, shape->n_dense * sizeof(float));
    value += shape->n_labels + shape->n_dense;
    if (shape->weighted)
        *value++ = row->weight;
    if (shape->keyed) {
        memcpy(value, &row->key_size, sizeof(uint32_t));
        memcpy(value + 1, row->key, row->key_size);
    }
}

int dc_rows_add(struct dc_rows *rows, struct dc_spares *spare, const struct dc_rows_shape *shape,
                const struct dc_row *row)
{
    size_t key = shape->keyed ? sizeof(uint32_t) + row->key_size : 0;
    size_t weights = shape->id_weighted ? row->n_ids * sizeof(float) : 0;
    size_t words = count_words(shape) + shape->grouped + row->n_ids +
                   words_of(weights + value_bytes(shape) + key);

    bool full = rows->n_words + words > rows->words_capacity || rows->n == rows->rows_capacity;

    if (full && spare->large.words_capacity > rows->n_words + words &&
        spare->large.rows_capacity > rows->n)
        swap_into_spare(rows, spare);
    int err = reserve(rows, words, 1);
    if (err)
        return err;
    uint64_t *at = put_counts(rows->word + rows->n_words, shape, row);
    memcpy(at, row->id, row->n_ids * sizeof(uint64_t));
    put_values((float *)(at + row->n_ids), shape, row);
    rows->start[rows->n++] = (uint32_t)rows->n_words;
    rows->n_words += words;
    return 0;
}

void dc_rows_at(const struct dc_rows *rows, const struct dc_rows_shape *shape, uint32_t i,
                struct dc_record *out)
{
    const uint64_t *at = rows->word + rows->start[i];
    uint32_t n_ids = shape->n_ids;

    out->count = shape->count;
    if (shape->varying) {
        memcpy(&n_ids, at, sizeof(n_ids));
        out->count = (const uint16_t *)at + sizeof(n_ids) / sizeof(uint16_t);
        at += count_words(shape);
    }
    out->group = at;
    at += shape->grouped;
    out->id = at;
    out->id_weight = (const float *)(at + n_ids);
    out->label = out->id_weight + (shape->id_weighted ? n_ids : 0);
    out->dense = out->label + shape->n_labels;
    out->weight = out->dense + shape->n_dense;
    const float *end = out->weight + shape->weighted;
    out->key_size = 0;
    out->key = (const char *)(end + 1);
    if (shape->keyed)
        memcpy(&out->key_size, end, sizeof(uint32_t));
}

void dc_rows_prefetch(const struct dc_rows *rows, uint32_t i)
{
    const char *at = (const char *)(rows->word + rows->start[i]);
    const char *end =
        (const char *)(rows->word + (i + 1 < rows->n ? rows->start[i + 1] : rows->n_words));

    end = end - at > PREFETCH_BYTES ? at + PREFETCH_BYTES : end;
    for (; at < end; at += 64)
        __builtin_prefetch(at);
}

/* An empty store with room for so much: the small spare if it has room for the most that any split kept so far, else a fresh one
 * that has; so all of them are large enough one round after the most was kept. Where nothing is kept it is taken too, if it is
 * there: a split always has its own, and none is freed that another will want. */
static int take_small(struct dc_rows *kept, struct dc_spares *spare, size_t words, uint32_t n)
{
    struct dc_rows *small = &spare->small, fresh = {0};

    spare->words_max = words > spare->words_max ? words + words / 4 : spare->words_max;
    spare->rows_max = n > spare->rows_max ? n + n / 4 : spare->rows_max;
    if (n == 0 ||
        (spare->words_max <= small->words_capacity && spare->rows_max <= small->rows_capacity)) {
        *kept = *small;
        *small = (struct dc_rows){0};
        return 0;
    }
    int err = reserve(&fresh, spare->words_max, spare->rows_max);
    if (err) {
        dc_rows_release(&fresh);
        return err;
    }
    dc_rows_release(small);
    *kept = fresh;
    return 0;
}

int dc_rows_keep(struct dc_rows *rows, struct dc_spares *spare, const uint32_t *order, uint32_t n)
{
    struct dc_rows kept = {0};
    size_t words = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t r = order[i];
        size_t end = r + 1 < rows->n ? rows->start[r + 1] : rows->n_words;
        words += end - rows->start[r];
    }
    int err = take_small(&kept, spare, words, n);
    if (err)
        return err;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t r = order[i];
        size_t end = r + 1 < rows->n ? rows->start[r + 1] : rows->n_words;
        size_t size = end - rows->start[r];

        memcpy(kept.word + kept.n_words, rows->word + rows->start[r], size * 8);
        kept.start[kept.n++] = (uint32_t)kept.n_words;
        kept.n_words += size;
    }
    leave(&spare->large, rows);
    *rows = kept;
    return 0;
}
