/* tests/sim/test_faults.c -- every kind of fault that a network has, in whole jobs whose rows count.
 *
 * Each seed is a job of its own: how many there are of each role, the mode, and what happens to which connection when.
 * Whatever that is, the job ends, every permit is back, and each row of the data was applied exactly once in each epoch
 * (tests/lib/oracle.h). FAULTS=N asks for so many faults instead of the usual number, TEST_FAULTS_SEED=N for one seed, or for
 * TEST_FAULTS_SEEDS from there on. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/oracle.h"
#include "tests/lib/temp.h"
#include "tests/sim/job_rows.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"

#include "middleware/batch.h"
#include "trainer/group.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
    MODES = 3,
    FAULTS_USUAL = 4000,
    FAULTS_OF_ONE = 60,
    EPOCHS = 3,
    ROWS = 512,
    EXACT_RUNS = 30,
    EXACT_KEPT = 1845,
    OWNERS = 2,   /* of a world */
    CREDIT = 1500 /* bytes: one of the batches' messages, or two */
};

static const struct oracle_shape shape = {
    .rows = ROWS, .users = 20, .items = 7, .splits = 4, .block_rows = 32, .batch_size = 16};
static const char *const mode[MODES] = {"global.mode=hybrid", "global.mode=async",
                                        "global.mode=full"};

/* Seeds that have found something. */
static const struct {
    const char *what;
    uint64_t seed;
    bool restarts;
} kept[] = {
    {"an average of the weights by an older count of samples (trainer/group.c)", 619, false},
    {"a batch of `async` run again with gradients of all ranks (trainer/step.c)", 43, true},
    {"what a rank was told before it died, and never again (trainer/tell.c)", 979, true},
    {"a JoinGroup that came late, and for a rank that did not wait for its answer (trainer/form.c)",
     708, true},
    {"half of a step that was lost, applied with half of the one made in its place "
     "(embedding_server/gather.c)",
     875, true},
    {"an epoch that was over by what two neighbours knew, and both died (trainer/tell.c)", 1519,
     true},
    {"the same, of a batch that had been stepped", 3009, true},
    {"a ledger of weights that were lost while they were fetched (trainer/form.c)", 814, true},
    {"the same", 914, true}};

/* What happens beside the faults. */
enum extra { NOTHING, RESTARTS, PAUSES, PARTS };

struct tally {
    uint64_t paused, refused; /* links, and calls, for want of credit */
    uint64_t batches, calls;  /* of middlewares: pushed; to owners, again too */
    uint64_t faults, by_kind[SIM_FAULTS], worlds;
    uint64_t losses;                   /* of all the weights that there were */
    uint64_t longest_ns, longest_seed; /* from the last fault to the end */
};

static struct rt_job *make_job(const char *dir, const char *of_mode)
{
    const char *set[] = {"data.epochs=3", of_mode, "global.sync_every=3"};
    struct rt_job_source source = {
        .folder = dir, .name = "oracle", .set = set, .n_set = ARRAY_LEN(set)};
    struct rt_job *job;
    if (rt_job_load(&source, &job) != 0)
        fail_msg("%s", rt_err_text());
    return job;
}

static void count_losses(const struct job_world *w, unsigned first, unsigned n, struct tally *tally)
{
    bool trained = false, stays = false;
    for (unsigned i = 0; i < w->conf.ranks; i++) {
        bool has = w->rank[(first + i) % w->conf.ranks].trainer->step > 0;
        trained = trained || has;
        stays = stays || (has && i >= n);
    }
    tally->losses += trained && !stays;
}

/* All who have weights may be among them: then the job is trained again from the start, and its rows are not. */
static void restart_ranks(struct job_world *w, unsigned first, bool two, struct tally *tally)
{
    unsigned n = 1 + two;
    count_losses(w, first, n, tally);
    jw_restart_ranks(w, first, n);
}

static void restart_one(struct job_world *w, uint64_t draw, struct tally *tally)
{
    unsigned which =
        (unsigned)rt_below(draw, w->conf.ranks + w->conf.composers + w->conf.middlewares);
    if (which < w->conf.ranks)
        restart_ranks(w, which, (draw & 1) && (w->conf.ranks > 2 || (draw & 2)), tally);
    else if (which < w->conf.ranks + w->conf.composers)
        jw_restart_composer(w, which - w->conf.ranks);
    else
        jw_restart_middleware(w, which - w->conf.ranks - w->conf.composers);
}

static bool has_restarts(enum extra extra, uint64_t seed)
{
    return extra == RESTARTS || (extra == PARTS && seed % 2);
}

/* Faults follow one another within milliseconds; what is half open takes longer to be noticed than anything else. */
static void make_faults(struct job_world *w, enum extra extra, struct tally *tally)
{
    bool restarts = has_restarts(extra, w->conf.seed);
    uint64_t key = rt_draw_key(w->conf.seed, "faults", NULL);
    uint64_t who = rt_draw_key(w->conf.seed, "restarts", NULL);
    for (unsigned i = 0; i < FAULTS_OF_ONE && !jw_is_over(w); i++) {
        enum sim_fault kind = (enum sim_fault)rt_below(rt_draw(key, 3 * i), SIM_PAUSE);
        if (extra == PAUSES && i % 2)
            kind = SIM_PAUSE;
        bool slow = kind == SIM_HALF_OPEN && rt_below(rt_draw(key, 3 * i + 1), 2);
        uint64_t pause = slow ? 6 * RT_S : 20 * RT_MS;
        bool done = sim_fault(w->sim, kind);
        tally->by_kind[kind] += done;
        tally->faults += done;
        sim_run_until(w->sim, jw_is_over, w, rt_below(rt_draw(key, 3 * i + 2), pause));
        if (restarts && rt_below(rt_draw(who, 2 * i), 10) == 0 && !jw_is_over(w))
            restart_one(w, rt_draw(who, 2 * i + 1), tally);
    }
}

static void check_rows(struct job_world *w, bool steps_are_equal)
{
    struct oracle_result r;
    jw_count_rows(w, steps_are_equal, NULL, &r);
    if (r.lost || r.doubled || r.odd)
        fail_msg("seed %llu: of %llu applications %llu lost, %llu doubled; %s",
                 (unsigned long long)w->conf.seed, (unsigned long long)r.expected,
                 (unsigned long long)r.lost, (unsigned long long)r.doubled, r.first);
    assert_true(r.rows >= ROWS);
}

static void check_accounts(struct job_world *w)
{
    struct tr_report r = jw_report(w);
    assert_int_equal(r.samples_trained, ROWS * EPOCHS);
    assert_int_equal(r.samples_dropped, 0);
    assert_int_equal(r.permits_used, 0);
}

/* What is silent is noticed after 5 s; nothing waits for a longer timer. */
static void check_time(const struct job_world *w, uint64_t spent_ns, struct tally *tally)
{
    if (spent_ns > 15 * RT_S)
        fail_msg("seed %llu: it took %.1f s from the last fault to the end",
                 (unsigned long long)w->conf.seed, (double)spent_ns * 1e-9);
    if (spent_ns <= tally->longest_ns)
        return;
    tally->longest_ns = spent_ns;
    tally->longest_seed = w->conf.seed;
}

static void count_credit(const struct job_world *w, struct tally *tally)
{
    for (unsigned k = 0; k < w->conf.owners; k++)
        tally->paused += ebs_owner_rpc_stats(w->owner[k])->links_paused;
    for (unsigned m = 0; m < w->conf.middlewares; m++) {
        const struct rt_rpc_stats *stats = rt_rpc_stats(w->middleware[m]->rpc);
        tally->paused += stats->links_paused;
        tally->refused += stats->calls_over_credit;
        tally->batches += w->middleware[m]->stats.pushes;
        tally->calls += stats->calls;
    }
    for (unsigned r = 0; r < w->conf.ranks; r++)
        tally->refused += rt_rpc_stats(w->rank[r].trainer->rpc)->calls_over_credit;
}

static void run_world(struct rt_job *const job[MODES], uint64_t seed, enum extra extra,
                      struct tally *tally)
{
    struct job_world w;
    bool restarts = has_restarts(extra, seed);
    struct jw_conf conf = {.seed = seed,
                           .ranks = 1 + restarts + (unsigned)(seed / 3) % 3,
                           .composers = 1 + (unsigned)(seed / 9) % 2,
                           .middlewares = 1 + (unsigned)(seed / 2) % 2,
                           .job = job[seed % MODES],
                           .part_bytes = extra == PARTS ? 1 + seed * 97 % 600 : 0,
                           /* Ranks die while weights come in many parts. */
                           .state_part =
                               restarts && (seed % 5 == 1 || seed % 5 == 2) ? 1 + seed % 8 : 0};
    jw_start(&w, &conf);
    make_faults(&w, extra, tally);
    uint64_t well_ns = sim_now(w.sim);
    jw_run(&w);
    check_time(&w, sim_now(w.sim) - well_ns, tally);
    count_credit(&w, tally);
    if (!restarts)
        check_accounts(&w);
    check_rows(&w, w.conf.ranks == 1 || w.job->global.mode == RT_MODE_ASYNC);
    jw_stop(&w);
    tally->worlds++;
}

static uint64_t number(const char *name, uint64_t usual)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : usual;
}

static void run_worlds(enum extra extra, uint64_t usual)
{
    char dir[TEMP_PATH_MAX];
    struct rt_job *job[MODES];
    struct tally tally = {0};
    uint64_t one = number("TEST_FAULTS_SEED", 0), wanted = number("FAULTS", usual);
    temp_folder(dir);
    oracle_write(dir, &shape);
    for (int m = 0; m < MODES; m++)
        job[m] = make_job(dir, mode[m]);
    for (int m = 0; m < MODES && extra == PAUSES; m++)
        job[m]->global.credit = CREDIT;
    for (size_t i = 0; i < ARRAY_LEN(kept) && !one && (extra == NOTHING || extra == RESTARTS); i++)
        if (kept[i].restarts == (extra == RESTARTS))
            run_world(job, kept[i].seed, extra, &tally);
    uint64_t seeds = number("TEST_FAULTS_SEEDS", 1);
    for (uint64_t seed = one ? one : 1; one ? seed < one + seeds : tally.faults < wanted; seed++)
        run_world(job, seed, extra, &tally);
    print_message("%llu faults in %llu jobs:", (unsigned long long)tally.faults,
                  (unsigned long long)tally.worlds);
    for (int k = 0; k < SIM_FAULTS; k++)
        print_message(" %s %llu", sim_fault_name((enum sim_fault)k),
                      (unsigned long long)tally.by_kind[k]);
    print_message("; at most %.1f s from the last to the end (seed %llu)\n",
                  (double)tally.longest_ns * 1e-9, (unsigned long long)tally.longest_seed);
    if (extra == PAUSES) {
        print_message("%llu links paused, %llu calls turned down\n",
                      (unsigned long long)tally.paused, (unsigned long long)tally.refused);
        assert_true(one || (tally.paused > 0 && tally.refused > 0));
    }
    if (extra == RESTARTS)
        print_message("all weights were lost %llu times\n", (unsigned long long)tally.losses);
    if (extra == PARTS) {
        print_message("%llu batches pushed, with %llu calls to owners\n",
                      (unsigned long long)tally.batches, (unsigned long long)tally.calls);
        assert_true(tally.calls > 2 * 2 * OWNERS * tally.batches); /* a lookup and a push, uncut */
    }
    for (int m = 0; m < MODES; m++)
        rt_job_destroy(job[m]);
}

static void test_faults(void **state)
{
    (void)state;
    run_worlds(NOTHING, FAULTS_USUAL);
}

/* ... while a connection may have about one message waiting, and ends of them sleep for up to 3 s. */
static void test_faults_and_pauses(void **state)
{
    (void)state;
    run_worlds(PAUSES, FAULTS_USUAL / 4);
}

/* ... while ranks, one or two neighbours at once, composers and middlewares die, and come back with nothing. */
static void test_faults_and_restarts(void **state)
{
    (void)state;
    run_worlds(RESTARTS, FAULTS_USUAL / 4);
}

/* ... and in every second job nobody dies, while a part of a batch is at most some hundred bytes. */
static void test_faults_in_parts(void **state)
{
    (void)state;
    run_worlds(PARTS, FAULTS_USUAL / 4);
}

/* `exact`: whatever happens to connections, and however batches are cut, the same bits as in a run to which nothing
 * does. EXACT_KEPT: an answer to
 * EndOfEpoch was taken for that to the next one (data_compose/end.c). */
static void test_exact(void **state)
{
    (void)state;
    const char *set[] = {"data.epochs=2", "global.mode=full", "global.exact=true"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    struct tally tally = {0};
    uint64_t one = number("TEST_FAULTS_SEED", 0), runs = number("TEST_FAULTS_RUNS", EXACT_RUNS);
    for (unsigned ranks = 1; ranks <= 3; ranks++) {
        uint64_t want = 0;
        for (uint64_t i = 0; i <= runs; i++) {
            struct job_world w;
            uint64_t seed = i == runs ? EXACT_KEPT : i;
            struct jw_conf conf = {.seed = seed,
                                   .ranks = ranks,
                                   .job = job,
                                   .part_bytes = seed % 2 ? 1 + 7 * seed : 0};
            if (one && seed && seed != one)
                continue;
            jw_start(&w, &conf);
            if (seed > 0)
                make_faults(&w, NOTHING, &tally);
            jw_run(&w);
            struct tr_report r = jw_report(&w);
            assert_int_equal(r.samples_trained, JW_TRAIN_ROWS * 2);
            assert_int_equal(r.test_samples, JW_TEST_ROWS);
            uint64_t digest = tr_trainer_digest(w.rank[0].trainer);
            want = seed == 0 ? digest : want;
            if (digest != want)
                fail_msg("%u ranks, seed %llu: not the bits of the run without faults", ranks,
                         (unsigned long long)seed);
            jw_stop(&w);
        }
    }
    job_fixture_destroy(job);
}

int main(void)
{
    rt_log_set_level(getenv("TEST_LOG") ? RT_LOG_INFO : RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_faults), cmocka_unit_test(test_faults_and_pauses),
        cmocka_unit_test(test_faults_and_restarts), cmocka_unit_test(test_faults_in_parts),
        cmocka_unit_test(test_exact)};
    return cmocka_run_group_tests(test, NULL, NULL);
}
