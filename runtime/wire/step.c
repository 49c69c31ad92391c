/* runtime/wire/step.c -- codec of the step header. */
#include "runtime/wire/step.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/wire/codec.h"

#include "proto/step.pb-c.h"

static int check_step_header(const struct wire_step_header *m)
{
    static const char name[] = "StepHeader";
    int err = wire_range(name, "samples", m->samples, 0, m->has_batch ? WIRE_SAMPLES_MAX : 0);

    if (!err)
        err = wire_range(name, "count of finished", m->n_finished, 0, WIRE_FINISHED_MAX);
    return err ? err : wire_real(name, "learning_rate", m->learning_rate, 0);
}

int wire_step_header_pack(const struct wire_step_header *in, struct wire_out *out)
{
    Saffron__StepHeader m = SAFFRON__STEP_HEADER__INIT;

    wire_assert_ok(check_step_header(in));
    m.group_epoch = in->group_epoch;
    m.step = in->step;
    m.has_batch = in->has_batch;
    m.batch_id = in->batch_id;
    m.samples = in->samples;
    m.ended = in->ended;
    m.n_finished = in->n_finished;
    m.finished = (uint64_t *)in->finished;
    m.learning_rate = in->learning_rate;
    m.cut = in->cut;
    m.acked_through = in->acked_through;
    return wire_encode(&m.base, out);
}

int wire_step_header_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_step_header *out)
{
    const Saffron__StepHeader *m;
    int err;

    m = wire_decode(&saffron__step_header__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_step_header){
        .group_epoch = m->group_epoch,
        .step = m->step,
        .has_batch = m->has_batch,
        .ended = m->ended,
        .batch_id = m->batch_id,
        .samples = m->samples,
        .n_finished = (uint32_t)m->n_finished,
        .finished = m->finished,
        .learning_rate = m->learning_rate,
        .cut = m->cut,
        .acked_through = m->acked_through,
    };
    return check_step_header(out);
}
