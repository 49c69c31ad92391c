/* trainer/backend/cpu/onednn.c -- matrix products by oneDNN, the rest by our own kernels.
 *
 * DESIGN: in float32 dnnl_sgemm, oneDNN's JIT product on plain row-major matrices, and our loops for bias,
 * relu and bias gradient. Measured on a 2.6 GHz AVX-512 core, 4096 samples, 367 -> 256: sgemm forward
 * 8.0 ms, backward data 8.3, weights 9.4; matmul primitives with fused bias and relu 8.4, 10.1, 10.7;
 * inner-product primitives in their own weight layout 8.1, 10.1, 11.6 and a reorder a step.
 * On Zen 3 (AVX2) the primitives are made of sgemm: with weights in the layout they ask for, 1024 -> 1024 forward, backward data
 * and weights took the same time to 3 % from 512 samples on; below, forward took longer (41 against 72 GFLOP/s at 256). Bias and
 * activation are 1 % of a step there.
 * sgemm needs no plan per batch size, so short last batches cost nothing extra. In slices of 128 samples
 * (model.c) it reaches 116 of that AVX-512 core's 133 GFLOP/s; 92 over 4096 samples at once.
 * In bfloat16 its matmul primitives, with weights laid out once a step, where the CPU has such products (rounded.h). */
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/log.h"
#include "trainer/backend/cpu/kernels.h"
#include "trainer/backend/cpu/matmul.h"
#include "trainer/backend/cpu/rounded.h"

static int prepare(struct tr_backend *backend, const struct tr_space *space)
{
    if (space->precision != RT_DTYPE_BF16)
        return 0;
    int err = tr_rounded_create(space, TR_ROUNDED_BEST, &backend->rounded);
    if (!err && tr_rounded_kind(backend->rounded) != TR_ROUNDED_NATIVE)
        rt_log(
            RT_LOG_INFO,
            "bfloat16_by_float32 reason=\"this CPU has no products of bfloat16: what is multiplied "
            "is rounded to it, and multiplied in float32\"");
    return err;
}

static void begin(struct tr_backend *backend)
{
    if (backend->rounded)
        tr_rounded_begin(backend->rounded);
}

static void release(struct tr_backend *backend)
{
    tr_rounded_destroy(backend->rounded);
    backend->rounded = NULL;
}

/* What comes after the product, which is in x: there is a bias, or nothing. */
static int add_bias(struct tr_backend *backend, const struct tr_linear *op, const float *x,
                    size_t x_stride, bool relu, float *y, size_t y_stride)
{
    struct tr_bias_act bias = {op->samples, op->outputs, relu, x, op->b, x_stride, y_stride, y};
    struct tr_copy copy = {.samples = op->samples,
                           .width = op->outputs,
                           .x = x,
                           .x_stride = x_stride,
                           .y_stride = y_stride,
                           .y = y};
    if (op->b)
        tr_kernels_get()->bias_act(&bias);
    return op->b || x == y ? 0 : backend->loops->copy(backend, &copy);
}

/* z = x + b where z is kept, and y = act(z); bias and relu in one pass where that can be. */
static int finish_linear(struct tr_backend *backend, const struct tr_linear *op, const float *x,
                         size_t x_stride)
{
    bool fused = op->b && !op->z && op->act == TR_ACT_RELU;
    struct tr_act act = {
        .samples = op->samples,
        .columns = op->outputs,
        .kind = op->act,
        .x = op->z ? op->z : op->y,
        .slope = op->slope,
        .x_stride = op->z ? op->z_stride : op->y_stride,
        .y_stride = op->y_stride,
        .y = op->y,
    };
    int err = add_bias(backend, op, x, x_stride, fused, op->z ? op->z : op->y, act.x_stride);
    if (err || fused || op->act == TR_ACT_NONE)
        return err;
    return backend->loops->act_forward(backend, &act);
}

/* In bfloat16, a part of the samples at a time. */
static int rounded_forward(struct tr_backend *backend, const struct tr_linear *op, uint32_t rows)
{
    int err = 0;
    for (uint32_t first = 0; !err && first < op->samples; first += rows) {
        struct tr_linear part = *op;
        const float *product;
        size_t stride;
        part.samples = op->samples - first < rows ? op->samples - first : rows;
        part.x += first * op->x_stride;
        part.y += first * op->y_stride;
        if (op->z)
            part.z += first * op->z_stride;
        err = tr_rounded_forward(backend, &part, &product, &stride);
        if (!err)
            err = finish_linear(backend, &part, product, stride);
    }
    return err;
}

static int linear_forward(struct tr_backend *backend, const struct tr_linear *op)
{
    struct tr_product xw = {
        .tb = true,
        .m = op->samples,
        .n = op->outputs,
        .k = op->inputs,
        .a = op->x,
        .b = op->w,
        .c = op->z ? op->z : op->y,
        .lda = op->x_stride,
        .ldb = op->inputs,
        .ldc = op->z ? op->z_stride : op->y_stride,
    };
    if (backend->rounded)
        return rounded_forward(backend, op, tr_rounded_rows(backend->rounded));
    int err = tr_sgemm(backend->threads, &xw);
    return err ? err : finish_linear(backend, op, xw.c, xw.ldc);
}

static int backward_products(struct tr_backend *backend, const struct tr_linear_grad *op)
{
    struct tr_product dw = {
        .ta = true,
        .add = op->add_params,
        .m = op->outputs,
        .n = op->inputs,
        .k = op->samples,
        .a = op->dy,
        .b = op->x,
        .c = op->dw,
        .lda = op->dy_stride,
        .ldb = op->x_stride,
        .ldc = op->inputs,
    };
    struct tr_product dx = {
        .add = op->add_dx,
        .m = op->samples,
        .n = op->inputs,
        .k = op->outputs,
        .a = op->dy,
        .b = op->w,
        .c = op->dx,
        .lda = op->dy_stride,
        .ldb = op->inputs,
        .ldc = op->dx_stride,
    };
    int err = tr_sgemm(backend->threads, &dw);
    return err || !op->dx ? err : tr_sgemm(backend->threads, &dx);
}

static int linear_backward(struct tr_backend *backend, const struct tr_linear_grad *op)
{
    if (op->db)
        tr_kernels_get()->bias_grad(op);
    return backend->rounded ? tr_rounded_backward(backend, op) : backward_products(backend, op);
}

static int dot_forward(struct tr_backend *backend, const struct tr_dot *op)
{
    (void)backend;
    tr_kernels_get()->dot_forward(op);
    return 0;
}

static int dot_backward(struct tr_backend *backend, const struct tr_dot_grad *op)
{
    (void)backend;
    tr_kernels_get()->dot_backward(op);
    return 0;
}

static int bce_forward(struct tr_backend *backend, struct tr_bce *op)
{
    return tr_backend_reference.bce_forward(backend, op);
}

static int bce_backward(struct tr_backend *backend, const struct tr_bce_grad *op)
{
    return tr_backend_reference.bce_backward(backend, op);
}

const struct tr_backend_ops tr_backend_onednn = {
    .name = "onednn",
    .prepare = prepare,
    .begin = begin,
    .release = release,
    .linear_forward = linear_forward,
    .linear_backward = linear_backward,
    .dot_forward = dot_forward,
    .dot_backward = dot_backward,
    .bce_forward = bce_forward,
    .bce_backward = bce_backward,
};
