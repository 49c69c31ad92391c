/* trainer/backend/cuda/products.c -- see products.h. */
#include "trainer/backend/cuda/products.h"

#include <stdlib.h>

#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "trainer/backend/cuda/operations.h"

#define ALIGNED 8u /* halves in 16 bytes */

int tr_cuda_products_get(struct tr_backend *backend, struct tr_cuda_products **out)
{
    struct tr_cuda *cuda = backend->cuda;
    *out = cuda->products;
    if (*out)
        return (*out)->begun;
    struct tr_cuda_products *products = calloc(1, sizeof *products);
    if (!products)
        return tr_cuda_fail(cuda, RT_ENOMEM, "no memory for products");
    products->pass = 1;
    int err = tr_gemms_create(cuda, &products->gemms);
    if (err) {
        free(products);
        return err;
    }
    *out = cuda->products = products;
    return 0;
}

static int check_half(struct tr_cuda *cuda)
{
    int major = 0;
    int err = tr_cuda_check(
        cuda, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, cuda->device),
        "compute capability");
    if (!err && major < 8)
        return tr_cuda_fail(cuda, RT_EBACKEND,
                            "this GPU (compute capability %d) has no products of bfloat16: 8.0 is "
                            "needed; take precision float32",
                            major);
    return err;
}

int tr_cuda_prepare(struct tr_backend *backend, const struct tr_space *space)
{
    struct tr_cuda_products *products;
    void *params = NULL;
    backend->precision = space->precision;
    int err = tr_cuda_products_get(backend, &products);
    if (!err && space->precision == RT_DTYPE_BF16)
        err = check_half(backend->cuda);
    if (!err && space->precision == RT_DTYPE_BF16)
        err = tr_cuda_alloc(backend->cuda, (space->n_params + ALIGNED) * sizeof(uint16_t),
                            "parameters in bfloat16", &params);
    if (err)
        return err;
    products->space = *space;
    products->params = params;
    return 0;
}

void tr_cuda_begin(struct tr_backend *backend)
{
    struct tr_cuda_products *products = backend->cuda->products;
    if (!products)
        return;
    products->pass++;
    products->begun = 0;
    if (!products->params)
        return;
    /* In rows of a power of two, and one that is shorter, so that a row's number of columns fits 32 bits. */
    const uint32_t row = 1u << 20;
    const struct tr_space *space = &products->space;
    uint32_t rows = (uint32_t)(space->n_params / row), rest = (uint32_t)(space->n_params % row);
    size_t whole = (size_t)rows * row;
    struct tr_act cast = {.kind = TR_ACT_NONE, .x = space->params, .x_stride = row};
    products->begun =
        tr_cuda_act_to_halves(backend, &cast, (struct tr_halves){rows, row, products->params, row});
    cast.x += whole;
    if (!products->begun)
        products->begun = tr_cuda_act_to_halves(
            backend, &cast, (struct tr_halves){1, rest, products->params + whole, row});
}

void tr_cuda_release(struct tr_backend *backend)
{
    struct tr_cuda_products *products = backend->cuda->products;
    if (!products)
        return;
    tr_gemms_destroy(products->gemms);
    tr_twins_forget(&products->twins);
    free(products);
    backend->cuda->products = NULL;
}

/* ---- twins ---- */

int tr_cuda_twin_for(struct tr_backend *backend, const float *of, size_t stride, uint32_t rows,
                     uint32_t columns, struct tr_twin **out)
{
    struct tr_cuda_products *products = backend->cuda->products;
    int err = tr_twin_room(backend->cuda, &products->twins, of, stride, rows, columns, out);
    if (err)
        return err;
    (*out)->made = products->pass;
    (*out)->made_rows = rows;
    (*out)->masked = (*out)->settled = 0;
    return 0;
}

int tr_cuda_twin_of(struct tr_backend *backend, const float *of, size_t stride, uint32_t rows,
                    uint32_t columns, bool hidden, struct tr_twin **out)
{
    struct tr_cuda_products *products = backend->cuda->products;
    struct tr_twin *twin = tr_twin_find(&products->twins, of, stride, columns);
    *out = twin;
    if (twin && twin->made == products->pass && twin->made_rows >= rows)
        return 0;
    if (hidden)
        return tr_cuda_fail(backend->cuda, RT_EBACKEND,
                            "a hidden tensor of %u columns is read before a product wrote it",
                            columns);
    int err = tr_cuda_twin_for(backend, of, stride, rows, columns, out);
    struct tr_act cast = {.kind = TR_ACT_NONE, .x = of, .x_stride = stride};
    return err ? err : tr_cuda_act_to_halves(backend, &cast, tr_halves_of(*out, rows));
}

/* Its copy in that of all parameters; NULL: it is none of them, or begins where no 16 bytes do. */
static const uint16_t *copy_of(const struct tr_cuda_products *products, const float *param)
{
    uintptr_t first = (uintptr_t)products->space.params, at = (uintptr_t)param;
    if (!products->params || at < first || at - first >= products->space.n_params * sizeof *param)
        return NULL;
    size_t offset = (at - first) / sizeof *param;
    return offset % ALIGNED == 0 ? products->params + offset : NULL;
}

static int own_copy(struct tr_backend *backend, const float *param, uint32_t rows, uint32_t columns,
                    struct tr_side *out)
{
    struct tr_twin *twin;
    int err = tr_cuda_twin_of(backend, param, columns, rows, columns, false, &twin);
    if (!err)
        *out = (struct tr_side){twin->half, twin->stride};
    return err;
}

int tr_cuda_half_weight(struct tr_backend *backend, const float *w, uint32_t rows, uint32_t columns,
                        struct tr_side *out)
{
    const uint16_t *copy = copy_of(backend->cuda->products, w);
    if (!copy || columns % ALIGNED != 0)
        return own_copy(backend, w, rows, columns, out);
    *out = (struct tr_side){copy, columns};
    return 0;
}

int tr_cuda_half_bias(struct tr_backend *backend, const float *b, uint32_t columns,
                      struct tr_side *out)
{
    const uint16_t *copy = copy_of(backend->cuda->products, b);
    if (!copy)
        return own_copy(backend, b, 1, columns, out);
    *out = (struct tr_side){copy, columns};
    return 0;
}

int tr_cuda_cast(struct tr_backend *backend, const float *x, size_t stride, uint32_t rows,
                 uint32_t columns, struct tr_halves *out)
{
    struct tr_cuda_products *products = backend->cuda->products;
    size_t bytes = rows * tr_twin_stride(columns) * sizeof(uint16_t);
    void *room;
    if (bytes > products->cast_bytes) {
        int err = tr_cuda_alloc(backend->cuda, bytes, "gradients in bfloat16", &room);
        if (err)
            return err;
        products->cast = room;
        products->cast_bytes = bytes;
    }
    *out = (struct tr_halves){rows, columns, products->cast, tr_twin_stride(columns)};
    struct tr_act cast = {.kind = TR_ACT_NONE, .x = x, .x_stride = stride};
    return tr_cuda_act_to_halves(backend, &cast, *out);
}
