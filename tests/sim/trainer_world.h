/* tests/sim/trainer_world.h -- a trainer rank, alone, between a scripted composer and a scripted middleware.
 *
 *     struct trainer_world w;
 *     tw_start(&w, set, n_set);
 *     tw_send_batch(&w, split, sequence, attempt);
 *     tw_run_until(&w, (struct tw_goal){.answers = 1});   or the test fails with what is missing
 *     tw_stop(&w);
 * The middleware answers lookups with what tests can foresee, and does what the world's fields ask of it. */
#ifndef TRAINER_WORLD_H
#define TRAINER_WORLD_H

#include "runtime/base/mem.h"
#include "runtime/net/rpc.h"
#include "runtime/wire/batch.h"
#include "tests/sim/sim_io.h"
#include "trainer/trainer.h"

enum { NODE_C, NODE_M, NODE_T, NODES };
enum { SAMPLES = 16, DIM = 4, FEATURES = 2, SPLITS = 2, BATCHES = 6, LOOPS = 2 };

struct trainer_world {
    struct sim *sim;
    struct rt_job *job;
    struct tr_trainer *trainer;
    struct rt_metrics *metrics;
    struct rt_rpc *composer, *middleware[LOOPS]; /* loops of one middleware */
    char middleware_address[LOOPS][RT_ADDRESS_MAX];
    struct rt_peer *to_trainer;
    struct rt_arena *arena;
    struct wire_out out;
    /* middleware */
    unsigned released_at[LOOPS];
    unsigned lookups, pushes, releases, looked_up_open, looked_up_open_max;
    int fail_lookup, fail_push; /* so many times */
    int fail_with;              /* 0: RT_EUNKNOWN, the middleware has lost the batch */
    bool hold_pushes;
    bool in_turn; /* batches say which one is before them */
    struct rt_call *held[64];
    unsigned n_held;
    bool poison;                                              /* embeddings are NaN */
    float gradient[FEATURES][SAMPLES * DIM], scale[FEATURES]; /* of the latest push, widened */
    double push_rate; /* of it: factor on the tables' rates */
    uint64_t push_step;
    /* composer */
    struct wire_await_phase_reply phase;
    unsigned phases;
    int outcome[64];  /* by sequence % 64 */
    bool own_failure; /* of the latest outcome */
    uint32_t loop;    /* where batches are put */
    unsigned answers;
    int failed;
};

void tw_start(struct trainer_world *w, const char *const *set, size_t n_set);
/* pool: payload bytes of each node; 0: enough. */
void tw_start_with(struct trainer_world *w, const char *const *set, size_t n_set, size_t pool);
void tw_stop(struct trainer_world *w); /* every gauge agrees, and no call is owed */

/* What must have happened, at least. */
struct tw_goal {
    struct trainer_world *world;
    unsigned answers, pushes, phases, held;
};

void tw_run_until(struct trainer_world *w, struct tw_goal goal);
bool tw_has_failed(void *world); /* for sim_run_until() */
struct tr_report tw_report(struct trainer_world *w);
double tw_page(const struct trainer_world *w, const char *what); /* saffron_trainer_<what> */
struct rt_identity tw_identity(enum rt_role role, const struct rt_job *job);

/* The composer: one batch, whose outcome comes into the world; the next phase; the ends of both splits. */
void tw_send_batch(struct trainer_world *w, uint32_t split, uint64_t sequence, uint32_t attempt);
void tw_await_phase(struct trainer_world *w, uint64_t known);
void tw_end_epoch(struct trainer_world *w, bool evaluate, uint64_t end0, uint64_t end1);

/* The middleware: answer a push that was held. */
void tw_ack_push(struct trainer_world *w, struct rt_call *call);

#endif
