/* trainer/beside.c -- what the bus does while a GPU computes: the inputs of the next batch come to it, the gradients of the last one leave it.
 *
 * When a step begins, the batch that comes next is chosen, if it has its embeddings already. Once the step's pass is queued, the step thread
 * begins the copies of that batch's inputs, waits for the gradients of the batch before, and then for the pass. Gradients of the batch that
 * is computed are left on their way, since another one follows: it is committed, and pushed when the next job of the step thread is done (landed()).
 * Where none follows, nothing is left on its way; where the one that was to follow does not come, a job waits for the gradients alone.
 *
 * Memory that is copied from or to has a reference here, so batches may be given back at any time. What was begun in one job is complete at the end of the
 * next one that computes: its copies were queued behind. */
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/trace.h"

#include <stdio.h>
#include <string.h>

#define LAND_NS                                                                                    \
    (5 *                                                                                           \
     1000000ull) /* that the next step may take to begin, before gradients are waited for without it */

/* ---- the next batch ---- */

static void let_go(struct tr_copied *copied)
{
    rt_buf_unref(copied->input);
    rt_buf_unref(copied->embeddings);
    *copied = (struct tr_copied){NULL, NULL};
}

/* The one that this rank computes next, as far as can be told; NULL: it has none. */
static struct tr_batch *next_batch(const struct tr_trainer *trainer, bool evaluate)
{
    if (!evaluate && trainer->group && trainer->group->entered)
        return trainer->group->entered;
    return tr_step_next_ready(trainer, evaluate);
}

static void choose(struct tr_trainer *trainer, struct tr_batch *next)
{
    struct tr_beside_step *beside = &trainer->beside;
    uint32_t n = trainer->job->n_features;
    beside->next = next;
    beside->begins = next != NULL;
    if (!next)
        return;
    beside->view = next->view;
    memcpy(beside->feature, next->feature, n * sizeof *next->feature);
    memcpy(beside->sequence, next->sequence, n * sizeof *next->sequence);
    beside->view.feature = beside->feature;
    beside->view.sequence = beside->sequence;
    beside->copied.input = next->input ? rt_buf_ref(next->input) : NULL;
    beside->copied.embeddings = next->embeddings ? rt_buf_ref(next->embeddings) : NULL;
}

void tr_beside_choose(struct tr_trainer *trainer, const struct tr_batch *batch, bool evaluate)
{
    if (!trainer->conf.device.gpu)
        return;
    struct tr_batch *next = next_batch(trainer, evaluate);
    rt_assert(next != batch);
    if (!next || next != trainer->beside.next)
        choose(trainer, next);
}

/* On the step thread, while the pass is computed. */
static int copy(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_beside_step *beside = &trainer->beside;
    uint64_t id = trainer->stepping->id, at = rt_trace_begin(id);
    int err = beside->begins ? tr_model_stage(trainer->model, &beside->view) : 0;
    if (!err)
        err = tr_model_land(trainer->model);
    rt_trace_span(id, 0, "beside", at);
    return err;
}

void tr_beside_view(struct tr_trainer *trainer, struct tr_batch_view *view)
{
    trainer->beside.work = (struct tr_beside){copy, trainer};
    view->beside = trainer->conf.device.gpu ? &trainer->beside.work : NULL;
    view->lands_later = trainer->beside.next != NULL && trainer->step_kind != TR_AGAIN;
}

/* ---- gradients on their way ---- */

/* They are in their batch's memory, if it is there still. */
static void landed(struct tr_trainer *trainer)
{
    struct tr_beside_step *beside = &trainer->beside;
    struct tr_batch *batch = beside->landing;
    rt_buf_unref(beside->gradients);
    beside->gradients = NULL;
    beside->landing = NULL;
    if (!batch)
        return;
    batch->landing = false;
    if (batch->state == TR_PUSHING)
        tr_push_start(batch);
}

void tr_beside_done(struct tr_trainer *trainer)
{
    struct tr_beside_step *beside = &trainer->beside;
    let_go(&beside->before);
    beside->before = beside->copied;
    beside->copied = (struct tr_copied){NULL, NULL};
    beside->begins = false;
    if (beside->next)
        beside->next->view.staged = beside->view.staged;
    landed(trainer);
    if (!trainer->step_landing)
        return;
    beside->landing = trainer->stepping;
    beside->landing->landing = true;
    beside->gradients = rt_buf_ref(beside->landing->gradients);
    beside->since_ns = rt_io_now(trainer->io);
}

static void land(void *arg)
{
    struct tr_trainer *trainer = arg;
    trainer->step_err = tr_model_land(trainer->model);
    if (trainer->step_err)
        snprintf(trainer->step_text, sizeof trainer->step_text, "%s", rt_err_text());
}

static void land_done(void *arg)
{
    struct tr_trainer *trainer = arg;
    if (tr_step_failed(trainer))
        return;
    tr_step_close(trainer);
    landed(trainer);
    tr_phase_check(trainer);
    tr_pump(trainer);
}

bool tr_beside_land(struct tr_trainer *trainer)
{
    struct tr_beside_step *beside = &trainer->beside;
    uint64_t waited = rt_io_now(trainer->io) - beside->since_ns;
    if (!beside->gradients)
        return false;
    if (next_batch(trainer, false) && waited < LAND_NS) {
        rt_timer_start(trainer->io, &beside->timer, LAND_NS - waited);
        return false;
    }
    trainer->step_open = true;
    trainer->step_kind = TR_READ;
    tr_step_work(trainer, land, land_done);
    return true;
}

/* ---- life ---- */

void tr_beside_forget(struct tr_batch *batch)
{
    struct tr_beside_step *beside = &batch->trainer->beside;
    if (beside->next == batch)
        beside->next = NULL;
    if (beside->landing == batch)
        beside->landing = NULL;
}

static void on_late(void *arg)
{
    tr_pump(arg);
}

void tr_beside_init(struct tr_trainer *trainer)
{
    uint32_t n = trainer->job->n_features;
    trainer->beside.feature = rt_xcalloc(n, sizeof *trainer->beside.feature);
    trainer->beside.sequence = rt_xcalloc(n, sizeof *trainer->beside.sequence);
    trainer->beside.timer = (struct rt_timer){.fire = on_late, .arg = trainer};
}

void tr_beside_release(struct tr_trainer *trainer)
{
    struct tr_beside_step *beside = &trainer->beside;
    rt_timer_stop(trainer->io, &beside->timer);
    let_go(&beside->before);
    let_go(&beside->copied);
    rt_buf_unref(beside->gradients);
    rt_free((void *)beside->feature);
    rt_free(beside->sequence);
}
