/* tests/sim/sim_trouble.c -- see sim_trouble.h. */
#include "tests/sim/sim_trouble.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "trainer/group.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const victim_name[] = {"data-compose", "middleware", "embedding server",
                                          "trainer"};

static uint64_t draw(struct sim_trouble *t, uint64_t below)
{
    return sim_draw(&t->draws, below);
}

__attribute__((format(printf, 2, 3))) static void tell(struct sim_trouble *t, const char *fmt, ...)
{
    struct sim_story *story = t->story;
    char *line = story->event[story->n++ % SIM_EVENTS];
    va_list args;
    int n = snprintf(line, SIM_EVENT_TEXT, "%10.6f s ", (double)sim_now(t->world->sim) * 1e-9);
    va_start(args, fmt);
    vsnprintf(line + n, (size_t)(SIM_EVENT_TEXT - n), fmt, args);
    va_end(args);
}

/* ---- who is there ---- */

static unsigned count_of(const struct job_world *w, enum sim_victim what)
{
    const unsigned n[] = {w->conf.composers, w->conf.middlewares, w->conf.servers, w->conf.ranks};
    return n[what];
}

static bool lives(const struct job_world *w, enum sim_victim what, unsigned i)
{
    switch (what) {
    case SIM_COMPOSER:
        return w->composer[i] != NULL;
    case SIM_MIDDLEWARE:
        return w->middleware[i] != NULL;
    case SIM_SERVER:
        return jw_server_lives(w, i);
    default:
        return w->rank[i].trainer != NULL;
    }
}

/* ---- dying ---- */

static void count_checkpoints(struct sim_trouble *t)
{
    const struct tr_trainer *trainer = t->world->rank[0].trainer;
    if (!trainer)
        return;
    t->tally->checkpoints += trainer->checkpoint.published;
    t->tally->voided += trainer->checkpoint.voided;
}

/* What a process has begun on disk stays there as it is when it is killed: nothing is tidied up. */
static void kill_one(struct sim_trouble *t, enum sim_victim what, unsigned i, bool silent)
{
    struct job_world *w = t->world;
    t->disk->arm(0, INT64_MAX, EIO, w->conf.checkpoint_dir);
    switch (what) {
    case SIM_COMPOSER:
        jw_kill_composer(w, i, silent);
        break;
    case SIM_MIDDLEWARE:
        jw_kill_middleware(w, i, silent);
        break;
    case SIM_SERVER:
        if (!t->plan->exact)
            sim_losses_add(&t->losses, w, i);
        jw_kill_server(w, i, silent);
        break;
    default:
        if (i == 0)
            count_checkpoints(t);
        jw_kill_rank(w, i, silent);
    }
    t->disk->heal();
    t->disk_fails = false;
}

static void come_back_later(struct sim_trouble *t, enum sim_victim what, unsigned which,
                            unsigned other, uint64_t away_ns)
{
    rt_assert(t->n_back < SIM_BACK_MAX);
    t->back[t->n_back++] = (struct sim_back){sim_now(t->world->sim) + away_ns, what, which, other};
}

/* Mostly at once, as a container; at times as a pod that has to be scheduled. */
static uint64_t draw_away(struct sim_trouble *t)
{
    static const uint64_t most[] = {20 * RT_MS, 20 * RT_MS, 20 * RT_MS, 500 * RT_MS, 5 * RT_S};
    return RT_MS + draw(t, most[draw(t, 5)]);
}

/* A rank that was started anew has none until the group has formed with it. */
static void note_trainers(struct sim_trouble *t)
{
    bool any = false;
    for (unsigned r = 0; r < t->world->conf.ranks; r++) {
        const struct tr_trainer *trainer = t->world->rank[r].trainer;
        any = any || (trainer && (!trainer->group || trainer->group->was_formed));
    }
    t->lost_trainers = t->lost_trainers || !any;
}

static void heal(struct sim_trouble *t, const struct sim_back *back)
{
    sim_cut(t->world->sim, back->which, back->other, false);
    tell(t, "nodes %u and %u have one another again", back->which, back->other);
}

/* n neighbours, from `first` on; those that are dead already stay dead. */
static void kill_some(struct sim_trouble *t, enum sim_victim what, unsigned first, unsigned n)
{
    unsigned of = count_of(t->world, what);
    uint64_t away = draw_away(t);
    bool silent = draw(t, 4) == 0, together = draw(t, 2);
    for (unsigned i = 0; i < n; i++) {
        unsigned one = (first + i) % of;
        if (!lives(t->world, what, one))
            continue;
        kill_one(t, what, one, silent);
        t->tally->kills[what]++;
        uint64_t ns = together ? away : draw_away(t);
        come_back_later(t, what, one, 0, ns);
        tell(t, "%s/%u dies%s, for %.3f s", victim_name[what], one, silent ? " unnoticed" : "",
             (double)ns * 1e-9);
    }
    note_trainers(t);
}

static void kill_all(struct sim_trouble *t)
{
    struct job_world *w = t->world;
    tell(t, "all die");
    for (; t->n_back > 0; t->n_back--)
        if (t->back[t->n_back - 1].what == SIM_NETWORK)
            heal(t, &t->back[t->n_back - 1]);
    for (int what = 0; what < SIM_VICTIMS; what++)
        for (unsigned i = 0; i < count_of(w, (enum sim_victim)what); i++)
            if (lives(w, (enum sim_victim)what, i)) {
                kill_one(t, (enum sim_victim)what, i, false);
                t->tally->kills[what]++;
            }
    jw_reshape(w, &t->plan->reshaped);
    for (int what = 0; what < SIM_VICTIMS; what++)
        for (unsigned i = 0; i < count_of(w, (enum sim_victim)what); i++)
            come_back_later(t, (enum sim_victim)what, i, 0, RT_MS + draw(t, 200 * RT_MS));
    t->tally->all_died++;
    t->lost_trainers = true;
}

/* ---- going back ---- */

static bool leaves(const struct job_world *w, enum sim_victim what, unsigned i)
{
    return (what == SIM_COMPOSER && w->composer_role[i].leaves) ||
           (what == SIM_SERVER && w->server_role[i].leaves) ||
           (what == SIM_TRAINER && w->rank[i].leaves);
}

/* @return somebody did */
static bool end_who_leaves(struct sim_trouble *t)
{
    bool any = false;
    for (int what = 0; what < SIM_VICTIMS; what++)
        for (unsigned i = 0; i < count_of(t->world, (enum sim_victim)what); i++) {
            if (!leaves(t->world, (enum sim_victim)what, i))
                continue;
            uint64_t ns = draw_away(t);
            kill_one(t, (enum sim_victim)what, i, false);
            come_back_later(t, (enum sim_victim)what, i, 0, ns);
            tell(t, "%s/%u ends to go back, for %.3f s", victim_name[what], i, (double)ns * 1e-9);
            t->tally->went_back++;
            any = true;
        }
    if (any)
        note_trainers(t);
    return any;
}

/* ---- coming back ---- */

static void come_back(struct sim_trouble *t, unsigned at)
{
    struct job_world *w = t->world;
    struct sim_back back = t->back[at];
    t->back[at] = t->back[--t->n_back];
    switch (back.what) {
    case SIM_COMPOSER:
        jw_revive_composer(w, back.which);
        break;
    case SIM_MIDDLEWARE:
        jw_revive_middleware(w, back.which);
        break;
    case SIM_SERVER:
        jw_revive_server(w, back.which);
        t->tally->restores += w->restored[back.which].name[0] != '\0';
        break;
    case SIM_TRAINER:
        jw_revive_rank(w, back.which);
        t->tally->resumed += w->rank[back.which].trainer->step > 0;
        break;
    default:
        heal(t, &back);
        return;
    }
    const char *from = back.what == SIM_SERVER ? w->restored[back.which].name : "";
    tell(t, "%s/%u is back%s%s", victim_name[back.what], back.which, from[0] ? " with " : "", from);
}

/* @return its place; n_back: there is none */
static unsigned soonest(const struct sim_trouble *t)
{
    unsigned first = t->n_back;
    for (unsigned i = 0; i < t->n_back; i++)
        if (first == t->n_back || t->back[i].at_ns < t->back[first].at_ns)
            first = i;
    return first;
}

/* ---- what can happen ---- */

static void kill_trainers(struct sim_trouble *t)
{
    unsigned ranks = t->world->conf.ranks, how = (unsigned)draw(t, 10);
    unsigned n = how < 6 ? 1 : how < 8 ? 1 + (unsigned)draw(t, ranks) : ranks;
    kill_some(t, SIM_TRAINER, (unsigned)draw(t, ranks), n);
}

static void kill_servers(struct sim_trouble *t)
{
    unsigned servers = t->world->conf.servers;
    unsigned first = (unsigned)draw(t, servers);
    kill_some(t, SIM_SERVER, first, draw(t, 3) ? 1 : servers);
}

static void kill_middleware(struct sim_trouble *t)
{
    unsigned n = t->world->conf.middlewares;
    unsigned first = (unsigned)draw(t, n);
    kill_some(t, SIM_MIDDLEWARE, first, draw(t, 3) ? 1 : n);
}

static void kill_composer(struct sim_trouble *t)
{
    unsigned n = t->world->conf.composers;
    unsigned first = (unsigned)draw(t, n);
    kill_some(t, SIM_COMPOSER, first, draw(t, 3) ? 1 : n);
}

static unsigned draw_node(struct sim_trouble *t)
{
    return (unsigned)draw(t, jw_node_spare(t->world));
}

static void break_something(struct sim_trouble *t)
{
    enum sim_fault kind = (enum sim_fault)draw(t, SIM_FAULTS);
    if (!sim_fault(t->world->sim, kind))
        return;
    t->tally->faults++;
    tell(t, "a connection: %s", sim_fault_name(kind));
}

static void flip(struct sim_trouble *t)
{
    unsigned a = draw_node(t), b = draw_node(t);
    sim_flip(t->world->sim, a, b);
    t->tally->faults++;
    tell(t, "a bit of the next frame from node %u to %u", a, b);
}

static void part(struct sim_trouble *t)
{
    static const uint64_t most[] = {100 * RT_MS, 3 * RT_S, 12 * RT_S};
    unsigned a = draw_node(t), b = draw_node(t);
    uint64_t ns = draw(t, most[draw(t, 3)]);
    if (a == b)
        return;
    bool one_way = t->plan->wide && draw(t, 2);
    if (one_way)
        sim_cut_way(t->world->sim, a, b, true);
    else
        sim_cut(t->world->sim, a, b, true);
    come_back_later(t, SIM_NETWORK, a, b, ns);
    t->tally->faults++;
    tell(t,
         one_way ? "what node %u sends node %u is held for %.3f s"
                 : "nodes %u and %u are cut off for %.3f s",
         a, b, (double)ns * 1e-9);
}

static void freeze(struct sim_trouble *t)
{
    static const uint64_t most[] = {50 * RT_MS, RT_S, 8 * RT_S};
    unsigned node = draw_node(t);
    uint64_t ns = 1 + draw(t, most[draw(t, 3)]);
    sim_freeze(t->world->sim, node, ns);
    t->tally->faults++;
    tell(t, "node %u stands still for %.3f s", node, (double)ns * 1e-9);
}

static void jump(struct sim_trouble *t)
{
    const int64_t hour_ms = 3600 * 1000;
    unsigned node = draw_node(t);
    int64_t ahead_ms = (int64_t)draw(t, (uint64_t)(2 * hour_ms)) - hour_ms;
    sim_set_wall(t->world->sim, node, ahead_ms);
    tell(t, "node %u's wall clock is off by %" PRId64 " ms", node, ahead_ms);
}

static void stall(struct sim_trouble *t)
{
    uint64_t ns = draw(t, 10 * RT_S);
    sim_stall(t->world->sim, ns);
    tell(t, "everything has stood still for %.3f s", (double)ns * 1e-9);
}

static void fail_disk(struct sim_trouble *t)
{
    uint64_t nth = draw(t, 40), more = draw(t, 2) ? draw(t, 40) : 0;
    int with = draw(t, 2) ? ENOSPC : EIO;
    t->disk->arm(nth, more, with, t->world->conf.checkpoint_dir);
    t->disk_fails = true;
    tell(t, "the disk: %" PRIu64 " calls from now %" PRIu64 " fail, %s", nth, 1 + more,
         with == EIO ? "EIO" : "ENOSPC");
}

static void ask_checkpoint(struct sim_trouble *t)
{
    char name[32];
    struct tr_trainer *trainer = t->world->rank[0].trainer;
    snprintf(name, sizeof name, "asked-%u", ++t->asked);
    const struct wire_control_request request = {
        .command = WIRE_CTL_CHECKPOINT, .text = name, .number = t->asked};
    if (trainer && tr_trainer_checkpoint(trainer, &request) == 0)
        tell(t, "an operator asks for a checkpoint: %s", name);
}

static bool is_drained(void *arg)
{
    const struct sim_trouble *t = arg;
    return t->world->rank[0].drained || jw_is_over(t->world);
}

/* The job is told to stop: a last checkpoint, and all end. */
static void drain(struct sim_trouble *t)
{
    struct tr_trainer *trainer = t->world->rank[0].trainer;
    if (!trainer || !tr_trainer_drain(trainer))
        return;
    tell(t, "trainer/0 is told to stop");
    sim_run_until(t->world->sim, is_drained, t, 15 * RT_S);
    if (!jw_is_over(t->world))
        kill_all(t);
}

static const struct {
    void (*make)(struct sim_trouble *t);
    unsigned weight;
} kind[] = {{break_something, 24},
            {kill_trainers, 14},
            {kill_servers, 12},
            {kill_middleware, 8},
            {kill_composer, 8},
            {kill_all, 3},
            {fail_disk, 8},
            {part, 6},
            {freeze, 6},
            {flip, 3},
            {jump, 3},
            {stall, 2},
            {drain, 2},
            {ask_checkpoint, 4}};

static void make_one(struct sim_trouble *t)
{
    unsigned sum = 0;
    for (size_t k = 0; k < ARRAY_LEN(kind); k++)
        sum += kind[k].weight;
    unsigned at = (unsigned)draw(t, sum);
    size_t k = 0;
    for (; at >= kind[k].weight; k++)
        at -= kind[k].weight;
    kind[k].make(t);
}

/* ---- all of it ---- */

static bool stops(void *arg)
{
    const struct sim_trouble *t = arg;
    return jw_has_left(t->world) || (t->disk_fails && t->disk->has_failed());
}

/* A call has failed just now; at times the machine with it. */
static void on_disk_error(struct sim_trouble *t)
{
    t->disk_fails = false;
    t->tally->disk_errors++;
    tell(t, "the disk has failed");
    if (draw(t, 2))
        return;
    if (draw(t, 2))
        kill_some(t, SIM_TRAINER, 0, 1);
    else
        kill_some(t, SIM_SERVER, (unsigned)draw(t, t->world->conf.servers), 1);
}

/* false: something else has happened before. */
static bool run_to(struct sim_trouble *t, uint64_t at_ns)
{
    struct sim *sim = t->world->sim;
    if (at_ns > sim_now(sim) && sim_run_until(sim, stops, t, at_ns - sim_now(sim)))
        return false;
    if (at_ns > sim_now(sim))
        sim_run_until(sim, NULL, NULL, at_ns - sim_now(sim));
    return true;
}

static void run(struct sim_trouble *t, unsigned left)
{
    struct job_world *w = t->world;
    uint64_t next = sim_now(w->sim) + draw(t, t->plan->gap_ns);
    while (!jw_is_over(w) && (left > 0 || t->n_back > 0)) {
        unsigned first = soonest(t);
        bool returns = t->n_back > 0 && (left == 0 || t->back[first].at_ns <= next);
        if (!run_to(t, returns ? t->back[first].at_ns : next)) {
            if (!end_who_leaves(t) && !jw_is_over(w))
                on_disk_error(t);
            continue;
        }
        if (returns) {
            come_back(t, first);
            continue;
        }
        make_one(t);
        left--;
        next = sim_now(w->sim) + draw(t, t->plan->gap_ns);
    }
    while (t->n_back > 0 && !w->failed)
        come_back(t, 0);
    t->disk->heal();
}

void sim_trouble_run(struct sim_trouble *t)
{
    run(t, t->plan->troubles);
}

/* Done, or somebody ends to go back. */
struct wait {
    struct job_world *world;
    bool (*done)(void *world);
};

static bool is_waited_for(void *arg)
{
    const struct wait *wait = arg;
    return jw_asks(wait->world) || wait->world->failed || wait->done(wait->world);
}

bool sim_trouble_over(struct sim_trouble *t, bool (*done)(void *world), uint64_t most_ns)
{
    struct sim *sim = t->world->sim;
    struct wait wait = {t->world, done};
    uint64_t until = sim_now(sim) + most_ns;
    bool over = false;
    do {
        run(t, 0);
        over =
            sim_now(sim) < until && sim_run_until(sim, is_waited_for, &wait, until - sim_now(sim));
    } while (over && end_who_leaves(t));
    return over;
}

void sim_trouble_count(struct sim_trouble *t)
{
    count_checkpoints(t);
    for (unsigned s = 0; s < t->world->conf.servers && !t->plan->exact; s++)
        sim_losses_add(&t->losses, t->world, s);
    sim_losses_count(&t->losses);
    t->tally->lost += t->losses.batches;
}
