/* tests/sim/test_gradient.c -- the gradient of each row, as it arrives at its owner, against differences of the loss.
 *
 * A batch is put, looked up and scored by a real model through a real middleware and scripted owners, whose rows are moved a
 * little, one number at a time; then it is trained, and what the owners take away must be those slopes. So whatever lies
 * between a row and the loss, pooled, as a sequence, hashed, of a shared table, one owner or two, is seen as one. */
#include "tests/sim/middleware_world.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define STEP   0.02f
#define WITHIN 2e-3 /* slopes are up to 3 */

enum { SET_MAX = 4 };

struct bed {
    struct world world;
    struct input in;
    struct tr_model *model;
    float labels[SAMPLES];
    uint32_t n[FEATURES]; /* vectors of a feature: samples, or rows of a sequence */
    float gradient[FEATURES][SAMPLES * LIST_MAX][DIM];
};

static bool is_sequence(const struct bed *bed, int f)
{
    return rt_feature_is_sequence(bed->world.job, (uint32_t)f);
}

/* Products of the two features; each by itself, place by place where it has places. */
static struct tr_model *make_model(const struct bed *bed)
{
    static const char *const feature[] = {"user", "item"}, *const label[] = {"y"};
    static const char *const wide[] = {"d", "user", "item"}, *const all[] = {"all"};
    static const char *const logit[] = {"l"}, *const one[] = {"1"};
    const uint32_t dim[] = {DIM, DIM};
    uint32_t length[FEATURES];
    struct tr_model_inputs inputs = {.feature = feature,
                                     .feature_dim = dim,
                                     .feature_length = length,
                                     .n_features = FEATURES,
                                     .label = label,
                                     .n_labels = 1};
    struct tr_model_conf conf = {.seed = 5, .samples_max = SAMPLES, .threads = 1};
    struct tr_spec *spec = NULL;
    struct tr_model *model = NULL;
    const char *dots[FEATURES];

    assert_int_equal(tr_spec_create("t.yml", &spec), 0);
    for (int f = 0; f < FEATURES; f++) {
        char mask[16], name[16];

        length[f] = is_sequence(bed, f) ? LIST_MAX : 0;
        dots[f] = f ? "p1" : "p0";
        snprintf(mask, sizeof(mask), "%s.mask", feature[f]);
        snprintf(name, sizeof(name), "p%d", f);
        assert_int_equal(tr_spec_layer(spec, name, length[f] ? "masked_pool" : "concat",
                                       (const char *[]){feature[f], mask}, length[f] ? 2 : 1, "1"),
                         0);
    }
    assert_int_equal(tr_spec_layer(spec, "d", "dot_interaction", dots, 2, "2"), 0);
    assert_int_equal(tr_spec_layer(spec, "all", "concat", wide, 3, "3"), 0);
    assert_int_equal(tr_spec_layer(spec, "l", "mlp", all, 1, "4"), 0);
    assert_int_equal(tr_spec_option(spec, "sizes", one, 1, "4"), 0);
    assert_int_equal(tr_spec_layer(spec, "loss", "bce", logit, 1, "5"), 0);
    if (tr_model_create(spec, &inputs, &conf, &model) != 0)
        fail_msg("%s", rt_err_text());
    tr_spec_destroy(spec);
    return model;
}

/* Look the batch up, and forward; or, `train`, backward too. */
static double loss_of(struct bed *bed, bool train)
{
    struct ask ask;
    const void *feature[FEATURES], *index = NULL, *length = NULL;
    struct tr_sequence_view sequence[FEATURES];
    struct tr_feature_grad to[FEATURES];
    struct tr_forward_out out = {0};
    struct tr_batch_view view = {
        .samples = SAMPLES, .feature = feature, .sequence = sequence, .labels = bed->labels};
    struct rt_segments seg;

    mwt_lookup(&bed->world, &bed->in, &ask);
    assert_int_equal(mwt_wait_for(&bed->world, &ask), 0);
    seg = rt_segments_of(ask.payload);
    for (int f = 0; f < FEATURES; f++) {
        uint32_t place[SAMPLES * LIST_MAX];

        bed->n[f] = is_sequence(bed, f) ? mwt_distinct(&bed->in, f, place) : SAMPLES;
        assert_int_equal(rt_segment_take(&seg, bed->n[f] * DIM, sizeof(float), &feature[f]), 0);
        if (is_sequence(bed, f)) {
            assert_int_equal(rt_segment_take(&seg, bed->in.n_ids[f], 4, &index), 0);
            assert_int_equal(rt_segment_take(&seg, SAMPLES, 4, &length), 0);
            sequence[f] = (struct tr_sequence_view){index, length, bed->n[f]};
        }
        to[f].out = bed->gradient[f];
    }
    assert_int_equal(rt_segments_end(&seg), 0);
    assert_int_equal(train ? tr_model_train(bed->model, &view, 1, to, &out)
                           : tr_model_forward(bed->model, &view, &out),
                     0);
    rt_buf_unref(ask.payload);
    return out.loss_sum;
}

static void push(struct bed *bed)
{
    struct world *w = &bed->world;
    uint32_t dim[FEATURES] = {DIM, DIM}, rows[FEATURES];
    struct rt_buf *buf = rt_io_buf(sim_node(w->sim, NODE_T), sizeof(bed->gradient) + 256);
    struct wire_push_gradients m = {.learning_rate = 1,
                                    .samples = SAMPLES,
                                    .digest = bed->in.digest,
                                    .world = 1,
                                    .n_features = FEATURES,
                                    .dim = dim,
                                    .rows = rows};
    size_t end = 0;
    struct ask ask;

    for (int f = 0; f < FEATURES; f++) {
        size_t bytes = bed->n[f] * DIM * sizeof(float);

        rows[f] = is_sequence(bed, f) ? bed->n[f] : 0;
        memcpy(buf->data + rt_segment_put(&end, bytes), bed->gradient[f], bytes);
    }
    assert_int_equal(wire_push_gradients_pack(&m, &w->out), 0);
    mwt_call(w, w->from_trainer, WIRE_PUSH_GRADIENTS, bed->in.batch,
             &(struct rt_piece){buf->data, end, buf}, &ask);
    rt_buf_unref(buf);
    assert_int_equal(mwt_wait_for(w, &ask), 0);
}

/* A number of a row, wherever the row is. */
static void set_number(struct world *w, int t, uint32_t row, int j, float value)
{
    for (unsigned k = 0; k < w->owners; k++)
        w->owner[k].row[t][row][j] = value;
}

static void check(const char *name, struct bed *bed)
{
    static float slope[TABLES][IDS][DIM], before[TABLES][IDS][DIM];
    struct world *w = &bed->world;
    double largest = 0;

    for (int t = 0; t < TABLES; t++)
        for (uint32_t i = 0; i < IDS; i++)
            for (int j = 0; j < DIM; j++)
                set_number(
                    w, t, i, j,
                    rt_normal_f32(rt_draw(3, (uint64_t)(t * IDS * DIM + j) + i * (uint64_t)DIM)));
    memcpy(before, w->owner[0].row, sizeof(before));
    for (int t = 0; t < TABLES; t++)
        for (uint32_t i = 0; i < IDS; i++)
            for (int j = 0; j < DIM; j++) {
                double at[2];

                for (int side = 0; side < 2; side++) {
                    set_number(w, t, i, j, before[t][i][j] + (side ? STEP : -STEP));
                    at[side] = loss_of(bed, false);
                }
                set_number(w, t, i, j, before[t][i][j]);
                slope[t][i][j] = (float)((at[1] - at[0]) / (2 * (double)STEP));
            }
    loss_of(bed, true);
    push(bed);
    for (int t = 0; t < TABLES; t++)
        for (uint32_t i = 0; i < IDS; i++)
            for (int j = 0; j < DIM; j++) {
                double got = 0, want = slope[t][i][j];

                for (unsigned k = 0; k < w->owners; k++)
                    got += (double)before[t][i][j] - (double)w->owner[k].row[t][i][j];
                largest = fmax(largest, fabs(want));
                if (fabs(got - want) > WITHIN)
                    fail_msg("%s, %u owners, table %d row %u column %d: %g, expected %g", name,
                             w->owners, t, i, j, got, want);
            }
    assert_true(largest > 0.1); /* there was something to see */
}

static void slopes(void **state)
{
    static const struct {
        const char *name, *set[SET_MAX];
    } row[] = {
        {"sum", {"embedding.features.item.pooling=sum"}},
        {"mean", {NULL}},
        {"none", {"embedding.features.item.pooling=none"}},
        {"none, both of one table",
         {"embedding.features.item.pooling=none", "embedding.features.user.pooling=none",
          "embedding.features.item.table=user"}},
        {"hashed, sum",
         {"embedding.features.item.pooling=sum",
          "embedding.tables.item.hash={functions: 3, rows: 13}"}},
        {"hashed, none",
         {"embedding.features.item.pooling=none",
          "embedding.tables.item.hash={functions: 2, rows: 7}",
          "embedding.tables.user.hash={functions: 2, rows: 30}"}},
        {"hashed, both of one table",
         {"embedding.features.item.pooling=none", "embedding.features.item.table=user",
          "embedding.tables.user.hash={functions: 4, rows: 9}"}},
    };
    static struct bed bed;

    (void)state;
    for (size_t r = 0; r < ARRAY_LEN(row); r++)
        for (unsigned owners = 1; owners <= OWNERS; owners++) {
            size_t n_set = 0;

            while (n_set < SET_MAX && row[r].set[n_set])
                n_set++;
            mwt_start_with(&bed.world, owners, row[r].set, n_set);
            mwt_make_input(&bed.in, 2);
            for (int s = 0; s < SAMPLES; s++)
                bed.labels[s] = (float)(s % 3 == 0);
            bed.model = make_model(&bed);
            assert_int_equal(mwt_do_put(&bed.world, &bed.in), 0);
            check(row[r].name, &bed);
            tr_model_destroy(bed.model);
            mwt_stop(&bed.world);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(slopes)};

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests_name("gradient", tests, NULL, NULL);
}
