/* tests/sim/job_world.c -- see job_world.h. */
#include "tests/sim/job_world.h"
#include "embedding_server/restore.h"
#include "tests/lib/job_fixture.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/member.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define FIRST_INCARNATION 5

unsigned jw_node_composer(const struct job_world *w, unsigned i)
{
    (void)w;
    return i;
}

unsigned jw_node_middleware(const struct job_world *w, unsigned i)
{
    return w->conf.composers + i;
}

unsigned jw_node_rank(const struct job_world *w, unsigned i)
{
    return w->conf.composers + w->conf.middlewares + i;
}

unsigned jw_node_owner(const struct job_world *w, unsigned i)
{
    return w->conf.composers + w->conf.middlewares + w->conf.ranks + i;
}

unsigned jw_node_spare(const struct job_world *w)
{
    return jw_node_owner(w, w->conf.owners);
}

static void on_failed(void *ctx, int err)
{
    struct job_world *w = ctx;
    if (!w->failed)
        snprintf(w->failed_text, sizeof w->failed_text, "%s: %s", rt_err_name(err), rt_err_text());
    w->failed = err;
}

static void on_rank_failed(void *ctx, int err)
{
    on_failed(((struct jw_rank *)ctx)->world, err);
}

static void on_rank_done(void *ctx)
{
    ((struct jw_rank *)ctx)->done = true;
}

static struct rt_identity identity(const struct job_world *w, enum rt_role role, unsigned index,
                                   uint32_t loop, uint64_t incarnation)
{
    struct rt_identity id = {.role = role,
                             .index = index,
                             .loop = loop,
                             .incarnation = incarnation,
                             .wire_version = RT_WIRE_VERSION,
                             .config_hash = w->job->config_hash,
                             .plan_hash = w->job->plan_hash};
    snprintf(id.job, sizeof id.job, "%s", w->job->name);
    return id;
}

static void check(int err)
{
    if (err)
        fail_msg("%s", rt_err_text());
}

static void listen_at(char address[RT_ADDRESS_MAX], unsigned node, uint64_t port)
{
    snprintf(address, RT_ADDRESS_MAX, "sim:%u:%llu", node, (unsigned long long)port);
}

/* As a process has it, by the wall clock: a rank that goes on from a checkpoint tells by it who has lived on. */
static uint64_t server_incarnation(const struct job_world *w)
{
    return w->server_born_ms + FIRST_INCARNATION + w->server_restarts;
}

static void start_owners(struct job_world *w)
{
    char listen[RT_ADDRESS_MAX];
    struct rt_io *first = sim_node(w->sim, jw_node_owner(w, 0));
    w->server_born_ms = w->server_restarts ? first->ops->wall_ms(first) : 0;
    check(rt_shard_map_init(&w->shards, 1, w->conf.owners));
    for (unsigned k = 0; k < w->conf.owners; k++) {
        listen_at(listen, jw_node_owner(w, k), 1 + w->server_restarts);
        struct ebs_owner_conf conf = {
            .io = sim_node(w->sim, jw_node_owner(w, k)),
            .identity = identity(w, RT_ROLE_EMBEDDING_SERVER, 0, k, server_incarnation(w)),
            .job = w->job,
            .shards = &w->shards,
            .owner = k,
            .greeting = &wire_greeting,
            .checkpoint_dir = w->conf.checkpoint_dir,
            .listen = listen};
        check(ebs_owner_create(&conf, &w->owner[k]));
    }
    struct ebs_restore restore = {
        .dir = w->conf.checkpoint_dir, .job = w->job, .owner = w->owner, .n = w->conf.owners};
    struct ebs_restored restored;
    if (w->conf.restore && w->conf.checkpoint_dir)
        check(ebs_restore(&restore, &restored));
}

static void tell_rank_of_server(struct job_world *w, unsigned r)
{
    const char *address[JW_MAX];
    for (unsigned k = 0; k < w->conf.owners; k++)
        address[k] = ebs_owner_address(w->owner[k]);
    tr_trainer_on_server(w->rank[r].trainer, 0, 1, address, w->conf.owners, server_incarnation(w));
}

static void hello_of_server(struct job_world *w, unsigned middleware)
{
    const char *address[JW_MAX];
    for (unsigned k = 0; k < w->conf.owners; k++)
        address[k] = ebs_owner_address(w->owner[k]);
    check(mw_loop_on_server(w->middleware[middleware], 0, 1, w->conf.owners, address,
                            server_incarnation(w)));
}

static uint64_t middleware_incarnation(const struct job_world *w, unsigned m)
{
    return FIRST_INCARNATION + w->middleware_restarts[m];
}

static void start_middleware(struct job_world *w, unsigned m)
{
    char listen[RT_ADDRESS_MAX];
    listen_at(listen, jw_node_middleware(w, m), 1 + w->middleware_restarts[m]);
    struct mw_loop_conf conf = {
        .io = sim_node(w->sim, jw_node_middleware(w, m)),
        .identity = identity(w, RT_ROLE_MIDDLEWARE, m, 0, middleware_incarnation(w, m)),
        .job = w->job,
        .greeting = &wire_greeting,
        .listen = listen,
        .part_bytes = w->conf.part_bytes};
    check(mw_loop_create(&conf, &w->middleware[m]));
    hello_of_server(w, m);
}

static void start_rank(struct job_world *w, unsigned r)
{
    struct jw_rank *rank = &w->rank[r];
    char listen[RT_ADDRESS_MAX];
    rank->world = w;
    rank->incarnation = FIRST_INCARNATION + rank->restarts;
    rank->done = false;
    listen_at(listen, jw_node_rank(w, r), rank->incarnation);
    struct tr_trainer_conf conf = {.io = sim_node(w->sim, jw_node_rank(w, r)),
                                   .state_part = w->conf.state_part,
                                   .self = identity(w, RT_ROLE_TRAINER, r, 0, rank->incarnation),
                                   .job = w->job,
                                   .world = w->conf.ranks,
                                   .listen = listen,
                                   .init_from = w->conf.init_from,
                                   .predict = w->conf.predict,
                                   .checkpoint_dir = w->conf.checkpoint_dir,
                                   .restore = w->conf.restore,
                                   .ctx = rank,
                                   .failed = on_rank_failed,
                                   .done = on_rank_done};
    check(tr_trainer_create(&conf, &rank->trainer));
    for (unsigned m = 0; m < w->conf.middlewares; m++) {
        const char *address = mw_loop_address(w->middleware[m]);
        tr_trainer_on_middleware(rank->trainer, m, w->conf.middlewares, &address, 1,
                                 middleware_incarnation(w, m));
    }
    if (w->conf.rank_started)
        w->conf.rank_started(w->conf.ctx, r);
    else
        tell_rank_of_server(w, r);
}

/* Everybody hears where rank r is. */
static void hello_of_rank(struct job_world *w, unsigned r)
{
    const char *address = tr_trainer_address(w->rank[r].trainer);
    uint64_t incarnation = w->rank[r].incarnation;
    for (unsigned other = 0; other < w->conf.ranks; other++)
        if (w->rank[other].trainer)
            tr_trainer_on_rank(w->rank[other].trainer, r, w->conf.ranks, address, incarnation);
    for (unsigned c = 0; c < w->conf.composers; c++)
        if (w->composer[c])
            dc_composer_on_trainer(w->composer[c], r, w->conf.ranks, &address, 1, incarnation);
}

static void start_composer(struct job_world *w, unsigned c)
{
    struct dc_composer_conf conf = {
        .io = sim_node(w->sim, jw_node_composer(w, c)),
        .identity =
            identity(w, RT_ROLE_DATA_COMPOSE, c, 0, FIRST_INCARNATION + w->composer_restarts[c]),
        .job = w->job,
        .size = w->conf.composers,
        .ctx = w,
        .failed = on_failed};
    check(dc_composer_create(&conf, &w->composer[c]));
    for (unsigned m = 0; m < w->conf.middlewares; m++) {
        const char *address = mw_loop_address(w->middleware[m]);
        dc_composer_on_middleware(w->composer[c], m, w->conf.middlewares, &address, 1,
                                  middleware_incarnation(w, m));
    }
}

void jw_start(struct job_world *w, const struct jw_conf *conf)
{
    memset(w, 0, sizeof *w);
    w->conf = *conf;
    w->conf.ranks = conf->ranks ? conf->ranks : 1;
    w->conf.composers = conf->composers ? conf->composers : 1;
    w->conf.middlewares = conf->middlewares ? conf->middlewares : 1;
    w->conf.owners = conf->owners ? conf->owners : 2;
    rt_assert(w->conf.ranks <= JW_MAX && w->conf.composers <= JW_MAX &&
              w->conf.middlewares <= JW_MAX && w->conf.owners <= JW_MAX);
    struct sim_conf sim = {.seed = conf->seed,
                           .n_nodes = jw_node_spare(w) + (conf->spares ? conf->spares : 1)};
    w->sim = sim_create(&sim);
    w->job = conf->job ? conf->job : job_fixture(conf->set, conf->n_set);
    start_owners(w);
    for (unsigned m = 0; m < w->conf.middlewares; m++)
        start_middleware(w, m);
    for (unsigned r = 0; r < w->conf.ranks; r++)
        start_rank(w, r);
    for (unsigned c = 0; c < w->conf.composers; c++)
        start_composer(w, c);
    for (unsigned r = 0; r < w->conf.ranks; r++)
        hello_of_rank(w, r);
}

static uint64_t observations(const struct rt_histogram *histogram)
{
    uint64_t n = 0;
    for (unsigned b = 0; b < RT_HISTOGRAM_BUCKETS; b++)
        n += histogram->bucket[b];
    return n;
}

static uint64_t evaluating_ns(const struct tr_trainer *trainer)
{
    bool now = trainer->kind == WIRE_PHASE_EVALUATE;
    return trainer->evaluated_ns +
           (now ? rt_io_now(trainer->io) - trainer->evaluating_since_ns : 0);
}

/* What holds at any time, whatever has happened to the rank: its numbers agree with each other and with the time. */
static void check_numbers(const struct job_world *w, const struct tr_trainer *trainer)
{
    const struct tr_numbers *n = &trainer->metric;
    const struct tr_parts *parts = &n->parts;
    uint64_t held = 0, spent = parts->runs ? rt_io_now(trainer->io) - parts->since_ns : 0;
    for (int s = 0; s < TR_BATCH_STATES; s++)
        held += n->batches[s];
    assert_int_equal(held, trainer->batches.count);
    assert_int_equal(n->batches_open, trainer->batches.count);
    for (unsigned b = 0; b < RT_HISTOGRAM_BUCKETS - 1; b++)
        if (rt_histogram_bound(RT_HISTOGRAM_COUNT, b) >= 2.0 * trainer->permits.limit)
            assert_int_equal(n->staleness.bucket[b], 0);
    assert_true(observations(&n->staleness) >= n->batches_trained);
    for (int p = 0; p < TR_PARTS; p++) {
        spent += parts->seconds[p].sum + parts->spent_ns[p];
        assert_int_equal(observations(&parts->seconds[p]), observations(&parts->seconds[0]));
    }
    if (w->conf.ranks == 1)
        assert_true(parts->seconds[TR_PART_REDUCE].sum == 0 &&
                    parts->seconds[TR_PART_HEADER].sum == 0);
    else if (observations(&parts->seconds[0]) > 0 && trainer->job->global.mode != RT_MODE_ASYNC)
        assert_true(parts->seconds[TR_PART_REDUCE].sum > 0);
    if (trainer->kind != WIRE_PHASE_DONE && parts->began_ns == trainer->started_ns &&
        parts->began_ns)
        assert_int_equal(spent + evaluating_ns(trainer),
                         rt_io_now(trainer->io) - trainer->started_ns);
    if (trainer->kind == WIRE_PHASE_DONE && trainer->conf.self.index == 0 && trainer->last_ack_ns)
        assert_true(spent + trainer->evaluated_by_ack_ns >=
                    trainer->last_ack_ns - trainer->started_ns); /* no ack is outstanding there */
}

static void cut_rank(struct job_world *w, unsigned r)
{
    for (unsigned other = 0; other < jw_node_owner(w, 0); other++)
        if (other != jw_node_rank(w, r))
            sim_break(w->sim, other, jw_node_rank(w, r));
    for (unsigned i = 0; i < w->conf.ranks; i++)
        sim_cut(w->sim, jw_node_rank(w, i), jw_node_rank(w, r), i != r);
}

static void stop_rank(struct job_world *w, unsigned r)
{
    check_numbers(w, w->rank[r].trainer);
    sim_forget_work(w->sim, jw_node_rank(w, r));
    tr_trainer_destroy(w->rank[r].trainer);
    w->rank[r].trainer = NULL;
}

static void come_back(struct job_world *w, unsigned r)
{
    for (unsigned i = 0; i < w->conf.ranks; i++)
        sim_cut(w->sim, jw_node_rank(w, i), jw_node_rank(w, r), false);
    w->rank[r].restarts++;
    start_rank(w, r);
}

void jw_restart_ranks(struct job_world *w, unsigned first, unsigned n)
{
    rt_assert(n <= w->conf.ranks);
    for (unsigned i = 0; i < n; i++)
        cut_rank(w, (first + i) % w->conf.ranks);
    for (unsigned i = 0; i < n; i++)
        stop_rank(w, (first + i) % w->conf.ranks);
    sim_run_until(w->sim, NULL, NULL, 5 * RT_MS);
    for (unsigned i = 0; i < n; i++)
        come_back(w, (first + i) % w->conf.ranks);
    for (unsigned i = 0; i < w->conf.ranks; i++)
        hello_of_rank(w, i);
}

void jw_restart_rank(struct job_world *w, unsigned r)
{
    jw_restart_ranks(w, r, 1);
}

void jw_restart_composer(struct job_world *w, unsigned c)
{
    for (unsigned other = 0; other < jw_node_owner(w, 0); other++)
        if (other != jw_node_composer(w, c))
            sim_break(w->sim, other, jw_node_composer(w, c));
    dc_composer_destroy(w->composer[c]);
    w->composer[c] = NULL;
    w->composer_restarts[c]++;
    start_composer(w, c);
    for (unsigned r = 0; r < w->conf.ranks; r++)
        hello_of_rank(w, r);
}

void jw_restart_middleware(struct job_world *w, unsigned m)
{
    for (unsigned other = 0; other < jw_node_spare(w); other++)
        if (other != jw_node_middleware(w, m))
            sim_break(w->sim, other, jw_node_middleware(w, m));
    mw_loop_destroy(w->middleware[m]);
    w->middleware_restarts[m]++;
    start_middleware(w, m);
    const char *address = mw_loop_address(w->middleware[m]);
    for (unsigned r = 0; r < w->conf.ranks; r++)
        tr_trainer_on_middleware(w->rank[r].trainer, m, w->conf.middlewares, &address, 1,
                                 middleware_incarnation(w, m));
    for (unsigned c = 0; c < w->conf.composers; c++)
        dc_composer_on_middleware(w->composer[c], m, w->conf.middlewares, &address, 1,
                                  middleware_incarnation(w, m));
}

void jw_restart_server(struct job_world *w)
{
    for (unsigned k = 0; k < w->conf.owners; k++) {
        for (unsigned m = 0; m < w->conf.middlewares; m++)
            sim_break(w->sim, jw_node_middleware(w, m), jw_node_owner(w, k));
        sim_break(w->sim, jw_node_rank(w, 0), jw_node_owner(w, k));
        sim_forget_work(w->sim, jw_node_owner(w, k));
        ebs_owner_destroy(w->owner[k]);
        w->owner[k] = NULL;
    }
    w->server_restarts++;
    start_owners(w);
    for (unsigned m = 0; m < w->conf.middlewares; m++)
        hello_of_server(w, m);
    for (unsigned r = 0; r < w->conf.ranks && !w->conf.rank_started; r++)
        tell_rank_of_server(w, r);
}

void jw_restart_job(struct job_world *w)
{
    for (unsigned a = 0; a < jw_node_spare(w); a++)
        for (unsigned b = 0; b < a; b++)
            sim_break(w->sim, a, b);
    for (unsigned c = 0; c < w->conf.composers; c++)
        dc_composer_destroy(w->composer[c]);
    for (unsigned r = 0; r < w->conf.ranks; r++)
        stop_rank(w, r);
    for (unsigned m = 0; m < w->conf.middlewares; m++)
        mw_loop_destroy(w->middleware[m]);
    for (unsigned k = 0; k < w->conf.owners; k++) {
        sim_forget_work(w->sim, jw_node_owner(w, k));
        ebs_owner_destroy(w->owner[k]);
    }
    sim_run_until(w->sim, NULL, NULL, 5 * RT_MS);
    memset(w->composer, 0, sizeof w->composer);
    w->server_restarts++;
    start_owners(w);
    for (unsigned m = 0; m < w->conf.middlewares; m++) {
        w->middleware_restarts[m]++;
        start_middleware(w, m);
    }
    for (unsigned r = 0; r < w->conf.ranks; r++)
        come_back(w, r);
    for (unsigned c = 0; c < w->conf.composers; c++) {
        w->composer_restarts[c]++;
        start_composer(w, c);
    }
    for (unsigned r = 0; r < w->conf.ranks; r++)
        hello_of_rank(w, r);
}

void jw_break_links(struct job_world *w, unsigned breaks, bool among_ranks)
{
    unsigned nodes = jw_node_owner(w, w->conf.owners);
    uint64_t key = rt_draw_key(w->conf.seed, "breaks", NULL);
    for (unsigned i = 0; i < breaks && !jw_is_over(w); i++) {
        sim_run_until(w->sim, jw_is_over, w, RT_MS + rt_below(rt_draw(key, 3 * i), 40 * RT_MS));
        unsigned a = (unsigned)rt_below(rt_draw(key, 3 * i + 1), nodes);
        unsigned b = (unsigned)rt_below(rt_draw(key, 3 * i + 2), nodes);
        if (among_ranks && i % 2) {
            a = jw_node_rank(w, a % w->conf.ranks);
            b = jw_node_rank(w, b % w->conf.ranks);
        }
        if (a != b)
            sim_break(w->sim, a, b);
    }
}

void jw_stop(struct job_world *w)
{
    sim_run_until(w->sim, NULL, NULL, 100 * RT_MS); /* nothing is being computed afterwards */
    for (unsigned c = 0; c < w->conf.composers; c++)
        dc_composer_destroy(w->composer[c]);
    for (unsigned r = 0; r < w->conf.ranks; r++) {
        check_numbers(w, w->rank[r].trainer);
        tr_trainer_destroy(w->rank[r].trainer);
    }
    for (unsigned m = 0; m < w->conf.middlewares; m++)
        mw_loop_destroy(w->middleware[m]);
    for (unsigned k = 0; k < w->conf.owners; k++)
        ebs_owner_destroy(w->owner[k]);
    sim_run_until(w->sim, NULL, NULL, RT_S);
    sim_destroy(w->sim);
    if (!w->conf.job)
        job_fixture_destroy(w->job);
}

bool jw_is_over(void *world)
{
    const struct job_world *w = world;
    bool done = true;
    for (unsigned r = 0; r < w->conf.ranks; r++)
        done = done && w->rank[r].done;
    return done || w->failed;
}

static void tell_batches(const struct tr_trainer *trainer)
{
    static const char *const state[TR_BATCH_STATES] = {
        "queued", "looking", "ready", "entered", "stepping", "pushing", "stranded", "telling"};
    uint64_t id, value;
    for (size_t at = 0; rt_map_next(&trainer->batches, &at, &id, &value);) {
        const struct tr_batch *batch = (const struct tr_batch *)(uintptr_t)value;
        print_message("    batch %016llx: %s%s, step %llu, %u of %u%s\n", (unsigned long long)id,
                      state[batch->state],
                      rt_ledger_is_finished(trainer->ledger, id)  ? ", finished"
                      : rt_ledger_is_stepped(trainer->ledger, id) ? ", stepped"
                                                                  : "",
                      (unsigned long long)batch->step, batch->place, batch->among,
                      batch->call ? "" : ", nobody asks");
    }
}

/* What is not finished of the splits, as the rank knows it. */
static void tell_splits(const struct job_world *w, const struct tr_trainer *trainer)
{
    struct rt_arena *arena;
    struct wire_split_ledger *split;
    uint32_t n;
    check(rt_arena_create(1 << 20, &arena));
    check(rt_ledger_export(trainer->ledger, arena, &split, &n));
    for (uint32_t i = 0; i < n; i++)
        if (split[i].finished_low < split[i].end_sequence)
            print_message(
                "    split %u: end %llu, stepped below %llu, finished below %llu, the next is of "
                "rank %u\n",
                split[i].split, (unsigned long long)split[i].end_sequence,
                (unsigned long long)split[i].stepped_low, (unsigned long long)split[i].finished_low,
                rt_batch_rank(rt_batch_id(split[i].split, split[i].finished_low), w->conf.ranks));
    print_message("    splits ended: %s\n",
                  rt_ledger_epoch_ended(trainer->ledger, w->job->data.splits) ? "all" : "not all");
    rt_arena_destroy(arena);
}

static void tell_where(const struct job_world *w)
{
    for (unsigned c = 0; c < w->conf.composers; c++) {
        struct dc_status status;
        dc_composer_status(w->composer[c], &status);
        print_message("composer %u: %s %llu, open %u\n", c, status.stage,
                      (unsigned long long)status.epoch, status.batches_open);
    }
    for (unsigned r = 0; r < w->conf.ranks; r++) {
        struct tr_report r_report;
        tr_trainer_report(w->rank[r].trainer, &r_report);
        print_message("rank %u: %s %llu, step %llu, group epoch %llu, trained %llu, open %llu, "
                      "permits %u\n",
                      r, r_report.phase, (unsigned long long)r_report.epoch,
                      (unsigned long long)r_report.step, (unsigned long long)r_report.group_epoch,
                      (unsigned long long)r_report.samples_trained,
                      (unsigned long long)r_report.batches_open, r_report.permits_used);
        tell_splits(w, w->rank[r].trainer);
        tell_batches(w->rank[r].trainer);
    }
}

void jw_run(struct job_world *w)
{
    bool over = sim_run_until(w->sim, jw_is_over, w, 300 * RT_S);
    if (!over || w->failed)
        tell_where(w);
    if (w->failed)
        fail_msg("seed %llu: failed: %s", (unsigned long long)w->conf.seed, w->failed_text);
    if (!over)
        fail_msg("seed %llu: not done after five simulated minutes",
                 (unsigned long long)w->conf.seed);
}

struct tr_report jw_report(const struct job_world *w)
{
    struct tr_report sum;
    tr_trainer_report(w->rank[0].trainer, &sum);
    double loss = sum.train_loss * (double)sum.train_loss_samples;
    for (unsigned i = 1; i < w->conf.ranks; i++) {
        struct tr_report r;
        tr_trainer_report(w->rank[i].trainer, &r);
        sum.samples_trained += r.samples_trained;
        sum.samples_dropped += r.samples_dropped;
        sum.permits_used += r.permits_used;
        sum.batches_retried += r.batches_retried;
        sum.staleness_max =
            r.staleness_max > sum.staleness_max ? r.staleness_max : sum.staleness_max;
        if (r.train_loss_samples > 0)
            loss += r.train_loss * (double)r.train_loss_samples;
        sum.train_loss_samples += r.train_loss_samples;
    }
    sum.train_loss = loss / (double)sum.train_loss_samples;
    return sum;
}
