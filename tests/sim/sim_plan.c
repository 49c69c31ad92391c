/* tests/sim/sim_plan.c -- see sim_plan.h. */
#include "tests/sim/sim_plan.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/rand.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const struct oracle_shape sim_shape = {.rows = SIM_ROWS,
                                       .users = 20,
                                       .items = 7,
                                       .splits = SIM_SPLITS,
                                       .block_rows = SIM_BATCH,
                                       .batch_size = SIM_BATCH};

struct sim_draws sim_draws_of(uint64_t seed, const char *purpose)
{
    return (struct sim_draws){rt_draw_key(seed, purpose, NULL), 0};
}

uint64_t sim_draw(struct sim_draws *draws, uint64_t below)
{
    return rt_below(rt_draw(draws->key, draws->n++), below);
}

__attribute__((format(printf, 2, 3))) static void set(struct sim_plan *plan, const char *fmt, ...)
{
    va_list args;
    rt_assert(plan->n_set < SIM_SETTINGS);
    char *text = plan->set[plan->n_set];
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof plan->set[0], fmt, args);
    va_end(args);
    rt_assert(n > 0 && (size_t)n < sizeof plan->set[0]);
    plan->setting[plan->n_set++] = text;
}

static unsigned pick(struct sim_draws *draws, unsigned least, unsigned most)
{
    return least + (unsigned)sim_draw(draws, most - least + 1);
}

static struct jw_conf draw_shape(struct sim_draws *draws, unsigned workers)
{
    struct jw_conf conf = {.ranks = pick(draws, 1, 3),
                           .composers = pick(draws, 1, 2),
                           .middlewares = pick(draws, 1, 2),
                           .servers = pick(draws, 1, 3)};
    conf.owners = conf.servers * workers;
    return conf;
}

static unsigned nodes(const struct jw_conf *conf)
{
    return conf->ranks + conf->composers + conf->middlewares + conf->owners;
}

static void set_checkpoints(struct sim_plan *plan, struct sim_draws *draws)
{
    unsigned steps = pick(draws, 0, 5) ? pick(draws, 2, 9) : 0;
    set(plan, "global.checkpoint.every_steps=%u", steps);
    set(plan, "global.checkpoint.every_seconds=%u", pick(draws, 0, 3) == 0);
    set(plan, "global.checkpoint.full_every=%u", pick(draws, 1, 4));
    set(plan, "global.checkpoint.keep=%u", pick(draws, 1, 3));
    set(plan, "global.checkpoint.cut_timeout_ms=%u", pick(draws, 0, 3) ? 1000 : 20);
}

/* The data is the test set too. In `exact` it is the job that has one. */
static void set_evaluations(struct sim_plan *plan)
{
    struct sim_draws draws = sim_draws_of(plan->seed, "sim evaluations");
    if (!plan->wide || pick(&draws, 0, 1))
        return;
    if (!plan->exact)
        set(plan, "data.test=[train.tsv]");
    set(plan, "global.evaluate_every=%u", pick(&draws, 0, 2) ? pick(&draws, 1, 6) : 0);
}

static void set_job(struct sim_plan *plan, struct sim_draws *draws)
{
    static const char *const dtype[] = {"float32", "float32", "float16", "bfloat16"};
    unsigned kind = pick(draws, 0, 3);
    plan->exact = kind == 0;
    set(plan, "data.epochs=%u", plan->epochs);
    set(plan, "global.mode=%s", kind < 2 ? "full" : "hybrid");
    if (plan->exact)
        set(plan, "global.exact=true");
    if (plan->exact && pick(draws, 0, 1))
        set(plan, "data.test=[]");
    set(plan, "global.staleness=%u", pick(draws, 1, 5));
    set(plan, "data.window=%u", pick(draws, 1, 5));
    set(plan, "global.wire.dtype=%s", dtype[pick(draws, 0, 3)]);
    if (pick(draws, 0, 3) == 0)
        set(plan, "global.wire.all_reduce=bfloat16");
    if (pick(draws, 0, 3) == 0)
        set(plan, "global.trainer.bucket_bytes=4096");
    if (pick(draws, 0, 9) == 0)
        set(plan, "global.trainer.threads=2");
    set_checkpoints(plan, draws);
    set_evaluations(plan);
}

static void tell(struct sim_plan *plan)
{
    const struct jw_conf *a = &plan->shape, *b = &plan->reshaped;
    size_t at =
        (size_t)snprintf(plan->text, sizeof plan->text,
                         "trainers %u, data-composes %u, middlewares %u, embedding servers %u of "
                         "%u owners (once all "
                         "have died: %u, %u, %u, %u of %u); frames take %.1f to %.1f ms;",
                         a->ranks, a->composers, a->middlewares, a->servers, a->owners / a->servers,
                         b->ranks, b->composers, b->middlewares, b->servers, b->owners / b->servers,
                         (double)a->delay_min_ns * 1e-6, (double)a->delay_max_ns * 1e-6);
    for (size_t i = 0; i < plan->n_set && at < sizeof plan->text; i++)
        at += (size_t)snprintf(plan->text + at, sizeof plan->text - at, " %s", plan->set[i]);
}

void sim_plan_make(struct sim_plan *plan, uint64_t seed)
{
    static const uint64_t gap_ms[] = {5, 20, 60, 200, 1000};
    struct sim_draws draws = sim_draws_of(seed, "sim plan");
    memset(plan, 0, sizeof *plan);
    plan->seed = seed;
    plan->wide = seed > SIM_FIRST_SEEDS;
    plan->epochs = pick(&draws, 1, 3);
    plan->troubles = pick(&draws, 0, 12);
    plan->gap_ns = gap_ms[pick(&draws, 0, 4)] * RT_MS;
    unsigned workers = pick(&draws, 1, 2);
    set(plan, "global.embedding_server.workers=%u", workers);
    plan->shape = draw_shape(&draws, workers);
    uint64_t slow = (uint64_t[]){1, 1, 4, 20}[pick(&draws, 0, 3)];
    plan->shape.delay_min_ns = slow * RT_MS / 20;
    plan->shape.delay_max_ns = slow * RT_MS / 2;
    plan->shape.part_bytes = pick(&draws, 0, 2) ? 0 : pick(&draws, 1, 600);
    plan->shape.state_part = pick(&draws, 0, 2) ? 0 : pick(&draws, 1, 8);
    set_job(plan, &draws);
    plan->reshaped = pick(&draws, 0, 1) ? draw_shape(&draws, workers) : plan->shape;
    if (plan->exact) { /* sums depend on how many ranks there are, and batches have one order */
        plan->reshaped.ranks = plan->shape.ranks;
        plan->shape.composers = plan->reshaped.composers = 1;
    }
    unsigned more = nodes(&plan->reshaped);
    plan->shape.spares = 1 + (more > nodes(&plan->shape) ? more - nodes(&plan->shape) : 0);
    tell(plan);
}
