/* trainer/backend/cuda/linear.c -- linear_forward and linear_backward: which tensors a product takes, and what is part of it.
 *
 * DESIGN: bias and relu are the product's epilogue; where the library refuses that (it says so when it is asked for an algorithm),
 * every row of the output is set to the bias first and the product is added to it. gelu is erf's here, the library's is tanh's, so
 * all other activations are a pass of their own. The gradient of a bias is a by-product of dw where it is not added to, and where the
 * library has that for the type; else a column sum.
 * relu between two hidden tensors: forward keeps a bit per element, and the product that makes the gradient applies it, so that
 * tr_cuda_hidden_act_backward finds nothing left to do. Added to (several products read the hidden tensor), the mask is put off until
 * then: twice masked is as once. */
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "trainer/backend/cuda/operations.h"
#include "trainer/backend/cuda/products.h"

static bool is_half(const struct tr_backend *backend)
{
    return backend->precision == RT_DTYPE_BF16;
}

/* ---- forward ---- */

/* Where x w^T + b goes, and whether relu is part of it. */
struct target {
    struct tr_twin *twin; /* NULL: float32 */
    tr_real *y;
    size_t stride;
    bool relu;
};

static int forward_target(struct tr_backend *backend, const struct tr_linear *op,
                          struct target *out)
{
    *out = (struct target){.y = op->z ? op->z : op->y,
                           .stride = op->z ? op->z_stride : op->y_stride,
                           .relu = op->act == TR_ACT_RELU && !op->z};
    if (!is_half(backend) || !op->y_hidden || op->z)
        return 0;
    return tr_cuda_twin_for(backend, op->y, op->y_stride, op->samples, op->outputs, &out->twin);
}

static cublasLtEpilogue_t epilogue_of(bool bias, bool relu)
{
    if (bias)
        return relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
    return relu ? CUBLASLT_EPILOGUE_RELU : CUBLASLT_EPILOGUE_DEFAULT;
}

/* With relu's mask kept. TR_GEMM_NONE: the library does not. */
static int masked_product(struct tr_backend *backend, struct tr_gemm gemm, struct tr_twin *twin)
{
    struct tr_cuda_products *products = backend->cuda->products;
    int err = tr_twin_mask_room(backend->cuda, twin);
    gemm.epilogue |= CUBLASLT_EPILOGUE_RELU_AUX;
    gemm.mask = twin->mask;
    gemm.mask_ld = tr_gemm_mask_ld(gemm.n);
    if (!err)
        err = tr_gemm_run(products->gemms, &gemm);
    if (!err)
        twin->masked = products->pass;
    return err;
}

/* The library has no such epilogue: in steps. */
static int plain_product(struct tr_backend *backend, const struct tr_linear *op,
                         const struct target *to, struct tr_gemm gemm)
{
    int err = 0;
    gemm.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    gemm.vector = NULL;
    gemm.add = op->b != NULL;
    if (op->b && to->twin)
        err = tr_cuda_spread_halves(backend, op->b, tr_halves_of(to->twin, op->samples));
    else if (op->b)
        err = tr_cuda_spread_floats(backend, op->b, op->samples, op->outputs, to->y, to->stride);
    if (!err)
        err = tr_gemm_run(backend->cuda->products->gemms, &gemm);
    if (err || !to->relu)
        return err;
    struct tr_act relu = {.samples = op->samples,
                          .columns = op->outputs,
                          .kind = TR_ACT_RELU,
                          .x = to->y,
                          .x_stride = to->stride,
                          .y_stride = to->stride,
                          .y = to->y};
    return to->twin
               ? tr_cuda_act_halves(backend, TR_ACT_RELU, NULL, tr_halves_of(to->twin, op->samples))
               : tr_cuda_act_forward(backend, &relu);
}

static int forward_sides(struct tr_backend *backend, const struct tr_linear *op,
                         struct tr_gemm *gemm)
{
    struct tr_side w;
    struct tr_twin *x;
    if (!is_half(backend)) {
        gemm->a = op->x, gemm->lda = op->x_stride;
        gemm->b = op->w, gemm->ldb = op->inputs;
        return 0;
    }
    int err =
        tr_cuda_twin_of(backend, op->x, op->x_stride, op->samples, op->inputs, op->x_hidden, &x);
    if (!err)
        err = tr_cuda_half_weight(backend, op->w, op->outputs, op->inputs, &w);
    if (err)
        return err;
    gemm->a = x->half, gemm->lda = x->stride;
    gemm->b = w.at, gemm->ldb = w.ld;
    gemm->k = (uint32_t)x->stride; /* both have zeros beyond their columns */
    return 0;
}

static int forward_product(struct tr_backend *backend, const struct tr_linear *op,
                           const struct target *to)
{
    struct tr_cuda_products *products = backend->cuda->products;
    struct tr_side b = {op->b, 0};
    struct tr_gemm gemm = {
        .m = op->samples,
        .n = op->outputs,
        .k = op->inputs,
        .tb = true,
        .half = is_half(backend),
        .half_out = to->twin != NULL,
        .d = to->twin ? (void *)to->twin->half : to->y,
        .ldd = to->twin ? to->twin->stride : to->stride,
        .epilogue = epilogue_of(op->b != NULL, to->relu),
    };
    int err = forward_sides(backend, op, &gemm);
    if (!err && op->b && to->twin)
        err = tr_cuda_half_bias(backend, op->b, op->outputs, &b);
    if (err)
        return err;
    gemm.vector = (void *)(uintptr_t)b.at;
    err = to->twin && to->relu ? masked_product(backend, gemm, to->twin) : TR_GEMM_NONE;
    if (err == TR_GEMM_NONE)
        err = tr_gemm_run(products->gemms, &gemm);
    if (err == TR_GEMM_NONE)
        err = plain_product(backend, op, to, gemm);
    return err;
}

/* What is not part of the product. */
static int forward_act(struct tr_backend *backend, const struct tr_linear *op,
                       const struct target *to)
{
    struct tr_twin *twin;
    struct tr_act act = {.samples = op->samples,
                         .columns = op->outputs,
                         .kind = op->act,
                         .x = to->y,
                         .slope = op->slope,
                         .x_stride = to->stride,
                         .y_stride = op->y_stride,
                         .y = op->y};
    if (to->twin)
        return tr_cuda_act_halves(backend, op->act, op->slope, tr_halves_of(to->twin, op->samples));
    if (!is_half(backend) || !op->y_hidden)
        return tr_cuda_act_forward(backend, &act);
    int err = tr_cuda_twin_for(backend, op->y, op->y_stride, op->samples, op->outputs, &twin);
    return err ? err : tr_cuda_act_to_halves(backend, &act, tr_halves_of(twin, op->samples));
}

/* Nothing that the library cannot do is left: TR_GEMM_NONE of the plainest product. */
static int settle(struct tr_backend *backend, int err, uint32_t samples, uint32_t inputs,
                  uint32_t outputs)
{
    return err == TR_GEMM_NONE
               ? tr_cuda_fail(backend->cuda, RT_EBACKEND,
                              "cuBLASLt has no product for %u samples, %u inputs, %u outputs",
                              samples, inputs, outputs)
               : err;
}

int tr_cuda_linear_forward(struct tr_backend *backend, const struct tr_linear *op)
{
    struct tr_cuda_products *products;
    struct target to;
    int err = tr_cuda_products_get(backend, &products);
    if (!err)
        err = forward_target(backend, op, &to);
    if (!err)
        err = forward_product(backend, op, &to);
    bool done = to.relu || (op->act == TR_ACT_NONE && (to.twin || to.y == op->y));
    if (!err && !done)
        err = forward_act(backend, op, &to);
    return settle(backend, err, op->samples, op->inputs, op->outputs);
}

/* ---- backward ---- */

static int bias_grad(struct tr_backend *backend, const struct tr_linear_grad *op,
                     const struct tr_halves *dy)
{
    if (dy)
        return tr_cuda_sum_halves(backend, *dy, op->db, op->add_params);
    return tr_cuda_sum_floats(backend, op->dy, op->dy_stride, op->samples, op->outputs, op->db,
                              op->add_params);
}

/* dw = dy^T x, and db. */
static int weight_grad(struct tr_backend *backend, const struct tr_linear_grad *op,
                       const struct tr_halves *dy, const struct tr_twin *x)
{
    struct tr_gemms *gemms = backend->cuda->products->gemms;
    struct tr_gemm gemm = {
        .m = op->outputs,
        .n = op->inputs,
        .k = op->samples,
        .ta = true,
        .add = op->add_params,
        .half = dy != NULL,
        .a = dy ? (const void *)dy->at : op->dy,
        .b = x ? (const void *)x->half : op->x,
        .d = op->dw,
        .lda = dy ? dy->stride : op->dy_stride,
        .ldb = x ? x->stride : op->x_stride,
        .ldd = op->inputs,
        .epilogue = CUBLASLT_EPILOGUE_BGRADB,
        .vector = op->db,
    };
    int err = op->db && !op->add_params ? tr_gemm_run(gemms, &gemm) : TR_GEMM_NONE;
    if (err != TR_GEMM_NONE)
        return err;
    gemm.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    gemm.vector = NULL;
    err = tr_gemm_run(gemms, &gemm);
    return err || !op->db ? err : bias_grad(backend, op, dy);
}

/* With relu's gradient, where x is what relu made in this pass. TR_GEMM_NONE: without it. */
static int masked_grad(struct tr_backend *backend, struct tr_gemm gemm, const struct tr_twin *x,
                       struct tr_twin *dx)
{
    struct tr_cuda_products *products = backend->cuda->products;
    if (gemm.add || x->masked != products->pass)
        return TR_GEMM_NONE;
    gemm.epilogue = CUBLASLT_EPILOGUE_DRELU;
    gemm.mask = x->mask;
    gemm.mask_ld = tr_gemm_mask_ld(gemm.n);
    int err = tr_gemm_run(products->gemms, &gemm);
    if (!err)
        dx->settled = products->pass;
    return err;
}

/* dx = dy w */
static int input_grad(struct tr_backend *backend, const struct tr_linear_grad *op,
                      const struct tr_halves *dy, const struct tr_twin *x)
{
    struct tr_side w = {op->w, op->inputs};
    struct tr_twin *dx = NULL;
    int err = dy ? tr_cuda_half_weight(backend, op->w, op->outputs, op->inputs, &w) : 0;
    if (!err && dy && op->dx_hidden)
        err = tr_cuda_twin_for(backend, op->dx, op->dx_stride, op->samples, op->inputs, &dx);
    if (err)
        return err;
    struct tr_gemm gemm = {
        .m = op->samples,
        .n = op->inputs,
        .k = op->outputs,
        .add = op->add_dx,
        .half = dy != NULL,
        .half_out = dx != NULL,
        .a = dy ? (const void *)dy->at : op->dy,
        .b = w.at,
        .d = dx ? (void *)dx->half : op->dx,
        .lda = dy ? dy->stride : op->dy_stride,
        .ldb = w.ld,
        .ldd = dx ? dx->stride : op->dx_stride,
        .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
    };
    err = dx && op->x_hidden ? masked_grad(backend, gemm, x, dx) : TR_GEMM_NONE;
    return err == TR_GEMM_NONE ? tr_gemm_run(backend->cuda->products->gemms, &gemm) : err;
}

/* dy and x in bfloat16. */
static int half_backward(struct tr_backend *backend, const struct tr_linear_grad *op)
{
    struct tr_twin *x, *twin;
    struct tr_halves dy;
    int err =
        tr_cuda_twin_of(backend, op->x, op->x_stride, op->samples, op->inputs, op->x_hidden, &x);
    if (err)
        return err;
    if (op->dy_hidden) {
        err =
            tr_cuda_twin_of(backend, op->dy, op->dy_stride, op->samples, op->outputs, true, &twin);
        dy = err ? (struct tr_halves){0} : tr_halves_of(twin, op->samples);
    } else {
        err = tr_cuda_cast(backend, op->dy, op->dy_stride, op->samples, op->outputs, &dy);
    }
    if (!err)
        err = weight_grad(backend, op, &dy, x);
    return err || !op->dx ? err : input_grad(backend, op, &dy, x);
}

int tr_cuda_linear_backward(struct tr_backend *backend, const struct tr_linear_grad *op)
{
    struct tr_cuda_products *products;
    int err = tr_cuda_products_get(backend, &products);
    if (err)
        return err;
    if (is_half(backend)) {
        err = half_backward(backend, op);
    } else {
        err = weight_grad(backend, op, NULL, NULL);
        if (!err && op->dx)
            err = input_grad(backend, op, NULL, NULL);
    }
    return settle(backend, err, op->samples, op->inputs, op->outputs);
}

int tr_cuda_hidden_act_backward(struct tr_backend *backend, const struct tr_act_grad *op)
{
    struct tr_cuda_products *products;
    struct tr_twin *dy, *y = NULL;
    struct tr_halves from;
    if (!op->hidden || !is_half(backend))
        return TR_NOT_HIDDEN;
    int err = tr_cuda_products_get(backend, &products);
    if (!err)
        err = tr_cuda_twin_of(backend, op->dy, op->dy_stride, op->samples, op->columns, true, &dy);
    if (err || dy->settled == products->pass)
        return err;
    if (!tr_act_keeps_x(op->kind))
        err = tr_cuda_twin_of(backend, op->y, op->stride, op->samples, op->columns, true, &y);
    if (err)
        return err;
    if (y)
        from = tr_halves_of(y, op->samples);
    return tr_cuda_act_grad_halves(backend, op, y ? &from : NULL, tr_halves_of(dy, op->samples));
}
