/* embedding_server/optimizer.c -- what all instruction sets share: checks, state, the step's numbers. */
#include "embedding_server/optimizer.h"
#include "embedding_server/element.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/rand.h"
#include "runtime/job/layout.h"

#include <math.h>

/* Rows are worked on in whole registers: half an AVX-512 register of 8 is slower than an AVX2 one. */
static const struct ebs_optimizer_loops *select_loops(uint32_t dim)
{
    switch (rt_cpu_isa()) {
    case RT_ISA_AVX512:
        return dim > 8 ? &ebs_optimizer_avx512 : &ebs_optimizer_avx2;
    case RT_ISA_AVX2:
        return &ebs_optimizer_avx2;
    case RT_ISA_PLAIN:
        break;
    }
    return &ebs_optimizer_plain;
}

static bool is_adagrad(const struct rt_sparse_optimizer_conf *conf)
{
    return conf->kind == RT_OPT_ADAGRAD || conf->kind == RT_OPT_ROWWISE_ADAGRAD;
}

/* Numbers that are used as float32, and as it must be finite there. */
static int check_numbers(const struct rt_sparse_optimizer_conf *conf, const char *table)
{
    const struct {
        const char *name;
        double value;
    } number[] = {
        {"weight_decay", conf->weight_decay},
        {"gradient_clip", conf->gradient_clip},
        {"weight_bound", conf->weight_bound},
        {"eps", conf->eps},
        {"initial_accumulator", conf->initial_accumulator},
        {"beta", conf->ftrl_beta},
        {"l1", conf->l1},
        {"l2", conf->l2},
    };

    for (size_t i = 0; i < sizeof(number) / sizeof(*number); i++)
        if (!(number[i].value >= 0.0 && isfinite((float)number[i].value)))
            return RT_FAIL(RT_EUSAGE, "table %s: %s: expected >= 0, got %g", table, number[i].name,
                           number[i].value);
    return 0;
}

static int check(const struct rt_table_conf *table)
{
    const struct rt_sparse_optimizer_conf *conf = &table->optimizer;
    bool adam = conf->kind == RT_OPT_ADAM;
    int err;

    if (conf->kind >= EBS_OPTIMIZER_KINDS)
        return RT_FAIL(RT_EUSAGE, "table %s: unknown optimizer %u", table->name, conf->kind);
    if (wire_dtype_size(table->dtype) == 0)
        return RT_FAIL(RT_EUSAGE, "table %s: unknown dtype %u", table->name, table->dtype);
    if (table->dim < 1 || table->dim > WIRE_DIM_MAX)
        return RT_FAIL(RT_EUSAGE, "table %s: dim: expected 1..%u, got %u", table->name,
                       WIRE_DIM_MAX, table->dim);
    err = check_numbers(conf, table->name);
    if (err)
        return err;
    /* A zero gradient on a fresh row would divide zero by zero. */
    if ((adam || (is_adagrad(conf) && (float)conf->initial_accumulator == 0.0f)) &&
        (float)conf->eps == 0.0f)
        return RT_FAIL(RT_EUSAGE, "table %s: eps: expected > 0 where the state starts at 0, got %g",
                       table->name, conf->eps);
    if (adam &&
        !(conf->beta1 >= 0.0 && conf->beta1 < 1.0 && conf->beta2 >= 0.0 && conf->beta2 < 1.0))
        return RT_FAIL(RT_EUSAGE, "table %s: betas: expected in [0, 1), got %g and %g", table->name,
                       conf->beta1, conf->beta2);
    return 0;
}

/* The largest value of a dtype that is not above `bound`: a clamped weight stays within it when rounded. */
static float bound_of(uint32_t dtype, float bound)
{
    union {
        uint8_t byte[sizeof(float)];
        uint16_t half;
        float single; /* aligns it */
    } stored;
    const uint8_t *row = stored.byte;
    struct ebs_weights one = {.row = &row, .n = 1, .dim = 1, .dtype = dtype};
    float wide;

    ebs_element_round(dtype, &bound, stored.byte, 1);
    ebs_element_widen(&one, &wide);
    if (wide > bound) { /* rounded up: its neighbour below */
        stored.half--;
        ebs_element_widen(&one, &wide);
    }
    return wide;
}

int ebs_optimizer_prepare(struct ebs_optimizer *out, const struct rt_table_conf *table,
                          uint64_t seed)
{
    const struct rt_sparse_optimizer_conf *conf = &table->optimizer;
    float bound;
    int err = check(table);

    if (err)
        return err;
    bound = bound_of(table->dtype, (float)conf->weight_bound);
    if (conf->weight_bound > 0.0 && bound == 0.0f)
        return RT_FAIL(RT_EUSAGE,
                       "table %s: weight_bound: expected what its dtype can hold, got %g",
                       table->name, conf->weight_bound);
    *out = (struct ebs_optimizer){
        .loops = select_loops(table->dim),
        .kind = conf->kind,
        .dtype = table->dtype,
        .dim = table->dim,
        .state_count = rt_state_count(conf, table->dim),
        .initial_state = is_adagrad(conf) ? (float)conf->initial_accumulator : 0.0f,
        .beta1 = conf->beta1,
        .beta2 = conf->beta2,
        .step = {.weight_decay = (float)conf->weight_decay,
                 .eps = (float)conf->eps,
                 .rate1 = (float)(1.0 - conf->beta1),
                 .rate2 = (float)(1.0 - conf->beta2),
                 .beta = (float)conf->ftrl_beta,
                 .l1 = (float)conf->l1,
                 .l2 = (float)conf->l2,
                 .gradient_clip = (float)conf->gradient_clip,
                 .weight_bound = bound,
                 .key = rt_draw_key(seed, "round", table->name)},
    };
    return 0;
}

void ebs_optimizer_state_fill(const struct ebs_optimizer *optimizer, float *state)
{
    for (size_t j = 0; j < optimizer->state_count; j++)
        state[j] = optimizer->initial_state;
}

float ebs_optimizer_lr(const struct ebs_optimizer *optimizer, float lr, double factor)
{
    if (optimizer->kind == RT_OPT_FTRL && factor != 0.0)
        return lr;
    return (float)((double)lr * factor);
}

struct ebs_step ebs_optimizer_step(const struct ebs_optimizer *optimizer, float lr, uint64_t step,
                                   uint64_t draw)
{
    struct ebs_step out = optimizer->step;

    out.lr = lr;
    out.key = rt_draw_fold(out.key, draw);
    if (optimizer->kind == RT_OPT_ADAM) {
        double t = step > 0 ? (double)step : 1.0;
        double correction1 = 1.0 - pow(optimizer->beta1, t);
        double correction2 = 1.0 - pow(optimizer->beta2, t);

        out.adam_lr = (float)(lr * sqrt(correction2) / correction1);
    }
    if (optimizer->kind == RT_OPT_FTRL)
        out.per_lr = lr >= EBS_FTRL_LR_MIN ? 1.0f / lr : 0.0f;
    return out;
}

size_t ebs_gradients_usable(const struct ebs_optimizer *optimizer, const float *grad, size_t n,
                            bool *usable)
{
    return optimizer->loops->usable(grad, n, optimizer->dim, usable);
}

void ebs_optimizer_run(const struct ebs_optimizer *optimizer, const struct ebs_step *step,
                       const struct ebs_rows *rows)
{
    if (optimizer->kind == RT_OPT_FTRL && step->per_lr == 0.0f)
        return;
    optimizer->loops->rows[optimizer->kind][optimizer->dtype](step, rows, optimizer->dim);
}
