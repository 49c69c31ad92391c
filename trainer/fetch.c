/* trainer/fetch.c -- the dense state of the most advanced rank, for one that is behind when the group forms (form.c).
 *
 * It comes in parts, as many as fit messages, and is kept aside until all are there: ours is replaced at once, never half. With it
 * come the batches that its steps still owe, and what the group told of ledger and phase counts from then on. Nothing can change while
 * somebody fetches: it takes all ranks to make a step. */
#include "trainer/group.h"

#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "trainer/state.h"

#include <inttypes.h>
#include <string.h>

#define PART_ELEMENTS (2u << 20) /* 8 MiB, but for tests */
#define AGAIN_NS      (5 * 1000000ull)

struct ask {
    struct tr_group *group;
    uint64_t serial;
};

/* ---- taking ---- */

void tr_fetch_forget(struct tr_group *group)
{
    rt_free(group->fetched);
    group->fetched = NULL;
    rt_free(group->fetched_owed);
    group->fetched_owed = NULL;
    group->n_fetched_owed = 0;
    rt_free(group->heard);
    group->heard = NULL;
}

static size_t part_elements(const struct tr_trainer *trainer)
{
    return trainer->conf.state_part ? trainer->conf.state_part : PART_ELEMENTS;
}

static size_t state_elements(struct tr_trainer *trainer, float **state, size_t *n_state)
{
    *state = tr_optimizer_state(trainer->optimizer, n_state);
    return tr_model_count(trainer->model) + *n_state;
}

/* What the steps of the weights that come still owe: it counts with them. */
static int keep_owed(struct tr_group *group, const struct wire_fetch_state_reply *reply)
{
    size_t bytes = reply->n_owed * sizeof *group->fetched_owed;
    rt_free(group->fetched_owed);
    group->fetched_owed = rt_try_malloc(bytes + 1);
    group->n_fetched_owed = group->fetched_owed ? reply->n_owed : 0;
    if (!group->fetched_owed)
        return RT_FAIL(RT_ENOMEM, "no memory for %u batches that are owed", reply->n_owed);
    if (bytes > 0)
        memcpy(group->fetched_owed, reply->owed, bytes);
    return 0;
}

static int take_part(struct tr_group *group, const struct wire_fetch_state_reply *reply,
                     const struct rt_buf *payload)
{
    float *state;
    size_t n_state, elements = state_elements(group->trainer, &state, &n_state);
    size_t most = part_elements(group->trainer), at = (size_t)reply->part * most;
    size_t n = elements - (at < elements ? at : elements);
    n = n < most ? n : most;
    if (reply->elements != elements || at != group->n_fetched ||
        (payload ? payload->size : 0) != n * sizeof(float))
        return RT_FAIL(RT_EPROTO,
                       "FetchState reply: part %u of %zu elements with %zu bytes, expected part "
                       "%zu of %zu elements",
                       reply->part, (size_t)reply->elements, payload ? payload->size : 0,
                       group->n_fetched / most, elements);
    if (!group->fetched)
        group->fetched = rt_try_malloc((elements + 1) * sizeof(float));
    if (!group->fetched)
        return RT_FAIL(RT_ENOMEM, "no memory for a state of %zu elements", elements);
    if (n > 0)
        memcpy(group->fetched + at, payload->data, n * sizeof(float));
    group->n_fetched += n;
    return reply->part == 0 ? keep_owed(group, reply) : 0;
}

/* All parts are here: ours is replaced at once, never half. */
static void adopt(struct tr_group *group, const struct wire_fetch_state_reply *reply)
{
    struct tr_trainer *trainer = group->trainer;
    size_t n = tr_model_count(trainer->model), n_state;
    float *state = tr_optimizer_state(trainer->optimizer, &n_state);
    RT_FAILPOINT("P12.adopts");
    memcpy(tr_model_params(trainer->model), group->fetched, n * sizeof(float));
    if (n_state > 0)
        memcpy(state, group->fetched + n, n_state * sizeof(float));
    tr_optimizer_set_steps(trainer->optimizer, reply->optimizer_steps);
    trainer->step = reply->step;
    trainer->steps_before = reply->steps_before;
    rt_arena_reset(trainer->scratch);
    int err = tr_form_take(trainer, group->heard, group->heard_size);
    for (uint32_t i = 0; i < group->n_fetched_owed; i++)
        tr_group_owe(group, &group->fetched_owed[i]);
    tr_fetch_forget(group);
    if (trainer->imports != group->leader_imports) { /* what was looked up are rows of before it */
        trainer->imports = group->leader_imports;
        tr_alarm_reset(trainer);
        tr_feed_return(trainer);
    }
    if (err)
        tr_fail(trainer, err);
    else
        tr_form_done(group);
}

static void fetch_again(void *arg)
{
    struct tr_group *group = arg;
    if (group->state != TR_FETCHING)
        return;
    group->sent = false;
    tr_fetch_pump(group);
}

static void on_state(void *arg, int err, const struct rt_frame *frame)
{
    struct ask *ask = arg;
    struct tr_group *group = ask->group;
    struct tr_trainer *trainer = group->trainer;
    bool latest = ask->serial == group->serial;
    struct wire_fetch_state_reply reply;
    rt_free(ask);
    if (trainer->closing || !latest || group->state != TR_FETCHING)
        return;
    if (err == RT_ENOTREADY || err == RT_EFULL) {
        group->again =
            (struct rt_timer){.fire = fetch_again, .arg = group, .impl = group->again.impl};
        rt_timer_start(trainer->io, &group->again, AGAIN_NS);
        return;
    }
    group->sent = false;
    if (err == RT_EPEER || err == RT_ECANCELED || err == RT_EDEADLINE)
        return; /* again when the link is up */
    rt_arena_reset(trainer->scratch);
    if (!err)
        err = wire_fetch_state_reply_unpack(frame->message, frame->header.message_size,
                                            trainer->scratch, &reply);
    if (!err)
        err = take_part(group, &reply, frame->payload);
    if (err)
        tr_group_break(group, rt_err_text());
    else if (reply.part + 1 == reply.parts)
        adopt(group, &reply);
    tr_pump(trainer);
}

void tr_fetch_pump(struct tr_group *group)
{
    struct tr_trainer *trainer = group->trainer;
    struct wire_fetch_state request = {
        .group_epoch = group->epoch, .part = (uint32_t)(group->n_fetched / part_elements(trainer))};
    struct rt_peer *peer = tr_rank(trainer, group->leader);
    if (group->sent || !peer || wire_fetch_state_pack(&request, &trainer->out) != 0)
        return;
    struct ask *ask = rt_xmalloc(sizeof *ask);
    *ask = (struct ask){group, ++group->serial};
    struct rt_outgoing out = {.message = trainer->out.data, .message_size = trainer->out.size};
    group->sent = rt_rpc_call(peer, WIRE_FETCH_STATE, &out, 0, on_state, ask) == 0;
    if (!group->sent)
        rt_free(ask);
}

/* ---- giving ---- */

static struct wire_owed *list_owed(struct tr_group *group, uint32_t *n)
{
    struct wire_owed *list =
        rt_arena_array(group->trainer->scratch, struct wire_owed, group->owed.count);
    uint64_t key, value;
    *n = 0;
    for (size_t at = 0; list && rt_map_next(&group->owed, &at, &key, &value);)
        list[(*n)++] = *(struct wire_owed *)(uintptr_t)value;
    return list;
}

/* Elements [at, at + n) of parameters | optimizer state. */
static struct rt_buf *copy_part(struct tr_trainer *trainer, size_t at, size_t n)
{
    struct rt_buf *buf = rt_io_buf(trainer->io, n * sizeof(float));
    size_t n_params = tr_model_count(trainer->model), n_state;
    const float *params = tr_model_params(trainer->model);
    const float *state = tr_optimizer_state(trainer->optimizer, &n_state);
    for (size_t i = 0; buf && i < n; i++)
        ((float *)(void *)buf->data)[i] =
            at + i < n_params ? params[at + i] : state[at + i - n_params];
    if (buf)
        buf->size = n * sizeof(float);
    return buf;
}

/* Nothing can change while somebody fetches: it takes all ranks to make a step. */
static int give_part(struct tr_group *group, struct rt_call *call,
                     const struct wire_fetch_state *request)
{
    struct tr_trainer *trainer = group->trainer;
    float *state;
    size_t n_state, elements = state_elements(trainer, &state, &n_state);
    size_t most = part_elements(trainer), parts = elements / most + 1;
    size_t at = (size_t)request->part * most;
    if (group->state != TR_FORMED || request->group_epoch != group->epoch)
        return RT_FAIL(RT_ENOTREADY, "FetchState of group epoch %" PRIu64 ", here is %" PRIu64,
                       request->group_epoch, group->epoch);
    if (request->part >= parts || parts > WIRE_PARTS_MAX)
        return RT_FAIL(RT_EPROTO, "FetchState: part %u of %zu", request->part, parts);
    struct wire_fetch_state_reply reply = {.step = trainer->step,
                                           .part = request->part,
                                           .parts = (uint32_t)parts,
                                           .elements = elements,
                                           .optimizer_steps =
                                               tr_optimizer_steps(trainer->optimizer),
                                           .steps_before = trainer->steps_before};
    if (request->part == 0) {
        rt_arena_reset(trainer->scratch);
        reply.owed = list_owed(group, &reply.n_owed);
    }
    size_t n = elements - at < most ? elements - at : most;
    struct rt_buf *buf = copy_part(trainer, at, n);
    int err = buf ? wire_fetch_state_reply_pack(&reply, &trainer->out)
                  : RT_FAIL(RT_EFULL, "no payload memory for a part of the state");
    if (!err) {
        struct rt_piece piece = {buf->data, buf->size, buf};
        rt_call_reply(call, &(struct rt_outgoing){.message = trainer->out.data,
                                                  .message_size = trainer->out.size,
                                                  .pieces = &piece,
                                                  .n_pieces = n > 0});
    }
    rt_buf_unref(buf);
    return err;
}

void tr_fetch_serve(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct tr_trainer *trainer = ctx;
    struct wire_fetch_state fetch_state;
    rt_arena_reset(trainer->scratch);
    int err = wire_fetch_state_unpack(request->message, request->header.message_size,
                                      trainer->scratch, &fetch_state);
    RT_FAILPOINT("P12.lends");
    if (!err)
        err = give_part(trainer->group, call, &fetch_state);
    if (err)
        rt_call_fail(call, err, rt_err_text());
}
