/* tests/unit/test_member.c -- presence and control against a real nats-server (skipped where there is none). The
 * bus alone, against a listener that only pretends to be one: test_bus.c. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/member/asker.h"
#include "runtime/member/bus.h"
#include "runtime/member/member.h"
#include "runtime/member/subject.h"
#include "tests/lib/nats_bed.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- a member that remembers what it heard ---- */

#define REPLICAS 4

struct node {
    struct rt_member *member;
    atomic_int heard, commands;
    struct wire_hello last;                 /* pointers are not valid; address copied below */
    char address[REPLICAS][RT_ADDRESS_MAX]; /* by index */
    _Atomic uint64_t replaced_by, held;
};

static void node_hello(void *ctx, const struct wire_hello *hello)
{
    struct node *node = ctx;

    node->heard++;
    node->last = *hello;
    assert_true(hello->index < REPLICAS);
    snprintf(node->address[hello->index], RT_ADDRESS_MAX, "%s",
             hello->n_addresses ? hello->address[0] : "");
}

static void node_control(void *ctx, const struct wire_control_request *request,
                         struct wire_control_reply *reply)
{
    struct node *node = ctx;

    node->commands++;
    if (request->command == WIRE_CTL_STATUS) {
        reply->text = "{\"state\":\"ready\"}";
        return;
    }
    reply->status = request->command == WIRE_CTL_STOP ? 0 : RT_EUSAGE;
    reply->text = request->command == WIRE_CTL_STOP ? "stopping" : "not known";
}

static void node_replaced(void *ctx, const struct wire_hello *by)
{
    ((struct node *)ctx)->replaced_by = by->incarnation;
}

static void node_held(void *ctx, uint64_t incarnation)
{
    ((struct node *)ctx)->held = incarnation;
}

static const char *const one_address[] = {"tcp:127.0.0.1:7100"};

static void node_start(struct node *node, const char *url, enum rt_role role, uint32_t index,
                       uint64_t incarnation, uint32_t listens_to)
{
    struct rt_member_conf conf = {
        .loop = bed_loop,
        .nats_url = url,
        .self = {.job = "test",
                 .role = role,
                 .index = index,
                 .incarnation = incarnation,
                 .replicas = REPLICAS,
                 .n_addresses = 1,
                 .address = one_address,
                 .wire_version = 1,
                 .version = "1.2.3"},
        .listens_to = listens_to,
        .ctx = node,
        .hello = node_hello,
        .control = node_control,
        .replaced = node_replaced,
        .held = node_held,
    };

    if (rt_member_create(&conf, &node->member) != 0)
        fail_msg("member: %s", rt_err_text());
}

static bool is_connected(void *arg)
{
    return rt_member_connected(((struct node *)arg)->member);
}

static bool is_away(void *arg)
{
    return !is_connected(arg);
}

static bool has_heard(void *arg)
{
    return ((struct node *)arg)->heard > 0;
}

static bool has_heard_ready(void *arg)
{
    struct node *node = arg;

    return node->heard > 0 && node->last.state == WIRE_READY;
}

static bool has_heard_done(void *arg)
{
    struct node *node = arg;

    return node->heard > 0 && node->last.state == WIRE_DONE;
}

static bool is_replaced(void *arg)
{
    return ((struct node *)arg)->replaced_by > 0;
}

static bool is_told_what_is_held(void *arg)
{
    return ((struct node *)arg)->held > 0;
}

/* ---- tests ---- */

static void hello_both_ways(void **state)
{
    struct node m = {0}, t = {0};
    struct nats_server server = {0};
    int before;

    (void)state;
    NEED_SERVER(&server);
    node_start(&m, server.url, RT_ROLE_MIDDLEWARE, 1, 7, RT_ROLE_BIT(RT_ROLE_TRAINER));
    node_start(&t, server.url, RT_ROLE_TRAINER, 0, 8, RT_ROLE_BIT(RT_ROLE_MIDDLEWARE));
    assert_true(bed_run_until(has_heard, &m, BED_WAIT_NS));
    assert_true(bed_run_until(has_heard, &t, BED_WAIT_NS));
    assert_int_equal(t.last.role, RT_ROLE_MIDDLEWARE);
    assert_int_equal(t.last.index, 1);
    assert_int_equal(t.last.incarnation, 7);
    assert_string_equal(t.address[1], one_address[0]);
    assert_int_equal(m.last.role, RT_ROLE_TRAINER);
    /* A new state is news, and is told at once; hellos that repeat it are not. */
    rt_member_set_state(m.member, WIRE_READY);
    assert_true(bed_run_until(has_heard_ready, &t, BED_WAIT_NS));
    before = m.heard;
    bed_run_until(bed_never, NULL, 1200 * RT_MS);
    assert_int_equal(m.heard, before);
    rt_member_destroy(m.member);
    rt_member_destroy(t.member);
    nats_kill(&server);
}

static void server_comes_late_and_again(void **state)
{
    struct node m = {0}, t = {0};
    struct nats_server server = {0};

    (void)state;
    NEED_SERVER(&server); /* for its port */
    nats_kill(&server);
    node_start(&m, server.url, RT_ROLE_MIDDLEWARE, 0, 7, 0);
    node_start(&t, server.url, RT_ROLE_TRAINER, 0, 8, RT_ROLE_BIT(RT_ROLE_MIDDLEWARE));
    assert_false(rt_member_connected(m.member));
    nats_start(&server);
    assert_true(bed_run_until(has_heard, &t, BED_WAIT_NS));
    nats_kill(&server);
    assert_true(bed_run_until(is_away, &m, BED_WAIT_NS));
    rt_member_set_state(m.member, WIRE_DONE);
    bed_run_until(bed_never, NULL, 200 * RT_MS);
    assert_int_not_equal(t.last.state, WIRE_DONE);
    nats_start(&server);
    assert_true(bed_run_until(has_heard_done, &t, BED_WAIT_NS));
    rt_member_destroy(m.member);
    rt_member_destroy(t.member);
    nats_kill(&server);
}

static void newer_incarnation_wins(void **state)
{
    struct node old = {0}, new = {0};
    struct nats_server server = {0};

    (void)state;
    NEED_SERVER(&server);
    node_start(&old, server.url, RT_ROLE_TRAINER, 0, 5, 0);
    node_start(&new, server.url, RT_ROLE_TRAINER, 0, 9, RT_ROLE_BIT(RT_ROLE_TRAINER));
    assert_true(bed_run_until(is_replaced, &old, BED_WAIT_NS));
    assert_int_equal(old.replaced_by, 9);
    bed_run_until(bed_never, NULL, 300 * RT_MS); /* the old one has answered who is there by now */
    assert_int_equal(new.replaced_by, 0);
    assert_int_equal(new.heard, 0);
    rt_member_destroy(old.member);
    rt_member_destroy(new.member);
    nats_kill(&server);
}

/* A process that starts anew with a lower number than its peers remember is told, and is no news to them; the number
 * of somebody else, or one that is not higher, is nothing to a process. */
static void lower_incarnation_is_told(void **state)
{
    struct node first = {0}, again = {0}, other = {0}, t = {0};
    struct nats_server server = {0};

    (void)state;
    NEED_SERVER(&server);
    node_start(&first, server.url, RT_ROLE_MIDDLEWARE, 0, 9, 0);
    node_start(&other, server.url, RT_ROLE_MIDDLEWARE, 1, 3, 0);
    node_start(&t, server.url, RT_ROLE_TRAINER, 0, 1, RT_ROLE_BIT(RT_ROLE_MIDDLEWARE));
    while (t.heard < 2)
        assert_true(bed_run_until(has_heard, &t, BED_WAIT_NS));
    rt_member_destroy(first.member);
    node_start(&again, server.url, RT_ROLE_MIDDLEWARE, 0, 5, 0);
    assert_true(bed_run_until(is_told_what_is_held, &again, BED_WAIT_NS));
    assert_int_equal(again.held, 9);
    assert_int_equal(again.replaced_by, 0);
    assert_int_equal(other.held, 0);
    assert_int_equal(t.held, 0);
    assert_int_equal(t.heard, 2);
    rt_member_destroy(again.member);
    rt_member_destroy(other.member);
    rt_member_destroy(t.member);
    nats_kill(&server);
}

static void count_message(void *ctx, const struct rt_bus_message *message)
{
    (void)message;
    (*(int *)ctx)++;
}

static bool is_counted(void *arg)
{
    return *(int *)arg > 0;
}

static void ignore_change(void *ctx, bool connected)
{
    (void)ctx;
    (void)connected;
}

static void say_hello(struct rt_bus *bus, const struct wire_hello *hello, uint32_t index_in_subject)
{
    struct wire_out out = {0};
    char subject[RT_SUBJECT_MAX];

    rt_subject_hello(subject, "test", hello->role, &index_in_subject);
    assert_int_equal(wire_hello_pack(hello, &out), 0);
    assert_int_equal(rt_bus_publish(bus, subject, out.data, out.size), 0);
    wire_out_release(&out);
}

struct mark {
    struct node *node;
    uint64_t incarnation;
};

static bool mark_is_heard(void *arg)
{
    const struct mark *mark = arg;

    return mark->node->last.index == 3 && mark->node->last.incarnation == mark->incarnation;
}

/* Everything published before has been heard, or never will be: a hello of replica 3 that surely is news has
 * come after it, on the same connection and subscription. */
static void wait_mark(struct rt_bus *bus, struct node *node, uint64_t incarnation)
{
    struct mark mark = {node, incarnation};
    const char *address = "tcp:mark:1";
    struct wire_hello hello = {.job = "test",
                               .role = RT_ROLE_MIDDLEWARE,
                               .index = 3,
                               .incarnation = incarnation,
                               .sequence = 1,
                               .state = WIRE_READY,
                               .replicas = REPLICAS,
                               .n_addresses = 1,
                               .address = &address,
                               .wire_version = 1};

    say_hello(bus, &hello, 3);
    assert_true(bed_run_until(mark_is_heard, &mark, BED_WAIT_NS));
}

/* Hellos made by hand, said in this order; `news`: the listener is to hear of it. */
static const struct {
    const char *name;
    uint64_t incarnation, sequence;
    enum wire_state state;
    const char *address;
    uint32_t index_in_subject;
    bool news;
    const char *job; /* NULL: ours */
    uint64_t config_hash, plan_hash;
    uint32_t wire_version; /* above ours */
} hand_made[] = {
    {"first", 10, 5, WIRE_STARTING, "tcp:a:1", 2, true, NULL, 0, 0, 0},
    {"same again", 10, 6, WIRE_STARTING, "tcp:a:1", 2, false, NULL, 0, 0, 0},
    {"older sequence, other address", 10, 4, WIRE_STARTING, "tcp:b:1", 2, false, NULL, 0, 0, 0},
    {"lower incarnation", 9, 100, WIRE_READY, "tcp:c:1", 2, false, NULL, 0, 0, 0},
    {"other address", 10, 7, WIRE_STARTING, "tcp:d:1", 2, true, NULL, 0, 0, 0},
    {"other state", 10, 8, WIRE_READY, "tcp:d:1", 2, true, NULL, 0, 0, 0},
    {"new incarnation", 11, 1, WIRE_READY, "tcp:d:1", 2, true, NULL, 0, 0, 0},
    {"another one's subject", 12, 1, WIRE_READY, "tcp:d:1", 3, false, NULL, 0, 0, 0},
    {"another job, on our subject", 12, 1, WIRE_READY, "tcp:e:1", 2, false, "other", 0, 0, 0},
    {"other configuration", 12, 1, WIRE_READY, "tcp:e:1", 2, false, NULL, 1, 0, 0},
    {"other data", 13, 1, WIRE_READY, "tcp:e:1", 2, false, NULL, 0, 1, 0},
    {"other wire version", 14, 1, WIRE_READY, "tcp:e:1", 2, false, NULL, 0, 0, 1},
    {"started anew with our files", 15, 1, WIRE_READY, "tcp:e:1", 2, true, NULL, 0, 0, 0},
};

static void old_hellos(void **state)
{
    struct rt_bus_conf conf = {
        .loop = bed_loop, .name = "hand", .message = count_message, .change = ignore_change};
    struct nats_server server = {0};
    struct node t = {0};
    struct rt_bus *bus;
    int said = 0;

    (void)state;
    NEED_SERVER(&server);
    conf.url = server.url;
    node_start(&t, server.url, RT_ROLE_TRAINER, 0, 8, RT_ROLE_BIT(RT_ROLE_MIDDLEWARE));
    conf.ctx = &said;
    assert_int_equal(rt_bus_create(&conf, &bus), 0);
    assert_int_equal(rt_bus_subscribe(bus, "saffron.test.hello.trainer.0"), 0);
    assert_true(
        bed_run_until(is_counted, &said, BED_WAIT_NS)); /* so its subscriptions are in, too */
    for (size_t i = 0; i < ARRAY_LEN(hand_made); i++) {
        struct wire_hello hello = {.job = hand_made[i].job ? hand_made[i].job : "test",
                                   .role = RT_ROLE_MIDDLEWARE,
                                   .index = 2,
                                   .incarnation = hand_made[i].incarnation,
                                   .sequence = hand_made[i].sequence,
                                   .state = hand_made[i].state,
                                   .replicas = REPLICAS,
                                   .n_addresses = 1,
                                   .address = &hand_made[i].address,
                                   .config_hash = hand_made[i].config_hash,
                                   .plan_hash = hand_made[i].plan_hash,
                                   .wire_version = 1 + hand_made[i].wire_version};
        int before = t.heard, news;

        say_hello(bus, &hello, hand_made[i].index_in_subject);
        wait_mark(bus, &t, 100 + i);
        news = t.heard - before - 1;
        if (news != hand_made[i].news)
            fail_msg("%s: heard %d, expected %d", hand_made[i].name, news, hand_made[i].news);
        if (hand_made[i].news)
            assert_string_equal(t.address[2], hand_made[i].address);
    }
    /* Nonsense harms nobody. */
    assert_int_equal(rt_bus_publish(bus, "saffron.test.hello.middleware.2", "\xff\xff", 2), 0);
    assert_int_equal(rt_bus_publish(bus, "saffron.test.who", "\xff\xff", 2), 0);
    wait_mark(bus, &t, 200);
    rt_bus_destroy(bus);
    rt_member_destroy(t.member);
    nats_kill(&server);
}

/* ---- control: the loop runs on its own thread, the test asks ---- */

struct answers {
    int n;
    struct wire_control_reply last;
    char text[1024];
};

static void on_reply(void *ctx, const struct wire_control_reply *reply)
{
    struct answers *a = ctx;

    a->n++;
    a->last = *reply;
    snprintf(a->text, sizeof(a->text), "%s", reply->text);
}

/* The loop sleeps, and says when it has begun to: a request sent before that may still be handled first. */
static atomic_bool napping;

static void nap(void *arg)
{
    (void)arg;
    atomic_store(&napping, true);
    usleep(500 * 1000); /* long against whatever delays the request on a busy machine */
}

static bool take_text(void *ctx, const uint8_t *data, size_t size)
{
    snprintf(ctx, 1024, "%.*s", (int)size, (const char *)data);
    return false;
}

static bool take_reply(void *ctx, const uint8_t *data, size_t size)
{
    struct rt_arena *arena;
    struct wire_control_reply reply;

    assert_int_equal(rt_arena_create(1 << 16, &arena), 0);
    assert_int_equal(wire_control_reply_unpack(data, size, arena, &reply), 0);
    on_reply(ctx, &reply);
    rt_arena_destroy(arena);
    return false;
}

static void ask_commands(struct rt_control_client *client, struct node *m)
{
    struct wire_control_request request = {.id = 1, .command = WIRE_CTL_STATUS, .ttl_ms = 2000};
    static const uint32_t zero = 0, two = 2;
    struct answers a = {0};

    assert_int_equal(
        rt_control_ask(client, "test", RT_ROLE_MIDDLEWARE, NULL, &request, 5000, 2, &a, on_reply),
        2);
    assert_string_equal(a.text, "{\"state\":\"ready\"}");
    assert_int_equal(
        rt_control_ask(client, "test", RT_ROLE_MIDDLEWARE, &zero, &request, 5000, 1, &a, on_reply),
        1);
    assert_int_equal(a.last.incarnation, 7);
    /* Nobody there: told at once. */
    assert_int_equal(
        rt_control_ask(client, "test", RT_ROLE_MIDDLEWARE, &two, &request, 60000, 1, &a, on_reply),
        0);
    assert_int_equal(
        rt_control_ask(client, "a.b", RT_ROLE_TRAINER, NULL, &request, 1, 1, &a, on_reply),
        RT_EUSAGE);
    /* The same id: answered twice, done once. */
    m->commands = 0;
    request = (struct wire_control_request){.id = 2, .command = WIRE_CTL_STOP, .incarnation = 7};
    for (int i = 0; i < 2; i++) {
        a = (struct answers){0};
        assert_int_equal(rt_control_ask(client, "test", RT_ROLE_MIDDLEWARE, &zero, &request, 5000,
                                        1, &a, on_reply),
                         1);
        assert_string_equal(a.text, "stopping");
        assert_int_equal(a.last.status, 0);
    }
    assert_int_equal(m->commands, 1);
    request = (struct wire_control_request){.id = 3, .command = WIRE_CTL_STOP, .incarnation = 6};
    rt_control_ask(client, "test", RT_ROLE_MIDDLEWARE, &zero, &request, 5000, 1, &a, on_reply);
    assert_int_equal(a.last.status, RT_ESTALE);
    assert_string_equal(a.text, "meant for incarnation 6, this is 7");
    /* Too old when the loop gets to it. */
    assert_int_equal(rt_loop_post(bed_loop, nap, NULL), 0);
    while (!atomic_load(&napping))
        usleep(1000);
    request = (struct wire_control_request){.id = 4, .command = WIRE_CTL_STOP, .ttl_ms = 20};
    rt_control_ask(client, "test", RT_ROLE_MIDDLEWARE, &zero, &request, 5000, 1, &a, on_reply);
    assert_int_equal(a.last.status, RT_EDEADLINE);
    assert_int_equal(m->commands, 1);
}

static json_t *ask_service(struct rt_asker *asker, const char *subject, const char *type)
{
    char text[1024] = "";
    json_t *o;

    assert_int_equal(rt_asker_ask(asker, subject, "", 0, 5000, text, take_text), 0);
    o = json_loads(text, 0, NULL);
    if (!o)
        fail_msg("%s: '%s' is no JSON", subject, text);
    assert_string_equal(json_string_value(json_object_get(o, "type")), type);
    assert_string_equal(json_string_value(json_object_get(o, "version")), "1.2.3");
    assert_non_null(json_object_get(o, "id"));
    return o;
}

static void ask_raw(const char *url)
{
    struct answers a = {0};
    struct rt_asker *asker;
    json_t *o, *e;

    assert_int_equal(rt_asker_create(url, 2000, &asker), 0);
    assert_int_equal(
        rt_asker_ask(asker, "saffron.test.ctl.middleware.0", "\xff", 1, 5000, &a, take_reply), 0);
    assert_int_equal(a.last.status, RT_EPROTO);
    json_decref(ask_service(asker, "$SRV.PING", "io.nats.micro.v1.ping_response"));
    o = ask_service(asker, "$SRV.INFO.saffron-middleware", "io.nats.micro.v1.info_response");
    e = json_array_get(json_object_get(o, "endpoints"), 0);
    assert_memory_equal(json_string_value(json_object_get(e, "subject")),
                        "saffron.test.ctl.middleware.", 28);
    json_decref(o);
    o = ask_service(asker, "$SRV.STATS.saffron-middleware.test-middleware-0-7",
                    "io.nats.micro.v1.stats_response");
    e = json_array_get(json_object_get(o, "endpoints"), 0);
    assert_true(json_integer_value(json_object_get(e, "num_requests")) >= 6);
    assert_true(json_integer_value(json_object_get(e, "num_errors")) >= 3);
    json_decref(o);
    rt_asker_destroy(asker);
}

/* Two answer and one answer is taken: the other comes while its subscription goes. */
static void ask_and_leave(const char *url)
{
    char text[1024];
    struct rt_asker *asker;

    assert_int_equal(rt_asker_create(url, 2000, &asker), 0);
    for (int i = 0; i < 500; i++)
        assert_int_equal(rt_asker_ask(asker, "$SRV.PING", "", 0, 5000, text, take_text), 0);
    rt_asker_destroy(asker);
}

static void control(void **state)
{
    struct rt_control_client *client;
    struct node m0 = {0}, m1 = {0};
    struct nats_server server = {0};

    (void)state;
    NEED_SERVER(&server);
    node_start(&m0, server.url, RT_ROLE_MIDDLEWARE, 0, 7, RT_ROLE_BIT(RT_ROLE_MIDDLEWARE));
    node_start(&m1, server.url, RT_ROLE_MIDDLEWARE, 1, 8, RT_ROLE_BIT(RT_ROLE_MIDDLEWARE));
    /* Who is heard has subscribed to everything before. */
    assert_true(bed_run_until(has_heard, &m0, BED_WAIT_NS));
    assert_true(bed_run_until(has_heard, &m1, BED_WAIT_NS));
    assert_int_equal(rt_loop_start_thread(bed_loop), 0);
    bed_threaded = true;
    assert_int_equal(rt_control_connect(server.url, 2000, &client), 0);
    ask_commands(client, &m0);
    ask_raw(server.url);
    rt_control_close(client);
    ask_and_leave(server.url);
    rt_loop_stop(bed_loop);
    rt_loop_join(bed_loop);
    bed_threaded = false;
    rt_member_destroy(m0.member);
    rt_member_destroy(m1.member);
    nats_kill(&server);
    assert_int_equal(rt_control_connect(server.url, 500, &client), RT_ENATS);
}

static void usage(void **state)
{
    struct rt_member_conf conf = {
        .loop = bed_loop,
        .nats_url = "nats://127.0.0.1:1",
        .self = {.role = RT_ROLE_TRAINER, .replicas = 1, .version = "1.2.3"}};
    struct rt_member *member = NULL;

    (void)state;
    conf.self.job = "a.b";
    assert_int_equal(rt_member_create(&conf, &member), RT_EUSAGE);
    conf.self.job = "a";
    conf.self.index = 1;
    assert_int_equal(rt_member_create(&conf, &member), RT_EUSAGE);
    conf.self.index = 0;
    conf.nats_url = "nats://user:secret@127.0.0.1:notaport";
    assert_int_equal(rt_member_create(&conf, &member), RT_EUSAGE);
    assert_null(strstr(rt_err_text(), "secret"));
    conf.nats_url = "nats://127.0.0.1:1";
    assert_int_equal(rt_member_create(&conf, &member), 0);
    assert_null(rt_member_waiting(member));
    rt_member_set_waiting(member, "embedding_server/0");
    assert_string_equal(rt_member_waiting(member), "embedding_server/0");
    rt_member_set_waiting(member, NULL);
    assert_null(rt_member_waiting(member));
    assert_true(rt_member_incarnation(member) > 1600000000000ull); /* wall clock */
    rt_member_destroy(member);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bed_set_up, bed_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(usage),
        TEST(hello_both_ways),
        TEST(server_comes_late_and_again),
        TEST(old_hellos),
        TEST(control),
        TEST(newer_incarnation_wins),
        TEST(lower_incarnation_is_told),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
