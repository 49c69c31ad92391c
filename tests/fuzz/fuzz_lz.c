/* tests/fuzz/fuzz_lz.c -- a packed payload of any bytes, in pieces; and the same bytes packed and unpacked.
 *
 * Three bytes of raw size, one of how large the pieces are (0: all at once), then what arrives. Nothing is written
 * beyond the raw size, and what is unpacked ends where the size says. */
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/net/lz.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

#define RAW_MAX ((size_t)256 << 10)

/* Return: raw bytes. */
static size_t unpack(const uint8_t *data, size_t n, size_t cut, size_t raw, uint8_t *out)
{
    struct rt_unlz in = {0};
    size_t done = 0;

    for (size_t at = 0, took, made; at < n && done < raw; at += took) {
        size_t give = cut && cut < n - at ? cut : n - at;

        if (rt_unlz_feed(&in, data + at, give, raw - done, out + done, &took, &made) != 0)
            break;
        rt_assert(took > 0 && took <= give && made <= raw - done);
        done += made;
    }
    rt_unlz_release(&in);
    return done;
}

int fuzz_lz(const uint8_t *data, size_t size)
{
    if (size < 5)
        return 0;
    size_t raw = (data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16) % RAW_MAX + 1;
    size_t cut = data[3], n = size - 4;
    uint8_t *out = rt_xmalloc(raw), *again = rt_xmalloc(n);
    const uint8_t *packed;
    uv_buf_t stretch[2] = {uv_buf_init((char *)data + 4, (unsigned)(n / 3)),
                           uv_buf_init((char *)data + 4 + n / 3, (unsigned)(n - n / 3))};
    struct rt_lz *lz = rt_lz_create();

    unpack(data + 4, n, cut, raw, out);
    size_t bytes = rt_lz_pack(lz, stretch, 2, &packed);
    rt_assert(bytes <= rt_lz_bound(n));
    rt_assert(bytes == 0 ||
              (unpack(packed, bytes, cut, n, again) == n && memcmp(again, data + 4, n) == 0));
    rt_lz_destroy(lz);
    rt_free(out);
    rt_free(again);
    return 0;
}
