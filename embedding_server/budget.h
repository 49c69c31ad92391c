/* embedding_server/budget.h -- the memory that one owner's tables may take.
 *
 * Whatever grows with rows (rows, their bits, the index) takes its bytes here first and gives them
 * back when freed. A refusal is not out of memory: the table then evicts by its policy, or the new id
 * gets no row. Touch: owner thread only. */
#ifndef EBS_BUDGET_H
#define EBS_BUDGET_H

#include <stdbool.h>
#include <stddef.h>

struct ebs_budget {
    size_t limit; /* 0: none */
    size_t used;
};

static inline bool ebs_budget_take(struct ebs_budget *budget, size_t bytes)
{
    if (budget->limit > 0 && (budget->used > budget->limit || bytes > budget->limit - budget->used))
        return false;
    budget->used += bytes;
    return true;
}

static inline void ebs_budget_give(struct ebs_budget *budget, size_t bytes)
{
    budget->used -= bytes;
}

#endif
