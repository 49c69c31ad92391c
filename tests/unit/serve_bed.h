/* tests/unit/serve_bed.h -- owner 0 of two, with two small tables, asked one request after the other.
 *
 * A request is sent by one call and its answer is there after serve_run(). The tables: "users" of SERVE_DIM ones, SGD
 * of learning rate 0.5, and one of a single zero, Adagrad. The owner holds the lower half of the shards. */
#ifndef TESTS_SERVE_BED_H
#define TESTS_SERVE_BED_H

#include "tests/unit/owner_bed.h"

#define SERVE_DIM 2u

struct serve_answer {
    bool done;
    int err;
    char text[600];
    struct wire_apply_gradients_reply applied;
    struct wire_lookup_rows_reply looked_up;
    uint16_t method;
    float value[16]; /* the payload's first floats */
};

struct serve_update {
    uint64_t batch_id, step, attempt, digest, applied_through;
    uint32_t part, parts, rank, world, table, n; /* parts, world 0: one */
    bool synchronous;
    double factor; /* 0: 1 */
    const uint64_t *id;
    const float *grad;
};

extern struct owner_bed serve;

/* For cmocka. At the end it is checked that all the owner's numbers agree. */
int serve_set_up(void **state);
int serve_set_up_narrow(
    void **state); /* where parts of one batch may wait for the others, and no more */
int serve_tear_down(void **state);

/* Middleware 0 is gone with what it asked, and a new one is there. */
void serve_reconnect(void);

/* Return: where the answer will be; of the last 8 requests. The message and the pieces are taken. */
struct serve_answer *serve_ask(uint16_t method, uint64_t batch_id, struct wire_out *message,
                               const struct rt_piece *pieces, size_t n_pieces);
struct serve_answer *serve_look_up(uint32_t table, const uint64_t *id, uint32_t n, uint64_t step);
struct serve_answer *serve_send(const struct serve_update *update);

/* Wait for n answers more. */
void serve_run(int n);

/* The k-th small integer whose shard is (not) the owner's. */
uint64_t serve_pick(int k, bool ours);

/* Element 0 of a row, asked for and waited for. */
float serve_value(uint32_t table, uint64_t id);

#endif
