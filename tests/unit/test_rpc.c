/* tests/unit/test_rpc.c -- two rpcs over TCP and Unix sockets: calls, their ends, limits. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/net/lz.h"
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
    assert_int_equal(rw_call(&w, METHOD_HOLD, 500 * RT_MS, &late), 0);
    rw_wait(&w, &w.server.n_held, 2, "both at the server");
    rw_wait(&w, &other.count, 1, "the other call");
    assert_int_equal(late.count, 1);
    assert_int_equal(late.err, RT_EDEADLINE);
    assert_int_equal(other.err, RT_EPEER);
    assert_non_null(strstr(late.text, "method 17 got no reply within 500 ms"));
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
    rw_turn(&w, 2 * RW_DEAD_NS);
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
        cmocka_unit_test(test_calls_from_callbacks),
        cmocka_unit_test(test_queue_bound),
    };
    rt_log_set_level(getenv("SAFFRON_TEST_LOG") ? RT_LOG_DEBUG : RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
