/* tests/fuzz/fuzz_link.c -- a listening rpc that hears any bytes: framing, handshake, what is admitted and served.
 *
 * The first byte is how to treat the rest: bit 0 puts a good handshake before it, bit 1 makes the checksums of its
 * first frame right (random bytes never have them, and would stop there), bits 2 to 7 say in how large pieces
 * the bytes arrive (0: all at once). Then the other end goes. Whatever came, the rpc holds no payload after that,
 * and without a handshake it has served nothing that is too short to bring one. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/net/loop.h"
#include "runtime/net/rpc.h"
#include "runtime/wire/member.h"
#include "tests/fuzz/fuzz.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#define POOL_BYTES  (8u << 20)
#define METHOD_ECHO 16
#define BYTES_MAX   65536
#define TURNS       6 /* of the loop: enough for a connection, its bytes, its end */

static struct {
    struct rt_loop *loop;
    struct rt_rpc *rpc;
    char address[RT_ADDRESS_MAX];
    unsigned served;
} world;

static void serve_echo(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    (void)ctx;
    world.served++;
    rt_assert(!request->payload == !request->header.payload_size);
    rt_call_reply(call, &(struct rt_outgoing){.message = request->message,
                                              .message_size = request->header.message_size});
}

static const struct rt_identity us = {
    .job = "fuzz", .role = RT_ROLE_MIDDLEWARE, .incarnation = 1, .wire_version = RT_WIRE_VERSION};

static void open_world(void)
{
    static const struct rt_method_def method = {METHOD_ECHO, "Echo", RT_ROLE_BIT(RT_ROLE_TRAINER),
                                                1000,        100000, serve_echo};
    struct rt_loop_conf loop = {.name = "fuzz", .pool_budget = POOL_BYTES};
    struct rt_rpc_conf conf = {
        .self = us, .greeting = &wire_greeting, .methods = &method, .n_methods = 1};
    const char *tmp = getenv("TMPDIR");
    char bound[RT_ADDRESS_MAX];

    snprintf(world.address, sizeof(world.address), "unix:%s/saffron-fuzz-%d.sock",
             tmp && strlen(tmp) < 60 ? tmp : "/tmp", (int)getpid());
    rt_log_set_level(RT_LOG_ERROR);
    rt_assert(rt_loop_create(&loop, &world.loop) == 0);
    conf.io = rt_loop_io(world.loop);
    rt_assert(rt_rpc_create(&conf, &world.rpc) == 0);
    rt_assert(rt_rpc_listen(world.rpc, world.address, bound) == 0);
}

static void close_world(void)
{
    rt_assert(rt_pool_lent(rt_loop_io(world.loop)->ops->pool(rt_loop_io(world.loop))) == 0);
    rt_rpc_destroy(world.rpc);
    rt_loop_destroy(world.loop);
}

static size_t put_greeting(uint8_t *out)
{
    struct rt_identity id = us;
    uint8_t message[512];
    size_t size;

    id.role = RT_ROLE_TRAINER;
    rt_assert(wire_greeting.pack(&id, message, sizeof(message), &size) == 0);
    rt_header_encode(&(struct rt_header){.version = RT_WIRE_VERSION,
                                         .method = RT_METHOD_HANDSHAKE,
                                         .incarnation = 1,
                                         .message_size = (uint32_t)size},
                     out);
    memcpy(out + RT_FRAME_HEADER_SIZE, message, size);
    rt_header_seal(out, out + RT_FRAME_HEADER_SIZE, size);
    return RT_FRAME_HEADER_SIZE + size;
}

/* Right magic, version and checksums for a frame whose sizes are there; the fuzzer chose all else. */
static void mend(uint8_t *frame, size_t size)
{
    struct rt_header h;

    if (size < RT_FRAME_HEADER_SIZE)
        return;
    memcpy(frame, "SFRN\1\0", 6);
    memset(frame + 10, 0, 2);
    memset(frame + 68, 0, 4);
    if (rt_header_decode(frame, &h) != 0 ||
        h.message_size + h.payload_size > size - RT_FRAME_HEADER_SIZE)
        return;
    if (!(h.flags & RT_FRAME_NO_PAYLOAD_CRC)) {
        uint32_t crc = htole32(
            rt_crc32c(0, frame + RT_FRAME_HEADER_SIZE + h.message_size, (size_t)h.payload_size));

        memcpy(frame + 52, &crc, sizeof(crc));
    }
    rt_header_seal(frame, frame + RT_FRAME_HEADER_SIZE, h.message_size);
}

static void turn(void)
{
    for (int i = 0; i < TURNS; i++)
        uv_run(rt_loop_uv(world.loop), UV_RUN_NOWAIT);
}

/* Their end. A Unix socket: thousands of runs a second would use up the ports of the machine. */
static void talk(const uint8_t *bytes, size_t size, size_t piece)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(un.sun_path, world.address + strlen("unix:"), strlen(world.address) - strlen("unix:"));
    rt_assert(fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0);
    for (size_t at = 0; at < size; at += piece) {
        size_t part = size - at < piece ? size - at : piece;

        if (send(fd, bytes + at, part, MSG_NOSIGNAL | MSG_DONTWAIT) < (ssize_t)part)
            break; /* it has closed already */
        if (piece < size)
            uv_run(rt_loop_uv(world.loop), UV_RUN_NOWAIT);
    }
    turn();
    close(fd);
    turn();
}

int fuzz_link(const uint8_t *data, size_t size)
{
    static uint8_t bytes[BYTES_MAX + 1024];
    size_t at = 0, piece;

    if (size < 1 || size - 1 > BYTES_MAX)
        return 0;
    open_world();
    world.served = 0;
    if (data[0] & 1)
        at = put_greeting(bytes);
    if (size > 1)
        memcpy(bytes + at, data + 1, size - 1);
    if (data[0] & 2)
        mend(bytes + at, size - 1);
    piece = data[0] >> 2 ? (size_t)(data[0] >> 2) * 7 : at + size;
    talk(bytes, at + size - 1, piece);
    rt_assert((data[0] & 1) || world.served == 0 || size > RT_FRAME_HEADER_SIZE * 2);
    close_world();
    return 0;
}
