/* embedding_server/init.inc.h -- draws of a row into values, compiled once per instruction set (INIT_NAME).
 *
 * Sixteen elements at a time, in loops that the compiler turns into vectors. The normal distribution is
 * Box-Muller as in runtime/base/rand.h, with log and cos written out: libm's take one number per
 * call (350 ns for a row of 16, 30 here), and differ between machines in the last bit. Here each operation is one of
 * IEEE's basic ones, in double and in a fixed order, so the bits are the same everywhere. Errors are
 * around 1e-11, and the result is rounded to float32 once.
 *
 * The truncated normal distribution is the inverse of its distribution function: a draw makes one value, whatever it
 * is, where rejection would need a number of draws that no vector knows. */
#include "embedding_server/init.h"
#include "runtime/base/rand.h"

#include <math.h>
#include <string.h>

/* At -O2, gcc 12 vectorizes only the simplest loops. Sanitized, more would take it long. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#pragma GCC optimize("O3")
#endif

#define BLOCK 16

static inline double as_double(uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline uint64_t as_bits(double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* Of an integer below 2^32: as the low bits of 2^52 + n. */
static inline double from_u32(uint64_t n)
{
    return as_double(0x4330000000000000ull | n) - 0x1.0p52;
}

/* log(x), 0 < x <= 1, normal: x = 2^e * m with sqrt(1/2) <= m < sqrt(2), and log(m) = 2 atanh(s). */
static inline double log_of(double x)
{
    uint64_t up = as_bits(x) - 0x3fe6a09e667f3bcdull + 0x3ff0000000000000ull;
    uint64_t exponent = up >> 52; /* e + 1023: e <= 0 */
    double e = from_u32(exponent) - 1023.0;
    double m = as_double((up & 0xfffffffffffffull) + 0x3fe6a09e667f3bcdull);
    double s = (m - 1.0) / (m + 1.0), z = s * s;
    double sum = 1.0 / 13;

    sum = sum * z + 1.0 / 11;
    sum = sum * z + 1.0 / 9;
    sum = sum * z + 1.0 / 7;
    sum = sum * z + 1.0 / 5;
    sum = sum * z + 1.0 / 3;
    return e * 0.693147180559945286 + 2.0 * (s + s * (z * sum));
}

/* The first where all bits of `all` are set, the second where none is. Not written with ?:, of which gcc 12 makes a branch
 * where there are no mask registers (AVX2), and then no vectors: 380 ns for a row of 16 instead of 135. */
static inline double choose(uint64_t all, double first, double second)
{
    return as_double((as_bits(first) & all) | (as_bits(second) & ~all));
}

/* cos(2 pi v), 0 <= v < 1: v = q/4 + r with |r| <= 1/8, then the sine or cosine of 2 pi r, by Taylor. Both are the same
 * steps with other numbers: to choose these costs less than to have both results and choose one. */
static inline double cos_turn(double v)
{
    double q = (4.0 * v + 0x1.8p52) - 0x1.8p52; /* to the nearest: 0..4 */
    double x = 6.28318530717958648 * (v - 0.25 * q), z = x * x;
    uint64_t turn = as_bits(q + 0x1.0p52), sign = (turn + 1) << 62 & 1ull << 63;
    uint64_t odd = -(turn & 1);
    double p = 1.0 / 479001600 * z - 1.0 / 3628800, last = choose(odd, x, 1.0);

    p = choose(odd, -1.0 / 39916800, p);
    p = p * z + choose(odd, 1.0 / 362880, 1.0 / 40320);
    p = p * z + choose(odd, -1.0 / 5040, -1.0 / 720);
    p = p * z + choose(odd, 1.0 / 120, 1.0 / 24);
    p = p * z + choose(odd, -1.0 / 6, -0.5);
    p = p * z * last + last;
    /* q: 0 cos, 1 -sin, 2 -cos, 3 sin, 4 cos */
    return as_double(as_bits(p) ^ sign);
}

/* So that rt_draw(the result, j) is rt_draw(key, first + j), and adds numbers known here instead of multiplying. */
static inline uint64_t key_from(uint64_t key, uint64_t first)
{
    return key + first * 0x9e3779b97f4a7c15ULL;
}

static inline void normal_block(uint64_t key, uint64_t first, float *restrict z)
{
    key = key_from(key, first);
    for (uint64_t j = 0; j < BLOCK; j++) {
        uint64_t draw = rt_draw(key, j);
        double u = (from_u32(draw >> 32) + 1.0) * 0x1.0p-32;
        double v = from_u32(draw & UINT32_MAX) * 0x1.0p-32;

        z[j] = (float)(sqrt(-2.0 * log_of(u)) * cos_turn(v));
    }
}

/* z with P(Z <= z given |Z| <= 2) = (1 + u) / 2, -1 < u < 1: sqrt(2) erfinv(u erf(sqrt(2))), as u times a quotient of
 * polynomials in w = u^2, fitted to it at 60 Chebyshev points; the relative error is below 5e-11. */
static inline double truncated_of(double u)
{
    double w = u * u, p = 0.00438250490276545874, q = 0.0143203238713049203;

    p = p * w - 0.146258064002583456;
    p = p * w + 1.09348558704823602;
    p = p * w - 3.44318273757004465;
    p = p * w + 5.33752613229918136;
    p = p * w - 4.04088208081473058;
    p = p * w + 1.19628801335210292;
    q = q * w - 0.246641552200779213;
    q = q * w + 1.4060062092590341;
    q = q * w - 3.76147406432177948;
    q = q * w + 5.2048367736504729;
    q = q * w - 3.61636801265076153;
    q = q * w + 1.0;
    return u * (p / q);
}

static inline void truncated_block(uint64_t key, uint64_t first, float *restrict z)
{
    key = key_from(key, first);
    for (uint64_t j = 0; j < BLOCK; j++) {
        /* 52 bits as those of a number in [2, 4), which is in the middle of its step after + 2^-52 */
        double u = as_double(0x4000000000000000ull | rt_draw(key, j) >> 12) - 3.0;

        z[j] = (float)truncated_of(u + 0x1.0p-52);
    }
}

static inline void uniform_block(uint64_t key, uint64_t first, float *restrict z)
{
    key = key_from(key, first);
    for (uint64_t j = 0; j < BLOCK; j++)
        z[j] = rt_unit_f32(rt_draw(key, j));
}

/* A row, a block at a time. Whole blocks are copied as such: a copy whose length is not known here goes by 8 bytes, and takes
 * half as long as the draws. */
#define ROW(kind)                                                                                  \
    static void kind##_row(const struct ebs_init *init, uint64_t key, float *weight, size_t dim)   \
    {                                                                                              \
        float offset = init->offset, scale = init->scale, z[BLOCK];                                \
                                                                                                   \
        for (size_t at = 0; at < dim; at += BLOCK) {                                               \
            kind##_block(key, at, z);                                                              \
            for (size_t j = 0; j < BLOCK; j++)                                                     \
                z[j] = offset + scale * z[j];                                                      \
            if (dim - at >= BLOCK)                                                                 \
                memcpy(weight + at, z, sizeof(z));                                                 \
            else                                                                                   \
                memcpy(weight + at, z, (dim - at) * sizeof(*z));                                   \
        }                                                                                          \
    }
ROW(uniform)
ROW(normal)
ROW(truncated)

void INIT_NAME(const struct ebs_init *init, uint64_t id, float *weight, size_t dim)
{
    uint64_t key = rt_draw_fold(init->key, id);

    (init->kind == RT_INIT_NORMAL             ? normal_row
     : init->kind == RT_INIT_TRUNCATED_NORMAL ? truncated_row
                                              : uniform_row)(init, key, weight, dim);
}
