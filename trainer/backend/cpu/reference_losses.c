/* trainer/backend/cpu/reference_losses.c -- losses other than binary cross entropy of one logit: plain C, float64 within a
 * sample. A few numbers per sample and head; the layers before them decide how long a step takes. */
#include "trainer/backend/backend.h"

#include <math.h>

#define LOGIT_LARGE                                                                                \
    30 /* exp(-30) is below 1e-13: log(1 + x) is x, and expm1(x) is x, to the last bits of float32 */

static double weight_of(const tr_real *weight, uint32_t s)
{
    return weight ? weight[s] : 1;
}

static void put(tr_real *to, double value, bool add)
{
    *to = add ? *to + (tr_real)value : (tr_real)value;
}

/* ---- a product of probabilities ---- */

/* Of one sample: L = sum of softplus(-z[i]). Where all z are large L is `sum` x exp(-least). */
struct product {
    double least, sum, total; /* smallest z; sum of exp(least - z[i]); L */
};

static struct product product_of(const tr_real *const *logit, uint32_t n, uint32_t s)
{
    struct product p = {.least = logit[0][s]};
    for (uint32_t i = 1; i < n; i++)
        p.least = fmin(p.least, (double)logit[i][s]);
    for (uint32_t i = 0; i < n; i++) {
        double z = logit[i][s];
        p.sum += exp(p.least - z);
        p.total += (z < 0 ? -z : 0) + log1p(exp(-fabs(z)));
    }
    return p;
}

static double log_of_rest(const struct product *p)
{
    return p->least > LOGIT_LARGE ? log(p->sum) - p->least : log(-expm1(-p->total));
}

/* sigmoid(-z) p / (1 - p). */
static double share_of_rest(const struct product *p, double z)
{
    if (p->least > LOGIT_LARGE)
        return exp(p->least - z) / p->sum;
    return 1 / (1 + exp(z)) / expm1(p->total);
}

static int bce_product_forward(struct tr_backend *backend, struct tr_bce_product *op)
{
    (void)backend;
    double total = 0;
    for (uint32_t s = 0; s < op->samples; s++) {
        struct product p = product_of(op->logit, op->n, s);
        double y = op->label[s], loss = 0;
        loss += y > 0 ? y * p.total : 0;
        loss -= y < 1 ? (1 - y) * log_of_rest(&p) : 0;
        total += weight_of(op->weight, s) * loss;
        op->score[s] = (tr_real)exp(-p.total);
    }
    op->loss_sum = total;
    return 0;
}

static int bce_product_backward(struct tr_backend *backend, const struct tr_bce_product_grad *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        struct product p = product_of(op->logit, op->n, s);
        double y = op->label[s], scale = weight_of(op->weight, s) * op->scale;
        for (uint32_t i = 0; i < op->n; i++) {
            double z = op->logit[i][s];
            double g = (1 - y) * share_of_rest(&p, z) - y / (1 + exp(z));
            if (op->dlogit[i])
                put(&op->dlogit[i][s], scale * g, op->add[i]);
        }
    }
    return 0;
}

/* ---- squares ---- */

static int mse_forward(struct tr_backend *backend, struct tr_mse *op)
{
    (void)backend;
    double total = 0;
    for (uint32_t s = 0; s < op->samples; s++) {
        double off = (double)op->x[s * op->x_stride] - op->label[s];
        total += weight_of(op->weight, s) * off * off;
        op->y[s] = op->x[s * op->x_stride];
    }
    op->loss_sum = total;
    return 0;
}

static int mse_backward(struct tr_backend *backend, const struct tr_mse_grad *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        double off = (double)op->x[s * op->x_stride] - op->label[s];
        double g = 2 * off * weight_of(op->weight, s) * op->scale;
        put(&op->dx[s * op->x_stride], g, op->add);
    }
    return 0;
}

/* ---- classes ---- */

static int softmax_ce_forward(struct tr_backend *backend, struct tr_softmax_ce *op)
{
    (void)backend;
    double total = 0;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *x = op->x + s * op->x_stride, *y = op->y + s * op->y_stride;
        uint32_t most = 0, label = (uint32_t)op->label[s];
        for (uint32_t c = 1; c < op->classes; c++)
            most = x[c] > x[most] ? c : most;
        double loss = (double)x[most] - x[label] - log((double)y[most]);
        total += weight_of(op->weight, s) * loss;
    }
    op->loss_sum = total;
    return 0;
}

static int softmax_ce_backward(struct tr_backend *backend, const struct tr_softmax_ce_grad *op)
{
    (void)backend;
    for (uint32_t s = 0; s < op->samples; s++) {
        const tr_real *y = op->y + s * op->y_stride;
        tr_real *dx = op->dx + s * op->dx_stride;
        uint32_t label = (uint32_t)op->label[s];
        double scale = weight_of(op->weight, s) * op->scale;
        for (uint32_t c = 0; c < op->classes; c++)
            put(&dx[c], scale * ((double)y[c] - (c == label)), op->add);
    }
    return 0;
}

const struct tr_backend_losses tr_losses = {
    .bce_product_forward = bce_product_forward,
    .bce_product_backward = bce_product_backward,
    .mse_forward = mse_forward,
    .mse_backward = mse_backward,
    .softmax_ce_forward = softmax_ce_forward,
    .softmax_ce_backward = softmax_ce_backward,
};
