/* trainer/backend/cpu/moments.inc.h -- part of loops.inc.h: what looks at a column over all samples. Included there.
 *
 * A block of columns at a time goes over all rows, in their order, with one sum for each column: no sum crosses lanes. Blocks are
 * wide, so that memory is read in long runs, and their sums stay in the first cache. Batches are thousands of rows, so sums are
 * float64. */

#define BLOCK 256u /* columns */

/* Row k of all, from column `first` on. */
static inline size_t row_at(size_t k, uint32_t rows, uint32_t columns, size_t stride,
                            uint32_t first)
{
    return k / rows * stride + k % rows * columns + first;
}

static void block_moments(const struct tr_moments *op, uint32_t first, uint32_t n)
{
    size_t count = (size_t)op->samples * op->rows;
    double sum[BLOCK] = {0}, square[BLOCK] = {0};
    tr_real *mean = op->mean + first;
    for (size_t k = 0; k < count; k++) {
        const tr_real *x = op->x + row_at(k, op->rows, op->columns, op->x_stride, first);
        for (uint32_t c = 0; c < n; c++)
            sum[c] += (double)x[c];
    }
    for (uint32_t c = 0; c < n; c++)
        mean[c] = (tr_real)(sum[c] / (double)count);
    for (size_t k = 0; k < count; k++) {
        const tr_real *x = op->x + row_at(k, op->rows, op->columns, op->x_stride, first);
        for (uint32_t c = 0; c < n; c++) {
            double off = (double)(x[c] - mean[c]);
            square[c] += off * off;
        }
    }
    for (uint32_t c = 0; c < n; c++)
        op->variance[first + c] = (tr_real)(square[c] / (double)count);
}

static int moments(struct tr_backend *backend, const struct tr_moments *op)
{
    (void)backend;
    for (uint32_t first = 0; first < op->columns; first += BLOCK)
        block_moments(op, first, at_most(op->columns - first, BLOCK));
    return 0;
}

static int batchnorm_forward(struct tr_backend *backend, const struct tr_batchnorm *op)
{
    (void)backend;
    for (size_t k = 0; k < (size_t)op->samples * op->rows; k++) {
        const tr_real *x = op->x + row_at(k, op->rows, op->columns, op->x_stride, 0);
        tr_real *y = op->y + row_at(k, op->rows, op->columns, op->y_stride, 0);
        for (uint32_t c = 0; c < op->columns; c++)
            y[c] = (x[c] - op->mean[c]) * op->inverse[c] * op->w[c] + op->b[c];
    }
    return 0;
}

/* sum = (or +=) the float64 sums. */
static void put_sums(tr_real *sum, const double *part, uint32_t n, bool add)
{
    for (uint32_t c = 0; c < n; c++)
        sum[c] = (add ? sum[c] : 0) + (tr_real)part[c];
}

/* With h = (x - mean) inverse: dx = w inverse (dy - mean of dy - h mean of dy h). */
static void block_batchnorm_grad(const struct tr_batchnorm_grad *op, uint32_t first, uint32_t n)
{
    size_t count = (size_t)op->samples * op->rows;
    const tr_real *mean = op->mean + first, *inverse = op->inverse + first, *w = op->w + first;
    double sum[BLOCK] = {0}, along[BLOCK] = {0};
    tr_real level[BLOCK], slope[BLOCK];
    for (size_t k = 0; k < count; k++) {
        const tr_real *x = op->x + row_at(k, op->rows, op->columns, op->x_stride, first);
        const tr_real *dy = op->dy + row_at(k, op->rows, op->columns, op->dy_stride, first);
        for (uint32_t c = 0; c < n; c++) {
            sum[c] += (double)dy[c];
            along[c] += (double)(dy[c] * ((x[c] - mean[c]) * inverse[c]));
        }
    }
    put_sums(op->db + first, sum, n, op->add_params);
    put_sums(op->dw + first, along, n, op->add_params);
    for (uint32_t c = 0; c < n; c++) {
        level[c] = (tr_real)(sum[c] / (double)count);
        slope[c] = (tr_real)(along[c] / (double)count);
    }
    for (size_t k = 0; op->dx && k < count; k++) {
        const tr_real *x = op->x + row_at(k, op->rows, op->columns, op->x_stride, first);
        const tr_real *dy = op->dy + row_at(k, op->rows, op->columns, op->dy_stride, first);
        tr_real *dx = op->dx + row_at(k, op->rows, op->columns, op->dx_stride, first);
        for (uint32_t c = 0; c < n; c++) {
            tr_real h = (x[c] - mean[c]) * inverse[c];
            tr_real d = (dy[c] - level[c] - h * slope[c]) * (inverse[c] * w[c]);
            dx[c] = op->add ? dx[c] + d : d;
        }
    }
}

static int batchnorm_backward(struct tr_backend *backend, const struct tr_batchnorm_grad *op)
{
    (void)backend;
    for (uint32_t first = 0; first < op->columns; first += BLOCK)
        block_batchnorm_grad(op, first, at_most(op->columns - first, BLOCK));
    return 0;
}

static int dice_forward(struct tr_backend *backend, const struct tr_dice *op)
{
    (void)backend;
    for (size_t k = 0; k < (size_t)op->samples * op->rows; k++) {
        const tr_real *x = op->x + row_at(k, op->rows, op->columns, op->x_stride, 0);
        tr_real *y = op->y + row_at(k, op->rows, op->columns, op->y_stride, 0);
        tr_real *p = op->p + k * op->columns;
        for (uint32_t c = 0; c < op->columns; c++)
            p[c] = sigmoid((x[c] - op->mean[c]) * op->inverse[c]);
        for (uint32_t c = 0; c < op->columns; c++)
            y[c] = (p[c] + (1 - p[c]) * op->alpha[c]) * x[c];
    }
    return 0;
}

/* With h = (x - mean) inverse and g = dy x (1 - alpha) p (1 - p), the gradient at h:
 * dx = dy (p + (1 - p) alpha) + inverse (g - mean of g - h mean of g h). */
static void block_dice_grad(const struct tr_dice_grad *op, uint32_t first, uint32_t n)
{
    size_t count = (size_t)op->samples * op->rows;
    const tr_real *mean = op->mean + first, *inverse = op->inverse + first;
    const tr_real *alpha = op->alpha + first;
    double sum[BLOCK] = {0}, along[BLOCK] = {0}, below[BLOCK] = {0};
    tr_real level[BLOCK], slope[BLOCK];
    for (size_t k = 0; k < count; k++) {
        const tr_real *x = op->x + row_at(k, op->rows, op->columns, op->x_stride, first);
        const tr_real *dy = op->dy + row_at(k, op->rows, op->columns, op->dy_stride, first);
        const tr_real *p = op->p + k * op->columns + first;
        for (uint32_t c = 0; c < n; c++) {
            tr_real rest = dy[c] * x[c] * (1 - p[c]), g = rest * (1 - alpha[c]) * p[c];
            below[c] += (double)rest;
            sum[c] += (double)g;
            along[c] += (double)(g * ((x[c] - mean[c]) * inverse[c]));
        }
    }
    put_sums(op->dalpha + first, below, n, op->add_params);
    for (uint32_t c = 0; c < n; c++) {
        level[c] = (tr_real)(sum[c] / (double)count);
        slope[c] = (tr_real)(along[c] / (double)count);
    }
    for (size_t k = 0; k < count; k++) {
        const tr_real *x = op->x + row_at(k, op->rows, op->columns, op->x_stride, first);
        const tr_real *p = op->p + k * op->columns + first;
        tr_real *dy = op->dy + row_at(k, op->rows, op->columns, op->dy_stride, first);
        for (uint32_t c = 0; c < n; c++) {
            tr_real h = (x[c] - mean[c]) * inverse[c];
            tr_real g = dy[c] * x[c] * (1 - p[c]) * (1 - alpha[c]) * p[c];
            dy[c] =
                dy[c] * (p[c] + (1 - p[c]) * alpha[c]) + inverse[c] * (g - level[c] - h * slope[c]);
        }
    }
}

static int dice_backward(struct tr_backend *backend, const struct tr_dice_grad *op)
{
    (void)backend;
    for (uint32_t first = 0; first < op->columns; first += BLOCK)
        block_dice_grad(op, first, at_most(op->columns - first, BLOCK));
    return 0;
}

/* ---- what a norm is made with, and what it brings ---- */

static int norm_take(struct tr_backend *backend, const struct tr_norm_take *op)
{
    (void)backend;
    for (uint32_t c = 0; op->running_mean && c < op->columns; c++) {
        op->mean[c] = op->running_mean[c];
        op->variance[c] = op->running_variance[c];
    }
    for (uint32_t c = 0; c < op->columns; c++) /* of a file: any */
        op->inverse[c] = (tr_real)(1 / sqrt(fmax((double)op->variance[c], 0.0) + op->eps));
    return 0;
}

static int norm_bring(struct tr_backend *backend, const struct tr_norm_bring *op)
{
    (void)backend;
    double rows = op->rows, share = op->share;
    for (uint32_t c = 0; c < op->columns; c++) {
        double ahead = (double)op->mean[c] - (double)op->running_mean[c];
        double wider = op->variance[c] * (rows / (rows - 1)) - (double)op->running_variance[c];
        op->dmean[c] = rows > 1 ? (tr_real)(share * ahead) : 0;
        op->dvariance[c] = rows > 1 ? (tr_real)(share * wider) : 0;
    }
    return 0;
}
