/* trainer/backend/cuda/losses.cu -- the losses: a few numbers per sample and head, and their sum.
 *
 * As the truth (cpu/reference_losses.c) all is float64 within a sample: of a batch these are thousands of exponentials beside the
 * billions of multiplications of its products, and loss and gradients are to be as good as those. Sums: each block adds its samples in
 * float64, a thread's one after the other and then along a tree, and a single block adds what the blocks had; the samples alone decide
 * who adds what. What `sum_at` had is overwritten.
 *
 * Memory moved: once each of logits, labels, weights, scores; 65,536 samples are 1 MB of it, so a loss costs what its two launches cost. */
#include "trainer/backend/cuda/kernel.h"

#include "runtime/base/err.h"

#define PARTS_MAX 256u
#define WARPS     (TR_BLOCK / TR_WARP)
#define LOGIT_LARGE                                                                                \
    30.0 /* exp(-30) is below 1e-13: log(1 + x) is x, and expm1(x) is x, to the last bits of float32 */

static __device__ __forceinline__ double weight_of(const float *weight, uint32_t s)
{
    return weight ? (double)weight[s] : 1.0;
}

static __device__ __forceinline__ void put(float *to, double value, bool add)
{
    *to = add ? *to + (float)value : (float)value;
}

/* `scale` of a backward is without 1 / global samples where the device knows that. */
static __device__ __forceinline__ double scale_now(double scale, const struct tr_now *now)
{
    return now ? scale * now->per_sample : scale;
}

/* ---- sums ---- */

static __device__ __forceinline__ void put_part(double *part, double mine)
{
    double sum = tr_block_sum(mine);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

static __global__ void add_parts(const double *part, uint32_t n, double *sum_at)
{
    double sum = tr_block_sum(threadIdx.x < n ? part[threadIdx.x] : 0.0);
    if (threadIdx.x == 0)
        *sum_at = sum;
}

static_assert(PARTS_MAX <= TR_BLOCK, "add_parts: a thread for each");

static uint32_t parts_of(uint32_t samples, uint32_t per_block)
{
    uint32_t parts = tr_blocks(samples, per_block);
    return parts < PARTS_MAX ? parts : PARTS_MAX;
}

static double *part_memory(struct tr_backend *backend)
{
    return (double *)tr_cuda_scratch(backend->cuda, PARTS_MAX * sizeof(double));
}

static int finish_sum(struct tr_backend *backend, const double *part, uint32_t parts,
                      double *sum_at, const char *what)
{
    TR_LAUNCH(add_parts, 1, TR_BLOCK, backend->cuda->compute, part, parts, sum_at);
    return tr_cuda_launched(backend, what);
}

/* ---- binary cross entropy ---- */

static __global__ void bce_kernel(struct tr_bce op, double *part)
{
    double sum = 0;
    for (uint32_t s = blockIdx.x * blockDim.x + threadIdx.x; s < op.samples;
         s += gridDim.x * blockDim.x) {
        double z = op.logit[s], y = op.label[s], e = exp(-fabs(z));
        double loss = (z > 0 ? z : 0) - z * y + log1p(e);
        sum += weight_of(op.weight, s) * loss;
        op.score[s] = (float)(z >= 0 ? 1 / (1 + e) : e / (1 + e));
    }
    put_part(part, sum);
}

static __global__ void bce_grad_kernel(struct tr_bce_grad op, const struct tr_now *now)
{
    uint32_t s = blockIdx.x * blockDim.x + threadIdx.x;
    if (s >= op.samples)
        return;
    double g = ((double)op.score[s] - op.label[s]) * scale_now(op.scale, now);
    put(&op.dlogit[s], g * weight_of(op.weight, s), op.add);
}

/* ---- a product of probabilities ---- */

template <uint32_t N> struct logits {
    const float *logit[N];
    float *dlogit[N];
    uint8_t add[N];
};

/* Of one sample: L = sum of softplus(-z[i]). Where all z are large L is `sum` x exp(-least). */
struct product {
    double least, sum, total; /* smallest z; sum of exp(least - z[i]); L */
};

template <uint32_t N>
static __device__ __forceinline__ struct product product_of(const logits<N> &list, uint32_t n,
                                                            uint32_t s)
{
    struct product p = {(double)list.logit[0][s], 0, 0};
    for (uint32_t i = 1; i < n; i++)
        p.least = fmin(p.least, (double)list.logit[i][s]);
    for (uint32_t i = 0; i < n; i++) {
        double z = list.logit[i][s];
        p.sum += exp(p.least - z);
        p.total += (z < 0 ? -z : 0) + log1p(exp(-fabs(z)));
    }
    return p;
}

static __device__ __forceinline__ double log_of_rest(const struct product &p)
{
    return p.least > LOGIT_LARGE ? log(p.sum) - p.least : log(-expm1(-p.total));
}

/* sigmoid(-z) p / (1 - p). */
static __device__ __forceinline__ double share_of_rest(const struct product &p, double z)
{
    return p.least > LOGIT_LARGE ? exp(p.least - z) / p.sum : 1 / (1 + exp(z)) / expm1(p.total);
}

template <uint32_t N>
static __global__ void product_kernel(logits<N> list, struct tr_bce_product op, double *part)
{
    double sum = 0;
    for (uint32_t s = blockIdx.x * blockDim.x + threadIdx.x; s < op.samples;
         s += gridDim.x * blockDim.x) {
        struct product p = product_of(list, op.n, s);
        double y = op.label[s], loss = 0;
        loss += y > 0 ? y * p.total : 0;
        loss -= y < 1 ? (1 - y) * log_of_rest(p) : 0;
        sum += weight_of(op.weight, s) * loss;
        op.score[s] = (float)exp(-p.total);
    }
    put_part(part, sum);
}

template <uint32_t N>
static __global__ void product_grad_kernel(logits<N> list, struct tr_bce_product_grad op,
                                           const struct tr_now *now)
{
    uint32_t s = blockIdx.x * blockDim.x + threadIdx.x;
    if (s >= op.samples)
        return;
    struct product p = product_of(list, op.n, s);
    double y = op.label[s], scale = weight_of(op.weight, s) * scale_now(op.scale, now);
    for (uint32_t i = 0; i < op.n; i++) {
        double z = list.logit[i][s];
        double g = (1 - y) * share_of_rest(p, z) - y / (1 + exp(z));
        if (list.dlogit[i])
            put(&list.dlogit[i][s], scale * g, list.add[i]);
    }
}

/* ---- squares ---- */

static __global__ void mse_kernel(struct tr_mse op, double *part)
{
    double sum = 0;
    for (uint32_t s = blockIdx.x * blockDim.x + threadIdx.x; s < op.samples;
         s += gridDim.x * blockDim.x) {
        float x = op.x[s * op.x_stride];
        double off = (double)x - op.label[s];
        sum += weight_of(op.weight, s) * off * off;
        op.y[s] = x;
    }
    put_part(part, sum);
}

static __global__ void mse_grad_kernel(struct tr_mse_grad op, const struct tr_now *now)
{
    uint32_t s = blockIdx.x * blockDim.x + threadIdx.x;
    if (s >= op.samples)
        return;
    double off = (double)op.x[s * op.x_stride] - op.label[s];
    double g = 2 * off * weight_of(op.weight, s) * scale_now(op.scale, now);
    put(&op.dx[s * op.x_stride], g, op.add);
}

/* ---- classes: a warp per sample ---- */

/* y is largest where x is, so y there needs no index. */
static __global__ void softmax_ce_kernel(struct tr_softmax_ce op, double *part)
{
    uint32_t lane = threadIdx.x % TR_WARP, warp = threadIdx.x / TR_WARP;
    double sum = 0;
    for (uint32_t s = blockIdx.x * WARPS + warp; s < op.samples; s += gridDim.x * WARPS) {
        const float *x = op.x + s * op.x_stride, *y = op.y + s * op.y_stride;
        float most = x[0], share = 0;
        for (uint32_t c = lane; c < op.classes; c += TR_WARP) {
            most = x[c] > most ? x[c] : most;
            share = y[c] > share ? y[c] : share;
        }
        most = tr_warp_max(most);
        share = tr_warp_max(share);
        double loss = (double)most - x[(uint32_t)op.label[s]] - log((double)share);
        if (lane == 0)
            sum += weight_of(op.weight, s) * loss;
    }
    put_part(part, sum);
}

static __global__ void softmax_ce_grad_kernel(struct tr_softmax_ce_grad op,
                                              const struct tr_now *now)
{
    uint32_t s = blockIdx.x * WARPS + threadIdx.x / TR_WARP;
    if (s >= op.samples)
        return;
    const float *y = op.y + s * op.y_stride;
    float *dx = op.dx + s * op.dx_stride;
    uint32_t label = (uint32_t)op.label[s];
    double scale = weight_of(op.weight, s) * scale_now(op.scale, now);
    for (uint32_t c = threadIdx.x % TR_WARP; c < op.classes; c += TR_WARP)
        put(&dx[c], scale * ((double)y[c] - (c == label ? 1 : 0)), op.add);
}

/* ---- operations ---- */

extern "C" int tr_cuda_bce_forward(struct tr_backend *backend, struct tr_bce *op)
{
    uint32_t parts = parts_of(op->samples, TR_BLOCK);
    double *part = part_memory(backend);
    if (!part)
        return RT_EBACKEND;
    if (parts > 0)
        TR_LAUNCH(bce_kernel, parts, TR_BLOCK, backend->cuda->compute, *op, part);
    return finish_sum(backend, part, parts, op->sum_at, "bce_forward");
}

extern "C" int tr_cuda_bce_backward(struct tr_backend *backend, const struct tr_bce_grad *op)
{
    if (op->samples > 0)
        TR_LAUNCH(bce_grad_kernel, tr_blocks(op->samples, TR_BLOCK), TR_BLOCK,
                  backend->cuda->compute, *op, backend->now);
    return tr_cuda_launched(backend, "bce_backward");
}

template <uint32_t N>
static void fill(logits<N> *list, uint32_t n, const float *const *logit, float *const *dlogit,
                 const bool *add)
{
    for (uint32_t i = 0; i < n; i++) {
        list->logit[i] = logit[i];
        list->dlogit[i] = dlogit ? dlogit[i] : NULL;
        list->add[i] = add && add[i];
    }
}

#define LOGITS_MAX 128u

extern "C" int tr_cuda_bce_product_forward(struct tr_backend *backend, struct tr_bce_product *op)
{
    uint32_t parts = parts_of(op->samples, TR_BLOCK);
    double *part = part_memory(backend);
    logits<LOGITS_MAX> list = {};
    if (!part)
        return RT_EBACKEND;
    if (op->n > LOGITS_MAX)
        return tr_cuda_fail(backend->cuda, RT_EBACKEND, "bce_product: of %u logits, at most %u",
                            op->n, LOGITS_MAX);
    fill(&list, op->n, op->logit, NULL, NULL);
    if (parts > 0)
        TR_LAUNCH(product_kernel<LOGITS_MAX>, parts, TR_BLOCK, backend->cuda->compute, list, *op,
                  part);
    return finish_sum(backend, part, parts, op->sum_at, "bce_product_forward");
}

extern "C" int tr_cuda_bce_product_backward(struct tr_backend *backend,
                                            const struct tr_bce_product_grad *op)
{
    logits<LOGITS_MAX> list = {};
    if (op->n > LOGITS_MAX)
        return tr_cuda_fail(backend->cuda, RT_EBACKEND, "bce_product: of %u logits, at most %u",
                            op->n, LOGITS_MAX);
    fill(&list, op->n, op->logit, op->dlogit, op->add);
    if (op->samples > 0)
        TR_LAUNCH(product_grad_kernel<LOGITS_MAX>, tr_blocks(op->samples, TR_BLOCK), TR_BLOCK,
                  backend->cuda->compute, list, *op, backend->now);
    return tr_cuda_launched(backend, "bce_product_backward");
}

extern "C" int tr_cuda_mse_forward(struct tr_backend *backend, struct tr_mse *op)
{
    uint32_t parts = parts_of(op->samples, TR_BLOCK);
    double *part = part_memory(backend);
    if (!part)
        return RT_EBACKEND;
    if (parts > 0)
        TR_LAUNCH(mse_kernel, parts, TR_BLOCK, backend->cuda->compute, *op, part);
    return finish_sum(backend, part, parts, op->sum_at, "mse_forward");
}

extern "C" int tr_cuda_mse_backward(struct tr_backend *backend, const struct tr_mse_grad *op)
{
    if (op->samples > 0)
        TR_LAUNCH(mse_grad_kernel, tr_blocks(op->samples, TR_BLOCK), TR_BLOCK,
                  backend->cuda->compute, *op, backend->now);
    return tr_cuda_launched(backend, "mse_backward");
}

extern "C" int tr_cuda_softmax_ce_forward(struct tr_backend *backend, struct tr_softmax_ce *op)
{
    uint32_t parts = parts_of(op->samples, WARPS);
    double *part = part_memory(backend);
    if (!part)
        return RT_EBACKEND;
    if (parts > 0)
        TR_LAUNCH(softmax_ce_kernel, parts, TR_BLOCK, backend->cuda->compute, *op, part);
    return finish_sum(backend, part, parts, op->sum_at, "softmax_ce_forward");
}

extern "C" int tr_cuda_softmax_ce_backward(struct tr_backend *backend,
                                           const struct tr_softmax_ce_grad *op)
{
    if (op->samples > 0)
        TR_LAUNCH(softmax_ce_grad_kernel, tr_blocks(op->samples, WARPS), TR_BLOCK,
                  backend->cuda->compute, *op, backend->now);
    return tr_cuda_launched(backend, "softmax_ce_backward");
}
