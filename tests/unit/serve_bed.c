/* tests/unit/serve_bed.c -- serve_bed.h. Requests are pipelined: each has a place of its own for its answer, taken in
 * turns. */
#include "tests/unit/serve_bed.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define ANSWERS 8u

static const struct rt_table_conf tables[] = {
    {.name = "users",
     .dim = SERVE_DIM,
     .init = {.kind = RT_INIT_CONSTANT, .value = 1.0},
     .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.5}},
    {.name = "items \"x\"",
     .dim = 1,
     .init = {.kind = RT_INIT_CONSTANT, .value = 0.0},
     .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 1.0, .eps = 1e-10}},
};

static const struct rt_job job = {.n_tables = ARRAY_LEN(tables), .table = tables, .global.seed = 1};

struct owner_bed serve;
static struct serve_answer answers[ANSWERS];
static unsigned asked;
static int wanted; /* answers, before the loop stops */

static int set_up(size_t parts_bytes)
{
    memset(answers, 0, sizeof(answers));
    asked = 0;
    wanted = 0;
    owner_bed_open(&serve,
                   &(struct owner_bed_conf){.job = &job, .owners = 2, .parts_bytes = parts_bytes});
    owner_bed_connect(&serve, 0);
    return 0;
}

int serve_set_up(void **state)
{
    (void)state;
    return set_up(0);
}

int serve_set_up_narrow(void **state)
{
    (void)state;
    return set_up(1);
}

void serve_reconnect(void)
{
    wanted = 0;
    owner_bed_connect(&serve, 0);
    wanted = 0;
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
    const struct ebs_owner_stats *s = ebs_owner_stats(serve.owner);
    uint64_t rows = 0, live = 0, memory = 0;

    assert_int_equal(observed(&s->lookup_rows), s->lookups);
    assert_int_equal(observed(&s->lookup_seconds), s->lookups);
    assert_int_equal(s->lookup_rows.sum, s->rows_looked_up);
    assert_true(observed(&s->apply_rows) >= s->updates);
    assert_true(observed(&s->apply_seconds) <= observed(&s->apply_rows));
    assert_true(s->apply_rows.sum >= s->rows_applied + s->rows_nonfinite);
    for (uint32_t t = 0; t < job.n_tables; t++) {
        const struct ebs_table_stats *table = ebs_owner_table_stats(serve.owner, t);

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

int serve_tear_down(void **state)
{
    (void)state;
    check_numbers();
    owner_bed_close(&serve);
    return 0;
}

/* ---- asking ---- */

static void on_answer(void *arg, int err, const struct rt_frame *reply)
{
    struct serve_answer *answer = arg;
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
    if (--wanted == 0)
        rt_loop_stop(serve.loop);
}

/* Wait for n answers more. */
void serve_run(int n)
{
    wanted += n;
    if (wanted > 0)
        rt_loop_run(serve.loop);
}
struct serve_answer *serve_ask(uint16_t method, uint64_t batch_id, struct wire_out *message,
                               const struct rt_piece *pieces, size_t n_pieces)
{
    struct serve_answer *answer = &answers[asked++ % ANSWERS];

    *answer = (struct serve_answer){.method = method};
    owner_bed_ask(&serve, 0, method, batch_id, message, pieces, n_pieces, on_answer, answer);
    return answer;
}

/* One lookup of n ids of one table, as a middleware would send it but for what `edit` changes. */
struct serve_answer *serve_look_up(uint32_t table, const uint64_t *id, uint32_t n, uint64_t step)
{
    struct wire_lookup_rows m = {.shard_map = serve.shards.version,
                                 .step = step,
                                 .n_tables = 1,
                                 .table = &table,
                                 .n_ids = &n};
    struct rt_piece piece = owner_bed_piece(&serve, id, n * sizeof(*id));
    struct wire_out out = {0};

    assert_int_equal(wire_lookup_rows_pack(&m, &out), 0);
    return serve_ask(WIRE_LOOKUP_ROWS, 0, &out, &piece, 1);
}

struct serve_answer *serve_send(const struct serve_update *u)
{
    struct wire_apply_gradients m = {.shard_map = serve.shards.version,
                                     .part = u->part,
                                     .parts = u->parts ? u->parts : 1,
                                     .step = u->step,
                                     .attempt = u->attempt,
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

    assert_int_equal(wire_apply_gradients_pack(&m, &out), 0);
    if (u->n == 0)
        return serve_ask(WIRE_APPLY_GRADIENTS, u->batch_id, &out, NULL, 0);
    piece[0] = owner_bed_piece(&serve, u->id, u->n * sizeof(*u->id));
    piece[1] = owner_bed_piece(&serve, u->grad, u->n * tables[u->table].dim * sizeof(float));
    return serve_ask(WIRE_APPLY_GRADIENTS, u->batch_id, &out, piece, 2);
}

/* The k-th small integer whose shard is (not) in the lower half. */
uint64_t serve_pick(int k, bool ours)
{
    for (uint64_t id = 0;; id++)
        if ((rt_shard_of(id) < RT_SHARDS / 2) == ours && k-- == 0)
            return id;
}

float serve_value(uint32_t table, uint64_t id)
{
    struct serve_answer *answer = serve_look_up(table, &id, 1, 0);

    serve_run(1);
    assert_int_equal(answer->err, 0);
    return answer->value[0];
}
