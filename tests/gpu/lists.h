/* tests/gpu/lists.h -- lists of vectors, as interactions take them: some want no gradient, some are added to, and one that is there twice gets
 * both gradients. */
#ifndef TESTS_GPU_LISTS_H
#define TESTS_GPU_LISTS_H

#include "tests/gpu/matrix.h"

#define VECTORS_MAX 300u

struct list {
    uint32_t n;
    struct matrix x, dx; /* of the first; the others follow */
    size_t floats, stride[VECTORS_MAX];
    bool twice, wanted[VECTORS_MAX], add[VECTORS_MAX];
    const float *at[VECTORS_MAX];
    float *dx_at[VECTORS_MAX];
};

/* n of {samples, dim}; with `twice`, the last is the first again. */
static inline void list_make(struct bed *bed, uint32_t n, struct shape shape, bool twice,
                             struct list *list)
{
    list->n = n;
    list->twice = twice;
    list->floats = shape_floats(shape);
    list->x = matrix_of(shape, bed_random(bed, n * list->floats, -3, 3));
    list->dx = matrix_of(shape, bed_random(bed, n * list->floats, -3, 3));
    for (uint32_t i = 0; i < n; i++) {
        bool again = twice && i + 1 == n;
        list->wanted[i] = again || i == 0 || bed_below(bed, 5) > 0;
        list->add[i] = again || bed_below(bed, 2);
        list->stride[i] = list->x.stride;
    }
}

static inline void list_take(struct list *list, int gpu)
{
    for (uint32_t i = 0; i < list->n; i++) {
        size_t at = list->twice && i + 1 == list->n ? 0 : i * list->floats;
        list->at[i] = AT(list->x, gpu) + at;
        list->dx_at[i] = list->wanted[i] ? AT(list->dx, gpu) + at : NULL;
    }
}

#endif
