/* tests/sim/test_trainer.c -- a trainer rank between a scripted composer and a scripted middleware, in the
 * simulator: permits, repeats, a lost middleware before and after the step, values that are not finite,
 * epochs, 16 bits on the wire, payload memory that is used up. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/temp.h"
#include "tests/sim/trainer_world.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/job/batch_id.h"
#include "runtime/job/save.h"
#include "trainer/schedule.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* What the page says after six steps and two evaluations is what the report says. */
static void check_page(const struct trainer_world *w, const struct tr_report *r)
{
    static const char *const part[] = {"wait", "header", "compute", "reduce", "commit"};
    const struct {
        const char *name;
        double want;
    } row[] = {
        {"steps_total", 6},
        {"samples_trained_total", 6 * SAMPLES},
        {"batches_trained_total", 6},
        {"samples_dropped_total", 0},
        {"evaluations_total", 2},
        {"evaluate_seconds_count", 2},
        {"test_auc", r->test_auc},
        {"test_logloss", r->test_logloss},
        {"epoch_loss", r->train_loss},
        {"learning_rate", 0.1}, /* of the fixture */
        {"epoch", 1},
        {"epochs", 2},
        {"group_epoch", 1},
        {"world", 1},
        {"permits", w->job->global.staleness},
        {"permits_used", 0},
        {"batches_open", 0},
        {"staleness_count", 6},
        {"step_seconds_sum{part=\"compute\"}", 6e-3}, /* the simulator's 1 ms a piece */
        {"step_seconds_sum{part=\"header\"}", 0},
        {"step_seconds_sum{part=\"reduce\"}", 0},
    };
    char name[64];
    double sum = 0;
    for (size_t i = 0; i < ARRAY_LEN(row); i++)
        if (fabs(tw_page(w, row[i].name) - row[i].want) > 1e-12)
            fail_msg("%s: got %g, want %g", row[i].name, tw_page(w, row[i].name), row[i].want);
    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        snprintf(name, sizeof name, "step_seconds_count{part=\"%s\"}", part[i]);
        assert_true(tw_page(w, name) == 6);
        snprintf(name, sizeof name, "step_seconds_sum{part=\"%s\"}", part[i]);
        sum += tw_page(w, name);
    }
    /* What is behind the latest step is its gradients' way only. */
    assert_true(sum > 6e-3 && sum <= r->train_seconds && sum > r->train_seconds - 2e-3);
    assert_true(tw_page(w, "wait_seconds_total") == tw_page(w, "step_seconds_sum{part=\"wait\"}"));
}

static void test_epochs(void **state)
{
    (void)state;
    struct trainer_world w;
    tw_start(&w, (const char *[]){"data.epochs=2"}, 1);
    tw_await_phase(&w, 0);
    tw_run_until(&w, (struct tw_goal){.phases = 1});
    assert_int_equal(w.phase.kind, WIRE_PHASE_TRAIN);
    assert_true(isnan(tw_page(&w, "loss")) && isnan(tw_page(&w, "epoch_loss")) &&
                isnan(tw_page(&w, "test_auc")) && isnan(tw_page(&w, "test_logloss")));
    for (unsigned epoch = 0; epoch < 2; epoch++) {
        uint64_t first = epoch * 3;
        unsigned before = w.answers;
        for (unsigned i = 0; i < 3; i++)
            tw_send_batch(&w, 1, first + i, 1);
        tw_end_epoch(&w, false, 0, first + 3);
        tw_await_phase(&w, w.phase.phase);
        tw_run_until(&w, (struct tw_goal){.answers = before + 3, .phases = 2 + 2 * epoch});
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(w.outcome[first + i], WIRE_TRAINED);
        assert_int_equal(w.phase.kind, WIRE_PHASE_EVALUATE);
        tw_send_batch(&w, RT_SPLIT_EVALUATE, epoch, 1);
        tw_end_epoch(&w, true, epoch + 1, 0);
        tw_await_phase(&w, w.phase.phase);
        tw_run_until(&w, (struct tw_goal){.answers = before + 4, .phases = 3 + 2 * epoch});
        assert_int_equal(w.outcome[epoch], WIRE_EVALUATED);
    }
    assert_int_equal(w.phase.kind, WIRE_PHASE_DONE);
    struct tr_report r = tw_report(&w);
    assert_true(r.done);
    assert_int_equal(r.step, 6);
    assert_int_equal(r.samples_trained, 6 * SAMPLES);
    assert_int_equal(r.samples_read, 6 * SAMPLES);
    assert_int_equal(r.test_samples, SAMPLES);
    assert_true(r.test_auc >= 0 && r.test_auc <= 1);
    assert_int_equal(r.permits_used, 0);
    check_page(&w, &r);
    tw_stop(&w);
}

/* S permits: while the middleware holds the acks, no more than S batches are looked up. */
static void test_staleness(void **state)
{
    (void)state;
    static const struct {
        const char *set[2];
        unsigned limit;
    } row[] = {{{"global.staleness=1", "global.mode=hybrid"}, 1},
               {{"global.staleness=3", "global.mode=hybrid"}, 3},
               {{"global.staleness=3", "global.mode=full"}, 1}};
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct trainer_world w;
        tw_start(&w, row[i].set, 2);
        w.hold_pushes = true;
        for (unsigned b = 0; b < BATCHES; b++)
            tw_send_batch(&w, 0, b, 1);
        tw_run_until(&w, (struct tw_goal){.held = row[i].limit});
        sim_run_until(w.sim, NULL, NULL, RT_S);
        assert_int_equal(w.looked_up_open_max, row[i].limit);
        assert_int_equal(w.n_held, row[i].limit);
        assert_true(tw_page(&w, "permits") == row[i].limit &&
                    tw_page(&w, "permits_used") == row[i].limit);
        assert_true(tw_page(&w, "queue_batches{state=\"pushing\"}") == row[i].limit);
        assert_true(tw_page(&w, "queue_batches{state=\"queued\"}") == BATCHES - row[i].limit);
        w.hold_pushes = false;
        for (unsigned h = 0; h < w.n_held; h++)
            tw_ack_push(&w, w.held[h]);
        w.n_held = 0;
        tw_run_until(&w, (struct tw_goal){.answers = BATCHES});
        assert_int_equal(w.looked_up_open_max, row[i].limit);
        assert_int_equal(tw_report(&w).staleness_max, row[i].limit);
        assert_int_equal(tw_report(&w).samples_trained, BATCHES * SAMPLES);
        assert_true(tw_page(&w, "staleness_count") == w.lookups && w.lookups == BATCHES);
        assert_true(tw_page(&w, "staleness_sum") <= row[i].limit * BATCHES);
        assert_true(tw_page(&w, row[i].limit == 1 ? "staleness_bucket{le=\"1\"}"
                                                  : "staleness_bucket{le=\"4\"}") == BATCHES);
        assert_true(row[i].limit == 1 || tw_page(&w, "staleness_bucket{le=\"2\"}") < BATCHES);
        tw_stop(&w);
    }
}

/* The schedule's factor is in the dense rate and in what the tables are told, of one step the same; a push that is
 * sent again has that of its step; the operator's factor is on top. */
static void test_schedule(void **state)
{
    (void)state;
    enum { STEPS = 10 };
    const struct tr_schedule schedule = {
        .kind = TR_SCHEDULE_COSINE, .warmup = 3, .warmup_start = 0.001, .steps = 8, .final = 0.25};
    struct trainer_world w;
    tw_start(&w,
             (const char *[]){"model.schedule={type: cosine, warmup: 3, steps: 8, final: 0.25}",
                              "model.optimizer.clip_norm=1e-9"},
             2);
    for (unsigned step = 1; step <= STEPS; step++) {
        double operator_s = step > STEPS / 2 ? 0.5 : 1;
        double want = operator_s * tr_schedule_factor(&schedule, step);
        assert_int_equal(tr_trainer_set_learning_rate(w.trainer, operator_s), 0);
        w.fail_push = step == 2; /* lost: data-compose puts the batch again */
        tw_send_batch(&w, 0, step - 1, 1);
        tw_run_until(&w, (struct tw_goal){.pushes = w.pushes + 1});
        assert_int_equal(w.push_step, step);
        assert_true(w.push_rate == want);
        if (step == 2) {
            w.push_rate = 0;
            sim_run_until(w.sim, NULL, NULL, RT_S);
            assert_int_equal(w.outcome[1], WIRE_RETRY);
            tw_send_batch(&w, 0, 1, 2);
            tw_run_until(&w, (struct tw_goal){.pushes = w.pushes + 1});
            assert_true(w.push_rate == want && w.push_step == step);
        }
        sim_run_until(w.sim, NULL, NULL, RT_S);
        assert_int_equal(w.outcome[step - 1], WIRE_TRAINED);
        assert_true(fabs(tw_page(&w, "learning_rate_factor") - want) < 1e-12);
        assert_true(fabs(tw_page(&w, "learning_rate") - 0.1 * want) <
                    1e-12); /* 0.1: of the fixture */
        assert_true(tw_page(&w, "gradient_norm") > 0);
    }
    assert_true(w.push_rate == 0.5 * 0.25);
    tw_stop(&w);
}

/* Lost before the step: nothing has happened, the batch comes again and is trained once. */
static void test_lookup_lost(void **state)
{
    (void)state;
    struct trainer_world w;
    tw_start(&w, NULL, 0);
    w.fail_lookup = 1;
    tw_send_batch(&w, 0, 0, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 1});
    assert_int_equal(w.outcome[0], WIRE_RETRY);
    assert_int_equal(tw_report(&w).permits_used, 0);
    tw_send_batch(&w, 0, 0, 2);
    tw_run_until(&w, (struct tw_goal){.answers = 2});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    assert_int_equal(tw_report(&w).step, 1);
    tw_stop(&w);
}

/* Lost after the step: the gradients are kept and pushed again; the batch is not stepped twice. */
static void test_push_lost(void **state)
{
    (void)state;
    struct trainer_world w;
    tw_start(&w, NULL, 0);
    w.fail_push = 2;
    tw_send_batch(&w, 0, 0, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 1});
    assert_int_equal(w.outcome[0], WIRE_RETRY);
    uint64_t digest = tr_trainer_digest(w.trainer);
    assert_int_equal(tw_report(&w).permits_used, 1);
    tw_send_batch(&w, 0, 0, 2);
    tw_run_until(&w, (struct tw_goal){.answers = 2});
    assert_int_equal(w.outcome[0], WIRE_RETRY);
    tw_send_batch(&w, 0, 0, 3);
    tw_run_until(&w, (struct tw_goal){.answers = 3});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    assert_int_equal(w.lookups, 1);
    assert_int_equal(w.pushes, 3);
    assert_int_equal(tw_report(&w).step, 1);
    assert_true(tr_trainer_digest(w.trainer) == digest);
    assert_int_equal(tw_report(&w).permits_used, 0);
    tw_stop(&w);
}

/* A batch that cannot be looked up three times is dropped, and the middleware need not keep it. */
static void test_poisoned(void **state)
{
    (void)state;
    struct trainer_world w;
    tw_start(&w, NULL, 0);
    w.fail_lookup = 3;
    w.fail_with = RT_EPROTO;
    for (unsigned attempt = 1; attempt <= 3; attempt++) {
        tw_send_batch(&w, 0, 0, attempt);
        tw_run_until(&w, (struct tw_goal){.answers = attempt});
        assert_int_equal(w.outcome[0], attempt < 3 ? WIRE_RETRY : WIRE_DROPPED);
    }
    sim_run_until(w.sim, NULL, NULL, RT_S);
    assert_int_equal(w.releases, 1);
    assert_int_equal(tw_report(&w).samples_dropped, SAMPLES);
    assert_int_equal(tw_report(&w).permits_used, 0);
    tw_stop(&w);
}

/* A stepped batch cannot be dropped: where its gradients are refused for a reason of their own, the job
 * fails and says why, instead of asking for ever. */
static void test_push_refused(void **state)
{
    (void)state;
    struct trainer_world w;
    tw_start(&w, NULL, 0);
    w.fail_push = 3;
    w.fail_with = RT_EPROTO;
    for (unsigned attempt = 1; attempt <= 2; attempt++) {
        tw_send_batch(&w, 0, 0, attempt);
        tw_run_until(&w, (struct tw_goal){.answers = attempt});
        assert_int_equal(w.outcome[0], WIRE_RETRY);
    }
    tw_send_batch(&w, 0, 0, 3);
    sim_run_until(w.sim, tw_has_failed, &w, 10 * RT_S);
    assert_int_equal(w.failed, RT_EPROTO);
    w.failed = 0;
    tw_stop(&w);
}

/* The same batch again: joined while it is open, answered at once when it is finished. */
static void test_repeat(void **state)
{
    (void)state;
    struct trainer_world w;
    tw_start(&w, NULL, 0);
    w.hold_pushes = true;
    tw_send_batch(&w, 0, 0, 1);
    tw_run_until(&w, (struct tw_goal){.held = 1});
    tw_send_batch(&w, 0, 0, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 1});
    assert_int_equal(w.outcome[0], RT_ESTALE); /* the first call was replaced */
    w.hold_pushes = false;
    tw_ack_push(&w, w.held[0]);
    w.n_held = 0;
    tw_run_until(&w, (struct tw_goal){.answers = 2});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    tw_send_batch(&w, 0, 0, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 3});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    assert_int_equal(w.lookups, 1);
    assert_int_equal(tw_report(&w).samples_trained, SAMPLES);
    tw_stop(&w);
}

/* Of a composer that has not heard that all trainers were lost, and its rows begin anew: no header would take it. */
static void test_too_far(void **state)
{
    (void)state;
    struct trainer_world w;
    tw_start(&w, NULL, 0);
    tw_send_batch(&w, 0, RT_BATCH_WINDOW + 1, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 1});
    assert_int_equal(w.outcome[1], WIRE_RETRY);
    assert_false(w.own_failure);
    tw_send_batch(&w, 0, RT_BATCH_WINDOW - 1, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 2});
    assert_int_equal(w.outcome[63], WIRE_TRAINED);
    tw_stop(&w);
}

/* What is lost on the way is not the batch's fault: only an error of its own is told as one. */
static void test_attempts(void **state)
{
    (void)state;
    static const int error[] = {RT_EUNKNOWN, RT_EPROTO};
    for (size_t i = 0; i < ARRAY_LEN(error); i++) {
        struct trainer_world w;
        tw_start(&w, NULL, 0);
        w.fail_lookup = 1;
        w.fail_with = error[i];
        tw_send_batch(&w, 0, 0, 1);
        tw_run_until(&w, (struct tw_goal){.answers = 1});
        assert_int_equal(w.outcome[0], WIRE_RETRY);
        assert_true(w.own_failure == (error[i] == RT_EPROTO));
        tw_stop(&w);
    }
}

/* A batch that waits, and was put at another loop meanwhile: it goes with the new one, and the first place need not
 * keep it. Once it is looked up it is the new copy that nobody needs. */
static void test_put_elsewhere(void **state)
{
    (void)state;
    static const struct {
        bool waiting;
        uint32_t first, second;
    } row[] = {{true, 1, 0}, {false, 0, 1}};
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct trainer_world w;
        tw_start(&w, (const char *[]){"global.staleness=1"}, 1);
        w.hold_pushes = true;
        if (row[i].waiting) { /* behind a batch that has the only permit */
            tw_send_batch(&w, 0, 0, 1);
            tw_run_until(&w, (struct tw_goal){.held = 1});
        }
        w.loop = row[i].first;
        tw_send_batch(&w, 0, 1, 1);
        if (!row[i].waiting)
            tw_run_until(&w, (struct tw_goal){.held = 1});
        w.loop = row[i].second;
        tw_send_batch(&w, 0, 1, 1);
        tw_run_until(&w, (struct tw_goal){.answers = 1});
        assert_int_equal(w.outcome[1], RT_ESTALE); /* the first call was replaced */
        sim_run_until(w.sim, NULL, NULL, RT_S);
        assert_int_equal(w.released_at[row[i].waiting ? row[i].first : row[i].second], 1);
        assert_int_equal(w.released_at[row[i].waiting ? row[i].second : row[i].first], 0);
        w.hold_pushes = false;
        tw_ack_push(&w, w.held[0]);
        w.n_held = 0;
        tw_run_until(&w, (struct tw_goal){.answers = row[i].waiting ? 3 : 2});
        assert_int_equal(w.outcome[1], WIRE_TRAINED);
        tw_stop(&w);
    }
}

/* The middleware's rows of `item` are NaN: all gradients are then, and `item` is counted. */
static void drop_nonfinite(const char *dtype)
{
    struct trainer_world w;
    tw_start(&w, &dtype, 1);
    uint64_t digest = tr_trainer_digest(w.trainer);
    w.poison = true;
    tw_send_batch(&w, 0, 0, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 1});
    assert_int_equal(w.outcome[0], WIRE_DROPPED);
    sim_run_until(w.sim, NULL, NULL, RT_S);
    assert_int_equal(w.releases, 1);
    assert_int_equal(w.pushes, 0);
    assert_true(tr_trainer_digest(w.trainer) == digest);
    assert_true(tw_page(&w, "batches_nonfinite_total{feature=\"user\"}") == 0);
    assert_true(tw_page(&w, "batches_nonfinite_total{feature=\"item\"}") == 1);
    w.poison = false;
    tw_send_batch(&w, 0, 1, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 2});
    assert_int_equal(w.outcome[1], WIRE_TRAINED);
    assert_true(tr_trainer_digest(w.trainer) != digest);
    assert_int_equal(tw_report(&w).samples_dropped, SAMPLES);
    assert_int_equal(tw_report(&w).step, 1);
    tw_stop(&w);
}

static void test_nonfinite(void **state)
{
    (void)state;
    drop_nonfinite("global.wire.embeddings=float32");
    drop_nonfinite("global.wire.embeddings=float16");
    drop_nonfinite("global.wire.embeddings=bfloat16");
}

/* One batch, pushed twice since the first push is lost; then a test batch. Embeddings here are the same in 16 bits, so the
 * step is the same; gradients are within half a unit of their last place, and are not scaled twice. */
static void test_half_wire(void **state)
{
    (void)state;
    static const struct {
        const char *set[2];
        float within; /* of a gradient */
    } row[] = {
        {{"global.wire.embeddings=float32", "global.wire.gradients=float32"}, 0},
        {{"global.wire.embeddings=bfloat16", "global.wire.gradients=float32"}, 0},
        {{"global.wire.embeddings=float16", "global.wire.gradients=float32"}, 0},
        {{"global.wire.embeddings=float32", "global.wire.gradients=bfloat16"}, 0x1p-8f},
        {{"global.wire.embeddings=float32", "global.wire.gradients=float16"}, 0x1p-11f},
        {{"global.wire.dtype=bfloat16", "global.wire.dtype=bfloat16"}, 0x1p-8f},
        {{"global.wire.dtype=float16", "global.wire.dtype=float16"}, 0x1p-11f},
    };
    float want[FEATURES][SAMPLES * DIM];
    uint64_t digest = 0;
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        struct trainer_world w;
        tw_start(&w, row[r].set, 2);
        w.fail_push = 1;
        tw_send_batch(&w, 0, 0, 1);
        tw_run_until(&w, (struct tw_goal){.answers = 1});
        assert_int_equal(w.outcome[0], WIRE_RETRY);
        memset(w.gradient, 0, sizeof w.gradient);
        tw_send_batch(&w, 0, 0, 2);
        tw_run_until(&w, (struct tw_goal){.answers = 2});
        assert_int_equal(w.outcome[0], WIRE_TRAINED);
        if (r == 0) {
            memcpy(want, w.gradient, sizeof want);
            digest = tr_trainer_digest(w.trainer);
        }
        assert_true(tr_trainer_digest(w.trainer) == digest);
        float most = 0;
        for (uint32_t i = 0; i < FEATURES * SAMPLES * DIM; i++) {
            float wide = want[i / (SAMPLES * DIM)][i % (SAMPLES * DIM)];
            float got = w.gradient[i / (SAMPLES * DIM)][i % (SAMPLES * DIM)];
            most = fmaxf(most, fabsf(wide));
            if (!(fabsf(got - wide) <= row[r].within * fabsf(wide)))
                fail_msg("%s: gradient %u: got %g, want %g", row[r].set[1], i, (double)got,
                         (double)wide);
        }
        assert_true(most > 0x1p-14f && tw_page(&w, "gradients_saturated_total") == 0);
        assert_true(tw_report(&w).bytes_embeddings ==
                    FEATURES * SAMPLES * DIM * wire_dtype_size(w.job->global.wire.embeddings));
        tw_stop(&w);
    }
}

/* A batch of 16 takes 256 bytes as it comes, 512 of embeddings and as many of gradients. */
enum { BATCH_BYTES = 1280, POOL = 4096 };

/* Three quarters of the pool are for batches, so it has room for two: the rest is told to come later, before anything is
 * done for it, though there are permits. */
static void test_full(void **state)
{
    (void)state;
    struct trainer_world w;
    tw_start_with(&w, (const char *[]){"global.staleness=6"}, 1, POOL);
    w.hold_pushes = true;
    for (unsigned b = 0; b < BATCHES; b++)
        tw_send_batch(&w, 0, b, 1);
    tw_run_until(&w, (struct tw_goal){.answers = BATCHES - 2, .held = 2});
    sim_run_until(w.sim, NULL, NULL, RT_S);
    assert_int_equal(w.lookups, 2);
    assert_true(tw_page(&w, "reserved_bytes") == 2 * BATCH_BYTES);
    for (unsigned b = 2; b < BATCHES; b++)
        assert_int_equal(w.outcome[b], RT_EFULL);
    w.hold_pushes = false;
    for (unsigned h = 0; h < 2; h++)
        tw_ack_push(&w, w.held[h]);
    w.n_held = 0;
    tw_run_until(&w, (struct tw_goal){.answers = BATCHES});
    assert_true(tw_page(&w, "reserved_bytes") == 0);
    for (unsigned b = 2; b < BATCHES; b++) {
        tw_send_batch(&w, 0, b, 1);
        tw_run_until(&w, (struct tw_goal){.answers = BATCHES + b - 1});
    }
    for (unsigned b = 0; b < BATCHES; b++)
        assert_int_equal(w.outcome[b], WIRE_TRAINED);
    assert_int_equal(tw_report(&w).samples_trained, BATCHES * SAMPLES);
    assert_int_equal(tw_report(&w).step, BATCHES);
    tw_stop(&w);
}

/* In `full` the one whose turn it is comes in, though those that wait for it have reserved all there is. */
static void test_full_in_turn(void **state)
{
    (void)state;
    struct trainer_world w;
    tw_start_with(&w, (const char *[]){"global.mode=full"}, 1, POOL);
    w.in_turn = true;
    for (unsigned b = 3; b > 0; b--)
        tw_send_batch(&w, 0, b, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 1});
    assert_int_equal(w.outcome[1], RT_EFULL);
    tw_send_batch(&w, 0, 0, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 2});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    tw_send_batch(&w, 0, 1, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 5});
    for (unsigned b = 0; b < 4; b++)
        assert_int_equal(w.outcome[b], WIRE_TRAINED);
    tw_stop(&w);
}

/* The pool is used up by something else: the batch goes back before it is stepped, by no fault of its own. */
static void test_no_gradient_buffer(void **state)
{
    (void)state;
    struct trainer_world w;
    tw_start_with(&w, NULL, 0, POOL);
    struct rt_buf *other = rt_io_buf(sim_node(w.sim, NODE_T), POOL - BATCH_BYTES + 256);
    assert_non_null(other);
    uint64_t digest = tr_trainer_digest(w.trainer);
    tw_send_batch(&w, 0, 0, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 1});
    assert_int_equal(w.outcome[0], WIRE_RETRY);
    assert_true(!w.own_failure && w.lookups == 1 && w.pushes == 0);
    assert_int_equal(tw_report(&w).permits_used, 0);
    assert_true(tr_trainer_digest(w.trainer) == digest);
    rt_buf_unref(other);
    tw_send_batch(&w, 0, 0, 1);
    tw_run_until(&w, (struct tw_goal){.answers = 2});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    tw_stop(&w);
}

/* A job whose batches can never fit is refused at once, by the keys that say so. */
static void test_too_large(void **state)
{
    (void)state;
    struct trainer_world w = {0};
    struct sim_conf conf = {.seed = 11, .n_nodes = NODES, .pool_budget = BATCH_BYTES};
    w.sim = sim_create(&conf);
    w.job = job_fixture(NULL, 0);
    struct tr_trainer_conf t = {.io = sim_node(w.sim, NODE_T),
                                .self = tw_identity(RT_ROLE_TRAINER, w.job),
                                .job = w.job,
                                .world = 1,
                                .listen = "sim:2:1"};
    assert_int_equal(tr_trainer_create(&t, &w.trainer), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "data.batch_size 16: a batch takes 1280 bytes"));
    assert_null(w.trainer);
    sim_destroy(w.sim);
    job_fixture_destroy(w.job);
}

/* The weights are being written when the last ack of the epoch comes: the next phase begins all the same. */
static void test_save_at_the_end(void **state)
{
    (void)state;
    char dir[TEMP_PATH_MAX];
    struct trainer_world w;
    struct rt_save save = {.dir = dir};
    temp_folder(dir);
    tw_start(&w, NULL, 0);
    w.hold_pushes = true;
    tw_await_phase(&w, 0);
    tw_run_until(&w, (struct tw_goal){.phases = 1});
    tw_await_phase(&w, w.phase.phase);
    tw_send_batch(&w, 0, 0, 1);
    tw_end_epoch(&w, false, 1, 0);
    tw_run_until(&w, (struct tw_goal){.held = 1});
    sim_run_until(w.sim, NULL, NULL, RT_S);
    assert_int_equal(w.phases, 1);
    tr_trainer_save(w.trainer, &save); /* 1 ms; the ack takes half as long */
    tw_ack_push(&w, w.held[0]);
    w.n_held = 0;
    sim_run_until(w.sim, NULL, NULL, 6 * RT_MS / 10);
    assert_int_equal(tw_report(&w).permits_used, 0); /* it has come */
    assert_int_equal(save.state, RT_SAVE_WRITING);
    tw_run_until(&w, (struct tw_goal){.phases = 2});
    assert_int_equal(w.phase.kind, WIRE_PHASE_EVALUATE);
    assert_int_equal(save.state, RT_SAVE_DONE);
    tw_stop(&w);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_epochs),       cmocka_unit_test(test_staleness),
        cmocka_unit_test(test_lookup_lost),  cmocka_unit_test(test_push_lost),
        cmocka_unit_test(test_repeat),       cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_attempts),     cmocka_unit_test(test_put_elsewhere),
        cmocka_unit_test(test_poisoned),     cmocka_unit_test(test_push_refused),
        cmocka_unit_test(test_half_wire),    cmocka_unit_test(test_full),
        cmocka_unit_test(test_full_in_turn), cmocka_unit_test(test_no_gradient_buffer),
        cmocka_unit_test(test_too_large),    cmocka_unit_test(test_too_far),
        cmocka_unit_test(test_schedule),     cmocka_unit_test(test_save_at_the_end),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
