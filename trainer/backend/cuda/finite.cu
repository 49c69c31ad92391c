/* trainer/backend/cuda/finite.cu -- is a step finite? trainer/model/settle.c on the device.
 *
 * A magnitude as bits without its sign is ordered as the number is, with infinity and NaN above all: so one integer maximum answers whether
 * all are within a limit. Of features it is kept for each 128 samples, since the first of them other than 0 chooses the scale of
 * float16 (features.cu): so their gradients are read once for both. Three launches: losses, which also clears what the others set;
 * features, a block for each 128 samples of one; parameters, a block for each chunk. Who finds something writes a flag; nobody reads before all are done.
 * Bytes moved: 4 per gradient. */
#include "trainer/backend/cuda/step.h"

#include <float.h>
#include <math.h>

#include "runtime/base/err.h"
#include "trainer/backend/cuda/vectors.h"

#define SAMPLES 128u /* whose largest gradient is kept: TR_SLICE_SAMPLES of trainer/model/build.h */

int tr_cuda_gradients_init(struct tr_cuda *cuda, const struct tr_cuda_gradient *of,
                           struct tr_cuda_gradients *gradients)
{
    uint32_t n = gradients->n;
    size_t table = n * sizeof *of;
    gradients->chunks = (gradients->samples_max + SAMPLES - 1) / SAMPLES;
    gradients->outcome_bytes = sizeof *gradients->outcome + n * (sizeof(uint32_t) + sizeof(float));
    gradients->width_max = 0;
    gradients->limit = gradients->limit > 0 ? gradients->limit : FLT_MAX;
    gradients->gradient_max = gradients->gradient_max > 0 ? gradients->gradient_max : FLT_MAX;
    for (uint32_t i = 0; i < n; i++) {
        if ((uintptr_t)of[i].grad % 16)
            return tr_cuda_fail(cuda, RT_EBACKEND, "gradients of feature %u are not aligned", i);
        gradients->width_max = max(gradients->width_max, of[i].width);
    }
    int err = tr_cuda_alloc(cuda, table, "features' gradients", (void **)&gradients->of);
    if (!err)
        err = tr_cuda_alloc(cuda, (size_t)n * gradients->chunks * sizeof(uint32_t),
                            "features' magnitudes", (void **)&gradients->magnitude);
    if (!err)
        err = tr_cuda_alloc(cuda, gradients->outcome_bytes, "what came of gradients",
                            (void **)&gradients->outcome);
    if (err)
        return err;
    gradients->unfit = (uint32_t *)(gradients->outcome + 1);
    gradients->scale = (float *)(gradients->unfit + n);
    if (table)
        err = tr_cuda_check(cuda,
                            cudaMemcpyAsync((void *)gradients->of, of, table,
                                            cudaMemcpyHostToDevice, cuda->compute),
                            "features' gradients");
    return err ? err : tr_cuda_check(cuda, cudaStreamSynchronize(cuda->compute), "gradients");
}

/* One block. */
static __global__ void begin(struct tr_cuda_gradients op, const double *loss_sum, uint32_t n_losses)
{
    for (uint32_t i = threadIdx.x; i < op.n; i += blockDim.x) {
        op.unfit[i] = 0;
        op.scale[i] = 1;
    }
    if (threadIdx.x != 0)
        return;
    uint32_t finite = 1;
    for (uint32_t i = 0; i < n_losses; i++)
        finite &= fabs(loss_sum[i]) <= DBL_MAX;
    op.outcome->finite = finite;
    op.outcome->saturated = 0;
}

/* Of elements first..end, by a block; in every thread. */
static __device__ uint32_t largest(const float *vector, uint64_t first, uint64_t end)
{
    uint32_t most = 0;
    for (uint64_t i = first / 4 + threadIdx.x; i * 4 < end; i += blockDim.x)
        most = max(most, tr_magnitude4(tr_load(vector, tr_four_of(i, first, end))));
    return tr_block_max(most);
}

static __global__ void features(struct tr_cuda_gradients op, uint32_t samples)
{
    uint32_t f = blockIdx.y, chunk = blockIdx.x, most = 0;
    struct tr_cuda_gradient of = op.of[f];
    uint64_t first = (uint64_t)chunk * SAMPLES, end = min(first + SAMPLES, (uint64_t)samples);
    if (of.grad)
        most = largest(of.grad, first * of.width, end * of.width);
    if (threadIdx.x != 0)
        return;
    op.magnitude[(size_t)f * op.chunks + chunk] = most;
    if (most > __float_as_uint(op.limit)) {
        op.unfit[f] = 1;
        op.outcome->finite = 0;
    }
}

static __global__ void parameters(struct tr_cuda_spans spans, const float *grads, float limit,
                                  struct tr_cuda_outcome *outcome)
{
    struct tr_cuda_chunk chunk = spans.chunk[blockIdx.x];
    bool average = spans.span[chunk.span].momentum > 0;
    uint32_t most = largest(grads, chunk.begin, chunk.begin + chunk.count);
    if (threadIdx.x == 0 && most > __float_as_uint(average ? FLT_MAX / 2 : limit))
        outcome->finite = 0;
}

int tr_cuda_finite(struct tr_backend *backend, const struct tr_cuda_gradients *gradients,
                   uint32_t samples, const struct tr_cuda_spans *spans, const float *grads,
                   const double *loss_sum, uint32_t n_losses)
{
    cudaStream_t stream = backend->cuda->compute;
    uint32_t chunks = (samples + SAMPLES - 1) / SAMPLES;
    if (samples > gradients->samples_max || (uintptr_t)grads % 16)
        return tr_cuda_fail(backend->cuda, RT_EBACKEND, "finite: %u samples at %p", samples,
                            (const void *)grads);
    TR_LAUNCH(begin, 1, TR_BLOCK, stream, *gradients, loss_sum, n_losses);
    if (chunks > 0 && gradients->n > 0)
        TR_LAUNCH(features, dim3(chunks, gradients->n), TR_BLOCK, stream, *gradients, samples);
    if (spans->n_chunks > 0)
        TR_LAUNCH(parameters, spans->n_chunks, TR_BLOCK, stream, *spans, grads,
                  gradients->gradient_max, gradients->outcome);
    return tr_cuda_launched(backend, "finite");
}
