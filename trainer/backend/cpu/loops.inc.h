/* trainer/backend/cpu/loops.inc.h -- body of loops*.c: operations that pass over memory once; LOOPS, the table's name, is
 * defined by the including file.
 *
 * Plain C for the compiler to vectorize, once per instruction set. An element's operations are the same everywhere and
 * nothing is fused (-ffp-contract=off), so are its bits. Sums over samples run a block of columns at a time, each column
 * on its own; sums over columns as 16 sums side by side, which are then added in a fixed order. */

/* At -O2, gcc 12 vectorizes only loops whose length it knows, and no selects between floats if they could trap. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#pragma GCC optimize("O3", "no-trapping-math")
#endif

#include <string.h>
#include <tgmath.h>

#include "runtime/base/rand.h"
#include "trainer/backend/backend.h"

#define COLUMNS 16u /* of a sum, side by side */

static inline uint32_t at_most(uint32_t value, uint32_t limit)
{
    return value < limit ? value : limit;
}

static inline tr_real fold(const tr_real *part)
{
    tr_real half[COLUMNS / 2], quarter[COLUMNS / 4];
    for (uint32_t k = 0; k < COLUMNS / 2; k++)
        half[k] = part[k] + part[k + COLUMNS / 2];
    for (uint32_t k = 0; k < COLUMNS / 4; k++)
        quarter[k] = half[k] + half[k + COLUMNS / 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

static tr_real sum_of(const tr_real *x, uint32_t n)
{
    tr_real part[COLUMNS] = {0};
    uint32_t c = 0;
    for (; c + COLUMNS <= n; c += COLUMNS)
        for (uint32_t k = 0; k < COLUMNS; k++)
            part[k] += x[c + k];
    for (uint32_t k = 0; c + k < n; k++)
        part[k] += x[c + k];
    return fold(part);
}

static tr_real product_of(const tr_real *x, const tr_real *y, uint32_t n)
{
    tr_real part[COLUMNS] = {0};
    uint32_t c = 0;
    for (; c + COLUMNS <= n; c += COLUMNS)
        for (uint32_t k = 0; k < COLUMNS; k++)
            part[k] += x[c + k] * y[c + k];
    for (uint32_t k = 0; c + k < n; k++)
        part[k] += x[c + k] * y[c + k];
    return fold(part);
}

/* y = scale x, or y += scale x. */
static void put_scaled(tr_real *y, const tr_real *x, tr_real scale, uint32_t n, bool add)
{
    if (add)
        for (uint32_t c = 0; c < n; c++)
            y[c] += scale * x[c];
    else
        for (uint32_t c = 0; c < n; c++)
            y[c] = scale * x[c];
}

/* sum[columns] = (or +=) the sums over all rows of dy, of `rows` in each sample. */
static void column_sums(const tr_real *dy, size_t stride, uint32_t samples, uint32_t rows,
                        uint32_t columns, tr_real *sum, bool add)
{
    for (uint32_t first = 0; first < columns; first += COLUMNS) {
        uint32_t n = at_most(columns - first, COLUMNS);
        tr_real part[COLUMNS] = {0};
        for (uint32_t s = 0; s < samples; s++)
            for (uint32_t r = 0; r < rows; r++)
                for (uint32_t c = 0; c < n; c++)
                    part[c] += dy[s * stride + (size_t)r * columns + first + c];
        put_scaled(sum + first, part, 1, n, add);
    }
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
    case TR_ACT_DICE:
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
    case TR_ACT_DICE:
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

/* ---- copies, products, sums ---- */

static int copy(struct tr_backend *backend, const struct tr_copy *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *x = op->x + s * op->x_stride;
        tr_real *y = op->y + s * op->y_stride;
        if (!op->add)
            memcpy(y, x, op->width * sizeof *y);
        for (uint32_t c = 0; op->add && c < op->width; c++)
            y[c] += x[c];
    }
    return 0;
}

/* y *= x, a sample's. */
static void multiply(tr_real *y, const tr_real *x, bool spread, uint32_t rows, uint32_t columns)
{
    for (uint32_t r = 0; spread && r < rows; r++)
        for (uint32_t c = 0; c < columns; c++)
            y[(size_t)r * columns + c] *= x[r];
    for (size_t c = 0; !spread && c < (size_t)rows * columns; c++)
        y[c] *= x[c];
}

static int mul_forward(struct tr_backend *backend, const struct tr_mul *op)
{
    (void)backend;
    size_t width = (size_t)op->rows * op->columns;
    for (uint32_t s = 0; s < op->samples; s++) {
        tr_real *y = op->y + s * op->y_stride;
        for (size_t c = 0; c < width; c++)
            y[c] = 1;
        for (uint32_t i = 0; i < op->n; i++)
            multiply(y, op->x[i] + s * op->x_stride[i], op->spread[i], op->rows, op->columns);
    }
    return 0;
}

static void mul_grad_one(const struct tr_mul_grad *op, uint32_t i, uint32_t s)
{
    const struct tr_mul *of = &op->of;
    uint32_t width = of->rows * of->columns;
    tr_real *dx = op->dx[i] + s * of->x_stride[i], *product = op->scratch;
    memcpy(product, op->dy + s * op->dy_stride, width * sizeof *product);
    for (uint32_t j = 0; j < of->n; j++)
        if (j != i)
            multiply(product, of->x[j] + s * of->x_stride[j], of->spread[j], of->rows, of->columns);
    if (!of->spread[i])
        put_scaled(dx, product, 1, width, op->add[i]);
    for (uint32_t r = 0; of->spread[i] && r < of->rows; r++) {
        tr_real sum = sum_of(product + (size_t)r * of->columns, of->columns);
        dx[r] = op->add[i] ? dx[r] + sum : sum;
    }
}

static int mul_backward(struct tr_backend *backend, const struct tr_mul_grad *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->of.samples; s++)
        for (uint32_t i = 0; i < op->of.n; i++)
            if (op->dx[i])
                mul_grad_one(op, i, s);
    return 0;
}

static int reduce_forward(struct tr_backend *backend, const struct tr_reduce *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *x = op->x + s * op->x_stride;
        tr_real *y = op->y + s * op->y_stride;
        for (uint32_t r = 0; r < op->rows; r++, x += op->columns) {
            if (op->over_rows)
                put_scaled(y, x, op->scale, op->columns, r > 0);
            else
                y[r] = op->scale * sum_of(x, op->columns);
        }
    }
    return 0;
}

static int reduce_backward(struct tr_backend *backend, const struct tr_reduce_grad *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *dy = op->dy + s * op->dy_stride;
        tr_real *dx = op->dx + s * op->dx_stride;
        for (uint32_t r = 0; r < op->rows; r++, dx += op->columns) {
            tr_real each = op->scale * (op->over_rows ? 0 : dy[r]);
            if (op->over_rows)
                put_scaled(dx, dy, op->scale, op->columns, op->add);
            for (uint32_t c = 0; !op->over_rows && c < op->columns; c++)
                dx[c] = op->add ? dx[c] + each : each;
        }
    }
    return 0;
}

/* ---- over the columns of a row ---- */

static void softmax_row(const tr_real *x, const tr_real *mask, uint32_t n, tr_real *y)
{
    tr_real max = 0, sum = 0;
    bool any = false;
    for (uint32_t c = 0; c < n; c++) {
        if (mask && mask[c] == 0)
            continue;
        max = any && max > x[c] ? max : x[c];
        any = true;
    }
    for (uint32_t c = 0; c < n; c++)
        y[c] = mask && mask[c] == 0 ? 0 : exp(x[c] - max);
    sum = sum_of(y, n);
    for (uint32_t c = 0; any && c < n; c++)
        y[c] /= sum;
}

static int softmax_forward(struct tr_backend *backend, const struct tr_softmax *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        for (uint32_t r = 0; r < op->rows; r++) {
            size_t at = (size_t)r * op->columns;
            const tr_real *mask = op->mask ? op->mask + s * op->mask_stride : NULL;
            if (mask && op->mask_rows)
                mask += at;
            softmax_row(op->x + s * op->x_stride + at, mask, op->columns,
                        op->y + s * op->y_stride + at);
        }
    }
    return 0;
}

static int softmax_backward(struct tr_backend *backend, const struct tr_softmax_grad *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        for (uint32_t r = 0; r < op->rows; r++) {
            size_t at = (size_t)r * op->columns;
            const tr_real *y = op->y + s * op->y_stride + at, *dy = op->dy + s * op->dy_stride + at;
            tr_real *dx = op->dx + s * op->dx_stride + at, mean = product_of(y, dy, op->columns);
            for (uint32_t c = 0; c < op->columns; c++)
                dx[c] = (op->add ? dx[c] : 0) + y[c] * (dy[c] - mean);
        }
    }
    return 0;
}

static void normalize_row(const struct tr_layernorm *op, const tr_real *x, tr_real *y,
                          tr_real *stat)
{
    uint32_t n = op->columns;
    tr_real mean = sum_of(x, n) / (tr_real)n;
    for (uint32_t c = 0; c < n; c++)
        y[c] = x[c] - mean;
    tr_real variance = product_of(y, y, n) / (tr_real)n;
    tr_real inverse = 1 / sqrt(variance + (tr_real)op->eps);
    for (uint32_t c = 0; c < n; c++)
        y[c] = y[c] * inverse * op->w[c] + op->b[c];
    stat[0] = mean;
    stat[1] = inverse;
}

static int layernorm_forward(struct tr_backend *backend, const struct tr_layernorm *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        for (uint32_t r = 0; r < op->rows; r++) {
            size_t at = (size_t)r * op->columns;
            normalize_row(op, op->x + s * op->x_stride + at, op->y + s * op->y_stride + at,
                          op->stat + 2 * ((size_t)s * op->rows + r));
        }
    }
    return 0;
}

static void layernorm_weight_grad(const struct tr_layernorm_grad *op)
{
    for (uint32_t first = 0; first < op->columns; first += COLUMNS) {
        uint32_t n = at_most(op->columns - first, COLUMNS);
        tr_real part[COLUMNS] = {0};
        for (size_t k = 0; k < (size_t)op->samples * op->rows; k++) {
            size_t s = k / op->rows, at = k % op->rows * op->columns + first;
            const tr_real *x = op->x + s * op->x_stride + at;
            const tr_real *dy = op->dy + s * op->dy_stride + at, *stat = op->stat + 2 * k;
            for (uint32_t c = 0; c < n; c++)
                part[c] += dy[c] * ((x[c] - stat[0]) * stat[1]);
        }
        put_scaled(op->dw + first, part, 1, n, op->add_params);
    }
}

/* With g = dy w and h the normalized x: dx = (g - mean of g - h * mean of g h) / sqrt(variance + eps). */
static void layernorm_row_grad(const struct tr_layernorm_grad *op, const tr_real *x,
                               const tr_real *dy, const tr_real *stat, tr_real *dx)
{
    uint32_t n = op->columns;
    tr_real part[COLUMNS] = {0}, both[COLUMNS] = {0};
    for (uint32_t first = 0; first < n; first += COLUMNS) {
        uint32_t end = at_most(n - first, COLUMNS);
        for (uint32_t k = 0; k < end; k++) {
            tr_real g = dy[first + k] * op->w[first + k];
            part[k] += g;
            both[k] += g * ((x[first + k] - stat[0]) * stat[1]);
        }
    }
    tr_real mean = fold(part) / (tr_real)n, along = fold(both) / (tr_real)n;
    for (uint32_t c = 0; c < n; c++) {
        tr_real h = (x[c] - stat[0]) * stat[1];
        dx[c] = (op->add ? dx[c] : 0) + (dy[c] * op->w[c] - mean - h * along) * stat[1];
    }
}

static int layernorm_backward(struct tr_backend *backend, const struct tr_layernorm_grad *op)
{
    (void)backend;
    layernorm_weight_grad(op);
    column_sums(op->dy, op->dy_stride, op->samples, op->rows, op->columns, op->db, op->add_params);
    for (size_t k = 0; op->dx && k < (size_t)op->samples * op->rows; k++) {
        size_t s = k / op->rows, at = k % op->rows * op->columns;
        layernorm_row_grad(op, op->x + s * op->x_stride + at, op->dy + s * op->dy_stride + at,
                           op->stat + 2 * k, op->dx + s * op->dx_stride + at);
    }
    return 0;
}

static int dropout(struct tr_backend *backend, const struct tr_dropout *op)
{
    (void)backend;
    uint64_t limit = (uint64_t)(op->rate * 0x1p53);
    tr_real scale = (tr_real)(1 / (1 - op->rate));
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *x = op->x + s * op->x_stride;
        tr_real *y = op->y + s * op->y_stride;
        uint64_t at = ((uint64_t)op->first + s) * op->width;
        for (uint32_t c = 0; c < op->width; c++) {
            tr_real kept = rt_draw(op->key, at + c) >> 11 >= limit ? x[c] * scale : 0;
            y[c] = op->add ? y[c] + kept : kept;
        }
    }
    return 0;
}

/* ---- cross ---- */

static int cross_forward(struct tr_backend *backend, const struct tr_cross *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *x0 = op->x0 + s * op->x0_stride, *x = op->x + s * op->x_stride;
        const tr_real *z = op->z + s * op->z_stride;
        tr_real *y = op->y + s * op->y_stride;
        for (uint32_t c = 0; c < op->width; c++)
            y[c] = x0[c] * (op->one ? z[0] : z[c]) + x[c];
        for (uint32_t c = 0; op->b && c < op->width; c++)
            y[c] += op->b[c];
    }
    return 0;
}

static int cross_backward(struct tr_backend *backend, const struct tr_cross_grad *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *x0 = op->x0 + s * op->x0_stride, *z = op->z + s * op->z_stride;
        const tr_real *dy = op->dy + s * op->dy_stride;
        tr_real *dz = op->dz + s * op->z_stride;
        tr_real *dx0 = op->dx0 ? op->dx0 + s * op->x0_stride : NULL;
        for (uint32_t c = 0; dx0 && c < op->width; c++)
            dx0[c] = (op->add ? dx0[c] : 0) + dy[c] * (op->one ? z[0] : z[c]);
        if (op->one)
            dz[0] = product_of(dy, x0, op->width);
        for (uint32_t c = 0; !op->one && c < op->width; c++)
            dz[c] = dy[c] * x0[c];
    }
    if (op->db)
        column_sums(op->dy, op->dy_stride, op->samples, 1, op->width, op->db, op->add_params);
    return 0;
}

/* ---- factorization machine ---- */

/* One vector after the other for all samples: see gather() in kernels.inc.h. */
static int fm_forward(struct tr_backend *backend, const struct tr_fm *op)
{
    (void)backend;
    uint32_t dim = op->dim;
    for (uint32_t i = 0; i < op->n; i++) {
        for (uint32_t s = 0; s < op->samples; s++) {
            const tr_real *x = op->x[i] + s * op->x_stride[i];
            tr_real *sum = op->sum + (size_t)s * dim, *square = op->square + (size_t)s * dim;
            for (uint32_t d = 0; d < dim; d++) {
                sum[d] = (i ? sum[d] : 0) + x[d];
                square[d] = (i ? square[d] : 0) + x[d] * x[d];
            }
        }
    }
    for (uint32_t s = 0; s < op->samples; s++) {
        tr_real *sum = op->sum + (size_t)s * dim, *square = op->square + (size_t)s * dim;
        for (uint32_t d = 0; d < dim; d++)
            square[d] = (tr_real)0.5 * (sum[d] * sum[d] - square[d]);
        if (op->whole)
            op->y[s * op->y_stride] = sum_of(square, dim);
        else
            memcpy(op->y + s * op->y_stride, square, dim * sizeof *square);
    }
    return 0;
}

static int fm_backward(struct tr_backend *backend, const struct tr_fm_grad *op)
{
    (void)backend;
    for (uint32_t i = 0; i < op->n; i++) {
        for (uint32_t s = 0; op->dx[i] && s < op->samples; s++) {
            const tr_real *x = op->x[i] + s * op->x_stride[i], *dy = op->dy + s * op->dy_stride;
            const tr_real *sum = op->sum + (size_t)s * op->dim;
            tr_real *dx = op->dx[i] + s * op->x_stride[i];
            for (uint32_t d = 0; d < op->dim; d++)
                dx[d] = (op->add[i] ? dx[d] : 0) + (op->whole ? dy[0] : dy[d]) * (sum[d] - x[d]);
        }
    }
    return 0;
}

#include "trainer/backend/cpu/attention.inc.h"
#include "trainer/backend/cpu/moments.inc.h"
#include "trainer/backend/cpu/pool.inc.h"

const struct tr_backend_loops LOOPS = {
    .act_forward = act_forward,
    .act_backward = act_backward,
    .copy = copy,
    .mul_forward = mul_forward,
    .mul_backward = mul_backward,
    .reduce_forward = reduce_forward,
    .reduce_backward = reduce_backward,
    .softmax_forward = softmax_forward,
    .softmax_backward = softmax_backward,
    .layernorm_forward = layernorm_forward,
    .layernorm_backward = layernorm_backward,
    .moments = moments,
    .norm_take = norm_take,
    .norm_bring = norm_bring,
    .batchnorm_forward = batchnorm_forward,
    .batchnorm_backward = batchnorm_backward,
    .dice_forward = dice_forward,
    .dice_backward = dice_backward,
    .dropout = dropout,
    .masked_pool_forward = masked_pool_forward,
    .masked_pool_backward = masked_pool_backward,
    .clear = clear,
    .cross_forward = cross_forward,
    .cross_backward = cross_backward,
    .fm_forward = fm_forward,
    .fm_backward = fm_backward,
    .mix_forward = mix_forward,
    .mix_backward = mix_backward,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .din_forward = din_forward,
    .din_backward = din_backward,
};
