/* trainer/batch.c -- a batch's memory: the struct, which is used again, and the payload buffers it will need.
 *
 * TrainBatch reserves all the bytes of a batch at once: what came with it, its embeddings and their gradients, as they
 * lie in the io's pool. A quarter of the pool is kept for what is on its way in and for the group's own
 * messages. So a batch that was let in finds room for all it needs, and data-compose hears RT_EFULL instead; should the pool be
 * used up all the same, the batch goes back before it is stepped, never after: its gradients' buffer is taken
 * with its embeddings. */
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"

#include <string.h>

/* ---- the struct ---- */

struct tr_batch *tr_batch_take(struct tr_trainer *trainer)
{
    struct tr_batch *batch = tr_fifo_pop(&trainer->spare);
    if (!batch) {
        batch = rt_xcalloc(1, sizeof *batch);
        batch->feature = rt_xcalloc(trainer->job->n_features, sizeof *batch->feature);
        batch->sequence = rt_xcalloc(trainer->job->n_features, sizeof *batch->sequence);
        batch->feature_grad = rt_xcalloc(trainer->job->n_features, sizeof *batch->feature_grad);
    }
    *batch = (struct tr_batch){.trainer = trainer,
                               .feature = batch->feature,
                               .sequence = batch->sequence,
                               .feature_grad = batch->feature_grad,
                               .scores = batch->scores};
    batch->view.feature = batch->feature;
    batch->view.sequence = batch->sequence;
    return batch;
}

void tr_batch_give(struct tr_batch *batch)
{
    struct tr_trainer *trainer = batch->trainer;
    rt_assert(!batch->call && trainer->reserved >= batch->reserved);
    tr_beside_forget(batch);
    trainer->reserved -= batch->reserved;
    tr_set(&trainer->metric.reserved_bytes, trainer->reserved);
    rt_buf_unref(batch->input);
    rt_buf_unref(batch->embeddings);
    rt_buf_unref(batch->gradients);
    tr_fifo_push(&trainer->spare, batch);
}

void tr_batch_free_spare(struct tr_trainer *trainer)
{
    struct tr_batch *batch;
    while ((batch = tr_fifo_pop(&trainer->spare)) != NULL) {
        rt_free((void *)batch->feature);
        rt_free(batch->sequence);
        rt_free(batch->feature_grad);
        rt_free(batch->scores);
        rt_free(batch);
    }
}

/* ---- its payloads ---- */

/* Vectors of a feature: one a sample, or of a sequence its different rows, which are as many as its places at most. */
static size_t vectors_most(const struct rt_job *job, uint32_t f, uint32_t samples)
{
    size_t places = (size_t)samples * job->feature[f].max_length;
    if (!rt_feature_is_sequence(job, f))
        return samples;
    return places < WIRE_IDS_MAX ? places : WIRE_IDS_MAX;
}

static size_t vectors_of(const struct tr_batch *batch, uint32_t f)
{
    return rt_feature_is_sequence(batch->trainer->job, f) ? batch->sequence[f].rows
                                                          : batch->head.samples;
}

static size_t vector_bytes(const struct rt_job *job, uint32_t f, uint32_t dtype)
{
    return job->table[job->feature[f].table].dim * wire_dtype_size(dtype);
}

/* At most. A segment per feature; embeddings of a sequence are three. */
static size_t embedding_bytes(const struct rt_job *job, uint32_t samples)
{
    size_t end = 0;
    for (uint32_t f = 0; f < job->n_features; f++) {
        size_t n = vectors_most(job, f, samples);
        rt_segment_put(&end, n * vector_bytes(job, f, job->global.wire.embeddings));
        if (!rt_feature_is_sequence(job, f))
            continue;
        rt_segment_put(&end, n * sizeof(uint32_t));
        rt_segment_put(&end, samples * sizeof(uint32_t));
    }
    return end;
}

static size_t gradient_bytes(const struct rt_job *job, uint32_t samples)
{
    size_t end = 0;
    for (uint32_t f = 0; f < job->n_features; f++)
        rt_segment_put(&end, vectors_most(job, f, samples) *
                                 vector_bytes(job, f, job->global.wire.gradients));
    return end;
}

/* Besides what came with it. */
static size_t bytes_needed(const struct rt_job *job, uint32_t samples, bool evaluate)
{
    size_t bytes = rt_buf_bytes(embedding_bytes(job, samples));
    if (!evaluate)
        bytes += rt_buf_bytes(gradient_bytes(job, samples));
    return bytes;
}

/* That batches may reserve in all. */
static size_t bytes_most(const struct tr_trainer *trainer)
{
    size_t budget = rt_pool_budget(trainer->io->ops->pool(trainer->io));
    return budget - budget / 4;
}

int tr_batch_check_job(const struct tr_trainer *trainer)
{
    const struct rt_job *job = trainer->job;
    size_t samples = job->data.batch_size, most = bytes_most(trainer);
    size_t columns = (size_t)job->data.n_dense + job->data.n_labels;
    size_t bytes = bytes_needed(job, job->data.batch_size, false) +
                   rt_buf_bytes(samples * columns * sizeof(float));
    if (bytes > most)
        return RT_FAIL(
            RT_EUSAGE,
            "data.batch_size %zu: a batch takes %zu bytes of a trainer's payload memory, "
            "expected at most %zu: make batch_size smaller, or global.wire.dtype 16 bits",
            samples, bytes, most);
    return 0;
}

int tr_batch_reserve(struct tr_batch *batch, bool must)
{
    struct tr_trainer *trainer = batch->trainer;
    size_t most = bytes_most(trainer), bytes = batch->input ? batch->input->capacity : 0;
    bytes += bytes_needed(trainer->job, batch->head.samples, batch->head.evaluate);
    if (!must && (bytes > most || trainer->reserved > most - bytes))
        return RT_FAIL(RT_EFULL,
                       "no memory for a batch of %zu bytes: %zu of %zu are reserved by %zu others",
                       bytes, trainer->reserved, most, (size_t)trainer->batches.count);
    batch->reserved = bytes;
    trainer->reserved += bytes;
    tr_set(&trainer->metric.reserved_bytes, trainer->reserved);
    return 0;
}

int tr_batch_take_gradients(struct tr_batch *batch)
{
    const struct rt_job *job = batch->trainer->job;
    size_t bytes = 0;
    for (uint32_t f = 0; f < job->n_features; f++)
        rt_segment_put(&bytes,
                       vectors_of(batch, f) * vector_bytes(job, f, job->global.wire.gradients));
    rt_assert(!batch->gradients);
    batch->gradients = rt_io_buf(batch->trainer->io, bytes ? bytes : 1); /* empty sequences */
    if (!batch->gradients)
        return RT_FAIL(RT_EFULL, "no payload memory for %zu bytes of gradients", bytes);
    batch->gradients->size = bytes;
    return 0;
}

void tr_batch_lay_out(struct tr_batch *batch)
{
    const struct rt_job *job = batch->trainer->job;
    size_t end = 0;
    for (uint32_t f = 0; f < job->n_features; f++) {
        size_t before = end;
        size_t at = rt_segment_put(&end, vectors_of(batch, f) *
                                             vector_bytes(job, f, job->global.wire.gradients));
        memset(batch->gradients->data + before, 0, at - before); /* padding between segments */
        batch->feature_grad[f].out = batch->gradients->data + at;
    }
    rt_assert(end == batch->gradients->size);
}
