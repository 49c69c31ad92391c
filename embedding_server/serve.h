/* embedding_server/serve.h -- the inside of an owner, shared by owner.c (its life), serve.c (its requests) and
 * metrics.c (its numbers) only. */
#ifndef EBS_SERVE_H
#define EBS_SERVE_H

#include "embedding_server/apply.h"
#include "embedding_server/filter.h"
#include "embedding_server/gather.h"
#include "embedding_server/owner.h"
#include "embedding_server/table.h"

#define EBS_UNPACK_BYTES_MAX ((size_t)48 << 20) /* what one message may unpack to */
#define EBS_FACTOR_MAX       1e6                /* of learning rates, and of the factor on them */

/* A lookup that wants to see a step which is not applied yet: the request, kept as it came. */
struct ebs_waiting {
    struct ebs_waiting *next;
    struct rt_call *call;
    struct rt_buf *payload;
    uint64_t step;
    size_t size;
    uint8_t message[];
};

struct ebs_owner {
    struct ebs_owner_conf conf;
    struct rt_rpc *rpc;
    char address[RT_ADDRESS_MAX];
    uint64_t shard_map;
    uint32_t shard_first, shard_end; /* our shards: [first, end) */
    struct ebs_budget budget;        /* of all tables together */
    struct ebs_table **table;        /* [job->n_tables] */
    float *lr;                       /* [job->n_tables] */
    struct ebs_applier applier;
    struct ebs_filter *filter;
    struct ebs_gather *gather;
    struct rt_arena *arena; /* of the request being served */
    struct wire_out reply;
    struct ebs_waiting *first, **last;
    struct ebs_owner_stats stats;
    struct ebs_table_stats *table_stats; /* [job->n_tables] */
};

/* metrics.c: what a table holds now. */
void ebs_count_table(struct ebs_owner *owner, uint32_t table);

extern const struct rt_method_def ebs_methods[];
extern const size_t ebs_method_count;

#endif
