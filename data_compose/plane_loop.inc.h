/* data_compose/plane_loop.inc.h -- eight columns of rows in any order, to eight columns of samples.
 *
 * Included by plane_plain.c and plane_avx512.c. Eight rows are one square that is turned in registers: eight lines in, eight
 * whole lines out. Rows come from the third cache in no order, so they are asked for AHEAD samples before; and so are the
 * lines that are written, for eight streams at a time are more than the CPU foresees: 55 ns a row instead of 78. */
#include "data_compose/plane.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define AHEAD 24u /* samples; 12 to 48 are alike */
#define AFTER 56u /* samples, of what is written */

static inline const uint64_t *row_of(const struct dc_plane_copy *c, uint32_t s)
{
    return c->plane + (size_t)c->order[s] * c->width;
}

static inline void ask(const struct dc_plane_copy *c, uint32_t first, uint32_t n)
{
    for (uint32_t s = first + AHEAD; s < first + AHEAD + n && s < c->n; s++)
        __builtin_prefetch(row_of(c, s));
}

static inline void ask_after(const struct dc_plane_copy *c, uint32_t s)
{
    for (uint32_t k = 0; k < DC_PLANE && s + AFTER < c->n; k++)
        __builtin_prefetch(c->to[k] + s + AFTER, 1);
}

#ifdef __AVX512F__

/* Samples s .. s + 7. Each step brings together what is of one column: pairs of rows, then of pairs, then of fours. */
static inline void turn(const struct dc_plane_copy *c, uint32_t s)
{
    __m512i pair[8];

    for (uint32_t i = 0; i < 8; i += 2) {
        __m512i one = _mm512_loadu_si512(row_of(c, s + i));
        __m512i two = _mm512_loadu_si512(row_of(c, s + i + 1));

        pair[i] = _mm512_unpacklo_epi64(one, two);     /* columns 0, 2, 4, 6 */
        pair[i + 1] = _mm512_unpackhi_epi64(one, two); /* 1, 3, 5, 7 */
    }
    for (uint32_t odd = 0; odd < 2; odd++) {
        __m512i low[2], high[2]; /* columns 0 and 4 of four rows; 2 and 6 */

        for (uint32_t half = 0; half < 2; half++) {
            const __m512i *from = pair + 4 * half + odd;

            low[half] = _mm512_shuffle_i64x2(from[0], from[2], 0x88);
            high[half] = _mm512_shuffle_i64x2(from[0], from[2], 0xdd);
        }
        _mm512_storeu_si512(c->to[0 + odd] + s, _mm512_shuffle_i64x2(low[0], low[1], 0x88));
        _mm512_storeu_si512(c->to[2 + odd] + s, _mm512_shuffle_i64x2(high[0], high[1], 0x88));
        _mm512_storeu_si512(c->to[4 + odd] + s, _mm512_shuffle_i64x2(low[0], low[1], 0xdd));
        _mm512_storeu_si512(c->to[6 + odd] + s, _mm512_shuffle_i64x2(high[0], high[1], 0xdd));
    }
}

#else

typedef uint64_t couple __attribute__((vector_size(16), aligned(8), may_alias));

static inline void turn(const struct dc_plane_copy *c, uint32_t s)
{
    for (uint32_t i = s; i < s + 8; i += 2) {
        const uint64_t *one = row_of(c, i), *two = row_of(c, i + 1);

        for (uint32_t k = 0; k < DC_PLANE; k += 2) {
            couple x = *(const couple *)(one + k), y = *(const couple *)(two + k);

            *(couple *)(c->to[k] + i) = (couple){x[0], y[0]};
            *(couple *)(c->to[k + 1] + i) = (couple){x[1], y[1]};
        }
    }
}

#endif

void LOOP_NAME(const struct dc_plane_copy *copy)
{
    const struct dc_plane_copy c = *copy; /* so that no store may be one to it */
    bool square = c.width == DC_PLANE;
    uint32_t s = 0;

    for (uint32_t k = 0; k < c.width; k++)
        square = square && c.stride[k] == 1;
    for (; square && s + 8 <= c.n; s += 8) {
        ask(&c, s, 8);
        ask_after(&c, s);
        turn(&c, s);
    }
    for (; s < c.n; s++) {
        const uint64_t *row = row_of(&c, s);

        ask(&c, s, 1);
        for (uint32_t k = 0; k < c.width; k++)
            c.to[k][(size_t)s * c.stride[k]] = row[k];
    }
}
