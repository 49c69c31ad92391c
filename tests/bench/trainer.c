/* tests/bench/trainer.c -- CPU time of the dense step beside that of its matrix products.
 *
 * DLRM with 13 dense columns and 26 features, batches of 4096, Adam. A few batches are used in turn, laid out as they
 * arrive and leave in a job: one buffer of all embeddings, one of all gradients.
 *
 * The limit of a step is the useful work of its matrix products (y, dw, dx; nothing padded) at the rate that the largest of
 * them reaches alone; no product can be left out, and all the rest comes on top. Of bfloat16, what oneDNN makes of bfloat16
 * where the CPU multiplies it, else of float32, which then stands for it.
 *
 * "small" is the network of configs/bench, by part: told apart by a table of operations that times the real ones; what is left is
 * the finite check, copies, and the model's own book-keeping. "wide" is one whose weights fit no cache: product and
 * step in turns, and the turn of the median ratio counts. With two threads on the wall clock, which other work disturbs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/lib/bench.h"
#include "trainer/backend/cpu/matmul.h"
#include "trainer/backend/cpu/rounded.h"
#include "trainer/model/build.h"
#include "trainer/model/spec.h"
#include "trainer/optimizer.h"

enum { SAMPLES = 4096, FEATURES = 26, DENSE = 13, BATCHES = 4, STEPS = 24, ROUNDS = 5, TURNS = 9 };
enum { DIM_MAX = 64, SIZES_MAX = 5 };

struct net {
    uint32_t dim, n_bottom, n_top;
    uint32_t bottom[SIZES_MAX], top[SIZES_MAX];
};
static const struct net small = {16, 2, 3, {64, 16}, {256, 128, 1}};
static const struct net wide = {DIM_MAX, 3, 5, {512, 256, 64}, {1024, 1024, 512, 256, 1}};

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
    char text[SIZES_MAX][16];
    const char *word[SIZES_MAX];
    for (uint32_t i = 0; i < n; i++) {
        snprintf(text[i], sizeof text[i], "%u", size[i]);
        word[i] = text[i];
    }
    must(tr_spec_option(spec, "sizes", word, n, "bench"));
}

static struct tr_spec *dlrm(const struct net *net)
{
    static const char *const relu[] = {"relu"};
    struct tr_spec *spec = NULL;
    must(tr_spec_create("bench", &spec));
    add_layer(spec, "bottom", "mlp", "dense", NULL);
    add_sizes(spec, net->bottom, net->n_bottom);
    must(tr_spec_option(spec, "last", relu, 1, "bench"));
    add_layer(spec, "dots", "dot_interaction", "bottom", "features");
    add_layer(spec, "both", "concat", "bottom", "dots");
    add_layer(spec, "logit", "mlp", "both", NULL);
    add_sizes(spec, net->top, net->n_top);
    add_layer(spec, "loss", "bce", "logit", NULL);
    return spec;
}

static struct tr_model *make_model(const struct net *net, uint32_t precision, int threads)
{
    static char text[FEATURES + DENSE][8];
    const char *name[FEATURES + DENSE], *label[] = {"label"};
    uint32_t dim[FEATURES];
    for (uint32_t i = 0; i < FEATURES + DENSE; i++) {
        snprintf(text[i], sizeof text[i], "n%u", i);
        name[i] = text[i];
        dim[i % FEATURES] = net->dim;
    }
    struct tr_model_inputs inputs = {.dense = name + FEATURES,
                                     .n_dense = DENSE,
                                     .feature = name,
                                     .feature_dim = dim,
                                     .n_features = FEATURES,
                                     .label = label,
                                     .n_labels = 1};
    struct tr_model_conf conf = {
        .seed = 1, .samples_max = SAMPLES, .threads = threads, .precision = precision};
    struct tr_spec *spec = dlrm(net);
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

static void batch_init(struct batch *batch, uint32_t dim, uint64_t seed)
{
    size_t floats = (size_t)SAMPLES * dim;
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

static struct tr_backend_ops timed;
static struct tr_backend_loops timed_loops;
static const struct tr_backend_loops *real_loops;

static int timed_act_backward(struct tr_backend *backend, const struct tr_act_grad *op)
{
    uint64_t begin = bench_cpu_ns();
    int err = real_loops->act_backward(backend, op);
    part_ns[RELU_BACKWARD] += bench_cpu_ns() - begin;
    return err;
}

/* ---- measuring ---- */

struct trained {
    struct tr_model *model;
    struct tr_optimizer *adam;
};

static struct trained make(const struct net *net, uint32_t precision, int threads)
{
    struct trained trained = {.model = make_model(net, precision, threads)};
    struct tr_optimizer_conf conf;
    must(tr_optimizer_defaults("adam", &conf));
    must(tr_optimizer_create(&conf, tr_model_count(trained.model), &trained.adam));
    return trained;
}

static void trained_release(struct trained *trained)
{
    tr_optimizer_destroy(trained->adam);
    tr_model_destroy(trained->model);
}

static uint64_t wall_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

typedef uint64_t (*clock_fn)(void);

/* Times of the network and of the optimizer are added to. */
static void step(struct trained *trained, struct batch *batch, clock_fn now, uint64_t ns[2])
{
    struct tr_forward_out out = {0};
    struct tr_model *model = trained->model;
    uint64_t begin = now();
    must(tr_model_train(model, &batch->view, SAMPLES, batch->feature_grad, &out));
    rt_assert(out.finite);
    uint64_t made = now();
    must(tr_optimizer_step(trained->adam, 0.001, tr_model_grads(model), tr_model_params(model)));
    ns[0] += made - begin;
    ns[1] += now() - made;
}

/* Columns of what the top begins with. */
static uint32_t top_inputs(const struct net *net)
{
    return net->bottom[net->n_bottom - 1] + tr_dot_pairs(FEATURES + 1);
}

/* Floating-point operations of all products, per sample: y, dw and dx; the first has no dx. */
static double product_flops(const struct net *net)
{
    double flops = 4.0 * DENSE * net->bottom[0] + 6.0 * top_inputs(net) * net->top[0];
    for (size_t l = 0; l + 1 < net->n_bottom; l++)
        flops += 6.0 * net->bottom[l] * net->bottom[l + 1];
    for (size_t l = 0; l + 1 < net->n_top; l++)
        flops += 6.0 * net->top[l] * net->top[l + 1];
    return flops;
}

/* ---- the small network, by part ---- */

struct times {
    double part[N_PARTS], model, optimizer, step; /* us per sample */
};

static struct times one_round(struct trained *trained, struct batch *batch)
{
    uint64_t ns[2] = {0};
    memset(part_ns, 0, sizeof part_ns);
    for (uint32_t i = 0; i < STEPS; i++)
        step(trained, &batch[i % BATCHES], bench_cpu_ns, ns);
    double us = 1e-3 / STEPS / SAMPLES;
    struct times t = {.model = (double)ns[0] * us, .optimizer = (double)ns[1] * us};
    for (uint32_t p = 0; p < N_PARTS; p++)
        t.part[p] = (double)part_ns[p] * us;
    t.step = t.model + t.optimizer;
    return t;
}

/* Best rate of the largest product, GFLOP/s: 367 -> 256 forward, over as many samples as fit a cache. */
static double small_rate(void)
{
    enum { ROWS = 128, REPEAT = 128 };
    uint32_t k = top_inputs(&small), n = small.top[0];
    float *x = draw(ROWS * tr_stride(k), 1, 1), *w = draw((size_t)n * k, 2, 1);
    float *y = draw(ROWS * tr_stride(n), 4, 0);
    struct tr_product product = {.tb = true,
                                 .m = ROWS,
                                 .n = n,
                                 .k = k,
                                 .a = x,
                                 .b = w,
                                 .c = y,
                                 .lda = tr_stride(k),
                                 .ldb = k,
                                 .ldc = tr_stride(n)};
    double best = 0;
    for (int round = 0; round < 2 * ROUNDS; round++) {
        uint64_t begin = bench_cpu_ns();
        for (int i = 0; i < REPEAT; i++)
            must(tr_sgemm(1, &product));
        double ns = (double)(bench_cpu_ns() - begin);
        best = fmax(best, 2.0 * ROWS * k * n * REPEAT / ns);
    }
    rt_free(x);
    rt_free(w);
    rt_free(y);
    return best;
}

static void report_small(struct bench *bench, const struct times *t)
{
    double rate = small_rate(), left = t->model;
    bench_more(bench, "small: largest product", rate, "GFLOP/s", NAN, NULL);
    bench_less(bench, "small: dense step", t->step, "us/sample",
               product_flops(&small) / rate * 1e-3,
               "FLOPs of its products at the rate of the largest");
    for (uint32_t p = 0; p < N_PARTS; p++) {
        bench_less(bench, part_name[p], t->part[p], "us/sample", NAN, NULL);
        left -= t->part[p];
    }
    bench_less(bench, "finite check, the rest", left, "us/sample", NAN, NULL);
    bench_less(bench, "optimizer", t->optimizer, "us/sample", NAN, NULL);
}

static void time_parts(struct tr_backend *backend)
{
    real = backend->ops;
    real_loops = backend->loops;
    timed = *real;
    timed.linear_forward = timed_linear_forward;
    timed.linear_backward = timed_linear_backward;
    timed.dot_forward = timed_dot_forward;
    timed.dot_backward = timed_dot_backward;
    timed.bce_forward = timed_bce_forward;
    timed.bce_backward = timed_bce_backward;
    timed_loops = *real_loops;
    timed_loops.act_backward = timed_act_backward;
    backend->ops = &timed;
    backend->loops = &timed_loops;
}

static void measure_small(struct bench *bench)
{
    struct batch batch[BATCHES];
    struct trained trained = make(&small, RT_DTYPE_F32, 1);
    struct times best = {.step = INFINITY};
    for (uint64_t i = 0; i < BATCHES; i++)
        batch_init(&batch[i], small.dim, 10 * i);
    time_parts(&trained.model->backend);
    for (int round = 0; round < ROUNDS; round++) {
        struct times t = one_round(&trained, batch);
        if (round > 0 && t.step < best.step) /* the first one warms up */
            best = t;
    }
    report_small(bench, &best);
    for (uint32_t i = 0; i < BATCHES; i++)
        batch_release(&batch[i]);
    trained_release(&trained);
}

/* ---- the wide network, in turns with its largest product ---- */

/* The whole batch through the widest layer, 1024 -> 1024. */
struct product {
    struct tr_matmul *matmul; /* NULL: sgemm */
    struct tr_product of;
    void *x, *w;
    float *y;
};

static void *operand(uint32_t rows, uint32_t columns, uint64_t seed, bool half)
{
    size_t n = (size_t)rows * columns;
    float *value = draw(n, seed, 1);
    if (!half)
        return value;
    uint16_t *narrow = rt_xaligned(n * sizeof *narrow);
    tr_round_rows(value, columns, rows, columns, false, narrow);
    rt_free(value);
    return narrow;
}

static void product_init(struct product *product, uint32_t precision)
{
    const uint32_t n = wide.top[1], k = wide.top[0];
    *product = (struct product){0};
    if (precision == RT_DTYPE_BF16)
        must(tr_matmul_create(&product->matmul));
    bool half = product->matmul && tr_matmul_has_bf16(product->matmul);
    if (product->matmul && !half) {
        tr_matmul_destroy(product->matmul);
        product->matmul = NULL;
    }
    product->x = operand(SAMPLES, k, 1, half);
    product->w = operand(n, k, 2, half);
    product->y = draw((size_t)SAMPLES * n, 3, 0);
    product->of = (struct tr_product){.tb = true,
                                      .m = SAMPLES,
                                      .n = n,
                                      .k = k,
                                      .a = product->x,
                                      .b = product->w,
                                      .c = product->y,
                                      .lda = k,
                                      .ldb = k,
                                      .ldc = n,
                                      .bf16 = half,
                                      .kept = half};
}

static void product_release(struct product *product)
{
    tr_matmul_destroy(product->matmul);
    rt_free(product->x);
    rt_free(product->w);
    rt_free(product->y);
}

static uint64_t product_ns(const struct product *product, int threads, clock_fn now)
{
    enum { REPEAT = 2 };
    uint64_t begin = now();
    for (int i = 0; i < REPEAT; i++)
        must(product->matmul ? tr_matmul_run(product->matmul, threads, &product->of)
                             : tr_sgemm(threads, &product->of));
    return (now() - begin) / REPEAT;
}

struct turn {
    double rate, step, ratio; /* GFLOP/s; us per sample */
};

static int by_ratio(const void *a, const void *b)
{
    const struct turn *x = a, *y = b;
    return (x->ratio > y->ratio) - (x->ratio < y->ratio);
}

/* The product before and after the step. */
static struct turn one_turn(struct trained *trained, const struct product *product,
                            struct batch *batch, int threads, clock_fn now)
{
    uint64_t ns[2] = {0}, alone = product_ns(product, threads, now);
    step(trained, batch, now, ns);
    alone = (alone + product_ns(product, threads, now)) / 2;
    struct turn turn = {
        .rate = 2.0 * SAMPLES * (double)product->of.n * (double)product->of.k / (double)alone,
        .step = (double)(ns[0] + ns[1]) * 1e-3 / SAMPLES,
    };
    turn.ratio = product_flops(&wide) / turn.rate * 1e-3 / turn.step;
    return turn;
}

static void measure_wide(struct bench *bench, struct batch *batch, const char *name,
                         uint32_t precision, int threads, double demanded)
{
    clock_fn now = threads > 1 ? wall_ns : bench_cpu_ns;
    struct trained trained = make(&wide, precision, threads);
    struct product product;
    struct turn turn[TURNS];
    char title[64];
    product_init(&product, precision);
    one_turn(&trained, &product, batch, threads, now); /* warms up */
    for (int i = 0; i < TURNS; i++)
        turn[i] = one_turn(&trained, &product, &batch[i % BATCHES], threads, now);
    qsort(turn, TURNS, sizeof *turn, by_ratio);
    const struct turn *median = &turn[TURNS / 2];
    snprintf(title, sizeof title, "wide, %s: largest product%s", name,
             product.of.bf16 ? " in bfloat16" : "");
    bench_more(bench, title, median->rate, "GFLOP/s", NAN, NULL);
    snprintf(title, sizeof title, "wide, %s: dense step", name);
    bench_less(bench, title, median->step, "us/sample", median->step * median->ratio,
               "FLOPs of its products at the rate of the largest");
    if (demanded > 0)
        bench_demand(bench, demanded);
    product_release(&product);
    trained_release(&trained);
}

int main(void)
{
    struct bench *bench = bench_create("trainer");
    struct batch batch[BATCHES];
    measure_small(bench);
    for (uint64_t i = 0; i < BATCHES; i++)
        batch_init(&batch[i], wide.dim, 10 * i);
    measure_wide(bench, batch, "float32", RT_DTYPE_F32, 1, 0.8);
    measure_wide(bench, batch, "bfloat16", RT_DTYPE_BF16, 1, 0.5);
    measure_wide(bench, batch, "float32, 2 threads", RT_DTYPE_F32, 2, 0);
    for (uint32_t i = 0; i < BATCHES; i++)
        batch_release(&batch[i]);
    return bench_finish(bench);
}
