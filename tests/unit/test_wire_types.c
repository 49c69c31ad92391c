/* tests/unit/test_wire_types.c -- rows and gradients in 16 bits between a table and the wire.
 *
 * What a table answers is compared with its float32 answer narrowed as an array, and what it makes of narrow, scaled
 * gradients with what it makes of the same widened beforehand: every bit, for every pair of dtypes, on every
 * instruction set, however an application is cut. Then an owner's answers over its sockets. */
#include "embedding_server/apply.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "runtime/net/near.h"
#include "tests/unit/owner_bed.h"
#include "tests/unit/table_bed.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define DTYPES 3u

static const size_t dims[] = {1, 3, 8, 16, 17, 64, 100, 1024};

/* ---- rows ---- */

enum { IDS = 600 };

/* Every other id has a row; some weights are too large for float16. */
static struct ebs_table *table_of(uint32_t dtype, size_t dim, uint64_t *id)
{
    struct rt_table_conf conf = table_bed_counting((uint32_t)dim, dtype);
    struct ebs_table *table;
    float *grad = calloc(IDS * dim, sizeof(*grad));

    conf.init = (struct rt_init_conf){.kind = RT_INIT_NORMAL, .std = dim % 2 ? 1.0 : 40000.0};
    table = table_bed_create(&conf);
    for (size_t i = 0; i < IDS; i++)
        id[i] = i * 0x9e3779b97f4a7c15ull;
    for (size_t j = 0; j < IDS / 2 * dim; j++)
        grad[j] = ldexpf(1.0f + (float)(j % 977) / 977, (int)(j % 60) - 30);
    table_bed_update(table, id, grad, IDS / 2);
    free(grad);
    for (size_t i = 0; i < IDS / 2; i += 2) { /* in any order */
        uint64_t other = id[i];

        id[i] = id[IDS - 1 - i];
        id[IDS - 1 - i] = other;
    }
    return table;
}

static void check_lookup(const struct ebs_table *table, const uint64_t *id, uint32_t from,
                         uint32_t to)
{
    size_t dim = ebs_table_dim(table), bytes = IDS * dim * wire_dtype_size(to);
    float *wide = malloc(IDS * dim * sizeof(*wide));
    uint8_t *got = malloc(bytes + 2), *want = malloc(bytes);

    assert_int_equal(ebs_table_lookup(table, id, IDS, wide), IDS / 2);
    rt_narrow(to, wide, want, IDS * dim);
    memset(got, 0x55, bytes + 2);
    assert_int_equal(ebs_table_lookup_as(table, to, id, IDS, got), IDS / 2);
    if (memcmp(got, want, bytes) != 0)
        fail_msg("%s: dtype %u as %u, dim %zu", rt_isa_name(rt_cpu_isa()), from, to, dim);
    assert_true(got[bytes] == 0x55 && got[bytes + 1] == 0x55);
    for (size_t i = 0; i < IDS && from == to; i++) {
        struct ebs_row row;

        if (ebs_table_get(table, id[i], &row))
            assert_memory_equal(got + i * (bytes / IDS), row.weight, bytes / IDS);
    }
    free(wide);
    free(got);
    free(want);
}

static void rows_are_answered_in_any_dtype(void **state)
{
    enum rt_isa most = rt_cpu_isa();
    uint64_t id[IDS];

    (void)state;
    for (int isa = RT_ISA_PLAIN; isa <= (int)most; isa++) {
        rt_cpu_set_isa((enum rt_isa)isa);
        for (size_t d = 0; d < ARRAY_LEN(dims); d++) {
            for (uint32_t from = 0; from < DTYPES; from++) {
                struct ebs_table *table = table_of(from, dims[d], id);

                for (uint32_t to = 0; to < DTYPES; to++)
                    check_lookup(table, id, from, to);
                ebs_table_destroy(table);
            }
        }
    }
    rt_cpu_set_isa(most);
}

/* Beyond what float16 has: its largest, of rows that exist and of those that do not. */
static void large_weights_saturate(void **state)
{
    struct rt_table_conf conf = table_bed_counting(20, WIRE_F32);
    uint64_t id[2] = {5, 6};
    uint16_t got[2][20];
    float grad[20];
    struct ebs_table *table;

    (void)state;
    conf.init.value = -1e9;
    table = table_bed_create(&conf);
    for (size_t j = 0; j < ARRAY_LEN(grad); j++)
        grad[j] = -3e9f;
    table_bed_update(table, id, grad, 1);
    assert_int_equal(ebs_table_lookup_as(table, WIRE_F16, id, 2, got), 1);
    for (size_t j = 0; j < 20; j++) {
        assert_int_equal(got[0][j], 0x7bff);
        assert_int_equal(got[1][j], 0xfbff);
    }
    ebs_table_destroy(table);
}

/* ---- gradients ---- */

enum { ROWS = 700, PARTS = 3 };

/* Parts of one update: ids that several have, gradients of `dtype` times a scale of each part, and the same as float32. */
struct parts {
    uint64_t id[PARTS][ROWS];
    const uint64_t *ids[PARTS];
    void *narrow[PARTS];
    float *wide[PARTS];
    const void *grad[PARTS];
    float scale[PARTS];
    uint32_t table, n[PARTS];
    struct ebs_part part[PARTS], *list[PARTS];
};

static float gradient(uint64_t draw)
{
    float value = ldexpf(rt_unit_f32(draw) * 2 - 1, -(int)(draw % 24));

    if (draw >> 56 == 0) /* of some rows one is not usable */
        return draw & 1 ? NAN : -INFINITY;
    return value;
}

static void make_parts(struct parts *p, uint64_t seed, uint32_t dtype, size_t dim)
{
    memset(p, 0, sizeof(*p));
    for (size_t k = 0; k < PARTS; k++) {
        p->n[k] = (uint32_t)(ROWS - 100 * k);
        p->wide[k] = malloc(ROWS * dim * sizeof(float));
        p->narrow[k] = malloc(ROWS * dim * sizeof(float));
        p->ids[k] = p->id[k];
        p->grad[k] = p->narrow[k];
        p->scale[k] = ldexpf(1.0f, 5 * (int)k - 1);
        for (size_t i = 0; i < p->n[k]; i++)
            p->id[k][i] = rt_draw(7, i * (k + 1));
        for (size_t i = 0; i < p->n[k]; i++)
            for (size_t j = 0; j < dim; j++)
                p->wide[k][i * dim + j] = j == i % dim ? gradient(rt_draw(seed, i * 3 + k))
                                                       : ldexpf(1.0f + (float)(j % 7), -18);
        p->wide[k][0] = NAN; /* whatever the seed */
        rt_narrow_scaled(dtype, p->scale[k], p->wide[k], p->narrow[k], p->n[k] * dim);
        rt_widen_scaled(dtype, 1 / p->scale[k], p->narrow[k], p->wide[k], p->n[k] * dim);
        p->part[k] = (struct ebs_part){.batch_id = k,
                                       .m = {.learning_rate = 0.5,
                                             .world = PARTS,
                                             .rank = (uint32_t)k,
                                             .n_tables = 1,
                                             .table = &p->table,
                                             .n_ids = &p->n[k],
                                             .dtype = dtype,
                                             .scale = &p->scale[k]},
                                       .id = &p->ids[k],
                                       .grad = &p->grad[k]};
        p->list[k] = &p->part[k];
    }
}

/* The same as float32 without a scale. */
static void widen_parts(struct parts *p)
{
    for (size_t k = 0; k < PARTS; k++) {
        p->grad[k] = p->wide[k];
        p->part[k].m.dtype = WIRE_F32;
        p->part[k].m.scale = NULL;
    }
}

static void free_parts(struct parts *p)
{
    for (size_t k = 0; k < PARTS; k++) {
        free(p->narrow[k]);
        free(p->wide[k]);
    }
}

/* What a table of `rows` is after the parts, `piece` rows at a time (0: at once). */
static uint64_t digest_after(struct parts *p, uint32_t rows, size_t dim, bool merge, uint32_t piece)
{
    struct rt_table_conf conf = table_bed_counting((uint32_t)dim, rows);
    struct ebs_applier applier = {.lr = (float[]){1.0f}, .n_tables = 1, .piece_rows = piece};
    struct ebs_table *table;
    uint64_t digest = 0;

    conf.optimizer.kind = RT_OPT_ROWWISE_ADAGRAD;
    conf.optimizer.eps = 1e-8;
    table = table_bed_create(&conf);
    applier.table = &table;
    if (piece == 0) {
        assert_int_equal(ebs_apply_parts(&applier, p->list, PARTS, merge, 0), 0);
    } else {
        assert_int_equal(ebs_apply_begin(&applier, p->list, PARTS, merge, 0), 0);
        while (applier.phase != EBS_APPLY_DONE)
            ebs_apply_piece(&applier);
        ebs_apply_end(&applier);
    }
    for (size_t k = 0; k < PARTS; k++)
        digest = digest * 31 + p->part[k].rows * 7 + p->part[k].nonfinite;
    assert_true(p->part[0].nonfinite > 0 && p->part[0].rows > 0);
    digest += table_bed_digest(table);
    ebs_applier_release(&applier);
    ebs_table_destroy(table);
    return digest;
}

static void compare_ways(struct parts *p, uint32_t dtype, uint32_t rows, size_t dim)
{
    static const uint32_t piece[] = {0, 7, 300};

    for (int merge = 0; merge < 2; merge++) {
        uint64_t got[ARRAY_LEN(piece)], want;

        for (size_t k = 0; k < PARTS; k++) {
            p->grad[k] = p->narrow[k];
            p->part[k].m.dtype = dtype;
            p->part[k].m.scale = &p->scale[k];
        }
        for (size_t i = 0; i < ARRAY_LEN(piece); i++)
            got[i] = digest_after(p, rows, dim, merge, piece[i]);
        widen_parts(p);
        want = digest_after(p, rows, dim, merge, 0);
        for (size_t i = 0; i < ARRAY_LEN(piece); i++)
            if (got[i] != want)
                fail_msg("%s: gradients %u, rows %u, dim %zu, merge %d, pieces of %u",
                         rt_isa_name(rt_cpu_isa()), dtype, rows, dim, merge, piece[i]);
    }
}

static void gradients_are_as_if_widened_before(void **state)
{
    enum rt_isa most = rt_cpu_isa();
    uint64_t seed = (uint64_t)time(NULL);
    static struct parts parts;

    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    for (size_t d = 0; d < ARRAY_LEN(dims); d++) {
        for (uint32_t dtype = 0; dtype < DTYPES; dtype++) {
            make_parts(&parts, seed + d, dtype, dims[d]);
            for (int isa = RT_ISA_PLAIN; isa <= (int)most; isa++) {
                rt_cpu_set_isa((enum rt_isa)isa);
                compare_ways(&parts, dtype, (dtype + (uint32_t)d) % DTYPES, dims[d]);
            }
            free_parts(&parts);
        }
    }
    rt_cpu_set_isa(most);
}

/* Gradients that float16 has no exponents for come through whole by a power of two; without it they are gone. */
static void a_scale_keeps_small_gradients(void **state)
{
    enum { N = 300, DIM = 16 };
    struct rt_table_conf conf = table_bed_counting(DIM, WIRE_F32);
    static float grad[N * DIM], row[N * DIM];
    static uint16_t half[N * DIM];
    uint64_t id[N];

    (void)state;
    for (size_t i = 0; i < N; i++)
        id[i] = i * 977;
    for (size_t j = 0; j < N * DIM; j++)
        grad[j] = ldexpf((float)(j % 2047 + 1), -60);
    for (int scaled = 0; scaled < 2; scaled++) {
        float scale = scaled ? rt_half_scale(grad, N * DIM) : 1.0f;
        struct ebs_update update = {
            .id = id, .grad = half, .n = N, .dtype = WIRE_F16, .unscale = 1 / scale, .lr = 1.0f};
        struct ebs_applied applied = {0};
        struct ebs_table *table = table_bed_create(&conf);

        rt_narrow_scaled(WIRE_F16, scale, grad, half, N * DIM);
        ebs_table_tick(table, 0);
        ebs_table_apply(table, &update, &applied);
        assert_int_equal(applied.rows, N);
        assert_int_equal(ebs_table_lookup(table, id, N, row), N);
        for (size_t j = 0; j < N * DIM; j++)
            assert_true(row[j] == (scaled ? -grad[j] : 0.0f));
        ebs_table_destroy(table);
    }
}

/* ---- an owner ---- */

enum { ASKED = 40000 };

static const struct rt_table_conf tables[] = {
    {.name = "odd",
     .dim = 3,
     .init = {.kind = RT_INIT_CONSTANT, .value = 1.0},
     .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1.0}},
    {.name = "narrow",
     .dim = 16,
     .dtype = WIRE_BF16,
     .init = {.kind = RT_INIT_CONSTANT, .value = 2.0},
     .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1.0}},
};

static struct {
    struct owner_bed owner;
    struct rt_job job;
    uint64_t id[ASKED];
    int err;
    char text[256];
    uint32_t dtype; /* of the reply */
    struct rt_buf *rows;
    struct wire_apply_gradients_reply applied;
} bed;

static void start(uint32_t rows, uint32_t gradients, uint32_t slice)
{
    memset(&bed, 0, sizeof(bed));
    bed.job = (struct rt_job){.n_tables = ARRAY_LEN(tables), .table = tables, .global.seed = 1};
    bed.job.global.wire.rows = rows;
    bed.job.global.wire.row_gradients = gradients;
    owner_bed_open(&bed.owner, &(struct owner_bed_conf){.job = &bed.job, .slice_rows = slice});
    owner_bed_connect(&bed.owner, 0);
    for (size_t i = 0; i < ASKED; i++)
        bed.id[i] = i * 0x9e3779b97f4a7c15ull;
}

static void on_answer(void *arg, int err, const struct rt_frame *reply)
{
    struct rt_arena *arena;
    struct wire_lookup_rows_reply m;

    (void)arg;
    rt_loop_stop(bed.owner.loop);
    bed.err = err;
    if (err) {
        snprintf(bed.text, sizeof(bed.text), "%s", rt_err_text());
        return;
    }
    assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
    if (reply->header.method == WIRE_LOOKUP_ROWS) {
        assert_int_equal(
            wire_lookup_rows_reply_unpack(reply->message, reply->header.message_size, arena, &m),
            0);
        bed.dtype = m.dtype;
        bed.rows = rt_buf_ref(reply->payload);
    } else {
        assert_int_equal(wire_apply_gradients_reply_unpack(
                             reply->message, reply->header.message_size, arena, &bed.applied),
                         0);
    }
    rt_arena_destroy(arena);
}

static void ask(uint16_t method, uint64_t batch_id, struct wire_out *message,
                const struct rt_piece *piece, size_t n)
{
    owner_bed_ask(&bed.owner, 0, method, batch_id, message, piece, n, on_answer, NULL);
    rt_loop_run(bed.owner.loop);
}

static const uint32_t both[] = {0, 1};

static void look_up(uint32_t dtype, const uint32_t n[2])
{
    struct wire_lookup_rows m = {.shard_map = bed.owner.shards.version,
                                 .n_tables = 2,
                                 .table = both,
                                 .n_ids = n,
                                 .dtype = dtype};
    struct rt_piece piece[2] = {owner_bed_piece(&bed.owner, bed.id, n[0] * sizeof(*bed.id)),
                                owner_bed_piece(&bed.owner, bed.id, n[1] * sizeof(*bed.id))};
    struct wire_out out = {0};

    assert_int_equal(wire_lookup_rows_pack(&m, &out), 0);
    ask(WIRE_LOOKUP_ROWS, 0, &out, piece, 2);
}

/* The first n ids of both tables, gradients -0.5 and -1, times 4 and 1/8. */
static void update(uint32_t dtype, uint64_t batch_id, uint32_t n)
{
    static const float scale[] = {4.0f, 0.125f};
    struct wire_apply_gradients m = {.shard_map = bed.owner.shards.version,
                                     .parts = 1,
                                     .learning_rate = 1.0,
                                     .world = 1,
                                     .n_tables = 2,
                                     .table = both,
                                     .n_ids = (uint32_t[]){n, n},
                                     .dtype = dtype,
                                     .scale = scale};
    static float grad[ASKED * 16], sent[ASKED * 16];
    struct rt_piece piece[4];
    struct wire_out out = {0};

    for (size_t t = 0; t < 2; t++) {
        size_t all = (size_t)n * tables[t].dim;

        for (size_t j = 0; j < all; j++)
            grad[j] = t == 0 ? -0.5f : -1.0f;
        rt_narrow_scaled(dtype, scale[t], grad, sent, all);
        piece[2 * t] = owner_bed_piece(&bed.owner, bed.id, n * sizeof(*bed.id));
        piece[2 * t + 1] = owner_bed_piece(&bed.owner, sent, all * wire_dtype_size(dtype));
    }
    assert_int_equal(wire_apply_gradients_pack(&m, &out), 0);
    ask(WIRE_APPLY_GRADIENTS, batch_id, &out, piece, 4);
}

/* Of the first `updated` ids the row has grown. Tables begin at multiples of 64 bytes. */
static void check_rows(uint32_t dtype, const uint32_t n[2], uint32_t updated)
{
    const uint8_t *at = bed.rows->data;
    static float got[ASKED * 16];

    assert_int_equal(bed.dtype, dtype);
    for (size_t t = 0; t < 2; t++) {
        size_t dim = tables[t].dim, bytes = n[t] * dim * wire_dtype_size(dtype);

        rt_widen(dtype, at, got, n[t] * dim);
        for (size_t j = 0; j < n[t] * dim; j++) {
            float begin = t == 0 ? 1.0f : 2.0f, grown = t == 0 ? 1.5f : 3.0f;

            if (got[j] != (j / dim < updated ? grown : begin))
                fail_msg("dtype %u: table %zu row %zu is %g", dtype, t, j / dim, (double)got[j]);
        }
        at += (bytes + 63) / 64 * 64;
        if (t == 1)
            assert_int_equal(at - bed.rows->data - ((bytes + 63) / 64 * 64 - bytes),
                             bed.rows->size);
    }
    rt_buf_unref(bed.rows);
}

/* Small and large, at once, as it is sent and in pieces, by a Unix socket and by TCP. */
static void an_owner_speaks_the_jobs_dtypes(void **state)
{
    static const uint32_t n[][2] = {{1, 1}, {5, ASKED}, {ASKED, 3}, {ASKED, ASKED}};

    (void)state;
    for (uint32_t way = 0; way < 2 * DTYPES * DTYPES; way++) {
        uint32_t rows = way % DTYPES, gradients = way / DTYPES % DTYPES;

        rt_near_set(way % 2 == 0);
        start(rows, gradients, way / 2 % 2 ? 1500 : 0);
        for (uint32_t i = 0; i < ARRAY_LEN(n); i++) {
            look_up(rows, n[i]);
            assert_int_equal(bed.err, 0);
            check_rows(rows, n[i], 0);
        }
        update(gradients, rt_batch_id(0, 1), ASKED / 2);
        assert_int_equal(bed.err, 0);
        assert_int_equal(bed.applied.rows_applied, ASKED);
        update(gradients, rt_batch_id(0, 1), ASKED / 2);
        assert_int_equal(bed.applied.outcome, WIRE_ALREADY);
        for (uint32_t i = 0; i < ARRAY_LEN(n); i++) {
            look_up(rows, n[i]);
            check_rows(rows, n[i], ASKED / 2);
        }
        owner_bed_close(&bed.owner);
    }
    rt_near_set(true);
}

static void another_dtype_is_refused_by_name(void **state)
{
    (void)state;
    start(WIRE_BF16, WIRE_F16, 0);
    look_up(WIRE_F32, (uint32_t[]){1, 1});
    assert_int_equal(bed.err, RT_EPROTO);
    assert_non_null(strstr(bed.text, "float32, expected bfloat16, as global.wire.rows"));
    update(WIRE_BF16, rt_batch_id(0, 1), 1);
    assert_int_equal(bed.err, RT_EPROTO);
    assert_non_null(strstr(bed.text, "bfloat16, expected float16, as global.wire.row_gradients"));
    assert_int_equal(ebs_owner_stats(bed.owner.owner)->rows, 0);
    owner_bed_close(&bed.owner);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_answered_in_any_dtype),
        cmocka_unit_test(large_weights_saturate),
        cmocka_unit_test(gradients_are_as_if_widened_before),
        cmocka_unit_test(a_scale_keeps_small_gradients),
        cmocka_unit_test(an_owner_speaks_the_jobs_dtypes),
        cmocka_unit_test(another_dtype_is_refused_by_name),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests_name("wire_types", tests, NULL, NULL);
}
