/* trainer/backend/cuda/fours.h -- four neighbouring columns of a row at a time: one access of 16 bytes where addresses allow it.
 *
 * What reads by fours is compiled twice: WIDE, where rows begin at multiples of 16 bytes, and not, where a thread's four columns are read
 * one by one; neighbouring threads then share lines in the first cache. Past the end of a row fours read as 0, and are not written. */
#ifndef TR_CUDA_FOURS_H
#define TR_CUDA_FOURS_H

#include "trainer/backend/cuda/rows.h"

/* Columns c .. c + 3 of a row of n. */
template <bool WIDE>
__device__ __forceinline__ tr_quad tr_four_at(const float *row, uint32_t c, uint32_t n)
{
    tr_quad four = {{0, 0, 0, 0}};
    if (WIDE && c + 4 <= n)
        return *(const tr_quad *)(row + c);
    for (uint32_t k = 0; k < 4; k++)
        if (c + k < n)
            four.v[k] = row[c + k];
    return four;
}

template <bool WIDE>
__device__ __forceinline__ void tr_four_put(float *row, uint32_t c, uint32_t n, tr_quad four,
                                            bool add)
{
    if (add) {
        tr_quad was = tr_four_at<WIDE>(row, c, n);
        for (uint32_t k = 0; k < 4; k++)
            four.v[k] = was.v[k] + four.v[k];
    }
    if (WIDE && c + 4 <= n) {
        *(tr_quad *)(row + c) = four;
        return;
    }
    for (uint32_t k = 0; k < 4; k++)
        if (c + k < n)
            row[c + k] = four.v[k];
}

/* Whether rows that are `stride` apart begin at multiples of 16 bytes; of a NULL nothing is read. */
static inline bool tr_wide(const float *x, size_t stride)
{
    return !x || ((uintptr_t)x % 16 == 0 && stride % 4 == 0);
}

/* And where a sample has several rows of `columns`. */
static inline bool tr_wide_rows(const float *x, size_t stride, uint32_t rows, uint32_t columns)
{
    return !x || (tr_wide(x, stride) && (rows == 1 || columns % 4 == 0));
}

/* Threads for the columns of a row, so that each has four or more: a power of 2, a warp at most. */
static inline uint32_t tr_four_lanes(uint32_t columns)
{
    uint32_t lanes = 1;
    while (lanes < TR_WARP && lanes * 4 < columns)
        lanes *= 2;
    return lanes;
}

/* Of `lanes` such threads, side by side; all of the warp come here. */
static __device__ __forceinline__ float tr_lanes_sum(float value, uint32_t lanes)
{
    for (uint32_t other = lanes / 2; other > 0; other /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, other);
    return value;
}

#endif
