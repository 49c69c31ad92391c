/* tests/unit/test_rpc.c -- two rpcs over TCP and Unix sockets: calls, their ends, handshakes, limits. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/net/lz.h"
#include "runtime/net/near.h"
#include "tests/lib/rpc_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#if defined(RT_JEMALLOC)
#include <jemalloc/jemalloc.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

/* Pieces arrive at multiples of 64 with zeros between them. */
static void check_payload(const struct rt_buf *got, const struct rt_piece *piece, size_t n)
{
    struct rt_segments seg = rt_segments_of(got);
    for (size_t i = 0; i < n; i++) {
        const void *at;
        assert_int_equal(rt_segment_take(&seg, piece[i].size, 1, &at), 0);
        assert_int_equal((uintptr_t)at % RT_SEGMENT_ALIGN, 0);
        assert_memory_equal(at, piece[i].data, piece[i].size);
    }
    assert_int_equal(rt_segments_end(&seg), 0);
}

static void test_pieces(void **state)
{
    static const size_t size[][4] = {{1, 1, 1, 1},           {64, 128, 1, 0},
                                     {100, 0, 7, 63},        {0, 0, 0, 5},
                                     {300000, 1, 700001, 3}, {65536, 65536, 1, 1},
                                     {2000000, 5, 9, 1},     {1 << 20, 1 << 20, 99, 1}};
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct world w;
        struct answer a = {0};
        rw_open_both(&w, rw_address(i));
        for (size_t row = 0; row < ARRAY_LEN(size); row++) {
            struct rt_piece piece[4];
            for (int k = 0; k < 4; k++) {
                struct rt_buf *buf = rw_filled(&w, size[row][k], (uint8_t)(row * 4 + (size_t)k));
                piece[k] = (struct rt_piece){buf->data, buf->size, buf};
            }
            struct rt_outgoing out = {.batch_id = 77 + row,
                                      .flags = RT_FRAME_TRACE,
                                      .message = "hello",
                                      .message_size = 5,
                                      .pieces = piece,
                                      .n_pieces = 4};
            assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 20 * RT_S, rw_on_answer, &a),
                             0);
            rw_wait(&w, &a.count, 1, "reply");
            assert_int_equal(a.err, 0);
            assert_memory_equal(a.message, "hello", 5);
            assert_int_equal(a.header.batch_id, 77 + row);
            assert_true(a.header.flags & RT_FRAME_TRACE);
            assert_int_equal(a.header.incarnation, 100);
            check_payload(a.payload, piece, 4);
            rw_answer_reset(&a);
            for (int k = 0; k < 4; k++)
                rt_buf_unref(piece[k].buf);
        }
        rw_close(&w);
    }
}

static void test_many_small(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct world w;
        static struct answer a;
        rw_open_both(&w, rw_address(i));
        for (int round = 0; round < 3; round++) {
            rw_answer_reset(&a);
            uint64_t fresh = rt_pool_fresh(rt_loop_io(w.loop)->ops->pool(rt_loop_io(w.loop)));
            for (int k = 0; k < 3000; k++) {
                uint64_t word = (uint64_t)k;
                struct rt_outgoing out = {.message = &word, .message_size = sizeof(word)};
                assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 0, rw_on_answer, &a), 0);
            }
            rw_wait(&w, &a.count, 3000, "replies");
            assert_int_equal(a.err, 0);
            uint64_t last;
            memcpy(&last, a.message, sizeof(last));
            assert_int_equal(last, 2999); /* in order */
            assert_int_equal(fresh,
                             rt_pool_fresh(rt_loop_io(w.loop)->ops->pool(rt_loop_io(w.loop))));
        }
        assert_int_equal(w.server.served, 9000);
        rw_close(&w);
    }
}

/* Bytes that this thread ever asked the allocator for; 0 without jemalloc. */
static uint64_t allocated(void)
{
    uint64_t bytes = 0;
#if defined(RT_JEMALLOC)
    size_t size = sizeof(bytes);
    assert_int_equal(mallctl("thread.allocated", &bytes, &size, NULL, 0), 0);
#endif
    return bytes;
}

/* `n` calls of every kind of message and payload, answered. */
static void mixed_calls(struct world *w, struct rt_buf *buf, int n)
{
    static const size_t size[] = {0, 100, 70000, 1 << 20};
    static struct answer a;

    rw_answer_reset(&a);
    for (int k = 0; k < n; k++) {
        struct rt_piece piece[2] = {{buf->data, size[k % 50 ? 1 : 3], buf},
                                    {buf->data, size[k % 20 ? 1 : 2], buf}};
        struct rt_outgoing out = {.message = buf->data,
                                  .message_size = ECHO_MESSAGE_MAX,
                                  .pieces = piece,
                                  .n_pieces = (size_t)k % 3};
        assert_int_equal(rt_rpc_call(w->peer, METHOD_DROP, &out, 20 * RT_S, rw_on_answer, &a), 0);
    }
    rw_wait(w, &a.count, n, "replies");
    assert_int_equal(a.err, 0);
}

/* Once queues have found their size, messages and payloads of every kind pass without one malloc in the whole
 * loop: none of ours (rt_mem_count), and none of a library's, where the allocator tells. How long a queue gets is the kernel's affair too (a busy machine lets more wait), so the warm-up is over when
 * ten rounds in a row took nothing. */
static void test_no_malloc(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct world w;
        int round = 0, quiet = 0;
        rw_open_both(&w, rw_address(i));
        struct rt_buf *buf = rw_filled(&w, 1u << 20, 9);
        for (; round < 100 && quiet < 10; round++) {
            uint64_t before = allocated() + rt_mem_count();
            mixed_calls(&w, buf, round < 10 ? 400 : 200);
            quiet = allocated() + rt_mem_count() == before ? quiet + 1 : 0;
        }
        assert_int_equal(quiet, 10);
        rt_buf_unref(buf);
        rw_close(&w);
    }
}

/* Packed on TCP, and as it is on Unix sockets; what packing saves is counted, and the receiver counts what came. */
static void test_packed(void **state)
{
    static const size_t size[][2] = {
        {100, 3}, {5000, 1}, {70000, 70000}, {1 << 20, 99}, {2000000, 65537}};
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct world w;
        struct answer a = {0};
        rw_open(&w, rw_address(i));
        struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
        conf.lz4 = true;
        rw_start_client(&w, &conf);
        rw_wait(&w, &w.client.ups, 1, "connection");
        const struct rt_rpc_stats *us = rt_rpc_stats(w.client.rpc),
                                  *it = rt_rpc_stats(w.server.rpc);
        for (size_t row = 0; row < ARRAY_LEN(size); row++) {
            uint64_t saved = us->bytes_saved;
            struct rt_piece piece[2];
            for (int k = 0; k < 2; k++) {
                struct rt_buf *buf = rw_filled(&w, size[row][k], (uint8_t)k);
                piece[k] = (struct rt_piece){buf->data, buf->size, buf};
            }
            struct rt_outgoing out = {
                .message = "hello", .message_size = 5, .pieces = piece, .n_pieces = 2};
            assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 20 * RT_S, rw_on_answer, &a),
                             0);
            rw_wait(&w, &a.count, 1, "reply");
            assert_int_equal(a.err, 0);
            check_payload(a.payload, piece, 2);
            assert_int_equal(us->bytes_saved > saved,
                             i == 0 && size[row][0] + size[row][1] > RT_LZ_MIN);
            assert_int_equal(us->bytes_out, it->bytes_in);
            rw_answer_reset(&a);
            for (int k = 0; k < 2; k++)
                rt_buf_unref(piece[k].buf);
        }
        rw_close(&w);
    }
}

/* What the receiver has no room for is thrown away packed; the connection goes on. */
static void test_packed_for_nobody(void **state)
{
    struct world w;
    struct answer a = {0}, b = {0};
    (void)state;
    rw_open(&w, rw_address(0));
    struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
    conf.lz4 = true;
    rw_start_client(&w, &conf);
    rw_wait(&w, &w.client.ups, 1, "connection");
    struct rt_buf *mine = rw_filled(&w, 6u << 20, 1),
                  *rest = rt_io_buf(rt_loop_io(w.loop), 16u << 20);
    struct rt_piece piece = {mine->data, mine->size, mine};
    struct rt_outgoing out = {.pieces = &piece, .n_pieces = 1};
    assert_non_null(rest);
    assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 0, rw_on_answer, &a), 0);
    assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &b), 0);
    rw_wait(&w, &b.count, 1, "reply");
    assert_true(rt_rpc_stats(w.client.rpc)->bytes_saved > 0);
    assert_int_equal(a.err, RT_EFULL);
    assert_int_equal(b.err, 0);
    assert_int_equal(w.client.downs, 0);
    rt_buf_unref(rest);
    rt_buf_unref(mine);
    rw_close(&w);
}

/* A checksum that the sender knows already is taken as it is: the receiver finds out, where there is one. */
static void test_known_checksum(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        for (uint32_t wrong = 0; wrong < 2; wrong++) {
            struct world w;
            struct answer a = {0};
            rw_open_both(&w, rw_address(i));
            struct rt_buf *buf = rw_filled(&w, 100000, 3);
            struct rt_piece piece = {buf->data, buf->size, buf};
            struct rt_outgoing out = {.flags = RT_FRAME_CRC_KNOWN,
                                      .payload_crc = rt_crc32c(0, buf->data, buf->size) + wrong,
                                      .pieces = &piece,
                                      .n_pieces = 1};
            assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 0, rw_on_answer, &a), 0);
            rw_wait(&w, &a.count, 1, "reply");
            assert_int_equal(a.err, wrong && i == 0 ? RT_EPEER : 0);
            if (!a.err)
                assert_memory_equal(a.payload->data, buf->data, buf->size);
            rw_answer_reset(&a);
            rt_buf_unref(buf);
            rw_close(&w);
        }
    }
}

/* ---- made while it is sent ---- */

struct making {
    size_t size, most, made; /* most: of one stretch */
    const uint8_t *at;
    int back; /* times that memory was used again */
};

static uint8_t made_byte(size_t i)
{
    return (uint8_t)(i ^ i >> 8 ^ i >> 16);
}

static size_t make(void *arg, uint8_t *at, size_t room)
{
    struct making *m = arg;
    size_t left = m->size - m->made, n = room < m->most ? room : m->most;

    assert_int_equal(room, left < RT_MAKE_BYTES ? left : RT_MAKE_BYTES);
    for (size_t i = 0; i < n; i++)
        at[i] = made_byte(m->made + i);
    m->made += n;
    m->back += at < m->at;
    m->at = at;
    return n;
}

static int call_made(struct world *w, struct making *m, struct answer *a)
{
    struct rt_buf *buf = rt_io_buf(rt_loop_io(w->loop), m->size);
    struct rt_piece piece = {buf->data, m->size, buf};
    struct rt_maker maker = {make, m};
    struct rt_outgoing out = {.pieces = &piece, .n_pieces = 1, .maker = &maker};
    int err = rt_rpc_call(w->peer, METHOD_ECHO, &out, 20 * RT_S, rw_on_answer, a);

    rt_buf_unref(buf);
    return err;
}

/* Nobody reads meanwhile: some of it is sent as it is made, and the rest when all of it was. */
static void test_made(void **state)
{
    static const struct {
        size_t size, most;
    } row[] = {{1, 1},          {100, 7},           {70000, SIZE_MAX}, {70000, 1000},
               {300000, 50000}, {300000, SIZE_MAX}, {4000000, 100001}, {4 << 20, SIZE_MAX}};
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct world w;
        struct answer a = {0};
        rw_open_both(&w, rw_address(i));
        for (size_t r = 0; r < ARRAY_LEN(row); r++) {
            struct making m = {.size = row[r].size, .most = row[r].most};
            assert_int_equal(call_made(&w, &m, &a), 0);
            assert_int_equal(m.made, m.size);
            /* Two stretches of 50,000 bytes are as much as is sent at once; TCP's checksum comes before all. */
            if (i == 0 || m.most == 50000)
                assert_int_equal(m.back > 0, i > 0);
            rw_wait(&w, &a.count, 1, "reply");
            assert_int_equal(a.err, 0);
            assert_int_equal(a.payload->size, m.size);
            for (size_t k = 0; k < m.size; k++)
                if (a.payload->data[k] != made_byte(k))
                    fail_msg("row %zu: byte %zu is another", r, k);
            rw_answer_reset(&a);
        }
        rw_close(&w);
    }
}

/* The other end is gone, which is found out by the first stretch: the others are not made. */
static void test_made_for_nobody(void **state)
{
    struct world w;
    struct answer a = {0};
    struct making m = {.size = 4 << 20, .most = SIZE_MAX};
    (void)state;
    rw_open_both(&w, rw_address(1));
    rt_rpc_destroy(w.server.rpc);
    assert_int_equal(call_made(&w, &m, &a), 0);
    assert_int_equal(m.made, RT_MAKE_BYTES);
    rw_wait(&w, &a.count, 1, "end of the call");
    assert_int_equal(a.err, RT_EPEER);
    rw_start_server(&w, 101);
    rw_close(&w);
}

static void test_failed_reply(void **state)
{
    struct world w;
    struct answer a = {0};
    (void)state;
    rw_open_both(&w, rw_address(0));
    assert_int_equal(
        rt_rpc_call(w.peer, METHOD_FAIL, &(struct rt_outgoing){0}, 0, rw_on_answer, &a), 0);
    rw_wait(&w, &a.count, 1, "reply");
    assert_int_equal(a.err, RT_EUNKNOWN);
    assert_string_equal(a.text, "embedding_server/0.0: batch 7 is not here\\x0a");
    assert_true(rt_peer_is_up(w.peer));
    rw_close(&w);
}

/* ---- calls that end otherwise ---- */

static void test_deadline(void **state)
{
    struct world w;
    struct answer late = {0}, other = {0};
    (void)state;
    rw_open_both(&w, rw_address(0));
    assert_int_equal(rw_call(&w, METHOD_HOLD, 0, &other), 0);
    assert_int_equal(rw_call(&w, METHOD_HOLD, 20 * RT_MS, &late), 0);
    rw_wait(&w, &other.count, 1, "the other call");
    assert_int_equal(late.count, 1);
    assert_int_equal(late.err, RT_EDEADLINE);
    assert_int_equal(other.err, RT_EPEER);
    assert_non_null(strstr(late.text, "method 17 got no reply within 20 ms"));
    rw_wait(&w, &w.client.ups, 2, "reconnection");
    assert_int_equal(w.client.downs, 1);
    /* The server's calls have nobody to answer any more; answering only frees them. */
    assert_int_equal(w.server.n_held, 2);
    assert_int_equal(rt_call_alive(w.server.held[0]), 0);
    rt_call_reply(w.server.held[0], &(struct rt_outgoing){0});
    rt_call_fail(w.server.held[1], RT_EUNKNOWN, "too late");
    rw_close(&w);
}

static void test_server_dies_and_returns(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct world w;
        struct answer a = {0};
        rw_open_both(&w, rw_address(i));
        assert_int_equal(rt_peer_incarnation(w.peer), 100);
        assert_int_equal(rw_call(&w, METHOD_HOLD, 0, &a), 0);
        rw_wait(&w, &w.server.n_held, 1, "call at the server");
        struct rt_call *held = w.server.held[0];
        rt_rpc_destroy(w.server.rpc);
        rt_call_reply(held, &(struct rt_outgoing){0});
        rw_wait(&w, &a.count, 1, "end of the call");
        assert_int_equal(a.err, RT_EPEER);
        rw_wait(&w, &w.client.downs, 1, "peer_down");
        assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &a), RT_EPEER);
        rw_turn(&w, 50 * RT_MS);
        rw_start_server(&w, 101);
        rt_peer_set_address(w.peer, w.server.bound, 101);
        rw_wait(&w, &w.client.ups, 2, "reconnection");
        assert_int_equal(rt_peer_incarnation(w.peer), 101);
        rw_answer_reset(&a);
        assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &a), 0);
        rw_wait(&w, &a.count, 1, "reply");
        assert_int_equal(a.err, 0);
        rw_close(&w);
    }
}

static void test_destroy_with_pending(void **state)
{
    struct world w;
    struct answer a = {0};
    (void)state;
    rw_open_both(&w, rw_address(0));
    assert_int_equal(rw_call(&w, METHOD_HOLD, RT_S, &a), 0);
    rw_wait(&w, &w.server.n_held, 1, "call at the server");
    rt_rpc_destroy(w.client.rpc);
    w.client.rpc = NULL;
    assert_int_equal(a.count, 1);
    assert_int_equal(a.err, RT_ECANCELED);
    rw_turn(&w, 20 * RT_MS);
    rt_call_reply(w.server.held[0], &(struct rt_outgoing){0});
    rw_close(&w);
}

static void test_pings_keep_it_up(void **state)
{
    struct world w;
    (void)state;
    rw_open_both(&w, rw_address(0));
    rw_turn(&w, 400 * RT_MS); /* more than twice dead_ns */
    for (int i = 0; i < 100 && rt_rpc_stats(w.client.rpc)->frames_in <= 5; i++)
        rw_turn(&w, 30 * RT_MS); /* a busy machine */
    assert_true(rt_rpc_stats(w.client.rpc)->frames_in > 5);
    assert_int_equal(w.client.downs, 0);
    rw_close(&w);
}

/* ---- no room ---- */

static void test_full_server(void **state)
{
    struct world w;
    struct answer a = {0}, b = {0};
    (void)state;
    rw_open_both(&w, rw_address(0));
    struct rt_buf *mine = rw_filled(&w, 6u << 20, 1);
    struct rt_buf *rest[8] = {0};
    for (int i = 0; i < 8; i++)
        rest[i] = rt_io_buf(rt_loop_io(w.loop), 4u << 20); /* until the budget is used up */
    assert_null(rest[7]);
    struct rt_piece piece = {mine->data, mine->size, mine};
    struct rt_outgoing out = {.pieces = &piece, .n_pieces = 1};
    assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 0, rw_on_answer, &a), 0);
    assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &b), 0);
    rw_wait(&w, &b.count, 1, "reply");
    assert_int_equal(a.err, RT_EFULL);
    assert_non_null(strstr(a.text, "no room for a Echo of 6291456 bytes"));
    assert_int_equal(b.err, 0); /* the connection goes on */
    assert_int_equal(w.client.downs, 0);
    for (int i = 0; i < 8; i++)
        rt_buf_unref(rest[i]);
    rt_buf_unref(mine);
    rw_close(&w);
}

/* The n-th allocation of an outside size fails, for every n: the call ends with an error, or the
 * connection does; the next call finds all well again. */
static void test_out_of_memory(void **state)
{
    int failed = 0;
    (void)state;
    for (int nth = 0;; nth++) {
        struct world w;
        struct answer a = {0};
        rw_open_both(&w, rw_address(0));
        struct rt_buf *buf = rw_filled(&w, 200000, 1);
        struct rt_piece piece = {buf->data, buf->size, buf};
        struct rt_outgoing out = {.message = buf->data,
                                  .message_size = ECHO_MESSAGE_MAX,
                                  .pieces = &piece,
                                  .n_pieces = 1};
        rt_fault_alloc(nth);
        int err = rt_rpc_call(w.peer, METHOD_ECHO, &out, 0, rw_on_answer, &a);
        if (!err) {
            rw_wait(&w, &a.count, 1, "reply");
            err = a.err;
        }
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        if (hit) {
            assert_true(err == RT_ENOMEM || err == RT_EFULL || err == RT_EPEER);
            failed++;
        } else {
            assert_int_equal(err, 0);
        }
        rw_answer_reset(&a);
        rw_wait(&w, &w.client.ups, 1 + w.client.downs, "connection");
        assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &a), 0);
        rw_wait(&w, &a.count, 1, "the next reply");
        assert_int_equal(a.err, 0);
        rt_buf_unref(buf);
        rw_close(&w);
        if (!hit)
            break;
    }
    assert_true(failed >= 4); /* map of calls, two messages, two payloads */
}

/* ---- handshakes that fail ---- */

static void test_refused(void **state)
{
    enum { CONFIG, PLAN, JOB, VERSION, ROLE };
    static const struct {
        const char *name, *want;
        int what;
    } row[] = {
        {"config", "configuration hash differs: expected 0xb, got 0xc", CONFIG},
        {"plan", "data plan hash differs: expected 0x16, got 0x0", PLAN},
        {"job", "job differs: expected test, got te\\x0ast", JOB},
        {"version", "wire version differs: expected 0x1, got 0x2", VERSION},
        {"role", "role 77, index 0, loop 0 are out of range", ROLE},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct world w;
        rw_open(&w, rw_address(0));
        struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
        conf.self.config_hash += row[i].what == CONFIG;
        conf.self.plan_hash = row[i].what == PLAN ? 0 : conf.self.plan_hash;
        conf.self.wire_version += row[i].what == VERSION;
        if (row[i].what == JOB)
            snprintf(conf.self.job, sizeof(conf.self.job), "te\nst");
        if (row[i].what == ROLE)
            conf.self.role = (enum rt_role)77;
        rw_start_client(&w, &conf);
        uint64_t end = rt_now_ns() + 20 * RT_S;
        while (rt_rpc_stats(w.client.rpc)->links_refused < 2 && rt_now_ns() < end)
            uv_run(rt_loop_uv(w.loop), UV_RUN_ONCE);
        assert_true(rt_rpc_stats(w.client.rpc)->links_refused >= 2); /* it tries again */
        assert_true(rt_rpc_stats(w.server.rpc)->links_refused >= 2);
        assert_int_equal(w.client.ups, 0);
        if (!strstr(rt_err_text(), row[i].want))
            fail_msg("%s: got \"%s\"", row[i].name, rt_err_text());
        rw_close(&w);
    }
}

static void test_other_at_the_address(void **state)
{
    struct world w;
    (void)state;
    rw_open(&w, rw_address(0));
    struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
    assert_int_equal(rt_rpc_create(&conf, &w.client.rpc), 0);
    w.peer = rt_rpc_peer(w.client.rpc, RT_ROLE_EMBEDDING_SERVER, 3, 1);
    rt_peer_set_address(w.peer, w.server.bound, 5);
    rw_turn(&w, 60 * RT_MS);
    assert_int_equal(w.client.ups, 0);
    assert_true(rt_rpc_stats(w.client.rpc)->links_refused >= 1);
    assert_ptr_equal(w.peer, rt_rpc_peer(w.client.rpc, RT_ROLE_EMBEDDING_SERVER, 3, 1));
    assert_string_equal(rt_peer_name(w.peer), "embedding_server/3.1");
    rw_close(&w);
}

/* An older process of the same identity comes back while the newer one is known. */
static void test_fencing(void **state)
{
    struct world w;
    struct end old = {0};
    (void)state;
    rw_open_both(&w, rw_address(0));
    struct rt_rpc_conf conf = rw_conf(&w, &old, RT_ROLE_MIDDLEWARE, 199);
    assert_int_equal(rt_rpc_create(&conf, &old.rpc), 0);
    rt_peer_set_address(rt_rpc_peer(old.rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0), w.server.bound, 0);
    rw_wait(&w, &old.fenced, 1, "fenced");
    assert_int_equal(old.fenced_by, 200);
    assert_int_equal(w.client.downs, 0);
    rt_rpc_destroy(old.rpc);
    /* And a newer one takes over: the connection of the old one is closed. */
    memset(&old, 0, sizeof(old));
    conf.self.incarnation = 201;
    assert_int_equal(rt_rpc_create(&conf, &old.rpc), 0);
    rt_peer_set_address(rt_rpc_peer(old.rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0), w.server.bound, 0);
    rw_wait(&w, &old.ups, 1, "the newer one");
    rw_wait(&w, &w.client.downs, 1, "the older one's end");
    rw_wait(&w, &w.client.fenced, 1, "the older one is told");
    assert_int_equal(w.client.fenced_by, 201);
    rt_rpc_destroy(old.rpc);
    rw_close(&w);
}

/* Who holds which numbers, who asks, and what comes of a call. In order: epochs never shrink. */
static void test_epochs(void **state)
{
    enum { SAME, OTHER };
    static const struct {
        uint32_t server[2], client[2]; /* group epoch, generation */
        int role;
        uint16_t method;
        int err, served;
        const char *text;
    } row[] = {
        {{0, 0}, {0, 0}, SAME, METHOD_ECHO, 0, 1, ""},
        {{3, 0}, {0, 0}, SAME, METHOD_ECHO, RT_ESTALE, 0, "group epoch 0 is older than 3"},
        {{3, 0}, {0, 0}, SAME, METHOD_JOIN, 0, 1, ""},
        {{3, 0}, {0, 0}, OTHER, METHOD_ECHO, 0, 1, ""}, /* of no group */
        {{3, 5}, {3, 4}, SAME, METHOD_ECHO, RT_ESTALE, 0, "generation 4 is older than 5"},
        {{3, 5}, {3, 4}, SAME, METHOD_JOIN, RT_ESTALE, 0, "generation 4 is older than 5"},
        {{3, 5}, {0, 4}, OTHER, METHOD_ECHO, RT_ESTALE, 0, "generation 4 is older than 5"},
        {{3, 5}, {3, 5}, SAME, METHOD_ECHO, 0, 1, ""},
        {{3, 5}, {4, 5}, SAME, METHOD_ECHO, RT_ESTALE, 1, "reply refused: group epoch 3 is older"},
        {{3, 5}, {4, 5}, OTHER, METHOD_ECHO, 0, 1, ""}, /* it holds none */
        {{4, 5}, {4, 6}, SAME, METHOD_ECHO, RT_ESTALE, 1, "reply refused: generation 5 is older"},
        {{4, 6}, {4, 6}, SAME, METHOD_ECHO, 0, 1, ""},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct world w;
        struct answer a = {0};
        rw_open(&w, rw_address(0));
        struct rt_rpc_conf conf =
            rw_conf(&w, &w.client,
                    row[i].role == SAME ? RT_ROLE_EMBEDDING_SERVER : RT_ROLE_MIDDLEWARE, 200);
        conf.self.index = 1;
        rw_start_client(&w, &conf);
        rw_wait(&w, &w.client.ups, 1, "connection");
        rt_rpc_set_epochs(w.server.rpc, row[i].server[0], row[i].server[1]);
        rt_rpc_set_epochs(w.client.rpc, row[i].client[0], row[i].client[1]);
        assert_int_equal(rw_call(&w, row[i].method, 0, &a), 0);
        rw_wait(&w, &a.count, 1, "reply");
        if (a.err != row[i].err || !strstr(a.text, row[i].text) ||
            (row[i].method == METHOD_ECHO && w.server.served != row[i].served))
            fail_msg("row %zu: %s \"%s\", served %d", i, rt_err_name(a.err), a.text,
                     w.server.served);
        assert_int_equal(w.client.downs, 0);
        rw_close(&w);
    }
}

/* A call that is open while its group re-forms: its reply carries the new epoch, and is good for whoever has
 * it, or is still behind. A request that was on its way is answered, once, with the number held. */
static void test_epoch_grows_under_calls(void **state)
{
    struct world w;
    struct answer held = {0}, late = {0};
    (void)state;
    rw_open(&w, rw_address(0));
    struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_EMBEDDING_SERVER, 200);
    conf.self.index = 1;
    rw_start_client(&w, &conf);
    rw_wait(&w, &w.client.ups, 1, "connection");
    rt_rpc_set_epochs(w.server.rpc, 1, 0);
    rt_rpc_set_epochs(w.client.rpc, 1, 0);
    assert_int_equal(rw_call(&w, METHOD_HOLD, 0, &held), 0);
    rw_wait(&w, &w.server.n_held, 1, "call at the server");
    assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &late), 0); /* leaves with epoch 1 */
    rt_rpc_set_epochs(w.server.rpc, 2, 0);
    rw_wait(&w, &late.count, 1, "refusal");
    assert_int_equal(late.err, RT_ESTALE);
    assert_non_null(strstr(late.text, "group epoch 1 is older than 2, which is held here"));
    rt_call_reply(w.server.held[0], &(struct rt_outgoing){0});
    rw_wait(&w, &held.count, 1, "reply");
    assert_int_equal(held.err, 0);
    assert_int_equal(held.header.group_epoch, 2);
    rt_rpc_set_epochs(w.client.rpc, 2, 0);
    rw_answer_reset(&late);
    assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &late), 0);
    rw_wait(&w, &late.count, 1, "reply");
    assert_int_equal(late.err, 0);
    assert_int_equal(w.client.downs, 0);
    rw_close(&w);
}

/* ---- calls from callbacks ---- */

struct chain {
    struct world *w;
    int left, ended, failed; /* left: calls that a callback may still make */
};

/* Each reply asks twice more, from inside. */
static void ask_more(void *arg, int err, const struct rt_frame *reply)
{
    struct chain *chain = arg;
    (void)reply;
    chain->ended++;
    chain->failed += err != 0;
    for (int i = 0; i < 2 && chain->left > 0; i++) {
        struct rt_outgoing out = {.message = "again", .message_size = 5};
        if (rt_rpc_call(chain->w->peer, METHOD_ECHO, &out, 20 * RT_S, ask_more, chain) != 0)
            return; /* the connection is gone: this is its failed call */
        chain->left--;
    }
}

static void test_calls_from_callbacks(void **state)
{
    struct world w;
    struct chain chain = {.w = &w, .left = 1000};
    (void)state;
    rw_open_both(&w, rw_address(0));
    ask_more(&chain, 0, NULL);
    rw_wait(&w, &chain.ended, 1001, "all replies");
    assert_int_equal(chain.failed, 0);
    /* The same while the connection goes: each call ends once, none is made on what is gone. */
    chain.left = 1000;
    ask_more(&chain, 0, NULL);
    rt_rpc_destroy(w.server.rpc);
    w.server.rpc = NULL;
    rw_wait(&w, &w.client.downs, 1, "peer_down");
    assert_int_equal(chain.ended, 1001 + 1 + (1000 - chain.left));
    assert_true(chain.failed >= 1);
    rw_close(&w);
}

static void test_old_address_is_ignored(void **state)
{
    struct world w;
    (void)state;
    rw_open(&w, rw_address(0));
    struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
    rw_start_client(&w, &conf);
    rt_peer_set_address(w.peer, w.server.bound, 100);
    rw_wait(&w, &w.client.ups, 1, "connection");
    rt_peer_set_address(w.peer, "tcp:127.0.0.1:1", 99);
    rt_peer_set_address(w.peer, w.server.bound, 100);
    rw_turn(&w, 50 * RT_MS);
    assert_int_equal(w.client.ups, 1);
    assert_int_equal(w.client.downs, 0);
    /* A hello of incarnation 101, whose process is not there yet: 100 is not good enough now. */
    rt_peer_set_address(w.peer, w.server.bound, 101);
    rw_wait(&w, &w.client.downs, 1, "peer_down");
    rw_turn(&w, 50 * RT_MS);
    assert_int_equal(w.client.ups, 1);
    rw_close(&w);
}

/* A slow reader: what is queued for it is bounded, and over the bound it is cut off. */
static void test_queue_bound(void **state)
{
    struct world w;
    (void)state;
    rw_open_loop(&w, rw_address(0), 8u << 20);
    rw_start_server(&w, 100);
    struct rt_rpc_conf client = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
    rw_start_client(&w, &client);
    rw_wait(&w, &w.client.ups, 1, "connection");
    struct answer a = {0};
    struct rt_buf *buf = rw_filled(&w, 1u << 20, 3);
    struct rt_piece piece = {buf->data, buf->size, buf};
    struct rt_outgoing out = {.pieces = &piece, .n_pieces = 1};
    int err = 0, sent = 0;
    for (; !err && sent < 100; sent++) /* the loop does not turn: nobody reads */
        err = rt_rpc_call(w.peer, METHOD_ECHO, &out, 0, rw_on_answer, &a);
    assert_int_equal(err, RT_EFULL);
    assert_true(sent > 7);
    rw_wait(&w, &a.count, sent - 1, "failed calls");
    assert_int_equal(a.err, RT_EPEER);
    rw_wait(&w, &w.client.ups, 2, "reconnection");
    rt_buf_unref(buf);
    rw_close(&w);
}

static int near_connect(const char *address)
{
    struct rt_address a;
    assert_int_equal(rt_address_parse(address, &a), 0);
    return rt_near_is(&a) ? rt_near_connect(&a) : -1;
}

/* Who does not find the short way comes by TCP; a payload tells by its checksum which way it took. */
static void test_the_short_way(void **state)
{
    static const char *const name = "tcp:127.0.0.1:1";
    char text[RT_ADDRESS_MAX + 1] = {0};
    struct world w;

    (void)state;
    rt_near_set(true);
    int fd = rt_near_bind(name);
    assert_true(fd >= 0);
    assert_int_equal(rt_near_bind(name), -1); /* taken */
    assert_int_equal(near_connect(name), -1); /* nobody listens */
    assert_int_equal(listen(fd, 1), 0);
    int other = near_connect(name);
    assert_true(other >= 0);
    close(other);
    close(fd);
    assert_int_equal(near_connect(name), -1);
    memset(text, 'x', sizeof(text) - 1);
    assert_int_equal(rt_near_bind(text), -1);
    for (int i = 0; i < 4; i++) { /* 3: the listener has it, the other does not take it */
        struct answer a = {0};
        rw_open(&w, rw_address(i == 3 ? 2 : i));
        rt_near_set(i == 2);
        struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
        rw_start_client(&w, &conf);
        rw_wait(&w, &w.client.ups, 1, "the connection");
        struct rt_buf *buf = rw_filled(&w, 100, 1);
        struct rt_piece piece = {buf->data, 100, buf};
        struct rt_outgoing out = {.pieces = &piece, .n_pieces = 1};
        assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 20 * RT_S, rw_on_answer, &a), 0);
        rt_buf_unref(buf);
        rw_wait(&w, &a.count, 1, "reply");
        assert_int_equal(!(a.header.flags & RT_FRAME_NO_PAYLOAD_CRC), i == 0 || i == 3);
        rw_answer_reset(&a);
        rw_close(&w);
    }
}

/* Which addresses lead to a listener by its short way, whatever they say, and which are left to TCP: so what stands at
 * another address than the listener's, as a proxy does, is not gone round. */
static void test_short_ways(void **state)
{
    static const struct {
        const char *listens, *told;
        bool near;
    } row[] = {
        {"tcp:127.0.0.1:0", "tcp:127.0.0.1", true},
        {"tcp:127.0.0.1:0", "near:tcp:127.0.0.1", true},
        {"tcp:127.0.0.1:0", "tcp:127.0.0.2", false},
        {"tcp:127.0.0.1:0", "near:tcp:127.0.0.2", false},
        {"tcp:127.0.0.1:0", "near:tcp:10.1.2.3", false},
        {"tcp:0.0.0.0:0", "tcp:127.0.0.1", true},
        {"tcp:0.0.0.0:0", "near:tcp:192.0.2.7", true},
        {"tcp:0.0.0.0:0", "tcp:192.0.2.7", false},
        {"tcp:[::]:0", "near:tcp:[2001:db8::7]", true},
        {"tcp:[::]:0", "tcp:[::1]", true},
    };

    (void)state;
    rt_near_set(true);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        char address[RT_ADDRESS_MAX], port[16];
        struct world w;
        rw_open(&w, row[i].listens);
        snprintf(port, sizeof(port), "%.5s", strrchr(w.server.bound, ':') + 1);
        snprintf(address, sizeof(address), "%s:%s", row[i].told, port);
        int fd = near_connect(address);
        if ((fd >= 0) != row[i].near)
            fail_msg("row %zu, %s: by the short way: %d", i, address, fd >= 0);
        if (fd >= 0)
            close(fd);
        rw_close(&w);
    }
}

/* A listener on all addresses, told of by one that leads nowhere: calls come by the short way. */
static void test_near_address(void **state)
{
    struct answer a = {0};
    struct world w;
    char port[RT_ADDRESS_MAX];

    (void)state;
    rt_near_set(true);
    rw_open(&w, "tcp:0.0.0.0:0");
    snprintf(port, sizeof(port), "%s", strrchr(w.server.bound, ':') + 1);
    snprintf(w.server.bound, sizeof(w.server.bound), "near:tcp:192.0.2.7:%.5s", port);
    struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
    rw_start_client(&w, &conf);
    rw_wait(&w, &w.client.ups, 1, "the connection");
    assert_int_equal(rw_call(&w, METHOD_ECHO, 20 * RT_S, &a), 0);
    rw_wait(&w, &a.count, 1, "reply");
    assert_int_equal(a.err, 0);
    rw_answer_reset(&a);
    rw_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_many_small),
        cmocka_unit_test(test_no_malloc),
        cmocka_unit_test(test_packed),
        cmocka_unit_test(test_packed_for_nobody),
        cmocka_unit_test(test_known_checksum),
        cmocka_unit_test(test_made),
        cmocka_unit_test(test_made_for_nobody),
        cmocka_unit_test(test_failed_reply),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_server_dies_and_returns),
        cmocka_unit_test(test_destroy_with_pending),
        cmocka_unit_test(test_pings_keep_it_up),
        cmocka_unit_test(test_full_server),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_other_at_the_address),
        cmocka_unit_test(test_fencing),
        cmocka_unit_test(test_epochs),
        cmocka_unit_test(test_epoch_grows_under_calls),
        cmocka_unit_test(test_calls_from_callbacks),
        cmocka_unit_test(test_old_address_is_ignored),
        cmocka_unit_test(test_the_short_way),
        cmocka_unit_test(test_short_ways),
        cmocka_unit_test(test_near_address),
        cmocka_unit_test(test_queue_bound),
    };
    rt_log_set_level(getenv("SAFFRON_TEST_LOG") ? RT_LOG_DEBUG : RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
