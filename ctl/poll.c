/* ctl/poll.c -- the thread that asks. Between it and the loop: one slot behind a mutex, one uv_async. */
#include "ctl/poll.h"
#include "ctl/save.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/save.h"

#include <stdio.h>

#define CONNECT_TIMEOUT_MS 1000
#define ASK_TIMEOUT_MS     500

struct ctl_poll {
    struct ctl_poll_conf conf;
    uv_thread_t thread;
    uv_async_t wake; /* Touched by: any through uv_async_send, else the loop. */
    uv_mutex_t lock; /* guards what follows */
    uv_cond_t stop_cond;
    bool stopping;
    bool hurry;           /* the next round is wanted now */
    struct ctl_save save; /* name NULL: not yet */
    bool has_news;
    struct ctl_snapshot newest;
};

void ctl_snapshot_release(struct ctl_snapshot *snapshot)
{
    for (int role = 0; role < RT_ROLE_COUNT; role++)
        json_decref(snapshot->role[role]);
    *snapshot = (struct ctl_snapshot){0};
}

void ctl_snapshot_keep(struct ctl_snapshot *newer, struct ctl_snapshot *older)
{
    for (int role = 0; role < RT_ROLE_COUNT; role++) {
        const json_t *before = older->role[role];

        if (!newer->role[role]) {
            newer->role[role] = older->role[role];
            older->role[role] = NULL;
            continue;
        }
        for (size_t i = 0; i < json_array_size(newer->role[role]); i++) {
            json_t *status = json_array_get(before, i);

            if (!json_is_object(json_array_get(newer->role[role], i)) && json_is_object(status))
                json_array_set(newer->role[role], i, status);
        }
    }
    ctl_snapshot_release(older);
}

void ctl_snapshot_forget(struct ctl_snapshot *snapshot, enum rt_role role, uint32_t index)
{
    if (!json_is_object(json_array_get(snapshot->role[role], index)))
        return;
    json_array_set_new(snapshot->role[role], index, json_null());
    snapshot->silent++;
}

static void on_reply(void *ctx, const struct wire_control_reply *reply)
{
    struct ctl_snapshot *snapshot = ctx;
    json_t *status, *list;

    if (reply->status != 0 || !reply->text || (unsigned)reply->role >= RT_ROLE_COUNT)
        return;
    list = snapshot->role[reply->role];
    if (reply->index >= json_array_size(list) || json_is_object(json_array_get(list, reply->index)))
        return;
    status = json_loads(reply->text, 0, NULL);
    if (json_is_object(status)) {
        json_array_set(list, reply->index, status);
        snapshot->silent--;
    }
    json_decref(status);
}

void ctl_snapshot_ask(struct rt_control_client *client, const char *job, enum rt_role role,
                      uint32_t replicas, struct ctl_snapshot *snapshot)
{
    struct wire_control_request request = {
        .id = rt_now_ns(), .ttl_ms = ASK_TIMEOUT_MS, .command = WIRE_CTL_STATUS, .text = ""};

    snapshot->role[role] = json_array();
    for (uint32_t i = 0; i < replicas; i++)
        json_array_append_new(snapshot->role[role], json_null());
    snapshot->silent += replicas;
    rt_control_ask(client, job, role, NULL, &request, ASK_TIMEOUT_MS, replicas, snapshot, on_reply);
}

static void publish(struct ctl_poll *poll, struct ctl_snapshot *snapshot)
{
    uv_mutex_lock(&poll->lock);
    if (poll->has_news)
        ctl_snapshot_release(&poll->newest);
    poll->newest = *snapshot;
    poll->has_news = true;
    uv_mutex_unlock(&poll->lock);
    uv_async_send(&poll->wake);
}

/* Until the next round is due; false when it is time to stop. */
static bool pause_round(struct ctl_poll *poll)
{
    bool go_on;

    uv_mutex_lock(&poll->lock);
    if (!poll->stopping && !poll->hurry)
        uv_cond_timedwait(&poll->stop_cond, &poll->lock, poll->conf.every_ms * RT_MS);
    poll->hurry = false;
    go_on = !poll->stopping;
    uv_mutex_unlock(&poll->lock);
    return go_on;
}

static bool is_stopping(struct ctl_poll *poll)
{
    bool stopping;

    uv_mutex_lock(&poll->lock);
    stopping = poll->stopping;
    uv_mutex_unlock(&poll->lock);
    return stopping;
}

static void ask_to_save(struct ctl_poll *poll, struct rt_control_client *client,
                        struct ctl_snapshot *snapshot)
{
    struct ctl_save save;

    uv_mutex_lock(&poll->lock);
    save = poll->save;
    uv_mutex_unlock(&poll->lock);
    if (save.name)
        ctl_save_ask(client, poll->conf.job, &save, snapshot);
}

/* False when nobody answered. */
static bool ask_all(struct ctl_poll *poll, struct rt_control_client *client)
{
    static const enum rt_role order[] = {RT_ROLE_TRAINER, RT_ROLE_DATA_COMPOSE, RT_ROLE_MIDDLEWARE,
                                         RT_ROLE_EMBEDDING_SERVER};
    struct ctl_snapshot snapshot = {.asked_ns = rt_now_ns()};
    uint32_t all = 0;
    bool heard;

    ask_to_save(poll, client, &snapshot);
    for (size_t i = 0; i < ARRAY_LEN(order) && !is_stopping(poll); i++) {
        all += poll->conf.replicas[order[i]];
        ctl_snapshot_ask(client, poll->conf.job, order[i], poll->conf.replicas[order[i]],
                         &snapshot);
    }
    heard = snapshot.silent < all;
    if (is_stopping(poll))
        ctl_snapshot_release(&snapshot);
    else
        publish(poll, &snapshot);
    return heard;
}

static void tell_of_nats(struct ctl_poll *poll)
{
    struct ctl_snapshot snapshot = {0};

    for (int role = 0; role < RT_ROLE_COUNT; role++)
        snapshot.silent += poll->conf.replicas[role];
    snprintf(snapshot.nats, sizeof(snapshot.nats), "%s", rt_err_text());
    publish(poll, &snapshot);
}

static void thread_main(void *arg)
{
    struct ctl_poll *poll = arg;
    struct rt_control_client *client = NULL;

    while (pause_round(poll)) {
        if (!client && rt_control_connect(poll->conf.nats_url, CONNECT_TIMEOUT_MS, &client) != 0) {
            tell_of_nats(poll); /* the next round tries again */
            continue;
        }
        if (!ask_all(poll, client)) { /* NATS may have been away: its client does not come back */
            rt_control_close(client);
            client = NULL;
        }
    }
    if (client)
        rt_control_close(client);
}

static void on_wake(uv_async_t *wake)
{
    struct ctl_poll *poll = wake->data;
    struct ctl_snapshot snapshot;
    bool has_news;

    uv_mutex_lock(&poll->lock);
    has_news = poll->has_news;
    snapshot = poll->newest;
    poll->has_news = false;
    uv_mutex_unlock(&poll->lock);
    if (has_news)
        poll->conf.news(poll->conf.ctx, &snapshot);
}

int ctl_poll_start(const struct ctl_poll_conf *conf, struct ctl_poll **out)
{
    struct ctl_poll *poll = rt_xcalloc(1, sizeof(*poll));
    int err = uv_mutex_init(&poll->lock);

    rt_assert(err == 0);
    err = uv_cond_init(&poll->stop_cond);
    rt_assert(err == 0);
    poll->conf = *conf;
    err = uv_async_init(conf->loop, &poll->wake, on_wake);
    poll->wake.data = poll;
    if (!err) {
        err = uv_thread_create(&poll->thread, thread_main, poll);
        if (err)
            uv_close((uv_handle_t *)&poll->wake, NULL);
    }
    if (err) {
        uv_run(conf->loop, UV_RUN_NOWAIT);
        uv_cond_destroy(&poll->stop_cond);
        uv_mutex_destroy(&poll->lock);
        rt_free(poll);
        return RT_FAIL(err, "cannot start the thread that asks for status: %s", uv_strerror(err));
    }
    *out = poll;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct ctl_poll *poll = handle->data;

    if (poll->has_news)
        ctl_snapshot_release(&poll->newest);
    uv_cond_destroy(&poll->stop_cond);
    uv_mutex_destroy(&poll->lock);
    rt_free(poll);
}

void ctl_poll_now(struct ctl_poll *poll)
{
    uv_mutex_lock(&poll->lock);
    poll->hurry = true;
    uv_cond_signal(&poll->stop_cond);
    uv_mutex_unlock(&poll->lock);
}

void ctl_poll_save(struct ctl_poll *poll, bool rows, bool with_state)
{
    uv_mutex_lock(&poll->lock);
    poll->save =
        (struct ctl_save){.name = RT_SAVE_NAME,
                          .number = rt_wall_ms(),
                          .servers = rows ? poll->conf.replicas[RT_ROLE_EMBEDDING_SERVER] : 0,
                          .with_state = with_state};
    poll->hurry = true;
    uv_cond_signal(&poll->stop_cond);
    uv_mutex_unlock(&poll->lock);
}

void ctl_poll_save_not(struct ctl_poll *poll)
{
    uv_mutex_lock(&poll->lock);
    poll->save = (struct ctl_save){0};
    uv_mutex_unlock(&poll->lock);
}

void ctl_poll_cancel(struct ctl_poll *poll)
{
    uv_mutex_lock(&poll->lock);
    poll->stopping = true;
    uv_cond_signal(&poll->stop_cond);
    uv_mutex_unlock(&poll->lock);
}

void ctl_poll_stop(struct ctl_poll *poll)
{
    if (!poll)
        return;
    ctl_poll_cancel(poll);
    uv_thread_join(&poll->thread);
    uv_close((uv_handle_t *)&poll->wake, on_closed);
}
