/* tests/gpu/test_losses.c -- losses beside plain C. Both compute in float64: gradients that take no exponential have the same bits, scores and sums
 * differ by what exp() and the order of a sum do. */
#include <math.h>

#include "tests/gpu/bed.h"

#define LOGITS_MAX 40u
#define ROUNDING   1e-6, 1e-12
#define SUM        1e-12

static const uint32_t samples[] = {1, 37, 300, 70000};

struct common {
    uint32_t samples;
    struct bed_tensor label, weight;
    double *sum_at;
    bool weighted, add;
};

/* A step's share that is no power of 2. */
static const double per_sample = 1.0 / 300, scale = 0.7;

static struct common common_of(struct bed *bed, size_t r, uint32_t classes)
{
    struct common c = {.samples = samples[r], .weighted = r % 2, .add = r % 2};
    double poison = NAN;
    c.label = bed_fill(bed, c.samples, 0);
    for (uint32_t s = 0; s < c.samples; s++)
        c.label.host[s] = (float)bed_below(bed, classes);
    bed_upload(bed, c.label);
    c.weight = bed_random(bed, c.samples, 0, 2);
    bed_bytes(bed, &poison, sizeof poison, (void **)&c.sum_at);
    bed_set_now(bed, per_sample);
    return c;
}

static const float *weight_at(const struct common *c, int gpu)
{
    return !c->weighted ? NULL : gpu ? c->weight.device : c->weight.host;
}

static struct bed_tensor out(struct bed *bed, const struct common *c, size_t n)
{
    return c->add ? bed_random(bed, n, -1, 1) : bed_poison(bed, n);
}

static void compare_sum(struct bed *bed, const struct common *c, double truth)
{
    double sum = 0;
    bed_download(bed, &sum, c->sum_at, sizeof sum);
    bed_check(bed, fabs(sum - truth) <= SUM * fabs(truth) + SUM, "sum of %u: %.17g, want %.17g",
              c->samples, sum, truth);
}

static void test_bce(struct bed *bed)
{
    for (size_t r = 0; r < sizeof samples / sizeof samples[0]; r++) {
        struct common c = common_of(bed, r, 2);
        struct bed_tensor z = bed_random(bed, c.samples, -40, 40);
        struct bed_tensor score = bed_poison(bed, c.samples), dz = out(bed, &c, c.samples);
        struct tr_bce op = {c.samples, z.host, c.label.host, weight_at(&c, 0), score.host, 0, NULL};
        struct tr_bce_grad grad = {c.samples,          score.host, c.label.host, weight_at(&c, 0),
                                   scale * per_sample, dz.host,    c.add};
        bed_ok(bed, bed->truth.ops->bce_forward(&bed->truth, &op));
        bed_ok(bed, bed->truth.ops->bce_backward(&bed->truth, &grad));
        double truth = op.loss_sum;
        op = (struct tr_bce){c.samples,    z.device, c.label.device, weight_at(&c, 1),
                             score.device, 0,        c.sum_at};
        grad = (struct tr_bce_grad){c.samples, score.device, c.label.device, weight_at(&c, 1),
                                    scale,     dz.device,    c.add};
        bed_ok(bed, bed->gpu.ops->bce_forward(&bed->gpu, &op));
        bed_ok(bed, bed->gpu.ops->bce_backward(&bed->gpu, &grad));
        bed_compare(bed, "score", score, ROUNDING);
        bed_compare(bed, "dlogit", dz, ROUNDING);
        compare_sum(bed, &c, truth);
    }
}

static void product(struct bed *bed, size_t r, uint32_t n)
{
    struct common c = common_of(bed, r, 2);
    struct bed_tensor z[LOGITS_MAX], dz[LOGITS_MAX], score = bed_poison(bed, c.samples);
    bool add[LOGITS_MAX];
    double truth = 0;
    for (uint32_t i = 0; i < n; i++) {
        z[i] = bed_random(bed, c.samples, n == 2 ? 20 : -9, 50); /* some samples: all over 30 */
        add[i] = i % 2;
        dz[i] = add[i] ? bed_random(bed, c.samples, -1, 1) : bed_poison(bed, c.samples);
    }
    for (int gpu = 0; gpu < 2; gpu++) {
        struct tr_backend *backend = gpu ? &bed->gpu : &bed->truth;
        const float *logit[LOGITS_MAX];
        float *dlogit[LOGITS_MAX];
        for (uint32_t i = 0; i < n; i++) {
            logit[i] = gpu ? z[i].device : z[i].host;
            dlogit[i] = i == 2 ? NULL : gpu ? dz[i].device : dz[i].host;
        }
        struct tr_bce_product op = {.samples = c.samples, .n = n, .logit = logit};
        op.label = gpu ? c.label.device : c.label.host;
        op.weight = weight_at(&c, gpu);
        op.score = gpu ? score.device : score.host;
        op.sum_at = c.sum_at;
        struct tr_bce_product_grad grad = {.samples = c.samples, .n = n, .logit = logit};
        grad.label = op.label;
        grad.weight = op.weight;
        grad.scale = gpu ? scale : scale * per_sample;
        grad.dlogit = dlogit;
        grad.add = add;
        bed_ok(bed, backend->losses->bce_product_forward(backend, &op));
        bed_ok(bed, backend->losses->bce_product_backward(backend, &grad));
        truth = gpu ? truth : op.loss_sum;
    }
    bed_compare(bed, "score", score, ROUNDING);
    for (uint32_t i = 0; i < n; i++)
        bed_compare(bed, "dlogit", dz[i], ROUNDING);
    compare_sum(bed, &c, truth);
}

static void test_bce_product(struct bed *bed)
{
    product(bed, 0, 1);
    product(bed, 1, 2);
    product(bed, 2, 3);
    product(bed, 1, LOGITS_MAX);
}

static void test_mse(struct bed *bed)
{
    for (size_t r = 0; r < sizeof samples / sizeof samples[0]; r++) {
        struct common c = common_of(bed, r, 5);
        size_t stride = 1 + r;
        struct bed_tensor x = bed_random(bed, c.samples * stride, -9, 9);
        struct bed_tensor y = bed_poison(bed, c.samples), dx = out(bed, &c, c.samples * stride);
        double truth = 0;
        for (int gpu = 0; gpu < 2; gpu++) {
            struct tr_backend *backend = gpu ? &bed->gpu : &bed->truth;
            struct tr_mse op = {.samples = c.samples, .x_stride = stride, .sum_at = c.sum_at};
            op.x = gpu ? x.device : x.host;
            op.label = gpu ? c.label.device : c.label.host;
            op.weight = weight_at(&c, gpu);
            op.y = gpu ? y.device : y.host;
            struct tr_mse_grad grad = {.samples = c.samples, .x = op.x, .x_stride = stride};
            grad.label = op.label;
            grad.weight = op.weight;
            grad.scale = gpu ? scale : scale * per_sample;
            grad.dx = gpu ? dx.device : dx.host;
            grad.add = c.add;
            bed_ok(bed, backend->losses->mse_forward(backend, &op));
            bed_ok(bed, backend->losses->mse_backward(backend, &grad));
            truth = gpu ? truth : op.loss_sum;
        }
        bed_compare(bed, "y", y, 0, 0);
        bed_compare(bed, "dx", dx, 0, 0);
        compare_sum(bed, &c, truth);
    }
}

static void test_softmax_ce(struct bed *bed)
{
    static const uint32_t of[] = {1, 3, 33, 7};
    for (size_t r = 0; r < sizeof samples / sizeof samples[0]; r++) {
        struct common c = common_of(bed, r, of[r]);
        size_t stride = of[r] + r, n = c.samples * stride;
        struct bed_tensor x = bed_random(bed, n, -9, 9), y = bed_poison(bed, n);
        struct bed_tensor dx = out(bed, &c, n);
        struct tr_softmax softmax = {.samples = c.samples, .rows = 1, .columns = of[r]};
        softmax.x = x.host;
        softmax.y = y.host;
        softmax.x_stride = softmax.y_stride = stride;
        bed_ok(bed, bed->truth.loops->softmax_forward(&bed->truth, &softmax));
        bed_upload(bed, y);
        double truth = 0;
        for (int gpu = 0; gpu < 2; gpu++) {
            struct tr_backend *backend = gpu ? &bed->gpu : &bed->truth;
            struct tr_softmax_ce op = {.samples = c.samples, .classes = of[r]};
            op.x = gpu ? x.device : x.host;
            op.y = gpu ? y.device : y.host;
            op.label = gpu ? c.label.device : c.label.host;
            op.weight = weight_at(&c, gpu);
            op.x_stride = op.y_stride = stride;
            op.sum_at = c.sum_at;
            struct tr_softmax_ce_grad grad = {.samples = c.samples, .classes = of[r], .y = op.y};
            grad.label = op.label;
            grad.weight = op.weight;
            grad.y_stride = grad.dx_stride = stride;
            grad.scale = gpu ? scale : scale * per_sample;
            grad.dx = gpu ? dx.device : dx.host;
            grad.add = c.add;
            bed_ok(bed, backend->losses->softmax_ce_forward(backend, &op));
            bed_ok(bed, backend->losses->softmax_ce_backward(backend, &grad));
            truth = gpu ? truth : op.loss_sum;
        }
        bed_compare(bed, "dx", dx, ROUNDING);
        compare_sum(bed, &c, truth);
    }
}

int main(void)
{
    static const struct bed_test tests[] = {
        {"bce", test_bce},
        {"bce_product", test_bce_product},
        {"mse", test_mse},
        {"softmax_ce", test_softmax_ce},
    };
    return bed_main("losses", tests, sizeof tests / sizeof tests[0]);
}
