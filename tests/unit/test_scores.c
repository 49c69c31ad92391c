/* tests/unit/test_scores.c -- scores of an evaluation, of three heads and in groups: parts over the wire, a result that is the
 * same in whatever order batches arrive and that of counting every pair, parts that are not what they say, memory that runs out. */
#include "trainer/metric/scores.h"
#include "trainer/metric/window.h"
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/lib/plain_io.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { BATCHES = 40, SAMPLES_MAX = 9, CLASSES = 3, LABELS = 3, HEADS = 3, COLUMNS = 2 + CLASSES };

static const struct tr_head heads[HEADS] = {
    {.name = "click", .kind = TR_HEAD_BCE, .label = 1, .first = 0, .columns = 1},
    {.name = "sort", .kind = TR_HEAD_SOFTMAX, .label = 0, .first = 1, .columns = CLASSES},
    {.name = "stars", .kind = TR_HEAD_MSE, .label = 2, .first = 1 + CLASSES, .columns = 1},
};

struct rank {
    struct tr_scores scores;
};

static void make(struct rank *rank)
{
    tr_scores_init(&rank->scores, heads, HEADS, true);
}

static void unmake(struct rank *rank)
{
    tr_scores_release(&rank->scores);
}

/* A batch of its own. */
struct drawn {
    float score[SAMPLES_MAX][COLUMNS], label[SAMPLES_MAX][LABELS], weight[SAMPLES_MAX];
    uint64_t group[SAMPLES_MAX];
    uint32_t n;
};

static float draw(uint64_t key, uint32_t sample, uint64_t what, uint64_t below)
{
    return (float)rt_below(rt_draw(rt_draw_fold(key, sample), what), below);
}

/* A function of its number; scores repeat, so that ties are summed up; groups differ in their high bits too. */
static struct drawn batch(uint64_t seed, uint64_t b)
{
    struct drawn d = {0};
    uint64_t key = rt_draw_fold(rt_draw_key(seed, "scores", NULL), b);
    d.n = 1 + (uint32_t)rt_below(rt_draw(key, 0), SAMPLES_MAX);
    for (uint32_t i = 0; i < d.n; i++) {
        float most = 0;
        d.score[i][0] = draw(key, i, 1, 7) / 7;
        for (uint32_t c = 0; c < CLASSES; c++)
            most += d.score[i][1 + c] = 1 + draw(key, i, 2 + c, 50);
        for (uint32_t c = 0; c < CLASSES; c++)
            d.score[i][1 + c] /= most;
        d.score[i][1 + CLASSES] = draw(key, i, 8, 100) / 10 - 5;
        d.label[i][0] = draw(key, i, 9, CLASSES);
        d.label[i][1] = draw(key, i, 10, 2);
        d.label[i][2] = draw(key, i, 11, 30) / 10;
        d.weight[i] = draw(key, i, 12, 1000) / 333;
        d.group[i] = (uint64_t)draw(key, i, 13, 25) << (b % 2 ? 59 : 1);
    }
    return d;
}

static int add(struct rank *rank, const struct drawn *d, uint64_t b)
{
    const struct tr_scored_view view = {
        .batch_id = b,
        .samples = d->n,
        .n_labels = LABELS,
        .score = d->score[0],
        .label = d->label[0],
        .weight = d->weight,
        .group = d->group,
    };
    return tr_scores_add(&rank->scores, &view);
}

static uint32_t score(struct rank *rank, uint64_t seed, uint64_t b)
{
    struct drawn d = batch(seed, b);
    if (add(rank, &d, b))
        fail_msg("%s", rt_err_text());
    return d.n;
}

/* All of `from`, in parts of at most `max` samples. */
static void send_all(struct rank *from, struct rank *to, uint32_t max)
{
    struct wire_scores head = {.phase = 1};
    struct rt_io *io = plain_io_create(1 << 20);
    size_t at = 0;
    do {
        struct rt_buf *payload = NULL;
        assert_int_equal(tr_scores_pack(&from->scores, &at, max, io, &head, &payload), 0);
        assert_true(head.samples <= max || head.batches == 1);
        if (tr_scores_take(&to->scores, &head, payload->size ? payload : NULL) != 0)
            fail_msg("%s", rt_err_text());
        rt_buf_unref(payload);
    } while (!head.last);
    plain_io_destroy(io);
}

/* With weights, whose sums depend on the order: one rank, and several that send in any order. */
static void any_order(void **state)
{
    uint64_t seed = rt_wall_ms();
    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (uint64_t run = 0; run < 30; run++) {
        struct tr_quality want[HEADS], got[HEADS];
        struct rank one, rank[4];
        uint32_t samples = 0, world = 2 + (uint32_t)(run % 3);
        make(&one);
        for (uint64_t b = 0; b < BATCHES; b++)
            samples += score(&one, seed + run, b);
        assert_int_equal(tr_scores_result(&one.scores, want), 0);
        for (uint32_t r = 0; r < world; r++)
            make(&rank[r]);
        for (uint64_t i = 0; i < BATCHES; i++) {
            uint64_t b = (i * 7 + run) % BATCHES;
            score(&rank[b % world], seed + run, b);
        }
        for (uint32_t r = 1; r < world; r++)
            send_all(&rank[r], &rank[0], 1 + (uint32_t)run * 2);
        assert_int_equal(tr_scores_result(&rank[0].scores, got), 0);
        assert_int_equal(got[0].samples, samples);
        assert_memory_equal(got, want, sizeof(got));
        for (uint32_t r = 0; r < world; r++)
            unmake(&rank[r]);
        unmake(&one);
    }
}

static void nothing_to_send(void **state)
{
    struct rank a, b;
    struct tr_quality q[HEADS];
    (void)state;
    make(&a);
    make(&b);
    send_all(&a, &b, 10);
    assert_int_equal(tr_scores_result(&b.scores, q), 0);
    assert_int_equal(q[0].samples, 0);
    assert_true(isnan(q[0].auc) && isnan(q[0].group_auc) && isnan(q[2].mse));
    score(&b, 1, 5);
    assert_true(tr_scores_has(&b.scores, 5));
    tr_scores_reset(&b.scores);
    assert_false(tr_scores_has(&b.scores, 5));
    unmake(&a);
    unmake(&b);
}

static bool is_even(void *arg, uint64_t batch_id)
{
    (void)arg;
    return batch_id % 2 == 0;
}

static void filter(void **state)
{
    struct rank all, even;
    struct tr_quality want[HEADS], got[HEADS];
    (void)state;
    make(&all);
    make(&even);
    for (uint64_t b = 0; b < BATCHES; b++) {
        score(&all, 9, b);
        if (b % 2 == 0)
            score(&even, 9, b);
    }
    tr_scores_filter(&all.scores, is_even, NULL);
    assert_int_equal(tr_scores_result(&all.scores, got), 0);
    assert_int_equal(tr_scores_result(&even.scores, want), 0);
    assert_memory_equal(got, want, sizeof(got));
    unmake(&all);
    unmake(&even);
}

/* ---- against counting ---- */

struct pairs {
    double won, all, weight; /* of a positive and a negative each; of the samples */
    bool both;
};

/* Of the samples of one group, or of all. */
static struct pairs count_pairs(const struct drawn *d, uint32_t batches, bool every, uint64_t group)
{
    struct pairs p = {0};
    for (uint32_t a = 0; a < batches * SAMPLES_MAX; a++) {
        const struct drawn *x = &d[a / SAMPLES_MAX];
        uint32_t i = a % SAMPLES_MAX;
        if (i >= x->n || (!every && x->group[i] != group))
            continue;
        p.weight += (double)x->weight[i];
        for (uint32_t b = 0; b < batches * SAMPLES_MAX; b++) {
            const struct drawn *y = &d[b / SAMPLES_MAX];
            uint32_t j = b % SAMPLES_MAX;
            if (j >= y->n || (!every && y->group[j] != group) || x->label[i][1] != 1 ||
                y->label[j][1] != 0)
                continue;
            double w = (double)x->weight[i] * (double)y->weight[j], u = (double)x->score[i][0];
            double v = (double)y->score[j][0];
            p.all += w;
            p.won += u > v ? w : u == v ? w / 2 : 0;
        }
    }
    p.both = p.all > 0;
    return p;
}

static void check_groups(const struct drawn *d, uint32_t batches, const struct tr_quality *q)
{
    double sum = 0, weight = 0;
    uint64_t groups = 0;
    for (uint64_t g = 0; g < 50; g++) {
        uint64_t group = (g / 2) << (g % 2 ? 59 : 1);
        struct pairs p = count_pairs(d, batches, false, group);
        if (!p.both || g == 1) /* 0 is 0 either way */
            continue;
        sum += p.weight * p.won / p.all;
        weight += p.weight;
        groups++;
    }
    assert_true(q->groups == groups && groups > 10);
    assert_true(fabs(q->group_auc - sum / weight) < 1e-12);
}

static bool near(double got, double want)
{
    return fabs(got - want) < 1e-9 * fmax(1, fabs(want));
}

static void counted(void **state)
{
    struct drawn d[BATCHES];
    struct tr_quality q[HEADS];
    struct rank rank;
    double weight = 0, loss = 0, rate = 0, right = 0, entropy = 0, squares = 0, said = 0, were = 0;
    (void)state;
    make(&rank);
    for (uint32_t b = 0; b < BATCHES; b++) {
        d[b] = batch(3, b);
        assert_int_equal(add(&rank, &d[b], b), 0);
        for (uint32_t i = 0; i < d[b].n; i++) {
            const float *p = d[b].score[i], *y = d[b].label[i];
            double w = (double)d[b].weight[i], c = fmin(fmax((double)p[0], 1e-7), 1 - 1e-7);
            uint32_t k = (uint32_t)y[0], most = p[1] >= p[2] ? 0 : 1;
            most = p[3] > p[1 + most] ? 2 : most;
            weight += w;
            rate += w * (double)y[1];
            loss -= w * log(y[1] == 1 ? c : 1 - c);
            entropy -= w * log((double)p[1 + k]);
            right += most == k ? w : 0;
            squares += w * ((double)p[4] - (double)y[2]) * ((double)p[4] - (double)y[2]);
            said += w * (double)p[4];
            were += w * (double)y[2];
        }
    }
    assert_int_equal(tr_scores_result(&rank.scores, q), 0);
    struct pairs all = count_pairs(d, BATCHES, true, 0);
    assert_true(near(q[0].auc, all.won / all.all));
    check_groups(d, BATCHES, &q[0]);
    rate /= weight;
    assert_true(near(q[0].logloss, loss / weight) && q[0].loss == q[0].logloss);
    assert_true(near(q[0].normalized_entropy,
                     loss / weight / -(rate * log(rate) + (1 - rate) * log(1 - rate))));
    assert_true(near(q[1].logloss, entropy / weight) && near(q[1].accuracy, right / weight));
    assert_true(near(q[2].mse, squares / weight) && near(q[2].calibration, said / were));
    assert_true(isnan(q[0].mse) && isnan(q[1].auc) && isnan(q[2].logloss) && q[2].loss == q[2].mse);
    unmake(&rank);
}

/* Two batches of 2 and 3 samples, as another rank would send them; what is wrong with it, each case says. */
struct part {
    uint32_t batches, samples;              /* of the head */
    uint32_t count;                         /* of the second batch */
    float score, label, weight, prediction; /* of the last sample */
    uint64_t id;                            /* of the second batch; that of the first is 7 */
};
static const struct part good = {2, 5, 3, 0.5f, 1, 1, 2, 8};

static struct rt_buf *payload_of(struct rt_io *io, const struct part *part)
{
    uint64_t id[2] = {7, part->id}, group[5] = {0};
    uint32_t count[2] = {2, part->count};
    float sample[5][1 + 2 * HEADS];
    size_t end = 0;
    size_t at[4] = {rt_segment_put(&end, sizeof(id)), rt_segment_put(&end, sizeof(count)),
                    rt_segment_put(&end, sizeof(sample)), rt_segment_put(&end, sizeof(group))};
    struct rt_buf *buf = rt_io_buf(io, end);
    for (int s = 0; s < 5; s++)
        memcpy(sample[s], (float[]){1, 0.25f, 0, 0.5f, 1, 2.5f, 3}, sizeof(sample[s]));
    sample[4][0] = part->weight;
    sample[4][1] = part->score;
    sample[4][2] = part->label;
    sample[4][5] = part->prediction;
    memset(buf->data, 0, end);
    memcpy(buf->data + at[0], id, sizeof(id));
    memcpy(buf->data + at[1], count, sizeof(count));
    memcpy(buf->data + at[2], sample, sizeof(sample));
    memcpy(buf->data + at[3], group, sizeof(group));
    buf->size = end;
    return buf;
}

/* Beside the batch 70, which is there: both batches of the part, or, as where it was refused, none. */
static void expect_taken(const struct rank *rank, bool taken, const char *name)
{
    const struct tr_scores *scores = &rank->scores;
    size_t before = scores->list[0].samples;
    if (scores->n != (taken ? 3 : 1) || scores->samples != before + (taken ? 5 : 0) ||
        tr_scores_has(scores, 7) != taken || tr_scores_has(scores, 8) != taken ||
        !tr_scores_has(scores, 70))
        fail_msg("%s: there are %zu batches with %zu samples", name, scores->n, scores->samples);
}

/* A part is data from outside. One that is refused has added nothing: the right one can come after it. */
static void refused(void **state)
{
    static const struct {
        const char *name, *text;
        struct part part;
        int err;
    } row[] = {
        {"as it should be", "", {2, 5, 3, 0.5f, 1, 1, 2, 8}, 0},
        {"more samples than it says", "expected 5", {2, 5, 4, 0.5f, 1, 1, 2, 8}, RT_EPROTO},
        {"less payload than it says", "Scores", {2, 9, 7, 0.5f, 1, 1, 2, 8}, RT_EPROTO},
        {"one batch less", "Scores", {1, 5, 3, 0.5f, 1, 1, 2, 8}, RT_EPROTO},
        {"a batch that is here", "is here already", {2, 5, 3, 0.5f, 1, 1, 2, 70}, RT_EPROTO},
        {"a batch twice",
         "batch 0000000000000007 is in one part twice",
         {2, 5, 3, 0.5f, 1, 1, 2, 7},
         RT_EPROTO},
        {"a score above 1", "score", {2, 5, 3, 1.5f, 1, 1, 2, 8}, RT_EDATA},
        {"a label of 2", "label", {2, 5, 3, 0.5f, 2, 1, 2, 8}, RT_EDATA},
        {"no prediction", "", {2, 5, 3, 0.5f, 1, 1, NAN, 8}, 0},
        {"no score", "", {2, 5, 3, NAN, 1, 1, 2, 8}, 0},
        {"a label of no score", "label", {2, 5, 3, NAN, 2, 1, 2, 8}, RT_EDATA},
        {"a weight below 0", "weight", {2, 5, 3, 0.5f, 1, -1, 2, 8}, RT_EDATA},
    };
    struct rt_io *io = plain_io_create(1 << 20);
    struct rt_buf *right = payload_of(io, &good);
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        const struct part *part = &row[i].part;
        struct wire_scores head = {.phase = 1, .batches = part->batches, .samples = part->samples};
        struct rt_buf *buf = payload_of(io, part);
        struct rank rank;
        make(&rank);
        score(&rank, 1, 70);
        int err = tr_scores_take(&rank.scores, &head, buf);
        if (err != row[i].err || (err && !strstr(rt_err_text(), row[i].text)))
            fail_msg("%s: %s", row[i].name, err ? rt_err_text() : "it was taken");
        expect_taken(&rank, !err, row[i].name);
        struct tr_quality q[HEADS];
        if (!err && tr_scores_result(&rank.scores, q) == 0 &&
            (q[0].nonfinite != isnan(part->score) || q[2].nonfinite != isnan(part->prediction)))
            fail_msg("%s: %llu and %llu samples are counted as not finite", row[i].name,
                     (unsigned long long)q[0].nonfinite, (unsigned long long)q[2].nonfinite);
        if (err) {
            head = (struct wire_scores){.phase = 1, .batches = 2, .samples = 5};
            assert_int_equal(tr_scores_take(&rank.scores, &head, right), 0);
            expect_taken(&rank, true, row[i].name);
        }
        rt_buf_unref(buf);
        unmake(&rank);
    }
    rt_buf_unref(right);
    plain_io_destroy(io);
}

/* Rank 0's count of parts: one that was refused is awaited still, one that comes twice is here already. */
static void parts(void **state)
{
    struct rt_io *io = plain_io_create(1 << 20);
    struct tr_other other[2] = {0};
    struct tr_trainer trainer = {.io = io, .kind = WIRE_PHASE_EVALUATE, .phase = 3, .other = other};
    struct wire_scores head = {.phase = 3, .last = true, .batches = 2, .samples = 5};
    struct part bad = good;
    struct wire_out out = {0};
    (void)state;
    bad.id = 7;
    tr_scores_init(&trainer.scores, heads, HEADS, true);
    assert_int_equal(rt_arena_create(1 << 16, &trainer.scratch), 0);
    for (int turn = 0; turn < 3; turn++) {
        struct rt_frame frame = {.payload = payload_of(io, turn ? &good : &bad)};
        assert_int_equal(wire_scores_pack(&head, &out), 0);
        frame.message = out.data;
        frame.header.message_size = (uint32_t)out.size;
        assert_int_equal(tr_evaluate_take(&trainer, 1, &frame), turn ? 0 : RT_EPROTO);
        assert_int_equal(other[1].parts, turn > 0);
        assert_true(other[1].scored == (turn > 0));
        assert_int_equal(trainer.scores.n, turn ? 2 : 0);
        rt_buf_unref(frame.payload);
    }
    wire_out_release(&out);
    rt_arena_destroy(trainer.scratch);
    tr_scores_release(&trainer.scores);
    plain_io_destroy(io);
}

/* ---- the training window ---- */

/* The run that is complete is all that was added, exactly; no memory is taken for it. */
static void window(void **state)
{
    struct tr_window w = {0};
    struct tr_auc *all[HEADS];
    uint64_t b = 0;
    (void)state;
    assert_int_equal(tr_window_init(&w, heads, HEADS, SAMPLES_MAX), 0);
    assert_true(isnan(w.quality[0].auc));
    for (int run = 0; run < 2; run++) {
        bool complete = false;
        size_t samples = 0, passed = 0;
        for (uint32_t h = 0; h < HEADS; h++)
            assert_int_equal(tr_auc_create(heads[h].kind, TR_AUC_SAMPLES_MAX, &all[h]), 0);
        while (!complete) {
            struct drawn d = batch(4, b++);
            const struct tr_scored_view view = {.samples = d.n,
                                                .n_labels = LABELS,
                                                .score = w.score,
                                                .label = d.label[0],
                                                .weight = d.weight};
            bool resting = !tr_window_scores(&w);
            memcpy(w.score, d.score, sizeof(d.score));
            rt_fault_alloc(0);
            assert_int_equal(tr_window_add(&w, &view, &complete), 0);
            rt_fault_alloc(-1);
            passed += resting ? d.n : 0;
            samples += resting ? 0 : d.n;
            for (uint32_t i = 0; i < d.n && !resting; i++) {
                for (uint32_t h = 0; h < HEADS; h++) {
                    struct tr_auc_sample one =
                        tr_head_sample(&heads[h], d.score[i], d.label[i], d.weight[i]);
                    assert_int_equal(tr_auc_add_samples(all[h], &one, 1), 0);
                }
            }
        }
        assert_true(samples >= TR_WINDOW_SAMPLES && samples < TR_WINDOW_SAMPLES + SAMPLES_MAX);
        assert_true(run ? passed >= TR_WINDOW_REST && passed < TR_WINDOW_REST + SAMPLES_MAX
                        : passed == 0);
        for (uint32_t h = 0; h < HEADS; h++) {
            struct tr_quality want;
            assert_int_equal(tr_auc_result(all[h], NULL, &want), 0);
            assert_memory_equal(&w.quality[h], &want, sizeof(want));
            tr_auc_destroy(all[h]);
        }
    }
    tr_window_release(&w);
}

/* The map of batch ids grows between the part's two: what is known of it by then is forgotten with it. */
static int score_and_sum(struct rank *rank, const struct rt_buf *part)
{
    const struct wire_scores head = {.phase = 1, .batches = 2, .samples = 5};
    struct tr_quality q[HEADS];
    struct drawn d = batch(1, 1);
    int err = 0;
    for (uint64_t b = 0; b < 11 && !err; b++)
        err = add(rank, &d, 100 + b);
    size_t slots = rank->scores.known.slots;
    if (!err)
        err = tr_scores_take(&rank->scores, &head, part);
    if (!err)
        assert_true(rank->scores.known.slots > slots);
    assert_true(rank->scores.known.count == rank->scores.n);
    return err ? err : tr_scores_result(&rank->scores, q);
}

static void memory(void **state)
{
    struct rt_io *io = plain_io_create(1 << 20);
    struct rt_buf *part = payload_of(io, &good);
    int err = -1;
    (void)state;
    for (long nth = 0; err != 0; nth++) {
        struct rank rank;
        make(&rank);
        rt_fault_alloc(nth);
        err = score_and_sum(&rank, part);
        rt_fault_alloc(-1);
        if (err)
            assert_int_equal(err, RT_ENOMEM);
        unmake(&rank);
    }
    rt_buf_unref(part);
    plain_io_destroy(io);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(any_order), cmocka_unit_test(nothing_to_send), cmocka_unit_test(filter),
        cmocka_unit_test(counted),   cmocka_unit_test(window),          cmocka_unit_test(refused),
        cmocka_unit_test(parts),     cmocka_unit_test(memory),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
