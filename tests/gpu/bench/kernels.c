/* tests/gpu/bench/kernels.c -- each family of kernels: bytes a second, beside a copy within the device.
 *
 * A row is an operation at a usual shape. Bytes are those that no version could do without: every tensor that is read, once, and every
 * one that is written; what an implementation moves beside them, in scratch or by reading twice, lowers its rate. A tensor that is
 * added to counts twice. The tensors of a row are laid out several times over, and taken in turns, until all of them together are far
 * larger than a cache.
 * "of copy" is beside the better of cudaMemcpyAsync and a kernel that only copies, both of 1 GiB, measured before. Acceptance: 70 % for all rows
 * that move 16 MiB or more; below that a launch is what is measured, and the row is shown alone. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "tests/gpu/bench/lab.h"
#include "trainer/optimizer_rates.h"

enum { FEATURES = 26, VECTORS = FEATURES + 1, LAYOUTS_MAX = 8, CALLS_MAX = 64, ROUNDS = 15 };
static const double accepted = 0.70, judged_bytes = 16 << 20;

/* The shape of a row; the tensors that are taken for it, and their bytes. */
struct row {
    struct lab *lab;
    uint32_t samples, dim, wide; /* dim: of an embedding; wide: of a layer */
    bool first;                  /* nothing was made for the operation yet */
    char *at, *end;
    double bytes;
};

static float *take(struct row *row, size_t n)
{
    char *taken = row->at;
    row->at += (n * sizeof(float) + 255) / 256 * 256;
    if (row->at > row->end) {
        fprintf(stderr, "bench: this GPU has too little memory for a row\n");
        exit(1);
    }
    return (float *)taken;
}

static float *reads(struct row *row, size_t n)
{
    row->bytes += 4.0 * (double)n;
    return take(row, n);
}

static float *writes(struct row *row, size_t n)
{
    return reads(row, n);
}

static float *updates(struct row *row, size_t n)
{
    row->bytes += 4.0 * (double)n;
    return reads(row, n);
}

static size_t cells(const struct row *row, uint32_t columns)
{
    return (size_t)row->samples * columns;
}

/* ---- the operations ---- */

static int act_forward(struct row *row)
{
    struct tr_act op = {.samples = row->samples, .columns = row->wide, .kind = TR_ACT_RELU};
    op.x_stride = op.y_stride = row->wide;
    op.x = reads(row, cells(row, row->wide));
    op.y = writes(row, cells(row, row->wide));
    return row->lab->gpu->loops->act_forward(&row->lab->backend, &op);
}

static int act_backward(struct row *row)
{
    struct tr_act_grad op = {.samples = row->samples, .columns = row->wide, .kind = TR_ACT_RELU};
    op.stride = op.dy_stride = row->wide;
    op.y = reads(row, cells(row, row->wide));
    op.dy = updates(row, cells(row, row->wide));
    return row->lab->gpu->loops->act_backward(&row->lab->backend, &op);
}

/* 27 tensors side by side in one, as `concat` copies them: one operation each. */
static int concat(struct row *row)
{
    uint32_t width = VECTORS * row->dim;
    float *whole = writes(row, cells(row, width));
    for (uint32_t i = 0; i < VECTORS; i++) {
        struct tr_copy op = {.samples = row->samples, .width = row->dim};
        op.x = reads(row, cells(row, row->dim));
        op.y = whole + (size_t)i * row->dim;
        op.x_stride = row->dim, op.y_stride = width;
        int err = row->lab->gpu->loops->copy(&row->lab->backend, &op);
        if (err)
            return err;
    }
    return 0;
}

static int cross_forward(struct row *row)
{
    uint32_t width = VECTORS * row->dim;
    struct tr_cross op = {.samples = row->samples, .width = width};
    op.x0_stride = op.x_stride = op.z_stride = op.y_stride = width;
    op.x0 = reads(row, cells(row, width));
    op.x = reads(row, cells(row, width));
    op.z = reads(row, cells(row, width));
    op.b = reads(row, width);
    op.y = writes(row, cells(row, width));
    return row->lab->gpu->loops->cross_forward(&row->lab->backend, &op);
}

static int cross_backward(struct row *row)
{
    uint32_t width = VECTORS * row->dim;
    struct tr_cross_grad op = {.samples = row->samples, .width = width};
    op.x0_stride = op.z_stride = op.dy_stride = width;
    op.x0 = reads(row, cells(row, width));
    op.z = reads(row, cells(row, width));
    op.dy = reads(row, cells(row, width));
    op.dz = writes(row, cells(row, width));
    op.dx0 = writes(row, cells(row, width));
    op.db = writes(row, width);
    return row->lab->gpu->loops->cross_backward(&row->lab->backend, &op);
}

/* Vectors of a sample, and where their gradients go: n tensors each. */
struct vectors {
    const float *x[VECTORS];
    float *dx[VECTORS];
    size_t stride[VECTORS];
    bool add[VECTORS];
};

static struct vectors take_vectors(struct row *row, uint32_t n, bool backward)
{
    struct vectors v;
    memset(&v, 0, sizeof v);
    for (uint32_t i = 0; i < n; i++) {
        v.x[i] = reads(row, cells(row, row->dim));
        v.dx[i] = backward ? writes(row, cells(row, row->dim)) : NULL;
        v.stride[i] = row->dim;
    }
    return v;
}

static int dot_forward(struct row *row)
{
    struct vectors v = take_vectors(row, VECTORS, false);
    uint32_t pairs = tr_dot_columns(VECTORS, false);
    struct tr_dot op = {.samples = row->samples, .n = VECTORS, .dim = row->dim, .y_stride = pairs};
    op.x = v.x, op.x_stride = v.stride;
    op.y = writes(row, cells(row, pairs));
    op.scratch = take(row, tr_dot_scratch(row->samples, VECTORS, row->dim));
    return row->lab->gpu->ops->dot_forward(&row->lab->backend, &op);
}

static int dot_backward(struct row *row)
{
    struct vectors v = take_vectors(row, VECTORS, true);
    uint32_t pairs = tr_dot_columns(VECTORS, false);
    struct tr_dot_grad op = {.samples = row->samples, .n = VECTORS, .dim = row->dim};
    op.x = v.x, op.dx = v.dx, op.x_stride = v.stride, op.add = v.add;
    op.dy_stride = pairs;
    op.dy = reads(row, cells(row, pairs));
    op.scratch = take(row, tr_dot_scratch(row->samples, VECTORS, row->dim));
    return row->lab->gpu->ops->dot_backward(&row->lab->backend, &op);
}

static int fm_forward(struct row *row)
{
    struct vectors v = take_vectors(row, FEATURES, false);
    struct tr_fm op = {.samples = row->samples, .n = FEATURES, .dim = row->dim};
    op.x = v.x, op.x_stride = v.stride, op.y_stride = row->dim;
    op.y = writes(row, cells(row, row->dim));
    op.sum = writes(row, cells(row, row->dim));
    op.square = take(row, cells(row, row->dim)); /* nobody reads it later */
    return row->lab->gpu->loops->fm_forward(&row->lab->backend, &op);
}

static int fm_backward(struct row *row)
{
    struct vectors v = take_vectors(row, FEATURES, true);
    struct tr_fm_grad op = {.samples = row->samples, .n = FEATURES, .dim = row->dim};
    op.x = v.x, op.dx = v.dx, op.x_stride = v.stride, op.add = v.add, op.dy_stride = row->dim;
    op.dy = reads(row, cells(row, row->dim));
    op.sum = reads(row, cells(row, row->dim));
    return row->lab->gpu->loops->fm_backward(&row->lab->backend, &op);
}

static int layernorm_forward(struct row *row)
{
    struct tr_layernorm op = {.samples = row->samples, .rows = 1, .columns = row->wide};
    op.eps = 1e-5;
    op.x_stride = op.y_stride = row->wide;
    op.x = reads(row, cells(row, row->wide));
    op.w = reads(row, row->wide), op.b = reads(row, row->wide);
    op.y = writes(row, cells(row, row->wide));
    op.stat = writes(row, cells(row, 2));
    return row->lab->gpu->loops->layernorm_forward(&row->lab->backend, &op);
}

static int layernorm_backward(struct row *row)
{
    struct tr_layernorm_grad op = {.samples = row->samples, .rows = 1, .columns = row->wide};
    op.x_stride = op.dy_stride = op.dx_stride = row->wide;
    op.x = reads(row, cells(row, row->wide));
    op.dy = reads(row, cells(row, row->wide));
    op.w = reads(row, row->wide), op.stat = reads(row, cells(row, 2));
    op.dw = writes(row, row->wide), op.db = writes(row, row->wide);
    op.dx = writes(row, cells(row, row->wide));
    return row->lab->gpu->loops->layernorm_backward(&row->lab->backend, &op);
}

static int softmax_forward(struct row *row)
{
    struct tr_softmax op = {.samples = row->samples, .rows = 1, .columns = row->wide};
    op.x_stride = op.y_stride = row->wide;
    op.x = reads(row, cells(row, row->wide));
    op.y = writes(row, cells(row, row->wide));
    return row->lab->gpu->loops->softmax_forward(&row->lab->backend, &op);
}

static int softmax_backward(struct row *row)
{
    struct tr_softmax_grad op = {.samples = row->samples, .rows = 1, .columns = row->wide};
    op.y_stride = op.dy_stride = op.dx_stride = row->wide;
    op.y = reads(row, cells(row, row->wide));
    op.dy = reads(row, cells(row, row->wide));
    op.dx = writes(row, cells(row, row->wide));
    return row->lab->gpu->loops->softmax_backward(&row->lab->backend, &op);
}

static int dropout(struct row *row)
{
    struct tr_dropout op = {.samples = row->samples, .width = row->wide, .rate = 0.1, .key = 1};
    op.x_stride = op.y_stride = row->wide;
    op.x = reads(row, cells(row, row->wide));
    op.y = writes(row, cells(row, row->wide));
    return row->lab->gpu->loops->dropout(&row->lab->backend, &op);
}

static int bce_forward(struct row *row)
{
    struct tr_bce op = {.samples = row->samples};
    op.logit = reads(row, row->samples), op.label = reads(row, row->samples);
    op.score = writes(row, row->samples);
    op.sum_at = (double *)writes(row, 2);
    return row->lab->gpu->ops->bce_forward(&row->lab->backend, &op);
}

static int bce_backward(struct row *row)
{
    struct tr_bce_grad op = {.samples = row->samples, .scale = 1};
    op.score = reads(row, row->samples), op.label = reads(row, row->samples);
    op.dlogit = writes(row, row->samples);
    return row->lab->gpu->ops->bce_backward(&row->lab->backend, &op);
}

/* ---- those that have something made before the first call; all of their calls are of the same tensors ---- */

static void *table(struct row *row, const void *from, size_t bytes)
{
    void *there;
    lab_must(row->lab->gpu->alloc(row->lab->cuda, bytes, "a table", &there));
    lab_check(cudaMemcpy(there, from, bytes, cudaMemcpyHostToDevice), "a table");
    return there;
}

/* 26 features as they come, in bfloat16, to what layers read. */
static int widen(struct row *row)
{
    static struct tr_cuda_feature *there;
    struct tr_cuda_feature of[FEATURES];
    for (uint32_t i = 0; i < FEATURES; i++)
        of[i] = (struct tr_cuda_feature){.from = reads(row, cells(row, row->dim) / 2),
                                         .to = writes(row, cells(row, row->dim)),
                                         .width = row->dim};
    if (row->first)
        there = table(row, of, sizeof of);
    return row->lab->gpu->widen(&row->lab->backend, RT_DTYPE_BF16, there, FEATURES, row->samples,
                                row->dim);
}

static struct tr_cuda_gradients gradients;

static void gradients_make(struct row *row, bool narrowed)
{
    struct tr_cuda_gradient of[FEATURES];
    for (uint32_t i = 0; i < FEATURES; i++) {
        const float *grad = reads(row, cells(row, row->dim));
        void *out =
            narrowed ? writes(row, cells(row, row->dim) / 2) : take(row, cells(row, row->dim) / 2);
        of[i] = (struct tr_cuda_gradient){.grad = grad, .out = out, .width = row->dim};
    }
    if (!row->first)
        return;
    gradients = (struct tr_cuda_gradients){
        .n = FEATURES, .samples_max = row->samples, .dtype = RT_DTYPE_BF16};
    lab_must(row->lab->gpu->gradients_init(row->lab->cuda, of, &gradients));
}

static int narrow(struct row *row)
{
    gradients_make(row, true);
    return row->lab->gpu->narrow(&row->lab->backend, &gradients, row->samples);
}

static int check_finite(struct row *row)
{
    static struct tr_cuda_spans spans;
    static double *loss;
    gradients_make(row, false);
    size_t n = (size_t)row->wide * row->wide;
    const float *grads = reads(row, n);
    if (row->first) {
        struct tr_span span = {.count = n, .lr_factor = 1};
        double zero = 0;
        lab_must(row->lab->gpu->spans_init(row->lab->cuda, &span, 1, &spans));
        loss = table(row, &zero, sizeof zero);
    }
    return row->lab->gpu->finite(&row->lab->backend, &gradients, row->samples, &spans, grads, loss,
                                 1);
}

/* Adam over `samples` parameters: reads p, g, m, v and writes p, m, v; m and v are the optimizer's own. */
static int adam(struct row *row)
{
    static struct tr_cuda_optimizer *made;
    static struct tr_optimizer_rates *rates;
    size_t n = row->samples;
    float *params = updates(row, n);
    const float *grads = reads(row, n);
    row->bytes += 16.0 * (double)n;
    if (row->first) {
        struct tr_optimizer_conf conf;
        struct tr_optimizer_rates first;
        struct tr_span span = {.count = n, .lr_factor = 1};
        lab_must(tr_optimizer_defaults("adam", &conf));
        tr_optimizer_rates(&conf, 1, 1e-3, &first);
        rates = table(row, &first, sizeof first);
        lab_must(row->lab->gpu->optimizer_create(row->lab->cuda, &conf, n, &span, 1, &made));
    }
    return row->lab->gpu->optimizer_queue(made, &row->lab->backend, rates, grads, params, NULL);
}

/* ---- measuring ---- */

static const struct kernel {
    const char *name, *shape;
    int (*queue)(struct row *row);
    bool same;         /* all calls are of the same tensors */
    uint32_t elements; /* samples, where those are no batch's; 0: both batches' */
} kernels[] = {
    {"dot forward", "27 x 128", dot_forward, false, 0},
    {"dot backward", "27 x 128", dot_backward, false, 0},
    {"cross forward", "3456", cross_forward, false, 0},
    {"cross backward", "3456", cross_backward, false, 0},
    {"fm forward", "26 x 128", fm_forward, false, 0},
    {"fm backward", "26 x 128", fm_backward, false, 0},
    {"copy as concat", "27 x 128", concat, false, 0},
    {"relu forward", "1024", act_forward, false, 0},
    {"relu backward", "1024", act_backward, false, 0},
    {"dropout", "1024", dropout, false, 0},
    {"layernorm forward", "1024", layernorm_forward, false, 0},
    {"layernorm backward", "1024", layernorm_backward, false, 0},
    {"softmax forward", "1024", softmax_forward, false, 0},
    {"softmax backward", "1024", softmax_backward, false, 0},
    {"bce forward", "1", bce_forward, false, 0},
    {"bce backward", "1", bce_backward, false, 0},
    {"widen bfloat16", "26 x 128", widen, true, 0},
    {"narrow bfloat16", "26 x 128", narrow, true, 0},
    {"finite check", "26 x 128 + 1024 x 1024", check_finite, true, 0},
    {"adam", "parameters", adam, true, 50000000},
};

/* The calls that are timed at once. */
struct calls {
    const struct kernel *kernel;
    struct row row;
    char *memory;
    size_t layout_bytes;
    uint32_t layouts, n;
};

static int queue_calls(void *arg)
{
    struct calls *calls = arg;
    int err = 0;
    for (uint32_t i = 0; !err && i < calls->n; i++) {
        calls->row.at = calls->memory + (i % calls->layouts) * calls->layout_bytes;
        err = calls->kernel->queue(&calls->row);
    }
    return err;
}

static uint32_t within(double value, uint32_t low, uint32_t high)
{
    return value < low ? low : value > high ? high : (uint32_t)value;
}

/* One call tells how large a layout is; then 512 MiB of layouts in turns, and 2 GiB of traffic a time. */
static double measure(struct calls *calls, size_t memory_bytes, double *us)
{
    struct row *row = &calls->row;
    row->first = true;
    row->at = calls->memory, row->end = calls->memory + memory_bytes;
    lab_must(calls->kernel->queue(row));
    lab_check(cudaStreamSynchronize(row->lab->cuda->compute), calls->kernel->name);
    double bytes = row->bytes;
    row->first = false;
    calls->layout_bytes = (size_t)(row->at - calls->memory);
    double fit = (double)memory_bytes / (double)calls->layout_bytes;
    calls->layouts =
        calls->kernel->same
            ? 1
            : within(fmin(fit, 0x1p29 / (double)calls->layout_bytes + 1), 1, LAYOUTS_MAX);
    calls->n = row->lab->tiny ? 2 : within(0x1p31 / bytes, calls->layouts, CALLS_MAX);
    *us = lab_time(row->lab, queue_calls, calls, ROUNDS) / calls->n;
    return bytes;
}

/* Whether it reached what is accepted, or is not judged. */
static bool report(struct calls *calls, size_t memory_bytes, const struct lab_copies *copies)
{
    double us, bytes = measure(calls, memory_bytes, &us), rate = bytes / us * 1e6;
    double share = rate / copies->best;
    bool judged = bytes >= judged_bytes, ok = !judged || share >= accepted;
    if (calls->row.lab->tiny) {
        printf("ran %s of %u\n", calls->kernel->name, calls->row.samples);
        return true;
    }
    printf("| %s | %u x %s | %.2f | %.0f | %.1f | %.0f %% | %s |\n", calls->kernel->name,
           calls->row.samples, calls->kernel->shape, us, bytes, rate * 1e-9, share * 100,
           !judged ? "-"
           : ok    ? "yes"
                   : "NO");
    return ok;
}

static unsigned report_all(struct lab *lab, size_t memory_bytes, const struct lab_copies *copies)
{
    static const uint32_t usual[] = {8192, 65536}, tiny[] = {5, 16};
    const uint32_t *batch = lab->tiny ? tiny : usual;
    unsigned missed = 0;
    struct calls calls = {.memory = lab_memory(lab, memory_bytes)};
    if (!lab->tiny)
        printf("\n| kernel | shape | microseconds | bytes | GB/s | of copy | 70 %% |\n"
               "| --- | --- | --- | --- | --- | --- | --- |\n");
    for (size_t k = 0; k < sizeof kernels / sizeof kernels[0]; k++)
        for (uint32_t b = 0; b < (kernels[k].elements ? 1 : 2); b++) {
            uint32_t elements = lab->tiny ? 4096 : kernels[k].elements;
            calls.kernel = &kernels[k];
            calls.row = (struct row){.lab = lab,
                                     .samples = kernels[k].elements ? elements : batch[b],
                                     .dim = lab->tiny ? 8 : 128,
                                     .wide = lab->tiny ? 16 : 1024};
            missed += !report(&calls, memory_bytes, copies);
            fflush(stdout);
        }
    lab_check(cudaFree(calls.memory), "free");
    return missed;
}

int main(void)
{
    struct lab lab;
    lab_open(&lab, "kernels");
    struct lab_copies copies = lab_copies(&lab);
    if (!lab.tiny)
        printf("copy of 1 GiB within the device, read and written: cudaMemcpyAsync %.0f GB/s, a "
               "kernel "
               "%.0f GB/s\n",
               copies.memcpy * 1e-9, copies.kernel * 1e-9);
    unsigned missed = report_all(&lab, lab.tiny ? 32 << 20 : (size_t)6 << 30, &copies);
    if (!lab.tiny)
        printf("figure kernels_below_70_percent %u\n", missed);
    lab_close(&lab);
    return 0;
}
