/* tests/sim/test_checkpoint_restore.c -- a job whose trainers, servers or all go on from a checkpoint trains every row of every epoch once;
 * and from what is damaged or gone nobody does. How they are made: test_checkpoint.c. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"
#include "tests/lib/temp.h"
#include "tests/sim/checkpoint_jobs.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ---- the trainers go on from one ---- */

/* Whoever goes on from one is of its run. */
static void check_one_run(const struct stubs *stubs)
{
    struct rt_store_list list;
    assert_int_equal(rt_store_list(stubs->dir, &list), 0);
    for (size_t i = 0; i < list.n; i++)
        assert_true(list.at[i].manifest->run != 0 &&
                    list.at[i].manifest->run == list.at[0].manifest->run);
    rt_store_list_release(&list);
}

/* Owners live on, are ahead of the ledger, and answer that they have a batch; others live on, or do not. */
static void go_on(uint64_t seed, struct rt_job *job, bool others_too)
{
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = seed,
                           .ranks = 1 + (unsigned)(seed / 2) % 3,
                           .composers = 1 + (unsigned)(seed / 6) % 2,
                           .job = job,
                           .restore = true};
    uint64_t key = rt_draw_key(seed, "restart", NULL);
    stubs_start(&stubs, &w, &conf, CJ_STUBS);
    sim_run_until(w.sim, cj_has_published, &w, 60 * RT_S);
    sim_run_until(w.sim, jw_is_over, &w, rt_below(rt_draw(key, 0), 100 * RT_MS));
    if (!jw_is_over(&w)) {
        stubs.rolled_back = true;
        for (unsigned c = 0; others_too && c < conf.composers; c++)
            jw_restart_composer(&w, c);
        if (others_too)
            jw_restart_middleware(&w, 0);
        jw_restart_ranks(&w, 0, conf.ranks);
        assert_true(w.rank[0].trainer->step > 0 && w.rank[0].trainer->generation == 1);
    }
    jw_run(&w);
    cj_check_rows(&w);
    cj_check_store(&stubs);
    check_one_run(&stubs);
    stubs_stop(&stubs);
    jw_stop(&w);
}

static void test_all_trainers(void **state)
{
    struct rt_job *job = cj_job(false);
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + cj_runs(60); seed++)
        go_on(seed, job, seed % 3 == 0);
    job_fixture_destroy(job);
}

/* A newer one was published between their starts: the most advanced rank's counts. */
static void test_different_starts(void **state)
{
    struct rt_job *job = cj_job(false);
    char empty[TEMP_PATH_MAX];
    (void)state;
    temp_folder(empty);
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct job_world w;
        struct stubs stubs;
        struct jw_conf conf = {.seed = seed, .ranks = 3, .job = job, .restore = true};
        stubs_start(&stubs, &w, &conf, CJ_STUBS);
        sim_run_until(w.sim, cj_has_published, &w, 60 * RT_S);
        stubs.rolled_back = true;
        jw_restart_ranks(&w, 0, 3);
        w.conf.checkpoint_dir = empty;
        jw_restart_ranks(&w, seed % 2 ? 1 : 2, 1); /* before the group has formed */
        w.conf.checkpoint_dir = stubs.dir;
        jw_run(&w);
        for (unsigned r = 0; r < 3; r++)
            assert_int_equal(w.rank[r].trainer->step, w.rank[0].trainer->step);
        cj_check_rows(&w);
        stubs_stop(&stubs);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

/* ---- the whole job, with its own owners ---- */

/* In `exact` the end has the bits of a run that nothing happened to, wherever everybody dies. */
static void test_whole_job(void **state)
{
    static const char *const set[] = {"data.epochs=3", "global.mode=full", "global.exact=true",
                                      "global.checkpoint.every_steps=4",
                                      "global.checkpoint.full_every=3"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    (void)state;
    for (unsigned ranks = 1; ranks <= 2; ranks++) {
        uint64_t want = 0;
        for (uint64_t seed = seeds_first(); seed < seeds_first() + cj_runs(30); seed++) {
            struct job_world w;
            char dir[TEMP_PATH_MAX];
            struct jw_conf conf = {.seed = seed, .ranks = ranks, .job = job, .restore = true};
            uint64_t key = rt_draw_key(seed, "everybody", NULL);
            temp_folder(dir);
            conf.checkpoint_dir = dir;
            jw_start(&w, &conf);
            for (unsigned i = 0; i < 3 && seed > seeds_first(); i++) {
                sim_run_until(w.sim, jw_is_over, &w, rt_below(rt_draw(key, i), 300 * RT_MS));
                if (!jw_is_over(&w))
                    jw_restart_job(&w);
            }
            jw_run(&w);
            cj_check_rows(&w);
            uint64_t digest = tr_trainer_digest(w.rank[0].trainer);
            if (seed == seeds_first())
                want = digest;
            if (digest != want)
                fail_msg("seed %llu, %u ranks: other weights than those of an unbroken run",
                         (unsigned long long)seed, ranks);
            jw_stop(&w);
        }
    }
    job_fixture_destroy(job);
}

/* An embedding server that comes back says what it lacks; nothing is trained twice, and all goes on. */
static void test_server(void **state)
{
    struct rt_job *job = cj_job(false);
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + cj_runs(30); seed++) {
        struct job_world w;
        char dir[TEMP_PATH_MAX];
        struct jw_conf conf = {
            .seed = seed, .ranks = 1 + (unsigned)seed % 3, .job = job, .restore = true};
        uint64_t key = rt_draw_key(seed, "server", NULL);
        temp_folder(dir);
        conf.checkpoint_dir = dir;
        jw_start(&w, &conf);
        sim_run_until(w.sim, cj_has_published, &w, 60 * RT_S);
        sim_run_until(w.sim, jw_is_over, &w, rt_below(rt_draw(key, 0), 60 * RT_MS));
        if (!jw_is_over(&w))
            jw_restart_server(&w);
        jw_run(&w);
        cj_check_rows(&w);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

/* ---- what cannot be gone on from ---- */

static void damage(const char *dir, const char *name, const char *file)
{
    char *text, path[512];
    size_t size;
    snprintf(path, sizeof path, "%s/%s/%s", dir, name, file);
    if (rt_file_read(path, 1 << 24, &text, &size) != 0)
        fail_msg("%s", rt_err_text());
    text[size - 3] ^= 1;
    assert_int_equal(rt_file_write(path, text, size), 0);
    rt_free(text);
}

static int try_create(struct job_world *w, const char *dir, struct tr_trainer **trainer)
{
    struct tr_trainer_conf conf = w->rank[0].trainer->conf;
    conf.io = sim_node(w->sim, jw_node_spare(w));
    char listen[RT_ADDRESS_MAX];
    snprintf(listen, sizeof listen, "sim:%u:99", jw_node_spare(w));
    conf.listen = listen;
    conf.checkpoint_dir = dir;
    conf.restore = true;
    return tr_trainer_create(&conf, trainer);
}

static void test_damage(void **state)
{
    struct rt_job *job = cj_job(false);
    struct job_world w;
    struct stubs stubs;
    struct rt_store_list list;
    struct tr_trainer *trainer = NULL;
    struct jw_conf conf = {.seed = 2, .job = job};
    (void)state;
    stubs_start(&stubs, &w, &conf, CJ_STUBS);
    jw_run(&w);
    assert_int_equal(rt_store_list(stubs.dir, &list), 0);
    assert_true(list.n >= 2);
    damage(stubs.dir, list.at[0].name, "dense.safetensors");
    if (try_create(&w, stubs.dir, &trainer) != 0)
        fail_msg("%s", rt_err_text());
    assert_int_equal(trainer->step, list.at[1].manifest->step);
    assert_int_equal(trainer->checkpoint.known_attempt, list.at[1].manifest->attempt);
    tr_trainer_destroy(trainer);
    char aside[512];
    snprintf(aside, sizeof aside, "%s/%s.damaged/manifest.json", stubs.dir, list.at[0].name);
    assert_true(rt_file_exists(aside)); /* nobody else goes on from it */
    for (size_t i = 1; i < list.n; i++)
        damage(stubs.dir, list.at[i].name, i % 2 ? "dense_state.safetensors" : "manifest.json");
    assert_int_equal(try_create(&w, stubs.dir, &trainer), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "; a job begins anew in another folder"));
    assert_non_null(strstr(rt_err_text(), "dense_state.safetensors"));
    rt_store_list_release(&list);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

static bool has_first(void *arg)
{
    const struct job_world *w = arg;
    return jw_is_over(arg) ||
           (cj_leader(w)->published > 0 && cj_leader(w)->state == TR_CHECKPOINT_IDLE);
}

/* What the next one would go on from is taken away, and what was given up could not be removed at its time. */
static void test_taken_away(void **state)
{
    struct rt_job *job = cj_job(false);
    struct job_world w;
    struct stubs stubs;
    struct rt_store_list list;
    struct jw_conf conf = {.seed = 3, .ranks = 2, .job = job};
    size_t chain[RT_STORE_CHAIN_MAX], n;
    (void)state;
    stubs_start(&stubs, &w, &conf, CJ_STUBS);
    assert_true(sim_run_until(w.sim, has_first, &w, 60 * RT_S) && !jw_is_over(&w));
    assert_int_equal(rt_store_remove(stubs.dir, cj_leader(&w)->last_name), 0);
    assert_int_equal(rt_store_begin(stubs.dir, "left"), 0);
    cj_leader(&w)->job.left = true;
    jw_run(&w);
    cj_check_rows(&w);
    assert_int_equal(cj_leader(&w)->voided, 0);
    char *left = rt_path_join(stubs.dir, "left");
    assert_false(rt_file_exists(left));
    rt_free(left);
    assert_int_equal(rt_store_list(stubs.dir, &list), 0);
    assert_true(list.n > 0);
    for (size_t i = 0; i < list.n; i++)
        if (rt_store_chain(&list, i, chain, &n) != 0)
            fail_msg("%s", rt_err_text());
    rt_store_list_release(&list);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

/* ---- owners that come back ---- */

static void test_losses(void **state)
{
    struct rt_job *job = cj_job(false);
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 5, .ranks = 2, .job = job};
    (void)state;
    stubs_start(&stubs, &w, &conf, CJ_STUBS);
    sim_run_until(w.sim, cj_has_published, &w, 60 * RT_S);
    assert_int_equal(stubs.told, CJ_STUBS); /* when they were met */
    stubs.lose = 3;
    stubs_restart(&stubs);
    jw_run(&w);
    assert_int_equal(stubs.told, 2 * CJ_STUBS);
    assert_int_equal(jw_report(&w).updates_lost, 3);
    cj_check_rows(&w);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_all_trainers), cmocka_unit_test(test_different_starts),
        cmocka_unit_test(test_whole_job),    cmocka_unit_test(test_server),
        cmocka_unit_test(test_losses),       cmocka_unit_test(test_damage),
        cmocka_unit_test(test_taken_away),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
