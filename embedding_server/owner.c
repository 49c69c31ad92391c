/* embedding_server/owner.c -- an owner's life: its tables as the job has them, filter, gather, listener.
 *
 * Everything is made before the loop runs and torn down after it has stopped; in between only the
 * loop's thread touches it, through the requests of serve*.c and the turns of turn.c. */
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/batch_id.h"

_Static_assert(EBS_DIM_MAX == WIRE_DIM_MAX, "a row fits a message");

static int create_table(struct ebs_owner *owner, const struct rt_table_conf *table,
                        struct ebs_table **out)
{
    double learning_rate = table->optimizer.learning_rate;
    struct ebs_table_conf conf = {.job = table,
                                  .seed = owner->conf.job->global.seed,
                                  .shards = owner->shard_end - owner->shard_first,
                                  .budget = &owner->budget};
    int err;

    if (!(learning_rate >= 0.0 && learning_rate <= EBS_FACTOR_MAX))
        return RT_FAIL(RT_EUSAGE, "table %s: learning_rate: expected 0..%g, got %g", table->name,
                       EBS_FACTOR_MAX, learning_rate);
    err = ebs_table_create(&conf, out);
    if (err == RT_EFULL)
        return RT_FAIL(
            RT_EUSAGE,
            "table %s: global.embedding_server.memory: a worker's %llu bytes do not hold its "
            "tables while they are empty; expected more, or a smaller admission.sketch_bytes",
            table->name, (unsigned long long)owner->conf.memory);
    return err;
}

static int create_tables(struct ebs_owner *owner)
{
    const struct rt_job *job = owner->conf.job;
    int err = 0;

    owner->budget.limit = owner->conf.memory;
    owner->table = rt_xcalloc(job->n_tables, sizeof(struct ebs_table *));
    owner->lr = rt_xcalloc(job->n_tables, sizeof(float));
    owner->table_stats = rt_xcalloc(job->n_tables, sizeof(*owner->table_stats));
    for (uint32_t t = 0; t < job->n_tables && !err; t++) {
        owner->lr[t] = (float)job->table[t].optimizer.learning_rate;
        err = create_table(owner, &job->table[t], &owner->table[t]);
    }
    owner->applier = (struct ebs_applier){.table = owner->table,
                                          .lr = owner->lr,
                                          .n_tables = job->n_tables,
                                          .staleness = job->global.staleness,
                                          .piece_rows = owner->conf.slice_rows};
    for (uint32_t t = 0; t < job->n_tables && !err; t++)
        ebs_count_table(owner, t);
    return err;
}

static void on_fenced(void *ctx, uint64_t held)
{
    struct ebs_owner *owner = ctx;

    if (owner->conf.fenced)
        owner->conf.fenced(owner->conf.ctx, held);
}

static int listen_on(struct ebs_owner *owner)
{
    const struct ebs_owner_conf *conf = &owner->conf;
    struct rt_rpc_conf rpc = {.io = conf->io,
                              .self = conf->identity,
                              .greeting = conf->greeting,
                              .methods = ebs_methods,
                              .n_methods = ebs_method_count,
                              .heartbeat_ns = conf->job->global.heartbeat_ms * RT_MS,
                              .dead_ns = conf->job->global.dead_ms * RT_MS,
                              .credit = conf->job->global.credit,
                              .budget = conf->budget,
                              .lz4 = conf->job->global.wire.compression == RT_COMPRESS_LZ4,
                              .ctx = owner,
                              .fenced = on_fenced};
    int err = rt_rpc_create(&rpc, &owner->rpc);

    return err ? err : rt_rpc_listen(owner->rpc, conf->listen, owner->address);
}

int ebs_owner_create(const struct ebs_owner_conf *conf, struct ebs_owner **out)
{
    struct ebs_owner *owner = rt_xcalloc(1, sizeof(*owner));
    size_t parts_bytes =
        conf->parts_bytes ? conf->parts_bytes : rt_pool_budget(conf->io->ops->pool(conf->io)) / 4;
    int err;

    rt_assert(conf->owner < conf->shards->owners);
    owner->conf = *conf;
    owner->shard_map = conf->shards->version;
    owner->shard_first = rt_shard_first(conf->shards, conf->owner);
    owner->shard_end = rt_shard_first(conf->shards, conf->owner + 1);
    owner->owners = conf->shards->owners;
    owner->last = &owner->first;
    err = rt_arena_create(EBS_UNPACK_BYTES_MAX, &owner->arena);
    if (!err)
        err = create_tables(owner);
    if (!err)
        err = ebs_filter_create(conf->window ? conf->window : RT_BATCH_WINDOW, &owner->filter);
    if (!err)
        err = ebs_gather_create(parts_bytes, &owner->gather);
    if (!err) {
        ebs_turn_start(owner);
        ebs_window_start(owner);
        err = listen_on(owner);
    }
    if (err) {
        ebs_owner_destroy(owner);
        return err;
    }
    owner->conf.listen = NULL; /* these two were the caller's */
    owner->conf.shards = NULL;
    *out = owner;
    return 0;
}

void ebs_owner_destroy(struct ebs_owner *owner)
{
    if (!owner)
        return;
    while (owner->first) {
        struct ebs_waiting *waiting = owner->first;

        owner->first = waiting->next;
        rt_call_fail(waiting->call, RT_ECANCELED, "the embedding server stops");
        rt_buf_unref(waiting->payload);
        rt_free(waiting);
    }
    ebs_turn_stop(owner);
    ebs_save_stop(owner);
    ebs_import_stop(owner);
    ebs_cut_stop(owner);
    ebs_gather_destroy(owner->gather);
    rt_rpc_destroy(owner->rpc);
    ebs_filter_destroy(owner->filter);
    rt_free(owner->lost);
    ebs_applier_release(&owner->applier);
    for (uint32_t t = 0; owner->table && t < owner->conf.job->n_tables; t++)
        ebs_table_destroy(owner->table[t]);
    rt_free(owner->table);
    rt_free(owner->lr);
    rt_free(owner->table_stats);
    rt_arena_destroy(owner->arena);
    wire_out_release(&owner->reply);
    rt_free(owner);
}

const char *ebs_owner_address(const struct ebs_owner *owner)
{
    return owner->address;
}

const struct ebs_owner_stats *ebs_owner_stats(const struct ebs_owner *owner)
{
    return &owner->stats;
}

const struct ebs_table_stats *ebs_owner_table_stats(const struct ebs_owner *owner, uint32_t table)
{
    return &owner->table_stats[table];
}

const struct rt_rpc_stats *ebs_owner_rpc_stats(const struct ebs_owner *owner)
{
    return rt_rpc_stats(owner->rpc);
}
