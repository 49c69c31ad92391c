/* tests/bench/embedding_server/tables.c -- see the header.
 *
 * An empty table of the same kind tells what initial values are: a missing row reads as one. What updates make of
 * them is computed here from the formulas, in float64. */
#include "tests/bench/embedding_server/tables.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/layout.h"
#include "tests/bench/embedding_server/measure.h"

#include <math.h>
#include <string.h>

#define RATE      0.01f
#define STEP      1000u
#define EPS       1e-8f
#define BETA1     0.9f
#define BETA2     0.999f
#define INITIAL   0.1f
#define TOLERANCE 1e-3

static void must(int err)
{
    if (err)
        die("%s", rt_err_text());
}

struct subject subject_make(uint32_t dim, uint32_t optimizer, uint64_t rows)
{
    return (struct subject){
        .rows = rows,
        .conf = {.name = "bench",
                 .dim = dim,
                 .dtype = WIRE_F32,
                 .init = {.kind = RT_INIT_UNIFORM, .low = -1, .high = 1},
                 .optimizer = {.kind = optimizer,
                               .learning_rate = RATE,
                               .eps = EPS,
                               .initial_accumulator = INITIAL,
                               .beta1 = BETA1,
                               .beta2 = BETA2}},
    };
}

struct ebs_table *subject_create(const struct subject *subject)
{
    struct ebs_table *table;

    must(ebs_table_create(
        &(struct ebs_table_conf){.job = &subject->conf, .seed = 1, .shards = RT_SHARDS}, &table));
    return table;
}

size_t subject_state(const struct subject *subject)
{
    return rt_row_layout(&subject->conf).state_count;
}

void subject_fill(struct ebs_table *table, uint64_t have, uint64_t to, size_t chunk)
{
    uint32_t dim = ebs_table_dim(table);
    uint64_t *id = rt_xmalloc(chunk * sizeof(*id));
    float *grad = rt_xcalloc(chunk * dim, sizeof(*grad));

    for (uint64_t at = have; at < to; at += chunk) {
        struct ebs_update update = {.id = id, .grad = grad, .step = STEP, .draw = at + 1};
        struct ebs_applied applied = {0};

        update.n = to - at < chunk ? to - at : chunk;
        for (size_t i = 0; i < update.n; i++)
            id[i] = ids_of(at + i);
        ebs_table_tick(table, 0);
        ebs_table_apply(table, &update, &applied);
        if (applied.created != update.n)
            die("fill: %zu new ids, %llu rows created", update.n,
                (unsigned long long)applied.created);
    }
    rt_free(grad);
    rt_free(id);
}

/* ---- rounds ---- */

struct run {
    const struct subject *subject;
    struct ebs_table *table;
    struct ebs_table *empty; /* tells initial values */
    uint64_t hits, asked, draw;
    float *buffer; /* [REQUEST_IDS][dim]: rows, or gradients */
    struct tally tally;
};

static void run_init(struct run *run, const struct subject *subject, struct ebs_table *table)
{
    *run = (struct run){.subject = subject, .table = table, .empty = subject_create(subject)};
    run->buffer = bench_array(REQUEST_IDS * subject->conf.dim * sizeof(float));
}

static void run_release(struct run *run)
{
    bench_array_free(run->buffer, REQUEST_IDS * run->subject->conf.dim * sizeof(float));
    ebs_table_destroy(run->empty);
}

static void one_lookup(void *ctx, const uint64_t *id, size_t n)
{
    struct run *run = ctx;

    run->hits += ebs_table_lookup(run->table, id, n, run->buffer);
    run->asked += n;
}

static void verify_lookup(void *ctx, const uint64_t *position, size_t n)
{
    struct run *run = ctx;
    size_t dim = run->subject->conf.dim;
    float *want = rt_xmalloc(dim * sizeof(*want));

    if (run->hits != run->asked)
        die("lookup: %llu of %llu rows found", (unsigned long long)run->hits,
            (unsigned long long)run->asked);
    for (size_t i = 0; i < n && !run->subject->changed; i++) {
        uint64_t id = ids_of(position[i]);

        ebs_table_lookup(run->empty, &id, 1, want);
        if (!same_floats(want, run->buffer + i * dim, dim))
            die("lookup: row of id %llu: expected %g ..., got %g ...", (unsigned long long)id,
                want[0], run->buffer[i * dim]);
    }
    rt_free(want);
}

double subject_lookup(struct subject *subject, struct ebs_table *table, int kind, uint64_t seed,
                      double *rate)
{
    struct ids ids;
    struct run run;
    struct rounds rounds = {.ids = &ids,
                            .as_ids = 1,
                            .run = one_lookup,
                            .verify = verify_lookup,
                            .ctx = &run,
                            .rate = rate};
    double result;

    ids_init(&ids, kind, subject->rows, seed);
    run_init(&run, subject, table);
    result = bench_rounds(&rounds);
    run_release(&run);
    return result;
}

static float gradient(size_t j)
{
    return (float)(j % 8) - 3.5f;
}

static void one_update(void *ctx, const uint64_t *id, size_t n)
{
    struct run *run = ctx;
    struct ebs_update update = {
        .id = id, .grad = run->buffer, .n = n, .lr = RATE, .step = STEP, .draw = ++run->draw};
    struct ebs_applied applied = {0};

    ebs_table_tick(run->table, 0);
    ebs_table_apply(run->table, &update, &applied);
    run->hits += applied.rows - applied.created;
    run->asked += n;
}

static void each_update(void *ctx, const uint64_t *position, size_t n)
{
    struct run *run = ctx;

    if (run->tally.n == 0)
        tally_init(&run->tally, position, n);
    tally_add(&run->tally, position, n);
}

/* One weight after `count` updates. */
static double weight_after(const struct subject *subject, double w, size_t j, uint32_t count)
{
    double g = gradient(j), m = 0, v = 0, s = INITIAL, lr = RATE, mean = 0;
    double adam_lr = lr * sqrt(1 - pow(BETA2, STEP)) / (1 - pow(BETA1, STEP));

    for (size_t i = 0; i < subject->conf.dim; i++)
        mean += (double)gradient(i) * gradient(i) / subject->conf.dim;
    for (uint32_t c = 0; c < count; c++) {
        switch (subject->conf.optimizer.kind) {
        case RT_OPT_SGD:
            w -= lr * g;
            break;
        case RT_OPT_ADAM:
            m += (1 - BETA1) * (g - m);
            v += (1 - BETA2) * (g * g - v);
            w -= adam_lr * m / (sqrt(v) + EPS);
            break;
        default:
            s += subject->conf.optimizer.kind == RT_OPT_ADAGRAD ? g * g : mean;
            w -= lr * g / (sqrt(s) + EPS);
        }
    }
    return w;
}

static void verify_updates(const struct run *run)
{
    const struct subject *subject = run->subject;
    float *initial = rt_xmalloc(subject->conf.dim * sizeof(*initial));
    float *got = rt_xmalloc(subject->conf.dim * sizeof(*got));

    if (run->hits != run->asked)
        die("update: %llu of %llu rows found", (unsigned long long)run->hits,
            (unsigned long long)run->asked);
    for (size_t t = 0; t < run->tally.n && !subject->changed; t++) {
        uint64_t id = ids_of(run->tally.position[t]);

        ebs_table_lookup(run->empty, &id, 1, initial);
        ebs_table_lookup(run->table, &id, 1, got);
        for (size_t j = 0; j < subject->conf.dim; j++) {
            double want = weight_after(subject, initial[j], j, run->tally.count[t]);

            if (fabs(want - got[j]) > TOLERANCE * (1 + fabs(want)))
                die("update: id %llu, %u updates, weight %zu: expected %g, got %g",
                    (unsigned long long)id, run->tally.count[t], j, want, got[j]);
        }
    }
    rt_free(initial);
    rt_free(got);
}

double subject_update(struct subject *subject, struct ebs_table *table, int kind, uint64_t seed,
                      double *rate)
{
    struct ids ids;
    struct run run;
    struct rounds rounds = {.ids = &ids,
                            .as_ids = 1,
                            .run = one_update,
                            .each = each_update,
                            .ctx = &run,
                            .rate = rate};
    double result;

    ids_init(&ids, kind, subject->rows, seed);
    run_init(&run, subject, table);
    for (size_t i = 0; i < REQUEST_IDS * subject->conf.dim; i++)
        run.buffer[i] = gradient(i % subject->conf.dim);
    result = bench_rounds(&rounds);
    verify_updates(&run);
    subject->changed = true;
    run_release(&run);
    return result;
}
