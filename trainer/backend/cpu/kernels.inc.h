/* trainer/backend/cpu/kernels.inc.h -- body of kernels*.c; LANES (4, 8, 16 floats of a register)
 * and KERNELS (the table's name) are defined by the including file.
 *
 * Dot interaction: LANES samples at a time, transposed so that a lane is a sample: xt[n][dim][LANES]
 * (27 vectors of dim 16: 27 KB, in L1). Then every pair is dim multiply-adds on whole registers and
 * no sum ever crosses lanes; the result is transposed back. With a lane per dimension instead, each
 * of the 351 dot products ends in a horizontal sum that costs more than the product. Four pairs run
 * side by side to hide the latency of the additions. */
#include <immintrin.h>
#include <string.h>

#include "trainer/backend/cpu/kernels.h"

typedef float vec __attribute__((vector_size(LANES * 4), aligned(LANES * 4)));
typedef float vec_loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t vec_i32 __attribute__((vector_size(LANES * 4), aligned(LANES * 4)));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p)
{
    return *(const vec_loose *)p;
}

INLINE void store(float *p, vec v)
{
    *(vec_loose *)p = v;
}

/* One butterfly step: exchange the off-diagonal w x w blocks of the LANES x LANES matrix m. */
INLINE void transpose_step(vec m[LANES], int w)
{
    vec_i32 low, high; /* indices below LANES take from the first vector, others from the second */
    for (int k = 0; k < LANES; k++) {
        low[k] = (k & w) == 0 ? k : LANES + k - w;
        high[k] = (k & w) == 0 ? k + w : LANES + k;
    }
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++) {
        if (r & w)
            continue;
        vec a = m[r], b = m[r + w];
        m[r] = __builtin_shuffle(a, b, low);
        m[r + w] = __builtin_shuffle(a, b, high);
    }
}

/* to[c*to_stride + r] = from[r*from_stride + c] for r, c < LANES. */
INLINE void transpose_tile(const float *from, size_t from_stride, float *to, size_t to_stride)
{
    vec m[LANES];
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++)
        m[r] = load(from + (size_t)r * from_stride);
#pragma GCC unroll 4
    for (int w = 1; w < LANES; w *= 2)
        transpose_step(m, w);
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++)
        store(to + (size_t)r * to_stride, m[r]);
}

/* rows [samples][width] -> lanes [width][LANES]; lanes past `samples` become 0. The last tile of a
 * width that is no multiple of LANES overlaps the one before it. */
static void to_lanes(const float *rows, uint32_t samples, uint32_t width, float *lanes)
{
    if (samples == LANES && width >= LANES) {
        for (uint32_t c = 0; c + LANES <= width; c += LANES)
            transpose_tile(rows + c, width, lanes + (size_t)c * LANES, LANES);
        if (width % LANES)
            transpose_tile(rows + width - LANES, width, lanes + (size_t)(width - LANES) * LANES,
                           LANES);
        return;
    }
    memset(lanes, 0, (size_t)width * LANES * sizeof *lanes);
    for (uint32_t s = 0; s < samples; s++)
        for (uint32_t c = 0; c < width; c++)
            lanes[(size_t)c * LANES + s] = rows[(size_t)s * width + c];
}

static void from_lanes(const float *lanes, uint32_t samples, uint32_t width, float *rows)
{
    if (samples == LANES && width >= LANES) {
        for (uint32_t c = 0; c + LANES <= width; c += LANES)
            transpose_tile(lanes + (size_t)c * LANES, LANES, rows + c, width);
        if (width % LANES)
            transpose_tile(lanes + (size_t)(width - LANES) * LANES, LANES, rows + width - LANES,
                           width);
        return;
    }
    for (uint32_t s = 0; s < samples; s++)
        for (uint32_t c = 0; c < width; c++)
            rows[(size_t)s * width + c] = lanes[(size_t)c * LANES + s];
}

static void add_from_lanes(const float *lanes, uint32_t samples, uint32_t width, float *rows)
{
    for (uint32_t s = 0; s < samples; s++)
        for (uint32_t c = 0; c < width; c++)
            rows[(size_t)s * width + c] += lanes[(size_t)c * LANES + s];
}

/* y[0..count) = a . b[0..count), each [dim][LANES]; count is a constant where this is inlined. */
INLINE void dot_some(const float *a, const float *b, uint32_t dim, float *y, int count)
{
    vec sum[4] = {0};
    for (uint32_t d = 0; d < dim; d++) {
        vec left = load(a + (size_t)d * LANES);
#pragma GCC unroll 4
        for (int k = 0; k < count; k++)
            sum[k] += left * load(b + ((size_t)k * dim + d) * LANES);
    }
#pragma GCC unroll 4
    for (int k = 0; k < count; k++)
        store(y + (size_t)k * LANES, sum[k]);
}

/* Lay TR_DOT_BLOCK samples of all n vectors into xt[group][n][dim][LANES]. A block of one vector is read in
 * one go (4 KB at dim 16): the n arrays often lie a power of two apart, so lines fetched ahead for all of
 * them fall into the same few cache sets and are lost if only one group of each is used at a time. */
static void gather_block(const float *const *x, uint32_t n, uint32_t dim, uint32_t first,
                         uint32_t samples, float *xt)
{
    size_t block = (size_t)dim * LANES;
    for (uint32_t i = 0; i < n; i++) {
        float *to = xt + i * block;
        for (uint32_t s = 0; s < samples; s += LANES, to += n * block)
            to_lanes(x[i] + (size_t)(first + s) * dim, samples - s < LANES ? samples - s : LANES,
                     dim, to);
    }
}

/* All pairs of one group: xt[n][dim][LANES] -> yt[pairs][LANES]. */
static void dot_pairs(const float *xt, uint32_t n, uint32_t dim, float *yt)
{
    size_t block = (size_t)dim * LANES;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = i + 1;
        for (; j + 4 <= n; j += 4, yt += 4 * LANES)
            dot_some(xt + i * block, xt + j * block, dim, yt, 4);
        for (; j < n; j++, yt += LANES)
            dot_some(xt + i * block, xt + j * block, dim, yt, 1);
    }
}

static uint32_t at_most(uint32_t value, uint32_t limit)
{
    return value < limit ? value : limit;
}

static void dot_forward(const struct tr_dot *op)
{
    uint32_t n = op->n, dim = op->dim, pairs = tr_dot_pairs(n);
    float *xt = op->scratch, *yt = xt + (size_t)TR_DOT_BLOCK * n * dim;
    for (uint32_t first = 0; first < op->samples; first += TR_DOT_BLOCK) {
        uint32_t samples = at_most(op->samples - first, TR_DOT_BLOCK);
        gather_block(op->x, n, dim, first, samples, xt);
        for (uint32_t s = 0; s < samples; s += LANES) {
            dot_pairs(xt + (size_t)s * n * dim, n, dim, yt);
            from_lanes(yt, at_most(samples - s, LANES), pairs, op->y + (size_t)(first + s) * pairs);
        }
    }
}

/* dx[0..count) of vector i at dimensions d..d+count, from xt and the transposed dy. */
INLINE void dot_grad_some(const struct tr_dot_grad *op, uint32_t i, uint32_t d, const float *xt,
                          const float *gt, float *dx, int count)
{
    uint32_t n = op->n;
    size_t block = (size_t)op->dim * LANES;
    vec sum[8] = {0};
    const float *g = gt + ((size_t)i - 1) * LANES; /* pair (0, i), then (1, i), ... */
    for (uint32_t j = 0; j < i; j++) {
        vec left = load(g);
#pragma GCC unroll 8
        for (int k = 0; k < count; k++)
            sum[k] += left * load(xt + j * block + (size_t)(d + k) * LANES);
        g += (size_t)(n - j - 2) * LANES;
    }
    g = gt + ((size_t)i * n - (size_t)i * (i + 1) / 2) * LANES; /* pair (i, i+1), ... */
    for (uint32_t j = i + 1; j < n; j++, g += LANES) {
        vec left = load(g);
#pragma GCC unroll 8
        for (int k = 0; k < count; k++)
            sum[k] += left * load(xt + j * block + (size_t)(d + k) * LANES);
    }
#pragma GCC unroll 8
    for (int k = 0; k < count; k++)
        store(dx + (size_t)(d + k) * LANES, sum[k]);
}

static void dot_grad_vector(const struct tr_dot_grad *op, uint32_t i, const float *xt,
                            const float *gt, float *dx)
{
    uint32_t d = 0;
    for (; d + 8 <= op->dim; d += 8)
        dot_grad_some(op, i, d, xt, gt, dx, 8);
    for (; d < op->dim; d++)
        dot_grad_some(op, i, d, xt, gt, dx, 1);
}

/* One group of up to LANES samples from `first` on. */
static void dot_grad_group(const struct tr_dot_grad *op, uint32_t first, uint32_t samples,
                           const float *xt, float *gt, float *dxt)
{
    uint32_t pairs = tr_dot_pairs(op->n);
    to_lanes(op->dy + (size_t)first * pairs, samples, pairs, gt);
    for (uint32_t i = 0; i < op->n; i++) {
        if (!op->dx[i])
            continue;
        dot_grad_vector(op, i, xt, gt, dxt);
        float *dx = op->dx[i] + (size_t)first * op->dim;
        (op->add[i] ? add_from_lanes : from_lanes)(dxt, samples, op->dim, dx);
    }
}

static void dot_backward(const struct tr_dot_grad *op)
{
    uint32_t n = op->n, dim = op->dim;
    float *xt = op->scratch, *gt = xt + (size_t)TR_DOT_BLOCK * n * dim;
    float *dxt = gt + (size_t)LANES * tr_dot_pairs(n);
    for (uint32_t first = 0; first < op->samples; first += TR_DOT_BLOCK) {
        uint32_t samples = at_most(op->samples - first, TR_DOT_BLOCK);
        gather_block(op->x, n, dim, first, samples, xt);
        for (uint32_t s = 0; s < samples; s += LANES)
            dot_grad_group(op, first + s, at_most(samples - s, LANES), xt + (size_t)s * n * dim, gt,
                           dxt);
    }
}

static void bias_act(float *y, const float *b, uint32_t rows, uint32_t columns, bool relu)
{
    vec zero = {0};
    for (uint32_t r = 0; r < rows; r++, y += columns) {
        uint32_t c = 0;
        for (; c + LANES <= columns; c += LANES) {
            vec v = load(y + c) + load(b + c);
            store(y + c, relu ? (vec)((vec_i32)v & ~(v < zero)) : v); /* keeps NaN, unlike maxps */
        }
        for (; c < columns; c++) {
            float v = y[c] + b[c];
            y[c] = relu && v < 0 ? 0 : v;
        }
    }
}

static void relu_backward(size_t n, const float *y, float *dy)
{
    vec zero = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store(dy + i, (vec)((vec_i32)load(dy + i) & ~(load(y + i) == zero)));
    for (; i < n; i++)
        if (y[i] == 0)
            dy[i] = 0;
}

#define BLOCK_ROWS 64u

static void column_sum(const float *x, uint32_t rows, uint32_t columns, float *sum)
{
    memset(sum, 0, columns * sizeof *sum);
    for (uint32_t first = 0; first < rows; first += BLOCK_ROWS) {
        uint32_t end = rows - first < BLOCK_ROWS ? rows : first + BLOCK_ROWS;
        uint32_t c = 0;
        for (; c + LANES <= columns; c += LANES) {
            vec part = {0};
            for (uint32_t r = first; r < end; r++)
                part += load(x + (size_t)r * columns + c);
            store(sum + c, load(sum + c) + part);
        }
        for (; c < columns; c++) {
            float part = 0;
            for (uint32_t r = first; r < end; r++)
                part += x[(size_t)r * columns + c];
            sum[c] += part;
        }
    }
}

static bool finite(const float *value, size_t n)
{
    const int32_t magnitude = 0x7fffffff, infinity = 0x7f800000;
    vec_i32 bad = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        bad |= ((vec_i32)load(value + i) & magnitude) >= infinity;
    int32_t any = 0;
    for (int k = 0; k < LANES; k++)
        any |= bad[k];
    for (; i < n; i++) {
        int32_t bits;
        memcpy(&bits, value + i, sizeof bits);
        any |= (bits & magnitude) >= infinity;
    }
    return !any;
}

/* ---- optimizers ---- */

INLINE vec root(vec v)
{
#if LANES == 16
    return (vec)_mm512_sqrt_ps((__m512)v);
#elif LANES == 8
    return (vec)_mm256_sqrt_ps((__m256)v);
#else
    return (vec)_mm_sqrt_ps((__m128)v);
#endif
}

/* The last register of a vector may be a part of one. */
INLINE vec load_part(const float *p, size_t n)
{
    vec v = {0};
    if (n >= LANES)
        return load(p);
    memcpy(&v, p, n * sizeof *p);
    return v;
}

INLINE void store_part(float *p, vec v, size_t n)
{
    if (n >= LANES)
        store(p, v);
    else
        memcpy(p, &v, n * sizeof *p);
}

static void sgd(const struct tr_update *op)
{
    for (size_t i = 0; i < op->n; i += LANES) {
        size_t n = op->n - i;
        vec p = load_part(op->param + i, n);
        vec g = load_part(op->grad + i, n) + op->weight_decay * p;
        if (op->state[0]) {
            g += op->momentum * load_part(op->state[0] + i, n);
            store_part(op->state[0] + i, g, n);
        }
        store_part(op->param + i, p - op->lr * g, n);
    }
}

static void adagrad(const struct tr_update *op)
{
    for (size_t i = 0; i < op->n; i += LANES) {
        size_t n = op->n - i;
        vec p = load_part(op->param + i, n);
        vec g = load_part(op->grad + i, n) + op->weight_decay * p;
        vec sum = load_part(op->state[0] + i, n) + g * g;
        store_part(op->state[0] + i, sum, n);
        store_part(op->param + i, p - op->lr * g / (root(sum) + op->eps), n);
    }
}

static void adam(const struct tr_update *op)
{
    for (size_t i = 0; i < op->n; i += LANES) {
        size_t n = op->n - i;
        vec p = load_part(op->param + i, n);
        vec g = load_part(op->grad + i, n) + op->weight_decay * p;
        vec m = op->beta1 * load_part(op->state[0] + i, n) + op->rest1 * g;
        vec v = op->beta2 * load_part(op->state[1] + i, n) + op->rest2 * (g * g);
        store_part(op->state[0] + i, m, n);
        store_part(op->state[1] + i, v, n);
        store_part(op->param + i, p - op->lr * m / (root(v) / op->correction + op->eps), n);
    }
}

const struct tr_kernels KERNELS = {
    .dot_forward = dot_forward,
    .dot_backward = dot_backward,
    .bias_act = bias_act,
    .relu_backward = relu_backward,
    .finite = finite,
    .sgd = sgd,
    .adagrad = adagrad,
    .adam = adam,
    .column_sum = column_sum,
};
