/* tests/gpu/test_products.c -- matrix products of the device: trainer/backend/cuda/linear.c and what it is made of.
 *
 * Tolerances. float32: sums over up to 400 products of values below 1, in another order than the truth's float64: 1e-5 relative + 4e-5. bfloat16:
 * the truth rounds the same operands, so the same; but a bias gradient is the sum of rounded values: 2^-8 sqrt(samples) more.
 * TF32: operands of 10 bits: 2^-9 sqrt(terms). Hidden tensors are rounded where the truth's are not, before biases and gradients of
 * activations: compared by the norm of the difference, 2 % of the truth's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "tests/gpu/bed.h"
#include "trainer/backend/cuda/products.h"

static const enum tr_act_kind acts[] = {TR_ACT_NONE,    TR_ACT_RELU, TR_ACT_GELU,
                                        TR_ACT_SIGMOID, TR_ACT_TANH, TR_ACT_PRELU};
#define ACTS (sizeof acts / sizeof *acts)

struct shape {
    uint32_t samples, inputs, outputs;
    uint32_t x_gap, y_gap; /* floats between rows */
    bool bias, z, add;
};
static const struct shape shapes[] = {
    {1, 1, 1, 0, 0, true, false, false},    {37, 13, 24, 3, 0, true, false, false},
    {150, 64, 32, 0, 0, true, false, true}, {37, 40, 17, 1, 2, false, true, false},
    {64, 8, 128, 8, 8, true, true, true},   {5, 129, 3, 2, 1, false, false, true},
    {300, 33, 1, 0, 4, true, false, false}, {1, 24, 40, 0, 0, true, false, false},
    {37, 31, 1, 2, 0, true, true, true},    {130, 24, 1, 0, 0, false, false, false},
};
#define SHAPES (sizeof shapes / sizeof *shapes)

static void prepare(struct bed *bed, uint32_t precision, struct bed_tensor params)
{
    struct tr_space space = {.precision = precision,
                             .params = params.device,
                             .n_params = params.n,
                             .rows = 1,
                             .columns = 1};
    bed->truth.precision = precision;
    bed_ok(bed, bed->gpu.ops->prepare(&bed->gpu, &space));
    bed->gpu.precision = precision;
    bed->gpu.ops->begin(&bed->gpu);
}

static void finish(struct bed *bed)
{
    bed->gpu.ops->release(&bed->gpu);
    bed->truth.precision = bed->gpu.precision = RT_DTYPE_F32;
}

/* ---- one product ---- */

struct tensors {
    struct bed_tensor params, x, y, z, dy, dx, dw, db, slope;
    size_t at; /* of w among the parameters */
};

static struct tensors make(struct bed *bed, const struct shape *shape)
{
    size_t samples = shape->samples, x = samples * (shape->inputs + shape->x_gap);
    size_t y = samples * (shape->outputs + shape->y_gap),
           w = (size_t)shape->outputs * shape->inputs;
    struct tensors t = {.at = bed_below(bed, 2) ? 16 : 3};
    t.params = bed_random(bed, t.at + w + shape->outputs + 7, -1, 1);
    t.x = bed_random(bed, x, -1, 1);
    t.dy = bed_random(bed, y, -1, 1);
    t.slope = bed_random(bed, shape->outputs, -1, 1);
    t.y = bed_poison(bed, y);
    t.z = bed_poison(bed, y);
    t.dx = shape->add ? bed_random(bed, x, -1, 1) : bed_poison(bed, x);
    t.dw = shape->add ? bed_random(bed, w, -1, 1) : bed_poison(bed, w);
    t.db = shape->add ? bed_random(bed, shape->outputs, -1, 1) : bed_poison(bed, shape->outputs);
    return t;
}

static struct tr_linear forward_of(const struct shape *shape, const struct tensors *t,
                                   enum tr_act_kind act, bool device)
{
#define AT(tensor) (device ? t->tensor.device : t->tensor.host)
    size_t b = t->at + (size_t)shape->outputs * shape->inputs;
    return (struct tr_linear){
        .samples = shape->samples,
        .inputs = shape->inputs,
        .outputs = shape->outputs,
        .x = AT(x),
        .w = AT(params) + t->at,
        .b = shape->bias ? AT(params) + b : NULL,
        .x_stride = shape->inputs + shape->x_gap,
        .y_stride = shape->outputs + shape->y_gap,
        .z_stride = shape->outputs + shape->y_gap,
        .act = act,
        .slope = AT(slope),
        .z = shape->z && act != TR_ACT_NONE ? AT(z) : NULL,
        .y = AT(y),
    };
}

static struct tr_linear_grad backward_of(const struct shape *shape, const struct tensors *t,
                                         bool device)
{
    return (struct tr_linear_grad){
        .samples = shape->samples,
        .inputs = shape->inputs,
        .outputs = shape->outputs,
        .x = AT(x),
        .w = AT(params) + t->at,
        .dy = AT(dy),
        .x_stride = shape->inputs + shape->x_gap,
        .dy_stride = shape->outputs + shape->y_gap,
        .dx_stride = shape->inputs + shape->x_gap,
        .dw = AT(dw),
        .db = shape->bias ? AT(db) : NULL,
        .add_params = shape->add,
        .dx = AT(dx),
        .add_dx = shape->add,
    };
#undef AT
}

static void one_product(struct bed *bed, const struct shape *shape, enum tr_act_kind act,
                        uint32_t precision, double loose)
{
    struct tensors t = make(bed, shape);
    double off = 4e-5 + loose * sqrt(shape->inputs + shape->outputs + shape->samples);
    double off_bias = off + (precision == RT_DTYPE_BF16 ? sqrt(shape->samples) / 256 : 0);
    prepare(bed, precision, t.params);
    struct tr_linear host = forward_of(shape, &t, act, false);
    struct tr_linear device = forward_of(shape, &t, act, true);
    bed_ok(bed, bed->truth.ops->linear_forward(&bed->truth, &host));
    bed_ok(bed, bed->gpu.ops->linear_forward(&bed->gpu, &device));
    bed_compare(bed, "y", t.y, 1e-5, off);
    bed_compare(bed, "z", t.z, 1e-5, off);
    struct tr_linear_grad host_grad = backward_of(shape, &t, false);
    struct tr_linear_grad device_grad = backward_of(shape, &t, true);
    bed_ok(bed, bed->truth.ops->linear_backward(&bed->truth, &host_grad));
    bed_ok(bed, bed->gpu.ops->linear_backward(&bed->gpu, &device_grad));
    bed_compare(bed, "dw", t.dw, 1e-5, off);
    bed_compare(bed, "db", t.db, 1e-5, off_bias);
    bed_compare(bed, "dx", t.dx, 1e-5, off);
    finish(bed);
}

static void all_products(struct bed *bed, uint32_t precision, double loose)
{
    for (size_t i = 0; i < SHAPES; i++)
        one_product(bed, &shapes[i], acts[i % ACTS], precision, loose);
    for (size_t a = 0; a < ACTS; a++)
        one_product(bed, &shapes[a % 2 ? 1 : 4], acts[a], precision, loose);
}

static void test_float32(struct bed *bed)
{
    all_products(bed, RT_DTYPE_F32, 0);
}

static void test_bfloat16(struct bed *bed)
{
    all_products(bed, RT_DTYPE_BF16, 0);
}

static void test_tf32(struct bed *bed)
{
    bed->cuda.tf32 = true;
    all_products(bed, RT_DTYPE_F32, 1.0 / 512);
    bed->cuda.tf32 = false;
}

/* Without prepare, as float32 may be. */
static void test_unprepared(struct bed *bed)
{
    struct tensors t = make(bed, &shapes[1]);
    struct tr_linear host = forward_of(&shapes[1], &t, TR_ACT_RELU, false);
    struct tr_linear device = forward_of(&shapes[1], &t, TR_ACT_RELU, true);
    bed->gpu.ops->begin(&bed->gpu);
    bed_ok(bed, bed->truth.ops->linear_forward(&bed->truth, &host));
    bed_ok(bed, bed->gpu.ops->linear_forward(&bed->gpu, &device));
    bed_compare(bed, "y", t.y, 1e-5, 4e-5);
    finish(bed);
}

/* ---- three products, the tensors between them hidden ---- */

#define LAYERS 3
static const uint32_t widths[LAYERS + 1] = {20, 40, 24, 9};

struct chain {
    uint32_t samples;
    enum tr_act_kind act;
    bool add_params;
    struct bed_tensor params, slope[LAYERS], x, y[LAYERS], z[LAYERS], dy[LAYERS], dx, grads,
        dslope[LAYERS];
    size_t w[LAYERS], b[LAYERS]; /* where they are in params and grads */
};

/* To bfloat16: a bias that is rounded on one side only turns relu of what is next to 0 on or off, and a whole gradient with it. */
static void round_values(struct bed *bed, struct bed_tensor t, size_t from, size_t n)
{
    for (size_t i = from; i < from + n; i++) {
        uint32_t bits;
        memcpy(&bits, &t.host[i], sizeof bits);
        bits &= 0xffff0000;
        memcpy(&t.host[i], &bits, sizeof bits);
    }
    bed_upload(bed, t);
}

static struct chain make_chain(struct bed *bed, uint32_t samples, enum tr_act_kind act, bool add)
{
    struct chain c = {.samples = samples, .act = act, .add_params = add};
    size_t n = 0;
    for (uint32_t l = 0; l < LAYERS; l++) {
        c.w[l] = n;
        n += (size_t)widths[l] * widths[l + 1];
        c.b[l] = n;
        n += widths[l + 1];
        c.slope[l] = bed_random(bed, widths[l + 1], 0, 1);
        c.dslope[l] = bed_random(bed, widths[l + 1], 0, 1);
        c.y[l] = bed_poison(bed, (size_t)samples * widths[l + 1]);
        c.z[l] = bed_poison(bed, (size_t)samples * widths[l + 1]);
        c.dy[l] = l == LAYERS - 1 ? bed_random(bed, (size_t)samples * widths[l + 1], -1, 1)
                                  : bed_poison(bed, (size_t)samples * widths[l + 1]);
    }
    c.params = bed_random(bed, n, -0.4f, 0.4f);
    for (uint32_t l = 0; l < LAYERS; l++)
        round_values(bed, c.params, c.b[l], widths[l + 1]);
    c.grads = add ? bed_random(bed, n, -1, 1) : bed_poison(bed, n);
    c.x = bed_random(bed, (size_t)samples * widths[0], -1, 1);
    c.dx = bed_poison(bed, (size_t)samples * widths[0]);
    return c;
}

static int chain_forward(struct tr_backend *backend, const struct chain *c, bool device)
{
#define AT(tensor) (device ? (tensor).device : (tensor).host)
    int err = 0;
    for (uint32_t l = 0; !err && l < LAYERS; l++) {
        struct tr_linear op = {
            .samples = c->samples,
            .inputs = widths[l],
            .outputs = widths[l + 1],
            .x = l ? AT(c->y[l - 1]) : AT(c->x),
            .w = AT(c->params) + c->w[l],
            .b = AT(c->params) + c->b[l],
            .x_stride = widths[l],
            .y_stride = widths[l + 1],
            .z_stride = widths[l + 1],
            .act = l < LAYERS - 1 ? c->act : TR_ACT_NONE,
            .slope = AT(c->slope[l]),
            .z = l < LAYERS - 1 && tr_act_keeps_x(c->act) ? AT(c->z[l]) : NULL,
            .y = AT(c->y[l]),
            .x_hidden = l > 0,
            .y_hidden = l < LAYERS - 1,
        };
        err = backend->ops->linear_forward(backend, &op);
    }
    return err;
}

static int chain_act_backward(struct tr_backend *backend, const struct chain *c, uint32_t l,
                              bool device)
{
    struct tr_act_grad op = {
        .samples = c->samples,
        .columns = widths[l + 1],
        .kind = c->act,
        .x = AT(c->z[l]),
        .y = AT(c->y[l]),
        .slope = AT(c->slope[l]),
        .stride = widths[l + 1],
        .dy_stride = widths[l + 1],
        .dy = AT(c->dy[l]),
        .dslope = AT(c->dslope[l]),
        .add_params = c->add_params,
        .hidden = true,
    };
    return backend->loops->act_backward(backend, &op);
}

static int chain_backward(struct tr_backend *backend, const struct chain *c, bool device)
{
    int err = 0;
    for (uint32_t l = LAYERS; !err && l-- > 0;) {
        struct tr_linear_grad op = {
            .samples = c->samples,
            .inputs = widths[l],
            .outputs = widths[l + 1],
            .x = l ? AT(c->y[l - 1]) : AT(c->x),
            .w = AT(c->params) + c->w[l],
            .dy = AT(c->dy[l]),
            .x_stride = widths[l],
            .dy_stride = widths[l + 1],
            .dx_stride = widths[l],
            .dw = AT(c->grads) + c->w[l],
            .db = AT(c->grads) + c->b[l],
            .add_params = c->add_params,
            .dx = l ? AT(c->dy[l - 1]) : AT(c->dx),
            .x_hidden = l > 0,
            .dy_hidden = l<LAYERS - 1, .dx_hidden = l> 0,
        };
        if (l < LAYERS - 1 && c->act != TR_ACT_NONE)
            err = chain_act_backward(backend, c, l, device);
        if (!err)
            err = backend->ops->linear_backward(backend, &op);
    }
    return err;
#undef AT
}

/* By the norm of the difference. */
static void near(struct bed *bed, const char *what, enum tr_act_kind act, struct bed_tensor t)
{
    float *got = malloc(t.n * sizeof *got);
    double off = 0, all = 0;
    bed_download(bed, got, t.device, t.n * sizeof *got);
    for (size_t i = 0; i < t.n; i++) {
        double by = (double)got[i] - t.host[i];
        off += by * by;
        all += (double)t.host[i] * t.host[i];
    }
    bed_check(bed, sqrt(off) <= 0.02 * sqrt(all), "%s, activation %d: %g off of %g", what, (int)act,
              sqrt(off), sqrt(all));
    free(got);
}

/* Hidden: the device's float32 memory is as it was. */
static void untouched(struct bed *bed, const char *what, struct bed_tensor t,
                      struct bed_tensor poison)
{
    uint32_t *got = malloc(t.n * sizeof *got), pattern;
    bed_download(bed, got, t.device, t.n * sizeof *got);
    memcpy(&pattern, poison.host, sizeof pattern);
    bool same = true;
    for (size_t i = 0; i < t.n; i++)
        same = same && got[i] == pattern;
    bed_check(bed, same, "%s: hidden, and written", what);
    free(got);
}

static void one_chain(struct bed *bed, uint32_t samples, enum tr_act_kind act, bool add)
{
    struct chain c = make_chain(bed, samples, act, add);
    struct bed_tensor poison = bed_poison(bed, 1);
    prepare(bed, RT_DTYPE_BF16, c.params);
    bed_ok(bed, chain_forward(&bed->truth, &c, false));
    bed_ok(bed, chain_backward(&bed->truth, &c, false));
    bed_ok(bed, chain_forward(&bed->gpu, &c, true));
    bed_ok(bed, chain_backward(&bed->gpu, &c, true));
    near(bed, "y", act, c.y[LAYERS - 1]);
    near(bed, "gradients", act, c.grads);
    near(bed, "dx", act, c.dx);
    for (uint32_t l = 0; l < LAYERS - 1; l++) {
        untouched(bed, "y", c.y[l], poison);
        untouched(bed, "dy", c.dy[l], poison);
        if (act == TR_ACT_PRELU)
            near(bed, "dslope", act, c.dslope[l]);
    }
    finish(bed);
}

static void test_hidden(struct bed *bed)
{
    for (size_t a = 0; a < ACTS; a++) {
        one_chain(bed, 37, acts[a], false);
        one_chain(bed, 80, acts[a], true);
    }
    one_chain(bed, 1, TR_ACT_RELU, false);
}

#ifdef TR_EMULATED
/* A library that has fewer epilogues: masks, then sums of a side, then none at all. */
static void test_refused(struct bed *bed)
{
    static const uint32_t refused[] = {128, CUBLASLT_EPILOGUE_BGRADB, CUBLASLT_EPILOGUE_RELU, ~0u};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        emulated_lt_refused = refused[i];
        one_chain(bed, 37, TR_ACT_RELU, false);
        one_chain(bed, 37, TR_ACT_TANH, false);
        for (size_t s = 1; s < SHAPES; s += 4) {
            one_product(bed, &shapes[s], TR_ACT_RELU, RT_DTYPE_F32, 0);
            one_product(bed, &shapes[s], TR_ACT_RELU, RT_DTYPE_BF16, 0);
        }
    }
    emulated_lt_refused = 0;
}
#endif

/* ---- passes ---- */

static void whole_pass(struct bed *bed, const struct chain *c)
{
    bed->gpu.ops->begin(&bed->gpu);
    bed_ok(bed, chain_forward(&bed->gpu, c, true));
    bed_ok(bed, chain_backward(&bed->gpu, c, true));
}

/* The second pass takes what the first one made; so does a smaller batch after it; and it is of the values that are there then. */
static void test_passes(struct bed *bed)
{
    struct chain c = make_chain(bed, 64, TR_ACT_RELU, false);
    prepare(bed, RT_DTYPE_BF16, c.params);
    whole_pass(bed, &c);
    c.samples = 50;
    whole_pass(bed, &c);
    c.samples = 64;
    uint64_t allocations = bed->cuda.allocations;
#ifdef TR_EMULATED
    uint64_t heuristics = emulated_lt_heuristics;
#endif
    for (size_t i = 0; i < c.params.n; i++)
        c.params.host[i] *= -0.5f;
    for (size_t i = 0; i < c.x.n; i++)
        c.x.host[i] *= 0.75f;
    bed_upload(bed, c.params);
    bed_upload(bed, c.x);
    whole_pass(bed, &c);
    bed_ok(bed, chain_forward(&bed->truth, &c, false));
    bed_ok(bed, chain_backward(&bed->truth, &c, false));
    near(bed, "y", c.act, c.y[LAYERS - 1]);
    near(bed, "gradients", c.act, c.grads);
    near(bed, "dx", c.act, c.dx);
    bed_check(bed, bed->cuda.allocations == allocations, "a pass after the warm-up allocated");
#ifdef TR_EMULATED
    bed_check(bed, emulated_lt_heuristics == heuristics,
              "a pass after the warm-up asked for algorithms");
#endif
    finish(bed);
}

/* An x is cast where it is read first: backward does not look at it. */
static void test_one_cast(struct bed *bed)
{
    const struct shape *shape = &shapes[2];
    struct tensors t = make(bed, shape);
    prepare(bed, RT_DTYPE_BF16, t.params);
    struct tr_linear device = forward_of(shape, &t, TR_ACT_NONE, true);
    bed_ok(bed, bed->gpu.ops->linear_forward(&bed->gpu, &device));
    struct tr_linear_grad host_grad = backward_of(shape, &t, false);
    struct tr_linear_grad device_grad = backward_of(shape, &t, true);
    bed_ok(bed, bed->truth.ops->linear_backward(&bed->truth, &host_grad));
    memset(t.x.host, 0xff, t.x.n * sizeof *t.x.host);
    bed_upload(bed, t.x);
    bed_ok(bed, bed->gpu.ops->linear_backward(&bed->gpu, &device_grad));
    bed_compare(bed, "dw", t.dw, 1e-5, 4e-5);
    finish(bed);
}

/* A graph that was recorded is a pass that can be played again, of what its tensors are then. */
static void test_recorded(struct bed *bed)
{
    struct chain c = make_chain(bed, 48, TR_ACT_RELU, false);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t played = NULL;
    prepare(bed, RT_DTYPE_BF16, c.params);
    whole_pass(bed, &c);
    bed_ok(bed, cudaStreamBeginCapture(bed->cuda.compute, cudaStreamCaptureModeThreadLocal));
    bed->cuda.capturing = true;
    whole_pass(bed, &c);
    bed->cuda.capturing = false;
    bed_ok(bed, cudaStreamEndCapture(bed->cuda.compute, &graph));
    bed_ok(bed, cudaGraphInstantiate(&played, graph, 0));
    for (size_t i = 0; i < c.params.n; i++)
        c.params.host[i] *= 0.5f;
    bed_upload(bed, c.params);
    bed_ok(bed, cudaGraphLaunch(played, bed->cuda.compute));
    bed_ok(bed, chain_forward(&bed->truth, &c, false));
    bed_ok(bed, chain_backward(&bed->truth, &c, false));
    near(bed, "y", c.act, c.y[LAYERS - 1]);
    near(bed, "gradients", c.act, c.grads);
    near(bed, "dx", c.act, c.dx);
    bed_ok(bed, cudaGraphExecDestroy(played));
    bed_ok(bed, cudaGraphDestroy(graph));
    finish(bed);
}

/* Exact mode: from anew, the same bits; and none of an algorithm that adds in place. */
static void test_pinned(struct bed *bed)
{
    static const struct shape shape = {50, 96, 32, 0, 0, false, false, false};
    struct tensors t = make(bed, &shape);
    float first[50 * 32], second[50 * 32];
    struct tr_linear op = forward_of(&shape, &t, TR_ACT_NONE, true);
    bed->cuda.pinned = true;
    prepare(bed, RT_DTYPE_F32, t.params);
    bed_ok(bed, bed->gpu.ops->linear_forward(&bed->gpu, &op));
    bed_download(bed, first, t.y.device, sizeof first);
    finish(bed);
    prepare(bed, RT_DTYPE_F32, t.params);
    bed_ok(bed, bed->gpu.ops->linear_forward(&bed->gpu, &op));
    bed_download(bed, second, t.y.device, sizeof second);
    finish(bed);
    bed->cuda.pinned = false;
    for (uint32_t i = 0; i < 50 * 32; i++)
        bed_check(bed, first[i] == second[i], "element %u: two choices, other bits", i);
#ifdef TR_EMULATED
    for (uint32_t i = 0; i < 50 * 32; i++) {
        float sum = 0;
        for (uint32_t k = 0; k < 96; k++)
            sum += t.params.host[t.at + (i % 32) * 96 + k] * t.x.host[i / 32 * 96 + k];
        bed_check(bed, sum == first[i], "element %u is not added up in one piece", i);
    }
#endif
}

/* What cannot be: a hidden tensor that nobody made. */
static void test_hidden_unmade(struct bed *bed)
{
    struct tensors t = make(bed, &shapes[2]);
    prepare(bed, RT_DTYPE_BF16, t.params);
    struct tr_linear op = forward_of(&shapes[2], &t, TR_ACT_NONE, true);
    op.x_hidden = true;
    bed_check(bed, bed->gpu.ops->linear_forward(&bed->gpu, &op) != 0, "no error");
    finish(bed);
}

int main(void)
{
    static const struct bed_test tests[] = {
        {"float32", test_float32},
        {"bfloat16", test_bfloat16},
        {"tf32", test_tf32},
        {"unprepared", test_unprepared},
        {"hidden", test_hidden},
#ifdef TR_EMULATED
        {"refused", test_refused},
#endif
        {"passes", test_passes},
        {"one_cast", test_one_cast},
        {"recorded", test_recorded},
        {"pinned", test_pinned},
        {"hidden_unmade", test_hidden_unmade},
    };
    return bed_main("products", tests, sizeof tests / sizeof *tests);
}
