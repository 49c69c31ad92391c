/* tests/unit/test_table.c -- rows that come and go, against a naive map; no gradient on a wrong row. */
#include "embedding_server/table.h"
#include "embedding_server/init.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define DIM 4

static const struct rt_table_conf sgd_conf = {
    .name = "users",
    .dim = DIM,
    .dtype = WIRE_F32,
    .init = {.kind = RT_INIT_UNIFORM, .low = -0.5, .high = 0.5},
    .optimizer = {.kind = RT_OPT_SGD},
};
#define SEED 11

static int try_create(const struct rt_table_conf *job, struct ebs_table **out)
{
    return ebs_table_create(&(struct ebs_table_conf){.job = job, .seed = SEED, .shards = RT_SHARDS},
                            out);
}

static struct ebs_table *create(const struct rt_table_conf *job)
{
    struct ebs_table *table = NULL;

    assert_int_equal(try_create(job, &table), 0);
    return table;
}

static struct ebs_applied apply(struct ebs_table *table, const uint64_t *id, const float *grad,
                                size_t n, float lr, uint64_t step)
{
    struct ebs_update update = {.id = id, .grad = grad, .n = n, .lr = lr, .step = step};
    struct ebs_applied applied = {0};

    ebs_table_apply(table, &update, &applied);
    return applied;
}

static float first_weight(const struct ebs_row *row)
{
    float weight;

    memcpy(&weight, row->weight, sizeof(weight));
    return weight;
}

/* A table whose values count updates: it starts at 0, and lr 1 with gradient -1 adds one. */
static struct ebs_table *create_counting(uint32_t dim)
{
    struct rt_table_conf conf = sgd_conf;

    conf.dim = dim;
    conf.init = (struct rt_init_conf){.kind = RT_INIT_CONSTANT};
    return create(&conf);
}

/* In 16 bits too: what is looked up does not change when the row is made. */
static void a_missing_row_is_its_initial_value(void **test)
{
    static const uint64_t id[] = {0, 1, UINT64_MAX, 1ull << 63, 0xdeadbeef};
    static const double step[] = {
        [WIRE_F32] = 0, [WIRE_F16] = 0x1p-11, [WIRE_BF16] = 0x1p-8}; /* of a rounding, at most */
    float got[ARRAY_LEN(id)][DIM], want[DIM], zero[ARRAY_LEN(id) * DIM] = {0};
    float first[ARRAY_LEN(id)][DIM];

    (void)test;
    for (uint32_t dtype = WIRE_F32; dtype <= WIRE_BF16; dtype++) {
        struct rt_table_conf conf = sgd_conf;
        struct ebs_table *table;
        struct ebs_init init;

        conf.dtype = dtype;
        table = create(&conf);
        assert_int_equal(ebs_init_prepare(&init, &conf, SEED), 0);
        for (int created = 0; created < 2; created++) {
            size_t hits = ebs_table_lookup(table, id, ARRAY_LEN(id), got[0]);

            assert_int_equal(hits, created ? ARRAY_LEN(id) : 0);
            assert_int_equal(ebs_table_rows(table), hits);
            for (size_t i = 0; i < ARRAY_LEN(id); i++) {
                ebs_init_fill(&init, id[i], want, DIM);
                for (size_t j = 0; j < DIM; j++)
                    assert_true(fabs((double)got[i][j] - (double)want[j]) <= 0.5 * step[dtype]);
            }
            if (created)
                assert_memory_equal(got, first, sizeof(got));
            memcpy(first, got, sizeof(got));
            /* A zero gradient makes the rows and leaves their values. */
            apply(table, id, zero, ARRAY_LEN(id), 1.0f, 1);
        }
        ebs_table_destroy(table);
    }
}

/* The worst bug known of systems like this one: an id without a row, in the middle of a request, whose gradient
 * was not stepped over, so that all ids after it got their neighbours' gradients. */
static void gradients_never_shift(void **test)
{
    enum { N = 3000 };
    static uint64_t id[N];
    static float grad[N][DIM], got[N][DIM];
    static const struct {
        const char *name;
        unsigned present, removed, bad; /* each k-th id; 0: none */
    } row[] = {
        {"all new", 0, 0, 0},
        {"every second missing", 2, 0, 0},
        {"every third present, then some removed", 3, 5, 0},
        {"some gradients not usable", 2, 0, 7},
        {"all of it", 2, 3, 5},
        {"all gradients not usable", 2, 0, 1},
    };

    (void)test;
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        struct ebs_table *table = create_counting(DIM);
        struct ebs_applied applied;
        size_t bad = 0;

        for (size_t i = 0; i < N; i++) {
            float zero[DIM] = {0};

            id[i] = rt_draw(r, i);
            for (size_t j = 0; j < DIM; j++)
                grad[i][j] = -(float)(i * DIM + j + 1);
            if (row[r].present && i % row[r].present == 0)
                apply(table, &id[i], zero, 1, 1.0f, 1);
            if (row[r].removed && i % row[r].removed == 0)
                ebs_table_remove(table, id[i]);
            if (row[r].bad && i % row[r].bad == 0) {
                grad[i][i % DIM] = i % 2 ? NAN : INFINITY;
                bad++;
            }
        }
        applied = apply(table, id, grad[0], N, 1.0f, 1);
        if (applied.nonfinite != bad || applied.rows != N - bad)
            fail_msg("%s: applied %d, nonfinite %d", row[r].name, (int)applied.rows,
                     (int)applied.nonfinite);
        ebs_table_lookup(table, id, N, got[0]);
        for (size_t i = 0; i < N; i++) {
            bool skipped = row[r].bad && i % row[r].bad == 0;

            for (size_t j = 0; j < DIM; j++)
                if (got[i][j] != (skipped ? 0.0f : (float)(i * DIM + j + 1)))
                    fail_msg("%s: id %zu element %zu has %g", row[r].name, i, j, (double)got[i][j]);
        }
        ebs_table_destroy(table);
    }
}

static void a_bad_gradient_creates_nothing(void **test)
{
    struct ebs_table *table = create(&sgd_conf);
    float grad[2][DIM] = {{1, 2, NAN, 4}, {1, 1, 1, 1}};
    uint64_t id[2] = {5, 6};
    struct ebs_applied applied = apply(table, id, grad[0], 2, 0.1f, 1);

    (void)test;
    assert_int_equal(applied.nonfinite, 1);
    assert_int_equal(applied.created, 1);
    assert_int_equal(ebs_table_rows(table), 1);
    assert_false(ebs_table_remove(table, 5));
    assert_true(ebs_table_remove(table, 6));
    ebs_table_destroy(table);
}

static void an_id_twice_is_applied_twice(void **test)
{
    struct ebs_table *table = create_counting(1);
    uint64_t id[] = {7, 0, 7, 7, UINT64_MAX, 0};
    float grad[ARRAY_LEN(id)], got[3];

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(id); i++)
        grad[i] = -1.0f;
    assert_int_equal(apply(table, id, grad, ARRAY_LEN(id), 1.0f, 1).created, 3);
    ebs_table_lookup(table, (uint64_t[]){7, 0, UINT64_MAX}, 3, got);
    assert_true(got[0] == 3.0f && got[1] == 2.0f && got[2] == 1.0f);
    ebs_table_destroy(table);
}

/* State starts fresh after a removal: a removed row is as if never seen. */
static void removed_is_never_seen(void **test)
{
    struct rt_table_conf conf = sgd_conf;
    struct ebs_table *a, *b;
    uint64_t id = 99;
    float grad[DIM] = {1, -2, 3, -4}, got[DIM], want[DIM];

    (void)test;
    conf.optimizer = (struct rt_sparse_optimizer_conf){
        .kind = RT_OPT_ADAM, .eps = 1e-8, .beta1 = 0.9, .beta2 = 0.999};
    a = create(&conf);
    b = create(&conf);
    for (uint64_t step = 1; step < 5; step++)
        apply(a, &id, grad, 1, 0.1f, step);
    assert_true(ebs_table_remove(a, id));
    assert_int_equal(ebs_table_lookup(a, &id, 1, got), 0);
    apply(a, &id, grad, 1, 0.1f, 6);
    apply(b, &id, grad, 1, 0.1f, 6);
    ebs_table_lookup(a, &id, 1, got);
    ebs_table_lookup(b, &id, 1, want);
    assert_memory_equal(got, want, sizeof(want));
    ebs_table_destroy(a);
    ebs_table_destroy(b);
}

static void growth_keeps_every_row(void **test)
{
    enum { ROWS = 400000, N = 4000 };
    static uint64_t id[N];
    static float grad[N], got[N];
    struct ebs_table *table = create_counting(1);
    struct ebs_table_bytes bytes;
    struct ebs_row row;
    uint64_t seen = 0;
    double sum = 0;

    (void)test;
    for (uint64_t at = 0; at < ROWS; at += N) {
        for (size_t i = 0; i < N; i++) {
            id[i] = at + i; /* the raw integers that data sets have */
            grad[i] = -(float)(at + i);
        }
        assert_int_equal(apply(table, id, grad, N, 1.0f, 1).created, N);
    }
    for (uint64_t at = 0; at < ROWS; at += N) {
        for (size_t i = 0; i < N; i++)
            id[i] = at + i;
        assert_int_equal(ebs_table_lookup(table, id, N, got), N);
        for (size_t i = 0; i < N; i++)
            assert_true(got[i] == (float)(at + i));
    }
    for (uint32_t at = 0; ebs_table_next(table, &at, &row);) {
        assert_true(first_weight(&row) == (float)row.id);
        sum += (double)row.id;
        seen++;
    }
    assert_int_equal(seen, ROWS);
    assert_true(sum == (double)ROWS * (ROWS - 1) / 2);
    bytes = ebs_table_bytes(table);
    /* 8 bytes of id, and the index, beside the weights. */
    assert_int_equal(ebs_table_row_bytes(table), 12);
    assert_true((double)bytes.index / ROWS < 8.5);
    ebs_table_destroy(table);
}

#define MODEL_IDS  5000
#define OPERATIONS 1000000

struct model {
    struct rt_map count; /* id -> updates; absent: no row */
    uint64_t key[MODEL_IDS];
};

static void model_apply(struct ebs_table *table, struct model *model, const uint64_t *id, size_t n)
{
    float grad[32];

    for (size_t i = 0; i < n; i++) {
        uint64_t count = 0;

        grad[i] = -1.0f;
        rt_map_get(&model->count, id[i], &count);
        rt_map_put(&model->count, id[i], count + 1);
    }
    apply(table, id, grad, n, 1.0f, 1);
}

static void model_lookup(const struct ebs_table *table, const struct model *model,
                         const uint64_t *id, size_t n)
{
    float got[32];
    size_t hits = 0;

    size_t found = ebs_table_lookup(table, id, n, got);
    for (size_t i = 0; i < n; i++) {
        uint64_t count = 0;

        hits += rt_map_get(&model->count, id[i], &count);
        if (got[i] != (float)count)
            fail_msg("id %llx: %g updates, want %llu", (unsigned long long)id[i], (double)got[i],
                     (unsigned long long)count);
    }
    assert_int_equal(found, hits);
}

static void as_a_naive_map(void **test)
{
    uint64_t seed = (uint64_t)time(NULL), at = 0;
    struct ebs_table *table = create_counting(1);
    static struct model model;
    struct ebs_row row;
    size_t rows = 0;

    (void)test;
    printf("seed %llu\n", (unsigned long long)seed);
    rt_map_init(&model.count);
    for (size_t i = 0; i < MODEL_IDS; i++) /* small integers, the ends, and anything */
        model.key[i] = i % 3 == 0 ? i : i % 3 == 1 ? ~(uint64_t)i + 1 : rt_draw(seed, at++);
    for (int done = 0; done < OPERATIONS;) {
        uint64_t id[32], kind = rt_below(rt_draw(seed, at++), 10);
        size_t n = 1 + rt_below(rt_draw(seed, at++), ARRAY_LEN(id));
        uint64_t reach = MODEL_IDS * (1 + (uint64_t)done * 9 / OPERATIONS) / 10;

        for (size_t i = 0; i < n; i++)
            id[i] = model.key[rt_below(rt_draw(seed, at++), reach)];
        if (kind < 4)
            model_apply(table, &model, id, n);
        else if (kind < 7)
            model_lookup(table, &model, id, n);
        else
            for (size_t i = 0; i < n; i++)
                assert_true(ebs_table_remove(table, id[i]) == rt_map_remove(&model.count, id[i]));
        assert_int_equal(ebs_table_rows(table), model.count.count);
        done += (int)n;
    }
    for (uint32_t cursor = 0; ebs_table_next(table, &cursor, &row); rows++) {
        uint64_t count;

        assert_true(rt_map_get(&model.count, row.id, &count) && first_weight(&row) == (float)count);
    }
    assert_int_equal(rows, model.count.count);
    rt_map_release(&model.count);
    ebs_table_destroy(table);
}

/* Fail each allocation in turn: ids without room are counted, all others have their gradient, and those that were refused
 * have it the next time. */
static void without_memory_new_ids_are_refused(void **test)
{
    enum { N = 600 };
    static uint64_t id[N];
    static float grad[N], got[N];
    bool done = false;

    (void)test;
    for (size_t i = 0; i < N; i++) {
        id[i] = i * i;
        grad[i] = -1.0f;
    }
    for (int64_t nth = 0; !done; nth++) {
        struct ebs_update update = {.id = id, .grad = grad, .n = N, .lr = 1.0f, .step = 1};
        struct ebs_applied applied = {0};
        struct rt_table_conf conf = sgd_conf;
        struct ebs_table *table = NULL;
        int err;

        conf.dim = 1;
        conf.init = (struct rt_init_conf){.kind = RT_INIT_CONSTANT};
        rt_fault_alloc(nth);
        err = try_create(&conf, &table);
        if (!err)
            ebs_table_apply(table, &update, &applied);
        done = !rt_fault_hit();
        rt_fault_alloc(-1);
        assert_int_equal(err, done || table ? 0 : RT_ENOMEM);
        if (!table)
            continue;
        assert_int_equal(applied.rows + applied.refused, N);
        assert_int_equal(applied.refused > 0, !done);
        ebs_table_lookup(table, id, N, got);
        for (size_t i = 0; i < N; i++) {
            assert_true(got[i] == 0.0f || got[i] == 1.0f);
            applied.rows -= got[i] == 1.0f;
        }
        assert_int_equal(applied.rows, 0);          /* what it said is what it did */
        for (int64_t at = 0; !done && at < N; at++) /* those that had no room */
            if (got[at] == 0.0f)
                ebs_table_apply(table,
                                &(struct ebs_update){
                                    .id = id + at, .grad = grad, .n = 1, .lr = 1.0f, .step = 1},
                                &applied);
        ebs_table_lookup(table, id, N, got);
        for (size_t i = 0; i < N; i++)
            assert_true(got[i] == 1.0f);
        assert_int_equal(ebs_table_rows(table), N);
        ebs_table_destroy(table);
    }
}

static void wrong_conf_is_named(void **test)
{
    struct rt_table_conf conf = sgd_conf;
    struct ebs_table *table = NULL;

    (void)test;
    conf.dim = 0;
    assert_int_equal(try_create(&conf, &table), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "users"));
    conf.dim = EBS_DIM_MAX + 1;
    assert_int_equal(try_create(&conf, &table), RT_EUSAGE);
    conf = sgd_conf;
    conf.init.high = -1.0;
    assert_int_equal(try_create(&conf, &table), RT_EUSAGE);
    conf = sgd_conf;
    conf.optimizer.weight_decay = -1.0;
    assert_int_equal(try_create(&conf, &table), RT_EUSAGE);
    assert_null(table);
    ebs_table_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_row_is_its_initial_value),
        cmocka_unit_test(gradients_never_shift),
        cmocka_unit_test(a_bad_gradient_creates_nothing),
        cmocka_unit_test(an_id_twice_is_applied_twice),
        cmocka_unit_test(removed_is_never_seen),
        cmocka_unit_test(growth_keeps_every_row),
        cmocka_unit_test(as_a_naive_map),
        cmocka_unit_test(without_memory_new_ids_are_refused),
        cmocka_unit_test(wrong_conf_is_named),
    };

    return cmocka_run_group_tests_name("table", tests, NULL, NULL);
}
