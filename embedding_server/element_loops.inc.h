/* embedding_server/element_loops.inc.h -- the loops of element.h in plain C; LOOPS_NAME as in optimizer_loops.inc.h. */

/* At -O2, gcc 12 vectorizes only loops whose length it knows. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

#include "embedding_server/element_row.inc.h"

static inline void f32_copy(const float *restrict in, float *restrict out, size_t dim)
{
    memcpy(out, in, dim * sizeof(float));
}

/* Rows of the dims that most tables have: known here, they need no loops over what is left of a vector. */
#define WIDEN_ROWS(name, type, one, dim)                                                           \
    static void name(const struct ebs_weights *weights, float *out, size_t n_dim)                  \
    {                                                                                              \
        (void)n_dim;                                                                               \
        for (size_t i = 0; i < weights->n; i++, out += (dim))                                      \
            if (weights->row[i])                                                                   \
                one((const type *)(weights->row[i] + weights->offset), out, (dim));                \
    }
#define WIDEN(dtype, type, one)                                                                    \
    WIDEN_ROWS(dtype##_rows_8, type, one, 8)                                                       \
    WIDEN_ROWS(dtype##_rows_16, type, one, 16)                                                     \
    WIDEN_ROWS(dtype##_rows_32, type, one, 32)                                                     \
    WIDEN_ROWS(dtype##_rows_64, type, one, 64)                                                     \
    WIDEN_ROWS(dtype##_rows, type, one, n_dim)                                                     \
    static void dtype##_widen_rows(const struct ebs_weights *weights, float *out)                  \
    {                                                                                              \
        size_t dim = weights->dim;                                                                 \
                                                                                                   \
        (dim == 8    ? dtype##_rows_8                                                              \
         : dim == 16 ? dtype##_rows_16                                                             \
         : dim == 32 ? dtype##_rows_32                                                             \
         : dim == 64 ? dtype##_rows_64                                                             \
                     : dtype##_rows)(weights, out, dim);                                           \
    }
WIDEN(f32, float, f32_copy)
WIDEN(f16, uint16_t, f16_widen)
WIDEN(bf16, uint16_t, bf16_widen)

static void f32_round_row(const float *in, uint8_t *out, size_t dim)
{
    memcpy(out, in, dim * sizeof(float));
}

static void f16_round_row(const float *in, uint8_t *out, size_t dim)
{
    f16_round(in, (uint16_t *)out, dim);
}

static void bf16_round_row(const float *in, uint8_t *out, size_t dim)
{
    bf16_round(in, (uint16_t *)out, dim);
}

static void f32_dither_row(uint64_t key, const float *in, uint8_t *out, size_t dim)
{
    (void)key;
    memcpy(out, in, dim * sizeof(float));
}

static void f16_dither_row(uint64_t key, const float *in, uint8_t *out, size_t dim)
{
    f16_dither(key, in, (uint16_t *)out, dim);
}

static void bf16_dither_row(uint64_t key, const float *in, uint8_t *out, size_t dim)
{
    bf16_dither(key, in, (uint16_t *)out, dim);
}

const struct ebs_element_loops LOOPS_NAME = {
    .widen =
        {[WIRE_F32] = f32_widen_rows, [WIRE_F16] = f16_widen_rows, [WIRE_BF16] = bf16_widen_rows},
    .round = {[WIRE_F32] = f32_round_row, [WIRE_F16] = f16_round_row, [WIRE_BF16] = bf16_round_row},
    .dither =
        {[WIRE_F32] = f32_dither_row, [WIRE_F16] = f16_dither_row, [WIRE_BF16] = bf16_dither_row},
};
