/* tests/sim/sim_seed.c -- see sim_seed.h. */
#include "tests/sim/sim_seed.h"
#include "tests/lib/job_fixture.h"
#include "tests/lib/temp.h"
#include "tests/sim/job_rows.h"

#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/store.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#define START_NS RT_S        /* where simulated time begins */
#define LAST_NS  (60 * RT_S) /* from the last trouble to the end */

__attribute__((format(printf, 2, 3))) static void blame(struct sim_seed *run, const char *fmt, ...)
{
    va_list args;
    if (run->why[0])
        return;
    va_start(args, fmt);
    vsnprintf(run->why, sizeof run->why, fmt, args);
    va_end(args);
}

/* ---- what has to hold ---- */

static void check_counts(struct sim_seed *run, struct job_world *w, const struct sim_trouble *t)
{
    struct oracle_result r;
    jw_count_rows(w, false, t->losses.count, &r);
    if (r.rows != SIM_ROWS || r.lost || r.doubled || r.odd)
        blame(run,
              "of %" PRIu64 " applications %" PRIu64 " lost that nobody told of, %" PRIu64
              " doubled, %" PRIu64 " odd; %s",
              r.expected, r.lost, r.doubled, r.odd, r.first);
    /* What was stepped and lost is trained again, with luck, once the trainers have gone back. */
    if (r.there && !t->lost_trainers)
        blame(run, "%" PRIu64 " applications were told to be lost, and are there", r.there);
}

static void check_ranks(struct sim_seed *run, struct job_world *w, const struct sim_trouble *t)
{
    struct tr_report r = jw_report(w);
    uint64_t digest = tr_trainer_digest(w->rank[0].trainer);
    if (r.permits_used || r.samples_dropped)
        blame(run, "%u permits are out, %" PRIu64 " rows were dropped", r.permits_used,
              r.samples_dropped);
    for (unsigned i = 1; i < w->conf.ranks; i++)
        if (tr_trainer_digest(w->rank[i].trainer) != digest)
            blame(run, "trainer/%u has other weights than trainer/0", i);
    if (!t->plan->exact && r.updates_lost > t->losses.batches)
        blame(run, "the summary tells of %" PRIu64 " updates lost, owners told of %" PRIu64,
              r.updates_lost, t->losses.batches);
}

static void check_store(struct sim_seed *run, const struct job_world *w)
{
    struct rt_store_list list;
    char *name;
    int err = rt_store_list(w->conf.checkpoint_dir, &list);
    if (err) {
        blame(run, "%s", rt_err_text());
        return;
    }
    for (size_t i = 0; i < list.n; i++)
        if (!list.at[i].manifest)
            blame(run, "%s: %s", list.at[i].name, list.at[i].why);
        else if (rt_store_verify(w->conf.checkpoint_dir, list.at[i].manifest, w->job, NULL, NULL) !=
                 0)
            blame(run, "%s", rt_err_text());
    if (list.n > 0 && rt_store_choose(w->conf.checkpoint_dir, "latest", w->job, &name) != 0)
        blame(run, "%s", rt_err_text());
    else if (list.n > 0)
        rt_free(name);
    rt_store_list_release(&list);
}

/* ---- `exact` ---- */

struct bits {
    uint64_t weights, rows, trained;
    double logloss;
};

static struct bits bits_of(struct job_world *w)
{
    struct tr_report r = jw_report(w);
    struct bits bits = {.weights = tr_trainer_digest(w->rank[0].trainer),
                        .trained = r.samples_trained,
                        .logloss = rt_job_has_test(w->job) ? r.test_logloss : 0};
    for (unsigned k = 0; k < w->conf.owners; k++)
        for (uint32_t t = 0; t < w->job->n_tables; t++)
            bits.rows += ebs_table_digest(w->owner[k]->table[t]) * (2 * t + 1);
    return bits;
}

/* The same job, one of each role but the trainers, to which nothing happens. */
static struct bits undisturbed(const struct job_world *w)
{
    struct job_world calm;
    struct jw_conf conf = {
        .seed = 1, .ranks = w->conf.ranks, .owners = jw_workers(w), .job = w->job};
    jw_start(&calm, &conf);
    jw_run(&calm);
    struct bits bits = bits_of(&calm);
    jw_stop(&calm);
    return bits;
}

static void check_bits(struct sim_seed *run, struct job_world *w)
{
    struct bits want = undisturbed(w), is = bits_of(w);
    if (is.weights != want.weights || is.rows != want.rows)
        blame(run, "other %s%s than those of an undisturbed run",
              is.weights != want.weights ? "weights " : "", is.rows != want.rows ? "rows" : "");
    if (is.trained != want.trained || is.logloss != want.logloss)
        blame(run, "%" PRIu64 " rows trained, log loss %.17g; undisturbed %" PRIu64 ", %.17g",
              is.trained, is.logloss, want.trained, want.logloss);
}

/* ---- a run ---- */

static struct rt_job *load(const struct sim_seed *run, const struct sim_plan *plan)
{
    struct rt_job_source source = {
        .folder = run->folder, .name = "sim", .set = plan->setting, .n_set = plan->n_set};
    struct rt_job *job;
    if (plan->exact)
        return job_fixture(plan->setting, plan->n_set);
    if (rt_job_load(&source, &job) != 0)
        fail_msg("%s", rt_err_text());
    return job;
}

static void unload(const struct sim_plan *plan, struct rt_job *job)
{
    if (plan->exact)
        job_fixture_destroy(job);
    else
        rt_job_destroy(job);
}

static void check_end(struct sim_seed *run, struct job_world *w, struct sim_trouble *t)
{
    sim_trouble_count(t);
    check_ranks(run, w, t);
    if (t->plan->exact)
        check_bits(run, w);
    else
        check_counts(run, w, t);
    check_store(run, w);
}

/* An owner has heard the ledger, and has answered what it lacks: also one that was dead when the job ended. */
static bool all_told(void *arg)
{
    const struct job_world *w = arg;
    bool told = jw_is_over(arg);
    for (unsigned k = 0; k < w->conf.owners; k++)
        told = told && w->owner[k]->lost;
    return told;
}

static void run_on(struct sim_seed *run, struct job_world *w, struct sim_trouble *t)
{
    struct sim_tally *tally = run->tally;
    sim_trouble_run(t);
    uint64_t well_ns = sim_now(w->sim);
    bool over = sim_trouble_over(t, jw_is_over, LAST_NS);
    uint64_t spent_ns = sim_now(w->sim) - well_ns;
    if (w->failed)
        blame(run, "the job failed: %s", w->failed_text);
    else if (!over)
        blame(run, "the job has not ended %.0f simulated seconds after the last trouble",
              (double)LAST_NS * 1e-9);
    else if (!sim_trouble_over(t, all_told, LAST_NS))
        blame(run, "an owner has not been told the ledger");
    if (run->why[0]) {
        jw_tell(w);
        return;
    }
    if (spent_ns > tally->longest_ns) {
        tally->longest_ns = spent_ns;
        tally->longest_seed = run->seed;
    }
    check_end(run, w, t);
}

/* Of this process: that other programs have the cores too says nothing. */
static uint64_t spent_cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * RT_S + (uint64_t)now.tv_nsec;
}

void sim_seed_run(struct sim_seed *run)
{
    struct job_world w;
    struct sim_plan plan;
    uint64_t began_ns = spent_cpu_ns();
    char *dir = rt_path_join(run->folder, "checkpoints");
    sim_plan_make(&plan, run->seed);
    *run->story = (struct sim_story){.seed = run->seed};
    snprintf(run->story->plan, sizeof run->story->plan, "%s", plan.text);
    run->why[0] = '\0';
    if (mkdir(dir, 0700) != 0)
        fail_msg("%s: no folder can be made there", dir);
    struct jw_conf conf = plan.shape;
    conf.seed = run->seed;
    conf.job = load(run, &plan);
    conf.checkpoint_dir = dir;
    conf.restore = conf.kept_up = true;
    jw_start(&w, &conf);
    if (run->at_start)
        run->at_start(&w);
    struct sim_trouble trouble = {.world = &w,
                                  .plan = &plan,
                                  .disk = run->disk,
                                  .story = run->story,
                                  .tally = run->tally,
                                  .draws = sim_draws_of(run->seed, "sim trouble")};
    run_on(run, &w, &trouble);
    run->digest = sim_digest(w.sim);
    run->tally->sim_ns += sim_now(w.sim) - START_NS;
    if (!run->why[0])
        jw_stop(&w);
    unload(&plan, conf.job);
    temp_remove(dir);
    rt_free(dir);
    run->tally->seeds++;
    run->tally->cpu_ns += spent_cpu_ns() - began_ns;
}
