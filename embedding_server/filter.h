/* embedding_server/filter.h -- which batches an owner has applied: at most once each, across retries.
 *
 * batch_id = split (16 bits) | sequence (48 bits). Per split: `low`, below which everything counts as
 * applied, and a bitmap of `window` sequences from there. low moves up over applied batches; a batch
 * beyond the window pushes it up, and sequences that fall out below unapplied are from then on
 * "already applied". That is the rule for batches that have no rows here, of which an owner never hears outside
 * synchronous mode, so they are not counted: they say nothing. So memory is bounded (window / 8 bytes per split
 * that was seen) and an error is always on the side of not applying twice; the window must be at least twice
 * the batches that a split can have open, and then no batch that is still to come falls out.
 * (runtime/job/seqset.h, the ledger's, refuses what lies beyond its window. Here that would end in a halt.)
 * Touch: owner thread only. */
#ifndef EBS_FILTER_H
#define EBS_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EBS_WINDOW_MIN    64u
#define EBS_WINDOW_MAX    (1u << 20)
#define EBS_SEQUENCE_BITS 48

struct ebs_filter;
struct wire_split_ledger;

/* @window: sequences per split, rounded up to a power of two. RT_EUSAGE, RT_ENOMEM. */
int ebs_filter_create(uint32_t window, struct ebs_filter **out);
void ebs_filter_destroy(struct ebs_filter *filter); /* NULL is legal */

bool ebs_filter_seen(const struct ebs_filter *filter, uint64_t batch_id);

/* Make room for a batch of this split, so that ebs_filter_set() cannot fail: call it before anything is
 * applied. RT_ENOMEM; the filter is unchanged then. */
int ebs_filter_reserve(struct ebs_filter *filter, uint64_t batch_id);

/* The batch is applied. Reserve first. */
void ebs_filter_set(struct ebs_filter *filter, uint64_t batch_id);

/* A batch that counts as applied here and is not finished in the ledger, to *batch_id. false: there is none.
 * @ledger: [n] growing by split. */
bool ebs_filter_beyond(const struct ebs_filter *filter, const struct wire_split_ledger *ledger,
                       uint32_t n, uint64_t *batch_id);

/* All sequences below `low`, and those of the bitmap above it (bit 0 is low itself), as the ledger has them, are applied. Reserve
 * any batch of the split first. RT_EPROTO: the bitmap is longer than the window, or beyond the last sequence; then nothing has changed. */
int ebs_filter_add(struct ebs_filter *filter, uint32_t split, uint64_t low, const uint8_t *bits,
                   size_t bytes);

/* The first sequence of a split that is not known to be applied; 0 for a split never seen. */
uint64_t ebs_filter_low(const struct ebs_filter *filter, uint32_t split);
uint32_t ebs_filter_window(const struct ebs_filter *filter);
size_t ebs_filter_bytes(const struct ebs_filter *filter);

#endif
