/* trainer/header.h -- what a rank's step header may say, and how much. */
#ifndef TR_HEADER_H
#define TR_HEADER_H

#include "runtime/job/ledger.h"
#include "runtime/wire/step.h"

struct tr_header_rules {
    uint32_t world, splits;         /* ranks; data.splits */
    const struct rt_ledger *ledger; /* this rank's copy */
};

/* Finished batches that one header of a round may tell of, at least 1: the headers of `world` ranks, at most
 * WIRE_GROUP_MAX, are one message. What is left goes with the next round. */
uint32_t tr_header_news_max(uint32_t world);

/* A batch that `rank` speaks of as its own is of the training splits, placed at that rank, and not so far ahead that
 * the ledger could not take it. RT_EPROTO names `what` said so, the batch, and what was expected. */
int tr_header_check_own(const struct tr_header_rules *rules, const char *what, uint32_t rank,
                        uint64_t batch_id);
/* The batch and the news of `rank`'s header. RT_EPROTO. */
int tr_header_check(const struct tr_header_rules *rules, uint32_t rank,
                    const struct wire_step_header *header);

#endif
