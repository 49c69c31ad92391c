/* tests/unit/test_lz.c -- payloads packed and unpacked: every size and cut gives the bytes again, wrong blocks are refused. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/net/lz.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define RAW_MAX (5 * RT_LZ_BLOCK)

static uint64_t key, draws;

static uint64_t draw(uint64_t below)
{
    return rt_below(rt_draw(key, draws++), below);
}

/* Runs of bytes and noise in turns; @noise: of 100. */
static void fill(uint8_t *raw, size_t n, unsigned noise)
{
    for (size_t i = 0; i < n;) {
        size_t end = i + 1 + draw(3000);
        bool is_noise = draw(100) < noise;
        uint8_t value = (uint8_t)draw(256);

        for (; i < end && i < n; i++)
            raw[i] = is_noise ? (uint8_t)draw(256) : value;
    }
}

/* Fed in pieces of up to `cut` bytes. Return: raw bytes that came; all of `packed` is used. */
static size_t unpack(const uint8_t *packed, size_t n, size_t raw, uint8_t *out, size_t cut)
{
    struct rt_unlz in = {0};
    size_t at = 0, done = 0;

    while (at < n) {
        size_t give = 1 + draw(cut), took, made;

        give = give < n - at ? give : n - at;
        assert_true(done < raw);
        assert_int_equal(
            rt_unlz_feed(&in, packed + at, give, raw - done, out ? out + done : NULL, &took, &made),
            0);
        assert_true(took >= 1 && took <= give);
        at += took;
        done += made;
    }
    rt_unlz_release(&in);
    return done;
}

/* The payload cut into stretches at random. Return: their number. */
static unsigned stretches_of(uint8_t *raw, size_t n, uv_buf_t stretch[16])
{
    unsigned k = 0;

    for (size_t at = 0; at < n; k++) {
        size_t size = k == 15 ? n - at : 1 + draw(n - at);

        stretch[k] = uv_buf_init((char *)raw + at, (unsigned)size);
        at += size;
    }
    return k;
}

static void any_payload_comes_back(void **state)
{
    static const size_t size[] = {
        1, 2, 5, 4096, RT_LZ_BLOCK - 1, RT_LZ_BLOCK, RT_LZ_BLOCK + 1, 2 * RT_LZ_BLOCK, RAW_MAX};
    uint8_t *raw = rt_xmalloc(RAW_MAX);
    const uint8_t *packed;
    uint8_t *got = rt_xmalloc(RAW_MAX);
    struct rt_lz *lz = rt_lz_create();
    unsigned refused = 0;

    (void)state;
    key = rt_draw_key(rt_now_ns(), "lz", NULL);
    print_message("seed %llu\n", (unsigned long long)key);
    for (unsigned i = 0; i < 300; i++) {
        size_t n = i % 2 ? 1 + draw(RAW_MAX) : size[i / 2 % ARRAY_LEN(size)], bytes;
        static const size_t cuts[] = {1, 7, 5000, 1 << 20};
        uv_buf_t stretch[16];

        fill(raw, n, (unsigned)draw(4) * 30);
        bytes = rt_lz_pack(lz, stretch, stretches_of(raw, n, stretch), &packed);
        assert_true(bytes <= rt_lz_bound(n));
        refused += bytes == 0;
        if (bytes == 0)
            continue;
        assert_true(bytes > n / RT_LZ_RATIO_MAX);
        memset(got, 0, n);
        assert_int_equal(
            unpack(packed, bytes, n, got, cuts[draw(n < 5000 ? 4 : 2) + (n < 5000 ? 0 : 2)]), n);
        assert_memory_equal(got, raw, n);
        assert_int_equal(unpack(packed, bytes, n, NULL, 1 << 20), n);
    }
    assert_true(refused > 10 && refused < 250);
    rt_lz_destroy(lz);
    rt_free(raw);
    rt_free(got);
}

/* Noise is sent as it is; noise behind a block that packs is stored, with four bytes for each block. */
static void noise_is_not_packed(void **state)
{
    uint8_t *raw = rt_xmalloc(RAW_MAX);
    const uint8_t *packed;
    struct rt_lz *lz = rt_lz_create();
    uv_buf_t all = uv_buf_init((char *)raw, RAW_MAX);
    size_t bytes;

    (void)state;
    fill(raw, RAW_MAX, 100);
    assert_int_equal(rt_lz_pack(lz, &all, 1, &packed), 0);
    memset(raw, 5, RT_LZ_BLOCK / 8);
    assert_int_equal(rt_lz_pack(lz, &all, 1, &packed), 0); /* all in all */
    memset(raw, 5, RT_LZ_BLOCK);
    bytes = rt_lz_pack(lz, &all, 1, &packed);
    assert_true(bytes > 4 * (RT_LZ_BLOCK + 4) && bytes < 4 * (RT_LZ_BLOCK + 4) + 400);
    memset(raw, 5, RAW_MAX); /* as far as LZ4 goes */
    bytes = rt_lz_pack(lz, &all, 1, &packed);
    assert_true(bytes > RAW_MAX / RT_LZ_RATIO_MAX && bytes < RAW_MAX / 200);
    rt_lz_destroy(lz);
    rt_free(raw);
}

static void wrong_blocks_are_refused(void **state)
{
    static const struct {
        const char *want;
        size_t left, n;
        uint8_t byte[8];
    } row[] = {
        {"expected a packed block of 1 to 100 bytes, got 0", 100, 4, {0}},
        {"expected a packed block of 1 to 100 bytes, got 101", 100, 4, {101}},
        {"expected a packed block of 1 to 65536 bytes, got 65537", 1 << 20, 4, {1, 0, 1}},
        {"expected a stored block of 100 bytes, got 99", 100, 4, {99, 0, 0, 0x80}},
        {"expected a stored block of 65536 bytes, got 100", 1 << 20, 4, {100, 0, 0, 0x80}},
        {"expected a block of 100 bytes in LZ4, got fewer", 100, 6, {2, 0, 0, 0, 0x10, 'x'}},
        {"expected a block of 1 bytes in LZ4, got something else", 1, 5, {1, 0, 0, 0, 0xf0}},
        {"expected a block of 100 bytes in LZ4, got something else",
         100,
         7,
         {3, 0, 0, 0, 0x0f, 9, 9}},
    };
    uint8_t out[128];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        for (int by_byte = 0; by_byte < 2; by_byte++) {
            struct rt_unlz in = {0};
            size_t took, made;
            int err = 0;

            for (size_t at = 0; at < row[i].n && !err; at += took)
                err = rt_unlz_feed(&in, row[i].byte + at, by_byte ? 1 : row[i].n - at, row[i].left,
                                   out, &took, &made);
            if (err != RT_EPROTO || !strstr(rt_err_text(), row[i].want))
                fail_msg("want \"%s\", got %d \"%s\"", row[i].want, err, err ? rt_err_text() : "");
            rt_unlz_release(&in);
        }
    }
}

static void no_memory_is_told(void **state)
{
    static const uint8_t head[] = {9, 0, 0, 0, 1};
    struct rt_unlz in = {0};
    uint8_t out[100];
    size_t took, made;

    (void)state;
    for (int64_t nth = 0; nth < 3; nth++) {
        rt_fault_alloc(nth);
        assert_null(rt_lz_create());
        rt_fault_alloc(-1);
    }
    rt_fault_alloc(0);
    assert_int_equal(rt_unlz_feed(&in, head, sizeof(head), 100, out, &took, &made), RT_ENOMEM);
    rt_fault_alloc(-1);
    rt_unlz_release(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_payload_comes_back),
        cmocka_unit_test(noise_is_not_packed),
        cmocka_unit_test(wrong_blocks_are_refused),
        cmocka_unit_test(no_memory_is_told),
    };

    return cmocka_run_group_tests_name("lz", tests, NULL, NULL);
}
