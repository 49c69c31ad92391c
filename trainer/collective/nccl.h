/* trainer/collective/nccl.h -- the all-reduce between GPUs: NCCL behind collective.h.
 *
 * Two halves. What calls NCCL is in the object that is loaded where a GPU answers (trainer/backend/cuda/nccl.c): few functions over one
 * communicator, the table below, without states or clocks. All that decides is here in the trainer (nccl.c): when a communicator is made,
 * what is given to it and when, when it is given up. So its states are tested without a GPU, over a table that a test writes.
 *
 *   form(epoch) -> MAKING (rank 0: a unique id) or ASKING (the others: rank 0 for it) -> OPENING -> JOINING -poll: all came-> UP
 *   any -an error, a version that differs-> FAILED          any -abort, form-> CLOSED: a helper thread aborts the communicator
 *
 * What who makes it has to do (trainer/reduce.c, trainer/main.c):
 *   - one process per GPU, as `saffron ranks` starts them: the device is number 0 of those that the process sees (CUDA_VISIBLE_DEVICES)
 *   - tr_collective_nccl() with the table that the loaded object exports; value[] of begin() is memory of the device then, and what it holds
 *     from `from` on is written by work that was queued on the compute stream before ready(from), or before `written` (below)
 *   - without `written`, ready() and complete() record an event on the compute stream, by the loop's thread: not while that stream is captured.
 *     With a step that is played from a graph: `written` gives events that the graph records (cudaEventRecordExternal), after its launch
 *   - `done` has other errors than a ring's, with a text for the user: RT_EUSAGE and RT_EBACKEND mean that no new group mends it: the process
 *     has to end. With RT_EPEER, RT_EDEADLINE, RT_ECANCELED the group forms again, as it does with the ring
 *   - at the end: rpc, then the collective, then the device; the worker is at rest by then (rt_loop_run has returned)
 *
 * Bits: a bucket's sum is made in the order that NCCL has for its size and for these machines: of the buckets, then, and not of when they were
 * ready. All ranks have the same bits. */
#ifndef TR_NCCL_H
#define TR_NCCL_H

#include "trainer/collective/nccl_api.h"
#include "trainer/collective/collective.h"

struct tr_nccl_conf {
    struct rt_io *io;
    const struct tr_nccl_api *api;
    struct tr_cuda *cuda;
    uint32_t world, rank;
    struct rt_peer *first; /* rank 0, where that is not us */
    size_t n_max, bucket;  /* elements: the longest vector; what is summed at once */
    uint64_t stall_ns;     /* 0: TR_STALL_NS */
    /* Has run(arg) called on the loop's thread, from a thread of CUDA's: rt_loop_post. 0, or an error: then the sum is found complete when
     * it is looked at next. NULL: it is looked at each millisecond. */
    int (*post)(void *ctx, void (*run)(void *arg), void *arg);
    /* The event (cudaEvent_t) by which value[from..) is written; NULL: all that the compute stream has been given. */
    void *(*written)(void *ctx, size_t from);
    void *ctx; /* of these two */
};
/* RT_ENOMEM, RT_EBACKEND. */
int tr_collective_nccl(const struct tr_nccl_conf *conf, struct tr_collective **out);
/* WIRE_ASK_COMMUNICATOR, at rank 0. Another collective than this one refuses: ranks with a GPU and without one cannot be in one group. */
void tr_nccl_serve(struct tr_collective *collective, struct rt_call *call,
                   const struct rt_frame *request);

#endif
