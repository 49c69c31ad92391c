/* trainer/compute.c -- what the step thread does of a step: forward, backward, the optimizer; and the scores of a test batch.
 *
 * step.c starts these jobs and takes what comes of them: gradients lie in the batch, in the dtype and the place that they leave from, and
 * the sums of the dense ones in the model. An error's text belongs to the thread that it came up in, so it is left in step_text. */
#include "trainer/state.h"

#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/base/trace.h"
#include "trainer/describe.h"
#include "trainer/load.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- set-up ---- */

/* The weights that the job begins with; with their optimizer's state, if it was saved, the steps in them count. */
static int begin_with(struct tr_trainer *trainer, const char *dir)
{
    const struct rt_job *job = trainer->job;
    struct tr_loaded *loaded = NULL;
    bool fresh = !job->global.load_state || job->data.epochs == 0; /* or it is never used */
    int err = tr_load_dense(dir, fresh, trainer->model, trainer->optimizer, &loaded);
    if (err)
        return err;
    err = tr_schedule_check_start(&trainer->schedule, loaded->step);
    if (err) {
        tr_loaded_free(loaded);
        return err;
    }
    tr_loaded_take(loaded, trainer->model, trainer->optimizer);
    trainer->steps_before = loaded->step;
    rt_log(RT_LOG_INFO, "dense_loaded with_state=%d steps=%" PRIu64 " from=\"%s\"",
           loaded->state != NULL, loaded->step, dir);
    tr_loaded_free(loaded);
    return 0;
}

int tr_step_init(struct tr_trainer *trainer)
{
    int err = tr_job_model(trainer->job, trainer->job->data.batch_size, trainer->conf.world,
                           &trainer->conf.device, &trainer->model);
    if (!err)
        err = tr_job_optimizer(trainer->job, trainer->model, &trainer->optimizer,
                               &trainer->learning_rate, &trainer->schedule);
    if (!err && trainer->conf.device.gpu)
        err = tr_optimizer_to_device(trainer->optimizer, trainer->conf.device.gpu,
                                     trainer->conf.device.cuda);
    if (!err)
        err = tr_restore_dense(trainer);
    if (!err && trainer->conf.init_from && !trainer->restored)
        err = begin_with(trainer, trainer->conf.init_from);
    if (!err)
        trainer->head = tr_model_heads(trainer->model, &trainer->n_heads);
    if (!err)
        err = tr_window_init(&trainer->window, trainer->head, trainer->n_heads,
                             trainer->job->data.batch_size);
    return err;
}

void tr_step_release(struct tr_trainer *trainer)
{
    tr_window_release(&trainer->window);
    tr_optimizer_destroy(trainer->optimizer);
    tr_model_destroy(trainer->model);
}

/* ---- steps ---- */

/* The scores of a batch that the group has learned from. */
static int add_to_window(struct tr_trainer *trainer, const struct tr_batch *batch)
{
    const struct tr_scored_view view = {
        .batch_id = batch->id,
        .samples = batch->view.samples,
        .n_labels = trainer->job->data.n_labels,
        .score = trainer->window.score,
        .label = batch->view.labels,
        .weight = batch->view.weight,
    };
    bool complete = false;
    int err = tr_window_add(&trainer->window, &view, &complete);
    if (complete && !err)
        tr_count_quality(trainer, TR_SET_TRAIN, trainer->window.quality);
    return err;
}

static double rate_now(const struct tr_trainer *trainer)
{
    return trainer->learning_rate * trainer->step_factor;
}

static int update(struct tr_trainer *trainer)
{
    float *grads, *params;
    int err = tr_model_vectors(trainer->model, &grads, &params);
    if (!err)
        err = tr_optimizer_step(trainer->optimizer, rate_now(trainer), grads, params);
    tr_model_stepped(trainer->model);
    return err || !trainer->stepping ? err : add_to_window(trainer, trainer->stepping);
}

/* Gradients from `from` on are complete: the loop hears of whole buckets, but for the first, which goes with all that is known at
 * the end. */
static void settled(void *arg, size_t from)
{
    struct tr_trainer *trainer = arg;
    size_t bucket = trainer->collective->bucket, left = (from + bucket - 1) / bucket;
    if (left > 0 && left < trainer->unsettled) {
        trainer->unsettled = left;
        rt_io_work_tell(trainer->io, &trainer->work, from);
    }
}

static int train(struct tr_trainer *trainer, struct tr_batch *batch)
{
    const struct tr_settled hear = {settled, trainer};
    struct tr_forward_out out = {.score = tr_window_scores(&trainer->window)};
    struct tr_rider rider;
    uint64_t draw = rt_draw_key(trainer->job->global.seed, "step", NULL);
    batch->view.draw =
        rt_draw_fold(rt_draw_fold(draw, tr_age(trainer, batch->step)), trainer->conf.self.index);
    batch->view.settled = trainer->step_kind == TR_SHARED ? &hear : NULL;
    tr_beside_view(trainer, &batch->view);
    batch->view.rider = trainer->step_kind == TR_ALONE &&
                                tr_optimizer_rider(trainer->optimizer, rate_now(trainer), &rider)
                            ? &rider
                            : NULL;
    int err = tr_model_train(trainer->model, &batch->view, trainer->global_samples,
                             batch->feature_grad, &out);
    bool rides = batch->view.rider != NULL;
    batch->view.settled = NULL;
    batch->view.rider = NULL;
    trainer->step_landing = out.landing;
    if (!err && trainer->step_kind == TR_SHARED)
        err = tr_reduce_bring(trainer);
    if (err)
        return err;
    if (trainer->step_kind != TR_AGAIN)
        memcpy(batch->loss_sum, out.head_loss, sizeof batch->loss_sum);
    trainer->step_finite = out.finite;
    if (!out.finite)
        tr_nonfinite_find(trainer, batch);
    batch->saturated = out.finite ? out.saturated : 0;
    if (trainer->step_kind != TR_ALONE || !out.finite)
        return 0;
    if (!rides)
        return update(trainer);
    err = tr_optimizer_rode(trainer->optimizer);
    return err ? err : add_to_window(trainer, batch);
}

/* The scores are the batch's until the loop thread takes them: other ranks' come in there meanwhile. */
static int score(struct tr_trainer *trainer, struct tr_batch *batch)
{
    uint32_t samples = trainer->job->data.batch_size; /* the next batch in this struct too */
    size_t n = (size_t)samples * tr_model_score_columns(trainer->model);
    if (!batch->scores)
        batch->scores = rt_try_malloc(n * sizeof *batch->scores);
    if (!batch->scores)
        return RT_FAIL(RT_ENOMEM, "no memory for %zu scores", n);
    struct tr_forward_out out = {.score = batch->scores};
    tr_beside_view(trainer, &batch->view);
    trainer->step_landing = false;
    int err = tr_model_forward(trainer->model, &batch->view, &out);
    if (!err)
        tr_evaluate_write(trainer, batch);
    return err;
}

/* How long the step thread worked, for the metric. */
static void count_work(struct tr_trainer *trainer, uint64_t begin)
{
    double seconds = (double)(rt_io_now(trainer->io) - begin) * 1e-9;
    double sum = atomic_load_explicit(&trainer->metric.step_seconds, memory_order_relaxed);
    tr_set_real(&trainer->metric.step_seconds, sum + seconds);
}

void tr_compute(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_batch *batch = trainer->stepping;
    uint64_t begin = rt_io_now(trainer->io);
    if (trainer->step_kind == TR_SCORE) {
        trainer->step_err = score(trainer, batch);
    } else {
        trainer->step_err =
            batch->landing ? tr_model_land(trainer->model) : 0; /* to be made again */
        tr_batch_lay_out(batch);
        if (!trainer->step_err)
            trainer->step_err = train(trainer, batch);
        count_work(trainer, begin);
    }
    RT_FAILPOINT("P7.computed");
    if (trainer->step_err) /* the text belongs to this thread */
        snprintf(trainer->step_text, sizeof trainer->step_text, "%s", rt_err_text());
}

void tr_optimize(void *arg)
{
    struct tr_trainer *trainer = arg;
    uint64_t begin = rt_io_now(trainer->io);
    trainer->step_err = update(trainer);
    if (!trainer->step_err)
        tr_agree_make(trainer);
    count_work(trainer, begin);
    if (trainer->stepping)
        rt_trace_span(trainer->stepping->id, 0, "optimize", begin);
    if (trainer->step_err)
        snprintf(trainer->step_text, sizeof trainer->step_text, "%s", rt_err_text());
}
