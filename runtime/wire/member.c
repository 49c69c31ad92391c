/* runtime/wire/member.c -- codec of handshake, presence and control: small messages from strangers.
 *
 * Names are checked here, once: a job name that is no token could otherwise reach a subject, a folder or
 * a log line. The handshake is read even when its wire version is another, so that the refusal can say so. */
#include "runtime/wire/member.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/wire/codec.h"

#include "proto/control.pb-c.h"
#include "proto/handshake.pb-c.h"
#include "proto/presence.pb-c.h"

#include <math.h>
#include <string.h>

#define HANDSHAKE_ARENA 16384 /* a handshake unpacks to a few hundred bytes */

static const char *const state_name[WIRE_STATE_COUNT] = {
    [WIRE_STARTING] = "starting", [WIRE_WAITING] = "waiting", [WIRE_READY] = "ready",
    [WIRE_DRAINING] = "draining", [WIRE_DONE] = "done",       [WIRE_FAILED] = "failed",
};

const char *wire_state_name(enum wire_state state)
{
    return (unsigned)state < WIRE_STATE_COUNT ? state_name[state] : "unknown";
}

bool wire_is_token(const char *word)
{
    size_t len = word ? strnlen(word, RT_JOB_NAME_MAX) : 0;

    if (len == 0 || len >= RT_JOB_NAME_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = word[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');

        if (!letter && !(c >= '0' && c <= '9') && c != '_' && c != '-')
            return false;
    }
    return true;
}

static int check_job(const char *name, const char *job)
{
    char shown[96];

    if (wire_is_token(job))
        return 0;
    return RT_FAIL(RT_EPROTO, "%s: job is '%s', expected 1 to 63 of A-Z a-z 0-9 _ -", name,
                   rt_log_escape(job, shown, sizeof(shown)));
}

static int check_role(const char *name, uint32_t role, uint32_t index)
{
    int err = wire_range(name, "role", role, 0, RT_ROLE_COUNT - 1);

    return err ? err : wire_range(name, "index", index, 0, WIRE_REPLICAS_MAX - 1);
}

static char *text_of(const char *text)
{
    return (char *)(text ? text : "");
}

/* ---- handshake ---- */

static int check_identity(const struct rt_identity *id)
{
    int err = check_job("Handshake", id->job);

    if (!err)
        err = check_role("Handshake", id->role, id->index);
    if (!err)
        err = wire_range("Handshake", "loop", id->loop, 0, WIRE_LOOPS_MAX - 1);
    if (!err)
        err = wire_range("Handshake", "incarnation", id->incarnation, 1, UINT64_MAX);
    return err;
}

static int greeting_pack(const struct rt_identity *id, uint8_t *out, size_t capacity, size_t *size)
{
    Saffron__Handshake m = SAFFRON__HANDSHAKE__INIT;

    wire_assert_ok(check_identity(id));
    m.job = (char *)id->job;
    m.role = id->role;
    m.index = id->index;
    m.loop = id->loop;
    m.incarnation = id->incarnation;
    m.wire_version = id->wire_version;
    m.config_hash = id->config_hash;
    m.plan_hash = id->plan_hash;
    *size = protobuf_c_message_get_packed_size(&m.base);
    if (*size > capacity)
        return RT_FAIL(RT_ELIMIT, "Handshake: packs to %zu bytes, room for %zu", *size, capacity);
    protobuf_c_message_pack(&m.base, out);
    return 0;
}

static int read_handshake(const uint8_t *message, size_t size, struct rt_arena *arena,
                          struct rt_identity *out)
{
    const Saffron__Handshake *m;
    int err;

    m = wire_decode(&saffron__handshake__descriptor, message, size, arena, &err);
    if (!m)
        return err;
    err = check_job("Handshake", m->job);
    if (!err)
        err = check_role("Handshake", m->role, m->index); /* before it becomes an enum */
    if (err)
        return err;
    *out = (struct rt_identity){
        .role = (enum rt_role)m->role,
        .index = m->index,
        .loop = m->loop,
        .incarnation = m->incarnation,
        .wire_version = m->wire_version,
        .config_hash = m->config_hash,
        .plan_hash = m->plan_hash,
    };
    memcpy(out->job, m->job, strlen(m->job) + 1);
    return check_identity(out);
}

static int greeting_unpack(const uint8_t *message, size_t size, struct rt_identity *out)
{
    struct rt_arena *arena;
    int err = rt_arena_create(HANDSHAKE_ARENA, &arena);

    if (err)
        return err;
    err = read_handshake(message, size, arena, out);
    rt_arena_destroy(arena);
    return err;
}

const struct rt_greeting wire_greeting = {greeting_pack, greeting_unpack};

/* ---- Hello ---- */

static int check_addresses(const struct wire_hello *m)
{
    int err = wire_range("Hello", "count of address", m->n_addresses, 0, WIRE_LOOPS_MAX);

    for (uint32_t i = 0; i < m->n_addresses && !err; i++) {
        if (m->address[i][0] == '\0')
            err = RT_FAIL(RT_EPROTO, "Hello: address[%u] is empty", i);
        else
            err = wire_text("Hello", "address", m->address[i], RT_ADDRESS_MAX - 1);
    }
    return err;
}

static int check_hello(const struct wire_hello *m)
{
    int err = check_job("Hello", m->job);

    if (!err)
        err = check_role("Hello", m->role, m->index);
    if (!err)
        err = wire_range("Hello", "incarnation", m->incarnation, 1, UINT64_MAX);
    if (!err)
        err = wire_range("Hello", "state", m->state, 0, WIRE_STATE_COUNT - 1);
    if (!err)
        err = wire_range("Hello", "replicas", m->replicas, 1, WIRE_REPLICAS_MAX);
    if (!err)
        err = wire_range("Hello", "index", m->index, 0, m->replicas - 1);
    if (!err)
        err = check_addresses(m);
    if (!err)
        err = wire_text("Hello", "host_id", m->host_id, WIRE_TEXT_MAX);
    if (!err)
        err = wire_text("Hello", "host", m->host, WIRE_TEXT_MAX);
    if (!err)
        err = wire_text("Hello", "admin", m->admin, WIRE_TEXT_MAX);
    if (!err)
        err = wire_text("Hello", "version", m->version, WIRE_TEXT_MAX);
    return err;
}

const char *wire_job_part_name(enum wire_job_part part)
{
    static const char *const name[] = {
        [WIRE_PART_GLOBAL] = "global.yml (seed, wire)",
        [WIRE_PART_EMBEDDING] = "embedding.yml",
        [WIRE_PART_DATA] = "data.yml",
        [WIRE_PART_FILES] = "the set of data files (names, sizes)",
        [WIRE_PART_MODEL] = "model.yml",
    };

    rt_assert((unsigned)part < ARRAY_LEN(name));
    return name[part];
}

int wire_hello_pack(const struct wire_hello *in, struct wire_out *out)
{
    Saffron__Hello m = SAFFRON__HELLO__INIT;
    struct wire_hello hello = *in;

    hello.host_id = text_of(in->host_id);
    hello.host = text_of(in->host);
    hello.admin = text_of(in->admin);
    hello.version = text_of(in->version);
    wire_assert_ok(check_hello(&hello));
    m.job = (char *)hello.job;
    m.role = hello.role;
    m.index = hello.index;
    m.incarnation = hello.incarnation;
    m.sequence = hello.sequence;
    m.state = (Saffron__Hello__State)hello.state;
    m.replicas = hello.replicas;
    m.n_address = hello.n_addresses;
    m.address = (char **)hello.address;
    m.host_id = (char *)hello.host_id;
    m.host = (char *)hello.host;
    m.config_hash = hello.config_hash;
    m.plan_hash = hello.plan_hash;
    m.wire_version = hello.wire_version;
    m.admin = (char *)hello.admin;
    m.version = (char *)hello.version;
    m.n_part_hash = WIRE_PART_COUNT;
    m.part_hash = hello.part_hash;
    m.has_folder = hello.has_folder;
    return wire_encode(&m.base, out);
}

int wire_hello_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                      struct wire_hello *out)
{
    const Saffron__Hello *m;
    int err;

    m = wire_decode(&saffron__hello__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_hello){
        .job = m->job,
        .role = (enum rt_role)m->role,
        .index = m->index,
        .incarnation = m->incarnation,
        .sequence = m->sequence,
        .state = (enum wire_state)m->state,
        .replicas = m->replicas,
        .n_addresses = (uint32_t)m->n_address,
        .address = (const char *const *)m->address,
        .host_id = m->host_id,
        .host = m->host,
        .config_hash = m->config_hash,
        .plan_hash = m->plan_hash,
        .wire_version = m->wire_version,
        .admin = m->admin,
        .version = m->version,
        .has_folder = m->has_folder,
    };
    if (m->n_part_hash == WIRE_PART_COUNT)
        memcpy(out->part_hash, m->part_hash, sizeof(out->part_hash));
    return check_hello(out);
}

/* ---- Who ---- */

int wire_who_pack(const struct wire_who *in, struct wire_out *out)
{
    Saffron__Who m = SAFFRON__WHO__INIT;

    wire_assert_ok(check_role("Who", in->role, in->index));
    m.role = in->role;
    m.index = in->index;
    return wire_encode(&m.base, out);
}

int wire_who_unpack(const uint8_t *data, size_t size, struct rt_arena *arena, struct wire_who *out)
{
    const Saffron__Who *m;
    int err;

    m = wire_decode(&saffron__who__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_who){(enum rt_role)m->role, m->index};
    return check_role("Who", m->role, m->index);
}

/* ---- Held ---- */

static int check_held(const struct wire_held *in)
{
    int err = check_role("Held", in->role, in->index);

    if (!err && !in->incarnation)
        err = RT_FAIL(RT_EPROTO, "Held: incarnation is 0");
    return err;
}

int wire_held_pack(const struct wire_held *in, struct wire_out *out)
{
    Saffron__Held m = SAFFRON__HELD__INIT;

    wire_assert_ok(check_held(in));
    m.role = in->role;
    m.index = in->index;
    m.incarnation = in->incarnation;
    return wire_encode(&m.base, out);
}

int wire_held_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                     struct wire_held *out)
{
    const Saffron__Held *m;
    int err;

    m = wire_decode(&saffron__held__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_held){(enum rt_role)m->role, m->index, m->incarnation};
    return check_held(out);
}

/* ---- control ---- */

static int check_control_request(const struct wire_control_request *m)
{
    static const char name[] = "ControlRequest";
    int err = wire_range(name, "command", (uint64_t)m->command, WIRE_CTL_STATUS, WIRE_CTL_IMPORT);

    if (!err)
        err = wire_text(name, "text", m->text, WIRE_TEXT_MAX);
    if (!err)
        err = wire_range(name, "flags", m->flags, 0, WIRE_CTL_FLAGS);
    if (!err)
        err = wire_range(name, "stage", m->stage, 0, WIRE_IMPORT_FAIL);
    return err ? err : wire_real(name, "number", m->number, -INFINITY);
}

int wire_control_request_pack(const struct wire_control_request *in, struct wire_out *out)
{
    Saffron__ControlRequest m = SAFFRON__CONTROL_REQUEST__INIT;
    struct wire_control_request request = *in;

    request.text = text_of(in->text);
    wire_assert_ok(check_control_request(&request));
    m.id = request.id;
    m.incarnation = request.incarnation;
    m.ttl_ms = request.ttl_ms;
    m.command = (Saffron__ControlRequest__Command)request.command;
    m.text = (char *)request.text;
    m.number = request.number;
    m.flags = request.flags;
    m.stage = request.stage;
    return wire_encode(&m.base, out);
}

int wire_control_request_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                struct wire_control_request *out)
{
    const Saffron__ControlRequest *m;
    int err;

    m = wire_decode(&saffron__control_request__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_control_request){
        .id = m->id,
        .incarnation = m->incarnation,
        .ttl_ms = m->ttl_ms,
        .command = (enum wire_command)m->command,
        .text = m->text,
        .number = m->number,
        .flags = m->flags,
        .stage = m->stage,
    };
    return check_control_request(out);
}

static int check_control_reply(const struct wire_control_reply *m)
{
    int err = check_role("ControlReply", m->role, m->index);

    if (!err && m->status > 0)
        err = RT_FAIL(RT_EPROTO, "ControlReply: status is %d, expected 0 or an error", m->status);
    return err ? err : wire_text("ControlReply", "text", m->text, WIRE_STATUS_MAX);
}

int wire_control_reply_pack(const struct wire_control_reply *in, struct wire_out *out)
{
    Saffron__ControlReply m = SAFFRON__CONTROL_REPLY__INIT;
    struct wire_control_reply reply = *in;

    reply.text = text_of(in->text);
    wire_assert_ok(check_control_reply(&reply));
    m.id = reply.id;
    m.role = reply.role;
    m.index = reply.index;
    m.incarnation = reply.incarnation;
    m.status = reply.status;
    m.text = (char *)reply.text;
    return wire_encode(&m.base, out);
}

int wire_control_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                              struct wire_control_reply *out)
{
    const Saffron__ControlReply *m;
    int err;

    m = wire_decode(&saffron__control_reply__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_control_reply){
        .id = m->id,
        .role = (enum rt_role)m->role,
        .index = m->index,
        .incarnation = m->incarnation,
        .status = m->status,
        .text = m->text,
    };
    return check_control_reply(out);
}
