/* trainer/backend/cpu/attention.inc.h -- part of loops.inc.h: vectors of a sample mixed by weights. Included there, behind sums and
 * softmax. */

static int mix_forward(struct tr_backend *backend, const struct tr_mix *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *weight = op->weight + s * op->weight_stride;
        tr_real *y = op->y + s * op->y_stride;
        for (uint32_t i = 0; i < op->n; i++)
            put_scaled(y, op->x[i] + s * op->x_stride[i], weight[i], op->dim, i > 0);
    }
    return 0;
}

static int mix_backward(struct tr_backend *backend, const struct tr_mix_grad *op)
{
    const struct tr_mix *of = &op->of;
    (void)backend;
    for (uint32_t s = 0; s < of->samples; s++) {
        const tr_real *weight = of->weight + s * of->weight_stride,
                      *dy = op->dy + s * op->dy_stride;
        tr_real *dweight = op->dweight + s * of->weight_stride;
        for (uint32_t i = 0; i < of->n; i++) {
            size_t at = s * of->x_stride[i];
            dweight[i] = product_of(dy, of->x[i] + at, of->dim);
            if (op->dx[i])
                put_scaled(op->dx[i] + at, dy, weight[i], of->dim, op->add[i]);
        }
    }
    return 0;
}
