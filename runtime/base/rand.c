/* runtime/base/rand.c -- stream keys, and the normal distribution. */
#include "runtime/base/rand.h"
#include "runtime/base/hash.h"

#include <math.h>
#include <string.h>

uint64_t rt_draw_key(uint64_t seed, const char *purpose, const char *name)
{
    uint64_t key = rt_hash_bytes_seed(purpose, strlen(purpose), seed);

    return name ? rt_hash_bytes_seed(name, strlen(name), key) : key;
}

uint64_t rt_draw_fold(uint64_t key, uint64_t coordinate)
{
    /* Both are mixed before they meet: neighbours in either give unrelated streams. */
    return rt_hash_id(key ^ rt_hash_id(coordinate + 0x9e3779b97f4a7c15ULL));
}

float rt_normal_f32(uint64_t draw)
{
    /* In double and rounded once, so libm's last bit hardly ever shows in the result. */
    double u = ((double)(draw >> 32) + 1.0) * 0x1.0p-32; /* (0, 1] */
    double v = (double)(uint32_t)draw * 0x1.0p-32;       /* [0, 1) */

    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}
