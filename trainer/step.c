/* trainer/step.c -- the dense step: header, forward, backward, all-reduce, commit (design section 5).
 *
 * The loop thread gathers the headers, lends the batch to the step thread, and commits what comes
 * back. The step thread owns model and optimizer while a step runs: one batch at a time, in the order in
 * which lookups came back (with one permit: in the order of the batches).
 *
 * Gradients are of the mean loss over the group's samples. Nothing changes when any rank saw a
 * value that is not finite: the batch is dropped(nonfinite) everywhere. */
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/job/batch_id.h"
#include "trainer/describe.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- set-up ---- */

int tr_step_init(struct tr_trainer *trainer)
{
    struct tr_optimizer_conf conf;
    int err = tr_job_model(trainer->job, trainer->job->data.batch_size, &trainer->model);
    if (!err)
        err = tr_job_optimizer(trainer->job, &conf, &trainer->learning_rate);
    if (!err)
        err = tr_optimizer_create(&conf, tr_model_count(trainer->model), &trainer->optimizer);
    if (!err)
        err = tr_auc_create(TR_AUC_SAMPLES_MAX, &trainer->auc);
    return err;
}

void tr_step_release(struct tr_trainer *trainer)
{
    tr_auc_destroy(trainer->auc);
    tr_optimizer_destroy(trainer->optimizer);
    tr_model_destroy(trainer->model);
}

/* ---- on the step thread ---- */

static int train(struct tr_trainer *trainer, struct tr_batch *batch, float *const *feature_grad)
{
    struct tr_forward_out out = {0};
    float *grads = tr_model_grads(trainer->model);
    size_t n = tr_model_count(trainer->model);
    int err =
        tr_model_train(trainer->model, &batch->view, trainer->global_samples, feature_grad, &out);
    if (err)
        return err;
    batch->loss_sum = out.loss_sum;
    bool finite = out.finite;
    err = trainer->collective->ops->all_reduce(trainer->collective, grads, n, &finite);
    if (err)
        return err;
    trainer->step_finite = finite;
    if (!finite)
        return 0;
    float rate = (float)(trainer->learning_rate * trainer->learning_factor);
    return tr_optimizer_step(trainer->optimizer, rate, grads, tr_model_params(trainer->model));
}

static int score(struct tr_trainer *trainer, struct tr_batch *batch)
{
    float *scores = rt_try_malloc(batch->head.samples * sizeof *scores);
    if (!scores)
        return RT_FAIL(RT_ENOMEM, "no memory for %u scores", batch->head.samples);
    struct tr_forward_out out = {.score = scores};
    int err = tr_model_forward(trainer->model, &batch->view, &out);
    if (!err)
        err = tr_auc_add(trainer->auc, scores, batch->view.labels, batch->view.weight,
                         batch->head.samples);
    rt_free(scores);
    return err;
}

/* The gradients are written where they leave from: one segment per feature, 64-byte aligned. */
static void lay_out_gradients(const struct rt_job *job, struct tr_batch *batch,
                              float **feature_grad)
{
    size_t end = 0;
    for (uint32_t f = 0; f < job->n_features; f++) {
        size_t before = end;
        size_t bytes =
            (size_t)batch->head.samples * job->table[job->feature[f].table].dim * sizeof(float);
        size_t at = rt_segment_put(&end, bytes);
        memset(batch->gradients->data + before, 0, at - before); /* padding between segments */
        feature_grad[f] = (float *)(void *)(batch->gradients->data + at);
    }
    rt_assert(end == batch->gradients->size);
}

static void run(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_batch *batch = trainer->stepping;
    uint64_t begin = rt_io_now(trainer->io);
    if (batch->head.evaluate) {
        trainer->step_err = score(trainer, batch);
    } else {
        float **feature_grad = rt_xcalloc(trainer->job->n_features, sizeof *feature_grad);
        lay_out_gradients(trainer->job, batch, feature_grad);
        trainer->step_err = train(trainer, batch, feature_grad);
        rt_free(feature_grad);
        double seconds = (double)(rt_io_now(trainer->io) - begin) * 1e-9;
        double sum = atomic_load_explicit(&trainer->metric.step_seconds, memory_order_relaxed);
        atomic_store_explicit(&trainer->metric.step_seconds, sum + seconds, memory_order_relaxed);
    }
    if (trainer->step_err) /* the text belongs to this thread */
        snprintf(trainer->step_text, sizeof trainer->step_text, "%s", rt_err_text());
}

/* ---- on the loop thread ---- */

static void commit(struct tr_trainer *trainer, struct tr_batch *batch)
{
    int err = rt_ledger_stepped(trainer->ledger, batch->id);
    if (err) {
        tr_fail(trainer, err);
        return;
    }
    trainer->epoch_loss_sum += batch->loss_sum;
    trainer->epoch_samples += batch->head.samples;
    trainer->count.train_loss = trainer->epoch_loss_sum / (double)trainer->epoch_samples;
    double loss = batch->loss_sum / batch->head.samples;
    trainer->count.loss = trainer->step <= 1 ? loss : 0.98 * trainer->count.loss + 0.02 * loss;
    atomic_store_explicit(&trainer->metric.loss, loss, memory_order_relaxed);
    atomic_store_explicit(&trainer->metric.steps, trainer->step, memory_order_relaxed);
    tr_push_start(batch);
}

static void drop_nonfinite(struct tr_trainer *trainer, struct tr_batch *batch)
{
    tr_push_release(batch, "nonfinite");
    tr_finished(trainer, batch->id);
    trainer->step--; /* nothing changed anywhere: the step is made again with the next batch */
    trainer->count.samples_dropped += batch->head.samples;
    trainer->count.batches_dropped++;
    atomic_fetch_add_explicit(&trainer->metric.batches_dropped, 1, memory_order_relaxed);
    tr_permit_return(&trainer->permits);
    tr_feed_finish(batch, WIRE_DROPPED, "nonfinite");
}

static void finish_scored(struct tr_trainer *trainer, struct tr_batch *batch)
{
    uint64_t key =
        rt_batch_id(rt_batch_split(batch->id) - RT_SPLIT_EVALUATE, rt_batch_sequence(batch->id));
    int err = rt_ledger_finished(trainer->evaluation, key);
    if (err) {
        tr_fail(trainer, err);
        return;
    }
    tr_permit_return(&trainer->lookups);
    tr_feed_finish(batch, WIRE_EVALUATED, NULL);
}

static void step_done(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_batch *batch = trainer->stepping;
    trainer->stepping = NULL;
    trainer->idle_since_ns = rt_io_now(trainer->io);
    if (trainer->step_err) {
        tr_fail(trainer, RT_FAIL(trainer->step_err, "step %" PRIu64 ": %s", trainer->step,
                                 trainer->step_text));
        return;
    }
    rt_buf_unref(batch->embeddings);
    batch->embeddings = NULL;
    if (batch->head.evaluate)
        finish_scored(trainer, batch);
    else if (!trainer->step_finite)
        drop_nonfinite(trainer, batch);
    else
        commit(trainer, batch);
    tr_pump(trainer);
}

/* All ranks' headers are in: the step can be computed. */
static void on_headers(void *arg, int err, const struct wire_step_header *header, uint32_t n_ranks)
{
    struct tr_trainer *trainer = arg;
    if (err) {
        tr_fail(trainer, err);
        return;
    }
    trainer->global_samples = 0;
    for (uint32_t r = 0; r < n_ranks; r++)
        trainer->global_samples += header[r].samples;
    trainer->work = (struct rt_work){.run = run, .done = step_done, .arg = trainer};
    rt_io_work(trainer->io, &trainer->work);
}

bool tr_step_settled(const struct tr_trainer *trainer)
{
    return !trainer->stepping;
}

static bool take_gradient_buffer(struct tr_trainer *trainer, struct tr_batch *batch)
{
    const struct rt_job *job = trainer->job;
    size_t end = 0;
    for (uint32_t f = 0; f < job->n_features; f++)
        rt_segment_put(&end, (size_t)batch->head.samples * job->table[job->feature[f].table].dim *
                                 sizeof(float));
    batch->gradients = rt_io_buf(trainer->io, end);
    if (batch->gradients)
        batch->gradients->size = end;
    return batch->gradients != NULL;
}

static void count_wait(struct tr_trainer *trainer)
{
    if (trainer->idle_since_ns == 0)
        return;
    double waited = (double)(rt_io_now(trainer->io) - trainer->idle_since_ns) * 1e-9;
    double sum = atomic_load_explicit(&trainer->metric.wait_seconds, memory_order_relaxed);
    atomic_store_explicit(&trainer->metric.wait_seconds, sum + waited, memory_order_relaxed);
}

void tr_step_pump(struct tr_trainer *trainer)
{
    if (trainer->stepping || trainer->summing_up || !trainer->ready.head)
        return;
    struct tr_batch *batch = trainer->ready.head;
    if (!batch->head.evaluate && !batch->gradients && !take_gradient_buffer(trainer, batch)) {
        tr_fail(trainer, RT_FAIL(RT_ELIMIT, "no payload memory for the gradients of a batch"));
        return;
    }
    tr_fifo_pop(&trainer->ready);
    trainer->stepping = batch;
    batch->state = TR_STEPPING;
    count_wait(trainer);
    struct wire_step_header mine = {
        .group_epoch = 1,
        .step = trainer->step + 1,
        .has_batch = true,
        .batch_id = batch->id,
        .samples = batch->head.samples,
        .learning_rate = trainer->learning_factor,
    };
    if (!batch->head.evaluate)
        batch->step = ++trainer->step;
    trainer->collective->ops->gather_headers(trainer->collective, &mine, on_headers, trainer);
}
