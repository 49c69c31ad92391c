/* tests/sim/test_checkpoint.c -- checkpoints of a whole job in one thread, led by trainer/0: what a manifest says is what the
 * owners had applied at its instant, whatever dies or breaks in whatever state; and a job whose trainers all go on from one trains
 * every row of every epoch once. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/temp.h"
#include "tests/sim/owner_stub.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/store.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/member.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { EPOCHS = 3, STUBS = 2 };

static const char *const hybrid[] = {"data.epochs=3", "global.checkpoint.every_steps=5",
                                     "global.checkpoint.full_every=3", "global.checkpoint.keep=2"};
static const char *const full[] = {"data.epochs=3", "global.checkpoint.every_steps=5",
                                   "global.checkpoint.full_every=3", "global.checkpoint.keep=2",
                                   "global.mode=full"};

static unsigned runs(unsigned wanted)
{
    const char *text = getenv("TEST_CHECKPOINT_RUNS");
    return text ? (unsigned)strtoul(text, NULL, 10) : wanted;
}

static uint64_t first_seed(void)
{
    const char *text = getenv("SAFFRON_TEST_SEED");
    return text ? strtoull(text, NULL, 10) : 1;
}

/* ---- what has to hold ---- */

static uint64_t ones(const uint8_t *bits, uint32_t bytes)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < bytes; i++)
        n += (unsigned)__builtin_popcount(bits[i]);
    return n;
}

/* It says of one instant: nothing is half done, and it counts what its ledger has. */
static void check_manifest(const struct stubs *stubs, const struct rt_manifest *manifest)
{
    uint64_t finished = 0;
    for (uint32_t i = 0; i < manifest->n_ledger; i++) {
        const struct wire_split_ledger *split = &manifest->ledger[i];
        uint64_t stepped = split->stepped_low + ones(split->stepped, split->stepped_bytes);
        assert_int_equal(stepped,
                         split->finished_low + ones(split->finished, split->finished_bytes));
        finished += stepped;
    }
    if (manifest->batches_trained + manifest->batches_dropped != finished)
        fail_msg("seed %llu: %s: %llu batches trained, %llu in its ledger",
                 (unsigned long long)stubs->world->conf.seed, manifest->name,
                 (unsigned long long)manifest->batches_trained, (unsigned long long)finished);
    assert_true(manifest->samples_trained <= 16 * manifest->batches_trained);
    assert_int_equal(manifest->owners, stubs->n);
    assert_true(manifest->age >= manifest->step);
    if (rt_store_verify(stubs->dir, manifest, stubs->world->job, NULL, NULL) != 0)
        fail_msg("seed %llu: %s", (unsigned long long)stubs->world->conf.seed, rt_err_text());
}

/* @return how many there are */
static size_t check_store(const struct stubs *stubs)
{
    struct rt_store_list list;
    if (rt_store_list(stubs->dir, &list) != 0)
        fail_msg("%s", rt_err_text());
    for (size_t i = 0; i < list.n; i++) {
        if (!list.at[i].manifest)
            fail_msg("%s: %s", list.at[i].name, list.at[i].why);
        check_manifest(stubs, list.at[i].manifest);
    }
    size_t n = list.n;
    rt_store_list_release(&list);
    return n;
}

static void check_rows(const struct job_world *w)
{
    struct tr_report r = jw_report(w);
    if (r.samples_trained != JW_TRAIN_ROWS * EPOCHS || r.samples_read != JW_TRAIN_ROWS * EPOCHS)
        fail_msg("seed %llu: %llu rows trained, %llu read, expected %d of each",
                 (unsigned long long)w->conf.seed, (unsigned long long)r.samples_trained,
                 (unsigned long long)r.samples_read, JW_TRAIN_ROWS * EPOCHS);
    assert_int_equal(r.permits_used, 0);
}

static struct tr_checkpoint *leader(const struct job_world *w)
{
    return &w->rank[0].trainer->checkpoint;
}

/* ---- training goes on ---- */

static void run_one(uint64_t seed, struct rt_job *job, unsigned breaks)
{
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = seed,
                           .ranks = 1 + (unsigned)(seed / 2) % 3,
                           .composers = 1 + (unsigned)(seed / 6) % 2,
                           .job = job};
    stubs_start(&stubs, &w, &conf, STUBS);
    jw_break_links(&w, breaks, seed % 2);
    jw_run(&w);
    check_rows(&w);
    if (breaks == 0 && leader(&w)->voided > 0)
        fail_msg("seed %llu: void: %s", (unsigned long long)seed, leader(&w)->before[0].error);
    if (breaks == 0) {
        assert_true(leader(&w)->published >= 1 && stubs.refused == 0);
        assert_true(stubs.increments > 0 || leader(&w)->published < 2);
    }
    assert_true(stubs.cuts >= STUBS * leader(&w)->published);
    check_store(&stubs);
    stubs_stop(&stubs);
    jw_stop(&w);
}

static void test_cuts(void **state)
{
    struct rt_job *job[2] = {job_fixture(hybrid, ARRAY_LEN(hybrid)),
                             job_fixture(full, ARRAY_LEN(full))};
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(60); seed++)
        run_one(seed, job[seed % 2], seed % 4 < 2 ? 0 : 20);
    job_fixture_destroy(job[0]);
    job_fixture_destroy(job[1]);
}

/* A pause of the group is none of its steps: the end has the same bits. */
static void test_exact(void **state)
{
    static const char *const set[] = {"data.epochs=3", "global.mode=full", "global.exact=true",
                                      "global.checkpoint.every_steps=4"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    uint64_t want = 0;
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(20); seed++) {
        struct job_world w;
        char dir[TEMP_PATH_MAX];
        struct jw_conf conf = {.seed = seed, .ranks = 2, .job = job};
        bool some = seed > first_seed();
        temp_folder(dir);
        conf.checkpoint_dir = some ? dir : NULL;
        jw_start(&w, &conf);
        jw_break_links(&w, seed % 2 ? 0 : 10, true);
        jw_run(&w);
        check_rows(&w);
        uint64_t digest = tr_trainer_digest(w.rank[0].trainer);
        if (!some)
            want = digest;
        if (digest != want)
            fail_msg("seed %llu: other weights than without checkpoints", (unsigned long long)seed);
        assert_true(!some || leader(&w)->published > 0);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

/* ---- something dies ---- */

struct moment {
    const struct job_world *world;
    enum tr_checkpoint_state state;
};

static bool is_there(void *arg)
{
    const struct moment *moment = arg;
    return jw_is_over((void *)(uintptr_t)moment->world) ||
           leader(moment->world)->state == moment->state;
}

static const enum tr_checkpoint_state states[] = {TR_CHECKPOINT_OPENING,    TR_CHECKPOINT_HOLDING,
                                                  TR_CHECKPOINT_CUTTING,    TR_CHECKPOINT_WRITING,
                                                  TR_CHECKPOINT_PUBLISHING, TR_CHECKPOINT_ENDING};

enum trouble { RANK_0, RANK_1, OWNERS, LINK, MUTE, DISK, TROUBLES };

static void make_trouble(struct stubs *stubs, enum trouble trouble)
{
    struct job_world *w = stubs->world;
    if (trouble == RANK_0)
        jw_restart_rank(w, 0);
    else if (trouble == RANK_1)
        jw_restart_rank(w, 1);
    else if (trouble == OWNERS)
        stubs_restart(stubs);
    else if (trouble == LINK)
        sim_break(w->sim, jw_node_rank(w, 0), jw_node_spare(w));
    else if (trouble == MUTE)
        stubs->mute = true;
    else
        stubs->fails = true;
    sim_run_until(w->sim, jw_is_over, w, (trouble == MUTE ? 100 : 20) * RT_MS);
    stubs->mute = stubs->fails = false;
}

/* Rank 0 has lost what the others know of it: also when it has ended, and they have not heard yet. */
static bool evaluates(const struct job_world *w)
{
    return w->rank[0].trainer->kind == WIRE_PHASE_EVALUATE ||
           w->rank[1].trainer->kind == WIRE_PHASE_EVALUATE;
}

/* In each state; afterwards there are others, and training has not noticed. */
static void trouble_in(uint64_t seed, struct rt_job *job, enum tr_checkpoint_state state,
                       enum trouble trouble)
{
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = seed, .ranks = 2, .job = job, .restore = true};
    stubs_start(&stubs, &w, &conf, STUBS);
    for (unsigned i = 0; i < 2; i++) {
        struct moment moment = {&w, state};
        sim_run_until(w.sim, is_there, &moment, 60 * RT_S);
        bool fatal = trouble <= RANK_1 && evaluates(&w);
        if (!jw_is_over(&w) && !fatal)
            make_trouble(&stubs, trouble);
    }
    jw_run(&w);
    if (trouble >= OWNERS)
        check_rows(&w);
    check_store(&stubs);
    if (trouble == MUTE && state == TR_CHECKPOINT_HOLDING)
        assert_true(leader(&w)->voided >= 1);
    stubs_stop(&stubs);
    jw_stop(&w);
}

static void test_troubles(void **state)
{
    struct rt_job *job = job_fixture(hybrid, ARRAY_LEN(hybrid));
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(3); seed++)
        for (size_t s = 0; s < ARRAY_LEN(states); s++)
            for (int t = 0; t < TROUBLES; t++)
                trouble_in(seed, job, states[s], (enum trouble)t);
    job_fixture_destroy(job);
}

/* No owner answers: the group stands still for cut_timeout_ms, no longer, and the next one is full. */
static void test_timeout(void **state)
{
    struct rt_job *job = job_fixture(hybrid, ARRAY_LEN(hybrid));
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 3, .job = job};
    (void)state;
    stubs_start(&stubs, &w, &conf, STUBS);
    stubs.mute = true;
    struct moment moment = {&w, TR_CHECKPOINT_ENDING};
    assert_true(sim_run_until(w.sim, is_there, &moment, 60 * RT_S));
    const struct tr_checkpoint *checkpoint = leader(&w);
    assert_int_equal(checkpoint->now.state, TR_CHECKPOINT_FAILED);
    assert_non_null(strstr(checkpoint->now.error, "checkpoint.cut_timeout_ms"));
    assert_true(checkpoint->now.held_seconds >= 1 && checkpoint->now.held_seconds < 1.1);
    stubs.mute = false;
    jw_run(&w);
    check_rows(&w);
    assert_true(leader(&w)->voided >= 1 && leader(&w)->published >= 1);
    check_store(&stubs);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

static bool has_ended(void *arg)
{
    return leader(arg)->n_before > 0;
}

/* Owners that write for longer than trainer/0 waits for a disk that stands still: theirs do not, or they would say so. */
static void test_slow_disks(void **state)
{
    struct rt_job *job = job_fixture(hybrid, ARRAY_LEN(hybrid));
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 3, .job = job};
    (void)state;
    stubs_start(&stubs, &w, &conf, STUBS);
    stubs.slow_ns = TR_CHECKPOINT_STILL_NS + 100 * RT_S;
    assert_true(sim_run_until(w.sim, has_ended, &w, 2 * stubs.slow_ns));
    assert_int_equal(leader(&w)->before[0].state, TR_CHECKPOINT_DONE);
    assert_true(leader(&w)->before[0].seconds > 1e-9 * (double)TR_CHECKPOINT_STILL_NS);
    stubs.slow_ns = 0;
    jw_run(&w);
    check_rows(&w);
    check_store(&stubs);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

/* ---- the trainers go on from one ---- */

static bool has_published(void *arg)
{
    const struct job_world *w = arg;
    return jw_is_over((void *)(uintptr_t)w) || leader(w)->published >= 2;
}

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
    stubs_start(&stubs, &w, &conf, STUBS);
    sim_run_until(w.sim, has_published, &w, 60 * RT_S);
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
    check_rows(&w);
    check_store(&stubs);
    check_one_run(&stubs);
    stubs_stop(&stubs);
    jw_stop(&w);
}

static void test_all_trainers(void **state)
{
    struct rt_job *job = job_fixture(hybrid, ARRAY_LEN(hybrid));
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(60); seed++)
        go_on(seed, job, seed % 3 == 0);
    job_fixture_destroy(job);
}

/* A newer one was published between their starts: the most advanced rank's counts. */
static void test_different_starts(void **state)
{
    struct rt_job *job = job_fixture(hybrid, ARRAY_LEN(hybrid));
    char empty[TEMP_PATH_MAX];
    (void)state;
    temp_folder(empty);
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct job_world w;
        struct stubs stubs;
        struct jw_conf conf = {.seed = seed, .ranks = 3, .job = job, .restore = true};
        stubs_start(&stubs, &w, &conf, STUBS);
        sim_run_until(w.sim, has_published, &w, 60 * RT_S);
        stubs.rolled_back = true;
        jw_restart_ranks(&w, 0, 3);
        w.conf.checkpoint_dir = empty;
        jw_restart_ranks(&w, seed % 2 ? 1 : 2, 1); /* before the group has formed */
        w.conf.checkpoint_dir = stubs.dir;
        jw_run(&w);
        for (unsigned r = 0; r < 3; r++)
            assert_int_equal(w.rank[r].trainer->step, w.rank[0].trainer->step);
        check_rows(&w);
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
        for (uint64_t seed = first_seed(); seed < first_seed() + runs(30); seed++) {
            struct job_world w;
            char dir[TEMP_PATH_MAX];
            struct jw_conf conf = {.seed = seed, .ranks = ranks, .job = job, .restore = true};
            uint64_t key = rt_draw_key(seed, "everybody", NULL);
            temp_folder(dir);
            conf.checkpoint_dir = dir;
            jw_start(&w, &conf);
            for (unsigned i = 0; i < 3 && seed > first_seed(); i++) {
                sim_run_until(w.sim, jw_is_over, &w, rt_below(rt_draw(key, i), 300 * RT_MS));
                if (!jw_is_over(&w))
                    jw_restart_job(&w);
            }
            jw_run(&w);
            check_rows(&w);
            uint64_t digest = tr_trainer_digest(w.rank[0].trainer);
            if (seed == first_seed())
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
    struct rt_job *job = job_fixture(hybrid, ARRAY_LEN(hybrid));
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(30); seed++) {
        struct job_world w;
        char dir[TEMP_PATH_MAX];
        struct jw_conf conf = {
            .seed = seed, .ranks = 1 + (unsigned)seed % 3, .job = job, .restore = true};
        uint64_t key = rt_draw_key(seed, "server", NULL);
        temp_folder(dir);
        conf.checkpoint_dir = dir;
        jw_start(&w, &conf);
        sim_run_until(w.sim, has_published, &w, 60 * RT_S);
        sim_run_until(w.sim, jw_is_over, &w, rt_below(rt_draw(key, 0), 60 * RT_MS));
        if (!jw_is_over(&w))
            jw_restart_server(&w);
        jw_run(&w);
        check_rows(&w);
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
    struct rt_job *job = job_fixture(hybrid, ARRAY_LEN(hybrid));
    struct job_world w;
    struct stubs stubs;
    struct rt_store_list list;
    struct tr_trainer *trainer = NULL;
    struct jw_conf conf = {.seed = 2, .job = job};
    (void)state;
    stubs_start(&stubs, &w, &conf, STUBS);
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
    return jw_is_over(arg) || (leader(w)->published > 0 && leader(w)->state == TR_CHECKPOINT_IDLE);
}

/* What the next one would go on from is taken away, and what was given up could not be removed at its time. */
static void test_taken_away(void **state)
{
    struct rt_job *job = job_fixture(hybrid, ARRAY_LEN(hybrid));
    struct job_world w;
    struct stubs stubs;
    struct rt_store_list list;
    struct jw_conf conf = {.seed = 3, .ranks = 2, .job = job};
    size_t chain[RT_STORE_CHAIN_MAX], n;
    (void)state;
    stubs_start(&stubs, &w, &conf, STUBS);
    assert_true(sim_run_until(w.sim, has_first, &w, 60 * RT_S) && !jw_is_over(&w));
    assert_int_equal(rt_store_remove(stubs.dir, leader(&w)->last_name), 0);
    assert_int_equal(rt_store_begin(stubs.dir, "left"), 0);
    leader(&w)->job.left = true;
    jw_run(&w);
    check_rows(&w);
    assert_int_equal(leader(&w)->voided, 0);
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

/* ---- the operator ---- */

static void test_asked(void **state)
{
    static const char *const set[] = {"data.epochs=3", "global.checkpoint.every_seconds=0"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 4, .ranks = 2, .job = job};
    struct wire_control_request request = {
        .command = WIRE_CTL_CHECKPOINT, .text = "before-the-change", .number = 7};
    (void)state;
    stubs_start(&stubs, &w, &conf, STUBS);
    struct tr_trainer *trainer = w.rank[0].trainer;
    assert_int_equal(tr_trainer_checkpoint(w.rank[1].trainer, &request), RT_EUSAGE);
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), 0);
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), 0); /* asked again: the same one */
    request.number = 8;
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), RT_EFULL);
    request.text = "../up";
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), RT_EUSAGE);
    struct moment moment = {&w, TR_CHECKPOINT_ENDING};
    assert_true(sim_run_until(w.sim, is_there, &moment, 60 * RT_S));
    jw_run(&w);
    check_rows(&w);
    assert_int_equal(leader(&w)->published, 1);
    assert_int_equal(leader(&w)->n_before, 1);
    assert_int_equal(leader(&w)->before[0].state, TR_CHECKPOINT_DONE);
    assert_int_equal(leader(&w)->before[0].number, 7);
    assert_string_equal(leader(&w)->before[0].name, "before-the-change");
    assert_int_equal(check_store(&stubs), 1);
    request.text = "late";
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), RT_EUSAGE); /* the job is done */
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

/* An owner is away, and stays so: it says what it waits for, and gives up in time; and no last one is waited for. */
static void test_waits(void **state)
{
    static const char *const set[] = {"data.epochs=3", "global.checkpoint.every_seconds=0"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 8, .job = job};
    struct wire_control_request request = {
        .command = WIRE_CTL_CHECKPOINT, .text = "release", .number = 9};
    (void)state;
    stubs_start(&stubs, &w, &conf, STUBS);
    struct tr_trainer *trainer = w.rank[0].trainer;
    sim_run_until(w.sim, jw_is_over, &w, 40 * RT_MS);
    assert_true(trainer->step > 0 && trainer->kind == WIRE_PHASE_TRAIN);
    sim_cut(w.sim, jw_node_rank(&w, 0), jw_node_spare(&w), true);
    sim_cut(w.sim, jw_node_rank(&w, 0), jw_node_composer(&w, 0), true);
    sim_run_until(w.sim, NULL, NULL, 10 * RT_S);
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), 0);
    sim_run_until(w.sim, NULL, NULL, 50 * RT_S);
    assert_int_equal(leader(&w)->state, TR_CHECKPOINT_IDLE);
    assert_int_equal(leader(&w)->asked, 9);
    assert_non_null(strstr(leader(&w)->waits, "a connection to embedding_server/0"));
    assert_false(tr_trainer_drain(trainer));
    sim_run_until(w.sim, NULL, NULL, 11 * RT_S);
    assert_int_equal(leader(&w)->asked, 0);
    assert_int_equal(leader(&w)->before[0].state, TR_CHECKPOINT_FAILED);
    assert_int_equal(leader(&w)->before[0].number, 9);
    assert_non_null(strstr(leader(&w)->before[0].error,
                           "it could not begin within 60 s: it waits for a connection"));
    sim_cut(w.sim, jw_node_rank(&w, 0), jw_node_spare(&w), false);
    sim_cut(w.sim, jw_node_rank(&w, 0), jw_node_composer(&w, 0), false);
    jw_run(&w);
    check_rows(&w);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

static bool is_evaluating(void *arg)
{
    const struct job_world *w = arg;
    return jw_is_over((void *)(uintptr_t)w) || w->rank[0].trainer->kind == WIRE_PHASE_EVALUATE;
}

static bool has_one(void *arg)
{
    return leader(arg)->published > 0 && leader(arg)->state == TR_CHECKPOINT_IDLE;
}

/* Of an evaluation that cannot go on, at the end of an epoch or within one: all go on from there. */
static void test_in_evaluation(void **state)
{
    static const char *const set[2][3] = {
        {"data.epochs=3", "global.checkpoint.every_seconds=0", "global.evaluate_every=0"},
        {"data.epochs=3", "global.checkpoint.every_seconds=0", "global.evaluate_every=3"}};
    struct rt_job *job[2] = {job_fixture(set[0], 3), job_fixture(set[1], 3)};
    (void)state;
    for (uint64_t seed = 1; seed <= 24; seed++) {
        struct job_world w;
        struct stubs stubs;
        struct jw_conf conf = {
            .seed = seed, .ranks = 1 + seed % 3, .job = job[seed / 3 % 2], .restore = true};
        struct wire_control_request request = {
            .command = WIRE_CTL_CHECKPOINT, .text = "meanwhile", .number = 3};
        stubs_start(&stubs, &w, &conf, STUBS);
        sim_run_until(w.sim, is_evaluating, &w, 60 * RT_S);
        struct tr_trainer *trainer = w.rank[0].trainer;
        assert_int_equal(trainer->kind, WIRE_PHASE_EVALUATE);
        for (unsigned r = 0; r < conf.ranks; r++)
            sim_cut(w.sim, jw_node_rank(&w, r), jw_node_composer(&w, 0), true);
        assert_int_equal(tr_trainer_checkpoint(trainer, &request), 0);
        if (!sim_run_until(w.sim, has_one, &w, 3 * RT_S))
            fail_msg("seed %llu: none in an evaluation: state %d, waits for '%s'",
                     (unsigned long long)seed, (int)leader(&w)->state, leader(&w)->waits);
        assert_int_equal(trainer->kind, WIRE_PHASE_EVALUATE);
        uint64_t step = trainer->step, epoch = trainer->epoch;
        assert_int_equal(check_store(&stubs), 1);
        for (unsigned r = 0; r < conf.ranks; r++)
            sim_cut(w.sim, jw_node_rank(&w, r), jw_node_composer(&w, 0), false);
        jw_restart_ranks(&w, 0, conf.ranks);
        trainer = w.rank[0].trainer;
        assert_true(trainer->step == step && trainer->epoch == epoch);
        jw_run(&w);
        check_rows(&w);
        stubs_stop(&stubs);
        jw_stop(&w);
    }
    job_fixture_destroy(job[0]);
    job_fixture_destroy(job[1]);
}

/* ---- owners that come back ---- */

static void test_losses(void **state)
{
    struct rt_job *job = job_fixture(hybrid, ARRAY_LEN(hybrid));
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 5, .ranks = 2, .job = job};
    (void)state;
    stubs_start(&stubs, &w, &conf, STUBS);
    sim_run_until(w.sim, has_published, &w, 60 * RT_S);
    assert_int_equal(stubs.told, STUBS); /* when they were met */
    stubs.lose = 3;
    stubs_restart(&stubs);
    jw_run(&w);
    assert_int_equal(stubs.told, 2 * STUBS);
    assert_int_equal(jw_report(&w).updates_lost, 3);
    check_rows(&w);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

/* ---- the end of a process ---- */

static void on_drained(void *ctx)
{
    *(bool *)ctx = true;
}

/* Its instant is the last step: the job goes on from there. */
static void test_drain(void **state)
{
    static const char *const set[] = {"data.epochs=3", "global.checkpoint.every_seconds=0"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct job_world w;
        struct stubs stubs;
        struct jw_conf conf = {.seed = seed, .ranks = 1 + seed % 3, .job = job, .restore = true};
        uint64_t key = rt_draw_key(seed, "drain", NULL);
        stubs_start(&stubs, &w, &conf, STUBS);
        struct tr_trainer *trainer = w.rank[0].trainer;
        bool drained = false;
        sim_run_until(w.sim, jw_is_over, &w, 30 * RT_MS + rt_below(rt_draw(key, 0), 60 * RT_MS));
        trainer->conf.drained = on_drained;
        void *ctx = trainer->conf.ctx;
        bool goes_on = trainer->kind != WIRE_PHASE_DONE && trainer->step > 0;
        trainer->conf.ctx = goes_on ? &drained : ctx;
        assert_int_equal(tr_trainer_drain(trainer), goes_on);
        if (goes_on) {
            sim_run_until(w.sim, NULL, NULL, 500 * RT_MS);
            assert_true(drained);
            trainer->conf.ctx = ctx;
            uint64_t step = trainer->step;
            assert_int_equal(check_store(&stubs), 1);
            jw_restart_ranks(&w, 0, conf.ranks);
            assert_int_equal(w.rank[0].trainer->step, step);
        }
        jw_run(&w);
        check_rows(&w);
        stubs_stop(&stubs);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

static void test_async(void **state)
{
    static const char *const set[] = {"global.mode=async"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 6, .ranks = 2, .job = job};
    struct wire_control_request request = {
        .command = WIRE_CTL_CHECKPOINT, .text = "one", .number = 7};
    (void)state;
    stubs_start(&stubs, &w, &conf, STUBS);
    assert_int_equal(tr_trainer_checkpoint(w.rank[0].trainer, &request), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "async"));
    jw_run(&w);
    assert_int_equal(check_store(&stubs), 0);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_troubles),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_slow_disks),
        cmocka_unit_test(test_all_trainers),
        cmocka_unit_test(test_different_starts),
        cmocka_unit_test(test_whole_job),
        cmocka_unit_test(test_server),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_asked),
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_async),
        cmocka_unit_test(test_waits),
        cmocka_unit_test(test_in_evaluation),
        cmocka_unit_test(test_taken_away),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
