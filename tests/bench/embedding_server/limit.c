/* tests/bench/embedding_server/limit.c -- fill the array, find the best way for a case, measure it, look at what came.
 *
 * Word i of the array is word_value(i) at first; an update takes LIMIT_RATE * gradient from each part of a row as
 * often as the row was drawn, which a tally of some rows knows. */
#include "tests/bench/embedding_server/limit.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/mem.h"
#include "tests/bench/embedding_server/measure.h"
#include "tests/bench/embedding_server/tally.h"
#include "tests/lib/bench.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Of one try; the pool has POOL_TRIES times as many, so that none is still in a cache. */
#define SWEEP_REQUESTS 8
#define POOL_TRIES     8
#define SWEEP_SEED     77
#define CASE_SEED      1

struct limit_array {
    size_t bytes;
    float *word;
    int changed; /* by an update that was measured */
};

static float word_value(size_t i)
{
    return (float)(uint32_t)(i & 0xfffff) * 0x1p-20f;
}

static void fill(struct limit_array *array)
{
    for (size_t i = 0; i < array->bytes / sizeof(float); i++)
        array->word[i] = word_value(i);
}

struct limit_array *limit_array_create(size_t bytes)
{
    struct limit_array *array = rt_xcalloc(1, sizeof(*array));

    array->bytes = bytes;
    array->word = bench_array(bytes);
    fill(array);
    return array;
}

void limit_array_destroy(struct limit_array *array)
{
    bench_array_free(array->word, array->bytes);
    rt_free(array);
}

static const struct limit_loops *const loops[] = {&limit_plain, &limit_avx2, &limit_avx512};

struct run {
    const struct limit_want *want;
    struct limit_case limit;
    limit_fn fn;
    float *buffer;
    struct tally tally;
};

static void one_request(void *ctx, const uint64_t *position, size_t n)
{
    struct run *run = ctx;

    run->fn(&run->limit, position, n, run->buffer);
}

/* ---- the best way ---- */

struct pool {
    uint64_t *position;
    size_t ids, at, per_try;
};

static double try_once(struct run *run, struct pool *pool)
{
    double best = 0;

    for (int again = 0; again < 2; again++) {
        uint64_t begin = bench_cpu_ns(), ns;

        for (size_t i = 0; i < pool->per_try; i += REQUEST_IDS)
            one_request(run, pool->position + pool->at + i, REQUEST_IDS);
        ns = bench_cpu_ns() - begin;
        if (ns > 0) /* a clock that stood still says nothing (measure.c) */
            best = fmax(best, 1.0 / (double)ns);
        pool->at = (pool->at + pool->per_try) % pool->ids;
    }
    return best;
}

static void pool_init(struct pool *pool, const struct limit_want *want)
{
    size_t requests = bench_requests() < SWEEP_REQUESTS ? bench_requests() : SWEEP_REQUESTS;
    struct ids ids;

    ids_init(&ids, want->kind, want->rows, SWEEP_SEED);
    pool->per_try = requests * REQUEST_IDS;
    pool->ids = pool->per_try * POOL_TRIES;
    pool->at = 0;
    pool->position = rt_xmalloc(pool->ids * sizeof(*pool->position));
    ids_positions(&ids, pool->position, pool->ids);
}

static void sweep(struct run *run)
{
    static const unsigned ahead[] = {4, 8, 12, 16, 24, 32, 48, 64, 128};
    static const int level[] = {3, 2, 0};
    const struct limit_loops *best_loops = loops[0];
    struct limit_case best = run->limit;
    double best_speed = 0;
    struct pool pool;

    pool_init(&pool, run->want);
    for (int isa = RT_ISA_PLAIN; isa <= (int)rt_cpu_isa(); isa++) {
        double speed;

        run->fn = run->want->what == LIMIT_COPY ? loops[isa]->copy : loops[isa]->update;
        run->limit.ahead = 16;
        run->limit.level = 2;
        speed = try_once(run, &pool);
        if (speed > best_speed) {
            best_speed = speed;
            best_loops = loops[isa];
            best = run->limit;
        }
    }
    run->fn = run->want->what == LIMIT_COPY ? best_loops->copy : best_loops->update;
    for (size_t l = 0; l < ARRAY_LEN(level); l++)
        for (size_t a = 0; a < ARRAY_LEN(ahead); a++) {
            double speed;

            run->limit.level = level[l];
            run->limit.ahead = ahead[a];
            speed = try_once(run, &pool);
            if (speed > best_speed) {
                best_speed = speed;
                best = run->limit;
            }
        }
    rt_free(pool.position);
    run->limit = best;
    fprintf(stderr, "  limit: %s of %zu bytes, %s: prefetch %u ahead, locality %d\n",
            run->want->what == LIMIT_COPY ? "copy" : "update", run->want->bytes,
            ids_kind_name(run->want->kind), best.ahead, best.level);
}

/* ---- what came ---- */

static void verify_copy(void *ctx, const uint64_t *position, size_t n)
{
    struct run *run = ctx;
    size_t floats = run->limit.bytes / sizeof(float);

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < floats; j++) {
            float want = word_value(position[i] * run->limit.stride / sizeof(float) + j);

            if (run->buffer[i * floats + j] != want)
                die("limit: row %llu, float %zu: expected %g, got %g",
                    (unsigned long long)position[i], j, want, run->buffer[i * floats + j]);
        }
}

static float gradient(size_t j)
{
    return (float)(j % 8) - 3.5f;
}

static void each_update(void *ctx, const uint64_t *position, size_t n)
{
    struct run *run = ctx;

    if (run->tally.n == 0)
        tally_init(&run->tally, position, n);
    tally_add(&run->tally, position, n);
}

static void verify_updates(struct run *run)
{
    size_t floats = run->limit.bytes / sizeof(float), per = run->limit.grad_bytes / sizeof(float);

    for (size_t t = 0; t < run->tally.n; t++) {
        size_t first = run->tally.position[t] * run->limit.stride / sizeof(float);

        for (size_t j = 0; j < floats; j++) {
            double want = word_value(first + j) -
                          (double)run->tally.count[t] * LIMIT_RATE * gradient(j % per);
            double got = ((float *)(void *)run->limit.row)[first + j];

            if (fabs(got - want) > 1e-3 * (1 + fabs(want)))
                die("limit: row %llu, %u updates, float %zu: expected %g, got %g",
                    (unsigned long long)run->tally.position[t], run->tally.count[t], j, want, got);
        }
    }
}

double limit_measure(struct limit_array *array, const struct limit_want *want)
{
    struct run run = {.want = want,
                      .limit = {.row = (uint8_t *)array->word,
                                .bytes = want->bytes,
                                .grad_bytes = want->grad_bytes,
                                .stride = rt_align_up(want->bytes, 64)}};
    size_t per = want->what == LIMIT_COPY ? want->bytes : want->grad_bytes;
    struct rounds rounds = {.run = one_request, .ctx = &run};
    struct ids ids;
    double rate;

    rt_assert(per > 0);
    if (want->rows * run.limit.stride > array->bytes)
        die("limit: %llu rows of %zu bytes: the array has %zu", (unsigned long long)want->rows,
            run.limit.stride, array->bytes);
    if (array->changed)
        fill(array);
    array->changed = want->what == LIMIT_UPDATE;
    run.buffer = bench_array(REQUEST_IDS * per);
    sweep(&run); /* an update's gradients are 0 in it */
    for (size_t i = 0; want->what == LIMIT_UPDATE && i < REQUEST_IDS * per / sizeof(float); i++)
        run.buffer[i] = gradient(i % (per / sizeof(float)));
    ids_init(&ids, want->kind, want->rows, CASE_SEED);
    rounds.ids = &ids;
    if (want->what == LIMIT_COPY)
        rounds.verify = verify_copy;
    else
        rounds.each = each_update;
    rate = bench_rounds(&rounds);
    if (want->what == LIMIT_UPDATE)
        verify_updates(&run);
    bench_array_free(run.buffer, REQUEST_IDS * per);
    return rate;
}
