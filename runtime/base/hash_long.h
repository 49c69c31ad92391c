/* runtime/base/hash_long.h -- XXH3-64 of many bytes, compiled per instruction set; for hash.c only. */
#ifndef RT_HASH_LONG_H
#define RT_HASH_LONG_H

#include <stddef.h>
#include <stdint.h>

uint64_t rt_hash_long_avx2(const void *data, size_t size);
uint64_t rt_hash_long_avx512(const void *data, size_t size);
/* @state: XXH3_state_t */
void rt_hash_add_avx2(void *state, const void *data, size_t size);
void rt_hash_add_avx512(void *state, const void *data, size_t size);

#endif
