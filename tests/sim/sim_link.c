/* tests/sim/sim_link.c -- a connection of the simulated world.
 *
 * A link is two ends; sending appends the frame's bytes to the other end's inbox and schedules one
 * delivery, which takes whatever is first in the inbox: so frames keep their order whatever their
 * delays. The end of a link travels through the inbox like a frame.
 *
 * An end is freed when it has heard down() and no event refers to it any more. */
#include "tests/sim/sim_inner.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <stdio.h>
#include <string.h>

#define CUT_POLL_NS 1000000ull

/* ---- the two ends ---- */

struct rt_link *sim_link_new(struct node *node, struct node *far_node, const char *name)
{
    struct rt_link *link = rt_xcalloc(1, sizeof(*link));
    link->node = node;
    link->far_node = far_node;
    link->inbox_end = &link->inbox;
    link->refs = 1;
    snprintf(link->name, sizeof(link->name), "%s", name);
    link->next = node->sim->links;
    node->sim->links = link;
    return link;
}

static struct parcel *take_parcel(struct rt_link *link)
{
    struct parcel *parcel = link->inbox;
    if (!parcel)
        return NULL;
    link->inbox = parcel->next;
    if (!link->inbox)
        link->inbox_end = &link->inbox;
    link->inbox_bytes -= parcel->size;
    return parcel;
}

static void free_parcel(struct parcel *parcel)
{
    rt_free(parcel->bytes);
    rt_free(parcel);
}

void sim_link_unref(struct rt_link *link)
{
    struct parcel *parcel;
    if (--link->refs > 0)
        return;
    struct rt_link **at = &link->node->sim->links;
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    if (link->far)
        link->far->far = NULL;
    while ((parcel = take_parcel(link)))
        free_parcel(parcel);
    if (link->record) {
        rt_free(link->record->first.bytes);
        for (size_t i = 0; i < SIM_RECORD; i++)
            rt_free(link->record->last[i].bytes);
    }
    rt_free(link->record);
    rt_free(link);
}

/* Put something on its way to the far end. Takes bytes. */
void sim_link_put(struct rt_link *link, uint8_t *bytes, size_t size)
{
    struct sim *sim = link->node->sim;
    struct rt_link *far = link->far;
    if (!far || far->state >= END_CLOSING) {
        rt_free(bytes);
        return;
    }
    struct parcel *parcel = rt_xmalloc(sizeof(*parcel));
    *parcel = (struct parcel){NULL, bytes, size};
    *far->inbox_end = parcel;
    far->inbox_end = &parcel->next;
    far->inbox_bytes += size;
    uint64_t at = sim->now_ns + sim_draw_delay(sim);
    at = at > far->held_until_ns ? at : far->held_until_ns;
    far->arrives_ns = at > far->arrives_ns ? at : far->arrives_ns;
    sim_push(sim, (struct event){.at_ns = far->arrives_ns, .kind = EV_DELIVER, .link = far});
}

void sim_link_end(struct rt_link *link, int err, const char *why, bool tell)
{
    struct sim *sim = link->node->sim;
    if (link->state >= END_CLOSING)
        return;
    if (tell)
        sim_link_put(link, NULL, 0);
    link->state = END_CLOSING;
    link->err = err;
    snprintf(link->why, sizeof(link->why), "%s", why);
    sim_push(sim, (struct event){.at_ns = sim->now_ns, .kind = EV_DOWN, .link = link});
}

void sim_link_close(struct rt_link *link, int err, const char *why)
{
    sim_link_end(link, err, why, true);
}

void sim_link_set(struct rt_link *link, const struct rt_link_events *events, void *arg)
{
    link->events = events;
    link->arg = arg;
    if (!events)
        sim_link_end(link, RT_ECANCELED, "given up by its owner", true);
}

const char *sim_link_name(const struct rt_link *link)
{
    return link->name;
}

bool sim_link_checks(const struct rt_link *link)
{
    (void)link;
    return true;
}

size_t sim_link_queued(const struct rt_link *link)
{
    return link->far ? link->far->inbox_bytes : 0;
}

/* Sending and reading call this; what is told comes as an event. */
static void maybe_drained(struct rt_link *link)
{
    if (link && link->watched && link->state == END_OPEN && sim_link_queued(link) <= link->low) {
        link->watched = false;
        sim_push(
            link->node->sim,
            (struct event){.at_ns = link->node->sim->now_ns, .kind = EV_DRAINED, .link = link});
    }
}

void sim_link_watch(struct rt_link *link, size_t low)
{
    link->watched = true;
    link->low = low;
    maybe_drained(link);
}

/* What came meanwhile is delivered now, in its order. */
void sim_link_read_on(struct rt_link *link)
{
    struct sim *sim = link->node->sim;
    for (; !link->paused && !link->asleep && link->unread > 0; link->unread--)
        sim_push(sim, (struct event){.at_ns = sim->now_ns, .kind = EV_DELIVER, .link = link});
}

void sim_link_pause(struct rt_link *link, bool pause)
{
    link->paused = pause;
    sim_link_read_on(link);
}

static void maybe_flip(const struct rt_link *link, uint8_t *bytes, size_t size)
{
    struct sim *sim = link->node->sim;
    bool *flip = &sim->flip[link->node->index][link->far_node->index];
    if (!*flip)
        return;
    uint64_t bit = rt_below(rt_draw(sim->draw_key, sim->draws++), size * 8);
    bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    *flip = false;
}

struct parcel sim_copy_of(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = rt_xmalloc(size);
    memcpy(copy, bytes, size);
    return (struct parcel){NULL, copy, size};
}

static void keep(struct rt_link *link, const uint8_t *bytes, size_t size)
{
    struct record *record = link->record;
    if (!record)
        return;
    struct parcel *at = record->n ? &record->last[(record->n - 1) % SIM_RECORD] : &record->first;
    rt_free(at->bytes);
    *at = sim_copy_of(bytes, size);
    record->n++;
}

int sim_link_send(struct rt_link *link, struct rt_header *header, const void *message,
                  size_t message_size, const struct rt_piece *pieces, size_t n_pieces,
                  const struct rt_maker *maker)
{
    size_t size = 0, end = 0;
    rt_assert(message_size <= RT_MESSAGE_MAX && n_pieces <= RT_SEGMENTS_MAX);
    if (link->state != END_OPEN)
        return RT_FAIL(RT_EPEER, "%s: not connected", link->name);
    for (size_t i = 0; i < n_pieces; i++)
        rt_segment_put(&size, pieces[i].size);
    if (size > RT_PAYLOAD_MAX)
        return RT_FAIL(RT_ELIMIT, "%s: payload of a frame is over %llu bytes", link->name,
                       RT_PAYLOAD_MAX);
    uint8_t *bytes = rt_xcalloc(1, RT_FRAME_HEADER_SIZE + message_size + size);
    uint8_t *at_message = bytes + RT_FRAME_HEADER_SIZE, *payload = at_message + message_size;
    if (message_size)
        memcpy(at_message, message, message_size);
    for (size_t i = 0; i < n_pieces; i++) {
        size_t at = rt_segment_put(&end, pieces[i].size);
        uint8_t *made = maker && pieces[i].size ? rt_xaligned(pieces[i].size) : NULL;
        for (size_t n = 0; made && n < pieces[i].size;)
            n += maker->make(maker->arg, made + n, pieces[i].size - n);
        if (pieces[i].size)
            memcpy(payload + at, made ? made : pieces[i].data, pieces[i].size);
        rt_free(made);
    }
    header->version = RT_WIRE_VERSION;
    header->message_size = (uint32_t)message_size;
    header->payload_size = size;
    if (!(header->flags & RT_FRAME_CRC_KNOWN))
        header->payload_crc = rt_crc32c(0, payload, size);
    header->flags &= (uint16_t) ~(RT_FRAME_CRC_KNOWN | RT_FRAME_LZ4);
    rt_header_encode(header, bytes);
    rt_header_seal(bytes, at_message, message_size);
    size += RT_FRAME_HEADER_SIZE + message_size;
    keep(link, bytes, size);
    maybe_flip(link, bytes, size);
    sim_link_put(link, bytes, size);
    return 0;
}

/* Both ends hear of it at once. */
void sim_link_reset(struct rt_link *link, const char *why)
{
    if (link->far)
        sim_link_end(link->far, RT_EPEER, why, false);
    sim_link_end(link, RT_EPEER, why, false);
}

/* What a real link does with a frame: header, admit, checksums, frame. */
static int receive(struct rt_link *link, const uint8_t *bytes, size_t size)
{
    struct rt_header header;
    struct rt_buf *payload = NULL;
    const uint8_t *message = bytes + RT_FRAME_HEADER_SIZE;
    int err = rt_header_decode(bytes, &header);
    if (!err && RT_FRAME_HEADER_SIZE + header.message_size + header.payload_size != size)
        err = RT_FAIL(RT_EPROTO, "frame: its sizes do not fit its %zu bytes", size);
    if (!err)
        err = link->events->admit(link->arg, &header, &payload);
    bool discard = err == RT_EFULL;
    if (!err || discard)
        err = rt_header_verify(bytes, message, header.message_size);
    const uint8_t *at = message + header.message_size;
    if (!err && rt_crc32c(0, at, header.payload_size) != header.payload_crc)
        err = RT_FAIL(RT_EPROTO, "frame field payload_crc: the payload has another");
    if (!err) {
        if (discard)
            header.flags |= RT_FRAME_DISCARDED;
        if (payload) {
            memcpy(payload->data, at, header.payload_size);
            payload->size = header.payload_size;
        }
        link->events->frame(link->arg, &(struct rt_frame){header, message, payload});
    }
    rt_buf_unref(payload);
    return err;
}

/* The header and a part of the rest: memory may be taken for the frame, and has to be given back. */
static void receive_part(struct rt_link *link, const struct parcel *parcel)
{
    struct rt_header header;
    struct rt_buf *payload = NULL;
    if (rt_header_decode(parcel->bytes, &header) == 0)
        link->events->admit(link->arg, &header, &payload);
    rt_buf_unref(payload);
    sim_link_reset(link, "connection reset in the middle of a frame");
}

static bool is_request(const struct parcel *parcel)
{
    struct rt_header header;
    return rt_header_decode(parcel->bytes, &header) == 0 && !(header.flags & RT_FRAME_REPLY) &&
           header.method >= RT_METHOD_ROLE_FIRST;
}

static void receive_all(struct rt_link *link, const struct parcel *parcel)
{
    int err = receive(link, parcel->bytes, parcel->size);
    if (!err && link->doubles && is_request(parcel) && link->state == END_OPEN) {
        link->doubles = false;
        err = receive(link, parcel->bytes, parcel->size);
    }
    if (err)
        sim_link_end(link, err, rt_err_text(), true);
}

/* Whoever writes to a connection that is gone hears of it, though he reads nothing. */
static bool ends_here(const struct rt_link *link)
{
    const struct parcel *last = link->inbox;
    while (last && last->next)
        last = last->next;
    return last && !last->bytes;
}

void sim_link_deliver(struct sim *sim, struct rt_link *link)
{
    if (link->state >= END_CLOSING)
        return;
    if (link->paused || link->asleep) {
        link->unread++;
        if (link->paused && ends_here(link))
            sim_link_end(link, RT_EPEER, "closed by the other end", false);
        return;
    }
    if (sim->cut[link->node->index][link->far_node->index]) {
        sim_push(sim, (struct event){
                          .at_ns = sim->now_ns + CUT_POLL_NS, .kind = EV_DELIVER, .link = link});
        return;
    }
    struct parcel *parcel = take_parcel(link);
    rt_assert(parcel);
    maybe_drained(link->far);
    if (link->swallows) {
        free_parcel(parcel);
        return;
    }
    if (!parcel->bytes) {
        sim_link_end(link, RT_EPEER, "closed by the other end", false);
    } else {
        sim->digest = rt_hash_bytes_seed(parcel->bytes, parcel->size, sim->digest);
        if (link->events->bytes)
            link->events->bytes(link->arg);
        (link->cuts ? receive_part : receive_all)(link, parcel);
    }
    free_parcel(parcel);
}
