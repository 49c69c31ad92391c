/* runtime/process/page.c -- a process's own numbers, and where they are shown.
 *
 * What somebody counts is on the page as it is. What nobody counts (memory, files, CPU time) is asked for when a page
 * is printed, at most twice a second however many ask. The last page is printed between the end of the control loop and
 * that of the role, whose numbers it shows, and is on its way while the role tears down. */
#include "runtime/process/page.h"
#include "runtime/admin/net_metrics.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/purpose.h"
#include "runtime/process/limit.h"
#include "runtime/process/push.h"
#include "runtime/process/status.h"
#include "runtime/process/version.h"

#include <stdio.h>

#define PUSH_NS        (15 * RT_S)
#define SAMPLE_NS      (500 * RT_MS)
#define NAME_MAX_BYTES 96

/* Touched by: the control loop, or who prints the last page. */
struct sample {
    uint64_t taken_ns; /* 0: never */
    _Atomic double cpu_seconds, started, purpose_seconds[RT_PURPOSES];
    _Atomic uint64_t resident, allocated, active, metadata, retained, peak, limit;
    _Atomic uint64_t open_files, open_files_limit, ready, connected, one;
};

struct rt_page {
    struct rt_page_conf conf;
    struct rt_metrics *metrics;
    struct rt_admin *admin;
    struct rt_push *push; /* NULL: no gateway */
    struct rt_timer timer;
    struct sample now;
    bool has_allocator; /* it tells what it holds */
    bool is_over;
};

static void set(_Atomic uint64_t *gauge, uint64_t value)
{
    atomic_store_explicit(gauge, value, memory_order_relaxed);
}

static void sample(void *arg)
{
    struct rt_page *page = arg;
    struct sample *now = &page->now;
    struct rt_mem_held held;
    struct rt_usage usage;
    uint64_t at = rt_now_ns();

    set(&now->ready, !page->is_over && page->conf.ready(page->conf.ctx));
    set(&now->connected, (uint64_t)page->conf.connected(page->conf.ctx));
    if (now->taken_ns && at - now->taken_ns < SAMPLE_NS && !page->is_over)
        return;
    now->taken_ns = at;
    rt_usage_now(&usage);
    atomic_store_explicit(&now->cpu_seconds, usage.cpu_seconds, memory_order_relaxed);
    for (int purpose = 0; purpose < RT_PURPOSES; purpose++)
        atomic_store_explicit(&now->purpose_seconds[purpose],
                              (double)rt_purpose_cpu_ns((enum rt_purpose)purpose) * 1e-9,
                              memory_order_relaxed);
    set(&now->resident, usage.rss_bytes);
    set(&now->peak, usage.peak_rss_bytes);
    set(&now->limit, rt_memory_limit(""));
    set(&now->open_files, rt_open_files());
    set(&now->open_files_limit, rt_open_files_limit());
    if (!rt_mem_held(&held))
        return;
    set(&now->allocated, held.allocated);
    set(&now->active, held.active);
    set(&now->metadata, held.metadata);
    set(&now->retained, held.retained);
}

/* ---- names ---- */

static const char *name_of(const struct rt_page *page, const char *what, char name[NAME_MAX_BYTES])
{
    snprintf(name, NAME_MAX_BYTES, "saffron_%s_%s", rt_role_name(page->conf.role), what);
    return name;
}

static void put(struct rt_page *page, enum rt_metric_kind kind, const char *what,
                const char *labels, const char *help, const _Atomic uint64_t *value)
{
    char name[NAME_MAX_BYTES];

    rt_metrics_u64(page->metrics, kind, name_of(page, what, name), labels, help, value);
}

static void put_seconds(struct rt_page *page, enum rt_metric_kind kind, const char *what,
                        const char *labels, const char *help, const _Atomic double *value)
{
    char name[NAME_MAX_BYTES];

    rt_metrics_f64(page->metrics, kind, name_of(page, what, name), labels, help, value);
}

static void put_memory(struct rt_page *page)
{
    const struct sample *now = &page->now;
    const struct {
        const char *labels;
        const _Atomic uint64_t *value;
    } kind[] = {
        {"kind=\"resident\"", &now->resident}, {"kind=\"allocated\"", &now->allocated},
        {"kind=\"active\"", &now->active},     {"kind=\"metadata\"", &now->metadata},
        {"kind=\"retained\"", &now->retained},
    };

    for (size_t i = 0; i < (page->has_allocator ? ARRAY_LEN(kind) : 1); i++)
        put(page, RT_GAUGE, "memory_bytes", kind[i].labels,
            "memory of the process: resident, and as its allocator tells", kind[i].value);
    put(page, RT_GAUGE, "peak_resident_bytes", NULL, "largest resident memory so far", &now->peak);
    put(page, RT_GAUGE, "memory_limit_bytes", NULL,
        "least of the cgroups' limits and the machine's memory", &now->limit);
}

static void put_info(struct rt_page *page)
{
    char index[16];
    struct rt_strbuf labels;

    snprintf(index, sizeof(index), "%u", page->conf.index);
    rt_strbuf_init(&labels);
    rt_metrics_label(&labels, "version", RT_VERSION);
    rt_metrics_label(&labels, "job", page->conf.job);
    rt_metrics_label(&labels, "index", index);
    put(page, RT_GAUGE, "info", labels.text, "which process this is: always 1", &page->now.one);
    rt_strbuf_release(&labels);
}

static void put_purposes(struct rt_page *page)
{
    char labels[32];

    for (int purpose = 0; purpose < RT_PURPOSES; purpose++) {
        snprintf(labels, sizeof(labels), "purpose=\"%s\"",
                 rt_purpose_name((enum rt_purpose)purpose));
        put_seconds(page, RT_COUNTER, "purpose_cpu_seconds_total", labels,
                    "CPU time by what the process worked on", &page->now.purpose_seconds[purpose]);
    }
    rt_metrics_hops(page->metrics, page->conf.role);
}

static void put_all(struct rt_page *page)
{
    const struct sample *now = &page->now;

    put_info(page);
    put_seconds(page, RT_GAUGE, "start_time_seconds", NULL, "when the process began, since 1970",
                &now->started);
    put(page, RT_GAUGE, "ready", NULL, "1 when the role does its work", &now->ready);
    put(page, RT_GAUGE, "nats_connected", NULL, "1 while NATS is reached", &now->connected);
    put_seconds(page, RT_COUNTER, "cpu_seconds_total", NULL,
                "CPU time of the process, user and system", &now->cpu_seconds);
    put_purposes(page);
    put_memory(page);
    put(page, RT_GAUGE, "open_files", NULL, "open descriptors", &now->open_files);
    put(page, RT_GAUGE, "open_files_limit", NULL, "how many there may be", &now->open_files_limit);
    put(page, RT_COUNTER, "log_messages_total", "level=\"error\"",
        "lines of the log, also those that its level leaves out", rt_log_count(RT_LOG_ERROR));
    put(page, RT_COUNTER, "log_messages_total", "level=\"warn\"",
        "lines of the log, also those that its level leaves out", rt_log_count(RT_LOG_WARN));
    rt_metrics_loop(page->metrics, page->conf.role, "control", page->conf.loop);
}

/* ---- the gateway ---- */

static void on_push(void *arg)
{
    struct rt_page *page = arg;
    struct rt_strbuf text;

    rt_timer_start(rt_loop_io(page->conf.loop), &page->timer, PUSH_NS);
    rt_strbuf_init(&text);
    rt_metrics_print(page->metrics, &text);
    rt_push_give(page->push, &text);
}

static int start_pushing(struct rt_page *page)
{
    struct rt_push_conf conf = {
        .address = page->conf.gateway,
        .job = page->conf.job,
        .role = rt_role_name(page->conf.role),
        .index = page->conf.index,
    };
    const struct rt_push_stats *stats;
    int err = rt_push_create(&conf, &page->push);

    if (err)
        return err;
    stats = rt_push_stats(page->push);
    put(page, RT_COUNTER, "gateway_pages_total", "result=\"taken\"",
        "pages sent to the push gateway", &stats->taken);
    put(page, RT_COUNTER, "gateway_pages_total", "result=\"failed\"",
        "pages sent to the push gateway", &stats->failed);
    page->timer.fire = on_push;
    page->timer.arg = page;
    rt_timer_start(rt_loop_io(page->conf.loop), &page->timer, PUSH_NS);
    return 0;
}

void rt_page_last(struct rt_page *page)
{
    struct rt_strbuf text;

    page->is_over = true;
    if (!page->push)
        return;
    rt_timer_stop(rt_loop_io(page->conf.loop), &page->timer);
    rt_strbuf_init(&text);
    rt_metrics_print(page->metrics, &text);
    rt_push_last(page->push, &text);
}

/* ---- life ---- */

int rt_page_create(const struct rt_page_conf *conf, struct rt_page **out)
{
    struct rt_page *page = rt_xcalloc(1, sizeof(*page));
    struct rt_admin_conf admin = {
        .loop = conf->loop,
        .bind = conf->bind,
        .port = conf->port,
        .ctx = conf->ctx,
        .ready = conf->ready,
        .status = conf->status,
    };
    struct rt_mem_held held;
    int err;

    page->conf = *conf;
    page->has_allocator = rt_mem_held(&held);
    atomic_store(&page->now.started, (double)rt_wall_ms() * 1e-3);
    set(&page->now.one, 1);
    page->metrics = rt_metrics_create();
    admin.metrics = page->metrics;
    put_all(page);
    rt_metrics_on_print(page->metrics, sample, page);
    err = rt_admin_create(&admin, &page->admin);
    if (!err && conf->gateway)
        err = start_pushing(page);
    if (err) {
        rt_page_destroy(page);
        return err;
    }
    *out = page;
    return 0;
}

void rt_page_destroy(struct rt_page *page)
{
    if (!page)
        return;
    if (page->push)
        rt_timer_stop(rt_loop_io(page->conf.loop), &page->timer);
    rt_admin_destroy(page->admin);
    rt_push_destroy(page->push);
    rt_metrics_destroy(page->metrics);
    rt_free(page);
}

struct rt_metrics *rt_page_metrics(struct rt_page *page)
{
    return page->metrics;
}

uint16_t rt_page_port(const struct rt_page *page)
{
    return rt_admin_port(page->admin);
}
