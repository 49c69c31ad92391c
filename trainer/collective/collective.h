/* trainer/collective/collective.h -- summing a vector over the ranks of a group.
 *
 * A vtable because there is a true fork: a group of one, a TCP ring, NCCL. The error model is NCCL's: an
 * operation is started and calls back; that a rank is gone is heard from elsewhere (trainer/group.c), which
 * then aborts the open operation and forms the group again. Everything here is called on the loop
 * thread.
 *
 * A sum is opened when the step begins, and its vector given away from its end on while backward still writes its front:
 *
 *     begin -> ready(from) ... -> complete -> `done`        nothing of ours touches value[from..n) until `done`
 *
 * What is ready is summed at once, in buckets, from the last one to the first. All bits are a function of the vectors and the
 * ranks: not of the buckets, nor of when they were ready. */
#ifndef TR_COLLECTIVE_H
#define TR_COLLECTIVE_H

#include "runtime/net/rpc.h"

struct tr_collective;

/* err 0: every rank's vector holds the same bits, the sum; nonfinite[r] (valid during the call) is what
 * rank r said. RT_ECANCELED: aborted; RT_EDEADLINE: no progress for TR_STALL_NS from complete() on. Then the vector is spoilt. */
typedef void (*tr_reduced_fn)(void *arg, int err, const uint8_t *nonfinite);

#define TR_STALL_NS (30 * 1000000000ull)

struct tr_collective_ops {
    const char *name;
    /* Open a sum of value[n] over the ranks, in place; nothing of it is ready. One at a time, by all ranks in the same order.
     * @dtype: what travels, the same at all ranks: RT_DTYPE_F32, or RT_DTYPE_BF16, where each rank's partial sum and the sum
     * itself are rounded to the nearest: half the bytes, and an error of at most `world` times 2^-8 of the largest partial sum. */
    void (*begin)(struct tr_collective *collective, float *value, size_t n, uint32_t dtype,
                  tr_reduced_fn done, void *arg);
    /* value[from..n) is ready: the collective's. Nothing when none is open: it was aborted. May call `done` with an error. */
    void (*ready)(struct tr_collective *collective, size_t from);
    /* All of it is; and whether we saw what is not finite. `done` may be called before it returns. */
    void (*complete)(struct tr_collective *collective, bool nonfinite);
    void (*abort)(struct tr_collective *collective); /* the open operation, if any, is done now */
    void (*form)(struct tr_collective *collective, uint64_t group_epoch); /* none may be open */
    void (*destroy)(struct tr_collective *collective);                    /* never calls `done` */
};

struct tr_collective {
    const struct tr_collective_ops *ops; /* implementations embed this first */
    size_t
        bucket; /* elements: less is not begun with, so ready() is for whole ones; 0: there are none */
    bool on_gpu; /* value[] is memory of the GPU */
};

/* The group of one rank: its vector is the sum. */
int tr_collective_single(struct tr_collective **out);

struct tr_ring_conf {
    struct rt_io *io;
    uint32_t world, rank; /* world >= 2 */
    struct rt_peer *next; /* rank (rank + 1) % world: chunks go there */
    size_t n_max;         /* longest vector */
    size_t bucket;        /* elements; more where there would be more than WIRE_BUCKETS_MAX */
    size_t grain;         /* see ring.c; 0: as usual. Tests set it. */
    uint64_t stall_ns;    /* 0: TR_STALL_NS */
};
/* A ring over rt_rpc. Its owner's rpc serves WIRE_REDUCE_CHUNK with tr_ring_serve and tells when the link to
 * `next` is up; of another collective than a ring, the one refuses and the other does nothing. RT_ENOMEM. The rpc goes before the ring does. */
int tr_collective_ring(const struct tr_ring_conf *conf, struct tr_collective **out);
void tr_ring_serve(struct tr_collective *collective, struct rt_call *call,
                   const struct rt_frame *request);
void tr_ring_peer_up(struct tr_collective *collective);

#endif
