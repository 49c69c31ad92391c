/* trainer/backend/cuda/mix.cu -- vectors of a sample mixed by weights, and what DIN's activation unit is fed with.
 *
 * Forward a thread has four columns of a sample and goes through the vectors: 4 bytes an element of x. Backward half a warp has one vector of a
 * sample: its gradient, and its weight's, which is a sum over columns in the CPU's order; 8 bytes an element (12 where it adds), dy coming from a
 * cache for all vectors but one. DIN: 20 bytes an element of k forward and 24 back (28 where it adds to dk); a thread sums up dq while it
 * goes through the rows. All has the CPU's bits. */
#include "trainer/backend/cuda/rows.h"

#define VECTORS_MAX 128u

namespace
{
struct mix {
    struct tr_list<VECTORS_MAX> list;
    uint32_t n;
    bool first;
    const float *weight; /* of the list's first */
    size_t weight_stride, y_stride;
    float *y;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad y4 = tr_load_if(!first, places, y, y_stride, 0);
        TR_UNROLL(8)
        for (uint32_t i = 0; i < n; i++) {
            tr_quad w = places.load_row(weight + i, weight_stride, 0),
                    x4 = places.load(list.x[i], list.stride[i], 0);
            for (uint32_t k = 0; k < TR_QUAD; k++) {
                float part = __fmul_rn(w.v[k], x4.v[k]);
                y4.v[k] = first && i == 0 ? part : y4.v[k] + part; /* 0 + -0 would be 0 */
            }
        }
        places.store(y, y_stride, 0, y4);
    }
};

static int too_far(struct tr_backend *backend, const char *what)
{
    return tr_cuda_fail(backend->cuda, RT_EBACKEND, "%s: rows over 2^32 apart", what);
}
} // namespace

extern "C" int tr_cuda_mix_forward(struct tr_backend *backend, const struct tr_mix *op)
{
    int err = 0;
    struct mix of = {};
    of.weight_stride = op->weight_stride;
    of.y_stride = op->y_stride;
    of.y = op->y;
    for (uint32_t first = 0; !err && first < op->n; first += of.n) {
        of.n = op->n - first < VECTORS_MAX ? op->n - first : VECTORS_MAX;
        of.first = first == 0;
        of.weight = op->weight + first;
        if (!tr_fill(&of.list, of.n, op->x + first, op->x_stride + first, NULL, NULL))
            return too_far(backend, "mix");
        bool aligned = tr_aligned(op->y, op->y_stride, 0);
        for (uint32_t i = 0; i < of.n; i++)
            aligned = aligned && tr_aligned(of.list.x[i], of.list.stride[i], 0);
        err = tr_each(backend, "mix", op->samples, 1, op->dim, aligned, of);
    }
    return err;
}

namespace
{
/* A "row" is a vector of the list. */
struct mix_grad {
    struct tr_list<VECTORS_MAX> list; /* no dx in it twice */
    const float *weight, *dy;
    size_t weight_stride, dy_stride;
    float *dweight;

    __device__ float at(uint32_t sample, uint32_t i, uint32_t column) const
    {
        size_t place = (size_t)sample * list.stride[i] + column;
        float dy1 = dy[sample * dy_stride + column], x1 = list.x[i][place];
        float *dx = list.dx[i];
        if (dx) {
            float part = __fmul_rn(weight[sample * weight_stride + i], dy1);
            dx[place] = list.add[i] ? dx[place] + part : part;
        }
        return __fmul_rn(dy1, x1);
    }
    __device__ void put(uint32_t sample, uint32_t i, float sum) const
    {
        dweight[sample * weight_stride + i] = sum;
    }
};
} // namespace

extern "C" int tr_cuda_mix_backward(struct tr_backend *backend, const struct tr_mix_grad *op)
{
    const struct tr_mix *mix = &op->of;
    int err = 0;
    struct mix_grad of = {};
    of.dy = op->dy;
    of.weight_stride = mix->weight_stride;
    of.dy_stride = op->dy_stride;
    for (uint32_t first = 0, n; !err && first < mix->n; first += n) {
        n = tr_apart<VECTORS_MAX>(mix->n - first, op->dx + first);
        of.weight = mix->weight + first;
        of.dweight = op->dweight + first;
        if (!tr_fill(&of.list, n, mix->x + first, mix->x_stride + first, op->dx + first,
                     op->add + first))
            return too_far(backend, "gradient of mix");
        err = tr_row_sums(backend, "gradient of mix", mix->samples, n, mix->dim, of);
    }
    return err;
}

namespace
{
/* ---- DIN: y[r] = [q, k[r], q - k[r], q k[r]] ---- */

struct din {
    uint32_t rows, dim;
    const float *q, *k;
    size_t q_stride, k_stride;
    float *y;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        size_t pitch = 4 * (size_t)dim, stride = rows * pitch;
        tr_quad q4 = places.load(q, q_stride, 0), k4 = places.load(k, k_stride, dim), difference,
                product;
        for (uint32_t i = 0; i < TR_QUAD; i++) {
            difference.v[i] = q4.v[i] - k4.v[i];
            product.v[i] = q4.v[i] * k4.v[i];
        }
        places.store(y, stride, pitch, q4);
        places.store(y + dim, stride, pitch, k4);
        places.store(y + 2 * (size_t)dim, stride, pitch, difference);
        places.store(y + 3 * (size_t)dim, stride, pitch, product);
    }
};

static bool din_aligned(const struct tr_din *op)
{
    return tr_aligned(op->q, op->q_stride, op->dim) && tr_aligned(op->k, op->k_stride, op->dim);
}
} // namespace

extern "C" int tr_cuda_din_forward(struct tr_backend *backend, const struct tr_din *op)
{
    struct din of = {op->rows, op->dim, op->q, op->k, op->q_stride, op->k_stride, op->y};
    return tr_each(backend, "din", op->samples, op->rows, op->dim,
                   din_aligned(op) && tr_aligned(op->y, 0, 0), of);
}

namespace
{
struct din_grad {
    uint32_t rows, dim;
    const float *q, *k, *dy;
    size_t q_stride, k_stride;
    float *dq, *dk; /* NULL: not wanted */
    bool add_dq, add_dk;

    /* dx += its own part, `sign` times that of q - k, and that of q k, `factor` times. */
    template <typename PLACES>
    __device__ void add_row(const PLACES &places, const float *dy_row, const float *own, float sign,
                            const tr_quad &factor, tr_quad *dx) const
    {
        size_t stride = 4 * (size_t)rows * dim;
        tr_quad own4 = places.load(own, stride, 0),
                difference = places.load(dy_row + 2 * (size_t)dim, stride, 0);
        tr_quad product = places.load(dy_row + 3 * (size_t)dim, stride, 0);
        for (uint32_t i = 0; i < TR_QUAD; i++)
            dx->v[i] = dx->v[i] + own4.v[i] + sign * difference.v[i] +
                       __fmul_rn(product.v[i], factor.v[i]);
    }

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad q4 = places.load(q, q_stride, 0),
                dq4 = tr_load_if(dq && add_dq, places, dq, q_stride, 0);
        for (uint32_t r = 0; r < rows; r++) {
            const float *dy_row = dy + 4 * (size_t)r * dim;
            size_t at = (size_t)r * dim;
            tr_quad k4 = places.load(k + at, k_stride, 0);
            add_row(places, dy_row, dy_row, 1, k4, &dq4);
            if (dk) {
                tr_quad dk4 = tr_load_if(add_dk, places, dk + at, k_stride, 0);
                add_row(places, dy_row, dy_row + dim, -1, q4, &dk4);
                places.store(dk + at, k_stride, 0, dk4);
            }
        }
        if (dq)
            places.store(dq, q_stride, 0, dq4);
    }
};
} // namespace

extern "C" int tr_cuda_din_backward(struct tr_backend *backend, const struct tr_din_grad *op)
{
    const struct tr_din *din = &op->of;
    struct din_grad of = {din->rows,     din->dim, din->q, din->k,     op->dy,    din->q_stride,
                          din->k_stride, op->dq,   op->dk, op->add_dq, op->add_dk};
    bool aligned = din_aligned(din) && tr_aligned(op->dy, 0, 0) && tr_aligned(op->dq, 0, 0) &&
                   tr_aligned(op->dk, 0, 0);
    return tr_each(backend, "gradient of din", din->samples, 1, din->dim, aligned, of);
}
