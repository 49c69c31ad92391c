/* trainer/optimizer.c -- dense optimizers: the table of kinds, spans, state, and the check before a step.
 *
 * The arithmetic is in backend/cpu/optimizers.inc.h, once per instruction set and with the same bits in
 * all; scalars that torch computes in float64 (1 - beta, bias corrections) are computed so here and
 * rounded once. Gradients are checked before anything is written, so a refused step leaves no trace. */
#include "trainer/optimizer.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "trainer/backend/cpu/kernels.h"
#include "trainer/model/model.h"
#include "trainer/optimizer_device.h"
#include "trainer/optimizer_rates.h"

struct tr_optimizer {
    struct tr_optimizer_conf conf;
    size_t n;
    size_t slots;
    float *state; /* [slots][n] */
    struct tr_span *span;
    size_t n_spans;
    uint64_t steps;
    double grad_norm;
    struct tr_optimizer_device *device; /* NULL: a CPU's */
    double rider_lr;                    /* of the step that goes with a pass */
};

/* Names of state as torch's state_dict has them. */
static const struct {
    const char *name;
    const char *slot[2];
    struct tr_optimizer_conf defaults;
} kinds[] = {
    [TR_SGD] = {"sgd", {"momentum_buffer"}, {.kind = TR_SGD}},
    [TR_ADAGRAD] = {"adagrad", {"sum"}, {.kind = TR_ADAGRAD, .eps = 1e-10}},
    [TR_ADAM] = {"adam",
                 {"exp_avg", "exp_avg_sq"},
                 {.kind = TR_ADAM, .eps = 1e-8, .beta1 = 0.9, .beta2 = 0.999}},
    [TR_ADAMW] =
        {"adamw",
         {"exp_avg", "exp_avg_sq"},
         {.kind = TR_ADAMW, .eps = 1e-8, .beta1 = 0.9, .beta2 = 0.999, .weight_decay = 0.01}},
    [TR_LAMB] =
        {"lamb",
         {"exp_avg", "exp_avg_sq"},
         {.kind = TR_LAMB, .eps = 1e-6, .beta1 = 0.9, .beta2 = 0.999, .weight_decay = 0.01}},
};
_Static_assert(ARRAY_LEN(kinds) == TR_OPTIMIZERS, "a row for each kind");

int tr_optimizer_defaults(const char *name, struct tr_optimizer_conf *conf)
{
    const char *names[ARRAY_LEN(kinds)];
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        names[i] = kinds[i].name;
        if (strcmp(kinds[i].name, name) == 0) {
            *conf = kinds[i].defaults;
            return 0;
        }
    }
    const char *near = rt_nearest(name, names, ARRAY_LEN(names));
    return RT_FAIL(RT_EUSAGE, "optimizer '%.40s': expected sgd, adagrad, adam, adamw or lamb%s%s%s",
                   name, near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

const char *tr_optimizer_name(enum tr_optimizer_kind kind)
{
    return kinds[kind].name;
}

static int check_conf(const struct tr_optimizer_conf *conf)
{
    const struct {
        const char *name;
        double value;
        bool ok;
        const char *range;
    } check[] = {
        {"momentum", conf->momentum, conf->momentum >= 0 && conf->momentum < 1, "[0, 1)"},
        {"eps", conf->eps, conf->kind == TR_SGD || conf->eps > 0, "above 0"},
        {"beta1", conf->beta1, conf->beta1 >= 0 && conf->beta1 < 1, "[0, 1)"},
        {"beta2", conf->beta2, conf->beta2 >= 0 && conf->beta2 < 1, "[0, 1)"},
        {"initial_accumulator", conf->initial_accumulator, conf->initial_accumulator >= 0,
         "at least 0"},
        {"weight_decay", conf->weight_decay, conf->weight_decay >= 0, "at least 0"},
        {"clip_norm", conf->clip_norm, conf->clip_norm >= 0, "at least 0"},
    };
    for (size_t i = 0; i < ARRAY_LEN(check); i++)
        if (!check[i].ok || !isfinite(check[i].value))
            return RT_FAIL(RT_EUSAGE, "optimizer %s: %s: expected %s, got %g",
                           kinds[conf->kind].name, check[i].name, check[i].range, check[i].value);
    return 0;
}

static size_t count_slots(const struct tr_optimizer_conf *conf)
{
    if (conf->kind == TR_SGD)
        return conf->momentum > 0 ? 1 : 0;
    return conf->kind == TR_ADAGRAD ? 1 : 2;
}

static void check_spans(size_t n, const struct tr_span *span, size_t n_spans)
{
    size_t end = 0;
    for (size_t i = 0; i < n_spans; i++) {
        rt_assert(span[i].offset >= end && span[i].offset <= n &&
                  span[i].count <= n - span[i].offset);
        rt_assert(isfinite(span[i].lr_factor) && span[i].lr_factor >= 0);
        end = span[i].offset + span[i].count;
    }
}

static bool allocate(struct tr_optimizer *optimizer)
{
    size_t count = 0, bytes = 0, spans = optimizer->n_spans;
    if (!rt_mul_size(optimizer->slots, optimizer->n, &count) ||
        !rt_mul_size(count, sizeof(float), &bytes))
        return false;
    optimizer->state = rt_try_aligned(bytes ? bytes : sizeof(float));
    optimizer->span = rt_try_malloc((spans ? spans : 1) * sizeof *optimizer->span);
    if (!optimizer->state || !optimizer->span)
        return false;
    tr_optimizer_reset(optimizer);
    return true;
}

int tr_optimizer_create_spans(const struct tr_optimizer_conf *conf, size_t n,
                              const struct tr_span *span, size_t n_spans, struct tr_optimizer **out)
{
    int err = check_conf(conf);
    if (err)
        return err;
    check_spans(n, span, n_spans);
    struct tr_optimizer *optimizer = rt_xcalloc(1, sizeof *optimizer);
    optimizer->conf = *conf;
    optimizer->n = n;
    optimizer->slots = count_slots(conf);
    optimizer->n_spans = n_spans;
    if (!allocate(optimizer)) {
        tr_optimizer_destroy(optimizer);
        return RT_FAIL(RT_ENOMEM, "optimizer %s: no memory for the state of %zu parameters",
                       kinds[conf->kind].name, n);
    }
    if (n_spans > 0)
        memcpy(optimizer->span, span, n_spans * sizeof *span);
    *out = optimizer;
    return 0;
}

int tr_optimizer_create(const struct tr_optimizer_conf *conf, size_t n, struct tr_optimizer **out)
{
    struct tr_span whole = {.count = n, .lr_factor = 1, .decays = true};
    return tr_optimizer_create_spans(conf, n, &whole, 1, out);
}

void tr_optimizer_destroy(struct tr_optimizer *optimizer)
{
    if (!optimizer)
        return;
    tr_optimizer_device_destroy(optimizer->device);
    rt_free(optimizer->state);
    rt_free(optimizer->span);
    rt_free(optimizer);
}

int tr_optimizer_to_device(struct tr_optimizer *optimizer, const struct tr_gpu *gpu,
                           struct tr_cuda *cuda)
{
    return tr_optimizer_device_create(gpu, cuda, &optimizer->conf, optimizer->n, optimizer->slots,
                                      optimizer->span, optimizer->n_spans, optimizer->state,
                                      &optimizer->device);
}

static int refuse(const struct tr_optimizer *optimizer, const float *grad)
{
    size_t i = 0;
    while (i < optimizer->n && isfinite(grad[i]))
        i++;
    return RT_FAIL(RT_EDATA, "optimizer %s: gradient %zu of %zu is %g; nothing was changed",
                   kinds[optimizer->conf.kind].name, i, optimizer->n, (double)grad[i]);
}

/* A sum of squares of float32 in float64 is finite exactly when they are: this is the check, too. Running averages are
 * checked, and are no part of *norm. */
static bool norm_of(const struct tr_optimizer *optimizer, const float *grad, double *norm)
{
    double sum = 0, others = 0;
    for (size_t i = 0; i < optimizer->n_spans; i++) {
        const struct tr_span *span = &optimizer->span[i];
        double squares = tr_kernels_get()->sum_squares(grad + span->offset, span->count);
        *(span->momentum > 0 ? &others : &sum) += squares;
    }
    *norm = sqrt(sum);
    return isfinite(sum) && isfinite(others);
}

static void move_average(const struct tr_span *span, const float *ahead, float *average)
{
    float momentum = (float)span->momentum;
    for (size_t i = 0; i < span->count; i++)
        average[i] += momentum * ahead[i];
}

/* What all spans have in common. */
static struct tr_update update_of(const struct tr_optimizer *optimizer,
                                  const struct tr_optimizer_rates *rates)
{
    const struct tr_optimizer_conf *conf = &optimizer->conf;
    double max = conf->clip_norm;
    return (struct tr_update){
        .grad_scale = (float)(max > 0 ? fmin(1, max / (optimizer->grad_norm + 1e-6)) : 1),
        .eps = (float)conf->eps,
        .momentum = (float)conf->momentum,
        .beta1 = (float)conf->beta1,
        .rest1 = (float)(1 - conf->beta1),
        .beta2 = (float)conf->beta2,
        .rest2 = (float)(1 - conf->beta2),
        .correction = rates->correction,
        .keep = 1,
        .unbias1 = rates->unbias1,
    };
}

/* Norms that float32 could not hold inverted count as 0. */
static double trust_ratio(double param_squares, double update_squares)
{
    double param = sqrt(param_squares), update = sqrt(update_squares);
    return param > 0 && update > FLT_MIN ? param / update : 1;
}

static void step_lamb(struct tr_update *op, double lr)
{
    double param_squares, update_squares;
    tr_kernels_get()->lamb_moments(op, &param_squares, &update_squares);
    op->lr = (float)fmin(lr * trust_ratio(param_squares, update_squares), FLT_MAX);
    tr_kernels_get()->lamb(op);
}

static void step_span(const struct tr_optimizer_conf *conf, const struct tr_span *span,
                      const struct tr_optimizer_rates *rates, struct tr_update op)
{
    const struct tr_kernels *kernels = tr_kernels_get();
    double rate = rates->lr * span->lr_factor, decay = span->decays ? conf->weight_decay : 0;
    op.weight_decay = (float)decay;
    op.lr = (float)rate;
    switch (conf->kind) {
    case TR_SGD:
        kernels->sgd(&op);
        break;
    case TR_ADAGRAD:
        kernels->adagrad(&op);
        break;
    case TR_ADAMW:
        op.keep = (float)(1 - rate * decay);
        op.weight_decay = 0;
        /* fall through */
    case TR_ADAM:
        op.lr = (float)(rate / rates->bias1);
        kernels->adam(&op);
        break;
    case TR_LAMB:
        step_lamb(&op, rate);
        break;
    case TR_OPTIMIZERS:
        rt_assert(false);
    }
}

static int step_on_device(struct tr_optimizer *optimizer, double lr, const float *grad,
                          float *param)
{
    struct tr_optimizer_rates rates;
    tr_optimizer_rates(&optimizer->conf, optimizer->steps + 1, lr, &rates);
    int err =
        tr_optimizer_device_step(optimizer->device, &rates, grad, param, &optimizer->grad_norm);
    optimizer->steps += !err;
    return err;
}

static int check_rate(const struct tr_optimizer *optimizer, double lr)
{
    return isfinite(lr) ? 0
                        : RT_FAIL(RT_EDATA, "optimizer %s: learning rate is %g",
                                  kinds[optimizer->conf.kind].name, lr);
}

static int rider_prepare(void *arg)
{
    struct tr_optimizer *optimizer = arg;
    struct tr_optimizer_rates rates;
    int err = check_rate(optimizer, optimizer->rider_lr);
    if (err)
        return err;
    tr_optimizer_rates(&optimizer->conf, optimizer->steps + 1, optimizer->rider_lr, &rates);
    return tr_optimizer_device_prepare(optimizer->device, &rates);
}

static int rider_queue(void *arg, struct tr_backend *backend, const float *grads, float *params,
                       const uint32_t *finite)
{
    struct tr_optimizer *optimizer = arg;
    return tr_optimizer_device_queue(optimizer->device, backend, grads, params, finite);
}

bool tr_optimizer_rider(struct tr_optimizer *optimizer, double lr, struct tr_rider *out)
{
    optimizer->rider_lr = lr;
    *out = (struct tr_rider){rider_prepare, rider_queue, optimizer};
    return optimizer->device != NULL;
}

int tr_optimizer_rode(struct tr_optimizer *optimizer)
{
    int err = tr_optimizer_device_stepped(optimizer->device, &optimizer->grad_norm);
    optimizer->steps += !err;
    return err;
}

int tr_optimizer_step(struct tr_optimizer *optimizer, double lr, const float *grad, float *param)
{
    int err = check_rate(optimizer, lr);
    if (err)
        return err;
    if (optimizer->device)
        return step_on_device(optimizer, lr, grad, param);
    double norm;
    if (!norm_of(optimizer, grad, &norm))
        return refuse(optimizer, grad);
    optimizer->grad_norm = norm;
    optimizer->steps++;
    struct tr_optimizer_rates rates;
    tr_optimizer_rates(&optimizer->conf, optimizer->steps, lr, &rates);
    struct tr_update op = update_of(optimizer, &rates);
    for (size_t i = 0; i < optimizer->n_spans; i++) {
        const struct tr_span *span = &optimizer->span[i];
        if (span->momentum > 0) {
            move_average(span, grad + span->offset, param + span->offset);
            continue;
        }
        op.n = span->count;
        op.grad = grad + span->offset;
        op.param = param + span->offset;
        for (size_t k = 0; k < optimizer->slots; k++)
            op.state[k] = optimizer->state + k * optimizer->n + span->offset;
        step_span(&optimizer->conf, span, &rates, op);
    }
    return 0;
}

double tr_optimizer_grad_norm(const struct tr_optimizer *optimizer)
{
    return optimizer->grad_norm;
}

float *tr_optimizer_state(struct tr_optimizer *optimizer, size_t *count)
{
    *count = optimizer->slots * optimizer->n;
    if (optimizer->device)
        tr_optimizer_device_open(optimizer->device);
    return optimizer->slots ? optimizer->state : NULL;
}

const char *tr_optimizer_slot_name(const struct tr_optimizer *optimizer, size_t slot)
{
    rt_assert(slot < optimizer->slots);
    return kinds[optimizer->conf.kind].slot[slot];
}

bool tr_optimizer_slot_is_sum(const struct tr_optimizer *optimizer, size_t slot)
{
    const char *name = tr_optimizer_slot_name(optimizer, slot);
    return strcmp(name, "sum") == 0 || strcmp(name, "exp_avg_sq") == 0;
}

size_t tr_optimizer_slots(const struct tr_optimizer *optimizer)
{
    return optimizer->slots;
}

void tr_optimizer_text(const struct tr_optimizer *optimizer, char out[TR_OPTIMIZER_TEXT])
{
    bool momentum = optimizer->conf.kind == TR_SGD && optimizer->slots > 0;
    snprintf(out, TR_OPTIMIZER_TEXT, "%s%s", kinds[optimizer->conf.kind].name,
             momentum ? " with momentum" : "");
}

void tr_optimizer_reset(struct tr_optimizer *optimizer)
{
    size_t count;
    (void)tr_optimizer_state(optimizer, &count);
    for (size_t i = 0; i < count; i++)
        optimizer->state[i] = (float)optimizer->conf.initial_accumulator;
    optimizer->steps = 0;
    optimizer->grad_norm = NAN;
}

uint64_t tr_optimizer_steps(const struct tr_optimizer *optimizer)
{
    return optimizer->steps;
}

void tr_optimizer_set_steps(struct tr_optimizer *optimizer, uint64_t steps)
{
    optimizer->steps = steps;
}
