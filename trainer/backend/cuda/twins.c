/* trainer/backend/cuda/twins.c -- see twins.h. */
#include "trainer/backend/cuda/twins.h"

#include <stdlib.h>

#include "runtime/base/err.h"
#include "trainer/backend/cuda/gemm.h"

static uint32_t bucket_of(const float *of)
{
    return (uint32_t)(((uintptr_t)of >> 5) * 0x9e3779b97f4a7c15u >> 56) % TR_TWIN_BUCKETS;
}

struct tr_twin *tr_twin_find(const struct tr_twins *twins, const float *of, size_t stride,
                             uint32_t columns)
{
    struct tr_twin *twin = twins->twin[bucket_of(of)];
    while (twin && (twin->of != of || twin->of_stride != stride || twin->columns != columns))
        twin = twin->next;
    return twin;
}

/* Graphs that were recorded with the memory it had go on with that. */
static int grow(struct tr_cuda *cuda, struct tr_twin *twin, uint32_t rows)
{
    void *half;
    int err = tr_cuda_alloc(cuda, rows * twin->stride * sizeof *twin->half, "bfloat16 copy", &half);
    if (err)
        return err;
    twin->half = half;
    twin->rows = rows;
    twin->mask = NULL;
    twin->made = twin->masked = twin->settled = 0;
    return 0;
}

int tr_twin_room(struct tr_cuda *cuda, struct tr_twins *twins, const float *of, size_t stride,
                 uint32_t rows, uint32_t columns, struct tr_twin **out)
{
    struct tr_twin *twin = tr_twin_find(twins, of, stride, columns);
    if (!twin) {
        twin = calloc(1, sizeof *twin);
        if (!twin)
            return tr_cuda_fail(cuda, RT_ENOMEM, "no memory for a bfloat16 copy");
        twin->of = of;
        twin->of_stride = stride;
        twin->columns = columns;
        twin->stride = tr_twin_stride(columns);
        struct tr_twin **head = &twins->twin[bucket_of(of)];
        twin->next = *head;
        *head = twin;
    }
    *out = twin;
    return rows > twin->rows ? grow(cuda, twin, rows) : 0;
}

int tr_twin_mask_room(struct tr_cuda *cuda, struct tr_twin *twin)
{
    size_t bytes = twin->rows * tr_gemm_mask_ld(twin->columns) / 8;
    return twin->mask ? 0 : tr_cuda_alloc(cuda, bytes, "mask of relu", &twin->mask);
}

void tr_twins_forget(struct tr_twins *twins)
{
    for (uint32_t i = 0; i < TR_TWIN_BUCKETS; i++) {
        while (twins->twin[i]) {
            struct tr_twin *twin = twins->twin[i];
            twins->twin[i] = twin->next;
            free(twin);
        }
    }
}
