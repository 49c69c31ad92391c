/* runtime/member/control.c -- asking roles from outside: what `saffron` does on the command line. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/member/asker.h"
#include "runtime/member/member.h"
#include "runtime/member/subject.h"

#define ARENA_BYTES ((size_t)1 << 20)

struct rt_control_client {
    struct rt_asker *asker;
    struct rt_arena *arena;
    struct wire_out out;
};

struct asking {
    struct rt_control_client *client;
    uint64_t id;
    uint32_t want, got;
    void *ctx;
    void (*reply)(void *ctx, const struct wire_control_reply *reply);
};

int rt_control_connect(const char *nats_url, uint32_t timeout_ms, struct rt_control_client **out)
{
    struct rt_control_client *client = rt_xcalloc(1, sizeof(*client));
    int err = rt_arena_create(ARENA_BYTES, &client->arena);

    if (!err)
        err = rt_asker_create(nats_url, timeout_ms, &client->asker);
    if (err) {
        rt_control_close(client);
        return err;
    }
    *out = client;
    return 0;
}

void rt_control_close(struct rt_control_client *client)
{
    if (!client)
        return;
    rt_asker_destroy(client->asker);
    rt_arena_destroy(client->arena);
    wire_out_release(&client->out);
    rt_free(client);
}

static bool on_answer(void *ctx, const uint8_t *data, size_t size)
{
    struct asking *asking = ctx;
    struct wire_control_reply reply;

    rt_arena_reset(asking->client->arena);
    if (wire_control_reply_unpack(data, size, asking->client->arena, &reply) != 0) {
        rt_log(RT_LOG_WARN, "answer_refused reason=\"%s\"", rt_err_text());
        return true;
    }
    if (reply.id != asking->id)
        return true; /* of an earlier question */
    asking->got++;
    asking->reply(asking->ctx, &reply);
    return asking->got < asking->want;
}

int rt_control_ask(struct rt_control_client *client, const char *job, enum rt_role role,
                   const uint32_t *index, const struct wire_control_request *request,
                   uint32_t timeout_ms, uint32_t want, void *ctx,
                   void (*reply)(void *ctx, const struct wire_control_reply *reply))
{
    struct asking asking = {client, request->id, want ? want : UINT32_MAX, 0, ctx, reply};
    char subject[RT_SUBJECT_MAX];
    int err;

    if (!wire_is_token(job))
        return RT_FAIL(RT_EUSAGE, "job name '%s': expected 1 to 63 of A-Z a-z 0-9 _ -", job);
    rt_subject_control(subject, job, role, index);
    err = wire_control_request_pack(request, &client->out);
    if (!err)
        err = rt_asker_ask(client->asker, subject, client->out.data, client->out.size, timeout_ms,
                           &asking, on_answer);
    return err ? err : (int)asking.got;
}
