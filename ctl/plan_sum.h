/* ctl/plan_sum.h -- how many machines, bytes, connections and bytes a second a job comes to, on paper.
 *
 * A question in, a plan out; no file, no process. Tables are exact: embedding servers count the same bytes by
 * the same header (runtime/job/layout.h). Connections are exact too: who connects to whom is fixed. Bytes a second
 * follow from what one sample is on each hop. What the other roles hold depends on how far they are behind one
 * another, so it has a limit and no more. Touch: any thread. */
#ifndef CTL_PLAN_SUM_H
#define CTL_PLAN_SUM_H

#include "runtime/base/role.h"
#include "runtime/job/layout.h"

struct ctl_question {
    const struct rt_job *job;
    const uint64_t *rows;      /* [tables] of the whole table; 0: as many as its capacity lets in */
    const double *ids;         /* [features] ids of one sample, on average */
    double distinct;           /* of the ids of a batch, how many are different ones: over 0 .. 1 */
    double samples_per_second; /* of all ranks; 0: not told */
    double owner_rate; /* rows a second that one owner is counted on for, each read and written */
    uint64_t dense_parameters;        /* of the model; 0: not known */
    uint64_t server_memory;           /* bytes that one embedding server may have; 0: not told */
    uint32_t replicas[RT_ROLE_COUNT]; /* embedding servers: 0: as many as it takes */
    uint32_t workers, loops;          /* of an embedding server, of a middleware */
};

/* Hops are named as in the summary of a run. */
#define CTL_HOP_LIST(X)                                                                            \
    X(DATA_COMPOSE, MIDDLEWARE, data_compose_to_middleware)                                        \
    X(DATA_COMPOSE, TRAINER, data_compose_to_trainer)                                              \
    X(MIDDLEWARE, EMBEDDING_SERVER, middleware_to_embedding_server)                                \
    X(EMBEDDING_SERVER, MIDDLEWARE, embedding_server_to_middleware)                                \
    X(MIDDLEWARE, TRAINER, middleware_to_trainer)                                                  \
    X(TRAINER, MIDDLEWARE, trainer_to_middleware)                                                  \
    X(TRAINER, TRAINER, trainer_to_trainer)
#define CTL_HOP_ENUM(from, to, name) CTL_HOP_##name,
enum ctl_hop { CTL_HOP_LIST(CTL_HOP_ENUM) CTL_HOP_COUNT };

struct ctl_hop_info {
    enum rt_role from, to;
    const char *name;
};
extern const struct ctl_hop_info ctl_hops[CTL_HOP_COUNT];

struct ctl_plan_table {
    uint64_t rows;             /* of all owners; no more than their capacities let in */
    uint32_t row_bytes;        /* id, policy fields, weights, optimizer state */
    struct rt_table_size size; /* of all owners together */
};

/* One process of a role. */
struct ctl_plan_process {
    uint64_t memory;     /* resident; embedding server: the one with most rows */
    uint64_t memory_max; /* that its configuration lets it hold; 0: sets no limit */
    uint64_t links;      /* to processes of the job */
    uint64_t descriptors;
    double in, out; /* bytes a second */
};

/* Embedding servers that one need alone asks for; 0: says nothing. */
struct ctl_plan_need {
    uint32_t memory, rate, rows;
};

struct ctl_plan {
    struct ctl_plan_table *table; /* [tables]; ctl_plan_release */
    struct rt_table_size size;    /* of all tables and owners */
    uint64_t rows;
    double parameters; /* weights of all rows */
    uint32_t servers, owners;
    struct ctl_plan_need need;
    struct ctl_plan_process process[RT_ROLE_COUNT];
    double rows_per_sample;                 /* read, and written, after deduplication */
    double owner_rows;                      /* a second, of one owner, each read and written */
    double bytes_per_sample[CTL_HOP_COUNT]; /* payload, frames and padding */
};

/* RT_EUSAGE: the servers asked for cannot hold it, or no number of them can; the text says what would do. */
int ctl_plan_sum(const struct ctl_question *question, struct ctl_plan *out);
void ctl_plan_release(struct ctl_plan *plan);

#endif
