/* tests/unit/model_bed.h -- a batch in the test's own memory, models of it, and where their gradients go.
 *
 * Dense columns are called age, income, hours, of these as many as there are; features c0, c1, ...; the label click. Values are drawn
 * from the seed. A failure fails the test. */
#ifndef TESTS_MODEL_BED_H
#define TESTS_MODEL_BED_H

#include "trainer/model/model.h"
#include "trainer/model/spec.h"

#define MODEL_BED_FEATURES_MAX 32

struct model_bed {
    uint32_t samples, n_dense, n_features;
    uint32_t dim[MODEL_BED_FEATURES_MAX];
    char name[MODEL_BED_FEATURES_MAX][16];
    const char *feature_name[MODEL_BED_FEATURES_MAX], *dense_name[MODEL_BED_FEATURES_MAX];
    float *feature[MODEL_BED_FEATURES_MAX], *grad[MODEL_BED_FEATURES_MAX]; /* [samples][dim] each */
    float *dense, *labels, *logit, *score;
};

/* n_dense <= 3; @dim: of n_features <= MODEL_BED_FEATURES_MAX. Release it. */
void model_bed_init(struct model_bed *f, uint32_t samples, uint32_t n_dense, uint32_t n_features,
                    const uint32_t *dim, uint64_t seed);
void model_bed_release(struct model_bed *f);
struct tr_model_inputs model_bed_inputs(const struct model_bed *f);
struct tr_batch_view model_bed_view(const struct model_bed *f);

/* Of seed 3, one thread. RT_EUSAGE names what is wrong with the spec; RT_ENOMEM. */
int model_bed_create(const struct model_bed *f, const struct tr_spec *spec, const char *backend,
                     uint32_t samples_max, struct tr_model **out);

/* Gradients of features to where grad[] says, up to the first NULL. */
int model_bed_train(struct tr_model *model, const struct tr_batch_view *view,
                    uint64_t global_samples, float *const *grad, struct tr_forward_out *out);

/* Forward and backward of the mean loss, which it returns. */
double model_bed_step(struct model_bed *f, struct tr_model *model);

#endif
