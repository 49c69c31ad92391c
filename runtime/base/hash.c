/* runtime/base/hash.c -- XXH3 by the library, CRC32C by the CPU.
 *
 * Digests of payloads are hashes of a megabyte, made once and checked once per batch; wider registers make them in half the
 * time, and the same bits. Short inputs gain nothing and take the inlined path.
 *
 * The CPU's crc32 instruction takes 8 bytes a cycle but answers after 3, so one chain leaves two thirds
 * of it idle. Large inputs are cut into rounds of three equal lanes with a chain each; the lanes' sums
 * are joined by "append n zero bytes", which is linear in the sum: four 256-entry tables per lane length,
 * made once. (The method is Mark Adler's; RFC 3720 fixes the polynomial, 0x82f63b78 reflected.) */
#include "runtime/base/hash.h"
#include "runtime/base/cpu.h"
#include "runtime/base/hash_long.h"
#include "runtime/base/mem.h"

#include <pthread.h>
#include <string.h>
#if defined(__SSE4_2__)
#include <nmmintrin.h>
#endif

#define XXH_INLINE_ALL
#include <xxhash.h>

#define CRC_POLYNOMIAL 0x82f63b78u
#define LANE_LONG      4096 /* bytes; multiples of 8 */
#define LANE_SHORT     256
#define WIDE_MIN       4096 /* bytes for which the choice of a loop pays */

static uint32_t byte_table[256];
static pthread_once_t byte_once = PTHREAD_ONCE_INIT;

uint64_t rt_hash_bytes(const void *data, size_t size)
{
    enum rt_isa isa = size < WIDE_MIN ? RT_ISA_PLAIN : rt_cpu_isa();

    if (isa == RT_ISA_AVX512)
        return rt_hash_long_avx512(data, size);
    return isa == RT_ISA_AVX2 ? rt_hash_long_avx2(data, size) : XXH3_64bits(data, size);
}

uint64_t rt_hash_bytes_seed(const void *data, size_t size, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, size, seed);
}

/* The library's state is the same for every instruction set. */
static XXH3_state_t *state_of(struct rt_hash *hash)
{
    return (XXH3_state_t *)(void *)hash;
}

struct rt_hash *rt_hash_create(void)
{
    struct rt_hash *hash = rt_try_aligned(sizeof(XXH3_state_t));

    if (hash)
        XXH3_64bits_reset(state_of(hash));
    return hash;
}

void rt_hash_add(struct rt_hash *hash, const void *data, size_t size)
{
    enum rt_isa isa = size < WIDE_MIN ? RT_ISA_PLAIN : rt_cpu_isa();

    if (isa == RT_ISA_AVX512)
        rt_hash_add_avx512(hash, data, size);
    else if (isa == RT_ISA_AVX2)
        rt_hash_add_avx2(hash, data, size);
    else
        XXH3_64bits_update(state_of(hash), data, size);
}

uint64_t rt_hash_value(const struct rt_hash *hash)
{
    return XXH3_64bits_digest((const XXH3_state_t *)(const void *)hash);
}

void rt_hash_destroy(struct rt_hash *hash)
{
    rt_free(hash);
}

static void byte_table_make(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;

        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (crc >> 1) ^ CRC_POLYNOMIAL : crc >> 1;
        byte_table[i] = crc;
    }
}

uint32_t rt_crc32c_portable(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *p = data;

    pthread_once(&byte_once, byte_table_make);
    crc = ~crc;
    while (size--)
        crc = (crc >> 8) ^ byte_table[(crc ^ *p++) & 0xff];
    return ~crc;
}

#if defined(__SSE4_2__)

/* zeros[b][v]: what byte b of a sum, having value v, becomes when n zero bytes follow. */
typedef uint32_t zeros_table[4][256];

static zeros_table zeros_long, zeros_short;
static pthread_once_t zeros_once = PTHREAD_ONCE_INIT;

static void zeros_make_one(zeros_table zeros, size_t n)
{
    uint32_t of_bit[32];

    for (int bit = 0; bit < 32; bit++) {
        uint32_t crc = 1u << bit;

        for (size_t i = 0; i < n; i++)
            crc = (crc >> 8) ^ byte_table[crc & 0xff];
        of_bit[bit] = crc;
    }
    for (int b = 0; b < 4; b++) {
        for (uint32_t v = 0; v < 256; v++) {
            zeros[b][v] = 0;
            for (int bit = 0; bit < 8; bit++)
                zeros[b][v] ^= v >> bit & 1 ? of_bit[b * 8 + bit] : 0;
        }
    }
}

static void zeros_make(void)
{
    pthread_once(&byte_once, byte_table_make);
    zeros_make_one(zeros_long, LANE_LONG);
    zeros_make_one(zeros_short, LANE_SHORT);
}

static inline uint32_t zeros_append(const zeros_table zeros, uint32_t crc)
{
    return zeros[0][crc & 0xff] ^ zeros[1][crc >> 8 & 0xff] ^ zeros[2][crc >> 16 & 0xff] ^
           zeros[3][crc >> 24];
}

static inline uint64_t load_u64(const uint8_t *p)
{
    uint64_t word;

    memcpy(&word, p, sizeof(word));
    return word;
}

/* As many rounds of three lanes as fit; *p and *size move on. */
static uint32_t crc_lanes(uint32_t crc, const uint8_t **p, size_t *size, size_t lane,
                          const zeros_table zeros)
{
    while (*size >= 3 * lane) {
        const uint8_t *at = *p;
        uint64_t a = crc, b = 0, c = 0;

        for (size_t i = 0; i < lane; i += 8) {
            a = _mm_crc32_u64(a, load_u64(at + i));
            b = _mm_crc32_u64(b, load_u64(at + lane + i));
            c = _mm_crc32_u64(c, load_u64(at + 2 * lane + i));
        }
        crc = zeros_append(zeros, (uint32_t)a) ^ (uint32_t)b;
        crc = zeros_append(zeros, crc) ^ (uint32_t)c;
        *p += 3 * lane;
        *size -= 3 * lane;
    }
    return crc;
}

uint32_t rt_crc32c(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *p = data;
    uint64_t sum;

    crc = ~crc;
    if (size >= 3 * LANE_SHORT) {
        pthread_once(&zeros_once, zeros_make);
        crc = crc_lanes(crc, &p, &size, LANE_LONG, zeros_long);
        crc = crc_lanes(crc, &p, &size, LANE_SHORT, zeros_short);
    }
    sum = crc;
    for (; size >= 8; size -= 8, p += 8)
        sum = _mm_crc32_u64(sum, load_u64(p));
    crc = (uint32_t)sum;
    while (size--)
        crc = _mm_crc32_u8(crc, *p++);
    return ~crc;
}

#else

uint32_t rt_crc32c(uint32_t crc, const void *data, size_t size)
{
    return rt_crc32c_portable(crc, data, size);
}

#endif
