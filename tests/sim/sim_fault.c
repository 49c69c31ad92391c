/* tests/sim/sim_fault.c -- what goes wrong between two nodes, and with one connection.
 *
 * Which connection, and when it is over, is drawn from the world's seed. */
#include "tests/sim/sim_inner.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <string.h>

#define DELAY_MAX_NS 200000000ull
#define DROP_MAX_NS  50000000ull
#define PAUSE_MAX_NS 3000000000ull

/* ---- between two nodes ---- */

void sim_cut(struct sim *sim, unsigned a, unsigned b, bool cut)
{
    sim_cut_way(sim, a, b, cut);
    sim_cut_way(sim, b, a, cut);
}

void sim_cut_way(struct sim *sim, unsigned from, unsigned to, bool cut)
{
    sim->cut[to][from] = cut; /* who hears, whom */
}

void sim_break(struct sim *sim, unsigned a, unsigned b)
{
    for (struct rt_link *link = sim->links; link; link = link->next) {
        unsigned x = link->node->index, y = link->far_node->index;
        if ((x == a && y == b) || (x == b && y == a))
            sim_link_end(link, RT_EPEER, "connection reset", false);
    }
}

void sim_flip(struct sim *sim, unsigned a, unsigned b)
{
    sim->flip[a][b] = true;
}

/* ---- a node ---- */

void sim_vanish(struct sim *sim, unsigned node)
{
    for (struct rt_link *link = sim->links; link; link = link->next)
        if (link->far_node->index == node)
            link->swallows = true;
}

void sim_freeze(struct sim *sim, unsigned node, uint64_t ns)
{
    sim->node[node].frozen_until_ns = ns ? sim->now_ns + ns : 0;
}

void sim_stall(struct sim *sim, uint64_t ns)
{
    sim->now_ns += ns;
}

void sim_set_wall(struct sim *sim, unsigned node, int64_t ahead_ms)
{
    sim->node[node].wall_ahead_ms = ahead_ms;
}

/* ---- faults of one connection ---- */

const char *sim_fault_name(enum sim_fault kind)
{
    static const char *const name[SIM_FAULTS] = {"delay",    "drop",  "duplicate", "replay",
                                                 "truncate", "reset", "half_open", "pause"};
    return name[kind];
}

/* Whose bytes come again: it hears nothing, and ends with the last of them. */
static int ghost_admit(void *arg, const struct rt_header *header, struct rt_buf **out)
{
    (void)arg, (void)out;
    return header->payload_size ? RT_EFULL : 0;
}
static void ghost_frame(void *arg, const struct rt_frame *frame)
{
    (void)arg, (void)frame;
}
static void ghost_down(void *arg, int err, const char *why)
{
    (void)arg, (void)err, (void)why;
}
static const struct rt_link_events ghost_events = {
    .admit = ghost_admit, .frame = ghost_frame, .down = ghost_down};

static void replay(const struct rt_link *link)
{
    const struct record *record = link->record;
    struct rt_link *ghost = sim_link_new(link->node, link->far_node, "ghost");
    size_t n = record->n ? record->n - 1 : 0, from = n > SIM_RECORD ? n - SIM_RECORD : 0;
    ghost->events = &ghost_events;
    ghost->port = link->port;
    ghost->state = END_OPEN;
    if (record->n && sim_link_accept(ghost)) {
        sim_link_put(ghost, sim_copy_of(record->first.bytes, record->first.size).bytes,
                     record->first.size);
        for (size_t i = from; i < n; i++) {
            const struct parcel *p = &record->last[i % SIM_RECORD];
            sim_link_put(ghost, sim_copy_of(p->bytes, p->size).bytes, p->size);
        }
    }
    struct sim *sim = link->node->sim;
    if (ghost->far) /* long enough for all of them to be served */
        sim_push(sim,
                 (struct event){.at_ns = ghost->far->arrives_ns + sim_draw_below(sim, DELAY_MAX_NS),
                                .kind = EV_RESET,
                                .link = ghost});
    else
        sim_link_end(ghost, RT_EPEER, "nobody listens", false);
}

static void half_open(struct sim *sim, struct rt_link *link)
{
    switch (sim_draw_below(sim, 3)) {
    case 0: /* nothing comes through any more, either way */
        link->swallows = link->far->swallows = true;
        break;
    case 1: /* one way */
        link->swallows = true;
        break;
    default: /* the far end does not hear that this one is gone */
        link->far->swallows = true;
        sim_link_end(link, RT_EPEER, "connection reset", false);
    }
}

/* One end of a connection that is open at both, or one that can be heard again. */
static struct rt_link *draw_link(struct sim *sim, bool connected)
{
    struct rt_link *found = NULL;
    size_t n = 0;
    for (struct rt_link *link = sim->links; link; link = link->next)
        if (link->state == END_OPEN && link->far && link->far->state == END_OPEN &&
            !link->swallows && !link->far->swallows && link->events != &ghost_events &&
            link->far->events != &ghost_events && (!connected || link->record) &&
            sim_draw_below(sim, ++n) == 0)
            found = link;
    return found;
}

bool sim_fault(struct sim *sim, enum sim_fault kind)
{
    struct rt_link *link = draw_link(sim, kind == SIM_REPLAY || kind == SIM_DUPLICATE);
    if (!link)
        return false;
    switch (kind) {
    case SIM_DELAY:
        link->held_until_ns = sim->now_ns + sim_draw_below(sim, DELAY_MAX_NS);
        break;
    case SIM_DROP:
        link->swallows = true;
        sim_push(sim, (struct event){.at_ns = sim->now_ns + sim_draw_below(sim, DROP_MAX_NS),
                                     .kind = EV_RESET,
                                     .link = link});
        break;
    case SIM_DUPLICATE:
        link->far->doubles = true;
        break;
    case SIM_REPLAY:
        replay(link);
        break;
    case SIM_TRUNCATE:
        link->cuts = true;
        break;
    case SIM_RESET:
        sim_link_reset(link, "connection reset");
        break;
    case SIM_PAUSE:
        link->asleep = true;
        sim_push(sim, (struct event){.at_ns = sim->now_ns + sim_draw_below(sim, PAUSE_MAX_NS),
                                     .kind = EV_WAKE,
                                     .link = link});
        break;
    default:
        half_open(sim, link);
    }
    return true;
}
