/* trainer/nonfinite.c -- which features a batch with values that are not finite is dropped for.
 *
 * One embedding that is NaN makes the loss NaN, and so every gradient: to count them all would tell nothing. So those features count
 * whose embeddings came as they are not; where all came well, those whose gradients have become so: then the network has
 * done it, or the dense columns. Looked for in batches that are dropped alone: whether there is any is known from the
 * check of the gradients, in the cache (model/settle.c).
 *
 * The step thread finds them, which has the batch and its gradients; they count when it is dropped. A step that is undone, for the group
 * broke, makes its batch again, and finds them again. */
#include "trainer/state.h"

static bool is_finite_16(const void *value, size_t n, uint16_t exponent)
{
    const uint16_t *bits = value;
    bool finite = true;
    for (size_t i = 0; i < n; i++)
        finite &= (bits[i] & exponent) != exponent;
    return finite;
}

static bool is_finite_32(const void *value, size_t n)
{
    const uint32_t *bits = value;
    bool finite = true;
    for (size_t i = 0; i < n; i++)
        finite &= (bits[i] & 0x7f800000u) != 0x7f800000u;
    return finite;
}

/* All ones in the exponent: infinite, or no number. */
static bool is_finite(const void *value, size_t n, uint32_t dtype)
{
    if (dtype == WIRE_F32)
        return is_finite_32(value, n);
    return is_finite_16(value, n, dtype == WIRE_F16 ? 0x7c00 : 0x7f80);
}

static bool came_well(const struct tr_batch *batch, uint32_t f)
{
    const struct rt_job *job = batch->trainer->job;
    size_t vectors = rt_feature_is_sequence(job, f) ? batch->sequence[f].rows : batch->view.samples;
    size_t n = vectors * job->table[job->feature[f].table].dim;
    return is_finite(batch->view.feature[f], n, job->global.wire.embeddings);
}

void tr_nonfinite_find(struct tr_trainer *trainer, const struct tr_batch *batch)
{
    bool came = true;
    for (uint32_t f = 0; f < trainer->job->n_features; f++) {
        trainer->unfit[f] = !came_well(batch, f);
        came = came && !trainer->unfit[f];
    }
    for (uint32_t f = 0; f < trainer->job->n_features && came; f++)
        trainer->unfit[f] = tr_model_feature_is_unfit(trainer->model, f);
}

void tr_nonfinite_count(struct tr_trainer *trainer)
{
    for (uint32_t f = 0; f < trainer->job->n_features; f++)
        tr_count(&trainer->metric.nonfinite[f], trainer->unfit[f]);
}
