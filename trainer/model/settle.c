/* trainer/model/settle.c -- see settle.h. */
#include "trainer/model/settle.h"

#include <float.h>

#include "trainer/model/build.h"

bool tr_finite_features(struct tr_model *model, uint32_t samples)
{
    bool finite = true;
    for (uint32_t i = 0; i < model->n_features; i++) {
        const struct tr_value *feature = &model->feature[i];
        if (!feature->grad ||
            tr_within(feature->grad, (size_t)samples * feature->width, model->feature_gradient_max))
            continue;
        model->unfit[i] = true;
        finite = false;
    }
    return finite;
}

/* Running averages may be of any size that leaves their sum over the ranks finite: it is no more than the largest. */
static bool finite_grads(const struct tr_model *model, size_t from, size_t to)
{
    bool finite = true;
    if (!model->whole_batch)
        return tr_within(model->grads + from, to - from, model->gradient_max);
    for (size_t t = 0; t < model->n_tensors; t++) {
        const struct tr_param *tensor = &model->tensor[t];
        if (tensor->offset >= from && tensor->offset < to)
            finite &= tr_within(model->grads + tensor->offset, tensor->count,
                                tensor->momentum > 0 ? FLT_MAX / 2 : model->gradient_max);
    }
    return finite;
}

void tr_settle(struct tr_settling *settling, size_t from)
{
    if (from >= settling->from)
        return;
    settling->finite &= finite_grads(settling->model, from, settling->from);
    settling->from = from;
    if (settling->settled)
        settling->settled->fn(settling->settled->arg, from);
}

void tr_pass_settled(const struct tr_pass *pass, const struct tr_layer *layer, uint32_t k)
{
    if (pass->settling)
        tr_settle(pass->settling, (size_t)(layer->param[k].grad - pass->settling->model->grads));
}
