/* runtime/net/frame.h -- one frame of the data plane: fixed header, protobuf message, raw payload.
 *
 *   offset size field             all little-endian
 *        0    4 magic             "SFRN"
 *        4    2 version           RT_WIRE_VERSION; another major is refused at the handshake
 *        6    2 method            enum rt_method (runtime/wire/method.h); 0..15 belong to the link itself
 *        8    2 flags             RT_FRAME_REPLY | RT_FRAME_TRACE | ...
 *       10    2 reserved          zero
 *       12    4 status            replies: 0 or an RT_E code; then the message is plain text
 *       16    8 request_id        chosen by the caller, unique on its connection; reply carries it back
 *       24    8 batch_id          split (16 bits) | sequence (48 bits); 0 where there is none
 *       32    8 incarnation       of the sender
 *       40    4 group_epoch
 *       44    4 generation
 *       48    4 message_size      <= RT_MESSAGE_MAX
 *       52    4 payload_crc       CRC32C of the payload; 0 with RT_FRAME_NO_PAYLOAD_CRC (Unix sockets)
 *       56    8 payload_size      <= the method's own limit
 *       64    4 head_crc          CRC32C of bytes 0..63, of packed_size if it is not 0, and of the message
 *       68    4 packed_size       bytes of the payload on the wire with RT_FRAME_LZ4 (lz.h); else 0
 *
 * The payload is a row of segments (ids, rows, tensors). Segment i starts at the first multiple of 64
 * after segment i-1; which segments there are follows from the message alone. A payload arrives in
 * one 64-byte aligned buffer, so every segment is aligned in memory too. */
#ifndef RT_FRAME_H
#define RT_FRAME_H

#include "runtime/base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RT_FRAME_MAGIC       0x4e524653u
#define RT_WIRE_VERSION      1
#define RT_FRAME_HEADER_SIZE 72
#define RT_MESSAGE_MAX       (1u << 20)
#define RT_PAYLOAD_MAX       (1ull << 30)
#define RT_SEGMENT_ALIGN     64
#define RT_SEGMENTS_MAX      1024 /* pieces of one outgoing payload */

enum rt_frame_flag {
    RT_FRAME_REPLY = 1,
    RT_FRAME_TRACE = 2,
    RT_FRAME_NO_PAYLOAD_CRC = 4,
    RT_FRAME_DISCARDED =
        8,             /* never on the wire: the payload was read and thrown away (over budget) */
    RT_FRAME_LZ4 = 32, /* on the wire: the payload is packed; to link_send: it may be */
    RT_FRAME_CRC_KNOWN = 16, /* never on the wire, to link_send: payload_crc is the payload's */
};

/* Methods below 16 are the link's own. */
enum { RT_METHOD_HANDSHAKE = 1, RT_METHOD_PING = 2, RT_METHOD_ROLE_FIRST = 16 };

/* batch_id: 0 where a frame is about no batch. The upper bit marks the batches of an evaluation (runtime/job/batch_id.h). */
#define RT_BATCH_EVALUATES (1ull << 63)

struct rt_header {
    uint16_t version, method, flags;
    int32_t status;
    uint64_t request_id, batch_id, incarnation;
    uint32_t group_epoch, generation;
    uint32_t message_size, payload_crc;
    uint64_t payload_size;
    uint32_t head_crc;
    uint32_t packed_size;
};

/* Bytes of a whole frame on the wire. */
static inline uint64_t rt_frame_bytes(const struct rt_header *header)
{
    return RT_FRAME_HEADER_SIZE + header->message_size +
           (header->packed_size ? header->packed_size : header->payload_size);
}

/* A message as it was received. `message` is valid during the callback only; `payload` is borrowed:
 * rt_buf_ref() it to keep it. NULL payload when payload_size is 0 (or discarded). */
struct rt_frame {
    struct rt_header header;
    const uint8_t *message;
    struct rt_buf *payload;
};

/* One stretch of an outgoing payload; `buf` holds the bytes and is kept referenced until they left;
 * NULL for bytes that never change or go away (constants). */
struct rt_piece {
    const void *data;
    size_t size;
    struct rt_buf *buf;
};

/* Makes a payload while it is being sent, from its beginning to its end: make() puts the next bytes at `at`
 * (64-byte aligned only for the first), at most `room` (RT_MAKE_BYTES, or all that are left), and returns how many: one or
 * more. It calls nothing of the link's, and is not called on once the link has failed. The memory of what
 * has left is used again, so a large payload is made and sent while it is in the cache. */
struct rt_maker {
    size_t (*make)(void *arg, uint8_t *at, size_t room);
    void *arg;
};
#define RT_MAKE_BYTES ((size_t)256 << 10)

/* Encode without head_crc, then rt_header_seal() over header and message. */
void rt_header_encode(const struct rt_header *h, uint8_t out[RT_FRAME_HEADER_SIZE]);
void rt_header_seal(uint8_t head[RT_FRAME_HEADER_SIZE], const uint8_t *message, size_t size);

/* Decode and check magic, version, reserved fields and limits: RT_EPROTO names the field, what was
 * expected and got. The checksum is verified by rt_header_verify once the message is there. */
int rt_header_decode(const uint8_t in[RT_FRAME_HEADER_SIZE], struct rt_header *out);
int rt_header_verify(const uint8_t head[RT_FRAME_HEADER_SIZE], const uint8_t *message, size_t size);

/* Cursor over the segments of a received payload. */
struct rt_segments {
    const uint8_t *base;
    size_t size, at;
};
static inline struct rt_segments rt_segments_of(const struct rt_buf *payload)
{
    return payload ? (struct rt_segments){payload->data, payload->size, 0}
                   : (struct rt_segments){0, 0, 0};
}
/* Next segment of count x element bytes, 64-byte aligned; *out may point at no bytes when the count
 * is 0. RT_EPROTO when the payload is shorter, or on overflow. */
int rt_segment_take(struct rt_segments *seg, size_t count, size_t element, const void **out);
/* All bytes used up (padding of the last segment is not sent). RT_EPROTO otherwise. */
int rt_segments_end(const struct rt_segments *seg);

/* Where segments land in a buffer that is being written: offset of the next one, and the new end. */
static inline size_t rt_segment_put(size_t *end, size_t bytes)
{
    size_t at = (*end + RT_SEGMENT_ALIGN - 1) & ~(size_t)(RT_SEGMENT_ALIGN - 1);
    *end = at + bytes;
    return at;
}

#endif
