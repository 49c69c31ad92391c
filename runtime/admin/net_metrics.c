/* runtime/admin/net_metrics.c -- loops and rpcs on the page. */
#include "runtime/admin/net_metrics.h"
#include "runtime/base/assert.h"
#include "runtime/base/purpose.h"
#include "runtime/wire/method.h"

#include <stdio.h>

#define NAME_MAX_BYTES  96
#define LABEL_MAX_BYTES 64
#define CREDIT_HELP     "bytes that may wait to be sent, over all connections, and that do"

struct place {
    struct rt_metrics *metrics;
    enum rt_role role;
    const char *labels;
};

/* saffron_<role>_<what> */
static const char *name_of(const struct place *at, const char *what, char name[NAME_MAX_BYTES])
{
    snprintf(name, NAME_MAX_BYTES, "saffron_%s_%s", rt_role_name(at->role), what);
    return name;
}

static void put(const struct place *at, enum rt_metric_kind kind, const char *what,
                const char *help, const _Atomic uint64_t *value)
{
    char name[NAME_MAX_BYTES];

    rt_metrics_u64(at->metrics, kind, name_of(at, what, name), at->labels, help, value);
}

static void put_seconds(const struct place *at, const char *what, const char *help,
                        const struct rt_histogram *histogram)
{
    char name[NAME_MAX_BYTES];

    rt_metrics_histogram(at->metrics, name_of(at, what, name), at->labels, help,
                         RT_HISTOGRAM_SECONDS, histogram);
}

static void put_method(const struct place *at, struct rt_rpc *rpc,
                       const struct wire_method_info *info)
{
    const struct rt_method_stats *served = rt_rpc_served(rpc, info->method), *asked;

    if (info->from == at->role && (info->to != at->role || served)) {
        asked = rt_rpc_asked(rpc, info->method);
        put_seconds(at, "request_seconds", "from a request to its reply or failure, at who asks",
                    &asked->seconds);
        put(at, RT_COUNTER, "requests_failed_total", "requests that ended with an error",
            &asked->failed);
        put(at, RT_GAUGE, "requests_open", "requests that wait for their replies", &asked->open);
    }
    if (info->to == at->role && served) {
        put_seconds(at, "serve_seconds", "from a request's arrival to its reply, at who serves",
                    &served->seconds);
        put(at, RT_COUNTER, "calls_failed_total", "requests answered with an error",
            &served->failed);
        put(at, RT_GAUGE, "calls_open", "requests that are owed a reply", &served->open);
    }
}

void rt_metrics_rpc(struct rt_metrics *metrics, enum rt_role role, struct rt_rpc *rpc)
{
    const struct rt_rpc_stats *stats = rt_rpc_stats(rpc);
    struct place at = {.metrics = metrics, .role = role};
    char labels[LABEL_MAX_BYTES];

    put(&at, RT_COUNTER, "sent_bytes_total", "bytes of frames sent", &stats->bytes_out);
    put(&at, RT_COUNTER, "saved_bytes_total", "bytes that packing took off payloads sent",
        &stats->bytes_saved);
    put(&at, RT_COUNTER, "received_bytes_total", "bytes of frames received", &stats->bytes_in);
    put(&at, RT_COUNTER, "frames_bad_total", "malformed frames; each closed its connection",
        &stats->frames_bad);
    put(&at, RT_COUNTER, "reconnects_total", "connections to peers made anew", &stats->reconnects);
    put(&at, RT_COUNTER, "links_refused_total", "connections refused by us or by the other end",
        &stats->links_refused);
    put(&at, RT_COUNTER, "link_paused_total",
        "times that a connection was not read on, because its replies were not taken",
        &stats->links_paused);
    at.labels = "kind=\"limit\"";
    put(&at, RT_GAUGE, "link_credit_bytes", CREDIT_HELP, &stats->credit_budget);
    at.labels = "kind=\"lent\"";
    put(&at, RT_GAUGE, "link_credit_bytes", CREDIT_HELP, &stats->credit_lent);
    at.labels = labels;
    for (size_t i = 0; i < wire_method_count; i++) {
        snprintf(labels, sizeof(labels), "method=\"%s\"", wire_methods[i].name);
        put_method(&at, rpc, &wire_methods[i]);
    }
}

/* Whom a role talks to: the methods' two ends, replies included. */
static bool talk(enum rt_role a, enum rt_role b)
{
    for (size_t i = 0; i < wire_method_count; i++) {
        const struct wire_method_info *info = &wire_methods[i];

        if ((info->from == a && info->to == b) || (info->from == b && info->to == a))
            return true;
    }
    return false;
}

void rt_metrics_hops(struct rt_metrics *metrics, enum rt_role role)
{
    char labels[LABEL_MAX_BYTES];
    struct place at = {.metrics = metrics, .role = role, .labels = labels};

    for (int to = 0; to < RT_ROLE_COUNT; to++) {
        if (!talk(role, (enum rt_role)to))
            continue;
        for (int purpose = 0; purpose < RT_PURPOSES; purpose++) {
            snprintf(labels, sizeof(labels), "to=\"%s\",purpose=\"%s\"",
                     rt_role_name((enum rt_role)to), rt_purpose_name((enum rt_purpose)purpose));
            put(&at, RT_COUNTER, "hop_bytes_total", "bytes of frames sent, by the role they go to",
                rt_purpose_sent_bytes((enum rt_purpose)purpose, (enum rt_role)to));
        }
    }
}

void rt_metrics_loop(struct rt_metrics *metrics, enum rt_role role, const char *name,
                     const struct rt_loop *loop)
{
    const struct rt_loop_stats *stats = rt_loop_stats(loop);
    struct place at = {.metrics = metrics, .role = role};
    char labels[LABEL_MAX_BYTES], busy[NAME_MAX_BYTES];

    put(&at, RT_GAUGE, "send_queue_bytes", "bytes that wait for sockets", &stats->queued_bytes);
    snprintf(labels, sizeof(labels), "loop=\"%s\"", name);
    at.labels = labels;
    rt_metrics_f64(metrics, RT_COUNTER, name_of(&at, "loop_busy_seconds_total", busy), labels,
                   "time that the loop worked", &stats->busy_seconds);
    put_seconds(&at, "loop_turn_seconds", "time that the loop worked at a stretch: 50 ms at most",
                &stats->turn);
}
