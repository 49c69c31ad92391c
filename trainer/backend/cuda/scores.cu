/* trainer/backend/cuda/scores.cu -- what heads score, and the first one's logits, to where the host fetches them: take_head() of trainer/model/train.c.
 *
 * One launch for all heads that are copied, with a thread for each number, and one for those that are wide, with a warp for each sample; each
 * reads a head's output once. Heads are few, and so they are the kernel's parameters. Bytes moved: 4 per number read, and 4 per score. */
#include "trainer/backend/cuda/step.h"

#include "runtime/base/err.h"
#include "trainer/backend/cuda/kernel.h"

/* Rows of y [samples][stride], columns of them, to score[..][first..]. Of wide ones `columns` are the classes. */
struct part {
    const float *y, *label;
    uint32_t stride, label_stride, first, columns;
};

struct parts {
    struct part part[TR_HEADS_MAX + 1]; /* and the logit */
    float *to[TR_HEADS_MAX + 1];
    uint32_t to_stride[TR_HEADS_MAX + 1];
    uint32_t n, samples, columns_max;
};

static __global__ void copy(struct parts op)
{
    const struct part &of = op.part[blockIdx.y];
    uint64_t at = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint64_t s = at / of.columns, c = at % of.columns;
    if (s < op.samples)
        op.to[blockIdx.y][s * op.to_stride[blockIdx.y] + of.first + c] = of.y[s * of.stride + c];
}

/* The most probable class, of equal ones the first. As where they are looked at in their order, a first one that is NaN stays, and
 * any other is passed over. */
static __device__ uint32_t most_of(const float *y, uint32_t classes, uint32_t lane)
{
    float best = y[0];
    uint32_t most = 0;
    for (uint32_t c = lane; c < classes; c += TR_WARP)
        if (y[c] > best) {
            best = y[c];
            most = c;
        }
    for (uint32_t other = TR_WARP / 2; other > 0; other /= 2) {
        float theirs = __shfl_xor_sync(0xffffffffu, best, other);
        uint32_t at = __shfl_xor_sync(0xffffffffu, most, other);
        if (theirs > best || (theirs == best && at < most)) {
            best = theirs;
            most = at;
        }
    }
    return most;
}

static __global__ void put_wide(struct parts op)
{
    const struct part &of = op.part[blockIdx.y];
    uint32_t warps = blockDim.x / TR_WARP, lane = threadIdx.x % TR_WARP;
    uint64_t s = (uint64_t)blockIdx.x * warps + threadIdx.x / TR_WARP;
    if (s >= op.samples)
        return;
    const float *y = of.y + s * of.stride;
    float *to = op.to[blockIdx.y] + s * op.to_stride[blockIdx.y] + of.first;
    uint32_t most = most_of(y, of.columns, lane);
    if (lane == 0) {
        to[TR_WIDE_LABEL] = y[(uint32_t)of.label[s * of.label_stride]];
        to[TR_WIDE_CLASS] = (float)most;
        to[TR_WIDE_MOST] = y[most];
    }
}

static void add(struct parts *parts, const struct part *part, float *to, uint32_t to_stride)
{
    uint32_t n = parts->n++;
    parts->part[n] = *part;
    parts->to[n] = to;
    parts->to_stride[n] = to_stride;
    parts->columns_max = max(parts->columns_max, part->columns);
}

/* Those heads that are wide, or those that are not. */
static void collect(const struct tr_cuda_scoring *op, bool wide, struct parts *parts)
{
    parts->samples = op->samples;
    for (uint32_t i = 0; op->score && i < op->n_heads; i++) {
        const struct tr_head *head = op->head[i].head;
        struct part part = {op->head[i].y,        op->head[i].label,
                            op->head[i].y_stride, op->head[i].label_stride,
                            head->first,          head->columns};
        if (tr_head_is_wide(head) != wide)
            continue;
        part.columns = wide ? head->classes : head->columns;
        add(parts, &part, op->score, op->columns);
    }
}

int tr_cuda_scores(struct tr_backend *backend, const struct tr_cuda_scoring *op)
{
    cudaStream_t stream = backend->cuda->compute;
    struct parts plain = {}, wide = {};
    struct part logit = {op->in, NULL, op->in_stride, 0, 0, 1};
    if (op->n_heads > TR_HEADS_MAX)
        return tr_cuda_fail(backend->cuda, RT_EBACKEND, "scores: %u heads", op->n_heads);
    collect(op, false, &plain);
    collect(op, true, &wide);
    if (op->logit)
        add(&plain, &logit, op->logit, 1);
    if (plain.n > 0)
        TR_LAUNCH(copy,
                  dim3(tr_blocks((uint64_t)op->samples * plain.columns_max, TR_BLOCK), plain.n),
                  TR_BLOCK, stream, plain);
    if (wide.n > 0)
        TR_LAUNCH(put_wide, dim3(tr_blocks((uint64_t)op->samples * TR_WARP, TR_BLOCK), wide.n),
                  TR_BLOCK, stream, wide);
    return tr_cuda_launched(backend, "scores");
}
