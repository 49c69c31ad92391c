/* trainer/backend/cuda/norms.cu -- what looks at a column over all samples: moments, batchnorm, dice.
 *
 * Sums of columns are columns.h's: float32 for the rows of one thread and of its block, float64 for all blocks. Moments go over x twice, as
 * the CPU's: first for the mean, as the distance from the column's first value, so that a mean far from 0 costs no digits; then for the
 * squares of what is left. One pass with running means (Welford) would read x once, but divides at every row, and a second pass over what a
 * batch of 8,192 writes comes from the second cache. Backward: one pass for the sums, one for the rest, between them `level` and
 * `slope` of each column, the means of the gradient at h = (x - mean) inverse and of its product with h.
 *
 * Masked rows (of sequences, where a list is shorter than its places) are not looked at: their values may be anything, sums take them as
 * 0, and their gradient is 0. How many count is known by the device alone.
 *
 * Memory moved: moments 2 x; forward x, y (dice: p too); backward 2 x, 2 dy, dx (dice: 2 p). Against float64 sums: relative 1e-5 of the
 * column's spread. */
#include "trainer/backend/cuda/columns.h"
#include "trainer/backend/cuda/rows.h"

static __device__ __forceinline__ bool counts(const float *mask, uint32_t rows, uint32_t sample,
                                              uint32_t row)
{
    return !mask || mask[(size_t)sample * rows + row] != 0;
}

static __device__ __forceinline__ float sigmoid(float x)
{
    float e = expf(-fabsf(x));
    return (x >= 0 ? 1 : e) / (1 + e);
}

/* ---- moments ---- */

struct column_mean {
    struct tr_moments op;

    __device__ float first(uint32_t column) const
    {
        return op.mask ? 0 : op.x[column]; /* masked, it may be anything */
    }
    __device__ void at(uint32_t sample, uint32_t row, uint32_t column, float *value) const
    {
        bool in = counts(op.mask, op.rows, sample, row);
        const float *x = op.x + sample * op.x_stride + (size_t)row * op.columns;
        value[0] = in ? x[column] - first(column) : 0;
        value[1] = in ? 1 : 0;
    }
    __device__ void put(uint32_t column, const double *total) const
    {
        op.mean[column] = total[1] > 0 ? (float)(first(column) + total[0] / total[1]) : 0;
        if (column == 0 && op.counted)
            *op.counted = (float)total[1];
    }
};

struct column_variance {
    struct tr_moments op;

    __device__ void at(uint32_t sample, uint32_t row, uint32_t column, float *value) const
    {
        bool in = counts(op.mask, op.rows, sample, row);
        const float *x = op.x + sample * op.x_stride + (size_t)row * op.columns;
        float off = in ? x[column] - op.mean[column] : 0;
        value[0] = off * off;
        value[1] = in ? 1 : 0;
    }
    __device__ void put(uint32_t column, const double *total) const
    {
        op.variance[column] = total[1] > 0 ? (float)(total[0] / total[1]) : 0;
    }
};

static __global__ void norm_take_kernel(struct tr_norm_take op)
{
    uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= op.columns)
        return;
    if (op.running_mean)
        op.mean[c] = op.running_mean[c];
    if (op.running_variance)
        op.variance[c] = op.running_variance[c];
    op.inverse[c] =
        (float)(1 / sqrt(fmax((double)op.variance[c], 0.0) + op.eps)); /* of a file: any */
}

static __global__ void norm_bring_kernel(struct tr_norm_bring op, const struct tr_now *now)
{
    uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= op.columns)
        return;
    double rows = op.counted ? (double)*op.counted : op.rows;
    double share = now ? op.share * now->per_sample : op.share;
    double ahead = (double)op.mean[c] - (double)op.running_mean[c];
    double wider = op.variance[c] * (rows / (rows - 1)) - (double)op.running_variance[c];
    op.dmean[c] = rows > 1 ? (float)(share * ahead) : 0;
    op.dvariance[c] = rows > 1 ? (float)(share * wider) : 0;
}

/* ---- between the passes of a backward ---- */

struct levels {
    float *level, *slope; /* [columns] */
};

/* Behind what column sums take of the scratch: N of each slice's columns. The operation's first call, so that theirs moves nothing. */
template <uint32_t N>
static bool take_levels(struct tr_backend *backend, uint32_t columns, struct levels *levels)
{
    size_t pitch = ((size_t)columns + 63) / 64 * 64, before = TR_SLICES_MAX * N * pitch;
    float *scratch =
        (float *)tr_cuda_scratch(backend->cuda, (before + 2 * pitch) * sizeof *scratch);
    if (!scratch)
        return false;
    levels->level = scratch + before;
    levels->slope = levels->level + pitch;
    return true;
}

static __device__ __forceinline__ void put_levels(const struct levels &levels, uint32_t column,
                                                  double sum, double along, double rows)
{
    levels.level[column] = rows > 0 ? (float)(sum / rows) : 0;
    levels.slope[column] = rows > 0 ? (float)(along / rows) : 0;
}

/* ---- batchnorm ---- */

struct batchnorm_y {
    struct tr_batchnorm op;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad x = places.load(op.x, op.x_stride, op.columns);
        tr_quad mean = places.load(op.mean, 0, 0), inverse = places.load(op.inverse, 0, 0);
        tr_quad w = places.load(op.w, 0, 0), b = places.load(op.b, 0, 0);
        for (uint32_t k = 0; k < TR_QUAD; k++)
            x.v[k] = (x.v[k] - mean.v[k]) * inverse.v[k] * w.v[k] + b.v[k];
        places.store(op.y, op.y_stride, op.columns, x);
    }
};

struct batchnorm_sums {
    struct tr_batchnorm_grad op;
    struct levels levels;

    __device__ void at(uint32_t sample, uint32_t row, uint32_t column, float *value) const
    {
        size_t in = (size_t)row * op.columns + column;
        value[0] = value[1] = 0;
        if (!counts(op.mask, op.rows, sample, row))
            return;
        float h = (op.x[sample * op.x_stride + in] - op.mean[column]) * op.inverse[column];
        value[0] = op.dy[sample * op.dy_stride + in];
        value[1] = value[0] * h;
    }
    __device__ void put(uint32_t column, const double *total) const
    {
        double rows = op.counted ? (double)*op.counted : (double)op.samples * op.rows;
        tr_put_sum(op.db + column, total[0], op.add_params);
        tr_put_sum(op.dw + column, total[1], op.add_params);
        put_levels(levels, column, total[0], total[1], rows);
    }
};

/* dx = w inverse (dy - level - h slope). */
struct batchnorm_dx {
    struct tr_batchnorm_grad op;
    struct levels levels;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad x = places.load(op.x, op.x_stride, op.columns);
        tr_quad d = places.load(op.dy, op.dy_stride, op.columns), in = {{1, 1, 1, 1}};
        tr_quad mean = places.load(op.mean, 0, 0), inverse = places.load(op.inverse, 0, 0);
        tr_quad level = places.load(levels.level, 0, 0), slope = places.load(levels.slope, 0, 0);
        tr_quad w = places.load(op.w, 0, 0);
        tr_quad was = tr_load_if(op.add, places, op.dx, op.dx_stride, op.columns);
        if (op.mask)
            in = places.load_row(op.mask, op.rows, 1);
        for (uint32_t k = 0; k < TR_QUAD; k++) {
            float h = (x.v[k] - mean.v[k]) * inverse.v[k];
            float dx = (d.v[k] - level.v[k] - h * slope.v[k]) * (inverse.v[k] * w.v[k]);
            d.v[k] = was.v[k] + (in.v[k] != 0 ? dx : 0);
        }
        places.store(op.dx, op.dx_stride, op.columns, d);
    }
};

/* ---- dice ---- */

struct dice_y {
    struct tr_dice op;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad x = places.load(op.x, op.x_stride, op.columns), p, y;
        tr_quad mean = places.load(op.mean, 0, 0), inverse = places.load(op.inverse, 0, 0);
        tr_quad alpha = places.load(op.alpha, 0, 0);
        for (uint32_t k = 0; k < TR_QUAD; k++) {
            p.v[k] = sigmoid((x.v[k] - mean.v[k]) * inverse.v[k]);
            y.v[k] = (p.v[k] + (1 - p.v[k]) * alpha.v[k]) * x.v[k];
        }
        places.store(op.p, (size_t)op.rows * op.columns, op.columns, p);
        places.store(op.y, op.y_stride, op.columns, y);
    }
};

/* With g = dy x (1 - alpha) p (1 - p), the gradient at h. */
struct dice_sums {
    struct tr_dice_grad op;
    struct levels levels;

    __device__ void at(uint32_t sample, uint32_t row, uint32_t column, float *value) const
    {
        size_t in = (size_t)row * op.columns + column;
        value[0] = value[1] = value[2] = 0;
        if (!counts(op.mask, op.rows, sample, row))
            return;
        float x = op.x[sample * op.x_stride + in];
        float p = op.p[(size_t)sample * op.rows * op.columns + in];
        float rest = op.dy[sample * op.dy_stride + in] * x * (1 - p);
        float g = rest * (1 - op.alpha[column]) * p;
        value[0] = rest;
        value[1] = g;
        value[2] = g * ((x - op.mean[column]) * op.inverse[column]);
    }
    __device__ void put(uint32_t column, const double *total) const
    {
        double rows = op.counted ? (double)*op.counted : (double)op.samples * op.rows;
        tr_put_sum(op.dalpha + column, total[0], op.add_params);
        put_levels(levels, column, total[1], total[2], rows);
    }
};

/* dx = dy (p + (1 - p) alpha) + inverse (g - level - h slope). */
struct dice_dx {
    struct tr_dice_grad op;
    struct levels levels;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad x = places.load(op.x, op.x_stride, op.columns);
        tr_quad d = places.load(op.dy, op.dy_stride, op.columns), in = {{1, 1, 1, 1}};
        tr_quad p = places.load(op.p, (size_t)op.rows * op.columns, op.columns);
        tr_quad mean = places.load(op.mean, 0, 0), inverse = places.load(op.inverse, 0, 0);
        tr_quad level = places.load(levels.level, 0, 0), slope = places.load(levels.slope, 0, 0);
        tr_quad alpha = places.load(op.alpha, 0, 0);
        if (op.mask)
            in = places.load_row(op.mask, op.rows, 1);
        for (uint32_t k = 0; k < TR_QUAD; k++) {
            float h = (x.v[k] - mean.v[k]) * inverse.v[k], q = p.v[k];
            float g = d.v[k] * x.v[k] * (1 - q) * (1 - alpha.v[k]) * q;
            float dx = d.v[k] * (q + (1 - q) * alpha.v[k]) +
                       inverse.v[k] * (g - level.v[k] - h * slope.v[k]);
            d.v[k] = in.v[k] != 0 ? dx : 0;
        }
        places.store(op.dy, op.dy_stride, op.columns, d);
    }
};

/* ---- operations ---- */

extern "C" int tr_cuda_moments(struct tr_backend *backend, const struct tr_moments *op)
{
    int err =
        tr_column_sums<2>(backend, "moments", op->samples, op->rows, op->columns, column_mean{*op});
    return err ? err
               : tr_column_sums<2>(backend, "moments", op->samples, op->rows, op->columns,
                                   column_variance{*op});
}

extern "C" int tr_cuda_norm_take(struct tr_backend *backend, const struct tr_norm_take *op)
{
    TR_LAUNCH(norm_take_kernel, tr_blocks(op->columns, TR_BLOCK), TR_BLOCK, backend->cuda->compute,
              *op);
    return tr_cuda_launched(backend, "norm_take");
}

extern "C" int tr_cuda_norm_bring(struct tr_backend *backend, const struct tr_norm_bring *op)
{
    TR_LAUNCH(norm_bring_kernel, tr_blocks(op->columns, TR_BLOCK), TR_BLOCK, backend->cuda->compute,
              *op, backend->now);
    return tr_cuda_launched(backend, "norm_bring");
}

/* Vectors of columns, one value for each. */
static bool aligned_vectors(const float *a, const float *b, const float *c, const float *d)
{
    return tr_aligned(a, 0, 0) && tr_aligned(b, 0, 0) && tr_aligned(c, 0, 0) && tr_aligned(d, 0, 0);
}

extern "C" int tr_cuda_batchnorm_forward(struct tr_backend *backend, const struct tr_batchnorm *op)
{
    size_t pitch = op->rows == 1 ? 0 : op->columns;
    bool aligned = tr_aligned(op->x, op->x_stride, pitch) &&
                   tr_aligned(op->y, op->y_stride, pitch) &&
                   aligned_vectors(op->mean, op->inverse, op->w, op->b);
    return tr_each(backend, "batchnorm_forward", op->samples, op->rows, op->columns, aligned,
                   batchnorm_y{*op});
}

extern "C" int tr_cuda_batchnorm_backward(struct tr_backend *backend,
                                          const struct tr_batchnorm_grad *op)
{
    size_t pitch = op->rows == 1 ? 0 : op->columns;
    struct levels levels;
    if (!take_levels<2>(backend, op->columns, &levels))
        return RT_EBACKEND;
    bool aligned = tr_aligned(op->x, op->x_stride, pitch) &&
                   tr_aligned(op->dy, op->dy_stride, pitch) &&
                   tr_aligned(op->dx, op->dx_stride, pitch) &&
                   aligned_vectors(op->mean, op->inverse, op->w, levels.level);
    int err = tr_column_sums<2>(backend, "batchnorm_backward", op->samples, op->rows, op->columns,
                                batchnorm_sums{*op, levels});
    return err || !op->dx ? err
                          : tr_each(backend, "batchnorm_backward", op->samples, op->rows,
                                    op->columns, aligned, batchnorm_dx{*op, levels});
}

extern "C" int tr_cuda_dice_forward(struct tr_backend *backend, const struct tr_dice *op)
{
    size_t pitch = op->rows == 1 ? 0 : op->columns;
    bool aligned = tr_aligned(op->x, op->x_stride, pitch) &&
                   tr_aligned(op->y, op->y_stride, pitch) && tr_aligned(op->p, 0, op->columns) &&
                   aligned_vectors(op->mean, op->inverse, op->alpha, NULL);
    return tr_each(backend, "dice_forward", op->samples, op->rows, op->columns, aligned,
                   dice_y{*op});
}

extern "C" int tr_cuda_dice_backward(struct tr_backend *backend, const struct tr_dice_grad *op)
{
    size_t pitch = op->rows == 1 ? 0 : op->columns;
    struct levels levels;
    if (!take_levels<3>(backend, op->columns, &levels))
        return RT_EBACKEND;
    bool aligned = tr_aligned(op->x, op->x_stride, pitch) &&
                   tr_aligned(op->dy, op->dy_stride, pitch) && tr_aligned(op->p, 0, op->columns) &&
                   aligned_vectors(op->mean, op->inverse, op->alpha, levels.level);
    int err = tr_column_sums<3>(backend, "dice_backward", op->samples, op->rows, op->columns,
                                dice_sums{*op, levels});
    return err ? err
               : tr_each(backend, "dice_backward", op->samples, op->rows, op->columns, aligned,
                         dice_dx{*op, levels});
}
