/* runtime/member/bus.c -- what runs on the loop, over nats.c; this file and asker.c call it, and turn its
 * statuses into ours.
 *
 * nats.c connects, reconnects and delivers on threads of its own, and gives no moment after which none of
 * its callbacks can run. So what the callbacks touch, the inbox, is apart from the bus and counted: the
 * bus holds it (until its uv_async is closed), and so do every subscription (until its "complete"
 * callback) and the connection (until "closed"). The last of them frees it.
 *
 *   NATS threads: lock, push, uv_async_send, unlock   -->   loop: pop, message() or change()
 *   loop: rt_bus_publish pushes a copy                -->   sender thread: pop, natsConnection_Publish
 *
 * Roles have their data on the loop that holds the bus, and the library writes in the caller's thread: a
 * server that does not read would hold it for the write deadline, and any call of the library waits for a
 * lock that is held while it connects. So the loop calls nothing but the two queues, and whether NATS is
 * there it knows from the callbacks. A message belongs to the connection that it was given for: one that the
 * sender finds after a loss is dropped, and one that slips into the moment of loss finds a reconnect buffer
 * of one byte, which takes one message, and the connection is given up with it (the library would otherwise deliver it
 * after the outage).
 *
 * The library closes a connection for good when its server dies in the middle of the first handshake, for all
 * that it was told to retry: then the sender makes another, with the same subscriptions. */
#include "runtime/member/bus.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/queue.h"

#include <nats/nats.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <uv.h>

#define CONNECT_TIMEOUT_MS  1000
#define RECONNECT_WAIT_MS   500
#define RECONNECT_JITTER_MS 250
#define PING_INTERVAL_MS    2000
#define PINGS_OUT_MAX       2
#define WRITE_DEADLINE_MS   1000 /* then the connection is given up */
#define RECONNECT_BYTES     1

struct item {
    natsMsg *msg;
    uint64_t arrived_ns;
};

struct inbox {
    pthread_mutex_t lock;
    uv_async_t wake;
    int holders;            /* under lock */
    bool open;              /* under lock: the loop still takes */
    bool connected;         /* under lock */
    bool closed;            /* under lock: the connection is, and its last callback has run */
    uint64_t connects;      /* under lock: how often it came to be connected */
    struct rt_queue *items; /* struct item * */
    _Atomic uint64_t lost;
    struct rt_bus *bus; /* Touched by: loop */
};

/* Work for the sender: publish, on the connection that it was given for, or subscribe (connects is 0). */
struct outgoing {
    uint64_t connects;
    char *subject;
    size_t size;
    uint8_t data[];
};

struct rt_bus {
    struct rt_bus_conf conf;
    struct inbox *inbox;
    bool connected;          /* Touched by: loop. As last told to conf.change */
    size_t n_asked;          /* Touched by: loop. Subscriptions */
    struct rt_queue *outbox; /* struct outgoing * */
    pthread_t sender;
    bool has_sender;
    atomic_bool ending;
    /* Touched by: the sender while it runs, else the loop. */
    natsConnection *connection;
    char *subject[RT_BUS_SUBJECTS_MAX];
    natsSubscription *subscription[RT_BUS_SUBJECTS_MAX]; /* NULL: not yet */
    size_t n_subjects;
    uint64_t renewed_ns;
};

const char *rt_bus_shown_url(const char *url, char *out, size_t size)
{
    char clean[RT_BUS_URL_MAX];
    size_t n = 0;

    /* In each of the comma-separated URLs: what stands between "//" and "@" is left out. */
    while (*url && n + 1 < sizeof(clean)) {
        size_t len = strcspn(url, ",") + (url[strcspn(url, ",")] == ',');
        const char *scheme = memmem(url, len, "//", 2);
        const char *from = scheme ? scheme + 2 : url;
        const char *at = memrchr(from, '@', len - (size_t)(from - url));

        for (size_t i = 0; i < len && n + 1 < sizeof(clean); i++) {
            if (!at || url + i < from || url + i > at)
                clean[n++] = url[i];
        }
        url += len;
    }
    clean[n] = '\0';
    return rt_log_escape(clean, out, size);
}

/* ---- the inbox ---- */

static void item_free(struct item *item)
{
    natsMsg_Destroy(item->msg);
    rt_free(item);
}

static void inbox_hold(struct inbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->holders++;
    pthread_mutex_unlock(&inbox->lock);
}

static void inbox_drop(void *arg)
{
    struct inbox *inbox = arg;
    struct item *item;
    bool last;

    pthread_mutex_lock(&inbox->lock);
    last = --inbox->holders == 0;
    pthread_mutex_unlock(&inbox->lock);
    if (!last)
        return;
    while ((item = rt_queue_try_pop(inbox->items)))
        item_free(item);
    rt_queue_destroy(inbox->items);
    pthread_mutex_destroy(&inbox->lock);
    rt_free(inbox);
}

static void on_async_closed(uv_handle_t *handle)
{
    inbox_drop(handle->data);
}

/* NATS thread: hand over, touch nothing else. */
static void on_message(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
{
    struct inbox *inbox = arg;
    struct item *item = rt_xmalloc(sizeof(*item));

    (void)nc;
    (void)sub;
    *item = (struct item){msg, rt_now_ns()};
    pthread_mutex_lock(&inbox->lock);
    if (inbox->open && rt_queue_try_push(inbox->items, item)) {
        uv_async_send(&inbox->wake);
        item = NULL;
    }
    pthread_mutex_unlock(&inbox->lock);
    if (item) {
        atomic_fetch_add_explicit(&inbox->lost, 1, memory_order_relaxed);
        item_free(item);
    }
}

/* NATS thread. */
static void tell(struct inbox *inbox, bool connected)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->connected = connected;
    inbox->connects += connected;
    if (inbox->open)
        uv_async_send(&inbox->wake);
    pthread_mutex_unlock(&inbox->lock);
}

static void on_connected(natsConnection *nc, void *arg)
{
    (void)nc;
    tell(arg, true);
}

static void on_lost(natsConnection *nc, void *arg)
{
    (void)nc;
    tell(arg, false);
}

static void on_closed(natsConnection *nc, void *arg)
{
    struct inbox *inbox = arg;

    (void)nc;
    pthread_mutex_lock(&inbox->lock);
    inbox->closed = true;
    pthread_mutex_unlock(&inbox->lock);
    inbox_drop(inbox);
}

/* NATS thread. The library prints to stderr when it has no handler; what it would say is seen by us as
 * a lost connection or a lost message. */
static void on_error(natsConnection *nc, natsSubscription *sub, natsStatus status, void *arg)
{
    (void)nc;
    (void)sub;
    (void)arg;
    rt_log(RT_LOG_DEBUG, "nats_error text=\"%s\"", natsStatus_GetText(status));
}

/* The number of the connection that is there; 0: none. */
static uint64_t told_connection(struct inbox *inbox)
{
    uint64_t number;

    pthread_mutex_lock(&inbox->lock);
    number = inbox->connected ? inbox->connects : 0;
    pthread_mutex_unlock(&inbox->lock);
    return number;
}

/* ---- the loop ---- */

static void on_wake(uv_async_t *handle)
{
    struct inbox *inbox = handle->data;
    bool connected = told_connection(inbox) != 0;
    struct item *item;

    if (inbox->bus && connected != inbox->bus->connected) {
        inbox->bus->connected = connected;
        inbox->bus->conf.change(inbox->bus->conf.ctx, connected);
    }
    /* A callback may destroy the bus: look at it anew each time. */
    while (inbox->bus && (item = rt_queue_try_pop(inbox->items))) {
        struct rt_bus_message message = {
            .subject = natsMsg_GetSubject(item->msg),
            .reply = natsMsg_GetReply(item->msg),
            .data = (const uint8_t *)natsMsg_GetData(item->msg),
            .size = (size_t)natsMsg_GetDataLength(item->msg),
            .arrived_ns = item->arrived_ns,
        };

        inbox->bus->conf.message(inbox->bus->conf.ctx, &message);
        item_free(item);
    }
}

/* ---- connecting ---- */

static natsStatus set_options(natsOptions *o, const struct rt_bus_conf *conf, struct inbox *inbox)
{
    natsStatus s = natsOptions_SetURL(o, conf->url);

    if (s == NATS_OK)
        s = natsOptions_SetName(o, conf->name);
    if (s == NATS_OK)
        s = natsOptions_SetTimeout(o, CONNECT_TIMEOUT_MS);
    if (s == NATS_OK)
        s = natsOptions_SetSendAsap(o, true);
    if (s == NATS_OK)
        s = natsOptions_SetNoEcho(o, true);
    if (s == NATS_OK)
        s = natsOptions_SetMaxReconnect(o, -1);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectWait(o, RECONNECT_WAIT_MS);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectJitter(o, RECONNECT_JITTER_MS, RECONNECT_JITTER_MS);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectBufSize(o, RECONNECT_BYTES);
    if (s == NATS_OK)
        s = natsOptions_SetPingInterval(o, PING_INTERVAL_MS);
    if (s == NATS_OK)
        s = natsOptions_SetMaxPingsOut(o, PINGS_OUT_MAX);
    if (s == NATS_OK)
        s = natsOptions_SetWriteDeadline(o, WRITE_DEADLINE_MS);
    if (s == NATS_OK)
        s = natsOptions_UseGlobalMessageDelivery(o, true);
    if (s == NATS_OK)
        s = natsOptions_SetRetryOnFailedConnect(o, true, on_connected, inbox);
    if (s == NATS_OK)
        s = natsOptions_SetDisconnectedCB(o, on_lost, inbox);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectedCB(o, on_connected, inbox);
    if (s == NATS_OK)
        s = natsOptions_SetClosedCB(o, on_closed, inbox);
    if (s == NATS_OK)
        s = natsOptions_SetErrorHandler(o, on_error, NULL);
    return s;
}

static int start_connection(struct rt_bus *bus)
{
    natsOptions *options = NULL;
    char shown[RT_BUS_URL_MAX];
    natsStatus s;

    s = nats_SetMessageDeliveryPoolSize(1); /* one thread for all subscriptions */
    if (s == NATS_OK)
        s = natsOptions_Create(&options);
    if (s == NATS_OK)
        s = set_options(options, &bus->conf, bus->inbox);
    if (s == NATS_OK) {
        inbox_hold(bus->inbox); /* until on_closed */
        s = natsConnection_Connect(&bus->connection, options);
        if (s ==
            NATS_OK) { /* no callback for a first connect that succeeds; it may be lost by now */
            tell(bus->inbox, true);
            if (natsConnection_Status(bus->connection) != NATS_CONN_STATUS_CONNECTED)
                tell(bus->inbox, false);
        } else if (s == NATS_NOT_YET_CONNECTED) {
            s = NATS_OK;
        } else {
            inbox_drop(bus->inbox);
        }
    }
    natsOptions_Destroy(options);
    if (s == NATS_OK)
        return 0;
    return RT_FAIL(RT_EUSAGE, "NATS at '%s' cannot be used: %s",
                   rt_bus_shown_url(bus->conf.url, shown, sizeof(shown)), natsStatus_GetText(s));
}

/* ---- the sender's thread ---- */

static void subscribe(struct rt_bus *bus, size_t i)
{
    natsSubscription *sub = NULL;
    natsStatus s;

    s = natsConnection_Subscribe(&sub, bus->connection, bus->subject[i], on_message, bus->inbox);
    if (s == NATS_OK) {
        inbox_hold(bus->inbox); /* until it is complete */
        s = natsSubscription_SetOnCompleteCB(sub, inbox_drop, bus->inbox);
        if (s != NATS_OK) { /* closed meanwhile, before a message could come */
            natsSubscription_Destroy(sub);
            inbox_drop(bus->inbox);
        }
    }
    if (s != NATS_OK) { /* it is closed: renew() comes back to this */
        rt_log(RT_LOG_DEBUG, "nats_not_subscribed subject=%s reason=\"%s\"", bus->subject[i],
               natsStatus_GetText(s));
        return;
    }
    bus->subscription[i] = sub;
}

/* The connection first, which ends the thread that reads: up to release 3.5 of the library that thread holds no
 * subscription that it has a message for, and would lock one that is destroyed meanwhile (nats.c issue 637). */
static void disconnect(struct rt_bus *bus)
{
    natsConnection_Close(bus->connection);
    for (size_t i = 0; i < bus->n_subjects; i++) {
        natsSubscription_Destroy(bus->subscription[i]);
        bus->subscription[i] = NULL;
    }
    natsConnection_Destroy(bus->connection);
    bus->connection = NULL;
}

static bool is_closed(struct rt_bus *bus)
{
    bool closed;

    pthread_mutex_lock(&bus->inbox->lock);
    closed = bus->inbox->closed;
    pthread_mutex_unlock(&bus->inbox->lock);
    return closed || !bus->connection;
}

/* A connection that the library has closed, for a new one. */
static void renew(struct rt_bus *bus)
{
    bus->renewed_ns = rt_now_ns();
    rt_log(RT_LOG_DEBUG, "nats_connection_renewed");
    disconnect(bus);
    pthread_mutex_lock(&bus->inbox->lock);
    bus->inbox->closed = bus->inbox->connected = false;
    pthread_mutex_unlock(&bus->inbox->lock);
    if (start_connection(bus) != 0)
        return; /* said at the first connection, if it is a matter of the URL; else tried again */
    for (size_t i = 0; i < bus->n_subjects; i++)
        subscribe(bus, i);
}

static void publish(struct rt_bus *bus, const struct outgoing *out)
{
    natsStatus s;

    if (told_connection(bus->inbox) != out->connects ||
        natsConnection_Status(bus->connection) != NATS_CONN_STATUS_CONNECTED)
        return;
    s = natsConnection_Publish(bus->connection, out->subject, out->data, (int)out->size);
    if (s != NATS_OK)
        rt_log(RT_LOG_DEBUG, "nats_not_published subject=%s reason=\"%s\"", out->subject,
               natsStatus_GetText(s));
    else if (natsConnection_Status(bus->connection) != NATS_CONN_STATUS_CONNECTED)
        natsConnection_Close(bus->connection); /* renew() follows */
}

static void do_work(struct rt_bus *bus, struct outgoing *out)
{
    if (out->connects) {
        publish(bus, out);
        rt_free(out->subject);
    } else {
        bus->subject[bus->n_subjects++] = out->subject;
        subscribe(bus, bus->n_subjects - 1);
    }
    rt_free(out);
}

/* Until the outbox is closed and empty. */
static void *sender_main(void *arg)
{
    struct rt_bus *bus = arg;

    pthread_setname_np(pthread_self(), "nats-sender");
    for (;;) {
        bool ending =
            atomic_load(&bus->ending); /* before the look: nothing is pushed after it is set */
        struct outgoing *out = rt_queue_pop(bus->outbox, RECONNECT_WAIT_MS * RT_MS);

        if (out)
            do_work(bus, out);
        else if (ending)
            return NULL;
        else if (is_closed(bus) && rt_now_ns() - bus->renewed_ns >= RECONNECT_WAIT_MS * RT_MS)
            renew(bus);
    }
}

/* ---- life ---- */

static struct inbox *inbox_new(struct rt_bus *bus)
{
    struct inbox *inbox = rt_xcalloc(1, sizeof(*inbox));
    int err = pthread_mutex_init(&inbox->lock, NULL);

    rt_assert(err == 0);
    inbox->items = rt_queue_create(RT_BUS_INBOX_MAX);
    inbox->holders = 1; /* until the async is closed */
    inbox->open = true;
    inbox->bus = bus;
    err = uv_async_init(rt_loop_uv(bus->conf.loop), &inbox->wake, on_wake);
    rt_assert(err == 0);
    inbox->wake.data = inbox;
    return inbox;
}

int rt_bus_create(const struct rt_bus_conf *conf, struct rt_bus **out)
{
    struct rt_bus *bus;
    int err;

    if (strnlen(conf->url, RT_BUS_URL_MAX) >= RT_BUS_URL_MAX)
        return RT_FAIL(RT_EUSAGE, "NATS URL is longer than %d bytes", RT_BUS_URL_MAX - 1);
    bus = rt_xcalloc(1, sizeof(*bus));
    bus->conf = *conf;
    bus->inbox = inbox_new(bus);
    bus->outbox = rt_queue_create(RT_BUS_OUTBOX_MAX);
    err = start_connection(bus);
    if (!err) {
        err = -pthread_create(&bus->sender, NULL, sender_main, bus);
        bus->has_sender = !err;
        if (err)
            rt_fail(err, "no thread for sending to NATS: %s", strerror(-err));
    }
    if (err) {
        rt_bus_destroy(bus);
        return err;
    }
    *out = bus;
    return 0;
}

void rt_bus_destroy(struct rt_bus *bus)
{
    struct inbox *inbox;

    if (!bus)
        return;
    inbox = bus->inbox;
    inbox->bus = NULL;
    pthread_mutex_lock(&inbox->lock);
    inbox->open = false;
    pthread_mutex_unlock(&inbox->lock);
    /* What was published before has left, or will not: a server that does not read ends the connection, and
     * with it all that waits, after one write deadline. */
    atomic_store(&bus->ending, true);
    rt_queue_close(bus->outbox);
    if (bus->has_sender)
        pthread_join(bus->sender, NULL);
    rt_queue_destroy(bus->outbox);
    disconnect(bus);
    for (size_t i = 0; i < bus->n_subjects; i++)
        rt_free(bus->subject[i]);
    uv_close((uv_handle_t *)&inbox->wake, on_async_closed);
    rt_free(bus);
}

bool rt_bus_connected(const struct rt_bus *bus)
{
    return told_connection(bus->inbox) != 0;
}

static int give_work(struct rt_bus *bus, uint64_t connects, const char *subject, const void *data,
                     size_t size)
{
    struct outgoing *out = rt_xmalloc(sizeof(*out) + size);

    *out = (struct outgoing){.connects = connects, .subject = rt_xstrdup(subject), .size = size};
    if (size)
        memcpy(out->data, data, size);
    if (rt_queue_try_push(bus->outbox, out))
        return 0;
    rt_free(out->subject);
    rt_free(out);
    return RT_FAIL(RT_ENATS, "%s: %d messages for NATS wait already", subject, RT_BUS_OUTBOX_MAX);
}

int rt_bus_subscribe(struct rt_bus *bus, const char *subject)
{
    rt_assert(bus->n_asked < RT_BUS_SUBJECTS_MAX);
    bus->n_asked++;
    return give_work(bus, 0, subject, NULL, 0);
}

int rt_bus_publish(struct rt_bus *bus, const char *subject, const void *data, size_t size)
{
    uint64_t connects = told_connection(bus->inbox);

    rt_assert(size <= RT_BUS_MESSAGE_MAX);
    if (!connects)
        return RT_FAIL(RT_ENATS, "%s: not published, NATS is away", subject);
    return give_work(bus, connects, subject, data, size);
}

uint64_t rt_bus_lost(const struct rt_bus *bus)
{
    return atomic_load_explicit(&bus->inbox->lost, memory_order_relaxed);
}
