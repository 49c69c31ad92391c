/* tests/sim/middleware_batch.c -- batches of the middleware's world (middleware_world.h): what is asked with them, and the one plain array of
 * rows that what comes back is compared with. */
#include "tests/sim/middleware_world.h"

#include "middleware/compose.h"

#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/rand.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

const float mwt_scale[FEATURES] = {64, 0.25f};

uint64_t mwt_id(uint32_t place)
{
    return place == 0 ? 0 : place == 1 ? UINT64_MAX : rt_hash_id(place);
}

/* ---- batches ---- */

void mwt_make_payload(struct input *in)
{
    size_t end = 0, at[3];

    at[0] = rt_segment_put(&end, SAMPLES * 8);
    memset(in->payload, 0, sizeof(in->payload));
    for (uint32_t i = 0; i < SAMPLES; i++)
        ((uint64_t *)(void *)(in->payload + at[0]))[i] = mwt_id(in->place[0][i]);
    memcpy(in->payload + rt_segment_put(&end, SAMPLES * 4), in->length, SAMPLES * 4);
    at[1] = rt_segment_put(&end, in->n_ids[1] * 8);
    for (uint32_t i = 0; i < in->n_ids[1]; i++)
        ((uint64_t *)(void *)(in->payload + at[1]))[i] = mwt_id(in->place[1][i]);
    if (in->weighted) {
        at[2] = rt_segment_put(&end, in->n_ids[1] * 4);
        memcpy(in->payload + at[2], in->weight, in->n_ids[1] * 4);
    }
    in->size = end;
    in->digest = rt_hash_bytes(in->payload, end);
}

void mwt_make_input(struct input *in, uint64_t batch)
{
    uint64_t key = rt_draw_key(99, "input", NULL), at = batch * 1000;

    memset(in, 0, sizeof(*in));
    in->batch = batch;
    in->weighted = batch & 1;
    in->n_ids[0] = SAMPLES;
    for (uint32_t s = 0; s < SAMPLES; s++) {
        in->place[0][s] = (uint32_t)rt_below(rt_draw(key, at++), IDS);
        in->length[s] = (uint32_t)rt_below(rt_draw(key, at++), LIST_MAX + 1);
        for (uint32_t i = 0; i < in->length[s]; i++) {
            in->weight[in->n_ids[1]] = (float)rt_below(rt_draw(key, at++), 5) - 1;
            in->place[1][in->n_ids[1]++] = (uint32_t)rt_below(rt_draw(key, at++), IDS);
        }
        for (int f = 0; f < FEATURES; f++)
            for (int j = 0; j < DIM; j++)
                in->gradient[f][s][j] = (float)rt_below(rt_draw(key, at++), 9) - 4;
    }
    mwt_make_payload(in);
}

void mwt_put(struct world *w, const struct input *in, struct ask *ask)
{
    uint32_t layout[FEATURES] = {WIRE_LAYOUT_ONE, WIRE_LAYOUT_LENGTHS};
    uint8_t weighted[FEATURES] = {0, in->weighted};
    struct wire_put_batch m = {.samples = SAMPLES,
                               .evaluate = in->evaluate,
                               .digest = in->digest,
                               .n_features = FEATURES,
                               .n_ids = in->n_ids,
                               .layout = layout,
                               .weighted = in->weighted ? weighted : NULL,
                               .composer_incarnation = w->composer_incarnation,
                               .rank = in->rank,
                               .world = in->world,
                               .first = in->first};
    struct rt_piece piece = {in->payload, in->size, NULL};

    ask->payload = NULL;
    ask->err = wire_put_batch_pack(&m, &w->out);
    ask->ended = ask->err != 0;
    if (!ask->err)
        mwt_call(w, w->from_composer, WIRE_PUT_BATCH, in->batch, &piece, ask);
}

void mwt_lookup_step(struct world *w, const struct input *in, uint64_t step, struct ask *ask)
{
    struct wire_lookup_batch m = {step, SAMPLES, in->evaluate, in->digest};

    ask->payload = NULL;
    ask->err = wire_lookup_batch_pack(&m, &w->out);
    ask->ended = ask->err != 0;
    if (!ask->err)
        mwt_call(w, w->from_trainer, WIRE_LOOKUP_BATCH, in->batch, NULL, ask);
}

void mwt_lookup(struct world *w, const struct input *in, struct ask *ask)
{
    mwt_lookup_step(w, in, 0, ask);
}

static bool is_sequence(const struct world *w, int f)
{
    return w->job->feature[f].pooling == RT_POOL_NONE;
}

uint32_t mwt_distinct(const struct input *in, int f, uint32_t *place)
{
    uint32_t n = 0;

    for (uint32_t at = 0; at < in->n_ids[f]; at++) {
        uint32_t k = 0;

        while (k < n && place[k] != in->place[f][at])
            k++;
        if (k == n)
            place[n++] = in->place[f][at];
    }
    return n;
}

/* What a trainer sends of a feature; return: vectors. rows: 0 where it is pooled. */
static uint32_t make_gradients(const struct world *w, const struct input *in, int f,
                               float out[][DIM], uint32_t *rows)
{
    uint32_t place[SAMPLES * LIST_MAX];

    *rows = 0;
    memcpy(out, in->gradient[f], sizeof(in->gradient[f]));
    if (!is_sequence(w, f))
        return SAMPLES;
    *rows = mwt_distinct(in, f, place);
    memset(out, 0, *rows * sizeof(*out));
    for (uint32_t s = 0, at = 0; s < SAMPLES; s++)
        for (uint32_t end = at + (f ? in->length[s] : 1); at < end; at++) {
            uint32_t k = 0;

            while (place[k] != in->place[f][at])
                k++;
            for (int j = 0; j < DIM; j++)
                out[k][j] += in->gradient[f][s][j];
        }
    return *rows;
}

static void push(struct world *w, const struct input *in, uint64_t step, bool synchronous,
                 struct ask *ask)
{
    uint32_t dim[FEATURES] = {DIM, DIM}, dtype = w->job->global.wire.gradients;
    uint32_t rows[FEATURES], n[FEATURES];
    float gradient[FEATURES][SAMPLES * LIST_MAX][DIM];
    struct rt_buf *buf = rt_io_buf(sim_node(w->sim, NODE_T), sizeof(gradient) + 256);
    size_t end = 0, bytes = DIM * wire_dtype_size(dtype);
    struct wire_push_gradients m = {.step = step,
                                    .learning_rate = 1,
                                    .samples = SAMPLES,
                                    .digest = in->digest,
                                    .world = 1,
                                    .synchronous = synchronous,
                                    .dtype = dtype,
                                    .n_features = FEATURES,
                                    .dim = dim,
                                    .rows = rows,
                                    .scale = dtype == WIRE_F16 ? mwt_scale : NULL};

    ask->payload = NULL;
    for (int f = 0; f < FEATURES; f++)
        n[f] = make_gradients(w, in, f, gradient[f], &rows[f]);
    ask->err = buf ? wire_push_gradients_pack(&m, &w->out) : RT_EFULL;
    ask->ended = ask->err != 0;
    for (int f = 0; f < FEATURES && buf; f++)
        rt_narrow_scaled(dtype, m.scale ? m.scale[f] : 1, gradient[f][0],
                         buf->data + rt_segment_put(&end, n[f] * bytes), n[f] * DIM);
    if (!ask->err)
        mwt_call(w, w->from_trainer, WIRE_PUSH_GRADIENTS, in->batch,
                 &(struct rt_piece){buf->data, end, buf}, ask);
    rt_buf_unref(buf);
}

void mwt_push_as(struct world *w, const struct input *in, bool synchronous, struct ask *ask)
{
    push(w, in, 0, synchronous, ask);
}

void mwt_push_step(struct world *w, const struct input *in, uint64_t step, struct ask *ask)
{
    push(w, in, step, true, ask);
}

void mwt_push(struct world *w, const struct input *in, struct ask *ask)
{
    mwt_push_as(w, in, false, ask);
}

int mwt_do_put(struct world *w, const struct input *in)
{
    struct ask ask;

    mwt_put(w, in, &ask);
    return mwt_wait_for(w, &ask);
}

int mwt_do_push(struct world *w, const struct input *in)
{
    struct ask ask;

    mwt_push(w, in, &ask);
    return mwt_wait_for(w, &ask);
}

/* ---- the model ---- */

/* The rows that an id is the sum of. Return: how many. */
static uint32_t rows_of(const struct world *w, int f, uint32_t place,
                        uint64_t row[RT_HASH_FUNCTIONS_MAX])
{
    uint32_t table = w->job->feature[f].table, n = w->job->table[table].hash_functions;
    uint64_t id = mwt_id(place);

    row[0] = place;
    if (n)
        mw_compose_ids(w->job, table, &id, 1, row);
    return n ? n : 1;
}

static float model_value(const struct world *w, int f, uint32_t place, int j)
{
    uint64_t row[RT_HASH_FUNCTIONS_MAX];
    uint32_t n = rows_of(w, f, place, row);
    float sum = 0;

    for (uint32_t k = 0; k < n; k++)
        sum += w->model.row[w->job->feature[f].table][row[k]][j];
    return sum;
}

static void model_subtract(struct world *w, int f, uint32_t place, int j, float gradient)
{
    uint64_t row[RT_HASH_FUNCTIONS_MAX];
    uint32_t n = rows_of(w, f, place, row);

    for (uint32_t k = 0; k < n; k++)
        w->model.row[w->job->feature[f].table][row[k]][j] -= gradient;
}

static float scale_of(const struct world *w, int f, uint32_t n)
{
    return w->job->feature[f].pooling == RT_POOL_MEAN && n > 1 ? 1.0f / (float)n : 1.0f;
}

void mwt_model_push(struct world *w, const struct input *in)
{
    for (int f = 0; f < FEATURES; f++) {
        for (uint32_t s = 0, at = 0; s < SAMPLES; s++) {
            uint32_t n = f ? in->length[s] : 1;

            for (uint32_t end = at + n; at < end; at++)
                for (int j = 0; j < DIM; j++)
                    model_subtract(w, f, in->place[f][at], j,
                                   scale_of(w, f, n) * (f && in->weighted ? in->weight[at] : 1.0f) *
                                       in->gradient[f][s][j]);
        }
    }
}

void mwt_check_rows(const struct world *w)
{
    for (int t = 0; t < TABLES; t++)
        for (uint32_t i = 0; i < IDS; i++)
            for (int j = 0; j < DIM; j++) {
                float got =
                    w->owner[0].row[t][i][j] + w->owner[1].row[t][i][j]; /* one of them is 0 */

                if (fabsf(got - w->model.row[t][i][j]) > 1e-3f)
                    fail_msg("table %d id %u column %d: %g, expected %g", t, i, j, (double)got,
                             (double)w->model.row[t][i][j]);
            }
}

/* Of a sequence: each place has its row, and each row is sent once. */
static void check_sequence(const struct world *w, const struct input *in, int f,
                           struct rt_segments *seg)
{
    uint32_t dtype = w->job->global.wire.embeddings, place[SAMPLES * LIST_MAX];
    uint32_t n = mwt_distinct(in, f, place);
    float got[SAMPLES * LIST_MAX][DIM];
    const void *narrow = NULL, *index = NULL, *length = NULL;

    assert_int_equal(rt_segment_take(seg, n * DIM, wire_dtype_size(dtype), &narrow), 0);
    assert_int_equal(rt_segment_take(seg, in->n_ids[f], 4, &index), 0);
    assert_int_equal(rt_segment_take(seg, SAMPLES, 4, &length), 0);
    rt_widen(dtype, narrow, got[0], n * DIM);
    for (uint32_t s = 0; s < SAMPLES; s++)
        assert_int_equal(((const uint32_t *)length)[s], f ? in->length[s] : 1);
    for (uint32_t at = 0; at < in->n_ids[f]; at++) {
        uint32_t k = ((const uint32_t *)index)[at];

        assert_true(k < n);
        assert_int_equal(place[k], in->place[f][at]); /* in order of first occurrence */
        for (int j = 0; j < DIM; j++)
            if (fabsf(got[k][j] - model_value(w, f, place[k], j)) > 1e-3f)
                fail_msg("feature %d place %u column %d: %g, expected %g", f, at, j,
                         (double)got[k][j], (double)model_value(w, f, place[k], j));
    }
}

/* The reply's embeddings are those of the model's rows. */
void mwt_check_embeddings(const struct world *w, const struct input *in, const struct ask *ask)
{
    struct rt_segments seg = rt_segments_of(ask->payload);
    uint32_t dtype = w->job->global.wire.embeddings;
    float got[SAMPLES * DIM];

    for (int f = 0; f < FEATURES; f++) {
        const void *narrow = NULL;

        if (is_sequence(w, f)) {
            check_sequence(w, in, f, &seg);
            continue;
        }
        assert_int_equal(rt_segment_take(&seg, SAMPLES * DIM, wire_dtype_size(dtype), &narrow), 0);
        rt_widen(dtype, narrow, got, SAMPLES * DIM);
        for (uint32_t s = 0, at = 0; s < SAMPLES; s++) {
            uint32_t n = f ? in->length[s] : 1;
            float want[DIM] = {0};

            for (uint32_t end = at + n; at < end; at++)
                for (int j = 0; j < DIM; j++)
                    want[j] += scale_of(w, f, n) * (f && in->weighted ? in->weight[at] : 1.0f) *
                               model_value(w, f, in->place[f][at], j);
            for (int j = 0; j < DIM; j++)
                if (fabsf(got[s * DIM + (uint32_t)j] - want[j]) > 1e-3f)
                    fail_msg("feature %d sample %u column %d: %g, expected %g", f, s, j,
                             (double)got[s * DIM + (uint32_t)j], (double)want[j]);
        }
    }
    assert_int_equal(rt_segments_end(&seg), 0);
}

int mwt_do_lookup(struct world *w, const struct input *in)
{
    struct ask ask;
    int err;

    mwt_lookup(w, in, &ask);
    err = mwt_wait_for(w, &ask);
    if (!err)
        mwt_check_embeddings(w, in, &ask);
    rt_buf_unref(ask.payload);
    return err;
}
