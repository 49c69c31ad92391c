/* trainer/backend/cpu/kernels.inc.h -- body of kernels*.c; LANES (4, 8, 16 floats of a register)
 * and KERNELS (the table's name) are defined by the including file.
 *
 * Dot interaction: LANES samples at a time, transposed so that a lane is a sample: xt[n][dim][LANES]
 * (27 vectors of dim 16: 27 KB, in L1). Then every pair is dim multiply-adds on whole registers and
 * no sum ever crosses lanes; the result is transposed back. With a lane per dimension instead, each
 * of the 351 dot products ends in a horizontal sum that costs more than the product. Eight pairs, or
 * as many dimensions of a gradient as registers allow, run side by side to hide the latency of the additions. */
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
static void to_lanes(const float *rows, size_t stride, uint32_t samples, uint32_t width,
                     float *lanes)
{
    if (samples == LANES && width >= LANES) {
        for (uint32_t c = 0; c + LANES <= width; c += LANES)
            transpose_tile(rows + c, stride, lanes + (size_t)c * LANES, LANES);
        if (width % LANES)
            transpose_tile(rows + width - LANES, stride, lanes + (size_t)(width - LANES) * LANES,
                           LANES);
        return;
    }
    memset(lanes, 0, (size_t)width * LANES * sizeof *lanes);
    for (uint32_t s = 0; s < samples; s++)
        for (uint32_t c = 0; c < width; c++)
            lanes[(size_t)c * LANES + s] = rows[s * stride + c];
}

static void from_lanes(const float *lanes, uint32_t samples, uint32_t width, float *rows,
                       size_t stride)
{
    if (samples == LANES && width >= LANES) {
        for (uint32_t c = 0; c + LANES <= width; c += LANES)
            transpose_tile(lanes + (size_t)c * LANES, LANES, rows + c, stride);
        if (width % LANES)
            transpose_tile(lanes + (size_t)(width - LANES) * LANES, LANES, rows + width - LANES,
                           stride);
        return;
    }
    for (uint32_t s = 0; s < samples; s++)
        for (uint32_t c = 0; c < width; c++)
            rows[s * stride + c] = lanes[(size_t)c * LANES + s];
}

static void add_from_lanes(const float *lanes, uint32_t samples, uint32_t width, float *rows,
                           size_t stride)
{
    for (uint32_t s = 0; s < samples; s++)
        for (uint32_t c = 0; c < width; c++)
            rows[s * stride + c] += lanes[(size_t)c * LANES + s];
}

static uint32_t at_most(uint32_t value, uint32_t limit)
{
    return value < limit ? value : limit;
}

/* y[0..count) = a . b[0..count), each [dim][LANES]; count is a constant where this is inlined. */
INLINE void dot_some(const float *a, const float *b, uint32_t dim, float *y, int count)
{
    vec sum[8] = {0};
    for (uint32_t d = 0; d < dim; d++) {
        vec left = load(a + (size_t)d * LANES);
#pragma GCC unroll 8
        for (int k = 0; k < count; k++)
            sum[k] += left * load(b + ((size_t)k * dim + d) * LANES);
    }
#pragma GCC unroll 8
    for (int k = 0; k < count; k++)
        store(y + (size_t)k * LANES, sum[k]);
}

/* Lay all n vectors into xt[group][n][dim][LANES], where backward finds them. One vector is read for all
 * samples in one go: the n arrays often lie a power of two apart, so lines fetched ahead for all of
 * them fall into the same few cache sets and are lost if only one group of each is used at a time. */
static void gather(const struct tr_dot *op)
{
    size_t block = (size_t)op->dim * LANES;
    for (uint32_t i = 0; i < op->n; i++) {
        float *to = op->scratch + i * block;
        for (uint32_t s = 0; s < op->samples; s += LANES, to += op->n * block)
            to_lanes(op->x[i] + s * op->x_stride[i], op->x_stride[i],
                     at_most(op->samples - s, LANES), op->dim, to);
    }
}

/* What follows the transposed x in scratch. */
static float *behind_x(float *scratch, uint32_t samples, uint32_t n, uint32_t dim)
{
    return scratch + ((size_t)samples + LANES - 1) / LANES * LANES * n * dim;
}

/* The same with a count of 1..7 that is not known before: a chain of additions for each pair, as above. */
static void dot_rest(const float *a, const float *b, uint32_t dim, float *y, uint32_t count)
{
    if (count & 4) {
        dot_some(a, b, dim, y, 4);
        b += 4 * (size_t)dim * LANES;
        y += 4 * LANES;
    }
    if ((count & 3) == 3)
        dot_some(a, b, dim, y, 3);
    else if (count & 2)
        dot_some(a, b, dim, y, 2);
    else if (count & 1)
        dot_some(a, b, dim, y, 1);
}

/* All pairs of one group: xt[n][dim][LANES] -> yt[pairs][LANES]. */
static void dot_pairs(const float *xt, uint32_t n, uint32_t dim, bool self, float *yt)
{
    size_t block = (size_t)dim * LANES;
    for (uint32_t i = 0; i + !self < n; i++) {
        uint32_t j = i + !self;
        for (; j + 8 <= n; j += 8, yt += 8 * LANES)
            dot_some(xt + i * block, xt + j * block, dim, yt, 8);
        dot_rest(xt + i * block, xt + j * block, dim, yt, n - j);
        yt += (size_t)(n - j) * LANES;
    }
}

static void dot_forward(const struct tr_dot *op)
{
    uint32_t n = op->n, dim = op->dim, pairs = tr_dot_columns(n, op->self);
    float *xt = op->scratch, *yt = behind_x(op->scratch, op->samples, n, dim);
    gather(op);
    for (uint32_t s = 0; s < op->samples; s += LANES, xt += (size_t)LANES * n * dim) {
        dot_pairs(xt, n, dim, op->self, yt);
        from_lanes(yt, at_most(op->samples - s, LANES), pairs, op->y + s * op->y_stride,
                   op->y_stride);
    }
}

#define DIMS LANES /* sums of a gradient side by side: half of the registers, or less */

/* dx[0..count) of vector i at dimensions d..d+count, from xt and the transposed dy. */
INLINE void dot_grad_some(const struct tr_dot_grad *op, uint32_t i, uint32_t d, const float *xt,
                          const float *gt, float *dx, int count)
{
    uint32_t n = op->n, self = op->self;
    size_t block = (size_t)op->dim * LANES;
    vec sum[DIMS] = {0};
    const float *g = gt + ((size_t)i + self - 1) * LANES; /* pair (0, i), then (1, i), ... */
    for (uint32_t j = 0; j < i; j++) {
        vec left = load(g);
#pragma GCC unroll 16
        for (int k = 0; k < count; k++)
            sum[k] += left * load(xt + j * block + (size_t)(d + k) * LANES);
        g += (size_t)(n + self - j - 2) * LANES;
    }
    g = gt + ((size_t)i * n - (size_t)i * (i + 1) / 2 + self * i) * LANES; /* pair (i, i+1), ... */
    if (self) {
        vec left = 2 * load(g);
#pragma GCC unroll 16
        for (int k = 0; k < count; k++)
            sum[k] += left * load(xt + i * block + (size_t)(d + k) * LANES);
        g += LANES;
    }
    for (uint32_t j = i + 1; j < n; j++, g += LANES) {
        vec left = load(g);
#pragma GCC unroll 16
        for (int k = 0; k < count; k++)
            sum[k] += left * load(xt + j * block + (size_t)(d + k) * LANES);
    }
#pragma GCC unroll 16
    for (int k = 0; k < count; k++)
        store(dx + (size_t)(d + k) * LANES, sum[k]);
}

static void dot_grad_vector(const struct tr_dot_grad *op, uint32_t i, const float *xt,
                            const float *gt, float *dx)
{
    uint32_t d = 0;
    for (; d + DIMS <= op->dim; d += DIMS)
        dot_grad_some(op, i, d, xt, gt, dx, DIMS);
    for (; d < op->dim; d++)
        dot_grad_some(op, i, d, xt, gt, dx, 1);
}

/* One group of up to LANES samples from `first` on. */
static void dot_grad_group(const struct tr_dot_grad *op, uint32_t first, uint32_t samples,
                           const float *xt, float *gt, float *dxt)
{
    uint32_t pairs = tr_dot_columns(op->n, op->self);
    to_lanes(op->dy + first * op->dy_stride, op->dy_stride, samples, pairs, gt);
    for (uint32_t i = 0; i < op->n; i++) {
        if (!op->dx[i])
            continue;
        dot_grad_vector(op, i, xt, gt, dxt);
        float *dx = op->dx[i] + first * op->x_stride[i];
        (op->add[i] ? add_from_lanes : from_lanes)(dxt, samples, op->dim, dx, op->x_stride[i]);
    }
}

static void dot_backward(const struct tr_dot_grad *op)
{
    uint32_t n = op->n, dim = op->dim;
    float *xt = op->scratch, *gt = behind_x(op->scratch, op->samples, n, dim);
    float *dxt = gt + (size_t)LANES * tr_dot_columns(n, op->self);
    for (uint32_t s = 0; s < op->samples; s += LANES, xt += (size_t)LANES * n * dim)
        dot_grad_group(op, s, at_most(op->samples - s, LANES), xt, gt, dxt);
}

static void bias_act(const struct tr_bias_act *op)
{
    vec zero = {0};
    const float *x = op->x;
    float *y = op->y;
    for (uint32_t r = 0; r < op->samples; r++, x += op->x_stride, y += op->y_stride) {
        uint32_t c = 0;
        for (; c + LANES <= op->columns; c += LANES) {
            vec v = load(x + c) + load(op->b + c);
            store(y + c, op->relu ? (vec)((vec_i32)v & ~(v < zero)) : v); /* keeps NaN */
        }
        for (; c < op->columns; c++) {
            float v = x[c] + op->b[c];
            y[c] = op->relu && v < 0 ? 0 : v;
        }
    }
}

#define BLOCK_ROWS 64u

static void bias_grad(const struct tr_linear_grad *op)
{
    size_t stride = op->dy_stride;
    if (!op->add_params)
        memset(op->db, 0, op->outputs * sizeof *op->db);
    for (uint32_t first = 0; first < op->samples; first += BLOCK_ROWS) {
        uint32_t end = first + at_most(op->samples - first, BLOCK_ROWS), c = 0;
        for (; c + LANES <= op->outputs; c += LANES) {
            vec part = {0};
            for (uint32_t r = first; r < end; r++)
                part += load(op->dy + r * stride + c);
            store(op->db + c, load(op->db + c) + part);
        }
        for (; c < op->outputs; c++) {
            float part = 0;
            for (uint32_t r = first; r < end; r++)
                part += op->dy[r * stride + c];
            op->db[c] += part;
        }
    }
}

static bool within(const float *value, size_t n, float max)
{
    const int32_t magnitude = 0x7fffffff;
    int32_t limit;
    vec_i32 bad = {0};
    size_t i = 0;
    memcpy(&limit, &max, sizeof limit); /* magnitudes compare as their bits do */
    for (; i + LANES <= n; i += LANES)
        bad |= ((vec_i32)load(value + i) & magnitude) > limit;
    int32_t any = 0;
    for (int k = 0; k < LANES; k++)
        any |= bad[k];
    for (; i < n; i++) {
        int32_t bits;
        memcpy(&bits, value + i, sizeof bits);
        any |= (bits & magnitude) > limit;
    }
    return !any;
}

#include "trainer/backend/cpu/optimizers.inc.h"

const struct tr_kernels KERNELS = {
    .dot_forward = dot_forward,
    .dot_backward = dot_backward,
    .bias_act = bias_act,
    .within = within,
    .sgd = sgd,
    .adagrad = adagrad,
    .adam = adam,
    .lamb_moments = lamb_moments,
    .lamb = lamb,
    .sum_squares = sum_squares,
    .bias_grad = bias_grad,
};
