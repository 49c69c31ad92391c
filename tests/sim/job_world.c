/* tests/sim/job_world.c -- see job_world.h. */
#include "tests/sim/job_world.h"
#include "tests/lib/emulated_gpu.h"
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

unsigned jw_workers(const struct job_world *w)
{
    return w->conf.owners / w->conf.servers;
}

static void on_failed(struct job_world *w, int err, bool *leaves)
{
    if (err == RT_EBACK && w->conf.kept_up) {
        *leaves = true;
        return;
    }
    if (!w->failed)
        snprintf(w->failed_text, sizeof w->failed_text, "%s: %s", rt_err_name(err), rt_err_text());
    w->failed = err;
}

static void on_rank_failed(void *ctx, int err)
{
    struct jw_rank *rank = ctx;
    rank->failed = err;
    on_failed(rank->world, err, &rank->leaves);
}

static void on_composer_failed(void *ctx, int err)
{
    struct jw_role *composer = ctx;
    on_failed(composer->world, err, &composer->leaves);
}

static void on_server_back(void *ctx)
{
    ((struct jw_role *)ctx)->leaves = true;
}

static void on_rank_done(void *ctx)
{
    ((struct jw_rank *)ctx)->done = true;
}

static void on_rank_drained(void *ctx)
{
    ((struct jw_rank *)ctx)->drained = true;
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

/* As a process has it, by the wall clock, but for the first. */
static void take_server_incarnation(struct job_world *w, unsigned s)
{
    struct rt_io *io = sim_node(w->sim, jw_node_owner(w, s * jw_workers(w)));
    uint64_t last = w->server_incarnation[s], restarts = w->server_restarts[s];
    uint64_t next = FIRST_INCARNATION + restarts + (restarts ? io->ops->wall_ms(io) : 0);
    w->server_incarnation[s] = next > last ? next : last + 1;
}

static void start_server(struct job_world *w, unsigned s)
{
    char listen[RT_ADDRESS_MAX];
    uint32_t workers = jw_workers(w), first = s * workers;
    take_server_incarnation(w, s);
    w->server_role[s] = (struct jw_role){.world = w};
    for (unsigned k = first; k < first + workers; k++) {
        listen_at(listen, jw_node_owner(w, k), 1 + w->server_restarts[s]);
        struct ebs_owner_conf conf = {.io = sim_node(w->sim, jw_node_owner(w, k)),
                                      .identity = identity(w, RT_ROLE_EMBEDDING_SERVER, s,
                                                           k - first, w->server_incarnation[s]),
                                      .job = w->job,
                                      .shards = &w->shards,
                                      .owner = k,
                                      .greeting = &wire_greeting,
                                      .checkpoint_dir = w->conf.checkpoint_dir,
                                      .listen = listen,
                                      .ctx = &w->server_role[s],
                                      .back = w->conf.kept_up ? on_server_back : NULL};
        check(ebs_owner_create(&conf, &w->owner[k]));
    }
    struct ebs_restore restore = {
        .dir = w->conf.checkpoint_dir, .job = w->job, .owner = w->owner + first, .n = workers};
    w->restored[s] = (struct ebs_restored){0};
    if (w->conf.restore && w->conf.checkpoint_dir)
        check(ebs_restore(&restore, &w->restored[s]));
}

bool jw_server_lives(const struct job_world *w, unsigned s)
{
    return w->owner[s * jw_workers(w)] != NULL;
}

static void addresses_of(const struct job_world *w, unsigned s, const char *address[JW_MAX])
{
    for (unsigned k = 0; k < jw_workers(w); k++)
        address[k] = ebs_owner_address(w->owner[s * jw_workers(w) + k]);
}

static void tell_rank_of_servers(struct job_world *w, unsigned r)
{
    const char *address[JW_MAX];
    for (unsigned s = 0; s < w->conf.servers; s++) {
        if (!jw_server_lives(w, s))
            continue;
        addresses_of(w, s, address);
        tr_trainer_on_server(w->rank[r].trainer, s, w->conf.servers, address, jw_workers(w),
                             w->server_incarnation[s]);
    }
}

static void tell_middleware_of_servers(struct job_world *w, unsigned m)
{
    const char *address[JW_MAX];
    for (unsigned s = 0; s < w->conf.servers; s++) {
        if (!jw_server_lives(w, s))
            continue;
        addresses_of(w, s, address);
        check(mw_loop_on_server(w->middleware[m], s, w->conf.servers, jw_workers(w), address,
                                w->server_incarnation[s]));
    }
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
    tell_middleware_of_servers(w, m);
}

static void tell_rank_of_middlewares(struct job_world *w, unsigned r)
{
    for (unsigned m = 0; m < w->conf.middlewares; m++) {
        if (!w->middleware[m])
            continue;
        const char *address = mw_loop_address(w->middleware[m]);
        tr_trainer_on_middleware(w->rank[r].trainer, m, w->conf.middlewares, &address, 1,
                                 middleware_incarnation(w, m));
    }
}

static void start_rank(struct job_world *w, unsigned r)
{
    struct jw_rank *rank = &w->rank[r];
    char listen[RT_ADDRESS_MAX];
    rank->world = w;
    rank->incarnation = FIRST_INCARNATION + rank->restarts;
    rank->done = rank->drained = rank->leaves = false;
    rank->failed = 0;
    listen_at(listen, jw_node_rank(w, r), rank->incarnation);
    if (w->conf.gpu)
        emulated_gpu_open(r, &rank->device);
    if (w->conf.no_nccl >> r & 1)
        rank->device.nccl = NULL;
    struct tr_trainer_conf conf = {.io = sim_node(w->sim, jw_node_rank(w, r)),
                                   .device = rank->device,
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
                                   .done = on_rank_done,
                                   .drained = on_rank_drained};
    check(tr_trainer_create(&conf, &rank->trainer));
    tell_rank_of_middlewares(w, r);
    if (w->conf.rank_started)
        w->conf.rank_started(w->conf.ctx, r);
    else
        tell_rank_of_servers(w, r);
}

/* Everybody hears where rank r is. */
static void hello_of_rank(struct job_world *w, unsigned r)
{
    if (!w->rank[r].trainer)
        return;
    const char *address = tr_trainer_address(w->rank[r].trainer);
    uint64_t incarnation = w->rank[r].incarnation;
    for (unsigned other = 0; other < w->conf.ranks; other++)
        if (w->rank[other].trainer)
            tr_trainer_on_rank(w->rank[other].trainer, r, w->conf.ranks, address, incarnation);
    for (unsigned c = 0; c < w->conf.composers; c++)
        if (w->composer[c])
            dc_composer_on_trainer(w->composer[c], r, w->conf.ranks, &address, 1, incarnation);
}

static void tell_composer_of_middlewares(struct job_world *w, unsigned c)
{
    for (unsigned m = 0; m < w->conf.middlewares; m++) {
        if (!w->middleware[m])
            continue;
        const char *address = mw_loop_address(w->middleware[m]);
        dc_composer_on_middleware(w->composer[c], m, w->conf.middlewares, &address, 1,
                                  middleware_incarnation(w, m));
    }
}

static void start_composer(struct job_world *w, unsigned c)
{
    struct dc_composer_conf conf = {
        .io = sim_node(w->sim, jw_node_composer(w, c)),
        .identity =
            identity(w, RT_ROLE_DATA_COMPOSE, c, 0, FIRST_INCARNATION + w->composer_restarts[c]),
        .job = w->job,
        .size = w->conf.composers,
        .ctx = &w->composer_role[c],
        .failed = on_composer_failed};
    w->composer_role[c] = (struct jw_role){.world = w};
    check(dc_composer_create(&conf, &w->composer[c]));
    tell_composer_of_middlewares(w, c);
}

static void take_shape(struct job_world *w, const struct jw_conf *conf)
{
    w->conf.ranks = conf->ranks ? conf->ranks : 1;
    w->conf.composers = conf->composers ? conf->composers : 1;
    w->conf.middlewares = conf->middlewares ? conf->middlewares : 1;
    w->conf.owners = conf->owners ? conf->owners : 2;
    w->conf.servers = conf->servers ? conf->servers : 1;
    rt_assert(w->conf.ranks <= JW_MAX && w->conf.composers <= JW_MAX &&
              w->conf.middlewares <= JW_MAX && w->conf.owners <= JW_MAX &&
              w->conf.owners % w->conf.servers == 0);
    check(rt_shard_map_init(&w->shards, w->conf.servers, jw_workers(w)));
}

void jw_start(struct job_world *w, const struct jw_conf *conf)
{
    memset(w, 0, sizeof *w);
    w->conf = *conf;
    take_shape(w, conf);
    struct sim_conf sim = {.seed = conf->seed,
                           .n_nodes = jw_node_spare(w) + (conf->spares ? conf->spares : 1),
                           .delay_min_ns = conf->delay_min_ns,
                           .delay_max_ns = conf->delay_max_ns};
    w->sim = sim_create(&sim);
    w->job = conf->job ? conf->job : job_fixture(conf->set, conf->n_set);
    for (unsigned s = 0; s < w->conf.servers; s++)
        start_server(w, s);
    for (unsigned m = 0; m < w->conf.middlewares; m++)
        start_middleware(w, m);
    for (unsigned r = 0; r < w->conf.ranks; r++)
        start_rank(w, r);
    for (unsigned c = 0; c < w->conf.composers; c++)
        start_composer(w, c);
    for (unsigned r = 0; r < w->conf.ranks; r++)
        hello_of_rank(w, r);
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
    jw_check_numbers(w, w->rank[r].trainer);
    sim_forget_work(w->sim, jw_node_rank(w, r));
    tr_trainer_destroy(w->rank[r].trainer);
    tr_gpu_close(&w->rank[r].device);
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

static void start_servers_again(struct job_world *w)
{
    for (unsigned s = 0; s < w->conf.servers; s++) {
        w->server_restarts[s]++;
        start_server(w, s);
    }
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
    start_servers_again(w);
    for (unsigned m = 0; m < w->conf.middlewares; m++)
        tell_middleware_of_servers(w, m);
    for (unsigned r = 0; r < w->conf.ranks && !w->conf.rank_started; r++)
        tell_rank_of_servers(w, r);
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
    start_servers_again(w);
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

/* ---- one by one ---- */

static void leave(struct job_world *w, unsigned node, bool silent)
{
    if (silent)
        sim_vanish(w->sim, node);
    for (unsigned other = 0; other < jw_node_spare(w) && !silent; other++)
        if (other != node)
            sim_break(w->sim, other, node);
    sim_forget_work(w->sim, node);
    sim_freeze(w->sim, node, 0);
}

void jw_kill_composer(struct job_world *w, unsigned c, bool silent)
{
    leave(w, jw_node_composer(w, c), silent);
    dc_composer_destroy(w->composer[c]);
    w->composer[c] = NULL;
    w->composer_role[c].leaves = false;
}

void jw_kill_middleware(struct job_world *w, unsigned m, bool silent)
{
    leave(w, jw_node_middleware(w, m), silent);
    mw_loop_destroy(w->middleware[m]);
    w->middleware[m] = NULL;
}

void jw_kill_rank(struct job_world *w, unsigned r, bool silent)
{
    leave(w, jw_node_rank(w, r), silent);
    stop_rank(w, r);
    w->rank[r].done = w->rank[r].leaves = false;
}

void jw_kill_server(struct job_world *w, unsigned s, bool silent)
{
    for (unsigned k = s * jw_workers(w); k < (s + 1) * jw_workers(w); k++) {
        leave(w, jw_node_owner(w, k), silent);
        ebs_owner_destroy(w->owner[k]);
        w->owner[k] = NULL;
    }
    w->server_role[s].leaves = false;
}

/* As they say hello to one another again when a new one has. */
static void greet(struct job_world *w)
{
    for (unsigned m = 0; m < w->conf.middlewares; m++)
        if (w->middleware[m])
            tell_middleware_of_servers(w, m);
    for (unsigned c = 0; c < w->conf.composers; c++)
        if (w->composer[c])
            tell_composer_of_middlewares(w, c);
    for (unsigned r = 0; r < w->conf.ranks; r++) {
        if (!w->rank[r].trainer)
            continue;
        tell_rank_of_middlewares(w, r);
        tell_rank_of_servers(w, r);
        hello_of_rank(w, r);
    }
}

void jw_revive_composer(struct job_world *w, unsigned c)
{
    w->composer_restarts[c]++;
    start_composer(w, c);
    greet(w);
}

void jw_revive_middleware(struct job_world *w, unsigned m)
{
    w->middleware_restarts[m]++;
    start_middleware(w, m);
    greet(w);
}

void jw_revive_rank(struct job_world *w, unsigned r)
{
    w->rank[r].restarts++;
    start_rank(w, r);
    greet(w);
}

void jw_revive_server(struct job_world *w, unsigned s)
{
    w->server_restarts[s]++;
    start_server(w, s);
    greet(w);
}

void jw_reshape(struct job_world *w, const struct jw_conf *conf)
{
    for (unsigned i = 0; i < JW_MAX; i++)
        rt_assert(!w->composer[i] && !w->middleware[i] && !w->rank[i].trainer && !w->owner[i]);
    take_shape(w, conf);
}

bool jw_asks(const struct job_world *w)
{
    bool left = false;
    for (unsigned s = 0; s < w->conf.servers; s++)
        left = left || w->server_role[s].leaves;
    for (unsigned c = 0; c < w->conf.composers; c++)
        left = left || w->composer_role[c].leaves;
    for (unsigned r = 0; r < w->conf.ranks; r++)
        left = left || w->rank[r].leaves;
    return left;
}

bool jw_has_left(void *world)
{
    return jw_asks(world) || jw_is_over(world);
}

void jw_restart_who_left(struct job_world *w)
{
    bool server = false;
    for (unsigned s = 0; s < w->conf.servers; s++)
        server = server || w->server_role[s].leaves;
    if (server)
        jw_restart_server(w);
    for (unsigned c = 0; c < w->conf.composers; c++)
        if (w->composer_role[c].leaves)
            jw_restart_composer(w, c);
    for (unsigned r = 0; r < w->conf.ranks; r++)
        if (w->rank[r].leaves)
            jw_restart_rank(w, r);
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
        if (w->rank[r].trainer)
            jw_check_numbers(w, w->rank[r].trainer);
        sim_forget_work(w->sim, jw_node_rank(w, r)); /* of a job that failed */
        tr_trainer_destroy(w->rank[r].trainer);
        tr_gpu_close(&w->rank[r].device);
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

void jw_run(struct job_world *w)
{
    bool over = sim_run_until(w->sim, jw_is_over, w, 300 * RT_S);
    if (!over || w->failed)
        jw_tell(w);
    if (w->failed)
        fail_msg("seed %llu: failed: %s", (unsigned long long)w->conf.seed, w->failed_text);
    if (!over)
        fail_msg("seed %llu: not done after five simulated minutes",
                 (unsigned long long)w->conf.seed);
}
