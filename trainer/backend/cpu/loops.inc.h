/* trainer/backend/cpu/loops.inc.h -- body of loops*.c: operations that pass over memory once; LOOPS, the table's name, is
 * defined by the including file.
 *
 * Plain C for the compiler to vectorize, once per instruction set. An element's operations are the same everywhere and
 * nothing is fused (-ffp-contract=off), so are its bits. Sums over samples run a block of columns at a time, each column on its own. */

/* At -O2, gcc 12 vectorizes only loops whose length it knows, and no selects between floats if they could trap. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#pragma GCC optimize("O3", "no-trapping-math")
#endif

#include <tgmath.h>

#include "runtime/base/assert.h"
#include "trainer/backend/backend.h"

#define COLUMNS 16u /* of a sum over samples, side by side */

static inline uint32_t at_most(uint32_t value, uint32_t limit)
{
    return value < limit ? value : limit;
}

/* ---- activations ---- */

static inline tr_real sigmoid(tr_real x)
{
    tr_real e = exp(-fabs(x));
    return (x >= 0 ? 1 : e) / (1 + e);
}

/* The normal distribution's integral up to x, and its density. */
static inline tr_real normal_below(tr_real x)
{
    return (tr_real)0.5 * (1 + erf(x * (tr_real)0.70710678118654752440));
}

static inline tr_real normal_at(tr_real x)
{
    return exp((tr_real)-0.5 * x * x) * (tr_real)0.39894228040143267794;
}

static void act_row(enum tr_act_kind kind, const tr_real *x, const tr_real *slope, uint32_t n,
                    tr_real *y)
{
    switch (kind) {
    case TR_ACT_RELU:
        for (uint32_t c = 0; c < n; c++)
            y[c] = x[c] < 0 ? 0 : x[c]; /* keeps NaN */
        return;
    case TR_ACT_GELU:
        for (uint32_t c = 0; c < n; c++)
            y[c] = x[c] * normal_below(x[c]);
        return;
    case TR_ACT_SIGMOID:
        for (uint32_t c = 0; c < n; c++)
            y[c] = sigmoid(x[c]);
        return;
    case TR_ACT_TANH:
        for (uint32_t c = 0; c < n; c++)
            y[c] = tanh(x[c]);
        return;
    case TR_ACT_PRELU:
        for (uint32_t c = 0; c < n; c++)
            y[c] = x[c] > 0 ? x[c] : x[c] * slope[c];
        return;
    case TR_ACT_NONE:
    case TR_ACT_COUNT:
        break;
    }
    for (uint32_t c = 0; c < n; c++)
        y[c] = x[c];
}

static int act_forward(struct tr_backend *backend, const struct tr_act *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++)
        act_row(op->kind, op->x + s * op->x_stride, op->slope, op->columns,
                op->y + s * op->y_stride);
    return 0;
}

/* Before the rows of dy become those of dx. */
static void slope_grad(const struct tr_act_grad *op)
{
    for (uint32_t first = 0; first < op->columns; first += COLUMNS) {
        uint32_t n = at_most(op->columns - first, COLUMNS);
        tr_real sum[COLUMNS] = {0};
        for (uint32_t s = 0; s < op->samples; s++) {
            const tr_real *x = op->x + s * op->stride + first;
            const tr_real *dy = op->dy + s * op->dy_stride + first;
            for (uint32_t c = 0; c < n; c++)
                sum[c] += x[c] > 0 ? 0 : dy[c] * x[c];
        }
        for (uint32_t c = 0; c < n; c++)
            op->dslope[first + c] = op->add_params ? op->dslope[first + c] + sum[c] : sum[c];
    }
}

static void act_grad_row(const struct tr_act_grad *op, const tr_real *x, const tr_real *y,
                         tr_real *dy)
{
    uint32_t n = op->columns;
    switch (op->kind) {
    case TR_ACT_RELU:
        for (uint32_t c = 0; c < n; c++)
            dy[c] = y[c] == 0 ? 0 : dy[c];
        return;
    case TR_ACT_GELU:
        for (uint32_t c = 0; c < n; c++)
            dy[c] *= normal_below(x[c]) + x[c] * normal_at(x[c]);
        return;
    case TR_ACT_SIGMOID:
        for (uint32_t c = 0; c < n; c++)
            dy[c] *= y[c] * (1 - y[c]);
        return;
    case TR_ACT_TANH:
        for (uint32_t c = 0; c < n; c++)
            dy[c] *= 1 - y[c] * y[c];
        return;
    case TR_ACT_PRELU:
        for (uint32_t c = 0; c < n; c++)
            dy[c] *= x[c] > 0 ? 1 : op->slope[c];
        return;
    case TR_ACT_NONE:
    case TR_ACT_COUNT:
        return;
    }
}

static int act_backward(struct tr_backend *backend, const struct tr_act_grad *op)
{
    (void)backend;
    if (op->kind == TR_ACT_PRELU)
        slope_grad(op);
    for (uint32_t s = 0; s < op->samples; s++)
        act_grad_row(op, op->x ? op->x + s * op->stride : NULL,
                     op->y ? op->y + s * op->stride : NULL, op->dy + s * op->dy_stride);
    return 0;
}

const struct tr_backend_loops LOOPS = {
    .act_forward = act_forward,
    .act_backward = act_backward,
};
