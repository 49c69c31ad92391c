/* trainer/reduce.c -- the group's sums: which collective makes them, and where what is summed lies.
 *
 * The ring sums in the host's memory. Gradients of a GPU are copied there when they are computed, and their sums back by the optimizer's step.
 * NCCL sums them where they are: the host brings nothing but the order of things. An average of weights (mode `async`) is made in the host's memory,
 * once in many steps, and goes to the GPU and back for NCCL. */
#include "trainer/state.h"

#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "trainer/collective/nccl.h"

#include <string.h>

/* A sum that is begun costs NCCL some microseconds of the loop's thread, and the ring hardly any. */
#define NCCL_BUCKETS 16u /* of the ring's, in one of NCCL's */

static bool is_on_gpu(const struct tr_trainer *trainer)
{
    return trainer->collective->on_gpu;
}

/* ---- which ---- */

static int post(void *ctx, void (*run)(void *arg), void *arg)
{
    const struct tr_trainer *trainer = ctx;
    return trainer->conf.post(trainer->conf.ctx, run, arg);
}

static int make_nccl(struct tr_trainer *trainer, size_t bucket)
{
    const struct tr_nccl_conf conf = {.io = trainer->io,
                                      .api = trainer->conf.device.nccl,
                                      .cuda = trainer->conf.device.cuda,
                                      .world = trainer->conf.world,
                                      .rank = trainer->conf.self.index,
                                      .first = tr_rank(trainer, 0),
                                      .n_max = tr_model_count(trainer->model),
                                      .bucket = NCCL_BUCKETS * bucket,
                                      .post = trainer->conf.post ? post : NULL,
                                      .ctx = trainer};
    return tr_collective_nccl(&conf, &trainer->collective);
}

static int make_ring(struct tr_trainer *trainer, size_t bucket)
{
    uint32_t world = trainer->conf.world, self = trainer->conf.self.index;
    const struct tr_ring_conf conf = {.io = trainer->io,
                                      .world = world,
                                      .rank = self,
                                      .next = tr_rank(trainer, (self + 1) % world),
                                      .n_max = tr_model_count(trainer->model),
                                      .bucket = bucket};
    return tr_collective_ring(&conf, &trainer->collective);
}

int tr_reduce_init(struct tr_trainer *trainer)
{
    const struct rt_global_conf *global = &trainer->job->global;
    bool can = trainer->conf.device.gpu && trainer->conf.device.nccl, nccl = can && !global->exact;
    size_t bucket = global->trainer_bucket_bytes / sizeof(float);
    if (trainer->conf.world == 1)
        return tr_collective_single(&trainer->collective);
    if (global->trainer_collective == RT_COLLECTIVE_NCCL && !can)
        return RT_FAIL(RT_EUSAGE,
                       "trainer.collective is nccl: expected a GPU, and a saffron-cuda.so that was "
                       "built with NCCL");
    if (global->trainer_collective == RT_COLLECTIVE_RING)
        nccl = false;
    int err = nccl ? make_nccl(trainer, bucket) : make_ring(trainer, bucket);
    if (!err)
        rt_log(RT_LOG_INFO, "all_reduce by=%s ranks=%u", trainer->collective->ops->name,
               trainer->conf.world);
    return err;
}

/* ---- where ---- */

/* The vector of gradients where it is summed; what was written to the host's memory of it is there too. */
static int place(struct tr_trainer *trainer, float **vector)
{
    float *params;
    if (is_on_gpu(trainer))
        return tr_model_vectors(trainer->model, vector, &params);
    *vector = tr_model_grads(trainer->model);
    return 0;
}

int tr_reduce_begin(struct tr_trainer *trainer, uint32_t dtype, tr_reduced_fn done)
{
    float *vector;
    int err = place(trainer, &vector);
    if (!err)
        trainer->collective->ops->begin(trainer->collective, vector, tr_model_count(trainer->model),
                                        dtype, done, trainer);
    return err;
}

int tr_reduce_bring(struct tr_trainer *trainer)
{
    return is_on_gpu(trainer) ? 0 : tr_model_fetch_grads(trainer->model);
}

int tr_reduce_bring_nothing(struct tr_trainer *trainer)
{
    float *vector;
    tr_model_clear_grads(trainer->model);
    return place(trainer, &vector);
}

int tr_reduce_take_average(struct tr_trainer *trainer)
{
    int err = is_on_gpu(trainer) ? tr_model_fetch_grads(trainer->model) : 0;
    if (!err)
        memcpy(tr_model_params(trainer->model), tr_model_grads(trainer->model),
               tr_model_count(trainer->model) * sizeof(float));
    return err;
}

bool tr_reduce_is_hopeless(int err)
{
    return err == RT_EUSAGE || err == RT_EBACKEND;
}
