/* runtime/job/ledger.h -- what the group has done: per split, batches stepped and batches finished, and
 * the rows read and quarantined. All ranks hold the same copy; C asks for it at start. */
#ifndef RT_LEDGER_H
#define RT_LEDGER_H

#include "runtime/job/seqset.h"
#include "runtime/wire/batch.h"

struct rt_ledger;

int rt_ledger_create(uint32_t window, struct rt_ledger **out);
void rt_ledger_destroy(struct rt_ledger *ledger);

int rt_ledger_stepped(struct rt_ledger *ledger, uint64_t batch_id); /* in the dense weights */
/* Acked by every owner, or dropped. Marks it stepped too: nothing of it is left to step. */
int rt_ledger_finished(struct rt_ledger *ledger, uint64_t batch_id);
/* Is it near enough to the oldest open batch of its split that the two above would take it? */
bool rt_ledger_has_room(const struct rt_ledger *ledger, uint64_t batch_id);
bool rt_ledger_is_stepped(const struct rt_ledger *ledger, uint64_t batch_id);
bool rt_ledger_is_finished(const struct rt_ledger *ledger, uint64_t batch_id);

/* A split has ended for this epoch: rows are totals since the job's start. end_sequence: first sequence
 * of the next epoch (an empty split repeats the one before). Repeats replace. RT_EPROTO when one of the
 * three shrinks, or for a split of the evaluation (so do the two above). */
int rt_ledger_end(struct rt_ledger *ledger, const struct wire_split_ledger *ended);
/* All of the first `splits` were told to have ended since rt_ledger_next_epoch, and every batch below
 * their end_sequence is finished. */
bool rt_ledger_epoch_over(const struct rt_ledger *ledger, uint32_t splits);
bool rt_ledger_epoch_ended(const struct rt_ledger *ledger,
                           uint32_t splits); /* the first half of it */
/* The split was told to have ended, and every batch of trainer rank `rank` of `world` below its end_sequence is
 * stepped: this rank has no batch of it to come. */
bool rt_ledger_split_done(const struct rt_ledger *ledger, uint32_t split, uint32_t rank,
                          uint32_t world);
void rt_ledger_next_epoch(struct rt_ledger *ledger);
void rt_ledger_rows(const struct rt_ledger *ledger, uint64_t *read, uint64_t *quarantined);

/* All splits in use, for a reply; memory in `arena`. end_sequence and rows are those told last: of the
 * open epoch once the split ended in it, before that of the epoch before. */
int rt_ledger_export(const struct rt_ledger *ledger, struct rt_arena *arena,
                     struct wire_split_ledger **out, uint32_t *n);
/* Replace all; on an error nothing changes. Every split counts as not ended: its composer tells again. */
int rt_ledger_import(struct rt_ledger *ledger, const struct wire_split_ledger *in, uint32_t n);
/* Add what another rank's copy has: stepped and finished become the unions, rows and ends the larger ones.
 * Which splits have ended stays as it is. RT_EPROTO, RT_ELIMIT, RT_ENOMEM: some of it may be in. */
int rt_ledger_merge(struct rt_ledger *ledger, const struct wire_split_ledger *in, uint32_t n);

#endif
