/* runtime/base/trace.c -- spans of some batches, each a line of this process's trace file.
 *
 *   [
 *   {"ts":..,"ph":"M",.. "name":"saffron","args":{ who, host, every, clock }},
 *   {"ts":12.345,"dur":6.789,"ph":"X","pid":P,"tid":R,"cat":"work","name":"pool",..},
 *
 * P stands for the batch, R for the row (trace.h). Each event is built on the stack and leaves in one write(2) with
 * O_APPEND, as log lines do: threads need no lock, and of a process that is killed all is there but what it was about to
 * say. The list is never closed: viewers take it as it is, and `saffron local` makes one whole document of all
 * processes' lines (ctl/trace.c). Rejected: a ring in memory that is written at the end, since the runs whose trace is
 * wanted most are those that end badly; and a buffer in front of write(2), since one batch in a hundred makes some ten
 * events.
 *
 * A process that is started anew goes on in the same file; whatever its predecessor did not finish ends with that line.
 *
 * What names a batch and a row comes before its first event. Which have been named is kept in a table that forgets: what
 * is named twice is none the worse.
 *
 * The file is bounded. When it is full, or cannot be written, that is said once in the log, and events are counted only. */
#include "runtime/base/trace.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAMED_MAX    1024u /* rows that are known to have been named; a power of two */
#define ROW_NAME_MAX 96
#define PATH_SHOWN   256

_Atomic uint32_t rt_trace_every;

/* Set by open, before anybody traces. */
static struct {
    int fd;
    enum rt_role role;
    uint32_t index;
    uint64_t bytes_max;
    const char *(*method_name)(uint16_t method);
    char path[PATH_SHOWN];
} file = {.fd = -1};

/* Touched by: any thread that traces. */
static _Atomic uint64_t bytes, lost;
static _Atomic bool told;
static _Atomic uint64_t named[NAMED_MAX];

/* ---- lines ---- */

struct line {
    char text[RT_TRACE_LINE_MAX * 4]; /* an event with its arrow, and the two before it */
    size_t size;
};

__attribute__((format(printf, 2, 3))) static void add(struct line *line, const char *format, ...)
{
    size_t room = sizeof(line->text) - line->size;
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(line->text + line->size, room, format, args);
    va_end(args);
    if (n > 0)
        line->size += (size_t)n < room ? (size_t)n : room - 1;
}

static void lose(const char *why)
{
    atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed);
    if (!atomic_exchange(&told, true))
        rt_log(RT_LOG_WARN, "trace_ends path=%s reason=\"%s\"", file.path, why);
}

/* The room is taken before the write, so threads together stay below the limit. What was written in part would spoil the
 * line after it: that is the end of the trace. */
static void put(const struct line *line)
{
    uint64_t end = atomic_fetch_add_explicit(&bytes, line->size, memory_order_relaxed) + line->size;
    ssize_t n;

    if (end > file.bytes_max) {
        atomic_fetch_sub_explicit(&bytes, line->size, memory_order_relaxed);
        lose("the file has its largest size");
        return;
    }
    do
        n = write(file.fd, line->text, line->size);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)line->size)
        return;
    lose(n < 0 ? strerror(errno) : "the disk is full");
    atomic_store_explicit(&rt_trace_every, 0, memory_order_relaxed);
}

/* Microseconds, as the format wants them, without losing a nanosecond. */
static void add_time(struct line *line, const char *key, uint64_t ns)
{
    add(line, "\"%s\":%" PRIu64 ".%03u,", key, ns / 1000, (unsigned)(ns % 1000));
}

/* ---- batches and rows ---- */

/* 31 bits; two of a split that are 32,768 batches apart share it. */
static uint32_t number_of_batch(uint64_t batch_id)
{
    return (uint32_t)((batch_id << 16 | batch_id >> 48) & 0x7fffffff);
}

static void name_place(char *out, size_t size, const struct rt_trace_place *place)
{
    snprintf(out, size, "%s/%u.%u", rt_role_name(place->role), place->index, place->loop);
}

/* From top to bottom as a batch goes; the calls of a loop below its work. */
static uint32_t number_of_row(const char *name, enum rt_role role, bool calls)
{
    static const uint32_t order[RT_ROLE_COUNT] = {
        [RT_ROLE_DATA_COMPOSE] = 1,
        [RT_ROLE_TRAINER] = 3,
        [RT_ROLE_MIDDLEWARE] = 5,
        [RT_ROLE_EMBEDDING_SERVER] = 7,
    };
    uint64_t hash = rt_hash_bytes(name, strlen(name));

    return (order[role] + calls) << 24 | (uint32_t)(hash & 0xffffff);
}

/* The head of every event but its times; before it, if need be, who batch and row are. */
static uint32_t name_row(struct line *line, uint64_t batch_id, const struct rt_trace_place *at,
                         const struct rt_trace_place *calls)
{
    char name[ROW_NAME_MAX], place[ROW_NAME_MAX / 2 - 4], to[ROW_NAME_MAX / 2 - 4];
    uint32_t pid = number_of_batch(batch_id), tid;
    uint64_t key, split = batch_id >> 48, sequence = batch_id & ((1ull << 48) - 1);

    name_place(place, sizeof(place), at);
    if (calls)
        name_place(to, sizeof(to), calls);
    snprintf(name, sizeof(name), calls ? "%s to %s" : "%s", place, calls ? to : "");
    tid = number_of_row(name, at->role, calls != NULL);
    key = (uint64_t)pid << 32 | tid;
    if (atomic_exchange_explicit(&named[(key ^ key >> 32) % NAMED_MAX], key,
                                 memory_order_relaxed) == key)
        return tid;
    add(line,
        "{\"ph\":\"M\",\"pid\":%u,\"tid\":%u,\"name\":\"process_name\",\"args\":{\"name\":\"%s %u:"
        "%" PRIu64 "\"}},\n",
        pid, tid, split & 0x8000 ? "evaluation batch" : "batch", (unsigned)(split & 0x7fff),
        sequence);
    add(line,
        "{\"ph\":\"M\",\"pid\":%u,\"tid\":%u,\"name\":\"thread_name\",\"args\":{\"name\":\"%s\"}},"
        "\n",
        pid, tid, name);
    return tid;
}

/* ---- spans ---- */

uint64_t rt_trace_now(void)
{
    return rt_now_ns();
}

static void add_head(struct line *line, uint64_t batch_id, uint32_t tid, const char *category,
                     const char *name)
{
    add(line, "\"pid\":%u,\"tid\":%u,\"cat\":\"%s\",\"name\":\"%.*s\"", number_of_batch(batch_id),
        tid, category, (int)RT_TRACE_NAME_MAX, name);
}

static void add_span(struct line *line, uint64_t from_ns, uint64_t to_ns)
{
    add(line, "{");
    add_time(line, "ts", from_ns);
    add_time(line, "dur", to_ns > from_ns ? to_ns - from_ns : 0);
    add(line, "\"ph\":\"X\",");
}

void rt_trace_put(uint64_t batch_id, uint32_t loop, const char *name, uint64_t from_ns,
                  uint64_t to_ns)
{
    struct rt_trace_place at = {file.role, file.index, loop};
    struct line line = {.size = 0};
    uint32_t tid;

    tid = name_row(&line, batch_id, &at, NULL);
    add_span(&line, from_ns, to_ns);
    add_head(&line, batch_id, tid, "work", name);
    add(&line, ",\"args\":{\"batch\":\"%016" PRIx64 "\"}},\n", batch_id);
    put(&line);
}

/* The same number on both sides, and on no other call of the trace. */
static uint64_t number_of_call(const struct rt_trace_call *call)
{
    uint64_t text[] = {
        call->batch_id, call->request_id, call->method,
        (uint64_t)call->from.role << 48 | (uint64_t)call->from.index << 16 | call->from.loop,
        (uint64_t)call->to.role << 48 | (uint64_t)call->to.index << 16 | call->to.loop};

    return rt_hash_bytes(text, sizeof(text));
}

static void put_call(const struct rt_trace_call *call, bool serves)
{
    const char *known = file.method_name ? file.method_name(call->method) : NULL;
    const char *category = serves ? "serve" : "ask";
    uint64_t id = number_of_call(call);
    struct line line = {.size = 0};
    char name[RT_TRACE_NAME_MAX], from[ROW_NAME_MAX / 2], to[ROW_NAME_MAX / 2];
    uint32_t tid;

    if (known)
        snprintf(name, sizeof(name), "%s", known);
    else
        snprintf(name, sizeof(name), "method %u", call->method);
    name_place(from, sizeof(from), &call->from);
    name_place(to, sizeof(to), &call->to);
    tid = name_row(&line, call->batch_id, serves ? &call->to : &call->from,
                   serves ? NULL : &call->to);
    add_span(&line, call->begin_ns, call->end_ns);
    add_head(&line, call->batch_id, tid, category, name);
    add(&line,
        ",\"args\":{\"batch\":\"%016" PRIx64 "\",\"call\":\"%016" PRIx64
        "\",\"from\":\"%s\",\"to\":\"%s\",\"error\":%d}},\n{",
        call->batch_id, id, from, to, call->err);
    add_time(&line, "ts", call->begin_ns);
    add(&line, serves ? "\"ph\":\"f\",\"bp\":\"e\"," : "\"ph\":\"s\",");
    add_head(&line, call->batch_id, tid, "call", name);
    add(&line, ",\"id\":\"0x%016" PRIx64 "\"},\n", id);
    put(&line);
}

void rt_trace_asked(const struct rt_trace_call *call)
{
    put_call(call, false);
}

void rt_trace_served(const struct rt_trace_call *call)
{
    put_call(call, true);
}

uint64_t rt_trace_lost(void)
{
    return atomic_load_explicit(&lost, memory_order_relaxed);
}

/* ---- life ---- */

static void put_first(const struct rt_trace_conf *conf, bool empty)
{
    struct line line = {.size = 0};
    char host[128];
    uint64_t mono = rt_now_ns() / 1000, wall = rt_wall_ms() * 1000;

    rt_log_escape(conf->host ? conf->host : "", host, sizeof(host));
    for (char *p = host; *p; p++)
        if (*p == '"' || *p == '\\')
            *p = '?';
    add(&line,
        "%s{\"ph\":\"M\",\"pid\":0,\"tid\":0,\"name\":\"saffron\",\"args\":{\"who\":\"%s/%u\","
        "\"host\":\"%s\",\"every\":%u,\"wall_minus_monotonic_us\":%" PRId64 "}},\n",
        empty ? "[\n" : "\n", rt_role_name(conf->role), conf->index, host, conf->every,
        (int64_t)(wall - mono));
    put(&line);
}

int rt_trace_open(const struct rt_trace_conf *conf)
{
    struct stat st;
    int fd = open(conf->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

    if (fd < 0)
        return RT_FAIL(RT_EFILE, "%s: cannot create: %s", conf->path, strerror(errno));
    rt_trace_close();
    if (fstat(fd, &st) != 0)
        st.st_size = 0;
    file.fd = fd;
    file.role = conf->role;
    file.index = conf->index;
    file.method_name = conf->method_name;
    file.bytes_max = conf->bytes_max ? conf->bytes_max : RT_TRACE_BYTES_MAX;
    snprintf(file.path, sizeof(file.path), "%s", conf->path);
    atomic_store(&bytes, (uint64_t)st.st_size);
    atomic_store(&lost, 0);
    atomic_store(&told, false);
    for (size_t i = 0; i < NAMED_MAX; i++)
        atomic_store_explicit(&named[i], 0, memory_order_relaxed);
    atomic_store(&rt_trace_every, conf->every);
    put_first(conf, st.st_size == 0);
    return 0;
}

void rt_trace_close(void)
{
    atomic_store(&rt_trace_every, 0);
    if (file.fd >= 0)
        close(file.fd);
    file.fd = -1;
}
