/* tests/unit/test_member.c -- presence and control against a real nats-server (skipped where there is none),
 * and against a listener that only pretends to be one, which sees every byte that reaches it. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/member/bus.h"
#include "runtime/member/member.h"
#include "runtime/member/subject.h"

#include <jansson.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define WAIT_NS (10 * RT_S) /* for things that take well below a second each */

/* ---- a NATS server of our own ---- */

struct server {
    pid_t pid;
    uint16_t port;
    char url[64];
};

/* A socket that listens on a free port of the loopback. */
static int listen_any(uint16_t *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(a);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
    *port = ntohs(a.sin_port);
    return fd;
}

static bool answers(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool yes;

    a.sin_port = htons(port);
    yes = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
    close(fd);
    return yes;
}

/* Is nats-server in PATH? */
static bool have_server(void)
{
    char *path = strdup(getenv("PATH") ? getenv("PATH") : ""), *at = NULL, file[4096];
    bool found = false;

    for (char *dir = strtok_r(path, ":", &at); dir && !found; dir = strtok_r(NULL, ":", &at)) {
        snprintf(file, sizeof(file), "%s/nats-server", dir);
        found = access(file, X_OK) == 0;
    }
    free(path);
    return found;
}

/* server->port 0: a free one. */
static void server_start(struct server *server)
{
    char port[16];
    uint64_t end = rt_now_ns() + WAIT_NS;

    if (!server->port)
        close(listen_any(&server->port));
    snprintf(port, sizeof(port), "%u", server->port);
    snprintf(server->url, sizeof(server->url), "nats://127.0.0.1:%s", port);
    server->pid = fork();
    if (server->pid == 0) {
        int null = open("/dev/null", O_RDWR);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(null, 1);
        dup2(null, 2);
        execlp("nats-server", "nats-server", "-a", "127.0.0.1", "-p", port, (char *)NULL);
        _exit(127);
    }
    while (!answers(server->port) && rt_now_ns() < end)
        usleep(10000);
    assert_true(answers(server->port));
}

static void server_kill(struct server *server)
{
    kill(server->pid, SIGKILL);
    assert_int_equal(waitpid(server->pid, NULL, 0), server->pid);
}

#define NEED_SERVER(server)                                                                        \
    do {                                                                                           \
        if (!have_server()) {                                                                      \
            print_message("nats-server is not installed\n");                                       \
            skip();                                                                                \
        }                                                                                          \
        server_start(server);                                                                      \
    } while (0)

/* ---- the loop, run until something is so ---- */

static struct rt_loop *loop;

static int set_up(void **state)
{
    struct rt_loop_conf conf = {.name = "test", .pool_budget = 1 << 20};

    (void)state;
    return rt_loop_create(&conf, &loop);
}

static bool threaded; /* the loop runs on its own thread: a test that failed left it there */

static int tear_down(void **state)
{
    (void)state;
    if (threaded) {
        rt_loop_stop(loop);
        rt_loop_join(loop);
        threaded = false;
    }
    rt_loop_destroy(loop);
    return 0;
}

struct wait {
    struct rt_timer timer;
    bool (*is_so)(void *arg);
    void *arg;
    uint64_t end_ns;
    bool result;
};

static void check_again(void *arg)
{
    struct wait *wait = arg;

    wait->result = wait->is_so(wait->arg);
    if (wait->result || rt_now_ns() > wait->end_ns)
        rt_loop_stop(loop);
    else
        rt_timer_start(rt_loop_io(loop), &wait->timer, 5 * RT_MS);
}

static bool run_until(bool (*is_so)(void *arg), void *arg, uint64_t limit_ns)
{
    struct wait wait = {.is_so = is_so, .arg = arg, .end_ns = rt_now_ns() + limit_ns};

    wait.timer.fire = check_again;
    wait.timer.arg = &wait;
    rt_timer_start(rt_loop_io(loop), &wait.timer, 0);
    rt_loop_run(loop);
    rt_timer_stop(rt_loop_io(loop), &wait.timer);
    return wait.result;
}

static bool never(void *arg)
{
    (void)arg;
    return false;
}

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
        .loop = loop,
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
    struct server server = {0};
    int before;

    (void)state;
    NEED_SERVER(&server);
    node_start(&m, server.url, RT_ROLE_MIDDLEWARE, 1, 7, RT_ROLE_BIT(RT_ROLE_TRAINER));
    node_start(&t, server.url, RT_ROLE_TRAINER, 0, 8, RT_ROLE_BIT(RT_ROLE_MIDDLEWARE));
    assert_true(run_until(has_heard, &m, WAIT_NS));
    assert_true(run_until(has_heard, &t, WAIT_NS));
    assert_int_equal(t.last.role, RT_ROLE_MIDDLEWARE);
    assert_int_equal(t.last.index, 1);
    assert_int_equal(t.last.incarnation, 7);
    assert_string_equal(t.address[1], one_address[0]);
    assert_int_equal(m.last.role, RT_ROLE_TRAINER);
    /* A new state is news, and is told at once; hellos that repeat it are not. */
    rt_member_set_state(m.member, WIRE_READY);
    assert_true(run_until(has_heard_ready, &t, WAIT_NS));
    before = m.heard;
    run_until(never, NULL, 1200 * RT_MS);
    assert_int_equal(m.heard, before);
    rt_member_destroy(m.member);
    rt_member_destroy(t.member);
    server_kill(&server);
}

static void server_comes_late_and_again(void **state)
{
    struct node m = {0}, t = {0};
    struct server server = {0};

    (void)state;
    NEED_SERVER(&server); /* for its port */
    server_kill(&server);
    node_start(&m, server.url, RT_ROLE_MIDDLEWARE, 0, 7, 0);
    node_start(&t, server.url, RT_ROLE_TRAINER, 0, 8, RT_ROLE_BIT(RT_ROLE_MIDDLEWARE));
    assert_false(rt_member_connected(m.member));
    server_start(&server);
    assert_true(run_until(has_heard, &t, WAIT_NS));
    server_kill(&server);
    assert_true(run_until(is_away, &m, WAIT_NS));
    rt_member_set_state(m.member, WIRE_DONE);
    run_until(never, NULL, 200 * RT_MS);
    assert_int_not_equal(t.last.state, WIRE_DONE);
    server_start(&server);
    assert_true(run_until(has_heard_done, &t, WAIT_NS));
    rt_member_destroy(m.member);
    rt_member_destroy(t.member);
    server_kill(&server);
}

static void newer_incarnation_wins(void **state)
{
    struct node old = {0}, new = {0};
    struct server server = {0};

    (void)state;
    NEED_SERVER(&server);
    node_start(&old, server.url, RT_ROLE_TRAINER, 0, 5, 0);
    node_start(&new, server.url, RT_ROLE_TRAINER, 0, 9, RT_ROLE_BIT(RT_ROLE_TRAINER));
    assert_true(run_until(is_replaced, &old, WAIT_NS));
    assert_int_equal(old.replaced_by, 9);
    run_until(never, NULL, 300 * RT_MS); /* the old one has answered who is there by now */
    assert_int_equal(new.replaced_by, 0);
    assert_int_equal(new.heard, 0);
    rt_member_destroy(old.member);
    rt_member_destroy(new.member);
    server_kill(&server);
}

/* A process that starts anew with a lower number than its peers remember is told, and is no news to them; the number
 * of somebody else, or one that is not higher, is nothing to a process. */
static void lower_incarnation_is_told(void **state)
{
    struct node first = {0}, again = {0}, other = {0}, t = {0};
    struct server server = {0};

    (void)state;
    NEED_SERVER(&server);
    node_start(&first, server.url, RT_ROLE_MIDDLEWARE, 0, 9, 0);
    node_start(&other, server.url, RT_ROLE_MIDDLEWARE, 1, 3, 0);
    node_start(&t, server.url, RT_ROLE_TRAINER, 0, 1, RT_ROLE_BIT(RT_ROLE_MIDDLEWARE));
    while (t.heard < 2)
        assert_true(run_until(has_heard, &t, WAIT_NS));
    rt_member_destroy(first.member);
    node_start(&again, server.url, RT_ROLE_MIDDLEWARE, 0, 5, 0);
    assert_true(run_until(is_told_what_is_held, &again, WAIT_NS));
    assert_int_equal(again.held, 9);
    assert_int_equal(again.replaced_by, 0);
    assert_int_equal(other.held, 0);
    assert_int_equal(t.held, 0);
    assert_int_equal(t.heard, 2);
    rt_member_destroy(again.member);
    rt_member_destroy(other.member);
    rt_member_destroy(t.member);
    server_kill(&server);
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

static void ignore_message(void *ctx, const struct rt_bus_message *message)
{
    (void)ctx;
    (void)message;
}

static void ignore_change(void *ctx, bool connected)
{
    (void)ctx;
    (void)connected;
}

static bool bus_is_up(void *arg)
{
    return rt_bus_connected(arg);
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
    assert_true(run_until(mark_is_heard, &mark, WAIT_NS));
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
        .loop = loop, .name = "hand", .message = count_message, .change = ignore_change};
    struct server server = {0};
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
    assert_true(run_until(is_counted, &said, WAIT_NS)); /* so its subscriptions are in, too */
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
    server_kill(&server);
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
    assert_int_equal(rt_loop_post(loop, nap, NULL), 0);
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

static void control(void **state)
{
    struct rt_control_client *client;
    struct node m0 = {0}, m1 = {0};
    struct server server = {0};

    (void)state;
    NEED_SERVER(&server);
    node_start(&m0, server.url, RT_ROLE_MIDDLEWARE, 0, 7, RT_ROLE_BIT(RT_ROLE_MIDDLEWARE));
    node_start(&m1, server.url, RT_ROLE_MIDDLEWARE, 1, 8, RT_ROLE_BIT(RT_ROLE_MIDDLEWARE));
    /* Who is heard has subscribed to everything before. */
    assert_true(run_until(has_heard, &m0, WAIT_NS));
    assert_true(run_until(has_heard, &m1, WAIT_NS));
    assert_int_equal(rt_loop_start_thread(loop), 0);
    threaded = true;
    assert_int_equal(rt_control_connect(server.url, 2000, &client), 0);
    ask_commands(client, &m0);
    ask_raw(server.url);
    rt_control_close(client);
    rt_loop_stop(loop);
    rt_loop_join(loop);
    threaded = false;
    rt_member_destroy(m0.member);
    rt_member_destroy(m1.member);
    server_kill(&server);
    assert_int_equal(rt_control_connect(server.url, 500, &client), RT_ENATS);
}

/* ---- a listener that pretends to be NATS ---- */

struct fake {
    int listener, connection;
    uint16_t port;
    pthread_t thread;
    pthread_mutex_t lock;
    atomic_int accepted, hold; /* hold: refuse to accept */
    atomic_bool deaf;          /* do not read what comes */
    atomic_int slam;           /* end the connection, 1: at once; 2: after INFO; 3: after CONNECT */
    atomic_bool quit;
    char seen[65536]; /* of the latest connection */
    size_t n_seen;
};

static void fake_read(struct fake *fake)
{
    char buffer[4096];
    ssize_t n = recv(fake->connection, buffer, sizeof(buffer), MSG_DONTWAIT);

    if (n <= 0)
        return;
    pthread_mutex_lock(&fake->lock);
    if (fake->n_seen + (size_t)n < sizeof(fake->seen)) {
        memcpy(fake->seen + fake->n_seen, buffer, (size_t)n);
        fake->n_seen += (size_t)n;
    }
    pthread_mutex_unlock(&fake->lock);
    if (memmem(buffer, (size_t)n, "PING\r\n", 6))
        (void)!write(fake->connection, "PONG\r\n", 6);
}

static void *fake_main(void *arg)
{
    static const char info[] = "INFO {\"server_id\":\"x\",\"version\":\"2.9.0\",\"headers\":true,"
                               "\"max_payload\":1048576,\"proto\":1}\r\n";
    struct fake *fake = arg;

    while (!fake->quit) {
        struct pollfd fds[2] = {{fake->hold ? -1 : fake->listener, POLLIN, 0},
                                {fake->deaf ? -1 : fake->connection, POLLIN, 0}};

        poll(fds, 2, 5);
        if (fds[0].revents & POLLIN) {
            int fd = accept(fake->listener, NULL, NULL);

            pthread_mutex_lock(&fake->lock);
            fake->n_seen = 0;
            pthread_mutex_unlock(&fake->lock);
            fake->connection = fd;
            if (fake->slam != 1)
                (void)!write(fd, info, sizeof(info) - 1);
            fake->accepted++;
        }
        if ((fds[1].revents & POLLIN) && fake->slam != 3)
            fake_read(fake);
        if ((fake->hold || fake->slam == 1 || fake->slam == 2 ||
             (fake->slam == 3 && (fds[1].revents & POLLIN))) &&
            fake->connection >= 0) {
            close(fake->connection);
            fake->connection = -1;
        }
    }
    return NULL;
}

static bool fake_saw(struct fake *fake, const char *text)
{
    bool saw;

    pthread_mutex_lock(&fake->lock);
    saw = memmem(fake->seen, fake->n_seen, text, strlen(text)) != NULL;
    pthread_mutex_unlock(&fake->lock);
    return saw;
}

static bool is_accepted_again(void *arg)
{
    return ((struct fake *)arg)->accepted >= 2;
}

static struct fake *fake_start(char *url, size_t size)
{
    struct fake *fake = calloc(1, sizeof(*fake));

    fake->connection = -1;
    fake->listener = listen_any(&fake->port);
    pthread_mutex_init(&fake->lock, NULL);
    assert_int_equal(pthread_create(&fake->thread, NULL, fake_main, fake), 0);
    snprintf(url, size, "nats://127.0.0.1:%u", fake->port);
    return fake;
}

static void fake_end(struct fake *fake)
{
    fake->quit = true;
    pthread_join(fake->thread, NULL);
    close(fake->listener);
    if (fake->connection >= 0)
        close(fake->connection);
    pthread_mutex_destroy(&fake->lock);
    free(fake);
}

/* Whatever is published while NATS is away, or in the moment that it goes, must not come later. */
static void nothing_is_late(void **state)
{
    struct rt_bus_conf conf = {
        .loop = loop, .name = "late", .message = ignore_message, .change = ignore_change};
    int err, refused = 0;
    struct rt_bus *bus;
    struct fake *fake;
    char url[64];

    (void)state;
    fake = fake_start(url, sizeof(url));
    conf.url = url;
    assert_int_equal(rt_bus_create(&conf, &bus), 0);
    assert_int_equal(rt_bus_subscribe(bus, "inbox"), 0);
    assert_true(run_until(bus_is_up, bus, WAIT_NS));
    assert_int_equal(rt_bus_publish(bus, "early", "x", 1), 0);
    run_until(never, NULL, 50 * RT_MS);
    assert_true(fake_saw(fake, "PUB early"));
    fake->hold = 1;
    for (int i = 0; i < 400 && refused < 100; i++) {
        err = rt_bus_publish(bus, "late", "x", 1);
        assert_true(err == 0 || err == RT_ENATS);
        refused += err != 0;
        usleep(1000);
    }
    assert_int_equal(refused, 100);
    fake->hold = 0;
    assert_true(run_until(is_accepted_again, fake, WAIT_NS));
    assert_true(run_until(bus_is_up, bus, WAIT_NS));
    assert_int_equal(rt_bus_publish(bus, "fresh", "x", 1), 0);
    run_until(never, NULL, 50 * RT_MS);
    assert_true(fake_saw(fake, "SUB inbox"));
    assert_true(fake_saw(fake, "PUB fresh"));
    assert_false(fake_saw(fake, "PUB late"));
    rt_bus_destroy(bus);
    fake_end(fake);
}

/* A server that takes the connection and then reads nothing: publishing never waits for it, what has no room
 * is refused, and the connection is given up for a new one. None of what waited is said on that. */
static void server_does_not_read(void **state)
{
    struct rt_bus_conf conf = {
        .loop = loop, .name = "deaf", .message = ignore_message, .change = ignore_change};
    uint64_t longest_ns = 0, end_ns = rt_now_ns() + WAIT_NS;
    uint8_t *big = calloc(1, RT_BUS_MESSAGE_MAX);
    struct rt_bus *bus;
    struct fake *fake;
    int refused = 0;
    char url[64];

    (void)state;
    fake = fake_start(url, sizeof(url));
    conf.url = url;
    assert_int_equal(rt_bus_create(&conf, &bus), 0);
    assert_true(run_until(bus_is_up, bus, WAIT_NS));
    fake->deaf = true;
    while (fake->accepted < 2 && rt_now_ns() < end_ns) {
        uint64_t begun_ns = rt_now_ns(), took_ns;

        refused += rt_bus_publish(bus, "big", big, RT_BUS_MESSAGE_MAX) != 0;
        took_ns = rt_now_ns() - begun_ns;
        longest_ns = took_ns > longest_ns ? took_ns : longest_ns;
        usleep(1000);
    }
    assert_true(refused > 0);
    /* It copies 1 MiB, and a busy machine may stop us; waiting for the server takes a write deadline, 1 s. */
    assert_true(longest_ns < 900 * RT_MS);
    fake->deaf = false;
    assert_true(run_until(bus_is_up, bus, WAIT_NS));
    assert_int_equal(rt_bus_publish(bus, "fresh", "x", 1), 0);
    run_until(never, NULL, 50 * RT_MS);
    assert_true(fake_saw(fake, "PUB fresh"));
    assert_false(fake_saw(fake, "PUB big"));
    rt_bus_destroy(bus);
    fake_end(fake);
    free(big);
}

/* A server that dies in the middle of the first handshake, a few times: the library then closes the connection for
 * good, in one moment or another. It is made anew, with its subscriptions. */
static void server_dies_in_the_handshake(void **state)
{
    struct rt_bus_conf conf = {
        .loop = loop, .name = "slam", .message = count_message, .change = ignore_change};
    char url[64];

    (void)state;
    for (int moment = 1; moment <= 3; moment++) {
        struct fake *fake = fake_start(url, sizeof(url));
        struct rt_bus *bus;
        int counted = 0;

        conf.url = url;
        conf.ctx = &counted;
        fake->slam = moment;
        assert_int_equal(rt_bus_create(&conf, &bus), 0);
        assert_int_equal(rt_bus_subscribe(bus, "inbox"), 0);
        if (!run_until(is_accepted_again, fake, WAIT_NS))
            fail_msg("moment %d: it does not try again", moment);
        fake->slam = 0;
        if (!run_until(bus_is_up, bus, WAIT_NS))
            fail_msg("moment %d: it does not come back", moment);
        assert_int_equal(rt_bus_publish(bus, "fresh", "x", 1), 0);
        run_until(never, NULL, 50 * RT_MS);
        assert_true(fake_saw(fake, "SUB inbox"));
        assert_true(fake_saw(fake, "PUB fresh"));
        rt_bus_destroy(bus);
        fake_end(fake);
    }
}

static void usage(void **state)
{
    struct rt_member_conf conf = {
        .loop = loop,
        .nats_url = "nats://127.0.0.1:1",
        .self = {.role = RT_ROLE_TRAINER, .replicas = 1, .version = "1.2.3"}};
    static const struct {
        const char *url, *shown;
    } row[] = {
        {"nats://127.0.0.1:4222", "nats://127.0.0.1:4222"},
        {"nats://user:secret@host:1", "nats://host:1"},
        {"nats://a:b@h:1,nats://c:d@i:2,x:3", "nats://h:1,nats://i:2,x:3"},
        {"user:secret@host", "host"},
        {"", ""},
    };
    struct rt_member *member = NULL;
    char shown[128];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++)
        assert_string_equal(rt_bus_shown_url(row[i].url, shown, sizeof(shown)), row[i].shown);
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

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(usage),
        TEST(hello_both_ways),
        TEST(server_comes_late_and_again),
        TEST(old_hellos),
        TEST(control),
        TEST(newer_incarnation_wins),
        TEST(nothing_is_late),
        TEST(server_does_not_read),
        TEST(lower_incarnation_is_told),
        TEST(server_dies_in_the_handshake),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
