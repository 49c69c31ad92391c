/* data_compose/phase.c -- what a composer does when: the stages of state.h.
 *
 * The trainer's rank 0 leads. AwaitPhase tells the phase and the ledger, and is out again at once to hear of
 * the next. We make one pass over the set that the phase asks for, skip what the ledger has as finished, and
 * say EndOfEpoch to every rank once its batches were sent. The sequence of a split runs on over the passes:
 * it begins at passes before x batches of a pass. Whoever has made a pass knows that number; who was
 * restarted later counts first.
 *
 * An evaluation may come in the midst of an epoch. The training pass is then kept as it stands, with its
 * parser, its batcher, the batch it holds and those that are open at the ranks; a pass over the test set is
 * made beside it; and when the phase says the same training epoch again, the kept pass goes on.
 *
 * All reading is done in slices from a timer of zero delay, so heartbeats and replies are served between. */
#include "data_compose/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/trace.h"
#include "runtime/job/batch_id.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define PHASE_BYTES (64u << 20) /* of an unpacked AwaitPhaseReply: the message is below 1 MiB */
#define TRUTH_ROWS  4096u       /* per slice */

static bool is_synthetic(const struct dc_composer *c)
{
    return c->job->data.format == RT_FORMAT_SYNTHETIC;
}

static struct dc_feed_conf feed_conf(struct dc_composer *c, bool evaluate)
{
    return (struct dc_feed_conf){
        .io = c->io,
        .job = c->job,
        .synthetic = c->synthetic,
        .synthetic_rows = evaluate ? c->synthetic_conf.test_rows : c->synthetic_conf.rows,
        .evaluate = evaluate,
        .parser = c->pass[evaluate].parser,
        .bytes = &c->bytes_read,
    };
}

/* ---- life ---- */

static int init_pass(struct dc_composer *c, struct dc_pass *pass)
{
    int err = dc_parser_create(c->job, &pass->parser);

    pass->ledger = rt_xcalloc(c->job->data.splits, sizeof(*pass->ledger));
    return err ? err : rt_arena_create(PHASE_BYTES, &pass->arena);
}

/* Every composer counts for itself (why: frequency.c), once in its life. */
static int enter_frequencies(struct dc_composer *c)
{
    struct dc_feed_conf conf = feed_conf(c, false);
    int err = dc_statistics_create(&conf, &c->statistics);

    if (err)
        return err;
    dc_statistics_count_ids(c->statistics);
    c->stage = DC_FREQUENCIES;
    return 0;
}

int dc_phase_init(struct dc_composer *composer)
{
    struct dc_composer *c = composer;
    const struct rt_data_conf *data = &c->job->data;
    int err = rt_arena_create(PHASE_BYTES, &c->phase_arena);

    c->best_auc = c->epoch_rows = NAN;
    c->stage = DC_WAITING;
    for (int i = 0; i < 2 && !err; i++)
        err = init_pass(c, &c->pass[i]);
    if (!err && is_synthetic(c))
        err = dc_synthetic_conf_read(data->synthetic, NULL, &c->synthetic_conf);
    if (err)
        return err;
    for (int i = 0; i < 2; i++) {
        c->set[i].batches = rt_xcalloc(data->splits, sizeof(uint64_t));
        c->set[i].rows = rt_xcalloc(data->splits, sizeof(uint64_t));
        c->set[i].quarantined = rt_xcalloc(data->splits, sizeof(uint64_t));
    }
    c->quarantine =
        dc_quarantine_create(c->conf.run_dir, c->conf.identity.index, data->max_bad_ratio);
    if (is_synthetic(c))
        c->synthetic = dc_synthetic_create(c->synthetic_conf.seed);
    if (is_synthetic(c) && c->conf.identity.index == 0 && c->synthetic_conf.test_rows > 0) {
        struct dc_feed_conf conf = feed_conf(c, true);

        c->truth_feed = dc_feed_create(&conf);
        c->truth = dc_auc_create();
        c->stage = DC_TRUTH;
    }
    return dc_frequency_wanted(c->job) ? enter_frequencies(c) : 0;
}

void dc_phase_release(struct dc_composer *composer)
{
    for (int i = 0; i < 2; i++) {
        struct dc_pass *pass = &composer->pass[i];

        dc_batcher_destroy(pass->batcher);
        dc_batcher_destroy(pass->last);
        dc_parser_destroy(pass->parser);
        rt_arena_destroy(pass->arena);
        rt_free((void *)pass->ledger);
    }
    dc_statistics_destroy(composer->statistics);
    dc_frequency_destroy(composer->frequent);
    dc_feed_destroy(composer->truth_feed);
    dc_auc_destroy(composer->truth);
    dc_synthetic_destroy(composer->synthetic);
    dc_quarantine_destroy(composer->quarantine);
    for (int i = 0; i < 2; i++) {
        rt_free(composer->set[i].batches);
        rt_free(composer->set[i].rows);
        rt_free(composer->set[i].quarantined);
    }
    rt_arena_destroy(composer->phase_arena);
}

/* Give a pass up, with its open batches. */
static void drop_pass(struct dc_composer *c, bool evaluate)
{
    struct dc_pass *pass = &c->pass[evaluate];

    dc_send_drop(c, evaluate);
    dc_batcher_destroy(pass->batcher);
    pass->batcher = NULL;
    pass->exists = false;
}

void dc_phase_reset(struct dc_composer *composer)
{
    struct dc_composer *c = composer;

    dc_recall_forget(c);
    if (c->stage == DC_FREQUENCIES) /* nothing of a phase is here yet */
        return;
    if (c->stage == DC_DONE) /* the trainer that is new hears of it from us: AwaitPhase tells */
        return;
    drop_pass(c, false);
    drop_pass(c, true);
    dc_statistics_destroy(c->statistics);
    c->statistics = NULL;
    c->phase = 0;
    dc_end_forget(c);
    atomic_store_explicit(&c->rows_read, c->rows_before, memory_order_relaxed);
    atomic_store_explicit(&c->rows_quarantined, c->quarantined_before, memory_order_relaxed);
    if (c->stage != DC_TRUTH && c->stage != DC_FAILED)
        c->stage = DC_WAITING;
}

void dc_phase_rank_lost(struct dc_composer *composer, struct dc_rank *rank)
{
    rank->end_acked = rank->nothing_told = false;
    rank->recall = true;
    if (composer->stage == DC_WAITING && dc_pass_now(composer)->exists)
        composer->stage = DC_ENDING; /* all others have acked, and need not be told again */
}

/* ---- the ledger ---- */

static void keep_ledger(struct dc_composer *c, struct dc_pass *pass,
                        const struct wire_await_phase_reply *reply)
{
    struct rt_arena *arena = pass->arena;
    uint32_t base = c->evaluate ? RT_SPLIT_EVALUATE : 0;

    pass->arena = c->phase_arena; /* the reply lies in it */
    c->phase_arena = arena;
    memset((void *)pass->ledger, 0, c->job->data.splits * sizeof(*pass->ledger));
    for (uint32_t i = 0; i < reply->n_ledger; i++) {
        uint32_t split = reply->ledger[i].split - base; /* others wrap round and are out of range */

        if (split < c->job->data.splits)
            pass->ledger[split] = &reply->ledger[i];
    }
}

/* struct dc_batcher_conf.skip */
static bool is_finished(void *ctx, uint64_t batch_id)
{
    const struct dc_pass *pass = ctx;
    uint32_t split = rt_batch_split(batch_id) % RT_SPLIT_EVALUATE;
    const struct wire_split_ledger *l = pass->ledger[split];
    uint64_t sequence = rt_batch_sequence(batch_id);

    if (!l || sequence < l->finished_low)
        return l != NULL;
    uint64_t bit = sequence - l->finished_low;
    return bit / 8 < l->finished_bytes && (l->finished[bit / 8] >> (bit % 8) & 1);
}

static bool skip_all(void *ctx, uint64_t batch_id)
{
    (void)ctx;
    (void)batch_id;
    return true;
}

/* ---- a pass ---- */

static int start_pass(struct dc_composer *c, bool count_only)
{
    struct dc_set *set = &c->set[c->evaluate];
    struct dc_pass *pass = dc_pass_now(c);
    uint64_t *first = rt_xcalloc(c->job->data.splits, sizeof(*first));
    struct dc_batcher_conf conf = {
        .feed = feed_conf(c, c->evaluate),
        .world = c->world,
        .index = c->conf.identity.index,
        .size = c->conf.size,
        .epoch = pass->epoch,
        .first_sequence = first,
        .quarantine = count_only ? NULL : c->quarantine,
        .record_bad = !c->recorded[c->evaluate],
        .pool = &c->batches,
        .skip = count_only ? skip_all : is_finished,
        .ctx = pass,
        .last = pass->last,
    };

    for (uint32_t s = 0; set->known && s < c->job->data.splits; s++)
        first[s] = pass->number * set->batches[s];
    rt_assert(!pass->batcher);
    int err = dc_batcher_create(&conf, &pass->batcher);
    pass->last = err ? pass->last : NULL;
    rt_free(first);
    c->stage = count_only ? DC_COUNTING : DC_PASS;
    return err;
}

/* The first pass over a set tells its size for all later ones; a pass that finds another one has read other
 * files: batch ids would no longer name the same data. */
static int learn_set(struct dc_composer *c)
{
    struct dc_set *set = &c->set[c->evaluate];

    for (uint32_t s = c->conf.identity.index; s < c->job->data.splits; s += c->conf.size) {
        struct dc_split_end end;

        dc_batcher_split(dc_pass_now(c)->batcher, s, &end);
        if (set->known &&
            (end.rows_read != set->rows[s] || end.rows_quarantined != set->quarantined[s]))
            return RT_FAIL(RT_EDATA,
                           "the %s files have changed since the job began: split %u has %" PRIu64
                           " rows (%" PRIu64 " bad), expected %" PRIu64 " (%" PRIu64 ")",
                           c->evaluate ? "test" : "training", s, end.rows_read,
                           end.rows_quarantined, set->rows[s], set->quarantined[s]);
        if (!set->known)
            set->batches[s] = end.end_sequence; /* such a pass begins at 0 */
        set->rows[s] = end.rows_read;
        set->quarantined[s] = end.rows_quarantined;
    }
    set->known = true;
    return 0;
}

static void count_rows(struct dc_composer *c)
{
    uint64_t read, bad;

    if (c->evaluate || c->stage != DC_PASS)
        return;
    dc_batcher_rows(dc_pass_now(c)->batcher, &read, &bad);
    c->epoch_rows = dc_batcher_expected(dc_pass_now(c)->batcher);
    atomic_store_explicit(&c->rows_read, c->rows_before + read, memory_order_relaxed);
    atomic_store_explicit(&c->rows_quarantined, c->quarantined_before + bad, memory_order_relaxed);
}

static int end_pass(struct dc_composer *c)
{
    bool counted = c->stage == DC_COUNTING;
    struct dc_pass *pass = dc_pass_now(c);
    int err = learn_set(c);

    pass->last = pass->batcher;
    pass->batcher = NULL;
    if (err)
        return err;
    if (counted)
        return start_pass(c, false);
    c->recorded[c->evaluate] = true;
    if (!c->evaluate) { /* the training pass that an evaluation interrupts goes on counting from its own begin */
        c->rows_before = atomic_load_explicit(&c->rows_read, memory_order_relaxed);
        c->quarantined_before = atomic_load_explicit(&c->rows_quarantined, memory_order_relaxed);
    }
    dc_end_begin(c);
    return 0;
}

/* A slice of a pass. What it takes is work for the next batch: rows are read by the chunk, and many batches may come
 * of one, so the first of them bears it all. */
static int make_batch(struct dc_composer *c, struct dc_batch **batch)
{
    uint64_t begin = rt_io_now(c->io);
    int rc = dc_batcher_turn(dc_pass_now(c)->batcher, batch);

    if (rc == DC_TURN_BATCH && rt_trace_wants((*batch)->id)) {
        if (c->read_from_ns)
            rt_trace_put((*batch)->id, 0, "read and parse", c->read_from_ns, begin);
        rt_trace_span((*batch)->id, 0, "build", begin);
    }
    c->read_from_ns = rc == DC_TURN_BATCH ? 0 : c->read_from_ns ? c->read_from_ns : begin;
    if (c->stage == DC_PASS)
        c->making_ns += rt_io_now(c->io) - begin;
    if (rc == DC_TURN_BATCH) {
        rt_histogram_observe(&c->parse_seconds, RT_HISTOGRAM_SECONDS, c->making_ns);
        c->making_ns = 0;
    }
    return rc;
}

static int turn_pass(struct dc_composer *c)
{
    struct dc_batch *batch = NULL;
    int rc = make_batch(c, &batch);

    if (rc < 0)
        return rc;
    count_rows(c);
    if (rc == DC_TURN_BATCH)
        dc_send_open(c, batch);
    if (rc == DC_TURN_FULL && c->n_open == 0)
        return RT_FAIL(RT_ENOMEM, "a batch of %u samples does not fit into the payload buffers",
                       c->job->data.batch_size);
    if (rc == DC_TURN_FULL) { /* asked again after the pause, not in a spin */
        c->pool_full = true;
        dc_pause(c);
    }
    return rc == DC_TURN_END ? end_pass(c) : 0;
}

/* ---- the other stages ---- */

static int turn_truth(struct dc_composer *c)
{
    for (uint32_t i = 0; i < TRUTH_ROWS; i++) {
        if (dc_feed_next(c->truth_feed) == 0) {
            c->best_auc = dc_auc_value(c->truth);
            rt_log(RT_LOG_INFO, "truth test_rows=%" PRIu64 " test_auc_best_possible=%.5f",
                   c->synthetic_conf.test_rows, c->best_auc);
            dc_feed_destroy(c->truth_feed);
            dc_auc_destroy(c->truth);
            c->truth_feed = NULL;
            c->truth = NULL;
            c->stage = DC_WAITING;
            return 0;
        }
        int err = dc_feed_parse(c->truth_feed);
        if (err)
            return err;
        dc_auc_add(c->truth, dc_feed_probability(c->truth_feed),
                   dc_parser_view(c->pass[true].parser)->label[0]);
    }
    return 0;
}

static int turn_frequencies(struct dc_composer *c)
{
    uint64_t distinct, kept;
    int rc = dc_statistics_turn(c->statistics);

    if (rc != 0)
        return rc < 0 ? rc : 0;
    c->frequent = dc_statistics_take_frequent(c->statistics);
    for (int i = 0; i < 2; i++)
        dc_parser_frequent(c->pass[i].parser, c->frequent);
    dc_frequency_totals(c->frequent, &distinct, &kept);
    rt_log(RT_LOG_INFO, "frequencies ids=%" PRIu64 " kept=%" PRIu64, distinct, kept);
    if (c->conf.identity.index != 0 || !dc_statistics_wanted(c->job)) {
        dc_statistics_destroy(c->statistics);
        c->statistics = NULL;
    } /* else they are there already when the trainer asks */
    c->stage = c->truth_feed ? DC_TRUTH : DC_WAITING;
    return 0;
}

static int turn_statistics(struct dc_composer *c)
{
    int rc = dc_statistics_turn(c->statistics);

    if (rc == 0)
        c->stage = DC_WAITING; /* the next AwaitPhase brings them */
    return rc < 0 ? rc : 0;
}

bool dc_phase_wants_turn(struct dc_composer *composer)
{
    switch (composer->stage) {
    case DC_FREQUENCIES:
    case DC_TRUTH:
    case DC_STATISTICS:
    case DC_COUNTING:
        return true;
    case DC_PASS:
        return dc_send_room(composer);
    default:
        return false;
    }
}

void dc_phase_turn(struct dc_composer *composer)
{
    int err = 0;

    switch (composer->stage) {
    case DC_FREQUENCIES:
        err = turn_frequencies(composer);
        break;
    case DC_TRUTH:
        err = turn_truth(composer);
        break;
    case DC_STATISTICS:
        err = turn_statistics(composer);
        break;
    case DC_COUNTING:
    case DC_PASS:
        err = turn_pass(composer);
        break;
    default:
        break;
    }
    if (err)
        dc_fail(composer, err);
}

/* ---- AwaitPhase ---- */

static int enter_statistics(struct dc_composer *c)
{
    struct dc_feed_conf conf = feed_conf(c, false);

    if (c->conf.identity.index != 0 || c->statistics)
        return 0; /* composer 0 brings them; the answer is not the trainer's last word */
    c->stage = DC_STATISTICS;
    return dc_statistics_create(&conf, &c->statistics);
}

static bool in_pass(const struct dc_composer *c)
{
    return c->stage == DC_COUNTING || c->stage == DC_PASS || c->stage == DC_ENDING;
}

/* The running pass stands aside. One that has told its end to all tells it again when it goes on: with the
 * phase's new number, to ranks that may have heard the old one too late. */
static void set_aside(struct dc_composer *c)
{
    struct dc_pass *pass = dc_pass_now(c);

    pass->stage = in_pass(c) ? c->stage : DC_ENDING;
    dc_end_forget(c);
}

static int go_on(struct dc_composer *c)
{
    c->stage = dc_pass_now(c)->stage;
    if (c->stage == DC_ENDING)
        dc_end_begin(c);
    return 0;
}

static int enter_pass(struct dc_composer *c, const struct wire_await_phase_reply *reply)
{
    bool evaluate = reply->kind == WIRE_PHASE_EVALUATE;
    struct dc_pass *pass = &c->pass[evaluate];

    set_aside(c);
    c->evaluate = evaluate;
    c->epoch = reply->epoch;
    if (!evaluate)
        drop_pass(c, true); /* what is open of it was scored, or training would not go on */
    if (!evaluate && pass->exists && pass->number == reply->pass)
        return go_on(c);
    if (pass->batcher || pass->held)
        drop_pass(c, evaluate); /* else what is still open waits for its outcome only */
    pass->exists = true;
    pass->epoch = reply->epoch;
    pass->number = reply->pass;
    int err = dc_statistics_apply(c->job, reply->statistics, reply->n_statistics, pass->parser);
    keep_ledger(c, pass, reply);
    return err ? err : start_pass(c, pass->number > 0 && !c->set[evaluate].known);
}

static int enter_phase(struct dc_composer *c, const struct wire_await_phase_reply *reply)
{
    c->phase = reply->phase;
    rt_log(RT_LOG_INFO, "phase number=%" PRIu64 " kind=%s epoch=%" PRIu64, reply->phase,
           wire_phase_name(reply->kind), reply->epoch);
    if (reply->kind == WIRE_PHASE_STATISTICS)
        return enter_statistics(c);
    dc_statistics_destroy(c->statistics);
    c->statistics = NULL;
    if (reply->kind != WIRE_PHASE_DONE)
        return enter_pass(c, reply);
    drop_pass(c, false); /* training may end before its data do (global.max_steps) */
    drop_pass(c, true);
    c->stage = DC_DONE;
    if (c->conf.done)
        c->conf.done(c->conf.ctx);
    return 0;
}

/* Does AwaitPhase go out, or count when it comes back? */
static bool awaits(const struct dc_composer *c)
{
    return c->stage == DC_WAITING || c->stage == DC_DONE || in_pass(c);
}

/* What is done stays done. A trainer that is new, and does not know yet, is asked again. In mode `exact` it may make the last steps
 * again, from a checkpoint on: who has been here for the end begins anew. */
static void stay_done(struct dc_composer *c, const struct wire_await_phase_reply *reply)
{
    if (reply->kind == WIRE_PHASE_DONE)
        c->phase = reply->phase;
    else if (c->job->global.exact)
        dc_fail(c, RT_FAIL(RT_EBACK, "`exact`: the job was done, and goes on from a checkpoint: "
                                     "this one is to be started again"));
    else
        c->ask_not_before_ns = rt_io_now(c->io) + DC_PAUSE_NS;
    dc_pause(c);
}

static void on_phase(void *arg, int err, const struct rt_frame *frame)
{
    struct dc_composer *c = arg;
    struct wire_await_phase_reply reply;

    c->asking = false;
    if (c->destroying || c->failed)
        return;
    if (err == RT_EPEER || err == RT_EDEADLINE || err == RT_ECANCELED || err == RT_ESTALE ||
        err == RT_ENOTREADY) {
        c->ask_not_before_ns = rt_io_now(c->io) + DC_PAUSE_NS;
        dc_pause(c);
        return;
    }
    if (!err && !awaits(c))
        return;
    if (!err) {
        rt_arena_reset(c->phase_arena);
        err = wire_await_phase_reply_unpack(frame->message, frame->header.message_size,
                                            c->phase_arena, &reply);
    }
    if (!err && c->stage == DC_DONE)
        stay_done(c, &reply);
    else if (!err && reply.phase != c->phase)
        err = enter_phase(c, &reply);
    if (err)
        dc_fail(c, rt_fail_prefix(err, "phase %" PRIu64 ": ", c->phase));
    dc_pump(c);
}

static int ask(struct dc_composer *c)
{
    struct wire_await_phase message = {
        .known = c->phase,
        .composer = c->conf.identity.index,
        .composers = c->conf.size,
        .done = c->stage == DC_DONE,
    };

    if (c->statistics)
        message.statistics = dc_statistics_columns(c->statistics, &message.n_statistics);
    int err = wire_await_phase_pack(&message, &c->out);
    if (err)
        return err;
    struct rt_outgoing out = {.message = c->out.data, .message_size = c->out.size};
    err = rt_rpc_call(c->rank[0].peer, WIRE_AWAIT_PHASE, &out, 0, on_phase, c);
    c->asking = err == 0;
    return err;
}

void dc_phase_pump(struct dc_composer *composer)
{
    struct dc_composer *c = composer;
    int err = dc_recall_pump(c);

    if (!err)
        err = dc_end_pump(c);
    if (!err && awaits(c) && !c->asking && dc_rank_up(c, 0) &&
        rt_io_now(c->io) >= c->ask_not_before_ns)
        err = ask(c);
    if (err == RT_EPEER || err == RT_EFULL)
        dc_pause(c);
    else if (err)
        dc_fail(c, err);
}
