/* trainer/backend/cuda/attention.cu -- rows of a sample that look at each other, and the gradients.
 *
 * A block has one head of one sample: batches are thousands of those, and sequences short. It works on squares of EDGE x EDGE shares (32, of
 * up to 32 rows, else 64), a thread having 4 x 4 of one (tiles.h); longer sequences and wider heads are done square by square. Shares are
 * written, since backward reads them: of a sequence of 50 in 4 heads of 16, they are 10,000 of a sample's 22,800 floats, the
 * rest being q, k, v and y once each. Backward needs of each row the sum of share x d before the gradient at its products, so
 * where a row is longer than a square, d = dy . v is made twice; made once and kept, it would be written and read. What a block adds to
 * over its squares (dq, dk, dv of long sequences) it reads again where it wrote it. It need not have the operation's scratch.
 *
 * Sums are float32 in ascending order, those of softmax and of a row's mean along a tree of the threads. */
#include "trainer/backend/cuda/tiles.h"

/* Of a block, in shared memory: rows of two factors, 32 columns of each; or a square of a third in their place. And a square. */
template <uint32_t EDGE> struct room {
    float rows[2 * EDGE * TR_PITCH];
    float square[EDGE * (EDGE + 4)];
};

/* A thread's place in a square, and rows and columns of its own: interleaved (i, j), or in fours. */
template <uint32_t EDGE> struct place {
    uint32_t down, across, i[4], j[4];
};

template <uint32_t EDGE> static __device__ __forceinline__ place<EDGE> place_of(uint32_t thread)
{
    place<EDGE> at;
    at.down = thread / (EDGE / 4);
    at.across = thread % (EDGE / 4);
    for (uint32_t a = 0; a < 4; a++) {
        at.i[a] = at.down + a * (EDGE / 4);
        at.j[a] = at.across + a * (EDGE / 4);
    }
    return at;
}

/* Of a head: `rows` rows of `dim` columns, `stride` floats apart. */
struct head {
    uint32_t rows, dim;
    size_t stride;
};

/* Rows `from` to `from + EDGE` and columns `first` to `first + COLUMNS`, 0 past the ends. */
template <uint32_t EDGE, uint32_t COLUMNS, bool WIDE>
static __device__ __forceinline__ void load(const head &of, const float *x, uint32_t from,
                                            uint32_t first, float *to)
{
    for (uint32_t k = threadIdx.x; k < EDGE * COLUMNS / 4; k += EDGE * EDGE / 16) {
        uint32_t r = k / (COLUMNS / 4), c = k % (COLUMNS / 4) * 4;
        tr_quad four = {{0, 0, 0, 0}};
        if (from + r < of.rows)
            four = tr_four_at<WIDE>(x + (from + r) * of.stride, first + c, of.dim);
        *(tr_quad *)(to + r * (COLUMNS + 4) + c) = four;
    }
}

static_assert(TR_CHUNK + 4 == TR_PITCH, "load() and tr_tile_products() mean the same");

/* tile = rows `i` on of x times rows `j` on of y. */
template <uint32_t EDGE, bool WIDE>
static __device__ __forceinline__ tr_tile products(room<EDGE> *room, const place<EDGE> &at,
                                                   const head &of, const float *x, uint32_t i,
                                                   const float *y, uint32_t j)
{
    float *left = room->rows, *right = room->rows + EDGE * TR_PITCH;
    tr_tile tile = {};
    for (uint32_t first = 0; first < of.dim; first += TR_CHUNK) {
        __syncthreads();
        load<EDGE, TR_CHUNK, WIDE>(of, x, i, first, left);
        load<EDGE, TR_CHUNK, WIDE>(of, y, j, first, right);
        __syncthreads();
        tr_tile_products(&tile, left, at.i, right, at.j, TR_CHUNK);
    }
    return tile;
}

/* The square of m, rows x rows, at (i, j); 0 past its ends. */
template <uint32_t EDGE>
static __device__ __forceinline__ void load_square(room<EDGE> *room, const float *m, uint32_t rows,
                                                   uint32_t i, uint32_t j)
{
    __syncthreads();
    for (uint32_t k = threadIdx.x; k < EDGE * EDGE; k += EDGE * EDGE / 16) {
        uint32_t r = k / EDGE, c = k % EDGE;
        bool in = i + r < rows && j + c < rows;
        room->square[r * (EDGE + 4) + c] = in ? m[(size_t)(i + r) * rows + j + c] : 0;
    }
}

/* y = (or +=) the square times rows `from` on of x, to rows `to` on. */
template <uint32_t EDGE, bool WIDE>
static __device__ __forceinline__ void put_mixture(room<EDGE> *room, const place<EDGE> &at,
                                                   const head &of, const float *x, uint32_t from,
                                                   float *y, uint32_t to, bool add)
{
    for (uint32_t first = 0; first < of.dim; first += EDGE) {
        tr_tile tile = {};
        __syncthreads();
        load<EDGE, EDGE, WIDE>(of, x, from, first, room->rows);
        __syncthreads();
        for (uint32_t j = 0; j < EDGE && from + j < of.rows; j += 4) {
            tr_quad weight[4];
            for (uint32_t a = 0; a < 4; a++)
                weight[a] = tr_shared_four(room->square + at.i[a] * (EDGE + 4) + j);
            for (uint32_t k = 0; k < 4; k++) {
                tr_quad each = {{weight[0].v[k], weight[1].v[k], weight[2].v[k], weight[3].v[k]}};
                tr_tile_add(&tile, each,
                            tr_shared_four(room->rows + (j + k) * (EDGE + 4) + at.across * 4));
            }
        }
        for (uint32_t a = 0; a < 4; a++) {
            tr_quad four = {{tile.v[a][0], tile.v[a][1], tile.v[a][2], tile.v[a][3]}};
            if (to + at.i[a] < of.rows)
                tr_four_put<WIDE>(y + (to + at.i[a]) * of.stride, first + at.across * 4, of.dim,
                                  four, add);
        }
    }
}

/* The same of the transposed square. */
template <uint32_t EDGE, bool WIDE>
static __device__ __forceinline__ void put_transposed(room<EDGE> *room, const place<EDGE> &at,
                                                      const head &of, const float *x, uint32_t from,
                                                      float *y, uint32_t to, bool add)
{
    for (uint32_t first = 0; first < of.dim; first += EDGE) {
        tr_tile tile = {};
        __syncthreads();
        load<EDGE, EDGE, WIDE>(of, x, from, first, room->rows);
        __syncthreads();
        for (uint32_t i = 0; i < EDGE && from + i < of.rows; i++)
            tr_tile_add(&tile, tr_shared_four(room->square + i * (EDGE + 4) + at.down * 4),
                        tr_shared_four(room->rows + i * (EDGE + 4) + at.across * 4));
        for (uint32_t a = 0; a < 4; a++) {
            tr_quad four = {{tile.v[a][0], tile.v[a][1], tile.v[a][2], tile.v[a][3]}};
            uint32_t row = to + at.down * 4 + a;
            if (row < of.rows)
                tr_four_put<WIDE>(y + row * of.stride, first + at.across * 4, of.dim, four, add);
        }
    }
}

/* ---- forward ---- */

/* A warp, in place; all 0 where the mask is 0 everywhere. */
static __device__ __forceinline__ void softmax_row(float *share, const float *mask, uint32_t n)
{
    uint32_t lane = threadIdx.x % TR_WARP;
    float max = -INFINITY, sum = 0;
    for (uint32_t j = lane; j < n; j += TR_WARP)
        if (!mask || mask[j] != 0)
            max = fmaxf(max, share[j]);
    max = tr_warp_max(max);
    for (uint32_t j = lane; j < n; j += TR_WARP) {
        share[j] = !mask || mask[j] != 0 ? expf(share[j] - max) : 0;
        sum += share[j];
    }
    sum = tr_warp_sum(sum);
    for (uint32_t j = lane; j < n; j += TR_WARP)
        share[j] = sum != 0 ? share[j] / sum : 0;
}

template <uint32_t EDGE, bool WIDE>
static __global__ void __launch_bounds__(EDGE *EDGE / 16) attention_kernel(struct tr_attention op)
{
    __shared__ __align__(16) room<EDGE> room;
    place<EDGE> at = place_of<EDGE>(threadIdx.x);
    uint32_t rows = op.rows, warps = EDGE * EDGE / 16 / TR_WARP;
    size_t width = (size_t)op.heads * op.dim, s = blockIdx.x / op.heads;
    size_t in = s * rows * width + (size_t)(blockIdx.x % op.heads) * op.dim;
    const float *mask = op.mask ? op.mask + s * op.mask_stride : NULL;
    float *share = op.share + (size_t)blockIdx.x * rows * rows;
    head of = {rows, op.dim, width};
    for (uint32_t i = 0; i < rows; i += EDGE) {
        for (uint32_t j = 0; j < rows; j += EDGE) {
            tr_tile tile = products<EDGE, WIDE>(&room, at, of, op.q + in, i, op.k + in, j);
            for (uint32_t a = 0; a < 4; a++)
                for (uint32_t b = 0; b < 4; b++)
                    if (i + at.i[a] < rows && j + at.j[b] < rows)
                        share[(size_t)(i + at.i[a]) * rows + j + at.j[b]] = op.scale * tile.v[a][b];
        }
        __syncthreads();
        for (uint32_t r = i + threadIdx.x / TR_WARP; r < i + EDGE && r < rows; r += warps)
            softmax_row(share + (size_t)r * rows, mask, rows);
        for (uint32_t j = 0; j < rows; j += EDGE) {
            load_square(&room, share, rows, i, j);
            put_mixture<EDGE, WIDE>(&room, at, of, op.v + in, j, op.y + in, i, j > 0);
        }
    }
}

/* ---- backward ---- */

/* What a thread has of the sums of share x d of its rows, of one square. */
template <uint32_t EDGE>
static __device__ __forceinline__ void add_means(const place<EDGE> &at, const tr_tile &d,
                                                 const float *share, uint32_t rows, uint32_t i,
                                                 uint32_t j, float (&mean)[4])
{
    for (uint32_t a = 0; a < 4; a++)
        for (uint32_t b = 0; b < 4; b++)
            if (i + at.i[a] < rows && j + at.j[b] < rows)
                mean[a] += share[(size_t)(i + at.i[a]) * rows + j + at.j[b]] * d.v[a][b];
}

/* Together with the other threads of these rows, by way of the square. */
template <uint32_t EDGE>
static __device__ __forceinline__ void gather_means(room<EDGE> *room, const place<EDGE> &at,
                                                    float (&mean)[4])
{
    __syncthreads();
    for (uint32_t a = 0; a < 4; a++)
        room->square[at.i[a] * (EDGE + 4) + at.across] = mean[a];
    __syncthreads();
    for (uint32_t a = 0; a < 4; a++) {
        mean[a] = 0;
        for (uint32_t k = 0; k < EDGE / 4; k++)
            mean[a] += room->square[at.i[a] * (EDGE + 4) + k];
    }
    __syncthreads();
}

/* The square is the gradient at the products: scale share (d - mean). */
template <uint32_t EDGE>
static __device__ __forceinline__ void put_slopes(room<EDGE> *room, const place<EDGE> &at,
                                                  const tr_tile &d, const float (&mean)[4],
                                                  const float *share, uint32_t rows, uint32_t i,
                                                  uint32_t j, float scale)
{
    __syncthreads();
    for (uint32_t a = 0; a < 4; a++) {
        for (uint32_t b = 0; b < 4; b++) {
            bool in = i + at.i[a] < rows && j + at.j[b] < rows;
            float of = in ? share[(size_t)(i + at.i[a]) * rows + j + at.j[b]] : 0;
            room->square[at.i[a] * (EDGE + 4) + at.j[b]] = scale * of * (d.v[a][b] - mean[a]);
        }
    }
}

template <uint32_t EDGE, bool WIDE>
static __global__ void __launch_bounds__(EDGE *EDGE / 16)
    attention_grad_kernel(struct tr_attention_grad op)
{
    __shared__ __align__(16) room<EDGE> room;
    place<EDGE> at = place_of<EDGE>(threadIdx.x);
    uint32_t rows = op.of.rows;
    size_t width = (size_t)op.of.heads * op.of.dim;
    size_t in =
        blockIdx.x / op.of.heads * rows * width + (size_t)(blockIdx.x % op.of.heads) * op.of.dim;
    const float *share = op.of.share + (size_t)blockIdx.x * rows * rows, *dy = op.dy + in;
    const float *q = op.of.q + in, *k = op.of.k + in, *v = op.of.v + in;
    head of = {rows, op.of.dim, width};
    for (uint32_t i = 0; i < rows; i += EDGE) {
        float mean[4] = {0, 0, 0, 0};
        tr_tile d = {};
        for (uint32_t j = 0; j < rows; j += EDGE) {
            d = products<EDGE, WIDE>(&room, at, of, dy, i, v, j);
            add_means(at, d, share, rows, i, j, mean);
        }
        gather_means(&room, at, mean);
        for (uint32_t j = 0; j < rows; j += EDGE) {
            if (rows > EDGE)
                d = products<EDGE, WIDE>(&room, at, of, dy, i, v, j);
            put_slopes(&room, at, d, mean, share, rows, i, j, op.of.scale);
            put_mixture<EDGE, WIDE>(&room, at, of, k, j, op.dq + in, i, j > 0);
            put_transposed<EDGE, WIDE>(&room, at, of, q, i, op.dk + in, j, i > 0);
            load_square(&room, share, rows, i, j);
            put_transposed<EDGE, WIDE>(&room, at, of, dy, i, op.dv + in, j, i > 0);
        }
    }
}

/* ---- operations ---- */

/* Heads that begin at multiples of 16 bytes, in tensors without gaps. */
static bool wide(const struct tr_attention *op, const float *a, const float *b, const float *c,
                 const float *d)
{
    return tr_wide(op->q, op->dim) && tr_wide(op->k, 0) && tr_wide(op->v, 0) && tr_wide(a, 0) &&
           tr_wide(b, 0) && tr_wide(c, 0) && tr_wide(d, 0);
}

extern "C" int tr_cuda_attention_forward(struct tr_backend *backend, const struct tr_attention *op)
{
    cudaStream_t compute = backend->cuda->compute;
    uint32_t blocks = op->samples * op->heads;
    bool by_fours = wide(op, op->y, NULL, NULL, NULL);
    if (blocks == 0 || op->rows == 0)
        return 0;
    if (op->rows <= 32 && by_fours)
        TR_LAUNCH((attention_kernel<32, true>), blocks, 64, compute, *op);
    else if (op->rows <= 32)
        TR_LAUNCH((attention_kernel<32, false>), blocks, 64, compute, *op);
    else if (by_fours)
        TR_LAUNCH((attention_kernel<64, true>), blocks, 256, compute, *op);
    else
        TR_LAUNCH((attention_kernel<64, false>), blocks, 256, compute, *op);
    return tr_cuda_launched(backend, "attention_forward");
}

extern "C" int tr_cuda_attention_backward(struct tr_backend *backend,
                                          const struct tr_attention_grad *op)
{
    cudaStream_t compute = backend->cuda->compute;
    uint32_t blocks = op->of.samples * op->of.heads, rows = op->of.rows;
    bool by_fours = wide(&op->of, op->dy, op->dq, op->dk, op->dv);
    if (blocks == 0 || rows == 0)
        return 0;
    if (rows <= 32 && by_fours)
        TR_LAUNCH((attention_grad_kernel<32, true>), blocks, 64, compute, *op);
    else if (rows <= 32)
        TR_LAUNCH((attention_grad_kernel<32, false>), blocks, 64, compute, *op);
    else if (by_fours)
        TR_LAUNCH((attention_grad_kernel<64, true>), blocks, 256, compute, *op);
    else
        TR_LAUNCH((attention_grad_kernel<64, false>), blocks, 256, compute, *op);
    return tr_cuda_launched(backend, "attention_backward");
}
