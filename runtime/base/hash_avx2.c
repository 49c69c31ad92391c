/* runtime/base/hash_avx2.c -- XXH3-64 compiled for AVX2: the library picks its loop by what the compiler may use. */
#include "runtime/base/hash_long.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t rt_hash_long_avx2(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}

void rt_hash_add_avx2(void *state, const void *data, size_t size)
{
    XXH3_64bits_update((XXH3_state_t *)state, data, size);
}
