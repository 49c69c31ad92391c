/* runtime/member/asker.c -- see asker.h. */
#include "runtime/member/asker.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/member/bus.h"

#include <nats/nats.h>

#define FLUSH_MS 5000 /* a server that does not answer for so long is none */

struct rt_asker {
    natsConnection *connection;
};

/* NATS thread. Without a handler the library prints to stderr what the caller hears as a status. */
static void on_error(natsConnection *nc, natsSubscription *sub, natsStatus status, void *arg)
{
    (void)nc, (void)sub, (void)arg;
    rt_log(RT_LOG_DEBUG, "nats_error text=\"%s\"", natsStatus_GetText(status));
}

int rt_asker_create(const char *url, uint32_t timeout_ms, struct rt_asker **out)
{
    natsOptions *options = NULL;
    natsConnection *connection = NULL;
    char shown[RT_BUS_URL_MAX];
    natsStatus s = natsOptions_Create(&options);

    if (s == NATS_OK)
        s = natsOptions_SetURL(options, url);
    if (s == NATS_OK)
        s = natsOptions_SetName(options, "saffron");
    if (s == NATS_OK)
        s = natsOptions_SetTimeout(options, timeout_ms);
    if (s == NATS_OK)
        s = natsOptions_SetAllowReconnect(options, false);
    if (s == NATS_OK)
        s = natsOptions_SetSendAsap(options, true);
    if (s == NATS_OK)
        s = natsOptions_SetErrorHandler(options, on_error, NULL);
    if (s == NATS_OK)
        s = natsConnection_Connect(&connection, options);
    natsOptions_Destroy(options);
    if (s != NATS_OK)
        return RT_FAIL(RT_ENATS, "no connection to NATS at %s: %s",
                       rt_bus_shown_url(url, shown, sizeof(shown)), natsStatus_GetText(s));
    *out = rt_xcalloc(1, sizeof(**out));
    (*out)->connection = connection;
    return 0;
}

void rt_asker_destroy(struct rt_asker *asker)
{
    if (!asker)
        return;
    natsConnection_Destroy(asker->connection);
    rt_free(asker);
}

/* More answers may come, and up to release 3.5 of the library its reading thread holds no subscription that it has a
 * message for, but locks it (nats.c issue 637). It is past them when it has come by the answer to a later PING, or
 * has ended. */
static void forget(struct rt_asker *asker, natsSubscription *sub)
{
    natsSubscription_Unsubscribe(sub);
    if (natsConnection_FlushTimeout(asker->connection, FLUSH_MS) != NATS_OK)
        natsConnection_Close(asker->connection);
    natsSubscription_Destroy(sub);
}

/* 0 when no more answers are to come, RT_ENATS when the connection is gone. */
static int take_answers(natsSubscription *sub, uint32_t timeout_ms, void *ctx,
                        bool (*answer)(void *ctx, const uint8_t *data, size_t size))
{
    uint64_t end_ns = rt_now_ns() + timeout_ms * RT_MS;
    bool more = true;

    while (more) {
        uint64_t now_ns = rt_now_ns();
        natsMsg *msg = NULL;
        natsStatus s;

        if (now_ns >= end_ns)
            return 0;
        s = natsSubscription_NextMsg(&msg, sub, (int64_t)((end_ns - now_ns + RT_MS - 1) / RT_MS));
        if (s == NATS_TIMEOUT || s == NATS_NO_RESPONDERS)
            return 0;
        if (s != NATS_OK)
            return RT_FAIL(RT_ENATS, "no answer: %s", natsStatus_GetText(s));
        more =
            answer(ctx, (const uint8_t *)natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg));
        natsMsg_Destroy(msg);
    }
    return 0;
}

int rt_asker_ask(struct rt_asker *asker, const char *subject, const void *data, size_t size,
                 uint32_t timeout_ms, void *ctx,
                 bool (*answer)(void *ctx, const uint8_t *data, size_t size))
{
    natsSubscription *sub = NULL;
    natsInbox *inbox = NULL;
    natsStatus s = natsInbox_Create(&inbox);
    int err;

    if (s == NATS_OK)
        s = natsConnection_SubscribeSync(&sub, asker->connection, inbox);
    if (s == NATS_OK)
        s = natsConnection_PublishRequest(asker->connection, subject, inbox, data, (int)size);
    if (s == NATS_OK)
        err = take_answers(sub, timeout_ms, ctx, answer);
    else
        err = RT_FAIL(RT_ENATS, "%s: cannot ask: %s", subject, natsStatus_GetText(s));
    if (sub)
        forget(asker, sub);
    natsInbox_Destroy(inbox);
    return err;
}
