/* trainer/backend/cuda/fm.cu -- the second-order part of a factorization machine.
 *
 * A thread has four dimensions of a sample and goes through the vectors, so all of x is read once: 4 bytes an element of x, and its gradient 8 (12
 * where it adds). The vectors' addresses are in the kernel's parameters, VECTORS_MAX at a time: where there are more, what they come to is added
 * to by the next launch. In the CPU's order, and with its bits. */
#include "trainer/backend/cuda/rows.h"

#define VECTORS_MAX 128u

namespace
{
struct fm {
    struct tr_list<VECTORS_MAX> list;
    uint32_t n, dim;
    bool first, last; /* of the launches */
    float *sum, *square;
    float *y; /* NULL: a sum over `square` follows */
    size_t y_stride;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad all = tr_load_if(!first, places, sum, dim, 0),
                squares = tr_load_if(!first, places, square, dim, 0);
        TR_UNROLL(8)
        for (uint32_t i = 0; i < n; i++) {
            tr_quad x4 = places.load(list.x[i], list.stride[i], 0);
            for (uint32_t k = 0; k < TR_QUAD; k++) {
                all.v[k] += x4.v[k];
                squares.v[k] += __fmul_rn(x4.v[k], x4.v[k]);
            }
        }
        for (uint32_t k = 0; last && k < TR_QUAD; k++)
            squares.v[k] = 0.5f * (__fmul_rn(all.v[k], all.v[k]) - squares.v[k]);
        places.store(sum, dim, 0, all);
        places.store(square, dim, 0, squares);
        if (last && y)
            places.store(y, y_stride, 0, squares);
    }
};

struct whole {
    const float *square;
    uint32_t dim;
    float *y;
    size_t y_stride;

    __device__ float at(uint32_t sample, uint32_t, uint32_t column) const
    {
        return square[(size_t)sample * dim + column];
    }
    __device__ void put(uint32_t sample, uint32_t, float sum) const
    {
        y[sample * y_stride] = sum;
    }
};

static int too_far(struct tr_backend *backend, const char *what)
{
    return tr_cuda_fail(backend->cuda, RT_EBACKEND, "%s: rows over 2^32 apart", what);
}

static bool list_aligned(const struct tr_list<VECTORS_MAX> *list, uint32_t n)
{
    bool aligned = true;
    for (uint32_t i = 0; i < n; i++)
        aligned = aligned && tr_aligned(list->x[i], list->stride[i], 0) &&
                  tr_aligned(list->dx[i], list->stride[i], 0);
    return aligned;
}
} // namespace

extern "C" int tr_cuda_fm_forward(struct tr_backend *backend, const struct tr_fm *op)
{
    int err = 0;
    bool aligned = tr_aligned(op->sum, op->dim, 0) && tr_aligned(op->square, 0, 0) &&
                   (op->whole || tr_aligned(op->y, op->y_stride, 0));
    struct fm of = {};
    of.dim = op->dim;
    of.sum = op->sum;
    of.square = op->square;
    of.y = op->whole ? NULL : op->y;
    of.y_stride = op->y_stride;
    for (uint32_t first = 0; !err && first < op->n; first += of.n) {
        of.n = op->n - first < VECTORS_MAX ? op->n - first : VECTORS_MAX;
        of.first = first == 0;
        of.last = first + of.n == op->n;
        if (!tr_fill(&of.list, of.n, op->x + first, op->x_stride + first, NULL, NULL))
            return too_far(backend, "fm");
        err = tr_each(backend, "fm", op->samples, 1, op->dim,
                      aligned && list_aligned(&of.list, of.n), of);
    }
    struct whole whole = {op->square, op->dim, op->y, op->y_stride};
    return err || !op->whole ? err : tr_row_sums(backend, "fm", op->samples, 1, op->dim, whole);
}

namespace
{
struct fm_grad {
    struct tr_list<VECTORS_MAX> list; /* no dx in it twice */
    uint32_t n, dim;
    bool whole;
    const float *dy, *sum;
    size_t dy_stride;

    /* N vectors from number i on: all is loaded before the first gradient is written. */
    template <uint32_t N, typename PLACES>
    __device__ void some(const PLACES &places, uint32_t i, const tr_quad &dy4,
                         const tr_quad &all) const
    {
        tr_quad x4[N], dx4[N];
        for (uint32_t j = 0; j < N; j++) {
            bool wanted = list.dx[i + j] != NULL;
            x4[j] = tr_load_if(wanted, places, list.x[i + j], list.stride[i + j], 0);
            dx4[j] = tr_load_if(wanted && list.add[i + j], places, list.dx[i + j],
                                list.stride[i + j], 0);
        }
        for (uint32_t j = 0; j < N; j++) {
            if (!list.dx[i + j])
                continue;
            for (uint32_t k = 0; k < TR_QUAD; k++)
                dx4[j].v[k] += __fmul_rn(dy4.v[k], all.v[k] - x4[j].v[k]);
            places.store(list.dx[i + j], list.stride[i + j], 0, dx4[j]);
        }
    }

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad all = places.load(sum, dim, 0);
        tr_quad dy4 = whole ? places.load_row(dy, dy_stride, 0) : places.load(dy, dy_stride, 0);
        uint32_t i = 0;
        for (; i + 4 <= n; i += 4)
            some<4>(places, i, dy4, all);
        for (; i < n; i++)
            some<1>(places, i, dy4, all);
    }
};
} // namespace

extern "C" int tr_cuda_fm_backward(struct tr_backend *backend, const struct tr_fm_grad *op)
{
    int err = 0;
    bool aligned =
        tr_aligned(op->sum, op->dim, 0) && (op->whole || tr_aligned(op->dy, op->dy_stride, 0));
    struct fm_grad of = {};
    of.dim = op->dim;
    of.whole = op->whole;
    of.dy = op->dy;
    of.sum = op->sum;
    of.dy_stride = op->dy_stride;
    for (uint32_t first = 0; !err && first < op->n; first += of.n) {
        of.n = tr_apart<VECTORS_MAX>(op->n - first, op->dx + first);
        if (!tr_fill(&of.list, of.n, op->x + first, op->x_stride + first, op->dx + first,
                     op->add + first))
            return too_far(backend, "gradient of fm");
        err = tr_each(backend, "gradient of fm", op->samples, 1, op->dim,
                      aligned && list_aligned(&of.list, of.n), of);
    }
    return err;
}
