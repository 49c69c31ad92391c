/* embedding_server/optimizer.c -- what all instruction sets share: checks, state, the step's numbers. */
#include "embedding_server/optimizer.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"

#include <math.h>

const struct ebs_optimizer_loops *ebs_optimizer_select(void)
{
    switch (rt_cpu_isa()) {
    case RT_ISA_AVX512:
        return &ebs_optimizer_avx512;
    case RT_ISA_AVX2:
        return &ebs_optimizer_avx2;
    case RT_ISA_PLAIN:
        break;
    }
    return &ebs_optimizer_plain;
}

int ebs_optimizer_check(const struct ebs_optimizer_conf *conf, const char *table)
{
    bool adagrad =
        conf->kind == EBS_OPTIMIZER_ADAGRAD || conf->kind == EBS_OPTIMIZER_ROWWISE_ADAGRAD;
    bool adam = conf->kind == EBS_OPTIMIZER_ADAM;

    if ((unsigned)conf->kind >= EBS_OPTIMIZER_KINDS)
        return RT_FAIL(RT_EUSAGE, "table %s: unknown optimizer %d", table, (int)conf->kind);
    if (!isfinite(conf->weight_decay) || conf->weight_decay < 0.0f)
        return RT_FAIL(RT_EUSAGE, "table %s: weight_decay: expected >= 0, got %g", table,
                       (double)conf->weight_decay);
    if ((adagrad || adam) && (!isfinite(conf->eps) || conf->eps < 0.0f))
        return RT_FAIL(RT_EUSAGE, "table %s: eps: expected >= 0, got %g", table, (double)conf->eps);
    if (adagrad && (!isfinite(conf->initial_accumulator) || conf->initial_accumulator < 0.0f))
        return RT_FAIL(RT_EUSAGE, "table %s: initial_accumulator: expected >= 0, got %g", table,
                       (double)conf->initial_accumulator);
    /* A zero gradient on a fresh row would divide zero by zero. */
    if ((adam || (adagrad && conf->initial_accumulator == 0.0f)) && conf->eps == 0.0f)
        return RT_FAIL(RT_EUSAGE, "table %s: eps: expected > 0 where the state starts at 0", table);
    if (adam &&
        !(conf->beta1 >= 0.0f && conf->beta1 < 1.0f && conf->beta2 >= 0.0f && conf->beta2 < 1.0f))
        return RT_FAIL(RT_EUSAGE, "table %s: betas: expected in [0, 1), got %g and %g", table,
                       (double)conf->beta1, (double)conf->beta2);
    return 0;
}

size_t ebs_optimizer_state_count(const struct ebs_optimizer_conf *conf, size_t dim)
{
    switch (conf->kind) {
    case EBS_OPTIMIZER_SGD:
        return 0;
    case EBS_OPTIMIZER_ADAGRAD:
        return dim;
    case EBS_OPTIMIZER_ROWWISE_ADAGRAD:
        return 1;
    case EBS_OPTIMIZER_ADAM:
        break;
    }
    return 2 * dim;
}

void ebs_optimizer_state_fill(const struct ebs_optimizer_conf *conf, float *state, size_t dim)
{
    size_t n = ebs_optimizer_state_count(conf, dim);
    float value = conf->kind == EBS_OPTIMIZER_ADAM ? 0.0f : conf->initial_accumulator;

    for (size_t j = 0; j < n; j++)
        state[j] = value;
}

struct ebs_step ebs_optimizer_step(const struct ebs_optimizer_conf *conf, float lr, uint64_t step)
{
    struct ebs_step out = {.lr = lr, .weight_decay = conf->weight_decay, .eps = conf->eps};

    if (conf->kind == EBS_OPTIMIZER_ADAM) {
        double t = step > 0 ? (double)step : 1.0;
        double correction1 = 1.0 - pow(conf->beta1, t);
        double correction2 = 1.0 - pow(conf->beta2, t);

        out.rate1 = 1.0f - conf->beta1;
        out.rate2 = 1.0f - conf->beta2;
        out.adam_lr = (float)(lr * sqrt(correction2) / correction1);
    }
    return out;
}
