/* runtime/net/frame.c -- the frame header's bytes, and the cursor over payload segments.
 *
 * Fields are written one by one in little-endian order, so the layout in frame.h is the layout on the
 * wire whatever the compiler does with structs. Decoding checks what can be checked without the
 * message: a header that passes here has sizes that are safe to act on, and the checksum that covers
 * header and message is verified as soon as the message has arrived. */
#include "runtime/net/frame.h"

#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/net/lz.h"

#include <endian.h>
#include <string.h>

#define FLAGS_ON_WIRE  (RT_FRAME_REPLY | RT_FRAME_TRACE | RT_FRAME_NO_PAYLOAD_CRC | RT_FRAME_LZ4)
#define HEAD_CRC_AT    64
#define PACKED_SIZE_AT 68

static void put16(uint8_t *at, uint16_t v)
{
    v = htole16(v);
    memcpy(at, &v, sizeof v);
}

static void put32(uint8_t *at, uint32_t v)
{
    v = htole32(v);
    memcpy(at, &v, sizeof v);
}

static void put64(uint8_t *at, uint64_t v)
{
    v = htole64(v);
    memcpy(at, &v, sizeof v);
}

static uint16_t get16(const uint8_t *at)
{
    uint16_t v;
    memcpy(&v, at, sizeof v);
    return le16toh(v);
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return le32toh(v);
}

static uint64_t get64(const uint8_t *at)
{
    uint64_t v;
    memcpy(&v, at, sizeof v);
    return le64toh(v);
}

void rt_header_encode(const struct rt_header *h, uint8_t out[RT_FRAME_HEADER_SIZE])
{
    put32(out, RT_FRAME_MAGIC);
    put16(out + 4, h->version);
    put16(out + 6, h->method);
    put16(out + 8, h->flags);
    put16(out + 10, 0);
    put32(out + 12, (uint32_t)h->status);
    put64(out + 16, h->request_id);
    put64(out + 24, h->batch_id);
    put64(out + 32, h->incarnation);
    put32(out + 40, h->group_epoch);
    put32(out + 44, h->generation);
    put32(out + 48, h->message_size);
    put32(out + 52, h->payload_crc);
    put64(out + 56, h->payload_size);
    put32(out + HEAD_CRC_AT, 0);
    put32(out + PACKED_SIZE_AT, h->packed_size);
}

static uint32_t head_crc(const uint8_t head[RT_FRAME_HEADER_SIZE], const uint8_t *message,
                         size_t size)
{
    uint32_t crc = rt_crc32c(0, head, HEAD_CRC_AT);
    if (get32(head + PACKED_SIZE_AT))
        crc = rt_crc32c(crc, head + PACKED_SIZE_AT, 4);
    return size ? rt_crc32c(crc, message, size) : crc;
}

void rt_header_seal(uint8_t head[RT_FRAME_HEADER_SIZE], const uint8_t *message, size_t size)
{
    put32(head + HEAD_CRC_AT, head_crc(head, message, size));
}

/* A payload may not grow by more than LZ4 can pack, so nobody reserves memory for bytes that cannot come. */
static int check_packed(const struct rt_header *h)
{
    bool packed = h->flags & RT_FRAME_LZ4;
    uint64_t least = packed ? h->payload_size / RT_LZ_RATIO_MAX + 1 : 0;
    uint64_t most = packed ? rt_lz_bound(h->payload_size) : 0;
    if (h->packed_size < least || h->packed_size > most || (packed && h->payload_size == 0))
        return RT_FAIL(
            RT_EPROTO,
            "frame field packed_size: expected %llu to %llu for a payload of %llu bytes, "
            "got %u",
            (unsigned long long)least, (unsigned long long)most,
            (unsigned long long)h->payload_size, h->packed_size);
    return 0;
}

static int check_limits(const struct rt_header *h)
{
    if (h->message_size > RT_MESSAGE_MAX)
        return RT_FAIL(RT_EPROTO, "frame field message_size: expected at most %u, got %u",
                       RT_MESSAGE_MAX, h->message_size);
    if (h->payload_size > RT_PAYLOAD_MAX)
        return RT_FAIL(RT_EPROTO, "frame field payload_size: expected at most %llu, got %llu",
                       RT_PAYLOAD_MAX, (unsigned long long)h->payload_size);
    if (h->flags & ~FLAGS_ON_WIRE)
        return RT_FAIL(RT_EPROTO, "frame field flags: expected a subset of 0x%x, got 0x%x",
                       FLAGS_ON_WIRE, h->flags);
    if (h->status > 0 || (h->status != 0 && !(h->flags & RT_FRAME_REPLY)))
        return RT_FAIL(RT_EPROTO, "frame field status: expected %s, got %d",
                       h->flags & RT_FRAME_REPLY ? "0 or an error" : "0 in a request", h->status);
    if ((h->flags & RT_FRAME_NO_PAYLOAD_CRC) && h->payload_crc)
        return RT_FAIL(RT_EPROTO, "frame field payload_crc: expected 0 by its flag, got 0x%08x",
                       h->payload_crc);
    return check_packed(h);
}

int rt_header_decode(const uint8_t in[RT_FRAME_HEADER_SIZE], struct rt_header *out)
{
    if (get32(in) != RT_FRAME_MAGIC)
        return RT_FAIL(RT_EPROTO, "frame field magic: expected 0x%08x, got 0x%08x", RT_FRAME_MAGIC,
                       get32(in));
    if (get16(in + 4) != RT_WIRE_VERSION)
        return RT_FAIL(RT_EPROTO, "frame field version: expected %d, got %d", RT_WIRE_VERSION,
                       get16(in + 4));
    if (get16(in + 10))
        return RT_FAIL(RT_EPROTO, "frame field reserved: expected 0, got 0x%x", get16(in + 10));
    *out = (struct rt_header){
        .version = get16(in + 4),
        .method = get16(in + 6),
        .flags = get16(in + 8),
        .status = (int32_t)get32(in + 12),
        .request_id = get64(in + 16),
        .batch_id = get64(in + 24),
        .incarnation = get64(in + 32),
        .group_epoch = get32(in + 40),
        .generation = get32(in + 44),
        .message_size = get32(in + 48),
        .payload_crc = get32(in + 52),
        .payload_size = get64(in + 56),
        .head_crc = get32(in + HEAD_CRC_AT),
        .packed_size = get32(in + PACKED_SIZE_AT),
    };
    return check_limits(out);
}

int rt_header_verify(const uint8_t head[RT_FRAME_HEADER_SIZE], const uint8_t *message, size_t size)
{
    uint32_t want = head_crc(head, message, size), got = get32(head + HEAD_CRC_AT);
    if (want != got)
        return RT_FAIL(RT_EPROTO, "frame field head_crc: expected 0x%08x, got 0x%08x", want, got);
    return 0;
}

int rt_segment_take(struct rt_segments *seg, size_t count, size_t element, const void **out)
{
    size_t bytes, end, at = rt_align_up(seg->at, RT_SEGMENT_ALIGN);
    if (!rt_mul_size(count, element, &bytes) || !rt_add_size(at, bytes, &end))
        return RT_FAIL(RT_EPROTO, "payload segment at %zu: %zu elements of %zu bytes overflow", at,
                       count, element);
    if (end > seg->size)
        return RT_FAIL(RT_EPROTO, "payload segment at %zu: expected %zu bytes, %zu are left", at,
                       bytes, seg->size > at ? seg->size - at : 0);
    *out = seg->base ? seg->base + at : NULL;
    seg->at = end;
    return 0;
}

int rt_segments_end(const struct rt_segments *seg)
{
    if (seg->at != seg->size)
        return RT_FAIL(RT_EPROTO, "payload: expected %zu bytes, got %zu", seg->at, seg->size);
    return 0;
}
