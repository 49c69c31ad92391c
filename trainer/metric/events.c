/* trainer/metric/events.c -- see the header. The few fields are written as protobuf has them by hand: they are TensorFlow's
 * own schema, whose other fields nobody needs here, and no other end of it is ours. */
#include "trainer/metric/events.h"

#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VERSION "brain.Event:2"
#define CRC_DELTA                                                                                  \
    0xa282ead8u /* of a masked CRC: so that the CRC of bytes with CRCs in them is a good one */

enum wire_type { VARINT, FIXED64, BYTES, FIXED32 = 5 };

struct tr_events {
    char *path;
    int fd;
    struct rt_strbuf value, event; /* of the record at hand: [value...]; all of it */
    double wall_seconds;
    uint64_t step, left_out;
    struct rt_strbuf filling, leaving; /* whole records; leaving: the writer's while `writing` */
    bool writing;
};

/* ---- protobuf ---- */

static void put_varint(struct rt_strbuf *out, uint64_t value)
{
    char byte;
    for (; value >= 0x80; value >>= 7) {
        byte = (char)(value | 0x80);
        rt_strbuf_add(out, &byte, 1);
    }
    byte = (char)value;
    rt_strbuf_add(out, &byte, 1);
}

static void put_field(struct rt_strbuf *out, uint32_t number, enum wire_type type)
{
    put_varint(out, number << 3 | (uint32_t)type);
}

static void put_bytes(struct rt_strbuf *out, uint32_t number, const void *data, size_t size)
{
    put_field(out, number, BYTES);
    put_varint(out, size);
    rt_strbuf_add(out, data, size);
}

/* As put_bytes() takes with a number below 16. */
static size_t bytes_of(size_t size)
{
    size_t n = 2 + size;
    for (; size >= 0x80; size >>= 7)
        n++;
    return n;
}

/* ---- records ---- */

static void put_crc(struct rt_strbuf *out, const void *data, size_t size)
{
    uint32_t crc = rt_crc32c(0, data, size);
    crc = (crc >> 15 | crc << 17) + CRC_DELTA;
    rt_strbuf_add(out, (const char *)&crc, sizeof crc);
}

static void put_record(struct rt_strbuf *out, const struct rt_strbuf *event)
{
    uint64_t size = event->len;
    rt_strbuf_add(out, (const char *)&size, sizeof size);
    put_crc(out, &size, sizeof size);
    rt_strbuf_add(out, event->text, event->len);
    put_crc(out, event->text, event->len);
}

void tr_events_begin(struct tr_events *events, double wall_seconds, uint64_t step)
{
    rt_strbuf_reset(&events->value);
    events->wall_seconds = wall_seconds;
    events->step = step;
}

void tr_events_value(struct tr_events *events, const char *tag, double value)
{
    size_t size = strlen(tag);
    float simple = (float)value;
    if (isnan(value))
        return;
    put_field(&events->value, 1, BYTES);
    put_varint(&events->value, bytes_of(size) + 1 + sizeof simple);
    put_bytes(&events->value, 1, tag, size);
    put_field(&events->value, 2, FIXED32);
    rt_strbuf_add(&events->value, (const char *)&simple, sizeof simple);
}

/* An event: the time, then what it says. */
static void put_event(struct tr_events *events)
{
    put_record(&events->filling, &events->event);
    rt_strbuf_reset(&events->event);
}

static void begin_event(struct tr_events *events)
{
    rt_strbuf_reset(&events->event);
    put_field(&events->event, 1, FIXED64);
    rt_strbuf_add(&events->event, (const char *)&events->wall_seconds, sizeof events->wall_seconds);
}

void tr_events_end(struct tr_events *events)
{
    if (events->value.len == 0)
        return;
    if (events->filling.len > TR_EVENTS_BYTES_MAX) {
        events->left_out++;
        return;
    }
    begin_event(events);
    put_field(&events->event, 2, VARINT);
    put_varint(&events->event, events->step);
    put_bytes(&events->event, 5, events->value.text, events->value.len);
    put_event(events);
}

uint64_t tr_events_left_out(const struct tr_events *events)
{
    return events->left_out;
}

/* ---- the file ---- */

static char *name_of(const char *dir, double wall_seconds)
{
    char host[HOST_NAME_MAX + 1] = "host";
    gethostname(host, sizeof host);
    host[sizeof host - 1] = '\0';
    return rt_xasprintf("%s/events.out.tfevents.%010llu.%s.%d", dir,
                        (unsigned long long)wall_seconds, host, (int)getpid());
}

int tr_events_create(const char *dir, double wall_seconds, struct tr_events **out)
{
    struct tr_events *events = rt_xcalloc(1, sizeof *events);
    struct rt_strbuf *buf[] = {&events->value, &events->event, &events->filling, &events->leaving};
    for (size_t i = 0; i < sizeof buf / sizeof buf[0]; i++)
        rt_strbuf_init(buf[i]);
    events->path = name_of(dir, wall_seconds);
    events->wall_seconds = wall_seconds;
    events->fd = -1;
    int err = rt_mkdir_all(dir);
    if (!err)
        events->fd = open(events->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (!err && events->fd < 0)
        err = RT_FAIL(RT_EFILE, "%s: cannot create: %s", events->path, strerror(errno));
    if (err) {
        tr_events_destroy(events);
        *out = NULL;
        return err;
    }
    begin_event(events);
    put_bytes(&events->event, 3, VERSION, strlen(VERSION));
    put_event(events);
    *out = events;
    return 0;
}

void tr_events_destroy(struct tr_events *events)
{
    if (!events)
        return;
    if (events->fd >= 0)
        close(events->fd);
    rt_strbuf_release(&events->value);
    rt_strbuf_release(&events->event);
    rt_strbuf_release(&events->filling);
    rt_strbuf_release(&events->leaving);
    rt_free(events->path);
    rt_free(events);
}

bool tr_events_take(struct tr_events *events)
{
    if (events->writing || events->filling.len == 0)
        return false;
    struct rt_strbuf empty = events->leaving;
    events->leaving = events->filling;
    events->filling = empty;
    rt_strbuf_reset(&events->filling);
    events->writing = true;
    return true;
}

int tr_events_write(struct tr_events *events)
{
    const char *from = events->leaving.text;
    size_t size = events->leaving.len;
    while (size > 0) {
        ssize_t n = write(events->fd, from, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return RT_FAIL(RT_EFILE, "%s: cannot write: %s", events->path, strerror(errno));
        from += n;
        size -= (size_t)n;
    }
    return 0;
}

void tr_events_given(struct tr_events *events)
{
    rt_strbuf_reset(&events->leaving);
    events->writing = false;
}
