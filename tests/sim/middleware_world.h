/* tests/sim/middleware_world.h -- one loop of the middleware between a scripted composer and trainer and two
 * scripted owners, in the simulator.
 *
 * The owners keep rows that begin at 0 and take 1 * gradient away, and apply each part of a batch once; beside them
 * stands one plain array of the same rows (struct model), pooled and scattered by naive loops. Ids are
 * small integers scrambled, so the model's row of an id is known by its place. All send and expect the dtypes of
 * global.wire; gradients are small integers, so where pooling is a sum 16 bits are exact. Gradients in float16
 * are sent scaled by mwt_scale. Of a sequence each place brings its sample's gradient. In
 * a hashed table rows have no places: they are as they are numbered. */
#ifndef MIDDLEWARE_WORLD_H
#define MIDDLEWARE_WORLD_H

#include "middleware/loop.h"
#include "runtime/base/map.h"
#include "runtime/wire/batch.h"
#include "tests/sim/sim_io.h"

enum { NODE_M, NODE_C, NODE_T, NODE_E, OWNERS = 2, NODES = NODE_E + OWNERS };
enum { SAMPLES = 12, DIM = 4, IDS = 40, TABLES = 2, FEATURES = 2, LIST_MAX = 4, SETTINGS_MAX = 8 };

extern const float mwt_scale[FEATURES];

struct model {
    float row[TABLES][IDS][DIM];
};

struct world;

struct owner {
    struct world *world;
    struct rt_rpc *rpc;
    unsigned index;
    uint64_t incarnation;
    float row[TABLES][IDS][DIM];
    struct rt_map applied; /* mwt_part_key() */
    int fail, fail_times;  /* answer so, so many times */
    bool hold;             /* keep requests unanswered */
    struct rt_call *held[64];
    unsigned n_held, lookups, applies, empty, again, scaled;
    unsigned parts_max; /* of a batch */
    size_t bytes_max;   /* of a payload, either way */
};
/* Of part 0 it is the batch's id. */
static inline uint64_t mwt_part_key(uint64_t batch_id, uint32_t part)
{
    return batch_id ^ (uint64_t)part << 56;
}

struct world {
    struct sim *sim;
    struct rt_job *job;
    struct mw_loop *loop;
    struct rt_rpc *composer, *trainer;
    struct rt_peer *from_composer, *from_trainer;
    uint64_t composer_incarnation;
    struct owner owner[OWNERS];
    unsigned owners; /* of them in use */
    struct rt_arena *arena;
    struct wire_out out;
    struct model model;
};

/* A request and what came of it. */
struct ask {
    int ended, err;
    struct rt_buf *payload;
    char text[WIRE_TEXT_MAX];
};

/* The ids of a batch: feature 0 one per sample, feature 1 lists. */
struct input {
    uint64_t batch;
    bool evaluate, weighted, first;
    uint32_t rank, world; /* as in PutBatch */
    uint32_t length[SAMPLES], n_ids[FEATURES];
    uint32_t place[FEATURES][SAMPLES * LIST_MAX];
    float weight[SAMPLES * LIST_MAX];
    float gradient[FEATURES][SAMPLES][DIM];
    _Alignas(64) uint8_t payload[4096];
    size_t size;
    uint64_t digest;
};

/* All up and connected. @set: at most SETTINGS_MAX settings of the job. */
void mwt_start(struct world *w, const char *const *set, size_t n_set);
void mwt_start_with(struct world *w, unsigned owners, const char *const *set, size_t n_set);
void mwt_stop(struct world *w);
/* ... that cuts what is over so many bytes. */
void mwt_start_parts(struct world *w, unsigned owners, size_t part_bytes, const char *const *set,
                     size_t n_set);
/* Until all are connected. */
void mwt_settle(struct world *w);
/* An owner comes up, or comes back with its rows; goes. */
void mwt_start_owner(struct world *w, unsigned k);
void mwt_stop_owner(struct world *w, unsigned k);
/* In place of the one before. */
void mwt_start_composer(struct world *w, uint64_t incarnation);
/* One of the numbers of the loop's status. */
uint64_t mwt_number(struct world *w, const char *key);
/* The id of a place. */
uint64_t mwt_id(uint32_t place);
/* A batch with the ids that follow from its number; after a change: its payload and digest again. */
void mwt_make_input(struct input *in, uint64_t batch);
void mwt_make_payload(struct input *in);
bool mwt_both_hold(void *world); /* each owner a request: for sim_run_until() */
/* Its error, or 0. */
int mwt_wait_for(struct world *w, struct ask *ask);
/* Send w->out. */
void mwt_call(struct world *w, struct rt_peer *peer, uint16_t method, uint64_t batch,
              const struct rt_piece *piece, struct ask *ask);
/* Requests, not waited for. */
void mwt_put(struct world *w, const struct input *in, struct ask *ask);
void mwt_lookup(struct world *w, const struct input *in, struct ask *ask);
void mwt_lookup_step(struct world *w, const struct input *in, uint64_t step, struct ask *ask);
void mwt_push(struct world *w, const struct input *in, struct ask *ask);
void mwt_push_as(struct world *w, const struct input *in, bool synchronous, struct ask *ask);
/* As part of a step of the group. */
void mwt_push_step(struct world *w, const struct input *in, uint64_t step, struct ask *ask);
/* Requests, waited for: the error. do_lookup also checks the embeddings. */
int mwt_do_put(struct world *w, const struct input *in);
int mwt_do_lookup(struct world *w, const struct input *in);
int mwt_do_push(struct world *w, const struct input *in);
/* The same in the model, and the comparison. */
void mwt_model_push(struct world *w, const struct input *in);
void mwt_check_rows(const struct world *w);
/* The distinct places of a feature, in order of first occurrence. Return: how many. */
uint32_t mwt_distinct(const struct input *in, int f, uint32_t *place);
void mwt_check_embeddings(const struct world *w, const struct input *in, const struct ask *ask);

#endif
