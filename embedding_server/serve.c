/* embedding_server/serve.c -- an owner's requests, from the frame to the answer: what they have in common.
 *
 *   LookupRows:     read -> (wait for a step) -> rows into one payload buffer -> reply        serve_lookup.c
 *   ApplyGradients: read -> filter -> alone? apply at once : gather parts and ranks -> apply -> filter bits
 *                   -> replies -> lookups that waited for this step                           serve_apply.c
 *   large ones:     the same, a piece at a time                                               turn.c
 *   Cut, AwaitCut, EndCut: a checkpoint, told by the trainer                                  cut.c
 *
 * Ids and gradients stay where they arrived, in the request's payload, and an answer's rows are written where
 * they leave from, in the wire's dtype: what is not float32 is converted a stretch of rows at a time, in the cache. What waits holds its payload and its call; both are given back when the answer is
 * known, also if the asker is gone by then. */
#include "embedding_server/serve.h"
#include "embedding_server/stage.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"

#define IDS_BYTES_MAX ((uint64_t)WIRE_IDS_MAX * 8 + (uint64_t)WIRE_TABLES_MAX * RT_SEGMENT_ALIGN)

void ebs_refuse(struct ebs_owner *owner, struct rt_call *call, int err)
{
    ebs_add(&owner->stats.refused, 1);
    rt_call_fail(call, err, rt_err_text());
}

int ebs_check_ids(const struct ebs_owner *owner, const uint64_t *id, size_t n)
{
    uint32_t width = owner->shard_end - owner->shard_first;

    if (ebs_outside(id, n, owner->shard_first, width) == 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (rt_shard_of(id[i]) - owner->shard_first >= width)
            return RT_FAIL(RT_EOWNER, "id %016llx is in shard %u, this owner holds %u..%u",
                           (unsigned long long)id[i], rt_shard_of(id[i]), owner->shard_first,
                           owner->shard_end - 1);
    return 0;
}

int ebs_check_head(const struct ebs_owner *owner, uint64_t shard_map, const uint32_t *table,
                   uint32_t n_tables)
{
    const struct rt_job *job = owner->conf.job;

    if (shard_map != owner->shard_map)
        return RT_FAIL(RT_EOWNER, "request by shard map %016llx, this owner has %016llx",
                       (unsigned long long)shard_map, (unsigned long long)owner->shard_map);
    if (n_tables > 0 && table[n_tables - 1] >= job->n_tables)
        return RT_FAIL(RT_EPROTO, "table %u, the job has %u", table[n_tables - 1], job->n_tables);
    return 0;
}

int ebs_check_dtype(const char *key, uint32_t expected, uint32_t dtype)
{
    if (dtype == expected)
        return 0;
    return RT_FAIL(RT_EPROTO, "request of dtype %s, expected %s, as %s of the job",
                   rt_dtype_name(dtype), rt_dtype_name(expected), key);
}

uint64_t ebs_rows_of(const uint32_t *n_ids, uint32_t n_tables)
{
    uint64_t rows = 0;

    for (uint32_t t = 0; t < n_tables; t++)
        rows += n_ids[t];
    return rows;
}

size_t ebs_work_of(const struct ebs_owner *owner, const uint32_t *table, const uint32_t *n_ids,
                   uint32_t n_tables)
{
    uint32_t slice = owner->conf.slice_rows;
    size_t bytes = 0;

    for (uint32_t t = 0; t < n_tables; t++)
        bytes += ebs_work_bytes(owner->table[table[t]], n_ids[t]);
    return slice == 0 ? bytes : ebs_rows_of(n_ids, n_tables) * (EBS_AT_ONCE / slice);
}

const struct rt_method_def ebs_methods[] = {
    {WIRE_LOOKUP_ROWS, "LookupRows", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), EBS_MESSAGE_BYTES_MAX,
     IDS_BYTES_MAX, ebs_serve_lookup},
    {WIRE_APPLY_GRADIENTS, "ApplyGradients", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), EBS_MESSAGE_BYTES_MAX,
     RT_PAYLOAD_MAX, ebs_serve_apply},
    {WIRE_CUT, "Cut", RT_ROLE_BIT(RT_ROLE_TRAINER), RT_MESSAGE_MAX, 0, ebs_serve_cut},
    {WIRE_AWAIT_CUT, "AwaitCut", RT_ROLE_BIT(RT_ROLE_TRAINER), EBS_MESSAGE_BYTES_MAX, 0,
     ebs_serve_await_cut},
    {WIRE_END_CUT, "EndCut", RT_ROLE_BIT(RT_ROLE_TRAINER), EBS_MESSAGE_BYTES_MAX, 0,
     ebs_serve_end_cut},
    {WIRE_TELL_LEDGER, "TellLedger", RT_ROLE_BIT(RT_ROLE_TRAINER), RT_MESSAGE_MAX, 0,
     ebs_serve_tell_ledger},
    {WIRE_GO_BACK_ROWS, "GoBackRows", RT_ROLE_BIT(RT_ROLE_TRAINER), EBS_MESSAGE_BYTES_MAX, 0,
     ebs_serve_go_back},
};
const size_t ebs_method_count = ARRAY_LEN(ebs_methods);
