/* embedding_server/element.h -- stored weights: float32, float16 or bfloat16 (enum wire_dtype); float32 in use, any of them
 * on the wire.
 *
 * Widening is exact. To 16 bits there are two roundings, and neither makes infinity of a finite value: what is
 * beyond the largest finite one (65,504 in float16, 3.3895e38 in bfloat16) becomes it. Infinity and NaN stay.
 *   - to the nearest, ties to even: initial values, and what is read in another dtype than it is stored in;
 *   - stochastic: weights after an update. A value between two neighbours a < x < b becomes b with
 *     probability (x - a) / (b - a), else a, so that many small updates add up instead of being lost (Gupta et al.
 *     2015, "Deep Learning with Limited Numerical Precision"). 16 random bits decide: the probability
 *     is exact for bfloat16 and for normal float16, and for subnormal float16 (below 2^-14) up to 2^-16 too small.
 *     What can be stored stays as it is.
 * Equal bits on every instruction set. Touch: any thread. */
#ifndef EBS_ELEMENT_H
#define EBS_ELEMENT_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/wire/method.h"

/* Where the weights of many rows are. */
struct ebs_weights {
    const uint8_t *const *row; /* [n] where their weights are, 4-byte aligned; NULL: left out */
    size_t n, dim;
    uint32_t dtype; /* enum wire_dtype */
};

/* out[n][dim]: the rows' weights; of a row that is left out nothing is written. One call for many rows. */
void ebs_element_widen(const struct ebs_weights *weights, float *out);

/* The same as elements of `dtype`: what is stored in it is copied as it is. @out: aligned as its elements are. */
void ebs_element_read(const struct ebs_weights *weights, uint32_t dtype, void *out);

/* To the nearest. @in: [dim], dim <= WIRE_DIM_MAX     @out: [dim] elements of dtype, 4-byte aligned. */
void ebs_element_round(uint32_t dtype, const float *in, uint8_t *out, size_t dim);

/* Stochastic: element j by bits 16 (j % 4) and up of rt_draw(key, j / 4). float32: a copy.
 * @in: [dim], dim <= WIRE_DIM_MAX     @out: [dim], 4-byte aligned. */
void ebs_element_dither(uint32_t dtype, uint64_t key, const float *in, uint8_t *out, size_t dim);

/* The same by instruction set; by dtype, and read by the dtype stored and then that of `out`. */
struct ebs_element_loops {
    void (*read[3][3])(const struct ebs_weights *weights, void *out);
    void (*round[3])(const float *in, uint8_t *out, size_t dim);
    void (*dither[3])(uint64_t key, const float *in, uint8_t *out, size_t dim);
};
extern const struct ebs_element_loops ebs_element_plain;
extern const struct ebs_element_loops ebs_element_avx2;
extern const struct ebs_element_loops ebs_element_avx512;

#endif
