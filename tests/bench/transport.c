/* tests/bench/transport.c -- the data plane between two processes beside a plain socket loop.
 *
 *   client (core 1) --payloads of 256 KiB, 1 MiB, 4 MiB, or 64-byte calls--> server (core 0)
 *
 * What a payload's figure is held against is a writer that does the least a transport must: a frame header, the payload's
 * checksum on TCP, one gathered write; and a reader that receives header and payload whole and checks. Blocking sockets of the
 * kernel's default sizes, buffers used again, as many of the same size as the rpc has. Nothing is acknowledged there; here
 * each call is, with 8 MiB under way (16 of 4 MiB). Rounds are taken in turns, so that what else the machine does slows
 * both, and the median of the rounds' ratios counts: a rate's limit is value / ratio.
 *
 * Small calls have a message of 64 bytes each way, DEPTH_SMALL of them under way. */
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/net/loop.h"
#include "runtime/net/near.h"
#include "runtime/net/rpc.h"
#include "tests/lib/bench.h"
#include "tests/lib/greeting.h"

#define PAYLOAD_MAX   ((size_t)4 << 20)
#define MESSAGE_BYTES 64
#define ROUND_BYTES   ((size_t)256 << 20)
#define WINDOW_BYTES  ((size_t)8 << 20)
#define SMALL_CALLS   200000
#define DEADLINE_NS   (60 * RT_S)

enum { ROUNDS = 7, DEPTH_MAX = 32, DEPTH_SMALL = 256, SERVER_CORE = 0, CLIENT_CORE = 1 };
enum { METHOD_TAKE = RT_METHOD_ROLE_FIRST, METHOD_ECHO };

struct client {
    char address[RT_ADDRESS_MAX];
    pid_t server;
    struct rt_loop *loop;
    struct rt_rpc *rpc;
    struct rt_peer *peer;
    struct rt_buf *payload[DEPTH_MAX];
    uint16_t method;
    size_t bytes, depth; /* of a payload (0: none); calls under way */
    size_t to_ask, asked, came;
};

/* One side's round: seconds on the clock, and of CPU at both ends. */
struct cost {
    double wall, cpu;
};

static void die(const char *what)
{
    fprintf(stderr, "transport: %s: %s\n", what, errno ? strerror(errno) : rt_err_text());
    exit(1);
}

static void must(int err, const char *what)
{
    errno = 0;
    if (err)
        die(what);
}

static void pin(unsigned core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0)
        fprintf(stderr, "transport: cannot be pinned to core %u; going on without\n", core);
}

/* CPU seconds of another process so far. */
static double cpu_of(pid_t pid)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
        die("CPU clock of a process");
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Calls under way, and payloads that are sent in turn. */
static size_t depth_of(size_t bytes)
{
    size_t depth = bytes ? WINDOW_BYTES / bytes : DEPTH_SMALL;
    return depth < 4 ? 4 : depth;
}

static double own_cpu(void)
{
    return 1e-9 * (double)bench_cpu_ns();
}

static double wall(void)
{
    return 1e-9 * (double)rt_now_ns();
}

/* ---- the server ---- */

static void serve_take(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    (void)ctx;
    (void)request;
    rt_call_reply(call, &(struct rt_outgoing){0});
}

static void serve_echo(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    (void)ctx;
    rt_call_reply(call, &(struct rt_outgoing){.message = request->message,
                                              .message_size = request->header.message_size});
}

static const struct rt_method_def methods[] = {
    {METHOD_TAKE, "Take", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), MESSAGE_BYTES, PAYLOAD_MAX, serve_take},
    {METHOD_ECHO, "Echo", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), MESSAGE_BYTES, 0, serve_echo},
};

static struct rt_rpc_conf conf_of(struct rt_loop *loop, enum rt_role role)
{
    return (struct rt_rpc_conf){
        .io = rt_loop_io(loop),
        .self = {.job = "bench", .role = role, .incarnation = 1, .wire_version = RT_WIRE_VERSION},
        .greeting = &plain_greeting};
}

/* Tells its address through `tell`, and serves until it is killed. */
static void server_main(int tell)
{
    struct rt_loop_conf loop_conf = {.name = "server", .pool_budget = 64 * PAYLOAD_MAX};
    struct rt_loop *loop;
    struct rt_rpc *rpc;
    char bound[RT_ADDRESS_MAX] = {0};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(SERVER_CORE);
    must(rt_loop_create(&loop_conf, &loop), "loop");
    struct rt_rpc_conf conf = conf_of(loop, RT_ROLE_EMBEDDING_SERVER);
    conf.methods = methods;
    conf.n_methods = ARRAY_LEN(methods);
    must(rt_rpc_create(&conf, &rpc), "rpc");
    must(rt_rpc_listen(rpc, "tcp:127.0.0.1:0", bound), "listen");
    if (write(tell, bound, sizeof(bound)) != (ssize_t)sizeof(bound))
        die("pipe");
    rt_loop_run(loop);
    _exit(1);
}

static void start_server(struct client *client)
{
    int tell[2];
    if (pipe(tell) != 0)
        die("pipe");
    client->server = fork();
    if (client->server < 0)
        die("fork");
    if (client->server == 0)
        server_main(tell[1]);
    if (read(tell[0], client->address, RT_ADDRESS_MAX) != RT_ADDRESS_MAX)
        die("the server did not start");
    close(tell[0]);
    close(tell[1]);
}

/* ---- the client ---- */

static void ask(struct client *client);

static void on_reply(void *arg, int err, const struct rt_frame *reply)
{
    struct client *client = arg;
    (void)reply;
    must(err, "reply");
    client->came++;
    if (client->asked < client->to_ask)
        ask(client);
    if (client->came == client->to_ask)
        rt_loop_stop(client->loop);
}

static void ask(struct client *client)
{
    static const uint8_t message[MESSAGE_BYTES];
    struct rt_piece piece = {0};
    struct rt_outgoing out = {.message = message,
                              .message_size = sizeof(message),
                              .pieces = &piece,
                              .n_pieces = client->bytes ? 1 : 0};
    if (client->bytes) {
        struct rt_buf *buf = client->payload[client->asked % client->depth];
        piece = (struct rt_piece){buf->data, client->bytes, buf};
    }
    client->asked++;
    must(rt_rpc_call(client->peer, client->method, &out, DEADLINE_NS, on_reply, client), "call");
}

static void run(struct client *client, size_t calls)
{
    client->asked = client->came = 0;
    client->to_ask = calls;
    while (client->asked < client->depth && client->asked < calls)
        ask(client);
    must(rt_loop_run(client->loop), "loop");
}

static void on_up(void *ctx, struct rt_peer *peer)
{
    (void)peer;
    rt_loop_stop(((struct client *)ctx)->loop);
}

/* One round on a connection of its own: between rounds nobody would answer its heartbeat. */
static struct cost rpc_round(struct client *client, bool local, size_t bytes)
{
    struct rt_loop_conf loop_conf = {.name = "client", .pool_budget = 64 * PAYLOAD_MAX};
    size_t calls = bytes ? ROUND_BYTES / bytes : SMALL_CALLS, depth = depth_of(bytes);
    struct cost cost;

    must(rt_loop_create(&loop_conf, &client->loop), "loop");
    struct rt_rpc_conf conf = conf_of(client->loop, RT_ROLE_MIDDLEWARE);
    conf.ctx = client;
    conf.peer_up = on_up;
    must(rt_rpc_create(&conf, &client->rpc), "rpc");
    client->peer = rt_rpc_peer(client->rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0);
    rt_near_set(local);
    rt_peer_set_address(client->peer, client->address, 1);
    must(rt_loop_run(client->loop), "connect");
    for (size_t i = 0; bytes && i < depth; i++) {
        client->payload[i] = rt_io_buf(rt_loop_io(client->loop), bytes);
        memset(client->payload[i]->data, (int)i, bytes);
    }
    client->bytes = bytes;
    client->depth = depth;
    client->method = bytes ? METHOD_TAKE : METHOD_ECHO;
    run(client, calls / 8); /* warms up */
    cost.cpu = own_cpu() + cpu_of(client->server);
    cost.wall = wall();
    run(client, calls);
    cost.wall = wall() - cost.wall;
    cost.cpu = own_cpu() + cpu_of(client->server) - cost.cpu;
    for (size_t i = 0; bytes && i < depth; i++)
        rt_buf_unref(client->payload[i]);
    rt_rpc_destroy(client->rpc);
    rt_loop_destroy(client->loop);
    return cost;
}

/* ---- the plain loop ---- */

struct raw {
    bool local;
    size_t bytes, messages;
    int fd; /* this side's end */
};

static void receive_all(int fd, void *at, size_t size)
{
    for (size_t got = 0; got < size;) {
        ssize_t n = recv(fd, (uint8_t *)at + got, size - got, MSG_WAITALL);
        if (n <= 0)
            die("recv");
        got += (size_t)n;
    }
}

/* A byte is told back after a warm-up of an eighth, and at the end. */
static void raw_reader(const struct raw *raw)
{
    uint8_t *payload = rt_xaligned(raw->bytes), head[RT_FRAME_HEADER_SIZE + MESSAGE_BYTES];
    struct rt_header header;
    size_t warm = raw->messages / 8;

    pin(SERVER_CORE);
    for (size_t i = 0; i < warm + raw->messages; i++) {
        receive_all(raw->fd, head, sizeof(head));
        must(rt_header_decode(head, &header), "header");
        must(rt_header_verify(head, head + RT_FRAME_HEADER_SIZE, MESSAGE_BYTES), "header");
        receive_all(raw->fd, payload, raw->bytes);
        if (!raw->local && rt_crc32c(0, payload, raw->bytes) != header.payload_crc)
            die("checksum");
        if ((i + 1 == warm || i + 1 == warm + raw->messages) && write(raw->fd, "", 1) != 1)
            die("write");
    }
    pause(); /* its CPU time is read before it is ended */
}

static void raw_send(const struct raw *raw, uint8_t *payload)
{
    uint8_t head[RT_FRAME_HEADER_SIZE + MESSAGE_BYTES] = {0};
    struct iovec vec[2] = {{head, sizeof(head)}, {payload, raw->bytes}}, *at = vec;
    struct rt_header header = {.version = RT_WIRE_VERSION,
                               .method = METHOD_TAKE,
                               .message_size = MESSAGE_BYTES,
                               .payload_size = raw->bytes};

    if (!raw->local)
        header.payload_crc = rt_crc32c(0, payload, raw->bytes);
    rt_header_encode(&header, head);
    rt_header_seal(head, head + RT_FRAME_HEADER_SIZE, MESSAGE_BYTES);
    while (at < vec + 2) {
        ssize_t n = writev(raw->fd, at, (int)(vec + 2 - at));
        if (n < 0)
            die("writev");
        for (; at < vec + 2 && (size_t)n >= at->iov_len; at++)
            n -= (ssize_t)at->iov_len;
        if (at < vec + 2) {
            at->iov_base = (uint8_t *)at->iov_base + n;
            at->iov_len -= (size_t)n;
        }
    }
}

static void connect_tcp(int fd[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

    fd[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || fd[0] < 0 || bind(listener, (struct sockaddr *)&at, size) != 0 ||
        listen(listener, 1) != 0 || getsockname(listener, (struct sockaddr *)&at, &size) != 0 ||
        connect(fd[0], (struct sockaddr *)&at, size) != 0)
        die("socket");
    fd[1] = accept(listener, NULL, NULL);
    if (fd[1] < 0 || setsockopt(fd[0], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0)
        die("accept");
    close(listener);
}

static void raw_some(const struct raw *raw, uint8_t *const payload[DEPTH_MAX], size_t messages)
{
    char end;
    for (size_t i = 0; i < messages; i++)
        raw_send(raw, payload[i % depth_of(raw->bytes)]);
    receive_all(raw->fd, &end, 1);
}

static struct cost raw_round(bool local, size_t bytes)
{
    struct raw raw = {.local = local, .bytes = bytes, .messages = ROUND_BYTES / bytes};
    uint8_t *payload[DEPTH_MAX];
    struct cost cost;
    int fd[2];

    if (!local)
        connect_tcp(fd);
    else if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) != 0)
        die("socketpair");
    pid_t reader = fork();
    raw.fd = fd[reader == 0];
    if (reader == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        raw_reader(&raw);
    }
    for (size_t i = 0; i < depth_of(bytes); i++) {
        payload[i] = rt_xaligned(bytes);
        memset(payload[i], (int)i, bytes);
    }
    raw_some(&raw, payload, raw.messages / 8);
    cost.cpu = own_cpu() + cpu_of(reader);
    cost.wall = wall();
    raw_some(&raw, payload, raw.messages);
    cost.wall = wall() - cost.wall;
    cost.cpu = own_cpu() + cpu_of(reader) - cost.cpu;
    kill(reader, SIGKILL);
    waitpid(reader, NULL, 0);
    for (size_t i = 0; i < depth_of(bytes); i++)
        rt_free(payload[i]);
    close(fd[0]);
    close(fd[1]);
    return cost;
}

/* ---- in turns ---- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *value)
{
    qsort(value, ROUNDS, sizeof(*value), compare);
    return value[ROUNDS / 2];
}

/* PARTS="tcp_256k unix_small" chooses some. */
static bool chosen(const char *name)
{
    const char *parts = getenv("PARTS");
    return !parts || strstr(parts, name);
}

static void measure_payloads(struct client *client, struct bench *bench, bool local, size_t bytes)
{
    double rate[ROUNDS], rate_ratio[ROUNDS], cpu[ROUNDS], cpu_ratio[ROUNDS];
    const char *kind = local ? "unix" : "tcp", *unit = bytes >> 20 ? "m" : "k";
    size_t n = bytes >> 20 ? bytes >> 20 : bytes >> 10;
    char name[32], cpu_name[40];

    snprintf(name, sizeof(name), "%s_%zu%s", kind, n, unit);
    snprintf(cpu_name, sizeof(cpu_name), "%s_cpu", name);
    if (!chosen(name))
        return;
    for (int i = 0; i < ROUNDS; i++) {
        struct cost raw = raw_round(local, bytes), rpc = rpc_round(client, local, bytes);
        rate[i] = 1e-9 * (double)ROUND_BYTES / rpc.wall;
        rate_ratio[i] = raw.wall / rpc.wall;
        cpu[i] = 1e6 * rpc.cpu / ((double)ROUND_BYTES * 1e-6);
        cpu_ratio[i] = raw.cpu / rpc.cpu;
    }
    double value = median(rate), ratio = median(rate_ratio);
    bench_more(bench, name, value, "GB/s", value / ratio, "plain socket loop");
    bench_demand(bench, 0.8);
    value = median(cpu);
    ratio = median(cpu_ratio);
    bench_less(bench, cpu_name, value, "us/MB", value * ratio, "plain socket loop, both ends");
}

static void measure_small(struct client *client, struct bench *bench, bool local)
{
    const char *name = local ? "unix_small" : "tcp_small";
    double rate[ROUNDS], cpu[ROUNDS];

    if (!chosen(name))
        return;
    for (int i = 0; i < ROUNDS; i++) {
        struct cost cost = rpc_round(client, local, 0);
        rate[i] = SMALL_CALLS / cost.wall;
        cpu[i] = 1e9 * cost.cpu / SMALL_CALLS;
    }
    bench_more(bench, name, median(rate), "calls/s", 300000, "demanded of two cores");
    bench_demand(bench, 1);
    bench_less(bench, local ? "unix_small_cpu" : "tcp_small_cpu", median(cpu), "ns/call", NAN,
               NULL);
}

int main(void)
{
    static const size_t size[] = {(size_t)256 << 10, (size_t)1 << 20, (size_t)4 << 20};
    struct client client = {0};

    rt_log_set_level(RT_LOG_ERROR);
    start_server(&client);
    pin(CLIENT_CORE);
    struct bench *bench = bench_create("transport");
    for (int local = 0; local < 2; local++)
        for (size_t i = 0; i < ARRAY_LEN(size); i++)
            measure_payloads(&client, bench, local, size[i]);
    for (int local = 0; local < 2; local++)
        measure_small(&client, bench, local);
    kill(client.server, SIGTERM);
    waitpid(client.server, NULL, 0);
    return bench_finish(bench);
}
