/* tests/unit/test_net_metrics.c -- what rpcs and loops count of themselves, and which of it is on the page.
 *
 * The methods of rpc_world stand at the numbers of PutBatch and those after it. */
#include "embedding_server/serve.h"
#include "runtime/admin/net_metrics.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/wire/method.h"
#include "tests/lib/rpc_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

static uint64_t count_of(const struct rt_histogram *h)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < RT_HISTOGRAM_BUCKETS; i++)
        n += atomic_load(&h->bucket[i]);
    return n;
}

/* Those that ended, those that failed, those without an answer. */
static void check(const struct rt_method_stats *s, uint64_t ended, uint64_t failed, uint64_t open,
                  const char *what)
{
    if (count_of(&s->seconds) != ended || atomic_load(&s->failed) != failed ||
        atomic_load(&s->open) != open)
        fail_msg("%s: %llu ended, %llu failed, %llu open; expected %llu, %llu, %llu", what,
                 (unsigned long long)count_of(&s->seconds),
                 (unsigned long long)atomic_load(&s->failed),
                 (unsigned long long)atomic_load(&s->open), (unsigned long long)ended,
                 (unsigned long long)failed, (unsigned long long)open);
}

static void check_both(struct world *w, uint16_t method, uint64_t ended, uint64_t failed,
                       uint64_t open, const char *what)
{
    check(rt_rpc_asked(w->client.rpc, method), ended, failed, open, what);
    check(rt_rpc_served(w->server.rpc, method), ended, failed, open, what);
}

/* ---- calls ---- */

static void every_end_counts(void **state)
{
    struct world w;
    struct answer a = {0}, lost = {0};
    (void)state;
    rw_open_both(&w, rw_address(0));
    check_both(&w, METHOD_ECHO, 0, 0, 0, "before");
    for (int i = 0; i < 5; i++)
        assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &a), 0);
    check(rt_rpc_asked(w.client.rpc, METHOD_ECHO), 0, 0, 5, "asked");
    rw_wait(&w, &a.count, 5, "replies");
    check_both(&w, METHOD_ECHO, 5, 0, 0, "replies");
    assert_int_equal(rw_call(&w, METHOD_FAIL, 0, &a), 0);
    rw_wait(&w, &a.count, 6, "failure");
    check_both(&w, METHOD_FAIL, 1, 1, 0, "failures");

    assert_int_equal(rw_call(&w, METHOD_HOLD, 0, &a), 0);
    assert_int_equal(rw_call(&w, METHOD_HOLD, 0, &lost), 0);
    rw_wait(&w, &w.server.n_held, 2, "held");
    check_both(&w, METHOD_HOLD, 0, 0, 2, "held");
    rw_turn(&w, 20 * RT_MS);
    rt_call_reply(w.server.held[0], &(struct rt_outgoing){0});
    rw_wait(&w, &a.count, 7, "late reply");
    check_both(&w, METHOD_HOLD, 1, 0, 1, "a late reply");
    uint64_t asked = rt_rpc_asked(w.client.rpc, METHOD_HOLD)->seconds.sum;
    uint64_t served = rt_rpc_served(w.server.rpc, METHOD_HOLD)->seconds.sum;
    assert_true(served >= 20 * RT_MS && served < 20 * RT_S);
    assert_true(asked >= served && asked < 20 * RT_S);

    /* The connection goes with a call open: it failed for who asked, and ended for who serves when that is done. */
    rt_rpc_destroy(w.client.rpc);
    assert_int_equal(lost.err, RT_ECANCELED);
    rw_turn(&w, 20 * RT_MS);
    check(rt_rpc_served(w.server.rpc, METHOD_HOLD), 1, 0, 1, "nobody to answer");
    rt_call_fail(w.server.held[1], RT_ENOTREADY, "too late");
    check(rt_rpc_served(w.server.rpc, METHOD_HOLD), 2, 1, 0, "answered to nobody");
    w.client.rpc = NULL;
    rw_close(&w);
}

static void lost_and_late(void **state)
{
    struct world w;
    struct answer a = {0};
    (void)state;
    rw_open_both(&w, rw_address(0));
    assert_int_equal(rw_call(&w, METHOD_HOLD, 0, &a), 0);
    assert_int_equal(rw_call(&w, METHOD_HOLD, 20 * RT_MS, &a), 0);
    rw_wait(&w, &a.count, 2, "deadline"); /* of the second; the first goes with the connection */
    const struct rt_method_stats *s = rt_rpc_asked(w.client.rpc, METHOD_HOLD);
    check(s, 2, 2, 0, "a deadline");
    assert_true(s->seconds.sum >= 40 * RT_MS);
    /* Not connected: turned down, so no call. */
    assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &a), RT_EPEER);
    check(rt_rpc_asked(w.client.rpc, METHOD_ECHO), 0, 0, 0, "turned down");
    assert_null(rt_rpc_served(w.client.rpc, METHOD_JOIN + 1));
    assert_null(rt_rpc_served(w.client.rpc, 0));
    while (w.server.n_held > 0)
        rt_call_reply(w.server.held[--w.server.n_held], &(struct rt_outgoing){0});
    rw_close(&w);
}

/* Refused before it is served: a failed call as any other. */
static void no_room(void **state)
{
    struct world w;
    struct answer a = {0};
    struct rt_buf *rest[8];
    (void)state;
    rw_open_both(&w, rw_address(1));
    struct rt_buf *mine = rw_filled(&w, 6u << 20, 1);
    for (int i = 0; i < 8; i++)
        rest[i] = rt_io_buf(rt_loop_io(w.loop), 4u << 20);
    struct rt_piece piece = {mine->data, mine->size, mine};
    struct rt_outgoing out = {.pieces = &piece, .n_pieces = 1};
    assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 0, rw_on_answer, &a), 0);
    assert_true(atomic_load(&rt_loop_stats(w.loop)->queued_bytes) >= 1u << 20);
    rw_wait(&w, &a.count, 1, "refusal");
    check_both(&w, METHOD_ECHO, 1, 1, 0, "no room");
    assert_int_equal(atomic_load(&rt_loop_stats(w.loop)->queued_bytes), 0);
    for (int i = 0; i < 8; i++)
        rt_buf_unref(rest[i]);
    rt_buf_unref(mine);
    rw_close(&w);
}

/* Bytes that waited for a connection that broke wait no longer. */
static void queue_is_empty_in_the_end(void **state)
{
    struct world w;
    struct answer a = {0};
    (void)state;
    rw_open_both(&w, rw_address(1));
    struct rt_buf *mine = rw_filled(&w, 6u << 20, 1);
    struct rt_piece piece = {mine->data, mine->size, mine};
    struct rt_outgoing out = {.pieces = &piece, .n_pieces = 1};
    for (int i = 0; i < 3; i++)
        assert_int_equal(rt_rpc_call(w.peer, METHOD_DROP, &out, 0, rw_on_answer, &a), 0);
    assert_true(atomic_load(&rt_loop_stats(w.loop)->queued_bytes) >= 12u << 20);
    rt_rpc_destroy(w.server.rpc);
    w.server.rpc = NULL;
    rw_wait(&w, &a.count, 3, "failures");
    rw_turn(&w, 20 * RT_MS);
    assert_int_equal(atomic_load(&rt_loop_stats(w.loop)->queued_bytes), 0);
    check(rt_rpc_asked(w.client.rpc, METHOD_DROP), 3, 3, 0, "a connection that broke");
    rt_buf_unref(mine);
    rw_close(&w);
}

/* ---- loops ---- */

struct sleeper {
    struct rt_loop *loop;
    struct rt_timer timer;
    int left;
};

/* Works 30 ms, sleeps 30 ms, three times. */
static void on_sleeper(void *arg)
{
    struct sleeper *s = arg;
    uint64_t end = rt_now_ns() + 30 * RT_MS;
    while (rt_now_ns() < end)
        ;
    if (--s->left > 0)
        rt_timer_start(rt_loop_io(s->loop), &s->timer, 30 * RT_MS);
    else
        rt_loop_stop(s->loop);
}

static bool turns_are_as_long_as_they_took(void)
{
    struct rt_loop_conf conf = {.name = "turns", .pool_budget = 1 << 20};
    struct sleeper s = {.timer = {.fire = on_sleeper, .arg = &s}, .left = 3};
    uint64_t long_ones = 0, begun;
    assert_int_equal(rt_loop_create(&conf, &s.loop), 0);
    const struct rt_loop_stats *stats = rt_loop_stats(s.loop);
    rt_timer_start(rt_loop_io(s.loop), &s.timer, 30 * RT_MS);
    begun = rt_now_ns();
    rt_loop_run(s.loop);
    double whole = (double)(rt_now_ns() - begun) * 1e-9, busy = atomic_load(&stats->busy_seconds);
    for (unsigned i = 0; i < RT_HISTOGRAM_BUCKETS; i++)
        if (i == RT_HISTOGRAM_BUCKETS - 1 || rt_histogram_bound(RT_HISTOGRAM_SECONDS, i) > 0.030)
            long_ones += atomic_load(&stats->turn.bucket[i]);
    rt_loop_destroy(s.loop);
    print_message("%llu long turns, busy %.3f of %.3f s\n", (unsigned long long)long_ones, busy,
                  whole);
    /* The last one ends with the loop, not with a sleep. */
    return long_ones >= 2 && long_ones <= 3 && busy >= 0.060 && busy <= whole - 0.060;
}

/* A machine that stands still makes any turn long: it does not so each time. */
static void turns(void **state)
{
    int attempt = 1;
    (void)state;
    while (!turns_are_as_long_as_they_took())
        assert_true(attempt++ < 20);
}

/* ---- the page ---- */

static bool has(const struct rt_strbuf *page, const char *line)
{
    return page->text && strstr(page->text, line);
}

static void page_of_roles(void **state)
{
    struct world w;
    struct rt_strbuf page;
    struct answer a = {0};
    (void)state;
    rw_open_both(&w, rw_address(0));
    assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &a), 0);
    rw_wait(&w, &a.count, 1, "reply");

    /* A middleware: serves PutBatch to ReleaseBatch, asks LookupRows and ApplyGradients; two loops add up. */
    struct rt_metrics *m = rt_metrics_create();
    rt_metrics_rpc(m, RT_ROLE_MIDDLEWARE, w.server.rpc);
    rt_metrics_rpc(m, RT_ROLE_MIDDLEWARE, w.server.rpc);
    rt_metrics_loop(m, RT_ROLE_MIDDLEWARE, "0", w.loop);
    rt_strbuf_init(&page);
    rt_metrics_print(m, &page);
    static const char *const want[] = {
        "saffron_middleware_serve_seconds_count{method=\"PutBatch\"} 2\n",
        "saffron_middleware_serve_seconds_count{method=\"ReleaseBatch\"} 0\n",
        "saffron_middleware_calls_open{method=\"PushGradients\"} 0\n",
        "saffron_middleware_calls_failed_total{method=\"PushGradients\"} 0\n",
        "saffron_middleware_request_seconds_count{method=\"LookupRows\"} 0\n",
        "saffron_middleware_requests_failed_total{method=\"ApplyGradients\"} 0\n",
        "saffron_middleware_requests_open{method=\"ApplyGradients\"} 0\n",
        "saffron_middleware_frames_bad_total 0\n",
        "saffron_middleware_reconnects_total 0\n",
        "saffron_middleware_links_refused_total 0\n",
        "saffron_middleware_send_queue_bytes 0\n",
        "saffron_middleware_link_credit_bytes{kind=\"limit\"} 2147483648\n",
        "saffron_middleware_link_credit_bytes{kind=\"lent\"} 0\n",
        "saffron_middleware_link_paused_total 0\n",
        "saffron_middleware_loop_busy_seconds_total{loop=\"0\"} ",
        "saffron_middleware_loop_turn_seconds_count{loop=\"0\"} ",
        "saffron_middleware_sent_bytes_total ",
        "saffron_middleware_received_bytes_total ",
    };
    for (size_t i = 0; i < ARRAY_LEN(want); i++)
        if (!has(&page, want[i]))
            fail_msg("no %s in %s", want[i], page.text);
    assert_false(has(&page, "TrainBatch"));
    assert_false(has(&page, "StepHeader"));
    assert_false(has(&page, "request_seconds_count{method=\"PutBatch\"}"));
    rt_strbuf_release(&page);
    rt_metrics_destroy(m);
    rw_close(&w);
}

static void nothing(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    (void)ctx;
    (void)request;
    rt_call_fail(call, RT_EUNKNOWN, "");
}

/* Ranks ask of each other what they serve; one that is alone shows none of it. */
static void page_of_trainers(void **state)
{
    static const struct rt_method_def def[] = {
        {WIRE_TRAIN_BATCH, "TrainBatch", 1, 0, 0, nothing},
        {WIRE_STEP_HEADER, "StepHeader", 1, 0, 0, nothing},
    };
    (void)state;
    for (size_t n = 1; n <= 2; n++) {
        struct world w;
        struct rt_rpc *rpc = NULL;
        struct rt_strbuf page;
        rw_open(&w, rw_address(0));
        struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_TRAINER, 1);
        conf.methods = def;
        conf.n_methods = n;
        assert_int_equal(rt_rpc_create(&conf, &rpc), 0);
        struct rt_metrics *m = rt_metrics_create();
        rt_metrics_rpc(m, RT_ROLE_TRAINER, rpc);
        rt_strbuf_init(&page);
        rt_metrics_print(m, &page);
        assert_true(has(&page, "saffron_trainer_request_seconds_count{method=\"LookupBatch\"} 0"));
        assert_true(has(&page, "saffron_trainer_serve_seconds_count{method=\"TrainBatch\"} 0"));
        assert_int_equal(
            has(&page, "saffron_trainer_request_seconds_count{method=\"StepHeader\"} 0"), n == 2);
        assert_int_equal(has(&page, "saffron_trainer_serve_seconds_count{method=\"StepHeader\"} 0"),
                         n == 2);
        assert_false(has(&page, "Scores"));
        rt_strbuf_release(&page);
        rt_metrics_destroy(m);
        rt_rpc_destroy(rpc);
        rw_close(&w);
    }
}

/* The table of methods: each once, within the rpc's range, and named as the server names it. */
static void method_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < wire_method_count; i++) {
        const struct wire_method_info *info = &wire_methods[i];
        assert_in_range(info->method, RT_METHOD_ROLE_FIRST,
                        RT_METHOD_ROLE_FIRST + RT_METHODS_MAX - 1);
        for (size_t j = 0; j < i; j++)
            if (wire_methods[j].method == info->method || !strcmp(wire_methods[j].name, info->name))
                fail_msg("%s is there twice", info->name);
        for (size_t m = 0; m < ebs_method_count; m++)
            if (ebs_methods[m].method == info->method) {
                assert_string_equal(ebs_methods[m].name, info->name);
                assert_int_equal(ebs_methods[m].from_roles & RT_ROLE_BIT(info->from),
                                 RT_ROLE_BIT(info->from));
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_end_counts),
        cmocka_unit_test(lost_and_late),
        cmocka_unit_test(no_room),
        cmocka_unit_test(queue_is_empty_in_the_end),
        cmocka_unit_test(turns),
        cmocka_unit_test(page_of_roles),
        cmocka_unit_test(page_of_trainers),
        cmocka_unit_test(method_table),
    };
    rt_log_set_level(getenv("SAFFRON_TEST_LOG") ? RT_LOG_DEBUG : RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
