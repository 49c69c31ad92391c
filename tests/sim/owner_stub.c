/* tests/sim/owner_stub.c -- see owner_stub.h. */
#include "tests/sim/owner_stub.h"
#include "tests/lib/temp.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/checkpoint/store.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/checkpoint.h"
#include "runtime/wire/member.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define SEQUENCES  256 /* of a split, at least as many as a test has */
#define WRITING_NS (30 * RT_MS)

static uint64_t draw(struct stubs *stubs, uint64_t below)
{
    return rt_below(rt_draw(stubs->key, stubs->draws++), below);
}

/* At the cut an owner has what the ledger has; it has had rows of every batch of the fixture. */
static void check_filters(const struct stubs *stubs)
{
    const struct job_world *w = stubs->world;
    const struct tr_trainer *trainer = w->rank[0].trainer;
    for (uint32_t s = 0; trainer && s < w->job->data.splits; s++)
        for (uint64_t q = 0; q < SEQUENCES; q++) {
            uint64_t id = rt_batch_id(s, q);
            bool finished = rt_ledger_is_finished(trainer->ledger, id);
            assert_int_equal(rt_ledger_is_stepped(trainer->ledger, id), finished);
            for (unsigned k = 0; k < w->conf.owners; k++) {
                bool seen = ebs_filter_seen(w->owner[k]->filter, id);
                if (seen != finished && !(stubs->rolled_back && seen))
                    fail_msg("seed %llu: batch %016llx is %s in the ledger, and owner %u has%s "
                             "applied it",
                             (unsigned long long)w->conf.seed, (unsigned long long)id,
                             finished ? "finished" : "open", k, seen ? "" : " not");
            }
        }
}

/* ---- the file ---- */

static void answer_await(struct owner_stub *stub)
{
    struct wire_cut_table table[8] = {{0}};
    char file[32];
    struct wire_out out = {0};
    snprintf(file, sizeof file, RT_ROWFILE_NAME, stub->number);
    struct wire_await_cut_reply reply = {.attempt = stub->attempt,
                                         .file = file,
                                         .bytes = stub->bytes,
                                         .digest = stub->digest,
                                         .n_tables = stub->all->world->job->n_tables,
                                         .table = table};
    if (!stub->await || !stub->written)
        return;
    assert_int_equal(wire_await_cut_reply_pack(&reply, &out), 0);
    rt_call_reply(stub->await,
                  &(struct rt_outgoing){.message = out.data, .message_size = out.size});
    stub->await = NULL;
    wire_out_release(&out);
}

static int write_file(struct owner_stub *stub)
{
    const struct rt_job *job = stub->all->world->job;
    struct rt_rowfile_table table[8];
    struct rt_rowfile_out out = {0};
    struct rt_shard_map map;
    char path[256];
    assert_int_equal(rt_shard_map_init(&map, 1, stub->all->n), 0);
    struct rt_rowfile_head head = {.attempt = stub->attempt,
                                   .base = stub->base,
                                   .step = stub->step,
                                   .job = rt_rowfile_job(job),
                                   .owner = stub->number,
                                   .owners = stub->all->n,
                                   .shard_first = rt_shard_first(&map, stub->number),
                                   .shard_end = rt_shard_first(&map, stub->number + 1),
                                   .n_tables = job->n_tables};
    snprintf(path, sizeof path, "%s/%s/" RT_ROWFILE_NAME, stub->all->dir, stub->name, stub->number);
    int err = rt_rowfile_begin(&out, path, job, &head);
    if (!err)
        err = rt_rowfile_finish(&out, table, &stub->bytes, &stub->digest);
    rt_rowfile_drop(&out);
    return err;
}

static void on_timer(void *arg)
{
    struct owner_stub *stub = arg;
    int err = stub->all->fails ? RT_FAIL(RT_EFILE, "no space left on device") : write_file(stub);
    if (err && stub->await)
        rt_call_fail(stub->await, err, rt_err_text());
    if (err)
        stub->await = NULL;
    stub->written = !err;
    answer_await(stub);
}

/* ---- what is asked ---- */

static void forget_cut(struct owner_stub *stub, const char *why)
{
    rt_timer_stop(sim_node(stub->all->world->sim, jw_node_spare(stub->all->world) + stub->number),
                  &stub->timer);
    if (stub->await)
        rt_call_fail(stub->await, RT_ECANCELED, why);
    stub->await = NULL;
}

static void serve_cut(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct owner_stub *stub = ctx;
    struct stubs *all = stub->all;
    struct rt_arena *arena;
    struct wire_cut cut;
    struct wire_out out = {0};
    check_filters(all);
    assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
    assert_int_equal(wire_cut_unpack(request->message, request->header.message_size, arena, &cut),
                     0);
    if (all->mute) {
        if (stub->held)
            rt_call_fail(stub->held, RT_ESTALE, "asked again");
        stub->held = call;
    } else if (cut.attempt <= stub->attempt || (cut.base && cut.base != stub->kept)) {
        all->refused++;
        rt_call_fail(call, RT_ESTALE, "that is not what was kept");
    } else {
        forget_cut(stub, "another cut");
        all->cuts++;
        all->increments += cut.base != 0;
        stub->attempt = cut.attempt;
        stub->base = cut.base;
        stub->step = cut.step;
        stub->written = false;
        snprintf(stub->name, sizeof stub->name, "%s", cut.name);
        rt_timer_start(sim_node(all->world->sim, jw_node_spare(all->world) + stub->number),
                       &stub->timer, all->slow_ns + draw(all, WRITING_NS));
        assert_int_equal(wire_cut_reply_pack(&(struct wire_cut_reply){0}, &out), 0);
        rt_call_reply(call, &(struct rt_outgoing){.message = out.data, .message_size = out.size});
        wire_out_release(&out);
    }
    rt_arena_destroy(arena);
}

static void serve_await(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct owner_stub *stub = ctx;
    struct rt_arena *arena;
    struct wire_await_cut await;
    assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
    assert_int_equal(
        wire_await_cut_unpack(request->message, request->header.message_size, arena, &await), 0);
    rt_arena_destroy(arena);
    if (await.attempt != stub->attempt) {
        rt_call_fail(call, RT_EUNKNOWN, "there is no such cut");
        return;
    }
    if (stub->await)
        rt_call_fail(stub->await, RT_ESTALE, "asked again");
    stub->await = call;
    answer_await(stub);
}

static void serve_end(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct owner_stub *stub = ctx;
    struct rt_arena *arena;
    struct wire_end_cut end;
    assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
    assert_int_equal(
        wire_end_cut_unpack(request->message, request->header.message_size, arena, &end), 0);
    rt_arena_destroy(arena);
    if (end.attempt == stub->attempt) {
        forget_cut(stub, "it is over");
        stub->kept = end.keep ? end.attempt : 0;
        stub->all->kept += end.keep;
        stub->all->given_up += !end.keep;
    }
    rt_call_reply(call, &(struct rt_outgoing){0});
}

static void serve_ledger(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct owner_stub *stub = ctx;
    const uint64_t first = rt_batch_id(1, 2);
    const uint32_t count = (uint32_t)stub->all->lose;
    struct wire_tell_ledger_reply reply = {
        .lost = stub->all->lose, .n_ranges = stub->all->lose > 0, .first = &first, .count = &count};
    struct wire_tell_ledger told;
    struct wire_await_phase_reply state;
    struct rt_arena *arena;
    struct wire_out out = {0};
    assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
    assert_int_equal(
        wire_tell_ledger_unpack(request->message, request->header.message_size, arena, &told), 0);
    assert_int_equal(wire_await_phase_reply_unpack(told.ledger, told.ledger_size, arena, &state),
                     0);
    assert_true(state.n_ledger <= stub->all->world->job->data.splits);
    assert_int_equal(wire_tell_ledger_reply_pack(&reply, &out), 0);
    rt_call_reply(call, &(struct rt_outgoing){.message = out.data, .message_size = out.size});
    wire_out_release(&out);
    rt_arena_destroy(arena);
    stub->all->told++;
    stub->all->lose = 0;
}

/* ---- life ---- */

#define TRAINER RT_ROLE_BIT(RT_ROLE_TRAINER)

static void start(struct owner_stub *stub)
{
    static const struct rt_method_def method[] = {
        {WIRE_CUT, "Cut", TRAINER, 1 << 16, 0, serve_cut},
        {WIRE_AWAIT_CUT, "AwaitCut", TRAINER, 1 << 16, 0, serve_await},
        {WIRE_END_CUT, "EndCut", TRAINER, 1 << 16, 0, serve_end},
        {WIRE_TELL_LEDGER, "TellLedger", TRAINER, 1 << 20, 0, serve_ledger}};
    const struct job_world *w = stub->all->world;
    struct rt_rpc_conf conf = {.io = sim_node(w->sim, jw_node_spare(w) + stub->number),
                               .self = w->owner[0]->conf.identity,
                               .greeting = &wire_greeting,
                               .methods = method,
                               .n_methods = ARRAY_LEN(method),
                               .ctx = stub};
    char listen[RT_ADDRESS_MAX];
    conf.self.loop = stub->number;
    conf.self.incarnation = stub->incarnation;
    snprintf(listen, sizeof listen, "sim:%u:%llu", jw_node_spare(w) + stub->number,
             (unsigned long long)stub->incarnation);
    stub->timer = (struct rt_timer){.fire = on_timer, .arg = stub};
    assert_int_equal(rt_rpc_create(&conf, &stub->rpc), 0);
    assert_int_equal(rt_rpc_listen(stub->rpc, listen, stub->address), 0);
}

static void stop(struct owner_stub *stub)
{
    const struct job_world *w = stub->all->world;
    rt_timer_stop(sim_node(w->sim, jw_node_spare(w) + stub->number), &stub->timer);
    if (stub->await)
        rt_call_fail(stub->await, RT_ECANCELED, "gone");
    if (stub->held)
        rt_call_fail(stub->held, RT_ECANCELED, "gone");
    stub->await = stub->held = NULL;
    rt_rpc_destroy(stub->rpc);
}

static void say_hello(void *ctx, unsigned rank)
{
    struct stubs *stubs = ctx;
    const char *address[STUBS_MAX];
    for (unsigned k = 0; k < stubs->n; k++)
        address[k] = stubs->at[k].address;
    if (stubs->n > 0 && stubs->at[0].rpc && stubs->world->rank[rank].trainer)
        tr_trainer_on_server(stubs->world->rank[rank].trainer, 0, 1, address, stubs->n,
                             stubs->at[0].incarnation);
}

void stubs_start(struct stubs *stubs, struct job_world *w, struct jw_conf *conf, unsigned n)
{
    memset(stubs, 0, sizeof *stubs);
    stubs->world = w;
    temp_folder(stubs->dir);
    conf->checkpoint_dir = stubs->dir;
    conf->spares = n;
    conf->rank_started = say_hello;
    conf->ctx = stubs;
    stubs->key = rt_draw_key(conf->seed, "stubs", NULL);
    jw_start(w, conf);
    stubs->n = n;
    for (unsigned k = 0; k < n; k++) {
        stubs->at[k] = (struct owner_stub){.all = stubs, .number = k, .incarnation = 5};
        start(&stubs->at[k]);
    }
    for (unsigned r = 0; r < w->conf.ranks; r++)
        say_hello(stubs, r);
}

void stubs_stop(struct stubs *stubs)
{
    for (unsigned k = 0; k < stubs->n; k++)
        stop(&stubs->at[k]);
}

void stubs_restart(struct stubs *stubs)
{
    struct job_world *w = stubs->world;
    for (unsigned k = 0; k < stubs->n; k++) {
        uint64_t incarnation = stubs->at[k].incarnation + 1;
        stop(&stubs->at[k]);
        stubs->at[k] = (struct owner_stub){.all = stubs, .number = k, .incarnation = incarnation};
        start(&stubs->at[k]);
    }
    for (unsigned r = 0; r < w->conf.ranks; r++)
        say_hello(stubs, r);
}
