/* tests/gpu/test_optimizer.c -- the device's optimizers beside trainer/optimizer.c: parameters and state bit for bit, but where a norm has a part in
 * them (clipping, LAMB: 1e-6 of a value, for a float32 may be rounded to its neighbour), norms to 1e-12. */
#include <math.h>
#include <string.h>

#include "runtime/base/err.h"
#include "tests/gpu/bed.h"
#include "trainer/backend/cuda/step.h"

#define LEARNING_RATE 0.03
#define STEPS         3
#define SPANS_MAX     512

/* Both optimizers, and what they step. */
struct pair {
    struct bed *bed;
    struct tr_optimizer_conf conf;
    struct tr_span span[SPANS_MAX];
    size_t n, n_spans;
    struct tr_optimizer *truth;
    struct tr_cuda_optimizer *gpu;
    struct bed_tensor param, grad;
};

/* In ascending order, with gaps: none, one element, a few, more than a chunk. Every seventh is a running average. */
static size_t random_spans(struct bed *bed, size_t n, struct tr_span *span)
{
    static const uint32_t most[] = {1, 1, 7, 40, 300, 5000};
    size_t count = 0;
    for (size_t at = 0; at < n && count < SPANS_MAX; count++) {
        at += bed_below(bed, 3) == 0 ? bed_below(bed, 5) : 0;
        at = at < n ? at : n;
        size_t left = n - at, wanted = bed_below(bed, most[bed_below(bed, 6)] + 1);
        span[count] = (struct tr_span){.offset = at,
                                       .count = wanted < left ? wanted : left,
                                       .lr_factor = bed_below(bed, 4) * 0.5,
                                       .decays = bed_below(bed, 2),
                                       .momentum = count % 7 == 6 ? 0.1 : 0};
        at += span[count].count;
    }
    return count;
}

static void open_pair(struct pair *pair, struct bed *bed, const struct tr_optimizer_conf *conf,
                      size_t n)
{
    pair->bed = bed;
    pair->conf = *conf;
    pair->n = n;
    pair->n_spans = random_spans(bed, n, pair->span);
    pair->param = bed_random(bed, n, -1, 1);
    pair->grad = bed_random(bed, n, -1, 1);
    bed_ok(bed, tr_optimizer_create_spans(conf, n, pair->span, pair->n_spans, &pair->truth));
    bed_ok(bed,
           tr_cuda_optimizer_create(&bed->cuda, conf, n, pair->span, pair->n_spans, &pair->gpu));
}

static void close_pair(struct pair *pair)
{
    tr_optimizer_destroy(pair->truth);
    tr_cuda_optimizer_destroy(pair->gpu);
}

static int step_gpu(struct pair *pair, uint64_t t, const uint32_t *finite)
{
    struct tr_optimizer_rates rates;
    void *device;
    tr_optimizer_rates(&pair->conf, t, LEARNING_RATE, &rates);
    bed_bytes(pair->bed, &rates, sizeof rates, &device);
    pair->bed->cuda.capturing = true; /* an allocation would fail */
    int err = tr_cuda_optimizer_queue(pair->gpu, &pair->bed->gpu, device, pair->grad.device,
                                      pair->param.device, finite);
    pair->bed->cuda.capturing = false;
    return err;
}

static struct tr_cuda_stepped stepped_of(struct pair *pair)
{
    struct tr_cuda_stepped stepped;
    bed_download(pair->bed, &stepped, tr_cuda_optimizer_stepped(pair->gpu), sizeof stepped);
    return stepped;
}

/* Of elements in no span nothing is known to either. */
static void compare(struct pair *pair, double tolerance)
{
    size_t count;
    float *state = tr_optimizer_state(pair->truth, &count);
    bed_compare(pair->bed, "parameters", pair->param, tolerance, tolerance);
    for (size_t k = 0; k < tr_optimizer_slots(pair->truth); k++) {
        struct bed_tensor slot = {state + k * pair->n, tr_cuda_optimizer_slot(pair->gpu, k),
                                  pair->n};
        bed_compare(pair->bed, tr_optimizer_slot_name(pair->truth, k), slot, tolerance, tolerance);
    }
    bed_check(pair->bed, !tr_cuda_optimizer_slot(pair->gpu, tr_optimizer_slots(pair->truth)),
              "as many slots as the CPU has");
}

static void compare_norm(struct pair *pair, int t)
{
    struct tr_cuda_stepped stepped = stepped_of(pair);
    double want = tr_optimizer_grad_norm(pair->truth);
    bed_check(pair->bed, stepped.stepped == 1, "step %d was made", t);
    bed_check(pair->bed, fabs(stepped.grad_norm - want) <= 1e-12 * want,
              "step %d: norm %.17g, want %.17g", t, stepped.grad_norm, want);
}

static void run_steps(struct bed *bed, const struct tr_optimizer_conf *conf, size_t n,
                      double tolerance)
{
    struct pair pair;
    open_pair(&pair, bed, conf, n);
    compare(&pair, 0);
    for (int t = 1; t <= STEPS; t++) {
        for (size_t i = 0; i < n; i++)
            pair.grad.host[i] *= 1 - 0.3f * (float)t;
        bed_upload(bed, pair.grad);
        bed_ok(bed, tr_optimizer_step(pair.truth, LEARNING_RATE, pair.grad.host, pair.param.host));
        bed_ok(bed, step_gpu(&pair, (uint64_t)t, NULL));
        compare_norm(&pair, t);
        compare(&pair, tolerance);
    }
    close_pair(&pair);
}

static void run(struct bed *bed, const struct tr_optimizer_conf *conf, double tolerance)
{
    static const size_t n[] = {1, 5, 2048, 4097, 12011};
    for (size_t i = 0; i < sizeof n / sizeof *n; i++)
        run_steps(bed, conf, n[i], tolerance);
}

static void run_named(struct bed *bed, const char *name, double momentum, double weight_decay,
                      double clip_norm)
{
    struct tr_optimizer_conf conf;
    bed_ok(bed, tr_optimizer_defaults(name, &conf));
    conf.momentum = momentum;
    conf.clip_norm = clip_norm;
    conf.weight_decay = weight_decay;
    conf.initial_accumulator = conf.kind == TR_ADAGRAD ? 0.1 : 0;
    run(bed, &conf, clip_norm > 0 || conf.kind == TR_LAMB ? 1e-6 : 0);
}

static void test_sgd(struct bed *bed)
{
    run_named(bed, "sgd", 0, 0, 0);
    run_named(bed, "sgd", 0.9, 0.01, 0);
}

static void test_adagrad(struct bed *bed)
{
    run_named(bed, "adagrad", 0, 0, 0);
    run_named(bed, "adagrad", 0, 0.02, 0);
}

static void test_adam(struct bed *bed)
{
    run_named(bed, "adam", 0, 0, 0);
    run_named(bed, "adam", 0, 0.01, 0);
}

static void test_adamw(struct bed *bed)
{
    run_named(bed, "adamw", 0, 0.01, 0);
}

static void test_lamb(struct bed *bed)
{
    run_named(bed, "lamb", 0, 0.01, 0);
    run_named(bed, "lamb", 0, 0, 1);
}

static void test_clip(struct bed *bed)
{
    run_named(bed, "sgd", 0.9, 0.01, 0.5);
    run_named(bed, "adam", 0, 0, 2);
    run_named(bed, "adagrad", 0, 0, 1e9); /* less than that */
}

/* Nothing of either changes: a flag, or a gradient, of a parameter or of a running average, that is not finite. */
static void test_skip(struct bed *bed)
{
    static const char *const names[] = {"sgd", "adam", "lamb"};
    uint32_t flags[2] = {0, 1};
    void *device;
    bed_bytes(bed, flags, sizeof flags, &device);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tr_optimizer_conf conf;
        struct pair pair;
        bed_ok(bed, tr_optimizer_defaults(names[i], &conf));
        open_pair(&pair, bed, &conf, 5000);
        bed_ok(bed, step_gpu(&pair, 1, device));
        bed_check(bed, stepped_of(&pair).stepped == 0, "%s: a flag of 0", names[i]);
        compare(&pair, 0);
        for (size_t k = 0; k < pair.n_spans; k += 3) {
            if (pair.span[k].count == 0)
                continue;
            float *at = &pair.grad.host[pair.span[k].offset + pair.span[k].count - 1], was = *at;
            *at = k % 2 ? NAN : INFINITY;
            bed_upload(bed, pair.grad);
            bed_ok(bed, step_gpu(&pair, 1, NULL));
            bed_check(bed, stepped_of(&pair).stepped == 0, "%s: span %zu", names[i], k);
            *at = was;
        }
        compare(&pair, 0);
        bed_upload(bed, pair.grad);
        bed_ok(bed, step_gpu(&pair, 1, (const uint32_t *)device + 1));
        bed_ok(bed, tr_optimizer_step(pair.truth, LEARNING_RATE, pair.grad.host, pair.param.host));
        compare(&pair, conf.kind == TR_LAMB ? 1e-6 : 0);
        close_pair(&pair);
    }
}

static void test_reset(struct bed *bed)
{
    struct tr_optimizer_conf conf = {.kind = TR_ADAGRAD, .eps = 1e-10, .initial_accumulator = 0.25};
    struct pair pair;
    open_pair(&pair, bed, &conf, 3000);
    bed_ok(bed, step_gpu(&pair, 1, NULL));
    bed_ok(bed, tr_optimizer_step(pair.truth, LEARNING_RATE, pair.grad.host, pair.param.host));
    bed_ok(bed, tr_cuda_optimizer_reset(pair.gpu, &bed->gpu));
    tr_optimizer_reset(pair.truth);
    compare(&pair, 0);
    close_pair(&pair);
}

/* A model of no parameters, and one of no spans. */
static void test_nothing(struct bed *bed)
{
    struct tr_optimizer_conf conf = {.kind = TR_SGD};
    struct pair pair;
    open_pair(&pair, bed, &conf, 64);
    tr_cuda_optimizer_destroy(pair.gpu);
    bed_ok(bed, tr_cuda_optimizer_create(&bed->cuda, &conf, 64, NULL, 0, &pair.gpu));
    bed_ok(bed, step_gpu(&pair, 1, NULL));
    bed_check(bed, stepped_of(&pair).grad_norm == 0, "a norm of nothing");
    compare(&pair, 0);
    close_pair(&pair);
    tr_cuda_optimizer_destroy(NULL);
}

int main(void)
{
    static const struct bed_test tests[] = {
        {"sgd", test_sgd},     {"adagrad", test_adagrad}, {"adam", test_adam},
        {"adamw", test_adamw}, {"lamb", test_lamb},       {"clip", test_clip},
        {"skip", test_skip},   {"reset", test_reset},     {"nothing", test_nothing},
    };
    return bed_main("optimizer", tests, sizeof tests / sizeof *tests);
}
