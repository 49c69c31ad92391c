/* tests/unit/test_hash.c -- published vectors, and the fast CRC against the plain one. */
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/hash.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void crc_vectors(void **state)
{
    /* RFC 3720, appendix B.4, and the check value of the polynomial's catalogue entry. */
    static const struct {
        const char *name;
        uint8_t first;
        int8_t step;
        size_t size;
        uint32_t want;
    } row[] = {
        {"32 zeros", 0x00, 0, 32, 0x8a9136aau}, {"32 ones", 0xff, 0, 32, 0x62a8ab43u},
        {"32 up", 0x00, 1, 32, 0x46dd794eu},    {"32 down", 0x1f, -1, 32, 0x113fdb5cu},
        {"digits", '1', 1, 9, 0xe3069283u},     {"empty", 0, 0, 0, 0},
    };
    uint8_t data[32];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        for (size_t j = 0; j < row[i].size; j++)
            data[j] = (uint8_t)(row[i].first + (int)j * row[i].step);
        if (rt_crc32c_portable(0, data, row[i].size) != row[i].want)
            fail_msg("%s: portable differs", row[i].name);
        if (rt_crc32c(0, data, row[i].size) != row[i].want)
            fail_msg("%s: fast differs", row[i].name);
    }
}

static void crc_fast_equals_portable(void **state)
{
    enum { SIZE = 40000 };
    uint8_t *data = malloc(SIZE);

    (void)state;
    for (size_t i = 0; i < SIZE; i++)
        data[i] = (uint8_t)rt_draw(7, i);
    for (uint64_t i = 0; i < 400; i++) {
        size_t from = (size_t)rt_below(rt_draw(8, 2 * i), 64);
        size_t size = (size_t)rt_below(rt_draw(8, 2 * i + 1), i < 200 ? 1000 : SIZE - 64);
        size_t cut = size / 3;
        uint32_t want = rt_crc32c_portable(0, data + from, size);
        uint32_t parts = rt_crc32c(0, data + from, cut);

        if (rt_crc32c(0, data + from, size) != want)
            fail_msg("from %zu size %zu", from, size);
        if (rt_crc32c(parts, data + from + cut, size - cut) != want)
            fail_msg("from %zu size %zu in two parts", from, size);
    }
    free(data);
}

static void xxh3_vectors(void **state)
{
    /* XXH3-64 is frozen since xxHash 0.8.0: these may never change. */
    static const struct {
        const char *text;
        uint64_t want;
    } row[] = {
        {"", 0x2d06800538d394c2ULL},
        {"a", 0xe6c632b61e964e1fULL},
        {"abc", 0x78af5f94892f3950ULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t got = rt_hash_bytes(row[i].text, strlen(row[i].text));

        if (got != row[i].want)
            fail_msg("'%s': got %016llx", row[i].text, (unsigned long long)got);
        assert_int_equal(rt_hash_bytes_seed(row[i].text, strlen(row[i].text), 0), got);
        assert_int_not_equal(rt_hash_bytes_seed(row[i].text, strlen(row[i].text), 1), got);
    }
}

static void id_vectors(void **state)
{
    (void)state;
    /* fmix64 of MurmurHash3, worked out with exact integers. */
    assert_int_equal(rt_hash_id(0), 0);
    assert_int_equal(rt_hash_id(1), 0xb456bcfc34c2cb2cULL);
    assert_int_equal(rt_hash_id(UINT64_MAX), 0x64b5720b4b825f21ULL);
}

/* Digests name batches between roles: whatever the CPU, the same. */
static void xxh3_any_isa(void **state)
{
    enum { SIZE = 70000 };
    enum rt_isa own = rt_cpu_isa();
    uint8_t *data = malloc(SIZE);

    (void)state;
    for (size_t i = 0; i < SIZE; i++)
        data[i] = (uint8_t)rt_draw(9, i);
    for (uint64_t i = 0; i < 200; i++) {
        size_t from = (size_t)rt_below(rt_draw(10, 2 * i), 64);
        size_t size = (size_t)rt_below(rt_draw(10, 2 * i + 1), i < 100 ? 6000 : SIZE - 64);

        rt_cpu_set_isa(RT_ISA_PLAIN);
        uint64_t want = rt_hash_bytes(data + from, size);
        for (uint32_t isa = RT_ISA_AVX2; isa <= (uint32_t)own; isa++) {
            rt_cpu_set_isa((enum rt_isa)isa);
            if (rt_hash_bytes(data + from, size) != want)
                fail_msg("%s: %zu bytes from %zu", rt_isa_name((enum rt_isa)isa), size, from);
        }
    }
    rt_cpu_set_isa(own);
    free(data);
}

/* In pieces of any lengths, the set of instructions changing between them. */
static void xxh3_in_pieces(void **state)
{
    enum { SIZE = 70000 };
    enum rt_isa own = rt_cpu_isa();
    uint8_t *data = malloc(SIZE);

    (void)state;
    for (size_t i = 0; i < SIZE; i++)
        data[i] = (uint8_t)rt_draw(11, i);
    for (uint64_t i = 0; i < 200; i++) {
        size_t size = (size_t)rt_below(rt_draw(12, i), i < 100 ? 1000 : SIZE), n;
        struct rt_hash *hash = rt_hash_create();

        assert_non_null(hash);
        for (size_t at = 0, k = 0; at < size; at += n, k++) {
            n = 1 + (size_t)rt_below(rt_draw(13 + i, k), k % 3 ? 9000 : 40);
            n = n < size - at ? n : size - at;
            rt_cpu_set_isa((enum rt_isa)(rt_draw(14 + i, k) % ((uint32_t)own + 1)));
            rt_hash_add(hash, data + at, n);
            if (k % 4 == 0)
                assert_true(rt_hash_value(hash) == rt_hash_bytes(data, at + n));
        }
        if (rt_hash_value(hash) != rt_hash_bytes(data, size))
            fail_msg("%zu bytes", size);
        rt_hash_destroy(hash);
    }
    rt_hash_destroy(NULL);
    rt_cpu_set_isa(own);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_vectors),    cmocka_unit_test(crc_fast_equals_portable),
        cmocka_unit_test(xxh3_vectors),   cmocka_unit_test(xxh3_any_isa),
        cmocka_unit_test(xxh3_in_pieces), cmocka_unit_test(id_vectors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
