/* tests/unit/test_device.c -- whole models on a device beside the CPU's: every kind of layer and loss, forward and backward, in passes that run as
 * they are, are recorded, and are played; all types of what is sent and of products; optimizers.
 *
 * The device is the emulated one (tests/gpu/emulated/), in a library as the trainer loads it; with SAFFRON_GPU_LIBRARY it is another, for example a GPU's:
 * tests/gpu/bare.mk builds this program too, and run_all.sh runs it so. SAFFRON_TEST_STEPS: for how many steps memory has to stay flat (200). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "tests/lib/emulated_gpu.h"
#include "tests/unit/networks.inc.h"
#include "trainer/backend/gpu.h"
#include "trainer/optimizer.h"

static struct tr_device_of device; /* what is allocated there stays until it is closed */

/* What a network is computed in, and how near the device has to come. */
struct kind {
    const char *name;
    uint32_t precision, features, gradients;
    double relative, absolute;
};
static const struct kind kinds[] = {
    {"float32", RT_DTYPE_F32, RT_DTYPE_F32, RT_DTYPE_F32, 2e-4, 2e-6},
    {"16 bits sent", RT_DTYPE_F32, RT_DTYPE_BF16, RT_DTYPE_F16, 2e-3, 2e-6},
    {"bfloat16", RT_DTYPE_BF16, RT_DTYPE_F16, RT_DTYPE_BF16, 3e-2, 3e-3},
};

/* Of a model. */
struct side {
    struct tr_model *model;
    char grad[FEATURES][SAMPLES * WIDTH_MAX * sizeof(float)];
    struct tr_feature_grad to[FEATURES];
    float score[SAMPLES * 8], logit[SAMPLES];
    struct tr_forward_out out;
    const struct tr_rider *rider; /* of the next batch */
};

/* A batch in the types that are sent. */
struct sent {
    struct bed bed;
    uint16_t half[FEATURES][SAMPLES * WIDTH_MAX];
    const void *feature[FEATURES];
};

static void send(struct sent *sent, const struct kind *kind)
{
    bed_init(&sent->bed);
    for (uint32_t f = 0; f < FEATURES; f++) {
        size_t n = ARRAY_LEN(sent->half[f]);
        sent->feature[f] = sent->bed.feature[f];
        if (kind->features == RT_DTYPE_F32)
            continue;
        rt_narrow(kind->features, sent->bed.feature[f], sent->half[f], n);
        sent->feature[f] = sent->half[f];
    }
}

static void make(struct side *side, const char *network, const struct kind *kind, bool on_device)
{
    struct tr_spec *spec = spec_of(network);
    struct tr_model_conf conf = {.seed = 5,
                                 .samples_max = SAMPLES,
                                 .backend = "reference",
                                 .precision = kind->precision,
                                 .feature_dtype = kind->features,
                                 .feature_grad_dtype = kind->gradients};
    if (on_device) {
        conf.gpu = device.gpu;
        conf.cuda = device.cuda;
    }
    memset(side, 0, sizeof *side);
    if (tr_model_create(spec, &bed_inputs, &conf, &side->model))
        fail_msg("%s: %s", network, rt_err_text());
    tr_spec_destroy(spec);
    bed_move_params(side->model);
    for (uint32_t f = 0; f < FEATURES; f++)
        side->to[f].out = side->grad[f];
}

static void train(struct side *side, const struct sent *sent, uint32_t samples, uint64_t draw)
{
    const struct bed *bed = &sent->bed;
    struct tr_batch_view view = {.samples = samples,
                                 .dense = bed->dense,
                                 .feature = sent->feature,
                                 .sequence = bed->sequence,
                                 .labels = bed->label,
                                 .weight = draw % 2 ? bed->weight : NULL,
                                 .draw = draw,
                                 .rider = side->rider};
    side->out = (struct tr_forward_out){.logit = side->logit, .score = side->score};
    if (draw % 3 == 0 && tr_model_stage(side->model, &view) != 0)
        fail_msg("%s", rt_err_text());
    if (tr_model_train(side->model, &view, 2 * samples, side->to, &side->out) != 0)
        fail_msg("%s", rt_err_text());
    assert_int_equal(tr_model_fetch_grads(side->model), 0);
}

/* ---- comparing ---- */

static void compare(const char *network, const struct kind *kind, const char *what, size_t i,
                    double got, double want, double scale)
{
    if (!(fabs(got - want) <= kind->relative * fmax(fabs(want), scale) + kind->absolute))
        fail_msg("%s, %s: %s[%zu]: got %.9g, want %.9g", network, kind->name, what, i, got, want);
}

/* Against the largest of all: sums of what cancels out are as exact as what they are of. */
static void compare_all(const char *network, const struct kind *kind, const char *what,
                        const float *got, const float *want, size_t n)
{
    double largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(want[i]));
    for (size_t i = 0; i < n; i++)
        compare(network, kind, what, i, got[i], want[i], largest);
}

static void widen_grad(const struct side *side, const struct kind *kind, uint32_t f, float *to,
                       size_t n)
{
    if (kind->gradients == RT_DTYPE_F32)
        memcpy(to, side->grad[f], n * sizeof *to);
    else
        rt_widen(kind->gradients, (const void *)side->grad[f], to, n);
    for (size_t i = 0; i < n; i++)
        to[i] /= side->to[f].scale;
}

static void compare_sides(const char *network, const struct kind *kind, const struct side *a,
                          const struct side *b, uint32_t samples)
{
    static float got[SAMPLES * WIDTH_MAX], want[SAMPLES * WIDTH_MAX];
    uint32_t columns = tr_model_score_columns(b->model);
    compare(network, kind, "loss", 0, a->out.loss_sum, b->out.loss_sum, 0);
    assert_true(a->out.finite && b->out.finite);
    compare_all(network, kind, "score", a->score, b->score, (size_t)samples * columns);
    compare_all(network, kind, "logit", a->logit, b->logit, samples);
    for (uint32_t f = 0; f < FEATURES; f++) {
        size_t n = (size_t)(lengths[f] ? ROWS : samples) * dims[f];
        widen_grad(a, kind, f, got, n);
        widen_grad(b, kind, f, want, n);
        compare_all(network, kind, names[f], got, want, n);
    }
    size_t n;
    const struct tr_param *tensor = tr_model_tensors(b->model, &n);
    for (size_t t = 0; t < n; t++)
        compare_all(network, kind, tensor[t].name, tr_model_grads(a->model) + tensor[t].offset,
                    tr_model_grads(b->model) + tensor[t].offset, tensor[t].count);
}

/* ---- networks ---- */

static void check_network(const char *network, const struct kind *kind)
{
    /* Run as it is, recorded, played; short batches between; with weights or without, staged or not. */
    static const struct {
        uint32_t samples;
        uint64_t draw;
    } batches[] = {{SAMPLES, 1}, {1, 2}, {SAMPLES, 3}, {57, 5}, {SAMPLES, 7}, {SAMPLES, 9}};
    static struct side gpu, cpu;
    static struct sent sent;
    emulated_gpu_open(0, &device);
    send(&sent, kind);
    make(&gpu, network, kind, true);
    make(&cpu, network, kind, false);
    for (size_t i = 0; i < ARRAY_LEN(batches); i++) {
        train(&gpu, &sent, batches[i].samples, batches[i].draw);
        train(&cpu, &sent, batches[i].samples, batches[i].draw);
        compare_sides(network, kind, &gpu, &cpu, batches[i].samples);
    }
    tr_model_destroy(gpu.model);
    tr_model_destroy(cpu.model);
    tr_gpu_close(&device);
}

/* Of the networks one in so many. */
static void check_networks(const struct kind *kind, size_t each)
{
    char text[400];
    for (size_t i = 0; i < ARRAY_LEN(networks); i += each) {
        snprintf(text, sizeof text, "%s; logit linear x size=1; loss bce logit label=y",
                 networks[i]);
        check_network(text, kind);
    }
    for (size_t i = 0; i < ARRAY_LEN(heads); i++)
        check_network(heads[i], kind);
}

static void test_float32(void **state)
{
    (void)state;
    check_networks(&kinds[0], 1);
}

static void test_sent_in_16_bits(void **state)
{
    (void)state;
    check_networks(&kinds[1], 4);
}

static void test_bfloat16(void **state)
{
    (void)state;
    check_networks(&kinds[2], 3);
}

/* ---- steps ---- */

static const char deep[] = "m concat a b dense; n mlp m sizes=9,7 activation=relu last=relu; logit "
                           "linear n size=1; loss bce logit label=y";

static void make_optimizer(const struct side *side, const char *name, bool on_device,
                           struct tr_optimizer **out)
{
    struct tr_optimizer_conf conf;
    assert_int_equal(tr_optimizer_defaults(name, &conf), 0);
    conf.clip_norm = 0.05;
    conf.weight_decay = 0.01;
    assert_int_equal(tr_optimizer_create(&conf, tr_model_count(side->model), out), 0);
    if (on_device)
        assert_int_equal(tr_optimizer_to_device(*out, device.gpu, device.cuda), 0);
}

static void step(struct side *side, struct tr_optimizer *optimizer)
{
    float *grads;
    float *params;
    assert_int_equal(tr_model_vectors(side->model, &grads, &params), 0);
    assert_int_equal(tr_optimizer_step(optimizer, 0.05, grads, params), 0);
    tr_model_stepped(side->model);
}

/* A batch, and a step where it is finite. */
static void train_and_step(struct side *side, const struct sent *sent, uint64_t draw,
                           struct tr_optimizer *optimizer, bool rides)
{
    struct tr_rider rider;
    uint64_t steps = tr_optimizer_steps(optimizer);
    bool on_device = tr_optimizer_rider(optimizer, 0.05, &rider);
    side->rider = rides && on_device ? &rider : NULL;
    train(side, sent, SAMPLES, draw);
    if (side->rider && side->out.finite)
        assert_int_equal(tr_optimizer_rode(optimizer), 0);
    else if (side->out.finite)
        step(side, optimizer);
    assert_int_equal(tr_optimizer_steps(optimizer), steps + side->out.finite);
}

/* Twenty batches; in the midst weights and state are read and written by the host, and some batches are not finite. */
static void check_steps(const char *name, bool rides)
{
    static struct side side[2];
    static struct sent sent;
    struct tr_optimizer *optimizer[2];
    uint64_t allocated = 0;
    emulated_gpu_open(0, &device);
    send(&sent, &kinds[0]);
    for (uint32_t k = 0; k < 2; k++) {
        make(&side[k], deep, &kinds[0], k);
        make_optimizer(&side[k], name, k, &optimizer[k]);
    }
    for (uint32_t i = 0; i < 20; i++) {
        sent.bed.feature[1][40] = i % 6 == 5 ? NAN : 1;
        for (uint32_t k = 0; k < 2; k++) {
            train_and_step(&side[k], &sent, 2 * i + 1, optimizer[k], rides);
            assert_int_equal(side[k].out.finite, i % 6 != 5);
            size_t count;
            float *slots = i % 7 == 4 ? tr_optimizer_state(optimizer[k], &count) : NULL;
            if (i % 7 == 3)
                tr_model_params(side[k].model)[i] = 0.25f;
            if (slots && count > i)
                slots[i] = 0.5f;
        }
        if (i == 4)
            allocated = device.gpu->allocations(device.cuda);
    }
    assert_int_equal(device.gpu->allocations(device.cuda), allocated);
    compare_all(deep, &kinds[0], name, tr_model_params(side[1].model),
                tr_model_params(side[0].model), tr_model_count(side[0].model));
    compare(deep, &kinds[0], name, rides, tr_optimizer_grad_norm(optimizer[1]),
            tr_optimizer_grad_norm(optimizer[0]), 0);
    for (uint32_t k = 0; k < 2; k++) {
        tr_optimizer_destroy(optimizer[k]);
        tr_model_destroy(side[k].model);
    }
    tr_gpu_close(&device);
}

static void test_steps(void **state)
{
    static const char *const optimizers[] = {"sgd", "adagrad", "adam", "adamw", "lamb"};
    (void)state;
    for (size_t o = 0; o < ARRAY_LEN(optimizers); o++) {
        check_steps(optimizers[o], false);
        check_steps(optimizers[o], true);
    }
}

/* Bytes of ours that are in memory. */
static size_t resident(void)
{
    unsigned long whole = 0, here = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_true(file && fscanf(file, "%lu %lu", &whole, &here) == 2);
    fclose(file);
    return here * (size_t)sysconf(_SC_PAGESIZE);
}

/* Nothing is allocated in a step, there or here: after a tenth of the steps memory grows no more. */
static void test_flat(void **state)
{
    static struct side gpu;
    static struct sent sent;
    struct tr_optimizer *optimizer;
    const char *asked = getenv("SAFFRON_TEST_STEPS");
    unsigned long steps = asked ? strtoul(asked, NULL, 10) : 200;
    size_t before = 0;
    uint64_t allocated = 0;
    (void)state;
    emulated_gpu_open(0, &device);
    send(&sent, &kinds[2]);
    make(&gpu, deep, &kinds[2], true);
    make_optimizer(&gpu, "adam", true, &optimizer);
    for (unsigned long i = 0; i < steps; i++) {
        if (i == steps / 10) {
            before = resident();
            allocated = device.gpu->allocations(device.cuda);
        }
        train_and_step(&gpu, &sent, i, optimizer, i % 5 > 0);
    }
    size_t after = resident();
    printf("%lu steps: %zu bytes resident after a tenth of them, %zu at the end\n", steps, before,
           after);
    assert_true(steps >= 100 && after < before + (1u << 20));
    assert_int_equal(device.gpu->allocations(device.cuda), allocated);
    tr_optimizer_destroy(optimizer);
    tr_model_destroy(gpu.model);
    tr_gpu_close(&device);
}

/* One value that a batch brings is no number, in every other batch. */
static void check_not_finite(const char *network, const struct kind *kind, bool in_feature)
{
    static struct side gpu;
    static struct sent sent;
    emulated_gpu_open(0, &device);
    make(&gpu, network, kind, true);
    for (uint32_t i = 0; i < 6; i++) {
        float value = i % 2 ? NAN : 1;
        send(&sent, kind);
        if (!in_feature)
            sent.bed.dense[3] = value;
        else if (kind->features == RT_DTYPE_F32)
            sent.bed.feature[1][40] = value;
        else
            rt_narrow(kind->features, &value, &sent.half[1][40], 1);
        train(&gpu, &sent, SAMPLES, 1);
        assert_int_equal(gpu.out.finite, i % 2 == 0);
        if (in_feature && network != deep)
            assert_int_equal(tr_model_feature_is_unfit(gpu.model, 1), i % 2);
    }
    tr_model_destroy(gpu.model);
    tr_gpu_close(&device);
}

/* It is seen, even where the library's relu makes a zero of it (deep): then the gradients of weights tell, 0 times it. And whose it is, where nothing
 * hides it; who wants to know that of any network looks at what came (nonfinite.c). */
static void test_not_finite(void **state)
{
    static const char open[] = "m concat a b dense; n mlp m sizes=9 activation=tanh last=tanh; "
                               "logit linear n size=1; loss bce logit label=y";
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        check_not_finite(deep, &kinds[k], false);
        check_not_finite(deep, &kinds[k], true);
        check_not_finite(open, &kinds[k], true);
    }
}

int main(void)
{
    rt_log_set_level(RT_LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float32),    cmocka_unit_test(test_sent_in_16_bits),
        cmocka_unit_test(test_bfloat16),   cmocka_unit_test(test_steps),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_flat),
    };
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
