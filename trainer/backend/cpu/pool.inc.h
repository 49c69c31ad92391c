/* trainer/backend/cpu/pool.inc.h -- rows of a sample pooled by a mask, and rows set to zero; part of loops.inc.h. */

/* What each row of a sample counts for, besides the mask. */
static inline tr_real pool_scale(bool mean, const tr_real *mask, uint32_t rows)
{
    tr_real sum = 0;
    if (!mean)
        return 1;
    for (uint32_t r = 0; r < rows; r++)
        sum += mask[r];
    return sum > 0 ? 1 / sum : 0;
}

static int masked_pool_forward(struct tr_backend *backend, const struct tr_masked_pool *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *mask = op->mask + s * op->mask_stride, *x = op->x + s * op->x_stride;
        tr_real *y = op->y + s * op->y_stride, scale = pool_scale(op->mean, mask, op->rows);
        memset(y, 0, op->dim * sizeof *y);
        for (uint32_t r = 0; r < op->rows; r++, x += op->dim)
            for (uint32_t d = 0; mask[r] != 0 && d < op->dim; d++)
                y[d] += mask[r] * x[d];
        for (uint32_t d = 0; d < op->dim; d++)
            y[d] *= scale;
    }
    return 0;
}

static int masked_pool_backward(struct tr_backend *backend, const struct tr_masked_pool_grad *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *mask = op->mask + s * op->mask_stride, *dy = op->dy + s * op->dy_stride;
        tr_real *dx = op->dx + s * op->dx_stride, scale = pool_scale(op->mean, mask, op->rows);
        for (uint32_t r = 0; r < op->rows; r++, dx += op->dim)
            for (uint32_t d = 0; d < op->dim; d++)
                dx[d] = (op->add ? dx[d] : 0) + scale * mask[r] * dy[d];
    }
    return 0;
}

static int clear(struct tr_backend *backend, const struct tr_clear *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++)
        memset(op->y + s * op->y_stride, 0, op->width * sizeof *op->y);
    return 0;
}
