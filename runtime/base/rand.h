/* runtime/base/rand.h -- every random draw is a pure function of (seed, purpose, name, counter).
 *
 * rt_draw(key, counter) is SplitMix64 (Steele, Lea, Flood 2014) read at position `counter` of the
 * stream `key`: counter-based, so any draw can be made alone, in any order, on any machine. */
#ifndef RT_RAND_H
#define RT_RAND_H

#include <stdint.h>

/* Stream key of a purpose ("init", "shuffle", "dropout") and a name (table, layer; may be NULL). */
uint64_t rt_draw_key(uint64_t seed, const char *purpose, const char *name);

/* Sub-stream: another 64-bit coordinate (id, epoch, step) folded into a key. */
uint64_t rt_draw_fold(uint64_t key, uint64_t coordinate);

static inline uint64_t rt_draw(uint64_t key, uint64_t counter)
{
    uint64_t z = key + (counter + 1) * 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

/* [0, 1) with 53 bits; [0, 1) with 24 bits. */
static inline double rt_unit_f64(uint64_t draw)
{
    return (double)(draw >> 11) * 0x1.0p-53;
}
static inline float rt_unit_f32(uint64_t draw)
{
    return (float)(draw >> 40) * 0x1.0p-24f;
}

/* Uniform in [0, n), n > 0, without modulo bias beyond 2^-64 * n (multiply-shift). */
static inline uint64_t rt_below(uint64_t draw, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)draw * n) >> 64);
}

/* Standard normal by Box-Muller from one draw (two 32-bit halves); |z| <= 6.7. */
float rt_normal_f32(uint64_t draw);

#endif
