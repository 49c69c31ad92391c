/* runtime/net/lz.h -- payloads in LZ4 on their way: blocks that are packed and unpacked one by one.
 *
 * On the wire a packed payload (RT_FRAME_LZ4) is a row of blocks, each of the next RT_LZ_BLOCK raw bytes, or all that
 * are left of the frame's payload_size:
 *
 *   offset size
 *        0    4  little-endian: bytes that follow, 1..RT_LZ_BLOCK; RT_LZ_STORED is set when they are the raw bytes
 *        4    n  an LZ4 block (liblz4's block format), or the raw bytes
 *
 * The raw size is the frame's payload_size, which is admitted before the first block comes: what a small frame may grow
 * to is limited as any payload is. packed_size is the sum of the blocks with their heads. */
#ifndef RT_LZ_H
#define RT_LZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define RT_LZ_BLOCK     ((size_t)64 << 10)
#define RT_LZ_STORED    (1u << 31)
#define RT_LZ_RATIO_MAX 255                /* what LZ4 can pack at most */
#define RT_LZ_MAX       ((size_t)16 << 20) /* nor larger ones: the loop has other links */
#define RT_LZ_MIN       ((size_t)2 << 10)  /* smaller ones leave in a packet or two as they are */

/* What packing needs beside its output; one per loop. NULL: no memory. */
struct rt_lz;
struct rt_lz *rt_lz_create(void);
void rt_lz_destroy(struct rt_lz *lz);

/* Bytes that `raw` bytes take at most. */
size_t rt_lz_bound(size_t raw);

/* Pack the stretches, one after the other, at most RT_LZ_MAX together. Return: bytes, *out is where until the next call; or 0 when
 * it is not worth it: the first block, or all of it, did not become a tenth smaller. */
size_t rt_lz_pack(struct rt_lz *lz, const uv_buf_t *stretch, unsigned n, const uint8_t **out);

/* A packed payload that arrives; zero-initialise, release. */
struct rt_unlz {
    uint8_t head[4];
    size_t got;     /* bytes of the block and of its head so far */
    uint32_t size;  /* of the block, once its head is there */
    bool stored;    /* it is raw */
    uint8_t *block; /* RT_LZ_BLOCK, for blocks that do not come whole; kept */
};

/* Take bytes up to the end of one block. `left`: raw bytes that the payload still lacks, >= 1; they go to `out`, or nowhere
 * (NULL: the payload is thrown away). *took >= 1 bytes were used; *made: raw bytes, 0 before the block is whole.
 * RT_EPROTO, RT_ENOMEM: the connection is of no use any more. */
int rt_unlz_feed(struct rt_unlz *in, const uint8_t *data, size_t n, size_t left, uint8_t *out,
                 size_t *took, size_t *made);
void rt_unlz_release(struct rt_unlz *in);

#endif
