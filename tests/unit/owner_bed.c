/* tests/unit/owner_bed.c -- owner_bed.h. Both ends have one identity but for their role, and all requests one deadline,
 * which no test that passes comes near. */
#include "tests/unit/owner_bed.h"

#include "runtime/base/err.h"
#include "runtime/wire/member.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define INCARNATION 5u
#define DEADLINE    (60 * 1000000000ull)

static const struct rt_loop_conf loop_conf = {.name = "test", .pool_budget = 1 << 30};

static struct rt_identity identity(enum rt_role role, uint32_t index)
{
    return (struct rt_identity){.job = "test",
                                .role = role,
                                .index = index,
                                .incarnation = INCARNATION,
                                .wire_version = RT_WIRE_VERSION,
                                .config_hash = 1,
                                .plan_hash = 2};
}

void owner_bed_open(struct owner_bed *bed, const struct owner_bed_conf *conf)
{
    struct ebs_owner_conf owner = {.identity = identity(RT_ROLE_EMBEDDING_SERVER, 0),
                                   .job = conf->job,
                                   .shards = &bed->shards,
                                   .greeting = &wire_greeting,
                                   .listen = "tcp:127.0.0.1:0",
                                   .memory = conf->memory,
                                   .parts_bytes = conf->parts_bytes,
                                   .cut_still_ns = conf->cut_still_ns,
                                   .checkpoint_dir = conf->checkpoint_dir,
                                   .slice_rows = conf->slice_rows};

    memset(bed, 0, sizeof(*bed));
    assert_int_equal(rt_shard_map_init(&bed->shards, conf->owners ? conf->owners : 1, 1), 0);
    assert_int_equal(rt_loop_create(&loop_conf, &bed->loop), 0);
    bed->owner_loop = bed->loop;
    if (conf->thread)
        assert_int_equal(rt_loop_create(&loop_conf, &bed->owner_loop), 0);
    owner.io = rt_loop_io(bed->owner_loop);
    if (ebs_owner_create(&owner, &bed->owner) != 0)
        fail_msg("%s", rt_err_text());
}

void owner_bed_run(struct owner_bed *bed)
{
    assert_int_equal(rt_loop_start_thread(bed->owner_loop), 0);
    bed->running = true;
}

void owner_bed_halt(struct owner_bed *bed)
{
    if (!bed->running)
        return;
    rt_loop_stop(bed->owner_loop);
    rt_loop_join(bed->owner_loop);
    bed->running = false;
}

static void on_up(void *ctx, struct rt_peer *peer)
{
    struct owner_bed *bed = ctx;

    (void)peer;
    rt_loop_stop(bed->loop);
}

void owner_bed_connect(struct owner_bed *bed, uint32_t k)
{
    owner_bed_connect_as(bed, k, RT_ROLE_MIDDLEWARE);
}

void owner_bed_connect_as(struct owner_bed *bed, uint32_t k, enum rt_role role)
{
    struct owner_asker *asker = &bed->asker[k];
    struct rt_rpc_conf conf = {.io = rt_loop_io(bed->loop),
                               .self = identity(role, k),
                               .greeting = &wire_greeting,
                               .reply_max = 1 << 30,
                               .dead_ns = DEADLINE,
                               .peer_up = on_up,
                               .ctx = bed};

    if (asker->rpc)
        rt_rpc_destroy(asker->rpc);
    assert_int_equal(rt_rpc_create(&conf, &asker->rpc), 0);
    asker->peer = rt_rpc_peer(asker->rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0);
    rt_peer_set_address(asker->peer, ebs_owner_address(bed->owner), INCARNATION);
    rt_loop_run(bed->loop);
    assert_true(rt_peer_is_up(asker->peer));
}

void owner_bed_close(struct owner_bed *bed)
{
    owner_bed_halt(bed);
    for (uint32_t k = 0; k < OWNER_ASKERS; k++)
        if (bed->asker[k].rpc)
            rt_rpc_destroy(bed->asker[k].rpc);
    ebs_owner_destroy(bed->owner);
    if (bed->owner_loop != bed->loop)
        rt_loop_destroy(bed->owner_loop);
    rt_loop_destroy(bed->loop);
}

struct rt_piece owner_bed_piece(struct owner_bed *bed, const void *data, size_t size)
{
    struct rt_buf *buf = rt_io_buf(rt_loop_io(bed->loop), size);

    assert_non_null(buf);
    memcpy(buf->data, data, size);
    return (struct rt_piece){.data = buf->data, .size = size, .buf = buf};
}

void owner_bed_ask(struct owner_bed *bed, uint32_t k, uint16_t method, uint64_t batch_id,
                   struct wire_out *message, const struct rt_piece *pieces, size_t n_pieces,
                   rt_reply_fn done, void *arg)
{
    struct rt_outgoing out = {.batch_id = batch_id,
                              .message = message->data,
                              .message_size = message->size,
                              .pieces = pieces,
                              .n_pieces = n_pieces};

    assert_int_equal(rt_rpc_call(bed->asker[k].peer, method, &out, DEADLINE, done, arg), 0);
    for (size_t i = 0; i < n_pieces; i++)
        rt_buf_unref(pieces[i].buf);
    wire_out_release(message);
}
