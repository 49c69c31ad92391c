/* tests/fuzz/fuzz_frame.c -- a header and its message; what is accepted is written the same again. */
#include "runtime/base/assert.h"
#include "runtime/net/frame.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

#define CRC_AT 64

int fuzz_frame(const uint8_t *data, size_t size)
{
    struct rt_header header;
    uint8_t again[RT_FRAME_HEADER_SIZE];

    if (size < RT_FRAME_HEADER_SIZE)
        return 0;
    const uint8_t *message = data + RT_FRAME_HEADER_SIZE;
    size_t message_size = size - RT_FRAME_HEADER_SIZE;
    int sealed = rt_header_verify(data, message, message_size) == 0;
    if (rt_header_decode(data, &header) != 0)
        return 0;
    rt_assert(header.message_size <= RT_MESSAGE_MAX && header.payload_size <= RT_PAYLOAD_MAX);
    rt_header_encode(&header, again);
    rt_assert(memcmp(again, data, CRC_AT) == 0);
    rt_header_seal(again, message, message_size);
    rt_assert(rt_header_verify(again, message, message_size) == 0);
    rt_assert(!sealed || memcmp(again, data, sizeof again) == 0);
    if (message_size) { /* one bit of the message, chosen by the data */
        again[CRC_AT + (message[0] & 3)] ^= (uint8_t)(1u << (message[0] >> 5));
        rt_assert(rt_header_verify(again, message, message_size) != 0);
    }
    return 0;
}
