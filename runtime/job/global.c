/* runtime/job/global.c -- global.yml: mode, staleness, seed, wire, links, threads, ports. */
#include "runtime/job/read.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/conf/option.h"

/* The four paths as they are said: 0 is `dtype`, and the rest is enum wire_dtype + 1. */
struct global_keys {
    struct rt_global_conf conf;
    uint32_t dtype, rows, row_gradients, embeddings, gradients, all_reduce;
};

#define AT(field)            offsetof(struct global_keys, conf.field)
#define SAID(field)          offsetof(struct global_keys, field)
#define EMBEDDING_MEMORY_MIN (1ull << 20)
#define WIRE_TYPES           "float32|float16|bfloat16"
#define PATH_TYPES           "dtype|" WIRE_TYPES

static const struct rt_option option[] = {
    {"mode", RT_OPT_ENUM, AT(mode), "hybrid", 0, 0, "full|hybrid|async",
     "full: one group step at a time; hybrid: dense synchronous, sparse within `staleness`; async: "
     "each rank steps alone"},
    {"exact", RT_OPT_BOOL, AT(exact), "false", 0, 0, NULL,
     "every order and draw fixed, results bit for bit the same; needs `mode: full`"},
    {"staleness", RT_OPT_U32, AT(staleness), "4", 1, 1024, NULL,
     "permits per trainer rank: batches looked up whose gradients are not yet acked"},
    {"sync_every", RT_OPT_U32, AT(sync_every), "16", 1, RT_SYNC_EVERY_MAX, NULL,
     "mode `async`: local steps of each rank between two averages of the dense weights"},
    {"max_steps", RT_OPT_U64, AT(max_steps), "0", 0, 9007199254740992.0, NULL,
     "training ends after so many steps of the group, wherever in an epoch that is; 0: no limit. "
     "Mode "
     "`async`: steps of rank 0, up to the next average"},
    {"evaluate_every", RT_OPT_U64, AT(evaluate_every), "0", 0, 9007199254740992.0, NULL,
     "evaluate each time so many steps of the group were made, besides the ends of epochs; 0: at "
     "the "
     "ends of epochs only"},
    {"seed", RT_OPT_U64, AT(seed), "1", 0, 9007199254740992.0, NULL,
     "of every random draw: initial values, shuffling, dropout"},
    {"save", RT_OPT_ENUM, AT(save), "all", 0, 0, "all|dense|none",
     "what `local` leaves in model/ of the run directory when the job is done: dense weights and "
     "all "
     "rows, dense weights alone, or nothing. Rows take `dim` times 4 or 2 bytes and 8 each"},
    {"save_state", RT_OPT_BOOL, AT(save_state), "false", 0, 0, NULL,
     "the optimizers' state beside what `save` leaves, so that another job goes on where this one "
     "ended: as many bytes as rows and weights have of it"},
    {"load_state", RT_OPT_BOOL, AT(load_state), "true", 0, 0, NULL,
     "take up the optimizers' state, and the number of steps, that a model of `--init-from` has; "
     "false: optimizers begin anew"},
    {"wire.dtype", RT_OPT_ENUM, SAID(dtype), "float32", 0, 0, WIRE_TYPES,
     "element type of embeddings and gradients on each of the four paths that says `dtype`"},
    {"wire.rows", RT_OPT_ENUM, SAID(rows), "dtype", 0, 0, PATH_TYPES,
     "of rows, from embedding servers to middlewares"},
    {"wire.row_gradients", RT_OPT_ENUM, SAID(row_gradients), "dtype", 0, 0, PATH_TYPES,
     "of rows' gradients, from middlewares to embedding servers"},
    {"wire.embeddings", RT_OPT_ENUM, SAID(embeddings), "dtype", 0, 0, PATH_TYPES,
     "of pooled rows and of sequences, from middlewares to trainers"},
    {"wire.gradients", RT_OPT_ENUM, SAID(gradients), "dtype", 0, 0, PATH_TYPES,
     "of their gradients, from trainers to middlewares"},
    {"wire.all_reduce", RT_OPT_ENUM, SAID(all_reduce), "float32", 0, 0, "float32|bfloat16",
     "of the dense gradients that trainers sum: bfloat16 halves what each of them sends, and "
     "rounds partial sums. Averages of weights, in mode `async`, are always float32"},
    {"wire.compression", RT_OPT_ENUM, AT(wire.compression), "none", 0, 0, "none|lz4",
     "of payloads; costs CPU, so it pays only where the network is the limit"},
    {"link.heartbeat_ms", RT_OPT_U64, AT(heartbeat_ms), "1000", 10, 60000, NULL,
     "a connection that has sent nothing for so long says that it lives"},
    {"link.dead_ms", RT_OPT_U64, AT(dead_ms), "5000", 20, 600000, NULL,
     "a connection that has heard nothing for so long is closed; at least twice heartbeat_ms"},
    {"link.credit", RT_OPT_U64, AT(credit), "268435456", 1 << 20, 1 << 30, NULL,
     "bytes that may wait to be sent on one connection, or one message if that is more; four times "
     "as much in a process. Rows and their gradients go in parts of at most a fourth of it, and at "
     "least 4 MiB"},
    {"middleware.loops", RT_OPT_U32, AT(middleware_loops), "0", 0, 256, NULL,
     "event loops per middleware; 0: min(cores, 4)"},
    {"middleware.memory", RT_OPT_U64, AT(middleware_memory), "1073741824", 1 << 20, 1099511627776.0,
     NULL, "bytes of batches that one middleware loop holds before it refuses more"},
    {"embedding_server.workers", RT_OPT_U32, AT(embedding_server_workers), "0", 0, 256, NULL,
     "owners (event loops) per embedding server; 0: min(cores, 8)"},
    {"embedding_server.memory", RT_OPT_U64, AT(embedding_server_memory), "0", 0, 1125899906842624.0,
     NULL,
     "bytes that the tables of one embedding server may take; at the cap rows are evicted by their "
     "table's policy, or new ids get no row; 0: no cap"},
    {"embedding_server.pin", RT_OPT_BOOL, AT(embedding_server_pin), "false", 0, 0, NULL,
     "each owner's thread stays on a core of its own, spread over the NUMA nodes"},
    {"embedding_server.numa_local", RT_OPT_BOOL, AT(embedding_server_numa_local), "false", 0, 0,
     NULL, "an owner's memory comes from the NUMA node of its core; needs `pin`"},
    {"trainer.device", RT_OPT_ENUM, AT(trainer_device), "auto", 0, 0, "auto|cpu|gpu",
     "what computes the dense network; `auto`: a GPU where one answers and saffron-cuda.so is "
     "beside the trainer, else the CPU"},
    {"trainer.collective", RT_OPT_ENUM, AT(trainer_collective), "auto", 0, 0, "auto|ring|nccl",
     "what sums dense gradients over several trainers: `ring` over TCP, in the host's memory; "
     "`nccl` "
     "from GPU to GPU, so all of them need one, and bits are NCCL's; `auto`: NCCL where a trainer "
     "has a GPU and the job is not `exact`, else the ring"},
    {"trainer.threads", RT_OPT_U32, AT(trainer_threads), "1", 1, 1024, NULL,
     "threads that share out a batch's samples; each has activations and gradients of its own. "
     "Where a network looks at all samples at once (`batchnorm`, `dice`), has sequences, or "
     "`wire.gradients` is float16, they share out matrix products, which pays less"},
    {"trainer.bucket_bytes", RT_OPT_U32, AT(trainer_bucket_bytes), "262144", 4096, 4194304, NULL,
     "trainers begin to sum each so many bytes of dense gradients (counted as float32) when they "
     "are computed, "
     "while those of earlier layers are not; no result depends on it"},
    {"checkpoint.every_seconds", RT_OPT_U64, AT(checkpoint.every_s), "600", 0, 31536000, NULL,
     "a checkpoint each so many seconds, where there is a checkpoint folder; 0: none by time"},
    {"checkpoint.every_steps", RT_OPT_U64, AT(checkpoint.every_steps), "0", 0, 9007199254740992.0,
     NULL, "a checkpoint each so many steps of the group; 0: none by steps"},
    {"checkpoint.full_every", RT_OPT_U32, AT(checkpoint.full_every), "10", 1, 1000, NULL,
     "one checkpoint in so many has all rows; those between have the rows that changed since the "
     "one before. 1: all have all"},
    {"checkpoint.keep", RT_OPT_U32, AT(checkpoint.keep), "3", 1, 1000, NULL,
     "full checkpoints, with what goes on from them, that stay; older ones are removed"},
    {"checkpoint.buffer", RT_OPT_U64, AT(checkpoint.buffer), "16777216", 1 << 20, 1073741824.0,
     NULL,
     "bytes that an owner has for rows on their way to the file, or 256 of its widest rows if that "
     "is more; when they are full, gradients wait"},
    {"checkpoint.cut_timeout_ms", RT_OPT_U64, AT(checkpoint.cut_timeout_ms), "1000", 10, 60000,
     NULL,
     "a checkpoint is given up if an owner has not answered within it; no step is made meanwhile"},
    {"guard.spike_deviations", RT_OPT_F64, AT(guard.spike_deviations), "6", 0, 1000000, NULL,
     "a warning, and checkpoints that say so, while a trainer's loss is so many deviations, and a "
     "tenth, above its moving mean, or the norm of the dense gradients so many above and twice "
     "its own; 0: none"},
    {"guard.spike_window", RT_OPT_U32, AT(guard.spike_window), "8", 1, 100000, NULL,
     "steps one after the other that have to be above it, and below it again"},
    {"guard.spike_warmup", RT_OPT_U32, AT(guard.spike_warmup), "100", 0, 1000000000, NULL,
     "the first steps of a process, which only say what is usual"},
    {"guard.spike_history", RT_OPT_U32, AT(guard.spike_history), "200", 1, 1000000, NULL,
     "steps that the moving mean and deviation are of"},
    {"guard.digest_every", RT_OPT_U32, AT(guard.digest_every), "100", 0, 1000000000, NULL,
     "trainers compare digests of their dense weights each so many steps, and before a checkpoint; "
     "where they differ the job ends. 0: never"},
    {"ports.middleware", RT_OPT_U32, AT(port_middleware), "7100", 1, 65535, NULL,
     "base port of a middleware, plus loop; `local` takes free ports"},
    {"ports.embedding_server", RT_OPT_U32, AT(port_embedding_server), "7300", 1, 65535, NULL,
     "base port of an embedding server, plus worker"},
    {"ports.trainer", RT_OPT_U32, AT(port_trainer), "7600", 1, 65535, NULL,
     "base port of a trainer, plus local rank"},
    {"ports.admin", RT_OPT_U32, AT(port_admin), "9100", 1, 65535, NULL,
     "port of /metrics, /healthz, /readyz and /status"},
};

const char *rt_mode_name(uint32_t mode)
{
    static const char *const name[] = {
        [RT_MODE_FULL] = "full", [RT_MODE_HYBRID] = "hybrid", [RT_MODE_ASYNC] = "async"};

    rt_assert(mode < ARRAY_LEN(name));
    return name[mode];
}

/* The types of the four paths, each its own or that of all. */
static void take_types(const struct global_keys *keys, struct rt_wire_conf *wire)
{
    wire->rows = keys->rows ? keys->rows - 1 : keys->dtype;
    wire->row_gradients = keys->row_gradients ? keys->row_gradients - 1 : keys->dtype;
    wire->embeddings = keys->embeddings ? keys->embeddings - 1 : keys->dtype;
    wire->gradients = keys->gradients ? keys->gradients - 1 : keys->dtype;
    wire->all_reduce = keys->all_reduce ? WIRE_BF16 : WIRE_F32;
}

int rt_job_read_global(const struct rt_node *root, struct rt_job *job)
{
    struct global_keys keys = {0};
    int err = rt_options_load(option, ARRAY_LEN(option), root, &keys, job->arena);
    if (err)
        return err;
    take_types(&keys, &keys.conf.wire);
    job->global = keys.conf;
    if (job->global.dead_ms < 2 * job->global.heartbeat_ms)
        return rt_node_fail(rt_node_get(root, "link"),
                            "expected a dead_ms of at least twice heartbeat_ms, got %llu and %llu",
                            (unsigned long long)job->global.dead_ms,
                            (unsigned long long)job->global.heartbeat_ms);
    const struct rt_checkpoint_conf *checkpoint = &job->global.checkpoint;
    if ((checkpoint->keep + 1) * checkpoint->full_every > RT_CHECKPOINTS_MAX)
        return rt_node_fail(
            rt_node_get(root, "checkpoint"),
            "expected (keep + 1) x full_every of at most %u, got %u and %u: so many "
            "checkpoints may be in one folder",
            RT_CHECKPOINTS_MAX, checkpoint->keep, checkpoint->full_every);
    if (job->global.guard.digest_every == 1)
        return rt_node_fail(
            rt_node_find(root, "guard.digest_every"),
            "expected 0, or at least 2, got 1: ranks tell their digests a step late");
    if (job->global.exact && job->global.mode != RT_MODE_FULL)
        return rt_node_fail(rt_node_get(root, "exact"),
                            "expected `mode: full` beside `exact: true`");
    if (job->global.exact && job->global.trainer_collective == RT_COLLECTIVE_NCCL)
        return rt_node_fail(rt_node_find(root, "trainer.collective"),
                            "expected auto or ring beside `exact: true`: the order of NCCL's sums "
                            "is a matter of the machines");
    if (job->global.embedding_server_memory > 0 && job->global.exact)
        return rt_node_fail(rt_node_find(root, "embedding_server.memory"),
                            "expected 0 beside `exact: true`: which rows there are would depend on "
                            "the number of servers");
    if (job->global.embedding_server_memory > 0 &&
        job->global.embedding_server_memory < EMBEDDING_MEMORY_MIN)
        return rt_node_fail(rt_node_find(root, "embedding_server.memory"),
                            "expected 0, or at least %llu, got %llu", EMBEDDING_MEMORY_MIN,
                            (unsigned long long)job->global.embedding_server_memory);
    if (job->global.embedding_server_numa_local && !job->global.embedding_server_pin)
        return rt_node_fail(rt_node_get(root, "embedding_server"),
                            "expected `pin: true` beside `numa_local: true`");
    return 0;
}

void rt_job_document_global(struct rt_strbuf *out)
{
    rt_options_help(option, ARRAY_LEN(option), "global.", out);
}
