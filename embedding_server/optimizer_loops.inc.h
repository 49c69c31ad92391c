/* embedding_server/optimizer_loops.inc.h -- the loops of optimizer.h in plain C.
 *
 * Included by optimizer_plain.c, optimizer_avx2.c and optimizer_avx512.c, which define LOOPS_NAME and
 * are compiled for their instruction set. The compiler vectorizes; since each element's operations are
 * the same IEEE operations in the same order everywhere, so are the bits (the tests compare them). */
#include "embedding_server/optimizer.h"

#include <math.h>
#include <string.h>

/* At -O2, gcc 12 vectorizes only loops whose length it knows. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

#define LANES 16

static void sgd_row(const struct ebs_step *step, float *restrict w, float *restrict state,
                    const float *restrict g, size_t dim)
{
    float lr = step->lr, decay = step->weight_decay;

    (void)state;
    for (size_t j = 0; j < dim; j++)
        w[j] -= lr * (g[j] + decay * w[j]);
}

static void adagrad_row(const struct ebs_step *step, float *restrict w, float *restrict state,
                        const float *restrict g, size_t dim)
{
    float lr = step->lr, decay = step->weight_decay, eps = step->eps;

    for (size_t j = 0; j < dim; j++) {
        float gradient = g[j] + decay * w[j];
        float sum = state[j] + gradient * gradient;

        state[j] = sum;
        w[j] -= lr * gradient / (sqrtf(sum) + eps);
    }
}

/* As wide as the registers are; a row's floats are 4-byte aligned. */
#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX2__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
typedef float vec __attribute__((vector_size(WIDTH * sizeof(float)), aligned(4), may_alias));

/* Sum of squares in a fixed order: lane k takes elements k, k + 16, ...; then the lanes by halves. */
static float sum_of_squares(const float *restrict w, const float *restrict g, float decay,
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

static void rowwise_adagrad_row(const struct ebs_step *step, float *restrict w,
                                float *restrict state, const float *restrict g, size_t dim)
{
    float decay = step->weight_decay;
    float sum = state[0] + sum_of_squares(w, g, decay, dim) / (float)dim;
    float rate = step->lr / (sqrtf(sum) + step->eps);

    state[0] = sum;
    for (size_t j = 0; j < dim; j++)
        w[j] -= rate * (g[j] + decay * w[j]);
}

static void adam_row(const struct ebs_step *step, float *restrict w, float *restrict state,
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

/* Rows of the dims that most tables have: known here, they need no loops over what is left of a vector. */
#define ROWS(kind)                                                                                 \
    static void kind##_rows(const struct ebs_step *step, float *const *w, const float *g,          \
                            size_t n, size_t dim)                                                  \
    {                                                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            if (!w[i])                                                                             \
                continue;                                                                          \
            if (dim == 16)                                                                         \
                kind##_row(step, w[i], w[i] + 16, g + i * 16, 16);                                 \
            else                                                                                   \
                kind##_row(step, w[i], w[i] + dim, g + i * dim, dim);                              \
        }                                                                                          \
    }
ROWS(sgd)
ROWS(adagrad)
ROWS(rowwise_adagrad)
ROWS(adam)

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

const struct ebs_optimizer_loops LOOPS_NAME = {
    .row = {[EBS_OPTIMIZER_SGD] = sgd_row,
            [EBS_OPTIMIZER_ADAGRAD] = adagrad_row,
            [EBS_OPTIMIZER_ROWWISE_ADAGRAD] = rowwise_adagrad_row,
            [EBS_OPTIMIZER_ADAM] = adam_row},
    .rows = {[EBS_OPTIMIZER_SGD] = sgd_rows,
             [EBS_OPTIMIZER_ADAGRAD] = adagrad_rows,
             [EBS_OPTIMIZER_ROWWISE_ADAGRAD] = rowwise_adagrad_rows,
             [EBS_OPTIMIZER_ADAM] = adam_rows},
    .usable = usable,
};
