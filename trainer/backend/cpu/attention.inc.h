/* trainer/backend/cpu/attention.inc.h -- part of loops.inc.h: vectors of a sample mixed by weights, and attention. Included there, behind sums and
 * softmax.
 *
 * A head's keys (backward: values) are transposed once for all its rows, so that the products of a row with all others are
 * sums of whole rows: dim multiplications of a row each, where a product by itself would end in a sum across a register. */

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

/* to[c][r] = from[r][c]. */
static void transpose(const tr_real *from, size_t stride, uint32_t rows, uint32_t columns,
                      tr_real *to)
{
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < columns; c++)
            to[(size_t)c * rows + r] = from[r * stride + c];
}

/* y[r] = scale x . m[r], m transposed. */
static void products(const tr_real *x, const tr_real *transposed, uint32_t dim, uint32_t rows,
                     tr_real scale, tr_real *y)
{
    for (uint32_t c = 0; c < dim; c++)
        put_scaled(y, transposed + (size_t)c * rows, scale * x[c], rows, c > 0);
}

/* y = sum over r of weight[r] x[r]. */
static void mixture(const tr_real *weight, const tr_real *x, size_t stride, uint32_t rows,
                    uint32_t dim, tr_real *y)
{
    for (uint32_t r = 0; r < rows; r++)
        put_scaled(y, x + r * stride, weight[r], dim, r > 0);
}

static void head_forward(const struct tr_attention *op, size_t at, const tr_real *mask,
                         tr_real *share)
{
    size_t width = (size_t)op->heads * op->dim;
    transpose(op->k + at, width, op->rows, op->dim, op->scratch);
    for (uint32_t i = 0; i < op->rows; i++, share += op->rows) {
        products(op->q + at + i * width, op->scratch, op->dim, op->rows, op->scale, share);
        softmax_row(share, mask, op->rows, share);
        mixture(share, op->v + at, width, op->rows, op->dim, op->y + at + i * width);
    }
}

static int attention_forward(struct tr_backend *backend, const struct tr_attention *op)
{
    (void)backend;
    size_t width = (size_t)op->heads * op->dim, square = (size_t)op->rows * op->rows;
    for (uint32_t s = 0; s < op->samples; s++)
        for (uint32_t h = 0; h < op->heads; h++)
            head_forward(op, s * op->rows * width + (size_t)h * op->dim,
                         op->mask ? op->mask + s * op->mask_stride : NULL,
                         op->share + ((size_t)s * op->heads + h) * square);
    return 0;
}

/* With d[j] = dy[i] . v[j], the gradient at a product q[i] . k[j] is scale share[j] (d[j] - sum over all of share d). */
static void head_backward(const struct tr_attention_grad *op, size_t at, const tr_real *share)
{
    const struct tr_attention *of = &op->of;
    size_t width = (size_t)of->heads * of->dim;
    uint32_t rows = of->rows, dim = of->dim;
    tr_real *d = of->scratch + (size_t)rows * dim;
    transpose(of->v + at, width, rows, dim, of->scratch);
    for (uint32_t i = 0; i < rows; i++, share += rows) {
        const tr_real *q = of->q + at + i * width, *dy = op->dy + at + i * width;
        products(dy, of->scratch, dim, rows, 1, d);
        tr_real mean = product_of(share, d, rows);
        for (uint32_t j = 0; j < rows; j++)
            d[j] = of->scale * share[j] * (d[j] - mean);
        mixture(d, of->k + at, width, rows, dim, op->dq + at + i * width);
        for (uint32_t j = 0; j < rows; j++) {
            put_scaled(op->dk + at + j * width, q, d[j], dim, i > 0);
            put_scaled(op->dv + at + j * width, dy, share[j], dim, i > 0);
        }
    }
}

static int attention_backward(struct tr_backend *backend, const struct tr_attention_grad *op)
{
    const struct tr_attention *of = &op->of;
    (void)backend;
    size_t width = (size_t)of->heads * of->dim, square = (size_t)of->rows * of->rows;
    for (uint32_t s = 0; s < of->samples; s++)
        for (uint32_t h = 0; h < of->heads; h++)
            head_backward(op, s * of->rows * width + (size_t)h * of->dim,
                          of->share + ((size_t)s * of->heads + h) * square);
    return 0;
}

static int din_forward(struct tr_backend *backend, const struct tr_din *op)
{
    (void)backend;
    uint32_t dim = op->dim;
    tr_real *y = op->y;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *q = op->q + s * op->q_stride, *k = op->k + s * op->k_stride;
        for (uint32_t r = 0; r < op->rows; r++, k += dim, y += 4 * (size_t)dim) {
            memcpy(y, q, dim * sizeof *y);
            memcpy(y + dim, k, dim * sizeof *y);
            for (uint32_t d = 0; d < dim; d++) {
                y[2 * (size_t)dim + d] = q[d] - k[d];
                y[3 * (size_t)dim + d] = q[d] * k[d];
            }
        }
    }
    return 0;
}

/* dk = (or +=) its own part - that of q - k + that of q k, q times; dq, k times. */
static void din_row_grad(const tr_real *dy, const tr_real *factor, tr_real sign, uint32_t dim,
                         const tr_real *own, bool add, tr_real *dx)
{
    for (uint32_t d = 0; d < dim; d++)
        dx[d] = (add ? dx[d] : 0) + own[d] + sign * dy[2 * (size_t)dim + d] +
                dy[3 * (size_t)dim + d] * factor[d];
}

static int din_backward(struct tr_backend *backend, const struct tr_din_grad *op)
{
    const struct tr_din *of = &op->of;
    (void)backend;
    uint32_t dim = of->dim;
    const tr_real *dy = op->dy;
    for (uint32_t s = 0; s < of->samples; s++) {
        const tr_real *q = of->q + s * of->q_stride, *k = of->k + s * of->k_stride;
        tr_real *dq = op->dq ? op->dq + s * of->q_stride : NULL;
        tr_real *dk = op->dk ? op->dk + s * of->k_stride : NULL;
        for (uint32_t r = 0; r < of->rows; r++, k += dim, dy += 4 * (size_t)dim) {
            if (dq)
                din_row_grad(dy, k, 1, dim, dy, op->add_dq || r > 0, dq);
            if (dk)
                din_row_grad(dy, q, -1, dim, dy + dim, op->add_dk, dk + (size_t)r * dim);
        }
    }
    return 0;
}
