/* tests/unit/test_serve_counts.c -- counts through an owner's sockets while its tables grow, evict and are capped.
 *
 * Every gradient is -1 and the learning rate 1, so a row's value is the number of updates since it was made. One
 * middleware sends batch after batch and reads all ids after each: an id's value may have grown by one, begun
 * again at 1, or gone to 0, but only for a reason, and the reasons are counted. A gradient that went to a
 * neighbour of an id without a row would show. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "tests/unit/owner_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define DIM     4u
#define IDS     120000u
#define BATCHES 30u
#define SLICE   1500u

static struct {
    struct rt_table_conf table;
    struct rt_job job;
    struct owner_bed owner;
    uint64_t *id;         /* [IDS] */
    float *value, *after; /* [IDS] before and after a batch */
    bool *has;            /* [IDS] */
    struct wire_apply_gradients_reply applied;
} bed;

static void start(const struct rt_eviction_conf *eviction, uint64_t memory)
{
    memset(&bed, 0, sizeof(bed));
    bed.table = (struct rt_table_conf){.name = "rows",
                                       .dim = DIM,
                                       .init.kind = RT_INIT_CONSTANT,
                                       .optimizer.learning_rate = 1.0,
                                       .eviction = *eviction};
    bed.job = (struct rt_job){.n_tables = 1, .table = &bed.table, .global.seed = 1};
    owner_bed_open(&bed.owner,
                   &(struct owner_bed_conf){
                       .job = &bed.job, .thread = true, .memory = memory, .slice_rows = SLICE});
    owner_bed_run(&bed.owner);
    owner_bed_connect(&bed.owner, 0);
    bed.id = calloc(IDS, sizeof(*bed.id));
    bed.value = calloc(IDS, sizeof(*bed.value));
    bed.after = calloc(IDS, sizeof(*bed.after));
    bed.has = calloc(IDS, sizeof(*bed.has));
    for (size_t i = 0; i < IDS; i++)
        bed.id[i] = i * 0x9e3779b97f4a7c15ull;
}

static void stop(void)
{
    owner_bed_close(&bed.owner);
    free(bed.id);
    free(bed.value);
    free(bed.after);
    free(bed.has);
}

/* ---- asking ---- */

static void on_rows(void *arg, int err, const struct rt_frame *reply)
{
    const float *row;

    (void)arg;
    if (err)
        fail_msg("lookup: %d: %s", err, rt_err_text());
    row = (const float *)reply->payload->data;
    for (size_t i = 0; i < IDS; i++) {
        bed.after[i] = row[i * DIM];
        for (size_t j = 1; j < DIM; j++)
            assert_true(row[i * DIM + j] == bed.after[i]);
    }
    rt_loop_stop(bed.owner.loop);
}

static void on_applied(void *arg, int err, const struct rt_frame *reply)
{
    struct rt_arena *arena;

    (void)arg;
    if (err)
        fail_msg("update: %d: %s", err, rt_err_text());
    assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
    assert_int_equal(wire_apply_gradients_reply_unpack(reply->message, reply->header.message_size,
                                                       arena, &bed.applied),
                     0);
    rt_arena_destroy(arena);
    rt_loop_stop(bed.owner.loop);
}

static void ask(uint16_t method, uint64_t batch_id, struct wire_out *message,
                struct rt_buf *payload, rt_reply_fn done)
{
    struct rt_piece piece = {.data = payload->data, .size = payload->size, .buf = payload};

    owner_bed_ask(&bed.owner, 0, method, batch_id, message, &piece, 1, done, NULL);
    rt_loop_run(bed.owner.loop);
}

static void *put(struct rt_buf *buf, size_t bytes)
{
    size_t end = buf->size;
    uint8_t *at = buf->data + rt_segment_put(&end, bytes);

    assert_true(end <= buf->capacity);
    buf->size = end;
    return at;
}

static void look_up_all(void)
{
    uint32_t table = 0, n = IDS;
    struct wire_lookup_rows m = {
        .shard_map = bed.owner.shards.version, .n_tables = 1, .table = &table, .n_ids = &n};
    struct rt_buf *buf = rt_io_buf(rt_loop_io(bed.owner.loop), IDS * sizeof(*bed.id));
    struct wire_out out = {0};

    memcpy(put(buf, IDS * sizeof(*bed.id)), bed.id, IDS * sizeof(*bed.id));
    assert_int_equal(wire_lookup_rows_pack(&m, &out), 0);
    ask(WIRE_LOOKUP_ROWS, 0, &out, buf, on_rows);
}

/* The ids that has[] names. Return: their number. */
static uint32_t update(uint64_t batch_id)
{
    uint32_t table = 0, n = 0, k = 0;
    struct wire_apply_gradients m = {.shard_map = bed.owner.shards.version,
                                     .parts = 1,
                                     .learning_rate = 1.0,
                                     .world = 1,
                                     .n_tables = 1,
                                     .table = &table,
                                     .n_ids = &n};
    struct rt_buf *buf =
        rt_io_buf(rt_loop_io(bed.owner.loop), IDS * (sizeof(*bed.id) + 4 * DIM) + 128);
    struct wire_out out = {0};
    uint64_t *id;
    float *grad;

    for (size_t i = 0; i < IDS; i++)
        n += bed.has[i];
    id = put(buf, n * sizeof(*id));
    grad = put(buf, n * DIM * sizeof(*grad));
    for (size_t i = 0; i < IDS; i++)
        if (bed.has[i])
            id[k++] = bed.id[i];
    for (size_t i = 0; i < (size_t)n * DIM; i++)
        grad[i] = -1.0f;
    assert_int_equal(wire_apply_gradients_pack(&m, &out), 0);
    ask(WIRE_APPLY_GRADIENTS, batch_id, &out, buf, on_applied);
    return n;
}

/* ---- the oracle ---- */

/* Of struct ebs_table_stats, which is the owner's thread's. */
struct counts {
    uint64_t rows, created, evicted, refused;
};

static struct counts count(void)
{
    const struct ebs_table_stats *s = ebs_owner_table_stats(bed.owner.owner, 0);

    return (struct counts){s->rows, s->created, s->evicted, s->refused};
}

/* What became of each id in one batch, and whether the numbers say so. */
static void check_batch(uint32_t n, const struct counts *before)
{
    struct counts now = count();
    uint64_t applied = 0, fresh = 0, gone = 0, live = 0;

    for (size_t i = 0; i < IDS; i++) {
        float was = bed.value[i], is = bed.after[i];

        live += is > 0;
        if (bed.has[i]) {
            if (is != was + 1 && is != 1 && is != 0)
                fail_msg("id %zu of the batch went from %g to %g", i, (double)was, (double)is);
            if (is == 0 && was > 0)
                fail_msg("id %zu had a row of %g, and its gradient was left out", i, (double)was);
            applied += is > 0;
            fresh += is == 1;
            gone += is == 1 && was > 0; /* evicted, and made again */
        } else {
            if (is != was && is != 0)
                fail_msg("id %zu is not in the batch and went from %g to %g", i, (double)was,
                         (double)is);
            gone += is == 0 && was > 0;
        }
    }
    assert_int_equal(bed.applied.outcome, WIRE_APPLIED);
    assert_int_equal(bed.applied.rows_applied, applied);
    assert_int_equal(now.refused - before->refused, n - applied);
    assert_int_equal(now.created - before->created, fresh);
    assert_int_equal(now.evicted - before->evicted, gone);
    assert_int_equal(now.rows, live);
}

static const struct {
    const char *name;
    struct rt_eviction_conf eviction;
    uint64_t memory;
    bool evicts, refuses;
} row[] = {
    {"grows", {0}, 0, false, false},
    {"LRU over rows", {.kind = RT_EVICT_LRU, .rows = 40000}, 0, true, false},
    {"LFU over rows", {.kind = RT_EVICT_LFU, .rows = 40000, .half_life = 100}, 0, true, false},
    {"capacity without eviction", {.rows = 40000}, 0, false, true},
    {"LRU over bytes", {.kind = RT_EVICT_LRU, .bytes = 3 << 19}, 0, true, false},
    {"memory cap, LRU", {.kind = RT_EVICT_LRU, .rows = IDS}, 3 << 19, true, false},
    {"memory cap, no policy", {0}, 3 << 19, false, true},
};

static void values_are_counts(void **state)
{
    (void)state;
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        struct counts before;

        start(&row[r].eviction, row[r].memory);
        for (uint32_t b = 0; b < BATCHES; b++) {
            uint32_t n;

            before = count();
            for (size_t i = 0; i < IDS;
                 i++) /* low numbers come often; every third batch is a small one */
                bed.has[i] =
                    rt_below(rt_draw(b + 1, i), (i < 2000 ? 2 : 40) * (b % 3 ? 1 : 10)) == 0;
            n = update(rt_batch_id(0, b));
            look_up_all();
            check_batch(n, &before);
            memcpy(bed.value, bed.after, IDS * sizeof(*bed.value));
        }
        before = count();
        print_message("%-26s %8llu rows, %8llu evicted, %8llu refused; %llu requests in pieces\n",
                      row[r].name, (unsigned long long)before.rows,
                      (unsigned long long)before.evicted, (unsigned long long)before.refused,
                      (unsigned long long)ebs_owner_stats(bed.owner.owner)->sliced);
        assert_int_equal(before.evicted > 0, row[r].evicts);
        assert_int_equal(before.refused > 0, row[r].refuses);
        assert_true(row[r].memory == 0 ||
                    ebs_owner_stats(bed.owner.owner)->budget_used <= row[r].memory);
        stop();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(values_are_counts)};

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests_name("serve_counts", tests, NULL, NULL);
}
