/* trainer/backend/cuda/copy.cu -- copies, zeros, products element by element, sums over rows or columns.
 *
 * A concat or a split is one copy for each of its parts, of 16 to 128 columns, into rows whose parts begin anywhere: so a copy is one small
 * launch that fills whole 32-byte sectors at any width and offset (rows.h), and no memcpy node of the graph, which is slow where rows are narrow.
 * Bytes an element: copy 8 (12 where it adds), clear 4, a product of n 4 (n + 1), a gradient of it as many for each factor that wants one, sums
 * over rows or columns 4 and a little. All have the CPU's bits: products in its order, sums over columns in its order too. */
#include "trainer/backend/cuda/rows.h"

#define FACTORS_MAX 64u

namespace
{
struct copy {
    const float *x;
    size_t x_stride, y_stride;
    float *y;
    bool add;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad x4 = places.load(x, x_stride, 0);
        if (add) {
            tr_quad y4 = places.load(y, y_stride, 0);
            for (uint32_t k = 0; k < TR_QUAD; k++)
                x4.v[k] = y4.v[k] + x4.v[k];
        }
        places.store(y, y_stride, 0, x4);
    }
};
} // namespace

extern "C" int tr_cuda_copy(struct tr_backend *backend, const struct tr_copy *op)
{
    struct copy of = {op->x, op->x_stride, op->y_stride, op->y, op->add};
    bool aligned = tr_aligned(op->x, op->x_stride, 0) && tr_aligned(op->y, op->y_stride, 0);
    return tr_each(backend, "copy", op->samples, 1, op->width, aligned, of);
}

namespace
{
struct clear {
    size_t stride;
    float *y;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad zero = {{0, 0, 0, 0}};
        places.store(y, stride, 0, zero);
    }
};
} // namespace

extern "C" int tr_cuda_clear(struct tr_backend *backend, const struct tr_clear *op)
{
    struct clear of = {op->y_stride, op->y};
    return tr_each(backend, "clear", op->samples, 1, op->width, tr_aligned(op->y, op->y_stride, 0),
                   of);
}

namespace
{
/* ---- products ---- */

struct factors {
    struct tr_list<FACTORS_MAX> list;
    bool spread[FACTORS_MAX];
    uint32_t n, columns; /* of a row of those not spread */
};

/* Not an x of its own: the factors of all places, times `by`, but for number `without`. */
template <typename PLACES>
__device__ inline void multiply(const struct factors &of, const PLACES &places, uint32_t without,
                                tr_quad *by)
{
    TR_UNROLL(4)
    for (uint32_t i = 0; i < of.n; i++) {
        if (i == without)
            continue;
        size_t stride = of.list.stride[i];
        tr_quad x = of.spread[i] ? places.load_row(of.list.x[i], stride, 1)
                                 : places.load(of.list.x[i], stride, of.columns);
        for (uint32_t k = 0; k < TR_QUAD; k++)
            by->v[k] *= x.v[k];
    }
}

struct product {
    struct factors of;
    float *y;
    size_t y_stride;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad y4 = {{1, 1, 1, 1}};
        multiply(of, places, of.n, &y4);
        places.store(y, y_stride, of.columns, y4);
    }
};

struct product_grad {
    struct factors of;
    uint32_t i;
    const float *dy;
    size_t dy_stride;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad dx = places.load(dy, dy_stride, of.columns);
        multiply(of, places, i, &dx);
        if (of.list.add[i]) {
            tr_quad was = places.load(of.list.dx[i], of.list.stride[i], of.columns);
            for (uint32_t k = 0; k < TR_QUAD; k++)
                dx.v[k] = was.v[k] + dx.v[k];
        }
        places.store(of.list.dx[i], of.list.stride[i], of.columns, dx);
    }
};

/* Of a factor that is spread: its gradient is a sum over the columns. */
struct spread_grad {
    struct factors of;
    uint32_t i;
    const float *dy;
    size_t dy_stride;

    __device__ float at(uint32_t sample, uint32_t row, uint32_t column) const
    {
        size_t place = (size_t)row * of.columns + column;
        float value = dy[sample * dy_stride + place];
        for (uint32_t j = 0; j < of.n; j++)
            if (j != i)
                value *=
                    of.list.x[j][(size_t)sample * of.list.stride[j] + (of.spread[j] ? row : place)];
        return value;
    }
    __device__ void put(uint32_t sample, uint32_t row, float sum) const
    {
        float *dx = of.list.dx[i] + (size_t)sample * of.list.stride[i] + row;
        *dx = of.list.add[i] ? *dx + sum : sum;
    }
};

static int take_factors(struct tr_backend *backend, const struct tr_mul *op, tr_real *const *dx,
                        const bool *add, struct factors *of)
{
    if (!tr_fill(&of->list, op->n, op->x, op->x_stride, dx, add))
        return tr_cuda_fail(backend->cuda, RT_EBACKEND,
                            "a product of %u tensors, or of rows over 2^32 apart", op->n);
    for (uint32_t i = 0; i < op->n; i++)
        of->spread[i] = op->spread[i];
    of->n = op->n;
    of->columns = op->columns;
    return 0;
}

/* Without a spread factor a sample is one long row. */
static uint32_t rows_of(const struct tr_mul *op, struct factors *of)
{
    for (uint32_t i = 0; i < op->n; i++)
        if (op->spread[i])
            return op->rows;
    of->columns = op->rows * op->columns;
    return 1;
}

static bool all_aligned(const struct factors *of)
{
    bool aligned = of->columns % TR_QUAD == 0;
    for (uint32_t i = 0; i < of->n; i++)
        if (!of->spread[i])
            aligned = aligned && tr_aligned(of->list.x[i], of->list.stride[i], 0) &&
                      tr_aligned(of->list.dx[i], 0, 0);
    return aligned;
}
} // namespace

extern "C" int tr_cuda_mul_forward(struct tr_backend *backend, const struct tr_mul *op)
{
    struct product product = {};
    int err = take_factors(backend, op, NULL, NULL, &product.of);
    if (err)
        return err;
    product.y = op->y;
    product.y_stride = op->y_stride;
    uint32_t rows = rows_of(op, &product.of);
    bool aligned = all_aligned(&product.of) && tr_aligned(op->y, op->y_stride, 0);
    return tr_each(backend, "product", op->samples, rows, product.of.columns, aligned, product);
}

extern "C" int tr_cuda_mul_backward(struct tr_backend *backend, const struct tr_mul_grad *op)
{
    const struct tr_mul *of = &op->of;
    struct product_grad grad = {};
    int err = take_factors(backend, of, op->dx, op->add, &grad.of);
    uint32_t rows = rows_of(of, &grad.of);
    bool aligned = all_aligned(&grad.of) && tr_aligned(op->dy, op->dy_stride, 0);
    grad.dy = op->dy;
    grad.dy_stride = op->dy_stride;
    for (uint32_t i = 0; !err && i < of->n; i++) {
        grad.i = i;
        struct spread_grad spread = {grad.of, i, op->dy, op->dy_stride};
        if (op->dx[i] && of->spread[i])
            err = tr_row_sums(backend, "gradient of a product", of->samples, of->rows, of->columns,
                              spread);
        else if (op->dx[i])
            err = tr_each(backend, "gradient of a product", of->samples, rows, grad.of.columns,
                          aligned, grad);
    }
    return err;
}

namespace
{
/* ---- sums ---- */

struct sum_rows {
    uint32_t rows, columns;
    float scale;
    const float *x;
    size_t x_stride, y_stride;
    float *y;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad sum = {{0, 0, 0, 0}};
        TR_UNROLL(8)
        for (uint32_t r = 0; r < rows; r++) {
            tr_quad x4 = places.load(x + (size_t)r * columns, x_stride, 0);
            for (uint32_t k = 0; k < TR_QUAD; k++)
                sum.v[k] = r ? sum.v[k] + __fmul_rn(scale, x4.v[k]) : scale * x4.v[k];
        }
        places.store(y, y_stride, 0, sum);
    }
};

struct sum_columns {
    uint32_t columns;
    float scale;
    const float *x;
    size_t x_stride, y_stride;
    float *y;

    __device__ float at(uint32_t sample, uint32_t row, uint32_t column) const
    {
        return x[sample * x_stride + (size_t)row * columns + column];
    }
    __device__ void put(uint32_t sample, uint32_t row, float sum) const
    {
        y[sample * y_stride + row] = scale * sum;
    }
};
} // namespace

extern "C" int tr_cuda_reduce_forward(struct tr_backend *backend, const struct tr_reduce *op)
{
    struct sum_rows over_rows = {op->rows,     op->columns,  op->scale, op->x,
                                 op->x_stride, op->y_stride, op->y};
    struct sum_columns over_columns = {op->columns,  op->scale,    op->x,
                                       op->x_stride, op->y_stride, op->y};
    bool aligned =
        tr_aligned(op->x, op->x_stride, op->columns) && tr_aligned(op->y, op->y_stride, 0);
    return op->over_rows
               ? tr_each(backend, "sum over rows", op->samples, 1, op->columns, aligned, over_rows)
               : tr_row_sums(backend, "sum over columns", op->samples, op->rows, op->columns,
                             over_columns);
}

namespace
{
struct sum_grad {
    bool over_rows, add;
    uint32_t columns;
    float scale;
    const float *dy;
    size_t dy_stride, dx_stride;
    float *dx;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad dy4 = over_rows ? places.load(dy, dy_stride, 0) : places.load_row(dy, dy_stride, 1);
        for (uint32_t k = 0; k < TR_QUAD; k++)
            dy4.v[k] = __fmul_rn(scale, dy4.v[k]);
        if (add) {
            tr_quad was = places.load(dx, dx_stride, columns);
            for (uint32_t k = 0; k < TR_QUAD; k++)
                dy4.v[k] = was.v[k] + dy4.v[k];
        }
        places.store(dx, dx_stride, columns, dy4);
    }
};
} // namespace

extern "C" int tr_cuda_reduce_backward(struct tr_backend *backend, const struct tr_reduce_grad *op)
{
    struct sum_grad of = {op->over_rows, op->add,       op->columns,   op->scale,
                          op->dy,        op->dy_stride, op->dx_stride, op->dx};
    bool aligned = tr_aligned(op->dx, op->dx_stride, op->columns) &&
                   (!op->over_rows || tr_aligned(op->dy, op->dy_stride, 0));
    return tr_each(backend, "gradient of a sum", op->samples, op->rows, op->columns, aligned, of);
}
