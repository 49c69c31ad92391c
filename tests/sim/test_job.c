/* tests/sim/test_job.c -- a whole job in one thread: data-compose, middleware, two owners and a trainer, each on
 * its own simulated rt_io, without libuv and without NATS.
 *
 * In mode `full` one batch is under way at a time, so the end state is a pure function of the data plan
 * and the seed of the job: whatever the network does, whatever links break at whatever moment, the dense
 * weights at the end must be the same bits. A lost update, a doubled one or one out of order changes
 * them. In mode `hybrid` the order may differ, but every row is accounted for and the bound holds. */
#include "tests/lib/job_fixture.h"
#include "tests/sim/sim_io.h"

#include "data_compose/composer.h"
#include "embedding_server/serve.h"
#include "middleware/loop.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/wire/member.h"
#include "trainer/trainer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { NODE_C, NODE_M, NODE_T, NODE_E, OWNERS = 2, NODES = NODE_E + OWNERS };
enum { INCARNATION = 5, TRAIN_ROWS = 200, TEST_ROWS = 60 }; /* rows: of the fixture */

struct world {
    struct sim *sim;
    struct rt_job *job;
    struct rt_shard_map shards;
    struct ebs_owner *owner[OWNERS];
    struct mw_loop *middleware;
    struct tr_trainer *trainer;
    struct dc_composer *composer;
    int failed;
    bool done;
};

static void on_failed(void *ctx, int err)
{
    ((struct world *)ctx)->failed = err;
}

static void on_done(void *ctx)
{
    ((struct world *)ctx)->done = true;
}

static struct rt_identity identity(const struct rt_job *job, enum rt_role role, uint32_t loop)
{
    struct rt_identity id = {.role = role,
                             .loop = loop,
                             .incarnation = INCARNATION,
                             .wire_version = RT_WIRE_VERSION,
                             .config_hash = job->config_hash,
                             .plan_hash = job->plan_hash};
    snprintf(id.job, sizeof id.job, "%s", job->name);
    return id;
}

static void start_owners(struct world *w)
{
    assert_int_equal(rt_shard_map_init(&w->shards, 1, OWNERS), 0);
    for (unsigned k = 0; k < OWNERS; k++) {
        char listen[RT_ADDRESS_MAX];
        snprintf(listen, sizeof listen, "sim:%u:1", NODE_E + k);
        struct ebs_owner_conf conf = {.io = sim_node(w->sim, NODE_E + k),
                                      .identity = identity(w->job, RT_ROLE_EMBEDDING_SERVER, k),
                                      .job = w->job,
                                      .shards = &w->shards,
                                      .owner = k,
                                      .greeting = &wire_greeting,
                                      .listen = listen};
        if (ebs_owner_create(&conf, &w->owner[k]) != 0)
            fail_msg("%s", rt_err_text());
    }
}

static void start_middleware(struct world *w)
{
    struct mw_loop_conf conf = {.io = sim_node(w->sim, NODE_M),
                                .identity = identity(w->job, RT_ROLE_MIDDLEWARE, 0),
                                .job = w->job,
                                .greeting = &wire_greeting,
                                .listen = "sim:1:1"};
    if (mw_loop_create(&conf, &w->middleware) != 0)
        fail_msg("%s", rt_err_text());
    const char *address[OWNERS];
    for (unsigned k = 0; k < OWNERS; k++)
        address[k] = ebs_owner_address(w->owner[k]);
    if (mw_loop_on_server(w->middleware, 0, 1, OWNERS, address, INCARNATION) != 0)
        fail_msg("%s", rt_err_text());
}

static void start_trainer(struct world *w)
{
    struct tr_trainer_conf conf = {.io = sim_node(w->sim, NODE_T),
                                   .self = identity(w->job, RT_ROLE_TRAINER, 0),
                                   .job = w->job,
                                   .world = 1,
                                   .listen = "sim:2:1",
                                   .ctx = w,
                                   .failed = on_failed,
                                   .done = on_done};
    if (tr_trainer_create(&conf, &w->trainer) != 0)
        fail_msg("%s", rt_err_text());
    const char *address = mw_loop_address(w->middleware);
    tr_trainer_on_middleware(w->trainer, 0, 1, &address, 1, INCARNATION);
    const char *owner[OWNERS];
    for (unsigned k = 0; k < OWNERS; k++)
        owner[k] = ebs_owner_address(w->owner[k]);
    tr_trainer_on_server(w->trainer, 0, 1, owner, OWNERS, INCARNATION);
}

static void start_composer(struct world *w)
{
    struct dc_composer_conf conf = {.io = sim_node(w->sim, NODE_C),
                                    .identity = identity(w->job, RT_ROLE_DATA_COMPOSE, 0),
                                    .job = w->job,
                                    .size = 1,
                                    .ctx = w,
                                    .failed = on_failed};
    if (dc_composer_create(&conf, &w->composer) != 0)
        fail_msg("%s", rt_err_text());
    const char *middleware = mw_loop_address(w->middleware);
    const char *trainer = tr_trainer_address(w->trainer);
    dc_composer_on_middleware(w->composer, 0, 1, &middleware, 1, INCARNATION);
    dc_composer_on_trainer(w->composer, 0, 1, &trainer, 1, INCARNATION);
}

static void start(struct world *w, uint64_t seed, const char *const *set, size_t n_set)
{
    memset(w, 0, sizeof *w);
    struct sim_conf conf = {.seed = seed, .n_nodes = NODES};
    w->sim = sim_create(&conf);
    w->job = job_fixture(set, n_set);
    start_owners(w);
    start_middleware(w);
    start_trainer(w);
    start_composer(w);
}

static void stop(struct world *w)
{
    sim_run_until(w->sim, NULL, NULL, 100 * RT_MS); /* nothing is being computed afterwards */
    dc_composer_destroy(w->composer);
    tr_trainer_destroy(w->trainer);
    mw_loop_destroy(w->middleware);
    for (unsigned k = 0; k < OWNERS; k++)
        ebs_owner_destroy(w->owner[k]);
    sim_run_until(w->sim, NULL, NULL, RT_S);
    sim_destroy(w->sim);
    job_fixture_destroy(w->job);
}

static bool is_over(void *arg)
{
    const struct world *w = arg;
    return w->done || w->failed;
}

/* Links that carry something in a job; one of them breaks every few milliseconds of simulated time. */
static void run_to_the_end(struct world *w, uint64_t seed, unsigned breaks)
{
    static const unsigned pair[][2] = {{NODE_C, NODE_M},
                                       {NODE_C, NODE_T},
                                       {NODE_T, NODE_M},
                                       {NODE_M, NODE_E},
                                       {NODE_M, NODE_E + 1}};
    uint64_t key = rt_draw_key(seed, "breaks", NULL);
    for (unsigned i = 0; i < breaks && !is_over(w); i++) {
        sim_run_until(w->sim, is_over, w, RT_MS + rt_below(rt_draw(key, 2 * i), 40 * RT_MS));
        const unsigned *p = pair[rt_below(rt_draw(key, 2 * i + 1), ARRAY_LEN(pair))];
        sim_break(w->sim, p[0], p[1]);
    }
    if (!sim_run_until(w->sim, is_over, w, 600 * RT_S))
        fail_msg("seed %llu: not done after ten simulated minutes", (unsigned long long)seed);
    if (w->failed)
        fail_msg("seed %llu: failed: %s", (unsigned long long)seed, rt_err_name(w->failed));
}

static void check_accounts(struct world *w, uint64_t epochs)
{
    struct tr_report r;
    tr_trainer_report(w->trainer, &r);
    assert_int_equal(r.samples_read, TRAIN_ROWS * epochs);
    assert_int_equal(r.samples_trained, TRAIN_ROWS * epochs);
    assert_int_equal(r.samples_dropped + r.samples_quarantined, 0);
    assert_int_equal(r.test_samples, TEST_ROWS);
    assert_int_equal(r.permits_used, 0);
    assert_true(r.staleness_max >= 1 && r.staleness_max <= w->job->global.staleness);
    assert_true(r.train_loss > 0 && r.train_loss < 1);
    assert_true(r.test_auc > 0.5);
    uint64_t rows = 0;
    for (unsigned k = 0; k < OWNERS; k++)
        rows += atomic_load(&ebs_owner_stats(w->owner[k])->rows);
    assert_int_equal(rows, 13 + 5); /* users and items of the fixture; evaluation made none */
}

static void test_hybrid(void **state)
{
    (void)state;
    struct world w;
    const char *set[] = {"data.epochs=3"};
    for (uint64_t seed = 1; seed <= 100; seed++) {
        start(&w, seed, set, 1);
        run_to_the_end(&w, seed, seed % 2 ? 0 : 20);
        check_accounts(&w, 3);
        stop(&w);
    }
}

static void test_full_is_a_pure_function(void **state)
{
    (void)state;
    struct world w;
    uint64_t want = 0;
    struct tr_report first = {0};
    const char *set[] = {"data.epochs=2", "global.mode=full", "global.exact=true"};
    for (uint64_t seed = 1; seed <= 300; seed++) {
        start(&w, seed, set, ARRAY_LEN(set));
        run_to_the_end(&w, seed, seed == 1 ? 0 : (unsigned)seed);
        check_accounts(&w, 2);
        struct tr_report r;
        tr_trainer_report(w.trainer, &r);
        uint64_t digest = tr_trainer_digest(w.trainer);
        if (seed == 1) {
            want = digest;
            first = r;
        } else if (digest != want || r.test_auc != first.test_auc ||
                   r.test_logloss != first.test_logloss || r.train_loss != first.train_loss) {
            fail_msg("seed %llu: dense weights, AUC or losses differ from the unbroken run's",
                     (unsigned long long)seed);
        }
        stop(&w);
    }
}

/* The same seed gives the same run, event by event. */
static void test_replay(void **state)
{
    (void)state;
    uint64_t digest[2];
    for (int i = 0; i < 2; i++) {
        struct world w;
        start(&w, 77, NULL, 0);
        run_to_the_end(&w, 77, 10);
        digest[i] = sim_digest(w.sim);
        stop(&w);
    }
    assert_true(digest[0] == digest[1]);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {cmocka_unit_test(test_hybrid),
                                      cmocka_unit_test(test_full_is_a_pure_function),
                                      cmocka_unit_test(test_replay)};
    return cmocka_run_group_tests(test, NULL, NULL);
}
