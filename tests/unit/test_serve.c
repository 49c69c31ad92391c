/* tests/unit/test_serve.c -- an owner on a loopback connection, asked as middlewares ask. */
#include "embedding_server/apply.h"
#include "embedding_server/owner.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/job/batch_id.h"
#include "runtime/net/loop.h"
#include "runtime/net/near.h"
#include "runtime/wire/member.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define DIM      2
#define ANSWERS  8
#define DEADLINE (3 * 1000000000ull)

static const struct rt_table_conf tables[] = {
    {.name = "users",
     .dim = DIM,
     .init = {.kind = RT_INIT_CONSTANT, .value = 1.0},
     .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.5}},
    {.name = "items \"x\"",
     .dim = 1,
     .init = {.kind = RT_INIT_CONSTANT, .value = 0.0},
     .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 1.0, .eps = 1e-10}},
};

struct answer {
    bool done;
    int err;
    char text[600];
    struct wire_apply_gradients_reply applied;
    struct wire_lookup_rows_reply looked_up;
    uint16_t method;
    float value[16]; /* the payload's first floats */
};

struct bed {
    struct rt_loop *loop;
    struct rt_job job;
    struct rt_shard_map shards;
    struct ebs_owner *owner;
    struct rt_rpc *rpc;
    struct rt_peer *peer;
    struct answer answer[ANSWERS];
    int asked, wanted;
} bed;

static void stop_when_up(void *ctx, struct rt_peer *peer)
{
    (void)ctx;
    (void)peer;
    rt_loop_stop(bed.loop);
}

static struct rt_identity identity(enum rt_role role)
{
    return (struct rt_identity){.job = "test",
                                .role = role,
                                .incarnation = 5,
                                .wire_version = RT_WIRE_VERSION,
                                .config_hash = 1,
                                .plan_hash = 2};
}

/* Owner 0 of two: it holds the lower half of the shards. */
static int set_up(void **state)
{
    struct ebs_owner_conf conf = {
        .owner = 0, .greeting = &wire_greeting, .listen = "tcp:127.0.0.1:0"};
    struct rt_rpc_conf rpc = {.self = identity(RT_ROLE_MIDDLEWARE),
                              .greeting = &wire_greeting,
                              .reply_max = 1 << 20,
                              .peer_up = stop_when_up};

    (void)state;
    memset(&bed, 0, sizeof(bed));
    bed.job.n_tables = ARRAY_LEN(tables);
    bed.job.table = tables;
    bed.job.global.seed = 1;
    assert_int_equal(rt_shard_map_init(&bed.shards, 2, 1), 0);
    assert_int_equal(
        rt_loop_create(&(struct rt_loop_conf){.name = "test", .pool_budget = 64 << 20}, &bed.loop),
        0);
    conf.io = rpc.io = rt_loop_io(bed.loop);
    conf.identity = identity(RT_ROLE_EMBEDDING_SERVER);
    conf.job = &bed.job;
    conf.shards = &bed.shards;
    assert_int_equal(ebs_owner_create(&conf, &bed.owner), 0);
    assert_int_equal(rt_rpc_create(&rpc, &bed.rpc), 0);
    bed.peer = rt_rpc_peer(bed.rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0);
    rt_peer_set_address(bed.peer, ebs_owner_address(bed.owner), 5);
    rt_loop_run(bed.loop);
    assert_true(rt_peer_is_up(bed.peer));
    return 0;
}

static uint64_t observed(const struct rt_histogram *histogram)
{
    uint64_t n = 0;

    for (unsigned b = 0; b < RT_HISTOGRAM_BUCKETS; b++)
        n += histogram->bucket[b];
    return n;
}

/* What holds after any test: every number agrees with the others. */
static void check_numbers(void)
{
    const struct ebs_owner_stats *s = ebs_owner_stats(bed.owner);
    uint64_t rows = 0, live = 0, memory = 0;

    assert_int_equal(observed(&s->lookup_rows), s->lookups);
    assert_int_equal(observed(&s->lookup_seconds), s->lookups);
    assert_int_equal(s->lookup_rows.sum, s->rows_looked_up);
    assert_true(observed(&s->apply_rows) >= s->updates);
    assert_true(observed(&s->apply_seconds) <= observed(&s->apply_rows));
    assert_true(s->apply_rows.sum >= s->rows_applied + s->rows_nonfinite);
    for (uint32_t t = 0; t < bed.job.n_tables; t++) {
        const struct ebs_table_stats *table = ebs_owner_table_stats(bed.owner, t);

        rows += table->rows;
        live += table->bytes[EBS_BYTES_ROWS];
        for (int kind = 0; kind < EBS_BYTES_KINDS; kind++)
            memory += table->bytes[kind];
        assert_true(table->bytes[EBS_BYTES_INDEX] > 0);
        assert_int_equal(table->rows, table->created - table->evicted - table->expired);
    }
    assert_int_equal(rows, s->rows);
    assert_int_equal(live, s->row_bytes);
    assert_int_equal(memory, s->memory_bytes);
}

static int tear_down(void **state)
{
    (void)state;
    check_numbers();
    rt_rpc_destroy(bed.rpc);
    ebs_owner_destroy(bed.owner);
    rt_loop_destroy(bed.loop);
    return 0;
}

/* ---- asking ---- */

static void on_answer(void *arg, int err, const struct rt_frame *reply)
{
    struct answer *answer = arg;
    struct rt_arena *arena;

    answer->done = true;
    answer->err = err;
    if (err) {
        snprintf(answer->text, sizeof(answer->text), "%s", rt_err_text());
    } else {
        assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
        if (answer->method == WIRE_LOOKUP_ROWS)
            assert_int_equal(wire_lookup_rows_reply_unpack(reply->message,
                                                           reply->header.message_size, arena,
                                                           &answer->looked_up),
                             0);
        else
            assert_int_equal(wire_apply_gradients_reply_unpack(reply->message,
                                                               reply->header.message_size, arena,
                                                               &answer->applied),
                             0);
        if (reply->payload)
            memcpy(answer->value, reply->payload->data,
                   reply->payload->size < sizeof(answer->value) ? reply->payload->size
                                                                : sizeof(answer->value));
        rt_arena_destroy(arena);
    }
    if (--bed.wanted == 0)
        rt_loop_stop(bed.loop);
}

/* Wait for n answers more. */
static void run(int n)
{
    bed.wanted += n;
    if (bed.wanted > 0)
        rt_loop_run(bed.loop);
}

static struct answer *ask(uint16_t method, uint64_t batch_id, const struct wire_out *message,
                          const struct rt_piece *pieces, size_t n_pieces)
{
    struct answer *answer = &bed.answer[bed.asked++ % ANSWERS];
    struct rt_outgoing out = {.batch_id = batch_id,
                              .message = message->data,
                              .message_size = message->size,
                              .pieces = pieces,
                              .n_pieces = n_pieces};

    *answer = (struct answer){.method = method};
    assert_int_equal(rt_rpc_call(bed.peer, method, &out, DEADLINE, on_answer, answer), 0);
    return answer;
}

static struct rt_piece piece_of(const void *data, size_t size)
{
    struct rt_buf *buf = rt_io_buf(rt_loop_io(bed.loop), size);

    assert_non_null(buf);
    memcpy(buf->data, data, size);
    return (struct rt_piece){.data = buf->data, .size = size, .buf = buf};
}

/* One lookup of n ids of one table, as a middleware would send it but for what `edit` changes. */
static struct answer *ask_lookup(uint32_t table, const uint64_t *id, uint32_t n, uint64_t step)
{
    struct wire_lookup_rows m = {
        .shard_map = bed.shards.version, .step = step, .n_tables = 1, .table = &table, .n_ids = &n};
    struct rt_piece piece = piece_of(id, n * sizeof(*id));
    struct wire_out out = {0};
    struct answer *answer;

    assert_int_equal(wire_lookup_rows_pack(&m, &out), 0);
    answer = ask(WIRE_LOOKUP_ROWS, 0, &out, &piece, 1);
    rt_buf_unref(piece.buf);
    wire_out_release(&out);
    return answer;
}

struct update {
    uint64_t batch_id, step, digest, applied_through;
    uint32_t part, parts, rank, world, table, n;
    bool synchronous;
    double factor;
    const uint64_t *id;
    const float *grad;
};

static struct answer *ask_update(const struct update *u)
{
    struct wire_apply_gradients m = {.shard_map = bed.shards.version,
                                     .part = u->part,
                                     .parts = u->parts ? u->parts : 1,
                                     .step = u->step,
                                     .applied_through = u->applied_through,
                                     .learning_rate = u->factor > 0 ? u->factor : 1.0,
                                     .rank = u->rank,
                                     .world = u->world ? u->world : 1,
                                     .synchronous = u->synchronous,
                                     .n_tables = u->n > 0,
                                     .table = &u->table,
                                     .n_ids = &u->n,
                                     .digest = u->digest};
    struct rt_piece piece[2];
    struct wire_out out = {0};
    struct answer *answer;

    assert_int_equal(wire_apply_gradients_pack(&m, &out), 0);
    if (u->n == 0) {
        answer = ask(WIRE_APPLY_GRADIENTS, u->batch_id, &out, NULL, 0);
    } else {
        piece[0] = piece_of(u->id, u->n * sizeof(*u->id));
        piece[1] = piece_of(u->grad, u->n * tables[u->table].dim * sizeof(float));
        answer = ask(WIRE_APPLY_GRADIENTS, u->batch_id, &out, piece, 2);
        rt_buf_unref(piece[0].buf);
        rt_buf_unref(piece[1].buf);
    }
    wire_out_release(&out);
    return answer;
}

/* The k-th small integer whose shard is (not) in the lower half. */
static uint64_t pick(int k, bool ours)
{
    for (uint64_t id = 0;; id++)
        if ((rt_shard_of(id) < RT_SHARDS / 2) == ours && k-- == 0)
            return id;
}

static float value_of(uint32_t table, uint64_t id)
{
    struct answer *answer = ask_lookup(table, &id, 1, 0);

    run(1);
    assert_int_equal(answer->err, 0);
    return answer->value[0];
}

/* ---- the tests ---- */

static void rows_are_read_and_changed(void **state)
{
    uint64_t id[] = {pick(0, true), pick(1, true), pick(2, true)};
    float grad[] = {1, 2, 3, 4, NAN, 6};
    struct answer *answer = ask_lookup(0, id, 3, 0);

    (void)state;
    run(1);
    assert_int_equal(answer->err, 0);
    assert_int_equal(ebs_owner_stats(bed.owner)->rows_found, 0);
    for (int i = 0; i < 6; i++)
        assert_true(answer->value[i] == 1.0f);

    answer = ask_update(&(struct update){
        .batch_id = rt_batch_id(3, 9), .table = 0, .id = id, .grad = grad, .n = 3, .factor = 0.5});
    run(1);
    assert_int_equal(answer->err, 0);
    assert_int_equal(answer->applied.outcome, WIRE_APPLIED);
    assert_int_equal(answer->applied.rows_applied, 2);
    assert_int_equal(answer->applied.rows_nonfinite, 1);

    answer = ask_lookup(0, id, 3, 0);
    run(1);
    assert_int_equal(ebs_owner_stats(bed.owner)->rows_found, 2);
    for (int i = 0; i < 6; i++) /* learning rate 0.5 x factor 0.5 */
        assert_true(answer->value[i] == (i < 4 ? 1.0f - 0.25f * grad[i] : 1.0f));
    assert_int_equal(ebs_owner_stats(bed.owner)->rows, 2);
    assert_int_equal(ebs_owner_stats(bed.owner)->rows_nonfinite, 1);
}

/* One observation per request, of its rows; bytes of the live rows to the last one; names as the format wants. */
static void requests_and_tables_are_counted(void **state)
{
    static const char *const line[] = {
        "\nsaffron_embedding_server_rows{table=\"users\"} 3\n",
        "\nsaffron_embedding_server_rows{table=\"items \\\"x\\\"\"} 2\n",
        "\nsaffron_embedding_server_table_bytes{table=\"users\",kind=\"rows\"} 48\n",
        "\nsaffron_embedding_server_table_bytes{table=\"items \\\"x\\\"\",kind=\"rows\"} 32\n",
        "\nsaffron_embedding_server_apply_rows_bucket{le=\"2\"} 1\n",
        "\nsaffron_embedding_server_apply_rows_bucket{le=\"4\"} 2\n",
        "\nsaffron_embedding_server_apply_rows_sum 5\n",
        "\nsaffron_embedding_server_apply_seconds_count 2\n",
        "\nsaffron_embedding_server_lookup_rows_sum 4\n",
        "\nsaffron_embedding_server_lookup_seconds_count 2\n",
        "\nsaffron_embedding_server_rows_created_total{table=\"users\"} 3\n",
    };
    uint64_t id[] = {pick(0, true), pick(1, true), pick(2, true)};
    float grad[] = {1, 2, 3, 4, 5, 6};
    struct rt_metrics *metrics = rt_metrics_create();
    struct rt_strbuf page;

    (void)state;
    ebs_owner_register(bed.owner, metrics);
    ask_update(&(struct update){.batch_id = 0, .table = 0, .id = id, .grad = grad, .n = 3});
    ask_update(&(struct update){.batch_id = 1, .table = 1, .id = id, .grad = grad, .n = 2});
    ask_update(&(struct update){.batch_id = 1, .table = 1, .id = id, .grad = grad, .n = 2});
    ask_lookup(0, id, 3, 0);
    ask_lookup(9, id, 3, 0); /* refused: there is no such table */
    ask_lookup(1, id, 1, 0);
    run(6);
    rt_strbuf_init(&page);
    rt_metrics_print(metrics, &page);
    for (size_t i = 0; i < ARRAY_LEN(line); i++)
        if (!strstr(page.text, line[i]))
            fail_msg("no line%sin\n%s", line[i], page.text);
    rt_strbuf_release(&page);
    rt_metrics_destroy(metrics);
}

/* ---- answers that are made while they are sent ---- */

enum { MANY = 40001 };

static struct rt_buf *large;

static void on_large(void *arg, int err, const struct rt_frame *reply)
{
    (void)arg;
    assert_int_equal(err, 0);
    large = rt_buf_ref(reply->payload);
    rt_loop_stop(bed.loop);
}

/* The first n[t] of the ids, of both tables. */
static void ask_both(const uint64_t *id, const uint32_t n[2])
{
    static const uint32_t table[2] = {0, 1};
    struct wire_lookup_rows m = {
        .shard_map = bed.shards.version, .n_tables = 2, .table = table, .n_ids = n};
    struct rt_piece piece[2] = {piece_of(id, n[0] * sizeof(*id)), piece_of(id, n[1] * sizeof(*id))};
    struct wire_out out = {0};

    assert_int_equal(wire_lookup_rows_pack(&m, &out), 0);
    assert_int_equal(rt_rpc_call(bed.peer, WIRE_LOOKUP_ROWS,
                                 &(struct rt_outgoing){.message = out.data,
                                                       .message_size = out.size,
                                                       .pieces = piece,
                                                       .n_pieces = 2},
                                 DEADLINE, on_large, NULL),
                     0);
    rt_loop_run(bed.loop);
    rt_buf_unref(piece[0].buf);
    rt_buf_unref(piece[1].buf);
    wire_out_release(&out);
}

/* Every other row exists, and no two of those are the same. */
static void answers_of_any_size(void **state)
{
    static const uint32_t n[][2] = {{1, 1}, {MANY, MANY}, {5, MANY}, {MANY, 3}, {32768, 65}};
    static uint64_t id[MANY], half[MANY / 2];
    static float grad[MANY / 2 * DIM];
    const struct ebs_owner_stats *stats = ebs_owner_stats(bed.owner);
    uint64_t found = 0;

    (void)state;
    for (uint64_t k = 0, next = 0; k < MANY; next++)
        if (rt_shard_of(next) < RT_SHARDS / 2)
            id[k++] = next;
    for (int k = 0; k < MANY / 2; k++) {
        half[k] = id[2 * k + 1];
        grad[k * DIM] = (float)k + 1;
        grad[k * DIM + 1] = (float)-k;
    }
    ask_update(&(struct update){.id = half, .grad = grad, .n = MANY / 2});
    run(1);
    for (size_t i = 0; i < ARRAY_LEN(n); i++) {
        size_t at = ((size_t)n[i][0] * DIM * sizeof(float) + 63) / 64 * 64;
        const float *user, *item;

        ask_both(id, n[i]);
        assert_int_equal(large->size, at + n[i][1] * sizeof(float));
        user = (const float *)(void *)large->data;
        item = (const float *)(void *)(large->data + at);
        for (size_t k = 0; k < n[i][0] * DIM; k++)
            assert_true(user[k] ==
                        (k / DIM % 2 ? 1 - 0.5f * grad[k / DIM / 2 * DIM + k % DIM] : 1));
        for (size_t k = n[i][0] * DIM; k < at / sizeof(float); k++)
            assert_true(user[k] == 0);
        for (size_t k = 0; k < n[i][1]; k++)
            assert_true(item[k] == 0);
        rt_buf_unref(large);
        found += n[i][0] / 2;
        assert_int_equal(stats->rows_found, found);
    }
}

static int set_up_tcp(void **state)
{
    rt_near_set(false);
    return set_up(state);
}

static int tear_down_tcp(void **state)
{
    rt_near_set(true);
    return tear_down(state);
}

/* ---- batches ---- */

/* The ledger lets batches of a split be so far apart; an owner must not take the older for applied. */
static void a_late_batch_is_applied(void **state)
{
    uint64_t id = pick(0, true), sequence[] = {RT_BATCH_WINDOW - 1, 0};
    float grad[DIM] = {1, 1};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sequence); i++) {
        struct answer *answer = ask_update(&(struct update){
            .batch_id = rt_batch_id(1, sequence[i]), .id = &id, .grad = grad, .n = 1});

        run(1);
        assert_int_equal(answer->err, 0);
        assert_int_equal(answer->applied.outcome, WIRE_APPLIED);
    }
    assert_true(value_of(0, id) == 0.0f);
}

static void a_repeat_changes_nothing(void **state)
{
    uint64_t id = pick(0, true);
    float grad[DIM] = {1, 1};
    struct update update = {.batch_id = rt_batch_id(1, 0), .id = &id, .grad = grad, .n = 1};

    (void)state;
    for (int i = 0; i < 4; i++) {
        struct answer *answer = ask_update(&update);

        run(1);
        assert_int_equal(answer->err, 0);
        assert_int_equal(answer->applied.outcome, i == 0 ? WIRE_APPLIED : WIRE_ALREADY);
    }
    assert_true(value_of(0, id) == 0.5f);
    assert_int_equal(ebs_owner_stats(bed.owner)->updates, 1);
    assert_int_equal(ebs_owner_stats(bed.owner)->updates_again, 3);
    update.batch_id++;
    ask_update(&update);
    run(1);
    assert_true(value_of(0, id) == 0.0f);
}

static void wrong_requests_are_refused_by_name(void **state)
{
    enum { FOREIGN = 1, OTHER_MAP, NO_TABLE, DTYPE, SHORT, LONG, EVALUATION, FACTOR };
    static const struct {
        int what;
        bool update;
        int err;
        const char *word;
    } row[] = {
        {FOREIGN, false, RT_EOWNER, "shard"},
        {FOREIGN, true, RT_EOWNER, "shard"},
        {OTHER_MAP, false, RT_EOWNER, "map"},
        {OTHER_MAP, true, RT_EOWNER, "map"},
        {NO_TABLE, false, RT_EPROTO, "table 7"},
        {NO_TABLE, true, RT_EPROTO, "table 7"},
        {DTYPE, false, RT_EPROTO, "dtype"},
        {DTYPE, true, RT_EPROTO, "dtype"},
        {SHORT, false, RT_EPROTO, ""},
        {SHORT, true, RT_EPROTO, ""},
        {LONG, false, RT_EPROTO, ""},
        {LONG, true, RT_EPROTO, ""},
        {EVALUATION, true, RT_EPROTO, "split"},
        {FACTOR, true, RT_EPROTO, "factor"},
    };
    uint64_t ours = pick(0, true), foreign = pick(0, false), id[4] = {ours, ours, ours, ours};
    float grad[8] = {1, 1};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint32_t table = row[i].what == NO_TABLE ? 7 : 0, n = 1;
        uint64_t map = bed.shards.version + (row[i].what == OTHER_MAP);
        uint32_t dtype = row[i].what == DTYPE ? WIRE_BF16 : WIRE_F32;
        size_t ids = row[i].what == SHORT && !row[i].update ? 4 : row[i].what == LONG ? 16 : 8;
        struct wire_lookup_rows l = {
            .shard_map = map, .n_tables = 1, .table = &table, .n_ids = &n, .dtype = dtype};
        struct wire_apply_gradients a = {.shard_map = map,
                                         .parts = 1,
                                         .learning_rate = row[i].what == FACTOR ? 1e30 : 1.0,
                                         .world = 1,
                                         .n_tables = 1,
                                         .table = &table,
                                         .n_ids = &n,
                                         .dtype = dtype};
        struct rt_piece piece[2];
        struct wire_out out = {0};
        struct answer *answer;

        id[0] = row[i].what == FOREIGN ? foreign : ours;
        piece[0] = piece_of(id, row[i].update ? 8 : ids);
        piece[1] = piece_of(grad, row[i].what == SHORT ? 4 : row[i].what == LONG ? 12 : 8);
        assert_int_equal(row[i].update ? wire_apply_gradients_pack(&a, &out)
                                       : wire_lookup_rows_pack(&l, &out),
                         0);
        answer = ask(row[i].update ? WIRE_APPLY_GRADIENTS : WIRE_LOOKUP_ROWS,
                     rt_batch_id(row[i].what == EVALUATION ? RT_SPLIT_EVALUATE : 0, 1), &out, piece,
                     row[i].update ? 2 : 1);
        run(1);
        if (answer->err != row[i].err || !strstr(answer->text, row[i].word))
            fail_msg("row %zu: err %d (%s), want %d naming '%s'", i, answer->err, answer->text,
                     row[i].err, row[i].word);
        rt_buf_unref(piece[0].buf);
        rt_buf_unref(piece[1].buf);
        wire_out_release(&out);
    }
    assert_true(rt_peer_is_up(bed.peer));
    assert_int_equal(ebs_owner_stats(bed.owner)->rows, 0);
    assert_true(value_of(0, ours) == 1.0f);
}

static void parts_are_applied_together(void **state)
{
    uint64_t id[] = {pick(0, true), pick(1, true)};
    float grad[] = {1, 1, 2, 2};
    struct update update = {
        .batch_id = rt_batch_id(0, 0), .parts = 2, .id = id, .grad = grad, .n = 1};
    struct update other = {.batch_id = rt_batch_id(0, 0),
                           .parts = 2,
                           .part = 1,
                           .id = id + 1,
                           .grad = grad + 2,
                           .n = 1};
    struct answer *first = ask_update(&update), *second, *third;

    (void)state;
    assert_true(value_of(0, id[0]) ==
                1.0f); /* answered after the part arrived: nothing is applied */
    assert_int_equal(ebs_owner_stats(bed.owner)->open, 1);
    assert_false(first->done);
    other.digest = 77;
    second = ask_update(&other);
    run(1);
    assert_int_equal(second->err, RT_EDIGEST);
    other.digest = 0;
    second = ask_update(&update); /* asked again: the first asker is told */
    run(1);
    assert_true(first->done && first->err == RT_ECANCELED);
    third = ask_update(&other);
    run(2);
    assert_true(second->applied.outcome == WIRE_APPLIED && third->applied.outcome == WIRE_APPLIED);
    assert_int_equal(second->applied.rows_applied + third->applied.rows_applied, 2);
    assert_true(value_of(0, id[0]) == 0.5f && value_of(0, id[1]) == 0.0f);
    third = ask_update(&other);
    run(1);
    assert_int_equal(third->applied.outcome, WIRE_ALREADY);
    assert_int_equal(ebs_owner_stats(bed.owner)->open, 0);
}

/* A middleware died after part 0 of 2; the next one sends the batch in one piece. */
static void another_cut_replaces_the_first(void **state)
{
    uint64_t id = pick(0, true);
    float grad[] = {1, 1};
    struct update update = {
        .batch_id = rt_batch_id(0, 0), .parts = 2, .id = &id, .grad = grad, .n = 1};
    struct answer *first = ask_update(&update), *second;

    (void)state;
    update.parts = 1;
    second = ask_update(&update);
    run(2);
    assert_int_equal(first->err,
                     RT_EUNKNOWN); /* not to be sent again: it would replace in its turn */
    assert_int_equal(second->applied.outcome, WIRE_APPLIED);
    assert_true(value_of(0, id) == 0.5f);
    assert_int_equal(ebs_owner_stats(bed.owner)->updates, 1);
}

/* Two ranks make one update of the sum; Adagrad would tell it from two updates. */
static void a_step_waits_for_all_ranks(void **state)
{
    uint64_t id[] = {pick(0, true), pick(1, true)};
    float zero[] = {3, 5}, one[] = {1, 7};
    struct update rank0 = {.batch_id = rt_batch_id(0, 0),
                           .step = 1,
                           .world = 2,
                           .synchronous = true,
                           .table = 1,
                           .id = id,
                           .grad = zero,
                           .n = 2};
    struct update rank1 = rank0;
    struct answer *lookup, *first, *second;

    (void)state;
    rank1.rank = 1;
    rank1.batch_id = rt_batch_id(1, 0);
    rank1.grad = one;
    rank1.n = 1; /* only the first id */
    lookup = ask_lookup(1, id, 2, 1);
    first = ask_update(&rank1);
    assert_true(value_of(1, id[0]) == 0.0f);
    assert_true(!first->done && !lookup->done);
    assert_int_equal(ebs_owner_stats(bed.owner)->waiting, 1);
    second = ask_update(&rank0);
    run(3);
    assert_true(first->applied.outcome == WIRE_APPLIED && second->applied.outcome == WIRE_APPLIED);
    assert_int_equal(first->applied.rows_applied + second->applied.rows_applied, 2);
    assert_int_equal(lookup->err, 0);
    /* w = -g / sqrt(g * g) for the sum 4, not 1/1 + 3/sqrt(10) */
    assert_true(fabsf(lookup->value[0] + 1.0f) < 1e-6f && fabsf(lookup->value[1] + 1.0f) < 1e-6f);
    assert_int_equal(ebs_owner_stats(bed.owner)->step, 1);
    assert_int_equal(ebs_owner_stats(bed.owner)->waiting, 0);
}

/* A middleware that asks again on a new connection leaves nothing of the old one behind. */
static void a_lost_asker_does_not_wait(void **state)
{
    uint64_t id = pick(0, true);
    struct rt_rpc_conf conf = {.io = rt_loop_io(bed.loop),
                               .self = identity(RT_ROLE_MIDDLEWARE),
                               .greeting = &wire_greeting,
                               .reply_max = 1 << 20,
                               .peer_up = stop_when_up};

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct answer *answer = ask_lookup(0, &id, 1, 9);

        assert_true(value_of(0, id) == 1.0f); /* answered after the lookup arrived */
        assert_false(answer->done);
        assert_int_equal(ebs_owner_stats(bed.owner)->waiting, 1);
        rt_rpc_destroy(bed.rpc);
        bed.asked = bed.wanted = 0;
        assert_int_equal(rt_rpc_create(&conf, &bed.rpc), 0);
        bed.peer = rt_rpc_peer(bed.rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0);
        rt_peer_set_address(bed.peer, ebs_owner_address(bed.owner), 5);
        rt_loop_run(bed.loop);
    }
    assert_true(value_of(0, id) == 1.0f);
    assert_int_equal(ebs_owner_stats(bed.owner)->waiting, 0);
}

/* An empty part is a rank's word that it has no rows here; a batch applied earlier does not hold up its step. */
static void empty_and_repeated_ranks_count(void **state)
{
    uint64_t id = pick(0, true);
    float grad[] = {1, 1};
    struct update rank0 = {.batch_id = rt_batch_id(0, 0),
                           .step = 1,
                           .world = 2,
                           .synchronous = true,
                           .id = &id,
                           .grad = grad,
                           .n = 1};
    struct update rank1 = {
        .batch_id = rt_batch_id(1, 0), .step = 1, .rank = 1, .world = 2, .synchronous = true};
    struct answer *first = ask_update(&rank0), *second = ask_update(&rank1), *lookup;

    (void)state;
    run(2);
    assert_true(first->applied.outcome == WIRE_APPLIED && second->applied.outcome == WIRE_APPLIED);
    assert_true(value_of(0, id) == 0.5f);
    /* All trainers were lost: rank 0's batch is replayed as part of another step, rank 1's is new. */
    rank0.step = rank1.step = 2;
    rank1.batch_id = rt_batch_id(1, 1);
    rank1.id = &id;
    rank1.grad = grad;
    rank1.n = 1;
    lookup = ask_lookup(0, &id, 1, 2);
    first = ask_update(&rank0);
    second = ask_update(&rank1);
    run(3);
    assert_int_equal(first->applied.outcome, WIRE_ALREADY);
    assert_int_equal(second->applied.outcome, WIRE_APPLIED);
    assert_true(lookup->value[0] == 0.0f);
    /* And with both repeated the step is news all the same. */
    rank0.step = rank1.step = 3;
    lookup = ask_lookup(0, &id, 1, 3);
    first = ask_update(&rank0);
    second = ask_update(&rank1);
    run(3);
    assert_true(first->applied.outcome == WIRE_ALREADY && second->applied.outcome == WIRE_ALREADY);
    assert_true(lookup->err == 0 && lookup->value[0] == 0.0f);
}

/* One rank's batch of a step, a gradient of 1 for one row. */
static struct answer *ask_rank(uint64_t sequence, uint64_t step, uint32_t rank, uint32_t world,
                               const uint64_t *id)
{
    static const float one[DIM] = {1, 1};

    return ask_update(&(struct update){.batch_id = rt_batch_id(rank, sequence),
                                       .step = step,
                                       .rank = rank,
                                       .world = world,
                                       .synchronous = true,
                                       .id = id,
                                       .grad = one,
                                       .n = 1});
}

/* Rank 1 pushed, died, came back, and made the same step with another batch. */
static void a_successor_takes_the_place(void **state)
{
    uint64_t id[] = {pick(0, true), pick(1, true)};
    struct answer *before = ask_rank(0, 1, 1, 2, id), *after = ask_rank(7, 1, 1, 2, id + 1);
    struct answer *other;

    (void)state;
    run(1);
    assert_int_equal(before->err, RT_EUNKNOWN);
    assert_false(after->done);
    assert_int_equal(ebs_owner_stats(bed.owner)->open, 1);
    other = ask_rank(0, 1, 0, 2, id + 1);
    run(2);
    assert_true(after->applied.outcome == WIRE_APPLIED && other->applied.outcome == WIRE_APPLIED);
    assert_true(value_of(0, id[0]) == 1.0f && value_of(0, id[1]) == 0.0f);
    before = ask_rank(0, 2, 1, 2, id); /* it was never applied: it may come in another step */
    ask_rank(1, 2, 0, 2, id + 1);
    run(2);
    assert_int_equal(before->applied.outcome, WIRE_APPLIED);
    assert_true(value_of(0, id[0]) == 0.5f);
}

/* Ranks without a batch do not count: each step has a world of its own, and so has each attempt at one. */
static void worlds_differ_from_step_to_step(void **state)
{
    static const uint32_t world[] = {2, 1, 3, 1, 2};
    uint64_t id = pick(0, true);
    struct answer *answer[3], *stale;
    float want = 1.0f;

    (void)state;
    for (uint64_t s = 0; s < ARRAY_LEN(world); s++) {
        stale = ask_rank(s + 100, s + 1, 1, 4, &id); /* of an attempt by four */
        for (uint32_t r = 0; r < world[s]; r++)
            answer[r] = ask_rank(s, s + 1, r, world[s], &id);
        run((int)world[s] + 1);
        assert_int_equal(stale->err, RT_EUNKNOWN);
        for (uint32_t r = 0; r < world[s]; r++)
            assert_true(answer[r]->err == 0 && answer[r]->applied.outcome == WIRE_APPLIED);
        want -= 0.5f * (float)world[s];
        assert_true(value_of(0, id) == want);
        assert_int_equal(ebs_owner_stats(bed.owner)->step, s + 1);
        assert_int_equal(ebs_owner_stats(bed.owner)->open, 0);
    }
}

/* Steps of one rank each, not the same one: the third is complete here before the second, and the second before
 * the first, with which an owner begins. */
static void steps_are_applied_in_order(void **state)
{
    uint64_t id = pick(0, true);
    struct answer *third, *second, *first, *lookup;

    (void)state;
    second = ask_rank(1, 2, 0, 1, &id);
    lookup = ask_lookup(0, &id, 1, 2);
    assert_true(value_of(0, id) == 1.0f);
    assert_true(!second->done && !lookup->done);
    first = ask_rank(0, 1, 0, 1, &id);
    run(3);
    assert_true(first->applied.outcome == WIRE_APPLIED && second->applied.outcome == WIRE_APPLIED);
    assert_true(lookup->value[0] == 0.0f);
    third = ask_rank(3, 4, 0, 1, &id);
    lookup = ask_lookup(0, &id, 1, 4);
    assert_true(value_of(0, id) == 0.0f);
    assert_true(!third->done && !lookup->done);
    second = ask_rank(2, 3, 0, 1, &id);
    run(3);
    assert_true(second->applied.outcome == WIRE_APPLIED && third->applied.outcome == WIRE_APPLIED);
    assert_true(lookup->value[0] == -1.0f);
    assert_int_equal(ebs_owner_stats(bed.owner)->step, 4);
}

/* An owner that has come back with nothing does not wait for what all owners had before. */
static void an_empty_owner_is_told_where_to_begin(void **state)
{
    uint64_t id = pick(0, true);
    float grad[] = {1, 1};
    struct update late = {.batch_id = rt_batch_id(0, 9),
                          .step = 9,
                          .world = 1,
                          .synchronous = true,
                          .id = &id,
                          .grad = grad,
                          .n = 1},
                  next = late;
    struct answer *ninth = ask_update(&late), *tenth, *seen = ask_lookup(0, &id, 1, 8);

    (void)state;
    assert_true(value_of(0, id) == 1.0f);
    assert_true(!ninth->done && !seen->done);
    next.batch_id = rt_batch_id(0, 10);
    next.step = 10;
    next.applied_through = 8; /* the ninth is on its way still, and goes first */
    tenth = ask_update(&next);
    run(3);
    assert_int_equal(seen->err, 0);
    assert_true(seen->value[0] == 1.0f);
    assert_true(ninth->applied.outcome == WIRE_APPLIED && tenth->applied.outcome == WIRE_APPLIED);
    assert_true(value_of(0, id) == 0.0f);
    assert_int_equal(ebs_owner_stats(bed.owner)->step, 10);
}

/* What waits when the owner goes is answered or freed; ASan sees the rest. */
static void an_owner_goes_with_work_open(void **state)
{
    uint64_t id = pick(0, true);
    float grad[] = {1, 1};

    (void)state;
    ask_update(&(struct update){.parts = 2, .id = &id, .grad = grad, .n = 1});
    ask_update(&(struct update){.batch_id = 1,
                                .step = 4,
                                .world = 2,
                                .synchronous = true,
                                .id = &id,
                                .grad = grad,
                                .n = 1});
    ask_lookup(0, &id, 1, 4);
    assert_true(value_of(0, id) == 1.0f);
    assert_int_equal(ebs_owner_stats(bed.owner)->open, 2);
}

/* Without the network: an update over two tables, each allocation failing in turn, does not begin and changes
 * nothing, or is done but for gradients that found no room for their row, which are counted. */
static void no_memory_is_told_or_counted(void **state)
{
    uint64_t id[300];
    float grad[300], got[300];
    bool done = false;

    (void)state;
    for (int i = 0; i < 300; i++) {
        id[i] = (uint64_t)i * 977;
        grad[i] = -1.0f;
    }
    for (int merge = 0; merge < 2; merge++, done = false) {
        for (int64_t nth = 0; !done; nth++) {
            struct rt_table_conf job = {
                .name = "t", .dim = 1, .dtype = WIRE_F32, .init.kind = RT_INIT_CONSTANT};
            struct ebs_table_conf conf = {.job = &job, .shards = RT_SHARDS};
            struct ebs_table *table[2] = {NULL, NULL};
            float lr[2] = {1.0f, 1.0f};
            const uint64_t *ids[2] = {id, id + 100};
            const void *grads[2] = {grad, grad};
            uint32_t number[2] = {0, 1}, n_ids[2] = {100, 200};
            struct ebs_part part = {.m = {.learning_rate = 1.0,
                                          .world = 2,
                                          .n_tables = 2,
                                          .table = number,
                                          .n_ids = n_ids},
                                    .id = ids,
                                    .grad = grads};
            struct ebs_part *parts[2] = {&part, &part};
            struct ebs_applier applier = {.table = table, .lr = lr, .n_tables = 2};
            uint64_t applied = 0;
            int err;

            assert_int_equal(ebs_table_create(&conf, &table[0]), 0);
            assert_int_equal(ebs_table_create(&conf, &table[1]), 0);
            rt_fault_alloc(nth);
            err = ebs_apply_parts(&applier, parts, 2, merge, 0);
            done = !rt_fault_hit();
            rt_fault_alloc(-1);
            assert_true(err == 0 || (err == RT_ENOMEM && !done));
            for (int t = 0; t < 2; t++) {
                ebs_table_lookup(table[t], ids[t], n_ids[t], got);
                for (uint32_t i = 0; i < n_ids[t]; i++) {
                    assert_true(!done || got[i] == 2.0f);
                    applied += (uint64_t)got[i];
                }
                applied += (merge ? 2 : 1) * ebs_table_counts(table[t])->refused;
                ebs_table_destroy(table[t]);
            }
            assert_int_equal(applied, err ? 0 : 600);
            ebs_applier_release(&applier);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rows_are_read_and_changed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(requests_and_tables_are_counted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(answers_of_any_size, set_up, tear_down),
        cmocka_unit_test_setup_teardown(answers_of_any_size, set_up_tcp, tear_down_tcp),
        cmocka_unit_test_setup_teardown(a_late_batch_is_applied, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_repeat_changes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(wrong_requests_are_refused_by_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(parts_are_applied_together, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_cut_replaces_the_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_step_waits_for_all_ranks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_lost_asker_does_not_wait, set_up, tear_down),
        cmocka_unit_test_setup_teardown(empty_and_repeated_ranks_count, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_successor_takes_the_place, set_up, tear_down),
        cmocka_unit_test_setup_teardown(worlds_differ_from_step_to_step, set_up, tear_down),
        cmocka_unit_test_setup_teardown(steps_are_applied_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_empty_owner_is_told_where_to_begin, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_owner_goes_with_work_open, set_up, tear_down),
        cmocka_unit_test(no_memory_is_told_or_counted),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests_name("serve", tests, NULL, NULL);
}
