/* trainer/backend/cpu/onednn.c -- matrix products by oneDNN, the rest by our own kernels.
 *
 * DESIGN: dnnl_sgemm, oneDNN's JIT product on plain row-major matrices, and our loops for bias,
 * relu and bias gradient. Measured on a 2.6 GHz AVX-512 core, 4096 samples, 367 -> 256: sgemm forward
 * 8.0 ms, backward data 8.3, weights 9.4; matmul primitives with fused bias and relu 8.4, 10.1, 10.7;
 * inner-product primitives in their own weight layout 8.1, 10.1, 11.6 and a reorder a step.
 * sgemm needs no plan per batch size, so short last batches cost nothing extra. In slices of 128 samples
 * (model.c) it reaches 116 of the core's 133 GFLOP/s; 92 over 4096 samples at once.
 *
 * Threads: oneDNN runs on libgomp, whose thread count belongs to the calling thread; it is set at
 * each call because the step may run on another thread than the one that created the model. How its threads wait
 * is decided by OMP_WAIT_POLICY when the program is loaded (launch.sh).
 * This is the only file that calls oneDNN: its status becomes RT_EBACKEND here. */
#include <dnnl.h>
#include <omp.h>

#include "runtime/base/err.h"
#include "trainer/backend/cpu/kernels.h"

/* A product c[m][n] = a b (+ c when add); `ta` / `tb`: that operand is stored transposed. lda, ldb, ldc:
 * floats from one stored row to the next. */
struct product {
    bool ta, tb, add;
    dnnl_dim_t m, n, k;
    const float *a, *b;
    float *c;
    size_t lda, ldb, ldc;
};

static const char *status_name(dnnl_status_t status)
{
    switch (status) {
    case dnnl_out_of_memory:
        return "out of memory";
    case dnnl_invalid_arguments:
        return "invalid arguments";
    case dnnl_unimplemented:
        return "unimplemented";
    case dnnl_runtime_error:
        return "run-time error";
    default:
        return "failed";
    }
}

static int product_run(const struct tr_backend *backend, const struct product *p)
{
    omp_set_num_threads(backend->threads);
    dnnl_status_t status = dnnl_sgemm(p->ta ? 'T' : 'N', p->tb ? 'T' : 'N', p->m, p->n, p->k, 1.0f,
                                      p->a, (dnnl_dim_t)p->lda, p->b, (dnnl_dim_t)p->ldb,
                                      p->add ? 1.0f : 0.0f, p->c, (dnnl_dim_t)p->ldc);
    if (status != dnnl_success)
        return RT_FAIL(RT_EBACKEND, "oneDNN product [%lld][%lld] over %lld: %s (status %d)",
                       (long long)p->m, (long long)p->n, (long long)p->k, status_name(status),
                       (int)status);
    return 0;
}

/* What comes after the product, which is in z, or in y where z is not kept. */
static int finish_linear(struct tr_backend *backend, const struct tr_linear *op)
{
    struct tr_linear bias = *op;
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
    bias.y = op->z ? op->z : op->y;
    bias.y_stride = act.x_stride;
    bool fused = op->b && !op->z && (op->act == TR_ACT_NONE || op->act == TR_ACT_RELU);
    if (!fused)
        bias.act = TR_ACT_NONE;
    if (op->b)
        tr_kernels_get()->bias_act(&bias);
    if (fused || op->act == TR_ACT_NONE)
        return 0;
    return backend->loops->act_forward(backend, &act);
}

static int linear_forward(struct tr_backend *backend, const struct tr_linear *op)
{
    struct product xw = {
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
    int err = product_run(backend, &xw);
    return err ? err : finish_linear(backend, op);
}

static int linear_backward(struct tr_backend *backend, const struct tr_linear_grad *op)
{
    struct product dw = {
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
    int err = product_run(backend, &dw);
    if (err)
        return err;
    if (op->db)
        tr_kernels_get()->bias_grad(op);
    if (!op->dx)
        return 0;
    struct product dx = {
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
    return product_run(backend, &dx);
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
    .linear_forward = linear_forward,
    .linear_backward = linear_backward,
    .dot_forward = dot_forward,
    .dot_backward = dot_backward,
    .bce_forward = bce_forward,
    .bce_backward = bce_backward,
};
