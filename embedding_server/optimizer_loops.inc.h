/* embedding_server/optimizer_loops.inc.h -- the loops of optimizer.h in plain C.
 *
 * Included by optimizer_plain.c, optimizer_avx2.c and optimizer_avx512.c, which define LOOPS_NAME and
 * are compiled for their instruction set. The compiler vectorizes; since each element's operations are
 * the same IEEE operations in the same order everywhere, so are the bits (the tests compare them). */

/* At -O2, gcc 12 vectorizes only loops whose length it knows, and no selects between floats if they could trap.
 * Sanitized, that would take gcc a minute. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#pragma GCC optimize("O3", "no-trapping-math")
#endif

#include "embedding_server/element_row.inc.h"
#include "embedding_server/optimizer.h"
#include "runtime/base/rand.h"

#include <math.h>

KERNEL void sgd_row(const struct ebs_step *step, float *restrict w, float *restrict state,
                    const float *restrict g, size_t dim)
{
    float lr = step->lr, decay = step->weight_decay;

    (void)state;
    for (size_t j = 0; j < dim; j++)
        w[j] -= lr * (g[j] + decay * w[j]);
}

KERNEL void adagrad_row(const struct ebs_step *step, float *restrict w, float *restrict state,
                        const float *restrict g, size_t dim)
{
    float lr = step->lr, decay = step->weight_decay, eps = step->eps;

#pragma GCC unroll 1 /* or a row of 8 becomes eight single elements: 20 ns instead of 6 */
    for (size_t j = 0; j < dim; j++) {
        float gradient = g[j] + decay * w[j];
        float sum = state[j] + gradient * gradient;

        state[j] = sum;
        w[j] -= lr * gradient / (sqrtf(sum) + eps);
    }
}

/* Sum of squares in a fixed order: lane k takes elements k, k + 16, ...; then the lanes by halves. */
KERNEL float sum_of_squares(const float *restrict w, const float *restrict g, float decay,
                            size_t dim)
{
    size_t whole = dim / LANES * LANES;
    vec part[LANES / WIDTH] = {0};
    float lane[LANES];

    for (size_t j = 0; j < whole; j += LANES) {
        for (size_t p = 0; p < LANES / WIDTH; p++) {
            vec gradient = *(const vec *)(g + j + p * WIDTH);

            gradient += decay * *(const vec *)(w + j + p * WIDTH);
            part[p] += gradient * gradient;
        }
    }
    memcpy(lane, part, sizeof(lane));
    for (size_t k = 0; whole + k < dim; k++) {
        float gradient = g[whole + k] + decay * w[whole + k];

        lane[k] += gradient * gradient;
    }
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t k = 0; k < half; k++)
            lane[k] += lane[k + half];
    return lane[0];
}

KERNEL void rowwise_adagrad_row(const struct ebs_step *step, float *restrict w,
                                float *restrict state, const float *restrict g, size_t dim)
{
    float decay = step->weight_decay;
    float sum = state[0] + sum_of_squares(w, g, decay, dim) / (float)dim;
    float rate = step->lr / (sqrtf(sum) + step->eps);

    state[0] = sum;
    for (size_t j = 0; j < dim; j++)
        w[j] -= rate * (g[j] + decay * w[j]);
}

KERNEL void adam_row(const struct ebs_step *step, float *restrict w, float *restrict state,
                     const float *restrict g, size_t dim)
{
    float decay = step->weight_decay, eps = step->eps, lr = step->adam_lr;
    float rate1 = step->rate1, rate2 = step->rate2;
    float *restrict m = state, *restrict v = state + dim;

    for (size_t j = 0; j < dim; j++) {
        float gradient = g[j] + decay * w[j];
        float first = m[j] + rate1 * (gradient - m[j]);
        float second = v[j] + rate2 * (gradient * gradient - v[j]);

        m[j] = first;
        v[j] = second;
        w[j] -= lr * (first / (sqrtf(second) + eps));
    }
}

/* Selects and no branches: an element stays as it is while its n is 0, and |z| <= l1 is weight 0. */
KERNEL void ftrl_row(const struct ebs_step *step, float *restrict w, float *restrict state,
                     const float *restrict g, size_t dim)
{
    float decay = step->weight_decay, beta = step->beta, l1 = step->l1, l2 = step->l2;
    float per_lr = step->per_lr;
    float *restrict z = state, *restrict n = state + dim;

    for (size_t j = 0; j < dim; j++) {
        float gradient = g[j] + decay * w[j];
        float sum = n[j] + gradient * gradient, root = sqrtf(sum);
        float before = n[j] > 0.0f ? -sqrtf(n[j]) : beta;
        float pull = z[j] + (gradient - (root + before) * per_lr * w[j]);
        float shrunk = copysignf(l1, pull) - pull;
        float moved = fabsf(pull) <= l1 ? 0.0f : shrunk / ((beta + root) * per_lr + l2);

        w[j] = sum > 0.0f ? moved : w[j];
        z[j] = sum > 0.0f ? pull : z[j];
        n[j] = sum;
    }
}

/* ---- what is around the formula ---- */

/* g, or in `scratch` what is left of it. */
KERNEL const float *clip_row(const float *g, float limit, float *restrict scratch, size_t dim)
{
    float norm = sqrtf(sum_of_squares(g, g, 0.0f, dim)), scale = limit / norm;

    if (!(norm > limit))
        return g;
    for (size_t j = 0; j < dim; j++)
        scratch[j] = scale * g[j];
    return scratch;
}

KERNEL void bound_row(float *w, float bound, size_t dim)
{
    for (size_t j = 0; j < dim; j++) {
        float below = w[j] > bound ? bound : w[j];

        w[j] = below < -bound ? -bound : below;
    }
}

typedef void (*row_fn)(const struct ebs_step *step, float *restrict w, float *restrict state,
                       const float *restrict g, size_t dim);

/* A row of 16-bit weights is changed in a float32 scratch row, in whole registers: what is behind its end is never
 * stored. All arguments but the first three are known where this is called, so it becomes one loop for each. */
KERNEL void run_rows(const struct ebs_optimizer *optimizer, const struct ebs_step *step,
                     const struct ebs_rows *rows, row_fn formula, uint32_t dtype, size_t dim)
{
    size_t whole = (dim + LANES - 1) / LANES * LANES;
    float clipped[WIRE_DIM_MAX], wide[WIRE_DIM_MAX];
    uint16_t padded[WIRE_DIM_MAX];

    if (dim < whole && dtype != WIRE_F32)
        memset(padded, 0, whole * sizeof(*padded));
    for (size_t i = 0; i < rows->n; i++) {
        uint8_t *row = rows->row[i], *stored;
        const float *g = rows->grad + i * dim;
        uint16_t *half;
        float *w;

        if (!row)
            continue;
        stored = row + optimizer->weight;
        w = dtype == WIRE_F32 ? (float *)stored : wide;
        half = dim < whole ? padded : (uint16_t *)stored;
        if (dim < whole && dtype != WIRE_F32)
            memcpy(half, stored, dim * sizeof(*half));
        if (dtype == WIRE_F16)
            f16_widen(half, wide, whole);
        if (dtype == WIRE_BF16)
            bf16_widen(half, wide, whole);
        if (step->gradient_clip > 0.0f)
            g = clip_row(g, step->gradient_clip, clipped, dim);
        formula(step, w, (float *)(row + optimizer->state), g, dim);
        if (step->weight_bound > 0.0f)
            bound_row(w, step->weight_bound, dim);
        if (dtype == WIRE_F16)
            f16_dither(rt_draw(step->key, rows->id[i]), wide, half, whole);
        if (dtype == WIRE_BF16)
            bf16_dither(rt_draw(step->key, rows->id[i]), wide, half, whole);
        if (dim < whole && dtype != WIRE_F32)
            memcpy(stored, half, dim * sizeof(*half));
    }
}

/* Rows of the dims that most tables have: known here, they need no loops over what is left of a vector. */
#define ROWS_OF(kind, dtype)                                                                       \
    static void kind##_##dtype(const struct ebs_optimizer *o, const struct ebs_step *step,         \
                               const struct ebs_rows *rows)                                        \
    {                                                                                              \
        switch (o->dim) {                                                                          \
        case 8:                                                                                    \
            run_rows(o, step, rows, kind##_row, dtype, 8);                                         \
            break;                                                                                 \
        case 16:                                                                                   \
            run_rows(o, step, rows, kind##_row, dtype, 16);                                        \
            break;                                                                                 \
        case 32:                                                                                   \
            run_rows(o, step, rows, kind##_row, dtype, 32);                                        \
            break;                                                                                 \
        case 64:                                                                                   \
            run_rows(o, step, rows, kind##_row, dtype, 64);                                        \
            break;                                                                                 \
        default:                                                                                   \
            run_rows(o, step, rows, kind##_row, dtype, o->dim);                                    \
        }                                                                                          \
    }
#define ROWS(kind)                                                                                 \
    ROWS_OF(kind, WIRE_F32)                                                                        \
    ROWS_OF(kind, WIRE_F16)                                                                        \
    ROWS_OF(kind, WIRE_BF16)
ROWS(sgd)
ROWS(adagrad)
ROWS(rowwise_adagrad)
ROWS(adam)
ROWS(ftrl)

/* As integers: without its sign, a float's bits grow with its magnitude, infinity and NaN last. */
static bool usable(const float *g, size_t dim)
{
    static const float limit = EBS_GRADIENT_MAX;
    uint32_t limit_bits, bad = 0;

    memcpy(&limit_bits, &limit, sizeof(limit_bits));
    for (size_t j = 0; j < dim; j++) {
        uint32_t bits;

        memcpy(&bits, &g[j], sizeof(bits));
        bad |= limit_bits - (bits & 0x7fffffffu);
    }
    return bad >> 31 == 0;
}

#define DTYPES(kind)                                                                               \
    {                                                                                              \
        [WIRE_F32] = kind##_WIRE_F32, [WIRE_F16] = kind##_WIRE_F16, [WIRE_BF16] = kind##_WIRE_BF16 \
    }
const struct ebs_optimizer_loops LOOPS_NAME = {
    .rows = {[RT_OPT_SGD] = DTYPES(sgd),
             [RT_OPT_ADAGRAD] = DTYPES(adagrad),
             [RT_OPT_ROWWISE_ADAGRAD] = DTYPES(rowwise_adagrad),
             [RT_OPT_ADAM] = DTYPES(adam),
             [RT_OPT_FTRL] = DTYPES(ftrl)},
    .usable = usable,
};
