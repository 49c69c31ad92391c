/* tests/unit/table_bed.c -- see table_bed.h. */
#include "tests/unit/table_bed.h"
#include "runtime/base/assert.h"
#include "runtime/base/rand.h"
#include "runtime/job/layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct rt_table_conf table_bed_counting(uint32_t dim, uint32_t dtype)
{
    return (struct rt_table_conf){.name = "users",
                                  .dim = dim,
                                  .dtype = dtype,
                                  .init = {.kind = RT_INIT_CONSTANT},
                                  .optimizer = {.kind = RT_OPT_SGD},
                                  .admission = {.kind = RT_ADMIT_ALWAYS},
                                  .eviction = {.kind = RT_EVICT_NONE, .half_life = 100}};
}

int table_bed_try(const struct rt_table_conf *job, struct ebs_budget *budget,
                  struct ebs_table **out)
{
    return ebs_table_create(
        &(struct ebs_table_conf){
            .job = job, .seed = TABLE_BED_SEED, .shards = RT_SHARDS, .budget = budget},
        out);
}

struct ebs_table *table_bed_create(const struct rt_table_conf *job)
{
    struct ebs_table *table = NULL;

    assert_int_equal(table_bed_try(job, NULL, &table), 0);
    return table;
}

struct ebs_applied table_bed_update(struct ebs_table *table, const uint64_t *id, const float *grad,
                                    size_t n)
{
    struct ebs_update update = {.id = id, .grad = grad, .n = n, .lr = 1.0f, .step = 1};
    struct ebs_applied applied = {0};

    ebs_table_tick(table, 0);
    ebs_table_apply(table, &update, &applied);
    return applied;
}

struct ebs_applied table_bed_count(struct ebs_table *table, const uint64_t *id, size_t n)
{
    static float grad[4096];

    rt_assert(n * ebs_table_dim(table) <= ARRAY_LEN(grad));
    for (size_t i = 0; i < ARRAY_LEN(grad); i++)
        grad[i] = -1.0f;
    return table_bed_update(table, id, grad, n);
}

float table_bed_value(const struct ebs_table *table, uint64_t id)
{
    float row[EBS_DIM_MAX];

    ebs_table_lookup(table, &id, 1, row);
    return row[0];
}

bool table_bed_has(const struct ebs_table *table, uint64_t id)
{
    struct ebs_row row;

    return ebs_table_get(table, id, &row);
}

static uint64_t fold(uint64_t digest, const void *data, size_t size)
{
    const uint8_t *byte = data;

    for (size_t i = 0; i < size; i++)
        digest = (digest ^ byte[i]) * 0x100000001b3ull;
    return digest;
}

uint64_t table_bed_digest(const struct ebs_table *table)
{
    size_t bytes = ebs_table_row_bytes(table);
    uint64_t digest = 0xcbf29ce484222325ull;
    struct ebs_row row;

    /* A row's id is its first field, so all of it lies between there and its last byte. */
    for (uint32_t at = 0; ebs_table_next(table, &at, &row);) {
        const uint8_t *end = (const uint8_t *)row.state;

        digest = fold(digest, &row.id, sizeof(row.id));
        digest = fold(digest, &row.touched, sizeof(row.touched));
        digest = fold(digest, &row.frequency, sizeof(row.frequency));
        digest = fold(digest, row.weight, (size_t)(end - row.weight));
        digest = fold(digest, &at, sizeof(at));
    }
    return fold(digest, &bytes, sizeof(bytes));
}

void table_bed_check(const struct ebs_table *table)
{
    const struct ebs_table_counts *counts = ebs_table_counts(table);
    uint64_t rows = ebs_table_rows(table), walked = 0;
    struct ebs_table_bytes bytes = ebs_table_bytes(table);
    struct ebs_row row, again;

    for (uint32_t at = 0; ebs_table_next(table, &at, &row); walked++) {
        assert_true(ebs_table_get(table, row.id, &again));
        assert_ptr_equal(row.weight, again.weight);
    }
    assert_int_equal(walked, rows);
    assert_int_equal(counts->created - counts->evicted - counts->expired - counts->removed, rows);
    assert_int_equal(bytes.rows, rows * ebs_table_row_bytes(table));
}
