/* tests/sim/job_world.h -- a whole job in one thread with several of each role, on simulated rt_ios.
 *
 *     struct job_world w;
 *     jw_start(&w, &(struct jw_conf){.seed = 1, .ranks = 2, .composers = 1});
 *     jw_break(&w, ...); jw_restart_rank(&w, 1);
 *     jw_run(&w);                    until every rank is done, or the test fails with the seed
 *     jw_stop(&w);
 * Nodes: composers, middlewares, ranks, owners, in this order, and one or more that the test may use. */
#ifndef JOB_WORLD_H
#define JOB_WORLD_H

#include "tests/sim/sim_io.h"

#include "data_compose/composer.h"
#include "embedding_server/restore.h"
#include "embedding_server/serve.h"
#include "middleware/loop.h"
#include "trainer/state.h"

enum { JW_MAX = 8, JW_TRAIN_ROWS = 200, JW_TEST_ROWS = 60 }; /* rows: of the fixture */

struct jw_conf {
    uint64_t seed;
    unsigned ranks, composers, middlewares, owners; /* 0: 1; owners: 2 */
    unsigned servers;                               /* that have so many owners each; 0: 1 */
    const char *const *set;
    size_t n_set;
    struct rt_job *job; /* the caller's, for many worlds of one job; NULL: made from set[n_set] */
    size_t state_part;  /* of FetchState, as struct tr_trainer_conf */
    const char *init_from, *predict; /* of the ranks: struct tr_trainer_conf */
    size_t part_bytes; /* of the middlewares' messages to and from owners; 0: as usual */
    const char *checkpoint_dir;
    bool restore;     /* ranks and owners go on from what is there */
    bool gpu;         /* the ranks compute on emulated ones (tests/lib/emulated_gpu.h) */
    uint32_t no_nccl; /* bits of ranks whose GPU's library has none */
    bool
        kept_up; /* the test starts again who asks for it (jw_restart_who_left()); else that is a failure */
    unsigned spares;                     /* nodes that the test may use; 0: 1 */
    uint64_t delay_min_ns, delay_max_ns; /* of frames: struct sim_conf */
    void (*rank_started)(
        void *ctx,
        unsigned rank); /* NULL: with a checkpoint folder rank 0 hears where the owners are */
    void *ctx;
};

struct job_world;
struct jw_rank {
    struct job_world *world;
    struct tr_trainer *trainer;
    struct tr_device_of device;
    uint64_t incarnation;
    unsigned restarts;
    bool done, drained; /* drained: tr_trainer_drain() said that it would tell */
    bool leaves;        /* it asks to be started again: RT_EBACK, with kept_up */
    int failed;         /* 0: it has not */
};

/* A server or a composer, for its callbacks. */
struct jw_role {
    struct job_world *world;
    bool leaves; /* likewise */
};

struct job_world {
    struct jw_conf conf;
    struct sim *sim;
    struct rt_job *job;
    struct rt_shard_map shards;
    struct ebs_owner *owner[JW_MAX];
    struct mw_loop *middleware[JW_MAX];
    struct jw_rank rank[JW_MAX];
    struct dc_composer *composer[JW_MAX];
    uint64_t server_incarnation[JW_MAX];
    struct ebs_restored restored[JW_MAX]; /* of each server: what it began with */
    unsigned composer_restarts[JW_MAX], middleware_restarts[JW_MAX], server_restarts[JW_MAX];
    struct jw_role server_role[JW_MAX], composer_role[JW_MAX];
    int failed;
    char failed_text[256];
};

void jw_start(struct job_world *w, const struct jw_conf *conf);
void jw_stop(struct job_world *w);
bool jw_is_over(void *world); /* done everywhere, or failed: for sim_run_until() */
void jw_run(struct job_world *w);
/* The rank's process dies, whatever its step thread is at, and comes back 5 ms later with a higher incarnation and no state. */
void jw_restart_rank(struct job_world *w, unsigned rank);
/* The same of several at once: neighbours in the ring, `first` and those after it. */
void jw_restart_ranks(struct job_world *w, unsigned first, unsigned n);
/* Run on while links break, one every few milliseconds of simulated time, until there were so many or the job is
 * over; between any two nodes, or (among_ranks) every second time between two ranks. */
void jw_break_links(struct job_world *w, unsigned breaks, bool among_ranks);

/* The same of a composer: all it knows is what the trainers tell it. */
void jw_restart_composer(struct job_world *w, unsigned composer);

/* The same of a middleware: the batches that it held are gone. */
void jw_restart_middleware(struct job_world *w, unsigned middleware);

/* The embedding server, all of its owners: its rows are gone, or those of a checkpoint. */
void jw_restart_server(struct job_world *w);
/* Everybody at once. */
void jw_restart_job(struct job_world *w);
/* Somebody asks to be started again; so, or over: for sim_run_until(). */
bool jw_asks(const struct job_world *w);
bool jw_has_left(void *world);
/* Whoever asks is: of servers all. */
void jw_restart_who_left(struct job_world *w);

/* A process ends at once, whatever it is at, and is not there until it is started. Who has a connection to it hears that at once, or
 * (silent) hears nothing any more. Whoever is dead is NULL in the world. */
void jw_kill_composer(struct job_world *w, unsigned c, bool silent);
void jw_kill_middleware(struct job_world *w, unsigned m, bool silent);
void jw_kill_rank(struct job_world *w, unsigned r, bool silent);
void jw_kill_server(struct job_world *w, unsigned s, bool silent);
/* It is there again, with a higher incarnation and what its kind restores; all that live hear of one another. */
void jw_revive_composer(struct job_world *w, unsigned c);
void jw_revive_middleware(struct job_world *w, unsigned m);
void jw_revive_rank(struct job_world *w, unsigned r);
void jw_revive_server(struct job_world *w, unsigned s);
bool jw_server_lives(const struct job_world *w, unsigned s);
/* While all are dead: as many of each as `conf` says from now on; no more nodes than at the start. */
void jw_reshape(struct job_world *w, const struct jw_conf *conf);

unsigned jw_node_composer(const struct job_world *w, unsigned i);
unsigned jw_node_middleware(const struct job_world *w, unsigned i);
unsigned jw_node_rank(const struct job_world *w, unsigned i);
unsigned jw_node_owner(const struct job_world *w, unsigned i);
unsigned jw_node_spare(const struct job_world *w);
unsigned jw_workers(const struct job_world *w); /* owners of a server */
/* What holds at any time, whatever has happened to the rank: its numbers agree with each other and with the time. */
void jw_check_numbers(const struct job_world *w, const struct tr_trainer *trainer);
void jw_tell(const struct job_world *w); /* print where everybody is */
/* Of all ranks together: counts and sums are added, step and quality are rank 0's. */
struct tr_report jw_report(const struct job_world *w);

#endif
