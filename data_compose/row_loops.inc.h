/* data_compose/row_loops.inc.h -- the two loops of a row where the time goes: a tab separated line to fields and
 * ids, and dense values through clip, log1p and standardizing.
 *
 * Included by row_plain.c, row_avx2.c and row_avx512.c, which define LOOPS_NAME and are compiled for their
 * instruction set. Integers aside, every element's operations are the same IEEE operations in the same order
 * everywhere, so a row has the same bits on every CPU (the tests compare them).
 *
 *   line -64 bytes at once-> positions of tabs -runs of columns of one sort-> ids, values -all at once-> dense
 *
 * A run's loop knows what its columns are, so nothing is asked per field that the CPU would have to guess; what
 * is not the plain case (signs, fractions, lists, options) goes to dc_put_field(). */
#include "data_compose/parse_row.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#define BLOCK       64u /* bytes looked at together */
#define ASCII_ZEROS 0x3030303030303030ull
#define HASH_FLIP   0xc73ab174c5ecd5a2ull

/* ---- tabs ---- */

#if defined(__AVX512BW__)

/* Positions of tabs in text[base .. base + n), n <= 64, appended to out. Return: their number. Writes up to 16
 * places beyond. */
static inline uint32_t tabs(const char *text, uint32_t base, size_t n, uint32_t *out)
{
    const __m512i step = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __mmask64 all = n == BLOCK ? ~0ull : (1ull << n) - 1;
    __m512i bytes = _mm512_maskz_loadu_epi8(all, text + base);
    uint64_t found = _mm512_mask_cmpeq_epi8_mask(all, bytes, _mm512_set1_epi8('\t'));
    uint32_t count = 0;

    for (int part = 0; part < 4; part++) {
        __mmask16 here = (__mmask16)(found >> 16 * part);
        __m512i at = _mm512_add_epi32(step, _mm512_set1_epi32((int)base + 16 * part));

        _mm512_storeu_si512(out + count, _mm512_maskz_compress_epi32(here, at));
        count += (uint32_t)__builtin_popcount(here);
    }
    return count;
}

#else

static inline uint64_t find_tabs(const char *text)
{
    uint64_t found = 0;
#if defined(__AVX2__)
    for (int i = 0; i < 2; i++) {
        __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)(text + 32 * i));
        __m256i same = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('\t'));
        found |= (uint64_t)(uint32_t)_mm256_movemask_epi8(same) << 32 * i;
    }
#elif defined(__SSE2__)
    for (int i = 0; i < 4; i++) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(text + 16 * i));
        __m128i same = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\t'));
        found |= (uint64_t)(uint32_t)_mm_movemask_epi8(same) << 16 * i;
    }
#else
    for (unsigned i = 0; i < BLOCK; i++)
        found |= (uint64_t)(text[i] == '\t') << i;
#endif
    return found;
}

static inline uint32_t tabs(const char *text, uint32_t base, size_t n, uint32_t *out)
{
    char rest[BLOCK] = {0};
    const char *at = text + base;
    uint32_t count = 0;

    if (n < BLOCK)
        at = memcpy(rest, at, n);
    for (uint64_t found = find_tabs(at); found; found &= found - 1)
        out[count++] = base + (uint32_t)__builtin_ctzll(found);
    return count;
}

#endif

/* Fields between tabs: field i is text[stop[i] + 1 .. stop[i + 1]). false: not n_fields of them. */
static inline bool split(struct dc_parser *p, const char *text, size_t size)
{
    uint32_t *stop = p->stop, n = 1;

    stop[0] = UINT32_MAX;
    for (size_t base = 0; base < size; base += BLOCK) {
        n += tabs(text, (uint32_t)base, size - base < BLOCK ? size - base : BLOCK, stop + n);
        if (n > p->n_fields)
            return false;
    }
    stop[n] = (uint32_t)size;
    return n == p->n_fields;
}

/* ---- fields ---- */

/* Up to 8 digits, in the order of memory, as a number. */
static inline uint32_t eight_digits(uint64_t digits)
{
    digits = digits * 10 + (digits >> 8);
    return (uint32_t)(((digits & 0xff000000ffull) * (100 + (1000000ull << 32)) +
                       (digits >> 16 & 0xff000000ffull) * (1 + (10000ull << 32))) >>
                      32);
}

static inline bool all_digits(uint64_t byte)
{
    return !(((byte + 0x7676767676767676ull) | byte) & 0x8080808080808080ull);
}

/* A sign, up to 8 places, a point among them: exact, since both parts of the one division are. Nine bytes can be
 * read. false: something else, or nothing. */
static inline bool short_decimal(const char *text, uint32_t n, double *out)
{
    static const double power[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7};
    const uint64_t ones = 0x0101010101010101ull, point = ('.' ^ '0') * ones;
    bool negative = *text == '-';
    uint32_t fraction = 0;
    uint64_t byte;

    n -= negative;
    if (n - 1 > 7)
        return false;
    memcpy(&byte, text + negative, 8);
    byte = (byte ^ ASCII_ZEROS) & (~0ull >> (64 - 8 * n));
    uint64_t other = byte ^ point, found = (other - ones) & ~other & (0x80 * ones);
    if (found) { /* the lowest bit is exact: take that byte out */
        uint32_t at = (uint32_t)__builtin_ctzll(found) / 8;
        uint64_t before = (1ull << 8 * at) - 1;

        byte = (byte & before) | (byte >> 8 & ~before);
        fraction = --n - at;
    }
    if (n == 0)
        return false;
    byte <<= 64 - 8 * n;
    if (!all_digits(byte))
        return false;
    *out = (double)(int32_t)eight_digits(byte) / power[fraction];
    *out = negative ? -*out : *out;
    return true;
}

static int run_other(struct dc_parser *p, const struct dc_run *run, const char *text)
{
    for (uint32_t i = run->first; i < run->end; i++) {
        uint32_t from = p->stop[i] + 1;
        int err = dc_put_field(p, p->field[i], text + from, p->stop[i + 1] - from);
        if (err)
            return err;
    }
    return 0;
}

/* Fields first .. last - 1 of the run. */
static inline int some_dense(struct dc_parser *p, const struct dc_run *run, uint32_t first,
                             uint32_t last, const char *text, size_t size)
{
    for (uint32_t i = first; i < last; i++) {
        uint32_t from = p->stop[i] + 1, n = p->stop[i + 1] - from;
        uint32_t slot = run->slot + (i - run->first);
        uint64_t byte, bits, missing;

        if (n <= 8 && from + 8ul <= size) {
            memcpy(&byte, text + from, 8);
            byte = (byte ^ ASCII_ZEROS) << (32 - 4 * n) << (32 - 4 * n); /* n may be 0 */
            if (all_digits(byte)) {
                double value = (double)(int32_t)eight_digits(byte);

                memcpy(&bits, &value, 8);
                memcpy(&missing, &p->plan.missing[slot], 8);
                bits = n ? bits : missing; /* no branch: nobody could predict it */
                memcpy(&p->value[slot], &bits, 8);
                continue;
            }
        }
        if (from + 9ul <= size && short_decimal(text + from, n, &p->value[slot]))
            continue;
        int err = dc_put_field(p, p->field[i], text + from, n);
        if (err)
            return err;
    }
    return 0;
}

static inline void some_ids(struct dc_parser *p, const struct dc_run *run, uint32_t first,
                            uint32_t last, const char *text)
{
    for (uint32_t i = first; i < last; i++) {
        uint32_t from = p->stop[i] + 1;

        p->id[run->slot + (i - run->first)] = XXH3_64bits(text + from, p->stop[i + 1] - from);
    }
}

#if defined(__AVX512DQ__)

/* Eight fields: where they begin, how long they are, their first 8 bytes (0 where the line ends before). */
struct eight {
    __m512i from, n, bytes;
    __mmask8 live;  /* fewer than eight are left */
    __mmask8 whole; /* 8 bytes could be read */
};

static inline struct eight load_eight(const struct dc_parser *p, uint32_t i, uint32_t end,
                                      const char *text, size_t size)
{
    struct eight e = {.live = (__mmask8)(end - i < 8 ? (1u << (end - i)) - 1 : 0xff)};
    __m512i before = _mm512_cvtepu32_epi64(_mm256_loadu_si256((const void *)(p->stop + i)));
    __m512i stop = _mm512_cvtepu32_epi64(_mm256_loadu_si256((const void *)(p->stop + i + 1)));

    e.from = _mm512_and_si512(_mm512_add_epi64(before, _mm512_set1_epi64(1)),
                              _mm512_set1_epi64(UINT32_MAX));
    e.n = _mm512_sub_epi64(stop, e.from);
    e.whole = _mm512_mask_cmple_epu64_mask(e.live, _mm512_add_epi64(e.from, _mm512_set1_epi64(8)),
                                           _mm512_set1_epi64((int64_t)size));
    e.bytes = _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), e.whole, e.from, text, 1);
    return e;
}

/* As XXH3-64 (seed 0) defines it for 4 to 8 bytes; the number is of bytes 8..23 of its secret. */
static inline __m512i hash_eight(struct eight e)
{
    const __m512i flip = _mm512_set1_epi64((int64_t)HASH_FLIP);
    const __m512i factor = _mm512_set1_epi64((int64_t)0x9fb21c651e98df25ull);
    __m512i skip = _mm512_slli_epi64(_mm512_sub_epi64(e.n, _mm512_set1_epi64(4)), 3);
    __m512i tail =
        _mm512_and_si512(_mm512_srlv_epi64(e.bytes, skip), _mm512_set1_epi64(UINT32_MAX));
    __m512i h = _mm512_xor_si512(_mm512_add_epi64(_mm512_slli_epi64(e.bytes, 32), tail), flip);

    h = _mm512_ternarylogic_epi64(h, _mm512_rol_epi64(h, 49), _mm512_rol_epi64(h, 24), 0x96);
    h = _mm512_mullo_epi64(h, factor);
    h = _mm512_xor_si512(h, _mm512_add_epi64(_mm512_srli_epi64(h, 35), e.n));
    h = _mm512_mullo_epi64(h, factor);
    return _mm512_xor_si512(h, _mm512_srli_epi64(h, 28));
}

static inline void run_ids(struct dc_parser *p, const struct dc_run *run, const char *text,
                           size_t size)
{
    const __m512i nothing = _mm512_set1_epi64((int64_t)XXH3_64bits(text, 0));

    for (uint32_t i = run->first; i < run->end; i += 8) {
        struct eight e = load_eight(p, i, run->end, text, size);
        __mmask8 empty = _mm512_mask_testn_epi64_mask(e.live, e.n, e.n);
        __mmask8 plain = _mm512_cmple_epu64_mask(_mm512_sub_epi64(e.n, _mm512_set1_epi64(4)),
                                                 _mm512_set1_epi64(4)) &
                         e.whole;
        __m512i id = _mm512_mask_mov_epi64(hash_eight(e), empty, nothing);

        _mm512_mask_storeu_epi64(p->id + run->slot + (i - run->first), plain | empty, id);
        for (uint32_t rest = e.live & ~(uint32_t)(plain | empty); rest; rest &= rest - 1) {
            uint32_t k = i + (uint32_t)__builtin_ctz(rest);
            some_ids(p, run, k, k + 1, text);
        }
    }
}

static inline int run_dense(struct dc_parser *p, const struct dc_run *run, const char *text,
                            size_t size)
{
    const __m512i zeros = _mm512_set1_epi64((int64_t)ASCII_ZEROS);

    for (uint32_t i = run->first; i < run->end; i += 8) {
        struct eight e = load_eight(p, i, run->end, text, size);
        __m512i shift = _mm512_sub_epi64(_mm512_set1_epi64(64), _mm512_slli_epi64(e.n, 3));
        __m512i byte = _mm512_sllv_epi64(_mm512_xor_si512(e.bytes, zeros), shift);
        __mmask8 empty = _mm512_mask_testn_epi64_mask(e.live, e.n, e.n);
        __m512i high = _mm512_or_si512(_mm512_add_epi64(byte, _mm512_set1_epi8(0x76)), byte);
        __mmask8 plain = _mm512_testn_epi64_mask(high, _mm512_set1_epi8((char)0x80)) & e.whole &
                         _mm512_cmple_epu64_mask(e.n, _mm512_set1_epi64(8));
        __m512i two = _mm512_maddubs_epi16(byte, _mm512_set1_epi16(10 + (1 << 8)));
        __m512i four = _mm512_madd_epi16(two, _mm512_set1_epi32(100 + (1 << 16)));
        __m512i value = _mm512_add_epi64(_mm512_mul_epu32(four, _mm512_set1_epi64(10000)),
                                         _mm512_srli_epi64(four, 32));
        uint32_t slot = run->slot + (i - run->first);
        __m512d missing = _mm512_maskz_loadu_pd(empty, p->plan.missing + slot);

        _mm512_mask_storeu_pd(p->value + slot, plain | empty,
                              _mm512_mask_mov_pd(_mm512_cvtepi64_pd(value), empty, missing));
        for (uint32_t rest = e.live & ~(uint32_t)(plain | empty); rest; rest &= rest - 1) {
            uint32_t k = i + (uint32_t)__builtin_ctz(rest);
            int err = some_dense(p, run, k, k + 1, text, size);
            if (err)
                return err;
        }
    }
    return 0;
}

#else

static inline void run_ids(struct dc_parser *p, const struct dc_run *run, const char *text,
                           size_t size)
{
    (void)size;
    some_ids(p, run, run->first, run->end, text);
}

static inline int run_dense(struct dc_parser *p, const struct dc_run *run, const char *text,
                            size_t size)
{
    return some_dense(p, run, run->first, run->end, text, size);
}

#endif

static int tsv_line(struct dc_parser *p, const char *text, size_t size)
{
    int err = 0;

    if (!split(p, text, size))
        return dc_wrong_count(p, text, size, '\t');
    for (const struct dc_run *run = p->run; !err && run->first < p->n_fields; run++) {
        if (run->sort == DC_RUN_IDS)
            run_ids(p, run, text, size);
        else if (run->sort == DC_RUN_DENSE)
            err = run_dense(p, run, text, size);
        else
            err = run_other(p, run, text);
    }
    return err ? err : dc_finish_row(p);
}

/* ---- dense values ---- */

#if defined(__AVX512F__)
#define WIDTH 8
#elif defined(__AVX2__)
#define WIDTH 4
#else
#define WIDTH 2
#endif
_Static_assert(DC_DENSE_LANES % WIDTH == 0, "arrays are padded to whole vectors");

typedef double vec __attribute__((vector_size(WIDTH * 8), aligned(8), may_alias));
typedef uint64_t bits __attribute__((vector_size(WIDTH * 8), aligned(8), may_alias));
typedef float single __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef uint32_t flags __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

static inline vec choose(bits when, vec yes, vec no)
{
    return (vec)((when & (bits)yes) | (~when & (bits)no));
}

/* log(1 + x) for x >= 0, finite: off by less than 2^-37 of itself, so its float32 by less than 0.51 ulp
 * (tests/unit/test_parse_exact.c measures it).
 *
 *   1 + x = 2^k m, sqrt(1/2) <= m < sqrt(2);   f = m - 1, or x itself where k is 0;   s = f / (2 + f)
 *   log(1 + x) = k log 2 + 2 atanh(s) = k log 2 + s (2 + 2/3 s^2 + 2/5 s^4 + ...)
 *
 * |s| < 0.1716, so what comes after 2/13 is below 2^-38. */
static inline vec log1p_vec(vec x)
{
    const uint64_t sqrt_half = 0x3fe6a09e667f3bcdull;
    vec u = 1 + x;
    bits over = (bits)u - sqrt_half;
    vec k = (vec)((over >> 52) | 0x4330000000000000ull) - 0x1p52;
    vec f = choose((bits)(k == 0), x, (vec)((bits)u - (over & 0xfff0000000000000ull)) - 1);
    vec s = f / (2 + f), z = s * s, w = z * z;
    vec even = 2.0 / 3 + w * (2.0 / 7 + w * (2.0 / 11));
    vec odd = 2.0 / 5 + w * (2.0 / 9 + w * (2.0 / 13));
    return k * 0x1.62e42fefa39efp-1 + s * (2 + z * (even + z * odd));
}

/* false: a result is not finite in float32. Nor may it be before it is standardized, for passes without statistics (they
 * are being made, or files converted) judge rows as training does; such a value becomes NaN here. */
static bool dense_values(const struct dc_dense_plan *plan, const double *value, float *out)
{
    flags bad = {0};

    for (uint32_t i = 0; i < plan->n; i += WIDTH) {
        vec x = *(const vec *)(value + i);

        if (plan->any_clip) {
            vec low = *(const vec *)(plan->low + i), high = *(const vec *)(plan->high + i);
            x = choose((bits)(x < low), low, x);
            x = choose((bits)(x > high), high, x);
        }
        if (plan->any_log1p) {
            bits wanted = *(const bits *)(plan->log1p + i);
            vec positive = choose((bits)(x > 0), x, x - x);
            vec none = positive - positive; /* 0, but NaN of a NaN: log1p_vec would give a number */
            x = choose(wanted, log1p_vec(positive) + none, x);
        }
        single y = __builtin_convertvector(x, single);
        if (plan->any_standardized) {
            flags over = (flags)((y - y) != 0);

            x = (x - *(const vec *)(plan->mean + i)) / *(const vec *)(plan->deviation + i);
            y = (single)((flags) __builtin_convertvector(x, single) | over);
        }
        bad |= (flags)((y - y) != 0);
        *(single *)(out + i) = y;
    }
    uint32_t any = 0;
    for (int k = 0; k < WIDTH; k++)
        any |= bad[k];
    return !any;
}

const struct dc_row_loops LOOPS_NAME = {tsv_line, dense_values};
