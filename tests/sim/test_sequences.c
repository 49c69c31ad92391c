/* tests/sim/test_sequences.c -- lists of ids, with all roles around them in one thread: what is pooled in the middleware and what
 * arrives as a sequence and is pooled in the network train the same, whatever the owners, the wire and the links do.
 *
 * The data are of its own: the fixture's columns, the second of which is a list of up to 4 items, often empty. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/temp.h"
#include "tests/sim/job_world.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "trainer/state.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { LIST_MAX = 4, SET_MAX = 16, TEXT_MAX = 256 };

/* The last layers are the same, and so are their initial weights. */
#define TOP                                                                                        \
    "{name: top, type: mlp, inputs: [all], sizes: [8, 1]},"                                        \
    "{name: loss, type: bce, inputs: [top]}]"
#define POOLED "model.layers=[{name: all, type: concat, inputs: [user, item, dense]}," TOP
#define SEQUENCE(pooling)                                                                          \
    "model.layers=[{name: p, type: masked_pool, inputs: [item, item.mask], pooling: " pooling "}," \
    "{name: all, type: concat, inputs: [user, p, dense]}," TOP

static char list_path[TEMP_PATH_MAX];

static int write_lists(void **state)
{
    char dir[TEMP_PATH_MAX], text[JW_TRAIN_ROWS * 64];
    size_t at = 0;
    (void)state;
    temp_folder(dir);
    snprintf(list_path, sizeof list_path, "%.100s/lists.tsv", dir);
    for (unsigned i = 0; i < JW_TRAIN_ROWS; i++) {
        unsigned user = (i * 7 + i / 5) % 13, n = (unsigned)rt_below(rt_draw(1, i), LIST_MAX + 1);
        at += (size_t)snprintf(text + at, 64, "%d\t%.2f\t%.2f\tu%u\t", user % 3 == 0,
                               (double)(i % 10) / 10, (double)(i % 5) / 5, user);
        for (unsigned k = 0; k < n; k++)
            at += (size_t)snprintf(text + at, 64, "%si%u", k ? "|" : "",
                                   (unsigned)rt_below(rt_draw(2, i * LIST_MAX + k), 9));
        text[at++] = '\n';
    }
    assert_int_equal(rt_file_write(list_path, text, at), 0);
    return 0;
}

static int remove_lists(void **state)
{
    (void)state;
    unlink(list_path);
    *strrchr(list_path, '/') = '\0';
    rmdir(list_path);
    return 0;
}

static const char columns[] = "data.columns={y: label, a: dense, b: dense, user: feature, "
                              "item: {kind: feature, separator: \"|\", missing: none}}";

struct result {
    uint64_t digest;
    double loss, logloss;
    size_t n;
    float params[512];
};

struct run {
    const char *pooling, *model, *more[3];
    unsigned owners, ranks, breaks;
    uint64_t seed;
};

static struct result train(const struct run *run)
{
    char train[TEXT_MAX], test[TEXT_MAX], workers[TEXT_MAX];
    const char *set[SET_MAX] = {
        train,
        test,
        workers,
        run->pooling,
        run->model,
        columns,
        "embedding.features.item.max_length=4",
        "embedding.defaults.initializer={type: normal, std: 0.3}",
        "embedding.defaults.optimizer={type: adagrad, learning_rate: 0.1}",
        "global.mode=full",
        "global.exact=true",
        "data.epochs=2",
    };
    size_t n_set = 12;
    snprintf(workers, sizeof workers, "global.embedding_server.workers=%u", run->owners);
    snprintf(train, sizeof train, "data.train=[%s]", list_path);
    snprintf(test, sizeof test, "data.test=[%s]", list_path);
    for (size_t i = 0; i < ARRAY_LEN(run->more) && run->more[i]; i++)
        set[n_set++] = run->more[i];
    struct job_world w;
    jw_start(&w, &(struct jw_conf){.seed = run->seed,
                                   .owners = run->owners,
                                   .ranks = run->ranks,
                                   .set = set,
                                   .n_set = n_set});
    jw_break_links(&w, run->breaks, false);
    jw_run(&w);
    struct tr_report r = jw_report(&w);
    struct tr_model *model = w.rank[0].trainer->model;
    struct result out = {tr_trainer_digest(w.rank[0].trainer),
                         r.train_loss,
                         r.test_logloss,
                         tr_model_count(model),
                         {0}};
    assert_int_equal(r.samples_trained, JW_TRAIN_ROWS * 2);
    assert_int_equal(r.samples_dropped + r.permits_used, 0);
    assert_true(out.n <= ARRAY_LEN(out.params));
    memcpy(out.params, tr_model_params(model), out.n * sizeof(float));
    jw_stop(&w);
    return out;
}

static void compare(const char *what, const struct result *a, const struct result *b, double within)
{
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++)
        if (fabsf(a->params[i] - b->params[i]) > (float)within)
            fail_msg("%s: parameter %zu is %g and %g", what, i, (double)a->params[i],
                     (double)b->params[i]);
    if (fabs(a->loss - b->loss) > within || fabs(a->logloss - b->logloss) > within)
        fail_msg("%s: losses %.9g %.9g and %.9g %.9g", what, a->loss, a->logloss, b->loss,
                 b->logloss);
}

static const struct {
    const char *name, *pooling, *model;
} kind[] = {{"sum", "embedding.features.item.pooling=sum", SEQUENCE("sum")},
            {"mean", "embedding.features.item.pooling=mean", SEQUENCE("mean")}};

/* Of the same data, with 1 and 2 owners and 1 and 2 ranks: the same up to rounding as pooled; whatever links break, the same bits. */
static void as_pooled(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kind); k++)
        for (unsigned ranks = 1; ranks <= 2; ranks++) {
            struct run pooled = {kind[k].pooling, POOLED, {0}, 1, ranks, 0, 1};
            struct run sequence = pooled;
            sequence.pooling = "embedding.features.item.pooling=none";
            sequence.model = kind[k].model;
            struct result want = train(&pooled), one = train(&sequence);
            compare(kind[k].name, &want, &one, 2e-5);
            sequence.owners = 2;
            for (uint64_t seed = 2; seed < 6; seed++) {
                sequence.seed = seed;
                sequence.breaks = (unsigned)seed * 4;
                struct result other = train(&sequence);
                if (other.digest != one.digest || other.loss != one.loss)
                    fail_msg("%s, %u ranks, seed %llu: not the bits of one owner, unbroken",
                             kind[k].name, ranks, (unsigned long long)seed);
            }
        }
}

/* Of one table for both features, hashed, and in 16 bits. */
static void shared_hashed_narrow(void **state)
{
    static const struct {
        const char *set;
        double within;
    } row[] = {{"embedding.features.item.table=user", 2e-5},
               {"embedding.tables.item.hash={functions: 2, rows: 5}", 2e-5},
               {"global.wire.dtype=float16", 1e-2},
               {"global.wire.dtype=bfloat16", 6e-2}};
    (void)state;
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        struct run pooled = {kind[0].pooling, POOLED, {row[r].set}, 2, 1, 0, 1};
        struct run sequence = pooled;
        sequence.pooling = "embedding.features.item.pooling=none";
        sequence.model = kind[0].model;
        struct result a = train(&pooled), b = train(&sequence);
        compare(row[r].set, &a, &b, row[r].within);
    }
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {cmocka_unit_test(as_pooled),
                                      cmocka_unit_test(shared_hashed_narrow)};
    return cmocka_run_group_tests_name("sequences", test, write_lists, remove_lists);
}
