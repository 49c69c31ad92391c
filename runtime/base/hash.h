/* runtime/base/hash.h -- the two hashes of the project, fixed for ever: they name rows and shards.
 *
 * XXH3-64 (xxHash 0.8) for bytes; for one 64-bit id the finaliser of MurmurHash3 (Appleby, public
 * domain), which is bijective, so distinct ids stay distinct. CRC32C (Castagnoli, RFC 3720) guards
 * frames and files, by SSE4.2 where the CPU has it. */
#ifndef RT_HASH_H
#define RT_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t rt_hash_bytes(const void *data, size_t size); /* XXH3-64, seed 0 */
uint64_t rt_hash_bytes_seed(const void *data, size_t size, uint64_t seed);

/* rt_hash_bytes() of bytes that come in pieces. Touch: one thread at a time. */
struct rt_hash;
struct rt_hash *rt_hash_create(void); /* NULL: out of memory */
void rt_hash_add(struct rt_hash *hash, const void *data, size_t size);
uint64_t rt_hash_value(const struct rt_hash *hash); /* of all so far; more may follow */
void rt_hash_destroy(struct rt_hash *hash);         /* NULL is legal */

static inline uint64_t rt_hash_id(uint64_t id)
{
    id ^= id >> 33;
    id *= 0xff51afd7ed558ccdULL;
    id ^= id >> 33;
    id *= 0xc4ceb9fe1a85ec53ULL;
    id ^= id >> 33;
    return id;
}

/* crc: 0 at the start, the previous result to go on. */
uint32_t rt_crc32c(uint32_t crc, const void *data, size_t size);
uint32_t rt_crc32c_portable(uint32_t crc, const void *data, size_t size); /* the truth in tests */

#endif
