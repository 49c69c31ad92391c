/* tests/e2e/hostile.c -- attack one port of a running role with everything that a peer can get wrong.
 *
 *   hostile ADDRESS LOG ROLE JOB CONFIG_HASH PLAN_HASH        (hashes as the log has them: hexadecimal)
 *
 * Each case makes a connection of its own, is answered by its end, and finds exactly one new line in the victim's
 * LOG that says why; cases in which nothing comes wait for the victim's deadlines together. At last a good
 * handshake is answered as ever. One line per case that failed; exit status 1 when any did. The victim's job is the
 * script's matter (hostile.sh).
 *
 * It speaks as an index that the job does not have, so no peer of the job is replaced by it. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/net/address.h"
#include "runtime/net/frame.h"
#include "runtime/wire/member.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define INDEX       60000 /* nobody of the job; each case takes one more */
#define INCARNATION 5
#define ANSWER_MS   4000
#define DEADLINE_MS 12000 /* for the victim's 5 s, on a busy machine */
#define FLOOD       600   /* connections, over RT_GREETERS_MAX */
#define SLOW_CALLS  20000
#define MESSAGE_MAX 8192

static struct victim {
    struct rt_address address;
    const char *log, *job;
    enum rt_role role, caller, stranger; /* who may call `method`, and who may not */
    uint16_t method;
    uint64_t config_hash, plan_hash;
    unsigned failed, n_cases;
} victim;

/* ---- sockets and frames ---- */

static int open_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, &victim.address.sock.any, sizeof(victim.address.sock.v4)) != 0) {
        perror("hostile: connect");
        exit(1);
    }
    return fd;
}

static void send_all(int fd, const void *data, size_t size)
{
    const uint8_t *at = data;

    while (size > 0) {
        ssize_t n = send(fd, at, size, MSG_NOSIGNAL);

        if (n <= 0)
            return; /* it has closed: seen by whoever reads */
        at += n;
        size -= (size_t)n;
    }
}

/* A whole frame with right checksums, `spoil` bytes from its start XORed with `mask`. */
static void send_frame(int fd, struct rt_header header, const void *message, size_t size,
                       size_t spoil, uint8_t mask)
{
    uint8_t bytes[RT_FRAME_HEADER_SIZE + MESSAGE_MAX] = {0};

    header.version = header.version ? header.version : RT_WIRE_VERSION;
    header.message_size = header.message_size ? header.message_size : (uint32_t)size;
    rt_header_encode(&header, bytes);
    if (size)
        memcpy(bytes + RT_FRAME_HEADER_SIZE, message, size);
    rt_header_seal(bytes, bytes + RT_FRAME_HEADER_SIZE, size);
    bytes[spoil] ^= mask;
    send_all(fd, bytes, RT_FRAME_HEADER_SIZE + size);
}

/* Until `size` bytes, the end (false), or too late (false). */
static bool read_all(int fd, void *data, size_t size)
{
    uint64_t end_ns = rt_now_ns() + ANSWER_MS * RT_MS;
    size_t got = 0;

    while (got < size) {
        struct pollfd p = {fd, POLLIN, 0};
        ssize_t n;

        if (rt_now_ns() > end_ns)
            return false;
        if (poll(&p, 1, 50) <= 0)
            continue;
        n = recv(fd, (uint8_t *)data + got, size - got, 0);
        if (n <= 0)
            return false;
        got += (size_t)n;
    }
    return true;
}

/* The next frame that is no ping; its message in text. */
static bool read_reply(int fd, struct rt_header *header, char text[MESSAGE_MAX])
{
    uint8_t head[RT_FRAME_HEADER_SIZE];

    do {
        if (!read_all(fd, head, sizeof(head)) || rt_header_decode(head, header) != 0 ||
            header->message_size >= MESSAGE_MAX || header->payload_size ||
            !read_all(fd, text, header->message_size))
            return false;
        text[header->message_size] = '\0';
    } while (header->method == RT_METHOD_PING);
    return true;
}

static bool is_ended(int fd, unsigned limit_ms)
{
    uint64_t end_ns = rt_now_ns() + limit_ms * RT_MS;
    uint8_t rest[4096];

    while (rt_now_ns() < end_ns) {
        struct pollfd p = {fd, POLLIN, 0};
        ssize_t n;

        if (poll(&p, 1, 50) <= 0)
            continue;
        n = recv(fd, rest, sizeof(rest), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return true;
    }
    return false;
}

static struct rt_identity identity(unsigned index)
{
    struct rt_identity id = {.role = victim.caller,
                             .index = index,
                             .incarnation = INCARNATION,
                             .wire_version = RT_WIRE_VERSION,
                             .config_hash = victim.config_hash,
                             .plan_hash = victim.plan_hash};

    snprintf(id.job, sizeof(id.job), "%s", victim.job);
    return id;
}

static size_t pack(const struct rt_identity *id, uint8_t message[MESSAGE_MAX])
{
    size_t size = 0;
    int err = wire_greeting.pack(id, message, MESSAGE_MAX, &size);

    rt_assert(err == 0);
    return size;
}

static void greet(int fd, const struct rt_identity *id)
{
    uint8_t message[MESSAGE_MAX];
    struct rt_header header = {.method = RT_METHOD_HANDSHAKE, .incarnation = INCARNATION};

    send_frame(fd, header, message, pack(id, message), 0, 0);
}

/* ---- what is expected ---- */

static void fail(const char *name, const char *what)
{
    printf("%s: %s\n", name, what);
    victim.failed++;
}

/* Lines of the log that contain both. */
static unsigned count_lines(const char *a, const char *b)
{
    char *text = NULL, *at = NULL;
    size_t size;
    unsigned n = 0;

    if (rt_file_read(victim.log, (size_t)64 << 20, &text, &size) != 0)
        return 0;
    for (char *line = strtok_r(text, "\n", &at); line; line = strtok_r(NULL, "\n", &at))
        n += strstr(line, a) && strstr(line, b);
    rt_free(text);
    return n;
}

/* Exactly one line: it comes, and no second. */
static void expect_line(const char *name, const char *who, const char *reason)
{
    uint64_t end_ns = rt_now_ns() + ANSWER_MS * RT_MS;
    unsigned n = 0;
    char text[256];

    while (!(n = count_lines(who, reason)) && rt_now_ns() < end_ns)
        usleep(20000);
    if (n == 1)
        return;
    snprintf(text, sizeof(text), "%u log lines with \"%s\" and \"%s\", expected 1", n, who, reason);
    fail(name, text);
}

/* ---- cases before the handshake ---- */

static const struct early {
    const char *name, *reason;
    struct rt_header header;
    size_t message, spoil; /* bytes of message; a byte of the frame that is changed */
} early[] = {
    {"magic", "frame field magic", {.method = RT_METHOD_HANDSHAKE}, 0, 1},
    {"version", "frame field version: expected 1, got 9", {.version = 9}, 0, 0},
    {"flags", "frame field flags", {.method = RT_METHOD_HANDSHAKE, .flags = 0x80}, 0, 0},
    {"length",
     "frame field message_size: expected at most 1048576, got 4294967295",
     {.method = RT_METHOD_HANDSHAKE, .message_size = UINT32_MAX},
     0,
     0},
    {"payload length",
     "frame field payload_size: expected at most 1073741824",
     {.method = RT_METHOD_HANDSHAKE, .payload_size = 1ull << 60},
     0,
     0},
    {"long greeting",
     "frame field message_size: expected at most 4096 and no payload",
     {.method = RT_METHOD_HANDSHAKE},
     5000,
     0},
    {"checksum",
     "frame field head_crc",
     {.method = RT_METHOD_HANDSHAKE},
     16,
     RT_FRAME_HEADER_SIZE + 3},
    {"call first", "frame field method: expected a handshake, got 16", {.method = 16}, 0, 0},
};

static void run_early(const struct early *c)
{
    static const uint8_t message[MESSAGE_MAX];
    int fd = open_socket();

    send_frame(fd, c->header, message, c->message, c->spoil, c->spoil ? 0xff : 0);
    if (!is_ended(fd, ANSWER_MS))
        fail(c->name, "the connection is still open");
    close(fd);
    expect_line(c->name, "link_closed peer=tcp:", c->reason);
    victim.n_cases++;
}

/* ---- handshakes that are refused: told and logged ---- */

static const struct refused {
    const char *name, *reason;
} refused[] = {
    {"job", "job differs: expected "},
    {"configuration", "configuration hash differs: expected 0x"},
    {"data plan", "data plan hash differs: expected 0x"},
    {"wire version", "wire version differs: expected 0x1, got 0x2"},
};

static void run_refused(size_t i)
{
    struct rt_identity id = identity(INDEX);
    struct rt_header header;
    char text[MESSAGE_MAX] = "";
    int fd = open_socket();

    if (i == 0)
        snprintf(id.job, sizeof(id.job), "another");
    id.config_hash += i == 1;
    id.plan_hash += i == 2;
    id.wire_version += i == 3;
    greet(fd, &id);
    if (!read_reply(fd, &header, text) || header.status != RT_EREFUSED ||
        !strstr(text, refused[i].reason))
        fail(refused[i].name, "it was not answered with the reason");
    if (!is_ended(fd, ANSWER_MS))
        fail(refused[i].name, "the connection is still open");
    close(fd);
    expect_line(refused[i].name, "link_refused", refused[i].reason);
    victim.n_cases++;
}

/* A handshake that is none. */
static void run_nonsense(void)
{
    static const uint8_t message[40] = {0xff, 0xff, 0xff};
    struct rt_header header = {.method = RT_METHOD_HANDSHAKE};
    char text[MESSAGE_MAX];
    int fd = open_socket();

    send_frame(fd, header, message, sizeof(message), 0, 0);
    if (!read_reply(fd, &header, text) || header.status != RT_EPROTO)
        fail("nonsense", "it was not answered");
    if (!is_ended(fd, ANSWER_MS))
        fail("nonsense", "the connection is still open");
    close(fd);
    expect_line("nonsense", "link_refused", "Handshake");
    victim.n_cases++;
}

/* ---- cases after a good handshake ---- */

static int greeted(unsigned index, enum rt_role role)
{
    struct rt_identity id = identity(index);
    struct rt_header header;
    char text[MESSAGE_MAX];
    int fd = open_socket();

    id.role = role;
    greet(fd, &id);
    if (!read_reply(fd, &header, text) || header.status != 0)
        fail("handshake", "a good one was refused");
    return fd;
}

static const struct late {
    const char *name, *reason;
    struct rt_header header; /* method 0: the one that is served */
    size_t message, spoil;
    bool stranger, payload;
} late[] = {
    {"unknown method",
     "frame field method: expected one that is served here, got 999",
     {.method = 999},
     0,
     0,
     false,
     false},
    {"method of another role", "is not for the role", {0}, 0, 0, true, false},
    {"message over the limit",
     "frame field message_size: expected at most",
     {.message_size = UINT32_MAX - 1},
     0,
     0,
     false,
     false},
    {"payload over the limit",
     "frame field payload_size: expected at most",
     {.payload_size = (1ull << 30) + 1},
     0,
     0,
     false,
     false},
    {"message checksum", "frame field head_crc", {0}, 24, RT_FRAME_HEADER_SIZE + 5, false, false},
    {"incarnation",
     "frame field incarnation: expected 5, got 6",
     {.incarnation = 6},
     0,
     0,
     false,
     false},
    {"reply",
     "frame field flags: expected a request on this side, got a reply",
     {.flags = RT_FRAME_REPLY},
     0,
     0,
     false,
     false},
    {"second handshake",
     "frame field method: expected a call or a ping, got 1",
     {.method = RT_METHOD_HANDSHAKE},
     0,
     0,
     false,
     false},
    {"magic later", "frame field magic", {0}, 0, 2, false, false},
    {"version later", "frame field version: expected 1, got 8", {.version = 8}, 0, 0, false, false},
    {"payload checksum",
     "frame field payload_crc",
     {.payload_crc = 77, .payload_size = 64},
     0,
     0,
     false,
     true},
};

static void run_late(size_t i)
{
    static const uint8_t bytes[MESSAGE_MAX];
    const struct late *c = &late[i];
    struct rt_header header = c->header;
    unsigned index = INDEX + 1 + (unsigned)i;
    int fd = greeted(index, c->stranger ? victim.stranger : victim.caller);
    char who[64];

    header.method = header.method ? header.method : victim.method;
    header.incarnation = header.incarnation ? header.incarnation : INCARNATION;
    /* Which served method takes a payload: of the middleware's, composers' PutBatch; the others' own. */
    if (c->payload && victim.role == RT_ROLE_MIDDLEWARE) {
        close(fd);
        fd = greeted(index, RT_ROLE_DATA_COMPOSE);
        header.method = WIRE_PUT_BATCH;
    }
    send_frame(fd, header, bytes, c->message, c->spoil, c->spoil ? 0xff : 0);
    if (c->payload)
        send_all(fd, bytes, 64);
    if (!is_ended(fd, ANSWER_MS))
        fail(c->name, "the connection is still open");
    close(fd);
    snprintf(who, sizeof(who), "/%u.0", index);
    expect_line(c->name, who, c->reason);
    victim.n_cases++;
}

/* A good frame with a message that no sender of ours makes: the call fails, the link may stay. */
static void run_bad_message(void)
{
    static const uint8_t message[40] = {0xff, 0xff, 0xff};
    struct rt_header header = {
        .method = victim.method, .incarnation = INCARNATION, .request_id = 1};
    char text[MESSAGE_MAX];
    int fd = greeted(INDEX + 90, victim.caller);

    send_frame(fd, header, message, sizeof(message), 0, 0);
    if (!read_reply(fd, &header, text) || header.status >= 0 || !text[0])
        fail("bad message", "the call was not answered with an error");
    close(fd);
    victim.n_cases++;
}

/* ---- floods and sloths ---- */

/* Asks and asks, and never reads. */
static void run_slow_reader(void)
{
    static const uint8_t message[40] = {0xff, 0xff, 0xff};
    struct rt_header header = {.method = victim.method, .incarnation = INCARNATION};
    int fd = greeted(INDEX + 91, victim.caller);

    for (unsigned i = 0; i < SLOW_CALLS; i++) {
        header.request_id = i + 1;
        send_frame(fd, header, message, sizeof(message), 0, 0);
    }
    close(fd);
    victim.n_cases++;
}

/* Who stops in the middle waits for the victim's deadline; they do so together, behind a flood of connections that
 * never speak. While all this stands, a peer that is in order comes through. */
static void run_silent(void)
{
    static const uint8_t head[RT_FRAME_HEADER_SIZE / 2] = "SFRN\1";
    struct rt_header header = {.method = victim.method, .incarnation = INCARNATION};
    struct rt_identity id = identity(INDEX);
    int flood[FLOOD], half_frame, half_greeting, good;
    char text[MESSAGE_MAX];

    half_frame = greeted(INDEX + 92, victim.caller);
    header.message_size = 1000;
    send_frame(half_frame, header, NULL, 0, 0, 0);
    for (size_t i = 0; i < FLOOD; i++)
        flood[i] = open_socket();
    half_greeting = open_socket();
    send_all(half_greeting, head, sizeof(head));
    good = open_socket();
    id.index = INDEX + 93;
    greet(good, &id);
    if (!read_reply(good, &header, text) || header.status != 0)
        fail("flood", "a good handshake was not answered behind it");
    close(good);
    for (size_t i = 0; i < FLOOD; i++) {
        if (!is_ended(flood[i], DEADLINE_MS)) {
            fail("flood", "a mute connection is still open");
            break;
        }
    }
    if (!is_ended(half_greeting, DEADLINE_MS))
        fail("half a greeting", "the connection is still open");
    if (!is_ended(half_frame, DEADLINE_MS))
        fail("half a frame", "the connection is still open");
    for (size_t i = 0; i < FLOOD; i++)
        close(flood[i]);
    close(half_greeting);
    close(half_frame);
    expect_line("flood", "link_closed", "too many connections that have not shaken hands");
    expect_line("half a greeting", "link_closed", "no handshake within 5000 ms");
    expect_line("half a frame", "/60092.0", "silent for 5000 ms");
    victim.n_cases += 3;
}

/* ---- */

static int parse(char **argv)
{
    static const struct {
        enum rt_role role, caller, stranger;
        uint16_t method;
    } known[] = {
        {RT_ROLE_MIDDLEWARE, RT_ROLE_TRAINER, RT_ROLE_DATA_COMPOSE, WIRE_LOOKUP_BATCH},
        {RT_ROLE_EMBEDDING_SERVER, RT_ROLE_MIDDLEWARE, RT_ROLE_TRAINER, WIRE_LOOKUP_ROWS},
        {RT_ROLE_TRAINER, RT_ROLE_DATA_COMPOSE, RT_ROLE_MIDDLEWARE, WIRE_TRAIN_BATCH},
    };

    victim.log = argv[2];
    victim.job = argv[4];
    victim.config_hash = strtoull(argv[5], NULL, 16);
    victim.plan_hash = strtoull(argv[6], NULL, 16);
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(rt_role_name(known[i].role), argv[3]) != 0)
            continue;
        victim.role = known[i].role;
        victim.caller = known[i].caller;
        victim.stranger = known[i].stranger;
        victim.method = known[i].method;
        return rt_address_parse(argv[1], &victim.address);
    }
    return RT_FAIL(RT_EUSAGE, "role %s: expected one that listens", argv[3]);
}

int main(int argc, char **argv)
{
    if (argc != 7 || parse(argv) != 0) {
        fprintf(stderr, "usage: hostile tcp:HOST:PORT LOG ROLE JOB CONFIG_HASH PLAN_HASH\n%s\n",
                argc == 7 ? rt_err_text() : "");
        return 2;
    }
    for (size_t i = 0; i < ARRAY_LEN(early); i++)
        run_early(&early[i]);
    for (size_t i = 0; i < ARRAY_LEN(refused); i++)
        run_refused(i);
    run_nonsense();
    for (size_t i = 0; i < ARRAY_LEN(late); i++)
        run_late(i);
    run_bad_message();
    run_slow_reader();
    run_silent();
    close(greeted(INDEX + 99, victim.caller));
    printf("%s: %u cases, %u failed\n", argv[3], victim.n_cases, victim.failed);
    return victim.failed ? 1 : 0;
}
