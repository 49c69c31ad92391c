/* runtime/job/part.h -- one file of a saved model's rows, table.NAME.OWNER.PART.safetensors (save.h), written. Any thread. */
#ifndef RT_SAVE_PART_H
#define RT_SAVE_PART_H

#include "runtime/job/layout.h"

struct rt_save_part {
    const char *table;
    uint32_t dim, dtype;
    uint32_t owner, owners, part;
    bool is_last;          /* of this owner and table */
    const char *id;        /* which save it is (RT_SAVE_NOTE); NULL: none */
    const char *optimizer; /* rt_state_text(), whose state is there too; NULL: none is */
    uint32_t slots;        /* of it */
    struct rt_state_slot slot[RT_STATE_SLOTS];
    size_t n;                     /* rows */
    const uint64_t *row_id;       /* [n] */
    const uint8_t *row;           /* [n][dim] in the table's dtype */
    float *state[RT_STATE_SLOTS]; /* [slots][n][slot.count] */
};

/* Into `dir`. RT_EFILE. */
int rt_save_part_write(const char *dir, const struct rt_save_part *part);

#endif
