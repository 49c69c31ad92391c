/* tests/unit/test_frame.c -- header bytes, bad headers, segments, timers. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/rand.h"
#include "runtime/net/frame.h"
#include "runtime/net/timers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static struct rt_header sample(void)
{
    return (struct rt_header){
        .version = RT_WIRE_VERSION,
        .method = 0x1716,
        .flags = RT_FRAME_REPLY | RT_FRAME_TRACE,
        .status = RT_EUNKNOWN,
        .request_id = 0x0102030405060708,
        .batch_id = 0x1112131415161718,
        .incarnation = 0x2122232425262728,
        .group_epoch = 0x31323334,
        .generation = 0x41424344,
        .message_size = 5,
        .payload_crc = 0x51525354,
        .payload_size = 0x61626364 % RT_PAYLOAD_MAX,
    };
}

/* The layout of frame.h, byte by byte: other versions and other languages rely on it. */
static void test_layout(void **state)
{
    static const uint8_t want[64] = {
        'S',  'F',  'R',  'N',  1,    0,    0x16, 0x17, 3,    0,    0,    0,    0x6d,
        0xec, 0xff, 0xff, 8,    7,    6,    5,    4,    3,    2,    1,    0x18, 0x17,
        0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22,
        0x21, 0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41, 5,    0,    0,    0,
        0x54, 0x53, 0x52, 0x51, 0x64, 0x63, 0x62, 0x21, 0,    0,    0,    0};
    uint8_t head[RT_FRAME_HEADER_SIZE];
    struct rt_header in = sample(), out;
    (void)state;
    rt_header_encode(&in, head);
    assert_memory_equal(head, want, sizeof(want));
    rt_header_seal(head, (const uint8_t *)"hello", 5);
    assert_int_equal(rt_header_decode(head, &out), 0);
    assert_int_equal(rt_header_verify(head, (const uint8_t *)"hello", 5), 0);
    in.head_crc = out.head_crc;
    assert_memory_equal(&in.method, &out.method, sizeof(in.method));
    assert_int_equal(in.status, out.status);
    assert_int_equal(in.request_id, out.request_id);
    assert_int_equal(in.batch_id, out.batch_id);
    assert_int_equal(in.incarnation, out.incarnation);
    assert_int_equal(in.group_epoch, out.group_epoch);
    assert_int_equal(in.generation, out.generation);
    assert_int_equal(in.payload_size, out.payload_size);
    assert_int_equal(in.payload_crc, out.payload_crc);
}

static void test_bad_headers(void **state)
{
    static const struct {
        const char *want;
        unsigned at, size;
        uint64_t value;
    } row[] = {
        {"magic: expected 0x4e524653, got 0x4e524600", 0, 1, 0},
        {"version: expected 1, got 2", 4, 2, 2},
        {"version: expected 1, got 0", 4, 2, 0},
        {"flags: expected a subset of 0x27, got 0xb", 8, 2, 11},
        {"flags: expected a subset of 0x27, got 0x8003", 8, 2, 0x8003},
        {"reserved: expected 0, got 0x1", 10, 2, 1},
        {"status: expected 0 or an error, got 5", 12, 4, 5},
        {"status: expected 0 in a request, got -5011", 8, 2, 0},
        {"message_size: expected at most 1048576, got 1048577", 48, 4, RT_MESSAGE_MAX + 1},
        {"message_size: expected at most 1048576, got 4294967295", 48, 4, UINT32_MAX},
        {"payload_crc: expected 0 by its flag", 8, 2, 5},
        {"payload_size: expected at most 1073741824, got 1073741825", 56, 8, RT_PAYLOAD_MAX + 1},
        {"payload_size: expected at most 1073741824, got 18446744073709551615", 56, 8, UINT64_MAX},
        {"packed_size: expected 0 to 0 for a payload of", 68, 4, 0x80},
        {"packed_size: expected ", 8, 2, RT_FRAME_REPLY | RT_FRAME_LZ4},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint8_t head[RT_FRAME_HEADER_SIZE];
        struct rt_header in = sample(), out;
        rt_header_encode(&in, head);
        memcpy(head + row[i].at, &row[i].value, row[i].size);
        if (rt_header_decode(head, &out) != RT_EPROTO)
            fail_msg("%s: was accepted", row[i].want);
        if (!strstr(rt_err_text(), row[i].want))
            fail_msg("want \"%s\", got \"%s\"", row[i].want, rt_err_text());
    }
}

static void test_limits_are_legal(void **state)
{
    uint8_t head[RT_FRAME_HEADER_SIZE];
    struct rt_header in = sample(), out;
    (void)state;
    in.message_size = RT_MESSAGE_MAX;
    in.payload_size = RT_PAYLOAD_MAX;
    in.flags |= RT_FRAME_NO_PAYLOAD_CRC;
    in.payload_crc = 0;
    rt_header_encode(&in, head);
    assert_int_equal(rt_header_decode(head, &out), 0);
    assert_int_equal(out.payload_size, RT_PAYLOAD_MAX);
}

/* Whatever bit of header or message is flipped, decode or verify says so. */
static void test_flipped_bits(void **state)
{
    uint8_t bytes[RT_FRAME_HEADER_SIZE + 5];
    struct rt_header in = sample(), out;
    (void)state;
    for (unsigned bit = 0; bit < sizeof(bytes) * 8; bit++) {
        rt_header_encode(&in, bytes);
        memcpy(bytes + RT_FRAME_HEADER_SIZE, "hello", 5);
        rt_header_seal(bytes, bytes + RT_FRAME_HEADER_SIZE, 5);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (!rt_header_decode(bytes, &out) &&
            !rt_header_verify(bytes, bytes + RT_FRAME_HEADER_SIZE, 5))
            fail_msg("bit %u: was accepted", bit);
    }
}

static void test_segments(void **state)
{
    _Alignas(64) static uint8_t payload[64 + 24];
    struct rt_segments seg = {payload, sizeof(payload), 0};
    const void *at;
    (void)state;
    assert_int_equal(rt_segment_take(&seg, 3, 4, &at), 0);
    assert_ptr_equal(at, payload);
    assert_int_equal(rt_segments_end(&seg), RT_EPROTO);
    assert_int_equal(rt_segment_take(&seg, 4, 8, &at), RT_EPROTO); /* 24 are left */
    assert_non_null(strstr(rt_err_text(), "expected 32 bytes, 24 are left"));
    assert_int_equal(rt_segment_take(&seg, 3, 8, &at), 0);
    assert_ptr_equal(at, payload + 64);
    assert_int_equal(rt_segments_end(&seg), 0);
    assert_int_equal(rt_segment_take(&seg, 0, 8, &at), RT_EPROTO); /* begins after the end */
    seg.at = 0;
    assert_int_equal(rt_segment_take(&seg, SIZE_MAX / 2, 4, &at), RT_EPROTO);
    assert_int_equal(rt_segment_take(&seg, SIZE_MAX, 1, &at), RT_EPROTO);
    seg = rt_segments_of(NULL);
    assert_int_equal(rt_segment_take(&seg, 0, 8, &at), 0);
    assert_null(at);
    assert_int_equal(rt_segments_end(&seg), 0);
}

/* ---- timers against a naive list ---- */

enum { TIMERS = 50 };

static void fire_nothing(void *arg)
{
    (void)arg;
}

static void test_timers(void **state)
{
    struct rt_timers timers;
    struct rt_timer timer[TIMERS] = {0};
    uint64_t due[TIMERS] = {0}, order[TIMERS] = {0}, started = 0; /* due 0: not running */
    uint64_t seed = rt_now_ns(), key = rt_draw_key(seed, "timers", NULL), n = 0, now = 1;
    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    rt_timers_init(&timers);
    for (int i = 0; i < TIMERS; i++)
        timer[i].fire = fire_nothing;
    for (int step = 0; step < 20000; step++) {
        size_t i = rt_below(rt_draw(key, n++), TIMERS);
        switch (rt_below(rt_draw(key, n++), 4)) {
        case 0:
        case 1:
            due[i] = now + rt_below(rt_draw(key, n++), 30);
            order[i] = started++;
            rt_timers_start(&timers, &timer[i], due[i]);
            break;
        case 2:
            due[i] = 0;
            rt_timers_stop(&timers, &timer[i]);
            break;
        default:
            now += rt_below(rt_draw(key, n++), 10);
            for (;;) {
                size_t first = TIMERS;
                for (size_t k = 0; k < TIMERS; k++) {
                    if (due[k] && due[k] <= now &&
                        (first == TIMERS || due[k] < due[first] ||
                         (due[k] == due[first] && order[k] < order[first])))
                        first = k;
                }
                struct rt_timer *got = rt_timers_pop(&timers, now, UINT64_MAX);
                assert_ptr_equal(got, first == TIMERS ? NULL : &timer[first]);
                if (!got)
                    break;
                due[first] = 0;
            }
        }
    }
    rt_timers_release(&timers);
    assert_int_equal(rt_timers_next(&timers), UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),           cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_limits_are_legal), cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_segments),         cmocka_unit_test(test_timers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
