/* tests/lib/greeting.c -- the identity's bytes, there and back. */
#include "tests/lib/greeting.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"

#include <string.h>

static int pack_plain(const struct rt_identity *id, uint8_t *out, size_t capacity, size_t *size)
{
    rt_assert(capacity >= sizeof(*id));
    memcpy(out, id, sizeof(*id));
    *size = sizeof(*id);
    return 0;
}

static int unpack_plain(const uint8_t *message, size_t size, struct rt_identity *out)
{
    if (size != sizeof(*out))
        return RT_FAIL(RT_EPROTO, "handshake: expected %zu bytes, got %zu", sizeof(*out), size);
    memcpy(out, message, size);
    return 0;
}

const struct rt_greeting plain_greeting = {pack_plain, unpack_plain};
