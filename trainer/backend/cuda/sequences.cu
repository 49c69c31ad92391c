/* trainer/backend/cuda/sequences.cu -- features that are sequences: trainer/model/sequence.c on the device.
 *
 * Distinct rows and an index come, so that a row crosses the bus once however often it stands in a batch. In: place by place, a group of lanes
 * copies a row, or zeros; each lane has four columns, or one where dim is no multiple of four. Out: row by row, a group of lanes adds the gradients of
 * its places in ascending order in float32, four of them on their way at a time: the order of the CPU, and so its bits. A row that
 * stands in very many places is one group's work all the same; 65,536 places are some 0.2 ms of additions that wait for one another.
 * The largest sum of each block is kept, and every block of the second launch looks at all of these for the scale.
 * Bytes moved per place and column: in 4 and what a row's element has, out 4; and 6 per row and column for narrowing. */
#include "trainer/backend/cuda/step.h"

#include "runtime/base/err.h"
#include "trainer/backend/cuda/vectors.h"
#include "trainer/backend/cuda/half.h"

/* A block's threads as groups of lanes, a power of two, one group for a row. */
struct groups {
    uint32_t lanes_log, count; /* groups in a block */
};

static struct groups groups_of(uint32_t columns)
{
    uint32_t log = 0;
    while (log < 5 && (1u << log) < columns)
        log++;
    return {log, TR_BLOCK >> log};
}

/* ---- in ---- */

struct place {
    uint32_t row;
    bool is; /* else it is behind the sample's last */
};

static __device__ struct place place_of(const struct tr_cuda_sequence &op, uint32_t p)
{
    uint32_t s = p / op.length, i = p - s * op.length, from = op.begin[s];
    bool is = i < op.begin[s + 1] - from;
    return {is ? op.index[from + i] : 0, is};
}

template <uint32_t DTYPE, bool FOURS>
static __device__ void expand_row(const struct tr_cuda_sequence &op, uint32_t p, struct place place,
                                  uint32_t lane, uint32_t lanes)
{
    uint64_t to = (uint64_t)p * op.dim, from = (uint64_t)place.row * op.dim;
    for (uint32_t c = lane * (FOURS ? 4 : 1); c < op.dim; c += lanes * (FOURS ? 4 : 1)) {
        if (FOURS)
            tr_store(op.to, {to + c, 4},
                     place.is ? tr_wide_four<DTYPE>(op.row, {from + c, 4})
                              : make_float4(0, 0, 0, 0));
        else
            op.to[to + c] = place.is ? tr_wide_at<DTYPE>(op.row, from + c) : 0;
    }
}

template <uint32_t DTYPE, bool FOURS>
static __global__ void expand(struct tr_cuda_sequence op, struct groups groups)
{
    uint32_t lanes = 1u << groups.lanes_log, lane = threadIdx.x & (lanes - 1);
    uint64_t stride = (uint64_t)gridDim.x * groups.count, all = (uint64_t)op.samples * op.length;
    uint64_t p = (uint64_t)blockIdx.x * groups.count + (threadIdx.x >> groups.lanes_log);
    for (; p < all; p += stride) {
        struct place place = place_of(op, (uint32_t)p);
        if (op.mask && lane == 0)
            op.mask[p] = place.is ? 1 : 0;
        if (op.to)
            expand_row<DTYPE, FOURS>(op, (uint32_t)p, place, lane, lanes);
    }
}

template <uint32_t DTYPE>
static void queue_expand(struct tr_backend *backend, const struct tr_cuda_sequence *op)
{
    bool fours = op->dim % 4 == 0 && (uintptr_t)op->to % 16 == 0 &&
                 (uintptr_t)op->row % (DTYPE == RT_DTYPE_F32 ? 16 : 8) == 0;
    struct groups groups = groups_of(fours ? op->dim / 4 : op->dim);
    uint64_t places = (uint64_t)op->samples * op->length;
    uint32_t blocks = tr_filling(backend, places << groups.lanes_log, TR_BLOCK);
    cudaStream_t stream = backend->cuda->compute;
    if (fours)
        TR_LAUNCH((expand<DTYPE, true>), blocks, TR_BLOCK, stream, *op, groups);
    else
        TR_LAUNCH((expand<DTYPE, false>), blocks, TR_BLOCK, stream, *op, groups);
}

int tr_cuda_sequence_expand(struct tr_backend *backend, const struct tr_cuda_sequence *op)
{
    uint64_t places = (uint64_t)op->samples * op->length;
    if (places == 0)
        return 0;
    if (places > UINT32_MAX)
        return tr_cuda_fail(backend->cuda, RT_EBACKEND, "sequence: %u samples of %u places",
                            op->samples, op->length);
    if (op->dtype == RT_DTYPE_F32)
        queue_expand<RT_DTYPE_F32>(backend, op);
    else if (op->dtype == RT_DTYPE_F16)
        queue_expand<RT_DTYPE_F16>(backend, op);
    else
        queue_expand<RT_DTYPE_BF16>(backend, op);
    return tr_cuda_launched(backend, "sequence: expand");
}

/* ---- out: sums ---- */

static __device__ float4 add(float4 x, float4 y)
{
    return make_float4(__fadd_rn(x.x, y.x), __fadd_rn(x.y, y.y), __fadd_rn(x.z, y.z),
                       __fadd_rn(x.w, y.w));
}

/* Columns c.. of places begin..end: n of them. */
static __device__ float4 sum_places(const struct tr_cuda_sums &op, uint32_t c, uint32_t n,
                                    uint32_t begin, uint32_t end)
{
    float4 sum = make_float4(0, 0, 0, 0), v[4];
    for (; begin + 4 <= end; begin += 4) {
        for (uint32_t k = 0; k < 4; k++)
            v[k] = tr_load(op.grad, {(uint64_t)op.place[begin + k] * op.dim + c, n});
        sum = add(add(add(add(sum, v[0]), v[1]), v[2]), v[3]);
    }
    for (; begin < end; begin++)
        sum = add(sum, tr_load(op.grad, {(uint64_t)op.place[begin] * op.dim + c, n}));
    return sum;
}

/* step: columns of a lane, 4 or 1. */
static __global__ void sum_rows(struct tr_cuda_sums op, struct groups groups, uint32_t step,
                                uint32_t *largest)
{
    uint32_t lanes = 1u << groups.lanes_log, lane = threadIdx.x & (lanes - 1), most = 0;
    uint32_t rows = op.grad ? *op.rows : 0;
    uint64_t r = (uint64_t)blockIdx.x * groups.count + (threadIdx.x >> groups.lanes_log);
    for (; r < rows; r += (uint64_t)gridDim.x * groups.count)
        for (uint32_t c = lane * step; c < op.dim; c += lanes * step) {
            float4 sum = sum_places(op, c, step, op.row_begin[r], op.row_begin[r + 1]);
            tr_store(op.sum, {r * op.dim + c, step}, sum);
            most = max(most, tr_magnitude4(sum));
        }
    most = tr_block_max(most);
    if (threadIdx.x == 0)
        largest[blockIdx.x] = most;
}

/* ---- out: narrowing ---- */

static __device__ float scale_of(const uint32_t *largest, uint32_t n)
{
    uint32_t most = 0;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        most = max(most, largest[i]);
    return tr_half_scale(tr_block_max(most));
}

template <uint32_t DTYPE>
static __global__ void narrow_rows(struct tr_cuda_sums op, const uint32_t *largest, uint32_t n)
{
    uint64_t all = (uint64_t)*op.rows * op.dim, stride = (uint64_t)gridDim.x * blockDim.x;
    float scale = DTYPE == RT_DTYPE_F16 ? scale_of(largest, n) : 1;
    uint32_t over = 0;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i * 4 < all; i += stride) {
        struct tr_four four = tr_four_of(i, 0, all);
        float4 v = op.grad ? tr_load(op.sum, four) : make_float4(0, 0, 0, 0);
        tr_near_four<DTYPE>(op.out, four, v, scale, &over);
    }
    if (DTYPE == RT_DTYPE_BF16 && over) /* the scale of float16 fits all */
        atomicAdd((unsigned long long *)op.saturated, (unsigned long long)over);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *op.scale = scale;
}

static uint32_t queue_sums(struct tr_backend *backend, const struct tr_cuda_sums *op,
                           uint32_t *largest, uint32_t blocks)
{
    uint32_t step = op->dim % 4 == 0 ? 4 : 1;
    struct groups groups = groups_of(op->dim / step);
    uint32_t wanted = tr_filling(backend, (uint64_t)op->rows_max << groups.lanes_log, TR_BLOCK);
    blocks = wanted < blocks ? wanted : blocks;
    TR_LAUNCH(sum_rows, blocks, TR_BLOCK, backend->cuda->compute, *op, groups, step, largest);
    return blocks;
}

int tr_cuda_sequence_sums(struct tr_backend *backend, const struct tr_cuda_sums *op)
{
    cudaStream_t stream = backend->cuda->compute;
    uint32_t blocks = tr_filling(backend, UINT64_MAX / 2, TR_BLOCK);
    uint32_t *largest = (uint32_t *)tr_cuda_scratch(backend->cuda, blocks * sizeof *largest);
    if (!largest)
        return RT_EBACKEND;
    if (((uintptr_t)op->sum | (uintptr_t)op->grad) % 16 || (uintptr_t)op->out % 8)
        return tr_cuda_fail(backend->cuda, RT_EBACKEND, "sequence: sums are not aligned");
    uint32_t n = queue_sums(backend, op, largest, blocks);
    blocks = tr_filling(backend, (uint64_t)op->rows_max * op->dim / 4 + 1, TR_BLOCK);
    if (op->dtype == RT_DTYPE_F32)
        TR_LAUNCH(narrow_rows<RT_DTYPE_F32>, blocks, TR_BLOCK, stream, *op, largest, n);
    else if (op->dtype == RT_DTYPE_F16)
        TR_LAUNCH(narrow_rows<RT_DTYPE_F16>, blocks, TR_BLOCK, stream, *op, largest, n);
    else
        TR_LAUNCH(narrow_rows<RT_DTYPE_BF16>, blocks, TR_BLOCK, stream, *op, largest, n);
    return tr_cuda_launched(backend, "sequence: sums");
}
