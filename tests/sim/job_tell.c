/* tests/sim/job_tell.c -- what a job_world's roles say of themselves: their numbers, and where each of them is. */
#include "tests/sim/job_world.h"

#include "runtime/base/err.h"
#include "runtime/job/batch_id.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ---- numbers ---- */

static uint64_t observations(const struct rt_histogram *histogram)
{
    uint64_t n = 0;
    for (unsigned b = 0; b < RT_HISTOGRAM_BUCKETS; b++)
        n += histogram->bucket[b];
    return n;
}

static uint64_t evaluating_ns(const struct tr_trainer *trainer)
{
    uint64_t since = trainer->evaluating_since_ns, started = trainer->started_ns;
    bool now = trainer->kind == WIRE_PHASE_EVALUATE && started;
    return trainer->evaluated_ns +
           (now ? rt_io_now(trainer->io) - (since > started ? since : started) : 0);
}

void jw_check_numbers(const struct job_world *w, const struct tr_trainer *trainer)
{
    const struct tr_numbers *n = &trainer->metric;
    const struct tr_parts *parts = &n->parts;
    uint64_t held = 0, spent = parts->runs ? rt_io_now(trainer->io) - parts->since_ns : 0;
    for (int s = 0; s < TR_BATCH_STATES; s++)
        held += n->batches[s];
    assert_int_equal(held, trainer->batches.count);
    assert_int_equal(n->batches_open, trainer->batches.count);
    for (unsigned b = 0; b < RT_HISTOGRAM_BUCKETS - 1; b++)
        if (rt_histogram_bound(RT_HISTOGRAM_COUNT, b) >= 2.0 * trainer->permits.limit)
            assert_int_equal(n->staleness.bucket[b], 0);
    assert_true(observations(&n->staleness) >= n->batches_trained);
    for (int p = 0; p < TR_PARTS; p++) {
        spent += parts->seconds[p].sum + parts->spent_ns[p];
        assert_int_equal(observations(&parts->seconds[p]), observations(&parts->seconds[0]));
    }
    if (w->conf.ranks == 1)
        assert_true(parts->seconds[TR_PART_REDUCE].sum == 0 &&
                    parts->seconds[TR_PART_HEADER].sum == 0);
    else if (observations(&parts->seconds[0]) > 0 && trainer->job->global.mode != RT_MODE_ASYNC)
        assert_true(parts->seconds[TR_PART_REDUCE].sum > 0);
    if (trainer->kind != WIRE_PHASE_DONE && parts->began_ns == trainer->started_ns &&
        parts->began_ns)
        assert_int_equal(spent + evaluating_ns(trainer),
                         rt_io_now(trainer->io) - trainer->started_ns);
    if (trainer->kind == WIRE_PHASE_DONE && trainer->conf.self.index == 0 && trainer->last_ack_ns)
        assert_true(spent + trainer->evaluated_by_ack_ns >=
                    trainer->last_ack_ns - trainer->started_ns); /* no ack is outstanding there */
}

/* ---- where they are ---- */

static void tell_batches(const struct tr_trainer *trainer)
{
    static const char *const state[TR_BATCH_STATES] = {
        "queued", "looking", "ready", "entered", "stepping", "pushing", "stranded", "telling"};
    uint64_t id, value;
    for (size_t at = 0; rt_map_next(&trainer->batches, &at, &id, &value);) {
        const struct tr_batch *batch = (const struct tr_batch *)(uintptr_t)value;
        print_message("    batch %016llx: %s%s, step %llu, %u of %u%s\n", (unsigned long long)id,
                      state[batch->state],
                      rt_ledger_is_finished(trainer->ledger, id)  ? ", finished"
                      : rt_ledger_is_stepped(trainer->ledger, id) ? ", stepped"
                                                                  : "",
                      (unsigned long long)batch->step, batch->place, batch->among,
                      batch->call ? "" : ", nobody asks");
    }
}

/* What is not finished of the splits, as the rank knows it. */
static void tell_splits(const struct job_world *w, const struct tr_trainer *trainer)
{
    struct rt_arena *arena;
    struct wire_split_ledger *split;
    uint32_t n;
    if (rt_arena_create(1 << 20, &arena) != 0 ||
        rt_ledger_export(trainer->ledger, arena, &split, &n) != 0)
        fail_msg("%s", rt_err_text());
    for (uint32_t i = 0; i < n; i++)
        if (split[i].finished_low < split[i].end_sequence)
            print_message(
                "    split %u: end %llu, stepped below %llu, finished below %llu, the next is of "
                "rank %u\n",
                split[i].split, (unsigned long long)split[i].end_sequence,
                (unsigned long long)split[i].stepped_low, (unsigned long long)split[i].finished_low,
                rt_batch_rank(rt_batch_id(split[i].split, split[i].finished_low), w->conf.ranks));
    print_message("    splits ended: %s\n",
                  rt_ledger_epoch_ended(trainer->ledger, w->job->data.splits) ? "all" : "not all");
    rt_arena_destroy(arena);
}

void jw_tell(const struct job_world *w)
{
    for (unsigned c = 0; c < w->conf.composers; c++) {
        struct dc_status status;
        if (!w->composer[c])
            continue;
        dc_composer_status(w->composer[c], &status);
        print_message("composer %u: %s %llu, open %u\n", c, status.stage,
                      (unsigned long long)status.epoch, status.batches_open);
    }
    for (unsigned r = 0; r < w->conf.ranks; r++) {
        struct tr_report r_report;
        if (!w->rank[r].trainer)
            continue;
        tr_trainer_report(w->rank[r].trainer, &r_report);
        print_message("rank %u: %s %llu, step %llu, group epoch %llu, trained %llu, open %llu, "
                      "permits %u\n",
                      r, r_report.phase, (unsigned long long)r_report.epoch,
                      (unsigned long long)r_report.step, (unsigned long long)r_report.group_epoch,
                      (unsigned long long)r_report.samples_trained,
                      (unsigned long long)r_report.batches_open, r_report.permits_used);
        tell_splits(w, w->rank[r].trainer);
        tell_batches(w->rank[r].trainer);
    }
}

struct tr_report jw_report(const struct job_world *w)
{
    struct tr_report sum;
    tr_trainer_report(w->rank[0].trainer, &sum);
    double loss = sum.train_loss * (double)sum.train_loss_samples;
    for (unsigned i = 1; i < w->conf.ranks; i++) {
        struct tr_report r;
        tr_trainer_report(w->rank[i].trainer, &r);
        sum.samples_trained += r.samples_trained;
        sum.samples_dropped += r.samples_dropped;
        sum.permits_used += r.permits_used;
        sum.batches_retried += r.batches_retried;
        sum.staleness_max =
            r.staleness_max > sum.staleness_max ? r.staleness_max : sum.staleness_max;
        if (r.train_loss_samples > 0)
            loss += r.train_loss * (double)r.train_loss_samples;
        sum.train_loss_samples += r.train_loss_samples;
    }
    sum.train_loss = loss / (double)sum.train_loss_samples;
    return sum;
}
