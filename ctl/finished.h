/* ctl/finished.h -- which batches a ledger has as finished, counted: of a checkpoint, and of two beside each other. Any thread. */
#ifndef CTL_FINISHED_H
#define CTL_FINISHED_H

#include "runtime/wire/batch.h"

struct ctl_finished {
    uint64_t batches;
    uint64_t holes; /* that are not, and come before one of their split that is */
};
/* Of all splits. */
struct ctl_finished ctl_finished_count(const struct wire_split_ledger *ledger, uint32_t n);

/* Batches that are finished in both. Splits may stand in any order; each once. */
uint64_t ctl_finished_both(const struct wire_split_ledger *a, uint32_t n_a,
                           const struct wire_split_ledger *b, uint32_t n_b);

#endif
