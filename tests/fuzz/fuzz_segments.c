/* tests/fuzz/fuzz_segments.c -- takes of any count and size from a payload; every byte given is touched.
 *
 * Two bytes of payload size (below 4096), then per take a byte of element size and a count of 1 or 8 bytes. */
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/net/frame.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static size_t next(const uint8_t *data, size_t size, size_t *at, size_t n)
{
    size_t value = 0;

    if (n > size - *at)
        n = size - *at;
    memcpy(&value, data + *at, n);
    *at += n;
    return value;
}

int fuzz_segments(const uint8_t *data, size_t size)
{
    size_t at = 0, before = 0;

    if (size < 2)
        return 0;
    size_t payload_size = next(data, size, &at, 2) & 0xfff;
    uint8_t *payload = payload_size ? rt_xaligned(payload_size) : NULL;
    if (payload)
        memset(payload, 1, payload_size);
    struct rt_segments seg = {payload, payload_size, 0};
    while (at < size) {
        const void *segment = NULL;
        size_t element = next(data, size, &at, 1);
        size_t count = next(data, size, &at, element & 0x80 ? 8 : 1);

        element = element == 0xff ? SIZE_MAX : element & 0x7f;
        if (rt_segment_take(&seg, count, element, &segment) != 0)
            continue;
        size_t bytes = count * element, sum = 0;
        rt_assert(seg.at >= before && seg.at <= payload_size);
        rt_assert(((uintptr_t)segment & (RT_SEGMENT_ALIGN - 1)) == 0);
        for (size_t i = 0; i < bytes; i++)
            sum += ((const uint8_t *)segment)[i];
        rt_assert(sum == bytes);
        before = seg.at;
    }
    rt_assert((rt_segments_end(&seg) == 0) == (seg.at == payload_size));
    rt_free(payload);
    return 0;
}
