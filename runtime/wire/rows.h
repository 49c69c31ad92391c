/* runtime/wire/rows.h -- codec of proto/rows.proto: rows between middleware and owners. Conventions as
 * in runtime/wire/batch.h. */
#ifndef WIRE_ROWS_H
#define WIRE_ROWS_H

#include "runtime/base/mem.h"
#include "runtime/wire/method.h"

#define WIRE_BATCH_PARTS_MAX 512u /* ApplyGradients of one batch to one owner */

struct wire_lookup_rows {
    uint64_t shard_map, step;
    uint32_t n_tables;
    const uint32_t *table; /* [n_tables] index in the job's list, strictly growing */
    const uint32_t *n_ids; /* [n_tables] each >= 1 */
    uint32_t dtype;
};
int wire_lookup_rows_pack(const struct wire_lookup_rows *in, struct wire_out *out);
int wire_lookup_rows_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_lookup_rows *out);

struct wire_lookup_rows_reply {
    uint32_t n_tables;
    const uint32_t *n_ids;
    uint32_t dtype;
};
int wire_lookup_rows_reply_pack(const struct wire_lookup_rows_reply *in, struct wire_out *out);
int wire_lookup_rows_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                  struct wire_lookup_rows_reply *out);

struct wire_apply_gradients {
    uint64_t shard_map;
    uint32_t part, parts;
    uint64_t step;
    double learning_rate;
    uint32_t rank, world;
    bool synchronous;
    uint32_t n_tables; /* 0 is legal: an empty part */
    const uint32_t *table, *n_ids;
    uint32_t dtype;
    uint64_t digest;
    uint64_t applied_through; /* below step; 0: nothing is known of earlier steps */
    const float *scale;       /* [n_tables] what gradients were multiplied by, or NULL: 1 */
    uint64_t attempt;         /* at the step; of a step that is made again it is greater */
    uint64_t age; /* steps in the weights with this one, those of a saved model's too; 0: step */
};
int wire_apply_gradients_pack(const struct wire_apply_gradients *in, struct wire_out *out);
int wire_apply_gradients_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                struct wire_apply_gradients *out);

enum wire_apply_outcome { WIRE_APPLIED = 1, WIRE_ALREADY = 2 };
struct wire_apply_gradients_reply {
    enum wire_apply_outcome outcome;
    uint64_t rows_applied, rows_nonfinite;
};
int wire_apply_gradients_reply_pack(const struct wire_apply_gradients_reply *in,
                                    struct wire_out *out);
int wire_apply_gradients_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                      struct wire_apply_gradients_reply *out);

#endif
