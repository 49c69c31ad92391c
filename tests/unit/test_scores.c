/* tests/unit/test_scores.c -- scores of an evaluation: parts over the wire, a result that is the same in whatever
 * order batches arrive, parts that are not what they say, memory that runs out. */
#include "trainer/metric/scores.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/lib/plain_io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { BATCHES = 40, SAMPLES_MAX = 9, LIMIT = 100000 };

struct rank {
    struct tr_auc *auc;
    struct tr_scores scores;
};

static void make(struct rank *rank)
{
    assert_int_equal(tr_auc_create(LIMIT, &rank->auc), 0);
    tr_scores_init(&rank->scores, rank->auc);
}

static void unmake(struct rank *rank)
{
    tr_scores_release(&rank->scores);
    tr_auc_destroy(rank->auc);
}

/* Batch b: a function of its number; scores repeat, so that ties are summed up. */
static uint32_t score(struct rank *rank, uint64_t seed, uint64_t b)
{
    float value[SAMPLES_MAX], label[SAMPLES_MAX], weight[SAMPLES_MAX];
    uint64_t key = rt_draw_fold(rt_draw_key(seed, "scores", NULL), b);
    uint32_t n = 1 + (uint32_t)rt_below(rt_draw(key, 0), SAMPLES_MAX);
    for (uint32_t i = 0; i < n; i++) {
        value[i] = (float)rt_below(rt_draw(key, 1 + 3 * i), 7) / 7;
        label[i] = (float)rt_below(rt_draw(key, 2 + 3 * i), 2);
        weight[i] = (float)rt_below(rt_draw(key, 3 + 3 * i), 1000) / 333;
    }
    assert_int_equal(tr_auc_add(rank->auc, value, label, weight, n), 0);
    assert_int_equal(tr_scores_mark(&rank->scores, b, n), 0);
    return n;
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
        struct tr_quality want, got;
        struct rank one, rank[4];
        uint32_t samples = 0, world = 2 + (uint32_t)(run % 3);
        make(&one);
        for (uint64_t b = 0; b < BATCHES; b++)
            samples += score(&one, seed + run, b);
        assert_int_equal(tr_scores_result(&one.scores, &want), 0);
        for (uint32_t r = 0; r < world; r++)
            make(&rank[r]);
        for (uint64_t i = 0; i < BATCHES; i++) {
            uint64_t b = (i * 7 + run) % BATCHES;
            score(&rank[b % world], seed + run, b);
        }
        for (uint32_t r = 1; r < world; r++)
            send_all(&rank[r], &rank[0], 1 + (uint32_t)run * 2);
        assert_int_equal(tr_scores_result(&rank[0].scores, &got), 0);
        assert_int_equal(got.samples, samples);
        assert_memory_equal(&got, &want, sizeof(got));
        for (uint32_t r = 0; r < world; r++)
            unmake(&rank[r]);
        unmake(&one);
    }
}

static void nothing_to_send(void **state)
{
    struct rank a, b;
    struct tr_quality q;
    (void)state;
    make(&a);
    make(&b);
    send_all(&a, &b, 10);
    assert_int_equal(tr_scores_result(&b.scores, &q), 0);
    assert_int_equal(q.samples, 0);
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
    struct tr_quality want, got;
    (void)state;
    make(&all);
    make(&even);
    for (uint64_t b = 0; b < BATCHES; b++) {
        score(&all, 9, b);
        if (b % 2 == 0)
            score(&even, 9, b);
    }
    tr_scores_filter(&all.scores, is_even, NULL);
    assert_int_equal(tr_scores_result(&all.scores, &got), 0);
    assert_int_equal(tr_scores_result(&even.scores, &want), 0);
    assert_memory_equal(&got, &want, sizeof(got));
    unmake(&all);
    unmake(&even);
}

/* A part is data from outside. */
static void refused(void **state)
{
    static const struct {
        const char *name, *text;
        uint32_t batches, samples, count; /* of the head; of the second batch */
        float score, label, weight;
        uint64_t id;
        int err;
    } row[] = {
        {"as it should be", "", 2, 5, 3, 0.5f, 1, 1, 8, 0},
        {"more samples than it says", "expected 5", 2, 5, 4, 0.5f, 1, 1, 8, RT_EPROTO},
        {"less payload than it says", "Scores", 2, 9, 7, 0.5f, 1, 1, 8, RT_EPROTO},
        {"one batch less", "Scores", 1, 5, 3, 0.5f, 1, 1, 8, RT_EPROTO},
        {"a batch that is here", "is here already", 2, 5, 3, 0.5f, 1, 1, 70, RT_EPROTO},
        {"a score above 1", "score", 2, 5, 3, 1.5f, 1, 1, 8, RT_EDATA},
        {"a label of 2", "label", 2, 5, 3, 0.5f, 2, 1, 8, RT_EDATA},
        {"a weight below 0", "weight", 2, 5, 3, 0.5f, 1, -1, 8, RT_EDATA},
    };
    struct rt_io *io = plain_io_create(1 << 20);
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t id[2] = {7, row[i].id};
        uint32_t count[2] = {2, row[i].count};
        struct tr_auc_sample sample[5];
        struct rank rank;
        size_t end = 0,
               at[3] = {rt_segment_put(&end, sizeof(id)), rt_segment_put(&end, sizeof(count)),
                        rt_segment_put(&end, sizeof(sample))};
        struct rt_buf *buf = rt_io_buf(io, end);
        for (int s = 0; s < 5; s++)
            sample[s] = (struct tr_auc_sample){0.25f, 0, 1};
        sample[4] = (struct tr_auc_sample){row[i].score, row[i].label, row[i].weight};
        memset(buf->data, 0, end);
        memcpy(buf->data + at[0], id, sizeof(id));
        memcpy(buf->data + at[1], count, sizeof(count));
        memcpy(buf->data + at[2], sample, sizeof(sample));
        buf->size = end;
        make(&rank);
        score(&rank, 1, 70);
        struct wire_scores head = {
            .phase = 1, .batches = row[i].batches, .samples = row[i].samples};
        int err = tr_scores_take(&rank.scores, &head, buf);
        if (err != row[i].err || (err && !strstr(rt_err_text(), row[i].text)))
            fail_msg("%s: %s", row[i].name, err ? rt_err_text() : "it was taken");
        rt_buf_unref(buf);
        unmake(&rank);
    }
    plain_io_destroy(io);
}

static int score_and_sum(struct rank *rank)
{
    float value = 0.5f, label = 1;
    struct tr_quality q;
    int err = tr_auc_add(rank->auc, &value, &label, NULL, 1);
    if (!err)
        err = tr_scores_mark(&rank->scores, 1, 1);
    return err ? err : tr_scores_result(&rank->scores, &q);
}

static void memory(void **state)
{
    int err = -1;
    (void)state;
    for (long nth = 0; err != 0; nth++) {
        struct rank rank;
        make(&rank);
        rt_fault_alloc(nth);
        err = score_and_sum(&rank);
        rt_fault_alloc(-1);
        if (err)
            assert_int_equal(err, RT_ENOMEM);
        unmake(&rank);
    }
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(any_order), cmocka_unit_test(nothing_to_send), cmocka_unit_test(filter),
        cmocka_unit_test(refused),   cmocka_unit_test(memory),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
