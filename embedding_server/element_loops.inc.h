/* embedding_server/element_loops.inc.h -- the loops of element.h in plain C; LOOPS_NAME as in optimizer_loops.inc.h. */

/* At -O2, gcc 12 vectorizes only loops whose length it knows, and no selects between floats if they could trap.
 * Sanitized, that would take gcc a minute. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#pragma GCC optimize("O3", "no-trapping-math")
#endif

#include "embedding_server/element_row.inc.h"

/* ---- one row as another dtype ---- */

#define COPY(kind, type)                                                                           \
    KERNEL void kind##_to_##kind(const type *restrict in, type *restrict out, size_t dim)          \
    {                                                                                              \
        memcpy(out, in, dim * sizeof(type));                                                       \
    }
COPY(f32, float)
COPY(f16, uint16_t)
COPY(bf16, uint16_t)

#define TO_AND_FROM(kind)                                                                          \
    KERNEL void f32_to_##kind(const float *restrict in, uint16_t *restrict out, size_t dim)        \
    {                                                                                              \
        kind##_block(in, out, dim, 1, 0);                                                          \
    }                                                                                              \
    KERNEL void kind##_to_f32(const uint16_t *restrict in, float *restrict out, size_t dim)        \
    {                                                                                              \
        kind##_widen(in, out, dim);                                                                \
    }
TO_AND_FROM(f16)
TO_AND_FROM(bf16)

#define ACROSS(from, to)                                                                           \
    KERNEL void from##_to_##to(const uint16_t *restrict in, uint16_t *restrict out, size_t dim)    \
    {                                                                                              \
        float wide[WIRE_DIM_MAX];                                                                  \
                                                                                                   \
        from##_widen(in, wide, dim);                                                               \
        to##_block(wide, out, dim, 1, 0);                                                          \
    }
ACROSS(f16, bf16)
ACROSS(bf16, f16)

/* ---- many rows ---- */

/* Rows of the dims that most tables have: known here, they need no loops over what is left of a vector. */
#define READ_ROWS(name, from, to, one, dim)                                                        \
    static void name(const struct ebs_weights *weights, to *out, size_t n_dim)                     \
    {                                                                                              \
        (void)n_dim;                                                                               \
        for (size_t i = 0; i < weights->n; i++, out += (dim))                                      \
            if (weights->row[i])                                                                   \
                one((const from *)(weights->row[i]), out, (dim));                                  \
    }
#define READ(pair, from, to)                                                                       \
    READ_ROWS(pair##_8, from, to, pair, 8)                                                         \
    READ_ROWS(pair##_16, from, to, pair, 16)                                                       \
    READ_ROWS(pair##_32, from, to, pair, 32)                                                       \
    READ_ROWS(pair##_64, from, to, pair, 64)                                                       \
    READ_ROWS(pair##_any, from, to, pair, n_dim)                                                   \
    static void pair##_rows(const struct ebs_weights *weights, void *out)                          \
    {                                                                                              \
        size_t dim = weights->dim;                                                                 \
                                                                                                   \
        (dim == 8    ? pair##_8                                                                    \
         : dim == 16 ? pair##_16                                                                   \
         : dim == 32 ? pair##_32                                                                   \
         : dim == 64 ? pair##_64                                                                   \
                     : pair##_any)(weights, out, dim);                                             \
    }
READ(f32_to_f32, float, float)
READ(f32_to_f16, float, uint16_t)
READ(f32_to_bf16, float, uint16_t)
READ(f16_to_f32, uint16_t, float)
READ(f16_to_f16, uint16_t, uint16_t)
READ(f16_to_bf16, uint16_t, uint16_t)
READ(bf16_to_f32, uint16_t, float)
READ(bf16_to_f16, uint16_t, uint16_t)
READ(bf16_to_bf16, uint16_t, uint16_t)

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

#define READ_FROM(from)                                                                            \
    {                                                                                              \
        [WIRE_F32] = from##_to_f32_rows, [WIRE_F16] = from##_to_f16_rows,                          \
        [WIRE_BF16] = from##_to_bf16_rows                                                          \
    }

const struct ebs_element_loops LOOPS_NAME = {
    .read =
        {[WIRE_F32] = READ_FROM(f32), [WIRE_F16] = READ_FROM(f16), [WIRE_BF16] = READ_FROM(bf16)},
    .round = {[WIRE_F32] = f32_round_row, [WIRE_F16] = f16_round_row, [WIRE_BF16] = bf16_round_row},
    .dither =
        {[WIRE_F32] = f32_dither_row, [WIRE_F16] = f16_dither_row, [WIRE_BF16] = bf16_dither_row},
};
