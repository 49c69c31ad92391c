/* middleware/sequence.c -- see sequence.h. */
#include "middleware/sequence.h"

uint32_t mw_sequence_rows(uint32_t *slot, size_t n, uint32_t *mark, uint32_t n_distinct,
                          uint32_t *row)
{
    uint32_t rows = 0;

    for (uint32_t i = 0; i < n_distinct; i++)
        mark[i] = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        uint32_t *own = &mark[slot[i]];

        if (*own == UINT32_MAX) {
            row[rows] = slot[i];
            *own = rows++;
        }
        slot[i] = *own;
    }
    return rows;
}
