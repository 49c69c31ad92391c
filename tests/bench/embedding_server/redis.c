/* tests/bench/embedding_server/redis.c -- Redis with the same rows: MGET of many keys, pipelined, on a Unix socket.
 *
 * redis-server (Debian) runs as it is installed, without saving; keys are ids in binary, values rows of dim 64. All
 * replies have a size that is known, so the client needs no parser, only a look at what came. The rate is in rows per second of the server's CPU
 * time, as ours is. This table with as many rows stands beside it. */
#include "runtime/base/mem.h"
#include "tests/bench/embedding_server/entry.h"
#include "tests/bench/embedding_server/measure.h"
#include "tests/bench/embedding_server/parts.h"
#include "tests/bench/embedding_server/tables.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define DIM         64
#define VALUE_BYTES (DIM * sizeof(float))
#define ROWS        5e6
#define BATCH       1024 /* keys of one command */
#define DEPTH       4    /* commands under way */
#define ROUND_MGETS 512
#define START_MS    10000

struct redis {
    pid_t pid;
    int fd;
    char folder[64], path[96];
    char *out, *in; /* [room] one command, one reply */
    size_t room;
};

/* ---- the server ---- */

static void start(struct redis *redis)
{
    char sock[112];

    snprintf(redis->folder, sizeof(redis->folder), "/tmp/saffron-redis.XXXXXX");
    if (!mkdtemp(redis->folder))
        die("no folder in /tmp: %s", strerror(errno));
    snprintf(redis->path, sizeof(redis->path), "%s/socket", redis->folder);
    snprintf(sock, sizeof(sock), "%s", redis->path);
    redis->pid = fork();
    if (redis->pid == 0) {
        if (!freopen("/dev/null", "w", stdout))
            _exit(127);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", sock, "--save", "",
               "--appendonly", "no", "--dir", redis->folder, NULL);
        _exit(127);
    }
}

/* false: there is no redis-server. */
static bool join(struct redis *redis)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int size = 4 << 20;

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", redis->path);
    redis->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    setsockopt(redis->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    for (int ms = 0; ms < START_MS; ms += 20) {
        if (connect(redis->fd, (struct sockaddr *)&address, sizeof(address)) == 0)
            return true;
        if (waitpid(redis->pid, NULL, WNOHANG) == redis->pid) {
            redis->pid = 0;
            return false;
        }
        usleep(20000);
    }
    die("redis-server does not listen on %s", redis->path);
}

static void stop(struct redis *redis)
{
    if (redis->pid > 0) {
        kill(redis->pid, SIGTERM);
        waitpid(redis->pid, NULL, 0);
    }
    close(redis->fd);
    unlink(redis->path);
    rmdir(redis->folder);
}

/* ---- commands ---- */

static void send_all(int fd, const char *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = send(fd, data + at, size - at, MSG_NOSIGNAL);

        if (n <= 0)
            die("redis: send: %s", strerror(errno));
        at += (size_t)n;
    }
}

static void read_all(int fd, char *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = recv(fd, data + at, size - at, MSG_WAITALL);

        if (n <= 0)
            die("redis: recv: %s", n == 0 ? "the end" : strerror(errno));
        at += (size_t)n;
    }
}

static size_t put_bulk(char *out, const void *data, size_t size)
{
    int head = snprintf(out, 32, "$%zu\r\n", size);

    memcpy(out + head, data, size);
    memcpy(out + head + size, "\r\n", 2);
    return (size_t)head + size + 2;
}

static void row_of(uint64_t id, float row[DIM])
{
    for (size_t j = 0; j < DIM; j++)
        row[j] = (float)(id & 0xffff) + (float)j;
}

static void set_rows(struct redis *redis, uint64_t rows)
{
    char reply[5];

    for (uint64_t at = 0; at < rows; at += BATCH) {
        size_t n = rows - at < BATCH ? rows - at : BATCH;
        size_t size = (size_t)snprintf(redis->out, 64, "*%zu\r\n$4\r\nMSET\r\n", 2 * n + 1);

        for (size_t i = 0; i < n; i++) {
            uint64_t id = ids_of(at + i);
            float row[DIM];

            row_of(id, row);
            size += put_bulk(redis->out + size, &id, sizeof(id));
            size += put_bulk(redis->out + size, row, sizeof(row));
        }
        send_all(redis->fd, redis->out, size);
        read_all(redis->fd, reply, sizeof(reply));
        if (memcmp(reply, "+OK\r\n", 5) != 0)
            die("redis: MSET: %.4s...", reply);
    }
}

static void ask(struct redis *redis, const uint64_t *id)
{
    size_t size = (size_t)snprintf(redis->out, 64, "*%d\r\n$4\r\nMGET\r\n", BATCH + 1);

    for (size_t i = 0; i < BATCH; i++)
        size += put_bulk(redis->out + size, &id[i], sizeof(id[i]));
    send_all(redis->fd, redis->out, size);
}

/* "*1024\r\n", then each "$256\r\n", the row, "\r\n". */
static void take(struct redis *redis, const uint64_t *id)
{
    size_t head = strlen("*1024\r\n"), bulk = strlen("$256\r\n"), each = bulk + VALUE_BYTES + 2;

    read_all(redis->fd, redis->in, head + BATCH * each);
    for (size_t i = 0; i < BATCH; i += BATCH - 1) {
        float want[DIM], got[DIM];

        row_of(id[i], want);
        memcpy(got, redis->in + head + i * each + bulk, sizeof(got));
        if (!same_floats(want, got, DIM))
            die("redis: MGET: another row than was set");
    }
}

static void measure(struct redis *redis, uint64_t rows)
{
    uint64_t *id = rt_xmalloc((size_t)ROUND_MGETS * BATCH * sizeof(*id));
    uint64_t began;
    double cpu, wall;
    struct ids ids;

    ids_init(&ids, IDS_UNIFORM, rows, 1);
    ids_positions(&ids, id, (size_t)ROUND_MGETS * BATCH);
    ids_from_positions(id, (size_t)ROUND_MGETS * BATCH);
    cpu = bench_process_cpu(redis->pid);
    began = bench_wall_ns();
    for (size_t m = 0; m < ROUND_MGETS + DEPTH; m++) {
        if (m >= DEPTH)
            take(redis, id + (m - DEPTH) * BATCH);
        if (m < ROUND_MGETS)
            ask(redis, id + m * BATCH);
    }
    wall = 1e-9 * (double)(bench_wall_ns() - began);
    cpu = bench_process_cpu(redis->pid) - cpu;
    rt_free(id);
    entry_put(&(struct entry){.name = "peer_redis_mget_dim64",
                              .value = 1e-6 * ROUND_MGETS * BATCH / (cpu > 0 ? cpu : wall),
                              .unit = "M rows/s"});
    entry_put(&(struct entry){.name = "peer_redis_mget_dim64_wall",
                              .value = 1e-6 * ROUND_MGETS * BATCH / wall,
                              .unit = "M rows/s"});
}

static void run_ours(const void *arg, double *out)
{
    struct subject subject = subject_make(DIM, RT_OPT_SGD, *(const uint64_t *)arg);
    struct ebs_table *table = subject_create(&subject);

    subject_fill(table, 0, subject.rows, FILL_IDS);
    out[0] = subject_lookup(&subject, table, IDS_UNIFORM, 1, NULL);
    ebs_table_destroy(table);
}

void part_peers(const char *unused)
{
    struct redis redis = {.room = BATCH * (VALUE_BYTES + 64) + 64};
    uint64_t rows = bench_rows(ROWS);
    double ours;

    (void)unused;
    bench_child(run_ours, &rows, &ours, 1);
    entry_put(&(struct entry){
        .name = "beside_peers_lookup_dim64", .value = 1e-6 * ours, .unit = "M rows/s"});
    start(&redis);
    if (!join(&redis)) {
        printf("skipped Redis: no redis-server\n");
        stop(&redis);
        return;
    }
    redis.out = rt_xmalloc(redis.room);
    redis.in = rt_xmalloc(redis.room);
    set_rows(&redis, rows);
    measure(&redis, rows);
    rt_free(redis.out);
    rt_free(redis.in);
    stop(&redis);
}
