/* runtime/wire/step.h -- codec of proto/step.proto: one rank's part of a step header. */
#ifndef WIRE_STEP_H
#define WIRE_STEP_H

#include "runtime/base/mem.h"
#include "runtime/wire/method.h"

struct wire_step_header {
    uint64_t group_epoch, step;
    bool has_batch, ended;
    uint64_t batch_id;
    uint32_t samples;
    uint32_t n_finished;
    const uint64_t *finished;
    double learning_rate;
    uint64_t cut, acked_through;
};
int wire_step_header_pack(const struct wire_step_header *in, struct wire_out *out);
int wire_step_header_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_step_header *out);

#endif
