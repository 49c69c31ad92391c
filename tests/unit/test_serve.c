/* tests/unit/test_serve.c -- one request to an owner: what it reads and changes, what it counts, what it refuses. */
#include "embedding_server/apply.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/job/batch_id.h"
#include "runtime/net/near.h"
#include "tests/unit/serve_bed.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static void rows_are_read_and_changed(void **state)
{
    uint64_t id[] = {serve_pick(0, true), serve_pick(1, true), serve_pick(2, true)};
    float grad[] = {1, 2, 3, 4, NAN, 6};
    struct serve_answer *answer = serve_look_up(0, id, 3, 0);

    (void)state;
    serve_run(1);
    assert_int_equal(answer->err, 0);
    assert_int_equal(ebs_owner_stats(serve.owner)->rows_found, 0);
    for (int i = 0; i < 6; i++)
        assert_true(answer->value[i] == 1.0f);

    answer = serve_send(&(struct serve_update){
        .batch_id = rt_batch_id(3, 9), .table = 0, .id = id, .grad = grad, .n = 3, .factor = 0.5});
    serve_run(1);
    assert_int_equal(answer->err, 0);
    assert_int_equal(answer->applied.outcome, WIRE_APPLIED);
    assert_int_equal(answer->applied.rows_applied, 2);
    assert_int_equal(answer->applied.rows_nonfinite, 1);

    answer = serve_look_up(0, id, 3, 0);
    serve_run(1);
    assert_int_equal(ebs_owner_stats(serve.owner)->rows_found, 2);
    for (int i = 0; i < 6; i++) /* learning rate 0.5 x factor 0.5 */
        assert_true(answer->value[i] == (i < 4 ? 1.0f - 0.25f * grad[i] : 1.0f));
    assert_int_equal(ebs_owner_stats(serve.owner)->rows, 2);
    assert_int_equal(ebs_owner_stats(serve.owner)->rows_nonfinite, 1);
    assert_int_equal(ebs_owner_table_stats(serve.owner, 0)->nonfinite, 1);
    assert_int_equal(ebs_owner_table_stats(serve.owner, 1)->nonfinite, 0);
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
    uint64_t id[] = {serve_pick(0, true), serve_pick(1, true), serve_pick(2, true)};
    float grad[] = {1, 2, 3, 4, 5, 6};
    struct rt_metrics *metrics = rt_metrics_create();
    struct rt_strbuf page;

    (void)state;
    ebs_owner_register(serve.owner, metrics);
    serve_send(&(struct serve_update){.batch_id = 0, .table = 0, .id = id, .grad = grad, .n = 3});
    serve_send(&(struct serve_update){.batch_id = 1, .table = 1, .id = id, .grad = grad, .n = 2});
    serve_send(&(struct serve_update){.batch_id = 1, .table = 1, .id = id, .grad = grad, .n = 2});
    serve_look_up(0, id, 3, 0);
    serve_look_up(9, id, 3, 0); /* refused: there is no such table */
    serve_look_up(1, id, 1, 0);
    serve_run(6);
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
    rt_loop_stop(serve.loop);
}

/* The first n[t] of the ids, of both tables. */
static void ask_both(const uint64_t *id, const uint32_t n[2])
{
    static const uint32_t table[2] = {0, 1};
    struct wire_lookup_rows m = {
        .shard_map = serve.shards.version, .n_tables = 2, .table = table, .n_ids = n};
    struct rt_piece piece[2] = {owner_bed_piece(&serve, id, n[0] * sizeof(*id)),
                                owner_bed_piece(&serve, id, n[1] * sizeof(*id))};
    struct wire_out out = {0};

    assert_int_equal(wire_lookup_rows_pack(&m, &out), 0);
    owner_bed_ask(&serve, 0, WIRE_LOOKUP_ROWS, 0, &out, piece, 2, on_large, NULL);
    rt_loop_run(serve.loop);
}

/* Every other row exists, and no two of those are the same. */
static void answers_of_any_size(void **state)
{
    static const uint32_t n[][2] = {{1, 1}, {MANY, MANY}, {5, MANY}, {MANY, 3}, {32768, 65}};
    static uint64_t id[MANY], half[MANY / 2];
    static float grad[MANY / 2 * SERVE_DIM];
    const struct ebs_owner_stats *stats = ebs_owner_stats(serve.owner);
    uint64_t found = 0;

    (void)state;
    for (uint64_t k = 0, next = 0; k < MANY; next++)
        if (rt_shard_of(next) < RT_SHARDS / 2)
            id[k++] = next;
    for (int k = 0; k < MANY / 2; k++) {
        half[k] = id[2 * k + 1];
        grad[k * SERVE_DIM] = (float)k + 1;
        grad[k * SERVE_DIM + 1] = (float)-k;
    }
    serve_send(&(struct serve_update){.id = half, .grad = grad, .n = MANY / 2});
    serve_run(1);
    for (size_t i = 0; i < ARRAY_LEN(n); i++) {
        size_t at = ((size_t)n[i][0] * SERVE_DIM * sizeof(float) + 63) / 64 * 64;
        const float *user, *item;

        ask_both(id, n[i]);
        assert_int_equal(large->size, at + n[i][1] * sizeof(float));
        user = (const float *)(void *)large->data;
        item = (const float *)(void *)(large->data + at);
        for (size_t k = 0; k < n[i][0] * SERVE_DIM; k++)
            assert_true(user[k] ==
                        (k / SERVE_DIM % 2
                             ? 1 - 0.5f * grad[k / SERVE_DIM / 2 * SERVE_DIM + k % SERVE_DIM]
                             : 1));
        for (size_t k = n[i][0] * SERVE_DIM; k < at / sizeof(float); k++)
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
    return serve_set_up(state);
}

static int tear_down_tcp(void **state)
{
    rt_near_set(true);
    return serve_tear_down(state);
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
    uint64_t ours = serve_pick(0, true), foreign = serve_pick(0, false),
             id[4] = {ours, ours, ours, ours};
    float grad[8] = {1, 1};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint32_t table = row[i].what == NO_TABLE ? 7 : 0, n = 1;
        uint64_t map = serve.shards.version + (row[i].what == OTHER_MAP);
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
        struct serve_answer *answer;

        id[0] = row[i].what == FOREIGN ? foreign : ours;
        piece[0] = owner_bed_piece(&serve, id, row[i].update ? 8 : ids);
        if (row[i].update)
            piece[1] = owner_bed_piece(&serve, grad,
                                       row[i].what == SHORT  ? 4
                                       : row[i].what == LONG ? 12
                                                             : 8);
        assert_int_equal(row[i].update ? wire_apply_gradients_pack(&a, &out)
                                       : wire_lookup_rows_pack(&l, &out),
                         0);
        answer = serve_ask(row[i].update ? WIRE_APPLY_GRADIENTS : WIRE_LOOKUP_ROWS,
                           rt_batch_id(row[i].what == EVALUATION ? RT_SPLIT_EVALUATE : 0, 1), &out,
                           piece, row[i].update ? 2 : 1);
        serve_run(1);
        if (answer->err != row[i].err || !strstr(answer->text, row[i].word))
            fail_msg("row %zu: err %d (%s), want %d naming '%s'", i, answer->err, answer->text,
                     row[i].err, row[i].word);
    }
    assert_true(rt_peer_is_up(serve.asker[0].peer));
    assert_int_equal(ebs_owner_stats(serve.owner)->rows, 0);
    assert_true(serve_value(0, ours) == 1.0f);
}

/* One row of a table of this optimizer after updates of gradient 1, each with its factor on the learning rate. */
static float row_after(uint32_t kind, const double *factor, size_t n)
{
    struct rt_table_conf job = {.name = "t",
                                .dim = 1,
                                .dtype = WIRE_F32,
                                .optimizer = {.kind = kind, .ftrl_beta = 1.0, .l1 = 0.01},
                                .init.kind = RT_INIT_CONSTANT};
    struct ebs_table_conf conf = {.job = &job, .shards = RT_SHARDS};
    struct ebs_table *table = NULL;
    uint64_t id = 7;
    float grad = 1.0f, lr = 0.5f, got;
    const uint64_t *ids = &id;
    const void *grads = &grad;
    uint32_t number = 0, n_ids = 1;

    assert_int_equal(ebs_table_create(&conf, &table), 0);
    for (size_t i = 0; i < n; i++) {
        struct ebs_part part = {.m = {.learning_rate = factor[i],
                                      .world = 1,
                                      .step = i + 1,
                                      .n_tables = 1,
                                      .table = &number,
                                      .n_ids = &n_ids},
                                .id = &ids,
                                .grad = &grads};
        struct ebs_part *parts = &part;
        struct ebs_applier applier = {.table = &table, .lr = &lr, .n_tables = 1};

        assert_int_equal(ebs_apply_parts(&applier, &parts, 1, false, 0), 0);
        ebs_applier_release(&applier);
    }
    ebs_table_lookup(table, &id, 1, &got);
    ebs_table_destroy(table);
    return got;
}

/* FTRL's state is worth something with one learning rate only: of a factor it takes 0 and no other. */
static void ftrl_keeps_its_learning_rate(void **state)
{
    static const double constant[] = {1, 1, 1, 1}, changing[] = {0.001, 0.5, 1, 0.01},
                        stopped[] = {0, 0.5, 1, 0.01, 0, 0, 1};

    (void)state;
    assert_true(row_after(RT_OPT_FTRL, constant, 4) < 0.0f);
    assert_true(row_after(RT_OPT_FTRL, changing, 4) == row_after(RT_OPT_FTRL, constant, 4));
    assert_true(row_after(RT_OPT_FTRL, stopped, 7) == row_after(RT_OPT_FTRL, constant, 4));
    assert_true(row_after(RT_OPT_SGD, changing, 4) > row_after(RT_OPT_SGD, constant, 4));
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
        cmocka_unit_test_setup_teardown(rows_are_read_and_changed, serve_set_up, serve_tear_down),
        cmocka_unit_test_setup_teardown(requests_and_tables_are_counted, serve_set_up,
                                        serve_tear_down),
        cmocka_unit_test_setup_teardown(answers_of_any_size, serve_set_up, serve_tear_down),
        cmocka_unit_test_setup_teardown(answers_of_any_size, set_up_tcp, tear_down_tcp),
        cmocka_unit_test_setup_teardown(wrong_requests_are_refused_by_name, serve_set_up,
                                        serve_tear_down),
        cmocka_unit_test(ftrl_keeps_its_learning_rate),
        cmocka_unit_test(no_memory_is_told_or_counted),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests_name("serve", tests, NULL, NULL);
}
