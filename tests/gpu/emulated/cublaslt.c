/* tests/gpu/emulated/cublaslt.c -- products as cuBLASLt documents them, in plain C: see include/cublasLt.h.
 *
 * D = epilogue(alpha op(A) op(B) + beta C), column-major. A product is a host function on its stream, so it waits its turn and is recorded
 * in a graph as a kernel is; its description is kept until the handle goes. Three "algorithms" are proposed, which differ in the order
 * of their sums: one that adds k in one piece; one in two parts, added in a step of its own; first of all one that adds in place, which exact
 * mode must pass over. Refused: a leading dimension below the rows, pointers that are not aligned to their elements or less than was
 * promised, an epilogue without its pointer, a mask of rows that are no multiple of 128 bits, types that the documentation does not have
 * together, C and D that overlap without being the same. */
#include "cublasLt.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define WORKSPACE 4096u /* of the algorithms that have parts */

struct emulated_lt_desc {
    cublasComputeType_t compute;
    cublasOperation_t op_a, op_b;
    cublasLtEpilogue_t epilogue;
    void *vector;
    uint8_t *mask;
    int64_t mask_ld;
};
struct emulated_lt_layout {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t ld;
};
struct emulated_lt_preference {
    uint64_t workspace;
    uint32_t aligned[4]; /* A, B, C, D */
};

struct product {
    struct emulated_lt_desc desc;
    struct emulated_lt_layout a_layout, b_layout, d_layout;
    float alpha, beta;
    const void *a, *b, *c;
    void *d;
    uint32_t scheme;
    void *workspace;
    struct product *next;
};
struct emulated_lt {
    struct product *queued;
};

uint32_t emulated_lt_refused;
uint64_t emulated_lt_heuristics;

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS         ? "CUBLAS_STATUS_SUCCESS"
           : status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
           : status == CUBLAS_STATUS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED"
                                                   : "CUBLAS_STATUS_EXECUTION_FAILED";
}

/* ---- descriptors ---- */

static cublasStatus_t make(void *out, size_t bytes)
{
    void *made = calloc(1, bytes);
    memcpy(out, &made, sizeof made);
    return made ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

static cublasStatus_t let_go(void *what)
{
    free(what);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t take(void *to, size_t size, const void *value, size_t bytes)
{
    if (!value || bytes != size)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    return make(out, sizeof **out);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    while (handle->queued) {
        struct product *product = handle->queued;
        handle->queued = product->next;
        free(product);
    }
    return let_go(handle);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    if (scale != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    cublasStatus_t status = make(out, sizeof **out);
    if (status)
        return status;
    (*out)->compute = compute;
    (*out)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return status;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return let_go(desc);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t bytes)
{
    switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return take(&desc->op_a, sizeof desc->op_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return take(&desc->op_b, sizeof desc->op_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return take(&desc->epilogue, sizeof desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return take(&desc->vector, sizeof desc->vector, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
        return take(&desc->mask, sizeof desc->mask, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
        return take(&desc->mask_ld, sizeof desc->mask_ld, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t ld)
{
    cublasStatus_t status = make(out, sizeof **out);
    if (!status)
        **out = (struct emulated_lt_layout){type, rows, columns, ld};
    return status;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return let_go(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    cublasStatus_t status = make(out, sizeof **out);
    for (uint32_t i = 0; !status && i < 4; i++)
        (*out)->aligned[i] = 256;
    return status;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return let_go(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t bytes)
{
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        return take(&preference->workspace, sizeof preference->workspace, value, bytes);
    uint32_t *aligned = &preference->aligned[what - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES];
    return take(aligned, sizeof *aligned, value, bytes);
}

/* ---- what is refused ---- */

static size_t size_of(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static bool has(const struct emulated_lt_desc *desc, uint32_t bits)
{
    return ((uint32_t)desc->epilogue & bits) == bits;
}

static bool wants_mask(const struct emulated_lt_desc *desc)
{
    return has(desc, CUBLASLT_EPILOGUE_RELU_AUX) || has(desc, CUBLASLT_EPILOGUE_DRELU);
}

static bool wants_vector(const struct emulated_lt_desc *desc)
{
    return has(desc, CUBLASLT_EPILOGUE_BIAS) || has(desc, CUBLASLT_EPILOGUE_BGRADB);
}

static cublasStatus_t check(const struct emulated_lt_desc *desc, const struct emulated_lt_layout *a,
                            const struct emulated_lt_layout *b, const struct emulated_lt_layout *d)
{
    uint64_t k = desc->op_a == CUBLAS_OP_N ? a->columns : a->rows,
             m = desc->op_a == CUBLAS_OP_N ? a->rows : a->columns;
    uint64_t k_b = desc->op_b == CUBLAS_OP_N ? b->rows : b->columns,
             n = desc->op_b == CUBLAS_OP_N ? b->columns : b->rows;
    if (k != k_b || m != d->rows || n != d->columns || k == 0 || m == 0 || n == 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    if ((uint64_t)a->ld < a->rows || (uint64_t)b->ld < b->rows || (uint64_t)d->ld < d->rows)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (a->type != b->type || (a->type == CUDA_R_32F && d->type != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (desc->compute == CUBLAS_COMPUTE_32F_FAST_TF32 && a->type != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (wants_mask(desc) && (!desc->mask || desc->mask_ld % 128 != 0 ||
                             (uint64_t)desc->mask_ld < d->rows || (uintptr_t)desc->mask % 16 != 0))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (wants_vector(desc) && (!desc->vector || (uintptr_t)desc->vector % size_of(d->type) != 0))
        return CUBLAS_STATUS_INVALID_VALUE;
    return ((uint32_t)desc->epilogue & emulated_lt_refused & ~1u) ? CUBLAS_STATUS_NOT_SUPPORTED
                                                                  : CUBLAS_STATUS_SUCCESS;
}

static bool is_below(const void *at, uint64_t aligned)
{
    return (uintptr_t)at % aligned != 0;
}

/* data: scheme, and the alignments that it counts on. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *out, int *n)
{
    static const uint32_t scheme[] = {CUBLASLT_REDUCTION_SCHEME_INPLACE,
                                      CUBLASLT_REDUCTION_SCHEME_NONE,
                                      CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE};
    cublasStatus_t status = check(desc, a, b, d);
    (void)handle, (void)c;
    emulated_lt_heuristics++;
    for (*n = 0; !status && *n < wanted && *n < 3; ++*n) {
        cublasLtMatmulHeuristicResult_t *result = &out[*n];
        memset(result, 0, sizeof *result);
        result->algo.data[0] = scheme[*n];
        result->workspaceSize = scheme[*n] == CUBLASLT_REDUCTION_SCHEME_NONE ? 0 : WORKSPACE;
        for (uint32_t i = 0; i < 4; i++)
            result->algo.data[i + 1] = preference->aligned[i];
    }
    return status;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t what,
                                                    void *value, size_t bytes, size_t *written)
{
    uint32_t scheme = (uint32_t)algo->data[0];
    (void)what;
    *written = sizeof scheme;
    if (bytes != sizeof scheme)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(value, &scheme, sizeof scheme);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- numbers ---- */

static float load(cudaDataType type, const void *at, size_t index)
{
    float value;
    uint16_t half;
    if (type == CUDA_R_32F) {
        memcpy(&value, (const char *)at + 4 * index, sizeof value);
        return value;
    }
    memcpy(&half, (const char *)at + 2 * index, sizeof half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void store(cudaDataType type, void *at, size_t index, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (type == CUDA_R_32F) {
        memcpy((char *)at + 4 * index, &value, sizeof value);
        return;
    }
    uint16_t half = isnan(value) ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    memcpy((char *)at + 2 * index, &half, sizeof half);
}

/* 10 bits of mantissa, ties away from 0. */
static float to_tf32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isfinite(value))
        bits = (bits + 0x1000) & ~0x1fffu;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

static float element(const struct product *p, const void *at,
                     const struct emulated_lt_layout *layout, bool turned, uint64_t row,
                     uint64_t column)
{
    uint64_t r = turned ? column : row, c = turned ? row : column;
    float value = load(layout->type, at, r + c * (size_t)layout->ld);
    return p->desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? to_tf32(value) : value;
}

static float dot(const struct product *p, uint64_t row, uint64_t column, uint64_t from, uint64_t to)
{
    float sum = 0;
    for (uint64_t k = from; k < to; k++)
        sum += element(p, p->a, &p->a_layout, p->desc.op_a == CUBLAS_OP_T, row, k) *
               element(p, p->b, &p->b_layout, p->desc.op_b == CUBLAS_OP_T, k, column);
    return sum;
}

static uint64_t depth(const struct product *p)
{
    return p->desc.op_a == CUBLAS_OP_N ? p->a_layout.columns : p->a_layout.rows;
}

static float finish(const struct product *p, uint64_t row, uint64_t column, float value)
{
    const struct emulated_lt_desc *desc = &p->desc;
    uint64_t bit = row + column * (uint64_t)desc->mask_ld;
    uint8_t one = (uint8_t)(1u << bit % 8);
    if (has(desc, CUBLASLT_EPILOGUE_DRELU))
        return desc->mask[bit / 8] & one ? value : 0;
    if (has(desc, CUBLASLT_EPILOGUE_BIAS))
        value += load(p->d_layout.type, desc->vector, row);
    if (has(desc, CUBLASLT_EPILOGUE_RELU_AUX))
        desc->mask[bit / 8] =
            (uint8_t)(value > 0 ? desc->mask[bit / 8] | one : desc->mask[bit / 8] & ~one);
    /* The library says max(x, 0), and not what becomes of a NaN: here it is lost, which is the worst that it may do. */
    return has(desc, CUBLASLT_EPILOGUE_RELU) && !(value > 0) ? 0 : value;
}

static void sum_b(const struct product *p, uint64_t column)
{
    float sum = 0;
    for (uint64_t k = 0; k < depth(p); k++)
        sum += element(p, p->b, &p->b_layout, p->desc.op_b == CUBLAS_OP_T, k, column);
    store(p->d_layout.type, p->desc.vector, column, sum);
}

static void run(void *user)
{
    const struct product *p = user;
    uint64_t k = depth(p), half = p->scheme == CUBLASLT_REDUCTION_SCHEME_NONE ? 0 : k / 2;
    if (p->scheme != CUBLASLT_REDUCTION_SCHEME_NONE)
        memset(p->workspace, 0x5a, WORKSPACE);
    for (uint64_t column = 0; column < p->d_layout.columns; column++) {
        for (uint64_t row = 0; row < p->d_layout.rows; row++) {
            size_t at = row + column * (size_t)p->d_layout.ld;
            float value = p->alpha * (dot(p, row, column, 0, half) + dot(p, row, column, half, k));
            if (p->beta != 0)
                value += p->beta * load(p->d_layout.type, p->c, at);
            store(p->d_layout.type, p->d, at, finish(p, row, column, value));
        }
        if (has(&p->desc, CUBLASLT_EPILOGUE_BGRADB))
            sum_b(p, column);
    }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    cublasStatus_t status = check(desc, a_layout, b_layout, d_layout);
    if (status)
        return status;
    bool misplaced = is_below(a, algo->data[1]) || is_below(b, algo->data[2]) ||
                     is_below(c, algo->data[3]) || is_below(d, algo->data[4]);
    if (misplaced || c_layout != d_layout ||
        (algo->data[0] && (workspace_bytes < WORKSPACE || is_below(workspace, 256))))
        return CUBLAS_STATUS_INVALID_VALUE;
    struct product *product = calloc(1, sizeof *product);
    if (!product)
        return CUBLAS_STATUS_ALLOC_FAILED;
    *product = (struct product){*desc,
                                *a_layout,
                                *b_layout,
                                *d_layout,
                                *(const float *)alpha,
                                *(const float *)beta,
                                a,
                                b,
                                c,
                                d,
                                (uint32_t)algo->data[0],
                                workspace,
                                handle->queued};
    handle->queued = product;
    return cudaLaunchHostFunc(stream, run, product) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                                   : CUBLAS_STATUS_EXECUTION_FAILED;
}
