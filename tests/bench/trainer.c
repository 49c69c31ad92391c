/* tests/bench/trainer.c -- CPU time of the dense step at the size of configs/bench, in all and by part.
 *
 * DLRM: 13 dense columns, 26 features of dim 16, bottom 64-16, top 256-128-1, batches of 4096, Adam;
 * one thread. A few batches are used in turn, laid out as they arrive and leave in a job: one buffer of
 * all embeddings, one of all gradients. Parts are told apart by a table of operations that times
 * the real ones; what is left is the finite check, copies, and the model's own book-keeping.
 *
 * The limit of the step is the work of its matrix products at the best rate that the largest of them
 * reaches here in this run; no product can be left out, and all the rest comes on top. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/lib/bench.h"
#include "trainer/model/build.h"
#include "trainer/model/spec.h"
#include "trainer/optimizer.h"

enum { SAMPLES = 4096, FEATURES = 26, DIM = 16, DENSE = 13, BATCHES = 4, STEPS = 24, ROUNDS = 5 };

static const uint32_t bottom[] = {64, 16}, top[] = {256, 128, 1};

/* ---- the model ---- */

static void must(int err)
{
    if (err) {
        fprintf(stderr, "%s\n", rt_err_text());
        exit(1);
    }
}

static void add_layer(struct tr_spec *spec, const char *name, const char *type, const char *in0,
                      const char *in1)
{
    const char *const inputs[] = {in0, in1};
    must(tr_spec_layer(spec, name, type, inputs, in1 ? 2 : 1, "bench"));
}

static void add_sizes(struct tr_spec *spec, const uint32_t *size, uint32_t n)
{
    char text[4][16];
    const char *word[4];
    for (uint32_t i = 0; i < n; i++) {
        snprintf(text[i], sizeof text[i], "%u", size[i]);
        word[i] = text[i];
    }
    must(tr_spec_option(spec, "sizes", word, n, "bench"));
}

static struct tr_spec *dlrm(void)
{
    static const char *const relu[] = {"relu"};
    struct tr_spec *spec = NULL;
    must(tr_spec_create("bench", &spec));
    add_layer(spec, "bottom", "mlp", "dense", NULL);
    add_sizes(spec, bottom, ARRAY_LEN(bottom));
    must(tr_spec_option(spec, "last", relu, 1, "bench"));
    add_layer(spec, "dots", "dot_interaction", "bottom", "features");
    add_layer(spec, "both", "concat", "bottom", "dots");
    add_layer(spec, "logit", "mlp", "both", NULL);
    add_sizes(spec, top, ARRAY_LEN(top));
    add_layer(spec, "loss", "bce", "logit", NULL);
    return spec;
}

static struct tr_model *make_model(void)
{
    static char text[FEATURES + DENSE][8];
    const char *name[FEATURES + DENSE], *label[] = {"label"};
    uint32_t dim[FEATURES];
    for (uint32_t i = 0; i < FEATURES + DENSE; i++) {
        snprintf(text[i], sizeof text[i], "n%u", i);
        name[i] = text[i];
        dim[i % FEATURES] = DIM;
    }
    struct tr_model_inputs inputs = {.dense = name + FEATURES,
                                     .n_dense = DENSE,
                                     .feature = name,
                                     .feature_dim = dim,
                                     .n_features = FEATURES,
                                     .label = label,
                                     .n_labels = 1};
    struct tr_model_conf conf = {.seed = 1, .samples_max = SAMPLES, .threads = 1};
    struct tr_spec *spec = dlrm();
    struct tr_model *model = NULL;
    must(tr_model_create(spec, &inputs, &conf, &model));
    tr_spec_destroy(spec);
    return model;
}

/* ---- batches ---- */

struct batch {
    float *dense, *embeddings, *labels, *gradients;
    const void *feature[FEATURES];
    struct tr_feature_grad feature_grad[FEATURES];
    struct tr_batch_view view;
};

static float *draw(size_t n, uint64_t seed, float scale)
{
    float *value = rt_xaligned(n * sizeof *value);
    for (size_t i = 0; i < n; i++)
        value[i] = scale * rt_normal_f32(rt_draw(seed, i));
    return value;
}

static void batch_init(struct batch *batch, uint64_t seed)
{
    size_t floats = (size_t)SAMPLES * DIM;
    batch->dense = draw((size_t)SAMPLES * DENSE, seed, 1);
    batch->embeddings = draw(FEATURES * floats, seed + 1, 0.1f);
    batch->gradients = draw(FEATURES * floats, seed + 2, 0);
    batch->labels = draw(SAMPLES, seed + 3, 1);
    for (uint32_t s = 0; s < SAMPLES; s++)
        batch->labels[s] = batch->labels[s] > 0;
    for (uint32_t f = 0; f < FEATURES; f++) {
        batch->feature[f] = batch->embeddings + f * floats;
        batch->feature_grad[f].out = batch->gradients + f * floats;
    }
    batch->view = (struct tr_batch_view){.samples = SAMPLES,
                                         .dense = batch->dense,
                                         .feature = batch->feature,
                                         .labels = batch->labels};
}

static void batch_release(struct batch *batch)
{
    rt_free(batch->dense);
    rt_free(batch->embeddings);
    rt_free(batch->labels);
    rt_free(batch->gradients);
}

/* ---- operations that are timed ---- */

enum { LINEAR_FORWARD, LINEAR_BACKWARD, RELU_BACKWARD, DOT_FORWARD, DOT_BACKWARD, LOSS, N_PARTS };

static const char *const part_name[N_PARTS] = {
    "linear forward",          "linear backward",          "relu backward",
    "dot interaction forward", "dot interaction backward", "loss"};
static uint64_t part_ns[N_PARTS];
static const struct tr_backend_ops *real;

#define TIMED(name, part, type)                                                                    \
    static int timed_##name(struct tr_backend *backend, type *op)                                  \
    {                                                                                              \
        uint64_t begin = bench_cpu_ns();                                                           \
        int err = real->name(backend, op);                                                         \
        part_ns[part] += bench_cpu_ns() - begin;                                                   \
        return err;                                                                                \
    }
TIMED(linear_forward, LINEAR_FORWARD, const struct tr_linear)
TIMED(linear_backward, LINEAR_BACKWARD, const struct tr_linear_grad)
TIMED(dot_forward, DOT_FORWARD, const struct tr_dot)
TIMED(dot_backward, DOT_BACKWARD, const struct tr_dot_grad)
TIMED(bce_forward, LOSS, struct tr_bce)
TIMED(bce_backward, LOSS, const struct tr_bce_grad)

static struct tr_backend_loops timed_loops;
static const struct tr_backend_loops *real_loops;

static int timed_act_backward(struct tr_backend *backend, const struct tr_act_grad *op)
{
    uint64_t begin = bench_cpu_ns();
    int err = real_loops->act_backward(backend, op);
    part_ns[RELU_BACKWARD] += bench_cpu_ns() - begin;
    return err;
}

static const struct tr_backend_ops timed = {
    .name = "timed",
    .linear_forward = timed_linear_forward,
    .linear_backward = timed_linear_backward,
    .dot_forward = timed_dot_forward,
    .dot_backward = timed_dot_backward,
    .bce_forward = timed_bce_forward,
    .bce_backward = timed_bce_backward,
};

/* ---- measuring ---- */

struct times {
    double part[N_PARTS], model, optimizer, step; /* us per sample */
};

static void step(struct tr_model *model, struct tr_optimizer *adam, struct batch *batch,
                 uint64_t ns[2])
{
    struct tr_forward_out out = {0};
    uint64_t begin = bench_cpu_ns();
    must(tr_model_train(model, &batch->view, SAMPLES, batch->feature_grad, &out));
    rt_assert(out.finite);
    uint64_t made = bench_cpu_ns();
    must(tr_optimizer_step(adam, 0.001, tr_model_grads(model), tr_model_params(model)));
    ns[0] += made - begin;
    ns[1] += bench_cpu_ns() - made;
}

static struct times one_round(struct tr_model *model, struct tr_optimizer *adam,
                              struct batch *batch)
{
    uint64_t ns[2] = {0};
    memset(part_ns, 0, sizeof part_ns);
    for (uint32_t i = 0; i < STEPS; i++)
        step(model, adam, &batch[i % BATCHES], ns);
    double us = 1e-3 / STEPS / SAMPLES;
    struct times t = {.model = (double)ns[0] * us, .optimizer = (double)ns[1] * us};
    for (uint32_t p = 0; p < N_PARTS; p++)
        t.part[p] = (double)part_ns[p] * us;
    t.step = t.model + t.optimizer;
    return t;
}

/* Floating-point operations of all products, per sample: y, dw and dx; the first has no dx. */
static double product_flops(void)
{
    uint32_t both = bottom[ARRAY_LEN(bottom) - 1] + tr_dot_pairs(FEATURES + 1);
    double flops = 4.0 * DENSE * bottom[0] + 6.0 * bottom[0] * bottom[1] + 6.0 * both * top[0];
    for (size_t l = 0; l + 1 < ARRAY_LEN(top); l++)
        flops += 6.0 * top[l] * top[l + 1];
    return flops;
}

/* Best rate of the largest product, GFLOP/s: 367 -> 256 forward, over as many samples as fit a cache. */
static double product_rate(struct tr_backend *backend)
{
    enum { ROWS = 128, REPEAT = 128 };
    uint32_t inputs = bottom[ARRAY_LEN(bottom) - 1] + tr_dot_pairs(FEATURES + 1);
    float *x = draw(ROWS * tr_stride(inputs), 1, 1), *w = draw((size_t)top[0] * inputs, 2, 1);
    float *b = draw(top[0], 3, 1), *y = draw(ROWS * tr_stride(top[0]), 4, 0);
    struct tr_linear op = {.samples = ROWS,
                           .inputs = inputs,
                           .outputs = top[0],
                           .x = x,
                           .w = w,
                           .b = b,
                           .x_stride = tr_stride(inputs),
                           .y_stride = tr_stride(top[0]),
                           .y = y};
    double best = 0;
    for (int round = 0; round < 2 * ROUNDS; round++) {
        uint64_t begin = bench_cpu_ns();
        for (int i = 0; i < REPEAT; i++)
            must(real->linear_forward(backend, &op));
        double ns = (double)(bench_cpu_ns() - begin);
        best = fmax(best, 2.0 * ROWS * inputs * top[0] * REPEAT / ns);
    }
    rt_free(x);
    rt_free(w);
    rt_free(b);
    rt_free(y);
    return best;
}

static void report(struct tr_model *model, const struct times *t)
{
    struct bench *bench = bench_create("trainer");
    double rate = product_rate(&model->backend), left = t->model;
    bench_more(bench, "largest product", rate, "GFLOP/s", NAN, NULL);
    bench_less(bench, "dense step", t->step, "us/sample", product_flops() / rate * 1e-3,
               "FLOPs of its products at the rate of the largest");
    for (uint32_t p = 0; p < N_PARTS; p++) {
        bench_less(bench, part_name[p], t->part[p], "us/sample", NAN, NULL);
        left -= t->part[p];
    }
    bench_less(bench, "finite check, the rest", left, "us/sample", NAN, NULL);
    bench_less(bench, "optimizer", t->optimizer, "us/sample", NAN, NULL);
    if (bench_finish(bench))
        exit(1);
}

int main(void)
{
    struct batch batch[BATCHES];
    struct tr_model *model = make_model();
    struct tr_optimizer_conf conf;
    struct tr_optimizer *adam = NULL;
    must(tr_optimizer_defaults("adam", &conf));
    must(tr_optimizer_create(&conf, tr_model_count(model), &adam));
    for (uint64_t i = 0; i < BATCHES; i++)
        batch_init(&batch[i], 10 * i);
    real = model->backend.ops;
    real_loops = model->backend.loops;
    timed_loops = *real_loops;
    timed_loops.act_backward = timed_act_backward;
    model->backend.ops = &timed;
    model->backend.loops = &timed_loops;
    struct times best = {.step = INFINITY};
    for (int round = 0; round < ROUNDS; round++) {
        struct times t = one_round(model, adam, batch);
        if (round > 0 && t.step < best.step) /* the first one warms up */
            best = t;
    }
    report(model, &best);
    for (uint32_t i = 0; i < BATCHES; i++)
        batch_release(&batch[i]);
    tr_optimizer_destroy(adam);
    tr_model_destroy(model);
    return 0;
}
