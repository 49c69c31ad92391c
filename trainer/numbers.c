/* trainer/numbers.c -- a rank's numbers: what changes several of them at once, and where each stands on the page. */
#include "trainer/numbers.h"
#include "runtime/admin/net_metrics.h"
#include "runtime/base/trace.h"
#include "trainer/model/spec.h"
#include "trainer/state.h"

#include <math.h>
#include <stdio.h>

_Static_assert(TR_TELLING + 1 == TR_BATCH_STATES, "a gauge per state of a batch");
_Static_assert(WIRE_PHASE_STATISTICS + 1 == TR_PHASE_KINDS, "a gauge per kind of phase");

void tr_count_durable(struct tr_trainer *trainer)
{
    struct tr_numbers *n = &trainer->metric;
    tr_set(&n->checkpoints_void_in_row, 0);
    tr_set(&n->durable_step, trainer->checkpoint.last_step);
    atomic_store_explicit(&n->durable_ns, trainer->checkpoint.durable_ns, memory_order_relaxed);
}

/* Checkpoints are made at rank 0, where there is a folder. */
static void init_checkpoints(struct tr_trainer *trainer)
{
    const struct rt_checkpoint_conf *conf = &trainer->job->global.checkpoint;
    struct tr_numbers *n = &trainer->metric;
    bool makes = trainer->conf.checkpoint_dir && trainer->conf.self.index == 0;
    double every = (double)conf->every_s, steps = (double)conf->every_steps;
    tr_count_durable(trainer);
    tr_set_real(&n->checkpoint_every, makes && conf->every_s ? every : NAN);
    tr_set_real(&n->checkpoint_every_steps, makes && conf->every_steps ? steps : NAN);
    tr_set_real(&n->checkpoint_age, NAN);
    tr_set_real(&n->checkpoint_steps, NAN);
}

/* Where a page begins to be printed, on its thread. */
static void refresh(void *ctx)
{
    struct tr_trainer *trainer = ctx;
    struct tr_numbers *n = &trainer->metric;
    uint64_t now = rt_io_now(trainer->io), steps = n->steps, durable = n->durable_step;
    if (!trainer->conf.checkpoint_dir || trainer->conf.self.index != 0)
        return;
    tr_set_real(&n->checkpoint_age, ((double)now - (double)n->durable_ns) * 1e-9);
    tr_set_real(&n->checkpoint_steps, steps > durable ? (double)(steps - durable) : 0);
}

void tr_numbers_init(struct tr_trainer *trainer)
{
    struct tr_numbers *n = &trainer->metric;
    n->nonfinite = rt_xcalloc(trainer->job->n_features + 1, sizeof *n->nonfinite);
    trainer->unfit = rt_xcalloc(trainer->job->n_features + 1, sizeof *trainer->unfit);
    tr_set(&n->permits, trainer->permits.limit);
    tr_set(&n->world, trainer->conf.world);
    tr_set(&n->group_epoch, trainer->conf.world == 1);
    tr_set(&n->generation, trainer->generation);
    tr_set(&n->went_back, trainer->back.known.went_back);
    tr_set(&n->steps_again, trainer->back.known.steps_again);
    tr_set(&n->epochs, trainer->job->data.epochs);
    tr_set_real(&n->learning_rate, trainer->learning_rate);
    tr_set_real(&n->learning_rate_factor, 1);
    tr_set_real(&n->gradient_norm, NAN);
    init_checkpoints(trainer);
    tr_set_real(&n->loss, NAN);
    tr_set_real(&n->epoch_loss, NAN);
    tr_set_real(&n->test_auc, NAN);
    tr_set_real(&n->test_logloss, NAN);
    tr_numbers_phase(trainer);
    struct tr_quality none[TR_HEADS_MAX];
    for (uint32_t h = 0; h < TR_HEADS_MAX; h++)
        none[h] = tr_quality_unknown;
    tr_count_quality(trainer, TR_SET_TRAIN, none);
    tr_count_quality(trainer, TR_SET_TEST, none);
}

void tr_count_quality(struct tr_trainer *trainer, enum tr_sample_set set,
                      const struct tr_quality *quality)
{
    for (uint32_t h = 0; h < trainer->n_heads; h++) {
        struct tr_head_numbers *n = &trainer->metric.head[h][set];
        tr_set_real(&n->loss, quality[h].loss);
        tr_set_real(&n->auc, quality[h].auc);
        tr_set_real(&n->group_auc, quality[h].group_auc);
        tr_set_real(&n->normalized_entropy, quality[h].normalized_entropy);
        tr_set_real(&n->calibration, quality[h].calibration);
        tr_set_real(&n->accuracy, quality[h].accuracy);
        tr_set(&n->nonfinite, quality[h].nonfinite);
    }
}

void tr_numbers_phase(struct tr_trainer *trainer)
{
    for (int kind = WIRE_PHASE_TRAIN; kind < TR_PHASE_KINDS; kind++)
        tr_set(&trainer->metric.phase[kind], kind == (int)trainer->kind);
}

void tr_numbers_report(const struct tr_trainer *trainer, struct tr_report *out)
{
    const struct tr_numbers *n = &trainer->metric;
    uint64_t lookups = 0;
    for (unsigned b = 0; b < RT_HISTOGRAM_BUCKETS; b++)
        lookups += n->staleness.bucket[b];
    out->permits = trainer->permits.limit;
    out->staleness_mean = lookups ? (double)n->staleness.sum / (double)lookups : NAN;
    out->learning_rate = n->learning_rate;
    for (int p = 0; p < TR_PARTS; p++)
        out->part_seconds[p] = 1e-9 * (double)n->parts.seconds[p].sum;
}

struct wire_rank_counts tr_own_counts(const struct tr_trainer *trainer)
{
    return (struct wire_rank_counts){.samples_trained = trainer->count.samples_trained,
                                     .samples_dropped = trainer->count.samples_dropped,
                                     .batches_trained = trainer->count.batches_trained,
                                     .batches_dropped = trainer->count.batches_dropped,
                                     .epoch_loss_sum = trainer->epoch_loss_sum[0],
                                     .epoch_samples = trainer->epoch_samples,
                                     .suspect = tr_alarm_stands(&trainer->alarm)};
}

double tr_epoch_loss(const struct tr_trainer *trainer, uint32_t head)
{
    uint64_t samples = trainer->epoch_samples - (head > 0 ? trainer->carried_epoch_samples : 0);
    return samples ? trainer->epoch_loss_sum[head] / (double)samples : NAN;
}

/* ---- batches ---- */

static const char *const state_name[TR_BATCH_STATES] = {
    [TR_QUEUED] = "queued",     [TR_LOOKING] = "looking",   [TR_READY] = "ready",
    [TR_ENTERED] = "entered",   [TR_STEPPING] = "stepping", [TR_PUSHING] = "pushing",
    [TR_STRANDED] = "stranded", [TR_TELLING] = "telling",
};

/* One that is stranded has been answered: what it is in is no part of that call. */
void tr_batch_trace(struct tr_batch *batch)
{
    uint64_t since_ns = batch->since_ns;
    batch->since_ns = rt_trace_begin(batch->id);
    if (since_ns && batch->since_ns && batch->state != TR_STRANDED)
        rt_trace_put(batch->id, 0, state_name[batch->state], since_ns, batch->since_ns);
}

void tr_batch_to(struct tr_batch *batch, enum tr_batch_state state)
{
    struct tr_numbers *n = &batch->trainer->metric;
    tr_batch_trace(batch);
    tr_count(&n->batches[batch->state], (uint64_t)-1);
    tr_count(&n->batches[state], 1);
    batch->state = state;
}

void tr_count_held(struct tr_batch *batch, bool held)
{
    struct tr_numbers *n = &batch->trainer->metric;
    tr_count(&n->batches[batch->state], held ? 1 : (uint64_t)-1);
    tr_set(&n->batches_open, batch->trainer->batches.count);
}

void tr_count_dropped(struct tr_batch *batch)
{
    struct tr_trainer *trainer = batch->trainer;
    trainer->count.samples_dropped += batch->head.samples;
    trainer->count.batches_dropped++;
    tr_set(&trainer->metric.samples_dropped, trainer->count.samples_dropped);
    tr_set(&trainer->metric.batches_dropped, trainer->count.batches_dropped);
}

/* ---- steps ---- */

void tr_part_start(struct tr_trainer *trainer)
{
    struct tr_parts *parts = &trainer->metric.parts;
    if (!parts->runs && trainer->kind == WIRE_PHASE_TRAIN)
        tr_parts_start(parts, rt_io_now(trainer->io));
}

void tr_part(struct tr_trainer *trainer, enum tr_part part)
{
    tr_parts_enter(&trainer->metric.parts, part, rt_io_now(trainer->io));
}

void tr_part_idle(struct tr_trainer *trainer)
{
    bool entered = trainer->group && trainer->group->entered;
    if (!trainer->step_open)
        tr_part(trainer, entered ? TR_PART_HEADER : TR_PART_WAIT);
}

void tr_count_step(struct tr_trainer *trainer)
{
    struct tr_numbers *n = &trainer->metric;
    tr_parts_step(&n->parts, rt_io_now(trainer->io));
    tr_set(&n->steps, trainer->step);
    tr_set_real(&n->learning_rate, trainer->learning_rate * trainer->step_factor);
    tr_set_real(&n->learning_rate_factor, trainer->step_factor);
    tr_set_real(&n->gradient_norm, tr_optimizer_grad_norm(trainer->optimizer));
    tr_set_real(&n->wait_seconds, 1e-9 * (double)n->parts.seconds[TR_PART_WAIT].sum);
    tr_alarm_norm(trainer);
    tr_board_step(trainer);
}

/* ---- the page ---- */

static void register_whole(const struct tr_numbers *n, struct rt_metrics *metrics)
{
    const struct {
        enum rt_metric_kind kind;
        const char *name, *help;
        const _Atomic uint64_t *value;
    } whole[] = {
        {RT_COUNTER, "saffron_trainer_samples_trained_total", "training samples finished",
         &n->samples_trained},
        {RT_COUNTER, "saffron_trainer_samples_dropped_total", "samples of batches given up",
         &n->samples_dropped},
        {RT_COUNTER, "saffron_trainer_batches_trained_total",
         "batches stepped and acked by every owner", &n->batches_trained},
        {RT_COUNTER, "saffron_trainer_batches_dropped_total",
         "batches given up, with a reason in the log", &n->batches_dropped},
        {RT_COUNTER, "saffron_trainer_batches_retried_total", "batches sent back to data-compose",
         &n->batches_retried},
        {RT_COUNTER, "saffron_trainer_gradients_saturated_total",
         "gradients of embeddings that were too large for 16 bits, and were sent as the largest "
         "value; of batches trained",
         &n->gradients_saturated},
        {RT_COUNTER, "saffron_trainer_checkpoints_total", "checkpoints published; rank 0 only",
         &n->checkpoints},
        {RT_COUNTER, "saffron_trainer_checkpoints_void_total",
         "checkpoints given up, with a reason in the log; rank 0 only", &n->checkpoints_void},
        {RT_GAUGE, "saffron_trainer_checkpoints_void_in_row",
         "checkpoints given up since the latest was published; rank 0 only",
         &n->checkpoints_void_in_row},
        {RT_GAUGE, "saffron_trainer_checkpoint_bytes",
         "of all files of the latest checkpoint; rank 0 only", &n->checkpoint_bytes},
        {RT_COUNTER, "saffron_trainer_updates_lost_total",
         "batches that embedding servers had lost when they were started anew, owner by owner; "
         "rank 0 only",
         &n->updates_lost},
        {RT_GAUGE, "saffron_trainer_generation",
         "grows each time that the job goes on from a checkpoint; rank 0 only", &n->generation},
        {RT_GAUGE, "saffron_trainer_went_back",
         "times that all roles of an `exact` job went back to a checkpoint; rank 0 only",
         &n->went_back},
        {RT_GAUGE, "saffron_trainer_steps_again",
         "steps that had been made before they did, and had to be made again; rank 0 only",
         &n->steps_again},
        {RT_COUNTER, "saffron_trainer_steps_total", "dense steps made", &n->steps},
        {RT_COUNTER, "saffron_trainer_loss_spikes_total",
         "times that the loss or the norm of the gradients rose above its bound and stayed there",
         &n->loss_spikes},
        {RT_GAUGE, "saffron_trainer_loss_spike", "1: it stands above it now", &n->loss_spike},
        {RT_COUNTER, "saffron_trainer_evaluations_total", "evaluations finished; rank 0 only",
         &n->evaluations},
        {RT_GAUGE, "saffron_trainer_permits", "most batches looked up and not yet acked",
         &n->permits},
        {RT_GAUGE, "saffron_trainer_permits_used",
         "batches looked up whose gradients are not yet acked", &n->permits_used},
        {RT_GAUGE, "saffron_trainer_batches_open", "batches held", &n->batches_open},
        {RT_GAUGE, "saffron_trainer_reserved_bytes",
         "payload memory of the batches held, with what they will need", &n->reserved_bytes},
        {RT_GAUGE, "saffron_trainer_epoch", "epoch, from 0", &n->epoch},
        {RT_GAUGE, "saffron_trainer_epochs", "epochs of the job", &n->epochs},
        {RT_GAUGE, "saffron_trainer_group_epoch", "times that the ranks have formed a group",
         &n->group_epoch},
        {RT_GAUGE, "saffron_trainer_world", "ranks of the group", &n->world},
    };
    for (size_t i = 0; i < ARRAY_LEN(whole); i++)
        rt_metrics_u64(metrics, whole[i].kind, whole[i].name, NULL, whole[i].help, whole[i].value);
}

static void register_reals(const struct tr_numbers *n, struct rt_metrics *metrics)
{
    const struct {
        enum rt_metric_kind kind;
        const char *name, *help;
        const _Atomic double *value;
    } real[] = {
        {RT_GAUGE, "saffron_trainer_loss", "mean loss of this rank's latest batch", &n->loss},
        {RT_GAUGE, "saffron_trainer_epoch_loss",
         "mean loss of this rank's samples of the epoch so far", &n->epoch_loss},
        {RT_GAUGE, "saffron_trainer_test_auc", "of the latest evaluation; rank 0 only",
         &n->test_auc},
        {RT_GAUGE, "saffron_trainer_test_logloss", "of the latest evaluation; rank 0 only",
         &n->test_logloss},
        {RT_GAUGE, "saffron_trainer_checkpoint_timestamp_seconds",
         "when the latest checkpoint was published, in seconds since 1970; 0: none was; rank 0 "
         "only",
         &n->checkpoint_time},
        {RT_GAUGE, "saffron_trainer_learning_rate",
         "of the dense weights in the latest step, factor included", &n->learning_rate},
        {RT_GAUGE, "saffron_trainer_learning_rate_factor",
         "what the latest step multiplied all learning rates by, the tables' too: schedule and "
         "operator",
         &n->learning_rate_factor},
        {RT_GAUGE, "saffron_trainer_gradient_norm",
         "norm of the dense gradients of the latest step before clipping", &n->gradient_norm},
        {RT_GAUGE, "saffron_trainer_loss_bound",
         "above it the loss is a spike; NaN: not known yet, or no alarm is wanted", &n->loss_bound},
        {RT_GAUGE, "saffron_trainer_gradient_norm_bound",
         "above it the norm of the dense gradients is", &n->gradient_norm_bound},
        {RT_GAUGE, "saffron_trainer_checkpoint_age_seconds",
         "since the cut of the newest checkpoint, or the start; NaN: none are made here",
         &n->checkpoint_age},
        {RT_GAUGE, "saffron_trainer_checkpoint_age_steps", "and steps since then",
         &n->checkpoint_steps},
        {RT_GAUGE, "saffron_trainer_checkpoint_interval_seconds",
         "checkpoint.every_seconds; NaN: none by time", &n->checkpoint_every},
        {RT_GAUGE, "saffron_trainer_checkpoint_interval_steps",
         "checkpoint.every_steps; NaN: none by steps", &n->checkpoint_every_steps},
        {RT_COUNTER, "saffron_trainer_step_seconds_total", "time of the step thread in steps",
         &n->step_seconds},
        {RT_COUNTER, "saffron_trainer_wait_seconds_total",
         "time in which no batch was ready to be stepped", &n->wait_seconds},
    };
    for (size_t i = 0; i < ARRAY_LEN(real); i++)
        rt_metrics_f64(metrics, real[i].kind, real[i].name, NULL, real[i].help, real[i].value);
}

static void register_batches(const struct tr_numbers *n, struct rt_metrics *metrics)
{
    char labels[32];
    for (int s = 0; s < TR_BATCH_STATES; s++) {
        snprintf(labels, sizeof labels, "state=\"%s\"", state_name[s]);
        rt_metrics_u64(metrics, RT_GAUGE, "saffron_trainer_queue_batches", labels,
                       "batches held, by what they wait for or are in", &n->batches[s]);
    }
}

static void register_phase(const struct tr_numbers *n, struct rt_metrics *metrics)
{
    char labels[32];
    for (int kind = WIRE_PHASE_TRAIN; kind < TR_PHASE_KINDS; kind++) {
        snprintf(labels, sizeof labels, "phase=\"%s\"", wire_phase_name(kind));
        rt_metrics_u64(metrics, RT_GAUGE, "saffron_trainer_phase", labels,
                       "1: the phase that the rank is in", &n->phase[kind]);
    }
}

/* One family for each number, of all heads and both sets: what is not of a head's kind is NaN. */
static void register_head(const struct tr_head_numbers *n, const char *labels,
                          struct rt_metrics *metrics)
{
    const struct {
        const char *name, *help;
        const _Atomic double *value;
    } real[] = {
        {"saffron_trainer_head_loss", "mean loss of a head", &n->loss},
        {"saffron_trainer_head_auc", "AUC of a head", &n->auc},
        {"saffron_trainer_head_group_auc", "AUC of a head within groups", &n->group_auc},
        {"saffron_trainer_head_normalized_entropy",
         "log loss of a head over that of always saying the base rate", &n->normalized_entropy},
        {"saffron_trainer_head_calibration", "sum of scores of a head over sum of labels",
         &n->calibration},
        {"saffron_trainer_head_accuracy", "share of samples whose most probable class is the label",
         &n->accuracy},
    };
    for (size_t i = 0; i < ARRAY_LEN(real); i++)
        rt_metrics_f64(metrics, RT_GAUGE, real[i].name, labels, real[i].help, real[i].value);
    rt_metrics_u64(metrics, RT_GAUGE, "saffron_trainer_head_nonfinite_samples", labels,
                   "samples whose score is not finite, left out of the numbers", &n->nonfinite);
}

static void register_heads(const struct tr_trainer *trainer, struct rt_metrics *metrics)
{
    static const char *const set_name[TR_SETS] = {"train", "test"};
    for (uint32_t h = 0; h < trainer->n_heads; h++) {
        for (int set = 0; set < TR_SETS; set++) {
            char labels[TR_NAME_MAX + 32];
            snprintf(labels, sizeof labels, "head=\"%s\",set=\"%s\"", trainer->head[h].name,
                     set_name[set]);
            register_head(&trainer->metric.head[h][set], labels, metrics);
        }
    }
}

static void register_features(const struct tr_trainer *trainer, struct rt_metrics *metrics)
{
    struct rt_strbuf labels;
    rt_strbuf_init(&labels);
    for (uint32_t f = 0; f < trainer->job->n_features; f++) {
        rt_strbuf_reset(&labels);
        rt_metrics_label(&labels, "feature", trainer->job->feature[f].name);
        rt_metrics_u64(metrics, RT_COUNTER, "saffron_trainer_batches_nonfinite_total", labels.text,
                       "batches dropped because embeddings of this feature, or else its gradients, "
                       "were not finite or huge",
                       &trainer->metric.nonfinite[f]);
    }
    rt_strbuf_release(&labels);
}

void tr_numbers_register(struct tr_trainer *trainer, struct rt_metrics *metrics)
{
    const struct tr_numbers *n = &trainer->metric;
    char labels[32];
    rt_metrics_rpc(metrics, RT_ROLE_TRAINER, trainer->rpc);
    register_whole(n, metrics);
    register_reals(n, metrics);
    register_batches(n, metrics);
    register_phase(n, metrics);
    register_heads(trainer, metrics);
    register_features(trainer, metrics);
    rt_metrics_on_print(metrics, refresh, trainer);
    for (int p = 0; p < TR_PARTS; p++) {
        snprintf(labels, sizeof labels, "part=\"%s\"", tr_part_name(p));
        rt_metrics_histogram(metrics, "saffron_trainer_step_seconds", labels,
                             "seconds from a step to the next, by what they went into; one "
                             "observation of every part per step",
                             RT_HISTOGRAM_SECONDS, &n->parts.seconds[p]);
    }
    rt_metrics_histogram(metrics, "saffron_trainer_evaluate_seconds", NULL,
                         "seconds of one evaluation", RT_HISTOGRAM_SECONDS, &n->evaluate_seconds);
    rt_metrics_histogram(metrics, "saffron_trainer_checkpoint_seconds", NULL,
                         "seconds from a checkpoint's beginning to its manifest; rank 0 only",
                         RT_HISTOGRAM_SECONDS, &n->checkpoint_seconds);
    rt_metrics_histogram(metrics, "saffron_trainer_checkpoint_hold_seconds", NULL,
                         "seconds in which no step was made for a checkpoint; rank 0 only",
                         RT_HISTOGRAM_SECONDS, &n->checkpoint_hold_seconds);
    rt_metrics_histogram(metrics, "saffron_trainer_staleness", NULL,
                         "permits in use when a training batch is looked up, its own included",
                         RT_HISTOGRAM_COUNT, &n->staleness);
}
