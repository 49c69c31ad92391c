/* trainer/optimizer.c -- dense optimizers: the table of kinds, state, and the check before a step.
 *
 * The arithmetic is in backend/cpu/kernels.inc.h, once per instruction set and with the same bits in
 * all; scalars that torch computes in float64 (1 - beta, bias corrections) are computed so here and
 * rounded once. Gradients are checked before anything is written, so a refused step leaves no trace. */
#include "trainer/optimizer.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "trainer/backend/cpu/kernels.h"
#include "trainer/model/model.h"

struct tr_optimizer {
    struct tr_optimizer_conf conf;
    size_t n;
    size_t slots;
    float *state; /* [slots][n] */
    uint64_t steps;
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
};

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
    return RT_FAIL(RT_EUSAGE, "optimizer '%.40s': expected sgd, adagrad or adam%s%s%s", name,
                   near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
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
    return conf->kind == TR_ADAM ? 2 : 1;
}

int tr_optimizer_create(const struct tr_optimizer_conf *conf, size_t n, struct tr_optimizer **out)
{
    int err = check_conf(conf);
    if (err)
        return err;
    struct tr_optimizer *optimizer = rt_xcalloc(1, sizeof *optimizer);
    optimizer->conf = *conf;
    optimizer->n = n;
    optimizer->slots = count_slots(conf);
    size_t count = 0, bytes = 0;
    if (rt_mul_size(optimizer->slots, n, &count) && rt_mul_size(count, sizeof(float), &bytes))
        optimizer->state = rt_try_aligned(bytes ? bytes : sizeof(float));
    if (!optimizer->state) {
        rt_free(optimizer);
        return RT_FAIL(RT_ENOMEM, "optimizer %s: no memory for the state of %zu parameters",
                       kinds[conf->kind].name, n);
    }
    for (size_t i = 0; i < count; i++)
        optimizer->state[i] = (float)conf->initial_accumulator;
    *out = optimizer;
    return 0;
}

void tr_optimizer_destroy(struct tr_optimizer *optimizer)
{
    if (!optimizer)
        return;
    rt_free(optimizer->state);
    rt_free(optimizer);
}

static int refuse(const struct tr_optimizer *optimizer, const float *grad)
{
    size_t i = 0;
    while (i < optimizer->n && isfinite(grad[i]))
        i++;
    return RT_FAIL(RT_EDATA, "optimizer %s: gradient %zu of %zu is %g; nothing was changed",
                   kinds[optimizer->conf.kind].name, i, optimizer->n, (double)grad[i]);
}

int tr_optimizer_step(struct tr_optimizer *optimizer, double lr, const float *grad, float *param)
{
    const struct tr_optimizer_conf *conf = &optimizer->conf;
    const struct tr_kernels *kernels = tr_kernels_get();
    if (!isfinite(lr))
        return RT_FAIL(RT_EDATA, "optimizer %s: learning rate is %g", kinds[conf->kind].name, lr);
    if (!kernels->within(grad, optimizer->n, FLT_MAX))
        return refuse(optimizer, grad);
    double t = (double)++optimizer->steps;
    struct tr_update op = {
        .n = optimizer->n,
        .grad = grad,
        .param = param,
        .state = {optimizer->slots > 0 ? optimizer->state : NULL,
                  optimizer->slots > 1 ? optimizer->state + optimizer->n : NULL},
        .lr = (float)(conf->kind == TR_ADAM ? lr / (1 - pow(conf->beta1, t)) : lr),
        .eps = (float)conf->eps,
        .weight_decay = (float)conf->weight_decay,
        .momentum = (float)conf->momentum,
        .beta1 = (float)conf->beta1,
        .rest1 = (float)(1 - conf->beta1),
        .beta2 = (float)conf->beta2,
        .rest2 = (float)(1 - conf->beta2),
        .correction = (float)sqrt(1 - pow(conf->beta2, t)),
    };
    if (conf->kind == TR_SGD)
        kernels->sgd(&op);
    else if (conf->kind == TR_ADAGRAD)
        kernels->adagrad(&op);
    else
        kernels->adam(&op);
    return 0;
}

float *tr_optimizer_state(struct tr_optimizer *optimizer, size_t *count)
{
    *count = optimizer->slots * optimizer->n;
    return optimizer->slots ? optimizer->state : NULL;
}

const char *tr_optimizer_slot_name(const struct tr_optimizer *optimizer, size_t slot)
{
    rt_assert(slot < optimizer->slots);
    return kinds[optimizer->conf.kind].slot[slot];
}

uint64_t tr_optimizer_steps(const struct tr_optimizer *optimizer)
{
    return optimizer->steps;
}

void tr_optimizer_set_steps(struct tr_optimizer *optimizer, uint64_t steps)
{
    optimizer->steps = steps;
}
