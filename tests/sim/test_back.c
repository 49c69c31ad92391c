/* tests/sim/test_back.c -- an `exact` job loses any of its roles, at any moment and again while it goes back, and ends with the bits of
 * a run that nothing happened to; also where the newest checkpoint is damaged for one of them only. And in the other modes a job
 * that begins from a checkpoint follows an embedding server to an older one, and loses nothing. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"
#include "tests/lib/temp.h"
#include "tests/sim/job_world.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { EPOCHS = 3 };

static const char *const exact[] = {"data.epochs=3", "global.mode=full", "global.exact=true",
                                    "global.checkpoint.every_steps=4",
                                    "global.checkpoint.full_every=3"};
static const char *const without[] = {"data.epochs=3", "global.mode=full", "global.exact=true",
                                      "global.checkpoint.every_seconds=0"};
static const char *const hybrid[] = {"data.epochs=3", "global.checkpoint.every_steps=4",
                                     "global.checkpoint.full_every=1"};

static unsigned runs(unsigned wanted)
{
    return seeds_wanted("TEST_BACK_RUNS", wanted);
}

/* ---- a run ---- */

struct end {
    uint64_t digest;
    double train_loss, auc, logloss;
};

struct job {
    struct job_world w;
    struct rt_job *job;
    char dir[TEMP_PATH_MAX];
    uint64_t key, draws;
};

static uint64_t draw(struct job *j, uint64_t below)
{
    return rt_below(rt_draw(j->key, j->draws++), below);
}

static void start(struct job *j, struct rt_job *job, uint64_t seed, unsigned ranks)
{
    *j = (struct job){.job = job, .key = rt_draw_key(seed, "back", NULL)};
    temp_folder(j->dir);
    struct jw_conf conf = {.seed = seed,
                           .ranks = ranks,
                           .job = job,
                           .restore = true,
                           .kept_up = true,
                           .checkpoint_dir = j->dir};
    jw_start(&j->w, &conf);
}

/* Until then, or the end; who asks is started again, after a while in which others may ask too. */
static void keep_up(struct job *j, uint64_t ns)
{
    struct job_world *w = &j->w;
    struct rt_io *clock = sim_node(w->sim, 0);
    uint64_t until = rt_io_now(clock) + ns;
    while (rt_io_now(clock) < until && !jw_is_over(w)) {
        sim_run_until(w->sim, jw_has_left, w, until - rt_io_now(clock));
        if (jw_is_over(w))
            return;
        sim_run_until(w->sim, NULL, NULL, draw(j, 20 * RT_MS));
        jw_restart_who_left(w);
    }
}

static struct end finish(struct job *j)
{
    struct job_world *w = &j->w;
    keep_up(j, 300 * RT_S);
    if (w->failed || !jw_is_over(w))
        jw_run(w); /* it says where everybody is */
    struct tr_report r = jw_report(w);
    struct end end = {tr_trainer_digest(w->rank[0].trainer), r.train_loss, r.test_auc,
                      r.test_logloss};
    if (r.samples_read != JW_TRAIN_ROWS * EPOCHS)
        fail_msg("seed %llu: %llu rows read, expected %d", (unsigned long long)w->conf.seed,
                 (unsigned long long)r.samples_read, JW_TRAIN_ROWS * EPOCHS);
    return end;
}

static void stop(struct job *j)
{
    jw_stop(&j->w);
}

static struct end unbroken(struct rt_job *job, unsigned ranks)
{
    struct job j;
    start(&j, job, 1, ranks);
    struct end end = finish(&j);
    stop(&j);
    return end;
}

static void check_same(const struct job *j, const struct end *end, const struct end *want)
{
    if (end->digest != want->digest)
        fail_msg("seed %llu, %u ranks: other weights than those of an unbroken run",
                 (unsigned long long)j->w.conf.seed, j->w.conf.ranks);
    if (end->auc != want->auc || end->logloss != want->logloss)
        fail_msg("seed %llu, %u ranks: AUC %.17g and log loss %.17g, those of an unbroken run are "
                 "%.17g and %.17g: other rows",
                 (unsigned long long)j->w.conf.seed, j->w.conf.ranks, end->auc, end->logloss,
                 want->auc, want->logloss);
}

/* ---- anybody dies ---- */

enum victim { SERVER, RANK_0, LAST_RANK, RANKS, MIDDLEWARE, COMPOSER, EVERYBODY, VICTIMS };

static void hit(struct job_world *w, enum victim victim)
{
    if (victim == SERVER)
        jw_restart_server(w);
    else if (victim == RANK_0)
        jw_restart_rank(w, 0);
    else if (victim == LAST_RANK)
        jw_restart_rank(w, w->conf.ranks - 1);
    else if (victim == RANKS)
        jw_restart_ranks(w, 0, w->conf.ranks);
    else if (victim == MIDDLEWARE)
        jw_restart_middleware(w, 0);
    else if (victim == COMPOSER)
        jw_restart_composer(w, 0);
    else
        jw_restart_job(w);
}

/* Every victim comes first for some seeds; every third time the next one follows at once, while all go back. */
static void kill_some(struct rt_job *job, unsigned n)
{
    unsigned kills = 0;
    for (unsigned ranks = 1; ranks <= 2; ranks++) {
        struct end want = unbroken(job, ranks);
        for (uint64_t seed = seeds_first(); seed < seeds_first() + runs(n); seed++) {
            struct job j;
            start(&j, job, seed, ranks);
            for (unsigned i = 0; i < 3; i++) {
                keep_up(&j, draw(&j, i && draw(&j, 3) == 0 ? 30 * RT_MS : 250 * RT_MS));
                kills += !jw_is_over(&j.w);
                if (!jw_is_over(&j.w))
                    hit(&j.w, i ? (enum victim)draw(&j, VICTIMS) : (enum victim)(seed % VICTIMS));
            }
            struct end end = finish(&j);
            check_same(&j, &end, &want);
            struct tr_report r = jw_report(&j.w);
            assert_true(r.went_back <= 6 && r.generation >= r.went_back);
            stop(&j);
        }
    }
    assert_true(kills > runs(n)); /* most of them met somebody */
}

static void test_kills(void **state)
{
    struct rt_job *job = job_fixture(exact, ARRAY_LEN(exact));
    (void)state;
    kill_some(job, 70);
    job_fixture_destroy(job);
}

/* All begin anew, from step 0. */
static void test_no_checkpoint(void **state)
{
    struct rt_job *job = job_fixture(without, ARRAY_LEN(without));
    (void)state;
    kill_some(job, 28);
    job_fixture_destroy(job);
}

/* ---- what is told of it ---- */

/* There are two, and steps since the latest. */
static bool has_gone_on(void *arg)
{
    const struct job_world *w = arg;
    const struct tr_trainer *trainer = w->rank[0].trainer;
    return jw_is_over(arg) || (trainer->checkpoint.published >= 2 &&
                               trainer->step >= trainer->checkpoint.last_step + 2);
}

static void test_told(void **state)
{
    struct rt_job *job = job_fixture(exact, ARRAY_LEN(exact));
    struct job j;
    (void)state;
    for (unsigned ranks = 1; ranks <= 2; ranks++) {
        start(&j, job, 11, ranks);
        sim_run_until(j.w.sim, has_gone_on, &j.w, 60 * RT_S);
        uint64_t reached = j.w.rank[0].trainer->step;
        hit(&j.w, SERVER);
        keep_up(&j, RT_S);
        struct tr_report r = jw_report(&j.w);
        assert_int_equal(r.went_back, 1);
        assert_int_equal(r.generation, 1);
        assert_true(r.steps_again >= 1 && r.steps_again <= reached + 1);
        (void)finish(&j);
        assert_int_equal(jw_report(&j.w).went_back, 1);
        stop(&j);
    }
    job_fixture_destroy(job);
}

/* ---- one that is damaged for one of them ---- */

static void damage_newest(const struct job *j, const char *file)
{
    struct rt_store_list list;
    char *text, path[512];
    size_t size;
    assert_int_equal(rt_store_list(j->dir, &list), 0);
    assert_true(list.n >= 2);
    snprintf(path, sizeof path, "%s/%s/%s", j->dir, list.at[0].name, file);
    if (rt_file_read(path, 1 << 24, &text, &size) != 0)
        fail_msg("%s", rt_err_text());
    text[size / 2] ^= 1;
    assert_int_equal(rt_file_write(path, text, size), 0);
    rt_free(text);
    rt_store_list_release(&list);
}

static void damaged(struct rt_job *job, const char *file, enum victim victim, uint64_t seed,
                    struct end *end)
{
    struct job j;
    start(&j, job, seed, 2);
    sim_run_until(j.w.sim, has_gone_on, &j.w, 60 * RT_S);
    damage_newest(&j, file);
    hit(&j.w, victim);
    *end = finish(&j);
    assert_int_equal(jw_report(&j.w).updates_lost, 0);
    stop(&j);
}

static void test_damage(void **state)
{
    static const char *const file[] = {"rows.00001", "dense.safetensors"};
    struct rt_job *job = job_fixture(exact, ARRAY_LEN(exact));
    struct end want = unbroken(job, 2);
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + 8; seed++) {
        for (size_t f = 0; f < ARRAY_LEN(file); f++) {
            enum victim victim = f == 0 ? SERVER : RANKS;
            struct end end;
            damaged(job, file[f], seed % 2 ? EVERYBODY : victim, seed, &end);
            if (end.digest != want.digest || end.auc != want.auc)
                fail_msg("seed %llu, %s: another end", (unsigned long long)seed, file[f]);
        }
    }
    job_fixture_destroy(job);
}

/* Trainers have read the newest before the server finds out that it cannot: they follow, and nothing is lost. */
static void test_hybrid(void **state)
{
    struct rt_job *job = job_fixture(hybrid, ARRAY_LEN(hybrid));
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + 8; seed++) {
        struct job j;
        start(&j, job, seed, 1 + (unsigned)seed % 2);
        sim_run_until(j.w.sim, has_gone_on, &j.w, 60 * RT_S);
        jw_restart_ranks(&j.w, 0, j.w.conf.ranks);
        uint64_t step = j.w.rank[0].trainer->back.base_step;
        damage_newest(&j, "rows.00000");
        jw_restart_server(&j.w);
        (void)finish(&j);
        struct tr_report r = jw_report(&j.w);
        assert_int_equal(r.updates_lost, 0);
        assert_true(j.w.rank[0].trainer->back.base_step < step);
        stop(&j);
    }
    job_fixture_destroy(job);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_kills),  cmocka_unit_test(test_no_checkpoint),
        cmocka_unit_test(test_told),   cmocka_unit_test(test_damage),
        cmocka_unit_test(test_hybrid),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
