/* trainer/backend/cpu/reference.c -- every operation in the plainest C: the truth that faster code
 * is compared with.
 *
 * Matrix products and sums over samples accumulate in float64 and round once, so the difference to
 * another backend is that backend's own rounding. The interaction accumulates in tr_real in a
 * stated order (ascending d, ascending j, multiply then add, never fused), which the vector code in
 * kernels.inc.h keeps: there both agree bit for bit. The loss is computed in float64 here and used
 * by both backends: it is a few exponentials a sample, nothing beside the products. */
#include <math.h>
#include <string.h>

#include "runtime/base/half.h"
#include "trainer/backend/backend.h"

/* The nearest bfloat16, ties to even; no finite value becomes infinity. */
static double nearest_bf16(tr_real value)
{
    float as_float = (float)value;
    uint32_t bits;
    if (!isfinite(as_float))
        return value;
    memcpy(&bits, &as_float, sizeof bits);
    uint32_t up = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    bits = (up & 0x7fffffff) < 0x7f800000 ? up : (bits & 0x80000000) | 0x7f7f0000;
    memcpy(&as_float, &bits, sizeof bits);
    return as_float;
}

/* What a product makes of a value. */
static inline double operand(const struct tr_backend *backend, tr_real value)
{
    return backend->precision == RT_DTYPE_BF16 ? nearest_bf16(value) : value;
}

static int ref_linear_forward(struct tr_backend *backend, const struct tr_linear *op)
{
    tr_real *z = op->z ? op->z : op->y;
    size_t z_stride = op->z ? op->z_stride : op->y_stride;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *x = op->x + s * op->x_stride;
        for (uint32_t o = 0; o < op->outputs; o++) {
            const tr_real *w = op->w + (size_t)o * op->inputs;
            double sum = op->b ? op->b[o] : 0;
            for (uint32_t i = 0; i < op->inputs; i++)
                sum += operand(backend, x[i]) * operand(backend, w[i]);
            z[s * z_stride + o] = (tr_real)sum;
        }
    }
    struct tr_act act = {
        .samples = op->samples,
        .columns = op->outputs,
        .kind = op->act,
        .x = z,
        .slope = op->slope,
        .x_stride = z_stride,
        .y_stride = op->y_stride,
        .y = op->y,
    };
    return op->act == TR_ACT_NONE ? 0 : backend->loops->act_forward(backend, &act);
}

static void ref_weight_grad(const struct tr_backend *backend, const struct tr_linear_grad *op)
{
    for (uint32_t o = 0; o < op->outputs; o++) {
        double bias = op->db && op->add_params ? op->db[o] : 0;
        for (uint32_t s = 0; s < op->samples; s++)
            bias += op->dy[s * op->dy_stride + o];
        if (op->db)
            op->db[o] = (tr_real)bias;
        for (uint32_t i = 0; i < op->inputs; i++) {
            tr_real *dw = &op->dw[(size_t)o * op->inputs + i];
            double sum = op->add_params ? *dw : 0;
            for (uint32_t s = 0; s < op->samples; s++)
                sum += operand(backend, op->dy[s * op->dy_stride + o]) *
                       operand(backend, op->x[s * op->x_stride + i]);
            *dw = (tr_real)sum;
        }
    }
}

static int ref_linear_backward(struct tr_backend *backend, const struct tr_linear_grad *op)
{
    ref_weight_grad(backend, op);
    if (!op->dx)
        return 0;
    for (uint32_t s = 0; s < op->samples; s++) {
        for (uint32_t i = 0; i < op->inputs; i++) {
            tr_real *dx = &op->dx[s * op->dx_stride + i];
            double sum = op->add_dx ? *dx : 0;
            for (uint32_t o = 0; o < op->outputs; o++)
                sum += operand(backend, op->dy[s * op->dy_stride + o]) *
                       operand(backend, op->w[(size_t)o * op->inputs + i]);
            *dx = (tr_real)sum;
        }
    }
    return 0;
}

static int ref_dot_forward(struct tr_backend *backend, const struct tr_dot *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        tr_real *y = op->y + s * op->y_stride;
        for (uint32_t i = 0; i < op->n; i++) {
            for (uint32_t j = op->self ? i : i + 1; j < op->n; j++) {
                tr_real sum = 0;
                for (uint32_t d = 0; d < op->dim; d++)
                    sum += op->x[i][s * op->x_stride[i] + d] * op->x[j][s * op->x_stride[j] + d];
                *y++ = sum;
            }
        }
    }
    return 0;
}

/* Position of the pair i < j among all; with self, i <= j. */
static size_t pair_index(const struct tr_dot_grad *op, uint32_t i, uint32_t j)
{
    size_t before = (size_t)i * op->n - (size_t)i * (i + 1) / 2 + (op->self ? i : 0);
    return before + (op->self ? j - i : j - i - 1);
}

static tr_real ref_dot_dx(const struct tr_dot_grad *op, uint32_t s, uint32_t i, uint32_t d)
{
    const tr_real *dy = op->dy + s * op->dy_stride;
    tr_real sum = 0;
    for (uint32_t j = 0; j < op->n; j++) {
        tr_real x = op->x[j][s * op->x_stride[j] + d];
        if (j != i)
            sum += dy[i < j ? pair_index(op, i, j) : pair_index(op, j, i)] * x;
        else if (op->self)
            sum += 2 * dy[pair_index(op, i, i)] * x;
    }
    return sum;
}

static int ref_dot_backward(struct tr_backend *backend, const struct tr_dot_grad *op)
{
    (void)backend;
    for (uint32_t i = 0; i < op->n; i++) {
        if (!op->dx[i])
            continue;
        for (uint32_t s = 0; s < op->samples; s++) {
            for (uint32_t d = 0; d < op->dim; d++) {
                tr_real *dx = &op->dx[i][s * op->x_stride[i] + d];
                tr_real sum = ref_dot_dx(op, s, i, d);
                *dx = op->add[i] ? *dx + sum : sum;
            }
        }
    }
    return 0;
}

static int ref_bce_forward(struct tr_backend *backend, struct tr_bce *op)
{
    (void)backend;
    double total = 0;
    for (uint32_t s = 0; s < op->samples; s++) {
        double z = op->logit[s], y = op->label[s], e = exp(-fabs(z));
        double loss = (z > 0 ? z : 0) - z * y + log1p(e);
        total += op->weight ? op->weight[s] * loss : loss;
        op->score[s] = (tr_real)(z >= 0 ? 1 / (1 + e) : e / (1 + e));
    }
    op->loss_sum = total;
    return 0;
}

static int ref_bce_backward(struct tr_backend *backend, const struct tr_bce_grad *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        double g = ((double)op->score[s] - op->label[s]) * op->scale;
        if (op->weight)
            g *= op->weight[s];
        op->dlogit[s] = op->add ? op->dlogit[s] + (tr_real)g : (tr_real)g;
    }
    return 0;
}

const struct tr_backend_ops tr_backend_reference = {
    .name = "reference",
    .linear_forward = ref_linear_forward,
    .linear_backward = ref_linear_backward,
    .dot_forward = ref_dot_forward,
    .dot_backward = ref_dot_backward,
    .bce_forward = ref_bce_forward,
    .bce_backward = ref_bce_backward,
};
