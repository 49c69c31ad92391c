/* tests/bench/embedding_server/wire.c -- lookups through the wire: a real embedding server and one client.
 *
 *   client (core 1) --LookupRows, 16,384 ids--> saffron-embedding-server (core 0), one worker, dim 64
 *
 * The client is an rpc on a loop, as a middleware has it, and keeps DEPTH requests under way. What the server's
 * core could do at best: look the rows up in process, and send their bytes over a plain socket of the same kind (from
 * as many buffers); both are measured here, in CPU time. Each round has all three, one after the other: what
 * else the machine does disturbs them alike. NATS is not needed: the client knows the port. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/job/batch_id.h"
#include "runtime/job/job.h"
#include "runtime/net/loop.h"
#include "runtime/net/rpc.h"
#include "runtime/wire/member.h"
#include "runtime/wire/rows.h"
#include "tests/bench/embedding_server/entry.h"
#include "tests/bench/embedding_server/measure.h"
#include "tests/bench/embedding_server/parts.h"
#include "tests/bench/embedding_server/tables.h"
#include "tests/lib/bench.h"

#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define DIM         64
#define DEPTH       4 /* requests under way */
#define REPLY_BYTES ((size_t)REQUEST_IDS * DIM * sizeof(float))
#define DEADLINE_NS (60 * 1000000000ull)
#define SERVER_CORE 0
#define CLIENT_CORE 1

static const struct {
    const char *name, *text;
} job_file[] = {
    {"global.yml", "mode: async\nseed: 1\nembedding_server: {workers: 1}\n"},
    {"embedding.yml",
     "tables:\n  bench: {dim: 64, initializer: {type: uniform, low: -1, high: 1},\n"
     "    optimizer: {type: sgd, learning_rate: 0.01}}\n"
     "features: {c1: {table: bench}}\n"},
    {"data.yml", "format: synthetic\ncolumns: {label: label, x1: dense, c1: feature}\n"},
    {"model.yml", "layers:\n"
                  "  - {name: all, type: concat, inputs: [features, dense]}\n"
                  "  - {name: top, type: mlp, inputs: [all], sizes: [1]}\n"
                  "  - {name: loss, type: bce, inputs: [top]}\n"
                  "optimizer: {type: sgd, learning_rate: 0.1}\n"},
};

struct wire {
    char folder[64];
    struct rt_job *job;
    struct rt_shard_map shards;
    pid_t server;
    unsigned port;
    struct rt_loop *loop;
    struct rt_rpc *rpc;
    struct rt_peer *peer;
    struct ids ids;
    uint64_t rows, filled; /* to be made; asked for */
    size_t to_ask, to_come;
    bool filling;
    uint64_t position[DEPTH][REQUEST_IDS]; /* of the requests under way, in turn */
    size_t asked, came;
    struct ebs_table *empty; /* tells initial values */
    struct subject subject;
    struct ebs_table *table; /* the same rows, in this process */
    int plain;               /* a socket like the server's; `drain` reads at its other end */
    pid_t drain;
    uint8_t *bytes; /* [DEPTH][REPLY_BYTES] */
};

static void must(int err)
{
    if (err)
        die("wire: %s", rt_err_text());
}

/* ---- the server ---- */

static void make_job(struct wire *wire)
{
    struct rt_job_source source = {.folder = wire->folder, .name = "bench"};

    snprintf(wire->folder, sizeof(wire->folder), "/tmp/saffron-wire.XXXXXX");
    if (!mkdtemp(wire->folder))
        die("no folder in /tmp: %s", strerror(errno));
    for (size_t i = 0; i < ARRAY_LEN(job_file); i++) {
        char *path = rt_path_join(wire->folder, job_file[i].name);

        must(rt_file_write(path, job_file[i].text, strlen(job_file[i].text)));
        rt_free(path);
    }
    must(rt_job_load(&source, &wire->job));
    must(rt_shard_map_init(&wire->shards, 1, 1));
}

static void drop_job(struct wire *wire)
{
    for (size_t i = 0; i < ARRAY_LEN(job_file); i++) {
        char *path = rt_path_join(wire->folder, job_file[i].name);

        unlink(path);
        rt_free(path);
    }
    rmdir(wire->folder);
    rt_job_destroy(wire->job);
}

static unsigned free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        die("wire: no port: %s", strerror(errno));
    close(fd);
    return ntohs(address.sin_port);
}

/* The program beside ours: B/tests/bench/embedding_server/bench -> B/saffron-embedding-server. */
static void start_server(struct wire *wire)
{
    char self[4096], port[16];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 64);
    char *end;

    if (n < 0)
        die("wire: /proc/self/exe: %s", strerror(errno));
    self[n] = '\0';
    end = strstr(self, "/tests/bench/");
    if (!end)
        die("wire: %s is not in tests/bench of a build folder", self);
    snprintf(end, 64, "/saffron-embedding-server");
    wire->port = free_port();
    snprintf(port, sizeof(port), "%u", wire->port);
    wire->server = fork();
    if (wire->server == 0) {
        bench_pin(SERVER_CORE);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        /* NATS is not there, so it is said now and then that it is looked for. */
        execl(self, self, "--config", wire->folder, "--job", "bench", "--index", "0", "--nats",
              "nats://127.0.0.1:1", "--port", port, "--admin-port", "0", "--log-level", "error",
              (char *)NULL);
        _exit(127);
    }
}

/* ---- the client ---- */

static void ask(struct wire *wire);

static void check(struct wire *wire, const struct rt_frame *reply, const uint64_t *position)
{
    const float *row;
    float want[DIM];

    if (!reply->payload || reply->payload->size != REPLY_BYTES)
        die("wire: a reply of another size");
    row = (const float *)(void *)reply->payload->data;
    for (size_t i = 0; i < REQUEST_IDS; i += REQUEST_IDS / 16) {
        uint64_t id = ids_of(position[i]);

        ebs_table_lookup(wire->empty, &id, 1, want);
        if (!same_floats(want, row + i * DIM, DIM))
            die("wire: row of id %llu: another than was made", (unsigned long long)id);
    }
}

/* Replies come in the order of the requests. */
static void on_reply(void *arg, int err, const struct rt_frame *reply)
{
    struct wire *wire = arg;

    must(err);
    if (!wire->filling)
        check(wire, reply, wire->position[wire->came % DEPTH]);
    wire->came++;
    if (wire->asked < wire->to_ask)
        ask(wire);
    if (wire->came == wire->to_ask)
        rt_loop_stop(wire->loop);
}

static struct rt_buf *buffer(struct wire *wire, size_t bytes)
{
    struct rt_buf *buf = rt_io_buf(rt_loop_io(wire->loop), bytes);

    if (!buf)
        die("wire: no buffer");
    buf->size = bytes;
    return buf;
}

static void ask(struct wire *wire)
{
    static const uint32_t table = 0;
    uint32_t n = REQUEST_IDS;
    struct rt_buf *ids = buffer(wire, REQUEST_IDS * sizeof(uint64_t)), *grads = NULL;
    uint64_t *position = wire->position[wire->asked % DEPTH];
    struct rt_piece piece[2] = {{.data = ids->data, .size = ids->size, .buf = ids}};
    struct wire_out message = {0};
    struct rt_outgoing out = {.pieces = piece, .n_pieces = 1};

    if (wire->filling) {
        struct wire_apply_gradients m = {.shard_map = wire->shards.version,
                                         .parts = 1,
                                         .step = 1,
                                         .learning_rate = 1,
                                         .world = 1,
                                         .n_tables = 1,
                                         .table = &table,
                                         .n_ids = &n};

        for (size_t i = 0; i < REQUEST_IDS; i++)
            position[i] = wire->filled++;
        grads = buffer(wire, REPLY_BYTES);
        memset(grads->data, 0, REPLY_BYTES);
        piece[1] = (struct rt_piece){.data = grads->data, .size = grads->size, .buf = grads};
        out.n_pieces = 2;
        out.batch_id = rt_batch_id(0, wire->asked);
        must(wire_apply_gradients_pack(&m, &message));
    } else {
        struct wire_lookup_rows m = {
            .shard_map = wire->shards.version, .n_tables = 1, .table = &table, .n_ids = &n};

        ids_positions(&wire->ids, position, REQUEST_IDS);
        must(wire_lookup_rows_pack(&m, &message));
    }
    memcpy(ids->data, position, ids->size);
    ids_from_positions((uint64_t *)(void *)ids->data, REQUEST_IDS);
    out.message = message.data;
    out.message_size = message.size;
    must(rt_rpc_call(wire->peer, wire->filling ? WIRE_APPLY_GRADIENTS : WIRE_LOOKUP_ROWS, &out,
                     DEADLINE_NS, on_reply, wire));
    wire->asked++;
    rt_buf_unref(ids);
    if (grads)
        rt_buf_unref(grads);
    wire_out_release(&message);
}

static void run(struct wire *wire, size_t requests)
{
    wire->asked = wire->came = 0;
    wire->to_ask = requests;
    for (int i = 0; i < DEPTH && wire->asked < requests; i++)
        ask(wire);
    must(rt_loop_run(wire->loop));
}

static void on_up(void *ctx, struct rt_peer *peer)
{
    struct wire *wire = ctx;

    (void)peer;
    rt_loop_stop(wire->loop);
}

static void connect_client(struct wire *wire)
{
    struct rt_rpc_conf conf = {.self = {.job = "bench",
                                        .role = RT_ROLE_MIDDLEWARE,
                                        .incarnation = 1,
                                        .wire_version = RT_WIRE_VERSION,
                                        .config_hash = wire->job->config_hash,
                                        .plan_hash = wire->job->plan_hash},
                               .greeting = &wire_greeting,
                               .reply_max = 2 * REPLY_BYTES,
                               .ctx = wire,
                               .peer_up = on_up};
    char address[RT_ADDRESS_MAX];

    must(rt_loop_create(
        &(struct rt_loop_conf){.name = "client", .pool_budget = 16 * DEPTH * REPLY_BYTES},
        &wire->loop));
    conf.io = rt_loop_io(wire->loop);
    must(rt_rpc_create(&conf, &wire->rpc));
    wire->peer = rt_rpc_peer(wire->rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0);
    snprintf(address, sizeof(address), "tcp:127.0.0.1:%u", wire->port);
    rt_peer_set_address(wire->peer, address, 1);
    must(rt_loop_run(wire->loop));
}

static void disconnect_client(struct wire *wire)
{
    rt_rpc_destroy(wire->rpc);
    rt_loop_destroy(wire->loop);
}

/* ---- what the server's core could do ---- */

/* Takes all that comes, into one buffer. */
static void drain(int fd)
{
    char *buffer = bench_array(REPLY_BYTES);

    bench_pin(CLIENT_CORE);
    while (recv(fd, buffer, REPLY_BYTES, MSG_WAITALL) > 0)
        ;
    _exit(0);
}

static void start_drain(struct wire *wire)
{
    int fd[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) != 0)
        die("wire: no socket: %s", strerror(errno));
    wire->drain = fork();
    if (wire->drain == 0) {
        close(fd[0]);
        drain(fd[1]);
    }
    close(fd[1]);
    wire->plain = fd[0];
    wire->bytes = bench_array(DEPTH * REPLY_BYTES);
}

/* Rows per second of a plain send. */
static double send_requests(struct wire *wire, size_t requests)
{
    uint64_t begin = bench_cpu_ns();

    for (size_t r = 0; r < requests; r++)
        for (size_t at = 0; at < REPLY_BYTES;) {
            ssize_t n =
                send(wire->plain, wire->bytes + r % DEPTH * REPLY_BYTES + at, REPLY_BYTES - at, 0);

            if (n <= 0)
                die("wire: send: %s", strerror(errno));
            at += (size_t)n;
        }
    return 1e9 * (double)requests * REQUEST_IDS / (double)(bench_cpu_ns() - begin);
}

/* ---- all in turns ---- */

enum {
    LOOKUP,
    PLAIN_SEND,
    LIMIT,
    WALL,
    SERVER_CPU,
    CLIENT_CPU,
    WIRE_FIGURES
}; /* rows per second */

static void start(struct wire *wire)
{
    rt_log_set_level(RT_LOG_ERROR);
    make_job(wire);
    start_server(wire);
    start_drain(wire);
    wire->subject = subject_make(DIM, RT_OPT_SGD, wire->rows);
    wire->table = subject_create(&wire->subject);
    subject_fill(wire->table, 0, wire->rows, FILL_IDS);
    bench_pin(CLIENT_CORE);
    must(ebs_table_create(&(struct ebs_table_conf){.job = &wire->job->table[0],
                                                   .seed = wire->job->global.seed,
                                                   .shards = RT_SHARDS},
                          &wire->empty));
    connect_client(wire);
    wire->filling = true;
    run(wire, wire->rows / REQUEST_IDS);
    disconnect_client(wire);
    wire->filling = false;
    ids_init(&wire->ids, IDS_UNIFORM, wire->filled, 1);
}

static void stop(struct wire *wire)
{
    ebs_table_destroy(wire->empty);
    ebs_table_destroy(wire->table);
    close(wire->plain);
    waitpid(wire->drain, NULL, 0);
    bench_array_free(wire->bytes, DEPTH * REPLY_BYTES);
    kill(wire->server, SIGTERM);
    waitpid(wire->server, NULL, 0);
    drop_job(wire);
    rt_free(wire);
}

/* The client connects anew each time: the server would take its silence in between for its end. */
static void one_round(struct wire *wire, double rate[WIRE_FIGURES])
{
    size_t requests = 2 * bench_requests();
    double ids = (double)requests * REQUEST_IDS, server;
    uint64_t wall_ns, cpu_ns;

    bench_pin(SERVER_CORE);
    rate[LOOKUP] = subject_lookup(&wire->subject, wire->table, IDS_UNIFORM, 1, NULL);
    rate[PLAIN_SEND] = send_requests(wire, requests);
    rate[LIMIT] = 1 / (1 / rate[LOOKUP] + 1 / rate[PLAIN_SEND]);
    bench_pin(CLIENT_CORE);
    connect_client(wire);
    run(wire, requests / 4); /* warms up */
    server = bench_process_cpu(wire->server);
    wall_ns = bench_wall_ns();
    cpu_ns = bench_cpu_ns();
    run(wire, requests);
    rate[WALL] = 1e9 * ids / (double)(bench_wall_ns() - wall_ns);
    rate[CLIENT_CPU] = 1e9 * ids / (double)(bench_cpu_ns() - cpu_ns);
    rate[SERVER_CPU] = ids / (bench_process_cpu(wire->server) - server);
    disconnect_client(wire);
}

static bool a_clock_stood_still(const double rate[WIRE_FIGURES])
{
    for (int figure = 0; figure < WIRE_FIGURES; figure++)
        if (!isfinite(rate[figure]))
            return true;
    return false;
}

static void run_wire(const void *arg, double *out)
{
    struct wire *wire = rt_xcalloc(1, sizeof(*wire));
    double rate[ROUNDS][WIRE_FIGURES], of[ROUNDS];

    wire->rows = *(const uint64_t *)arg;
    start(wire);
    for (int round = 0, still = 0; round < ROUNDS; round++) {
        one_round(wire, rate[round]);
        if (a_clock_stood_still(rate[round])) { /* as in measure.c: the round says nothing */
            round--;
            if (++still > ROUNDS)
                die("wire: a clock stood still in %d rounds", still);
        }
    }
    for (int figure = 0; figure < WIRE_FIGURES; figure++) {
        for (int round = 0; round < ROUNDS; round++)
            of[round] = rate[round][figure];
        out[figure] = median(of, ROUNDS);
    }
    stop(wire);
}

void part_wire(const char *unused)
{
    uint64_t rows = bench_bytes() / 3 / (DIM * sizeof(float)) / REQUEST_IDS * REQUEST_IDS;
    double rate[WIRE_FIGURES];
    const char *of = "in-process lookup, then a plain send";

    (void)unused;
    bench_child(run_wire, &rows, rate, WIRE_FIGURES);
    for (int figure = 0; figure < WIRE_FIGURES; figure++)
        rate[figure] *= 1e-6;
    entry_put(&(struct entry){
        .name = "wire_in_process_lookup_dim64", .value = rate[LOOKUP], .unit = "M rows/s"});
    entry_put(
        &(struct entry){.name = "wire_plain_send", .value = rate[PLAIN_SEND], .unit = "M rows/s"});
    entry_put(&(struct entry){.name = "wire_lookup_dim64",
                              .value = rate[WALL],
                              .unit = "M rows/s",
                              .limit = rate[LIMIT],
                              .limit_name = of,
                              .demanded = 0.85});
    entry_put(&(struct entry){.name = "wire_lookup_dim64_server_cpu",
                              .value = rate[SERVER_CPU],
                              .unit = "M rows/s",
                              .limit = rate[LIMIT],
                              .limit_name = of});
    entry_put(&(struct entry){
        .name = "wire_lookup_dim64_client_cpu", .value = rate[CLIENT_CPU], .unit = "M rows/s"});
}
