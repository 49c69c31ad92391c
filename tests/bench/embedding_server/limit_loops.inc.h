/* tests/bench/embedding_server/limit_loops.inc.h -- the loops of limit.h, once per instruction set; LOOPS names
 * the result. Sizes and prefetch level are constants in each copy of the loop. */
#include "tests/bench/embedding_server/limit.h"

#include <stdlib.h>

typedef float line __attribute__((vector_size(64), aligned(64), may_alias));
typedef float half __attribute__((vector_size(32), aligned(32), may_alias));
#define LINE (sizeof(line))

#define INLINE static inline __attribute__((always_inline))

INLINE void ask_for(const uint8_t *row, size_t bytes, int level)
{
    for (size_t at = 0; at < bytes; at += LINE)
        switch (level) {
        case 3:
            __builtin_prefetch(row + at, 0, 3);
            break;
        case 2:
            __builtin_prefetch(row + at, 0, 2);
            break;
        default:
            __builtin_prefetch(row + at, 0, 0);
        }
}

INLINE void copy_row(uint8_t *out, const uint8_t *row, size_t bytes)
{
    if (bytes < LINE)
        *(half *)out = *(const half *)row;
    else
        for (size_t at = 0; at < bytes; at += LINE)
            *(line *)(out + at) = *(const line *)(row + at);
}

INLINE void update_row(uint8_t *row, const uint8_t *grad, size_t bytes, size_t grad_bytes)
{
    for (size_t part = 0; part < bytes; part += grad_bytes)
        for (size_t at = 0; at < grad_bytes; at += LINE)
            *(line *)(row + part + at) -= *(const line *)(grad + at) * LIMIT_RATE;
}

/* grad_bytes 0: copy. */
INLINE void run(const struct limit_case *limit, const uint64_t *position, size_t n, float *buffer,
                size_t bytes, size_t grad_bytes, int level)
{
    size_t stride = limit->stride, ahead = limit->ahead < n ? limit->ahead : n;
    size_t step = grad_bytes ? grad_bytes : bytes;
    uint8_t *row = limit->row, *at = (uint8_t *)buffer;

    for (size_t i = 0; i < ahead; i++)
        ask_for(row + position[i] * stride, bytes, level);
    for (size_t i = 0; i < n; i++, at += step) {
        if (i + ahead < n)
            ask_for(row + position[i + ahead] * stride, bytes, level);
        if (grad_bytes)
            update_row(row + position[i] * stride, at, bytes, grad_bytes);
        else
            copy_row(at, row + position[i] * stride, bytes);
    }
}

#define CASE(row_bytes, gradient)                                                                  \
    if (limit->bytes == (row_bytes) && limit->grad_bytes == (gradient)) {                          \
        if (limit->level == 3)                                                                     \
            run(limit, position, n, buffer, row_bytes, gradient, 3);                               \
        else if (limit->level == 2)                                                                \
            run(limit, position, n, buffer, row_bytes, gradient, 2);                               \
        else                                                                                       \
            run(limit, position, n, buffer, row_bytes, gradient, 0);                               \
        return;                                                                                    \
    }

static void copy(const struct limit_case *limit, const uint64_t *position, size_t n, float *buffer)
{
    CASE(32, 0)
    CASE(64, 0)
    CASE(256, 0)
    CASE(512, 0)
    abort(); /* a size that nobody has asked for before */
}

static void update(const struct limit_case *limit, const uint64_t *position, size_t n,
                   float *buffer)
{
    CASE(64, 64)
    CASE(128, 64)
    CASE(192, 64)
    CASE(256, 256)
    CASE(512, 256)
    CASE(768, 256)
    abort();
}

const struct limit_loops LOOPS = {copy, update};
