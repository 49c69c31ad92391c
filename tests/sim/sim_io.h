/* tests/sim/sim_io.h -- many rt_io in one thread, under a simulated clock and network.
 *
 * Everything that happens is an event at a simulated time; the order is a function of the seed and of
 * what the nodes do, so a failure comes back with its seed. Addresses are "sim:<node>:<port>".
 * Frames pass through the real header encoding and checksums, payloads are copied into the
 * receiver's pool through admit(), and links keep their order, as on a real network. */
#ifndef SIM_IO_H
#define SIM_IO_H

#include "runtime/net/io.h"

struct sim;

struct sim_conf {
    uint64_t seed;
    unsigned n_nodes;
    uint64_t delay_min_ns, delay_max_ns; /* of a frame, drawn for each; both 0: 50 us .. 500 us */
    uint64_t turn_ns;   /* a timer of 0 rings up to so much later: a turn of its loop takes time */
    uint64_t work_ns;   /* a job of rt_io_ops.work; 0: 1 ms */
    size_t pool_budget; /* per node; 0: 256 MiB */
};

struct sim *sim_create(const struct sim_conf *conf);
void sim_destroy(struct sim *sim); /* after the owners of its links and buffers; NULL is legal */

struct rt_io *sim_node(struct sim *sim, unsigned node);
uint64_t sim_now(const struct sim *sim);

/* Go on until done(arg) is true (asked before each event): true. False when max_ns of simulated time
 * have passed before, or when nothing is left to happen. done NULL: run for max_ns. */
bool sim_run_until(struct sim *sim, bool (*done)(void *arg), void *arg, uint64_t max_ns);

/* While a and b are cut, what they send one another is held back (as TCP does), and arrives after
 * the cut unless the link was closed meanwhile. */
void sim_cut(struct sim *sim, unsigned a, unsigned b, bool cut);
/* Only what `to` is sent by `from`. */
void sim_cut_way(struct sim *sim, unsigned from, unsigned to, bool cut);

/* All links between a and b break now: both ends hear down(), what was under way is lost. */
void sim_break(struct sim *sim, unsigned a, unsigned b);

/* The node's process ends now: what its worker was at is never done. */
void sim_forget_work(struct sim *sim, unsigned node);

/* The node's machine is gone: who has a connection to it hears nothing of that, and nothing more from there. */
void sim_vanish(struct sim *sim, unsigned node);

/* The node's process stands still for so long, as at SIGSTOP: what comes, its timers and its work wait. 0: it goes on now. */
void sim_freeze(struct sim *sim, unsigned node, uint64_t ns);

/* All of them stand still, as on a machine that is suspended: afterwards everything is late. */
void sim_stall(struct sim *sim, uint64_t ns);

/* The node's wall clock is so far from the others' from now on. */
void sim_set_wall(struct sim *sim, unsigned node, int64_t ahead_ms);

/* One bit of the next frame that a sends to b is flipped on the way. */
void sim_flip(struct sim *sim, unsigned a, unsigned b);

/* What a network, or something in the middle of it, can do to one connection. */
enum sim_fault {
    SIM_DELAY, /* one direction is held for up to 200 ms; others pass it by */
    SIM_DROP,  /* what comes one way is swallowed, and up to 50 ms later the connection is reset */
    SIM_DUPLICATE, /* the next request arrives twice */
    SIM_REPLAY, /* the handshake and the latest requests come again, on a connection of their own */
    SIM_TRUNCATE, /* the next frame ends in the middle, and the connection with it */
    SIM_RESET,    /* both ends hear down() */
    SIM_HALF_OPEN, /* one end hears down(), or none; the others hear nothing more, until they find out */
    SIM_PAUSE, /* one end reads nothing for up to 3 s, and then all of it */
    SIM_FAULTS
};
const char *sim_fault_name(enum sim_fault kind);

/* One fault, now, at a connection that is drawn from those that are open. false: there is none. */
bool sim_fault(struct sim *sim, enum sim_fault kind);

/* Hash of all events so far: equal seeds give equal digests. */
uint64_t sim_digest(const struct sim *sim);

#endif
