/* tests/unit/test_optimizer.c -- formulas against PyTorch, and equal bits on every instruction set.
 *
 * What many rows in one call become is compared with the plain loops called for one row after the other: whatever is done
 * for many rows at a time must not show, also where a row comes twice or is left out. */
#include "embedding_server/optimizer.h"
#include "embedding_server/element.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/rand.h"
#include "runtime/job/layout.h"
#include "tests/golden/sparse_optimizers.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define DIM_MAX WIRE_DIM_MAX

/* Both start behind 4 bytes, for all that is said of them is that they are 4-byte aligned. */
struct row {
    uint8_t pad[4] __attribute__((aligned(64)));
    uint8_t weight[DIM_MAX * sizeof(float)] __attribute__((aligned(4)));
    float state[2 * DIM_MAX];
};

static bool same_bits(const void *a, const void *b, size_t size)
{
    return memcmp(a, b, size) == 0;
}

/* Sanitized, all roots would take too long. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define EVERY_ROOT 0
#else
#define EVERY_ROOT 1
#endif

static struct ebs_optimizer prepare(const struct rt_table_conf *conf)
{
    struct ebs_optimizer optimizer;

    assert_int_equal(ebs_optimizer_prepare(&optimizer, conf, 7), 0);
    return optimizer;
}

/* A new row with these weights, all else 0. */
static void fill(const struct ebs_optimizer *optimizer, const float *weight, struct row *row)
{
    memset(row, 0, sizeof(*row));
    ebs_element_round(optimizer->dtype, weight, row->weight, optimizer->dim);
    ebs_optimizer_state_fill(optimizer, row->state);
}

static void weights(const struct ebs_optimizer *optimizer, const struct row *row, float *out)
{
    const uint8_t *at = row->weight;

    ebs_element_widen(
        &(struct ebs_weights){.row = &at, .n = 1, .dim = optimizer->dim, .dtype = optimizer->dtype},
        out);
}

static void step_row(const struct ebs_optimizer *optimizer, struct row *row, uint64_t id,
                     const float *g, float lr, uint64_t t, uint64_t draw)
{
    struct ebs_step step = ebs_optimizer_step(optimizer, lr, t, draw);
    uint8_t *at = row->weight;
    float *state = row->state;

    ebs_optimizer_run(
        optimizer, &step,
        &(struct ebs_rows){.row = &at, .state = &state, .id = &id, .grad = g, .n = 1});
}

/* Each row by itself; of the fixture's rows one never has a gradient. */
static void formulas_are_pytorchs(void **test)
{
    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(golden_case); i++) {
        struct rt_table_conf conf = {
            .name = golden_case[i].name, .dim = GOLDEN_DIM, .optimizer = golden_case[i].conf};
        struct ebs_optimizer optimizer = prepare(&conf);
        float zero[GOLDEN_DIM] = {0}, w[GOLDEN_DIM], lr = golden_case[i].lr;

        for (size_t r = 0; r < GOLDEN_ROWS; r++) {
            const float *want = golden_case[i].want + r * GOLDEN_DIM;
            static struct row stored;

            fill(&optimizer, lr > 0.0f ? zero : golden_weight + r * GOLDEN_DIM, &stored);
            for (size_t k = 0; k < GOLDEN_STEPS; k++)
                if (golden_has[k] >> r & 1)
                    step_row(&optimizer, &stored, r,
                             &golden_grad[(k * GOLDEN_ROWS + r) * GOLDEN_DIM],
                             lr > 0.0f ? lr : golden_lr[k], k + 1, k);
            weights(&optimizer, &stored, w);
            for (size_t j = 0; j < GOLDEN_DIM; j++)
                if (!(fabsf(w[j] - want[j]) <= 5e-6f * fmaxf(1.0f, fabsf(want[j]))))
                    fail_msg("%s: row %zu element %zu: got %.9g, want %.9g", golden_case[i].name, r,
                             j, (double)w[j], (double)want[j]);
        }
    }
}

static void random_floats(float *out, size_t n, uint64_t key)
{
    for (size_t j = 0; j < n; j++)
        out[j] = (rt_unit_f32(rt_draw(key, 2 * j)) - 0.5f) *
                 ldexpf(1.0f, (int)rt_below(rt_draw(key, 2 * j + 1), 30) - 15);
}

static const struct rt_sparse_optimizer_conf busy = {
    .eps = 1e-6,
    .initial_accumulator = 0.01,
    .beta1 = 0.9,
    .beta2 = 0.99,
    .ftrl_beta = 1.0,
    .l1 = 0.01,
    .l2 = 0.02,
};

/* Rows of one call: many[i] is which of the rows it is, ROWS_MAX: none. */
enum { ROWS_MAX = 150 };
struct many {
    size_t n;
    size_t which[ROWS_MAX];
    uint64_t key;
};

static void fill_all(const struct ebs_optimizer *optimizer, const struct many *many,
                     struct row *row)
{
    static float w[DIM_MAX];

    for (size_t i = 0; i < many->n; i++) {
        random_floats(w, optimizer->dim, rt_draw(many->key, i));
        fill(optimizer, w, &row[i]);
    }
}

/* One call by the loops of `isa`, and one for each row by plain ones. */
static void compare_rows(enum rt_isa isa, const struct rt_table_conf *conf, const struct many *many)
{
    static struct row got[ROWS_MAX], want[ROWS_MAX];
    static float g[ROWS_MAX * DIM_MAX];
    uint8_t *at[ROWS_MAX];
    float *state[ROWS_MAX];
    uint64_t id[ROWS_MAX];
    struct ebs_optimizer plain, optimizer;

    rt_cpu_set_isa(RT_ISA_PLAIN);
    plain = prepare(conf);
    fill_all(&plain, many, want);
    fill_all(&plain, many, got);
    rt_cpu_set_isa(isa);
    optimizer = prepare(conf);
    for (size_t i = 0; i < many->n; i++) {
        bool none = many->which[i] == ROWS_MAX;

        at[i] = none ? NULL : got[many->which[i]].weight;
        state[i] = none ? NULL : got[many->which[i]].state;
        id[i] = many->key + i;
    }
    for (uint64_t t = 1; t <= 2; t++) {
        struct ebs_step step = ebs_optimizer_step(&optimizer, 0.05f, t, t);

        random_floats(g, many->n * conf->dim, rt_draw(many->key, t + ROWS_MAX));
        ebs_optimizer_run(
            &optimizer, &step,
            &(struct ebs_rows){.row = at, .state = state, .id = id, .grad = g, .n = many->n});
        for (size_t i = 0; i < many->n; i++)
            if (at[i])
                step_row(&plain, &want[many->which[i]], id[i], g + i * conf->dim, 0.05f, t, t);
    }
    for (size_t i = 0; i < many->n; i++)
        if (!same_bits(&got[i], &want[i], sizeof(*got)))
            fail_msg("%s: optimizer %u dtype %u dim %u: row %zu of %zu differs (key %llu)",
                     rt_isa_name(isa), conf->optimizer.kind, conf->dtype, conf->dim, i, many->n,
                     (unsigned long long)many->key);
}

/* Of up to `most` rows about one in eight is left out, and half of the others come twice or more. */
static struct many random_rows(uint64_t key, size_t most)
{
    struct many out = {.n = 1 + rt_below(rt_draw(key, 1000), most), .key = key};

    for (size_t i = 0; i < out.n; i++)
        out.which[i] = rt_below(rt_draw(key, 2000 + i), 8) == 0
                           ? ROWS_MAX
                           : rt_below(rt_draw(key, 3000 + i), out.n);
    return out;
}

static void compare_isa(enum rt_isa isa)
{
    struct rt_table_conf conf = {.name = "t", .optimizer = busy};

    for (uint32_t kind = 0; kind < EBS_OPTIMIZER_KINDS; kind++) {
        for (uint32_t dtype = WIRE_F32; dtype <= WIRE_BF16; dtype++) {
            conf.optimizer.kind = kind;
            conf.dtype = dtype;
            for (uint32_t i = 0; i < 90; i++) {
                uint64_t key = rt_draw(kind * 3 + dtype, i);
                struct many many = random_rows(key, i < 70 ? ROWS_MAX : 20);

                conf.dim = i < 70 ? i + 1 : 1 + (uint32_t)rt_below(key, DIM_MAX);
                conf.optimizer.weight_decay = key >> 60 & 1 ? 0.001 : 0.0;
                conf.optimizer.gradient_clip = key >> 61 & 1 ? 100.0 : 0.0;
                conf.optimizer.weight_bound = key >> 62 & 1 ? 3.0 : 0.0;
                compare_rows(isa, &conf, &many);
            }
        }
    }
}

/* Where rows are worked on in blocks: all distinct but for one that comes again `apart` later, at every position. */
static void compare_twice(enum rt_isa isa)
{
    static const size_t apart[] = {1, 2, 15, 16, 63, 64, 65};
    static const uint32_t dim[] = {8, 16, 5};
    struct rt_table_conf conf = {.name = "t", .optimizer = busy};

    conf.optimizer.kind = RT_OPT_ROWWISE_ADAGRAD;
    for (size_t a = 0; a < ARRAY_LEN(apart); a++) {
        for (size_t at = 0; at + apart[a] < ROWS_MAX; at++) {
            struct many many = {.n = ROWS_MAX, .key = at};

            for (size_t i = 0; i < ROWS_MAX; i++)
                many.which[i] = i;
            many.which[at + apart[a]] = at;
            many.which[(at + 3) % ROWS_MAX] = ROWS_MAX;
            conf.dim = dim[at % ARRAY_LEN(dim)];
            conf.dtype = at % 2 ? WIRE_F32 : WIRE_BF16;
            conf.optimizer.weight_decay = at % 5 ? 0.0 : 0.01;
            compare_rows(isa, &conf, &many);
        }
    }
}

static void every_isa_gives_the_bits_of_plain(void **test)
{
    enum rt_isa most = rt_cpu_isa();

    (void)test;
    for (int isa = RT_ISA_PLAIN; isa <= RT_ISA_AVX512; isa++) {
        if (isa <= (int)most) {
            compare_isa((enum rt_isa)isa);
            compare_twice((enum rt_isa)isa);
        } else {
            printf("skipped: no %s here\n", rt_isa_name((enum rt_isa)isa));
        }
    }
    rt_cpu_set_isa(most);
}

/* Roots that an instruction set makes itself are those of IEEE 754 for each mantissa of each second power of 2. Adagrad
 * shows them: where a gradient is too small to add to the state, but is about twice its root before the learning rate, the
 * step tells roots that are neighbours apart. */
static void every_root_is_rounded_right(void **test)
{
    enum { DIM = 1024 };
    static struct row stored;
    static float g[DIM], state[DIM], zero[DIM];
    struct rt_table_conf conf = {
        .name = "t", .dim = DIM, .optimizer = {.kind = RT_OPT_ADAGRAD, .initial_accumulator = 1.0}};
    struct ebs_optimizer optimizer = prepare(&conf);
    const uint32_t one = 0x3f800000u;

    (void)test;
    for (uint32_t bits = 0; bits < 1u << 24; bits += DIM * (EVERY_ROOT ? 1 : 61)) {
        memset(stored.weight, 0, sizeof(zero));
        for (uint32_t j = 0; j < DIM; j++) {
            uint32_t x = one + bits + j;

            memcpy(&state[j], &x, sizeof(x));
            g[j] = 1.999f * 0x1p-20f * sqrtf(state[j]);
        }
        memcpy(stored.state, state, sizeof(state));
        step_row(&optimizer, &stored, 1, g, 1.0f, 1, 1);
        assert_memory_equal(stored.state, state, sizeof(state));
        for (uint32_t j = 0; j < DIM; j++) {
            float got, want = 0.0f - g[j] / sqrtf(state[j]);

            memcpy(&got, stored.weight + j * sizeof(got), sizeof(got));
            if (got != want)
                fail_msg("root of %.9g: a step of %.9g, want %.9g", (double)state[j], (double)got,
                         (double)want);
        }
    }
}

static void one_bad_value_spoils_a_gradient(void **test)
{
    static const struct {
        const char *name;
        float value;
        bool usable;
    } row[] = {
        {"zero", 0.0f, true},
        {"minus zero", -0.0f, true},
        {"at the limit", EBS_GRADIENT_MAX, true},
        {"at the negative limit", -EBS_GRADIENT_MAX, true},
        {"over the limit", 1.0001e15f, false},
        {"infinity", INFINITY, false},
        {"minus infinity", -INFINITY, false},
        {"nan", NAN, false},
        {"minus nan", -NAN, false},
        {"denormal", 1e-42f, true},
    };
    enum rt_isa most = rt_cpu_isa();

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        for (int isa = RT_ISA_PLAIN; isa <= (int)most; isa++) {
            rt_cpu_set_isa((enum rt_isa)isa);
            for (uint32_t dim = 1; dim <= 70; dim++) {
                struct ebs_optimizer optimizer =
                    prepare(&(struct rt_table_conf){.name = "t", .dim = dim});
                float g[3 * 70] = {0};
                bool usable[3];
                size_t count;

                g[dim + (dim * 7 + i) % dim] = row[i].value; /* of the second of three */
                count = ebs_gradients_usable(&optimizer, g, 3, usable);
                if (!usable[0] || usable[1] != row[i].usable || !usable[2] ||
                    count != 2u + row[i].usable)
                    fail_msg("%s: dim %u, %s", row[i].name, dim, rt_isa_name(rt_cpu_isa()));
            }
        }
    }
    rt_cpu_set_isa(most);
}

static void wrong_numbers_are_named(void **test)
{
    static const struct {
        struct rt_sparse_optimizer_conf conf;
        uint32_t dim, dtype;
        const char *word;
    } row[] = {
        {{.kind = 99}, 8, WIRE_F32, "optimizer"},
        {{.kind = RT_OPT_SGD}, 0, WIRE_F32, "dim"},
        {{.kind = RT_OPT_SGD}, WIRE_DIM_MAX + 1, WIRE_F32, "dim"},
        {{.kind = RT_OPT_SGD}, 8, 3, "dtype"},
        {{.kind = RT_OPT_SGD, .weight_decay = -1.0}, 8, WIRE_F32, "weight_decay"},
        {{.kind = RT_OPT_SGD, .weight_decay = (double)NAN}, 8, WIRE_F32, "weight_decay"},
        {{.kind = RT_OPT_SGD, .gradient_clip = -1.0}, 8, WIRE_F32, "gradient_clip"},
        {{.kind = RT_OPT_SGD, .weight_bound = 1e39}, 8, WIRE_F32, "weight_bound"},
        {{.kind = RT_OPT_SGD, .weight_bound = 1e-9}, 8, WIRE_F16, "weight_bound"},
        {{.kind = RT_OPT_ADAGRAD, .eps = -1.0}, 8, WIRE_F32, "eps"},
        {{.kind = RT_OPT_ADAGRAD, .eps = 0.0}, 8, WIRE_F32, "eps"},
        {{.kind = RT_OPT_ADAGRAD, .eps = 1.0, .initial_accumulator = (double)INFINITY},
         8,
         WIRE_F32,
         "initial_accumulator"},
        {{.kind = RT_OPT_ADAM, .eps = 1.0, .beta1 = 1.0}, 8, WIRE_F32, "betas"},
        {{.kind = RT_OPT_ADAM, .eps = 1.0, .beta2 = (double)NAN}, 8, WIRE_F32, "betas"},
        {{.kind = RT_OPT_FTRL, .l1 = -0.1}, 8, WIRE_F32, "l1"},
        {{.kind = RT_OPT_FTRL, .l2 = -0.1}, 8, WIRE_F32, "l2"},
        {{.kind = RT_OPT_FTRL, .ftrl_beta = -0.1}, 8, WIRE_F32, "beta"},
    };

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_table_conf conf = {
            .name = "colours", .dim = row[i].dim, .dtype = row[i].dtype, .optimizer = row[i].conf};
        struct ebs_optimizer optimizer;

        assert_int_equal(ebs_optimizer_prepare(&optimizer, &conf, 1), RT_EUSAGE);
        if (!strstr(rt_err_text(), row[i].word) || !strstr(rt_err_text(), "colours"))
            fail_msg("row %zu: message does not name %s: %s", i, row[i].word, rt_err_text());
    }
}

/* A gradient belongs to its row: rows left out, and one that comes twice, among rows of their own. */
static void a_row_has_its_own_gradient(void **test)
{
    enum { N = 5, DIM = 6 };
    static struct row stored[N];
    uint8_t *at[N] = {stored[0].weight, NULL, stored[2].weight, stored[0].weight, NULL};
    float *state[N] = {stored[0].state, NULL, stored[2].state, stored[0].state, NULL};
    uint64_t id[N] = {10, 11, 12, 10, 14};
    float g[N][DIM], zero[DIM] = {0}, w[DIM];

    (void)test;
    for (uint32_t dtype = WIRE_F32; dtype <= WIRE_BF16; dtype++) {
        struct rt_table_conf conf = {.name = "t", .dim = DIM, .dtype = dtype};
        struct ebs_optimizer optimizer = prepare(&conf);
        struct ebs_step step = ebs_optimizer_step(&optimizer, 1.0f, 1, 1);

        for (size_t i = 0; i < N; i++) {
            fill(&optimizer, zero, &stored[i]);
            for (size_t j = 0; j < DIM; j++)
                g[i][j] = -(float)(1u << i);
        }
        ebs_optimizer_run(
            &optimizer, &step,
            &(struct ebs_rows){.row = at, .state = state, .id = id, .grad = g[0], .n = N});
        for (size_t i = 0; i < N; i++) {
            static const float want[N] = {9, 0, 4, 0, 0};

            weights(&optimizer, &stored[i], w);
            for (size_t j = 0; j < DIM; j++)
                if (w[j] != want[i])
                    fail_msg("dtype %u row %zu: got %g, want %g", dtype, i, (double)w[j],
                             (double)want[i]);
        }
    }
}

/* Learning rate 0: weights stay, whatever the optimizer, and of FTRL, which divides by it, the state too. */
static void no_learning_rate_moves_nothing(void **test)
{
    enum { DIM = 21 };

    (void)test;
    for (uint32_t kind = 0; kind < EBS_OPTIMIZER_KINDS; kind++) {
        for (uint32_t dtype = WIRE_F32; dtype <= WIRE_BF16; dtype++) {
            struct rt_table_conf conf = {
                .name = "t", .dim = DIM, .dtype = dtype, .optimizer = busy};
            static struct row stored, before;
            struct ebs_optimizer optimizer;
            float w[DIM], g[DIM];

            conf.optimizer.kind = kind;
            optimizer = prepare(&conf);
            random_floats(w, DIM, kind);
            random_floats(g, DIM, kind + 100);
            fill(&optimizer, w, &stored);
            before = stored;
            step_row(&optimizer, &stored, 5, g, 0.0f, 1, 1);
            assert_memory_equal(stored.weight, before.weight, sizeof(stored.weight));
            if (kind == RT_OPT_FTRL)
                assert_memory_equal(stored.state, before.state, sizeof(stored.state));
        }
    }
}

/* No weight leaves the bound, 16-bit ones included, whose neighbour may lie beyond it. */
static void weights_stay_within_the_bound(void **test)
{
    enum { DIM = 40 };
    static const double bound[] = {0.1, 1.0, 0.3333, 1e-6, 60001.0};

    (void)test;
    for (size_t b = 0; b < ARRAY_LEN(bound); b++) {
        for (uint32_t dtype = WIRE_F32; dtype <= WIRE_BF16; dtype++) {
            struct rt_table_conf conf = {
                .name = "t", .dim = DIM, .dtype = dtype, .optimizer = {.weight_bound = bound[b]}};
            struct ebs_optimizer optimizer = prepare(&conf);
            static struct row stored;
            float w[DIM] = {0}, g[DIM];

            fill(&optimizer, w, &stored);
            for (uint64_t t = 1; t <= 50; t++) {
                for (size_t j = 0; j < DIM; j++)
                    g[j] = (float)bound[b] * (rt_unit_f32(rt_draw(t, j)) - 0.5f);
                step_row(&optimizer, &stored, 5, g, 3.0f, t, t);
                weights(&optimizer, &stored, w);
                for (size_t j = 0; j < DIM; j++)
                    if (!(fabsf(w[j]) <= (float)bound[b]))
                        fail_msg("dtype %u bound %g: got %.9g", dtype, bound[b], (double)w[j]);
            }
        }
    }
}

/* Steps of a sixteenth of the gap between neighbours: to the nearest they would all be lost. The mean of many rows
 * is where float32 rows are, within 5 standard errors of a sum of roundings. */
static void small_updates_add_up(void **test)
{
    enum { DIM = 64, ROWS = 64, STEPS = 320 };

    (void)test;
    for (uint32_t dtype = WIRE_F16; dtype <= WIRE_BF16; dtype++) {
        struct rt_table_conf conf = {.name = "t", .dim = DIM, .dtype = dtype};
        struct ebs_optimizer optimizer = prepare(&conf);
        float gap = dtype == WIRE_F16 ? 0x1p-10f : 0x1p-7f, g[DIM], w[DIM];
        double sum = 0.0, bound = 5.0 * 0.25 * (double)gap * sqrt(STEPS) / sqrt(DIM * ROWS);

        for (size_t j = 0; j < DIM; j++)
            g[j] = -gap / 16.0f;
        for (uint64_t r = 0; r < ROWS; r++) {
            static struct row stored;

            for (size_t j = 0; j < DIM; j++)
                w[j] = 1.0f;
            fill(&optimizer, w, &stored);
            for (uint64_t t = 1; t <= STEPS; t++)
                step_row(&optimizer, &stored, r, g, 1.0f, t, t);
            weights(&optimizer, &stored, w);
            for (size_t j = 0; j < DIM; j++)
                sum += (double)w[j] - 1.0;
        }
        sum /= DIM * ROWS;
        if (fabs(sum - (double)gap * STEPS / 16) > bound)
            fail_msg("dtype %u: moved by %g, want %g within %g", dtype, sum,
                     (double)gap * STEPS / 16, bound);
    }
}

/* Roundings are a function of (seed, table, id, draw): the same again, and others when one of these is. */
static void roundings_are_drawn_by_what_they_should(void **test)
{
    enum { DIM = 64 };
    static const struct {
        const char *name, *table;
        uint64_t seed, id, draw;
        bool same;
    } row[] = {{"again", "t", 7, 5, 9, true},
               {"seed", "t", 8, 5, 9, false},
               {"table", "u", 7, 5, 9, false},
               {"id", "t", 7, 6, 9, false},
               {"draw", "t", 7, 5, 10, false}};
    static struct row first, stored;
    float w[DIM], g[DIM];

    (void)test;
    random_floats(w, DIM, 1);
    random_floats(g, DIM, 2);
    for (size_t i = 0; i <= ARRAY_LEN(row); i++) {
        struct rt_table_conf conf = {
            .name = i ? row[i - 1].table : "t", .dim = DIM, .dtype = WIRE_BF16};
        struct ebs_optimizer optimizer;

        assert_int_equal(ebs_optimizer_prepare(&optimizer, &conf, i ? row[i - 1].seed : 7), 0);
        fill(&optimizer, w, &stored);
        step_row(&optimizer, &stored, i ? row[i - 1].id : 5, g, 0.01f, 1, i ? row[i - 1].draw : 9);
        if (i == 0)
            first = stored;
        else if (same_bits(&first, &stored, sizeof(first)) != row[i - 1].same)
            fail_msg("another %s: roundings are %s", row[i - 1].name,
                     row[i - 1].same ? "others" : "the same");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formulas_are_pytorchs),
        cmocka_unit_test(every_isa_gives_the_bits_of_plain),
        cmocka_unit_test(every_root_is_rounded_right),
        cmocka_unit_test(one_bad_value_spoils_a_gradient),
        cmocka_unit_test(wrong_numbers_are_named),
        cmocka_unit_test(a_row_has_its_own_gradient),
        cmocka_unit_test(no_learning_rate_moves_nothing),
        cmocka_unit_test(weights_stay_within_the_bound),
        cmocka_unit_test(small_updates_add_up),
        cmocka_unit_test(roundings_are_drawn_by_what_they_should),
    };

    return cmocka_run_group_tests_name("optimizer", tests, NULL, NULL);
}
