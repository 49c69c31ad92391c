/* runtime/base/hash_avx2.c -- XXH3-64 compiled for AVX2: the library picks its loop by what the compiler may use. */
#include "runtime/base/hash_long.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t rt_hash_long_avx2(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}
