/* runtime/net/lz.c -- lz.h with liblz4's block functions.
 *
 * Blocks are independent, so neither end keeps a window, and a block that came whole in one read is unpacked from the
 * read buffer. Its raw size follows from the frame, not from the block: LZ4_decompress_safe() is given exactly that room,
 * and another result is an error. Whether a payload is worth packing is told by its first block: rows and gradients are
 * alike from end to end, and of float32 noise only that one is packed for nothing. */
#include "runtime/net/lz.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <lz4.h>
#include <string.h>

#define HEAD 4u

struct rt_lz {
    uint8_t raw[RT_LZ_BLOCK]; /* of several stretches */
    void *state;
    uint8_t *out; /* rt_lz_bound(RT_LZ_MAX); touched as far as it was used */
};

struct rt_lz *rt_lz_create(void)
{
    struct rt_lz *lz = rt_try_malloc(sizeof(*lz));

    if (!lz)
        return NULL;
    lz->out = NULL;
    lz->state = rt_try_malloc((size_t)LZ4_sizeofState());
    lz->out = rt_try_malloc(rt_lz_bound(RT_LZ_MAX));
    if (!lz->state || !lz->out) {
        rt_lz_destroy(lz);
        return NULL;
    }
    return lz;
}

void rt_lz_destroy(struct rt_lz *lz)
{
    if (lz) {
        rt_free(lz->state);
        rt_free(lz->out);
    }
    rt_free(lz);
}

size_t rt_lz_bound(size_t raw)
{
    return raw + (raw + RT_LZ_BLOCK - 1) / RT_LZ_BLOCK * HEAD;
}

static void put_head(uint8_t *out, uint32_t value)
{
    for (unsigned i = 0; i < HEAD; i++)
        out[i] = (uint8_t)(value >> 8 * i);
}

/* One block with its head. It is stored when LZ4 does not make it smaller. Return: bytes. */
static size_t pack_block(struct rt_lz *lz, const uint8_t *raw, size_t n, uint8_t *out)
{
    int size = n > 1 ? LZ4_compress_fast_extState(lz->state, (const char *)raw, (char *)out + HEAD,
                                                  (int)n, (int)n - 1, 1)
                     : 0;

    if (size <= 0) {
        memcpy(out + HEAD, raw, n);
        put_head(out, (uint32_t)n | RT_LZ_STORED);
        return HEAD + n;
    }
    put_head(out, (uint32_t)size);
    return HEAD + (size_t)size;
}

/* The next block's bytes: where they are, or put together from several stretches. 0 at the end. */
static size_t next_block(struct rt_lz *lz, const uv_buf_t *stretch, unsigned n, unsigned *i,
                         size_t *at, const uint8_t **raw)
{
    size_t have = 0;

    while (*i < n && have < RT_LZ_BLOCK) {
        const uint8_t *from = (const uint8_t *)stretch[*i].base + *at;
        size_t left = stretch[*i].len - *at, take = RT_LZ_BLOCK - have;

        if (have == 0 && left >= RT_LZ_BLOCK) {
            *at += RT_LZ_BLOCK;
            *raw = from;
            return RT_LZ_BLOCK;
        }
        take = take < left ? take : left;
        memcpy(lz->raw + have, from, take);
        have += take;
        *at += take;
        if (*at == stretch[*i].len) {
            ++*i;
            *at = 0;
        }
    }
    *raw = lz->raw;
    return have;
}

static bool is_worth(size_t packed, size_t raw)
{
    return packed <= raw - raw / 10;
}

size_t rt_lz_pack(struct rt_lz *lz, const uv_buf_t *stretch, unsigned n, const uint8_t **out)
{
    const uint8_t *raw;
    size_t size, all = 0, end = 0, at = 0;
    unsigned i = 0;

    while ((size = next_block(lz, stretch, n, &i, &at, &raw)) > 0) {
        bool is_first = all == 0;

        all += size;
        rt_assert(all <= RT_LZ_MAX);
        end += pack_block(lz, raw, size, lz->out + end);
        if (is_first && !is_worth(end, all))
            return 0;
    }
    *out = lz->out;
    return is_worth(end, all) ? end : 0;
}

/* ---- in ---- */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int read_head(struct rt_unlz *in, size_t raw)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < HEAD; i++)
        value |= (uint32_t)in->head[i] << 8 * i;
    in->stored = value & RT_LZ_STORED;
    in->size = value & ~RT_LZ_STORED;
    if (in->size == 0 || in->size > raw || (in->stored && in->size != raw))
        return RT_FAIL(RT_EPROTO, "packed payload: expected a %s block of %s%zu bytes, got %u",
                       in->stored ? "stored" : "packed", in->stored ? "" : "1 to ", raw, in->size);
    return 0;
}

static int unpack(const struct rt_unlz *in, const uint8_t *block, uint8_t *out, size_t raw)
{
    int size;

    if (!out)
        return 0;
    if (in->stored) {
        memcpy(out, block, raw);
        return 0;
    }
    size = LZ4_decompress_safe((const char *)block, (char *)out, (int)in->size, (int)raw);
    if (size < 0 || (size_t)size != raw)
        return RT_FAIL(RT_EPROTO, "packed payload: expected a block of %zu bytes in LZ4, got %s",
                       raw, size < 0 ? "something else" : "fewer");
    return 0;
}

/* Bytes of the block; *block: all of it, or NULL when it is not there yet. */
static int take_block(struct rt_unlz *in, const uint8_t *data, size_t n, size_t *took,
                      const uint8_t **block)
{
    size_t have = in->got - HEAD, take = least(in->size - have, n);

    *block = NULL;
    *took += take;
    if (take == in->size) {
        *block = data;
        return 0;
    }
    if (!in->block && !(in->block = rt_try_malloc(RT_LZ_BLOCK)))
        return RT_FAIL(RT_ENOMEM, "no memory for a block of a packed payload");
    memcpy(in->block + have, data, take);
    in->got += take;
    if (have + take == in->size)
        *block = in->block;
    return 0;
}

int rt_unlz_feed(struct rt_unlz *in, const uint8_t *data, size_t n, size_t left, uint8_t *out,
                 size_t *took, size_t *made)
{
    size_t raw = least(left, RT_LZ_BLOCK);
    const uint8_t *block;
    int err;

    rt_assert(n > 0 && left > 0);
    *took = *made = 0;
    if (in->got < HEAD) {
        *took = least(HEAD - in->got, n);
        memcpy(in->head + in->got, data, *took);
        in->got += *took;
        if (in->got < HEAD)
            return 0;
        err = read_head(in, raw);
        if (err || *took == n)
            return err;
    }
    err = take_block(in, data + *took, n - *took, took, &block);
    if (err || !block)
        return err;
    err = unpack(in, block, out, raw);
    in->got = 0;
    *made = err ? 0 : raw;
    return err;
}

void rt_unlz_release(struct rt_unlz *in)
{
    rt_free(in->block);
    *in = (struct rt_unlz){0};
}
