/* trainer/backend/cuda/optimizer.cu -- dense optimizers: formulas in trainer/optimizer.h, for all spans at once.
 *
 * Three launches, whatever the number of spans: squares of the gradients by chunk; one block that adds them up, and decides whether the step is made
 * and how far it is clipped; the step, a block for each chunk. LAMB has two more, for the norms of each span come between its passes. What a
 * span's numbers are (rate, decay) is computed by its blocks in float64 from what the host made of this step, so that a graph that is
 * played again reads them anew, and they have the bits that trainer/optimizer.c gives them.
 * Every product and sum is rounded by itself (__fmul_rn, __fadd_rn), as the CPU's are: parameters and state have the CPU's bits. Norms are
 * float64 sums in another order than its own, chunk by chunk: equal to 1e-12, always the same on a device. Only through clipping and LAMB's ratio, which are
 * rounded to float32, do they touch a parameter.
 * Bytes moved per parameter: 4 for the norm, then 12 (sgd), 20 (momentum, adagrad), 28 (adam); LAMB 24 and 16. */
#include "trainer/backend/cuda/step.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "runtime/base/err.h"
#include "trainer/backend/cuda/vectors.h"
#include "trainer/backend/cuda/kernel.h"

#define SLOTS 2u

struct tr_cuda_optimizer {
    struct tr_optimizer_conf conf;
    size_t n, slots, stride; /* stride: from one slot's state to the next one's */
    float *state;
    struct tr_cuda_spans spans;
    double *squares; /* [2][n_chunks] of gradients; of parameters and updates */
    float *ratio;    /* [n_spans] LAMB's */
    struct tr_cuda_stepped *stepped;
};

/* What kernels are given. */
struct step {
    struct tr_optimizer_conf conf;
    struct tr_cuda_spans spans;
    const struct tr_optimizer_rates *rates;
    const uint32_t *finite;
    const float *grads;
    float *params;
    float *state[SLOTS]; /* NULL: not this optimizer's */
    double *squares;
    float *ratio;
    struct tr_cuda_stepped *stepped;
};

/* ---- the gradients' norm ---- */

static __device__ double add_square(double sum, float value)
{
    return fma((double)value, (double)value, sum); /* the product is exact anyway */
}

static __device__ double add_squares(double sum, float4 v)
{
    return add_square(add_square(add_square(add_square(sum, v.x), v.y), v.z), v.w);
}

static __global__ void square(struct step op)
{
    struct tr_cuda_chunk chunk = op.spans.chunk[blockIdx.x];
    uint64_t first = chunk.begin, end = first + chunk.count;
    double sum = 0;
    for (uint64_t i = first / 4 + threadIdx.x; i * 4 < end; i += blockDim.x)
        sum = add_squares(sum, tr_load(op.grads, tr_four_of(i, first, end)));
    sum = tr_block_sum(sum);
    if (threadIdx.x == 0)
        op.squares[blockIdx.x] = sum;
}

/* One block. A sum of squares is finite exactly when all of them are; running averages are looked at, and are no part of the norm. */
static __global__ void decide(struct step op)
{
    double sum = 0, others = 0;
    for (uint32_t i = threadIdx.x; i < op.spans.n_chunks; i += blockDim.x) {
        if (op.spans.span[op.spans.chunk[i].span].momentum > 0)
            others += op.squares[i];
        else
            sum += op.squares[i];
    }
    sum = tr_block_sum(sum);
    others = tr_block_sum(others);
    if (threadIdx.x != 0)
        return;
    double norm = sqrt(sum), most = op.conf.clip_norm;
    bool finite = sum <= DBL_MAX && others <= DBL_MAX && (!op.finite || *op.finite);
    op.stepped->grad_norm = norm;
    op.stepped->grad_scale = (float)(most > 0 ? fmin(1.0, most / (norm + 1e-6)) : 1.0);
    op.stepped->stepped = finite;
}

/* ---- a span's numbers, as step_span() in trainer/optimizer.c ---- */

struct numbers {
    float grad_scale, lr, eps, weight_decay, momentum, average;
    float beta1, rest1, beta2, rest2, correction, keep, unbias1;
};

static __device__ struct numbers numbers_of(const struct step &op, uint32_t i)
{
    const struct tr_optimizer_conf &conf = op.conf;
    const struct tr_span &span = op.spans.span[i];
    double rate = __dmul_rn(op.rates->lr, span.lr_factor);
    double decay = span.decays ? conf.weight_decay : 0;
    struct numbers of;
    of.grad_scale = op.stepped->grad_scale;
    of.lr = (float)rate;
    of.eps = (float)conf.eps;
    of.weight_decay = (float)decay;
    of.momentum = (float)conf.momentum;
    of.average = (float)span.momentum;
    of.beta1 = (float)conf.beta1;
    of.rest1 = (float)(1 - conf.beta1);
    of.beta2 = (float)conf.beta2;
    of.rest2 = (float)(1 - conf.beta2);
    of.correction = op.rates->correction;
    of.unbias1 = op.rates->unbias1;
    of.keep = 1;
    if (conf.kind == TR_ADAMW) {
        of.keep = (float)__dsub_rn(1, __dmul_rn(rate, decay));
        of.weight_decay = 0;
    }
    if (conf.kind == TR_ADAM || conf.kind == TR_ADAMW)
        of.lr = (float)(rate / op.rates->bias1);
    return of;
}

/* ---- an element's step ---- */

static __device__ float times(float x, float y)
{
    return __fmul_rn(x, y);
}

static __device__ float plus(float x, float y)
{
    return __fadd_rn(x, y);
}

static __device__ void move_moments(const struct numbers &op, float g, float *m, float *v)
{
    *m = plus(times(op.beta1, *m), times(op.rest1, g));
    *v = plus(times(op.beta2, *v), times(op.rest2, times(g, g)));
}

static __device__ float divisor(const struct numbers &op, float v)
{
    return plus(__fdiv_rn(__fsqrt_rn(v), op.correction), op.eps);
}

static __device__ float lamb_update(const struct numbers &op, float p, float m, float v)
{
    return plus(__fdiv_rn(times(op.unbias1, m), divisor(op, v)), times(op.weight_decay, p));
}

template <enum tr_optimizer_kind K>
static __device__ void step_one(const struct numbers &op, float grad, float *p, float *s, float *v)
{
    float g = plus(times(op.grad_scale, grad), times(op.weight_decay, *p));
    if (K == TR_SGD) {
        *s = op.momentum > 0 ? plus(g, times(op.momentum, *s)) : g;
        *p = __fsub_rn(*p, times(op.lr, *s));
    } else if (K == TR_ADAGRAD) {
        *s = plus(*s, times(g, g));
        *p = __fsub_rn(*p, __fdiv_rn(times(op.lr, g), plus(__fsqrt_rn(*s), op.eps)));
    } else if (K == TR_LAMB) {
        *p = __fsub_rn(*p, times(op.lr, lamb_update(op, *p, *s, *v)));
    } else {
        move_moments(op, g, s, v);
        *p = __fsub_rn(times(op.keep, *p), __fdiv_rn(times(op.lr, *s), divisor(op, *v)));
    }
}

/* ---- a chunk's step ---- */

static __device__ float4 load_state(const float *state, struct tr_four four)
{
    return state ? tr_load(state, four) : make_float4(0, 0, 0, 0);
}

/* LAMB's is its second pass, which only reads the state. */
template <enum tr_optimizer_kind K>
static __device__ void step_four(const struct step &op, const struct numbers &now,
                                 struct tr_four four)
{
    float4 g = K == TR_LAMB ? make_float4(0, 0, 0, 0) : tr_load(op.grads, four);
    float4 p = tr_load(op.params, four);
    float4 s = load_state(op.state[0], four), v = load_state(op.state[1], four);
    step_one<K>(now, g.x, &p.x, &s.x, &v.x);
    step_one<K>(now, g.y, &p.y, &s.y, &v.y);
    step_one<K>(now, g.z, &p.z, &s.z, &v.z);
    step_one<K>(now, g.w, &p.w, &s.w, &v.w);
    tr_store(op.params, four, p);
    if (K != TR_LAMB && op.state[0])
        tr_store(op.state[0], four, s);
    if (K != TR_LAMB && op.state[1])
        tr_store(op.state[1], four, v);
}

static __device__ void move_average(const struct step &op, float share, struct tr_four four)
{
    float4 p = tr_load(op.params, four), ahead = tr_load(op.grads, four);
    p.x = plus(p.x, times(share, ahead.x));
    p.y = plus(p.y, times(share, ahead.y));
    p.z = plus(p.z, times(share, ahead.z));
    p.w = plus(p.w, times(share, ahead.w));
    tr_store(op.params, four, p);
}

template <enum tr_optimizer_kind K> static __global__ void step_chunk(struct step op)
{
    __shared__ struct numbers now;
    if (!op.stepped->stepped)
        return;
    struct tr_cuda_chunk chunk = op.spans.chunk[blockIdx.x];
    uint64_t first = chunk.begin, end = first + chunk.count;
    if (threadIdx.x == 0) {
        now = numbers_of(op, chunk.span);
        if (K == TR_LAMB)
            now.lr = op.ratio[chunk.span];
    }
    __syncthreads();
    for (uint64_t i = first / 4 + threadIdx.x; i * 4 < end; i += blockDim.x) {
        if (now.average > 0)
            move_average(op, now.average, tr_four_of(i, first, end));
        else
            step_four<K>(op, now, tr_four_of(i, first, end));
    }
}

/* ---- LAMB's first pass: moments, and squares of parameters and of updates ---- */

static __device__ void lamb_one(const struct numbers &now, float grad, float p, float *m, float *v,
                                double *squares)
{
    move_moments(now, times(now.grad_scale, grad), m, v);
    squares[0] = add_square(squares[0], p);
    squares[1] = add_square(squares[1], lamb_update(now, p, *m, *v));
}

static __device__ void lamb_four(const struct step &op, const struct numbers &now,
                                 struct tr_four four, double *squares)
{
    float4 g = tr_load(op.grads, four), p = tr_load(op.params, four);
    float4 m = tr_load(op.state[0], four), v = tr_load(op.state[1], four);
    lamb_one(now, g.x, p.x, &m.x, &v.x, squares);
    lamb_one(now, g.y, p.y, &m.y, &v.y, squares);
    lamb_one(now, g.z, p.z, &m.z, &v.z, squares);
    lamb_one(now, g.w, p.w, &m.w, &v.w, squares);
    tr_store(op.state[0], four, m);
    tr_store(op.state[1], four, v);
}

static __global__ void lamb_moments(struct step op)
{
    __shared__ struct numbers now;
    if (!op.stepped->stepped)
        return;
    struct tr_cuda_chunk chunk = op.spans.chunk[blockIdx.x];
    uint64_t first = chunk.begin, end = first + chunk.count;
    double squares[2] = {0, 0};
    if (threadIdx.x == 0)
        now = numbers_of(op, chunk.span);
    __syncthreads();
    for (uint64_t i = first / 4 + threadIdx.x; now.average <= 0 && i * 4 < end; i += blockDim.x)
        lamb_four(op, now, tr_four_of(i, first, end), squares);
    squares[0] = tr_block_sum(squares[0]);
    squares[1] = tr_block_sum(squares[1]);
    if (threadIdx.x == 0) {
        op.squares[blockIdx.x] = squares[0];
        op.squares[op.spans.n_chunks + blockIdx.x] = squares[1];
    }
}

/* A block for each span: its rate, times the trust ratio. Norms that float32 could not hold inverted count as 0. */
static __global__ void lamb_ratio(struct step op)
{
    double param = 0, update = 0;
    if (!op.stepped->stepped)
        return;
    for (uint32_t i = op.spans.first[blockIdx.x] + threadIdx.x; i < op.spans.first[blockIdx.x + 1];
         i += blockDim.x) {
        param += op.squares[i];
        update += op.squares[op.spans.n_chunks + i];
    }
    param = sqrt(tr_block_sum(param));
    update = sqrt(tr_block_sum(update));
    if (threadIdx.x != 0)
        return;
    double rate = __dmul_rn(op.rates->lr, op.spans.span[blockIdx.x].lr_factor);
    double ratio = param > 0 && update > FLT_MIN ? param / update : 1;
    op.ratio[blockIdx.x] = (float)fmin(__dmul_rn(rate, ratio), (double)FLT_MAX);
}

/* ---- state ---- */

static __global__ void fill(float *to, uint64_t n, float value)
{
    uint64_t stride = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        to[i] = value;
}

static int alloc_all(struct tr_cuda *cuda, struct tr_cuda_optimizer *optimizer)
{
    size_t n_chunks = optimizer->spans.n_chunks, n_spans = optimizer->spans.n_spans;
    int err = tr_cuda_alloc(cuda, optimizer->slots * optimizer->stride * sizeof(float),
                            "the optimizer's state", (void **)&optimizer->state);
    if (!err)
        err = tr_cuda_alloc(cuda, (2 * n_chunks + 1) * sizeof(double), "the optimizer's norms",
                            (void **)&optimizer->squares);
    if (!err)
        err = tr_cuda_alloc(cuda, (n_spans + 1) * sizeof(float), "the optimizer's rates",
                            (void **)&optimizer->ratio);
    if (!err)
        err = tr_cuda_alloc(cuda, sizeof *optimizer->stepped, "what came of a step",
                            (void **)&optimizer->stepped);
    return err;
}

static size_t count_slots(const struct tr_optimizer_conf *conf)
{
    if (conf->kind == TR_SGD)
        return conf->momentum > 0 ? 1 : 0;
    return conf->kind == TR_ADAGRAD ? 1 : 2;
}

extern "C" int tr_cuda_optimizer_create(struct tr_cuda *cuda, const struct tr_optimizer_conf *conf,
                                        size_t n, const struct tr_span *span, size_t n_spans,
                                        struct tr_cuda_optimizer **out)
{
    struct tr_cuda_optimizer *optimizer = (struct tr_cuda_optimizer *)calloc(1, sizeof *optimizer);
    if (!optimizer)
        return tr_cuda_fail(cuda, RT_ENOMEM, "no memory for an optimizer");
    optimizer->conf = *conf;
    optimizer->n = n;
    optimizer->slots = count_slots(conf);
    optimizer->stride = (n + 63) / 64 * 64; /* all slots are aligned as the parameters are */
    struct tr_backend backend = {};
    backend.cuda = cuda;
    int err = tr_cuda_spans_init(cuda, span, n_spans, &optimizer->spans);
    if (!err)
        err = alloc_all(cuda, optimizer);
    if (!err)
        err = tr_cuda_optimizer_reset(optimizer, &backend);
    if (err) {
        tr_cuda_optimizer_destroy(optimizer);
        return err;
    }
    *out = optimizer;
    return 0;
}

extern "C" void tr_cuda_optimizer_destroy(struct tr_cuda_optimizer *optimizer)
{
    free(optimizer); /* what it has on the device is the device's */
}

extern "C" int tr_cuda_optimizer_reset(struct tr_cuda_optimizer *optimizer,
                                       struct tr_backend *backend)
{
    uint64_t n = optimizer->slots * optimizer->stride;
    if (n == 0)
        return 0;
    TR_LAUNCH(fill, tr_filling(backend, n, TR_BLOCK), TR_BLOCK, backend->cuda->compute,
              optimizer->state, n, (float)optimizer->conf.initial_accumulator);
    return tr_cuda_launched(backend, "optimizer: reset");
}

extern "C" float *tr_cuda_optimizer_slot(struct tr_cuda_optimizer *optimizer, size_t slot)
{
    return slot < optimizer->slots ? optimizer->state + slot * optimizer->stride : NULL;
}

extern "C" const struct tr_cuda_stepped *tr_cuda_optimizer_stepped(
    const struct tr_cuda_optimizer *optimizer)
{
    return optimizer->stepped;
}

/* ---- a step ---- */

static void queue_lamb(const struct step &op, cudaStream_t stream)
{
    TR_LAUNCH(lamb_moments, op.spans.n_chunks, TR_BLOCK, stream, op);
    TR_LAUNCH(lamb_ratio, op.spans.n_spans, TR_BLOCK, stream, op);
    TR_LAUNCH(step_chunk<TR_LAMB>, op.spans.n_chunks, TR_BLOCK, stream, op);
}

static void queue_update(const struct step &op, cudaStream_t stream)
{
    uint32_t n = op.spans.n_chunks;
    if (n == 0)
        return;
    switch (op.conf.kind) {
    case TR_SGD:
        TR_LAUNCH(step_chunk<TR_SGD>, n, TR_BLOCK, stream, op);
        break;
    case TR_ADAGRAD:
        TR_LAUNCH(step_chunk<TR_ADAGRAD>, n, TR_BLOCK, stream, op);
        break;
    case TR_ADAM:
    case TR_ADAMW:
        TR_LAUNCH(step_chunk<TR_ADAM>, n, TR_BLOCK, stream, op);
        break;
    case TR_LAMB:
        queue_lamb(op, stream);
        break;
    case TR_OPTIMIZERS:
        break;
    }
}

extern "C" int tr_cuda_optimizer_queue(struct tr_cuda_optimizer *optimizer,
                                       struct tr_backend *backend,
                                       const struct tr_optimizer_rates *rates, const float *grads,
                                       float *params, const uint32_t *finite)
{
    struct step op = {};
    cudaStream_t stream = backend->cuda->compute;
    if (((uintptr_t)grads | (uintptr_t)params) % 16)
        return tr_cuda_fail(backend->cuda, RT_EBACKEND, "optimizer: vectors are not aligned");
    for (size_t i = 0; i < SLOTS; i++)
        op.state[i] = tr_cuda_optimizer_slot(optimizer, i);
    op.conf = optimizer->conf;
    op.spans = optimizer->spans;
    op.rates = rates;
    op.finite = finite;
    op.grads = grads;
    op.params = params;
    op.squares = optimizer->squares;
    op.ratio = optimizer->ratio;
    op.stepped = optimizer->stepped;
    if (op.spans.n_chunks > 0)
        TR_LAUNCH(square, op.spans.n_chunks, TR_BLOCK, stream, op);
    TR_LAUNCH(decide, 1, 1024, stream, op);
    queue_update(op, stream);
    return tr_cuda_launched(backend, "optimizer");
}
