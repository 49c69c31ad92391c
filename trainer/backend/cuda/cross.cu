/* trainer/backend/cuda/cross.cu -- cross layers, element by element, and the pooling of sequences by their masks.
 *
 * One pass each (rows.h). Bytes an element: cross 16 and its gradients 20 (24 where dx0 is added to); where z is one column dz is a
 * sum over columns in the CPU's order, made in the same pass as dx0, and db one more pass over dy (columns.h). A pool reads the
 * places that its mask counts and no others; its gradient writes all. All have the CPU's bits, but for db: a sum over samples. */
#include "trainer/backend/cuda/columns.h"
#include "trainer/backend/cuda/rows.h"

namespace
{
struct cross {
    bool one;
    const float *x0, *x, *z, *b;
    size_t x0_stride, x_stride, z_stride, y_stride;
    float *y;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad x04 = places.load(x0, x0_stride, 0), x4 = places.load(x, x_stride, 0);
        tr_quad z4 = one ? places.load_row(z, z_stride, 0) : places.load(z, z_stride, 0);
        for (uint32_t k = 0; k < TR_QUAD; k++)
            x4.v[k] = __fmul_rn(x04.v[k], z4.v[k]) + x4.v[k];
        if (b) {
            tr_quad b4 = places.load(b, 0, 0);
            for (uint32_t k = 0; k < TR_QUAD; k++)
                x4.v[k] += b4.v[k];
        }
        places.store(y, y_stride, 0, x4);
    }
};
} // namespace

extern "C" int tr_cuda_cross_forward(struct tr_backend *backend, const struct tr_cross *op)
{
    struct cross of = {op->one,       op->x0,       op->x,        op->z,        op->b,
                       op->x0_stride, op->x_stride, op->z_stride, op->y_stride, op->y};
    bool aligned = tr_aligned(op->x0, op->x0_stride, 0) && tr_aligned(op->x, op->x_stride, 0) &&
                   tr_aligned(op->b, 0, 0) && tr_aligned(op->y, op->y_stride, 0) &&
                   (op->one || tr_aligned(op->z, op->z_stride, 0));
    return tr_each(backend, "cross", op->samples, 1, op->width, aligned, of);
}

namespace
{
struct cross_grad {
    const float *x0, *z, *dy;
    size_t x0_stride, z_stride, dy_stride;
    float *dz, *dx0;
    bool add;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad x04 = places.load(x0, x0_stride, 0), dy4 = places.load(dy, dy_stride, 0);
        if (dx0) {
            tr_quad dx04 = tr_load_if(add, places, dx0, x0_stride, 0),
                    z4 = places.load(z, z_stride, 0);
            for (uint32_t k = 0; k < TR_QUAD; k++)
                dx04.v[k] += __fmul_rn(dy4.v[k], z4.v[k]);
            places.store(dx0, x0_stride, 0, dx04);
        }
        for (uint32_t k = 0; k < TR_QUAD; k++)
            dy4.v[k] *= x04.v[k];
        places.store(dz, z_stride, 0, dy4);
    }
};

/* With one z for a row. */
struct cross_grad_one {
    struct cross_grad of;

    __device__ float at(uint32_t sample, uint32_t, uint32_t column) const
    {
        float dy = of.dy[sample * of.dy_stride + column];
        if (of.dx0) {
            float *dx0 = of.dx0 + sample * of.x0_stride + column;
            *dx0 = (of.add ? *dx0 : 0) + __fmul_rn(dy, of.z[sample * of.z_stride]);
        }
        return __fmul_rn(dy, of.x0[sample * of.x0_stride + column]);
    }
    __device__ void put(uint32_t sample, uint32_t, float sum) const
    {
        of.dz[sample * of.z_stride] = sum;
    }
};
} // namespace

extern "C" int tr_cuda_cross_backward(struct tr_backend *backend, const struct tr_cross_grad *op)
{
    struct cross_grad of = {op->x0,        op->z,  op->dy,  op->x0_stride, op->z_stride,
                            op->dy_stride, op->dz, op->dx0, op->add};
    struct cross_grad_one one = {of};
    struct tr_matrix_sums db = {op->dy, op->dy_stride, 0, op->db, op->add_params};
    bool aligned = tr_aligned(op->x0, op->x0_stride, 0) && tr_aligned(op->z, op->z_stride, 0) &&
                   tr_aligned(op->dx0, 0, 0) && tr_aligned(op->dy, op->dy_stride, 0) &&
                   tr_aligned(op->dz, 0, 0);
    int err = op->one
                  ? tr_row_sums(backend, "gradient of cross", op->samples, 1, op->width, one)
                  : tr_each(backend, "gradient of cross", op->samples, 1, op->width, aligned, of);
    return err || !op->db ? err
                          : tr_column_sums<1>(backend, "bias gradient of cross", op->samples, 1,
                                              op->width, db);
}

namespace
{
/* ---- sequences, pooled ---- */

/* What each place of a sample counts for, besides the mask; a thread's elements may be of several samples. */
template <typename PLACES>
__device__ inline tr_quad scale_of(const PLACES &places, bool mean, const float *mask,
                                   size_t mask_stride, uint32_t rows)
{
    tr_quad scale = {{1, 1, 1, 1}}, sum = {{0, 0, 0, 0}};
    if (!mean)
        return scale;
    TR_UNROLL(8)
    for (uint32_t r = 0; r < rows; r++) {
        tr_quad m = places.load_row(mask + r, mask_stride, 0);
        for (uint32_t k = 0; k < TR_QUAD; k++)
            sum.v[k] += m.v[k];
    }
    for (uint32_t k = 0; k < TR_QUAD; k++)
        scale.v[k] = sum.v[k] > 0 ? 1 / sum.v[k] : 0;
    return scale;
}

struct pool {
    uint32_t rows, dim;
    bool mean;
    const float *x, *mask;
    size_t x_stride, mask_stride, y_stride;
    float *y;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad scale = scale_of(places, mean, mask, mask_stride, rows), sum = {{0, 0, 0, 0}};
        TR_UNROLL(4)
        for (uint32_t r = 0; r < rows; r++) {
            tr_quad m = places.load_row(mask + r, mask_stride, 0);
            if (m.v[0] == 0 && m.v[1] == 0 && m.v[2] == 0 && m.v[3] == 0)
                continue;
            tr_quad x4 = places.load(x + (size_t)r * dim, x_stride, 0);
            for (uint32_t k = 0; k < TR_QUAD; k++)
                if (m.v[k] != 0)
                    sum.v[k] += __fmul_rn(m.v[k], x4.v[k]);
        }
        for (uint32_t k = 0; k < TR_QUAD; k++)
            sum.v[k] *= scale.v[k];
        places.store(y, y_stride, 0, sum);
    }
};
} // namespace

extern "C" int tr_cuda_masked_pool_forward(struct tr_backend *backend,
                                           const struct tr_masked_pool *op)
{
    struct pool of = {op->rows,     op->dim,         op->mean,     op->x, op->mask,
                      op->x_stride, op->mask_stride, op->y_stride, op->y};
    bool aligned = tr_aligned(op->x, op->x_stride, op->dim) && tr_aligned(op->y, op->y_stride, 0);
    return tr_each(backend, "masked pool", op->samples, 1, op->dim, aligned, of);
}

namespace
{
struct pool_grad {
    uint32_t rows, dim;
    bool mean;
    const float *mask, *dy;
    size_t mask_stride, dy_stride, dx_stride;
    float *dx;
    bool add;

    /* Rows first to first + n - 1: what they add to is loaded before the first of them is written. */
    template <typename PLACES>
    __device__ void some(const PLACES &places, uint32_t first, uint32_t n, const tr_quad &scale,
                         const tr_quad &dy4) const
    {
        tr_quad dx4[TR_QUAD];
        for (uint32_t i = 0; i < n; i++) {
            tr_quad m = places.load_row(mask + first + i, mask_stride, 0);
            dx4[i] = tr_load_if(add, places, dx + (size_t)(first + i) * dim, dx_stride, 0);
            for (uint32_t k = 0; k < TR_QUAD; k++)
                dx4[i].v[k] += __fmul_rn(__fmul_rn(scale.v[k], m.v[k]), dy4.v[k]);
        }
        for (uint32_t i = 0; i < n; i++)
            places.store(dx + (size_t)(first + i) * dim, dx_stride, 0, dx4[i]);
    }

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad scale = scale_of(places, mean, mask, mask_stride, rows),
                dy4 = places.load(dy, dy_stride, 0);
        uint32_t r = 0;
        for (; r + TR_QUAD <= rows; r += TR_QUAD)
            some(places, r, TR_QUAD, scale, dy4);
        for (; r < rows; r++)
            some(places, r, 1, scale, dy4);
    }
};
} // namespace

extern "C" int tr_cuda_masked_pool_backward(struct tr_backend *backend,
                                            const struct tr_masked_pool_grad *op)
{
    struct pool_grad of = {op->rows,        op->dim,       op->mean,      op->mask, op->dy,
                           op->mask_stride, op->dy_stride, op->dx_stride, op->dx,   op->add};
    bool aligned =
        tr_aligned(op->dx, op->dx_stride, op->dim) && tr_aligned(op->dy, op->dy_stride, 0);
    return tr_each(backend, "gradient of a masked pool", op->samples, 1, op->dim, aligned, of);
}
