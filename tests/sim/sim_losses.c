/* tests/sim/sim_losses.c -- see sim_losses.h. */
#include "tests/sim/sim_losses.h"

#include "runtime/base/assert.h"
#include "runtime/job/batch_id.h"
#include "runtime/job/shard.h"

static void add_batch(struct sim_losses *losses, const struct job_world *w, unsigned owner,
                      uint64_t batch)
{
    enum { PER_SPLIT = SIM_ROWS / SIM_BATCH / SIM_SPLITS }; /* batches, of an epoch */
    uint64_t sequence = rt_batch_sequence(batch), epoch = sequence / PER_SPLIT;
    uint64_t block = sequence % PER_SPLIT * SIM_SPLITS + rt_batch_split(batch);
    rt_assert(epoch < 8 && rt_batch_split(batch) < SIM_SPLITS);
    for (uint64_t row = block * SIM_BATCH; row < (block + 1) * SIM_BATCH; row++)
        if (rt_shard_owner(&w->shards, rt_shard_of(row)) == owner)
            losses->epochs[row] |= (uint8_t)(1u << epoch);
}

void sim_losses_add(struct sim_losses *losses, const struct job_world *w, unsigned server)
{
    unsigned first = server * jw_workers(w);
    for (unsigned k = first; k < first + jw_workers(w); k++) {
        const struct ebs_lost *lost = w->owner[k] ? w->owner[k]->lost : NULL;
        for (uint32_t i = 0; lost && i < lost->n_ranges; i++)
            for (uint32_t b = 0; b < lost->count[i]; b++, losses->batches++)
                add_batch(losses, w, k, lost->first[i] + b);
    }
}

void sim_losses_count(struct sim_losses *losses)
{
    for (unsigned row = 0; row < SIM_ROWS; row++)
        losses->count[row] = (uint32_t)__builtin_popcount(losses->epochs[row]);
}
