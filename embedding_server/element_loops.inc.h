/* embedding_server/element_loops.inc.h -- the loops of element.h in plain C; LOOPS_NAME as in optimizer_loops.inc.h. */

/* At -O2, gcc 12 vectorizes only loops whose length it knows, and no selects between floats if they could trap.
 * Sanitized, that would take gcc a minute. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#pragma GCC optimize("O3", "no-trapping-math")
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
                one((const type *)(weights->row[i]), out, (dim));                                  \
    }
#define WIDEN_DIMS(dtype, type, one)                                                               \
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
WIDEN_DIMS(f32, float, f32_copy)
WIDEN_DIMS(f16, uint16_t, f16_widen)
WIDEN_DIMS(bf16, uint16_t, bf16_widen)

static void f32_round_row(const float *in, uint8_t *out, size_t dim)
{
    memcpy(out, in, dim * sizeof(float));
}

static void f32_dither_row(uint64_t key, const float *in, uint8_t *out, size_t dim)
{
    (void)key;
    memcpy(out, in, dim * sizeof(float));
}

/* Rounding works on whole registers: from and to copies that have them. */
#define NARROW_ROW(kind)                                                                           \
    static void kind##_round_row(const float *in, uint8_t *out, size_t dim)                        \
    {                                                                                              \
        float wide[WIRE_DIM_MAX] = {0};                                                            \
        uint16_t half[WIRE_DIM_MAX];                                                               \
                                                                                                   \
        memcpy(wide, in, dim * sizeof(*wide));                                                     \
        kind##_round(wide, half, (dim + LANES - 1) / LANES * LANES);                               \
        memcpy(out, half, dim * sizeof(*half));                                                    \
    }                                                                                              \
    static void kind##_dither_row(uint64_t key, const float *in, uint8_t *out, size_t dim)         \
    {                                                                                              \
        float wide[WIRE_DIM_MAX] = {0};                                                            \
        uint16_t half[WIRE_DIM_MAX];                                                               \
                                                                                                   \
        memcpy(wide, in, dim * sizeof(*wide));                                                     \
        kind##_dither(key, wide, half, (dim + LANES - 1) / LANES * LANES);                         \
        memcpy(out, half, dim * sizeof(*half));                                                    \
    }
NARROW_ROW(f16)
NARROW_ROW(bf16)

const struct ebs_element_loops LOOPS_NAME = {
    .widen =
        {[WIRE_F32] = f32_widen_rows, [WIRE_F16] = f16_widen_rows, [WIRE_BF16] = bf16_widen_rows},
    .round = {[WIRE_F32] = f32_round_row, [WIRE_F16] = f16_round_row, [WIRE_BF16] = bf16_round_row},
    .dither =
        {[WIRE_F32] = f32_dither_row, [WIRE_F16] = f16_dither_row, [WIRE_BF16] = bf16_dither_row},
};
