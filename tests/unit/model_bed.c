/* tests/unit/model_bed.c -- see model_bed.h. */
#include "tests/unit/model_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

static const char *const labels[] = {"click", "buy"};

void model_bed_init(struct model_bed *f, uint32_t samples, uint32_t n_dense, uint32_t n_features,
                    const uint32_t *dim, uint64_t seed)
{
    static const char *const dense_names[] = {"age", "income", "hours"};
    *f = (struct model_bed){.samples = samples, .n_dense = n_dense, .n_features = n_features};
    uint64_t draw = 0;
    f->dense = rt_xcalloc((size_t)samples * (n_dense + 1), sizeof(float));
    f->labels = rt_xcalloc(samples, sizeof(float));
    f->logit = rt_xcalloc(samples, sizeof(float));
    f->score = rt_xcalloc((size_t)samples * 2, sizeof(float));
    for (uint32_t i = 0; i < n_dense; i++)
        f->dense_name[i] = dense_names[i];
    for (uint32_t i = 0; i < samples * n_dense; i++)
        f->dense[i] = rt_normal_f32(rt_draw(seed, draw++));
    for (uint32_t i = 0; i < samples; i++)
        f->labels[i] = (float)(rt_draw(seed, draw++) & 1);
    for (uint32_t k = 0; k < n_features; k++) {
        snprintf(f->name[k], sizeof f->name[k], "c%u", k);
        f->feature_name[k] = f->name[k];
        f->dim[k] = dim[k];
        size_t n = (size_t)samples * dim[k];
        f->feature[k] = rt_xcalloc(n, sizeof(float));
        f->grad[k] = rt_xcalloc(n, sizeof(float));
        for (size_t i = 0; i < n; i++)
            f->feature[k][i] = 0.5f * rt_normal_f32(rt_draw(seed, draw++));
    }
}

void model_bed_release(struct model_bed *f)
{
    rt_free(f->dense);
    rt_free(f->labels);
    rt_free(f->logit);
    rt_free(f->score);
    for (uint32_t k = 0; k < f->n_features; k++) {
        rt_free(f->feature[k]);
        rt_free(f->grad[k]);
    }
}

struct tr_model_inputs model_bed_inputs(const struct model_bed *f)
{
    return (struct tr_model_inputs){
        .dense = f->dense_name,
        .n_dense = f->n_dense,
        .feature = f->feature_name,
        .feature_dim = f->dim,
        .n_features = f->n_features,
        .label = labels,
        .n_labels = 1,
    };
}

struct tr_batch_view model_bed_view(const struct model_bed *f)
{
    return (struct tr_batch_view){
        .samples = f->samples,
        .dense = f->dense,
        .feature = (const void *const *)f->feature,
        .labels = f->labels,
    };
}

int model_bed_create(const struct model_bed *f, const struct tr_spec *spec, const char *backend,
                     uint32_t samples_max, struct tr_model **out)
{
    struct tr_model_inputs inputs = model_bed_inputs(f);
    struct tr_model_conf conf = {
        .seed = 3, .samples_max = samples_max, .threads = 1, .backend = backend};
    return tr_model_create(spec, &inputs, &conf, out);
}

/* Gradients of features to where grad[] says, up to the first NULL. */
int model_bed_train(struct tr_model *model, const struct tr_batch_view *view,
                    uint64_t global_samples, float *const *grad, struct tr_forward_out *out)
{
    struct tr_feature_grad to[MODEL_BED_FEATURES_MAX];
    for (uint32_t k = 0; k < MODEL_BED_FEATURES_MAX && grad[k]; k++)
        to[k].out = grad[k];
    return tr_model_train(model, view, global_samples, to, out);
}

/* Forward and backward of the mean loss. */
double model_bed_step(struct model_bed *f, struct tr_model *model)
{
    struct tr_batch_view view = model_bed_view(f);
    struct tr_forward_out out = {.logit = f->logit, .score = f->score};
    assert_int_equal(model_bed_train(model, &view, f->samples, f->grad, &out), 0);
    assert_true(out.finite);
    return out.loss_sum / f->samples;
}
