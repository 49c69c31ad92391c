/* tests/gpu/test_features.c -- features and their gradients between what is sent and what the device computes with, whether a step is finite, and scores:
 * beside runtime/base/half.c and plain loops. Everything is bit for bit the same. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "tests/gpu/bed.h"
#include "trainer/backend/cuda/step.h"

#define FEATURES_MAX 8
#define F16_ROOM     0x1p-12f

static size_t element_of(uint32_t dtype)
{
    return dtype == RT_DTYPE_F32 ? 4 : 2;
}

/* Random bytes, at both places. */
static uint8_t *random_bytes(struct bed *bed, size_t bytes, void **device)
{
    struct bed_tensor words = bed_random(bed, bytes / 4 + 1, -1, 1);
    uint8_t *to = (uint8_t *)words.host;
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)bed_below(bed, 256);
    bed_upload(bed, words);
    *device = words.device;
    return to;
}

/* The same bits, NaN's too. */
static void same(struct bed *bed, const char *what, const void *want, const void *device,
                 size_t bytes)
{
    static uint8_t got[1 << 22];
    const uint8_t *as = want;
    size_t i = 0;
    bed_check(bed, bytes <= sizeof got, "%s: %zu bytes", what, bytes);
    bed_download(bed, got, device, bytes);
    while (i < bytes && got[i] == as[i])
        i++;
    bed_check(bed, i == bytes, "%s: byte %zu of %zu is %02x, want %02x", what, i, bytes,
              got[i < bytes ? i : 0], as[i < bytes ? i : 0]);
}

/* ---- in ---- */

static void widen_some(struct bed *bed, uint32_t dtype, uint32_t samples)
{
    static const uint32_t width[] = {1, 3, 16, 31, 130};
    struct tr_cuda_feature table[5];
    struct bed_tensor to[5];
    void *device;
    for (uint32_t i = 0; i < 5; i++) {
        size_t n = (size_t)samples * width[i];
        void *from;
        uint8_t *bytes = random_bytes(bed, n * element_of(dtype), &from);
        to[i] = bed_poison(bed, n + 3);
        if (i != 2)
            rt_widen(dtype, bytes, to[i].host, n);
        table[i] = (struct tr_cuda_feature){from, i == 2 ? NULL : to[i].device, width[i]};
    }
    bed_bytes(bed, table, sizeof table, &device);
    bed_ok(bed, tr_cuda_widen(&bed->gpu, dtype, device, 5, samples, 130));
    for (uint32_t i = 0; i < 5; i++)
        same(bed, "widened", to[i].host, to[i].device, to[i].n * sizeof(float));
}

static void test_widen(struct bed *bed)
{
    for (uint32_t dtype = 0; dtype < RT_DTYPE_COUNT; dtype++) {
        widen_some(bed, dtype, 1);
        widen_some(bed, dtype, 37);
        widen_some(bed, dtype, 300);
    }
}

/* Every one of 65,536. */
static void test_widen_all(struct bed *bed)
{
    static uint16_t all[1 << 16];
    for (uint32_t i = 0; i < 1 << 16; i++)
        all[i] = (uint16_t)i;
    for (uint32_t dtype = RT_DTYPE_F16; dtype <= RT_DTYPE_BF16; dtype++) {
        struct bed_tensor to = bed_poison(bed, 1 << 16);
        struct tr_cuda_feature of = {.to = to.device, .width = 64};
        void *from, *table;
        bed_bytes(bed, all, sizeof all, &from);
        of.from = from;
        bed_bytes(bed, &of, sizeof of, &table);
        rt_widen(dtype, all, to.host, to.n);
        bed_ok(bed, tr_cuda_widen(&bed->gpu, dtype, table, 1, 1 << 10, 64));
        same(bed, "widened", to.host, to.device, to.n * sizeof(float));
    }
}

/* ---- finite, and out ---- */

/* A step's gradients: of features, of parameters; losses. */
struct step {
    struct tr_cuda_gradients of;
    struct tr_cuda_gradient table[FEATURES_MAX];
    struct bed_tensor grad[FEATURES_MAX], out[FEATURES_MAX], params;
    struct tr_cuda_spans spans;
    uint32_t samples;
    double loss[3];
};

static void open_step(struct bed *bed, struct step *step, uint32_t dtype, uint32_t samples)
{
    static const uint32_t width[] = {1, 16, 5, 128, 7, 32};
    static const struct tr_span span[] = {{.offset = 0, .count = 3000},
                                          {.offset = 3000, .count = 1},
                                          {.offset = 3001, .count = 500, .momentum = 0.1},
                                          {.offset = 3501, .count = 2500}};
    *step = (struct step){.samples = samples, .loss = {1, 2, 3}};
    step->params = bed_random(bed, 6001, -1, 1);
    bed_ok(bed, tr_cuda_spans_init(&bed->cuda, span, 4, &step->spans));
    for (uint32_t i = 0; i < 6; i++) {
        size_t n = (size_t)samples * width[i];
        step->grad[i] = bed_random(bed, n, -1e-3f, 1e-3f);
        step->out[i] = bed_poison(bed, n * element_of(dtype) / 4 + 2);
        step->table[i] = (struct tr_cuda_gradient){i == 4 ? NULL : step->grad[i].device,
                                                   i == 5 ? NULL : step->out[i].device, width[i]};
    }
    step->of = (struct tr_cuda_gradients){.n = 6, .samples_max = samples + 200, .dtype = dtype};
    step->of.limit = 2, step->of.gradient_max = 4;
    bed_ok(bed, tr_cuda_gradients_init(&bed->cuda, step->table, &step->of));
}

static struct tr_cuda_outcome check(struct bed *bed, struct step *step, uint32_t *unfit)
{
    struct tr_cuda_outcome outcome;
    void *loss;
    for (uint32_t i = 0; i < 6; i++)
        bed_upload(bed, step->grad[i]);
    bed_upload(bed, step->params);
    bed_bytes(bed, step->loss, sizeof step->loss, &loss);
    bed_ok(bed, tr_cuda_finite(&bed->gpu, &step->of, step->samples, &step->spans,
                               step->params.device, loss, 3));
    bed_download(bed, &outcome, step->of.outcome, sizeof outcome);
    bed_download(bed, unfit, step->of.unfit, 6 * sizeof *unfit);
    return outcome;
}

/* One value of a feature is changed: that feature alone is unfit, or none. */
static void plant(struct bed *bed, struct step *step, uint32_t f, float value, bool fits)
{
    float *at = &step->grad[f].host[bed_below(bed, (uint32_t)step->grad[f].n)], was = *at;
    uint32_t unfit[6];
    *at = value;
    struct tr_cuda_outcome outcome = check(bed, step, unfit);
    bed_check(bed, outcome.finite == fits, "feature %u with %g: finite %u", f, (double)value,
              outcome.finite);
    for (uint32_t i = 0; i < 6; i++)
        bed_check(bed, unfit[i] == (i == f && !fits), "feature %u with %g: %u is %u", f,
                  (double)value, i, unfit[i]);
    *at = was;
}

static void plant_param(struct bed *bed, struct step *step, size_t i, float value, bool fits)
{
    float was = step->params.host[i];
    uint32_t unfit[6];
    step->params.host[i] = value;
    bed_check(bed, check(bed, step, unfit).finite == fits, "parameter %zu with %g: expected %d", i,
              (double)value, fits);
    step->params.host[i] = was;
}

static void test_finite(struct bed *bed)
{
    static const uint32_t samples[] = {1, 128, 300};
    for (size_t i = 0; i < 3; i++) {
        struct step step;
        open_step(bed, &step, RT_DTYPE_F32, samples[i]);
        for (uint32_t f = 0; f < 6; f++) {
            bool read = f != 4; /* nobody has gradients of it */
            plant(bed, &step, f, 2, true);
            plant(bed, &step, f, -2.000001f, !read);
            plant(bed, &step, f, NAN, !read);
            plant(bed, &step, f, -INFINITY, !read);
        }
        static const size_t at[] = {0, 2047, 2048, 2999, 3000, 3501, 6000};
        for (size_t k = 0; k < 7; k++) {
            plant_param(bed, &step, at[k], -4, true);
            plant_param(bed, &step, at[k], 4.000001f, false);
            plant_param(bed, &step, at[k], NAN, false);
        }
        plant_param(bed, &step, 3001, FLT_MAX / 2, true); /* a running average */
        plant_param(bed, &step, 3500, FLT_MAX, false);
        for (uint32_t k = 0; k < 3; k++) {
            uint32_t unfit[6];
            step.loss[k] = k ? NAN : -INFINITY;
            bed_check(bed, !check(bed, &step, unfit).finite, "loss %u", k);
            step.loss[k] = 1;
        }
    }
}

static uint64_t count_over(const float *value, size_t n, float max)
{
    uint64_t over = 0;
    for (size_t i = 0; i < n; i++)
        over += fabs(value[i]) > max;
    return over;
}

static bool all_zero(const float *value, size_t n)
{
    size_t i = 0;
    while (i < n && value[i] == 0)
        i++;
    return i == n;
}

/* narrow_some() of trainer/model/train.c, over a whole feature. */
static uint64_t narrow(uint32_t dtype, const float *value, uint32_t samples, uint32_t width,
                       void *out, float *scale)
{
    static const float largest[] = {FLT_MAX, 65504, 0x1.fep127f};
    uint64_t over = 0;
    *scale = 0;
    for (uint32_t s = 0; s < samples; s += 128) {
        size_t at = (size_t)s * width, n = (size_t)(samples - s < 128 ? samples - s : 128) * width;
        if (dtype == RT_DTYPE_F16 && *scale == 0 && !all_zero(value + at, n))
            *scale = rt_half_scale(value + at, n) * F16_ROOM;
        float now = *scale > 0 ? *scale : 1;
        rt_narrow_scaled(dtype, now, value + at, (char *)out + at * element_of(dtype), n);
        over += count_over(value + at, n, fminf(largest[dtype] / now, FLT_MAX));
    }
    *scale = *scale > 0 ? *scale : 1;
    return over;
}

/* Zeros in front, subnormals, values that float16 has no room for. */
static void make_hard(struct bed *bed, struct step *step)
{
    for (uint32_t f = 0; f < 6; f++) {
        float *value = step->grad[f].host;
        size_t n = step->grad[f].n, zeros = f == 3 ? n : n / 6 * f;
        for (size_t i = 0; i < zeros; i++)
            value[i] = i % 2 ? -0.0f : 0;
        for (size_t i = zeros; i < n; i++)
            switch (bed_below(bed, 12)) {
            case 0:
                value[i] *= 1e-7f;
                break;
            case 1:
                value[i] *= 0x1p-130f;
                break;
            case 2:
                value[i] *= ldexpf(1, (int)bed_below(bed, i > n / 2 ? 60 : 20));
                break;
            case 3:
                value[i] = f == 2 ? FLT_MAX : value[i];
            }
    }
}

static void narrow_all(struct bed *bed, uint32_t dtype, uint32_t samples)
{
    struct step step;
    uint32_t unfit[6];
    uint64_t over = 0;
    float scale[6] = {1, 1, 1, 1, 1, 1}, none;
    struct tr_cuda_outcome outcome;
    open_step(bed, &step, dtype, samples);
    make_hard(bed, &step);
    check(bed, &step, unfit);
    bed_ok(bed, tr_cuda_narrow(&bed->gpu, &step.of, samples));
    for (uint32_t f = 0; f < 5; f++) {
        if (f == 4)
            memset(step.grad[f].host, 0, step.grad[f].n * sizeof(float));
        over += narrow(dtype, step.grad[f].host, samples, step.table[f].width, step.out[f].host,
                       f == 4 ? &none : &scale[f]);
    }
    for (uint32_t f = 0; f < 6; f++)
        same(bed, "narrowed", step.out[f].host, step.out[f].device, step.out[f].n * sizeof(float));
    same(bed, "scales", scale, step.of.scale, sizeof scale);
    bed_download(bed, &outcome, step.of.outcome, sizeof outcome);
    bed_check(bed, outcome.saturated == over, "saturated %llu, want %llu",
              (unsigned long long)outcome.saturated, (unsigned long long)over);
    bed_check(bed, dtype == RT_DTYPE_F32 || samples < 300 || over > 0, "some are too large");
}

static void test_narrow(struct bed *bed)
{
    for (uint32_t dtype = 0; dtype < RT_DTYPE_COUNT; dtype++) {
        narrow_all(bed, dtype, 1);
        narrow_all(bed, dtype, 37);
        narrow_all(bed, dtype, 300);
        narrow_all(bed, dtype, 1024);
    }
}

/* Of all magnitudes, NaNs and infinities too. */
static void test_narrow_all(struct bed *bed)
{
    for (uint32_t dtype = RT_DTYPE_F16; dtype <= RT_DTYPE_BF16; dtype++) {
        struct step step;
        uint32_t unfit[6];
        uint64_t over;
        float scale;
        open_step(bed, &step, dtype, 300);
        for (size_t i = 0; i < step.grad[3].n; i++) {
            uint32_t bits = bed_below(bed, UINT32_MAX);
            if (i < 128 * 128) /* its scale is one of which the rest leaves float32 */
                bits = bits % 0x01000000u;
            memcpy(&step.grad[3].host[i], &bits, sizeof bits);
        }
        check(bed, &step, unfit);
        bed_ok(bed, tr_cuda_narrow(&bed->gpu, &step.of, 300));
        over = narrow(dtype, step.grad[3].host, 300, 128, step.out[3].host, &scale);
        same(bed, "narrowed", step.out[3].host, step.out[3].device, step.out[3].n * sizeof(float));
        bed_check(bed, dtype == RT_DTYPE_BF16 || over > 1000, "%llu are too large",
                  (unsigned long long)over);
    }
}

/* ---- sequences ---- */

/* A batch of one feature, and where it goes; row 0 stands nowhere, row 1 in half of the places. */
struct sequence {
    uint32_t samples, longest, dim, rows, dtype;
    uint32_t index[4096], length[512], begin[513], row_begin[514], place[4096];
    struct tr_sequence_view view;
};

static void make_sequence(struct bed *bed, struct sequence *of)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < of->samples; s++) {
        of->length[s] = s % 5 == 1 ? 0 : bed_below(bed, of->longest + 1);
        for (uint32_t i = 0; i < of->length[s]; i++)
            of->index[n++] = bed_below(bed, 2) ? 1 : 1 + bed_below(bed, of->rows - 1);
    }
    of->view = (struct tr_sequence_view){of->index, of->length, of->rows};
    tr_cuda_places(&of->view, of->samples, of->longest, of->begin, of->row_begin, of->place);
}

static const struct sequence sequences[] = {
    {.samples = 1, .longest = 1, .dim = 1, .rows = 2},
    {.samples = 37, .longest = 9, .dim = 16, .rows = 50},
    {.samples = 37, .longest = 9, .dim = 7, .rows = 50},
    {.samples = 300, .longest = 5, .dim = 33, .rows = 500},
    {.samples = 40, .longest = 20, .dim = 160, .rows = 3},
};
#define SEQUENCES (sizeof sequences / sizeof *sequences)

static void test_places(struct bed *bed)
{
    for (size_t k = 0; k < SEQUENCES; k++) {
        struct sequence of = sequences[k];
        make_sequence(bed, &of);
        uint32_t seen = 0;
        for (uint32_t r = 0; r < of.rows; r++)
            for (uint32_t i = of.row_begin[r]; i < of.row_begin[r + 1]; i++, seen++) {
                uint32_t s = of.place[i] / of.longest, at = of.place[i] % of.longest;
                bed_check(bed, s < of.samples && at < of.length[s], "place %u is one", of.place[i]);
                bed_check(bed, of.index[of.begin[s] + at] == r, "place %u is row %u's", of.place[i],
                          r);
                bed_check(bed, i == of.row_begin[r] || of.place[i - 1] < of.place[i],
                          "places of row %u ascend", r);
            }
        bed_check(bed, seen == of.begin[of.samples], "all places, %u", seen);
        bed_check(bed, of.row_begin[0] == 0 && of.row_begin[1] == 0, "row 0 has none");
    }
}

static void expand(const struct sequence *of, const uint8_t *row, float *to, float *mask)
{
    const uint32_t *index = of->index;
    memset(to, 0, (size_t)of->samples * of->longest * of->dim * sizeof *to);
    for (uint32_t s = 0; s < of->samples; s++)
        for (uint32_t i = 0; i < of->longest; i++, to += of->dim) {
            *mask++ = i < of->length[s];
            if (i < of->length[s])
                rt_widen(of->dtype, row + *index++ * of->dim * element_of(of->dtype), to, of->dim);
        }
}

static void expand_one(struct bed *bed, struct sequence *of)
{
    size_t places = (size_t)of->samples * of->longest;
    struct bed_tensor to = bed_poison(bed, places * of->dim + 2),
                      mask = bed_poison(bed, places + 2);
    void *row, *index, *begin;
    uint8_t *bytes = random_bytes(bed, (size_t)of->rows * of->dim * element_of(of->dtype), &row);
    bed_bytes(bed, of->index, sizeof of->index, &index);
    bed_bytes(bed, of->begin, sizeof of->begin, &begin);
    expand(of, bytes, to.host, mask.host);
    struct tr_cuda_sequence op = {.samples = of->samples, .length = of->longest, .dim = of->dim};
    op.dtype = of->dtype;
    op.row = row, op.index = index, op.begin = begin, op.mask = mask.device;
    bed_ok(bed, tr_cuda_sequence_expand(&bed->gpu, &op));
    same(bed, "mask", mask.host, mask.device, mask.n * sizeof(float));
    op.mask = NULL, op.to = to.device;
    bed_ok(bed, tr_cuda_sequence_expand(&bed->gpu, &op));
    same(bed, "rows", to.host, to.device, to.n * sizeof(float));
}

static void test_expand(struct bed *bed)
{
    for (size_t k = 0; k < SEQUENCES; k++)
        for (uint32_t dtype = 0; dtype < RT_DTYPE_COUNT; dtype++) {
            struct sequence of = sequences[k];
            of.dtype = dtype;
            make_sequence(bed, &of);
            expand_one(bed, &of);
        }
}

/* tr_sequence_add(): place after place. */
static void add_places(const struct sequence *of, const float *grad, float *sum)
{
    const uint32_t *index = of->index;
    memset(sum, 0, (size_t)of->rows * of->dim * sizeof *sum);
    for (uint32_t s = 0; s < of->samples; s++)
        for (uint32_t i = 0; i < of->length[s]; i++, index++)
            for (uint32_t c = 0; c < of->dim; c++)
                sum[(size_t)*index * of->dim + c] +=
                    grad[((size_t)s * of->longest + i) * of->dim + c];
}

static uint64_t narrow_sums(uint32_t dtype, const float *sum, size_t n, void *out, float *scale)
{
    *scale = dtype == RT_DTYPE_F16 ? rt_half_scale(sum, n) : 1;
    rt_narrow_scaled(dtype, *scale, sum, out, n);
    return dtype == RT_DTYPE_BF16 ? count_over(sum, n, 0x1.fep127f) : 0;
}

/* read: a layer has gradients of it. */
static void sum_one(struct bed *bed, struct sequence *of, float least, float most, bool read)
{
    size_t n = (size_t)of->rows * of->dim, spare = 3 * of->dim;
    struct bed_tensor grad =
        bed_random(bed, (size_t)of->samples * of->longest * of->dim, least, most);
    struct bed_tensor sum = bed_poison(bed, n + spare), scale = bed_poison(bed, 1);
    struct bed_tensor out = bed_poison(bed, (n + spare) * element_of(of->dtype) / 4 + 1);
    uint64_t over = 7, *saturated;
    struct tr_cuda_sums op = {.dim = of->dim, .rows_max = of->rows + 3, .dtype = of->dtype};
    bool whole = of->dtype == RT_DTYPE_F32;
    bed_bytes(bed, &of->rows, sizeof of->rows, (void **)(uintptr_t)&op.rows);
    bed_bytes(bed, of->row_begin, sizeof of->row_begin, (void **)(uintptr_t)&op.row_begin);
    bed_bytes(bed, of->place, sizeof of->place, (void **)(uintptr_t)&op.place);
    bed_bytes(bed, &over, sizeof over, (void **)&saturated);
    op.grad = read ? grad.device : NULL;
    op.sum = whole ? out.device : sum.device;
    op.out = out.device, op.scale = scale.device, op.saturated = saturated;
    bed_ok(bed, tr_cuda_sequence_sums(&bed->gpu, &op));
    add_places(of, grad.host, sum.host);
    if (!read)
        memset(sum.host, 0, n * sizeof(float));
    over += narrow_sums(of->dtype, sum.host, n, out.host, scale.host);
    same(bed, "gradients of rows", out.host, out.device, out.n * sizeof(float));
    same(bed, "scale", scale.host, scale.device, sizeof(float));
    same(bed, "saturated", &over, saturated, sizeof over);
    bed_check(bed, most < 1 || !read || of->dtype != RT_DTYPE_BF16 || of->samples < 300 || over > 7,
              "some are too large");
}

static void test_sums(struct bed *bed)
{
    for (size_t k = 0; k < SEQUENCES; k++)
        for (uint32_t dtype = 0; dtype < RT_DTYPE_COUNT; dtype++) {
            struct sequence of = sequences[k];
            of.dtype = dtype;
            make_sequence(bed, &of);
            sum_one(bed, &of, -1e-3f, 1e-3f, true);
            sum_one(bed, &of, -1e-3f, 1e-3f, false);
            sum_one(bed, &of, 0, FLT_MAX / 32, true); /* sums may leave bfloat16 */
        }
}

/* ---- scores ---- */

static const struct tr_head heads[] = {
    {.kind = TR_HEAD_BCE, .first = 0, .columns = 1},
    {.kind = TR_HEAD_SOFTMAX, .classes = 5, .first = 1, .columns = 5},
    {.kind = TR_HEAD_SOFTMAX, .classes = 200, .first = 6, .columns = TR_WIDE_COLUMNS},
    {.kind = TR_HEAD_MSE, .first = 9, .columns = 1},
};

static void put_wide(const struct tr_head *head, const float *y, float label, float *to)
{
    uint32_t most = 0;
    for (uint32_t c = 1; c < head->classes; c++)
        most = y[c] > y[most] ? c : most;
    to[TR_WIDE_LABEL] = y[(uint32_t)label];
    to[TR_WIDE_CLASS] = (float)most;
    to[TR_WIDE_MOST] = y[most];
}

static void put_scores(const struct tr_head *head, uint32_t samples, const float *y,
                       uint32_t stride, const float *label, float *score)
{
    for (uint32_t s = 0; s < samples; s++, y += stride, score += 10) {
        if (tr_head_is_wide(head))
            put_wide(head, y, label[2 * s], score + head->first);
        else
            memcpy(score + head->first, y, head->columns * sizeof *y);
    }
}

static void score_some(struct bed *bed, uint32_t samples)
{
    struct bed_tensor score = bed_poison(bed, samples * 10 + 3), logit = bed_poison(bed, samples);
    struct bed_tensor in = bed_random(bed, samples * 3, -1, 1);
    struct bed_tensor label = bed_fill(bed, samples * 2, 0);
    struct tr_cuda_head head[4];
    for (uint32_t s = 0; s < samples; s++)
        label.host[2 * s] = (float)bed_below(bed, 200);
    bed_upload(bed, label);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t stride = heads[i].classes + 4;
        struct bed_tensor y = bed_random(bed, (size_t)samples * stride, 0, 1);
        for (size_t k = 0; i == 2 && k < y.n; k++) /* many are equal, some are NaN */
            y.host[k] = bed_below(bed, 50) ? floorf(y.host[k] * 8) : NAN;
        bed_upload(bed, y);
        head[i] = (struct tr_cuda_head){&heads[i], y.device, label.device, stride, 2};
        put_scores(&heads[i], samples, y.host, stride, label.host, score.host);
    }
    for (uint32_t s = 0; s < samples; s++)
        logit.host[s] = in.host[3 * s];
    struct tr_cuda_scoring op = {.samples = samples, .n_heads = 4, .columns = 10, .head = head};
    op.in = in.device, op.in_stride = 3, op.score = score.device;
    bed_ok(bed, tr_cuda_scores(&bed->gpu, &op));
    same(bed, "scores", score.host, score.device, score.n * sizeof(float));
    op.score = NULL, op.logit = logit.device;
    bed_ok(bed, tr_cuda_scores(&bed->gpu, &op));
    same(bed, "logits", logit.host, logit.device, logit.n * sizeof(float));
}

static void test_scores(struct bed *bed)
{
    score_some(bed, 1);
    score_some(bed, 37);
    score_some(bed, 300);
}

int main(void)
{
    static const struct bed_test tests[] = {
        {"widen", test_widen},           {"widen_all", test_widen_all},
        {"finite", test_finite},         {"narrow", test_narrow},
        {"narrow_all", test_narrow_all}, {"places", test_places},
        {"expand", test_expand},         {"sums", test_sums},
        {"scores", test_scores},
    };
    return bed_main("features", tests, sizeof tests / sizeof *tests);
}
