/* trainer/backend/cuda/dot.cu -- the interaction of DLRM: products of all pairs of a sample's n vectors, and their gradients.
 *
 * Up to 64 vectors: a team of threads has a sample, and a block a few teams, so that each x comes from memory once and each result goes
 * there once. Forward, a thread has 4 x 4 pairs: with T = n / 4, rows t, t + T, t + 2T, t + 3T times those of another t, so n = 27 is 28
 * tiles, a warp; interleaved, since the eight rows that neighbours read then lie in different banks, and each pair belongs to one
 * tile. Results are put in order in shared memory and written by neighbours. Backward, dx = G x with G[i][j] = G[j][i] = dy of the pair, made in
 * shared memory; a thread has 4 rows x 8 columns of dx. More vectors than 64: blocks of 64 x 64 pairs (or 64 rows x 64 columns), x is read
 * once per block of 64, from the second cache but for the first.
 *
 * A sample of n = 27, dim 128: forward 27 x 128 + 351 floats = 15.2 KB and 351 x 128 x 2 = 90 kflop (115 with what tiles compute besides);
 * backward 2 x 27 x 128 + 351 floats = 29 KB and 27 x 28 x 128 x 2 = 194 kflop. At 3 TB/s, 70 % of what a copy has on an H200, a processor
 * has 1,100 (2,150) cycles for a sample; multiplications take 512 (756) of them, and the fours that they read from shared memory 256 (340)
 * instructions of a warp, one to four cycles each. Tensor cores would need bfloat16, or thrice the work, for the exact result.
 *
 * Sums are float32, in ascending order of columns, or vectors: the truth's, but that the compiler fuses multiplication and addition. */
#include "trainer/backend/cuda/tiles.h"

#define TEAMS_N     64u   /* vectors of a sample that is a team's */
#define TEAMS_BLOCK 128u  /* threads, or a team's */
#define TEAM_MOST   160u  /* of 64 vectors: 136 tiles */
#define ROWS_SHARED 4608u /* floats: rows of all teams */
#define GRAD_SHARED 7680u /* rows and G of all teams */
#define DOT_N_MAX   1024u
#define EDGE        64u /* of a block, where there are more */

/* A block's threads: `teams` of `team` threads, a multiple of 8; tiles = ceil(n / 4). */
struct teams {
    uint32_t tiles, team, teams, block;
};

static struct teams teams_of(uint32_t n, uint32_t threads, uint32_t floats, uint32_t shared)
{
    struct teams teams = {};
    teams.tiles = (n + 3) / 4;
    teams.team = (threads + 7) / 8 * 8;
    teams.teams = TEAMS_BLOCK / teams.team;
    if (teams.teams > shared / floats)
        teams.teams = shared / floats;
    if (teams.teams < 1)
        teams.teams = 1;
    teams.block = (teams.team * teams.teams + TR_WARP - 1) / TR_WARP * TR_WARP;
    return teams;
}

/* Where the pair i <= j is among all; i < j without self. */
static __device__ __forceinline__ uint32_t pair_at(uint32_t n, bool self, uint32_t i, uint32_t j)
{
    return i * n - i * (i + 1) / 2 + (self ? j : j - i - 1);
}

/* 32 columns of vectors base .. base + rows - 1 of a sample, four loads under way at a time; 0 past the end. */
template <bool WIDE, uint32_t N>
static __device__ __forceinline__ void load_rows(const tr_list<N> &list, uint32_t base,
                                                 uint32_t rows, size_t s, uint32_t first,
                                                 uint32_t dim, uint32_t lane, uint32_t team,
                                                 float *to)
{
    uint32_t c = lane % 8 * 4, step = team / 8;
    for (uint32_t r = lane / 8; r < rows; r += 4 * step) {
        tr_quad held[4];
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t at = base + r + k * step;
            if (r + k * step < rows)
                held[k] = tr_four_at<WIDE>(list.x[at] + s * list.stride[at], first + c, dim);
        }
        for (uint32_t k = 0; k < 4; k++)
            if (r + k * step < rows)
                *(tr_quad *)(to + (r + k * step) * TR_PITCH + c) = held[k];
    }
}

static __device__ __forceinline__ uint32_t chunk_of(uint32_t dim, uint32_t first)
{
    return dim - first < TR_CHUNK ? dim - first : TR_CHUNK;
}

/* ---- forward ---- */

/* The rows of a thread's tile: the lane-th pair of 0 .. tiles - 1 with itself and all behind it. Rows past the end: the last one. */
static __device__ __forceinline__ bool tile_rows(uint32_t lane, uint32_t tiles, uint32_t n,
                                                 uint32_t (&i)[4], uint32_t (&j)[4])
{
    uint32_t left = 0, rest = lane;
    while (left < tiles && rest >= tiles - left)
        rest -= tiles - left++;
    for (uint32_t a = 0; a < 4; a++) {
        i[a] = left + a * tiles < n ? left + a * tiles : n - 1;
        j[a] = left + rest + a * tiles < n ? left + rest + a * tiles : n - 1;
    }
    return left < tiles;
}

/* To their places in `pairs`. Of two rows of the same t there is one place, and a tile with itself has it twice: a < b. */
static __device__ __forceinline__ void put_pairs(const tr_tile &tile, uint32_t lane, uint32_t tiles,
                                                 uint32_t n, bool self, float *pairs)
{
    uint32_t left = 0, rest = lane;
    while (rest >= tiles - left)
        rest -= tiles - left++;
    for (uint32_t a = 0; a < 4; a++) {
        for (uint32_t b = 0; b < 4; b++) {
            uint32_t i = left + a * tiles, j = left + rest + b * tiles;
            bool once = rest > 0 || a < b || (self && a == b);
            if (once && i < n && j < n)
                pairs[pair_at(n, self, i < j ? i : j, i < j ? j : i)] = tile.v[a][b];
        }
    }
}

template <bool WIDE>
static __global__ void __launch_bounds__(TEAM_MOST)
    dot_kernel(tr_list<TEAMS_N> list, struct tr_dot op, struct teams teams)
{
    __shared__ __align__(16) float shared[ROWS_SHARED];
    uint32_t who = threadIdx.x / teams.team, lane = threadIdx.x % teams.team, n = op.n;
    size_t s = (size_t)blockIdx.x * teams.teams + who;
    bool mine = who < teams.teams && s < op.samples;
    float *rows = shared + (mine ? who * n * TR_PITCH : 0);
    uint32_t i[4], j[4];
    bool has_tile = tile_rows(lane, teams.tiles, n, i, j);
    tr_tile tile = {};
    for (uint32_t first = 0; first < op.dim; first += TR_CHUNK) {
        if (mine)
            load_rows<WIDE>(list, 0, n, s, first, op.dim, lane, teams.team, rows);
        __syncthreads();
        if (mine && has_tile)
            tr_tile_products(&tile, rows, i, rows, j, chunk_of(op.dim, first));
        __syncthreads();
    }
    if (mine && has_tile)
        put_pairs(tile, lane, teams.tiles, n, op.self, rows);
    __syncthreads();
    uint32_t columns = n * (n - 1) / 2 + (op.self ? n : 0);
    for (uint32_t p = lane; mine && p < columns; p += teams.team)
        op.y[s * op.y_stride + p] = rows[p];
}

static_assert(TEAMS_N * (TEAMS_N + 1) / 2 <= TEAMS_N * TR_PITCH, "pairs go where rows were");

/* 64 x 64 pairs of a sample, of groups I <= J: thread t has rows t / 16 + 16 a and t % 16 + 16 b. */
template <bool WIDE>
static __global__ void dot_groups_kernel(tr_list<DOT_N_MAX> list, struct tr_dot op, uint32_t groups)
{
    __shared__ __align__(16) float left[EDGE * TR_PITCH], right[EDGE * TR_PITCH];
    uint32_t blocks = groups * (groups + 1) / 2, rest = blockIdx.x % blocks, group = 0;
    size_t s = blockIdx.x / blocks;
    while (rest >= groups - group)
        rest -= groups - group++;
    uint32_t i_base = group * EDGE, j_base = (group + rest) * EDGE, i[4], j[4];
    uint32_t i_rows = min(EDGE, op.n - i_base), j_rows = min(EDGE, op.n - j_base);
    for (uint32_t a = 0; a < 4; a++) {
        i[a] = threadIdx.x / 16 + 16 * a;
        j[a] = threadIdx.x % 16 + 16 * a;
    }
    tr_tile tile = {};
    for (uint32_t first = 0; first < op.dim; first += TR_CHUNK) {
        load_rows<WIDE>(list, i_base, i_rows, s, first, op.dim, threadIdx.x, TR_BLOCK, left);
        load_rows<WIDE>(list, j_base, j_rows, s, first, op.dim, threadIdx.x, TR_BLOCK, right);
        __syncthreads();
        tr_tile_products(&tile, left, i, right, j, chunk_of(op.dim, first));
        __syncthreads();
    }
    for (uint32_t a = 0; a < 4; a++) {
        for (uint32_t b = 0; b < 4; b++) {
            uint32_t from = i_base + i[a], to = j_base + j[b];
            if (to < op.n && (from < to || (op.self && from == to)))
                op.y[s * op.y_stride + pair_at(op.n, op.self, from, to)] = tile.v[a][b];
        }
    }
}

/* ---- backward ---- */

static __device__ __forceinline__ float weight_of(const float *dy, uint32_t n, bool self,
                                                  uint32_t i, uint32_t j)
{
    if (i == j)
        return self ? 2 * dy[pair_at(n, self, i, i)] : 0;
    return dy[pair_at(n, self, i < j ? i : j, i < j ? j : i)];
}

/* g[i][j], of `pitch` columns a row; 0 past the end. */
static __device__ __forceinline__ void spread_weights(const float *dy, uint32_t n, bool self,
                                                      uint32_t pitch, uint32_t lane, uint32_t team,
                                                      float *g)
{
    for (uint32_t i = lane / 8; i < n; i += team / 8)
        for (uint32_t j = lane % 8; j < pitch; j += 8)
            g[i * pitch + j] = j < n ? weight_of(dy, n, self, i, j) : 0;
}

template <bool WIDE, uint32_t N>
static __device__ __forceinline__ void put_rows(const tr_list<N> &list, uint32_t first_row,
                                                uint32_t n, size_t s, uint32_t c, uint32_t dim,
                                                const tr_tile &tile)
{
    for (uint32_t a = 0; a < 4; a++) {
        uint32_t i = first_row + a;
        tr_quad four = {{tile.v[a][0], tile.v[a][1], tile.v[a][2], tile.v[a][3]}};
        if (i < n && list.dx[i])
            tr_four_put<WIDE>(list.dx[i] + s * list.stride[i], c, dim, four, list.add[i]);
    }
}

template <bool WIDE>
static __global__ void __launch_bounds__(TEAMS_BLOCK)
    dot_grad_kernel(tr_list<TEAMS_N> list, struct tr_dot_grad op, struct teams teams)
{
    __shared__ __align__(16) float shared[GRAD_SHARED];
    uint32_t who = threadIdx.x / teams.team, lane = threadIdx.x % teams.team, n = op.n;
    uint32_t pitch = teams.tiles * 4, columns = n * (n - 1) / 2 + (op.self ? n : 0);
    size_t s = (size_t)blockIdx.x * teams.teams + who;
    bool mine = who < teams.teams && s < op.samples, has_tile = lane / 4 < teams.tiles;
    float *rows = shared + (mine ? who * n * (TR_PITCH + pitch) : 0), *g = rows + n * TR_PITCH;
    uint32_t row = lane / 4 * 4, c = lane % 4 * 4;
    for (uint32_t p = lane; mine && p < columns; p += teams.team)
        rows[p] = op.dy[s * op.dy_stride + p];
    __syncthreads();
    if (mine)
        spread_weights(rows, n, op.self, pitch, lane, teams.team, g);
    __syncthreads();
    for (uint32_t first = 0; first < op.dim; first += TR_CHUNK) {
        if (mine)
            load_rows<WIDE>(list, 0, n, s, first, op.dim, lane, teams.team, rows);
        __syncthreads();
        tr_tile near = {}, far = {};
        for (uint32_t j = 0; mine && has_tile && j < n; j++) {
            tr_quad weight = tr_shared_four(g + j * pitch + row);
            tr_tile_add(&near, weight, tr_shared_four(rows + j * TR_PITCH + c));
            tr_tile_add(&far, weight, tr_shared_four(rows + j * TR_PITCH + c + 16));
        }
        if (mine && has_tile) {
            put_rows<WIDE>(list, row, n, s, first + c, op.dim, near);
            put_rows<WIDE>(list, row, n, s, first + c + 16, op.dim, far);
        }
        __syncthreads();
    }
}

#define GROUP_PITCH 68u

/* 64 rows x 64 columns of a sample's dx, vectors 32 at a time: thread t has rows 4 (t / 16) and on, columns 4 (t % 16) and on. */
template <bool WIDE>
static __global__ void dot_grad_groups_kernel(tr_list<DOT_N_MAX> list, struct tr_dot_grad op,
                                              uint32_t groups, uint32_t chunks)
{
    __shared__ __align__(16) float g[TR_CHUNK * GROUP_PITCH], rows[TR_CHUNK * GROUP_PITCH];
    uint32_t chunk = blockIdx.x % chunks, group = blockIdx.x / chunks % groups, t = threadIdx.x;
    size_t s = blockIdx.x / chunks / groups;
    uint32_t row = t / 16 * 4, c = t % 16 * 4, first = chunk * EDGE, base = group * EDGE;
    const float *dy = op.dy + s * op.dy_stride;
    tr_tile tile = {};
    for (uint32_t from = 0; from < op.n; from += TR_CHUNK) {
        for (uint32_t j = t / EDGE; j < TR_CHUNK; j += TR_BLOCK / EDGE) {
            uint32_t i = base + t % EDGE;
            bool in = from + j < op.n && i < op.n;
            g[j * GROUP_PITCH + t % EDGE] = in ? weight_of(dy, op.n, op.self, from + j, i) : 0;
        }
        for (uint32_t j = t / 16; j < TR_CHUNK && from + j < op.n; j += TR_BLOCK / 16)
            *(tr_quad *)(rows + j * GROUP_PITCH + c) =
                tr_four_at<WIDE>(list.x[from + j] + s * list.stride[from + j], first + c, op.dim);
        __syncthreads();
        for (uint32_t j = 0; j < TR_CHUNK && from + j < op.n; j++)
            tr_tile_add(&tile, tr_shared_four(g + j * GROUP_PITCH + row),
                        tr_shared_four(rows + j * GROUP_PITCH + c));
        __syncthreads();
    }
    put_rows<WIDE>(list, base + row, op.n, s, first + c, op.dim, tile);
}

/* ---- operations ---- */

static bool all_wide(uint32_t n, const float *const *x, const size_t *stride, float *const *dx)
{
    bool wide = true;
    for (uint32_t i = 0; i < n; i++)
        wide = wide && tr_wide(x[i], stride[i]) && (!dx || tr_wide(dx[i], stride[i]));
    return wide;
}

static int too_many(struct tr_backend *backend, uint32_t n)
{
    return tr_cuda_fail(backend->cuda, RT_EBACKEND,
                        "dot: %u vectors, at most %u, 2^32 floats apart", n, DOT_N_MAX);
}

static int groups_forward(struct tr_backend *backend, const struct tr_dot *op, bool wide)
{
    static tr_list<DOT_N_MAX> list; /* 21 KB; the step thread's */
    uint32_t groups = (op->n + EDGE - 1) / EDGE;
    uint32_t blocks = op->samples * (groups * (groups + 1) / 2);
    if (!tr_fill(&list, op->n, op->x, op->x_stride, NULL, NULL))
        return too_many(backend, op->n);
    if (wide)
        TR_LAUNCH(dot_groups_kernel<true>, blocks, TR_BLOCK, backend->cuda->compute, list, *op,
                  groups);
    else
        TR_LAUNCH(dot_groups_kernel<false>, blocks, TR_BLOCK, backend->cuda->compute, list, *op,
                  groups);
    return tr_cuda_launched(backend, "dot_forward");
}

extern "C" int tr_cuda_dot_forward(struct tr_backend *backend, const struct tr_dot *op)
{
    tr_list<TEAMS_N> list = {};
    bool wide = all_wide(op->n, op->x, op->x_stride, NULL);
    if (op->samples == 0 || op->n == 0)
        return 0;
    if (op->n > TEAMS_N)
        return groups_forward(backend, op, wide);
    uint32_t tiles = (op->n + 3) / 4;
    struct teams teams = teams_of(op->n, tiles * (tiles + 1) / 2, op->n * TR_PITCH, ROWS_SHARED);
    uint32_t blocks = tr_blocks(op->samples, teams.teams);
    if (!tr_fill(&list, op->n, op->x, op->x_stride, NULL, NULL))
        return too_many(backend, op->n);
    if (wide)
        TR_LAUNCH(dot_kernel<true>, blocks, teams.block, backend->cuda->compute, list, *op, teams);
    else
        TR_LAUNCH(dot_kernel<false>, blocks, teams.block, backend->cuda->compute, list, *op, teams);
    return tr_cuda_launched(backend, "dot_forward");
}

static int groups_backward(struct tr_backend *backend, const struct tr_dot_grad *op,
                           float *const *dx, bool wide)
{
    static tr_list<DOT_N_MAX> list;
    uint32_t groups = (op->n + EDGE - 1) / EDGE, chunks = (op->dim + EDGE - 1) / EDGE;
    uint32_t blocks = op->samples * groups * chunks;
    if (!tr_fill(&list, op->n, op->x, op->x_stride, dx, op->add))
        return too_many(backend, op->n);
    if (wide)
        TR_LAUNCH(dot_grad_groups_kernel<true>, blocks, TR_BLOCK, backend->cuda->compute, list, *op,
                  groups, chunks);
    else
        TR_LAUNCH(dot_grad_groups_kernel<false>, blocks, TR_BLOCK, backend->cuda->compute, list,
                  *op, groups, chunks);
    return tr_cuda_launched(backend, "dot_backward");
}

static int teams_backward(struct tr_backend *backend, const struct tr_dot_grad *op,
                          float *const *dx, bool wide)
{
    tr_list<TEAMS_N> list = {};
    uint32_t tiles = (op->n + 3) / 4;
    struct teams teams = teams_of(op->n, tiles * 4, op->n * (TR_PITCH + tiles * 4), GRAD_SHARED);
    uint32_t blocks = tr_blocks(op->samples, teams.teams);
    if (!tr_fill(&list, op->n, op->x, op->x_stride, dx, op->add))
        return too_many(backend, op->n);
    if (wide)
        TR_LAUNCH(dot_grad_kernel<true>, blocks, teams.block, backend->cuda->compute, list, *op,
                  teams);
    else
        TR_LAUNCH(dot_grad_kernel<false>, blocks, teams.block, backend->cuda->compute, list, *op,
                  teams);
    return tr_cuda_launched(backend, "dot_backward");
}

/* What of dx is given for the round-th time: a tensor may be several of the vectors, and they are added in their order. Whether any is. */
static bool dx_of_round(const struct tr_dot_grad *op, uint32_t round, float **dx)
{
    bool any = false;
    for (uint32_t i = 0; i < op->n; i++) {
        uint32_t before = 0;
        for (uint32_t k = 0; op->dx[i] && k < i; k++)
            before += op->dx[k] == op->dx[i];
        dx[i] = before == round ? op->dx[i] : NULL;
        any = any || dx[i];
    }
    return any;
}

extern "C" int tr_cuda_dot_backward(struct tr_backend *backend, const struct tr_dot_grad *op)
{
    float *dx[DOT_N_MAX];
    int err = op->n > DOT_N_MAX ? too_many(backend, op->n) : 0;
    if (err || op->samples == 0)
        return err;
    bool wide = all_wide(op->n, op->x, op->x_stride, op->dx);
    for (uint32_t round = 0; !err && dx_of_round(op, round, dx); round++)
        err = op->n > TEAMS_N ? groups_backward(backend, op, dx, wide)
                              : teams_backward(backend, op, dx, wide);
    return err;
}
