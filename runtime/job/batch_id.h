/* runtime/job/batch_id.h -- a batch's name: split (16 bits) | sequence (48 bits). The sequence of a split
 * runs on over all epochs. Evaluation has splits of its own: the upper half of the numbers. */
#ifndef RT_BATCH_ID_H
#define RT_BATCH_ID_H

#include <stdbool.h>
#include <stdint.h>

#define RT_SPLITS_MAX     32768u /* of training; evaluation split i is RT_SPLIT_EVALUATE + i */
#define RT_SPLIT_EVALUATE 32768u
/* data.splits: the state of all splits travels in one message (RT_MESSAGE_MAX), in up to 100 bytes each. */
#define RT_DATA_SPLITS_MAX 8192u
#define RT_SEQUENCE_MAX    ((1ull << 48) - 1)
/* Sequences of one split that ledger and filters tell apart. The same for both: the ledger refuses a batch so
 * far ahead of an open one before an owner takes the open one for applied. */
#define RT_BATCH_WINDOW 8192u
/* Batches of a split that are open together are less than this apart, and a composer has at most so many open:
 * data.window x trainer ranks. The other half of the window is for news on their way. */
#define RT_OPEN_MAX (RT_BATCH_WINDOW / 2)

static inline uint64_t rt_batch_id(uint32_t split, uint64_t sequence)
{
    return (uint64_t)split << 48 | sequence;
}
static inline uint32_t rt_batch_split(uint64_t batch_id)
{
    return (uint32_t)(batch_id >> 48);
}
static inline uint64_t rt_batch_sequence(uint64_t batch_id)
{
    return batch_id & RT_SEQUENCE_MAX;
}
/* The trainer rank that takes a batch: the same on every replay. */
static inline uint32_t rt_batch_rank(uint64_t batch_id, uint32_t world)
{
    return (uint32_t)((rt_batch_split(batch_id) + rt_batch_sequence(batch_id)) % world);
}

#endif
