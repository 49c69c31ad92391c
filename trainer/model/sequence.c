/* trainer/model/sequence.c -- see sequence.h. */
#include "trainer/model/sequence.h"

#include <string.h>

#include "runtime/base/half.h"
#include "trainer/model/build.h"
#include "trainer/model/convert.h"

static void fill_rows(const struct tr_model *model, uint32_t f, const struct tr_batch_view *batch,
                      uint32_t first, uint32_t samples)
{
    const struct tr_sequence *of = &model->sequence[f];
    const struct tr_sequence_view *view = &batch->sequence[f];
    const uint32_t *index = view->index + of->begin;
    size_t row_bytes = of->dim * tr_element(model->feature_dtype);
    const char *row = batch->feature[f];
    tr_real *to = model->feature[f].data;
    for (uint32_t s = 0; s < samples; s++, to += model->feature[f].width) {
        uint32_t n = view->length[first + s];
        for (uint32_t i = 0; i < n; i++)
            tr_widen(model->feature_dtype, row + index[i] * row_bytes, to + (size_t)i * of->dim,
                     of->dim);
        memset(to + (size_t)n * of->dim, 0, (size_t)(of->length - n) * of->dim * sizeof *to);
        index += n;
    }
}

static void fill_mask(const struct tr_sequence *of, const uint32_t *length, uint32_t samples)
{
    tr_real *to = of->mask->data;
    for (uint32_t s = 0; s < samples; s++, to += of->length)
        for (uint32_t i = 0; i < of->length; i++)
            to[i] = i < length[s] ? 1 : 0;
}

void tr_sequence_bind(struct tr_model *model, uint32_t f, const struct tr_batch_view *batch,
                      uint32_t first, uint32_t samples)
{
    struct tr_sequence *of = &model->sequence[f];
    const uint32_t *length = batch->sequence[f].length + first;
    of->begin = first ? of->end : 0;
    of->end = of->begin;
    for (uint32_t s = 0; s < samples; s++)
        of->end += length[s];
    if (model->feature[f].readers)
        fill_rows(model, f, batch, first, samples);
    if (of->mask->readers)
        fill_mask(of, length, samples);
}

static tr_real *sum_of(const struct tr_model *model, uint32_t f, const struct tr_feature_grad *grad)
{
    return model->feature_grad_dtype == RT_DTYPE_F32 ? grad->out : model->sequence[f].sum;
}

static size_t floats_of(const struct tr_model *model, uint32_t f, const struct tr_batch_view *batch)
{
    return (size_t)batch->sequence[f].rows * model->sequence[f].dim;
}

void tr_sequence_clear(struct tr_model *model, uint32_t f, const struct tr_batch_view *batch,
                       struct tr_feature_grad *grad)
{
    size_t n = floats_of(model, f, batch);
    if (n)
        memset(sum_of(model, f, grad), 0, n * sizeof(tr_real));
}

void tr_sequence_add(struct tr_model *model, uint32_t f, const struct tr_batch_view *batch,
                     uint32_t first, uint32_t samples, struct tr_feature_grad *grad)
{
    const struct tr_sequence *of = &model->sequence[f];
    const struct tr_value *feature = &model->feature[f];
    const struct tr_sequence_view *view = &batch->sequence[f];
    const uint32_t *index = view->index + of->begin;
    tr_real *sum = sum_of(model, f, grad);
    if (!feature->grad)
        return;
    for (uint32_t s = 0; s < samples; s++) {
        const tr_real *from = feature->grad + s * feature->stride;
        for (uint32_t i = 0; i < view->length[first + s]; i++, from += of->dim) {
            tr_real *to = sum + (size_t)*index++ * of->dim;
            for (uint32_t j = 0; j < of->dim; j++)
                to[j] += from[j];
        }
    }
}

uint64_t tr_sequence_narrow(struct tr_model *model, uint32_t f, const struct tr_batch_view *batch,
                            struct tr_feature_grad *grad)
{
    static const float largest = 0x1.fep127f; /* of bfloat16: the scale of float16 fits all */
    uint32_t dtype = model->feature_grad_dtype;
    const tr_real *sum = model->sequence[f].sum;
    size_t n = floats_of(model, f, batch);
    uint64_t over = 0;
    grad->scale = dtype == RT_DTYPE_F16 ? tr_narrow_scale(sum, n) : 1;
    tr_narrow(dtype, grad->scale, sum, grad->out, n);
    for (size_t i = 0; dtype == RT_DTYPE_BF16 && i < n; i++)
        over += sum[i] > largest || sum[i] < -largest;
    return over;
}
