/* tests/gpu/bench/model.c -- the dense step (forward, backward, optimizer) of whole models on a GPU, beside what the card could do.
 *
 * DLRM: 26 features of dim 128 and a bottom network of 13 dense columns (512-256-128, relu after each), all pairs multiplied, a top network of
 * 1024-1024-512-256-1. DCN-v2: the same bottom network and features side by side (3,456 columns), 3 cross layers of rank 512, and the same top
 * network over them, as in MLPerf's DLRM-DCNv2. Loss: binary cross entropy. Optimizer: Adam. torch_step.py has the same models.
 *
 * "step": the batch is on the device already, and is computed again and again; gradients of its embeddings are made, in bfloat16, and stay there; between CUDA events around tr_model_train, of which the optimizer is a part. "wall": of the same,
 * by the clock. "fed": each batch comes from one of three host buffers in turns, copied while the one before is computed, and gradients of embeddings
 * go back; wall clock. Medians.
 *
 * Roofline: for each product and pass the longer of FLOPs / ceiling of products and bytes / ceiling of copies, added up. FLOPs: 2 for a multiplication with
 * its addition, of y, dx and dw (the first layer has no dx). Bytes: every tensor once for each pass that needs it, e bytes an element (2 in bfloat16,
 * else 4): linear 2 inputs and 3 outputs forward and backward; dot: x twice and dx, y and dy; cross, a layer: x0 and x and z and y forward,
 * x0, z, dy, dz, dx0 backward; embeddings and their gradients as they come and go; weights twice e and their gradients 4; Adam 28 a parameter. So the share
 * is of a step that nobody can make shorter, short of keeping activations on the chip from layer to layer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "tests/gpu/bench/lab.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"
#include "trainer/optimizer.h"

enum { FEATURES = 26, DENSE = 13, BUFFERS = 3, CROSSES = 3, STEPS = 60, WARM = 8, SIZES = 5 };

/* Sizes of the networks; an emulated device has smaller ones. */
struct shape {
    uint32_t dim, rank, bottom[3], top[SIZES];
};
static const struct shape usual = {128, 512, {512, 256, 128}, {1024, 1024, 512, 256, 1}};
static const struct shape tiny = {8, 4, {16, 16, 8}, {16, 16, 8, 8, 1}};

enum kind { DLRM, DCN_V2, KINDS };
static const char *const kind_name[KINDS] = {"dlrm", "dcn_v2"};

/* ---- the models ---- */

static void add_layer(struct tr_spec *spec, const char *name, const char *type, const char *in0,
                      const char *in1)
{
    const char *const inputs[] = {in0, in1};
    lab_must(tr_spec_layer(spec, name, type, inputs, in1 ? 2 : 1, "bench"));
}

static void add_option(struct tr_spec *spec, const char *key, const uint32_t *value, uint32_t n)
{
    char text[SIZES][16];
    const char *word[SIZES];
    for (uint32_t i = 0; i < n; i++) {
        snprintf(text[i], sizeof text[i], "%u", value[i]);
        word[i] = text[i];
    }
    lab_must(tr_spec_option(spec, key, word, n, "bench"));
}

static struct tr_spec *spec_of(enum kind kind, const struct shape *shape)
{
    static const char *const relu[] = {"relu"};
    static const uint32_t crosses = CROSSES;
    struct tr_spec *spec = NULL;
    lab_must(tr_spec_create(kind_name[kind], &spec));
    add_layer(spec, "bottom", "mlp", "dense", NULL);
    add_option(spec, "sizes", shape->bottom, 3);
    lab_must(tr_spec_option(spec, "last", relu, 1, "bench"));
    if (kind == DLRM) {
        add_layer(spec, "dots", "dot_interaction", "bottom", "features");
        add_layer(spec, "both", "concat", "bottom", "dots");
    } else {
        add_layer(spec, "all", "concat", "bottom", "features");
        add_layer(spec, "both", "cross", "all", NULL);
        add_option(spec, "layers", &crosses, 1);
        add_option(spec, "rank", &shape->rank, 1);
    }
    add_layer(spec, "logit", "mlp", "both", NULL);
    add_option(spec, "sizes", shape->top, SIZES);
    add_layer(spec, "loss", "bce", "logit", NULL);
    return spec;
}

struct run {
    struct lab *lab;
    enum kind kind;
    const struct shape *shape;
    uint32_t samples, precision; /* enum lab_product */
    struct tr_model *model;
    struct tr_optimizer *adam;
    struct buffer {
        void *memory;
        const void *feature[FEATURES];
        struct tr_feature_grad grad[FEATURES];
        struct tr_batch_view view;
    } buffer[BUFFERS];
};

static void make_model(struct run *run)
{
    static char text[FEATURES + DENSE][8];
    const char *name[FEATURES + DENSE], *label[] = {"label"};
    uint32_t dim[FEATURES];
    for (uint32_t i = 0; i < FEATURES + DENSE; i++) {
        snprintf(text[i], sizeof text[i], "n%u", i);
        name[i] = text[i];
        dim[i % FEATURES] = run->shape->dim;
    }
    struct tr_model_inputs inputs = {.dense = name + FEATURES,
                                     .n_dense = DENSE,
                                     .feature = name,
                                     .feature_dim = dim,
                                     .n_features = FEATURES,
                                     .label = label,
                                     .n_labels = 1};
    struct tr_model_conf conf = {.seed = 1,
                                 .samples_max = run->samples,
                                 .threads = 1,
                                 .precision =
                                     run->precision == LAB_BF16 ? RT_DTYPE_BF16 : RT_DTYPE_F32,
                                 .feature_dtype = RT_DTYPE_BF16,
                                 .feature_grad_dtype = RT_DTYPE_BF16,
                                 .gpu = run->lab->gpu,
                                 .cuda = run->lab->cuda};
    struct tr_spec *spec = spec_of(run->kind, run->shape);
    struct tr_optimizer_conf adam;
    lab_must(tr_model_create(spec, &inputs, &conf, &run->model));
    tr_spec_destroy(spec);
    lab_must(tr_optimizer_defaults("adam", &adam));
    lab_must(tr_optimizer_create(&adam, tr_model_count(run->model), &run->adam));
    lab_must(tr_optimizer_to_device(run->adam, run->lab->gpu, run->lab->cuda));
}

/* ---- batches: one piece of pinned memory each ---- */

static void fill(float *to, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        to[i] = (float)(int32_t)seed * 0x1p-31f;
    }
}

static void buffer_init(struct run *run, struct buffer *buffer, uint32_t seed)
{
    size_t samples = run->samples, cells = samples * run->shape->dim;
    size_t floats = samples * (DENSE + 1), bytes = floats * 4 + 2 * FEATURES * cells * 2;
    lab_must(run->lab->gpu->host_alloc(run->lab->cuda, bytes, "a batch", &buffer->memory));
    float *dense = buffer->memory, *labels = dense + samples * DENSE;
    uint16_t *feature = (uint16_t *)(labels + samples), *grad = feature + FEATURES * cells;
    fill(dense, samples * DENSE, seed);
    fill(labels, samples, seed + 1);
    for (size_t s = 0; s < samples; s++)
        labels[s] = labels[s] > 0.5f;
    float *drawn = malloc(cells * sizeof *drawn);
    if (!drawn)
        lab_check(cudaErrorMemoryAllocation, "a batch");
    for (uint32_t f = 0; f < FEATURES; f++) {
        fill(drawn, cells, seed + 2 + f);
        rt_narrow_scaled(RT_DTYPE_BF16, 0.1f, drawn, feature + f * cells, cells);
        buffer->feature[f] = feature + f * cells;
        buffer->grad[f].out = grad + f * cells;
    }
    free(drawn);
    buffer->view = (struct tr_batch_view){
        .samples = run->samples, .dense = dense, .feature = buffer->feature, .labels = labels};
}

static void run_init(struct run *run)
{
    make_model(run);
    for (uint32_t b = 0; b < BUFFERS; b++)
        buffer_init(run, &run->buffer[b], 100 * b + 1);
}

static void run_release(struct run *run)
{
    for (uint32_t b = 0; b < BUFFERS; b++)
        run->lab->gpu->host_free(run->lab->cuda, run->buffer[b].memory);
    tr_optimizer_destroy(run->adam);
    tr_model_destroy(run->model);
}

/* ---- steps ---- */

static void train(struct run *run, struct buffer *buffer, struct tr_feature_grad *grad)
{
    struct tr_forward_out out = {0};
    struct tr_rider rider;
    buffer->view.rider = tr_optimizer_rider(run->adam, 1e-3, &rider) ? &rider : NULL;
    lab_must(tr_model_train(run->model, &buffer->view, run->samples, grad, &out));
    buffer->view.rider = NULL;
    if (!out.finite)
        lab_check(cudaErrorUnknown, "a step that is not finite");
    lab_must(tr_optimizer_rode(run->adam));
}

struct step_times {
    double device, device_p95, wall, fed, fed_p95; /* microseconds */
};

/* Its inputs are on the device before the clock starts. */
static void alone(struct run *run, uint32_t steps, struct step_times *times)
{
    double device[STEPS], wall[STEPS];
    cudaStream_t compute = run->lab->cuda->compute;
    for (uint32_t i = 0; i < WARM + steps; i++) {
        struct buffer *buffer = &run->buffer[i % BUFFERS];
        float ms;
        lab_must(tr_model_stage(run->model, &buffer->view));
        lab_check(cudaStreamSynchronize(run->lab->cuda->up), "copy");
        lab_check(cudaStreamSynchronize(compute), "copy");
        double begin = lab_wall_us();
        lab_check(cudaEventRecord(run->lab->from, compute), "event");
        train(run, buffer, NULL);
        lab_check(cudaEventRecord(run->lab->to, compute), "event");
        lab_check(cudaEventSynchronize(run->lab->to), "step");
        lab_check(cudaEventElapsedTime(&ms, run->lab->from, run->lab->to), "time");
        if (i < WARM)
            continue;
        device[i - WARM] = (double)ms * 1e3;
        wall[i - WARM] = lab_wall_us() - begin;
    }
    times->device = lab_quantile(device, steps, 0.5);
    times->device_p95 = lab_quantile(device, steps, 0.95);
    times->wall = lab_quantile(wall, steps, 0.5);
}

/* The next batch is on its way while one is computed, and gradients go back. */
static void fed(struct run *run, uint32_t steps, struct step_times *times)
{
    double wall[STEPS];
    lab_must(tr_model_stage(run->model, &run->buffer[0].view));
    double begin = lab_wall_us();
    for (uint32_t i = 0; i < WARM + steps; i++) {
        struct buffer *buffer = &run->buffer[i % BUFFERS];
        lab_must(tr_model_stage(run->model, &run->buffer[(i + 1) % BUFFERS].view));
        train(run, buffer, buffer->grad);
        double now = lab_wall_us();
        if (i >= WARM)
            wall[i - WARM] = now - begin;
        begin = now;
    }
    times->fed = lab_quantile(wall, steps, 0.5);
    times->fed_p95 = lab_quantile(wall, steps, 0.95);
}

/* ---- the roofline ---- */

struct ceilings {
    double copy, up, down, product[LAB_PRODUCTS];
};

static double longer(double a, double b)
{
    return a > b ? a : b;
}

/* Seconds a sample of a linear layer. */
static double linear(const struct run *run, const struct ceilings *top, double in, double out,
                     bool dx)
{
    double e = run->precision == LAB_BF16 ? 2 : 4,
           pass = 2 * in * out / top->product[run->precision];
    double forward = longer(pass, e * (in + out) / top->copy);
    double weights = longer(pass, e * (in + out) / top->copy);
    return forward + weights + (dx ? longer(pass, e * (in + out) / top->copy) : 0);
}

static double network(const struct run *run, const struct ceilings *top, double in,
                      const uint32_t *size, uint32_t n, bool first)
{
    double seconds = 0;
    for (uint32_t l = 0; l < n; l++) {
        seconds += linear(run, top, in, size[l], l > 0 || !first);
        in = size[l];
    }
    return seconds;
}

static double roofline_us(const struct run *run, const struct ceilings *top)
{
    const struct shape *shape = run->shape;
    double e = run->precision == LAB_BF16 ? 2 : 4, width = (FEATURES + 1.0) * shape->dim;
    double pairs = tr_dot_columns(FEATURES + 1, false), embeddings = FEATURES * shape->dim;
    double sample = network(run, top, DENSE, shape->bottom, 3, true);
    sample += 2 * 2 * embeddings / top->copy; /* bfloat16, there and back */
    if (run->kind == DLRM) {
        sample += e * (3 * width + 2 * pairs) / top->copy;
    } else {
        sample += CROSSES * (linear(run, top, width, shape->rank, true) +
                             linear(run, top, shape->rank, width, true));
        sample += CROSSES * 9 * e * width / top->copy;
    }
    sample +=
        network(run, top, run->kind == DLRM ? shape->dim + pairs : width, shape->top, SIZES, false);
    double parameters = (double)tr_model_count(run->model) * (2 * e + 4 + 28) / top->copy;
    return 1e6 * (run->samples * sample + parameters);
}

/* ---- the report ---- */

static void report(struct run *run, const struct ceilings *top)
{
    struct step_times t;
    uint32_t steps = run->lab->tiny ? 2 : STEPS;
    run_init(run);
    uint64_t before = run->lab->gpu->allocations(run->lab->cuda);
    alone(run, steps, &t);
    fed(run, steps, &t);
    double roof = roofline_us(run, top), bytes = 2.0 * run->samples * FEATURES * run->shape->dim;
    const char *name = kind_name[run->kind], *type = lab_product_name[run->precision];
    if (run->lab->tiny) {
        printf("ran %s, %s, of %u\n", name, type, run->samples);
        run_release(run);
        return;
    }
    printf("| %s | %u | %s | %.1f | %.1f | %.1f | %.1f | %.1f | %.0f %% | %.1f | %.1f |\n", name,
           run->samples, type, t.device, t.device_p95, t.wall, t.fed, t.fed_p95,
           100 * roof / t.device, bytes / top->up * 1e6, bytes / top->down * 1e6);
    printf("%s: %zu parameters; %llu allocations in its passes\n", name, tr_model_count(run->model),
           (unsigned long long)(run->lab->gpu->allocations(run->lab->cuda) - before));
    printf("figure parameters.%s %zu\nfigure step.%s.%u.%s %.1f\nfigure wall.%s.%u.%s %.1f\n"
           "figure fed.%s.%u.%s %.1f\n",
           name, tr_model_count(run->model), name, run->samples, type, t.device, name, run->samples,
           type, t.wall, name, run->samples, type, t.fed);
    fflush(stdout);
    run_release(run);
}

static struct ceilings ceilings_of(struct lab *lab)
{
    struct ceilings top = {.copy = lab_copies(lab).best};
    lab_bus(lab, &top.up, &top.down);
    for (enum lab_product k = 0; k < LAB_PRODUCTS; k++)
        top.product[k] = lab_products(lab, k);
    if (lab->tiny)
        return top;
    printf("ceilings: copy %.0f GB/s (read and written); to the device %.1f, from it %.1f GB/s",
           top.copy * 1e-9, top.up * 1e-9, top.down * 1e-9);
    for (enum lab_product k = 0; k < LAB_PRODUCTS; k++)
        printf("; %s %.1f TFLOP/s", lab_product_name[k], top.product[k] * 1e-12);
    printf("\n\n| model | batch | products | step, us | p95 | wall | fed | p95 | of roofline | "
           "copy up | "
           "down |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    fflush(stdout);
    return top;
}

/* A device for each row: its memory is given back with it. */
static void one(struct run run, bool tf32, const struct ceilings *top)
{
    struct tr_gpu_conf conf = {.tf32 = tf32, .fail = lab_fail};
    struct lab lab = *run.lab;
    lab_must(lab.gpu->open(&conf, &lab.cuda));
    run.lab = &lab;
    report(&run, top);
    lab.gpu->close(lab.cuda);
}

int main(void)
{
    static const uint32_t batch[] = {8192, 65536}, few[] = {5, 16};
    struct lab lab;
    lab_open(&lab, "model");
    struct ceilings top = ceilings_of(&lab);
    for (enum lab_product p = 0; p < LAB_PRODUCTS; p++)
        for (uint32_t b = 0; b < 2; b++)
            for (enum kind kind = 0; kind < KINDS; kind++) {
                struct run run = {.lab = &lab, .kind = kind, .precision = p};
                run.shape = lab.tiny ? &tiny : &usual;
                run.samples = lab.tiny ? few[b] : batch[b];
                one(run, p == LAB_TF32, &top);
            }
    lab_close(&lab);
    return 0;
}
