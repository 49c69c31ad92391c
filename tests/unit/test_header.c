/* What a step header may say (trainer/header.h), and that the headers of any group fit one message. */
#include "trainer/header.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/batch_id.h"
#include "runtime/net/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { WORLD = 3, SPLITS = 4, WINDOW = 64 };

static void test_own(void **state)
{
    (void)state;
    struct rt_ledger *ledger;
    assert_int_equal(rt_ledger_create(WINDOW, &ledger), 0);
    for (uint64_t s = 0; s < 10; s++)
        assert_int_equal(rt_ledger_finished(ledger, rt_batch_id(1, s)), 0);
    const struct tr_header_rules rules = {WORLD, SPLITS, ledger};
    const struct {
        const char *name;
        uint32_t split;
        uint64_t sequence;
        uint32_t rank;
        const char *error; /* NULL: it is right */
    } row[] = {
        {"the first of all", 0, 0, 0, NULL},
        {"of the last split", 3, 2, 2, NULL},
        {"finished long ago", 1, 0, 1, NULL},
        {"as far ahead as can be", 1, 10 + WINDOW - 1, 2, NULL},
        {"another rank's", 0, 0, 1, "is rank 0's"},
        {"another rank's, too", 2, 5, 2, "is rank 1's"},
        {"a split too high", 4, 2, 0, "is of split 4, expected below 4"},
        {"of the evaluation", RT_SPLIT_EVALUATE, 0, 2, "is of split 32768, expected below 4"},
        {"the highest of all", 65535, RT_SEQUENCE_MAX, 0, "is of split 65535"},
        {"far ahead", 1, 10 + WINDOW, 0, "is too far ahead"},
        {"the last sequence", 0, RT_SEQUENCE_MAX, 0, "is too far ahead"},
        {"of a split nobody knows", 2, WINDOW, 0, "is too far ahead"},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t id = rt_batch_id(row[i].split, row[i].sequence),
                 good = rt_batch_id(0, row[i].rank);
        const uint64_t finished[] = {good, id};
        const struct wire_step_header header[] = {
            {.has_batch = true, .batch_id = id, .n_finished = 1, .finished = &good},
            {.n_finished = 2, .finished = finished},
            {.batch_id = id}}; /* no batch: the id says nothing */
        for (size_t h = 0; h < ARRAY_LEN(header); h++) {
            const char *want = h == 2 ? NULL : row[i].error;
            int err = tr_header_check(&rules, row[i].rank, &header[h]);
            if (err != (want ? RT_EPROTO : 0) || (want && !strstr(rt_err_text(), want)))
                fail_msg("%s, %zu: %d, %s", row[i].name, h, err, err ? rt_err_text() : "no error");
        }
    }
    rt_ledger_destroy(ledger);
}

/* The longest header that there can be. */
static struct wire_step_header longest(const uint64_t *finished, uint32_t n)
{
    return (struct wire_step_header){.group_epoch = UINT64_MAX,
                                     .step = UINT64_MAX,
                                     .has_batch = true,
                                     .ended = true,
                                     .batch_id = UINT64_MAX,
                                     .samples = WIRE_SAMPLES_MAX,
                                     .n_finished = n,
                                     .finished = finished,
                                     .learning_rate = 1e6,
                                     .round = UINT64_MAX,
                                     .phase = UINT64_MAX,
                                     .paused = true,
                                     .unaveraged = UINT64_MAX,
                                     .imports_due = UINT64_MAX,
                                     .counts = {.samples_trained = UINT64_MAX,
                                                .samples_dropped = UINT64_MAX,
                                                .batches_trained = UINT64_MAX,
                                                .batches_dropped = UINT64_MAX,
                                                .epoch_loss_sum = 1e300,
                                                .epoch_samples = UINT64_MAX,
                                                .suspect = true},
                                     .digested = UINT64_MAX,
                                     .digest = UINT64_MAX};
}

static void test_any_group_fits(void **state)
{
    (void)state;
    static const uint32_t world[] = {2, 3, 60, 64, 65, 128, 500, 1000, 4095, WIRE_GROUP_MAX};
    struct wire_step_header *header = rt_xcalloc(WIRE_GROUP_MAX, sizeof *header);
    struct wire_out out = {0};
    for (size_t w = 0; w < ARRAY_LEN(world); w++) {
        uint32_t n = tr_header_news_max(world[w]);
        uint64_t *finished = rt_xcalloc(n, sizeof *finished);
        struct wire_step_headers got, sent = {UINT64_MAX, UINT64_MAX, world[w], header};
        struct rt_arena *arena;
        assert_in_range(n, 1, WIRE_FINISHED_MAX);
        memset(finished, 0xff, n * sizeof *finished);
        for (uint32_t r = 0; r < world[w]; r++)
            header[r] = longest(finished, n);
        if (wire_step_headers_pack(&sent, &out) != 0)
            fail_msg("%u ranks, %u batches each: %s", world[w], n, rt_err_text());
        assert_int_equal(rt_arena_create(8 << 20, &arena), 0); /* as large as the trainer's */
        if (wire_step_headers_unpack(out.data, out.size, arena, &got) != 0)
            fail_msg("%u ranks, %u batches each: %s", world[w], n, rt_err_text());
        assert_int_equal(got.n_ranks, world[w]);
        assert_int_equal(got.header[world[w] - 1].n_finished, n);
        assert_true(got.header[world[w] - 1].finished[n - 1] == UINT64_MAX);
        rt_arena_destroy(arena);
        rt_free(finished);
    }
    assert_true(tr_header_news_max(2) >= 1000); /* and small groups need not wait */
    wire_out_release(&out);
    rt_free(header);
}

static void test_too_much_news(void **state)
{
    (void)state;
    struct rt_ledger *ledger;
    assert_int_equal(rt_ledger_create(WINDOW, &ledger), 0);
    const struct tr_header_rules rules = {WIRE_GROUP_MAX, SPLITS, ledger};
    uint32_t n = tr_header_news_max(WIRE_GROUP_MAX);
    uint64_t *finished = rt_xcalloc(n + 1, sizeof *finished);
    struct wire_step_header header = {.n_finished = n, .finished = finished};
    assert_int_equal(tr_header_check(&rules, 0, &header), 0);
    header.n_finished++;
    assert_int_equal(tr_header_check(&rules, 0, &header), RT_EPROTO);
    assert_non_null(strstr(rt_err_text(), "batches finished, expected at most"));
    rt_free(finished);
    rt_ledger_destroy(ledger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own),
        cmocka_unit_test(test_any_group_fits),
        cmocka_unit_test(test_too_much_news),
    };
    return cmocka_run_group_tests_name("header", tests, NULL, NULL);
}
