/* trainer/backend/cuda/tiles.h -- products of rows that lie in shared memory: what the dot interaction and attention are made of.
 *
 * Rows are brought 32 columns at a time, with a pitch of 36 floats: eight neighbouring rows then begin in different banks, and fours of
 * them are read without conflict. A thread has a tile of 4 x 4 results in registers: of eight fours read, 64 multiplications come, so that
 * shared memory is not what limits them. Sums are float32, one after the other in ascending order. */
#ifndef TR_CUDA_TILES_H
#define TR_CUDA_TILES_H

#include "trainer/backend/cuda/fours.h"

#define TR_CHUNK 32u /* columns */
#define TR_PITCH 36u

struct tr_tile {
    float v[4][4];
};

static __device__ __forceinline__ tr_quad tr_shared_four(const float *at)
{
    return *(const tr_quad *)at;
}

/* tile[a][b] += row i[a] of x times row j[b] of y, over the first n columns that are there; n <= TR_CHUNK. */
static __device__ __forceinline__ void tr_tile_products(tr_tile *tile, const float *x,
                                                        const uint32_t (&i)[4], const float *y,
                                                        const uint32_t (&j)[4], uint32_t n)
{
    for (uint32_t c = 0; c < n; c += 4) {
        tr_quad left[4];
        for (uint32_t a = 0; a < 4; a++)
            left[a] = tr_shared_four(x + i[a] * TR_PITCH + c);
        for (uint32_t b = 0; b < 4; b++) {
            tr_quad right = tr_shared_four(y + j[b] * TR_PITCH + c);
            for (uint32_t a = 0; a < 4; a++)
                for (uint32_t k = 0; k < 4; k++)
                    tile->v[a][b] += left[a].v[k] * right.v[k];
        }
    }
}

/* tile[a][..] += x[a] y: one row of a sum of rows. */
static __device__ __forceinline__ void tr_tile_add(tr_tile *tile, tr_quad x, tr_quad y)
{
    for (uint32_t a = 0; a < 4; a++)
        for (uint32_t k = 0; k < 4; k++)
            tile->v[a][k] += x.v[a] * y.v[k];
}

#endif
